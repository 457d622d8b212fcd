"""One set of images, unweighted: curves, single numbers, and the threshold that is read off a curve."""

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dpdt.evaluation.metrics.bootstrap import Floats

__all__ = [
    "CALIBRATION_BINS",
    "Calibration",
    "auc",
    "average_precision",
    "brier",
    "calibration_bins",
    "calibration_curve",
    "calibration_error",
    "precision_recall_curve",
    "roc_curve",
    "undefined_reason",
    "youden_threshold",
]

CALIBRATION_BINS: Final = 10


class _Counts(NamedTuple):
    """Images at or above each distinct score, from the highest score down."""

    true_positives: Floats
    false_positives: Floats
    thresholds: Floats


def _counts(target: NDArray[Any], score: NDArray[Any]) -> _Counts:
    order = np.argsort(-score, kind="stable")
    ranked, hits = score[order], np.asarray(target)[order] == 1
    last = np.append(ranked[1:] != ranked[:-1], True)[: len(ranked)]  # the end of each group of tied scores
    return _Counts(
        np.cumsum(hits, dtype=np.float64)[last], np.cumsum(~hits, dtype=np.float64)[last], ranked[last].astype(float)
    )


def _one_class(counts: _Counts) -> bool:
    return len(counts.thresholds) == 0 or counts.true_positives[-1] == 0 or counts.false_positives[-1] == 0


def roc_curve(target: NDArray[Any], score: NDArray[Any]) -> tuple[Floats, Floats, Floats]:
    """False-positive rate, true-positive rate and threshold, from (0, 0) at an infinite threshold to (1, 1).

    Args:
        target: 0 or 1, (n,), both present.
        score: (n,).

    Returns:
        Three arrays of one length, a point for each distinct score; scikit-learn's with ``drop_intermediate=False``.
    """
    counts = _counts(target, score)
    false_rate = np.append(0.0, counts.false_positives / counts.false_positives[-1])
    true_rate = np.append(0.0, counts.true_positives / counts.true_positives[-1])
    return false_rate, true_rate, np.append(np.inf, counts.thresholds)


def precision_recall_curve(target: NDArray[Any], score: NDArray[Any]) -> tuple[Floats, Floats, Floats]:
    """Precision, recall and threshold by rising threshold, ending at precision 1 and recall 0, as scikit-learn has it.

    Args:
        target: 0 or 1, (n,), with a positive.
        score: (n,).

    Returns:
        Precision and recall (k + 1,), thresholds (k,).
    """
    counts = _counts(target, score)
    precision = counts.true_positives / (counts.true_positives + counts.false_positives)
    recall = counts.true_positives / counts.true_positives[-1]
    return np.append(precision[::-1], 1.0), np.append(recall[::-1], 0.0), counts.thresholds[::-1]


def auc(target: NDArray[Any], score: NDArray[Any]) -> float:
    """Area under the ROC curve, tied scores counting one half; NaN if there is one class only.

    >>> float(auc(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8])))
    0.75
    """
    counts = _counts(target, score)
    if _one_class(counts):
        return float("nan")
    gained = np.diff(counts.true_positives, prepend=0.0)
    passed = np.diff(counts.false_positives, prepend=0.0)
    lost = counts.false_positives - passed / 2  # negatives above, those tied count one half
    won = counts.true_positives[-1] * counts.false_positives[-1] - gained @ lost
    return float(won / (counts.true_positives[-1] * counts.false_positives[-1]))


def average_precision(target: NDArray[Any], score: NDArray[Any]) -> float:
    """Sum over the thresholds of the gain in recall × the precision there; NaN if there is one class only.

    Source: the definition of scikit-learn's `average_precision_score`.

    >>> round(average_precision(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8])), 4)
    0.8333
    """
    counts = _counts(target, score)
    if _one_class(counts):
        return float("nan")
    precision = counts.true_positives / (counts.true_positives + counts.false_positives)
    return float(np.diff(counts.true_positives, prepend=0.0) @ precision / counts.true_positives[-1])


def brier(target: NDArray[Any], score: NDArray[Any]) -> float:
    """Mean squared difference of probability and outcome; NaN without an image. Source: Brier (1950).

    >>> brier(np.array([0, 1]), np.array([0.5, 1.0]))
    0.125
    """
    if len(score) == 0:
        return float("nan")
    return float(np.mean((np.asarray(score, dtype=np.float64) - (np.asarray(target) == 1)) ** 2))


def calibration_bins(score: NDArray[Any]) -> NDArray[np.intp]:
    """Which of ten equally wide bins of [0, 1] a probability is in; an inner edge belongs to the lower bin."""
    return np.searchsorted(np.linspace(0, 1, CALIBRATION_BINS + 1)[1:-1], score)


class Calibration(NamedTuple):
    """Calibration by bin; empty bins are left out."""

    predicted: Floats  # mean probability
    observed: Floats  # fraction of positives
    images: NDArray[np.int64]


def calibration_curve(target: NDArray[Any], score: NDArray[Any]) -> Calibration:
    """Mean probability and fraction of positives in ten equally wide bins, as scikit-learn's ``calibration_curve``."""
    bins = calibration_bins(np.asarray(score, dtype=np.float64))
    images = np.bincount(bins, minlength=CALIBRATION_BINS)
    used = images > 0
    predicted = np.bincount(bins, weights=np.asarray(score, dtype=np.float64), minlength=CALIBRATION_BINS)
    observed = np.bincount(bins, weights=np.asarray(target) == 1, minlength=CALIBRATION_BINS)
    return Calibration(predicted[used] / images[used], observed[used] / images[used], images[used])


def calibration_error(target: NDArray[Any], score: NDArray[Any]) -> float:
    """Expected calibration error: the calibration curve's mean gap, weighted by images; NaN without an image.

    Source: Naeini, Cooper & Hauskrecht, AAAI 2015.

    >>> round(calibration_error(np.array([0, 1]), np.array([0.25, 0.75])), 6)
    0.25
    """
    curve = calibration_curve(target, score)
    if len(curve.images) == 0:
        return float("nan")
    return float(np.abs(curve.predicted - curve.observed) @ curve.images / curve.images.sum())


def youden_threshold(target: NDArray[Any], score: NDArray[Any]) -> float:
    """Score that maximises sensitivity + specificity - 1 when scores at or above it are called positive.

    Of several best ones the highest is taken (the most specific). NaN if there is one class only.

    Source: Youden, Cancer 3 (1950).
    """
    counts = _counts(target, score)
    if _one_class(counts):
        return float("nan")
    sensitivity = counts.true_positives / counts.true_positives[-1]
    fall_out = counts.false_positives / counts.false_positives[-1]
    return float(counts.thresholds[np.argmax(sensitivity - fall_out)])


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
