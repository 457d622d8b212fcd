"""The report's tables on transfer, on comparisons of models, on rates at a threshold, and on fairness."""

import math
from collections.abc import Sequence
from typing import Final

import pandas as pd

from dpdt.base.vocabulary import SUBGROUPS
from dpdt.evaluation.metrics import (
    ALL,
    AT_THRESHOLD,
    AVERAGE,
    FAIRNESS,
    PAPER,
    STRICT,
    THRESHOLD_FREE,
    UNDERDIAGNOSIS,
)
from dpdt.report.figures import group_name
from dpdt.report.format import Table, interval_text, p_text, plain, signed
from dpdt.report.grid import Grid
from dpdt.report.intervals import UNKNOWN, DrawKey, Draws

__all__ = [
    "SCOPES",
    "comparison_table",
    "fairness_rows",
    "rates_table",
    "small_groups",
    "transfer_rows",
    "underdiagnosis_table",
    "verdicts",
]

SCOPES: Final = ("on-domain", "off-domain")
ALPHA: Final = 0.05
MEASURES: Final = {
    "auc_gap": "AUC gap",
    "worst_auc": "AUC of the worst group",
    "parity_difference": "statistical parity difference",
    "opportunity_difference": "equal opportunity difference",
    "underdiagnosis_gap": "underdiagnosis gap",
}
ATTRIBUTE_NAMES: Final = {"sex": "sex", "age_group": "age"}
# In the table of rates: the AUC has tables of its own. Names that are not here are read as they are.
RATES: Final = (*AT_THRESHOLD, *(metric for metric in THRESHOLD_FREE if metric != "auc"))
RATE_NAMES: Final = {"positive_rate": "called positive", "f1": "F1", "brier": "Brier"}


def transfer_rows(transfer: pd.DataFrame, epsilon: float) -> Table:
    """The paper's analysis for one arm with DP."""
    rows = []
    for row in transfer[transfer["target_epsilon"] == epsilon].to_dict("records"):
        macro = [plain(row[f"macro_fall_{arm}"], 2) for arm in ("dp", "no_dp")]
        falls = [plain(row["fall_dp"]), plain(row["fall_no_dp"])]
        aucs = [plain(row[name]) for name in ("on_domain_auc", "off_domain_auc_no_dp", "off_domain_auc_dp")]
        tested = [p_text(row["p"]), p_text(row["p_holm"]), str(row["pairs"])]
        rows.append([row["test_domain"], *aucs, *falls, " / ".join(macro), *tested])
    columns = ["tested on", "own, no DP", "others, no DP", "others, DP", "fall, DP", "fall, no DP"]
    return Table([*columns, "macro fall, DP / no DP", "P", "P (Holm)", "pairs"], rows)


def verdicts(comparisons: pd.DataFrame, grid: Grid, margin: float) -> list[str]:
    """For each arm with DP: how many models are as good as without, and how many differ."""
    found = []
    for epsilon in grid.private:
        rows = comparisons[(comparisons["target_epsilon"] == epsilon) & (comparisons["label"] == AVERAGE)]
        if rows.empty:
            continue
        equivalent = int((rows["p_equivalence_holm"] < ALPHA).sum())
        worse = int(((rows["p_holm"] < ALPHA) & (rows["difference"] < 0)).sum())
        better = int(((rows["p_holm"] < ALPHA) & (rows["difference"] > 0)).sum())
        found.append(
            f"{grid.name(epsilon)}: of {len(rows)} pairs of a model and a test domain, {equivalent} are shown to be "
            f"within ±{margin:g} macro AUC of the model without DP, {worse} are worse and {better} better (P < .05)."
        )
    return found


def comparison_table(comparisons: pd.DataFrame, grid: Grid) -> Table:
    """Every DP model against no DP, macro AUC."""
    rows = []
    for row in comparisons[comparisons["label"] == AVERAGE].to_dict("records") if len(comparisons) else []:
        interval = "" if math.isnan(row["ci_low"]) else f"{signed(row['ci_low'])} to {signed(row['ci_high'])}"
        tested = [p_text(row[name]) for name in ("p", "p_holm", "p_equivalence", "p_equivalence_holm")]
        pair = [f"{row['train_domain']} → {row['test_domain']}", grid.name(row["target_epsilon"])]
        rows.append(
            [*pair, plain(row["auc_no_dp"]), plain(row["auc_dp"]), signed(row["difference"]), interval, *tested]
        )
    columns = ["trained → tested", "model", "no DP", "DP", "difference", "interval", "P", "P (Holm)"]
    return Table([*columns, "P equivalent", "P equivalent (Holm)"], rows)


def rates_table(metrics: pd.DataFrame, grid: Grid) -> Table:
    """Means over models and labels of the metrics at a threshold, by scope and protocol."""
    rows: list[list[str]] = []
    chosen = metrics[(metrics["label"] == AVERAGE) & (metrics["subgroup"] == ALL)] if len(metrics) else metrics
    for scope in SCOPES if len(chosen) else ():
        own = (chosen["train_domain"] == chosen["test_domain"]) == (scope == "on-domain")
        for protocol in (STRICT, PAPER):
            for epsilon in grid.epsilons:
                of_arm = chosen[own & (chosen["target_epsilon"] == epsilon)]
                values = {
                    metric: of_arm[(of_arm["metric"] == metric) & of_arm["protocol"].isin((protocol, ""))]["value"]
                    for metric in RATES
                }
                if not len(values["accuracy"].dropna()):
                    continue
                name = f"{protocol} (optimistic)" if protocol == PAPER else protocol
                rows.append([scope, name, grid.name(epsilon), *(plain(value.mean()) for value in values.values())])
    names = [RATE_NAMES.get(metric, metric.replace("_", " ")) for metric in RATES]
    return Table(["tested", "protocol", "model", *names], rows)


def fairness_rows(fairness: pd.DataFrame, draws: Draws, grid: Grid, scope: str) -> Table:
    """Fairness measures of each arm, means over the models, with intervals and the change from no DP."""
    rows: list[list[str]] = []
    if fairness.empty:
        return Table([], rows)
    own = (fairness["train_domain"] == fairness["test_domain"]) == (scope == "on-domain")
    for measure in FAIRNESS:
        label = "healthy" if measure == "underdiagnosis_gap" else AVERAGE
        for attribute, name in ATTRIBUTE_NAMES.items():
            of_measure = fairness[own & (fairness["measure"] == measure) & (fairness["attribute"] == attribute)]
            of_measure = of_measure[of_measure["label"] == label].dropna(subset="value")
            by_arm = {
                epsilon: of_measure[of_measure["target_epsilon"] == epsilon].set_index(["train_domain", "test_domain"])
                for epsilon in grid.epsilons
            }
            row = [f"{MEASURES[measure]}, {name}"]
            for epsilon, table in by_arm.items():
                row.append(_with_change(table, by_arm.get(math.inf, table.iloc[:0]), epsilon, draws))
            if of_measure["value"].notna().any():
                rows.append(row)
    return Table(["measure", *map(grid.name, grid.epsilons)], rows)


def _with_change(table: pd.DataFrame, without: pd.DataFrame, epsilon: float, draws: Draws) -> str:
    """Mean of an arm with its interval, and the mean paired change from no DP with its own."""
    if table.empty:
        return "–"

    def keys(of_epsilon: float, pairs: pd.Index) -> list[DrawKey]:
        chosen = table.loc[pairs]
        names = zip(chosen["label"], chosen["attribute"], chosen["measure"], strict=True)
        return [DrawKey(of_epsilon, pair[0], pair[1], *name) for pair, name in zip(pairs, names, strict=True)]

    interval = interval_text(draws.mean(keys(epsilon, table.index)))
    text = plain(float(table["value"].mean())) + (f" ({interval})" if interval else "")
    shared = table.index.intersection(without.index)
    if math.isfinite(epsilon) and len(shared):
        change = float((table["value"] - without["value"]).loc[shared].mean())
        bounds = draws.mean(keys(epsilon, shared), minus=keys(math.inf, shared))
        text += f"; change {signed(change)}"
        text += f" ({interval_text(bounds, sign=True)})" if bounds != UNKNOWN and not math.isnan(bounds.low) else ""
    return text


def underdiagnosis_table(metrics: pd.DataFrame, grid: Grid) -> Table:
    """Mean underdiagnosis rate by subgroup and arm, protocol strict, on- and off-domain."""
    rows: list[list[str]] = []
    if len(metrics):
        chosen = metrics[(metrics["metric"] == UNDERDIAGNOSIS) & (metrics["protocol"] == STRICT)]
        own = chosen["train_domain"] == chosen["test_domain"]
        for group in (ALL, *SUBGROUPS):
            row = [group_name(group)]
            for of_scope in (own, ~own):
                for epsilon in grid.epsilons:
                    cells = chosen[of_scope & (chosen["subgroup"] == group) & (chosen["target_epsilon"] == epsilon)]
                    row.append(plain(float(cells["value"].mean())))
            rows.append(row)
    names = [f"{scope}, {grid.name(epsilon)}" for scope in SCOPES for epsilon in grid.epsilons]
    return Table(["subgroup", *names], [row for row in rows if set(row[1:]) != {"–"}])


def small_groups(fairness: pd.DataFrame) -> Sequence[str]:
    """Groups with few images, once a test domain."""
    if fairness.empty:
        return []
    found = fairness[fairness["label"] == AVERAGE]
    notes = {
        f"{row.test_domain}: {note.removeprefix('small: ').removeprefix('without ')}"
        for row in found.itertuples()
        for note in str(row.reason).split("; ")
        if note.startswith(("small: ", "without "))
    }
    return sorted(notes)
