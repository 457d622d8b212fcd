"""All that decides a training, except its data: what `dpdt.training.prepare` freezes and the loop obeys."""

from dataclasses import dataclass
from typing import Final

import torch

from dpdt.privacy.mechanism import Mechanism
from dpdt.study.clipping_engines import CLIPPING_ENGINES
from dpdt.study.paths import RunPaths

__all__ = ["TrainingPlan"]

# A run has at least so many checkpoints, however few are asked for: a crash costs a bounded part of its budget.
MIN_CHECKPOINTS: Final = 10


@dataclass(frozen=True)
class TrainingPlan:
    """All that decides a training, except its data.

    Attributes:
        paths: The run's files.
        title: For the progress bar.
        num_steps: Logical steps of the whole run.
        sample_rate: Probability of each unit to be in a batch.
        expected_batch_size: Divides the sum of gradients.
        learning_rate: Of NAdam.
        weight_decay: Of NAdam.
        class_weights: Weight of the positives of each label in the loss; None for 1.
        mechanism: None without DP.
        clipping: Key of ``CLIPPING``.
        autocast: Whether forward and backward passes are in bfloat16 where autocast has it.
        own_network: Whether the network is not dpdt's own, so that nobody measured what rounding does in it.
        images_per_unit: Images of a drawn unit.
        seed: Names the random streams of a run with seeded randomness.
        seeded: Whether it is: always without DP; with DP only in tests.
        physical_batch_size: Images at once in memory.
        reserve_steps: Steps of a block.
        checkpoint_every_steps: At most so many steps between checkpoints.
        device: Where the model is.
    """

    paths: RunPaths
    title: str
    num_steps: int
    sample_rate: float
    expected_batch_size: int
    learning_rate: float
    weight_decay: float
    class_weights: tuple[float, ...] | None
    mechanism: Mechanism | None
    clipping: str
    autocast: bool
    own_network: bool
    images_per_unit: int
    seed: str
    seeded: bool
    physical_batch_size: int
    reserve_steps: int
    checkpoint_every_steps: int
    device: torch.device

    @property
    def fill_to(self) -> int | None:
        """Images that every physical batch is filled up to (`dpdt.privacy.rounding`); None: as many as there are."""
        accounted = self.mechanism is not None and self.mechanism.rounding_allowance is not None
        one_size = self.autocast or self.own_network or CLIPPING_ENGINES[self.clipping].own_rounding
        return self.physical_batch_size if accounted and one_size else None

    @property
    def checkpoint_steps(self) -> int:
        """Steps between two checkpoints."""
        return min(self.checkpoint_every_steps, max(1, self.num_steps // MIN_CHECKPOINTS))
