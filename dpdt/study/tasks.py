"""The tasks of a study, stage by stage, and which tasks each one needs: they follow from the study alone.

The order is the order of submission: the report comes before `track`, because MLflow's parent run shows the report.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Final

from dpdt.errors import StudyError
from dpdt.study import Cell, Study, arm_name, is_before

__all__ = [
    "CORRESPONDS",
    "GPU_STAGES",
    "LAST_STAGES",
    "STAGES",
    "TRAINING_STAGES",
    "Task",
    "check_stages",
    "choose",
    "needs",
    "tasks",
]

STAGES: Final = ("cohort", "shards", "pretrain", "train", "evaluate", "report", "track")
GPU_STAGES: Final = ("pretrain", "train", "evaluate")
# Stages with tasks that several processes may do together.
TRAINING_STAGES: Final = ("pretrain", "train")
# These show whatever is there, so they run even if a task before them failed.
LAST_STAGES: Final = ("report", "track")
# A task of the stage goes with the task of the same key in the other: Slurm's `aftercorr`.
CORRESPONDS: Final = {"shards": "cohort", "evaluate": "train"}

AXES: Final = ("domain", "target epsilon", "seed", "initial", "fraction")
"""Of a study, in the order of a cell; what tasks are chosen by."""


@dataclass(frozen=True)
class Task:
    """One piece of work that a job does.

    Attributes:
        stage: One of STAGES.
        key: The domain (cohort, shards), the run id (pretrain, train, evaluate), or "" (report, track).
        label: For people.
        part: With shards: which part of the domain's work this is, from 0.
        num_parts: With shards: into how many parts it is cut.
    """

    stage: str
    key: str
    label: str = field(compare=False, default="")
    part: int = 0
    num_parts: int = 1

    @property
    def name(self) -> str:
        """Name for files and folders, and on the command line."""
        name = f"{self.stage}-{self.key}" if self.key else self.stage
        return name if self.num_parts == 1 else f"{name}-{self.part + 1}of{self.num_parts}"


def check_stages(names: Sequence[str] | None) -> tuple[str, ...]:
    """Put stage names in order; None means all.

    Raises:
        StudyError: A name is unknown, or none is given.
    """
    if names is None:
        return STAGES
    for name in names:
        if name not in STAGES:
            raise StudyError(f"stages: unknown stage {name!r}. Valid stages: {', '.join(STAGES)}.")
    if not names:
        raise StudyError(f"stages: expected at least one stage, got none. Valid stages: {', '.join(STAGES)}.")
    return tuple(stage for stage in STAGES if stage in names)


def tasks(study: Study, stage: str) -> list[Task]:
    """All tasks of a stage, done or not, in a fixed order.

    Raises:
        StudyError: The stage is unknown.
    """
    check_stages([stage])
    if stage == "cohort":
        return [Task(stage, domain, f"{stage} {domain}") for domain in study.used_domains]
    if stage == "shards":
        return [task for domain in study.used_domains for task in _parts(domain, study.cluster.shard_tasks)]
    if stage == "pretrain":
        found = {view.pretrain_run_id: view for view in reversed(study.views) if view.pretrain_run_id}
        names = {run_id: [f"{stage} {view.public_domain}", view.start] for run_id, view in reversed(found.items())}
        return [Task(stage, run_id, ", ".join(filter(None, name))) for run_id, name in names.items()]
    if stage in ("train", "evaluate"):
        own = [Task(stage, study.run_id(cell), f"{stage} {_cell_label(cell)}") for cell in _cells(study, stage)]
        carried = study.carried if stage == "evaluate" else {}
        return own + [Task(stage, run_id, f"{stage} model {name}") for run_id, name in carried.items()]
    return [Task(stage, "", stage)]


def needs(study: Study) -> dict[Task, tuple[Task, ...]]:
    """Every task of the study, in the order of the stages, with the tasks that must be done before it."""
    cohort, shards, pretrain, train, evaluate, report, track = (tasks(study, stage) for stage in STAGES)
    cohort_of = {task.key: task for task in cohort}
    shards_of: dict[str, tuple[Task, ...]] = dict.fromkeys(cohort_of, ())
    for task in shards:
        shards_of[task.key] += (task,)
    found: dict[Task, tuple[Task, ...]] = dict.fromkeys(cohort, ())
    found.update((task, (cohort_of[task.key],)) for task in shards)
    found.update((task, shards_of[study.public_domains[0]]) for task in pretrain)
    for cell, task in zip(study.cells(), train, strict=True):
        found[task] = (*_started_by(study, cell, pretrain), *shards_of[cell.domain])
    tested = tuple(task for domain in study.test_domains for task in shards_of[domain])
    # what the models are tested on, and their start: the pretraining's threshold comes from its own domain's val
    found.update((task, (start, *tested)) for task, start in zip(evaluate, train, strict=False))
    start = shards_of.get(study.public_domain or "", ())
    before = [cell for cell in study.tested_models() if is_before(cell.target_epsilon)]
    for cell, task in zip(before, evaluate[len(train) :], strict=False):
        found[task] = (*_started_by(study, cell, pretrain), *start, *tested)
    found.update(dict.fromkeys(evaluate[len(train) + len(before) :], tested))
    found.update((task, tuple(evaluate)) for task in report)
    found.update((task, tuple(report)) for task in track)
    return found


def _started_by(study: Study, cell: Cell, pretrain: Sequence[Task]) -> list[Task]:
    """The pretraining whose weights a model starts from, if there is one."""
    return [task for task in pretrain if task.key == study.at(cell).pretrain_run_id]


def _parts(domain: str, number: int) -> list[Task]:
    """The tasks that make a domain's shards."""
    if number == 1:
        return [Task("shards", domain, f"shards {domain}")]
    return [Task("shards", domain, f"shards {domain}, {part + 1} of {number}", part, number) for part in range(number)]


def _cells(study: Study, stage: str) -> tuple[Cell, ...]:
    """What is trained, or what is tested: that is the model before, too."""
    return study.tested_models() if stage == "evaluate" else study.cells()


def _cell_label(cell: Cell) -> str:
    arm = arm_name(cell.target_epsilon, prefix="epsilon ")
    if is_before(cell.target_epsilon):
        return ", ".join(filter(None, (arm, cell.axes)))
    return ", ".join(filter(None, (cell.domain, cell.axes, arm, f"seed {cell.seed}")))


def choose(
    study: Study,
    stage: str,
    domains: Sequence[str] | None,
    target_epsilons: Sequence[float] | None = None,
    seeds: Sequence[int] | None = None,
    initials: Sequence[str] | None = None,
    fractions: Sequence[float] | None = None,
) -> list[Task]:
    """The tasks of a stage that fit; each wanted value must be in the study."""
    found = tasks(study, stage)
    if stage == "shards":  # here, a domain is one task
        found = [task for domain in study.used_domains for task in _parts(domain, 1)]
    if stage in ("cohort", "shards"):
        known = study.used_domains
        rows: list[tuple[object, ...]] = [(task.key,) for task in found]
    elif stage in ("train", "evaluate"):
        known = (*study.train_domains, *(study.models if stage == "evaluate" else ()))
        rows = [*_cells(study, stage)]
        rows += [(name,) for name in known[len(study.train_domains) :]]  # the rest is in their bundles
    else:
        known = study.public_domains
        rows = [(study.public_domain, None, None, study.of_run(task.key).start) for task in found]
    wanted = (domains, target_epsilons, seeds, initials, fractions)
    epsilons = tuple(dict.fromkeys(cell.target_epsilon for cell in _cells(study, stage)))
    there = (known, epsilons, study.train.seeds, (*study.initial,), study.train.fraction)
    for what, want, have in zip(AXES, wanted, there, strict=True):
        for value in want or ():
            if value not in have:
                listed = ", ".join(map(str, have)) or "none"
                raise StudyError(
                    f"{stage}: {what} {value} is not in the study, which has: {listed}. Name one of these."
                )
    chosen = [
        task
        for task, row in zip(found, rows, strict=True)
        if all(not want or value in want for want, value in zip_longest(wanted, row))
    ]
    if not chosen and found:
        raise StudyError(
            f"{stage}: nothing to do: no model of the study is all that is asked for. Ask for less at once."
        )
    if not chosen:
        missing, role = ("no public domain", ' with role = "public"') if stage == "pretrain" else ("no domain", "")
        raise StudyError(f"{stage}: nothing to do: the study has {missing}. Add one under [domains.<name>]{role}.")
    return chosen
