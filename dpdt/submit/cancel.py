"""Taking back what is in Slurm's queue."""

import subprocess
from collections.abc import Collection

from dpdt.errors import ClusterError
from dpdt.stages import Task
from dpdt.study import Study
from dpdt.submit.programs import COMMAND_SECONDS
from dpdt.submit.slurm import queued_tasks

__all__ = ["cancel"]


def cancel(study: Study, tasks: Collection[Task] | None = None) -> list[Task]:
    """Cancel the study's jobs, running or waiting; what they have done so far stays, and a new submission goes on.

    Args:
        study: The study.
        tasks: Only these; None means all. What needs them is taken out of the queue by Slurm.

    Returns:
        The tasks whose jobs were cancelled.

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
    return list(queued)
