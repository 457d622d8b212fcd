"""Several processes train one model: the sums, the epsilon and the result are one process's."""

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import torch

import dpdt
from dpdt.errors import LostProcessError
from dpdt.privacy.clipping.engines import GradientSum
from dpdt.study import Study, load_study
from dpdt.training.ranks import ALONE, PORT_FILE, Ranks, joined
from dpdt.training.stop import StopFlag
from dpdt.training.train import pretrain
from tests.ports import free_port
from tests.small_data import statement
from tests.waiting import wait_until

MakeStudy = Callable[..., Study]
WORKER = Path(__file__).parent / "ranks_worker.py"
SECONDS = 120


def start(study: Study, folder: Path, *, rank: int, size: int, stop_step: int = 0, **meeting: str) -> Popen[bytes]:
    """Start one of so many processes (gloo)."""
    variables = {"WORLD_SIZE": str(size), "RANK": str(rank), "MASTER_ADDR": "127.0.0.1", **meeting}
    environment = {**os.environ, **variables, "PYTHONPATH": str(Path(dpdt.__file__).parents[1])}
    command = [sys.executable, str(WORKER), str(study.file), str(folder / f"rank-{rank}.pt"), str(stop_step)]
    return Popen(command, env=environment, stderr=PIPE)


def run(study: Study, folder: Path, *, size: int, stop_step: int = 0) -> list[dict[str, Any]]:
    """Train with so many processes, the first of which arrives last; what each of them found."""
    meeting = {PORT_FILE: str(folder / f"port-{uuid4()}")}
    if size > 1 and not stop_step:
        meeting = {"MASTER_PORT": str(free_port())}  # as torchrun starts them
    processes = [
        start(study, folder, rank=rank, size=size, stop_step=stop_step, **meeting) for rank in reversed(range(size))
    ]
    errors = [process.communicate(timeout=SECONDS)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0] * size, errors
    found = [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(size)]
    assert [rank["threads"] for rank in found] == [[]] * size
    return found


@pytest.fixture
def two_studies(make_study: MakeStudy, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Study]:
    """The same pretrained study twice; patients of two images, which must not be dealt out to two ranks."""
    several = ("delta = 1e-3", "delta = 1e-3\nimages_per_patient = 2")
    study = make_study(("target_epsilons = [8.0, inf]", "target_epsilons = [8.0]"), several)
    pretrain(study)
    other = tmp_path_factory.mktemp("other") / "study"
    shutil.copytree(tmp_path, other)
    return study, load_study(other / study.file.name)


@pytest.mark.slow
def test_two_ranks_release_the_sums_the_epsilon_and_the_weights_of_one(
    two_studies: tuple[Study, Study], tmp_path: Path
) -> None:
    one, two = two_studies
    (alone,) = run(one, tmp_path, size=1)
    ranks = run(two, tmp_path, size=2)
    for rank in ranks:
        for sums, wanted in zip(rank["sums"], alone["sums"], strict=True):
            for total, right in zip(sums, wanted, strict=True):
                torch.testing.assert_close(total, right, rtol=1e-5, atol=1e-6)
    paths = [study.paths.run(study.run_id(study.cells()[0])) for study in (one, two)]
    assert statement(paths[0]) == statement(paths[1])
    lines = [path.ledger.read_text().splitlines() for path in paths]
    assert lines[0] == lines[1]
    weights, wanted = (torch.load(p.weights, weights_only=True) for p in (paths[1], paths[0]))
    for name in wanted:
        torch.testing.assert_close(weights[name], wanted[name], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_all_ranks_stop_at_the_step_of_the_one_that_was_told_and_one_process_may_go_on(
    two_studies: tuple[Study, Study], tmp_path: Path
) -> None:
    one, two = two_studies
    run(one, tmp_path, size=1)
    ranks = run(two, tmp_path, size=2, stop_step=6)
    assert [(rank["status"], rank["step"]) for rank in ranks] == [("interrupted", 6)] * 2
    run(two, tmp_path, size=1)
    paths = [study.paths.run(study.run_id(study.cells()[0])) for study in (one, two)]
    assert statement(paths[0]) == statement(paths[1])  # nothing was paid for twice
    weights, wanted = (torch.load(p.weights, weights_only=True) for p in (paths[1], paths[0]))
    for name in wanted:
        torch.testing.assert_close(weights[name], wanted[name], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_one_rank_makes_the_features_and_all_of_them_stop_where_one_was_told(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    head = ("learning_rate = 1e-3\nnum_threads", 'learning_rate = 1e-3\nparameters = "head"\nnum_threads')
    study = make_study(head, ("[8.0, inf]", "[8.0]"))
    pretrain(study)
    ranks = run(study, tmp_path, size=2, stop_step=-2)
    assert [(rank["status"], rank["step"]) for rank in ranks] == [("interrupted", 0)] * 2
    made = list(study.paths.shards("uka").folder.glob("features/*.npy"))
    for file in made:
        file.unlink()
    ranks = run(study, tmp_path, size=2)
    assert [rank["status"] for rank in ranks] == ["finished"] * 2
    assert len(list(study.paths.shards("uka").folder.glob("features/*.npy"))) == 1
    for ours, theirs in zip(ranks[0]["sums"], ranks[1]["sums"], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_process_that_lost_another_ends_at_once_and_the_training_goes_on(
    two_studies: tuple[Study, Study], tmp_path: Path, killed: int
) -> None:
    study, _ = two_studies
    meeting = {PORT_FILE: str(tmp_path / "port")}
    processes = [start(study, tmp_path, rank=rank, size=2, stop_step=-1, **meeting) for rank in range(2)]
    wait_until(study.paths.run(study.run_id(study.cells()[0])).metrics_log.exists)
    processes[killed].kill()
    begun = time.monotonic()
    _, error = processes[1 - killed].communicate(timeout=SECONDS)
    assert time.monotonic() - begun < 30  # of the 30 minutes that one waits for another that lives
    assert b"dpdt.errors.LostProcessError: another process of this training has ended" in error
    processes[killed].communicate(timeout=SECONDS)
    assert processes[killed].returncode == -signal.SIGKILL
    (alone,) = run(study, tmp_path, size=1)
    assert alone["status"] == "finished"
    stated = statement(study.paths.run(study.run_id(study.cells()[0])))
    assert stated["epsilon"] <= 8.0


def test_a_process_whose_others_do_not_arrive_stops_when_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dpdt.training.ranks.STOP_SECONDS", 0.2)
    for name, value in {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", PORT_FILE: str(tmp_path / "port")}.items():
        monkeypatch.setenv(name, value)
    stop = StopFlag()
    stop.request()
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        (tmp_path / "port").unlink(missing_ok=True)
        with pytest.raises(LostProcessError, match="did not all arrive in time"), joined(stop):
            pass


def test_every_unit_is_exactly_one_ranks() -> None:
    units = np.array([0, 1, 2, 5, 9, 12, 13])
    parts = [Ranks(rank, 3).part(units) for rank in range(3)]
    assert np.stack(parts).sum(0).tolist() == [1] * len(units)
    assert ALONE.part(units).all()


def test_a_process_alone_asks_nobody() -> None:
    tensor = torch.ones(3)
    ALONE.add([tensor])
    assert tensor.tolist() == [1.0] * 3
    assert (ALONE.any(True), ALONE.any(False), ALONE.share("x"), ALONE.largest(3)) == (True, False, "x", 3)
    with ALONE.leader_first():
        pass


def test_an_empty_part_adds_zeros() -> None:
    model = torch.nn.Linear(2, 1)
    sums = GradientSum(model, lambda outputs, _: outputs.sum(1)).partial_sums()
    assert [total.abs().sum().item() for total in sums] == [0.0, 0.0]
    assert [tuple(total.shape) for total in sums] == [(1, 2), (1,)]
