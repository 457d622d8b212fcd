"""Whether a network can be trained with DP: every image must have its own gradient.

First the layers are looked at (Opacus' ModuleValidator, batch norms, in-place layers, parametrisations), then
`dpdt.privacy.clipping.model_trial` tries the network with the way to clip that will train it.
"""

import copy
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from dpdt.privacy.clipping.gradient_sum import mixes_images
from dpdt.privacy.clipping.model_trial import trial_images, unfit_behaviour

__all__ = ["unfit_parts"]


def unfit_parts(model: nn.Module, *, size: int, clipping: str = "bookkeeping") -> list[str]:
    """What keeps a network from being trained with DP.

    Args:
        model: Takes float32 (n, 1, size, size), gives one row of logits an image. Parts that are not trained are in
            evaluation mode; all of it in evaluation mode is tried in training mode. Not changed.
        size: Height and width of the images in pixels.
        clipping: Key of ``CLIPPING``, the engine that will train it: where one's gradients are wrong another's may be
            right.

    Returns:
        One line a problem, with the layer's or parameter's name; empty if it is fit.
    """
    found = list(_unfit_layers(model, clipping=clipping))
    if found:
        return found
    try:
        spare = copy.deepcopy(model).cpu()
        spare = spare if spare.training else spare.train()
    except Exception as err:  # noqa: BLE001 - whatever a custom network raises is the finding
        return [f"the network cannot be copied, and the trial needs a copy: {type(err).__name__}: {err}"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return list(unfit_behaviour(spare, trial_images(size), clipping=clipping))


def _unfit_layers(model: nn.Module, *, clipping: str) -> Iterator[str]:
    from opacus.validators import ModuleValidator

    own = (nn.MultiheadAttention,) if clipping == "bookkeeping" else ()  # which has its gradients in its own way

    for name, layer in model.named_modules():
        kind = f"{name or 'the model itself'} ({type(layer).__name__})"
        parameters = list(layer.parameters(recurse=False))
        trainable = any(parameter.requires_grad for parameter in parameters)
        others = {str(p.dtype).removeprefix("torch.") for p in parameters if p.requires_grad} - {"float32"}
        if mixes_images(layer):
            yield f"{kind} mixes the images of a batch; use GroupNorm (opacus.validators.ModuleValidator.fix does)"
        elif any(is_lazy(parameter) for parameter in parameters):
            yield f"{kind} has no parameters before its first images; call the network once where you build it"
        elif others:
            yield (
                f"{kind} has trained parameters of {', '.join(sorted(others))}; expected float32, in which sums of "
                "gradients keep to the bound (train.precision = 'bf16' computes in bfloat16)"
            )
        elif _is_computed(layer):
            yield (
                f"{kind} computes its weight from other parameters (a parametrisation), and no image's gradient can "
                "be had of these; remove it (torch.nn.utils.parametrize.remove_parametrizations)"
            )
        elif type(layer).__module__.startswith("torch.nn.") and getattr(layer, "inplace", False):  # others are tried
            yield f"{kind} computes in place; set inplace=False"
        elif trainable and type(layer) in ModuleValidator.VALIDATORS and not isinstance(layer, own):
            for error in ModuleValidator.VALIDATORS[type(layer)](layer):
                yield f"{kind}: {str(error).split('. ')[0]}"
    known = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    for name in model.state_dict().keys() - known.keys():
        yield f"{name} is saved with the weights but is no parameter and no buffer; remove it (get_extra_state)"


def _is_computed(layer: nn.Module) -> bool:
    """Whether a trainable weight is computed before each forward pass, in torch's new way or in its old one."""
    if not any(parameter.requires_grad for parameter in layer.parameters()):
        return False
    old = any(isinstance(hook, WeightNorm | SpectralNorm) for hook in layer._forward_pre_hooks.values())
    return old or is_parametrized(layer)
