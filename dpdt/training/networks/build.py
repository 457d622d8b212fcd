"""The network of a study, built by name."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dpdt.base.vocabulary import LABELS
from dpdt.study.settings import ModelSettings
from dpdt.training.networks.custom import custom_model
from dpdt.training.networks.resnet9 import ResNet9

__all__ = [
    "as_input",
    "build_model",
]


def build_model(settings: ModelSettings, *, folder: Path = Path(), num_outputs: int = len(LABELS)) -> nn.Module:
    """The study's network with random weights (of torch's global generator).

    Args:
        settings: The study file's ``[model]``.
        folder: Of the study file: a custom network may lie there.
        num_outputs: Logits an image, one a label.

    Raises:
        StudyError: A custom network cannot be imported or built.
    """
    if settings.name != "resnet9":
        return custom_model(settings, folder, num_outputs=num_outputs)
    return ResNet9(width=settings.width, in_channels=settings.in_channels, num_outputs=num_outputs)


def as_input(pixels: NDArray[np.uint8], device: torch.device | str = "cpu") -> Tensor:
    """Pixels as the network takes them.

    Args:
        pixels: uint8, shape (n, size, size). Sent to the device as bytes and converted there.
        device: Where the result shall be.

    Returns:
        float32 in 0..1, shape (n, 1, size, size).
    """
    return torch.from_numpy(pixels).to(device, non_blocking=True).unsqueeze(1).float().div_(255)
