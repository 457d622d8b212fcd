"""Canaries: made-up privacy units that go through a training as patients do, each along a separate coordinate.

A canary's image begins with MAGIC pixels, which no radiograph has, and its number. `CanaryModel` reads it and adds an
output that is the canary's own weight; a canary's loss is GAIN times that output. So its gradient is GAIN along one
coordinate, far above any clipping norm: clipped, it is the gradient of the unit that is easiest to find (the Dirac
canary of Nasr et al. 2023, arXiv 2302.07956). Sampler, clipping, noise, ledger and optimiser are those of every
training.

All canaries are units that can be drawn, so that sample rate and steps do not depend on the coins; the images of those
that are left out go no further than the draw.
"""

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dpdt.base.files import make_folder, read_json, write_json
from dpdt.errors import PrivacyError
from dpdt.privacy.clipping.gradient_sum import Loss
from dpdt.privacy.keystream import KeyStream
from dpdt.shards.dataset import DomainData
from dpdt.study.paths import RunPaths
from dpdt.training.loop import TrainingLoop

__all__ = ["GAIN", "CanaryData", "CanaryLoop", "CanaryModel", "toss_coins", "with_canaries"]

GAIN: Final = 1e3
MAGIC: Final = hashlib.sha256(b"dpdt canary").digest()
CODE_PIXELS: Final = 3  # a number below 2^24


def toss_coins(paths: RunPaths, canaries: int, *, seed: str | None) -> NDArray[np.bool_]:
    """Which canaries are in, each with probability one half; tossed once and kept in the run's folder.

    Args:
        paths: The run.
        canaries: How many there are.
        seed: None for unpredictable coins.

    Raises:
        PrivacyError: The coins of another number of canaries are there.
    """
    if not paths.coins.exists():
        make_folder(paths.folder)
        stream = KeyStream.fresh() if seed is None else KeyStream.from_seed("coins", seed)
        write_json(paths.coins, {"included": [bool(coin < 0.5) for coin in stream.uniform(canaries)]})
    included = np.array(read_json(paths.coins)["included"], dtype=bool)
    if len(included) != canaries:
        raise PrivacyError(
            f"{paths.coins}: has {len(included)} coins, expected {canaries}. The run was altered; remove its folder."
        )
    return included


@dataclass(frozen=True)
class CanaryData(DomainData):
    """A train split, and after its images those of all canaries, side by side.

    Attributes:
        included: Whether each canary is in the training, shape (m,).
        images_each: Images of a canary: as many as are taken of a drawn patient, so that each of them counts.
    """

    included: NDArray[np.bool_]
    images_each: int

    @property
    def num_patients_images(self) -> int:
        """Images that are no canaries'."""
        return len(self._positions)

    @property
    def present(self) -> NDArray[np.bool_]:
        """Whether each image takes part, shape (images,)."""
        return np.concatenate(
            (np.ones(self.num_patients_images, dtype=bool), np.repeat(self.included, self.images_each))
        )

    def __len__(self) -> int:
        return self.num_patients_images + len(self.included) * self.images_each

    def images(
        self,
        rows: NDArray[np.int64],
        *,
        views: NDArray[np.uint64] | None = None,
        out: NDArray[Any] | None = None,
        num_threads: int = 1,
    ) -> NDArray[Any]:
        """Pixels of patients' and canaries' images, as ``DomainData.images``; a canary's views are all itself."""
        found = np.empty((len(rows), self.size, self.size), dtype=np.uint8) if out is None else out
        real = rows < self.num_patients_images
        if real.any():
            of_real = None if views is None else views[real]
            found[real] = super().images(rows[real], views=of_real, num_threads=num_threads)
        numbers = (rows[~real] - self.num_patients_images) // self.images_each
        codes = np.zeros((len(numbers), self.size * self.size), dtype=np.uint8)
        codes[:, : len(MAGIC)] = np.frombuffer(MAGIC, dtype=np.uint8)
        for place in range(CODE_PIXELS):
            codes[:, len(MAGIC) + place] = numbers >> (8 * place) & 255
        found[~real] = codes.reshape(-1, self.size, self.size)
        return found


def with_canaries(data: DomainData, included: NDArray[np.bool_], *, images_each: int = 1) -> CanaryData:
    """Add canaries to a train split; each is a separate unit, of so many images without known labels."""
    fields = {field.name: getattr(data, field.name) for field in dataclasses.fields(data)}
    unknown = np.full((len(included) * images_each, data.labels.shape[1]), np.nan, dtype=np.float32)
    fields["labels"] = np.concatenate((data.labels, unknown))
    numbers = np.repeat(np.arange(len(included)), images_each)
    fields["units"] = np.concatenate((data.units, data.num_units + numbers))
    return CanaryData(**fields, included=included, images_each=images_each)


class CanaryModel(nn.Module):
    """The network and one weight a canary, with what was released about them.

    The sums are buffers: they are in checkpoints and final weights, and a training that goes on goes on with them.

    Args:
        network: Gray images to one logit a label.
        num_canaries: Canaries, at least 1.
        num_units: Patients (or images) and canaries.
    """

    released: Tensor  # sum over steps of each canary's coordinate of the released gradient, times the batch size
    squares: Tensor  # of its squares
    draws: Tensor  # how often each unit was drawn
    steps: Tensor
    sized_steps: Tensor  # steps of which the batch size was counted: all, except in a twin that was begun before
    size_squares: Tensor  # sum over them of the square of (units drawn - units expected)
    most_moved: Tensor  # the most that one canary moved the sum of a step by, before noise

    def __init__(self, network: nn.Module, *, num_canaries: int, num_units: int) -> None:
        super().__init__()
        self.network = network
        self.canaries = nn.Linear(num_canaries, 1, bias=False)
        nn.init.zeros_(self.canaries.weight)
        self.register_buffer("released", torch.zeros(num_canaries, dtype=torch.float64))
        self.register_buffer("squares", torch.zeros(num_canaries, dtype=torch.float64))
        self.register_buffer("draws", torch.zeros(num_units, dtype=torch.int64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("sized_steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("size_squares", torch.zeros((), dtype=torch.float64))
        self.register_buffer("most_moved", torch.zeros((), dtype=torch.float64))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        """A checkpoint of before has no batch sizes and no largest move: they are counted from there on."""
        for name in ("sized_steps", "size_squares", "most_moved"):
            state_dict.setdefault(prefix + name, torch.zeros_like(getattr(self, name)))
        super()._load_from_state_dict(state_dict, prefix, *others)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 1, size, size) to (n, labels + 1): the logits, and the canary's weight (0 for a patient's image)."""
        start = (x.flatten(1)[:, : len(MAGIC) + CODE_PIXELS] * 255).round().long()
        code = start[:, len(MAGIC) :]
        number = code[:, 0] + 256 * code[:, 1] + 65536 * code[:, 2]
        is_canary = (start[:, : len(MAGIC)] == start.new_tensor(list(MAGIC))).all(dim=1)
        which = nn.functional.one_hot(torch.where(is_canary, number, 0), self.canaries.in_features).to(x.dtype)
        return torch.cat((self.network(x), self.canaries(which * is_canary[:, None])), dim=1)


class CanaryLoop(TrainingLoop):
    """The loop of every training; adds up what it releases about each canary's coordinate."""

    data: CanaryData
    model: Any

    @property
    def network(self) -> nn.Module:
        """Without the audit's own sums, which are there to be changed."""
        found: nn.Module = self.model.network
        return found

    def _loss(self) -> Loss:
        network_loss = super()._loss()

        def loss(outputs: Tensor, labels: Tensor) -> Tensor:
            weight = outputs[:, -1]
            return network_loss(outputs[:, :-1], labels) + GAIN * (weight - weight.detach())  # the logged loss stays

        return loss

    def _parts(self, rows: NDArray[np.int64], *, step: int) -> list[NDArray[np.int64]]:
        return super()._parts(rows[self.data.present[rows]], step=step)

    def _release(self) -> None:
        for parameter, total in zip(self.gradients.parameters, self.gradients.partial_sums(), strict=True):
            if parameter is self.model.canaries.weight:
                torch.maximum(self.model.most_moved, total.abs().max().double(), out=self.model.most_moved)
        super()._release()

    def _take_step(self, rows: NDArray[np.int64]) -> Tensor:
        losses = super()._take_step(rows)
        released = self.model.canaries.weight.grad[0].double() * self.plan.expected_batch_size
        self.model.released += released
        self.model.squares += released.square()
        drawn = np.unique(self.data.units[rows])
        self.model.draws[torch.from_numpy(drawn).to(self.plan.device)] += 1
        self.model.steps += 1
        self.model.sized_steps += 1
        self.model.size_squares += (len(drawn) - len(self.model.draws) * self.plan.sample_rate) ** 2
        return losses
