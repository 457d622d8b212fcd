"""`--dry-run`: what would be sent, as a table; with `--verbose` the batch scripts too."""

from collections.abc import Mapping

from dpdt.base.console import show_table, verbose
from dpdt.jobs.scheduler import Scheduler
from dpdt.jobs.selection import Plan, StagePlan
from dpdt.jobs.submissions import Job
from dpdt.study.tasks import LAST_STAGES, Task

__all__ = ["show_plan"]

COLUMNS = (
    "stage",
    "tasks",
    "done",
    "queued",
    "to send",
    "depends on",
    "partition",
    "at once",
    "CPUs",
    "GPUs",
    "memory",
    "time",
)


def show_plan(plan: Plan, scheduler: Scheduler, *, cluster: str, queued: Mapping[Task, Job]) -> None:
    """Print what would be sent, one row a stage, and with `--verbose` the batch scripts."""
    rows = [_row(plan, stage, scheduler) for stage in plan.stages]
    show_table(f"{scheduler.study.name}: would be sent with --cluster {cluster}", COLUMNS, rows)
    for script in scheduler.scripts(plan, queued=queued) if verbose() else ():
        print(f"\n{script}")


def _row(plan: Plan, stage: StagePlan, scheduler: Scheduler) -> tuple[object, ...]:
    counts = (stage.stage, stage.num_tasks, len(stage.done), len(stage.queued), len(stage.send))
    if not stage.send:
        return (*counts, "", "", "", "", "", "", "")
    return (*counts, _depends_on(plan, stage), *scheduler.asked(stage))


def _depends_on(plan: Plan, stage: StagePlan) -> str:
    """The stages that these tasks wait for: those with tasks in this submission or in the queue."""
    coming = {task for other in plan.stages for task in (*other.send, *other.queued)}
    names = {before.stage for task in stage.send for before in plan.needs[task] if before in coming}
    text = ", ".join(other.stage for other in plan.stages if other.stage in names)
    return f"{text} (any end)" if text and stage.stage in LAST_STAGES else text
