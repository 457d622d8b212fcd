"""The stages of a study, their tasks, what each task needs, and how one is run.

The order is the order of submission: the report comes before `track`, because MLflow's parent run shows the report.
"""

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Final

from dpdt.console import note, say
from dpdt.errors import ClusterError, StudyError
from dpdt.files import exclusive_lock
from dpdt.frozen import thaw_study
from dpdt.ranks import this_rank
from dpdt.stamps import is_current, stamped
from dpdt.study import Cell, Study, format_epsilon

__all__ = [
    "CORRESPONDS",
    "GPU_STAGES",
    "LAST_STAGES",
    "STAGES",
    "Task",
    "check_stages",
    "is_done",
    "needs",
    "private_umask",
    "run_stage",
    "run_task",
    "tasks",
]

STAGES: Final = ("cohort", "shards", "pretrain", "train", "evaluate", "report", "track")
GPU_STAGES: Final = ("pretrain", "train", "evaluate")
# These show whatever is there, so they run even if a task before them failed.
LAST_STAGES: Final = ("report", "track")
# A task of the stage goes with the task of the same key in the other: Slurm's `aftercorr`.
CORRESPONDS: Final = {"shards": "cohort", "evaluate": "train"}


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
        """Name for files and folders, and for people who mean this task."""
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
        run_id = study.pretrain_run_id
        return [Task(stage, run_id, f"{stage} {study.public_domain}")] if run_id else []
    if stage in ("train", "evaluate"):
        return [Task(stage, study.run_id(cell), f"{stage} {_cell_label(cell)}") for cell in study.cells()]
    return [Task(stage, "", stage)]


def needs(study: Study) -> dict[Task, tuple[Task, ...]]:
    """Every task of the study, in the order of the stages, with the tasks whose results it reads."""
    cohort, shards, pretrain, train, evaluate, report, track = (tasks(study, stage) for stage in STAGES)
    cohort_of = {task.key: task for task in cohort}
    shards_of: dict[str, tuple[Task, ...]] = dict.fromkeys(cohort_of, ())
    for task in shards:
        shards_of[task.key] += (task,)
    found: dict[Task, tuple[Task, ...]] = dict.fromkeys(cohort, ())
    found.update((task, (cohort_of[task.key],)) for task in shards)
    found.update((task, shards_of[study.public_domains[0]]) for task in pretrain)
    for cell, task in zip(study.cells(), train, strict=True):
        found[task] = (*pretrain, *shards_of[cell.domain])
    tested = tuple(task for domain in study.test_domains for task in shards_of[domain])
    found.update((task, (before, *tested)) for task, before in zip(evaluate, train, strict=True))
    found.update((task, tuple(evaluate)) for task in report)
    found.update((task, tuple(report)) for task in track)
    return found


def is_done(study: Study, task: Task) -> bool:
    """Whether a task's result is there and was made with the study's present settings.

    The report and MLflow are done when they were made from the very files that are there now: their inputs' sizes and
    times are kept in a stamp. `dpdt report` and `dpdt sync` always do their work.
    """
    paths = study.paths
    if task.stage == "cohort":
        from dpdt.cohort import cohort_done

        return cohort_done(study, task.key)
    if task.stage == "shards":
        from dpdt.shards import shards_done

        return shards_done(study, task.key)
    if task.stage in LAST_STAGES:
        return is_current(study, task.stage)
    if not paths.run(task.key).state.exists():  # saves the import below
        return False
    if task.stage == "evaluate":
        from dpdt.evaluate import evaluation_done

        return evaluation_done(study, task.key)
    from dpdt.runs import run_done  # not dpdt.train, which loads torch

    return run_done(study, task.key)


def run_task(study_file: str, task: Task, *, num_threads: int = 0) -> None:
    """Run one task to its end; if it is done, say so and return.

    Two processes never run the same task of a study at once: the second waits for the first.

    Args:
        study_file: A study file, or a frozen study (`freeze_study`).
        task: What to do.
        num_threads: Cores that the task may use where the study leaves it open; 0: all cores of the process.

    Raises:
        ClusterError: The task stopped early, for instance a training that was told to: nothing may go on from it.
        DpdtError: The stage's own error.
    """
    study = thaw_study(study_file)
    if num_threads:
        study = _with_threads(study, num_threads)
    # of several processes of one training, the first claims it for all
    with private_umask(study), _claim(study, task) if this_rank() == 0 else nullcontext():
        if is_done(study, task):
            say(f"{task.label}: already done")
            return
        say(_runner(task)(study, task.key))
        # the last one of several parts to end completes the domain
        if task.stage not in LAST_STAGES and task.num_parts == 1 and not is_done(study, task):
            raise ClusterError(f"{task.label}: stopped before its end (a signal?). Send it again: it goes on.")


def run_stage(
    study: Study,
    stage: str,
    *,
    domains: Sequence[str] | None = None,
    target_epsilons: Sequence[float] | None = None,
    seeds: Sequence[int] | None = None,
    task_index: int = 0,
    num_tasks: int = 1,
) -> None:
    """Run a stage's tasks in this process, one after another, and print a summary of each.

    Args:
        study: The study.
        stage: One of STAGES.
        domains: Only these; for train and evaluate the train domain.
        target_epsilons: Only these trainings.
        seeds: Only these trainings.
        task_index: With `shards`: which part of the work, from 0.
        num_tasks: With `shards`: into how many parts it is cut.

    Raises:
        StudyError: A domain, epsilon or seed is not in the study, or there is nothing to do.
        DpdtError: The stage's own error; the tasks after it are not run.
    """
    chosen = _choose(study, stage, domains, target_epsilons, seeds)
    run: Callable[..., Any] = _RUNNERS[stage]
    if stage == "shards":
        run = functools.partial(run, task_index=task_index, num_tasks=num_tasks)
    with private_umask(study):
        for task in chosen:
            with _claim(study, task) if num_tasks == 1 else nullcontext():
                say(run(study, task.key))


@contextmanager
def private_umask(study: Study) -> Iterator[None]:
    """Inside the block new files are 0600 and folders 0700, if the study has `private_files`."""
    if not study.study.private_files:
        yield
        return
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def _claim(study: Study, task: Task) -> Iterator[None]:
    """Be the one process that runs a task; wait for another one that does."""
    lock = study.paths.task_lock(task.name)
    try:
        with exclusive_lock(lock, blocking=False):
            yield
            return
    except BlockingIOError:
        note(f"{task.label}: another process is at it; waiting for it")
    with exclusive_lock(lock):
        yield


def _parts(domain: str, number: int) -> list[Task]:
    """The tasks that make a domain's shards."""
    if number == 1:
        return [Task("shards", domain, f"shards {domain}")]
    return [Task("shards", domain, f"shards {domain}, {part + 1} of {number}", part, number) for part in range(number)]


def _runner(task: Task) -> Callable[..., object]:
    """What runs a task, given study and key."""
    runner = _RUNNERS[task.stage]
    if task.num_parts == 1:
        return runner
    return functools.partial(runner, task_index=task.part, num_tasks=task.num_parts)


def _cell_label(cell: Cell) -> str:
    arm = "no DP" if not cell.private else f"epsilon {format_epsilon(cell.target_epsilon)}"
    return f"{cell.domain}, {arm}, seed {cell.seed}"


def _choose(
    study: Study,
    stage: str,
    domains: Sequence[str] | None,
    target_epsilons: Sequence[float] | None,
    seeds: Sequence[int] | None,
) -> list[Task]:
    """The tasks of a stage that fit; each wanted value must be in the study."""
    found = tasks(study, stage)
    if stage == "shards":  # here, a domain is one task
        found = [task for domain in study.used_domains for task in _parts(domain, 1)]
    if stage in ("cohort", "shards"):
        known = study.used_domains
        rows: list[tuple[object, object, object]] = [(task.key, None, None) for task in found]
    elif stage in ("train", "evaluate"):
        known = study.train_domains
        rows = [(cell.domain, cell.target_epsilon, cell.seed) for cell in study.cells()]
    else:
        known = study.public_domains
        rows = [(study.public_domain, None, None) for _ in found]
    wanted = (domains, target_epsilons, seeds)
    there = (known, study.privacy.target_epsilons, study.train.seeds)
    for what, want, have in zip(("domain", "target epsilon", "seed"), wanted, there, strict=True):
        for value in want or ():
            if value not in have:
                raise StudyError(f"{stage}: {what} {value} is not in the study; there: {', '.join(map(str, have))}.")
    chosen = [
        task
        for task, row in zip(found, rows, strict=True)
        if all(not want or value in want for want, value in zip(wanted, row, strict=True))
    ]
    if not chosen:
        missing, role = ("no public domain", ' with role = "public"') if stage == "pretrain" else ("no domain", "")
        raise StudyError(f"{stage}: nothing to do: the study has {missing}. Add one under [domains.<name>]{role}.")
    return chosen


def _with_threads(study: Study, num_threads: int) -> Study:
    """Say how many threads to use where the study says 0; neither key is in a fingerprint."""
    update = {
        name: section.model_copy(update={"num_threads": section.num_threads or num_threads})
        for name, section in (("shards", study.shards), ("train", study.train))
    }
    return study.model_copy(update=update)


def _cohort(study: Study, domain: str) -> object:
    from dpdt.cohort import build_cohort

    return build_cohort(study, domain)


def _shards(study: Study, domain: str, **part: int) -> object:
    from dpdt.shards import build_shards

    return build_shards(study, domain, **part)


def _pretrain(study: Study, run_id: str) -> object:
    from dpdt.tracking import live_sync, system_samples
    from dpdt.train import pretrain

    with live_sync(study) as feed_mlflow, system_samples(study, run_id):
        return pretrain(study, on_epoch_end=feed_mlflow)


def _train(study: Study, run_id: str) -> object:
    from dpdt.tracking import live_sync, system_samples
    from dpdt.train import train

    for cell in study.cells():
        if study.run_id(cell) == run_id:
            with live_sync(study) as feed_mlflow, system_samples(study, run_id):
                return train(study, cell, on_epoch_end=feed_mlflow)
    raise StudyError(f"{study.file}: has no training {run_id}. Its settings changed since this task was sent.")


def _evaluate(study: Study, run_id: str) -> object:
    from dpdt.evaluate import evaluate_run

    return evaluate_run(study, run_id)


def _report(study: Study, _key: str) -> object:
    from dpdt.report import write_report
    from dpdt.statements import refresh_statements

    refresh_statements(study)  # before their times are noted
    with stamped(study, "report"):
        return f"Report: {write_report(study)}"


def _track(study: Study, _key: str) -> object:
    from dpdt.statements import refresh_statements
    from dpdt.tracking import sync

    refresh_statements(study)
    with stamped(study, "track"):
        return sync(study)


_RUNNERS: Final[dict[str, Callable[..., object]]] = {
    "cohort": _cohort,
    "shards": _shards,
    "pretrain": _pretrain,
    "train": _train,
    "evaluate": _evaluate,
    "report": _report,
    "track": _track,
}
