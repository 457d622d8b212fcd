"""One number of a table of metrics: its bootstrap draws or why it is undefined, its threshold, its mean over labels."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dpdt.evaluation.metrics.bootstrap import Floats
from dpdt.evaluation.metrics.names import Threshold

__all__ = ["Estimate", "average", "threshold_reason", "undefined_estimate", "undefined_reason", "youden_threshold"]


class Estimate(NamedTuple):
    """One metric of one label in one subgroup, with its bootstrap distribution."""

    value: float
    draws: Floats
    n: int
    n_positive: int | None
    reason: str


def undefined_estimate(reason: str, *, draws: int, n: int) -> Estimate:
    """An estimate without a number."""
    return Estimate(float("nan"), np.full(draws, np.nan), n, None, reason)


def undefined_reason(target: NDArray[Any], *, minimum: int) -> str:
    """Why a cell has no number, or an empty text: too few images, or one class only.

    >>> undefined_reason(np.array([0, 0, 0]), minimum=2)
    'one class only: 0 of 3 images positive'
    """
    n, positive = len(target), int((target == 1).sum())
    if n == 0:
        return "no image with this label known"
    if n < minimum:
        return f"{n} images, fewer than {minimum}"
    if positive in (0, n):
        return f"one class only: {positive} of {n} images positive"
    return ""


def youden_threshold(target: NDArray[Any], score: NDArray[Any]) -> float:
    """Score that maximises sensitivity + specificity - 1 when scores at or above it are called positive.

    Of several best ones the highest is taken (the most specific). NaN if there is one class only.

    Source: Youden, Cancer 3 (1950).
    """
    order = np.argsort(-score, kind="stable")
    ranked, is_positive = score[order], np.asarray(target)[order] == 1
    if is_positive.all() or not is_positive.any():
        return float("nan")
    last = np.append(ranked[1:] != ranked[:-1], True)  # the end of each group of tied scores
    hits, false_alarms = (np.cumsum(of_class, dtype=np.float64)[last] for of_class in (is_positive, ~is_positive))
    return float(ranked[last][np.argmax(hits / hits[-1] - false_alarms / false_alarms[-1])])


def threshold_reason(threshold: Threshold) -> str:
    """Why there is no threshold, or an empty text."""
    return "" if np.isfinite(threshold.value) else f"no threshold: {threshold.source}"


def average(estimates: Mapping[str, Estimate], n: int) -> Estimate:
    """Mean over the defined labels; the reason names those left out."""
    defined = [estimate for estimate in estimates.values() if not np.isnan(estimate.value)]
    without = [label for label, estimate in estimates.items() if np.isnan(estimate.value)]
    if not defined:
        reasons = sorted({estimate.reason for estimate in estimates.values()})
        draws = len(next(iter(estimates.values())).draws)
        return undefined_estimate(f"no label is defined: {'; '.join(reasons)}", draws=draws, n=n)
    value = float(np.mean([estimate.value for estimate in defined]))
    note = f"without {', '.join(without)} (undefined)" if without else ""
    return Estimate(value, np.mean([estimate.draws for estimate in defined], axis=0), n, None, note)
