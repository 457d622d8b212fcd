"""The ways to clip: dpdt's book-keeping (the default), and Opacus' hooks and ghost clipping.

All give the same clipped sum up to rounding; `dpdt.privacy.clipping.gradient_sum` says what it is for. Opacus gives the
gradient (hooks) or its norm (ghost) of each image. Norms are added up in float64: a float32 norm of a long row comes
out low, and the sum could pass the bound.
"""

import warnings
from typing import Final

import torch
from torch import Tensor, nn

from dpdt.errors import PrivacyError
from dpdt.privacy.clipping.bookkeeping import BookkeepingClipping
from dpdt.privacy.clipping.gradient_sum import (
    ClippedGradientSum,
    GradientSum,
    full,
    squared_norms,
    sum_by_unit,
)

__all__ = ["CLIPPING", "BookkeepingClipping", "ClippedGradientSum", "GhostClipping", "GradientSum", "HooksClipping"]

# Ghost norms are float32 sums over pixels: allow for their rounding, so that the true norm keeps to max_grad_norm.
GHOST_MARGIN: Final = 1e-4


class HooksClipping(ClippedGradientSum):
    """Keeps the gradient of every image of a physical batch (Opacus' hooks), then clips it."""

    def _attach(self) -> None:
        from opacus.grad_sample import GradSampleHooks

        self._hooks = GradSampleHooks(self.model, loss_reduction="sum")

    def _add(self, inputs: Tensor, targets: Tensor, *, weights: Tensor, units: Tensor | None) -> Tensor:
        losses = self._losses(inputs, targets)
        _backward(losses, weights.to(losses.dtype))
        rows = [full(_take(p, "grad_sample", rows=len(inputs)).flatten(1)) for p in self.parameters]
        if units is not None:
            rows = [sum_by_unit(row, units) for row in rows]
        norms = torch.stack([squared_norms(r) for r in rows]).sum(0).sqrt()
        factors, broken = self._factors(norms), ~norms.isfinite()
        for total, row in zip(self.sums, rows, strict=True):
            if broken.any():
                row[broken] = 0.0  # 0 · NaN would be NaN
            total.view(-1).add_(factors @ row)
        self.model.zero_grad(set_to_none=True)
        return losses.detach()


class GhostClipping(ClippedGradientSum):
    """Computes norms alone, then goes back a second time, each loss scaled so that its gradient is clipped.

    Opacus' ghost clipping (Li et al. 2022, arXiv 2110.05679): less memory, more time. Under autocast its second pass
    is rounded to bfloat16 after the norms were taken, and passes the bound by a per cent: refused.
    """

    def _attach(self) -> None:
        from opacus.grad_sample import GradSampleHooksFastGradientClipping

        if self.autocast:
            raise PrivacyError("privacy.clipping: ghost breaks its bound in bfloat16. Use bookkeeping.")
        self._hooks = GradSampleHooksFastGradientClipping(self.model, loss_reduction="sum")

    def _add(self, inputs: Tensor, targets: Tensor, *, weights: Tensor, units: Tensor | None) -> Tensor:
        if units is not None and len(torch.unique(units)) < len(units):
            raise PrivacyError("privacy.clipping: ghost has no norm of several images' mean gradient. Use bookkeeping.")
        self._hooks.enable_hooks()
        losses = self._losses(inputs, targets)
        weights = weights.to(losses.dtype)
        _backward(losses, weights, retain_graph=True)
        self._hooks.disable_hooks()
        self.model.zero_grad(set_to_none=True)
        parts = [_take(p, "_norm_sample", rows=len(inputs)) for p in self.parameters]
        norms = torch.stack([part.double() for part in parts]).square().sum(0).sqrt() * (1 + GHOST_MARGIN)
        factors, finite = self._factors(norms) * weights, norms.isfinite()
        weighted = losses
        if not finite.any():
            return losses.detach()
        if not finite.all():  # 0 · NaN would be NaN: another image takes their place in the second pass, times zero
            stand_in = torch.where(finite, torch.arange(len(finite), device=finite.device), finite.int().argmax())
            weighted = self._losses(inputs[stand_in], targets[stand_in])
        _backward(weighted, factors)
        for parameter, total in zip(self.parameters, self.sums, strict=True):
            total.add_(_take(parameter, "grad"))
        self.model.zero_grad(set_to_none=True)
        return losses.detach()


CLIPPING: Final[dict[str, type[ClippedGradientSum]]] = {
    "bookkeeping": BookkeepingClipping,
    "hooks": HooksClipping,
    "ghost": GhostClipping,
}


def _backward(losses: Tensor, weights: Tensor, *, retain_graph: bool = False) -> None:
    """Gradients of the weighted sum of the losses."""
    with warnings.catch_warnings():
        # The first layer's input, the images, needs no gradient; torch remarks on that for every hooked layer.
        warnings.filterwarnings("ignore", message="Full backward hook is firing", category=UserWarning)
        losses.backward(weights, retain_graph=retain_graph)  # type: ignore[no-untyped-call]


def _take(parameter: nn.Parameter, name: str, *, rows: int | None = None) -> Tensor:
    """What a backward pass left at a parameter, checked to be there (one row an image) and removed from it."""
    found = getattr(parameter, name, None)
    setattr(parameter, name, None)
    if not isinstance(found, Tensor) or (rows is not None and len(found) != rows):
        raise PrivacyError(
            f"model: a parameter of shape {tuple(parameter.shape)} was not used exactly once in the forward pass, so "
            "its part of an image's gradient is not bounded. Change the model, or freeze the parameter."
        )
    return found.detach()
