"""Models against models: paired differences in AUC with their tests, and in fairness.

Standard errors are DeLong's, summed by patient (or by image, as `evaluate.bootstrap_unit` says); where a class has few
patients they cannot be trusted, and a permutation test takes their place; where it has very few there is no test.
Intervals are from the shared bootstrap draws.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpdt.evaluation.metrics import (
    ALL,
    AVERAGE,
    COLUMNS,
    FAIRNESS,
    UNDERDIAGNOSIS,
    auc_influence,
    count_patients,
    few_reason,
    holm,
    normal_p,
    permutation_test,
    standard_error,
    tost,
    undefined_reason,
)
from dpdt.evaluation.metrics.bootstrap import Floats
from dpdt.evaluation.predict import wide
from dpdt.report.intervals import DrawKey, Draws, Interval
from dpdt.runs.read import Run, model_runs
from dpdt.study import Cell, Study, is_before

__all__ = ["COMPARISON_COLUMNS", "FAIRNESS_COLUMNS", "compare_models", "fairness_table", "metrics_table"]

MOST_ROWS: Final = 1_000_000  # a spreadsheet opens no more
SHORT: Final = (
    [("subgroup", "==", ALL)],
    [("label", "==", AVERAGE)],
    [("metric", "in", ["auc", UNDERDIAGNOSIS, *FAIRNESS])],
)
SMALL_CLASS: Final = 20  # fewer patients of a class than this are tested by permutation
KEYS: Final = ["target_epsilon", "train_domain", "test_domain", "seed", "label"]
NUMBERS: Final = ("auc", "auc_against", "difference", "standard_error", "p", "p_equivalence")
_COMPARISON_COLUMNS: Final = (
    "against auc auc_against difference ci_low ci_high standard_error p p_holm test p_equivalence p_equivalence_holm "
    "reason"
)
COMPARISON_COLUMNS: Final = [*KEYS, *_COMPARISON_COLUMNS.split()]
_FAIRNESS_COLUMNS: Final = (
    "target_epsilon train_domain test_domain label attribute measure value ci_low ci_high difference_to_no_dp "
    "difference_low difference_high reason"
)
FAIRNESS_COLUMNS: Final = _FAIRNESS_COLUMNS.split()


def compare_models(study: Study, draws: Draws) -> pd.DataFrame:
    """Every DP model against its twin without DP, and every model against the one before all trainings.

    A twin is of the same domain and seed. All are compared on every test domain and label.

    Args:
        study: The study.
        draws: For the intervals (means over the seeds).

    Returns:
        COMPARISON_COLUMNS; rows of labels and of their average. `against` is the target epsilon of the other model: inf
        or 0. Holm's correction is over the rows of one epsilon against one of them, labels and averages apart.
        `p_equivalence` is of two one-sided tests within `evaluate.equivalence_margin`.
    """
    runs = {cell: run for cell, run in model_runs(study).items() if run and run.metrics_footer() is not None}
    rows = [row for domain in study.test_domains for row in _on_domain(study, runs, domain, draws)]
    order = {cell: number for number, cell in enumerate(runs)}
    place = {domain: number for number, domain in enumerate(study.test_domains)}
    rows.sort(key=lambda row: (-row[1]["against"], order[row[0]], place[row[1]["test_domain"]]))
    table = pd.DataFrame([row for _, row in rows], columns=COMPARISON_COLUMNS)
    families = [table["target_epsilon"], table["against"], table["label"] == AVERAGE]
    for name in ("p", "p_equivalence"):
        adjusted = table[name].astype("float64").groupby(families).transform(lambda p: holm(p.to_numpy()))
        table[f"{name}_holm"] = adjusted if len(table) else table[name]
    return table


def _on_domain(
    study: Study, runs: Mapping[Cell, Run], domain: str, draws: Draws
) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """All comparisons on one test domain, each with the model that is compared; its scores are read once."""
    found: dict[Cell, _Scores | None] = {}
    trained = sorted((cell for cell in runs if not is_before(cell.target_epsilon)), key=lambda c: (c.domain, c.seed))
    start = next((_scores(study, run, domain) for cell, run in runs.items() if is_before(cell.target_epsilon)), None)
    for cell in trained:
        twin = cell._replace(target_epsilon=math.inf)
        if twin not in found:
            found = {twin: _scores(study, runs[twin], domain) if twin in runs else None}  # the last one's can go
        scores = found[twin] if cell == twin else _scores(study, runs[cell], domain)
        for against, other in ((math.inf, found[twin]), (0.0, start)):
            if scores is None or other is None or other is scores:
                continue
            head = {"target_epsilon": cell.target_epsilon, "train_domain": cell.domain, "test_domain": domain}
            for row in _compare(study, scores, other):
                interval = Interval()
                if len(study.train.seeds) == 1:
                    arm, without = (
                        DrawKey(epsilon, cell.domain, domain, row["label"], ALL, "auc")
                        for epsilon in (cell.target_epsilon, against)
                    )
                    interval = draws.mean([arm], minus=[without])
                bounds = {"ci_low": interval.low, "ci_high": interval.high}
                yield cell, {**head, "seed": cell.seed, "against": against, **row, **bounds}


@dataclass
class _Scores:
    """A model's scores on one test domain.

    Attributes:
        frame: One row an image, by its id.
        patients: Number of each image's patient.
        units: Number of each image's unit.
        influences: Of the AUC of each label, once it was asked for.
    """

    frame: pd.DataFrame
    patients: NDArray[np.intp]
    units: NDArray[np.intp]
    influences: dict[str, tuple[float, Floats]] = field(default_factory=dict)

    def influence(self, label: str, target: NDArray[np.float64], known: NDArray[np.bool_]) -> tuple[float, Floats]:
        """AUC and influences of a label; one model is compared to several."""
        if label not in self.influences:
            scores = self.frame[f"score_{label}"].to_numpy()[known]
            number = int(self.units.max()) + 1 if len(self.units) else 0
            self.influences[label] = auc_influence(target[known], scores, self.units[known], number)
        return self.influences[label]


def _scores(study: Study, run: Run, domain: str) -> _Scores | None:
    """A model's scores on one domain; None if they are missing or damaged."""
    columns = ["image_id", "patient_key", "label", "target", "score"]
    try:
        frame = wide(pd.read_parquet(run.paths.predictions(domain), columns=columns))
    except (OSError, ValueError, KeyError):
        return None
    return _by_image(study, frame.set_index("image_id"))


def _by_image(study: Study, frame: pd.DataFrame) -> _Scores:
    patients = pd.factorize(frame["patient_key"], sort=True)[0]
    units = patients if study.evaluate.bootstrap_unit == "patient" else pd.factorize(frame.index, sort=True)[0]
    return _Scores(frame, patients, units)


def _compare(study: Study, first: _Scores, second: _Scores) -> Iterator[dict[str, Any]]:
    """Two models on one test domain: every label, then the average."""
    names = ["patient_key", *(f"target_{label}" for label in study.study.labels)]
    if not first.frame[names].equals(second.frame[names]):  # one of them was evaluated on other images or labels
        shared = first.frame.index.intersection(second.frame.index, sort=False)
        of_first, of_second = first.frame.loc[shared], second.frame.loc[shared]
        first, second = _by_image(study, of_first), _by_image(study, of_second.assign(**of_first[names]))
    compared: list[_Compared] = []
    labels = study.study.labels
    for label in labels:
        target = first.frame[f"target_{label}"].to_numpy(dtype=np.float64)
        known = ~np.isnan(target)
        reason = undefined_reason(target[known], minimum=study.evaluate.min_subgroup_size)
        if reason:
            yield {"label": label, **dict.fromkeys(NUMBERS, math.nan), "test": "", "reason": reason}
            continue
        of_models = [model.influence(label, target, known) for model in (first, second)]
        counted = count_patients(target[known], first.patients[known])
        pair, influence = (of_models[0][0], of_models[1][0]), of_models[0][1] - of_models[1][1]
        compared.append(_Compared(pair, influence, few_reason(counted)))
        row = {"label": label, **_tested([compared[-1]], study)}
        if row["test"] and (min(counted.positive, counted.negative) < SMALL_CLASS or row["standard_error"] == 0):
            scores = [model.frame[f"score_{label}"].to_numpy()[known] for model in (first, second)]
            p = permutation_test(target[known], *scores, units=first.units[known])
            why_not = f"fewer than {SMALL_CLASS} patients of a class: no test of equivalence"
            row |= {"test": "permutation", "p": p, "p_equivalence": math.nan, "reason": row["reason"] or why_not}
        yield row
    if compared:
        enough = [one for one in compared if not one.few] or compared
        note = "" if len(enough) == len(labels) else f"over {len(enough)} of {len(labels)} labels"
        row = {"label": AVERAGE, **_tested(enough, study)}
        yield row | {"reason": "; ".join(filter(None, (note, row["reason"])))}


class _Compared(NamedTuple):
    """Two models' AUCs of one label."""

    aucs: tuple[float, float]
    influence: Floats  # of each unit on their difference
    few: str  # why there is no test


def _tested(labels: Sequence[_Compared], study: Study) -> dict[str, Any]:
    """Difference of two models' AUCs, each a mean over labels, with both tests."""
    first, second = (float(mean) for mean in np.mean([one.aucs for one in labels], axis=0))
    few = next((one.few for one in labels if one.few), "")
    error = math.nan if few else standard_error(np.mean([one.influence for one in labels], axis=0))
    certain = "no image moves the difference: its standard error is not known" if error == 0 else ""
    return {
        "auc": first,
        "auc_against": second,
        "difference": first - second,
        "standard_error": error,
        "p": normal_p(first - second, error),
        "test": "" if few else "DeLong",
        "p_equivalence": tost(first - second, error, margin=study.evaluate.equivalence_margin),
        "reason": few or certain,
    }


def metrics_table(study: Study) -> pd.DataFrame:
    """All metrics of all models, as `metrics.parquet` of the runs has them.

    Of a study with more than MOST_ROWS of them, a label within a group has its AUC and underdiagnosis rate alone.
    """
    runs = {cell: run for cell, run in model_runs(study).items() if run}
    footers = (run.metrics_footer() for run in runs.values())
    rows = SHORT if sum(footer.num_rows for footer in footers if footer) > MOST_ROWS else ()
    tables = []
    for cell, run in runs.items():
        table = run.metrics(*rows)
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
