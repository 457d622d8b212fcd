"""What jobs leave behind, and how it is read."""

import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dpdt.base.files import exclusive_lock, is_locked, last_line, read_tail
from dpdt.jobs.slurm.queue import read_queue
from dpdt.jobs.submissions import Job, latest_jobs, new_submission, outcome, submissions
from dpdt.study import Study
from dpdt.study.tasks import Task


def job(folder: Path, result: object = None, *, task: Task | None = None) -> Job:
    """A job with what submitit would leave."""
    file = folder / "1_0_result.pkl"
    if result is not None:
        file.write_bytes(pickle.dumps(result))
    return Job(task or Task("cohort", "a", "cohort a"), "1", folder / "1.log", file, "local")


def test_an_outcome_is_nothing_success_or_the_last_line_of_the_error(tmp_path: Path) -> None:
    assert outcome(job(tmp_path)) is None
    assert outcome(job(tmp_path, ("success", None))) == ""
    text = "Traceback …\n  File …\ndpdt.errors.ShardError: shards/a: no manifest\n\n"
    assert outcome(job(tmp_path, ("error", text))) == "ShardError: shards/a: no manifest"


def test_a_result_is_never_executed(tmp_path: Path) -> None:
    text = outcome(job(tmp_path, ("success", time.gmtime())))
    assert text == "1_0_result.pkl cannot be read (unexpected time.struct_time)"


def test_a_cut_off_result_is_a_failure(tmp_path: Path) -> None:
    cut = job(tmp_path, ("error", "text"))
    cut.result.write_bytes(cut.result.read_bytes()[:-4])
    assert "cannot be read" in str(outcome(cut))


@pytest.mark.parametrize(
    "damaged",
    [
        b"\x80\x04\x95" + b"\xff" * 8 + b".",  # PEP 3154: the length of a frame, 8 bytes: more than there can be
        b"\x80\x04\x8c\x01xK\x01a.",  # an opcode APPEND that a text is under: AttributeError
        bytes(100),  # as some file systems leave a file of a node that lost its power
    ],
)
def test_a_damaged_result_is_a_failure_whatever_reading_it_raises(tmp_path: Path, damaged: bytes) -> None:
    spoilt = job(tmp_path, ("error", "text"))
    spoilt.result.write_bytes(damaged)
    assert "1_0_result.pkl cannot be read" in str(outcome(spoilt))


def test_the_last_line_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert last_line(read_tail(log)) == ""
    log.write_text("x" * 20_000 + "\nlast words\n\n")
    assert last_line(read_tail(log)) == "last words"


def test_a_lock_is_seen_and_not_made(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    assert not is_locked(file)
    assert not file.exists()
    with exclusive_lock(file):
        assert is_locked(file)
    assert not is_locked(file)


def test_the_newest_job_of_a_task_counts(make_fake_study: Callable[..., Study]) -> None:
    study = make_fake_study()
    names = []
    for _ in range(12):  # within one second: -2 … -12
        submission = new_submission(study, "local")
        submission.add([job(submission.paths.folder)])
        names.append(submission.paths.folder.name)
    ((newest, found),) = latest_jobs(study).values()
    assert newest.paths.folder.name == names[-1]
    assert found.log == study.paths.jobs / names[-1] / "1.log"
    newest.remove()
    assert len(latest_jobs(study)) == 1  # the one before


def test_a_copy_of_a_submission_is_none(make_fake_study: Callable[..., Study]) -> None:
    study = make_fake_study()
    submission = new_submission(study, "local")
    submission.add([job(submission.paths.folder)])
    folder = submission.paths.folder
    shutil.copytree(folder, folder.with_name(f"{folder.name}.bak"))
    assert [one.paths.folder for one in submissions(study)] == [folder]


def test_the_queue_is_read_from_one_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    squeue = tmp_path / "squeue"
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    squeue.write_text("#!/bin/bash\nprintf '12_3|PENDING|Dependency|\\n13|OUT_OF_MEMORY|None|node2\\n'\n")
    squeue.chmod(0o755)
    queue = read_queue()
    assert queue is not None
    assert {key: (row.state, row.reason, row.node, row.active) for key, row in queue.items()} == {
        "12_3": ("PENDING", "Dependency", "", True),
        "13": ("OUT_OF_MEMORY", "", "node2", False),
    }
    squeue.write_text("#!/bin/bash\nexit 1\n")
    assert read_queue() is None
