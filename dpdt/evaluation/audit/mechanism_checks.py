"""What an audit's canaries show about the parts of a mechanism: noise, clipping, sampling.

A lower bound on epsilon needs a gross fault to pass the upper one. These checks look at what is released along the
canaries' own directions and at who was drawn, and compare it with what the accountant assumed; so they find a noise
that is somewhat too small, or one unit that is drawn too often. A right training fails each of them with probability
1e-6.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

__all__ = ["Finding", "clipping_finding", "noise_finding", "sampling_finding"]

FALSE_ALARM: Final = 1e-6
# The released sums are float32.
ROUNDING: Final = 1e-3


@dataclass(frozen=True)
class Finding:
    """One check.

    Attributes:
        what: In words.
        claimed: What the accountant assumed.
        measured: What was found.
        low: Lower end of what the measurement leaves open.
        high: Upper end.
        good: Whether the claim is within.
    """

    what: str
    claimed: float
    measured: float
    low: float
    high: float
    good: bool

    def as_dict(self) -> dict[str, Any]:
        """For audit.json."""
        return asdict(self)


def noise_finding(squares: float, samples: int, *, noise_multiplier: float) -> Finding:
    """Is there as much noise as was accounted for?

    Args:
        squares: Sum of the squares of what was released along directions in which no unit has a gradient, in units of
            max_grad_norm.
        samples: How many there are.
        noise_multiplier: The claim: their standard deviation.
    """
    low, high = (math.sqrt(squares / stats.chi2.ppf(tail, samples)) for tail in (1 - FALSE_ALARM / 2, FALSE_ALARM / 2))
    measured = math.sqrt(squares / samples)
    good = low <= noise_multiplier * (1 + ROUNDING) and noise_multiplier * (1 - ROUNDING) <= high
    return Finding("noise multiplier, from canaries that were left out", noise_multiplier, measured, low, high, good)


def clipping_finding(total: float, draws: int, samples: int, *, noise_multiplier: float) -> Finding:
    """Does a drawn unit move the sum by no more than max_grad_norm?

    Args:
        total: Sum of what was released along the directions of canaries that were in, in units of max_grad_norm.
        draws: How often they were drawn in all.
        samples: How many numbers were summed (canaries times steps), each with its noise.
        noise_multiplier: Standard deviation of that noise.

    Returns:
        The claim is 1: a canary's gradient is so large that it is always clipped to the whole norm.
    """
    measured = total / max(draws, 1)
    error = stats.norm.isf(FALSE_ALARM / 2) * noise_multiplier * math.sqrt(samples) / max(draws, 1) + ROUNDING
    low, high = float(measured - error), float(measured + error)
    return Finding(
        "norm that one unit moves the sum by, in clipping norms", 1.0, measured, low, high, bool(low <= 1 <= high)
    )


def sampling_finding(draws: NDArray[np.int64], *, steps: int, sample_rate: float) -> Finding:
    """Was every unit drawn at the accounted rate?

    Args:
        draws: How often each unit was drawn, shape (units,).
        steps: Steps of which they were counted.
        sample_rate: The claim: each unit's draws are binomial(steps, sample_rate).

    Returns:
        About the unit that is furthest from the rate; the interval is what the most and least drawn of so many units
        stay within (Bonferroni).
    """
    tail = FALSE_ALARM / (2 * len(draws))
    low, high = (float(stats.binom.ppf(t, steps, sample_rate)) / steps for t in (tail, 1 - tail))
    rates = draws / steps
    furthest = float(rates[np.argmax(np.abs(rates - sample_rate))])
    good = bool((rates >= low).all() and (rates <= high).all())
    return Finding("sample rate of the unit furthest from it", sample_rate, furthest, low, high, good)
