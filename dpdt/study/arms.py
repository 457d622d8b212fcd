"""The trainings of a study and its arms, and what they are called."""

import math
from typing import Final, NamedTuple

__all__ = ["NO_DP", "Cell", "arm_name", "format_epsilon"]

NO_DP: Final = "no DP"
"""What the arm without DP is called."""


class Cell(NamedTuple):
    """One training of the study."""

    domain: str
    target_epsilon: float
    seed: int

    @property
    def private(self) -> bool:
        """Whether this training has DP."""
        return math.isfinite(self.target_epsilon)


def format_epsilon(epsilon: float) -> str:
    """Epsilon as it is written in file names and tables.

    >>> format_epsilon(8.0), format_epsilon(0.5), format_epsilon(float("inf"))
    ('8', '0.5', 'inf')
    """
    return "inf" if math.isinf(epsilon) else f"{epsilon:g}"


def arm_name(target_epsilon: float | None, *, prefix: str = "ε = ") -> str:
    """An arm's name in tables and messages; infinity, or None, is the one without DP.

    >>> arm_name(8.0), arm_name(8.0, prefix="epsilon "), arm_name(math.inf)
    ('ε = 8', 'epsilon 8', 'no DP')
    """
    if target_epsilon is None or math.isinf(target_epsilon):
        return NO_DP
    return f"{prefix}{format_epsilon(target_epsilon)}"
