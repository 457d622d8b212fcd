"""One number of a table of metrics with its bootstrap draws, and the mean of such numbers over labels."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from dpdt.evaluation.metrics.bootstrap import Floats
from dpdt.evaluation.metrics.names import Threshold

__all__ = ["Estimate", "average", "threshold_reason", "undefined_estimate"]


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
