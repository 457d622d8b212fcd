"""The registry of the stages' packages, and how a task of a stage is run. No module below imports all of them."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from importlib import import_module
from typing import Any, Final, Protocol, cast

from dpdt.base.console import note, say
from dpdt.base.files import exclusive_lock
from dpdt.base.machine import this_rank
from dpdt.errors import ClusterError
from dpdt.study import Study
from dpdt.study.frozen import thaw_study
from dpdt.study.tasks import LAST_STAGES, TRAINING_STAGES, Task, choose

__all__ = ["is_done", "private_umask", "run_stage", "run_task"]


class Stage(Protocol):
    """What a stage's package offers in its module `stage`.

    A task's key is a domain (cohort, shards), a run id (pretrain, train, evaluate) or "" (report, track).
    """

    def done(self, study: Study, key: str) -> bool:
        """Whether the task's result is there and was made with the study's present settings; light to import."""

    def run(self, study: Study, key: str, **options: Any) -> object:
        """Do the task, or what is left of it.

        Args:
            study: The study.
            key: The task's.
            **options: `task_index` and `num_tasks` of a part of a domain, `on_epoch_end` of a training.

        Returns:
            Its summary in one line.
        """


# Where each stage is done. Only what is needed is imported: `dpdt status` needs neither torch nor MLflow.
_MODULES: Final = {
    "cohort": "dpdt.cohort.stage",
    "shards": "dpdt.shards.stage",
    "pretrain": "dpdt.training.stage",
    "train": "dpdt.training.stage",
    "evaluate": "dpdt.evaluation.stage",
    "report": "dpdt.report.stage",
    "track": "dpdt.tracking.stage",
}


def is_done(study: Study, task: Task) -> bool:
    """Whether a task's result is there and was made with the study's present settings.

    The report and MLflow are done when they were made from the files as they are now: a hash of their inputs is
    kept in a stamp. `dpdt report` and `dpdt sync` always do their work.
    """
    return _stage(task).done(study, task.key)


def run_task(study_file: str, task: Task, *, num_threads: int = 0) -> None:
    """Run one task to its end; if it is done, say so and return.

    Two processes never run the same task of a study at once: the second waits for the first.

    Args:
        study_file: A study file, or a frozen study (`freeze_study`).
        task: What to do.
        num_threads: Cores that the task may use where the study leaves it open; 0: all cores of the process.

    Raises:
        ClusterError: The task stopped early, for instance an interrupted training: nothing may go on from it.
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
        if task.stage == "shards":  # its cohort is there now, and hours of work are not
            from dpdt.jobs.checks import check_deltas, check_groups

            check_deltas(study, [task.key])
            check_groups(study, [task.key])
        with _options(study, task) as options:
            say(_stage(task).run(study, task.key, **options))
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
    initials: Sequence[str] | None = None,
    fractions: Sequence[float] | None = None,
    task_index: int = 0,
    num_tasks: int = 1,
    rebuild: bool = False,
) -> None:
    """Run a stage's tasks in this process, one after another, and print a summary of each.

    Args:
        study: The study.
        stage: One of STAGES.
        domains: Only these; for train and evaluate the train domain.
        target_epsilons: Only these trainings.
        seeds: Only these trainings.
        initials: Only trainings from these starts.
        fractions: Only trainings on these parts of the patients.
        task_index: With `shards`: which part of the work, from 0.
        num_tasks: With `shards`: into how many parts it is cut.
        rebuild: With `cohort`: build it anew also where shards or runs depend on it.

    Raises:
        StudyError: A domain, epsilon or seed is not in the study, or there is nothing to do.
        DpdtError: The stage's own error; the tasks after it are not run.
    """
    chosen = choose(study, stage, domains, target_epsilons, seeds, initials, fractions)
    with private_umask(study):
        for task in chosen:
            part = replace(task, part=task_index, num_parts=num_tasks)
            claim = _claim(study, task) if num_tasks == 1 else nullcontext()
            with claim, _options(study, part) as options:
                say(_stage(task).run(study, task.key, **options, **({"rebuild": True} if rebuild else {})))


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
    """Become the one process that runs a task; wait while another process does."""
    lock = study.paths.task_lock(task.name)
    with ExitStack() as stack:
        try:  # the lock alone: a task that cannot start a process (EAGAIN) raises the same error
            stack.enter_context(exclusive_lock(lock, blocking=False))
        except BlockingIOError:
            note(f"{task.label}: another process runs it; waiting for it to end")
            stack.enter_context(exclusive_lock(lock))
        yield


def _stage(task: Task) -> Stage:
    return cast(Stage, import_module(_MODULES[task.stage]))


@contextmanager
def _options(study: Study, task: Task) -> Iterator[dict[str, Any]]:
    """What `run` is given besides study and key. A training feeds MLflow while it runs."""
    if task.stage in TRAINING_STAGES:
        from dpdt.tracking.live import live_sync
        from dpdt.tracking.system_metrics import system_samples

        with live_sync(study) as feed_mlflow, system_samples(study, task.key):
            yield {"on_epoch_end": feed_mlflow}
    elif task.num_parts > 1:
        yield {"task_index": task.part, "num_tasks": task.num_parts}
    else:
        yield {}


def _with_threads(study: Study, num_threads: int) -> Study:
    """Say how many threads to use where the study says 0; neither key is in a fingerprint."""
    update = {
        name: section.model_copy(update={"num_threads": section.num_threads or num_threads})
        for name, section in (("shards", study.shards), ("train", study.train))
    }
    return study.model_copy(update=update)
