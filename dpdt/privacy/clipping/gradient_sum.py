"""The sum of a logical batch's gradients; in a DP arm each is clipped, and noise is added.

The two arms differ in this one object. `GradientSum` adds gradients up as they are. A `ClippedGradientSum` scales each
image's gradient to a norm of at most max_grad_norm before it enters the sum, so that the sum moves by at most that
much when one unit is added or removed (Abadi et al. 2016, arXiv 1607.00133, algorithm 1), and adds Gaussian noise of
standard deviation noise_multiplier · max_grad_norm. Both arms divide by the expected batch size, which is public, never
by the drawn one, which is not. `dpdt.privacy.clipping.engines` has the ways to clip.
"""

import abc
import math
import textwrap
from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor, nn

from dpdt import _core
from dpdt.errors import PrivacyError
from dpdt.privacy.keystream import KeyStream

__all__ = [
    "ClippedGradientSum",
    "GradientSum",
    "Loss",
    "add_rows",
    "full",
    "in_core",
    "mixes_images",
    "squared_norms",
    "sum_by_unit",
    "unit_weights",
]

# Entries of a gradient to square and add up in float32 on a GPU; few enough that nothing is lost.
BLOCK: Final = 1024
# Gamma of automatic clipping (AUTO-S of Bu et al. 2022, arXiv 2206.07136, with their default).
GAMMA: Final = 0.01
# Of a norm that follows the gradients': the middle, and how fast (Andrew et al. 2021, arXiv 1905.03871, section 3.1).
QUANTILE: Final = 0.5
RATE: Final = 0.2
RANGE: Final = 1e3  # it stays within these times, and this part, of the first one

# From the model's outputs and the targets to one loss an image, shape (images,).
Loss = Callable[[Tensor, Tensor], Tensor]


class GradientSum:
    """Sum of the gradients of all images of a logical batch, which comes in any number of physical batches.

    Args:
        model: Its trainable parameters' ``grad`` is what a step leaves behind.
        loss: One loss an image, which must not depend on the other images.
        autocast: Compute the forward pass in bfloat16 where torch's autocast does; parameters and sums stay float32.
    """

    def __init__(self, model: nn.Module, loss: Loss, *, autocast: bool = False) -> None:
        self.model = model
        self.loss = loss
        self.autocast = autocast
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.counts: list[Tensor] = []  # beside the partial sums, where something is counted; float64
        self.model.zero_grad(set_to_none=True)

    def add(self, inputs: Tensor, targets: Tensor, *, units: Tensor | None = None) -> Tensor:
        """Add the gradients of one physical batch (not empty).

        Args:
            inputs: What the model takes, images along the first axis.
            targets: What the loss takes, images along the first axis.
            units: Unit of each image, whole numbers, shape (images,): what is added is the mean gradient of each
                unit's images, all of which must be in this physical batch. None: every image is its own unit.

        Returns:
            The losses, detached, shape (images,).
        """
        losses = self._losses(inputs, targets)
        losses.backward(unit_weights(inputs, units).to(losses.dtype))  # type: ignore[no-untyped-call]
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

    def close(self) -> None:
        """Take from the model what this sum put there: another may follow, of other parameters."""

    def _losses(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Forward pass; the loss itself is float32 or better."""
        return self.loss(full(self._outputs(inputs)), targets)

    def _outputs(self, inputs: Tensor) -> Tensor:
        with torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=self.autocast):
            outputs: Tensor = self.model(inputs)
        return outputs


class ClippedGradientSum(GradientSum, abc.ABC):
    """A sum that one image moves by at most max_grad_norm, released with noise.

    Args:
        model: As above; no module may mix images (no batch norm that learns).
        loss: As above.
        max_grad_norm: The clipping norm C, positive.
        noise_multiplier: Sigma; the noise's standard deviation is sigma · C in every coordinate of the sum.
        noise: Where the noise comes from.
        autocast: As above; norms and sums are float32 or better.
        count_noise: The norm follows the middle of the gradients' norms: each unit also adds h - 1/2 to a count, where
            h falls from 1 at half the norm to 0 at one and a half, and the count is released after the sum with noise
            of this standard deviation (Andrew et al. 2021, arXiv 1905.03871, algorithm 1, whose h is a step). A unit
            moves the count by 1/2; h is no steeper than 1 / norm, so what rounding changes in gradients of up to one
            and a half norms (`dpdt.privacy.rounding`) moves it by 1.5 s. None: the norm stays.
        by_layer: Clip each layer's gradient of a unit by itself, to C over the root of the number of layers, so that
            all together are bounded by C (He et al. 2022, arXiv 2212.01539, with the same share for each). A layer is
            a module with trained parameters of its own; those that modules share are the first one's.
        automatic: Multiply a gradient with C / (norm + GAMMA) in place of min(1, C / norm): small ones are made larger,
            and its norm is still below C (Bu et al. 2022, arXiv 2206.07136, AUTO-S).
        fill_to: Images of every physical batch: what is missing is filled with zeros that weigh nothing. Other kernels,
            which round otherwise, are taken for batches of another size, so without it an image that comes or goes
            changes its neighbours' gradients too (`dpdt.privacy.rounding`). None: as many as there are.
        recorded_ways: How a run that was begun found the norms, as `choose_ways` told; what is not in it is chosen.

    Raises:
        PrivacyError: The model has a module without separate gradients for each image.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        *,
        max_grad_norm: float,
        noise_multiplier: float,
        noise: KeyStream,
        autocast: bool = False,
        fill_to: int | None = None,
        automatic: bool = False,
        by_layer: bool = False,
        recorded_ways: Mapping[str, str] | None = None,
        count_noise: float | None = None,
    ) -> None:
        super().__init__(model, loss, autocast=autocast)
        self.count_noise, self.first_norm, self._units_added = count_noise, max_grad_norm, 0
        if count_noise is not None:
            self.counts = [self.parameters[0].new_zeros((), dtype=torch.float64)]
        self.automatic = automatic
        self.layers = _layers(model) if by_layer else [self.parameters]
        self.recorded_ways = recorded_ways or {}
        self.fill_to = fill_to
        self.max_grad_norm = max_grad_norm
        self.noise_multiplier = noise_multiplier
        self.noise = noise
        self.sums = [torch.zeros_like(p) for p in self.parameters]
        for name, module in model.named_modules():
            if mixes_images(module):
                raise PrivacyError(
                    f"model: no separate gradient for each image: {name or 'it'} is a "
                    f"{type(module).__name__}, which mixes the images of a batch. Use group norm."
                )
        try:
            self._attach()
        except NotImplementedError as err:
            why = textwrap.shorten(str(err), 200, placeholder=" …")  # Opacus prints the whole network
            raise PrivacyError(f"model: the gradient of a single image cannot be had: {why}") from err

    @classmethod
    def choose_ways(cls, model: nn.Module, *, shape: tuple[int, ...], recorded: Mapping[str, str]) -> dict[str, str]:
        """How the norm of each parameter's gradient will be found, where there are several ways.

        Two ways round differently, so a run keeps to those that it began with.

        Args:
            model: Left as it is.
            shape: Of an image as it takes it, (1, size, size).
            recorded: Ways that the run began with; empty for a new one.

        Returns:
            By the parameter's name; empty for an engine that has one way alone.
        """
        return {}

    @abc.abstractmethod
    def _attach(self) -> None:
        """Make the model keep what the norms need."""

    def add(self, inputs: Tensor, targets: Tensor, *, units: Tensor | None = None) -> Tensor:
        """Add the clipped gradients of one physical batch; what is not finite of a unit's (by layer: in it) adds zero.

        A unit of several images has one gradient, the mean of theirs, and that is clipped. So it moves the sum by at
        most max_grad_norm however many images it has (Abadi et al. 2016, section 3.1, with a patient's images for their
        example; averaging before clipping as in Charles et al. 2024, arXiv 2407.07737, user-level sampling).
        """
        images = len(inputs)
        self._units_added = images if units is None else len(torch.unique(units))
        missing = 0 if self.fill_to is None else self.fill_to - images
        weights = unit_weights(inputs, units)
        if missing > 0:
            inputs, targets, weights = (_filled(values, missing) for values in (inputs, targets, weights))
            if units is not None:  # filling images, each its own unit
                units = torch.cat((units, units.max() + 1 + torch.arange(missing, device=units.device)))
        return self._add(inputs, targets, weights=weights, units=units)[:images]

    @abc.abstractmethod
    def _add(self, inputs: Tensor, targets: Tensor, *, weights: Tensor, units: Tensor | None) -> Tensor:
        """Add the clipped gradients of one physical batch, each image's loss times its weight."""

    def _losses(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """In float64 where an image's loss must not depend on its place: the last of a vector are rounded otherwise."""
        if self.fill_to is None:
            return super()._losses(inputs, targets)
        outputs = self._outputs(inputs)
        return self.loss(outputs.double(), targets).to(full(outputs).dtype)

    def partial_sums(self) -> list[Tensor]:
        """The clipped sum so far, without noise."""
        return self.sums

    def release(self, *, expected_batch_size: int) -> None:
        """Put (clipped sum + noise) / expected_batch_size into each parameter's ``grad``, in the sum's own memory."""
        scale = self.noise_multiplier * self.max_grad_norm
        for parameter, total in zip(self.parameters, self.partial_sums(), strict=True):
            self.noise.noise(total, scale=scale, divisor=expected_batch_size)
            parameter.grad = total
        for count in self.counts:
            self.noise.noise(count.view(1), scale=self.count_noise or 0.0, divisor=expected_batch_size)
            norm = self.max_grad_norm * math.exp(min(-RATE * (count.item() + 0.5 - QUANTILE), math.log(RANGE**2)))
            self.max_grad_norm = min(max(norm, self.first_norm / RANGE), self.first_norm * RANGE)

    def clear(self) -> None:
        """Forget the last logical batch, released or not; the next one's noise is made during its passes.

        With a GPU, that is: on the CPU the passes take all cores, and noise that waits takes memory.
        """
        super().clear()
        self._clear_sums()
        for count in self.counts:
            count.zero_()
        device = self.parameters[0].device if self.parameters else torch.device("cpu")
        if device.type != "cpu" and self.noise_multiplier > 0:
            spare = max(1, torch.get_num_threads() - 1)  # one is for the thread that feeds the GPU
            self.noise.make_ahead([p.numel() for p in self.parameters], device=device, num_threads=spare)

    def _clear_sums(self) -> None:
        for total in self.sums:
            total.zero_()

    def _factors(self, norms: Tensor) -> Tensor:
        """What each gradient, or its part in one layer, is multiplied with; 0 where the norm is not finite.

        The product's norm is at most C over the root of the number of layers.

        Rounding is no more than without `automatic`: an error e of a gradient enters the sum as e · C / (norm + GAMMA),
        which is below the e · C / norm of a gradient that is clipped.
        """
        for count in self.counts:
            below = (1.5 - norms[: self._units_added].double() / self.max_grad_norm).clamp(0.0, 1.0)  # behind: filling
            count.add_((below.nan_to_num() - 0.5).sum())
        bound = self.max_grad_norm / math.sqrt(len(self.layers))
        factors = bound / (norms + GAMMA) if self.automatic else (bound / norms).clamp(max=1.0)
        return torch.where(norms.isfinite(), factors, 0.0).to(self.sums[0].dtype)


def _layers(model: nn.Module) -> list[list[nn.Parameter]]:
    """Trained parameters by the first module that has them itself."""
    seen: set[nn.Parameter] = set()
    layers = []
    for module in model.modules():
        own = [p for p in module.parameters(recurse=False) if p.requires_grad and p not in seen]
        seen.update(own)
        layers += [own] if own else []
    return layers


def mixes_images(module: nn.Module) -> bool:
    """Whether it is a batch norm that computes with its batch; a frozen one has numbers of its own."""
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.training or module.running_mean is None)


def full(values: Tensor) -> Tensor:
    """Values of half precision in single precision; others as they are."""
    return values.float() if values.itemsize < torch.float32.itemsize else values


def in_core(values: Tensor) -> bool:
    """Whether the core can compute with these numbers."""
    return values.device.type == "cpu" and values.dtype == torch.float32


def unit_weights(inputs: Tensor, units: Tensor | None) -> Tensor:
    """What each image's loss counts: one over the number of its unit's images; shape (images,), float64."""
    if units is None:
        return torch.ones(len(inputs), dtype=torch.float64, device=inputs.device)
    _, place, counts = torch.unique(units, return_inverse=True, return_counts=True)
    weights: Tensor = counts[place].double().reciprocal()
    return weights


def _filled(values: Tensor, missing: int) -> Tensor:
    """With so many zeros behind them."""
    return torch.cat((values, values.new_zeros(missing, *values.shape[1:])))


def sum_by_unit(rows: Tensor, units: Tensor) -> Tensor:
    """Sums of the rows of each unit: the unit's mean gradient, because the losses were weighted.

    Args:
        rows: Gradient of each image, shape (images, numbers).
        units: Unit of each image, shape (images,).

    Returns:
        In the order of the units' numbers, shape (units, numbers).
    """
    distinct, place = torch.unique(units, return_inverse=True)
    return add_rows(rows.new_zeros(len(distinct), rows.shape[1]), place, rows)


def add_rows(table: Tensor, place: Tensor, rows: Tensor) -> Tensor:
    """Add each row to the table's row of its number, in place, and in one order: CUDA's index_add_ takes any."""
    if table.device.type == "cpu":
        return table.index_add_(0, place, rows)
    return table.index_put_((place,), rows, accumulate=True)


def squared_norms(rows: Tensor) -> Tensor:
    """Squared norm of each row, in float64: a float32 norm of a long row comes out low, the sum could pass the bound.

    On the CPU the core adds up squares in float64; elsewhere these are float64 sums of float32 norms of short blocks.

    Args:
        rows: Shape (images, numbers).

    Returns:
        Shape (images,).
    """
    if in_core(rows):
        squared = torch.zeros(len(rows), dtype=torch.float64)
        _core.add_squared_norms(
            rows.detach().contiguous().numpy(), squared.numpy(), num_threads=torch.get_num_threads()
        )
        return squared
    num_blocks = rows.shape[1] // BLOCK
    whole = rows[:, : num_blocks * BLOCK].reshape(len(rows), num_blocks, BLOCK)
    blocks = torch.linalg.vector_norm(whole, dim=2)
    rest = torch.linalg.vector_norm(rows[:, num_blocks * BLOCK :], dim=1, keepdim=True)
    return torch.cat((blocks, rest), dim=1).double().square().sum(1)
