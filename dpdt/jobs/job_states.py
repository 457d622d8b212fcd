"""The states of jobs as their scheduler knows them, for `dpdt status`."""

from abc import ABC, abstractmethod

from dpdt.base.files import last_line, read_tail
from dpdt.jobs.attempts import last_attempt
from dpdt.jobs.submissions import Job, Jobs, outcome
from dpdt.study.tasks import LAST_STAGES, Task

__all__ = ["JobStates"]


class JobStates(ABC):
    """The states of a study's jobs at one moment, from their scheduler."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs
        self._outcomes: dict[Task, str | None] = {}

    @abstractmethod
    def state(self, job: Job) -> tuple[str, str]:
        """State and note of a job whose task has no result and that no process of this machine is known to run."""

    def node(self, job: Job) -> str:
        """Where a job runs or ran; "" if the scheduler does not say."""
        return ""

    def outcome(self, job: Job) -> str | None:
        """The result that a job left, as `submissions.outcome` reads it."""
        if job.task not in self._outcomes:
            self._outcomes[job.task] = outcome(job)
        return self._outcomes[job.task]

    def ended(self, job: Job, without_result: str, state: str) -> tuple[str, str]:
        """State and note of a job that is over, though the task's result is not there.

        Args:
            job: The job.
            without_result: The note if the job left nothing behind.
            state: `failed` or `stopped`: the state then.
        """
        error = self.outcome(job)
        if error == "":
            if job.task.num_parts > 1:
                return "done", "the other parts are missing"
            if job.task.stage in LAST_STAGES:
                return "to do", "done before, but there was nothing to show yet, or what it shows has changed"
            return "to do", "done before, but its result was removed, or the settings or what it was made from changed"
        attempt = last_attempt(job.attempts)
        reason = attempt.stopped if attempt is not None else ""
        if error is not None:
            return ("stopped" if reason else "failed"), error
        if reason and state == "failed":  # and not requeued, whatever Slurm calls it, or has forgotten
            return "stopped", f"{without_result}; stopped from outside: {reason}"
        line = last_line(read_tail(job.log)) if state == "failed" else ""
        return state, f"{without_result}; last line: {line}" if line else without_result
