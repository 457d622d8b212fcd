"""Gradients of each image by Opacus' rules, for modules that `dpdt.privacy.clipping.layers` does not cover.

A module's rule is the one that Opacus has registered for its class; without one, functorch differentiates the module
itself, as with Opacus' hooks. Torch's own weight gradient goes to copies of the parameters and is thrown away, so that
a gradient that still comes to a parameter is known to come from elsewhere.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from dpdt.errors import PrivacyError
from dpdt.privacy.clipping.gradient_sum import full
from dpdt.privacy.clipping.layers import COVERED, Forward, Tape
from dpdt.privacy.clipping.per_sample import Rows

__all__ = ["make_sampled_forward", "modules_with_parameters"]


def modules_with_parameters(module: nn.Module) -> list[nn.Module]:
    """Modules below (and with) this one that have trainable parameters, each once.

    What is below a module that functorch differentiates belongs to that one.

    Raises:
        NotImplementedError: One has buffers, which are not private, or does not take the batch first.
    """
    found: dict[nn.Module, None] = {}
    _collect(module, found)
    for bearer in found:
        if next(bearer.buffers(), None) is not None:
            raise NotImplementedError(f"a {type(bearer).__name__} has buffers, which are not private")
    for part in module.modules():
        if getattr(part, "batch_first", True) is False:
            raise NotImplementedError(f"a {type(part).__name__} with batch_first=False; every layer takes images first")
    return list(found)


def _collect(module: nn.Module, found: dict[nn.Module, None]) -> None:
    if any(p.requires_grad for p in module.parameters(recurse=False)):
        found[module] = None
        if type(module) not in COVERED and _registered(module) is None:
            return
    for child in module.children():
        _collect(child, found)


def _registered(module: nn.Module) -> Any:
    from opacus.grad_sample import GradSampleHooks

    return GradSampleHooks.GRAD_SAMPLERS.get(type(module))


def make_sampled_forward(module: nn.Module, tape: Tape) -> Forward:
    """A forward function for a module that writes to a tape.

    Args:
        module: Takes one tensor, images along the first axis, and gives one.
        tape: What it writes to.

    Raises:
        NotImplementedError: Opacus has no way to its gradients.
    """
    from opacus.grad_sample.functorch import ft_compute_per_sample_gradient, prepare_layer

    rule, own = _registered(module), copy.copy(module)
    trained = [p for p in module.parameters(recurse=rule is None) if p.requires_grad]
    if rule is None:
        prepare_layer(own)
        rule = ft_compute_per_sample_gradient

    def forward(*inputs: Tensor) -> Tensor:
        for parameter in trained:
            tape.used(parameter)
        aside = {name: p.detach().requires_grad_() for name, p in own.named_parameters()}
        output = torch.func.functional_call(own, aside, inputs)
        if len(inputs) != 1 or not isinstance(output, Tensor):
            raise PrivacyError(
                f"model: a {type(module).__name__} takes or gives several tensors; Opacus' rules are for one. "
                "Change the model, or freeze its parameters."
            )

        def keep(gradient: Tensor) -> None:
            rows = rule(own, [inputs[0].detach()], gradient.detach())
            for parameter in trained:
                tape.keep(Rows(parameter, full(rows[parameter].detach().flatten(1))), way="opacus")

        output.register_hook(keep)  # type: ignore[no-untyped-call]
        return output

    return forward
