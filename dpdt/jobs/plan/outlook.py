"""What a study will do and take: one value a domain, one a training, and one for the whole."""

from collections.abc import Mapping
from dataclasses import dataclass

from dpdt.jobs.plan.measure import Speed
from dpdt.jobs.plan.sizes import DomainSize
from dpdt.study import Cell

__all__ = [
    "CellOutlook",
    "DomainOutlook",
    "Outlook",
]


@dataclass(frozen=True)
class DomainOutlook:
    """One domain: its size (None: unknown), and what its shards will take."""

    domain: str
    size: DomainSize | None
    shards: int | None
    shard_gb: float | None


@dataclass(frozen=True)
class CellOutlook:
    """One training.

    Attributes:
        name: The domain, with its start and part of the patients; for the public pretraining with a word that says so.
        cell: None for the pretraining.
        done: Whether it is finished.
        units: Privacy units of its train split; None where the domain's size is unknown.
        sample_rate: Probability of a unit to be in a step.
        steps: Logical steps.
        noise_multiplier: None without DP, and where it would be refused.
        images: Drawn in all steps together, in expectation.
        hours: None where no speed is known.
        refused: Why the training would not start.
        noise: Standard deviation that a step's noise has in each parameter of the mean gradient, sigma · C / B.
        signal: The most that this gradient can be in a parameter, as a root mean square, C / sqrt(p).
        signal_to_noise: Of all steps together (`dpdt.jobs.plan.warnings.signal_to_noise`).
        learning_rate: Where the noise decides it (`train.full_learning_rate_at`); else None.
    """

    name: str
    cell: Cell | None
    done: bool
    units: int | None = None
    sample_rate: float | None = None
    steps: int | None = None
    noise_multiplier: float | None = None
    images: float | None = None
    hours: float | None = None
    refused: str | None = None
    noise: float | None = None
    signal: float | None = None
    signal_to_noise: float | None = None
    learning_rate: float | None = None


@dataclass(frozen=True)
class Outlook:
    """The whole study.

    Attributes:
        domains: Every domain that is used.
        cells: Every training, the pretraining first.
        num_parameters: Of the network of each start, by its name ("" in a study without).
        speeds: As `measure` has them; empty where nothing was measured.
        evaluate_hours: Of all models on all test domains.
        disk_gb: That shards and runs will take; None where a size is unknown.
        free_gb: On the study's disk.
        warnings: What the user should know before sending it.
    """

    domains: tuple[DomainOutlook, ...]
    cells: tuple[CellOutlook, ...]
    num_parameters: Mapping[str, int]
    speeds: Mapping[str, Speed]
    evaluate_hours: float | None
    disk_gb: float | None
    free_gb: float
    warnings: tuple[str, ...]

    @property
    def train_hours(self) -> float | None:
        """Of everything that is not done, one after another."""
        hours = [cell.hours for cell in self.cells if not cell.done]
        return None if None in hours else sum(hour for hour in hours if hour is not None)
