"""Standard errors of AUCs and of their differences, without resampling: DeLong's method in O(n log n)."""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dpdt.evaluation.metrics.bootstrap import Floats

__all__ = ["Components", "auc_covariance", "auc_influence", "delong_components", "standard_error"]


class Components(NamedTuple):
    """Structural components of one AUC."""

    auc: float
    positives: Floats  # for each positive: the share of negatives that it outranks, ties one half
    negatives: Floats  # for each negative: the share of positives that outrank it


def delong_components(target: NDArray[Any], score: NDArray[Any]) -> Components:
    """Structural components by places among the other class's sorted scores, in O(n log n).

    Args:
        target: 0 or 1, (n,).
        score: (n,).

    Returns:
        The AUC and both sets of components, in the images' order; NaN and empty sets if there is one class only.

    Source: DeLong, DeLong & Clarke-Pearson, Biometrics 44 (1988).
    """
    is_positive = np.asarray(target) == 1
    positives, negatives = score[is_positive], score[~is_positive]
    if len(positives) == 0 or len(negatives) == 0:
        return Components(math.nan, np.empty(0), np.empty(0))
    of_positives = _share_below(positives, negatives)
    return Components(float(of_positives.mean()), of_positives, 1 - _share_below(negatives, positives))


def _share_below(scores: NDArray[Any], others: NDArray[Any]) -> Floats:
    """For each score the share of the others that are below it, ties one half."""
    ordered = np.sort(others)
    below, not_above = (np.searchsorted(ordered, scores, side) for side in ("left", "right"))
    share: Floats = (below + not_above) / 2 / len(others)
    return share


def auc_covariance(target: NDArray[Any], scores: NDArray[Any]) -> tuple[Floats, Floats]:
    """AUCs of several models on the same images and their covariance matrix; each image counts as independent.

    Args:
        target: 0 or 1, (n,); at least two of each for a covariance.
        scores: (models, n).

    Returns:
        (models,) and (models, models); NaN where there are too few.
    """
    found = [delong_components(target, score) for score in scores]
    aucs = np.array([c.auc for c in found])
    m, n = len(found[0].positives), len(found[0].negatives)
    if m < 2 or n < 2:
        return aucs, np.full((len(scores), len(scores)), np.nan)
    of_positives = np.cov(np.stack([c.positives for c in found]))
    of_negatives = np.cov(np.stack([c.negatives for c in found]))
    return aucs, np.atleast_2d(of_positives / m + of_negatives / n)


def auc_influence(
    target: NDArray[Any], score: NDArray[Any], units: NDArray[np.intp], num_units: int
) -> tuple[float, Floats]:
    """An AUC and each unit's share in its error: for patients with several images, and for means over labels.

    The variance of the AUC is ``num_units / (num_units - 1) * (influence ** 2).sum()`` (`standard_error` is its root);
    of a difference or a mean of AUCs the same with the difference or mean of the influences.

    Args:
        target: 0 or 1, (n,).
        score: (n,).
        units: Number of each image's unit, in [0, num_units), (n,).
        num_units: How many units there are.

    Returns:
        The AUC and (num_units,); NaN if there is one class only.

    Source: Obuchowski, Biometrics 53 (1997): DeLong's components, summed by patient.
    """
    found = delong_components(target, score)
    if math.isnan(found.auc):
        return math.nan, np.full(num_units, np.nan)
    is_positive = np.asarray(target) == 1
    share = np.empty(len(is_positive))
    share[is_positive] = (found.positives - found.auc) / len(found.positives)
    share[~is_positive] = (found.negatives - found.auc) / len(found.negatives)
    influence: Floats = np.bincount(units, weights=share, minlength=num_units).astype(np.float64)
    return found.auc, influence


def standard_error(influence: Floats) -> float:
    """Of what the units have these shares in (`auc_influence`), (units,); NaN for fewer than two units."""
    n = len(influence)
    return float(np.sqrt(n / (n - 1) * (influence**2).sum())) if n > 1 else math.nan
