"""`--cluster slurm`: jobs that wait in Slurm's queue and run there; `submit` does not wait for them."""

from collections.abc import Collection, Mapping

from dpdt.jobs.outcomes import Outcomes
from dpdt.jobs.scheduler import Scheduler
from dpdt.jobs.selection import Plan, StagePlan
from dpdt.jobs.slurm.cancel import cancel
from dpdt.jobs.slurm.send import queued_jobs, scripts, send
from dpdt.jobs.slurm.states import SlurmStates
from dpdt.jobs.slurm.wait import wait_for
from dpdt.jobs.submissions import Job, Jobs, Submission
from dpdt.study.tasks import Task

__all__ = ["SlurmScheduler"]


class SlurmScheduler(Scheduler):
    """Slurm, through its programs."""

    def queued(self) -> dict[Task, Job]:
        """From squeue."""
        return {job.task: job for _, job in reversed(queued_jobs(self.study))}

    def run(self, plan: Plan, submission: Submission, *, queued: Mapping[Task, Job], wait: bool) -> Outcomes:
        """Send arrays; if asked to, wait for them and for what was in the queue already."""
        send(self.study, plan, submission, queued=queued)
        if not wait:
            return Outcomes()
        before = [queued[task] for stage in plan.stages for task in stage.queued]
        return wait_for(plan, [*before, *submission.jobs])

    def asked(self, stage: StagePlan) -> tuple[object, ...]:
        """As the profile and the study file have it."""
        asked = stage.resources
        at_once = min(asked.array_parallelism, len(stage.send))
        time = f"{asked.timeout_min // 60}:{asked.timeout_min % 60:02d} h"
        return asked.partition or "", at_once, asked.cpus, asked.gpus, f"{asked.mem_gb:g} GB", time

    def scripts(self, plan: Plan, *, queued: Mapping[Task, Job]) -> list[str]:
        """Of each array or job; ids that Slurm gives when it is sent are `JOB1`, …, and the comment is not in them."""
        return scripts(self.study, plan, Submission(self.study.paths.submission("TIME"), "slurm"), queued=queued)

    def states(self, jobs: Jobs) -> SlurmStates:
        """From squeue, and for what it forgot from sacct."""
        return SlurmStates(jobs)

    def cancel(self, tasks: Collection[Task] | None = None) -> list[Task]:
        """By scancel; what needs the tasks is taken out of the queue by Slurm."""
        return cancel(self.study, tasks)
