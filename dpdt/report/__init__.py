"""The report: heat maps, curves and tables of a study, as one HTML page, PNG and CSV.

Made from the study's folder alone, and from whatever is there: models that are missing are named on the page.
"""

import math
from pathlib import Path
from typing import Final

import pandas as pd

from dpdt.files import atomic_path, write_text
from dpdt.metrics import AVERAGE
from dpdt.report import figures, tables
from dpdt.report.page import Contents, render
from dpdt.study import Study, format_epsilon
from dpdt.vocabulary import LABELS

__all__ = ["auc_matrix", "auc_table", "write_report"]

SCOPES: Final = ("on-domain", "off-domain")


def write_report(study: Study) -> Path:
    """Write the report below `report/`: `index.html`, `auc.csv` and other tables, `figures/*.png`.

    Args:
        study: The study; runs that are not evaluated yet are left out and named.

    Returns:
        The page, which opens without a server or a network.

    Raises:
        DpdtError: A file of the study is damaged.
    """
    by_run = tables.auc_by_run(study)
    auc = tables.mean_over_seeds(study, by_run)
    curve, subgroups = tables.epsilon_curve(study, auc), tables.subgroup_table(study, auc)
    drawn = _draw(study, auc, curve, subgroups)
    folder = study.paths.report
    for name, table in (
        ("auc", auc),
        ("auc_by_run", by_run),
        ("epsilon_curve", curve),
        ("subgroups", subgroups),
    ):
        with atomic_path(folder / f"{name}.csv") as temporary:
            table.to_csv(temporary, index=False, float_format="%.6g")
    for name, png in drawn.items():
        with atomic_path(folder / "figures" / f"{name}.png") as temporary:
            temporary.write_bytes(png)
    for file in (folder / "figures").glob("*.png"):
        if file.stem not in drawn:
            file.unlink()  # of a former study file
    page = folder / "index.html"
    write_text(page, render(study, Contents(auc=auc, by_run=by_run, subgroups=subgroups, figures=drawn)))
    return page


def _draw(study: Study, auc: pd.DataFrame, curve: pd.DataFrame, subgroups: pd.DataFrame) -> dict[str, bytes]:
    """All figures by name; none where there is no number to show."""
    if auc["auc"].notna().sum() == 0:
        return {}
    scale = figures.auc_scale(auc)
    drawn = {}
    for epsilon in sorted(study.privacy.target_epsilons, reverse=True):
        for label in (AVERAGE, *LABELS):
            matrix = tables.macro_matrix(study, auc, epsilon, label=label)
            arm = figures.arm_name(epsilon)
            title = arm if label == AVERAGE else f"{label.replace('_', ' ')}, {arm}"
            drawn[heat_map_name(epsilon, label)] = figures.heat_map(matrix, title=title, scale=scale)
    drawn["auc_over_epsilon"] = figures.epsilon_figure(curve)
    for scope in SCOPES:
        if (subgroups.loc[subgroups["scope"] == scope, "pairs"] > 0).any():
            drawn[f"subgroups_{scope}"] = figures.subgroup_figure(subgroups, scope=scope)
    return drawn


def heat_map_name(target_epsilon: float, label: str) -> str:
    """Name of a heat map's file, without its ending."""
    return f"auc_eps{format_epsilon(target_epsilon)}_{label}"


def auc_matrix(study: Study, target_epsilon: float, *, label: str = AVERAGE) -> pd.DataFrame:
    """AUC by train domain (rows) and test domain (columns) of one target epsilon; NaN where missing or undefined."""
    auc = tables.mean_over_seeds(study, tables.auc_by_run(study))
    return tables.macro_matrix(study, auc, target_epsilon, label=label)


def auc_table(study: Study, target_epsilon: float) -> tuple[list[str], list[list[str]]]:
    """The macro AUC matrix as columns and rows for the terminal; `–` where it is missing or undefined."""
    matrix = auc_matrix(study, target_epsilon)
    columns = ["trained on", *map(str, matrix.columns)]
    rows = [
        [str(domain), *("–" if math.isnan(value) else f"{value:.3f}" for value in matrix.loc[domain])]
        for domain in matrix.index
    ]
    return columns, rows
