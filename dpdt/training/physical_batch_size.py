"""`train.physical_batch_size = "auto"`: as many images at once as fit, found once a run and recorded in its config.

It changes speed and rounding, never a batch or epsilon: a logical batch is what was drawn, in whatever pieces.
"""

import copy
import math
from typing import Any, Final

import torch
from torch import Tensor, nn

from dpdt.base.machine import free_memory
from dpdt.errors import DpdtError
from dpdt.privacy.clipping.engines import CLIPPING, GradientSum
from dpdt.privacy.keystream import KeyStream
from dpdt.study.clipping_engines import CLIPPING_ENGINES
from dpdt.training.device import device_name

__all__ = ["find_physical_batch_size", "free_bytes", "largest_batch"]

# Part of the free memory that a batch may fill; the rest is for other processes and for fragments.
PART: Final = 0.5
# Memory at the worst moment of a backward pass over what the forward pass saved: gradients, workspaces, and the
# pieces that the clipping keeps.
PEAK_OVER_SAVED: Final = 2.0
PROBE_IMAGES: Final = 2


def find_physical_batch_size(
    model: nn.Module,
    *,
    shape: tuple[int, ...],
    device: torch.device,
    clipping: str | None,
    autocast: bool,
    most: int,
) -> int:
    """Images at once that fit in the memory that is free now.

    What the forward pass of a few images saves is counted, and with it what the clipping keeps for each image; on a GPU
    the result is tried, and halved until it fits.

    Args:
        model: Left as it is.
        shape: Of an image as it takes it, (1, size, size).
        device: Where the training will be.
        clipping: Key of ``CLIPPING``; None without DP.
        autocast: Whether the training is in bfloat16.
        most: Never more than this, for instance the largest logical batch to be expected.

    Raises:
        DpdtError: Not even one image fits.
    """
    spare = copy.deepcopy(model).to(device)
    image_bytes = PEAK_OVER_SAVED * _saved_bytes(spare, shape=shape, device=device, autocast=autocast) / PROBE_IMAGES
    if clipping is not None and CLIPPING_ENGINES[clipping].keeps_gradients:
        image_bytes += sum(p.numel() * p.element_size() for p in spare.parameters() if p.requires_grad)
    images = min(most, int(PART * free_bytes(device) / image_bytes))
    while device.type == "cuda" and images > 0 and not _fits(spare, images, shape, clipping, autocast):
        images //= 2
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what the tries took; not in between, where the next try takes it up
    if images < 1:
        raise DpdtError(
            f"train.physical_batch_size: one image of {shape[-1]}x{shape[-1]} takes about {image_bytes / 1e9:.2f} GB, "
            f"{free_bytes(device) / 1e9:.2f} GB are free on {device_name(device)}. Choose a smaller shards.size or "
            "model.width, or ask for more memory."
        )
    return images


def largest_batch(*, expected_batch_size: int, images_per_unit: int) -> int:
    """Images of a logical batch that is larger than all but one in a thousand (three standard deviations)."""
    return math.ceil((expected_batch_size + 3 * math.sqrt(expected_batch_size)) * images_per_unit)


def free_bytes(device: torch.device) -> int:
    """Memory that this process may still take."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return free_memory()


def _saved_bytes(model: nn.Module, *, shape: tuple[int, ...], device: torch.device, autocast: bool) -> int:
    """What a forward pass keeps for the backward pass, without the parameters; each block of memory once."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    blocks: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            blocks[storage.data_ptr()] = storage.nbytes()
        return tensor

    images = torch.zeros(PROBE_IMAGES, *shape, device=device)
    with (
        torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor),
        torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast),
    ):
        outputs = model(images)
    del outputs
    return sum(blocks.values())


def _fits(model: nn.Module, images: int, shape: tuple[int, ...], clipping: str | None, autocast: bool) -> bool:
    """Try one physical batch."""
    spare = copy.deepcopy(model)
    device = next(spare.parameters()).device
    settings: dict[str, Any] = {"max_grad_norm": 1.0, "noise_multiplier": 0.0, "noise": KeyStream.from_seed("probe")}
    try:
        sums = (
            GradientSum(spare, _first_output, autocast=autocast)
            if clipping is None
            else CLIPPING[clipping](spare, _first_output, autocast=autocast, **settings)
        )
        sums.add(torch.zeros(images, *shape, device=device), torch.zeros(images, device=device))
    except torch.cuda.OutOfMemoryError:
        return False
    return True


def _first_output(outputs: Tensor, _: Tensor) -> Tensor:
    return outputs[:, 0]
