"""The bootstrap's draws, as the multiplicity of every image: one sort of the scores then serves all draws.

The draws depend on seed, test domain and resampled units alone, so all models are compared on the same ones.
"""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Draws", "Floats", "patient_draws", "percentile_interval"]

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
