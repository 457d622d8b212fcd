"""The numbers that MLflow gets about a run: over steps, and of the evaluation. What is undefined has its reason.

MLflow's compare page sorts names by their characters and plots the first one: `auc` comes before all others. Its charts
are bars, one a run, where a metric has step 0 alone, else lines over the steps.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import pandas as pd

from dpdt.base.vocabulary import MAIN_LABELS, healthy_label
from dpdt.evaluation.metrics import ALL, AVERAGE, CROSSINGS, MAIN_RATES, PAPER, REPRESENTATION, labels_of, macro_aucs
from dpdt.runs.read import Run
from dpdt.study import is_before

__all__ = [
    "MAX_METRIC_KEYS",
    "STEP_METRICS",
    "Point",
    "final_values",
    "is_final",
    "macro_labels",
    "milliseconds",
    "named_values",
    "step_values",
]

MAX_METRIC_KEYS: Final = 150  # more columns make the compare page unusable
MAX_POINTS: Final = 1000  # of one chart
STEP_METRICS: Final = ("epsilon", "loss", "step_s")
FAIRNESS: Final = ("auc_gap", "underdiagnosis_gap")
NO_COMMON: Final = "no label that all test domains have"
SHOWN: Final = ("auc", *FAIRNESS, *MAIN_RATES, *REPRESENTATION)


class Point(NamedTuple):
    """One value of one metric."""

    key: str
    value: float
    time_ms: int
    step: int


def milliseconds(seconds: float) -> int:
    """MLflow's unit of time."""
    return round(seconds * 1000)


def step_values(run: Run, steps: Sequence[dict[str, Any]]) -> tuple[list[Point], dict[str, str]]:
    """Epsilon, loss and step time over steps, at most about MAX_POINTS each, and reasons of what is undefined.

    Which steps are kept depends on their numbers alone, so a longer log keeps those that a shorter one kept.
    """
    num_steps = int(run.config.get("num_steps") or 0)
    stride = max(1, math.ceil(num_steps / MAX_POINTS))
    points: list[Point] = []
    bucket = -1
    for line in steps:
        step = int(line["step"])
        if step // stride == bucket and step != num_steps:
            continue
        bucket = step // stride
        for key in STEP_METRICS:
            value = line.get(key)
            if value is not None and math.isfinite(value):
                points.append(Point(key, float(value), milliseconds(float(line["time"])), step))
    return points, _undefined_steps(run, steps)


def _undefined_steps(run: Run, steps: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Why epsilon or loss has gaps; the logs have null for every number that was NaN or infinite."""
    reasons = {
        "epsilon": "no finite bound: more noise or fewer steps are needed",
        "loss": "NaN or infinite, an empty batch, or a head in closed form",
    }
    found = {} if run.private else {"epsilon": "trained without DP"}
    for key, reason in reasons.items():
        gaps = sum(line.get(key) is None or not math.isfinite(line[key]) for line in steps)
        if gaps and key not in found:
            found[key] = f"{gaps} of {len(steps)} logged values: {reason}"
    return found


def final_values(run: Run, updated: float, *, taken: int = 0) -> tuple[list[Point], dict[str, str]]:
    """Values of the evaluation and of the audit, and the reasons of those that are undefined.

    Args:
        run: The run.
        updated: When the run's state was written, in seconds since 1970.
        taken: Metric keys that other values of the run have taken already.
    """
    points, undefined = _audit_values(run)
    table = run.metrics()
    if table is None:
        return points, undefined
    # after a former evaluation's, so that it is the latest
    when = milliseconds(max(updated, run.paths.metrics.stat().st_mtime))
    room = MAX_METRIC_KEYS - len(STEP_METRICS) - taken - len(points) - len(undefined)
    before = is_before(run.target_epsilon)
    for number, (name, value, reason) in enumerate(named_values(table, own=None if before else run.domain)):
        if number >= room:
            break  # the artifact metrics.csv has all
        if math.isfinite(value):
            points.append(Point(name, value, when, 0))
        else:
            undefined[name] = reason or "undefined"
    return points, undefined


def is_final(key: str) -> bool:
    """Whether a metric is of `final_values`: of no step."""
    return key not in STEP_METRICS and not key.startswith("system/")


def macro_labels(table: pd.DataFrame) -> dict[str, str]:
    """By test domain, the labels of its macro AUC, separated by commas; empty where all are over the same."""
    labels = macro_aucs(table).query("auc.notna()")["labels"]
    return {str(domain): text for domain, text in labels.items()} if labels.nunique() > 1 else {}


def _audit_values(run: Run) -> tuple[list[Point], dict[str, str]]:
    """What an audit found, where the run was audited: lower bound of epsilon, membership AUC, whether it refutes."""
    found = run.audit()
    if found is None:
        return [], {}
    values = {
        "epsilon_lower": (found.get("canaries") or {}).get("epsilon_lower"),
        "membership_auc": (found.get("membership") or {}).get("auc"),
        "refuted": float(bool(found.get("refuted"))),
    }
    when = milliseconds(run.paths.audit.stat().st_mtime)
    known = {name: v for name, v in values.items() if v is not None and math.isfinite(v)}
    points = [Point(f"audit/{name}", float(value), when, 0) for name, value in known.items()]
    return points, {f"audit/{name}": "the audit has no such number" for name in values if name not in known}


def named_values(table: pd.DataFrame, *, own: str | None) -> Iterator[tuple[str, float, str]]:
    """Name, value and reason of a model's metrics, the most wanted first.

    Args:
        table: With COLUMNS.
        own: The domain it was trained on; None for the model before all trainings, which no domain is its own of.
    """
    wanted = table[(table["split"] == "test") & (table["protocol"] != PAPER) & table["metric"].isin(SHOWN)]
    columns = (wanted[name].astype(str) for name in ("test_domain", "label", "subgroup", "metric"))
    numbers = zip(wanted["value"].astype(float), wanted["reason"].astype(str), strict=True)
    keyed = dict(zip(zip(*columns, strict=True), numbers, strict=True))
    domains = list(dict.fromkeys(key[0] for key in keyed))

    def value(domain: str, label: str, subgroup: str = ALL, metric: str = "auc") -> tuple[float, str]:
        return keyed.get((domain, label, subgroup, metric), (math.nan, "not evaluated"))

    macro = macro_aucs(table)
    others = [domain for domain in domains if domain != own]
    for column in (
        "auc",
        *(["auc_common"] if macro_labels(table) else []),
    ):  # where they differ: over common labels, too
        if own is not None and own in domains:
            reason = value(own, AVERAGE)[1] if column == "auc" else NO_COMMON
            yield column, float(macro[column].get(own, math.nan)), reason
        elsewhere = [float(v) for v in macro.loc[others, column] if math.isfinite(v)]
        mean = sum(elsewhere) / len(elsewhere) if elsewhere else math.nan
        off_domain = column.replace("auc", "auc_off_domain", 1)
        for name in (*((column,) if own is None else ()), *((off_domain,) if others else ())):
            yield name, mean, "no other domain has a defined AUC" if column == "auc" else NO_COMMON
    labels = labels_of(table)
    for domain in domains:
        for label in (AVERAGE, *labels[:MAIN_LABELS]):
            yield f"auc/{domain}/{label}", *value(domain, label)
    of_auc = wanted[(wanted["metric"] == "auc") & (wanted["label"] == AVERAGE)]["subgroup"].unique()
    for domain in domains:
        for subgroup in (group for group in of_auc if group != ALL and group not in CROSSINGS):
            yield f"auc/{domain}/{AVERAGE}/{subgroup}", *value(domain, AVERAGE, subgroup)
    attributes = wanted[wanted["metric"] == "auc_gap"]["subgroup"].unique()
    healthy = healthy_label(labels)
    for metric in FAIRNESS if healthy else FAIRNESS[:1]:
        for domain in domains:
            for attribute in attributes:
                label = healthy if metric == "underdiagnosis_gap" and healthy else AVERAGE
                yield f"{metric}/{domain}/{attribute}", *value(domain, label, attribute, metric)
    for metric in MAIN_RATES:
        for domain in domains:
            yield f"threshold/{metric}/{domain}", *value(domain, AVERAGE, metric=metric)
    for metric in (metric for metric in REPRESENTATION if any(key[3] == metric for key in keyed)):
        for domain in domains:
            yield f"representation/{metric}/{domain}", *value(domain, AVERAGE, metric=metric)
    for domain in domains:
        for label in labels[MAIN_LABELS:]:
            yield f"auc/{domain}/{label}", *value(domain, label)
