"""Calibration of probabilities: intercept and slope of a logistic recalibration, with errors by patient.

The slope is that of logit P(positive) = a + b · logit(score): 1 is right, below 1 the scores are too extreme. The
intercept is that of the same model with b fixed to 1 (calibration in the large): 0 is right, above 0 the scores are too
low. Source: Van Calster et al., BMC Medicine 17:230 (2019). Errors are sandwich errors summed by unit.
"""

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Recalibration", "recalibration"]

Floats = NDArray[np.float64]
CLIP: Final = 1e-7  # single precision has probabilities of exactly 0 and 1, whose logit is infinite
NORMAL_95: Final = 1.959963984540054
MOST_ROUNDS: Final = 50


class Recalibration(NamedTuple):
    """Both numbers with 95 % intervals; NaN where they do not exist."""

    intercept: float
    intercept_low: float
    intercept_high: float
    slope: float
    slope_low: float
    slope_high: float


def recalibration(target: NDArray[Any], score: NDArray[Any], units: NDArray[np.intp]) -> Recalibration:
    """Calibration intercept and slope.

    Args:
        target: 1 or 0, (n,).
        score: Probabilities, (n,).
        units: Number of each image's patient, (n,).
    """
    clipped = np.clip(score.astype(np.float64), CLIP, 1 - CLIP)
    logit = np.log(clipped / (1 - clipped))
    outcome = target.astype(np.float64)
    ones = np.ones((len(outcome), 1))
    large = _fit(outcome, ones, logit, units)
    sloped = _fit(outcome, np.column_stack([ones, logit]), np.zeros(len(outcome)), units)
    return Recalibration(*_bounds(large[0][0], large[1][0]), *_bounds(sloped[0][-1], sloped[1][-1]))


def _bounds(value: float, error: float) -> tuple[float, float, float]:
    return float(value), float(value - NORMAL_95 * error), float(value + NORMAL_95 * error)


def _fit(outcome: Floats, design: Floats, offset: Floats, units: NDArray[np.intp]) -> tuple[Floats, Floats]:
    """Logistic regression by Newton's method: coefficients and their errors by unit; NaN where it does not converge."""
    unknown = np.full(design.shape[1], np.nan)
    beta = np.zeros(design.shape[1])
    for _ in range(MOST_ROUNDS):
        probability = 1 / (1 + np.exp(-np.clip(offset + design @ beta, -40, 40)))
        bread = (design * (probability * (1 - probability))[:, None]).T @ design
        try:
            step = np.linalg.solve(bread, design.T @ (outcome - probability))
        except np.linalg.LinAlgError:
            return unknown, unknown
        beta += step
        if np.abs(step).max() < 1e-10:
            parts = design * (outcome - probability)[:, None]
            summed = np.stack([np.bincount(units, part) for part in parts.T], axis=1)
            inverse = np.linalg.inv(bread)
            return beta, np.sqrt(np.diag(inverse @ (summed.T @ summed) @ inverse))
    return unknown, unknown
