"""`--cluster debug`: tasks one after another in this process, up to the first failure."""

from collections.abc import Mapping

import submitit

from dpdt.errors import ClusterError
from dpdt.jobs.local import LocalScheduler
from dpdt.jobs.outcomes import Outcomes
from dpdt.jobs.selection import Plan, StagePlan
from dpdt.jobs.submissions import Job, Submission
from dpdt.jobs.task_call import TaskCall
from dpdt.study.tasks import Task

__all__ = ["DebugScheduler"]


class DebugScheduler(LocalScheduler):
    """This process."""

    def run(self, plan: Plan, submission: Submission, *, queued: Mapping[Task, Job], wait: bool) -> Outcomes:
        """Run every task, up to the first failure.

        Raises:
            ClusterError: A task failed; the task's own error is its cause.
        """
        outcomes = Outcomes()
        executor = submitit.DebugExecutor(folder=submission.paths.folder)
        for task in plan.send:
            job = executor.submit(TaskCall(str(submission.paths.study), task, num_threads=0))
            error = job.exception()  # `result()` would start a debugger
            if error is not None:
                raise ClusterError(f"{task.label}: {type(error).__name__}: {error}") from error
            outcomes.done.add(task)
        return outcomes

    def at_once(self, stage: StagePlan) -> int:
        """One."""
        return 1
