"""Tests that compare two models on the same images; and what many tests at once need."""

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dpdt.evaluation.metrics.bootstrap import Floats

__all__ = ["holm", "normal_p", "permutation_test", "tost"]

SWAPS_AT_ONCE: Final = 100


def normal_p(difference: float, standard_error: float) -> float:
    """Two-sided P value of a difference under a normal distribution; NaN where it or its error is unknown.

    A standard error of 0 is an unknown one: no image in the data moved the difference, another one may.

    >>> round(normal_p(1.959964, 1.0), 4)
    0.05
    """
    if math.isnan(difference) or not standard_error > 0:
        return math.nan
    return math.erfc(abs(difference) / standard_error / math.sqrt(2))


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


def tost(difference: float, standard_error: float, *, margin: float) -> float:
    """Two one-sided tests that a difference lies within ± margin; a small P value shows equivalence.

    Args:
        difference: Estimate.
        standard_error: Of the estimate; 0 counts as unknown, as in `normal_p`.
        margin: Above 0, in the estimate's unit.

    Returns:
        The larger of both P values; NaN where something is unknown.

    Source: Schuirmann, J. Pharmacokinet. Biopharm. 15 (1987).
    """
    from scipy.special import ndtr

    if math.isnan(difference) or not standard_error > 0:
        return math.nan
    return float(max(ndtr(-(difference + margin) / standard_error), ndtr((difference - margin) / standard_error)))


def permutation_test(
    target: NDArray[Any],
    first: NDArray[Any],
    second: NDArray[Any],
    *,
    units: NDArray[Any] | None = None,
    permutations: int = 2000,
) -> float:
    """Two-sided P value that two models' AUCs are equal: the models' scores are swapped unit by unit.

    It needs no large sample, so it is the test where a class is small. Scores are first replaced by their ranks within
    each model, so that only the order counts and not the models' scales.

    Args:
        target: 0 or 1, (n,).
        first: Scores of one model, (n,).
        second: Scores of the other, (n,).
        units: Unit of each image, swapped as a whole, (n,); default: every image is one.
        permutations: How many random swaps; all possible ones are taken if there are no more.

    Returns:
        The share of swaps (the data's own included) with a difference at least as large; NaN if it is undefined.

    Sources: Bandos, Rockette & Gur, Statist. Med. 24 (2005); Phipson & Smyth (2010) for counting the data's own.
    """
    from scipy.stats import rankdata

    is_positive = np.asarray(target) == 1
    if is_positive.all() or not is_positive.any():
        return math.nan
    ranks = np.stack([rankdata(first), rankdata(second)])
    unit = np.arange(len(target)) if units is None else np.unique(units, return_inverse=True)[1]
    number = int(unit.max()) + 1
    everything = number <= 30 and 2**number <= permutations
    rng = np.random.default_rng(0)
    total = 2**number if everything else permutations
    as_large, observed = 0, abs(_auc_differences(is_positive, ranks, np.zeros((1, len(unit)), dtype=bool))[0])
    for begin in range(0, total, SWAPS_AT_ONCE):
        count = min(SWAPS_AT_ONCE, total - begin)
        if everything:
            swaps = (np.arange(begin, begin + count)[:, None] >> np.arange(number)) & 1
        else:
            swaps = rng.integers(0, 2, (count, number))
        differences = _auc_differences(is_positive, ranks, swaps[:, unit].astype(bool))
        as_large += int((np.abs(differences) >= observed - 1e-12).sum())
    return as_large / total if everything else (as_large + 1) / (total + 1)


def _auc_differences(is_positive: NDArray[np.bool_], ranks: Floats, swaps: NDArray[np.bool_]) -> Floats:
    """Difference of both AUCs for each row of swaps: every image of the smaller class against the larger class."""
    result = np.zeros(len(swaps))
    for sign, (own, other) in ((1.0, (0, 1)), (-1.0, (1, 0))):
        mixed = np.where(swaps, ranks[other], ranks[own])
        positives, negatives = mixed[:, is_positive], mixed[:, ~is_positive]
        few, many = (positives, negatives) if positives.shape[1] <= negatives.shape[1] else (negatives, positives)
        won = np.zeros(len(swaps))
        for column in few.T:
            won += (column[:, None] > many).sum(axis=1) + 0.5 * (column[:, None] == many).sum(axis=1)
        share = won / (few.shape[1] * many.shape[1])
        result += sign * (share if few is positives else 1 - share)
    return result
