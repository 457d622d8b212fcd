"""How an attempt ends: requeued, or with a reason why it is not."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from dpdt.errors import ClusterError
from dpdt.jobs.attempts import Attempt, last_attempt
from dpdt.jobs.slurm.requeue import REQUEUE_CODE, Limits, SlurmAttempt
from dpdt.study.tasks import Task

SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGCONT)


@pytest.fixture(autouse=True)
def killers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Attempts listen to signals for good, and a timer ends the process: neither may outlive a test."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    started: list[float] = []

    def make_timer(seconds: float, *_: object, **__: object) -> SimpleNamespace:
        started.append(seconds)
        return SimpleNamespace(start=lambda: None)

    monkeypatch.setattr(threading, "Timer", make_timer)
    yield started
    for number, handler in before.items():
        signal.signal(number, handler)


def stop(file: Path, number: int, *, stage: str, minutes: float, told: int = signal.SIGUSR2, at_most: int = 9) -> None:
    """Run an attempt of a job with a limit of an hour and stop it after some minutes."""
    attempt = SlurmAttempt(
        Task(stage, "a", f"{stage} a"), Attempt(number, "n", 1.0, None), Limits(at_most, 60, 90), file
    )
    attempt.begin()
    attempt.clock -= 60 * minutes
    with pytest.raises(SystemExit) as stopped:
        os.kill(os.getpid(), told)
    assert stopped.value.code == REQUEUE_CODE
    attempt.ended(stopped.value, 40)


def reason(file: Path) -> str:
    """Why the newest attempt was stopped."""
    found = last_attempt(file)
    assert found is not None
    return found.stopped


def test_a_warning_long_before_the_limit_is_a_preemption_and_the_job_comes_back(tmp_path: Path) -> None:
    # SL-02: submitit takes a warning in a short job for a time-out, and gives up after three.
    file = tmp_path / "attempts"
    for number in range(1, 5):
        with pytest.raises(SystemExit, match=str(REQUEUE_CODE)):
            stop(file, number, stage="train", minutes=1)
        assert reason(file) == "preempted"
    with pytest.raises(SystemExit, match=str(REQUEUE_CODE)):
        stop(file, 5, stage="train", minutes=59, told=signal.SIGTERM)
    assert reason(file) == "SIGTERM"


def test_a_training_comes_back_after_each_time_limit_until_its_last_attempt(tmp_path: Path) -> None:
    file = tmp_path / "attempts"
    for number in range(1, 4):
        with pytest.raises(SystemExit, match=str(REQUEUE_CODE)):
            stop(file, number, stage="train", minutes=58, at_most=4)
        assert reason(file) == "time limit"
    with pytest.raises(ClusterError, match=r"^train a: stopped in attempt 4, and cluster.max_attempts allows 4\. Noth"):
        stop(file, 4, stage="train", minutes=58, at_most=4)
    assert reason(file) == "too many attempts"
    with pytest.raises(ClusterError, match=r"^train a: attempt 5, and cluster.max_attempts allows 4\."):
        stop(file, 5, stage="train", minutes=58, at_most=4)


def test_a_stage_that_begins_anew_does_not_meet_its_time_limit_for_ever(tmp_path: Path) -> None:
    file = tmp_path / "attempts"
    for number, minutes in ((1, 58), (2, 1), (3, 58)):  # one of them was preempted
        with pytest.raises(SystemExit, match=str(REQUEUE_CODE)):
            stop(file, number, stage="cohort", minutes=minutes)
    with pytest.raises(
        ClusterError, match=r"two attempts met the time limit.*Raise timeout_min \(now 60\) in \[stages.c"
    ):
        stop(file, 4, stage="cohort", minutes=58)


def test_the_end_in_good_order_is_noted_with_the_step(tmp_path: Path) -> None:
    file = tmp_path / "attempts"
    with pytest.raises(SystemExit):
        stop(file, 1, stage="train", minutes=1)
    SlurmAttempt(Task("train", "a", "train a"), Attempt(2, "n", 1.0, 40), Limits(9, 60, 90), file).done()
    stopped, done = (json.loads(line) for line in file.read_text().splitlines()[-2:])
    assert stopped == {"attempt": 1, "ended": "stopped", "step": 40}
    assert done == {"attempt": 2, "ended": "done", "step": None}


def test_a_process_that_lost_another_says_so_and_waits_for_the_one_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    lose(tmp_path / "attempts", 1, step=None)
    assert waited == [5.0]
    assert reason(tmp_path / "attempts") == "one of its processes was lost"


def test_processes_that_are_lost_again_and_again_at_the_same_step_do_not_come_back_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    file = tmp_path / "attempts"
    for number, step in enumerate([None, None, 4, 4, 4], start=1):
        lose(file, number, step=step)
    lose(file, 6, step=4, num_processes=1)  # a process alone loses none
    with pytest.raises(
        ClusterError, match=r"^train a: 3 attempts in a row went on from step 4, and one of its process"
    ):
        lose(file, 7, step=4)


def lose(file: Path, number: int, *, step: int | None, num_processes: int = 2) -> None:
    """Begin an attempt at a step, and lose another process of it."""
    attempt = Attempt(number, "n", 1.0, step)
    slurm = SlurmAttempt(Task("train", "a", "train a"), attempt, Limits(9, 60, 90), file, num_processes)
    slurm.begin()
    slurm.lost()


def test_a_training_has_time_for_its_step_and_everything_else_is_ended_soon(
    tmp_path: Path, killers: list[float]
) -> None:
    for number, stage in enumerate(("pretrain", "train", "evaluate", "cohort"), start=1):
        with pytest.raises(SystemExit):
            stop(tmp_path / stage, number, stage=stage, minutes=1)
        assert killers == ([20.0] if stage == "cohort" else [])
