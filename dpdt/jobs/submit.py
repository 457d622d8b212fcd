"""Send a study's tasks to a scheduler, or cancel them."""

import contextlib
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from dpdt.base.console import as_typed, note, say, warn
from dpdt.errors import ClusterError, DpdtError, StudyError
from dpdt.jobs.dry_run import show_plan
from dpdt.jobs.scheduler import Scheduler
from dpdt.jobs.schedulers import SCHEDULERS, Cluster, make_scheduler, queueing
from dpdt.jobs.selection import make_plan
from dpdt.jobs.stages import private_umask
from dpdt.jobs.status import task_states
from dpdt.jobs.submissions import Job, latest_jobs, new_submission
from dpdt.shards.manifest import read_manifest
from dpdt.study import Study
from dpdt.study.tasks import LAST_STAGES, Task, needs
from dpdt.training.networks.check import check_class_weights, check_model

__all__ = ["SubmitSummary", "cancel", "show_next", "submit"]

READ_RAW_DATA: Final = frozenset({"cohort", "shards"})
"""The stages that do."""


@dataclass(frozen=True)
class SubmitSummary:
    """What a submission did.

    Attributes:
        cluster: Where tasks were sent.
        sent: Number of tasks sent.
        skipped: Tasks that were done already.
        queued: Tasks that an earlier submission has in the queue.
        finished: Tasks that succeeded (0 without waiting).
        folder: Where logs lie; None if nothing was sent.
        never_sent: With `retry_failed`: tasks that are neither done nor running, though nothing failed.
    """

    cluster: str
    sent: int
    skipped: int
    queued: int = 0
    finished: int = 0
    folder: Path | None = None
    never_sent: int = 0

    def __str__(self) -> str:
        queued = f", {self.queued} already in the queue" if self.queued else ""
        if self.folder is None:
            end = (
                f", {self.never_sent} were never sent with these settings: leave out --retry-failed"
                if self.never_sent
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
        cluster: The scheduler: a key of `SCHEDULERS`.
        stages: Only these; None means all.
        dry_run: Print a table of what would be sent, with `--verbose` the batch scripts too; send nothing.
        wait: Wait for the end and fail if a task failed. Default: yes, unless they wait and run in a queue.
        retry_failed: Only tasks that failed or were stopped, and what was not run because of them.

    Raises:
        StudyError: Unknown stage or cluster, a wrong cluster profile, class weights of public data
            that are not there, a custom network that is not fit for DP, or raw data that is not there.
        PrivacyError: Delta is too large for the patients of a cohort that is there.
        ClusterError: Slurm refused a job, or a task failed: with the task, its last traceback line and its log.
    """
    # here: tables of patients are slow to load
    from dpdt.jobs.checks import check_deltas, check_groups, warn_of_changed_lists, warn_of_shared_patients

    scheduler = make_scheduler(cluster, study)
    waits = _waits(cluster, wait)
    check_class_weights(study)
    check_model(study)
    check_deltas(study, study.domains)
    check_groups(study, study.domains)
    warn_of_changed_lists(study)
    warn_of_shared_patients(study)
    if stages is None or not READ_RAW_DATA.isdisjoint(stages):
        _check_raw_data(study, refuse=SCHEDULERS[cluster].waits and not dry_run)
    only = None
    if retry_failed:
        states = task_states(study)
        only = _unfinished(study, states)
        if not only:
            summary = _nothing_failed(cluster, states)
            say(summary)
            return summary
    if dry_run:
        queued = _queued(scheduler)
        plan = make_plan(study, stages, queued=queued, only=only)
        show_plan(plan, scheduler, cluster=cluster, queued=queued)
        return SubmitSummary(cluster, len(plan.send), plan.num_done, plan.num_queued)
    with private_umask(study), scheduler.claimed():
        queued = scheduler.queued()
        plan = make_plan(study, stages, queued=queued, only=only)
        summary = SubmitSummary(cluster, len(plan.send), plan.num_done, plan.num_queued)
        if plan.send or (waits and plan.num_queued):
            submission = new_submission(study, cluster)
            outcomes = scheduler.run(plan, submission, queued=queued, wait=waits)
            outcomes.raise_if_failed()
            summary = replace(summary, finished=len(outcomes.done), folder=submission.paths.folder)
    say(summary)
    _tell_rejects(study)
    return summary


def show_next(study: Study) -> None:
    """Print where the report is and what to type next, in this shell and folder."""
    page = study.paths.report / "index.html"
    if page.exists():
        say(f"Report: {page}")
        say(f"MLflow: {as_typed('ui', study.file)}")
    else:
        say(f"Next: {as_typed('status', study.file)}")


def _tell_rejects(study: Study) -> None:
    """Say how many images no network sees, for each domain whose shards are there."""
    for domain in study.used_domains:
        paths, manifest = study.paths.shards(domain), {}
        with contextlib.suppress(DpdtError):  # a damaged one is told where it is used
            manifest = read_manifest(paths.manifest) if paths.manifest.exists() else {}
        if rejected := manifest.get("rejected", 0):
            counts = manifest.get("rejected_reasons", {})  # a manifest of before may have none
            reasons = f" ({', '.join(f'{why} {count}' for why, count in counts.items())})" if counts else ""
            total = rejected + manifest["images"]
            note(f"{domain}: {rejected} of {total} images were rejected{reasons} and used nowhere: {paths.rejects}")


def cancel(study: Study, tasks: Collection[Task] | None = None) -> list[Task]:
    """Cancel the study's jobs, running or waiting; what they have done so far stays, and a new submission goes on.

    Args:
        study: The study.
        tasks: Only these; None means all.

    Returns:
        The tasks of the cancelled jobs.

    Raises:
        ClusterError: The scheduler is not here, does not answer, or refuses.
    """
    names = sorted({job.cluster for _, job in latest_jobs(study).values()}) or queueing()
    return [task for name in names for task in make_scheduler(name, study).cancel(tasks)]


def _waits(cluster: Cluster, wanted: bool | None) -> bool:
    """Whether to stay until the tasks have ended."""
    always = SCHEDULERS[cluster].waits
    if wanted is False and always:
        names = " or ".join(queueing())
        raise StudyError(f"--no-wait goes with --cluster {names} only: {cluster} runs in this process. Leave it out.")
    return always if wanted is None else wanted


def _check_raw_data(study: Study, *, refuse: bool) -> None:
    """Say which domains' data is not there: an error where tasks would run on this machine, else a warning."""
    from dpdt.jobs.raw_data import lost_data  # here: tables of patients are slow to load

    lost = [f"{domain}: {problem}" for domain, problem in lost_data(study).items()]
    if lost and refuse:
        raise StudyError("nothing was sent, raw data is not there. " + " ".join(lost))
    for text in lost:
        warn(f"{text} (seen from this machine)")


def _unfinished(study: Study, states: dict[Task, str]) -> set[Task]:
    """Tasks that failed or were stopped, and those that will not run because of them."""
    found: set[Task] = set()
    for task, before in needs(study).items():
        follows = states[task] == "to do" or task.stage in LAST_STAGES
        if states[task] in ("failed", "stopped") or (follows and not found.isdisjoint(before)):
            found.add(task)
    return found


def _nothing_failed(cluster: str, states: dict[Task, str]) -> SubmitSummary:
    """Nothing to send again; a changed setting makes tasks that were never sent."""
    count = Counter(states.values())
    return SubmitSummary(cluster, 0, count["done"], count["waiting"] + count["running"], never_sent=count["to do"])


def _queued(scheduler: Scheduler) -> dict[Task, Job]:
    """For a dry run: what is in the queue, where the scheduler answers."""
    with contextlib.suppress(ClusterError):
        return scheduler.queued()
    return {}
