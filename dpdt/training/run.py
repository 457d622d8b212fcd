"""Which training a run is."""

from dataclasses import dataclass
from typing import Self

from dpdt.errors import StudyError
from dpdt.study import Cell, Study, arm_name
from dpdt.study.paths import RunPaths
from dpdt.study.settings import PretrainSettings, TrainSettings

__all__ = ["TrainingRun"]


@dataclass(frozen=True)
class TrainingRun:
    """Which training this is: a cell of the study, or the pretraining.

    Attributes:
        study: The study, as this run sees it (`Study.views`).
        run_id: Name of its folder.
        kind: ``train``, ``pretrain`` or ``audit``.
        domain: The domain of its train split.
        cell: None for the pretraining.
        seeded: Whether its random numbers come from a seed.
        canaries: Made-up units that are put in by the toss of a coin, to audit the training; 0 except in an audit.
    """

    study: Study
    run_id: str
    kind: str
    domain: str
    cell: Cell | None
    seeded: bool
    canaries: int = 0

    @classmethod
    def of(cls, study: Study, run_id: str) -> Self:
        """The pretraining or cell of a study that has this run id.

        Raises:
            StudyError: There is none.
        """
        study = study.of_run(run_id)
        if study.public_domain and run_id == study.pretrain_run_id:
            return cls(study, run_id, "pretrain", study.public_domain, cell=None, seeded=True)
        for cell in study.cells():
            if study.run_id(cell) == run_id:
                return cls(study, run_id, "train", cell.domain, cell, seeded=not cell.private)
        raise StudyError(f"{study.file}: has no training {run_id}. Its settings changed since this task was sent.")

    @property
    def paths(self) -> RunPaths:
        """The run's files."""
        return self.study.paths.run(self.run_id)

    @property
    def settings(self) -> PretrainSettings | TrainSettings:
        """Epochs, batch size, learning rate."""
        return self.study.train if self.cell else self.study.pretrain

    @property
    def target_epsilon(self) -> float | None:
        """None without DP."""
        return self.cell.target_epsilon if self.cell and self.cell.private else None

    @property
    def seed(self) -> int:
        """The cell's."""
        return self.cell.seed if self.cell else 0

    @property
    def title(self) -> str:
        """For people."""
        if self.cell is None:
            return ", ".join(filter(None, (f"pretrain {self.domain}", self.study.start)))
        arm = arm_name(self.cell.target_epsilon, prefix="epsilon ")
        return ", ".join(filter(None, (f"{self.kind} {self.domain}", self.cell.axes, arm)))
