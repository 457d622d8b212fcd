"""Opacus' ghost clipping: the norm of every image's gradient, then a second backward pass of scaled losses."""

from typing import Final

import torch
from torch import Tensor

from dpdt.errors import PrivacyError
from dpdt.privacy.clipping.gradient_sum import ClippedGradientSum
from dpdt.privacy.clipping.opacus_hooks import backward, in_rows, take

__all__ = ["GhostClipping"]

# Ghost norms are float32 sums over pixels: allow for their rounding, so that the true norm keeps to max_grad_norm.
GHOST_MARGIN: Final = 1e-4


class GhostClipping(ClippedGradientSum):
    """Computes norms alone, then goes back a second time, each loss scaled so that its gradient is clipped.

    Opacus' ghost clipping (Li et al. 2022, arXiv 2110.05679): less memory, more time. Under autocast its second pass
    is rounded to bfloat16 after the norms were taken, and passes the bound by a per cent: refused.
    """

    def _attach(self) -> None:
        from opacus.grad_sample import GradSampleHooksFastGradientClipping

        if len(self.layers) > 1:
            raise PrivacyError("privacy.clip_scope: ghost has one factor for all layers. Use bookkeeping.")
        if self.autocast:
            raise PrivacyError("privacy.clipping: ghost breaks its bound in bfloat16. Use bookkeeping.")
        in_rows(self.model)
        self._hooks = GradSampleHooksFastGradientClipping(self.model, loss_reduction="sum")

    def close(self) -> None:
        """Remove the hooks."""
        self._hooks.remove_hooks()

    def _add(self, inputs: Tensor, targets: Tensor, *, weights: Tensor, units: Tensor | None) -> Tensor:
        if units is not None and len(torch.unique(units)) < len(units):
            raise PrivacyError("privacy.clipping: ghost has no norm of several images' mean gradient. Use bookkeeping.")
        self._hooks.enable_hooks()
        losses = self._losses(inputs, targets)
        weights = weights.to(losses.dtype)
        backward(losses, weights, retain_graph=True)
        self._hooks.disable_hooks()
        self.model.zero_grad(set_to_none=True)
        parts = [take(p, "_norm_sample", rows=len(inputs)) for p in self.parameters]
        norms = torch.stack([part.double() for part in parts]).square().sum(0).sqrt() * (1 + GHOST_MARGIN)
        factors, finite = self._factors(norms) * weights, norms.isfinite()
        weighted = losses
        if not finite.any():
            return losses.detach()
        if not finite.all():  # 0 · NaN would be NaN: another image takes their place in the second pass, times zero
            stand_in = torch.where(finite, torch.arange(len(finite), device=finite.device), finite.int().argmax())
            weighted = self._losses(inputs[stand_in], targets[stand_in])
        backward(weighted, factors)
        for parameter, total in zip(self.parameters, self.sums, strict=True):
            total.add_(take(parameter, "grad"))
        self.model.zero_grad(set_to_none=True)
        return losses.detach()
