"""What every reader shares: finding an institution's raw files, reading their tables, and the words of its answer."""

import gzip
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import pandas as pd

from dpdt.errors import CohortError, StudyError
from dpdt.study import DomainSettings
from dpdt.vocabulary import LABELS

__all__ = [
    "FRONTAL",
    "MAX_AGE_YEARS",
    "RAW_COLUMNS",
    "FileNames",
    "Filter",
    "RawCohort",
    "RawFiles",
    "Reader",
    "age_from_text",
    "list_files",
    "possible_age",
    "sex_word",
    "to_label",
]

FileNames = Mapping[str, tuple[str, ...]]

RAW_COLUMNS: Final = ("image_id", "path", "patient_id", "study_id", "view", "sex", "age_years", "split", *LABELS)
FRONTAL: Final = "frontal"
"""View of an image that is known to be frontal, while PA or AP is not recorded."""

MAX_AGE_YEARS: Final = 100.0
"""Ages above are typing errors or placeholders far more often than ages: they become unknown."""

YEARS_PER_UNIT: Final = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}
SEX_WORDS: Final = {"f": "female", "female": "female", "w": "female", "m": "male", "male": "male"}


@dataclass(frozen=True)
class RawCohort:
    """What a reader gives back.

    Attributes:
        frame: One row a usable image, columns RAW_COLUMNS; `split` is the official one (train, val, test) or missing
            where none exists; labels are nullable Int8. The index is the row's number in the main table, from 0.
        exclusions: Columns `image_id`, `view`, `reason`: every row that is not in `frame`.
        files: Every metadata file that was read.
        counts: Things worth telling, by name, e.g. how many uncertain labels were read as what.
    """

    frame: pd.DataFrame
    exclusions: pd.DataFrame
    files: tuple[Path, ...]
    counts: dict[str, int] = field(default_factory=dict)


class Reader(Protocol):
    """One institution: a module with these two names."""

    FILES: FileNames

    def read(self, root: Path, settings: DomainSettings) -> RawCohort:
        """Read the raw metadata below `root`."""


class RawFiles:
    """An institution's raw files by logical name; the study file may give other names than the published ones."""

    def __init__(self, root: Path, published: FileNames, settings: DomainSettings) -> None:
        unknown = sorted(set(settings.files) - set(published))
        if unknown:
            raise StudyError(f"files: unknown name {unknown[0]!r}. Valid names: {', '.join(published)}.")
        if not root.is_dir():
            raise CohortError(f"{root}: no such folder. Set `root` of the domain to the folder with the raw data.")
        self.root = root
        self._published = published
        self._given = settings.files
        self._read: list[Path] = []

    @property
    def read(self) -> tuple[Path, ...]:
        """Every file that was opened so far."""
        return tuple(self._read)

    def given(self, name: str) -> bool:
        """Whether the study file names this file or folder."""
        return name in self._given

    def names(self, name: str) -> tuple[str, ...]:
        """Paths relative to root at which a file may be, best first."""
        return (str(self._given[name]),) if name in self._given else self._published[name]

    def optional(self, name: str) -> Path | None:
        """Path of a file, compressed or not; None if there is none. A name given in the study file must exist."""
        for candidate in self.names(name):
            other = candidate.removesuffix(".gz") if candidate.endswith(".gz") else f"{candidate}.gz"
            for relative in (candidate, other):
                if (self.root / relative).is_file():
                    return self.root / relative
        if name in self._given:
            raise self._missing(name)
        return None

    def path(self, name: str) -> Path:
        """Path of a file, compressed or not.

        Raises:
            CohortError: There is none; the message says where it was looked for.
        """
        found = self.optional(name)
        if found is None:
            raise self._missing(name)
        return found

    def _missing(self, name: str) -> CohortError:
        inside = sorted(entry.name for entry in self.root.iterdir())
        found = ", ".join(inside[:8]) + (", …" if len(inside) > 8 else "") if inside else "nothing"
        return CohortError(
            f"{self.root}: no {' or '.join(self.names(name))} (plain or .gz); found {found}. "
            f'Correct `root`, or name the file: files = {{ {name} = "…" }}.'
        )

    def table(
        self, name: str, columns: Mapping[str, Sequence[str]], optional: Mapping[str, Sequence[str]] | None = None
    ) -> pd.DataFrame:
        """Read a CSV as text, missing cells as empty strings.

        Args:
            name: Logical name of the file.
            columns: Column name in the answer -> names it may have in the file (compared trimmed, without case).
            optional: The same for columns that may be missing; they are then missing in the answer, too.

        Returns:
            The wanted columns, trimmed; the index is the row number from 0.

        Raises:
            CohortError: File or column missing, or not a CSV.
        """
        path = self.path(name)
        self._read.append(path)
        header = {column.strip().casefold(): column for column in self.header(name)}
        wanted: dict[str, str] = {}
        for column, names in [*columns.items(), *(optional or {}).items()]:
            found = next((header[n.casefold()] for n in names if n.casefold() in header), None)
            if found is not None:
                wanted[column] = found
            elif column in columns:
                raise CohortError(
                    f"{path}: no column {' or '.join(repr(n) for n in names)}; found {', '.join(header.values())}. "
                    "Is this the published file?"
                )
        table = self._parse(path, usecols=sorted(set(wanted.values())))
        return pd.DataFrame({column: table[found].str.strip() for column, found in wanted.items()})

    def header(self, name: str) -> tuple[str, ...]:
        """Column names of a CSV, as written there."""
        return tuple(str(column) for column in self._parse(self.path(name), nrows=0).columns)

    @staticmethod
    def _parse(path: Path, *, nrows: int | None = None, usecols: list[str] | None = None) -> pd.DataFrame:
        try:
            return pd.read_csv(
                path, dtype=str, keep_default_na=False, na_filter=False, nrows=nrows, usecols=usecols, encoding="utf-8"
            )
        except (ValueError, OSError, EOFError) as err:  # pandas' parser errors are ValueErrors
            raise CohortError(f"{path}: cannot be read as CSV ({err}).") from err

    def lines(self, name: str) -> list[str]:
        """Read a text file of one name a line; empty lines are left out."""
        path = self.path(name)
        self._read.append(path)
        opener = gzip.open if path.suffix == ".gz" else open
        try:
            with opener(path, "rt", encoding="utf-8") as stream:
                return [line.strip() for line in stream if line.strip()]
        except (UnicodeDecodeError, OSError, EOFError) as err:
            raise CohortError(f"{path}: cannot be read as a list of names ({err}).") from err


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


def sex_word(values: "pd.Series[str]") -> "pd.Series[str]":
    """Sex in the words of dpdt; everything that is not said to be female or male is unknown."""
    return values.str.strip().str.casefold().map(SEX_WORDS).fillna("unknown").astype(str)


def possible_age(years: "pd.Series[float]", *, at_least: float = 0.0) -> "pd.Series[float]":
    """Ages with impossible values ([at_least, 100] is possible) made NaN."""
    numbers = years.astype("float64")
    return numbers.where(numbers.between(at_least, MAX_AGE_YEARS), np.nan)


def age_from_text(values: "pd.Series[str]", *, at_least: float = 0.0) -> "pd.Series[float]":
    """Ages from text: a number of years, or DICOM's age string (`058Y`, `010M`, `003W`, `012D`; PS3.5 6.2, VR AS).

    >>> age_from_text(pd.Series(["58", "058Y", "006M", "414", ""])).tolist()
    [58.0, 58.0, 0.5, nan, nan]
    """
    parts = values.str.strip().str.extract(r"^(-?\d+(?:\.\d+)?)\s*([YMWDymwd]?)$")
    units = parts[1].fillna("").str.upper().map({"": 1.0, **YEARS_PER_UNIT})
    return possible_age(pd.to_numeric(parts[0]).astype("float64") * units.astype("float64"), at_least=at_least)


def to_label(values: "pd.Series[bool] | np.ndarray[tuple[int], np.dtype[np.bool_]]") -> "pd.Series[int]":
    """A label column (nullable Int8, 1 or 0) from truth values."""
    return pd.Series(values).astype("Int8")


def list_files(folders: Iterable[Path], root: Path) -> dict[str, str]:
    """File name -> path relative to `root`, from one listing of each folder that exists (no look at single files)."""
    found: dict[str, str] = {}
    for folder in folders:
        if folder.is_dir():
            prefix = folder.relative_to(root).as_posix()
            with os.scandir(folder) as entries:
                found.update({e.name: e.name if prefix == "." else f"{prefix}/{e.name}" for e in entries})
    return found
