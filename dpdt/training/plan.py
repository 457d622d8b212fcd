"""All that decides a training, except its data: what `dpdt.training.prepare` freezes and the loop obeys."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import torch

from dpdt.base.vocabulary import LABELS
from dpdt.privacy.mechanism import Mechanism
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
        learning_rate: Of the optimizer; the largest of the schedule.
        weight_decay: Of the optimizer.
        class_weights: Weight of the positives of each label in the loss; None for 1.
        mechanism: None without DP.
        clipping: Key of ``CLIPPING``.
        autocast: Whether forward and backward passes are in bfloat16 where autocast has it.
        images_per_unit: Images of a drawn unit.
        seed: Names the random streams of a run with seeded randomness.
        seeded: Whether it is: always without DP; with DP only in tests.
        physical_batch_size: Images at once in memory.
        one_size: Whether every physical batch is filled up to that number (`dpdt.privacy.rounding`).
        reserve_steps: Steps of a block.
        checkpoint_every_steps: At most so many steps between checkpoints.
        device: Where the model is.
        labels: Of the network's outputs.
        averaging: Of the weights over the steps: ``none``, ``ema`` or ``tail`` (`dpdt.training.averaging`).
        optimizer: ``nadam``, ``adamw``, ``sgd``, ``adam-corrected`` or ``closed-form``.
        schedule: Of the learning rate, ``constant`` or ``cosine``.
        warm_up: Part of the steps in which it rises.
        automatic: Whether clipping is automatic (`ClippedGradientSum`).
        views: Of each drawn image (`dpdt.training.views`).
        by_layer: Whether each layer's gradient is clipped by itself (`ClippedGradientSum`).
        head_first: Part of the steps, the first ones, in which the head alone is trained.
        clipping_ways: How the norm of each parameter's gradient is found, as the run's config has it.
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
    images_per_unit: int
    seed: str
    seeded: bool
    physical_batch_size: int
    one_size: bool
    reserve_steps: int
    checkpoint_every_steps: int
    device: torch.device
    labels: tuple[str, ...] = LABELS
    averaging: str = "none"
    optimizer: str = "nadam"
    schedule: str = "constant"
    warm_up: float = 0.0
    automatic: bool = False
    views: int = 1
    head_first: float = 0.0
    by_layer: bool = False
    clipping_ways: Mapping[str, str] = field(default_factory=dict)

    @property
    def head_steps(self) -> int:
        """Steps, the first ones, in which the head alone is trained."""
        return round(self.head_first * self.num_steps)

    @property
    def checkpoint_steps(self) -> int:
        """Steps between two checkpoints."""
        return min(self.checkpoint_every_steps, max(1, self.num_steps // MIN_CHECKPOINTS))
