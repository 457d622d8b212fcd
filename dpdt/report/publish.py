"""The report's files: the page, CSV and LaTeX tables, and figures in three formats."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from dpdt.base.files import atomic_path, write_text
from dpdt.base.vocabulary import MAIN_LABELS
from dpdt.evaluation.metrics import ALL, AVERAGE
from dpdt.report import figures, tables
from dpdt.report import section_tables as sections
from dpdt.report.format import Table, latex
from dpdt.report.grid import Grid
from dpdt.report.page import Contents, arms_table, heat_map_name, subgroup_table
from dpdt.report.tables import SCOPES

__all__ = ["draw", "latex_tables", "publish"]


def draw(grid: Grid, auc: pd.DataFrame, curve: pd.DataFrame, subgroups: pd.DataFrame) -> dict[str, figures.Drawing]:
    """All figures by name; none where there is no number to show."""
    if auc["auc"].notna().sum() == 0:
        return {}
    scale = figures.auc_scale(auc[auc["subgroup"] == ALL])  # small subgroups would stretch it
    names = {epsilon: grid.name(epsilon) for epsilon in grid.epsilons}
    labels = [label for label in (AVERAGE, *grid.labels[:MAIN_LABELS]) if label in set(auc["label"])]
    drawn = {}
    for epsilon in grid.epsilons:
        for label in labels:
            matrix = tables.macro_matrix(grid, auc, epsilon, label=label)
            title = names[epsilon] if label == AVERAGE else f"{label.replace('_', ' ')}, {names[epsilon]}"
            marked = tables.other_labels(auc) if label == AVERAGE else ()
            drawn[heat_map_name(epsilon, label)] = figures.heat_map(matrix, title=title, scale=scale, marked=marked)
    drawn["auc_over_epsilon"] = figures.epsilon_figure(curve, names=names)
    for scope in SCOPES:
        if (subgroups.loc[subgroups["scope"] == scope, "pairs"] > 0).any():
            drawn[f"subgroups_{scope}"] = figures.subgroup_figure(
                subgroups, scope=scope, names=names, groups=grid.groups
            )
    return drawn


def latex_tables(contents: Contents) -> dict[str, str]:
    """Tables for a paper, by name."""
    grid = contents.grid
    found: dict[str, tuple[Table, str]] = {
        "arms": (arms_table(contents.arms, grid), "Mean macro AUC of each arm, on- and off-domain."),
        "comparisons": (
            sections.comparison_table(contents.comparisons, grid),
            "Models against no DP and before, macro AUC.",
        ),
    }
    if contents.gains:
        found["gain"] = (sections.gain_rows(contents.gains, grid), "What private training brought, and what DP keeps.")
    for epsilon in grid.private:
        caption = f"Fall in AUC from on- to off-domain, {grid.name(epsilon)} against no DP."
        found[f"transfer_eps{epsilon:g}"] = (sections.transfer_rows(contents.transfer, epsilon), caption)
    for scope in SCOPES:
        found[f"subgroups_{scope}"] = (subgroup_table(contents.subgroups, scope, grid), f"Macro AUC, {scope}.")
        rows = sections.fairness_rows(contents.fairness, contents.draws, grid, scope)
        found[f"fairness_{scope}"] = (rows, f"Fairness measures, {scope}.")
    return {
        name: latex(table, caption=caption, label=name.replace("_", "-"))
        for name, (table, caption) in found.items()
        if table.rows
    }


def publish(
    folder: Path,
    *,
    page: str,
    answer: Sequence[str],
    csv: Mapping[str, pd.DataFrame],
    tex: Mapping[str, str],
    drawn: Mapping[str, figures.Drawing],
) -> Path:
    """Write everything, remove what a former study file left, the page last."""
    for name, table in csv.items():
        with atomic_path(folder / f"{name}.csv") as temporary:
            table.to_csv(temporary, index=False, float_format="%.6g")
    texts = {folder / "tables" / f"{name}.tex": text for name, text in tex.items()}
    for file, text in texts.items():
        write_text(file, text)
    wanted = {folder / "figures" / f"{name}.{kind}": data for name, of in drawn.items() for kind, data in of.items()}
    for file, data in wanted.items():
        with atomic_path(file) as temporary:
            temporary.write_bytes(data)
    stale = [file for kind in ("png", "svg", "pdf") for file in (folder / "figures").glob(f"*.{kind}")]
    for file in (*stale, *(folder / "tables").glob("*.tex")):
        if file not in wanted and file not in texts:
            file.unlink()
    write_text(folder / "answer.txt", "".join(f"{sentence}\n" for sentence in answer))
    write_text(folder / "index.html", page)
    return folder / "index.html"
