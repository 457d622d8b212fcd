"""The models of a study and its arms, and what they are called."""

import math
from typing import Any, Final, NamedTuple

__all__ = ["BEFORE", "NO_DP", "Cell", "arm_name", "axes_name", "format_epsilon", "is_before"]

NO_DP: Final = "no DP"
"""What the arm without DP is called."""
BEFORE: Final = "before"
"""What the arm at epsilon 0 is called: the initial model, which has seen no private patient. It stands in the place of
a train domain, too: one model serves all of them."""


class Cell(NamedTuple):
    """One model of the study: a training, or (at epsilon 0) the initial model of all trainings of its start.

    Attributes:
        domain: The domain that it is trained on.
        target_epsilon: Infinity without DP.
        seed: One of the study's.
        initial: Its start, of `[initial.<name>]`; "" in a study without.
        fraction: Of the domain's train patients.
    """

    domain: str
    target_epsilon: float
    seed: int
    initial: str = ""
    fraction: float = 1.0

    @property
    def private(self) -> bool:
        """Whether this training has DP."""
        return 0 < self.target_epsilon < math.inf

    @property
    def axes(self) -> str:
        """Its start and amount of data in words, as `axes_name` has them."""
        return axes_name(self.initial, self.fraction)

    @property
    def recorded(self) -> dict[str, Any]:
        """Both as a run's config keeps them; empty in a study without such axes."""
        start: dict[str, Any] = {"initial": self.initial} if self.initial else {}
        return start | ({"fraction": self.fraction} if self.fraction != 1 else {})


def axes_name(initial: str, fraction: float, *, comma: str = ", ") -> str:
    """A start and a part of the patients in words; "" of a study that has neither.

    >>> axes_name("mimic", 0.1), axes_name("", 1.0)
    ('mimic, 10% of patients', '')
    """
    part = f"{100 * fraction:.6g}% of patients" if fraction < 1 else ""
    return comma.join(filter(None, (initial, part)))


def format_epsilon(epsilon: float) -> str:
    """Epsilon as it is written in file names and tables.

    >>> format_epsilon(8.0), format_epsilon(0.5), format_epsilon(float("inf"))
    ('8', '0.5', 'inf')
    """
    return "inf" if math.isinf(epsilon) else f"{epsilon:g}"


def is_before(target_epsilon: float) -> bool:
    """Whether an arm is the model from before the trainings: nothing was learned from a private patient."""
    return target_epsilon == 0


def arm_name(target_epsilon: float | None, *, prefix: str = "ε = ") -> str:
    """An arm's name in tables and messages; infinity, or None, is the one without DP, 0 the model before.

    >>> arm_name(8.0), arm_name(8.0, prefix="epsilon "), arm_name(math.inf), arm_name(0.0)
    ('ε = 8', 'epsilon 8', 'no DP', 'before')
    """
    if target_epsilon is None or math.isinf(target_epsilon):
        return NO_DP
    if is_before(target_epsilon):
        return BEFORE
    return f"{prefix}{format_epsilon(target_epsilon)}"
