"""Tables with patients' ids or files' names: for their owner alone, whole or not at all, and no formula in a cell."""

import csv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from dpdt.base.files import atomic_path

__all__ = ["no_formula", "private_csv"]

FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
"""A cell that begins so is a formula to a spreadsheet, and names of files and headers are written by others."""


def no_formula(cell: str, *, is_path: bool = False) -> str:
    """A cell that no spreadsheet runs as a formula; a path still leads to its file.

    >>> no_formula("=1+1"), no_formula("-a.png", is_path=True), no_formula("a")
    ("'=1+1", './-a.png', 'a')
    """
    if not cell.startswith(FORMULA):
        return cell
    return f"./{cell}" if is_path else f"'{cell}"


@contextmanager
def private_csv(path: Path, columns: Sequence[str]) -> Iterator[Callable[[Sequence[str]], Any]]:
    """A CSV (0600) that appears when it is whole; gives the function that writes a row."""
    with atomic_path(path) as temporary:
        temporary.chmod(0o600)
        with temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as stream:
            writer = csv.writer(stream)
            writer.writerow(columns)
            yield writer.writerow
