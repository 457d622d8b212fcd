"""What an audit's canaries show about the parts of a mechanism: noise, clipping, sampling.

A lower bound on epsilon needs a gross fault to pass the upper one. These checks look at what is released along the
canaries' own directions and at who was drawn, and compare it with what the accountant assumed; so they find a noise
that is somewhat too small, or one unit that is drawn too often. A right training fails each of them with probability
1e-6.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import logsumexp

__all__ = [
    "Finding",
    "clipping_finding",
    "noise_finding",
    "sampling_finding",
    "sensitivity_finding",
    "variance_finding",
]

FALSE_ALARM: Final = 1e-6
# The released sums are float32.
ROUNDING: Final = 1e-3
MAX_TILT: Final = 1e6


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


def sensitivity_finding(most: float) -> Finding:
    """Did any canary move a step's sum by more than max_grad_norm?

    Args:
        most: The most that one did, in units of max_grad_norm. It is taken before noise comes, so that no noise hides
            that a unit of two images moves the sum by two norms.
    """
    what = "most that one unit moved the sum by in a step, before noise, in clipping norms"
    return Finding(what, 1.0, most, most, most, most <= 1 + ROUNDING)


def sampling_finding(draws: NDArray[np.int64], *, steps: int, sample_rate: float) -> Finding:
    """Was every unit drawn at the accounted rate?

    Args:
        draws: How often each unit was drawn, shape (units,).
        steps: Steps of which they were counted.
        sample_rate: The claim: each unit's draws are binomial(steps, sample_rate).

    Returns:
        About the unit that is furthest from the rate; the interval is what the most and least drawn of so many units
        stay within (Bonferroni). Units that were all drawn exactly as often as expected are within, too: for that
        there is ``variance_finding``.
    """
    tail = FALSE_ALARM / (2 * len(draws))
    low, high = (float(stats.binom.ppf(t, steps, sample_rate)) / steps for t in (tail, 1 - tail))
    rates = draws / steps
    furthest = float(rates[np.argmax(np.abs(rates - sample_rate))])
    good = bool((rates >= low).all() and (rates <= high).all())
    return Finding("sample rate of the unit furthest from it", sample_rate, furthest, low, high, good)


def variance_finding(what: str, squares: float, *, counts: int, trials: int, rate: float) -> Finding:
    """Do counts vary as those of independent draws do?

    Shuffled batches give each unit its share exactly, and each batch the same size: their privacy is not that of
    Poisson samples, however right the rate is.

    Args:
        what: What was counted, e.g. how often each unit was drawn, or how many units each batch has.
        squares: Sum over the counts of the square of (count - trials * rate).
        counts: How many counts.
        trials: Draws that each of them counts.
        rate: The claim: each is binomial(trials, rate), independently of the others.

    Returns:
        The variance over the binomial's, which the claim says is 1. A right training is outside of the interval with
        probability at most FALSE_ALARM, by Chernoff's bound: the chance that a sum of independent numbers passes s is
        at most exp(counts * K(t) - t * s), with K the logarithm of one number's moment generating function. K is summed
        up from the binomial's own probabilities, up to counts that any of these passes with probability
        FALSE_ALARM / 2.
    """
    mean, variance = trials * rate, trials * rate * (1 - rate)
    tail = FALSE_ALARM / (4 * counts)
    first, last = (int(stats.binom.ppf(t, trials, rate)) for t in (tail, 1 - tail))
    support = np.arange(first, last + 1)
    log_chance = stats.binom.logpmf(support, trials, rate)
    values = (support - mean) ** 2 / max(variance, np.finfo(float).tiny)

    def reached(tilt: float) -> tuple[float, float]:
        """The mean that a tilt gives, and minus the logarithm of the chance of a mean as far out."""
        normaliser = float(logsumexp(log_chance + tilt * values))
        there = float(np.exp(log_chance + tilt * values - normaliser) @ values)
        return there, counts * (tilt * there - normaliser)

    low, high = (_furthest(reached, sign) for sign in (-1.0, 1.0))
    measured = squares / counts / variance if variance else 0.0
    return Finding(what, 1.0, measured, low, high, low <= measured <= high or not variance)


def _furthest(reached: Callable[[float], tuple[float, float]], sign: float) -> float:
    """The mean whose chance is FALSE_ALARM / 4, or the last one on that side if all are likelier."""
    wanted, near, far = math.log(4 / FALSE_ALARM), 0.0, 1.0
    while reached(sign * far)[1] < wanted and far < MAX_TILT:
        near, far = far, 2 * far
    for _ in range(60):
        middle = (near + far) / 2
        near, far = (near, middle) if reached(sign * middle)[1] >= wanted else (middle, far)
    return reached(sign * far)[0]
