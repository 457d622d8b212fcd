"""The states of Slurm's jobs, from one call of `squeue`.

Only for jobs that left Slurm's memory without a result is the accounting asked, once: its answer is kept.
"""

from contextlib import suppress
from typing import Final

from dpdt.base.files import read_json, write_json
from dpdt.errors import DpdtError
from dpdt.jobs.job_states import JobStates
from dpdt.jobs.slurm.queue import Queued, read_accounting, read_queue
from dpdt.jobs.submissions import Job, Jobs, Submission

__all__ = ["SlurmStates"]

# Slurm's words for a job that was ended from outside.
STOPPED_BY_SLURM: Final = ("CANCELLED", "PREEMPTED", "TIMEOUT", "NODE_FAIL", "DEADLINE", "BOOT_FAIL", "REVOKED")


class SlurmStates(JobStates):
    """What Slurm says of a study's jobs."""

    def __init__(self, jobs: Jobs) -> None:
        super().__init__(jobs)
        self.queue = read_queue()
        self.record: dict[str, Queued] | None = None
        self.accounting: dict[str, Queued] | None = None

    def state(self, job: Job) -> tuple[str, str]:
        """From the queue, from the job's result, or from the accounting: the first that has an answer."""
        listed = self.queue.get(job.job_id) if self.queue is not None else None
        if listed is not None and listed.active:
            waits = listed.state.startswith(("PENDING", "REQUEUE"))
            return ("waiting", listed.reason) if waits else ("running", "")
        error = self.outcome(job)
        if self.queue is None and error is None:
            return "waiting", "squeue does not answer"
        if error is None and (known := self._recorded().get(job.job_id)) and known.reason:
            return "stopped", f"{known.reason}; sent again, it goes on"
        if error is None and listed is None:
            listed = self._accounted().get(job.job_id)
        word = listed.state if listed else "unknown"
        state = "stopped" if word in STOPPED_BY_SLURM else "failed"
        return self.ended(job, f"ended without a result (Slurm's state: {word})", state)

    def node(self, job: Job) -> str:
        """As the queue has it."""
        listed = (self.queue or {}).get(job.job_id)
        return listed.node if listed else ""

    def _recorded(self) -> dict[str, Queued]:
        """What is on record of jobs that have ended: the accounting's answer, or who cancelled them."""
        if self.record is None:
            self.record = {}
            for submission in {id(one): one for one, _ in self.jobs.values()}.values():
                with suppress(DpdtError):
                    known = read_json(submission.paths.ended)
                    self.record.update((job_id, Queued(*values)) for job_id, values in known.items())
        return self.record

    def _accounted(self) -> dict[str, Queued]:
        """What the accounting says of all jobs that Slurm forgot and that have no result."""
        if self.accounting is None:
            self.accounting = dict(self._recorded())
            gone = [(one, job) for one, job in self.jobs.values() if self._is_gone(job)]
            unknown = [job.job_id for _, job in gone if job.job_id not in self.accounting]
            found = (read_accounting(unknown) or {}) if unknown else {}
            self.accounting.update(found)
            for submission in {id(one): one for one, job in gone if job.job_id in found}.values():
                self._keep(submission)
        return self.accounting

    def _is_gone(self, job: Job) -> bool:
        return job.job_id not in (self.queue or {}) and self.outcome(job) is None

    def _keep(self, submission: Submission) -> None:
        """Save the accounting's answer about jobs that have ended; a user who may only read asks again next time."""
        known = {job.job_id: (self.accounting or {}).get(job.job_id) for job in submission.jobs}
        ended = {job_id: [row.state, row.reason, row.node] for job_id, row in known.items() if row and not row.active}
        with suppress(OSError):
            write_json(submission.paths.ended, ended)
