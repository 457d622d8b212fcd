"""AUC and threshold metrics with intervals from a bootstrap over patients; what cannot be computed says why.

A draw of the bootstrap takes as many patients as there are, with replacement. It is kept as the multiplicity of every
image's patient, so that a metric of a draw is the weighted metric of all images: one sort serves all draws. The draws
depend on the study's seed and the test domain alone, so all models are compared on the same ones.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpdt.vocabulary import LABELS, SUBGROUPS

__all__ = [
    "ALL",
    "AVERAGE",
    "COLUMNS",
    "METRICS",
    "Threshold",
    "auc",
    "domain_metrics",
    "patient_draws",
    "threshold_rates",
    "undefined_reason",
    "weighted_auc",
    "youden_threshold",
]

AVERAGE: Final = "average"
ALL: Final = "all"
METRICS: Final = ("auc", "accuracy", "sensitivity", "specificity")
COLUMNS: Final = (
    "test_domain",
    "split",
    "label",
    "subgroup",
    "metric",
    "value",
    "ci_low",
    "ci_high",
    "n",
    "n_positive",
    "reason",
    "undefined_draws",
)
BLOCK: Final = 32  # draws at once: a block's cumulative sums then stay in the processor's cache

Floats = NDArray[np.float64]
Draws = NDArray[np.uint8]


class Threshold(NamedTuple):
    """A decision threshold of one label: positive is a score at or above it."""

    value: float
    source: str  # e.g. "val of padchest", or why there is none (value is then NaN)
    n: int
    n_positive: int


def patient_draws(patients: NDArray[Any], *, draws: int, seed: int, domain: str) -> Draws:
    """Multiplicity of each image's patient in each bootstrap draw.

    Args:
        patients: Patient key of each image, (n,).
        draws: Number of draws.
        seed: The study's seed.
        domain: The test domain; with `seed` it alone decides the draws.

    Returns:
        (n, draws). Rows of one patient are equal; the multiplicities of the patients of one draw sum to their number.

    Source: Efron & Tibshirani, An Introduction to the Bootstrap (1993), ch. 8.3: the resampled unit is the independent
    one, here the patient.
    """
    names, position = np.unique(patients, return_inverse=True)
    word = int.from_bytes(hashlib.sha256(domain.encode()).digest()[:8], "big")
    rng = np.random.default_rng([seed, word])
    drawn = np.empty((len(names), draws), dtype=np.uint8)  # a patient 256 times in one draw: below 1e-500
    for number in range(draws):
        drawn[:, number] = np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names))
    return drawn[position]


def weighted_auc(target: NDArray[Any], score: NDArray[Any], weights: NDArray[Any]) -> Floats:
    """Area under the ROC curve for many sets of image weights; tied scores count one half.

    Args:
        target: 0 or 1 for each image, (n,).
        score: Higher means more likely positive, (n,).
        weights: Whole numbers of at least 0, (n, draws).

    Returns:
        (draws,); NaN where a class has no weight. Equals scikit-learn's ``roc_auc_score(sample_weight=…)``.

    Source: Hanley & McNeil, Radiology 143 (1982): AUC is the probability that a positive outranks a negative.
    """
    positive = np.flatnonzero(np.asarray(target) == 1)
    negative = np.flatnonzero(np.asarray(target) == 0)
    negative = negative[np.argsort(score[negative], kind="stable")]
    below = np.searchsorted(score[negative], score[positive], side="left")
    up_to = np.searchsorted(score[negative], score[positive], side="right")
    result = np.empty(weights.shape[1])
    for first in range(0, weights.shape[1], BLOCK):
        block = weights[:, first : first + BLOCK]
        behind = np.zeros((len(negative) + 1, block.shape[1]), dtype=np.int32)
        np.cumsum(block[negative], axis=0, dtype=np.int32, out=behind[1:])
        won = behind[below].astype(np.float64) + behind[up_to]  # twice the negatives outranked, ties once
        of_positive = block[positive].astype(np.float64)
        pairs = of_positive.sum(axis=0) * behind[-1]
        result[first : first + BLOCK] = _ratio(np.einsum("id,id->d", of_positive, won), 2 * pairs)
    return result


def auc(target: NDArray[Any], score: NDArray[Any]) -> float:
    """Area under the ROC curve; NaN if there is one class only.

    >>> float(auc(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8])))
    0.75
    """
    return float(weighted_auc(target, score, np.ones((len(target), 1), dtype=np.uint8))[0])


def youden_threshold(target: NDArray[Any], score: NDArray[Any]) -> float:
    """Score that maximises sensitivity + specificity - 1 when scores at or above it are called positive.

    Of several best ones the highest is taken (the most specific). NaN if there is one class only.

    Source: Youden, Cancer 3 (1950).
    """
    order = np.argsort(-score, kind="stable")
    ranked, hits = score[order], np.asarray(target)[order] == 1
    if hits.all() or not hits.any():
        return float("nan")
    last = np.append(ranked[1:] != ranked[:-1], True)  # the end of each group of tied scores
    sensitivity = np.cumsum(hits)[last] / hits.sum()
    fall_out = np.cumsum(~hits)[last] / (~hits).sum()
    return float(ranked[last][np.argmax(sensitivity - fall_out)])


def threshold_rates(
    target: NDArray[Any], score: NDArray[Any], weights: NDArray[Any], threshold: float
) -> dict[str, Floats]:
    """Accuracy, sensitivity and specificity at a threshold for many sets of image weights; NaN for no such images.

    Args:
        target: 0 or 1, (n,).
        score: (n,).
        weights: (n, draws).
        threshold: Scores at or above it are called positive.

    Returns:
        (draws,) by metric.
    """
    is_positive, called = np.asarray(target) == 1, score >= threshold

    def weight(chosen: NDArray[np.bool_]) -> Floats:
        total: Floats = weights[chosen].sum(axis=0, dtype=np.float64)
        return total

    positives, negatives = weight(is_positive), weight(~is_positive)
    true_positives, true_negatives = weight(is_positive & called), weight(~is_positive & ~called)
    rates = {
        "accuracy": (true_positives + true_negatives, positives + negatives),
        "sensitivity": (true_positives, positives),
        "specificity": (true_negatives, negatives),
    }
    return {name: _ratio(part, whole) for name, (part, whole) in rates.items()}


def _ratio(part: Floats, whole: Floats) -> Floats:
    """Quotient; NaN where the denominator is 0."""
    quotient: Floats = np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
    return quotient


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


class _Cell(NamedTuple):
    """One metric of one label in one subgroup, with its bootstrap distribution."""

    value: float
    draws: Floats
    n: int
    n_positive: int | None
    reason: str


def domain_metrics(
    frame: pd.DataFrame,
    *,
    test_domain: str,
    thresholds: Mapping[str, Threshold],
    weights: Draws,
    minimum: int,
    confidence: float,
) -> pd.DataFrame:
    """All metrics of one model on one test domain, by label (and their average) and subgroup (and all).

    Args:
        frame: One row an image: `sex`, `age_group`, and for each label `target_<label>` (NaN = unknown) and
            `score_<label>`.
        test_domain: Written into the rows.
        thresholds: By label; from the train domain's `val`, never from test.
        weights: From `patient_draws`, (n, draws); with 0 draws there are no intervals.
        minimum: Cells with fewer images are undefined.
        confidence: Of the percentile intervals, in (0, 1).

    Returns:
        Rows with COLUMNS. An undefined cell has NaN, its reason and n. An average is the mean of the defined labels;
        its reason names the others, and a draw counts only where all of the averaged labels are defined.
    """
    masks = {ALL: np.ones(len(frame), dtype=bool)}
    for group in SUBGROUPS:
        masks[group] = ((frame["sex"] == group) | (frame["age_group"] == group)).to_numpy()
    rows = []
    for subgroup, mask in masks.items():
        cells = {label: _label_cells(frame, label, mask, weights, thresholds[label], minimum) for label in LABELS}
        for metric in METRICS:
            of_labels = {label: cells[label][metric] for label in LABELS}
            for label, cell in (*of_labels.items(), (AVERAGE, _average(of_labels, int(mask.sum())))):
                rows.append(
                    {
                        "test_domain": test_domain,
                        "split": "test",
                        "label": label,
                        "subgroup": subgroup,
                        "metric": metric,
                        **_row(cell, confidence),
                    }
                )
    return as_table(rows)


def as_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows of metrics with the columns and types of `metrics.parquet`."""
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    counts = {"n": "int64", "n_positive": "Int64"}
    numbers = dict.fromkeys(("value", "ci_low", "ci_high", "undefined_draws"), "float64")
    return table.astype({**counts, **numbers})


def _label_cells(
    frame: pd.DataFrame, label: str, mask: NDArray[np.bool_], weights: Draws, threshold: Threshold, minimum: int
) -> dict[str, _Cell]:
    """All metrics of one label among the images of `mask`."""
    target = frame[f"target_{label}"].to_numpy(dtype=np.float64)
    known = mask & ~np.isnan(target)
    target, score = target[known], frame[f"score_{label}"].to_numpy()[known]
    # The first column, all ones, is the data themselves; the others are the draws.
    columns = np.concatenate([np.ones((len(target), 1), dtype=np.uint8), weights[known]], axis=1)
    n, n_positive = len(target), int((target == 1).sum())
    empty = np.full(columns.shape[1], np.nan)
    reason = undefined_reason(target, minimum=minimum)
    results = {"auc": (empty if reason else weighted_auc(target, score, columns), reason)}
    too_few = reason if n < minimum else ""
    unusable = too_few or ("" if np.isfinite(threshold.value) else f"no threshold: {threshold.source}")
    rates = dict.fromkeys(METRICS[1:], empty) if unusable else threshold_rates(target, score, columns, threshold.value)
    for metric, values in rates.items():
        results[metric] = (values, unusable or (reason if np.isnan(values[0]) else ""))
    return {m: _Cell(float(values[0]), values[1:], n, n_positive, why) for m, (values, why) in results.items()}


def _average(cells: Mapping[str, _Cell], n: int) -> _Cell:
    """Mean over the defined labels; the reason names those left out."""
    defined = [cell for cell in cells.values() if not np.isnan(cell.value)]
    without = [label for label, cell in cells.items() if np.isnan(cell.value)]
    draws = np.shape(next(iter(cells.values())).draws)
    if not defined:
        reasons = sorted({cell.reason for cell in cells.values()})
        return _Cell(float("nan"), np.full(draws, np.nan), n, None, f"no label is defined: {'; '.join(reasons)}")
    value = float(np.mean([cell.value for cell in defined]))
    note = f"without {', '.join(without)} (undefined)" if without else ""
    return _Cell(value, np.mean([cell.draws for cell in defined], axis=0), n, None, note)


def _row(cell: _Cell, confidence: float) -> dict[str, Any]:
    """Value, percentile interval over the defined draws, counts, reason."""
    row = {"value": cell.value, "n": cell.n, "n_positive": cell.n_positive, "reason": cell.reason}
    row |= dict.fromkeys(("ci_low", "ci_high", "undefined_draws"), np.nan)
    if np.isnan(cell.value) or len(cell.draws) == 0:
        return row
    defined = cell.draws[~np.isnan(cell.draws)]
    row["undefined_draws"] = 1 - len(defined) / len(cell.draws)
    if len(defined):
        row["ci_low"], row["ci_high"] = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return row
