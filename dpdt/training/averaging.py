"""An average of the weights over the steps, in place of the last ones.

The weights after each step are released by the mechanism: epsilon holds for all of them together, and for whatever is
computed from them, without a price. With DP the noise of the last steps is in the last weights, and less of it in an
average (De et al. 2022, arXiv 2204.13650).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import nn

__all__ = ["WeightAverage", "part_of_average"]

EMA: Final = 0.1
"""Time constant of the exponential average, as a part of the steps: a rule that holds for runs of any length."""
TAIL: Final = 0.25
"""Part of the steps, the last ones, that the uniform average is over."""


def part_of_average(kind: str, *, added: int, num_steps: int) -> float:
    """What the next weights count in the average of those that were added before and them.

    ``ema`` is Adam's moving average with its correction for the start at zero (Kingma & Ba 2015, arXiv 1412.6980,
    section 3): the sum of (1 - d) d^(t - i) w_i over 1 - d^t, of which the last term's part is (1 - d) / (1 - d^t).
    ``tail`` is a mean.

    Args:
        kind: ``ema`` or ``tail``.
        added: Weights in the average so far.
        num_steps: Of the whole run.

    >>> [round(part_of_average("tail", added=added, num_steps=8), 3) for added in (0, 1)]
    [1.0, 0.5]
    >>> round(part_of_average("ema", added=1, num_steps=100), 4)  # d = .9: w_2 counts 1 / (1 + .9)
    0.5263
    """
    if kind == "tail":
        return 1 / (added + 1)
    decay = max(0.0, 1 - 1 / (EMA * num_steps))
    return (1 - decay) / (1 - decay ** (added + 1))


class WeightAverage:
    """The average of a network's trained parameters; buffers are not averaged.

    Args:
        kind: ``ema`` or ``tail``.
        model: Where it is trained; what is frozen later stays in the average.
        num_steps: Of the whole run.
    """

    def __init__(self, kind: str, model: nn.Module, *, num_steps: int) -> None:
        self._kind, self._num_steps = kind, num_steps
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._values = [parameter.detach().clone() for parameter in self._trained]
        self._added = 0

    @torch.no_grad()
    def add(self, *, step: int) -> None:
        """Take the weights as they are after a step into the average, if it is one of those that count.

        Args:
            step: From 1, as the ledger counts: steps that a crash lost are gone, and the last one is `num_steps`.
        """
        if self._kind == "tail" and step <= self._num_steps - max(1, round(TAIL * self._num_steps)):
            return
        part = part_of_average(self._kind, added=self._added, num_steps=self._num_steps)
        torch._foreach_lerp_(self._values, [parameter.detach() for parameter in self._trained], part)
        self._added += 1

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"values": self._values, "added": self._added}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on with a checkpoint's."""
        self._added = int(saved["added"])
        for value, other in zip(self._values, saved["values"], strict=True):
            value.copy_(other)

    @contextmanager
    @torch.no_grad()
    def in_place(self) -> Iterator[None]:
        """Inside the block the model has the averages in the places of the trained parameters.

        Where crashes lost all of the steps that count, there is no average, and it has the last weights.
        """
        if not self._added:
            yield
            return
        last = [parameter.detach().clone() for parameter in self._trained]
        try:
            for parameter, value in zip(self._trained, self._values, strict=True):
                parameter.copy_(value)
            yield
        finally:
            for parameter, value in zip(self._trained, last, strict=True):
                parameter.copy_(value)
