"""Class weights from private labels: counted with noise that the run's epsilon pays for.

What a unit adds to a label's positives and negatives are the parts of its known images that are positive and negative.
So a unit moves a label's two counts by at most 1 in the Euclidean norm, and the vector of all counts by at most the
root of the number of labels. They are released once with Gaussian noise of `noise_multiplier` times that sensitivity
(Dwork & Roth 2014, The Algorithmic Foundations of Differential Privacy, appendix A); the accountant composes that
release with the training's steps. Weights are computed from the noisy counts alone (post-processing, ibid. 2.1).
"""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dpdt.privacy.keystream import KeyStream

__all__ = ["MAX_WEIGHT", "class_weights_of", "count_sensitivity", "noisy_counts", "unit_counts"]

# Noise may leave next to no positives; a weight stays in [1 / MAX_WEIGHT, MAX_WEIGHT].
MAX_WEIGHT: Final = 100.0


def unit_counts(labels: NDArray[np.float32], units: NDArray[np.int64]) -> NDArray[np.float64]:
    """What each unit adds to the counts.

    Args:
        labels: 1, 0, NaN where unknown, shape (n, labels).
        units: Unit of each image, numbered from 0, shape (n,).

    Returns:
        Shape (units, 2, labels): positives and negatives as parts of the unit's known images; they add up to 1, or to
        0 where none is known. No unit's part has a norm above ``count_sensitivity``.
    """
    found = np.zeros((int(units.max()) + 1, 2, labels.shape[1]))
    np.add.at(found, units, np.stack((labels == 1, labels == 0), axis=1))
    parts: NDArray[np.float64] = found / np.maximum(found.sum(axis=1, keepdims=True), 1)
    return parts


def count_sensitivity(num_labels: int) -> float:
    """How far one unit can move the vector of all counts, in the Euclidean norm."""
    return math.sqrt(num_labels)


def noisy_counts(
    labels: NDArray[np.float32], units: NDArray[np.int64], *, noise_multiplier: float, noise: KeyStream
) -> NDArray[np.float64]:
    """Positives and negatives of each label with Gaussian noise: one release, (epsilon, delta)-DP for a unit.

    Args:
        labels: As for ``unit_counts``.
        units: As for ``unit_counts``.
        noise_multiplier: Standard deviation of the noise over the sensitivity, positive.
        noise: Where the noise comes from.

    Returns:
        Shape (2, labels).
    """
    exact = unit_counts(labels, units).sum(axis=0)
    drawn = noise.normal(exact.size).numpy().reshape(exact.shape)
    noisy: NDArray[np.float64] = exact + noise_multiplier * count_sensitivity(labels.shape[1]) * drawn
    return noisy


def class_weights_of(counts: NDArray[np.float64]) -> list[float]:
    """Negatives over positives of each label, kept within 1 / MAX_WEIGHT and MAX_WEIGHT.

    >>> class_weights_of(np.array([[10.0, -3.0], [40.0, 9.0]]))
    [4.0, 9.0]
    """
    positives, negatives = np.maximum(counts, 1.0)
    return [float(weight) for weight in np.clip(negatives / positives, 1 / MAX_WEIGHT, MAX_WEIGHT)]
