"""Tests that compare two models on the same images, or two sets of pairs; and what many tests at once need."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dpdt.metrics.draws import Floats

__all__ = ["Equivalence", "PairedT", "holm", "normal_p", "paired_t", "permutation_test", "tost"]

Statistic = Callable[[NDArray[Any], NDArray[Any]], float]


class PairedT(NamedTuple):
    """Student's t test of the mean of paired differences."""

    difference: float
    t: float
    p: float
    pairs: int
    reason: str  # why there is no P value, or empty


class Equivalence(NamedTuple):
    """Two one-sided tests."""

    p: float
    low: float
    high: float  # the interval of confidence 1 - 2 × alpha that lies within ± margin exactly if p < alpha


def normal_p(difference: float, standard_error: float) -> float:
    """Two-sided P value of a difference under a normal distribution; 1 for no difference, NaN where unknown.

    >>> round(normal_p(1.959964, 1.0), 4)
    0.05
    """
    if math.isnan(difference) or math.isnan(standard_error):
        return math.nan
    if standard_error == 0:
        return 1.0 if difference == 0 else 0.0
    return math.erfc(abs(difference) / standard_error / math.sqrt(2))


def paired_t(first: Sequence[float] | Floats, second: Sequence[float] | Floats) -> PairedT:
    """Student's paired t test, two-sided; pairs with a missing value are left out.

    Args:
        first: One value a pair; NaN where it is missing.
        second: The same pairs.

    Returns:
        Mean of first - second, t, P, and the number of pairs.

    Source: Student, Biometrika 6 (1908). Equals ``scipy.stats.ttest_rel``.
    """
    from scipy.stats import t as student

    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    differences = differences[~np.isnan(differences)]
    n = len(differences)
    mean = float(differences.mean()) if n else math.nan
    if n < 2:
        return PairedT(mean, math.nan, math.nan, n, f"{n} pairs, fewer than 2")
    error = float(differences.std(ddof=1)) / math.sqrt(n)
    if error <= 1e-12 * max(1.0, abs(mean)):
        return PairedT(mean, math.nan, math.nan, n, "all differences are equal")
    return PairedT(mean, mean / error, float(2 * student.sf(abs(mean / error), n - 1)), n, "")


def holm(p_values: Sequence[float] | Floats) -> Floats:
    """P values adjusted for their number by Holm's step-down method; NaN stays NaN and counts as no test.

    Source: Holm, Scand. J. Statist. 6 (1979).

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    adjusted = np.full(len(p), np.nan)
    stepped = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1.0) if len(order) else stepped
    return adjusted


def tost(difference: float, standard_error: float, *, margin: float, alpha: float = 0.05) -> Equivalence:
    """Two one-sided tests that a difference lies within ± margin; a small P value shows equivalence.

    Args:
        difference: Estimate.
        standard_error: Of the estimate; at least 0.
        margin: Above 0, in the estimate's unit.
        alpha: Level of the interval (1 - 2 alpha).

    Returns:
        The larger of both P values, and the interval.

    Source: Schuirmann, J. Pharmacokinet. Biopharm. 15 (1987).
    """
    from scipy.stats import norm

    if math.isnan(difference) or math.isnan(standard_error):
        return Equivalence(math.nan, math.nan, math.nan)
    reach = float(norm.ppf(1 - alpha)) * standard_error
    low, high = difference - reach, difference + reach
    if standard_error == 0:
        return Equivalence(0.0 if abs(difference) < margin else 1.0, low, high)
    p = max(norm.sf((difference + margin) / standard_error), norm.cdf((difference - margin) / standard_error))
    return Equivalence(float(p), low, high)


def permutation_test(
    target: NDArray[Any],
    first: NDArray[Any],
    second: NDArray[Any],
    *,
    statistic: Statistic,
    units: NDArray[Any] | None = None,
    permutations: int = 2000,
    seed: int = 0,
) -> float:
    """Two-sided P value that two models' statistics are equal: the models' scores are swapped unit by unit.

    Exact for any number of images, so it is the test where n is small. The scores are first replaced by their ranks
    within each model, so that only the order counts and not the models' scales.

    Args:
        target: 0 or 1, (n,).
        first: Scores of one model, (n,).
        second: Scores of the other, (n,).
        statistic: E.g. `auc`; of a target and scores.
        units: Unit of each image, swapped as a whole, (n,); default: every image is one.
        permutations: How many random swaps; all of them are taken if there are no more.
        seed: Of the random swaps.

    Returns:
        The share of swaps (the data's own included) with a difference at least as large; NaN if it is undefined.

    Source: Bandos, Rockette & Gur, Statist. Med. 24 (2005); Phipson & Smyth (2010) for counting the data's own.
    """
    from scipy.stats import rankdata

    ranks = np.stack([rankdata(first), rankdata(second)])
    observed = statistic(target, ranks[0]) - statistic(target, ranks[1])
    if math.isnan(observed):
        return math.nan
    unit = np.arange(len(target)) if units is None else np.unique(units, return_inverse=True)[1]
    number = int(unit.max()) + 1
    everything = number <= 30 and 2**number <= permutations
    rng = np.random.default_rng(seed)
    as_large = 0
    total = 2**number if everything else permutations
    for k in range(total):
        swap = (k >> np.arange(number)) & 1 if everything else rng.integers(0, 2, number)
        of_image = swap[unit].astype(bool)
        mixed = [np.where(of_image, ranks[1 - i], ranks[i]) for i in (0, 1)]
        as_large += abs(statistic(target, mixed[0]) - statistic(target, mixed[1])) >= abs(observed) - 1e-12
    return as_large / total if everything else (as_large + 1) / (total + 1)
