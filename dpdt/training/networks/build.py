"""The network of a study, built by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dpdt.base.vocabulary import LABELS
from dpdt.study import Study
from dpdt.study.networks import NETWORKS
from dpdt.study.settings import ModelSettings
from dpdt.training.networks.custom import custom_model
from dpdt.training.networks.named import named_network
from dpdt.training.networks.resnet9 import ResNet9
from dpdt.training.networks.trained import choose_trained

__all__ = [
    "as_input",
    "build_model",
    "num_parameters",
    "scorer_of",
]


def build_model(
    settings: ModelSettings, *, size: int | None = None, folder: Path = Path(), num_outputs: int = len(LABELS)
) -> nn.Module:
    """The study's network with random weights (of torch's global generator).

    Args:
        settings: The study file's ``[model]``.
        size: Height and width of the images in pixels; networks by name need it, which may have a parameter a position.
        folder: Of the study file: a custom network may lie there.
        num_outputs: One a label of the study.

    Raises:
        StudyError: A custom network cannot be imported or built; a named one is not installed, or not for this size.
    """
    if settings.name in NETWORKS:
        if size is None:
            raise ValueError(f"size: {settings.name} has parameters for images of one size")
        return named_network(settings, size=size, num_outputs=num_outputs)
    if settings.name != "resnet9":
        return custom_model(settings, folder, num_outputs=num_outputs)
    return ResNet9(width=settings.width, in_channels=settings.in_channels, num_outputs=num_outputs)


def num_parameters(study: Study, *, trained: bool = False) -> int:
    """Numbers of the network of a study's view that it can train, or that `train.parameters` chooses."""
    with torch.random.fork_rng(devices=[]):
        model = build_model(
            study.model, size=study.shards.size, folder=study.file.parent, num_outputs=len(study.study.labels)
        )
    if trained:
        choose_trained(model, study.train.parameters)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def scorer_of(model: nn.Module, device: torch.device | str) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """A trained network, moved to the device: from pixels (k, size, size) to probabilities (k, labels)."""
    model.eval().to(device)

    @torch.inference_mode()
    def score(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        values: NDArray[np.float32] = torch.sigmoid(model(as_input(images, device))).cpu().numpy()
        return values

    return score


def as_input(pixels: NDArray[Any], device: torch.device | str = "cpu") -> Tensor:
    """Pixels as the network takes them.

    Args:
        pixels: uint8, shape (n, size, size). Sent to the device as bytes and converted there. Or float32, shape (n,
            width): features, as a head takes them.
        device: Where the result shall be.

    Returns:
        float32 in 0..1, shape (n, 1, size, size); features as they are.
    """
    sent = torch.from_numpy(pixels).to(device, non_blocking=True)
    return sent.clone() if sent.is_floating_point() else sent.unsqueeze(1).float().div_(255)
