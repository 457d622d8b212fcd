"""The labeller columns of CheXpert and MIMIC-CXR-JPG: 1, 0, -1 (uncertain) or blank, under a named policy."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pandas as pd

from dpdt.cohort.hospitals.raw_cohort import Filter, Wanted, to_label
from dpdt.errors import CohortError
from dpdt.study.domain_settings import DomainSettings

__all__ = ["apply_policy", "check_values", "columns_for", "policies"]

PAPER_FILTER: Final = ("Cardiomegaly", "Lung Opacity", "Lung Lesion", "Pneumonia", "Edema")
"""A row with -1 in one of these is left out by the paper's group (157,676 of CheXpert's 191,027 frontal rows stay)."""

MEANING: Final = {"1": 1.0, "0": 0.0, "-1": -1.0}


def policies(settings: DomainSettings) -> dict[str, str]:
    """Names of the policies that `apply_policy` follows, for the cohort's record."""
    return {"uncertain": settings.uncertain, "blank": "negative"}


def columns_for(wanted: Wanted) -> tuple[str, ...]:
    """Columns of the published table that are needed."""
    names = (finding.name for definition in wanted.labels.values() for finding in definition)
    return tuple(dict.fromkeys((*names, *PAPER_FILTER)))


def apply_policy(rows: Filter, settings: DomainSettings, wanted: Wanted) -> dict[str, int]:
    """Turn the published columns of `rows.kept` into labels; blank is always negative.

    `paper` drops every row with -1 in a column of PAPER_FILTER and reads the remaining -1 as negative; `unknown` masks
    -1 (missing label), `positive` and `negative` read it as 1 and 0.

    Args:
        rows: The table with `columns_for` as text; gets the label columns, and loses rows under `paper`.
        settings: The domain's settings.
        wanted: The labels. One of several findings is positive where one of them is, else unknown where one of them is.

    Returns:
        How many -1 and blanks of each label were read as what.
    """
    numbers = pd.DataFrame({name: _numbers(rows.kept[name]) for name in columns_for(wanted)})
    if settings.uncertain == "paper":
        uncertain = (numbers[list(PAPER_FILTER)] == -1).any(axis=1)
        rows.drop(uncertain, "uncertain label (policy paper)")
        numbers = numbers[~uncertain]
    counts: dict[str, int] = {}
    labels = {}
    for label, definition in wanted.labels.items():
        if not definition:
            continue
        found = numbers[[finding.name for finding in definition]]
        positive = (found == 1).any(axis=1)
        uncertain = (found == -1).any(axis=1) & ~positive
        if settings.uncertain == "positive":
            positive = positive | uncertain
        values = to_label(positive)
        if settings.uncertain == "unknown":
            values = values.mask(uncertain)
        labels[label] = values
        meaning = "negative" if settings.uncertain == "paper" else settings.uncertain
        counts[f"uncertain {label} read as {meaning}"] = int(uncertain.sum())
        counts[f"blank {label} read as negative"] = int(found.isna().all(axis=1).sum())
    rows.kept = rows.kept.assign(**labels)
    return counts


def check_values(table: pd.DataFrame, columns: Sequence[str], path: Path) -> None:
    """Check the labels where they stand in their list.

    Raises:
        CohortError: A value other than 1, 0, -1 and blank.
    """
    for name in columns:
        strange = table[name][_numbers(table[name]).isna() & (table[name] != "")]
        if len(strange):
            raise CohortError(
                f"{path}: row {int(strange.index[0]) + 1}: {name}: expected 1, 0, -1 or blank, got "
                f"{strange.iloc[0]!r} ({len(strange)} such rows)."
            )


def _numbers(cells: "pd.Series[str]") -> "pd.Series[float]":
    """1, 0, -1, or NaN for blank."""
    return cells.str.removesuffix(".0").map(MEANING)
