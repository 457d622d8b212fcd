"""The whole way as a user goes it: the command line on small synthetic hospitals, and on real radiographs."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dpdt.base.vocabulary import LABELS
from dpdt.study import load_study
from dpdt.study.paths import RunPaths, ShardPaths

STUDY = """
[study]
name = "small"
[domains.vindr]
root = "raw/vindr"
[domains.chexpert]
root = "raw/chexpert"
[domains.mimic]
root = "raw/mimic"
[shards]
size = 32
shard_bytes = 40_000
[model]
width = 8
[pretrain]
num_epochs = 1
expected_batch_size = 16
[train]
num_epochs = 1
expected_batch_size = 16
checkpoint_every_steps = 2
[privacy]
target_epsilons = [8.0, inf]
delta = 1e-3
[evaluate]
bootstrap_draws = 20
min_subgroup_size = 2
"""
PATIENTS = {"vindr": 60, "chexpert": 60, "mimic": 60}
AUC_COLUMNS = (
    "privacy_unit,target_epsilon,label,subgroup,train_domain,test_domain,auc,ci_low,ci_high,n"  # the design's contract
    ",labels,auc_common"
)


def dpdt(*arguments: str, timeout_s: float = 280) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dpdt", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)


def results(folder: Path) -> dict[str, int]:
    """Modification times of everything that a rerun must not touch."""
    patterns = ("cohort/*.parquet", "shards/*/shard-*.npy", "runs/*/checkpoints/final.pt", "runs/*/metrics.parquet")
    return {str(f.relative_to(folder)): f.stat().st_mtime_ns for p in patterns for f in folder.glob(p)}


def done_results(folder: Path) -> dict[str, int]:
    """`results` that were done when the process was killed.

    A shard is done when its part or the manifest says so, a run when its state does: pixels or weights that a kill left
    just before that sentence was written are rightly made again.
    """
    return {name: time_ns for name, time_ns in results(folder).items() if is_done(folder / name)}


def is_done(file: Path) -> bool:
    match file.suffix:
        case ".npy":
            paths = ShardPaths(file.parent)
            return paths.manifest.is_file() or paths.part(int(file.stem.removeprefix("shard-"))).is_file()
        case ".pt":
            return bool(json.loads(RunPaths(file.parent.parent).state.read_text())["status"] == "finished")
        case _:
            return True  # a cohort's table


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from dpdt.cohort.synthetic import make_hospitals

    folder = tmp_path_factory.mktemp("raw") / "raw"
    make_hospitals(folder, seed=1, patients=PATIENTS)
    return folder


@pytest.fixture(scope="module")
def finished(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    (folder / "raw").symlink_to(raw)
    (folder / "study.toml").write_text(STUDY)
    done = dpdt("submit", str(folder / "study.toml"), "--cluster", "local")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_every_stage_leaves_its_result(finished: Path) -> None:
    study = load_study(finished / "study.toml")
    for domain in study.used_domains:
        assert study.paths.cohort_table(domain).exists()
        assert study.paths.shards(domain).manifest.exists()
    for cell in study.cells():
        run = study.paths.run(study.run_id(cell))
        state = json.loads(run.state.read_text())
        assert state["status"] == "finished"
        statement = json.loads(run.privacy.read_text())
        if cell.private:
            assert 0 < statement["epsilon"] <= cell.target_epsilon
        else:
            assert statement["epsilon"] is None
    assert "synthetic" in (study.paths.report / "index.html").read_text().lower()


@pytest.mark.slow
def test_auc_csv_is_the_design_s_table(finished: Path) -> None:
    file = finished / "report" / "auc.csv"
    assert file.read_text().splitlines()[0] == AUC_COLUMNS
    table = pd.read_csv(file)
    cells = table[(table.subgroup == "all") & (table.label != "average")]
    # (2 train domains × 2 target epsilons, and the model before all trainings) × 2 test domains × 5 labels
    assert len(cells) == (2 * 2 + 1) * 2 * 5
    assert set(cells.label) == set(LABELS)
    assert cells.auc.dropna().between(0, 1).all()
    assert np.isinf(table.target_epsilon).any()


@pytest.mark.slow
def test_auc_equals_scikit_learn_on_the_predictions(finished: Path) -> None:
    from sklearn.metrics import roc_auc_score

    study = load_study(finished / "study.toml")
    table = pd.read_csv(finished / "report" / "auc.csv")
    cell = study.cells()[0]
    scores = pd.read_parquet(study.paths.run(study.run_id(cell)).predictions("chexpert"))
    row = table[
        (table.train_domain == cell.domain)
        & (table.target_epsilon == cell.target_epsilon)
        & (table.test_domain == "chexpert")
        & (table.label == "healthy")
        & (table.subgroup == "all")
    ]
    healthy = scores[scores.label == "healthy"].dropna(subset=["target"])
    assert row.auc.item() == pytest.approx(roc_auc_score(healthy.target.astype(int), healthy.score), abs=1e-6)


@pytest.mark.slow
def test_mlflow_has_one_run_a_training_and_nobody_s_patient_id(finished: Path) -> None:
    with closing(sqlite3.connect(finished / "mlflow.db")) as database:
        names = [name for (name,) in database.execute("select name from runs")]
        dump = "\n".join(database.iterdump())
    study = load_study(finished / "study.toml")
    assert len([name for name in names if "chexpert ·" in name]) == 2
    assert len([name for name in names if "vindr ·" in name]) == 2
    patients = pd.read_parquet(study.paths.cohort_table("chexpert")).patient_id
    assert not [patient for patient in patients.unique() if patient in dump]


@pytest.mark.slow
def test_a_second_submission_redoes_nothing(finished: Path) -> None:
    before = results(finished)
    done = dpdt("submit", str(finished / "study.toml"), "--cluster", "local")
    assert done.returncode == 0, done.stdout + done.stderr
    assert results(finished) == before
    assert len(before) > 10


@pytest.mark.long
@pytest.mark.slow
def test_killed_at_any_point_a_rerun_finishes_and_keeps_what_was_done(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "raw").symlink_to(raw)
    (tmp_path / "study.toml").write_text(STUDY)
    command = [sys.executable, "-m", "dpdt", "submit", str(tmp_path / "study.toml"), "--cluster", "local"]
    kept: dict[str, int] = {}
    for seconds in (4, 9, 14):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
        time.sleep(seconds)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        after = results(tmp_path)
        assert {name: after.get(name) for name in kept} == kept
        kept = done_results(tmp_path)
    done = dpdt("submit", str(tmp_path / "study.toml"), "--cluster", "local")
    assert done.returncode == 0, done.stdout + done.stderr
    after = results(tmp_path)
    assert {name: after.get(name) for name in kept} == kept
    study = load_study(tmp_path / "study.toml")
    for cell in study.cells():
        run = study.paths.run(study.run_id(cell))
        state = json.loads(run.state.read_text())
        assert state["status"] == "finished"
        if cell.private:
            assert state["epsilon"] <= cell.target_epsilon


@pytest.mark.slow
def test_the_real_sample_goes_the_whole_way(tmp_path: Path) -> None:
    if not os.environ.get("DPDT_REAL_DATA"):
        pytest.skip("DPDT_REAL_DATA is not set: no real radiographs here")
    example = Path(__file__).parent.parent / "examples" / "chestxray14-sample.toml"
    text = example.read_text().replace('folder = "../build/chestxray14-sample"', 'folder = "out"')
    (tmp_path / "study.toml").write_text(text)
    done = dpdt("submit", str(tmp_path / "study.toml"), "--cluster", "local")
    assert done.returncode == 0, done.stdout + done.stderr
    manifest = json.loads((tmp_path / "out/shards/chestxray14/manifest.json").read_text())
    # 78 PNG files of the sample, all readable; none of them is synthetic.
    assert (manifest["images"], manifest["rejected"], manifest["synthetic"]) == (78, 0, False)
    cohort = pd.read_parquet(tmp_path / "out/cohort/chestxray14.parquet")
    # Counted by hand in the CSV and the official lists: 42 test images of 20 patients, 55 patients in all.
    assert (cohort.split == "test").sum() == 42
    assert cohort.patient_id.nunique() == 55
    table = pd.read_csv(tmp_path / "out/report/auc.csv")
    assert set(table.target_epsilon) == {8.0, np.inf}
    assert table[(table.label == "pneumonia") & (table.subgroup == "all")].auc.notna().all()
    assert "synthetic data" not in (tmp_path / "out/report/index.html").read_text().lower()


def small_study(folder: Path, text: str) -> str:
    (folder / "study.toml").write_text(text)
    return str(folder / "study.toml")


def test_a_missing_raw_folder_is_one_clear_line(tmp_path: Path) -> None:
    done = dpdt("cohort", small_study(tmp_path, '[domains.vindr]\nroot = "nowhere"'))
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")
    assert f"{tmp_path}/nowhere" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_stage_whose_input_is_missing_says_which_command_makes_it(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    done = dpdt("shards", small_study(tmp_path, '[domains.vindr]\nroot = "raw"'))
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert "dpdt cohort" in done.stderr
