"""Waiting for the jobs of a submission (`--wait`)."""

import time
from collections.abc import Sequence
from typing import Final

from dpdt.base.console import progress
from dpdt.jobs.outcomes import Outcomes
from dpdt.jobs.selection import Plan
from dpdt.jobs.slurm.queue import read_queue
from dpdt.jobs.submissions import Job, outcome
from dpdt.study.tasks import Task

__all__ = ["wait_for"]

POLL_SECONDS: Final = 5.0
# A job that left the queue may take a moment to show its result (network file systems).
GONE_SECONDS: Final = 30.0


def wait_for(plan: Plan, jobs: Sequence[Job]) -> Outcomes:
    """Wait until every job has ended; ask squeue only, so that no accounting is needed."""
    outcomes = Outcomes()
    pending = {job.task: job for job in jobs}
    gone_since: dict[Task, float] = {}
    with progress("slurm", len(pending), unit="tasks") as advance:
        while pending:
            queue = read_queue()
            for task, job in list(pending.items()):
                listed = queue.get(job.job_id) if queue is not None else None
                if listed is not None and listed.active:  # a requeued job may have an old result
                    gone_since.pop(task, None)
                    continue
                error = outcome(job)
                if error is None:
                    since = gone_since.setdefault(task, time.monotonic())
                    young = time.monotonic() - since < GONE_SECONDS
                    waits = any(before in pending for before in plan.needs[task])
                    if queue is None or waits or (listed is None and young):
                        continue
                del pending[task]
                blocker = outcomes.blocker(task, plan.needs[task])
                if error == "":
                    outcomes.done.add(task)
                elif error is None and blocker is not None:
                    outcomes.blocked[task] = blocker
                else:
                    state = "unknown" if listed is None else listed.state
                    outcomes.fail(task, error or f"ended without a result (Slurm's state: {state})", job.log)
                advance(1, task.label if task in outcomes.done else f"failed: {task.label}")
            if pending:
                time.sleep(POLL_SECONDS)
    return outcomes
