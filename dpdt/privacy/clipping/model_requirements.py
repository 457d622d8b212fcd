"""Whether a network can be trained with DP: every image must have a gradient of its own.

First the layers are looked at (Opacus' ModuleValidator, batch norms, in-place layers), then the network is tried: an
image's output must not depend on the others of its batch, and the gradients that Opacus keeps of each image must be
those of the image alone.
"""

import copy
import warnings
from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

__all__ = ["unfit_parts", "untrained_state"]

TOLERANCE: Final = 1e-3
"""Of outputs and gradients, relative to the largest value: float32 sums in another order differ by less."""
SQUASHERS: Final = (nn.Sigmoid, nn.Softmax, nn.LogSigmoid, nn.LogSoftmax)


def unfit_parts(model: nn.Module, *, size: int) -> list[str]:
    """What keeps a network from being trained with DP.

    Args:
        model: Takes float32 (n, 1, size, size), gives one row of logits an image. Not changed.
        size: Height and width of the images in pixels.

    Returns:
        One line a problem, with the layer's or parameter's name; empty if it is fit.
    """
    found = list(_unfit_layers(model))
    if not found:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            found = list(_unfit_behaviour(copy.deepcopy(model).cpu().train(), torch.rand(2, 1, size, size)))
    return found


def untrained_state(model: nn.Module) -> dict[str, Tensor]:
    """What a network keeps besides trainable parameters: buffers and frozen parameters, by name; no copies."""
    frozen = {name: value.detach() for name, value in model.named_parameters() if not value.requires_grad}
    return frozen | dict(model.named_buffers())


def _unfit_layers(model: nn.Module) -> Iterator[str]:
    from opacus.validators import ModuleValidator

    for name, layer in model.named_modules():
        kind = f"{name or 'the model itself'} ({type(layer).__name__})"
        trainable = any(parameter.requires_grad for parameter in layer.parameters(recurse=False))
        if isinstance(layer, _BatchNorm):
            yield f"{kind} mixes the images of a batch; use GroupNorm (opacus.validators.ModuleValidator.fix does)"
        elif getattr(layer, "inplace", False):
            yield f"{kind} computes in place; set inplace=False"
        elif trainable and type(layer) in ModuleValidator.VALIDATORS:
            for error in ModuleValidator.VALIDATORS[type(layer)](layer):
                yield f"{kind}: {str(error).split('. ')[0]}"


def _unfit_behaviour(model: nn.Module, images: Tensor) -> Iterator[str]:
    """Try it; the model is a copy in training mode, with dropout off so that two calls can be compared."""
    from opacus.grad_sample import GradSampleHooks

    for layer in model.modules():
        if isinstance(layer, _DropoutNd):
            layer.eval()
    try:
        state = {name: value.clone() for name, value in untrained_state(model).items()}
        outputs, squashed = _with_squashers(model, images)
        alone, other = model(images[:1]), model(images[1:])
    except Exception as err:  # noqa: BLE001 - whatever somebody's own network raises is the finding
        yield f"forward fails on float32 {tuple(images.shape)}: {type(err).__name__}: {err}"
        return
    if not isinstance(outputs, Tensor):
        yield f"forward gives {type(outputs).__name__}; expected one tensor, a row of logits an image"
        return
    if outputs.ndim != 2 or len(outputs) != len(images):
        yield f"forward gives shape {tuple(outputs.shape)} for {len(images)} images; expected ({len(images)}, outputs)"
        return
    changed = [name for name, value in untrained_state(model).items() if not torch.equal(value, state[name])]
    if squashed:
        yield f"{squashed} gives the outputs; expected logits: leave it out, the loss has its own sigmoid"
        return
    if not outputs.isfinite().all():
        yield "forward gives numbers that are not finite; are the weights set?"
        return
    if changed:
        yield (
            f"forward changes {', '.join(changed)}: what is kept there of the images gets into the weights without "
            "clipping and noise; remove it (norms: track_running_stats = False)"
        )
        return
    if not _same(outputs[:1], alone) or not _same(outputs[1:], other):
        yield "an image's output depends on the other images of its batch"
        return
    names = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    wanted = torch.autograd.grad(alone.sum(), list(names.values()), allow_unused=True)
    unused = [name for name, gradient in zip(names, wanted, strict=True) if gradient is None]
    if unused:
        yield f"parameters get no gradient: {', '.join(unused)}; remove them, or set requires_grad = False"
        return
    try:
        hooks = GradSampleHooks(model, loss_reduction="sum")
        with warnings.catch_warnings():  # torch says that images need no gradient, which is so
            warnings.simplefilter("ignore")
            model(images).sum().backward()
        kept = [getattr(parameter, "grad_sample", None) for parameter in names.values()]
        hooks.cleanup()
    except Exception as err:  # noqa: BLE001 - as above
        yield f"Opacus cannot keep the images' gradients: {type(err).__name__}: {err}"
        return
    for name, gradient, sample in zip(names, wanted, kept, strict=True):
        if not isinstance(sample, Tensor) or len(sample) != len(images) or not _same(sample[0], gradient):
            yield f"{name}: Opacus' gradient of an image is not that of the image alone (a parameter used twice?)"


def _with_squashers(model: nn.Module, images: Tensor) -> tuple[Any, str | None]:
    """What the model gives, and the name of the sigmoid or softmax whose output that is."""
    last: dict[str, Any] = {}

    def keep(name: str) -> Any:
        return lambda _module, _inputs, output: last.update({name: output})

    squashers = {name: layer for name, layer in model.named_modules() if isinstance(layer, SQUASHERS)}
    hooks = [layer.register_forward_hook(keep(name)) for name, layer in squashers.items()]
    outputs = model(images)
    for hook in hooks:
        hook.remove()
    found = next((name for name, output in last.items() if output is outputs), None)
    return outputs, None if found is None else f"{found} ({type(squashers[found]).__name__})"


def _same(one: Tensor, other: Tensor) -> bool:
    scale = max(float(other.detach().abs().max()), 1e-6)
    return bool((one.detach() - other.detach()).abs().max() <= TOLERANCE * scale)
