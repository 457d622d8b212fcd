"""What an attacker's guesses say about epsilon: a lower bound with its confidence, from one training.

Steinke, Nasr & Jagielski 2023 (Privacy Auditing with One (1) Training Run, arXiv 2305.08846): each of m canaries is
put into the training or left out by the toss of a coin. An attacker guesses r of the coins and abstains from the rest.
If the training is (epsilon, delta)-DP, the number of right guesses is at most a binomial number of r tries with success
e^epsilon / (1 + e^epsilon), up to a chance that delta adds (their main theorem; `p_value` is that theorem's bound).
"""

import math
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

__all__ = ["GUESSED_PARTS", "Guesses", "best_lower_bound", "epsilon_lower_bound", "p_value"]

# Parts of the canaries that are guessed; each of them is a test, and the confidence is shared among them.
GUESSED_PARTS: Final = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
PRECISION: Final = 1e-4
MAX_EPSILON: Final = 100.0


class Guesses(NamedTuple):
    """The most telling guesses and what they show.

    Attributes:
        epsilon: Lower bound, 0.0 if nothing was shown.
        guesses: Coins that were guessed.
        right: Of them, right ones.
    """

    epsilon: float
    guesses: int
    right: int


def p_value(*, epsilon: float, delta: float, canaries: int, guesses: int, right: int) -> float:
    """Chance that an (epsilon, delta)-DP training lets so many guesses be right, at most.

    For W binomial(r, e^epsilon / (1 + e^epsilon)) it is P[W >= v] + 2 m delta · max over i of P[v > W >= v - i] / i.

    Args:
        epsilon: The claim that is tested, >= 0.
        delta: Of the claim.
        canaries: Coins that were tossed (m).
        guesses: Coins that were guessed (r).
        right: Right guesses (v).

    Returns:
        In [0, 1].

    >>> p_value(epsilon=0.0, delta=0.0, canaries=2, guesses=2, right=2)
    0.25
    """
    success = 1 / (1 + math.exp(-epsilon))
    tail = float(stats.binom.sf(right - 1, guesses, success))
    below = np.cumsum(stats.binom.pmf(np.arange(right - 1, -1, -1), guesses, success))
    most = float((below / np.arange(1, right + 1)).max()) if right else 0.0
    return min(1.0, tail + 2 * canaries * delta * most)


def epsilon_lower_bound(*, delta: float, canaries: int, guesses: int, right: int, confidence: float = 0.95) -> float:
    """The largest epsilon that so many right guesses refute.

    Args:
        delta: Of the guarantee.
        canaries: As for ``p_value``.
        guesses: As for ``p_value``.
        right: As for ``p_value``.
        confidence: Probability with which the bound holds, in (0, 1).

    Returns:
        A lower bound on the epsilon of any (epsilon, delta) guarantee of that training; 0.0 if none is refuted.
    """

    def refuted(epsilon: float) -> bool:
        counts = {"canaries": canaries, "guesses": guesses, "right": right}
        return p_value(epsilon=epsilon, delta=delta, **counts) < 1 - confidence

    if not refuted(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while refuted(high) and high < MAX_EPSILON:
        low, high = high, 2 * high
    while high - low > PRECISION:
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def best_lower_bound(
    scores: NDArray[np.float64], included: NDArray[np.bool_], *, delta: float, confidence: float = 0.95
) -> Guesses:
    """Guess that the canaries of the highest scores were in and those of the lowest were out.

    How many are guessed is tried out (GUESSED_PARTS), and the confidence is shared among the trials (Bonferroni), so
    that the bound holds with `confidence` although the best is taken.

    Args:
        scores: Higher where a canary rather was in the training, shape (m,).
        included: Whether it was, shape (m,).
        delta: Of the guarantee.
        confidence: In (0, 1).
    """
    canaries = len(scores)
    order = np.argsort(scores, kind="stable")
    each = 1 - (1 - confidence) / len(GUESSED_PARTS)
    found = []
    for part in GUESSED_PARTS:
        side = max(1, round(part * canaries / 2))
        right = int((~included[order[:side]]).sum() + included[order[-side:]].sum())
        bound = epsilon_lower_bound(delta=delta, canaries=canaries, guesses=2 * side, right=right, confidence=each)
        found.append(Guesses(bound, 2 * side, right))
    return max(found)
