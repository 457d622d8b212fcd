"""What the two engines of Opacus' hooks share: a backward pass, and taking what it left at the parameters."""

import warnings

from torch import Tensor, nn

from dpdt.errors import PrivacyError

__all__ = ["backward", "in_rows", "take"]


def in_rows(model: nn.Module) -> None:
    """Give convolutions their input row by row, whatever its layout in memory: call it before Opacus' hooks are there.

    Opacus cuts patches out of the input by the strides of its first two axes and its own for the others, so that
    behind a permuted layer norm (channels last) it takes other pixels than the convolution did.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(), *inputs[1:]))


def backward(losses: Tensor, weights: Tensor, *, retain_graph: bool = False) -> None:
    """Gradients of the weighted sum of the losses."""
    with warnings.catch_warnings():
        # The first layer's input, the images, needs no gradient; torch remarks on that for every hooked layer.
        warnings.filterwarnings("ignore", message="Full backward hook is firing", category=UserWarning)
        losses.backward(weights, retain_graph=retain_graph)  # type: ignore[no-untyped-call]


def take(parameter: nn.Parameter, name: str, *, rows: int | None = None) -> Tensor:
    """What a backward pass left at a parameter, checked to be there (one row an image) and removed from it."""
    found = getattr(parameter, name, None)
    setattr(parameter, name, None)
    if not isinstance(found, Tensor) or (rows is not None and len(found) != rows):
        raise PrivacyError(
            f"model: a parameter of shape {tuple(parameter.shape)} was not used exactly once in the forward pass, so "
            "its part of an image's gradient is not bounded. Change the model, or freeze the parameter."
        )
    return found.detach()
