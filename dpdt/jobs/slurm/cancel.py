"""Cancelling jobs in Slurm's queue."""

import subprocess
from collections.abc import Collection
from contextlib import suppress

from dpdt.base.files import read_json, write_json
from dpdt.errors import ClusterError, DpdtError
from dpdt.jobs.slurm.programs import COMMAND_SECONDS
from dpdt.jobs.slurm.send import queued_tasks
from dpdt.jobs.submissions import Submission, latest_jobs
from dpdt.study import Study
from dpdt.study.tasks import Task

__all__ = ["cancel"]


def cancel(study: Study, tasks: Collection[Task] | None = None) -> list[Task]:
    """Cancel the study's jobs, running or waiting; what they have done so far stays, and a new submission goes on.

    Args:
        study: The study.
        tasks: Only these; None means all. What needs them is taken out of the queue by Slurm.

    Returns:
        The tasks of the cancelled jobs.

    Raises:
        ClusterError: There is no Slurm, it does not answer, or it refuses.
    """
    queued = {task: job for task, job in queued_tasks(study).items() if tasks is None or task in tasks}
    if not queued:
        return []
    command = ["scancel", *(job.job_id for job in queued.values())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_SECONDS)
    if done.returncode != 0:
        raise ClusterError(f"scancel: {done.stderr.strip() or 'failed without a message'}")
    by_folder: dict[str, tuple[Submission, list[str]]] = {}
    for task, (submission, job) in latest_jobs(study).items():
        if task in queued:
            by_folder.setdefault(submission.paths.folder.name, (submission, []))[1].append(job.job_id)
    for submission, job_ids in by_folder.values():
        _record(submission, job_ids)
    return list(queued)


def _record(submission: Submission, job_ids: list[str]) -> None:
    """Record that jobs were cancelled: without accounting, Slurm forgets at once those that had not started."""
    ended = {}
    with suppress(DpdtError):
        ended = read_json(submission.paths.ended)
    write_json(submission.paths.ended, {**ended, **{job_id: ["CANCELLED", "", ""] for job_id in job_ids}})
