"""Layers with a backward pass that computes the input's gradient only, and leaves pieces for the parameters' gradients.

Each layer is an autograd function with torch's own forward pass. It still takes the parameters, so that a first layer
has a backward pass though images need no gradient, but it returns no gradient for them: the sum over the images would
be wasted, since every image has its own factor. `COVERED` are the modules that have one; each has a maker of
the forward function that writes to a tape.
"""

from collections.abc import Callable
from typing import Any, Final, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpdt.privacy.clipping.convolutions import WAYS, Convolution, choose_way, input_gradient
from dpdt.privacy.clipping.gradient_sum import full
from dpdt.privacy.clipping.per_sample import ConvolutionPiece, EmbeddingPiece, LinearPiece, Piece, Rows

__all__ = ["COVERED", "Forward", "Tape", "covers"]

Forward = Callable[..., Tensor]


class Tape(Protocol):
    """What layers write to."""

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
            if x.shape[1] ** 2 > weight.numel():
                piece, way = Rows(layer.weight, piece.rows()), "rows"
            layer.tape.keep(piece, way=way)
        if layer.bias is not None:
            layer.keep_rows(layer.bias, full(gy).sum(1))
        return gx, None, None, None


class _GroupNorm(torch.autograd.Function):
    """Each image's channels are channels of one large image: the sums over places are then each image's own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, layer: "_Layer") -> Tensor:
        module = layer.module
        assert isinstance(module, nn.GroupNorm)
        x = layer.cast_norm(x)
        images, channels = x.shape[:2]
        wide = x.reshape(1, images * channels, -1)
        ctx.sizes = (1, images * channels, wide.shape[2], images * module.num_groups)
        weights, biases = (None if p is None else p.expand(images, -1).reshape(-1) for p in (weight, bias))
        y, mean, rstd = torch.ops.aten.native_group_norm(wide, weights, biases, *ctx.sizes, module.eps)
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
        return None if gx is None else gx.view(x.shape), None, None, None


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, layer: "_Layer") -> Tensor:
        module = layer.module
        assert isinstance(module, nn.LayerNorm)
        ctx.layer, ctx.shape = layer, list(module.normalized_shape)
        x = layer.cast_norm(x)
        y, mean, rstd = torch.ops.aten.native_layer_norm(x, ctx.shape, weight, bias, module.eps)
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
        places = tuple(range(1, x.ndim - len(ctx.shape)))
        rows = full(gy)
        if layer.bias is not None:
            layer.keep_rows(layer.bias, (rows.sum(places) if places else rows).flatten(1))
        if layer.weight is not None:
            rows = rows * ((full(x) - mean) * rstd)
            layer.keep_rows(layer.weight, (rows.sum(places) if places else rows).flatten(1))
        return gx, None, None, None


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, indices: Tensor, weight: Tensor, layer: "_Layer") -> Tensor:
        ctx.layer = layer
        ctx.save_for_backward(indices)
        return F.embedding(indices, weight)

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple[None, None, None]:
        (indices,) = ctx.saved_tensors
        layer: _Layer = ctx.layer
        module = layer.module
        assert isinstance(module, nn.Embedding)
        if module.padding_idx is not None:
            gy = gy.masked_fill((indices == module.padding_idx).unsqueeze(-1), 0.0)
        if layer.weight is not None:
            flat = indices.reshape(len(indices), -1)
            piece = EmbeddingPiece(layer.weight, flat, gy.detach().reshape(*flat.shape, -1))
            layer.tape.keep(piece, way="gram")
        return None, None, None


class _Layer:
    """A module, which of its parameters are trained, and the tape; called in place of the module's own forward."""

    def __init__(self, module: nn.Module, tape: Tape) -> None:
        self.module = module
        self.tape = tape
        self.weight = _trained(module.weight)
        self.bias = _trained(getattr(module, "bias", None))

    def keep_rows(self, parameter: nn.Parameter, rows: Tensor) -> None:
        """Gradients that come one row an image anyway."""
        self.tape.keep(Rows(parameter, rows.detach()), way="rows")

    def use(self) -> None:
        """Tell the tape of a forward pass."""
        for parameter in (self.weight, self.bias):
            if parameter is not None:
                self.tape.used(parameter)

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


def _conv2d(module: nn.Conv2d, layer: _Layer) -> Forward:
    """Padding that is not of zeros, or not the same on both sides, is put around the input first."""
    dilation, kernel = module.dilation, module.kernel_size
    around: tuple[int, ...] = ()
    padding: tuple[int, ...] = (0, 0)
    if not isinstance(module.padding, str):
        padding = module.padding
    elif module.padding == "same":
        totals = [(k - 1) * d for k, d in zip(kernel, dilation, strict=True)]
        around = (totals[1] // 2, totals[1] - totals[1] // 2, totals[0] // 2, totals[0] - totals[0] // 2)
    if module.padding_mode != "zeros" and not around:
        around, padding = (padding[1], padding[1], padding[0], padding[0]), (0, 0)
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    shape = Convolution(module.stride, padding, dilation, module.groups)  # type: ignore[arg-type]

    def forward(x: Tensor) -> Tensor:
        layer.use()
        x = F.pad(x, around, mode=mode) if any(around) else x
        result: Tensor = _Conv2d.apply(x, module.weight, module.bias, layer, shape)  # type: ignore[no-untyped-call]
        return result

    return forward


def _embedding(module: nn.Embedding, layer: _Layer) -> Forward:
    if module.scale_grad_by_freq or module.max_norm is not None:
        raise NotImplementedError("an Embedding with scale_grad_by_freq or max_norm mixes the images of a batch")

    def forward(indices: Tensor) -> Tensor:
        layer.use()
        result: Tensor = _Embedding.apply(indices, module.weight, layer)  # type: ignore[no-untyped-call]
        return result

    return forward


def _affine(function: Any) -> Callable[[Any, _Layer], Forward]:
    """Modules that have a weight, a bias and no other choice."""

    def make(module: Any, layer: _Layer) -> Forward:
        def forward(x: Tensor) -> Tensor:
            layer.use()
            result: Tensor = function.apply(x, module.weight, module.bias, layer)
            return result

        return forward

    return make


_MAKERS: Final[dict[type[nn.Module], Callable[[Any, _Layer], Forward]]] = {
    nn.Conv2d: _conv2d,
    nn.Linear: _affine(_Linear),
    nn.GroupNorm: _affine(_GroupNorm),
    nn.LayerNorm: _affine(_LayerNorm),
    nn.Embedding: _embedding,
}
COVERED: Final = tuple(_MAKERS)


def covers(module: nn.Module, tape: Tape) -> Forward | None:
    """A forward function for a module that writes to a tape; None for modules that are not covered.

    Args:
        module: Exactly of a class in `COVERED`: a subclass may compute something else.
        tape: What it writes to.

    Raises:
        NotImplementedError: The module mixes the images of a batch.
    """
    make = _MAKERS.get(type(module))
    return None if make is None else make(module, _Layer(module, tape))
