"""Where values come from: the line of the file, the preset, `--set`; and errors that name the place."""

import json
from pathlib import Path

import pytest

import dpdt
from dpdt.cli import main
from dpdt.errors import StudyError
from dpdt.study import load_study
from dpdt.study.frozen import freeze_study, thaw_study
from dpdt.study.keys import effective
from dpdt.study.source import read_source

TEXT = """\
[study]
preset = "paper"

[domains.own]   # a comment
root = "."
kind = "table"
table.file = "list.csv"
[domains.own.table]
image = "i"
patient = "p"
labels = { healthy = { column = "h" } }
[train]
seeds = [
    0,
    1,
]
num_epochs = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(
        TEXT.replace('table.file = "list.csv"\n[domains.own.table]', '[domains.own.table]\nfile = "list.csv"')
    )
    return path


def test_each_value_knows_its_line(file: Path) -> None:
    source = read_source(file, overrides=["train.device=cpu"])
    assert source.lines == {
        "study.preset": 2,
        "domains.own.root": 5,
        "domains.own.kind": 6,
        "domains.own.table.file": 8,
        "domains.own.table.image": 9,
        "domains.own.table.patient": 10,
        "domains.own.table.labels.healthy.column": 11,
        "train.seeds": 13,
        "train.num_epochs": 17,
    }
    origins = {row.key: row.origin for row in effective(file, overrides=["train.device=cpu"])}
    assert origins["train.num_epochs"] == "study.toml:17"
    assert origins["train.device"] == "--set"
    assert origins["shards.recipe"] == "preset paper"
    assert origins["train.physical_batch_size"] == "default"
    assert origins["domains.own.table.labels.healthy.column"] == "study.toml:11"


def test_overrides_win_over_file_and_preset_and_need_no_quotes(file: Path) -> None:
    over = ["train.num_epochs=5", "train.device=cpu", "privacy.target_epsilons=[2, inf]", 'study.name="a b"']
    study = load_study(file, overrides=over)
    assert (study.train.num_epochs, study.train.device, study.study.name) == (5.0, "cpu", "a b")
    assert study.privacy.target_epsilons == (2.0, float("inf"))
    assert load_study(file, overrides=["study.preset=paper"]).shards.recipe == "paper"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.num_epochs", r"^--set train\.num_epochs: expected section\.key=value, for example"),
        ("epochs=3", r"^--set epochs=3: expected section\.key=value"),
        ("train.num_epoch=3", r"^--set: train\.num_epoch: unknown key\. Did you mean 'num_epochs'\?"),
        ("train.num_epochs=many", r"^--set: train\.num_epochs: expected a number, got 'many' \(text\)"),
        ("train.device=gpu", r"^--set: train\.device: expected 'auto', 'cpu' or 'cuda', got 'gpu'\."),
        (
            "privacy.target_epsilons=1,8",
            r"^--set: privacy\.target_epsilons: expected a list, got '1,8'\. "
            r"Write --set privacy\.target_epsilons=\[1,8\]\.",
        ),
        ("train.seeds=3", r"^--set: train\.seeds: expected a list, got 3\. Write --set train\.seeds=\[3\]\."),
        (
            "train.domains=[own]",
            r"^--set: train\.domains: expected a list, .*Write --set 'train\.domains=\[\"own\"\]'\.",
        ),
        ("study.private_files=no", r"^--set: study\.private_files: expected true or false, without quotes, got 'no'\."),
    ],
)
def test_a_wrong_override_is_named_as_one(file: Path, override: str, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        load_study(file, overrides=[override])


def test_an_error_names_the_line(file: Path) -> None:
    file.write_text(file.read_text().replace("num_epochs = 3", "num_epochs = 0"))
    with pytest.raises(
        StudyError, match=r"study\.toml:17: train\.num_epochs: expected a number greater than 0, got 0\."
    ):
        load_study(file)


def test_overrides_are_in_the_frozen_copy_that_tasks_read(file: Path, tmp_path: Path) -> None:
    freeze_study(load_study(file, overrides=["train.num_epochs=5"]), tmp_path / "frozen.json")
    assert thaw_study(tmp_path / "frozen.json").train.num_epochs == 5
    assert load_study(file).train.num_epochs == 3


def test_show_prints_what_is_in_force(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["show", str(file), "--set", "train.num_epochs=5", "--json"])
    assert end.value.code == 0
    rows = {row["key"]: (row["value"], row["origin"]) for row in json.loads(capsys.readouterr().out)}
    assert rows["train.num_epochs"] == ("5.0", "--set")
    assert rows["privacy.unit"] == ('"image"', "preset paper")
    with pytest.raises(SystemExit):
        main(["show", str(file), "--changed"])
    assert "physical_batch_size" not in capsys.readouterr().out


def test_labels_of_ones_own_are_shown(tmp_path: Path) -> None:
    text = '[study]\nlabels = ["neumotorax"]\n[domains.own]\nkind = "table"\nroot = "x"\n[domains.own.table]\n'
    text += 'file = "l.csv"\nimage = "a"\npatient = "b"\n[domains.own.table.labels]\nneumotorax = { column = "N" }\n'
    (tmp_path / "study.toml").write_text(text)
    rows = {row.key: (row.value, row.origin) for row in effective(tmp_path)}
    own = "domains.own.table.labels.neumotorax"
    assert rows[f"{own}.column"] == ('"N"', "study.toml:11")
    assert rows[f"{own}.positive"] == ('["1"]', "default")


def test_a_start_without_keys_is_a_change(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text('[domains.uka]\nroot = "x"\n[initial.random]\n[initial.wide]\nwidth = 128\n')
    changed = {row.key: row.value for row in effective(tmp_path) if row.origin != "default"}
    assert changed == {"domains.uka.root": '"x"', "initial.random": "{}", "initial.wide.width": "128"}


def test_a_frozen_study_is_the_study_also_where_labels_are_findings(tmp_path: Path) -> None:
    page = (Path(dpdt.__file__).parents[1] / "docs" / "own-hospital.md").read_text(encoding="utf-8")
    (tmp_path / "study.toml").write_text(page.split("```toml\n")[1].split("```")[0])
    study = load_study(tmp_path)
    freeze_study(study, tmp_path / "frozen.json")
    assert thaw_study(tmp_path / "frozen.json") == study
    text = (tmp_path / "frozen.json").read_text().replace('"num_epochs"', '"epochs"')
    (tmp_path / "frozen.json").write_text(text)
    with pytest.raises(
        StudyError, match=r"frozen\.json: pretrain\.epochs: .*by another version of dpdt; send the study again"
    ):
        thaw_study(tmp_path / "frozen.json")


def test_tables_have_the_line_of_their_header_or_first_key(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(
        '[domains.own]\nroot = "x"\n\n[domains.own.table.labels]\na = { column = "b" }\n'
    )
    source = read_source(tmp_path / "study.toml")
    assert source.where("domains.own.root") == f"{tmp_path}/study.toml:2"
    assert source.where("domains.own.table.labels.a") == f"{tmp_path}/study.toml:5"
    assert source.where("domains.own.table.labels") == f"{tmp_path}/study.toml:4"
    assert source.where("domains.own.table.file") == f"{tmp_path}/study.toml:1"
    assert source.where("train.seeds") == f"{tmp_path}/study.toml"
    assert source.origin("domains.own.role") == "default"


def test_values_that_are_tables_come_from_where_their_keys_are(tmp_path: Path) -> None:
    """`files = { table = "x.csv" }` was shown as a default, and left out of what was changed."""
    (tmp_path / "study.toml").write_text('[domains.uka]\nroot = "x"\nfiles = { table = "a.csv" }\n')
    found = {
        row.key: row.origin
        for row in effective(tmp_path, overrides=["model.name=nets:small", "model.options.channels=3"])
    }
    assert found["domains.uka.files"] == "study.toml:3"
    assert found["model.options"] == "--set"
    assert found["domains.uka.sublabels"] == "default"
