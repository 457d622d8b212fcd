"""What a logical step knows of its batch: the sum of the images' gradients, clipped and noised in a DP arm.

The two arms differ in this one object. `GradientSum` adds gradients up as they are. `HooksClipping` and
`GhostClipping` scale each image's gradient to a norm of at most max_grad_norm before it enters the sum, so that the
sum moves by at most that much when one unit is added or removed (Abadi et al. 2016, arXiv 1607.00133, algorithm 1),
and add Gaussian noise of standard deviation noise_multiplier · max_grad_norm. Both arms divide by the
expected batch size, which is public, never by the drawn one, which is not.

Opacus gives the gradient (hooks) or its norm (ghost) of each image. Norms are added up in float64: a float32 norm of a
long row comes out low, and the sum could pass the bound.
"""

import abc
import warnings
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn

from dpdt.errors import PrivacyError
from dpdt.privacy.keystream import KeyStream

__all__ = ["CLIPPING", "ClippedGradientSum", "GhostClipping", "GradientSum", "HooksClipping"]

# Entries of a gradient whose squares are added up in float32; few enough that nothing is lost.
BLOCK: Final = 1024
# Ghost norms are float32 sums over pixels: allow for their rounding, so that the true norm keeps to max_grad_norm.
GHOST_MARGIN: Final = 1e-4

# From the model's outputs and the targets to one loss an image, shape (images,).
Loss = Callable[[Tensor, Tensor], Tensor]


class GradientSum:
    """Sum of the gradients of all images of a logical batch, which comes in any number of physical batches.

    Args:
        model: Its trainable parameters' ``grad`` is what a step leaves behind.
        loss: One loss an image, which must not depend on the other images.
    """

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        self.model = model
        self.loss = loss
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.model.zero_grad(set_to_none=True)

    def add(self, inputs: Tensor, targets: Tensor, *, units: Tensor | None = None) -> Tensor:
        """Add the gradients of one physical batch (not empty).

        Args:
            inputs: What the model takes, images along the first axis.
            targets: What the loss takes, images along the first axis.
            units: Unit of each image, whole numbers, shape (images,): what is added is the mean gradient of each
                unit's images, all of which must be in this physical batch. None: every image is a unit of its own.

        Returns:
            The losses, detached, shape (images,).
        """
        losses = self.loss(self.model(inputs), targets)
        losses.backward(_weights(losses, units))  # type: ignore[no-untyped-call]
        return losses.detach()

    def partial_sums(self) -> list[Tensor]:
        """The sum so far, one tensor a parameter, to be changed in place: several processes add theirs up here."""
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return [parameter.grad for parameter in self.parameters if parameter.grad is not None]

    def release(self, *, expected_batch_size: int) -> None:
        """End the logical batch: put the sum over expected_batch_size into each parameter's ``grad``.

        An empty batch leaves zeros (or, in a DP arm, noise alone).
        """
        for total in self.partial_sums():
            total.div_(expected_batch_size)

    def clear(self) -> None:
        """Forget the last logical batch, released or not."""
        self.model.zero_grad(set_to_none=True)


class ClippedGradientSum(GradientSum, abc.ABC):
    """A sum that one image moves by at most max_grad_norm, released with noise.

    Args:
        model: As above; no module may mix images (no batch norm), each parameter is used once in a forward pass.
        loss: As above.
        max_grad_norm: The clipping norm C, positive.
        noise_multiplier: Sigma; the noise's standard deviation is sigma · C in every coordinate of the sum.
        noise: Where the noise comes from.

    Raises:
        PrivacyError: The model has a module whose gradients cannot be told apart by image.
    """

    def __init__(
        self, model: nn.Module, loss: Loss, *, max_grad_norm: float, noise_multiplier: float, noise: KeyStream
    ) -> None:
        super().__init__(model, loss)
        self.max_grad_norm = max_grad_norm
        self.noise_multiplier = noise_multiplier
        self.noise = noise
        self.sums = [torch.zeros_like(p) for p in self.parameters]
        try:
            self._attach()
        except NotImplementedError as err:
            raise PrivacyError(f"model: the gradient of a single image cannot be had: {err}") from err

    @abc.abstractmethod
    def _attach(self) -> None:
        """Make the model keep what the norms need."""

    @abc.abstractmethod
    def add(self, inputs: Tensor, targets: Tensor, *, units: Tensor | None = None) -> Tensor:
        """Add the clipped gradients of one physical batch; a unit whose gradient is not finite adds zero.

        A unit of several images has one gradient, the mean of theirs, and that is clipped. So it moves the sum by at
        most max_grad_norm however many images it has (Abadi et al. 2016, section 3.1, with a patient's images for their
        example; averaging before clipping as in Charles et al. 2024, arXiv 2407.07737, user-level sampling).
        """

    def partial_sums(self) -> list[Tensor]:
        """The clipped sum so far, without noise."""
        return self.sums

    def release(self, *, expected_batch_size: int) -> None:
        """Put (clipped sum + noise) / expected_batch_size into each parameter's ``grad``."""
        sizes = [p.numel() for p in self.parameters]
        noise = self.noise.normal(sum(sizes)).mul_(self.noise_multiplier * self.max_grad_norm)
        for parameter, total, piece in zip(self.parameters, self.sums, noise.split_with_sizes(sizes), strict=True):
            # Added in float64 and rounded once; KeyStream.normal says what that guards against.
            noised = total.double().add_(piece.view_as(total).to(total.device))
            parameter.grad = noised.div_(expected_batch_size).to(total.dtype)

    def clear(self) -> None:
        """Forget the last logical batch, released or not."""
        super().clear()
        for total in self.sums:
            total.zero_()

    def _factors(self, norms: Tensor) -> Tensor:
        """What each gradient is multiplied with: min(1, C / norm), but 0 where the norm is not finite."""
        factors = (self.max_grad_norm / norms).clamp(max=1.0)
        return torch.where(norms.isfinite(), factors, 0.0).float()


class HooksClipping(ClippedGradientSum):
    """Keeps the gradient of every image of a physical batch (Opacus' hooks), then clips it."""

    def _attach(self) -> None:
        from opacus.grad_sample import GradSampleHooks

        self._hooks = GradSampleHooks(self.model, loss_reduction="sum")

    def add(self, inputs: Tensor, targets: Tensor, *, units: Tensor | None = None) -> Tensor:
        """Add the clipped gradients of one physical batch; a unit whose gradient is not finite adds zero."""
        losses = self.loss(self.model(inputs), targets)
        _backward(losses, _weights(losses, units))
        rows = [_take(p, "grad_sample", rows=len(inputs)).flatten(1) for p in self.parameters]
        if units is not None:
            rows = [_sum_by_unit(row, units) for row in rows]
        norms = torch.stack([_squared_norms(r) for r in rows]).sum(0).sqrt()
        factors, broken = self._factors(norms), ~norms.isfinite()
        for total, row in zip(self.sums, rows, strict=True):
            if broken.any():
                row[broken] = 0.0  # 0 · NaN would be NaN
            total.view(-1).add_(factors @ row)
        self.model.zero_grad(set_to_none=True)
        return losses.detach()


class GhostClipping(ClippedGradientSum):
    """Computes norms alone, then goes back a second time, each loss scaled so that its gradient is clipped.

    Opacus' ghost clipping (Li et al. 2022, arXiv 2110.05679): less memory, more time.
    """

    def _attach(self) -> None:
        from opacus.grad_sample import GradSampleHooksFastGradientClipping

        self._hooks = GradSampleHooksFastGradientClipping(self.model, loss_reduction="sum")

    def add(self, inputs: Tensor, targets: Tensor, *, units: Tensor | None = None) -> Tensor:
        """Add the clipped gradients of one physical batch; an image whose gradient is not finite adds zero."""
        if units is not None and len(torch.unique(units)) < len(units):
            raise PrivacyError("privacy.clipping: ghost has no norm of several images' mean gradient. Use hooks.")
        self._hooks.enable_hooks()
        losses = self.loss(self.model(inputs), targets)
        _backward(losses, torch.ones_like(losses), retain_graph=True)
        self._hooks.disable_hooks()
        self.model.zero_grad(set_to_none=True)
        parts = [_take(p, "_norm_sample", rows=len(inputs)) for p in self.parameters]
        norms = torch.stack([part.double() for part in parts]).square().sum(0).sqrt() * (1 + GHOST_MARGIN)
        factors, finite = self._factors(norms), norms.isfinite()
        weighted = losses
        if not finite.all():  # 0 · NaN would be NaN: the second pass leaves these images out
            weighted, factors = self.loss(self.model(inputs[finite]), targets[finite]), factors[finite]
        _backward(weighted, factors)
        for parameter, total in zip(self.parameters, self.sums, strict=True):
            total.add_(_take(parameter, "grad"))
        self.model.zero_grad(set_to_none=True)
        return losses.detach()


CLIPPING: Final[dict[str, type[ClippedGradientSum]]] = {"hooks": HooksClipping, "ghost": GhostClipping}


def _weights(losses: Tensor, units: Tensor | None) -> Tensor:
    """What each loss counts: one over the number of its unit's images."""
    if units is None:
        return torch.ones_like(losses)
    _, place, counts = torch.unique(units, return_inverse=True, return_counts=True)
    weights: Tensor = counts[place].to(losses.dtype).reciprocal()
    return weights


def _sum_by_unit(rows: Tensor, units: Tensor) -> Tensor:
    """Sums of the rows of each unit: the unit's mean gradient, because the losses were weighted."""
    distinct, place = torch.unique(units, return_inverse=True)
    if len(distinct) == len(units):
        return rows
    return rows.new_zeros(len(distinct), rows.shape[1]).index_add_(0, place, rows)


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


def _squared_norms(rows: Tensor) -> Tensor:
    """Squared norm of each row, in float64 from the float32 norms of short blocks of the row."""
    num_blocks = rows.shape[1] // BLOCK
    whole = rows[:, : num_blocks * BLOCK].reshape(len(rows), num_blocks, BLOCK)
    blocks = torch.linalg.vector_norm(whole, dim=2)
    rest = torch.linalg.vector_norm(rows[:, num_blocks * BLOCK :], dim=1, keepdim=True)
    return torch.cat((blocks, rest), dim=1).double().square().sum(1)
