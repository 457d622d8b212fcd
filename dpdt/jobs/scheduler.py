"""The interface of a scheduler. Each one is in a separate module, and `schedulers` lists them."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext

from dpdt.jobs.job_states import JobStates
from dpdt.jobs.outcomes import Outcomes
from dpdt.jobs.selection import Plan, StagePlan
from dpdt.jobs.submissions import Job, Jobs, Submission
from dpdt.study import Study
from dpdt.study.tasks import Task

__all__ = ["Scheduler"]


class Scheduler(ABC):
    """Runs the tasks of a study. Cheap to make: a missing program is an error of the method that needs it."""

    def __init__(self, study: Study) -> None:
        self.study = study

    def claimed(self) -> AbstractContextManager[None]:
        """Held while tasks are chosen and run, where only one submission at a time may do so.

        Raises:
            ClusterError: Another one does.
        """
        return nullcontext()

    def queued(self) -> dict[Task, Job]:
        """Tasks that an earlier submission has in the queue, waiting or running.

        Raises:
            ClusterError: The scheduler is not here, or does not answer.
        """
        return {}

    @abstractmethod
    def run(self, plan: Plan, submission: Submission, *, queued: Mapping[Task, Job], wait: bool) -> Outcomes:
        """Run what a plan sends, and note each job in the submission as soon as it is sent.

        Args:
            plan: What to send.
            submission: Where jobs are noted.
            queued: What is in the queue already; new tasks wait for what they need of it.
            wait: Stay until all of it has ended.

        Returns:
            How tasks ended; empty without `wait`.

        Raises:
            ClusterError: A job was refused, and nothing is left in the queue.
        """

    @abstractmethod
    def asked(self, stage: StagePlan) -> tuple[object, ...]:
        """What tasks of a stage get, for `--dry-run`: partition, tasks at once; CPUs, GPUs, memory, time of each."""

    def scripts(self, plan: Plan, *, queued: Mapping[Task, Job]) -> list[str]:
        """The batch scripts of a plan, for `--dry-run --verbose`; empty where there are none."""
        return []

    @abstractmethod
    def states(self, jobs: Jobs) -> JobStates:
        """What is known now of jobs that it was sent, for `dpdt status`."""

    def cancel(self, tasks: Collection[Task] | None = None) -> list[Task]:
        """Cancel jobs in the queue, running or waiting; None means all.

        Returns:
            The tasks of the cancelled jobs.

        Raises:
            ClusterError: The scheduler is not here, does not answer, or refuses.
        """
        return []
