"""Counts of a cohort: the rows of `cohort/summary.csv`, and the printed table."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

from dpdt.base.console import quiet, show_table
from dpdt.base.vocabulary import LABELS, SEXES, SPLITS, age_group

__all__ = ["SUMMARY_COLUMNS", "count", "show"]

SUMMARY_COLUMNS: Final = ("domain", "split", "what", "value", "images", "patients")


def count(
    table: pd.DataFrame, exclusions: pd.DataFrame, notes: Mapping[str, int], *, labels: Sequence[str] = LABELS
) -> list[dict[str, Any]]:
    """Count a cohort.

    Args:
        table: The cohort table.
        exclusions: Columns `image_id`, `view`, `reason`.
        notes: Other things worth telling; zeros are left out.
        labels: Columns of the table that are labels.

    Returns:
        Dicts with SUMMARY_COLUMNS: rows read, views read, rows excluded by reason, notes, then by split the totals,
        views, sexes, age groups and labels.
    """
    domain = table["domain"].iloc[0]
    patients = pd.factorize(table["patient_id"])[0]

    def number(what: str, value: str, images: int) -> dict[str, Any]:
        return dict(zip(SUMMARY_COLUMNS, (domain, "", what, value, images, ""), strict=True))

    def row(split: str, what: str, value: str, mask: Any) -> dict[str, Any]:
        chosen = np.asarray(mask, dtype=bool)
        there = np.zeros(len(patients), dtype=bool)
        there[patients[chosen]] = True
        cells = (domain, split, what, value, int(chosen.sum()), int(there.sum()))
        return dict(zip(SUMMARY_COLUMNS, cells, strict=True))

    rows = [number("rows read", "", len(table) + len(exclusions))]
    views = pd.concat([table["view"], exclusions["view"].replace("", "unknown")]).value_counts()
    rows += [number("view read", str(view), int(images)) for view, images in sorted(views.items())]
    rows += [number("excluded", str(why), int(n)) for why, n in exclusions["reason"].value_counts().items()]
    rows += [number("note", what, n) for what, n in notes.items() if n]
    rows.append(row("all", "total", "", np.ones(len(table), dtype=bool)))
    columns = {
        "view": table["view"],
        "sex": table["sex"],
        "age": table["age_years"].map(age_group),
    }
    of_labels = {label: table[label].to_numpy(dtype="int8", na_value=-1) for label in labels}
    for split in SPLITS:
        part = (table["split"] == split).to_numpy()
        rows.append(row(split, "total", "", part))
        for what, column in columns.items():
            values = SEXES if what == "sex" else sorted(column[part].unique())
            rows += [row(split, what, value, part & (column == value)) for value in values]
        for label, known in of_labels.items():
            rows.append(row(split, label, "positive", part & (known == 1)))
            if (unknown := part & (known == -1)).any():
                rows.append(row(split, label, "unknown", unknown))
    return rows


def show(record: Mapping[str, Any]) -> None:
    """Print the counts of a cohort's record: a line a value, a column a split; its policies below."""
    if quiet():
        return
    lines: dict[tuple[str, str], dict[str, int]] = {}
    for row in record["counts"]:
        what = "images" if row["what"] == "total" else row["what"]
        lines.setdefault((what, row["value"]), {})[row["split"] or "all"] = row["images"]
        if row["what"] == "total":
            lines.setdefault(("patients", ""), {})[row["split"]] = row["patients"]
    rows = []
    for (what, value), images in lines.items():
        total = images.get("all", sum(images.values()))
        rows.append([what, value, total, *(images.get(split, 0 if "all" not in images else "") for split in SPLITS)])
    title = f"Cohort {record['domain']}" + (" (synthetic)" if record["synthetic"] else "")
    show_table(title, ("what", "value", "all", *SPLITS), rows)
    policies = {name: rule for name, rule in record["policies"].items() if isinstance(rule, str)}
    print("Policies: " + "; ".join(f"{name}: {rule}" for name, rule in policies.items()))
