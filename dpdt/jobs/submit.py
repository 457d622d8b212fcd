"""Send a study's tasks: as Slurm arrays, as processes on this machine, or one after another in this process.

The only package that imports submitit.
"""

import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dpdt.base.console import say, warn
from dpdt.errors import ClusterError, StudyError
from dpdt.jobs.doctor.cluster import check_cluster
from dpdt.jobs.doctor.finding import Check
from dpdt.jobs.local import run_debug, run_local, study_claimed
from dpdt.jobs.outcomes import Outcomes
from dpdt.jobs.selection import Plan, make_plan, show_plan
from dpdt.jobs.slurm.cancel import cancel
from dpdt.jobs.slurm.send import queued_tasks, send
from dpdt.jobs.slurm.wait import wait_for
from dpdt.jobs.stages import private_umask
from dpdt.jobs.status import task_states
from dpdt.jobs.submissions import Job, Submission, new_submission
from dpdt.study import Study
from dpdt.study.tasks import LAST_STAGES, Task, needs
from dpdt.training.networks.check import check_class_weights, check_model

__all__ = ["Check", "SubmitSummary", "cancel", "check_cluster", "submit"]

Cluster = Literal["slurm", "local", "debug"]


@dataclass(frozen=True)
class SubmitSummary:
    """What a submission did.

    Attributes:
        cluster: Where tasks were sent.
        sent: Number of tasks sent.
        skipped: Tasks that were done already.
        queued: Tasks that an earlier submission has in the queue.
        finished: Tasks that succeeded (0 if nobody waited).
        folder: Where logs lie; None if nothing was sent.
        missing: With `retry_failed`: tasks that nobody is at, though nothing failed.
    """

    cluster: str
    sent: int
    skipped: int
    queued: int = 0
    finished: int = 0
    folder: Path | None = None
    missing: int = 0

    def __str__(self) -> str:
        queued = f", {self.queued} already in the queue" if self.queued else ""
        if self.folder is None:
            end = (
                f", {self.missing} were never sent with these settings: leave out --retry-failed"
                if self.missing
                else ""
            )
            return f"Nothing to send: {self.skipped} tasks are done{queued}{end}."
        done = f"{self.finished} tasks done" if self.finished else f"{self.sent} tasks sent to {self.cluster}"
        return f"{done}, {self.skipped} were done before{queued}. Logs: {self.folder}"


def submit(
    study: Study,
    *,
    cluster: Cluster,
    stages: Sequence[str] | None = None,
    dry_run: bool = False,
    wait: bool | None = None,
    retry_failed: bool = False,
) -> SubmitSummary:
    """Send every task that is not done, with its dependencies, and print a summary.

    Args:
        study: The study.
        cluster: `slurm`: arrays with dependencies, nobody has to wait; `local`: processes on this machine, a few at
            once; `debug`: in this process, one after another.
        stages: Only these; None means all.
        dry_run: Print a table of what would be sent; send nothing.
        wait: Wait for the end and fail if a task failed. Default: no on slurm, yes elsewhere.
        retry_failed: Only tasks that failed or were stopped, and what was not run because of them.

    Raises:
        StudyError: Unknown stage or cluster, a wrong cluster profile, class weights of public data
            that are not there, or a network of one's own that is not fit for DP.
        ClusterError: Slurm refused a job, or a task failed: with the task, its last traceback line and its log.
    """
    if cluster not in ("slurm", "local", "debug"):
        raise StudyError(f"cluster: expected slurm, local or debug, got {cluster!r}.")
    if wait is False and cluster != "slurm":
        raise StudyError(f"--no-wait goes with --cluster slurm only: {cluster} runs in this process. Leave it out.")
    check_class_weights(study)
    check_model(study)
    _warn_of_changed_lists(study)
    only = None
    if retry_failed:
        states = task_states(study)
        only = _unfinished(study, states)
        if not only:
            summary = _nothing_failed(cluster, states)
            print(summary)
            return summary
    if dry_run:
        plan = _plan(study, stages, cluster, only)
        show_plan(study, plan, cluster=cluster)
        return SubmitSummary(cluster, len(plan.send), plan.num_done, plan.num_queued)
    with private_umask(study):
        if cluster == "slurm":
            summary = _send_to_slurm(study, stages, only, wait=bool(wait))
        else:
            summary = _run(study, stages, only, cluster)
    say(summary)
    return summary


def _warn_of_changed_lists(study: Study) -> None:
    """Nothing is built anew because a hospital's list was corrected, so say that it was."""
    from dpdt.cohort.table import changed_inputs, cohort_done

    for domain in study.domains:
        for path in changed_inputs(study, domain) if cohort_done(study, domain) else ():
            warn(f"{path}: changed since the cohort of {domain} was built from it; `dpdt cohort` tells what to do.")


def _unfinished(study: Study, states: dict[Task, str]) -> set[Task]:
    """Tasks that failed or were stopped, and those that nobody will run because of them."""
    found: set[Task] = set()
    for task, before in needs(study).items():
        follows = states[task] == "missing" or task.stage in LAST_STAGES
        if states[task] in ("failed", "stopped") or (follows and not found.isdisjoint(before)):
            found.add(task)
    return found


def _nothing_failed(cluster: str, states: dict[Task, str]) -> SubmitSummary:
    """Nothing to send again; a changed setting makes tasks that were never sent."""
    count = Counter(states.values())
    return SubmitSummary(cluster, 0, count["done"], count["waiting"] + count["running"], missing=count["missing"])


def _plan(study: Study, stages: Sequence[str] | None, cluster: str, only: set[Task] | None) -> Plan:
    """The plan; on a machine with Slurm it leaves out what is in the queue."""
    queued: dict[Task, Job] = {}
    if cluster == "slurm":
        with contextlib.suppress(ClusterError):
            queued = queued_tasks(study)
    return make_plan(study, stages, queued=queued, only=only)


def _run(study: Study, stages: Sequence[str] | None, only: set[Task] | None, cluster: str) -> SubmitSummary:
    """Run what is missing on this machine."""
    with study_claimed(study):
        plan = make_plan(study, stages, only=only)
        if not plan.send:
            return SubmitSummary(cluster, 0, plan.num_done)
        submission = new_submission(study, cluster)
        outcomes = run_debug(plan, submission) if cluster == "debug" else run_local(study, plan, submission)
    return _summary(plan, submission, outcomes)


def _send_to_slurm(study: Study, stages: Sequence[str] | None, only: set[Task] | None, *, wait: bool) -> SubmitSummary:
    """Send what is missing to Slurm; if asked to, wait for that and for what was in the queue already."""
    queued = queued_tasks(study)
    plan = make_plan(study, stages, queued=queued, only=only)
    in_queue = [queued[task] for stage in plan.stages for task in stage.queued]
    if not plan.send and not (wait and in_queue):
        return SubmitSummary("slurm", 0, plan.num_done, plan.num_queued)
    submission = new_submission(study, "slurm")
    send(study, plan, submission, queued=queued)
    outcomes = wait_for(plan, [*in_queue, *submission.jobs]) if wait else Outcomes()
    return _summary(plan, submission, outcomes)


def _summary(plan: Plan, submission: Submission, outcomes: Outcomes) -> SubmitSummary:
    outcomes.raise_if_failed()
    return SubmitSummary(
        cluster=submission.cluster,
        sent=len(plan.send),
        skipped=plan.num_done,
        queued=plan.num_queued,
        finished=len(outcomes.done),
        folder=submission.paths.folder,
    )
