"""Test patients' scores in bins, counted with noise: one release, from which AUC, curves and calibration are computed.

Of a model and a label there are two histograms: scores of positive and of negative images. What a patient adds to them
are the parts of its images of known label that fall into each bin. These are not negative and add up to at most 1, so
their Euclidean norm is at most 1, whatever the number of images; of h models and labels together it is at most
sqrt(h). All of them are one vector, released once with Gaussian noise of sqrt(h) / mu in each count (Dwork & Roth 2014,
The Algorithmic Foundations of Differential Privacy, appendix A; mu: `gaussian_mu`) and rounded to whole patients.

Neighbours: one patient's images are there or not. Bins, models, labels and the split are the same for both.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dpdt.privacy.keystream import KeyStream

__all__ = ["EDGES", "NUM_BINS", "histogram_sensitivity", "noisy_histograms", "score_counts"]

EDGES: Final = tuple(round(1 / (1 + math.exp(-logit / 2)), 6) for logit in range(-9, 10))
"""Between the bins: half a logit each, from -4.5 to 4.5. No patient decides them, and rare labels' scores are apart."""
NUM_BINS: Final = len(EDGES) + 1
WHOLE: Final = 1 << 32
"""Counts are of this part of a patient, rounded down: sums of whole numbers are exact in any order."""


def score_counts(
    target: NDArray[np.float64], score: NDArray[np.float32], patients: NDArray[np.intp]
) -> NDArray[np.int64]:
    """The exact histograms of a model and a label.

    Args:
        target: 1, 0, NaN where unknown, (n,).
        score: Probabilities, (n,).
        patients: Number of each image's patient, from 0, (n,).

    Returns:
        Shape (2, NUM_BINS): positives and negatives, in 1 / WHOLE patients. A bin has its lower edge.
    """
    known = ~np.isnan(target)
    side, bin_of = (target[known] == 0).astype(np.intp), np.searchsorted(EDGES, score[known], side="right")
    images = np.bincount(patients[known], minlength=1)
    found = np.zeros((2, NUM_BINS), dtype=np.int64)
    np.add.at(found, (side, bin_of), WHOLE // images[patients[known]])
    return found


def histogram_sensitivity(histograms: int) -> float:
    """How far one patient can move the counts of so many models and labels, in the Euclidean norm."""
    return math.sqrt(histograms)


def noisy_histograms(counts: NDArray[np.int64], *, deviation: float, noise: KeyStream) -> NDArray[np.int64]:
    """The histograms with noise, in whole patients; (epsilon, delta)-DP where deviation >= sensitivity / mu.

    Args:
        counts: From `score_counts`, (models and labels, 2, NUM_BINS).
        deviation: Standard deviation of the noise in patients.
        noise: Where it comes from.

    Returns:
        The same shape; noise makes some of them negative.
    """
    drawn = noise.normal(counts.size).numpy().reshape(counts.shape)
    return np.rint(counts / WHOLE + deviation * drawn).astype(np.int64)
