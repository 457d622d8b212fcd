"""Stochastic depth (Huang et al. 2016, arXiv 1603.09382) whose draws are an image's own.

A mask from a generator depends on how many images came before: one image more would change the masks of all behind it,
and move the sum by more than its own gradient. Here a layer keeps or skips an image by a hash of the image's id, the
step and the layer's place, and of nothing else. So the gradient of an image is a function of that image and the step,
and the clipped sum keeps its bound even where everybody knows the draws.
"""

from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from dpdt.base.mixing import mixed, number_of

__all__ = ["DepthDraws", "StochasticDepth"]


class StochasticDepth(nn.Module):
    """Skips a block for some images, and scales it for the others so that the mean stays.

    Args:
        rate: Share of images that skip it, in [0, 1).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.scales: Tensor | None = None
        """0 or 1 / (1 - rate) for each image of the physical batch; None: no batch is being trained on."""

    def forward(self, x: Tensor) -> Tensor:
        """Images along the first axis; those that fill up a physical batch are kept."""
        if not self.training or self.scales is None:
            return x
        scales = F.pad(self.scales, (0, len(x) - len(self.scales)), value=1.0)
        return x * scales.to(x.dtype).view(-1, *[1] * (x.ndim - 1))


class DepthDraws:
    """The draws of a training.

    Args:
        model: Its `StochasticDepth` layers are told them.
        ids: Of all images of the split.
        seed: Of the run.
    """

    def __init__(self, model: nn.Module, ids: Iterable[str], *, seed: str) -> None:
        self.layers = [layer for layer in model.modules() if isinstance(layer, StochasticDepth)]
        names = (f"{seed}/{name}" for name in ids) if self.layers else ()
        self.keys = np.array([number_of(name) for name in names], dtype=np.uint64)

    def begin(self, rows: NDArray[np.int64], *, step: int, device: torch.device) -> None:
        """These images, in this order, are about to go through the network."""
        for number, layer in enumerate(self.layers):
            place = np.array([step * len(self.layers) + number], dtype=np.uint64)
            draws = (mixed(self.keys[rows] ^ mixed(place)) >> np.uint64(11)) * 2.0**-53
            scales = np.where(draws < layer.rate, 0.0, 1 / (1 - layer.rate)).astype(np.float32)
            layer.scales = torch.from_numpy(scales).to(device)

    def end(self) -> None:
        """No images are."""
        for layer in self.layers:
            layer.scales = None
