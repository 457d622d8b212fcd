"""Everything that is wrong with a list's cells, told at once: nobody mends a list one cell a run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pandas as pd

from dpdt.base.vocabulary import folded
from dpdt.cohort.hospitals.raw_cohort import mapped
from dpdt.cohort.lists.cells import shown
from dpdt.errors import CohortError

__all__ = ["Problems", "column_hint"]

SHOWN_CELLS: Final = 12
DAY: Final = r"\d{4}-\d{2}-\d{2}( .*)?"


class Problems:
    """What is wrong with a list.

    Attributes:
        path: The list.
        found: So far; each begins with the path of its list.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: list[str] = []

    def add(self, *problems: str) -> None:
        """Remember problems."""
        self.found += problems

    def stop(self) -> None:
        """Raise what was found, if anything.

        Raises:
            CohortError: All problems, a line each.
        """
        if self.found:
            raise CohortError("\n".join(dict.fromkeys(self.found)))

    def empty(self, cells: "pd.Series[str]", column: str, key: str) -> None:
        """A cell that every row must have is blank."""
        blank = cells == ""
        if blank.any():
            rows = [int(row) + 1 for row in blank.index[blank]]
            more = f" and {len(rows) - SHOWN_CELLS} more" if len(rows) > SHOWN_CELLS else ""
            listed = f"row{'s' * (len(rows) > 1)} {', '.join(map(str, rows[:SHOWN_CELLS]))}{more}"
            self.add(
                f"{self.path}: {listed}: column {column!r} ({key}) is empty. Fill it in, or take what is no image's "
                "row, such as a sum, out of the list."
            )

    def dates_for_ids(self, cells: "pd.Series[str]", column: str) -> None:
        """A workbook that took ids for days: 1-2 and 01-02 have become one patient."""
        days = cells.str.fullmatch(DAY)
        if days.any():
            self.add(
                f"{self.path}: row {_row(days)}: column {column!r} (patient) has a day, as a spreadsheet makes of ids "
                f"like 1-2 ({int(days.sum())} such rows): several patients may have become one. Export the ids as text."
            )

    def translated(
        self, cells: "pd.Series[str]", column: str, meanings: Mapping[str, tuple[str, ...]], *, where: str
    ) -> "pd.Series[str]":
        """Cells in the words of dpdt; those that are not explained are a problem.

        Args:
            cells: Trimmed.
            column: Its name.
            meanings: Word -> the cells that mean it; compared without case.
            where: The key of the study file that explains cells.
        """
        by_cell = {folded(cell): word for word, listed in meanings.items() for cell in listed}
        words = {cell: by_cell.get(folded(cell)) for cell in cells.unique()}
        strange = [cell for cell, word in words.items() if word is None]
        if strange:
            bad = cells[cells.isin(strange)]
            first = bad.drop_duplicates()
            told = ", ".join(f"{shown(first[row])} (row {row + 1})" for row in first.index[:SHOWN_CELLS])
            more = f" and {len(strange) - SHOWN_CELLS} others" if len(strange) > SHOWN_CELLS else ""
            known = "; ".join(f"{word} = {json.dumps(listed, ensure_ascii=False)}" for word, listed in meanings.items())
            self.add(
                f"{self.path}: column {column!r}: {len(bad)} cells are not explained: {told}{more}. "
                f"Known: {known}. Add them to {where} of the domain in the study file."
            )
        return mapped(cells, words).astype("str")


def column_hint(name: str, header: tuple[str, ...], separator: str | None) -> str:
    """What to do about a column that is not there; `separator`: None where the list has none."""
    if len(header) == 1 and separator is not None:
        other = max(",;\t|", key=header[0].count)
        if other != separator and other in header[0]:
            return f"The separator seems to be {other!r}: set separator = {json.dumps(other)} in the domain's table."
        return "Is `separator` right?"
    same = [column for column in header if _plain(column) == _plain(name)]
    if same:
        alike = (
            "with its blanks and capitals"
            if folded(same[0]) != folded(name) or same[0].isascii()
            else "copied out of the list: its accents are written in another way there (Unicode NFC and NFD)"
        )
        return f"Names are compared exactly: write {same[0]!r} in the study file, {alike}."
    return "Names are compared exactly, and one row must have all of them; correct the study file."


def _plain(name: str) -> str:
    """A column's name without what is easily overlooked: blanks, capitals, a byte order mark."""
    return folded("".join(name.replace("\ufeff", "").split()))


def _row(mask: "pd.Series[bool]") -> int:
    """Number of the first row in which `mask` is true, as a spreadsheet counts: the header is row 1."""
    return int(mask.index[mask][0]) + 1
