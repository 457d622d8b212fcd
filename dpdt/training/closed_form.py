"""A head in closed form: least squares on noisy moments of a frozen network's features, in one release.

For features x of an image and targets t (1, -1, 0 where unknown) least squares needs two sums over the images, the Gram
matrix of (x, c) and the cross-moment of t and (x, c), c being a constant. They are released once with Gaussian noise
(Mehta et al. 2023, arXiv 2211.13403; Wang 2018, arXiv 1803.02596), and the head is computed from them alone.

Sensitivity. With z = (x, c) / |(x, c)| an image adds sqrt(G) z z' to the first sum and sqrt((1 - G) / L) s z' to the
second, s = t c / |(x, c)|. As |z| = 1, c <= |(x, c)| and |t|² <= L, the labels, both together have a squared norm of
G + (1 - G) |s|² / L <= 1, whatever the image and whichever labels are unknown. A unit adds the mean of its images'
terms, so no unit moves the sums by more than 1.

The weights 1 / |(x, c)|² make this weighted least squares for t ~ w·x + b: nothing is cut off. c only has to be of the
features' size; it is that of made-up images (`Features.scale`), which is public.
"""

import math
from typing import Final

import torch
from torch import Tensor, nn

from dpdt.privacy.clipping.gradient_sum import GradientSum, Loss, unit_weights
from dpdt.privacy.keystream import KeyStream

__all__ = ["MomentSum"]

GRAM: Final = 0.4
"""G, the Gram matrix' part of the squared sensitivity."""
LEAST_PENALTY: Final = 1e-4
"""Of the ridge without noise, for each unit."""
SLOPE: Final = 4.0
"""A logit over 2 p - 1, which least squares predicts: 2 at p = 1/2, 4.7 at p = 0.01."""


class MomentSum(GradientSum):
    """The noisy moments in the gradients' place: a step of length 1 goes to the solution.

    It is that of a ridge towards the head as it begins, so that with much noise the model is the one before. Its
    penalty is the noise of the Gram matrix times the root of its width, half of the largest eigenvalue of noise alone
    (Wigner's law), plus a small part of the number of units: public numbers. Eigenvalues below 0, which only noise
    makes, are set to 0.

    Args:
        model: The head.
        loss: For the log alone.
        scale: c.
        noise_multiplier: Standard deviation of the noise over the sensitivity, 1; 0 without DP.
        noise: Where the noise comes from.
    """

    def __init__(
        self, model: nn.Module, loss: Loss, *, scale: float, noise_multiplier: float, noise: KeyStream
    ) -> None:
        super().__init__(model, loss)
        self.scale, self.noise_multiplier, self.noise = scale, noise_multiplier, noise
        labels, width = self.parameters[0].shape
        like = self.parameters[0].new_zeros((), dtype=torch.float64)
        self.sums = [like.repeat(width + 1, width + 1), like.repeat(labels, width + 1)]

    @torch.no_grad()
    def add(self, inputs: Tensor, targets: Tensor, *, units: Tensor | None = None) -> Tensor:
        """Add the moments of some images; one with a feature that is not finite adds zero. As ``GradientSum.add``.

        The loss is NaN: nothing needs it, and here it would be the exact mean over all units under a known head.
        """
        rows = torch.cat((inputs.double(), inputs.new_full((len(inputs), 1), self.scale).double()), dim=1)
        norms = rows.norm(dim=1, keepdim=True)
        rows = torch.where(norms.isfinite(), rows / norms, 0.0)
        signs = (2 * targets.double() - 1).clamp(-1, 1).nan_to_num() * (self.scale / norms).nan_to_num()
        counted = rows * unit_weights(inputs, units)[:, None]
        self.sums[0].addmm_(counted.t(), rows, alpha=math.sqrt(GRAM))
        self.sums[1].addmm_(signs.t(), counted, alpha=math.sqrt((1 - GRAM) / signs.shape[1]))
        return inputs.new_tensor(math.nan)

    def partial_sums(self) -> list[Tensor]:
        """The moments so far, without noise."""
        return self.sums

    @torch.no_grad()
    def release(self, *, expected_batch_size: int) -> None:
        """Noise both sums, once, and put (weights - solution) into each parameter's ``grad``."""
        if self.noise_multiplier > 0:
            for total in self.sums:
                self.noise.noise(total, scale=self.noise_multiplier, divisor=1.0)
        solution = self._solution(LEAST_PENALTY * expected_batch_size)
        weight_and_bias = (solution[:, :-1] / self.scale, solution[:, -1])
        for parameter, solved in zip(self.parameters, weight_and_bias, strict=False):
            parameter.grad = parameter - (SLOPE * solved).to(parameter.dtype)

    def clear(self) -> None:
        """Forget the sums."""
        super().clear()
        for total in self.sums:
            total.zero_()

    def _solution(self, least_penalty: float) -> Tensor:
        """From the noisy sums and the first head; (labels, width + 1), the last column that of c, 0 without bias."""
        gram, cross = self.sums[0] / math.sqrt(GRAM), self.sums[1] / math.sqrt((1 - GRAM) / len(self.sums[1]))
        gram = (gram + gram.t()) / 2  # whose noise is then less by the root of 2
        size = len(gram) - (len(self.parameters) < 2)
        penalty = self.noise_multiplier * math.sqrt(size / (2 * GRAM)) + least_penalty
        values, vectors = torch.linalg.eigh(gram[:size, :size])
        values = values.clamp(min=0.0)
        solution = torch.zeros_like(cross)
        for parameter, column in zip(self.parameters, (solution[:, :-1], solution[:, -1]), strict=False):
            column.copy_(parameter / SLOPE)
        solution[:, :-1] *= self.scale
        first = solution[:, :size] @ vectors
        solution[:, :size] += (cross[:, :size] @ vectors - first * values) / (values + penalty) @ vectors.t()
        return solution
