"""A training on made-up pictures, as `make gpu-check` checks and measures it."""

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from dpdt import _core
from dpdt.privacy.clipping.engines import CLIPPING, GradientSum
from dpdt.privacy.keystream import KeyStream
from dpdt.privacy.mechanism import Mechanism
from dpdt.study.paths import RunPaths
from dpdt.training.batches import image_losses
from dpdt.training.loop import TrainingLoop
from dpdt.training.networks.resnet9 import ResNet9
from dpdt.training.plan import TrainingPlan
from dpdt.training.ranks import ALONE, Ranks

SIZE, WIDTH = 512, 64


@dataclass(frozen=True)
class Scale:
    """How much is done."""

    size: int = SIZE
    width: int = WIDTH
    physical: int = 64
    logical: int = 128
    steps: int = 8
    rounding_images: int = 64
    largest: int = 4096

    @property
    def part(self) -> float:
        """Pixels times channels, of the full size's: what bytes are in proportion to."""
        return (self.size / SIZE) ** 2 * self.width / WIDTH


SMALL = Scale(size=64, width=8, physical=2, logical=4, steps=1, rounding_images=5, largest=8)


class Pictures:
    """Random pictures in memory, in the place of a domain's train split."""

    def __init__(self, images: int, size: int) -> None:
        random = np.random.default_rng(0)
        self.size = size
        self.pixels = random.integers(0, 255, (images, size, size), dtype=np.uint8)
        self.labels = (random.random((images, 5)) < 0.3).astype(np.float32)
        self.units = np.arange(images)
        self.num_units = images
        self.frame = pd.DataFrame({"patient_id": self.units, "image_id": self.units.astype(str)})
        self.image_ids = self.frame["image_id"]
        self.no_images, self.input_shape = self.pixels[:0], (1, size, size)

    def __len__(self) -> int:
        return len(self.pixels)

    def images(self, rows: NDArray[np.int64], *, out: NDArray[np.uint8], num_threads: int, views: None = None) -> None:
        """As `DomainData.images`."""
        _core.gather([self.pixels], np.zeros_like(rows), rows, out, num_threads=num_threads)


@dataclass
class Run:
    """What a training needs besides its pictures."""

    folder: Path
    device: torch.device
    method: str = "bookkeeping"
    precision: str = "float32"
    scale: Scale = field(default_factory=Scale)
    images: int = 256
    num_steps: int = 12

    def plan(self) -> TrainingPlan:
        """The noise is that of a training, the accountant a quick one."""
        private = self.method != "plain"
        rate = self.scale.logical / self.images
        mechanism = Mechanism("image", self.images, rate, 1.0, 1.0, self.num_steps, 1e-5, "rdp", 1e3)
        return TrainingPlan(
            paths=RunPaths(self.folder),
            title=f"{self.method} {self.precision}",
            num_steps=self.num_steps,
            sample_rate=rate,
            expected_batch_size=self.scale.logical,
            learning_rate=2e-4,
            weight_decay=0.0,
            class_weights=None,
            mechanism=mechanism if private else None,
            clipping=self.method if private else "bookkeeping",
            autocast=self.precision == "bf16",
            images_per_unit=1,
            seed="gpu-check",
            seeded=True,
            physical_batch_size=self.scale.physical,
            one_size=private and self.precision == "bf16",
            reserve_steps=4,
            checkpoint_every_steps=4,
            device=self.device,
        )

    def loop(self, data: Pictures, *, steps: Any = None, ranks: Ranks = ALONE) -> TrainingLoop:
        """A loop over some pictures, from the same weights each time."""
        torch.manual_seed(0)
        model = ResNet9(width=self.scale.width)
        return TrainingLoop(self.plan(), model=model, data=data, steps=steps, ranks=ranks)  # type: ignore[arg-type]


def engine(method: str, model: ResNet9, *, norm: float = 1.0, autocast: bool = False) -> GradientSum:
    """A sum of gradients of a copy of the model, without noise."""
    model = copy.deepcopy(model)
    if method == "plain":
        return GradientSum(model, image_losses, autocast=autocast)
    settings: dict[str, Any] = {"max_grad_norm": norm, "noise_multiplier": 0.0, "noise": KeyStream.from_seed("check")}
    return CLIPPING[method](model, image_losses, autocast=autocast, **settings)
