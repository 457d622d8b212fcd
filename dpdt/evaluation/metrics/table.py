"""All metrics of one model on one test domain, with bootstrap intervals; what cannot be computed says why."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpdt.base.vocabulary import MAIN_LABELS, healthy_label
from dpdt.evaluation.metrics.bootstrap import Draws, extreme_interval, percentile_interval
from dpdt.evaluation.metrics.estimate import (
    Estimate,
    Patients,
    average,
    count_patients,
    few_reason,
    threshold_reason,
    undefined_reason,
    youden_threshold,
)
from dpdt.evaluation.metrics.fairness import fairness_estimates
from dpdt.evaluation.metrics.groups import Groups, papers_groups
from dpdt.evaluation.metrics.kernel import Ranking, over_blocks
from dpdt.evaluation.metrics.names import (
    ALL,
    AT_THRESHOLD,
    AVERAGE,
    COLUMNS,
    EITHER,
    METRICS,
    PAPER,
    RESTS_ON,
    STRICT,
    THRESHOLD_FREE,
    UNDERDIAGNOSIS,
    Threshold,
)

__all__ = ["DRAW_KEYS", "DomainMetrics", "as_table", "measure_domain"]

Key = tuple[str, str, str, str]  # label, subgroup, metric, protocol
NOT_MAIN: Final = f"no interval: not of the first {MAIN_LABELS} labels"
DRAW_KEYS: Final = ("test_domain", "label", "subgroup", "metric", "protocol")


class DomainMetrics(NamedTuple):
    """The rows, and the bootstrap draws of those that models are compared by."""

    table: pd.DataFrame  # COLUMNS
    draws: pd.DataFrame  # DRAW_KEYS and `draws`: a float32 array each


def measure_domain(
    frame: pd.DataFrame,
    *,
    test_domain: str,
    thresholds: Mapping[str, Threshold],
    weights: Draws,
    minimum: int,
    confidence: float,
    groups: Groups | None = None,
) -> DomainMetrics:
    """All metrics of one model on one test domain, by label (and their average) and subgroup (all, and crossings).

    Args:
        frame: One row an image: `patient_key`, `sex`, `age_group`, and for each label `target_<label>` (NaN =
            unknown) and `score_<label>`.
        test_domain: Written into the rows.
        thresholds: By label, in the study's order, of the protocol strict: from the train domain's `val`, never from
            test.
        weights: From `patient_draws`, (n, draws); with 0 draws there are no intervals.
        minimum: Estimates with fewer images are undefined.
        confidence: Of the percentile intervals, in (0, 1).
        groups: Of the frame's images; default: sex, age and their crossings.

    Returns:
        Rows with COLUMNS. An undefined metric has NaN, its reason and n; one of fewer than FEWEST_PATIENTS has a value,
        but no interval and no draws, and a reason. An average is the mean of the labels that are defined and have
        enough patients; its reason names the others, and a draw counts only where all of the averaged labels are
        defined. Labels after the first MAIN_LABELS have no interval of Brier and calibration, nor in crossings that are
        only measured: these cost most. Metrics at a threshold come once a protocol. Fairness rows have the attribute,
        such as `sex`, as their subgroup.
    """
    groups, labels = groups or papers_groups(frame), tuple(thresholds)
    masks, compared = groups.masks, groups.compared
    estimates = _label_estimates(frame, groups, thresholds, weights, minimum)
    names = [(metric, "") for metric in THRESHOLD_FREE]
    names += [(metric, protocol) for protocol in (STRICT, PAPER) for metric in AT_THRESHOLD]
    for subgroup in masks:
        n = int(masks[subgroup].sum())
        for metric, protocol in names:
            of_labels = {label: estimates[label, subgroup, metric, protocol] for label in labels}
            estimates[AVERAGE, subgroup, metric, protocol] = average(of_labels, n)
    estimates |= fairness_estimates(estimates, labels=labels, attributes=groups.attributes)
    order = {name: number for number, name in enumerate((*METRICS, UNDERDIAGNOSIS))}
    rank = {name: number for number, name in enumerate((*labels, AVERAGE))}
    place = {name: number for number, name in enumerate(masks)}
    keys = sorted(estimates, key=lambda k: (k[3], place.get(k[1], len(place)), order.get(k[2], 99), rank[k[0]]))
    rows = [
        dict(zip(("label", "subgroup", "metric", "protocol"), key, strict=True)) | _row(estimates[key], confidence)
        for key in keys
    ]
    table = as_table([{"test_domain": test_domain, "split": "test", **row} for row in rows])
    kept = [
        key
        for key in keys
        if (key[1] in compared or key[1] not in masks)
        and _compared(key, key[1] in masks)
        and _has_draws(estimates[key])
    ]
    draws = pd.DataFrame([(test_domain, *key) for key in kept], columns=list(DRAW_KEYS))
    draws["draws"] = pd.Series([estimates[key].draws.astype(np.float32) for key in kept], dtype=object)
    return DomainMetrics(table, draws)


def _has_draws(estimate: Estimate) -> bool:
    drawn = len(estimate.draws) > 0 and not np.isnan(estimate.draws).all()
    return drawn and not np.isnan(estimate.value) and not estimate.few


def _compared(key: Key, of_group: bool) -> bool:
    """Whether models are compared by this metric, so that its draws are kept: all of fairness, not protocol paper."""
    _, subgroup, metric, protocol = key
    wanted = ("average_precision", "brier") if subgroup == ALL else (UNDERDIAGNOSIS,)
    return protocol != PAPER and (not of_group or metric in ("auc", "sensitivity", "specificity", *wanted))


def as_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows of metrics with the columns and types of `metrics.parquet`."""
    table = pd.DataFrame([{"protocol": "", "labels": "", **row} for row in rows], columns=list(COLUMNS))
    counts = {"n": "int64", "n_positive": "Int64"}
    numbers = dict.fromkeys(("value", "ci_low", "ci_high", "undefined_draws"), "float64")
    return table.astype({**counts, **numbers})


class _Part(NamedTuple):
    """One label's images of one subgroup."""

    label: str
    subgroup: str
    target: NDArray[np.float64]
    patients: Patients
    ranking: Ranking
    thresholds: tuple[Threshold, Threshold]  # strict, paper


def _label_estimates(
    frame: pd.DataFrame,
    groups: Groups,
    thresholds: Mapping[str, Threshold],
    weights: Draws,
    minimum: int,
) -> dict[Key, Estimate]:
    """All metrics of every label and subgroup, fairness aside."""
    healthy, main = healthy_label(thresholds), [*thresholds][:MAIN_LABELS]
    patients = np.unique(frame["patient_key"].to_numpy(), return_inverse=True)[1]
    parts = []
    for label in thresholds:
        target = frame[f"target_{label}"].to_numpy(dtype=np.float64)
        score = frame[f"score_{label}"].to_numpy()
        known = ~np.isnan(target)
        pair = (thresholds[label], _paper_threshold(target[known], score[known], minimum))
        for subgroup, mask in groups.masks.items():
            rows = np.flatnonzero(mask & known)
            ranking = Ranking(
                target[rows],
                score[rows],
                thresholds=[threshold.value for threshold in pair],
                positions=rows,
                rows=len(frame),
                errors=True,
            )
            of_rows = count_patients(target[rows], patients[rows])
            parts.append(_Part(label, subgroup, target[rows], of_rows, ranking, pair))
    every_image = np.ones((len(frame), 1))
    chosen = [part for part in parts if part.label in main or part.subgroup in groups.compared]
    drawn = over_blocks([p.ranking if p.label in main else p.ranking.without_errors() for p in chosen], weights)
    of_part = {(part.label, part.subgroup): draws for part, draws in zip(chosen, drawn, strict=True)}
    estimates: dict[Key, Estimate] = {}
    not_drawn = np.full(weights.shape[1], np.nan)
    for part in parts:
        draws = defaultdict(lambda: not_drawn, of_part.get((part.label, part.subgroup), {}))
        estimates |= _estimates_of(part, part.ranking.measure(every_image), draws, minimum, part.label == healthy)
    return estimates


def _paper_threshold(target: NDArray[Any], score: NDArray[Any], minimum: int) -> Threshold:
    """Youden's threshold of the test images themselves."""
    why_not = undefined_reason(target, minimum=minimum)
    if why_not:
        return Threshold(float("nan"), f"test: {why_not}", len(target), int((target == 1).sum()))
    value = youden_threshold(target, score)
    return Threshold(value, f"test itself, {value:.4f}", len(target), int((target == 1).sum()))


def _estimates_of(
    part: _Part, values: dict[str, Any], draws: dict[str, Any], minimum: int, healthy: bool
) -> dict[Key, Estimate]:
    """The estimates of one label and subgroup."""
    n, n_positive = len(part.target), int((part.target == 1).sum())
    reason = undefined_reason(part.target, minimum=minimum)
    too_few = reason if n < minimum or n == 0 else ""
    estimates: dict[Key, Estimate] = {}

    def put(metric: str, protocol: str, name: str, why_not: str, note: str = "", *, flip: bool = False) -> None:
        note = note if name in draws else "; ".join(filter(None, (note, NOT_MAIN)))
        value, of_draws = float(values[name][0]), draws[name]
        if flip:
            value, of_draws = 1 - value, 1 - of_draws
        few = few_reason(part.patients, RESTS_ON.get(metric, EITHER))
        if why_not or np.isnan(value):
            value, note, few = float("nan"), why_not or reason, ""
        if few or np.isnan(value):
            of_draws = np.full(len(of_draws), np.nan)
        estimates[part.label, part.subgroup, metric, protocol] = Estimate(value, of_draws, n, n_positive, note, few)

    for metric in THRESHOLD_FREE:
        put(metric, "", metric, reason if metric in ("auc", "average_precision") else too_few)
    for number, protocol in enumerate((STRICT, PAPER)):
        threshold = part.thresholds[number]
        why_not = too_few or threshold_reason(threshold)
        note = f"optimistic: threshold from {threshold.source}" if protocol == PAPER else ""
        for metric in AT_THRESHOLD:
            put(metric, protocol, f"{metric}@{number}", why_not, note)
        if healthy:
            put(UNDERDIAGNOSIS, protocol, f"specificity@{number}", why_not, note, flip=True)
    return estimates


def _row(estimate: Estimate, confidence: float) -> dict[str, Any]:
    """Value, percentile interval over the defined draws, counts, reason."""
    row: dict[str, Any] = {"value": estimate.value, "n": estimate.n, "n_positive": estimate.n_positive}
    row["labels"] = ",".join(estimate.labels)
    bounds, why_none = (float("nan"),) * 3, estimate.few
    if _has_draws(estimate):
        bounds = percentile_interval(estimate.draws, confidence)
        if estimate.compared is not None:
            bounds = extreme_interval(estimate.value, *estimate.compared, confidence)
        why_none = "all draws alike: no interval" if np.isnan(bounds[0]) else ""
    reason = "; ".join(filter(None, (estimate.reason, why_none)))
    return row | dict(zip(("ci_low", "ci_high", "undefined_draws"), bounds, strict=True)) | {"reason": reason}
