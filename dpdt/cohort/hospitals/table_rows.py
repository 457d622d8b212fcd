"""Several rows of a list that are about one image: copies, contradictions, and the rule that makes one of them."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpdt.base.vocabulary import folded
from dpdt.cohort.lists.rows import WHOLE_ROW, ListFile
from dpdt.cohort.splits import normalise_patient_id
from dpdt.errors import CohortError
from dpdt.study.domain_settings import TableSettings

__all__ = ["COPIES", "combined", "one_row_each", "without_copies"]

COPIES: Final = "exact copies of a row, dropped"
NEVER_SHOWN: Final = ("patient", "study", "birth_date", "image", "image_id")
"""Columns by which somebody is found: a message is copied into mails and tickets."""

SHOWN_COLUMNS: Final = 6

Labels = Mapping[str, "pd.Series[int]"]


def without_copies(cells: pd.DataFrame, key: str, table: TableSettings, source: ListFile) -> pd.DataFrame:
    """Drop rows that are the same in every cell of the list as an earlier one.

    Args:
        cells: What `ListFile.read` gave, columns renamed.
        key: The column that tells what a row is about.
        table: Says by which rule several rows are read.
        source: The list.

    Raises:
        CohortError: The majority of rows decides, and nothing tells a copy from a second reader's equal vote.
    """
    if not cells[key].duplicated().any():
        return cells
    whole = source.whole_rows(cells)
    rows = pd.DataFrame({"key": cells[key], "whole": whole})
    copies = rows.duplicated()
    if table.rows == "majority" and table.reader is None and copies.any():
        second = rows[copies].iloc[0]
        first, other = rows.index[(rows == second).all(axis=1)][:2]
        raise CohortError(
            f"{source.path}: {int(copies.sum())} rows are the same in every cell as another one (first: rows "
            f"{int(first) + 1} and {int(other) + 1}), and the majority counts rows: is it a copy, or a second reader's "
            'vote? Name the column that tells readers apart, reader = "…", or take copies out of the list.'
        )
    return cells[~copies]


def one_row_each(cells: pd.DataFrame, key: str, table: TableSettings, source: ListFile) -> pd.DataFrame:
    """One row a value of `key`: the first, its blank cells filled from the others.

    Args:
        cells: Columns by their key in the study file, and what the labels are read from.
        key: `image_id`, or the column that joins a second list.
        table: Says by which rule several rows are read.
        source: The list, for messages.

    Raises:
        CohortError: There are several rows and no rule, or rows of one image say different things of it.
    """
    again = cells[key].duplicated()
    if not again.any():
        return cells
    if table.rows is None:
        raise CohortError(_no_rule(cells, key, table, source, int(again.sum())))
    about = [name for name in cells if name not in (key, "reader", "findings", WHOLE_ROW) and ":" not in str(name)]
    codes = pd.factorize(cells[key])[0]
    first = cells[~again].copy()
    for name in about:
        column = cells[name].map({cell: _alike(str(name), cell) for cell in cells[name].unique()})
        written = pd.DataFrame({"key": codes, "cell": column, "raw": cells[name]})[column != ""]
        distinct = written.drop_duplicates(["key", "cell"])
        bad = distinct["key"].duplicated(keep=False)
        if bad.any():
            raise CohortError(_contradiction(distinct[bad], str(name), key, table, source))
        filled = first[name].to_numpy(dtype=object)
        filled[distinct["key"].to_numpy()] = distinct["raw"].to_numpy(dtype=object)
        first[name] = pd.Series(filled, index=first.index, dtype="str")
    return first


def _alike(name: str, cell: str) -> str:
    """A cell as it is compared with those of other rows."""
    return normalise_patient_id(cell) if name == "patient" else folded(cell)


def _column(name: str, table: TableSettings) -> str:
    return str(getattr(table, name, None) or name.removeprefix("column "))


def _said(name: str) -> str:
    """What a column is, in a message: of a label, or of the study file's `columns`."""
    return name.replace(":", " ").replace("column ", "columns.")


def _no_rule(cells: pd.DataFrame, key: str, table: TableSettings, source: ListFile, repeated: int) -> str:
    """Both rows of the first image that has several, in the columns in which they differ."""
    value = cells[key][cells[key].duplicated()].iloc[0]
    one, other = (cells[cells[key] == value].iloc[at] for at in (0, 1))
    names = [str(name) for name in cells if name not in (key, "image", WHOLE_ROW)]
    differ = [name for name in names if one[name] != other[name]]
    what = ", ".join(map(_said, differ)) or "columns that the study file does not name"
    shown = [name for name in differ or names if name not in NEVER_SHOWN][:SHOWN_COLUMNS]
    rows = "; ".join(
        f"row {int(str(row.name)) + 1}"
        + ": " * bool(shown)
        + ", ".join(f"{_said(name)} {row[name]!r}" for name in shown)
        for row in (one, other)
    )
    return (
        f"{source.path}: {repeated} rows repeat {'an image' if key == 'image_id' else 'a key'}. The first two that do "
        f'({rows}) differ in {what}. Correct the list, or say how several rows are read: rows = "any", "majority" or '
        '"all" in the domain\'s table.'
    )


def _contradiction(bad: pd.DataFrame, name: str, key: str, table: TableSettings, source: ListFile) -> str:
    pair = bad[bad["key"] == bad["key"].iloc[0]].iloc[:2]
    rows = " and ".join(str(int(row) + 1) for row in pair.index)
    shown = "" if name in NEVER_SHOWN else f" ({' and '.join(map(repr, pair['raw']))})"
    what = "images" if key == "image_id" else "keys"
    return (
        f"{source.path}: column {_column(name, table)!r} ({_said(name)}): the rows of {bad['key'].nunique()} {what} "
        f"say different things, the first are rows {rows}{shown}. `rows` is for labels alone: correct the list."
    )


def combined(labels: Labels, keys: "pd.Series[str]", rule: str | None, readers: "pd.Series[str] | None") -> Labels:
    """One label a key: by `any`, `all` or the `majority` of its rows, or of its readers.

    Args:
        labels: Label -> 1, 0 or missing for each row.
        keys: What each row is about.
        rule: None where every key has one row.
        readers: Who read each row; a reader's rows are one vote, which is yes if any of them says so.

    Returns:
        Label -> 1, 0 or missing, by the keys in the order of their first rows. `any` and `all` are those of
        three-valued logic: a label of which no row says yes and one says nothing is missing. So is a tie.
    """
    if rule is None:
        return {name: column.set_axis(pd.Index(keys)) for name, column in labels.items()}
    codes, values = pd.factorize(keys)
    steps: list[tuple[NDArray[np.intp], int, str]] = [(codes, len(values), rule)]
    if readers is not None:
        votes, _ = pd.factorize(pd.Series(codes, index=keys.index).astype("str") + "\t" + readers.map(folded))
        of_vote = np.zeros(votes.max(initial=-1) + 1, dtype=np.intp)
        of_vote[votes] = codes
        steps = [(votes, len(of_vote), "any"), (of_vote, len(values), rule)]
    found = {}
    for name, column in labels.items():
        yes, no = (column == 1).fillna(False).to_numpy(bool), (column == 0).fillna(False).to_numpy(bool)
        for groups, count, how in steps:
            yes, no = _voted(yes, no, groups, count, how)
        label = pd.Series(np.where(yes, 1, 0), index=pd.Index(values), dtype="Int8")
        found[name] = label.mask(~(yes | no))
    return found


def _voted(
    yes: NDArray[np.bool_], no: NDArray[np.bool_], groups: NDArray[np.intp], count: int, rule: str
) -> tuple[Any, Any]:
    """Yes and no of each group."""
    ayes, noes, rows = (np.bincount(groups, weights=each, minlength=count) for each in (yes, no, np.ones(len(groups))))
    if rule == "majority":
        return ayes > noes, noes > ayes
    return (ayes > 0, noes == rows) if rule == "any" else (ayes == rows, noes > 0)
