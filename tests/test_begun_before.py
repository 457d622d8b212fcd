"""A study that an earlier dpdt began goes on with this one: same names, same numbers, nothing done twice.

`begun_before.tar.xz` was made by commit 4aa1cdf (version 0.1.0): synthetic pictures of 12 by 12 pixels, a network of a
few hundred parameters, one public pretraining, two trainings that are finished and tested, and two that were told to
stop after step 4. `expected/` has the weights with which that same commit ended those two.
"""

import hashlib
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import mlflow
import pytest
import torch

import dpdt

FINISHED = ("north-patient-eps8-seed0-4070381e", "north-patient-epsinf-seed0-55cf27c2")
STOPPED = ("north-patient-eps8-seed1-67c8c967", "north-patient-epsinf-seed1-e94a3f5c")
# What must not be written again once a training is finished and tested.
RESULTS = (
    "config.json",
    "ledger.jsonl",
    "metrics.jsonl",
    "metrics.parquet",
    "draws.parquet",
    "checkpoints/final.pt",
    "predictions/north.parquet",
)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study's folder, before and (once `gone_on` has run) after all stages."""
    folder = tmp_path_factory.mktemp("before")
    with tarfile.open(Path(__file__).with_name("begun_before.tar.xz")) as archive:
        archive.extractall(folder, filter="data")
    return folder / "begun"


@pytest.fixture(scope="module")
def before(begun: Path) -> dict[str, str]:
    """Check sums of all files below `cohort`, `shards` and `runs` before anything is done."""
    return _sums(begun)


@pytest.fixture(scope="module")
def gone_on(begun: Path, before: dict[str, str]) -> Path:
    """The study after every stage was sent once more."""
    assert before
    command = [sys.executable, "-m", "dpdt.submit", str(begun), "--cluster", "debug"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return begun


def _sums(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for part in ("cohort", "shards", "runs")
        for file in sorted((folder / part).rglob("*"))
        if file.is_file()
    }


def test_runs_keep_their_names(begun: Path) -> None:
    study = dpdt.load_study(begun)
    assert {study.run_id(cell) for cell in study.cells()} == {*FINISHED, *STOPPED}
    assert study.pretrain_run_id == "pretrain-public-4eeaee4f"


@pytest.mark.slow
def test_what_was_finished_is_not_made_again(gone_on: Path, before: dict[str, str]) -> None:
    after = _sums(gone_on)
    made = [name for name in before if name.startswith(("cohort/north", "cohort/public", "shards/"))]
    made += [f"runs/{run}/{file}" for run in FINISHED for file in RESULTS if f"runs/{run}/{file}" in before]
    made.append("runs/pretrain-public-4eeaee4f/checkpoints/final.pt")
    assert len(made) > 20
    assert [name for name in made if after[name] != before[name]] == []


@pytest.mark.slow
@pytest.mark.parametrize("run_id", STOPPED)
def test_a_stopped_training_ends_with_the_weights_that_it_would_have_had(gone_on: Path, run_id: str) -> None:
    found = torch.load(gone_on / "runs" / run_id / "checkpoints" / "final.pt", weights_only=True)
    expected = torch.load(gone_on / "expected" / f"{run_id}.pt", weights_only=True)
    assert list(found) == list(expected)
    for name, value in expected.items():  # equal in all bits on the processor that made them
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_the_ledger_goes_on_and_epsilon_is_what_it_would_have_been(gone_on: Path) -> None:
    folder = gone_on / "runs" / STOPPED[0]
    assert json.loads((folder / "ledger.jsonl").read_text().splitlines()[-1])["spent_steps"] == 18
    # sigma 0.77692…, q = 6 / 18, 18 steps, delta 1e-2; the earlier version's own run ended with this number
    assert json.loads((folder / "state.json").read_text())["epsilon"] == pytest.approx(7.974775292584699, rel=1e-6)


@pytest.mark.slow
def test_every_model_is_tested_reported_and_in_mlflow(gone_on: Path) -> None:
    for run_id in (*FINISHED, *STOPPED):
        assert (gone_on / "runs" / run_id / "predictions" / "north.parquet").exists()
    assert "begun before" in (gone_on / "report" / "index.html").read_text()
    client = mlflow.MlflowClient(f"sqlite:///{gone_on / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("begun before")
    assert experiment is not None
    seen = {run.data.tags["dpdt.run_id"] for run in client.search_runs([experiment.experiment_id])}
    assert seen == {"study", "pretrain-public-4eeaee4f", *FINISHED, *STOPPED}
