"""The networks that a study file may name, and what must be known of each before torch is loaded."""

from pathlib import Path
from typing import Final, NamedTuple

from dpdt.errors import StudyError

__all__ = ["NETWORKS", "NamedNetwork", "weights_file"]


class NamedNetwork(NamedTuple):
    """A network of the library timm, with that library's names for its parameters.

    Attributes:
        timm: What timm calls it.
        width: Channels of its first stage, or of its tokens, as published.
        cell: Pixels on a side of what its first layer makes one place of.
        whole_cells: Whether an image must be cut into such cells without a rest: each has a position.
    """

    timm: str
    width: int
    cell: int
    whole_cells: bool = False


NETWORKS: Final = {
    "convnext_tiny": NamedNetwork("convnext_tiny", 96, 4),
    "convnext_small": NamedNetwork("convnext_small", 96, 4),
    "convnext_base": NamedNetwork("convnext_base", 128, 4),
    "vit_small": NamedNetwork("vit_small_patch16_224", 384, 16, whole_cells=True),
    "vit_base": NamedNetwork("vit_base_patch16_224", 768, 16, whole_cells=True),
    "vit_small_dinov2": NamedNetwork("vit_small_patch14_dinov2", 384, 14, whole_cells=True),
    "vit_base_dinov2": NamedNetwork("vit_base_patch14_dinov2", 768, 14, whole_cells=True),
    "vit_small_dinov3": NamedNetwork("vit_small_patch16_dinov3", 384, 16, whole_cells=True),
    "vit_base_dinov3": NamedNetwork("vit_base_patch16_dinov3", 768, 16, whole_cells=True),
    "densenet121": NamedNetwork("densenet121", 64, 2),
    "resnet50": NamedNetwork("resnet50_gn", 64, 2),
}
"""Beside `resnet9`, which is dpdt's own."""


def weights_file(path: Path) -> Path:
    """The file itself, where `init_weights` is the folder that it lies in.

    Raises:
        StudyError: The folder has none, or several.
    """
    if not path.is_dir():
        return path
    found = sorted(path.glob("*.safetensors")) or sorted([*path.glob("*.pt"), *path.glob("*.pth")])
    if len(found) != 1:
        has = ", ".join(file.name for file in found) or "none"
        raise StudyError(
            f"{path}: expected a folder with one file of weights (.safetensors, .pt or .pth), found {has}. Write the "
            "file itself in model.init_weights."
        )
    return found[0]
