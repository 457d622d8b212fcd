"""The report's files: the page, CSV and LaTeX tables, and figures in three formats."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow.csv import WriteOptions, write_csv

from dpdt.base.files import atomic_path, write_text
from dpdt.report import section_tables as sections
from dpdt.report.canvas import Drawing
from dpdt.report.format import Table, latex
from dpdt.report.page import Contents, arms_table, subgroup_table
from dpdt.report.tables import SCOPES

__all__ = ["latex_tables", "publish"]


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
    drawn: Mapping[str, Drawing],
    texts: Mapping[str, str] | None = None,
) -> Path:
    """Write everything, remove what a former study file left, the page last."""
    for name, table in csv.items():
        _write_csv(folder / f"{name}.csv", table)
    tables = {folder / "figures" / f"{name}.csv": drawing.data for name, drawing in drawn.items()}
    for file, table in tables.items():
        _write_csv(file, table)
    latex_files = {folder / "tables" / f"{name}.tex": text for name, text in tex.items()}
    others = {folder / name: text for name, text in (texts or {}).items()}
    for file, text in {**latex_files, **others}.items():
        write_text(file, text)
    wanted = {
        folder / "figures" / f"{name}.{kind}": data for name, one in drawn.items() for kind, data in one.files.items()
    }
    for file, data in wanted.items():
        with atomic_path(file) as temporary:
            temporary.write_bytes(data)
    stale = [file for kind in ("png", "svg", "pdf", "csv") for file in (folder / "figures").glob(f"*.{kind}")]
    for file in (*stale, *(folder / "tables").glob("*.tex"), *(folder / "cards").glob("*.html")):
        if file not in {*wanted, *tables, *latex_files, *others}:
            file.unlink()
    write_text(folder / "answer.txt", "".join(f"{sentence}\n" for sentence in answer))
    write_text(folder / "index.html", page)
    return folder / "index.html"


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    """Numbers with six digits; twenty times as fast as pandas."""
    short = table.copy(deep=False)
    for name in table.columns[[kind == "float64" for kind in table.dtypes]]:
        values = table[name].to_numpy()
        with np.errstate(all="ignore"):
            scale = 10.0 ** (5 - np.floor(np.log10(np.abs(values))))
            rounded = np.round(values * scale) / scale
        short[name] = np.where(np.isfinite(rounded), rounded, values)
    with atomic_path(path) as temporary:
        rows = pa.Table.from_pandas(short, preserve_index=False)
        write_csv(rows, temporary, WriteOptions(quoting_header="none"))
