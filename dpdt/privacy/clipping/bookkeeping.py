"""Clipping in one backward pass: book-keeping (Bu et al. 2022, arXiv 2210.00038).

The backward pass goes through layers that compute no weight gradient (`dpdt.privacy.clipping.layers`; where a parameter
is used otherwise, `dpdt.privacy.clipping.traced`) but leave, for every use of a parameter, either the gradient of each
image or, where that is cheaper, the layer's input and output gradient, from which the norm of each image's gradient
follows without it. The norms of all parameters together give each image its factor, and the clipped sum is one
contraction a parameter. Nothing is computed twice: no second backward pass, no ordinary weight gradient. Where each
layer is clipped by itself its contraction is made as soon as the backward pass has left it, and its memory is free.

A gradient without a bound must not enter the sum. So after each backward pass every trainable parameter must have been
used by layers that left pieces, each use must have been reached exactly once, and no gradient may have come to a
parameter in torch's ordinary way.
"""

import copy
from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dpdt.errors import PrivacyError
from dpdt.privacy.clipping.gradient_sum import ClippedGradientSum, squared_norms, sum_by_unit
from dpdt.privacy.clipping.per_sample import Piece, Rows
from dpdt.privacy.clipping.traced import ImagesNotFollowedError, traced
from dpdt.privacy.keystream import KeyStream

__all__ = ["BookkeepingClipping"]


class BookkeepingClipping(ClippedGradientSum):
    """Norms and clipped sum from one backward pass.

    A module that is called twice, or a parameter that two modules share, counts with the sum of its gradients.

    Attributes:
        ways: How the norm of each parameter is found, by the parameter's name, after the first batch.
    """

    def _attach(self) -> None:
        self.ways: dict[str, str] = {}
        self._names = {parameter: name for name, parameter in self.model.named_parameters()}
        self._numbers = {parameter: number for number, parameter in enumerate(self.parameters)}
        self._layer_of = {parameter: number for number, layer in enumerate(self.layers) for parameter in layer}
        self.images, self.follows_images = 0, False
        self._units: Tensor | None = None
        self._forget_batch()
        for name, module in self.model.named_modules():
            if getattr(module, "batch_first", True) is False:
                kind = type(module).__name__
                raise NotImplementedError(f"{name} is a {kind} with batch_first=False; every layer takes images first")

    @classmethod
    def choose_ways(cls, model: nn.Module, *, shape: tuple[int, ...], recorded: Mapping[str, str]) -> dict[str, str]:
        """The ways depend on shapes alone: one made-up image shows them."""
        spare, key = copy.deepcopy(model), KeyStream.from_seed("ways")
        sums = cls(spare, _first_output, max_grad_norm=1.0, noise_multiplier=0.0, noise=key, recorded_ways=recorded)
        device = next(spare.parameters()).device
        sums.add(torch.zeros(1, *shape, device=device), torch.zeros(1, device=device))
        return dict(sorted(sums.ways.items()))

    def name(self, parameter: nn.Parameter) -> str:
        """In the network."""
        return self._names[parameter]

    def recorded_way(self, parameter: nn.Parameter) -> str | None:
        """How a run that was begun finds its norm; of several uses each is chosen by its own shapes."""
        return None if self._uses[parameter] > 1 else self.recorded_ways.get(self._names.get(parameter, ""))

    def _forget_batch(self) -> None:
        self._uses: dict[nn.Parameter, int] = defaultdict(int)
        self._reached: dict[nn.Parameter, int] = defaultdict(int)
        self._pieces: dict[int, list[Piece]] = defaultdict(list)  # by the layer's number
        self._summed: dict[nn.Parameter, Tensor] = {}  # rows of parameters that are used more than once
        self._squared: dict[int, Tensor] = {}

    def _add(self, inputs: Tensor, targets: Tensor, *, weights: Tensor, units: Tensor | None) -> Tensor:
        place = None
        if units is not None:
            distinct, place = torch.unique(units, return_inverse=True)
            place = None if len(distinct) == len(units) else place
        self._forget_batch()
        self.images, self._units = len(inputs), place
        try:
            losses = self._traced_losses(inputs, targets)
            losses.backward(weights.to(losses.dtype))  # type: ignore[no-untyped-call]
            self._check_cover()
            if 0 in self._squared:  # by layer all is contracted
                self._contract(0)
        finally:
            self.images, self._units = 0, None
            self._forget_batch()
            self.model.zero_grad(set_to_none=True)
        return losses.detach()

    def _traced_losses(self, inputs: Tensor, targets: Tensor) -> Tensor:
        if self.follows_images and inputs.is_floating_point():
            inputs = inputs.detach().requires_grad_()
        try:
            with traced(self.model, self):
                return self._losses(inputs, targets)
        except ImagesNotFollowedError:  # once; the images' gradient costs a little
            self.follows_images = True
            self._uses.clear()
            return self._traced_losses(inputs, targets)

    def partial_sums(self) -> list[Tensor]:
        """The clipped sum so far, without noise; a sum that nothing was added to gets its own memory."""
        self.sums = [total.contiguous() for total in self.sums]
        return self.sums

    def _clear_sums(self) -> None:
        """Zeros that the next physical batch takes the place of."""
        self.sums = [parameter.new_zeros(()).expand(parameter.shape) for parameter in self.parameters]

    def used(self, parameter: nn.Parameter) -> None:
        """A layer used a parameter in the forward pass."""
        self._uses[parameter] += 1

    def keep(self, piece: Piece, *, way: str) -> None:
        """The backward pass reached a use of a parameter: take its norms, or wait for its other uses."""
        parameter = piece.parameter
        if parameter not in self._names:  # made in the forward pass: `_check_cover` misses the one that it replaced
            return
        if len(piece) != self.images:
            raise PrivacyError(
                f"model: {self._names[parameter]} saw {len(piece)} images where the batch has {self.images}. "
                "The first axis of every layer's input must be the batch."
            )
        self.ways.setdefault(self._names[parameter], way)
        self._reached[parameter] += 1
        if self._uses[parameter] > 1:
            rows = piece.rows()
            known = self._summed.get(parameter)
            self._summed[parameter] = rows.clone() if known is None else known.add_(rows)
            if self._reached[parameter] < self._uses[parameter]:
                return
            piece = Rows(parameter, self._summed.pop(parameter))
        layer, squared = self._layer_of[parameter], self._squared_norms(piece)
        self._pieces[layer].append(piece)
        self._squared[layer] = self._squared[layer].add_(squared) if layer in self._squared else squared
        # by layer at once: what a layer left is freed. A use that comes later is an error (`_check_cover`)
        if len(self.layers) > 1 and all(0 < self._uses[p] == self._reached[p] for p in self.layers[layer]):
            self._contract(layer)

    def _squared_norms(self, piece: Piece) -> Tensor:
        """Of each image's gradient, or of each unit's."""
        return piece.squared_norms() if self._units is None else squared_norms(sum_by_unit(piece.rows(), self._units))

    def _check_cover(self) -> None:
        """Every trainable parameter's gradient is in the norms, all of it, once."""
        for parameter in self.parameters:
            uses, reached = self._uses[parameter], self._reached[parameter]
            if uses == 0 or uses != reached or parameter.grad is not None:
                elsewhere = "" if parameter.grad is None else ", and a gradient came from outside of its module"
                raise PrivacyError(
                    f"model: parameter {self._names[parameter]} of shape {tuple(parameter.shape)} was not used exactly "
                    f"once in the forward pass: its modules used it {uses} times, gradients reached {reached} of "
                    f"these{elsewhere}. So its part of an image's gradient is not bounded. Change the model, or freeze "
                    "the parameter."
                )

    @torch.no_grad()
    def _contract(self, layer: int) -> None:
        """Add each image's gradient of a layer, times its factor, to the sums."""
        norms, pieces = self._squared.pop(layer).sqrt(), self._pieces[layer]
        factors, broken = self._factors(norms), ~norms.isfinite()
        if self._units is not None:
            factors, broken = factors[self._units], broken[self._units]
        any_broken = bool(broken.any())
        while pieces:
            piece = pieces.pop()  # whose memory is free for the sums of the next
            if any_broken:
                piece.forget(broken)  # 0 · NaN would be NaN
            part, number = piece.weighted_sum(factors), self._numbers[piece.parameter]
            if self.sums[number].is_contiguous():
                self.sums[number].add_(part)
            else:  # the zeros of `clear`: nothing is added up, or copied
                self.sums[number] = part.contiguous()


def _first_output(outputs: Tensor, _: Tensor) -> Tensor:
    return outputs[:, 0]
