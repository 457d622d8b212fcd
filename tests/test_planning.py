"""`dpdt plan`: the same numbers that the trainings will use, and warnings before anything is queued."""

import json
import math
import re
import subprocess
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest

from dpdt.cli import main
from dpdt.cohort.build import build_cohort
from dpdt.errors import DpdtError, StudyError
from dpdt.jobs.plan import look_ahead, parse_sizes, show_outlook
from dpdt.jobs.plan.measure import Speed, _in_process, known_speeds, measure
from dpdt.jobs.plan.sizes import domain_size
from dpdt.privacy.accounting import epsilon
from dpdt.shards.build import build_shards
from dpdt.study import Study, load_study

TEXT = """\
[domains.chexpert]
root = "."
[domains.uka]
root = "."
[shards]
size = 32
shard_bytes = 1_024_000
[model]
width = 8
[train]
num_epochs = 10
expected_batch_size = 32
physical_batch_size = 4
[privacy]
target_epsilons = [8.0, inf]
delta = 1e-4
"""


@pytest.fixture
def study(tmp_path: Path) -> Study:
    (tmp_path / "study.toml").write_text(TEXT)
    return load_study(tmp_path)


SIZES = {"chexpert": (10_000, 5_000), "uka": (2_000, 1_000)}
SLOW = {
    "plain": Speed("plain", 10.0, 0.0, 0.5, "2 CPU threads"),
    "private": Speed("private", 20.0, 100.0, 9.0, "2 CPU threads"),
    "evaluate": Speed("evaluate", 3.6, 0.0, 0.5, "2 CPU threads"),
}


def test_steps_noise_and_epsilon_are_those_of_the_training(study: Study) -> None:
    cell = look_ahead(study, sizes=SIZES).cells[0]
    # 5,000 patients, a fifth tested, a tenth of the rest for val: 3,600; q = 32 / 3600, T = 10 / q
    assert (cell.name, cell.units, cell.steps) == ("chexpert", 3600, 1125)
    assert cell.sample_rate == pytest.approx(32 / 3600)
    assert cell.noise_multiplier is not None
    spent = epsilon(noise_multiplier=cell.noise_multiplier, sample_rate=32 / 3600, num_steps=1125, delta=1e-4)
    assert 0.98 * 8 < spent <= 8


def test_noise_and_signal_are_those_of_a_parameter_that_is_trained(tmp_path: Path) -> None:
    """By hand: sigma · C / B; C over the root of p; and B · sqrt(T) / sigma of all steps."""
    for part, width in (("all", None), ("head", 640)):
        (tmp_path / "study.toml").write_text(TEXT.replace("[train]", f'[train]\nparameters = "{part}"'))
        study = load_study(tmp_path)
        outlook = look_ahead(study, sizes=SIZES)
        cell = outlook.cells[0]
        head = study.model.width * 8 * 5 + 5  # ResNet9 ends with 8 times its width of features
        p = outlook.num_parameters[""] if width is None else head
        assert cell.noise_multiplier is not None
        assert cell.noise == pytest.approx(cell.noise_multiplier * 1.5 / 32)
        assert cell.signal == pytest.approx(1.5 / p**0.5)
        assert cell.signal_to_noise == pytest.approx(32 * 1125**0.5 / cell.noise_multiplier)
        assert outlook.cells[1].noise is None  # without DP
        assert cell.learning_rate is None  # the noise has no part in it


def test_a_rate_that_the_noise_decides_is_shown(tmp_path: Path) -> None:
    """By hand: the learning rate times B / sigma / 1000, which is less than 1."""
    keys = "[train]\nlearning_rate = 2e-3\nfull_learning_rate_at = 1000"
    (tmp_path / "study.toml").write_text(TEXT.replace("[train]", keys))
    noisy, plain = look_ahead(load_study(tmp_path), sizes=SIZES).cells[:2]
    assert noisy.noise_multiplier is not None
    assert noisy.learning_rate == pytest.approx(2e-3 * 32 / noisy.noise_multiplier / 1000)
    assert plain.learning_rate is None


def test_the_warning_comes_where_nothing_was_learned_and_not_where_something_was(tmp_path: Path) -> None:
    """docs/recipes.md: 55 taught nothing, 140 and more did; here by the number of patients."""
    (tmp_path / "study.toml").write_text(TEXT.replace("[8.0", "[0.05"))
    for patients in (5_000, 13_000):
        sizes = {"chexpert": (patients, patients), "uka": (patients, patients)}
        outlook = look_ahead(load_study(tmp_path), sizes=sizes)
        told = [text for text in outlook.warnings if "expect nothing beyond the model before" in text]
        assert outlook.cells[0].signal_to_noise is not None
        assert (outlook.cells[0].signal_to_noise < 100) == bool(told) == (patients == 5_000)


def test_a_head_in_closed_form_is_one_release_of_all_patients(tmp_path: Path) -> None:
    closed = TEXT.replace("[train]", '[train]\nparameters = "head"\noptimizer = "closed-form"')
    (tmp_path / "study.toml").write_text(closed)
    outlook = look_ahead(load_study(tmp_path), sizes=SIZES)
    cell = outlook.cells[0]
    assert (cell.steps, cell.sample_rate) == (1, 1.0)
    assert cell.noise_multiplier is not None
    assert cell.noise == pytest.approx(cell.noise_multiplier / 3600)
    assert not any("draws much of all" in text for text in outlook.warnings)


def test_shards_and_disk_follow_from_the_number_of_images(study: Study) -> None:
    outlook = look_ahead(study, sizes=SIZES)
    # 32 · 32 bytes an image, 1,000 images a shard
    assert [domain.shards for domain in outlook.domains] == [10, 2]
    assert outlook.domains[0].shard_gb == pytest.approx(0.01024)
    assert outlook.disk_gb is not None
    assert outlook.disk_gb > 0.01024 + 0.002048


def test_hours_are_images_times_their_time_and_steps_times_theirs(study: Study) -> None:
    outlook = look_ahead(study, sizes=SIZES, speeds=SLOW)
    private, plain = outlook.cells[:2]
    assert private.hours == pytest.approx((1125 * 32 * 20 + 1125 * 100) / 3.6e6)
    assert plain.hours == pytest.approx(1125 * 32 * 10 / 3.6e6)
    # 2,000 + 400 test images, four models, 3.6 ms
    assert outlook.evaluate_hours == pytest.approx(2400 * 4 * 3.6 / 3.6e6)
    assert any(
        "memory: a physical batch of 4 takes 9.0 GB (private), cluster.mem_gb is 8" in w for w in outlook.warnings
    )


def test_memory_and_gpus_are_those_of_the_cluster_profile(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(TEXT + '[cluster]\nprofile = "./our-site.toml"\n')
    (tmp_path / "our-site.toml").write_text("mem_gb = 10\n")  # nine tenths of it are enough for SLOW's 9.0 GB
    study = load_study(tmp_path)
    assert not any("memory" in text for text in look_ahead(study, sizes=SIZES, speeds=SLOW).warnings)
    (tmp_path / "our-site.toml").write_text("gpus_per_task = 1\n")
    assert any("measured without a GPU" in text for text in look_ahead(study, sizes=SIZES, speeds=SLOW).warnings)


def test_what_runs_at_once_is_the_cluster_profile_s(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "study.toml").write_text(TEXT + '[cluster]\nprofile = "./our-site.toml"\n')
    study = load_study(tmp_path)
    found = []
    for number in (1, 3):
        (tmp_path / "our-site.toml").write_text(f"array_parallelism = {number}\n")
        found.append(look_ahead(study, sizes=SIZES, speeds=SLOW))
        show_outlook(study, found[-1])
        assert f"{number} may run at once" in " ".join(capsys.readouterr().out.split())
    # two trainings more at once: each has two checkpoints (the new one beside the old) of weights and two moments
    more = 2 * 2 * 3 * found[0].num_parameters[""] * 4 / 1e9
    assert (found[1].disk_gb or 0) - (found[0].disk_gb or 0) == pytest.approx(more)


def test_a_head_s_features_are_one_pass_and_numbers_on_disk(tmp_path: Path) -> None:
    found = []
    for part in ("norms+head", "head"):
        (tmp_path / "study.toml").write_text(TEXT.replace("[train]", f'[train]\nparameters = "{part}"'))
        found.append(look_ahead(load_study(tmp_path), sizes=SIZES, speeds=SLOW))
    more = [(head.hours or 0) - (norms.hours or 0) for norms, head in zip(found[0].cells, found[1].cells, strict=True)]
    # 7,200 and 1,440 images to train on, 3.6 ms each; the second training of a domain finds them made
    assert more == pytest.approx([7200 * 3.6 / 3.6e6, 0, 1440 * 3.6 / 3.6e6, 0])
    # ResNet9 of width 8 gives 64 features, 4 bytes each
    assert (found[1].disk_gb or 0) - (found[0].disk_gb or 0) == pytest.approx((7200 + 1440) * 64 * 4 / 1e9)


def test_unknown_sizes_are_asked_for_and_change_nothing_else(study: Study) -> None:
    outlook = look_ahead(study, sizes={"uka": (2_000, 1_000)})
    assert outlook.cells[0].units is None
    assert outlook.cells[2].units == 720
    assert re.match(r"chexpert: /.*: no train\.csv or .*\. Correct `root`", outlook.warnings[0])
    assert outlook.warnings[1].startswith("chexpert: size unknown. Build the cohort (dpdt cohort STUDY")
    assert not any(text.startswith("uka") for text in outlook.warnings[:2])  # its numbers are given


def test_what_will_be_refused_and_what_is_drowned_is_said(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(TEXT.replace("delta = 1e-4", "delta = 5e-4").replace("[8.0", "[0.05"))
    study = load_study(tmp_path)
    warnings = look_ahead(study, sizes={"chexpert": (10_000, 5_000), "uka": (20, 20)}).warnings
    told = "\n".join(warnings)
    assert "uka: will be refused: train.expected_batch_size: 32 is more than the 14 patients of" in told
    assert "chexpert: will be refused: privacy.delta: 0.0005 is not below 1 / 3600 patients" in told
    (tmp_path / "study.toml").write_text(TEXT.replace("[8.0", "[0.05"))
    told = "\n".join(look_ahead(load_study(tmp_path), sizes=SIZES).warnings)
    assert "epsilon 0.05: too few patients at chexpert (3600: " in told
    assert (
        "privacy.delta: 0.0001 is more than a tenth of 1 / patients of chexpert (3600). A" in told
    )  # 1 / 720 / 10 is above


@pytest.mark.parametrize("text", ["chexpert", "chexpert=many", "chexpert=10/20", "chexpert=0", "chexpert=10²"])
def test_a_wrong_size_is_answered_with_the_form(study: Study, text: str) -> None:
    with pytest.raises(StudyError, match=r"expected NAME=IMAGES/PATIENTS in whole numbers, .*--size chexpert=112120/"):
        parse_sizes([text], study)
    with pytest.raises(StudyError, match=r"no domain 'chexper' in the study\. Its domains: chexpert, uka"):
        parse_sizes(["chexper=1"], study)


def test_a_measurement_is_kept_until_the_settings_change(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 0, json.dumps(asdict(SLOW[command[-1]])), "")

    monkeypatch.setattr(subprocess, "run", answer)
    assert measure(study) == SLOW
    assert known_speeds(study) == SLOW
    assert known_speeds(load_study(study.file, overrides=["shards.size=64"])) == {}


@pytest.mark.slow
def test_an_arm_is_measured_in_a_process_of_its_own(study: Study, tmp_path: Path) -> None:
    from dpdt.study.frozen import freeze_study

    freeze_study(study, tmp_path / "frozen.json")
    speed = _in_process(tmp_path / "frozen.json", "evaluate")
    assert 0 < speed.image_ms < math.inf
    assert speed.peak_gb > 0.05
    with pytest.raises(
        DpdtError, match=r"--measure: a physical batch \(evaluate\) fails: .*Halve train\.physical_batch"
    ):
        _in_process(tmp_path / "missing.json", "evaluate")


def test_no_table_is_wider_than_80_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    domains = ("chestxray14", "mimic")
    text = (
        TEXT.replace("chexpert", "chestxray14")
        .replace("uka", "mimic")
        .replace("[train]", "[train]\nseeds = [0, 1]\nfull_learning_rate_at = 300")
    )
    text = text.replace("delta = 1e-4", "delta = 1e-7")  # less than one of so many patients
    (tmp_path / "study.toml").write_text(text)
    loaded = load_study(tmp_path)
    assert loaded.public_domain == "mimic"
    outlook = look_ahead(loaded, sizes=dict.fromkeys(domains, (1_200_000, 400_000)), speeds=SLOW)
    show_outlook(loaded, outlook)
    printed = capsys.readouterr().out
    tables = [line.rstrip() for line in printed.splitlines() if line[:1] in ("┃", "│", "┏", "└")]
    assert max(map(len, tables)) <= 80
    (noisy,) = (cell for cell in outlook.cells if cell.cell and cell.cell.private and cell.cell.seed == 0)
    head = [word.strip() for line in tables for word in line.split("┃")]
    for name in (
        "training",
        "epsilon",
        "seed",
        "patients",
        "rate",
        "steps",
        "hours",
        "sigma",
        "noise",
        "signal",
        "in all",
        "learning rate",
    ):
        assert name in head
    assert f"{noisy.noise_multiplier:.3f}" in printed
    assert printed.count(f"{noisy.noise_multiplier:.3f}") == 1  # once for both seeds
    assert noisy.hours is not None
    assert f" {noisy.hours:.3g} " in printed


def test_the_command_prints_json_for_programs(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["plan", str(study.file), "--size", "chexpert=10000/5000", "--size", "uka=2000/1000", "--json"])
    assert end.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert [cell["cell"]["target_epsilon"] for cell in found["cells"]] == [8.0, None, 8.0, None]
    with pytest.raises(SystemExit):
        main(["plan", str(study.file), "--size", "uka=2000/1000"])
    printed = capsys.readouterr()
    assert "2 domains, 4 trainings (4 to do), 8 tests of a model at a domain" in printed.out
    assert "warning: chexpert: size unknown" in printed.err


OWN = """
[domains.own]
kind = "table"
root = "."
[domains.own.table]
file = "list.csv"
image = "image"
patient = "patient"
[domains.own.table.labels]
healthy = { column = "healthy" }
[shards]
size = 16
max_reject_fraction = 0.5
"""


def test_what_is_there_is_counted_and_then_what_is_in_the_shards(tmp_path: Path) -> None:
    """Forty listed, ten of them nowhere, one damaged."""
    random = np.random.default_rng(0)
    rows = ["image,patient,healthy", *(f"{n}.png,p{n},1" for n in range(40))]
    (tmp_path / "list.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "study.toml").write_text(OWN)
    for number in range(30):
        cv2.imwrite(str(tmp_path / f"{number}.png"), random.integers(0, 255, (24, 24), dtype=np.uint8))
    (tmp_path / "7.png").write_bytes(b"no picture")
    study = load_study(tmp_path)
    build_cohort(study, "own")
    planned = look_ahead(study)
    size = planned.domains[0].size
    assert size is not None
    assert (size.images, size.not_there, size.source) == (30, 10, "cohort")
    assert size.train_images + size.test_images <= 30
    assert any(
        text.startswith("own: 10 images of the cohort are not there, and not counted") for text in planned.warnings
    )
    build_shards(study, "own")
    size = domain_size(study, "own", {})
    assert size is not None
    assert (size.images, size.not_there, size.source) == (29, 0, "shards")


def test_a_cohort_whose_images_are_on_another_machine_is_counted_whole(tmp_path: Path) -> None:
    rows = ["image,patient,healthy", *(f"{n}.png,p{n},1" for n in range(40))]
    (tmp_path / "list.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "study.toml").write_text(OWN.replace('root = "."', 'root = "."\nmissing_images = "later"'))
    study = load_study(tmp_path)
    build_cohort(study, "own")
    size = domain_size(study, "own", {})
    assert size is not None
    assert (size.images, size.not_there) == (40, 0)
