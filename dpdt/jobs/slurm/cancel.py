"""Cancelling jobs in Slurm's queue."""

from collections.abc import Collection
from contextlib import suppress
from typing import Final

from dpdt.base.files import read_json, write_json
from dpdt.errors import ClusterError, DpdtError
from dpdt.jobs.slurm.programs import run_program
from dpdt.jobs.slurm.send import queued_jobs
from dpdt.jobs.submissions import Submission
from dpdt.study import Study
from dpdt.study.tasks import Task

__all__ = ["CANCELLED", "cancel"]

# The reason in the record of a job that `cancel` ended.
CANCELLED: Final = "cancelled by dpdt cancel"


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
    queued = [(sent, job) for sent, job in queued_jobs(study) if tasks is None or job.task in tasks]
    if not queued:
        return []
    # whole arrays by one id: Slurm takes long over thousands of elements
    ids = dict.fromkeys(job.job_id.split("_")[0] if tasks is None else job.job_id for _, job in queued)
    done = run_program("scancel", *ids)
    if done.returncode != 0:
        raise ClusterError(f"scancel: {done.stderr.strip() or 'failed without a message'}")
    for submission in {id(sent): sent for sent, _ in queued}.values():
        _record(submission, [job.job_id for sent, job in queued if sent is submission])
    return list(dict.fromkeys(job.task for _, job in queued))


def _record(submission: Submission, job_ids: list[str]) -> None:
    """Record who cancelled the jobs, and that: without accounting, Slurm forgets at once those that had not started."""
    ended = {}
    with suppress(DpdtError):
        ended = read_json(submission.paths.ended)
    write_json(submission.paths.ended, {**ended, **{job_id: ["CANCELLED", CANCELLED, ""] for job_id in job_ids}})
