"""Clipping with the gradient of every image, which Opacus' hooks give."""

import torch
from torch import Tensor

from dpdt.privacy.clipping.gradient_sum import ClippedGradientSum, full, squared_norms, sum_by_unit
from dpdt.privacy.clipping.opacus_hooks import backward, in_rows, take

__all__ = ["HooksClipping"]


class HooksClipping(ClippedGradientSum):
    """Keeps the gradient of every image of a physical batch (Opacus' hooks), then clips it."""

    def _attach(self) -> None:
        from opacus.grad_sample import GradSampleHooks

        in_rows(self.model)
        self._hooks = GradSampleHooks(self.model, loss_reduction="sum")

    def close(self) -> None:
        """Remove the hooks."""
        self._hooks.remove_hooks()

    def _add(self, inputs: Tensor, targets: Tensor, *, weights: Tensor, units: Tensor | None) -> Tensor:
        losses = self._losses(inputs, targets)
        backward(losses, weights.to(losses.dtype))
        sums = dict(zip(self.parameters, self.sums, strict=True))
        for layer in self.layers:
            rows = [full(take(p, "grad_sample", rows=len(inputs)).flatten(1)) for p in layer]
            if units is not None:
                rows = [sum_by_unit(row, units) for row in rows]
            norms = torch.stack([squared_norms(r) for r in rows]).sum(0).sqrt()
            factors, broken = self._factors(norms), ~norms.isfinite()
            for parameter, row in zip(layer, rows, strict=True):
                if broken.any():
                    row[broken] = 0.0  # 0 · NaN would be NaN
                sums[parameter].view(-1).add_(factors @ row)
        self.model.zero_grad(set_to_none=True)
        return losses.detach()
