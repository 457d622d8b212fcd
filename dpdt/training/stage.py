"""The stages `pretrain` and `train`: one task a run folder."""

from collections.abc import Callable

from dpdt.runs.state import RunSummary
from dpdt.runs.state import run_done as done
from dpdt.study import Study
from dpdt.study.paths import RunPaths

__all__ = ["done", "run"]


def run(study: Study, run_id: str, *, on_epoch_end: Callable[[RunPaths], object] | None = None) -> RunSummary:
    """Train one model, or what is left of its steps.

    Args:
        study: The study.
        run_id: The run of the public pretraining, or of one of the study's cells.
        on_epoch_end: As for `dpdt.training.train.train`.

    Raises:
        StudyError: The study has no such run.
        DpdtError: As for `dpdt.training.train.train`.
    """
    from dpdt.training.train import TrainingRun, train_run  # here: they load torch

    return train_run(TrainingRun.of(study, run_id), on_epoch_end=on_epoch_end)
