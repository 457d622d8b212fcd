"""Layers with a backward pass that computes the input's gradient only, and leaves pieces for the parameters' gradients.

Each layer is an autograd function with torch's own forward pass. It still takes the parameters, so that a first layer
has a backward pass though images need no gradient, but it returns no gradient for them: the sum over the images would
be wasted, since every image has its own factor. `LAYERS` has them by torch's function, whatever module calls it.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpdt.errors import PrivacyError
from dpdt.privacy.clipping.convolutions import WAYS, Convolution, choose_way, input_gradient
from dpdt.privacy.clipping.gradient_sum import full
from dpdt.privacy.clipping.per_sample import ConvolutionPiece, EmbeddingPiece, LinearPiece, Piece, Rows

__all__ = ["LAYERS", "Tape"]


# Products of places are double precision, the rows of gradients memory that is written once and read twice. So much of
# the first is worth a number of the second; the more it is, the more memory is saved.
GRAM_WORTH: Final = 75


class Tape(Protocol):
    """What layers write to."""

    @property
    def images(self) -> int:
        """Images of the batch that is being added."""

    @property
    def follows_images(self) -> bool:
        """Whether what comes from the images can be told from constants: it has a gradient."""

    def name(self, parameter: nn.Parameter) -> str:
        """For people."""

    def recorded_way(self, parameter: nn.Parameter) -> str | None:
        """How the run found the norm of its gradient when it was begun."""

    def used(self, parameter: nn.Parameter) -> None:
        """A forward pass used a trainable parameter."""

    def keep(self, piece: Piece, *, way: str) -> None:
        """A backward pass reached that use."""


class _Conv2d(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, layer: "_Layer", shape: Convolution
    ) -> Tensor:
        ctx.layer, ctx.shape = layer, shape
        x, cast = layer.cast(x, weight)
        ctx.save_for_backward(x, cast)
        bias = None if bias is None else bias.to(cast.dtype)
        return F.conv2d(x, cast, bias, shape.stride, shape.padding, shape.dilation, shape.groups)

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        shape: Convolution = ctx.shape
        gx = input_gradient(shape, x=x, gy=gy, weight=weight) if ctx.needs_input_grad[0] else None
        layer: _Layer = ctx.layer
        if layer.weight is not None:
            way = layer.tape.recorded_way(layer.weight) or ""
            if way not in ("gram", *WAYS):
                way = choose_way(shape, weight=weight.shape, places=gy.shape[2] * gy.shape[3])
            piece: Piece
            if way == "gram":
                piece = ConvolutionPiece(layer.weight, shape, x.detach(), gy.detach())
            else:
                piece = Rows(layer.weight, full(WAYS[way](shape, x=x, gy=gy, weight=weight)))
            layer.tape.keep(piece, way=way)
        if layer.bias is not None:
            layer.keep_rows(layer.bias, full(gy).sum((2, 3)))
        return gx, None, None, None, None


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, layer: "_Layer") -> Tensor:
        ctx.layer = layer
        x, cast = layer.cast(x, weight)
        ctx.save_for_backward(x, cast)
        return F.linear(x, cast, None if bias is None else bias.to(cast.dtype))

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        layer: _Layer = ctx.layer
        gx = gy @ weight if ctx.needs_input_grad[0] else None
        x, gy = (value.detach().reshape(len(x), -1, value.shape[-1]) for value in (x, gy))
        if layer.weight is not None:
            piece: Piece = LinearPiece(layer.weight, x, gy)
            way = "gram"
            if x.shape[1] ** 2 * sum(weight.shape) > GRAM_WORTH * weight.numel():
                piece, way = Rows(layer.weight, piece.rows()), "rows"
            layer.tape.keep(piece, way=way)
        if layer.bias is not None:
            layer.keep_rows(layer.bias, full(gy).sum(1))
        return gx, None, None, None


class _GroupNorm(torch.autograd.Function):
    """Each image's channels are channels of one large image: the sums over places are then each image's own."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, layer: "_Layer", groups: int, eps: float
    ) -> Tensor:
        x = layer.cast_norm(x)
        images, channels = x.shape[:2]
        wide = x.reshape(1, images * channels, -1)
        ctx.sizes = (1, images * channels, wide.shape[2], images * groups)
        weights, biases = (None if p is None else p.expand(images, -1).reshape(-1) for p in (weight, bias))
        y, mean, rstd = torch.ops.aten.native_group_norm(wide, weights, biases, *ctx.sizes, eps)
        ctx.layer = layer
        ctx.save_for_backward(x, weights, mean, rstd)
        result: Tensor = torch.ops.aten._unsafe_view(y, x.shape)  # a view could not be changed in place afterwards
        return result

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor | None, ...]:
        x, weights, mean, rstd = ctx.saved_tensors
        layer: _Layer = ctx.layer
        wide = (1, ctx.sizes[1], ctx.sizes[2])
        wanted = [ctx.needs_input_grad[0], layer.weight is not None, layer.bias is not None]
        gx, scales, shifts = torch.ops.aten.native_group_norm_backward(
            gy.reshape(wide), x.reshape(wide), mean, rstd, weights, *ctx.sizes, wanted
        )
        for parameter, rows in ((layer.weight, scales), (layer.bias, shifts)):
            if parameter is not None:
                layer.keep_rows(parameter, full(rows.view(len(x), -1)))
        return None if gx is None else gx.view(x.shape), None, None, None, None, None


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, layer: "_Layer", shape: list[int], eps: float
    ) -> Tensor:
        ctx.layer, ctx.shape = layer, shape
        x = layer.cast_norm(x)
        y, mean, rstd = torch.ops.aten.native_layer_norm(x, ctx.shape, weight, bias, eps)
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        result: Tensor = y
        return result

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, rstd = ctx.saved_tensors
        layer: _Layer = ctx.layer
        gx = None
        if ctx.needs_input_grad[0]:
            gx = torch.ops.aten.native_layer_norm_backward(
                gy, x, ctx.shape, mean, rstd, weight, bias, [True, False, False]
            )[0]
        wanted = [False, layer.weight is not None, layer.bias is not None]
        if any(wanted):
            images = zip(*(value.split(1) for value in (gy, x, mean, rstd)), strict=True)
            found = [
                torch.ops.aten.native_layer_norm_backward(g, one, ctx.shape, mu, r, weight, bias, wanted)[1:]
                for g, one, mu, r in images
            ]  # torch's own pass over each image: what is written out costs several passes over all of them
            for parameter, rows in zip((layer.weight, layer.bias), zip(*found, strict=True), strict=True):
                if parameter is not None:
                    layer.keep_rows(parameter, full(torch.stack(rows).flatten(1)))
        return gx, None, None, None, None, None


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, indices: Tensor, weight: Tensor, layer: "_Layer", padding_idx: int | None) -> Tensor:
        ctx.layer, ctx.padding_idx = layer, padding_idx
        ctx.save_for_backward(indices)
        return F.embedding(indices, weight)

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple[None, None, None, None]:
        (indices,) = ctx.saved_tensors
        layer: _Layer = ctx.layer
        if ctx.padding_idx is not None:
            gy = gy.masked_fill((indices == ctx.padding_idx).unsqueeze(-1), 0.0)
        if layer.weight is not None:
            flat = indices.reshape(len(indices), -1)
            piece = EmbeddingPiece(layer.weight, flat, gy.detach().reshape(*flat.shape, -1))
            layer.tape.keep(piece, way="gram")
        return None, None, None, None


class _Layer:
    """One use of a weight and a bias: which of them are trained, and the tape."""

    def __init__(self, weight: Any, bias: Any, tape: Tape) -> None:
        self.tape = tape
        self.weight, self.bias = (_trained(value) for value in (weight, bias))
        for parameter in (self.weight, self.bias):
            if parameter is not None:
                tape.used(parameter)

    def keep_rows(self, parameter: nn.Parameter, rows: Tensor) -> None:
        """Gradients that come one row an image anyway."""
        self.tape.keep(Rows(parameter, rows.detach()), way="rows")

    @staticmethod
    def cast(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """What autocast makes of a layer of products."""
        kind = x.device.type
        if not torch.is_autocast_enabled(kind):
            return x, weight
        dtype = torch.get_autocast_dtype(kind)
        return x.to(dtype), weight.to(dtype)

    @staticmethod
    def cast_norm(x: Tensor) -> Tensor:
        """What autocast makes of a norm's input: float32 on CUDA, whose kernels want input and weights of one type."""
        return full(x) if x.device.type == "cuda" and torch.is_autocast_enabled("cuda") else x


def _trained(parameter: Any) -> nn.Parameter | None:
    return parameter if isinstance(parameter, nn.Parameter) and parameter.requires_grad else None


def _conv2d(
    tape: Tape,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """Padding that is not the same on both sides is put around the input first."""
    dilation, stride = _pair(dilation), _pair(stride)
    if padding == "valid":
        padding = 0
    elif padding == "same":
        totals = [(k - 1) * d for k, d in zip(weight.shape[2:], dilation, strict=True)]
        around = (totals[1] // 2, totals[1] - totals[1] // 2, totals[0] // 2, totals[0] - totals[0] // 2)
        x, padding = F.pad(x, around) if any(around) else x, 0
    shape = Convolution(stride, _pair(padding), dilation, groups)
    result: Tensor = _Conv2d.apply(x, weight, bias, _Layer(weight, bias, tape), shape)  # type: ignore[no-untyped-call]
    return result


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def _linear(tape: Tape, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    result: Tensor = _Linear.apply(x, weight, bias, _Layer(weight, bias, tape))  # type: ignore[no-untyped-call]
    return result


def _group_norm(
    tape: Tape, x: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    layer = _Layer(weight, bias, tape)
    result: Tensor = _GroupNorm.apply(x, weight, bias, layer, num_groups, eps)  # type: ignore[no-untyped-call]
    return result


def _layer_norm(
    tape: Tape,
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    layer = _Layer(weight, bias, tape)
    result: Tensor = _LayerNorm.apply(x, weight, bias, layer, list(normalized_shape), eps)  # type: ignore[no-untyped-call]
    return result


def _embedding(
    tape: Tape,
    indices: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    if scale_grad_by_freq or max_norm is not None:
        raise PrivacyError("model: an Embedding with scale_grad_by_freq or max_norm mixes the images of a batch.")
    if padding_idx is not None and padding_idx < 0:
        padding_idx += len(weight)
    layer = _Layer(weight, None, tape)
    result: Tensor = _Embedding.apply(indices, weight, layer, padding_idx)  # type: ignore[no-untyped-call]
    return result


LAYERS: Final[dict[Callable[..., Any], Callable[..., Tensor]]] = {
    F.conv2d: _conv2d,
    F.linear: _linear,
    F.group_norm: _group_norm,
    F.layer_norm: _layer_norm,
    F.embedding: _embedding,
}
"""By torch's function: the same of a tape and of that function's arguments, which writes to the tape."""
