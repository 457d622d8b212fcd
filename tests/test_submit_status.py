"""Status, cancel and retry of what was sent to Slurm, with programs that stand for it."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dpdt.jobs.attempts import Attempt, begin_attempt, stop_attempt
from dpdt.jobs.logs import find_tasks
from dpdt.jobs.slurm.cancel import cancel
from dpdt.jobs.stages import run_task
from dpdt.jobs.status import show_status, study_status, watch_status
from dpdt.jobs.submissions import latest_jobs
from dpdt.jobs.submit import submit
from dpdt.study import Study
from dpdt.study.tasks import Task
from tests.fake_slurm import FakeSlurm

MakeStudy = Callable[..., Study]


def rows_of(study: Study) -> dict[str, dict[str, Any]]:
    """Status by name."""
    return {row["name"]: row for row in study_status(study)}


def sent(make_fake_study: MakeStudy, stages: list[str]) -> tuple[Study, dict[str, Any]]:
    """A study some stages of which are in the queue, and its jobs by name."""
    study = make_fake_study()
    submit(study, cluster="slurm", stages=stages)
    return study, {task.name: job for task, (_, job) in latest_jobs(study).items()}


def started(job: Any, *, node: str, number: int = 1) -> Attempt:
    """Leave what an attempt leaves when it starts."""
    attempt = Attempt(number, node, 1.0, None)
    begin_attempt(job.attempts, attempt)
    job.log.write_text("== a header\nlast words\n")
    return attempt


def accounting(fake_slurm: FakeSlurm, *lines: str) -> Path:
    """Let sacct answer; returns the file in which its calls are noted."""
    calls = fake_slurm.folder / "sacct.calls"
    text = "".join(f"{line}\\n" for line in lines)
    (fake_slurm.folder / "sacct").write_text(f"#!/bin/bash\necho x >> {calls}\nprintf '{text}'\n")
    return calls


def test_a_row_has_node_and_attempt_from_slurm_or_from_the_jobs_own_file(
    make_fake_study: MakeStudy, fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    study, jobs = sent(make_fake_study, ["cohort"])
    started(jobs["cohort-a"], node="node2", number=3)
    started(jobs["cohort-b"], node="node4")
    fake_slurm.queue("1_0|RUNNING|None|node2", "1_1|PENDING|BeginTime|", "1_2|PENDING|Priority|")
    rows = rows_of(study)
    keys = ("state", "node", "attempt", "note")
    assert [[rows[name][key] for key in keys] for name in ("cohort-a", "cohort-b", "cohort-public")] == [
        ["running", "node2", 3, None],
        ["waiting", "node4", 1, "BeginTime"],  # requeued: where it ran before
        ["waiting", None, None, "Priority"],
    ]
    show_status(list(rows.values()))
    assert "1 running, 2 waiting, 15 to do" in capsys.readouterr().out


def test_what_left_slurms_memory_is_asked_of_the_accounting_once(
    make_fake_study: MakeStudy, fake_slurm: FakeSlurm
) -> None:
    study, jobs = sent(make_fake_study, ["cohort"])
    for name in jobs:
        started(jobs[name], node="node1")
    lines = ("1_0|CANCELLED by 0|node1", "1_1|OUT_OF_MEMORY|node2", "1_[2]|CANCELLED|None assigned")
    calls = accounting(fake_slurm, *lines)
    for _ in range(2):
        rows = rows_of(study)
        assert (rows["cohort-a"]["state"], rows["cohort-b"]["state"]) == ("stopped", "failed")
        assert "(Slurm's state: OUT_OF_MEMORY); last line: last words" in rows["cohort-b"]["note"]
        assert rows["cohort-public"]["state"] == "stopped"
    assert calls.read_text() == "x\n"


def test_without_accounting_a_job_that_left_no_trace_has_failed(
    make_fake_study: MakeStudy, fake_slurm: FakeSlurm
) -> None:
    study, jobs = sent(make_fake_study, ["cohort"])
    started(jobs["cohort-a"], node="node1")
    assert rows_of(study)["cohort-a"]["state"] == "failed"
    assert rows_of(study)["cohort-a"]["note"].startswith("ended without a result (Slurm's state: unknown)")


def test_a_job_that_used_up_its_attempts_is_stopped_and_not_failed(
    make_fake_study: MakeStudy, fake_slurm: FakeSlurm
) -> None:
    import pickle

    study, jobs = sent(make_fake_study, ["cohort"])
    for name in ("cohort-a", "cohort-b"):
        attempt = started(jobs[name], node="node1")
        jobs[name].result.write_bytes(pickle.dumps(("error", "ClusterError: the reason\n")))
    stop_attempt(jobs["cohort-a"].attempts, attempt, "too many attempts")
    rows = rows_of(study)
    assert (rows["cohort-a"]["state"], rows["cohort-a"]["note"]) == ("stopped", "ClusterError: the reason")
    assert rows["cohort-b"]["state"] == "failed"
    assert rows["shards-a"]["note"] == "not run: cohort a stopped"


def test_a_job_that_was_told_to_stop_and_never_came_back_is_stopped_whatever_slurm_calls_it(
    make_fake_study: MakeStudy, fake_slurm: FakeSlurm
) -> None:
    study, jobs = sent(make_fake_study, ["cohort"])
    for name in ("cohort-a", "cohort-b"):
        stop_attempt(jobs[name].attempts, started(jobs[name], node="node1"), "preempted")
    begin_attempt(jobs["cohort-b"].attempts, Attempt(2, "node2", 2.0, None))  # this one came back, and was killed
    fake_slurm.queue("1_0|FAILED|NonZeroExitCode|node1")
    rows = rows_of(study)
    assert (rows["cohort-a"]["state"], rows["cohort-b"]["state"]) == ("stopped", "failed")
    assert rows["cohort-a"]["note"] == "ended without a result (Slurm's state: FAILED); stopped from outside: preempted"


def test_only_what_failed_and_what_needed_it_is_sent_again(make_fake_study: MakeStudy, fake_slurm: FakeSlurm) -> None:
    study = make_fake_study()
    submit(study, cluster="debug", stages=["cohort"])
    study.paths.cohort_record("b").unlink()
    submit(study, cluster="slurm", stages=["cohort"])
    (job,) = (job for task, (_, job) in latest_jobs(study).items() if task == Task("cohort", "b"))
    started(job, node="node1")  # and gone
    before = fake_slurm.count
    summary = submit(study, cluster="slurm", stages=["cohort", "shards", "train"], retry_failed=True)
    newest = [fake_slurm.options(n)["job-name"] for n in range(before + 1, fake_slurm.count + 1)]
    assert (summary.sent, newest) == (4, ["dpdt-cohort", "dpdt-shards", "dpdt-train"])
    assert summary.skipped == 2  # the cohorts of a and public
    assert {task.name for task, (one, _) in latest_jobs(study).items() if one.paths.folder == summary.folder} == {
        "cohort-b",
        "shards-b",
        *(task.name for task in find_tasks(study, ["train b"])),
    }


def test_after_a_change_of_settings_no_task_failed_and_the_way_on_is_told(
    make_fake_study: MakeStudy, fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    study, jobs = sent(make_fake_study, ["train"])
    for job in jobs.values():
        started(job, node="node1")  # and gone
    assert submit(study, cluster="slurm", retry_failed=True, dry_run=True).sent > 0
    changed = make_fake_study("[train]\nlearning_rate = 0.01\n")
    capsys.readouterr()
    assert submit(changed, cluster="slurm", retry_failed=True).sent == 0
    shown = capsys.readouterr().out
    assert (
        shown
        == "Nothing to send: 0 tasks are done, 18 were never sent with these settings: leave out --retry-failed.\n"
    )


def test_cancelling_names_the_jobs_that_are_in_the_queue(make_fake_study: MakeStudy, fake_slurm: FakeSlurm) -> None:
    study, jobs = sent(make_fake_study, ["cohort", "shards"])
    fake_slurm.queue(
        "1_0|COMPLETED|None|node1", "1_1|RUNNING|None|node1", "2_0|PENDING|Dependency|", "9|RUNNING|None|n"
    )
    assert [task.name for task in cancel(study, find_tasks(study, ["cohort"]))] == ["cohort-b"]
    assert fake_slurm.cancelled == "1_1\n"
    assert [task.name for task in cancel(study)] == ["cohort-b", "shards-a"]
    assert fake_slurm.cancelled == "1 2\n"  # and no job of another study
    fake_slurm.queue("1_0|CANCELLED|None|node1", "1_1|CANCELLED|None|node1")  # the first by scancel
    rows = rows_of(study)
    by_slurm, by_dpdt = (
        "ended without a result (Slurm's state: CANCELLED)",
        "cancelled by dpdt cancel; sent again, it goes on",
    )
    assert [rows[name]["note"] for name in ("cohort-a", "cohort-b")] == [by_slurm, by_dpdt]
    fake_slurm.queue()  # Slurm forgets those that had not started at once
    assert cancel(study) == []
    rows = rows_of(study)
    assert [rows[name]["state"] for name in ("cohort-a", "cohort-b", "cohort-public")] == [
        "failed",
        "stopped",
        "failed",
    ]
    assert rows["cohort-b"]["note"] == by_dpdt
    started(jobs["cohort-a"], node="node1")
    accounting(fake_slurm, "1_0|CANCELLED|node1")  # whose answer is kept beside the record
    for _ in range(2):
        rows = rows_of(study)
        assert [rows[name]["note"] for name in ("cohort-a", "cohort-b")] == [by_slurm, by_dpdt]
    assert rows["shards-b"]["note"] == "not run: cohort b stopped"


def test_watching_ends_when_nothing_runs_or_waits(
    make_fake_study: MakeStudy,
    fake_slurm: FakeSlurm,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    study, _ = sent(make_fake_study, ["cohort"])
    fake_slurm.queue(*(f"1_{n}|PENDING|Priority|" for n in range(3)))
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        fake_slurm.queue()

    monkeypatch.setattr("dpdt.jobs.status.time", SimpleNamespace(sleep=sleep))
    looks = fake_slurm.num_looks
    watch_status(study, every_seconds=7)
    assert slept == [7]
    assert fake_slurm.num_looks == looks + 2  # one call of squeue a look
    capsys.readouterr()
    watch_status(study, every_seconds=7, as_json=True)
    assert [len(json.loads(line)) for line in capsys.readouterr().out.splitlines()] == [18]


def ended(job: Any, *, node: str, how: tuple[str, str]) -> None:
    """Leave what a job leaves that ran on a node and ended, as submitit writes it."""
    started(job, node=node)
    job.result.write_bytes(pickle.dumps(how))


@pytest.mark.parametrize(
    ("nodes", "left_out"),
    [
        (("bad", "bad", "good"), "bad"),  # two failed on it, and another node did the same
        (("bad", "worse", "good"), None),  # one failure each may be chance
        (("bad", "bad", "bad"), None),  # the third ended well on it
        (("bad", "bad", None), None),  # no other node did better: the fault may be the study's
    ],
)
def test_a_node_on_which_two_tasks_failed_is_left_out_and_named_where_others_did_them(
    make_fake_study: MakeStudy,
    fake_slurm: FakeSlurm,
    capsys: pytest.CaptureFixture[str],
    nodes: tuple[str, str, str | None],
    left_out: str | None,
) -> None:
    study, jobs = sent(make_fake_study, ["cohort"])
    ended(jobs["cohort-a"], node=str(nodes[0]), how=("error", "OSError: no such device"))
    ended(jobs["cohort-b"], node=str(nodes[1]), how=("error", "OSError: no such device"))
    if nodes[2] is not None:
        run_task(str(study.file), jobs["cohort-public"].task)
        ended(jobs["cohort-public"], node=nodes[2], how=("success", ""))
    submit(study, cluster="slurm", stages=["cohort"])
    assert fake_slurm.options(2).get("exclude") == left_out
    told = "node bad is left out: 2 jobs failed on it (cohort a, cohort b)" in capsys.readouterr().err
    assert told == (left_out is not None)
