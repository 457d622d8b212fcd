"""What every reader shares: the form of its answer, and the words for sex, age and labels in it."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import pandas as pd

from dpdt.base.vocabulary import LABELS
from dpdt.cohort.lists.cells import shown
from dpdt.cohort.lists.words import plain
from dpdt.errors import CohortError, StudyError
from dpdt.study.domain_settings import DomainSettings
from dpdt.study.findings import Definition, define

__all__ = [
    "DAYS_PER_YEAR",
    "ELSEWHERE",
    "FRONTAL",
    "MAX_AGE_YEARS",
    "MISSING_IMAGES",
    "RAW_COLUMNS",
    "FileNames",
    "Filter",
    "RawCohort",
    "Reader",
    "Wanted",
    "age_from_text",
    "check_understood",
    "errors_of",
    "is_among",
    "mapped",
    "named_labels",
    "possible_age",
    "sex_word",
    "to_label",
    "with_columns",
]

FileNames = Mapping[str, tuple[str, ...]]

RAW_COLUMNS: Final = ("image_id", "path", "patient_id", "study_id", "view", "sex", "age_years", "split")
"""Those of every cohort, before its labels and the columns that groups ask for."""
MISSING_IMAGES: Final = "images not found"
ELSEWHERE: Final = "images found by name in another folder"
"""The names of two counts."""

FRONTAL: Final = "frontal"
"""View of an image that is known to be frontal, while PA or AP is not recorded."""

MAX_AGE_YEARS: Final = 100.0
"""Ages above are typing errors or placeholders far more often than ages: they become unknown."""

AGE: Final = re.compile(
    r"^(?:(?:>=?|≥|over|above|older than)\s*)?(-?\d+(?:[.,]\d+)?)\s*\+?\s*(?:([^\W\d_]+)\.?)?"
    r"(?:\+|\s+(?:or|and)\s+(?:more|older|above|over|up))?$",
    re.IGNORECASE,
)
"""An age with its unit, maybe as the lowest of a group that is not told apart any more."""
BLANK: Final = ("", "nan", "none", "unknown")
LOST_FROM: Final = 5
"""So many cells of which none is understood are a mistake; fewer may be odd ones."""

DAYS_PER_YEAR: Final = 365.25
YEARS_PER_UNIT: Final = {
    word: years
    for years, words in {
        1.0: "y yr yrs year years jahr jahre j an ans ano anos a",
        1 / 12: "m month months mo monat monate mois mes meses",
        7 / DAYS_PER_YEAR: "w week weeks woche wochen semaine semaines semana semanas",
        1 / DAYS_PER_YEAR: "d day days tag tage jour jours dia dias",
    }.items()
    for word in words.split()
}
SEX_WORDS: Final = {"f": "female", "female": "female", "w": "female", "m": "male", "male": "male"}


class Wanted(NamedTuple):
    """What a study wants of a list besides images, patients and splits.

    Attributes:
        labels: Each label's findings, () where the list has none of it: unknown in every image.
        columns: Columns for groups: the name -> that of the list; their cells stay text.
    """

    labels: Mapping[str, Definition]
    columns: Mapping[str, str]

    @classmethod
    def papers(cls, kind: str, settings: DomainSettings) -> "Wanted":
        """The paper's five labels."""
        return cls({label: define(label, kind, exact=settings.sublabels.get(label, ())) for label in LABELS}, {})

    @property
    def names(self) -> dict[str, tuple[str, ...]]:
        """The columns as `RawFiles.table` reads them."""
        return {f"column {name}": (column,) for name, column in self.columns.items()}


@dataclass(frozen=True)
class RawCohort:
    """What a reader returns.

    Attributes:
        frame: One row a usable image, columns RAW_COLUMNS, then the wanted labels (nullable Int8) and columns; `path`
            is where it is as published, relative to the root; `split` is the official one (train, val, test) or missing
            where none exists. A label that is not there is unknown in every image. The index is the row's number in the
            main table, from 0, which is the header's.
        exclusions: Columns `image_id`, `view`, `reason`: every row that is not in `frame`.
        files: Every metadata file that was read, by its logical name.
        counts: Things worth telling, by name, e.g. how many uncertain labels were read as what.
        policies: How the labels were read, by name; kept in the cohort's record.
        listed: Paths of all rows, also of those that are not in `frame`; None where no two rows have files of one name.
        warnings: What is probably a mistake.
        add_headers: Adds to `frame`, once the images are found, what their own headers say.
    """

    frame: pd.DataFrame
    exclusions: pd.DataFrame
    files: Mapping[str, Path]
    counts: dict[str, int] = field(default_factory=dict)
    policies: dict[str, Any] = field(default_factory=dict)
    listed: "pd.Series[str] | None" = None
    warnings: tuple[str, ...] = ()
    add_headers: Callable[[pd.DataFrame], pd.DataFrame] | None = None


@contextmanager
def errors_of(domain: str) -> Iterator[None]:
    """Errors of a domain's reader begin with the domain."""
    try:
        yield
    except StudyError as err:
        raise StudyError(f"domains.{domain}.{err}") from err
    except CohortError as err:
        raise CohortError(f"domain {domain}: {err}") from err


class Reader(Protocol):
    """One institution: a module with these three names.

    Attributes:
        FILES: Logical name of a file or folder -> the names that it may have.
        LISTS: The files without which nothing can be read.
    """

    FILES: FileNames
    LISTS: tuple[str, ...]

    def read(self, root: Path, settings: DomainSettings, wanted: Wanted) -> RawCohort:
        """Read the raw metadata below `root`."""


class Filter:
    """Takes rows out of a table, each with the first reason that fits."""

    def __init__(self, table: pd.DataFrame) -> None:
        self.kept = table
        self._excluded: list[pd.DataFrame] = []

    def drop(self, mask: "pd.Series[bool]", reason: str) -> None:
        """Exclude the rows of `kept` in which `mask` is true."""
        gone = self.kept[mask]
        if len(gone):
            self._excluded.append(gone[["image_id", "view"]].assign(reason=reason))
            self.kept = self.kept[~mask]

    @property
    def exclusions(self) -> pd.DataFrame:
        """Everything dropped so far, in the table's order."""
        if not self._excluded:
            return pd.DataFrame({"image_id": [], "view": [], "reason": []}, dtype=str)
        return pd.concat(self._excluded).sort_index()


def with_columns(
    frame: pd.DataFrame, kept: pd.DataFrame, path: Path, settings: DomainSettings, wanted: Wanted
) -> pd.DataFrame:
    """The frame with the columns that groups ask for; one that this copy of the list has not is blank.

    Raises:
        CohortError: The study file itself names the column.
    """
    for name, column in wanted.columns.items():
        if f"column {name}" not in kept and name in settings.columns:
            raise CohortError(f"{path}: no column {column!r} (columns.{name}). Correct its name in the study file.")
        frame = frame.assign(**{name: kept.get(f"column {name}", "")})
    return frame


def sex_word(values: "pd.Series[str]", *, column: str = "") -> "pd.Series[str]":
    """Sex in the words of dpdt; everything but a word for female or male is unknown.

    Raises:
        CohortError: The cells are those of a column, and none of them is understood.
    """
    words = values.str.strip().str.casefold().map(SEX_WORDS)
    if column:
        check_understood(values, words.notna(), column, "F, female, M or male")
    return words.fillna("unknown").astype(str)


def possible_age(years: "pd.Series[float]", *, at_least: float = 0.0) -> "pd.Series[float]":
    """Ages with impossible values ([at_least, 100] is possible) made NaN."""
    numbers = years.astype("float64")
    return numbers.where(numbers.between(at_least, MAX_AGE_YEARS), np.nan)


def age_from_text(values: "pd.Series[str]", *, at_least: float = 0.0, column: str = "") -> "pd.Series[float]":
    """Ages from text: years, DICOM's age string (`058Y`, `010M`, `003W`, `012D`; PS3.5 6.2, VR AS), or `18 meses`.

    A top-coded age (`90+`, `>89`, `85 or more`) is the number that it names, so that it stays in the oldest group.

    >>> age_from_text(pd.Series(["58", "058Y", "006M", "90+", "85 or more", "40,5", "414", ""])).tolist()
    [58.0, 58.0, 0.5, 90.0, 85.0, 40.5, nan, nan]
    >>> age_from_text(pd.Series(["45 años", "18 meses", "3 Wochen", "45 kg"])).round(2).tolist()
    [45.0, 1.5, 0.06, nan]

    Raises:
        CohortError: The cells are those of a column, and none of them is an age.
    """
    cells = pd.Series(values.unique(), dtype="str")  # some hundred, of as many rows as you like
    parts = cells.str.strip().str.normalize("NFC").str.extract(AGE)
    units = parts[1].fillna("").map(plain).map({"": 1.0, **YEARS_PER_UNIT})
    numbers = pd.to_numeric(parts[0].str.replace(",", ".")).astype("float64")
    ages = possible_age(numbers * units.astype("float64"), at_least=at_least)
    found = mapped(values, dict(zip(cells, ages, strict=True))).astype("float64")
    if column:
        check_understood(values, found.notna(), column, "years from 0 to 100, such as 58, 058Y, 58 años or 90+")
    return found


def check_understood(cells: "pd.Series[str]", known: "pd.Series[bool]", column: str, expected: str) -> None:
    """A column of which not one cell is understood is a mistake, not unknown in every row.

    Args:
        cells: The column as text; "" is a cell that says nothing.
        known: Which of its cells are understood.
        column: Its file and name, for the message.
        expected: What is understood.

    Raises:
        CohortError: Cells are written, and none of them is understood; with the first of them.
    """
    if known.any():
        return
    written = cells[~cells.str.strip().str.casefold().isin(BLANK)]
    if len(written) >= LOST_FROM:
        row, cell = int(written.index[0]) + 1, written.iloc[0]
        raise CohortError(
            f"{column}: none of {len(written)} cells is understood, the first is {shown(cell)} (row {row}). "
            f"Expected {expected}."
        )


def mapped(cells: "pd.Series[str]", meanings: Mapping[str, Any]) -> "pd.Series[Any]":
    """What each cell means; as `cells.map`, and much faster where a column of text has few different cells."""
    codes, distinct = pd.factorize(cells, use_na_sentinel=False)
    found = pd.Series([meanings.get(cell) for cell in distinct])
    return found.take(codes).set_axis(cells.index)


def is_among(values: "pd.Series[str]", names: Iterable[str]) -> "pd.Series[bool]":
    """Whether each value is one of many names; on text several times as fast as pandas' `isin`."""
    known = frozenset(names)
    return pd.Series([value in known for value in values], index=values.index, dtype=bool)


def named_labels(
    cells: "pd.Series[str]", names: Mapping[str, frozenset[str]], labels: Mapping[str, Definition]
) -> pd.DataFrame:
    """Labels of cells that name several findings; those without a definition are left out.

    Args:
        cells: Of each image.
        names: The findings that each distinct cell names.
        labels: The wanted ones.
    """
    place = {name: at for at, name in enumerate(dict.fromkeys(one.name for of in labels.values() for one in of))}
    codes, distinct = pd.factorize(cells)
    found: np.ndarray[tuple[int, int], np.dtype[np.bool_]] = np.zeros((len(distinct), len(place)), dtype=bool)
    each = [names[cell] for cell in distinct.tolist()]
    row = np.repeat(np.arange(len(each)), np.fromiter(map(len, each), dtype=np.intp, count=len(each)))
    column = np.array([place.get(name, -1) for of_cell in each for name in of_cell], dtype=np.intp)
    found[row[column >= 0], column[column >= 0]] = True
    columns = {
        label: to_label(np.asarray(found[:, [place[one.name] for one in definition]].any(axis=1))[codes])
        for label, definition in labels.items()
        if definition
    }
    return pd.DataFrame(columns).set_axis(cells.index)


def to_label(values: "pd.Series[bool] | np.ndarray[tuple[int], np.dtype[np.bool_]]") -> "pd.Series[int]":
    """A label column (nullable Int8, 1 or 0) from truth values."""
    return pd.Series(values).astype("Int8")
