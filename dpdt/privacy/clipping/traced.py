"""Parameters that tell where they meet the images, so that each image's gradient can be had wherever they are used.

While a physical batch is added, every module finds a `TracedParameter` in the place of each trained parameter. Torch
hands each function that is called with one to `TracedParameter.__torch_function__`, which knows four cases:

- nothing but parameters and constants (a view, a sum of two, an interpolated position): the result is traced on;
- a function of `dpdt.privacy.clipping.layers.LAYERS`, whichever module calls it: its backward pass leaves the pieces;
- a function that works entry by entry or puts values side by side (layer scale, class token, position, a bias that is
  added): the parameter is spread over the images, which costs no memory, and the gradient of the spread value is each
  image's own;
- any other function: `torch.func` differentiates it image by image. It costs more, and always holds.

From a value computed of parameters, a row of gradient goes back to these by the chain rule, image by image.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from dpdt.errors import PrivacyError
from dpdt.privacy.clipping.gradient_sum import full
from dpdt.privacy.clipping.layers import LAYERS, Tape
from dpdt.privacy.clipping.per_sample import Rows

__all__ = ["ImagesNotFollowedError", "traced"]

ENTRYWISE: Final = frozenset(
    f"{before}{name}{after}"
    for name in ("add", "sub", "mul", "div", "truediv", "true_divide", "addcmul", "where", "cat", "concat")
    for before, after in (("", ""), ("", "_"), ("r", ""), ("__", "__"), ("__r", "__"), ("__i", "__"))
)
"""Functions whose result has an image's entries where its arguments have them, by name."""
REPEATING: Final = frozenset({"expand", "repeat"})


class ImagesNotFollowedError(Exception):
    """A parameter met a tensor without a gradient: a constant, or something of the images before any layer."""


@contextmanager
def traced(model: nn.Module, tape: Tape) -> Iterator[None]:
    """Inside the block the model's modules find traced parameters; its parameters themselves stay where they are."""
    by_parameter: dict[nn.Parameter, TracedParameter] = {}
    hidden: list[tuple[nn.Module, str]] = []
    try:
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None and parameter.requires_grad:
                    if parameter not in by_parameter:
                        leaf = parameter.detach().requires_grad_()
                        by_parameter[parameter] = TracedParameter.of(leaf, {parameter: leaf}, tape)
                    module.__dict__[name] = by_parameter[parameter]  # found before `_parameters` is looked at
                    hidden.append((module, name))
        yield
    finally:
        for module, name in hidden:
            module.__dict__.pop(name, None)  # a module that replaced it is refused by others


class TracedParameter(Tensor):
    """A value computed from parameters and constants alone.

    Attributes:
        value: The ordinary tensor; autograd knows how it comes from the leaves.
        leaves: The parameters' values that it comes from.
        copied: What this is copies of, along a first axis of which it has one; None for other values.
    """

    value: Tensor
    leaves: dict[nn.Parameter, Tensor]
    tape: Tape
    copied: Tensor | None

    @classmethod
    def of(cls, value: Tensor, leaves: dict[nn.Parameter, Tensor], tape: Tape, *, copied: Tensor | None = None) -> Self:
        """Trace a value."""
        made: Self = torch.Tensor._make_subclass(cls, value.detach())
        made.value, made.leaves, made.tape, made.copied = value, leaves, tape, copied
        return made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = tree_flatten((args, kwargs))[0]
        own = [value for value in found if isinstance(value, TracedParameter)]
        others = [value for value in found if isinstance(value, Tensor) and not isinstance(value, TracedParameter)]
        if func in COMPOSED:
            return COMPOSED[func](*args, **kwargs)
        layer = LAYERS.get(func)
        met = [value for value in others if value.requires_grad]
        if layer is not None and not isinstance(args[0] if args else kwargs["input"], TracedParameter):
            if all(value.is_parameter for value in own):
                args = args or (kwargs.pop("input"),)
                args, kwargs = tree_map(_as_parameter, (args, kwargs))
                return layer(own[0].tape, *args, **kwargs)
            met = [args[0] if args else kwargs["input"]]
        if not met:
            if not own[0].tape.follows_images and any(value.ndim and value.is_floating_point() for value in others):
                raise ImagesNotFollowedError
            return _of_constants(func, own, args, kwargs)
        _check_met(func, own, met)
        if func.__name__ in ENTRYWISE:
            ndim = max(value.ndim for value in met)
            args, kwargs = tree_map(lambda value: _spread(func, value, ndim), (args, kwargs))
            result = func(*args, **kwargs)
            if len(result) != len(met[0]):
                raise _refuse(func, own, "it is put beside the images")
            return result
        return _image_by_image(func, own, met, args, kwargs)

    @property
    def is_parameter(self) -> bool:
        """Whether it is a parameter itself."""
        return any(self.value is leaf for leaf in self.leaves.values())

    def keep(self, value: Tensor, rows: Tensor, *, way: str) -> None:
        """A backward pass reached a use.

        Args:
            value: What was used: this value, or what it is copies of.
            rows: Its gradient for each image, shape (images, *value.shape).
            way: How it was found.
        """
        rows = rows.detach().to(value.dtype)
        for parameter, leaf in self.leaves.items():
            found: Tensor | None = rows
            if value is not leaf:
                found = torch.autograd.grad(
                    value, leaf, rows, is_grads_batched=True, retain_graph=True, allow_unused=True
                )[0]
            if found is not None:
                self.tape.keep(Rows(parameter, full(found.detach().flatten(1))), way=way)

    def used(self) -> None:
        """A forward pass uses it with images."""
        for parameter in self.leaves:
            self.tape.used(parameter)

    @property
    def names(self) -> str:
        """Of the parameters, for people."""
        return ", ".join(self.tape.name(parameter) for parameter in self.leaves)


def _as_parameter(value: Any) -> Any:
    """The parameter that a traced one stands for; other values as they are."""
    return next(iter(value.leaves)) if isinstance(value, TracedParameter) else value


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, TracedParameter) else value


def _refuse(func: Any, own: list[TracedParameter], why: str) -> PrivacyError:
    names = ", ".join(dict.fromkeys(value.names for value in own))
    return PrivacyError(
        f"model: {names} in {func.__name__}: {why}, so an image's gradient cannot be had. Write it otherwise, or "
        "freeze the parameter."
    )


def _of_constants(func: Any, own: list[TracedParameter], args: Any, kwargs: Any) -> Any:
    """A function of parameters and constants: its result is traced too, unless no gradient goes through it."""
    leaves = {parameter: leaf for value in own for parameter, leaf in value.leaves.items()}
    tape, first = own[0].tape, own[0]
    plain_args, plain_kwargs = tree_map(_plain, (args, kwargs))
    result = func(*plain_args, **plain_kwargs)

    def trace(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.requires_grad:
            return value
        if value is first.value:
            return first
        repeats = func.__name__ in REPEATING and len(first.value) == 1 and value.shape[1:] == first.value.shape[1:]
        return TracedParameter.of(value, leaves, tape, copied=first.value if repeats else None)

    return tree_map(trace, result)


def _check_met(func: Any, own: list[TracedParameter], met: list[Tensor]) -> None:
    for value in met:
        if isinstance(value, nn.Parameter):
            raise _refuse(func, own, "another parameter is used behind its module's back")
        if value.ndim == 0 or len(value) != own[0].tape.images:
            images = own[0].tape.images
            raise _refuse(func, own, f"it meets shape {tuple(value.shape)} where {images} images come first")


def _spread(func: Any, value: Any, ndim: int) -> Any:
    """A traced value as one of each image, of so many axes."""
    if not isinstance(value, TracedParameter):
        return value
    one = value.copied if value.copied is not None and value.ndim == ndim else value.value
    if one.ndim > ndim or (one.ndim == ndim and len(one) != 1):
        raise _refuse(func, [value], f"shape {tuple(one.shape)} leaves no axis for the images")
    value.used()
    return _Spread.apply(one, [value], ndim)  # type: ignore[no-untyped-call]


class _Spread(torch.autograd.Function):
    """A parameter's value as one of each image; backward, each image has its own gradient."""

    @staticmethod
    def forward(ctx: Any, one: Tensor, value: list[TracedParameter], ndim: int) -> Tensor:
        ctx.one, (ctx.value,) = one, value
        shape = (1,) * (ndim - one.ndim) + one.shape
        return one.detach().reshape(shape).expand(ctx.value.tape.images, *shape[1:])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, None]:
        ctx.value.keep(ctx.one, gradient.reshape(len(gradient), *ctx.one.shape), way="spread")
        return None, None, None


def _image_by_image(func: Any, own: list[TracedParameter], met: list[Tensor], args: Any, kwargs: Any) -> Any:
    """Any other function of one tensor for each image."""
    flat, spec = tree_flatten((args, kwargs))
    places = {id(value): number for number, value in enumerate([*met, *own])}

    def call(*values: Tensor) -> Any:
        filled = (values[places[id(value)]] if id(value) in places else value for value in flat)
        call_args, call_kwargs = tree_unflatten(list(filled), spec)
        return func(*call_args, **call_kwargs)

    for value in own:
        value.used()
    return _ImageByImage.apply(call, own, len(met), *met, *(value.value for value in own))  # type: ignore[no-untyped-call]


class _ImageByImage(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: Callable[..., Any], own: list[TracedParameter], met: int, *values: Tensor) -> Tensor:
        ctx.call, ctx.own, ctx.met = call, own, met
        ctx.save_for_backward(*values)
        result = call(*(value.detach() for value in values))
        if not isinstance(result, Tensor) or result.ndim == 0 or len(result) != own[0].tape.images:
            raise _refuse(call, own, "it gives no tensor with one row an image")
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values = [value.detach() for value in ctx.saved_tensors]
        met, ones = values[: ctx.met], values[ctx.met :]

        def one_image(gradient: Tensor, *images: Tensor) -> Any:
            pull = torch.func.vjp(ctx.call, *(image.unsqueeze(0) for image in images), *ones)[1]
            return pull(gradient.unsqueeze(0))

        found = torch.func.vmap(one_image)(gradient, *met)
        for value, rows in zip(ctx.own, found[ctx.met :], strict=True):
            value.keep(value.value, rows, way="functorch")
        return None, None, None, *(rows.squeeze(1) for rows in found[: ctx.met]), *(None for _ in ones)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    average_attn_weights: bool = True,
    is_causal: bool = False,
    **others: Any,
) -> tuple[Tensor, Tensor | None]:
    """`torch.nn.functional.multi_head_attention_forward` of one input for query, key and value, by its layers.

    There the images are along the second axis (Vaswani et al. 2017, arXiv 1706.03762, section 3.2).
    """
    odd = bias_k is not None or bias_v is not None or add_zero_attn or use_separate_proj_weight
    odd = odd or (is_causal and attn_mask is None)
    if odd or query is not key or key is not value or query.ndim != 3 or any(o is not None for o in others.values()):
        raise PrivacyError(
            "model: a MultiheadAttention with other keys than queries, bias_k or add_zero_attn has no gradient of a "
            "single image here. Attend to the queries themselves, or freeze its parameters."
        )
    images = query.transpose(0, 1)
    number, places, channels = images.shape
    projected = F.linear(images, in_proj_weight, in_proj_bias)  # type: ignore[arg-type]
    heads = projected.view(number, places, 3, num_heads, channels // num_heads).permute(2, 0, 3, 1, 4)
    mask = None
    for given in (attn_mask, None if key_padding_mask is None else key_padding_mask[:, None, None, :]):
        if given is not None:
            if given.ndim == 3:
                given = given.view(number, num_heads, places, places)
            if given.dtype == torch.bool:
                given = torch.zeros_like(given, dtype=heads.dtype).masked_fill(given, -math.inf)
            mask = given if mask is None else mask + given
    weights = None
    if need_weights:
        products = heads[0] @ heads[1].transpose(-2, -1) / math.sqrt(channels // num_heads)
        weights = F.dropout((products if mask is None else products + mask).softmax(-1), dropout_p, training=training)
        attended = weights @ heads[2]
        weights = weights.mean(1) if average_attn_weights else weights
    else:
        dropout = dropout_p if training else 0.0
        attended = F.scaled_dot_product_attention(heads[0], heads[1], heads[2], attn_mask=mask, dropout_p=dropout)
    joined = attended.transpose(1, 2).reshape(number, places, channels)
    return F.linear(joined, out_proj_weight, out_proj_bias).transpose(0, 1), weights


COMPOSED: Final[dict[Any, Callable[..., Any]]] = {F.multi_head_attention_forward: _attention}
"""Functions of torch that would use several parameters at once, written by those of `LAYERS`."""
