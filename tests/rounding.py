"""How far an image that comes, goes or sits elsewhere moves the sum of the others, on this processor.

`python -m tests.rounding IMAGES AT_ONCE [KIND …]` prints, for each precision, way to clip and number of threads, the
worst over all kinds of images, in clipping norms; oneDNN may be capped (ONEDNN_MAX_CPU_ISA). tests/test_rounding.py
runs it so, and dpdt/privacy/rounding.py has its figures for a thousand images.
"""

import copy
import json
import sys

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpdt.privacy.clipping.engines import CLIPPING
from dpdt.privacy.keystream import KeyStream
from dpdt.training.networks.resnet9 import ResNet9

SIZE = 32
WAYS = (
    ("bookkeeping", "float32"),
    ("bookkeeping", "bf16"),
    ("layers", "float32"),  # book-keeping, each layer by itself
    ("layers", "bf16"),
    ("hooks", "float32"),
    ("hooks", "bf16"),
    ("ghost", "float32"),
)


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)


def kinds_of_images(n: int) -> dict[str, Tensor]:
    """Ordinary and hard ones; where all are alike, their gradients and the roundings of the sum point one way."""
    torch.manual_seed(5)
    one, noise = torch.rand(1, 1, SIZE, SIZE), torch.rand(n, 1, SIZE, SIZE)
    dot = torch.zeros(n, 1, SIZE, SIZE)
    dot[:, :, SIZE // 2, SIZE // 2] = 1.0
    coarse = (torch.rand(n, 1, SIZE // 8, SIZE // 8) * 255).round() / 255
    checker = ((torch.arange(SIZE)[:, None] + torch.arange(SIZE)) % 2).float()
    return {
        "random": noise,
        "alike": one
        + 0.1 * noise,  # in bfloat16 other kernels moved 32 of them by 7.5e-3 C before batches had one size
        "the same": one.expand(n, -1, -1, -1),
        "black": torch.zeros_like(noise),
        "nearly black": 1e-6 * one + 1e-7 * noise,
        "flat": torch.full_like(noise, 0.5),
        "nearly flat": 0.5 + 1e-6 * noise,
        "saturated": torch.ones_like(noise),
        "bright": 1e3 * (one + 0.1 * noise),  # exploding gradients
        "one pixel": dot,
        "checker": checker.expand(n, 1, -1, -1),
        "few levels": (3 * noise).floor() / 255,  # ties in the pooling
        "blocks": coarse.repeat_interleave(8, 2).repeat_interleave(8, 3),
    }


def total(
    model: nn.Module, kind: str, precision: str, parts: list[Tensor], *, at_once: int, fill: bool = False
) -> Tensor:
    """Clipped sum of physical batches, at a norm of 1."""
    sums = CLIPPING["bookkeeping" if kind == "layers" else kind](
        copy.deepcopy(model),
        loss,
        max_grad_norm=1.0,
        noise_multiplier=0.0,
        noise=KeyStream.from_seed("rounding"),
        autocast=precision == "bf16",
        by_layer=kind == "layers",
        fill_to=at_once if fill or precision == "bf16" or kind in ("ghost", "layers") else None,  # as in a training
    )
    sums.clear()
    for part in parts:
        sums.add(part, torch.ones(len(part), 5, device=part.device))
    return torch.cat([value.detach().double().flatten() for value in sums.partial_sums()])


def movement(model: nn.Module, kind: str, precision: str, images: Tensor, *, at_once: int) -> dict[str, float]:
    """How far the sum of images that stay moves (`others`), and how far one more image moves the sum (`whole`)."""

    def of(*batches: Tensor) -> Tensor:
        return total(model, kind, precision, list(batches), at_once=at_once)

    before = of(*images.split(at_once))
    others, whole = [], []
    for extra in (torch.zeros_like(images[:1]), torch.rand_like(images[:1]), images[-1:]):
        more = of(*torch.cat((extra, images)).split(at_once))
        others.append(more - of(extra) - before)
        whole.append(more - before)
    uneven = torch.arange(1, at_once + 1).repeat(len(images))
    cuts = uneven[: int((uneven.cumsum(0) < len(images)).sum())].tolist()
    others.append(of(*images.split([*cuts, len(images) - sum(cuts)])) - before)
    if len(images) <= 64:
        others.append(of(*images.split(1)) - before)
    rest = of(*images[1:].split(at_once))
    others.append(before - of(images[:1]) - rest)
    whole.append(before - rest)
    norms = {"others": others, "whole": whole}
    return {name: float(torch.stack([x.norm() for x in moved]).max()) for name, moved in norms.items()}  # NaN stays


def main(images: int, at_once: int, *wanted: str) -> None:
    """Print a line of JSON a way."""
    torch.manual_seed(0)
    model = ResNet9(width=16)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for kind, precision in WAYS:
            found = {
                name: movement(model, kind, precision, batch, at_once=at_once)
                for name, batch in kinds_of_images(images).items()
                if not wanted or name in wanted
            }
            worst = {what: max(each[what] for each in found.values()) for what in ("others", "whole")}
            hardest = max(found, key=lambda name: found[name]["others"])
            line = {"threads": threads, "clipping": kind, "precision": precision, **worst, "hardest": hardest}
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
