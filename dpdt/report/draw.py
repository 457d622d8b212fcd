"""Every figure of a report by its name, which is that of its files: what can be drawn from tables, and from a study."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pandas as pd

from dpdt.base.vocabulary import MAIN_LABELS
from dpdt.evaluation.metrics import ALL, AVERAGE, FEWEST_PATIENTS, STRICT
from dpdt.report import figures, provenance, tables
from dpdt.report.canvas import Drawing
from dpdt.report.curve_figures import confusion_figure, curve_figures
from dpdt.report.curves import Curves, curves_of
from dpdt.report.flow_figures import flow_figure, ledger_figure
from dpdt.report.gain import Gain
from dpdt.report.grid import Grid
from dpdt.report.intervals import Interval
from dpdt.report.names import group_name, label_name
from dpdt.report.tables import SCOPES, Arm
from dpdt.runs.read import model_runs
from dpdt.study import Study, format_epsilon

__all__ = ["draw", "draw_differences", "draw_story", "draw_study", "heat_map_name"]

PLACES: Final = {"on-domain": "own hospital", "off-domain": "other hospitals"}
CHANGE: Final = {math.inf: "difference to no DP", 0.0: "difference to before"}


def heat_map_name(target_epsilon: float, label: str) -> str:
    """Name of a heat map's file, without its ending."""
    return f"auc_eps{format_epsilon(target_epsilon)}_{label}"


def draw(grid: Grid, auc: pd.DataFrame, curve: pd.DataFrame, subgroups: pd.DataFrame) -> dict[str, Drawing]:
    """Figures of AUCs; none where there is no number to show."""
    if auc["auc"].notna().sum() == 0:
        return {}
    scale = figures.auc_scale(auc)
    names = {epsilon: grid.name(epsilon) for epsilon in grid.epsilons}
    labels = [label for label in (AVERAGE, *grid.labels[:MAIN_LABELS]) if label in set(auc["label"])]
    drawn = {}
    for epsilon in grid.epsilons:
        for label in labels:
            matrix = tables.macro_matrix(grid, auc, epsilon, label=label)
            title = names[epsilon] if label == AVERAGE else f"{label_name(label)}, {names[epsilon]}"
            marked = tables.other_labels(auc) if label == AVERAGE else ()
            what = "Macro AUC" if label == AVERAGE else "AUC"
            drawn[heat_map_name(epsilon, label)] = figures.heat_map(
                matrix, title=title, scale=scale, marked=marked, what=what, raster=label == AVERAGE
            )
    drawn["auc_over_epsilon"] = figures.epsilon_figure(curve, names=names)
    for scope in SCOPES:
        if (subgroups.loc[subgroups["scope"] == scope, "pairs"] > 0).any():
            drawn[f"subgroups_{scope}"] = figures.subgroup_figure(
                subgroups, scope=scope, names=names, groups=grid.groups
            )
    return drawn


def draw_story(arms: Sequence[Arm], gains: Sequence[Gain], grid: Grid) -> dict[str, Drawing]:
    """The one figure of the first screen: the gain over before, else what DP costs; none where neither is known."""
    names = {epsilon: grid.name(epsilon) for epsilon in grid.epsilons}
    changes: list[tuple[str, float, float, Interval]]
    if gains:
        what = "Gain in mean macro AUC over the model before all trainings, by arm and where it was tested"
        changes = [(gain.scope, gain.target_epsilon, gain.gain, gain.interval) for gain in gains]
    else:
        what = "Change of mean macro AUC from no DP, by arm and where it was tested"
        changes = [
            (arm.scope, arm.target_epsilon, arm.difference, arm.difference_interval)
            for arm in arms
            if arm.target_epsilon in grid.private and not math.isnan(arm.difference)
        ]
    if not changes:
        return {}
    panel = "gain in macro AUC" if gains else "change of macro AUC"
    rows = [(panel, scope, epsilon, value, *interval) for scope, epsilon, value, interval in changes]
    table = pd.DataFrame(rows, columns=figures.DOTS)
    scopes = [scope for scope in SCOPES if scope in set(table["row"])]
    return {
        "story": figures.dot_figure(
            table, rows=scopes, names=names, row_name=PLACES.__getitem__, what=what, zero=True, raster=True
        )
    }


def draw_differences(found: pd.DataFrame, grid: Grid) -> dict[str, Drawing]:
    """Forest plots by label and by group, on- and off-domain, to no DP and to before."""
    names = {epsilon: grid.name(epsilon) for epsilon in grid.epsilons}
    drawn = {}
    for kind, column, rows, row_name in (
        ("labels", "label", grid.labels, label_name),
        ("groups", "subgroup", (ALL, *grid.groups), group_name),
    ):
        of_kind = found[(found["label"] == AVERAGE) == (kind == "groups")]
        for scope in SCOPES:
            chosen = of_kind[of_kind["scope"] == scope]
            if chosen.empty:
                continue
            value = "AUC" if kind == "labels" else "macro AUC"
            table = chosen.rename(columns={column: "row", "difference": "value"})
            drawn[f"{kind}_{scope}"] = figures.dot_figure(
                table.assign(panel=chosen["against"].map(CHANGE)),
                rows=[row for row in rows if row in set(chosen[column])],
                names=names,
                row_name=row_name,
                what=f"Differences in {value}, {scope}, mean over hospitals, by {column.removeprefix('sub')} and arm",
                zero=True,
            )
    return drawn


def draw_study(study: Study, grid: Grid, metrics: pd.DataFrame) -> dict[str, Drawing]:
    """Figures that need the study itself: its test patients, its cohorts and its ledgers."""
    names = {epsilon: grid.name(epsilon) for epsilon in grid.epsilons}
    found = curves_of(study, grid)
    drawn = curve_figures(found, names, study.evaluate.confidence)
    for domain, table in confusions(found, metrics).items():
        drawn[f"confusion_{domain}"] = confusion_figure(table, domain, names)
    for domain, flow in provenance.flows(study).items():
        drawn[f"flow_{domain}"] = flow_figure(domain, flow)
    ledger = ledger_figure([run for run in model_runs(study).values() if run], names)
    return drawn | ({"epsilon_over_steps": ledger} if ledger else {})


def confusions(found: Sequence[Curves], metrics: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """What each model of the curves calls positive, by test domain; nothing of a row with a count below ten."""
    chosen = metrics[(metrics["subgroup"] == ALL) & (metrics["protocol"] == STRICT)]
    model = ["target_epsilon", "train_domain", "test_domain", "label"]
    rates = chosen[chosen["metric"].isin(("sensitivity", "specificity"))].drop_duplicates([*model, "metric"])
    rates_of = rates.set_index([*model, "metric"])["value"].to_dict()
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for one in found:
        cell = (one.target_epsilon, one.train_domain, one.test_domain, one.label)
        right = [rates_of.get((*cell, name), math.nan) for name in ("sensitivity", "specificity")]
        if any(map(math.isnan, right)):
            continue
        negative = one.n - one.n_positive
        hits, passed = round(right[0] * one.n_positive), round(right[1] * negative)
        pairs = [(right[0], hits, one.n_positive - hits), (right[1], passed, negative - passed)]
        (first, tp, fn), (second, tn, fp) = [p if min(p[1:]) >= FEWEST_PATIENTS else (math.nan,) * 3 for p in pairs]
        head = {"label": one.label, "target_epsilon": one.target_epsilon, "train_domain": one.train_domain}
        values = {"sensitivity": first, "specificity": second, "tp": tp, "fn": fn, "fp": fp, "tn": tn}
        rows.setdefault(one.test_domain, []).append({**head, **values})
    return {domain: pd.DataFrame(of_domain) for domain, of_domain in rows.items()}
