"""The stages `pretrain` and `train`: one task a run folder."""

from collections.abc import Callable

from dpdt.errors import StudyError
from dpdt.runs.state import RunSummary, run_done
from dpdt.study import Study
from dpdt.study.paths import RunPaths

__all__ = ["done", "run"]


def done(study: Study, run_id: str) -> bool:
    """Whether the run has its final weights."""
    return run_done(study, run_id)


def run(study: Study, run_id: str, *, on_epoch_end: Callable[[RunPaths], object] | None = None) -> RunSummary:
    """Train one model, or what is left of its steps.

    Args:
        study: The study.
        run_id: The run of the public pretraining, or of one of the study's cells.
        on_epoch_end: As for `dpdt.training.train.train`.

    Raises:
        StudyError: The study has no such run.
    """
    from dpdt.training.train import pretrain, train  # here: they load torch

    if run_id == study.pretrain_run_id:
        return pretrain(study, on_epoch_end=on_epoch_end)
    for cell in study.cells():
        if study.run_id(cell) == run_id:
            return train(study, cell, on_epoch_end=on_epoch_end)
    raise StudyError(f"{study.file}: has no training {run_id}. Its settings changed since this task was sent.")
