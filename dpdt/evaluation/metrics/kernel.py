"""The kernel: all metrics of one label for many sets of image weights, from one sort.

Scores are cut at the distinct scores of the positives (and at the thresholds). A sparse matrix with one row a piece
sums each draw's weights over the pieces; what is left of every metric are sums along the pieces. Weights come in blocks
of draws that stay in the processor's cache. Counts are whole numbers, so single precision is exact below 2**24.
"""

import copy
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dpdt.evaluation.metrics.bootstrap import Floats
from dpdt.evaluation.metrics.names import AT_THRESHOLD

__all__ = ["BLOCK", "Ranking", "over_blocks"]

BLOCK: Final = 32
STRETCH: Final = 16
EXACT_IN_SINGLE: Final = 1 << 24
CALIBRATION_BINS: Final = 10
ERRORS: Final = 1 + CALIBRATION_BINS  # rows of the squared error and of the calibration bins


class Ranking:
    """One label's images, ranked once.

    Args:
        target: 0 or 1 for each image, (n,).
        score: Higher means more likely positive, (n,). Brier and calibration take it as a probability.
        thresholds: Scores at or above one are called positive; NaN gives NaN.
        positions: Row of each image in the weights that will be given, (n,); default: 0 to n - 1.
        rows: Number of rows of these weights.
        errors: Whether Brier and calibration are wanted: they treble the work.
    """

    def __init__(
        self,
        target: NDArray[Any],
        score: NDArray[Any],
        *,
        thresholds: Iterable[float] = (),
        positions: NDArray[np.intp] | None = None,
        rows: int | None = None,
        errors: bool = False,
    ) -> None:
        from scipy.sparse import csr_array

        self.thresholds = tuple(thresholds)
        wide = np.asarray(score).astype(np.float64)
        is_positive = np.asarray(target) == 1
        finite = np.asarray([t for t in self.thresholds if np.isfinite(t)], dtype=np.float64)
        self.cuts = np.unique(np.concatenate([wide[is_positive], finite]))
        self.errors = errors
        k = len(self.cuts)
        cut = np.searchsorted(self.cuts, wide, side="left")
        tied = ~is_positive & (cut < k) & (np.append(self.cuts, np.nan)[cut] == wide)
        self.has_ties = bool(tied.any())
        # Pieces: k of positives at a cut, k + 1 of negatives between cuts, then k of negatives that tie with a cut.
        pieces = [np.where(is_positive, cut, np.where(tied, 2 * k + 1, k) + cut)]
        values, images = [np.ones(len(wide))], [np.arange(len(wide))]
        self.first_error = 3 * k + 1 if self.has_ties else 2 * k + 1
        if errors:
            residual = is_positive - wide
            pieces += [np.full(len(wide), self.first_error), self.first_error + 1 + _calibration_bins(wide)]
            values += [residual**2, residual]
            images *= 3
        row, image, value = (np.concatenate(parts) for parts in (pieces, images, values))
        order = np.argsort(row, kind="stable")
        height = self.first_error + (ERRORS if errors else 0)
        pointers = np.searchsorted(row[order], np.arange(height + 1)).astype(np.int32)
        column = image[order] if positions is None else positions[image[order]]
        width = len(wide) if rows is None else rows
        self.exact = csr_array((value[order], column.astype(np.int32), pointers), shape=(height, width))
        self.single = self.exact.astype(np.float32)

    def without_errors(self) -> "Ranking":
        """The same without Brier and calibration, at a third of the work; this one stays as it is."""
        plain = copy.copy(self)
        plain.errors = False
        plain.exact, plain.single = self.exact[: self.first_error], self.single[: self.first_error]
        return plain

    def measure(self, weights: NDArray[Any]) -> dict[str, Floats]:
        """Every metric for one block of weights.

        Args:
            weights: (rows, draws), float32 (exact if each column sums to less than 2**24) or float64.

        Returns:
            (draws,) by name: `auc`, `average_precision`, with `errors` also `brier` and `calibration_error`; and for
            threshold number t `accuracy@t`, `sensitivity@t`, `specificity@t`, `f1@t`, `positive_rate@t`. NaN where a
            denominator is 0.
        """
        sums = (self.single if weights.dtype == np.float32 else self.exact) @ weights
        k = len(self.cuts)
        positive, between = sums[:k], sums[k : 2 * k + 1]
        if self.has_ties:
            tied = sums[2 * k + 1 : 3 * k + 1]
            between[1:] += tied  # negatives tied with a cut lie below the next one
        up_to = _running_sums(between)
        below = up_to[:-1]  # weight of the negatives below each cut
        positives, negatives = positive.sum(axis=0, dtype=np.float64), up_to[-1].astype(np.float64)
        won = _dot(positive, below)
        if self.has_ties:
            won += 0.5 * _dot(positive, tied)
        up_to_positive = _running_sums(positive)
        hits = up_to_positive[-1:] - up_to_positive + positive  # positives at or above each cut
        called = hits + (up_to[-1] - below)
        precision = np.divide(hits, called, out=np.zeros(hits.shape), where=called > 0, dtype=np.float64)
        found = {
            "auc": _ratio(won, positives * negatives),
            "average_precision": _ratio(_dot(positive, precision), positives),
        }
        if self.errors:
            errors = sums[self.first_error :].astype(np.float64)
            found["brier"] = _ratio(errors[0], positives + negatives)
            found["calibration_error"] = _ratio(np.abs(errors[1:]).sum(axis=0), positives + negatives)
        for number, threshold in enumerate(self.thresholds):
            rates = self._rates(threshold, hits, below, positives, negatives)
            found |= {f"{name}@{number}": values for name, values in rates.items()}
        return found

    def _rates(
        self, threshold: float, hits: NDArray[Any], below: NDArray[Any], positives: Floats, negatives: Floats
    ) -> dict[str, Floats]:
        """Rates at one threshold, which is one of the cuts."""
        if not np.isfinite(threshold):
            return dict.fromkeys(AT_THRESHOLD, np.full(len(positives), np.nan))
        cut = int(np.searchsorted(self.cuts, threshold))
        true_positives, true_negatives = hits[cut].astype(np.float64), below[cut].astype(np.float64)
        total, called = positives + negatives, true_positives + (negatives - true_negatives)
        return {
            "accuracy": _ratio(true_positives + true_negatives, total),
            "sensitivity": _ratio(true_positives, positives),
            "specificity": _ratio(true_negatives, negatives),
            "f1": np.where(positives > 0, _ratio(2 * true_positives, called + positives), np.nan),
            "positive_rate": _ratio(called, total),
        }


def over_blocks(rankings: Sequence[Ranking], weights: NDArray[np.uint8]) -> list[dict[str, Floats]]:
    """Every metric of several rankings of the same images for all draws; each block of weights is widened once.

    Args:
        rankings: Made with `rows` = len(weights).
        weights: (rows, draws).

    Returns:
        As `Ranking.measure`, for each ranking.
    """
    draws = weights.shape[1]
    exact = int(weights.sum(axis=0, dtype=np.int64).max(initial=0)) < EXACT_IN_SINGLE
    kind = np.float32 if exact else np.float64
    parts: list[list[dict[str, Floats]]] = [[] for _ in rankings]
    for first in range(0, max(draws, 1), BLOCK):
        block = np.ascontiguousarray(weights[:, first : first + BLOCK]).astype(kind)
        for ranking, found in zip(rankings, parts, strict=True):
            found.append(ranking.measure(block))
    return [{name: np.concatenate([part[name] for part in found]) for name in found[0]} for found in parts]


def _calibration_bins(score: Floats) -> NDArray[np.intp]:
    """Which of ten equally wide bins of [0, 1] a probability is in; an inner edge belongs to the lower bin."""
    return np.searchsorted(np.linspace(0, 1, CALIBRATION_BINS + 1)[1:-1], score)


def _running_sums(values: NDArray[Any]) -> NDArray[Any]:
    """Cumulative sums of whole numbers along the pieces, five times as fast as ``cumsum`` along the first axis.

    Short stretches are summed by a matrix of ones below its diagonal, then each is raised by the total before it.
    """
    if len(values) < 4 * STRETCH:
        short: NDArray[Any] = np.cumsum(values, axis=0)
        return short
    whole = len(values) // STRETCH * STRETCH
    sums = np.empty_like(values)
    stretches = sums[:whole].reshape(whole // STRETCH, STRETCH, values.shape[1])
    ones_below = np.tril(np.ones((STRETCH, STRETCH), dtype=values.dtype))
    np.matmul(ones_below, values[:whole].reshape(stretches.shape), out=stretches)
    stretches[1:] += np.cumsum(stretches[:-1, -1], axis=0)[:, None]
    sums[whole:] = sums[whole - 1] + np.cumsum(values[whole:], axis=0)
    return sums


def _dot(left: NDArray[Any], right: NDArray[Any]) -> Floats:
    """Sum of products along the pieces, for each draw."""
    product: Floats = np.einsum("kd,kd->d", left, right, dtype=np.float64)
    return product


def _ratio(part: Floats, whole: Floats) -> Floats:
    """Quotient; NaN where the denominator is 0."""
    quotient: Floats = np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
    return quotient
