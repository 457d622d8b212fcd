"""The gradient of a convolution's weight for each image of a batch, or its norm without the gradient.

Five ways, all exact; `choose_way` names the cheapest by the layer's shapes alone, so that a resumed run rounds as it
did before. `p` numbers in the weight, `t` places in the output:

- `gram`: the norm without the gradient (Goodfellow 2015, arXiv 1510.01799; for convolutions Bu et al. 2022, arXiv
  2205.10683). The squared norm of the sum over places of g_t x_t' is the sum over pairs of places of (g_s · g_t)
  (x_s · x_t), where x_t is the input's patch at t. Products of patches are sums of products of pixels, so the pixels'
  products are taken once and added up for the k·k shifts: no patch is ever copied. t² work; the sum may cancel, so it
  is done in float64, on the CPU by the core (csrc/norms.cpp).
- `pointwise`: a 1×1 kernel is one matrix product an image.
- `patches`: unfold, then one matrix product an image; for many weights and few places.
- `grouped`: the ordinary weight gradient of a convolution that has each image as a separate group.
- `loop`: the ordinary weight gradient, image by image; for few input channels, and for depth-wise kernels at many
  places, which oneDNN has a fast way for where channels lie last, and only as long as images are no groups.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from dpdt import _core
from dpdt.privacy.clipping.gradient_sum import full, in_core

__all__ = [
    "WAYS",
    "Convolution",
    "choose_way",
    "gram_squared_norms",
    "input_gradient",
    "squared_norms_of_products",
    "weight_gradient",
]

Pair = tuple[int, int]

# `gram` works on t² numbers, in double precision, the others on p: what one is worth in the other, measured.
GRAM_COST: Final = 12
# Where the patches of an image are fewer than its weights by enough to be worth copying.
PATCHES_WEIGHTS: Final = 200_000
PATCHES_PLACES: Final = 256
LOOP_CHANNELS: Final = 4
LOOP_PLACES: Final = 128
# A float32 sum of products g_t x_t is off by about this part of the sum of |g_t| |x_t|.
ROUNDING: Final = 8 * torch.finfo(torch.float32).eps / 2


@dataclass(frozen=True)
class Convolution:
    """How a convolution's kernel moves, the numbers of `torch.nn.Conv2d`; the padding is of zeros."""

    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int


def weight_gradient(shape: Convolution, *, x: Tensor, gy: Tensor, weight: Tensor) -> Tensor:
    """The ordinary gradient of the weight, summed over the images.

    Args:
        shape: How the kernel moves.
        x: The layer's input, (n, c, h, w).
        gy: Gradient of its output, (n, o, h', w').
        weight: Its weight, for its shape; (o, c / groups, k, k').
    """
    return _backward(shape, x, gy, weight, groups=shape.groups, wanted=[False, True, False])[1]


def input_gradient(shape: Convolution, *, x: Tensor, gy: Tensor, weight: Tensor) -> Tensor:
    """The gradient of the input; arguments as for `weight_gradient`."""
    return _backward(shape, x, gy, weight, groups=shape.groups, wanted=[True, False, False])[0]


def choose_way(shape: Convolution, *, weight: Sequence[int], places: int) -> str:
    """The cheapest way to a norm, by shapes alone.

    Args:
        shape: How the kernel moves.
        weight: The weight's shape.
        places: h' · w' of the output.

    >>> paper = Convolution((1, 1), (1, 1), (1, 1), 1)
    >>> choose_way(paper, weight=(512, 512, 3, 3), places=16), choose_way(paper, weight=(64, 64, 3, 3), places=1024)
    ('gram', 'grouped')
    >>> depth_wise = Convolution((1, 1), (3, 3), (1, 1), 96)
    >>> [choose_way(depth_wise, weight=(96, 1, 7, 7), places=places) for places in (3136, 49)]
    ['loop', 'grouped']
    """
    outputs, channels, height, width = weight
    numbers = outputs * channels * height * width
    if GRAM_COST * shape.groups * places**2 < numbers:  # each group has its own products
        return "gram"
    if height == width == 1 and shape.padding == (0, 0) and shape.groups == 1:
        return "pointwise"
    if channels * shape.groups <= LOOP_CHANNELS or (channels == 1 and places >= LOOP_PLACES):
        return "loop"
    if numbers > PATCHES_WEIGHTS and places < PATCHES_PLACES and shape.groups == 1:
        return "patches"
    return "grouped"


def gram_squared_norms(shape: Convolution, *, x: Tensor, gy: Tensor, weight: Tensor) -> Tensor:
    """Squared norm of each image's weight gradient, without that gradient; arguments as for `weight_gradient`.

    Returns:
        float64, shape (n,).
    """
    x, gy = full(x).detach(), full(gy).detach()
    if in_core(x) and in_core(gy):
        norms = torch.empty(len(x), dtype=torch.float64)
        _core.weight_squared_norms(
            x.contiguous().numpy(),
            gy.contiguous().numpy(),
            norms.numpy(),
            kernel=(weight.shape[2], weight.shape[3]),
            rounding=ROUNDING,
            num_threads=torch.get_num_threads(),
            **vars(shape),
        )
        return norms
    images, outputs, high, wide = gy.shape
    groups, places = shape.groups, high * wide
    g = gy.double().reshape(images * groups, outputs // groups, places)
    outer = torch.bmm(g.transpose(1, 2), g)
    patches = _patch_products(shape, x, kernel=(weight.shape[2], weight.shape[3]), places=(high, wide))
    return squared_norms_of_products(patches, outer).view(images, groups).sum(1)


def squared_norms_of_products(x_products: Tensor, gy_products: Tensor) -> Tensor:
    """Squared norm of the sum over places of g_t x_t', from the products of all pairs of places.

    Where the g_t x_t' cancel, the float32 sum of them that enters the clipped sum is off by the rounding of its terms.
    That rounding is added to the norm, so that what enters keeps to the bound.

    Args:
        x_products: x_s · x_t, float64, shape (n, places, places); changed.
        gy_products: g_s · g_t, float64, of the same shape.

    Returns:
        float64, shape (n,).
    """
    terms = (x_products.diagonal(dim1=1, dim2=2) * gy_products.diagonal(dim1=1, dim2=2)).clamp_(min=0).sqrt_().sum(1)
    return x_products.mul_(gy_products).sum((1, 2)).clamp_(min=0) + (ROUNDING * terms).square()


def _patch_products(shape: Convolution, x: Tensor, *, kernel: Pair, places: Pair) -> Tensor:
    """Scalar product of each pair of patches of an image: (n · groups, places, places), float64.

    A shift of the kernel pairs only pixels with rows (and columns) of the same remainder modulo the stride: the input
    is split by these remainders first, and each part's pixels are multiplied with each other. The padding's zeros have
    no products: a shift adds to the places alone that it takes to a pixel.
    """
    images, channels, height, width = x.shape
    down, right = shape.stride
    rows, columns = -(-height // down), -(-width // right)
    whole = F.pad(x, (0, columns * right - width, 0, rows * down - height)).double()
    parts = whole.reshape(images * shape.groups, channels // shape.groups, rows, down, columns, right)
    pixels = parts.permute(0, 3, 5, 1, 2, 4).reshape(-1, channels // shape.groups, rows * columns)
    products = torch.bmm(pixels.transpose(1, 2), pixels)
    products = products.view(-1, down, right, rows, columns, rows, columns)
    high, wide = places
    total = products.new_zeros(len(products), high, wide, high, wide)
    for row in range(kernel[0]):
        part_down, to_r, from_r = _met(row * shape.dilation[0] - shape.padding[0], down, places=high, pixels=rows)
        for column in range(kernel[1]):
            offset = column * shape.dilation[1] - shape.padding[1]
            part_right, to_c, from_c = _met(offset, right, places=wide, pixels=columns)
            total[:, to_r, to_c, to_r, to_c] += products[:, part_down, part_right, from_r, from_c, from_r, from_c]
    return total.view(len(products), high * wide, high * wide)


def _met(offset: int, stride: int, *, places: int, pixels: int) -> tuple[int, slice, slice]:
    """Along one axis: place p meets pixel p · stride + offset. Which part that is in, and which places and pixels."""
    shift, part = divmod(offset, stride)
    first, end = max(0, -shift), max(0, min(places, pixels - shift))
    first = min(first, end)
    return part, slice(first, end), slice(first + shift, end + shift)


def _backward(
    shape: Convolution, x: Tensor, gy: Tensor, weight: Tensor, *, groups: int, wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    gradients: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        gy, x, weight, None, shape.stride, shape.padding, shape.dilation, False, [0, 0], groups, wanted
    )
    return gradients


def _grouped(shape: Convolution, *, x: Tensor, gy: Tensor, weight: Tensor) -> Tensor:
    images = len(x)
    wide_x, wide_gy = x.reshape(1, -1, *x.shape[2:]), gy.reshape(1, -1, *gy.shape[2:])
    outputs, *kernel = weight.shape
    repeated = weight.new_empty(images * outputs, *kernel)  # its shape is used; its memory is never touched
    groups = images * shape.groups
    found = _backward(shape, wide_x, wide_gy, repeated, groups=groups, wanted=[False, True, False])[1]
    return found.reshape(images, -1)


def _loop(shape: Convolution, *, x: Tensor, gy: Tensor, weight: Tensor) -> Tensor:
    rows = x.new_empty(len(x), weight.numel())
    for number in range(len(x)):
        one = slice(number, number + 1)
        rows[number] = weight_gradient(shape, x=x[one], gy=gy[one], weight=weight).flatten()
    return rows


def _pointwise(shape: Convolution, *, x: Tensor, gy: Tensor, weight: Tensor) -> Tensor:
    met = x[:, :, :: shape.stride[0], :: shape.stride[1]].flatten(2)
    return torch.bmm(gy.flatten(2), met.transpose(1, 2)).flatten(1)


def _patches(shape: Convolution, *, x: Tensor, gy: Tensor, weight: Tensor) -> Tensor:
    kernel = (weight.shape[2], weight.shape[3])
    patches = F.unfold(x, kernel, dilation=shape.dilation, padding=shape.padding, stride=shape.stride)
    return torch.bmm(gy.flatten(2), patches.transpose(1, 2)).flatten(1)


# Ways that give the gradient of each image's weight: shape (n, p).
WAYS: Final[dict[str, Callable[..., Tensor]]] = {
    "grouped": _grouped,
    "loop": _loop,
    "pointwise": _pointwise,
    "patches": _patches,
}
