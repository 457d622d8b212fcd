"""The bootstrap's draws, as the multiplicity of every image: one sort of the scores then serves all draws.

The draws depend on seed, test domain and resampled units alone, so all models are compared on the same ones.
"""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Draws", "Floats", "extreme_interval", "patient_draws", "percentile_interval"]

Floats = NDArray[np.float64]
Draws = NDArray[np.uint8]


def patient_draws(patients: NDArray[Any], *, draws: int, seed: int, domain: str) -> Draws:
    """Multiplicity of each image's patient in each bootstrap draw.

    Args:
        patients: Patient key of each image, (n,); image ids draw images instead, as the paper does.
        draws: Number of draws.
        seed: The study's seed.
        domain: The test domain; with `seed` it alone decides the draws.

    Returns:
        (n, draws). Rows of one patient are equal; the multiplicities of the patients of one draw sum to their number.
        (n, 0) for a single patient: every draw would be the data themselves, and an interval without width untrue.

    Source: Efron & Tibshirani, An Introduction to the Bootstrap (1993), ch. 8.3: the resampled unit is the independent
    one, here the patient.
    """
    names, position = np.unique(patients, return_inverse=True)
    if len(names) < 2:
        return np.empty((len(position), 0), dtype=np.uint8)
    word = int.from_bytes(hashlib.sha256(domain.encode()).digest()[:8], "big")
    rng = np.random.default_rng([seed, word])
    drawn = np.empty((draws, len(names)), dtype=np.uint8)  # a patient 256 times in one draw: below 1e-500
    for number in range(draws):
        drawn[number] = np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names))
    return np.ascontiguousarray(drawn.T)[position]


def percentile_interval(draws: Floats, confidence: float) -> tuple[float, float, float]:
    """Percentile interval over the defined draws, and the share of undefined ones.

    Args:
        draws: A metric of each draw, (draws,); NaN where it is undefined.
        confidence: In (0, 1).

    Returns:
        Lower bound, upper bound, share of undefined draws; NaN for what is undefined. Draws that are (nearly) all alike
        have no bounds: an interval without width would say that the metric is certain, and it is not, for a perfect
        score of few patients as for one of many.
    """
    if len(draws) == 0:
        return float("nan"), float("nan"), float("nan")
    defined = draws[~np.isnan(draws)]
    share = 1 - len(defined) / len(draws)
    if len(defined) == 0:
        return float("nan"), float("nan"), share
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    if low == high:
        return float("nan"), float("nan"), share
    return float(low), float(high), share


def extreme_interval(
    value: float, distances: Floats, deviations: Floats, confidence: float
) -> tuple[float, float, float]:
    """Interval of a largest (or smallest) of several numbers in [0, 1], and the share of undefined draws.

    Draws of a largest number are larger than it is, for in each of them chance lifts another one, so their percentiles
    may lie beside the estimate. But the largest errs by no more than the number that errs most. So the interval is the
    estimate ± a quantile of the largest deviation among the numbers that may be the largest one: those that are not
    further from it than all of them err together.

    Args:
        value: The largest number.
        distances: How far each number is from the largest, (numbers,), 0 for one of them.
        deviations: Each number's in each draw, from its own estimate, (numbers, draws).
        confidence: In (0, 1).

    Returns:
        As `percentile_interval`. It always holds the value; simulated coverage: docs/evaluation.md.

    Source: simultaneous intervals by the bootstrap's largest deviation, e.g. Romano & Wolf, Econometrica 73 (2005).
    """
    if deviations.shape[1] == 0:
        return float("nan"), float("nan"), float("nan")
    defined = np.abs(deviations[:, ~np.isnan(deviations).any(axis=0)])
    share = 1 - defined.shape[1] / deviations.shape[1]
    if defined.shape[1] == 0:
        return float("nan"), float("nan"), share
    together = np.quantile(defined.max(axis=0), confidence)
    reach = float(np.quantile(defined[distances <= together].max(axis=0), confidence))
    if reach == 0:
        return float("nan"), float("nan"), share
    return max(0.0, value - reach), min(1.0, value + reach), share
