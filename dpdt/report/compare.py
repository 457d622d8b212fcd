"""DP against no DP, model by model: paired differences in AUC with their tests, and in fairness.

Standard errors are DeLong's, summed by patient (or by image, as `evaluate.bootstrap_unit` says); where a class has few
images they cannot be trusted, and a permutation test takes their place. Intervals are from the shared bootstrap draws.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import pandas as pd

from dpdt.base.vocabulary import LABELS
from dpdt.evaluation.metrics import (
    ALL,
    AVERAGE,
    COLUMNS,
    FAIRNESS,
    auc_influence,
    holm,
    normal_p,
    permutation_test,
    tost,
    undefined_reason,
)
from dpdt.evaluation.predict import wide
from dpdt.report.intervals import DrawKey, Draws, Interval
from dpdt.runs.read import Run, cell_runs
from dpdt.study import Study

__all__ = ["COMPARISON_COLUMNS", "FAIRNESS_COLUMNS", "compare_models", "fairness_table", "metrics_table"]

SMALL_CLASS: Final = 20  # fewer images of a class than this are tested by permutation
KEYS: Final = ["target_epsilon", "train_domain", "test_domain", "seed", "label"]
COMPARISON_COLUMNS: Final = [
    *KEYS,
    "auc_dp",
    "auc_no_dp",
    "difference",
    "ci_low",
    "ci_high",
    "standard_error",
    "p",
    "p_holm",
    "test",
    "p_equivalence",
    "p_equivalence_holm",
    "reason",
]
FAIRNESS_COLUMNS: Final = [
    "target_epsilon",
    "train_domain",
    "test_domain",
    "label",
    "attribute",
    "measure",
    "value",
    "ci_low",
    "ci_high",
    "difference_to_no_dp",
    "difference_low",
    "difference_high",
    "reason",
]


def compare_models(study: Study, draws: Draws) -> pd.DataFrame:
    """Every DP model against the model of the same domain and seed without DP, on every test domain and label.

    Args:
        study: The study.
        draws: For the intervals (means over the seeds).

    Returns:
        COMPARISON_COLUMNS; rows of labels and of their average. Holm's correction is over the rows of one epsilon,
        labels and averages apart. `p_equivalence` is of two one-sided tests within `evaluate.equivalence_margin`.
    """
    rows: list[dict[str, Any]] = []
    runs = {cell: run for cell, run in cell_runs(study).items() if run and run.metrics() is not None}
    for cell, run in runs.items():
        without = runs.get(cell._replace(target_epsilon=math.inf))
        if not cell.private or without is None:
            continue
        for domain in study.test_domains:
            head = {"target_epsilon": cell.target_epsilon, "train_domain": cell.domain, "test_domain": domain}
            for row in _compare(study, run, without, domain):
                keys = [
                    DrawKey(epsilon, cell.domain, domain, row["label"], ALL, "auc")
                    for epsilon in (cell.target_epsilon, math.inf)
                ]
                interval = draws.mean(keys[:1], minus=keys[1:]) if len(study.train.seeds) == 1 else Interval()
                rows.append({**head, "seed": cell.seed, **row, "ci_low": interval.low, "ci_high": interval.high})
    table = pd.DataFrame(rows, columns=COMPARISON_COLUMNS)
    families = [table["target_epsilon"], table["label"] == AVERAGE]
    for name in ("p", "p_equivalence"):
        adjusted = table[name].astype("float64").groupby(families).transform(lambda p: holm(p.to_numpy()))
        table[f"{name}_holm"] = adjusted if len(table) else table[name]
    return table


def _compare(study: Study, run: Run, without: Run, domain: str) -> Iterator[dict[str, Any]]:
    """One pair of models on one test domain: every label, then the average."""
    frames = [_predictions(one, domain) for one in (run, without)]
    if frames[0] is None or frames[1] is None:
        return
    first, second = frames[0].set_index("image_id"), frames[1].set_index("image_id")
    shared = first.index.intersection(second.index, sort=False)
    first, second = first.loc[shared], second.loc[shared]
    key = first["patient_key"] if study.evaluate.bootstrap_unit == "patient" else pd.Series(first.index)
    units = np.unique(key.to_numpy(), return_inverse=True)[1]
    number = int(units.max()) + 1 if len(units) else 0
    influences, pairs = [], []
    for label in LABELS:
        target = first[f"target_{label}"].to_numpy(dtype=np.float64)
        known = ~np.isnan(target)
        scores = [frame[f"score_{label}"].to_numpy()[known] for frame in (first, second)]
        reason = undefined_reason(target[known], minimum=study.evaluate.min_subgroup_size)
        if reason:
            yield {"label": label, **_tested(math.nan, math.nan, math.nan, study), "test": "", "reason": reason}
            continue
        of_models = [auc_influence(target[known], score, units[known], number) for score in scores]
        pairs.append((of_models[0][0], of_models[1][0]))
        influences.append(of_models[0][1] - of_models[1][1])
        row = {"label": label, **_tested(*pairs[-1], _error(influences[-1]), study), "test": "DeLong", "reason": ""}
        positives = int((target[known] == 1).sum())
        if min(positives, int(known.sum()) - positives) < SMALL_CLASS:
            row |= {"test": "permutation", "p": permutation_test(target[known], *scores, units=units[known])}
        yield row
    if pairs:
        means = [float(mean) for mean in np.mean(pairs, axis=0)]
        error = _error(np.mean(influences, axis=0))
        note = "" if len(pairs) == len(LABELS) else f"over {len(pairs)} of {len(LABELS)} labels"
        yield {"label": AVERAGE, **_tested(means[0], means[1], error, study), "test": "DeLong", "reason": note}


def _error(influence: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    """Standard error from the units' influences."""
    n = len(influence)
    return float(np.sqrt(n / (n - 1) * (influence**2).sum())) if n > 1 else math.nan


def _tested(first: float, second: float, error: float, study: Study) -> dict[str, float]:
    """Difference of two AUCs with both tests."""
    difference = float(first - second)
    return {
        "auc_dp": float(first),
        "auc_no_dp": float(second),
        "difference": difference,
        "standard_error": error,
        "p": normal_p(difference, error),
        "p_equivalence": tost(difference, error, margin=study.evaluate.equivalence_margin).p,
    }


def _predictions(run: Run, domain: str) -> pd.DataFrame | None:
    """A model's scores on one domain; None if they are missing or damaged."""
    try:
        return wide(pd.read_parquet(run.paths.predictions(domain)))
    except (OSError, ValueError, KeyError):
        return None


def metrics_table(study: Study) -> pd.DataFrame:
    """All metrics of all models, as `metrics.parquet` of the runs has them."""
    tables = []
    for cell, run in cell_runs(study).items():
        table = run.metrics() if run else None
        if table is not None:
            head: dict[str, Any] = {
                "target_epsilon": cell.target_epsilon,
                "train_domain": cell.domain,
                "seed": cell.seed,
            }
            tables.append(table.assign(**head)[[*head, *table.columns]])
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=[*KEYS[:2], "seed", *COLUMNS])


def fairness_table(metrics: pd.DataFrame, draws: Draws) -> pd.DataFrame:
    """Fairness measures of every model, with their intervals and the paired difference to no DP.

    Args:
        metrics: From `metrics_table`.
        draws: For the intervals of the differences.

    Returns:
        FAIRNESS_COLUMNS, a mean over the seeds.
    """
    if metrics.empty:
        return pd.DataFrame(columns=FAIRNESS_COLUMNS)
    chosen = metrics[metrics["metric"].isin(FAIRNESS)]
    by = ["target_epsilon", "train_domain", "test_domain", "label", "subgroup", "metric"]
    found = chosen.groupby(by, sort=False).agg(
        {"value": "mean", "ci_low": "mean", "ci_high": "mean", "reason": "first"}
    )
    values: Mapping[Any, float] = found["value"].to_dict()
    rows = []
    for key, row in zip(found.index, found.to_dict("records"), strict=True):
        epsilon, *rest = key
        difference, interval = math.nan, Interval()
        if math.isfinite(epsilon):
            difference = row["value"] - values.get((math.inf, *rest), math.nan)
            interval = draws.mean([DrawKey(*key)], minus=[DrawKey(math.inf, *rest)])
        rows.append([*key, row["value"], row["ci_low"], row["ci_high"], difference, *interval, row["reason"]])
    return pd.DataFrame(rows, columns=FAIRNESS_COLUMNS)
