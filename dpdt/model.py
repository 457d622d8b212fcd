"""The network: the paper's ResNet of nine layers, under the parameter names of torchvision's ResNet.

One basic block a stage ([1, 1, 1, 1]), 64-128-256-512 channels (a `width` other than 64 scales them), group norm for
every batch norm, Mish for every ReLU, adaptive average pooling, one linear layer. Nothing is computed in place, and no
module mixes the images of a batch, so that the gradient of a single image is well defined.
"""

import math
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dpdt.custom_model import custom_model
from dpdt.errors import StudyError
from dpdt.study import ModelSettings
from dpdt.vocabulary import LABELS

__all__ = ["ResNet9", "as_input", "build_model", "load_weights"]

PAPER_GROUPS: Final = 32
WRAPPER_PREFIXES: Final = ("_module.", "module.", "_orig_mod.")
WRAPPED_STATE_KEYS: Final = ("state_dict", "model_state_dict", "model")


def num_groups(width: int) -> int:
    """Groups of every group norm: the paper's 32 for its width of 64, and in proportion for smaller widths.

    So a group has as many channels (2, 4, 8 and 16 over the stages) as in the paper; with 32 groups of a narrow network
    a group of two channels would, on small images, know little but a sign.

    >>> num_groups(64), num_groups(16), num_groups(128)
    (32, 8, 32)
    """
    return width // 2 if width < 2 * PAPER_GROUPS else math.gcd(PAPER_GROUPS, width)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut (He et al. 2016, arXiv 1512.03385)."""

    def __init__(self, in_channels: int, channels: int, *, stride: int, groups: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.GroupNorm(groups, channels)
        self.act1 = nn.Mish()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.GroupNorm(groups, channels)
        self.act2 = nn.Mish()
        self.downsample = (
            nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False), nn.GroupNorm(groups, channels)
            )
            if stride != 1 or in_channels != channels
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, in_channels, h, w) to (n, channels, h / stride, w / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.act1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.act2(y + shortcut)  # type: ignore[no-any-return]


class ResNet9(nn.Module):
    """Gray images to one logit a label.

    Args:
        width: Channels of the first stage; the paper's is 64.
        in_channels: 1, or 3 to repeat the gray channel as published weights expect.
        num_outputs: Logits an image.
    """

    def __init__(self, *, width: int = 64, in_channels: int = 1, num_outputs: int = len(LABELS)) -> None:
        super().__init__()
        groups = num_groups(width)
        self.in_channels = in_channels
        self.conv1 = nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.GroupNorm(groups, width)
        self.act1 = nn.Mish()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = nn.Sequential(BasicBlock(width, width, stride=1, groups=groups))
        self.layer2 = nn.Sequential(BasicBlock(width, 2 * width, stride=2, groups=groups))
        self.layer3 = nn.Sequential(BasicBlock(2 * width, 4 * width, stride=2, groups=groups))
        self.layer4 = nn.Sequential(BasicBlock(4 * width, 8 * width, stride=2, groups=groups))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8 * width, num_outputs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # as torchvision's ResNet starts
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Logits of gray images.

        Args:
            x: float32 in 0..1, shape (n, 1, size, size).

        Returns:
            float32, shape (n, outputs), in the order of ``LABELS``.
        """
        if self.in_channels != 1:
            x = x.expand(-1, self.in_channels, -1, -1)
        x = self.maxpool(self.act1(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))  # type: ignore[no-any-return]


def build_model(settings: ModelSettings, *, folder: Path = Path()) -> nn.Module:
    """The study's network with random weights (of torch's global generator).

    Args:
        settings: The study file's ``[model]``.
        folder: Of the study file: a network of one's own may lie there.

    Raises:
        StudyError: A network of one's own cannot be imported or built.
    """
    if settings.name != "resnet9":
        return custom_model(settings, folder, num_outputs=len(LABELS))
    return ResNet9(width=settings.width, in_channels=settings.in_channels)


def as_input(pixels: NDArray[np.uint8], device: torch.device | str = "cpu") -> Tensor:
    """Pixels as the network takes them.

    Args:
        pixels: uint8, shape (n, size, size). Sent to the device as bytes and converted there.
        device: Where the result shall be.

    Returns:
        float32 in 0..1, shape (n, 1, size, size).
    """
    return torch.from_numpy(pixels).to(device, non_blocking=True).unsqueeze(1).float().div_(255)


def load_weights(model: nn.Module, path: Path, *, new_head: bool = False) -> bool:
    """Load a state dict: one that dpdt wrote, or published weights under torchvision's names.

    Prefixes of wrappers (Opacus, DataParallel, torch.compile) are removed; a first convolution for three channels is
    summed over them where the model takes one (exact for a repeated gray channel).

    Args:
        model: A network of this module; changed in place.
        path: File of ``torch.save``; read with ``weights_only=True``.
        new_head: Whether a last layer for other outputs is left out, so that the model's own stays as it is.

    Returns:
        Whether the last layer came from the file.

    Raises:
        StudyError: The file is missing or no state dict, or its names or shapes are not the model's.
    """
    try:
        state = _plain_state(torch.load(path, map_location="cpu", weights_only=True))
    except FileNotFoundError as err:
        raise StudyError(
            f"{path}: no such file of weights. Correct model.init_weights (relative to the study file)."
        ) from err
    except Exception as err:  # torch.load raises many kinds, most of them for a file that is not its own
        why = str(err).partition("\n")[0].partition(". ")[0].rstrip(".")
        raise StudyError(
            f"{path}: cannot be read as a state dict ({type(err).__name__}: {why}). Expected what "
            "torch.save(model.state_dict(), FILE) wrote."
        ) from err
    own = model.state_dict()
    stem, head = _ends(model)
    first = state.get(stem)
    if first is not None and first.ndim == 4 and (first.shape[1], own[stem].shape[1]) == (3, 1):
        state[stem] = first.sum(1, keepdim=True)
    has_head = all(name in state and state[name].shape == own[name].shape for name in head)
    if not has_head and new_head:
        state = {**state, **{name: own[name] for name in head}}
    _check_names_and_shapes(path, model, state, head)
    model.load_state_dict(state, strict=True)
    return has_head


def _ends(model: nn.Module) -> tuple[str, tuple[str, ...]]:
    """Names of the weight of the first convolution, and of the parameters of the last linear layer."""
    convolutions = [name for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)]
    linear = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    stem = f"{convolutions[0]}.weight" if convolutions else ""
    head = tuple(f"{linear[-1][0]}.{name}" for name, _ in linear[-1][1].named_parameters()) if linear else ()
    return stem, head


def _plain_state(loaded: Any) -> dict[str, Tensor]:
    """The state dict itself, without an outer dict and wrappers' prefixes."""
    for key in WRAPPED_STATE_KEYS:
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise TypeError("expected a dict of tensors")
    state = {}
    for name, value in loaded.items():
        while name.startswith(WRAPPER_PREFIXES):
            name = name.split(".", 1)[1]
        state[name] = value
    return state


def _check_names_and_shapes(path: Path, model: nn.Module, state: dict[str, Tensor], head: tuple[str, ...]) -> None:
    own = model.state_dict()
    names = "the names of a ResNet9 (torchvision's)" if isinstance(model, ResNet9) else "those of your own network"
    for name, kind in [(n, "missing") for n in own if n not in state] + [(n, "unknown") for n in state if n not in own]:
        raise StudyError(f"{path}: {kind} parameter {name!r}. Expected {names}.")
    for name, value in own.items():
        if state[name].shape != value.shape:
            hint = "its labels are not dpdt's five" if name in head else "check model.width and in_channels"
            raise StudyError(
                f"{path}: {name} has shape {tuple(state[name].shape)}, the model's is {tuple(value.shape)}; {hint}."
            )
