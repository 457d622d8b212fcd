"""Networks of the library timm by name, fit for DP: no batch norms, nothing in place, nothing that draws for a batch.

What their weights expect of an image is the network's own: the gray channel three times, normalised by the mean and
deviation of each channel. Parameters have timm's names, so that timm's weights fit.
"""

import importlib
import math
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dpdt.errors import StudyError
from dpdt.study.networks import NETWORKS
from dpdt.study.settings import ModelSettings
from dpdt.training.networks.resnet9 import num_groups
from dpdt.training.networks.stochastic_depth import StochasticDepth

__all__ = ["named_network"]


def named_network(settings: ModelSettings, *, size: int, num_outputs: int) -> nn.Module:
    """Build one with random weights.

    Args:
        settings: The study file's `[model]`; its name is in `NETWORKS`.
        size: Height and width of the images in pixels.
        num_outputs: Logits an image.

    Returns:
        From float32 in 0..1, (n, 1, size, size), to logits (n, num_outputs).

    Raises:
        StudyError: timm is not installed, or images of this size cannot be cut into the network's cells.
    """
    network = NETWORKS[settings.name]
    if network.whole_cells and size % network.cell:
        below = size // network.cell * network.cell
        fitting = " or ".join(str(fits) for fits in (below, below + network.cell) if fits)
        raise StudyError(
            f"shards.size: {settings.name} cuts an image into cells of {network.cell} pixels, and {size} does not "
            f"divide by that. Write {fitting}."
        )
    try:
        timm = _timm()
    except ImportError as err:
        raise StudyError(
            f"model.name: {settings.name} comes from the library timm, which is not installed ({err}). Install dpdt "
            "with its extra: pip install 'dpdt[networks]'."
        ) from err
    given: dict[str, Any] = {"img_size": size} if network.whole_cells else {}
    model: nn.Module = timm.create_model(
        network.timm, pretrained=False, num_classes=num_outputs, **given, **_narrow(settings), **settings.options
    )
    for module in list(model.modules()):
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]  # an image's gradient needs what it would overwrite
        for name, part in module.named_children():
            if isinstance(part, timm.layers.DropPath):
                setattr(module, name, StochasticDepth(float(part.drop_prob)))
    for name in ("mean", "std"):
        values = torch.tensor(model.pretrained_cfg[name]).view(1, 3, 1, 1)  # type: ignore[index]
        model.register_buffer(f"pixel_{name}", values, persistent=False)
    model.register_forward_pre_hook(_as_published)
    return model


def _timm() -> Any:
    """The library; also where torchvision, which it imports, was compiled for another torch than there is (CPU, CUDA).

    Then torchvision's own operators are missing, none of which a network uses; its import wants no more than names.
    """
    while True:
        try:
            return importlib.import_module("timm")
        except RuntimeError as err:
            missing = re.search(r"operator (torchvision::\w+) does not exist", str(err))
            if missing is None:
                raise
            torch.library.define(missing[1], "(Tensor x) -> Tensor")


def _narrow(settings: ModelSettings) -> dict[str, Any]:
    """What makes a network of the settings' width: fewer channels, as many layers; DenseNet with group norm."""
    network, width = NETWORKS[settings.name], settings.width
    stages = tuple(width * 2**stage for stage in range(4))
    if settings.name == "densenet121":
        from timm.layers import GroupNormAct

        return {"norm_layer": _group_norm(GroupNormAct, width), "growth_rate": width // 2}
    if width == network.width:
        return {}
    if settings.name == "resnet50":
        return {"channels": stages, "norm_layer": _group_norm(nn.GroupNorm, width)}
    if settings.name.startswith("convnext"):
        return {"dims": stages}
    return {"embed_dim": width, "num_heads": width // 64 if width % 64 == 0 else width // 8}


def _group_norm(kind: Callable[..., nn.Module], width: int) -> Callable[..., nn.Module]:
    """A norm of so many channels, with the groups of a ResNet9 of the same width."""

    def norm(channels: int, **others: Any) -> nn.Module:
        groups = math.gcd(num_groups(width), channels)
        return kind(num_channels=channels, num_groups=groups, **others)

    return norm


def _as_published(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Three channels, normalised as the weights expect."""
    return ((inputs[0].expand(-1, 3, -1, -1) - model.pixel_mean) / model.pixel_std, *inputs[1:])  # type: ignore[operator]
