"""What a submission would send: decided first, then shown (`--dry-run`) or carried out."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from dpdt.jobs.resources import Resources, resources
from dpdt.jobs.stages import is_done
from dpdt.study import Study
from dpdt.study.tasks import LAST_STAGES, Task, check_stages, needs

__all__ = ["Plan", "StagePlan", "make_plan"]


@dataclass(frozen=True)
class StagePlan:
    """One stage: its tasks in the study's order, by what is to be done with them."""

    stage: str
    done: tuple[Task, ...]
    queued: tuple[Task, ...]
    send: tuple[Task, ...]
    resources: Resources

    @property
    def num_tasks(self) -> int:
        """All tasks of the stage; with `only`, of those that are not done only its own."""
        return len(self.done) + len(self.queued) + len(self.send)


@dataclass(frozen=True)
class Plan:
    """A submission: its stages in order, and what every task of the study needs."""

    stages: tuple[StagePlan, ...]
    needs: dict[Task, tuple[Task, ...]]

    @property
    def send(self) -> tuple[Task, ...]:
        """Everything that is to be sent."""
        return tuple(task for stage in self.stages for task in stage.send)

    @property
    def num_done(self) -> int:
        """Tasks that are skipped because their result is there."""
        return sum(len(stage.done) for stage in self.stages)

    @property
    def num_queued(self) -> int:
        """Tasks that an earlier submission has in the queue."""
        return sum(len(stage.queued) for stage in self.stages)


def make_plan(
    study: Study,
    stages: Sequence[str] | None = None,
    *,
    queued: Collection[Task] = (),
    only: Collection[Task] | None = None,
) -> Plan:
    """Look at what is done and decide what to send.

    Args:
        study: The study.
        stages: Only these; None means all.
        queued: Tasks that an earlier submission still has in the queue: they are not sent again.
        only: No others than these are sent, nor waited for; None means all.

    Raises:
        StudyError: An unknown stage, or a wrong cluster profile.
    """
    chosen = check_stages(stages)
    asked = resources(study)
    before = needs(study)
    found: list[StagePlan] = []
    coming: set[Task] = set()
    for task in before:  # a job may still be in the queue for a moment when its task is done
        if task in queued and _is_due(study, task, before[task], coming):
            coming.add(task)
    for stage in chosen:
        of_stage = [task for task in before if task.stage == stage]
        waiting = tuple(task for task in of_stage if task in coming and (only is None or task in only))
        due = {task for task in of_stage if task not in coming and _is_due(study, task, before[task], coming)}
        done = tuple(task for task in of_stage if task not in coming and task not in due)
        send = tuple(task for task in of_stage if task in due and (only is None or task in only))
        coming.update(send)
        found.append(StagePlan(stage, done, waiting, send, asked[stage]))
    return Plan(tuple(found), before)


def _is_due(study: Study, task: Task, before: tuple[Task, ...], coming: set[Task]) -> bool:
    """Not done; or, for the report and MLflow, something that they show is about to change."""
    if task.stage in LAST_STAGES and not coming.isdisjoint(before):
        return True
    return not is_done(study, task)
