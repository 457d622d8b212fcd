"""`dpdt init`: the keys that people change, the code's own defaults, and files that load as they are."""

import math
import re
import tomllib
from pathlib import Path

import pytest

from dpdt.cli import main
from dpdt.errors import StudyError
from dpdt.jobs.resources import resources
from dpdt.study import Study, load_study
from dpdt.study.keys import REQUIRED, all_keys, section_docs, toml
from dpdt.study.source import PRESETS, flat
from dpdt.study.starter import SHOWN, STARTERS, starter_text

EXAMPLE = "; an example"


def written(folder: Path, text: str) -> Study:
    file = folder / "study.toml"
    file.write_text(text)
    return load_study(file)


def test_every_key_has_a_description_a_reason_and_an_example_where_it_has_no_default() -> None:
    keys = all_keys()
    assert len(keys) > 90
    for key in keys:
        assert key.description.endswith("."), f"{key.name}: no description in its settings"
        assert key.help.why, f"{key.name}: its annotation says nothing About(…) it"
        if key.default is None or key.default is REQUIRED:
            assert key.help.example, f"{key.name}: no default, so it needs About(…, example=…)"


@pytest.mark.parametrize("preset", STARTERS)
def test_each_preset_loads_and_is_short_enough_to_be_read(preset: str, tmp_path: Path) -> None:
    text = starter_text(preset)
    study = written(tmp_path, text)
    assert tuple(study.domains) == STARTERS[preset].domains
    assert text.count("\n") < 100
    assert max(map(len, text.splitlines())) < 130
    assert ("domains.*.table.file" in _keys_in(text)) == (preset == "own-hospital")
    shown = {key for key in _keys_in(text) if not key.startswith("domains.*.table.labels.")}
    assert {name for name in SHOWN if ".table." not in name} <= shown
    assert {name for name in shown if name in {key.name for key in all_keys()}} | _sections(text) == shown


@pytest.mark.parametrize("preset", STARTERS)
def test_what_a_commented_line_shows_is_what_holds(preset: str, tmp_path: Path) -> None:
    text = starter_text(preset)
    before = written(tmp_path, text)
    shown = re.sub(rf"^#(\w+ = .*(?<!{EXAMPLE}))$", r"\1", text, flags=re.MULTILINE)
    assert shown.count("\n#") < text.count("\n#") - 10
    assert written(tmp_path, shown) == before


def test_every_example_is_a_value_that_is_understood(tmp_path: Path) -> None:
    beside = re.compile(
        "belong|not both|findings|PadChest|padchest|only one may have|needs|no label|its domains: own|only for"
        r"|table\.labels\.\w+: unknown key|models\.own\.bundle: missing"
    )
    written(tmp_path, starter_text("own-hospital"))
    for key in all_keys():
        if key.help.example:
            message = ""
            try:
                load_study(tmp_path, overrides=[f"{key.name.replace('*', 'own')}={key.help.example}"])
            except StudyError as err:
                message = str(err)
            # a value that is right in itself may need another key beside it
            assert not message or beside.search(message), message


def test_set_values_name_the_codes_default() -> None:
    text = starter_text("quick")
    assert "\nsize = 64  # Height and width in pixels; default: 512\n" in text
    assert "\n#size = 512  # Height and width in pixels; of the preset, default: 512\n" in starter_text("paper")
    assert re.search(r"\n#delta = 6e-06  # .*; of the preset, default: 1e-05\n", starter_text("paper"))


def test_init_writes_the_named_domains_and_overwrites_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["init", str(tmp_path / "a"), "--root", "chexpert=/data/c", "--root", "st_mary=/data/m"]
    with pytest.raises(SystemExit) as end:
        main(command)
    assert end.value.code == 0
    study = load_study(tmp_path / "a")
    assert {name: str(settings.root) for name, settings in study.domains.items()} == {
        "chexpert": "/data/c",
        "st_mary": "/data/m",
    }
    assert study.kind("st_mary") == "table"
    assert "warning" not in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        main(command)
    assert end.value.code == 2
    assert "exists already, and init overwrites nothing" in capsys.readouterr().err


def test_a_hospitals_name_may_have_letters_that_toml_wants_in_quotes(tmp_path: Path) -> None:
    study = written(tmp_path, starter_text("quick", {"klinik_süd": "/data/s", "chexpert": "/data/c"}))
    assert [*study.domains] == ["klinik_süd", "chexpert"]
    parts = {"ward 1": ["1a"], "süd": ["2"]}
    assert tomllib.loads(f"parts = {toml(parts)}")["parts"] == parts


def test_a_name_like_a_published_one_is_asked_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["init", str(tmp_path), "--root", "chestxray=/data/x"])
    assert end.value.code == 0
    assert "--root chestxray: no published data set has this name" in (told := capsys.readouterr().err)
    assert "Did you mean 'chestxray14'?" in told


def test_papers_preset_is_what_init_paper_starts_from(tmp_path: Path) -> None:
    # Radiology: AI 2024, 6(1):e230212: 512 pixels, ResNet9, batch 128, delta 6e-6, clipping 1.5
    study = written(tmp_path, starter_text("paper"))
    assert (study.shards.size, study.model.width, study.train.expected_batch_size) == (512, 64, 128)
    assert (study.privacy.delta, study.privacy.max_grad_norm) == (6e-6, 1.5)
    assert study.privacy.target_epsilons == (1.0, 8.0, math.inf)
    assert set(flat(PRESETS["paper"])) <= {key.name for key in all_keys()}


def test_on_a_cluster_the_profile_that_the_site_names_holds(tmp_path: Path) -> None:
    text = re.sub(r'^#?profile = "generic"', 'profile = "./our-site.toml"', starter_text("slurm"), flags=re.MULTILINE)
    (tmp_path / "our-site.toml").write_text(
        "partition = 'a100'\ngpus_per_task = 2\ncpus_per_task = 16\nmem_gb = 64\ntimeout_min = 600\n"
    )
    asked = resources(written(tmp_path, text))["train"]
    assert (asked.partition, asked.gpus, asked.cpus, asked.mem_gb, asked.timeout_min) == ("a100", 2, 16, 64, 600)


def test_every_section_has_a_line_about_it() -> None:
    assert all(section_docs().values())


def _sections(text: str) -> set[str]:
    """The tables of a starter."""
    return {re.sub(r"^domains\.\w+", "domains.*", table) for table in re.findall(r"^\[([\w.]+)\]", text, re.MULTILINE)}


def _keys_in(text: str) -> set[str]:
    """Dotted names of all keys in a starter, set or commented; a domain's name becomes `*`."""
    found, section = set(), ""
    for line in text.splitlines():
        if table := re.match(r"\[([\w.]+)\]", line):
            section = re.sub(r"^domains\.\w+", "domains.*", table[1])
            found.add(section)
        elif key := re.match(r"#?(\w+) = ", line):
            found.add(f"{section}.{key[1]}")
    return found


@pytest.mark.parametrize("preset", STARTERS)
def test_no_remark_is_cut_within_a_bracket(preset: str) -> None:
    """`#width = 64  # Channels of the first stage (paper` was what a newcomer read."""
    lines = [line for line in starter_text(preset).splitlines() if "=" in line and not line.startswith("# ")]
    assert [line for line in lines if line.count("(") != line.count(")")] == []
    assert [line for line in lines if line.lstrip("#").startswith("max_reject_fraction = 0.01")]
