"""Finding an institution's raw files and reading their tables, with a progress bar where they are large."""

import csv
import gzip
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd

from dpdt.base.console import progress
from dpdt.cohort.hospitals.raw_cohort import FileNames
from dpdt.errors import CohortError, StudyError
from dpdt.study.domain_settings import DomainSettings

__all__ = ["RawFiles", "csv_header", "read_csv"]

CHUNK_ROWS: Final = 50_000
MEGABYTE: Final = 1_000_000
AS_TEXT: Final[dict[str, Any]] = {"dtype": str, "keep_default_na": False, "na_filter": False}


class RawFiles:
    """An institution's raw files by logical name; the study file may give other names than the published ones."""

    def __init__(self, root: Path, published: FileNames, settings: DomainSettings) -> None:
        unknown = sorted(set(settings.files) - set(published))
        if unknown:
            raise StudyError(f"files: unknown name {unknown[0]!r}. Valid names: {', '.join(published)}.")
        if not root.is_dir():
            what = "a file, expected a folder" if root.is_file() else "no such folder"
            raise CohortError(f"{root}: {what}. Set `root` of the domain to the folder with the raw data.")
        self.root = root
        self._published = published
        self._given = settings.files
        self._read: dict[str, Path] = {}

    @property
    def read(self) -> dict[str, Path]:
        """Every file that was read so far, by its logical name."""
        return dict(self._read)

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
        self._read[name] = path
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
        table = read_csv(path, columns=sorted(set(wanted.values())))
        return pd.DataFrame({column: table[found].str.strip() for column, found in wanted.items()})

    def header(self, name: str) -> tuple[str, ...]:
        """Column names of a CSV, as written there."""
        return csv_header(self.path(name))

    def lines(self, name: str) -> list[str]:
        """Read a text file of one name a line; empty lines are left out."""
        path = self.path(name)
        self._read[name] = path
        opener = gzip.open if path.suffix == ".gz" else open
        try:
            with opener(path, "rt", encoding="utf-8-sig") as stream:
                return [line.strip() for line in stream if line.strip()]
        except (UnicodeDecodeError, OSError, EOFError) as err:
            raise CohortError(f"{path}: cannot be read as a list of names ({err}).") from err


def csv_header(path: Path, *, separator: str = ",", encoding: str = "utf-8") -> tuple[str, ...]:
    """Column names of a CSV (.gz or not), as written there.

    Raises:
        CohortError: The file is empty or not a CSV.
    """
    try:
        header = pd.read_csv(path, nrows=0, sep=separator, encoding=encoding, **AS_TEXT)
    except (ValueError, LookupError, OSError, EOFError) as err:  # pandas' parser errors are ValueErrors
        raise CohortError(_not_csv(path, err, encoding)) from err
    return tuple(str(column) for column in header.columns)


def read_csv(path: Path, *, columns: Sequence[str], separator: str = ",", encoding: str = "utf-8") -> pd.DataFrame:
    """Read columns of a CSV (.gz or not) as text, missing cells as empty strings.

    Raises:
        CohortError: It cannot be read, a wanted column is there twice, or a row has not a cell a column (its labels may
            then stand below the wrong names); the message says which.
    """
    _check_cells(path, columns=columns, separator=separator, encoding=encoding)
    try:
        size = _megabytes(path.stat().st_size)
        with path.open("rb") as raw, progress(f"reading {path.name}", size, unit="MB") as advance:
            chunks = pd.read_csv(
                raw,
                usecols=list(columns),
                index_col=False,  # else a blank cell at the rows' end moves every cell below its neighbour's name
                sep=separator,
                encoding=encoding,
                chunksize=CHUNK_ROWS,
                compression="gzip" if path.suffix == ".gz" else None,
                **AS_TEXT,
            )
            parts, done = [], 0
            for part in chunks:
                parts.append(part)
                now = _megabytes(raw.tell())
                advance(now - done, f"{sum(map(len, parts))} rows")
                done = now
    except (ValueError, LookupError, OSError, EOFError) as err:  # pandas' parser errors are ValueErrors
        raise CohortError(_not_csv(path, err, encoding)) from err
    return pd.concat(parts)


def _not_csv(path: Path, err: Exception, encoding: str) -> str:
    """What to say about a file that cannot be read as CSV: what it is instead, and what to do."""
    try:
        with path.open("rb") as stream:
            start = stream.read(4)
    except OSError as unreadable:
        return f"{path}: cannot be read ({unreadable.strerror}). Correct its permissions."
    if not start:
        return f"{path}: empty (0 bytes). Expected a header and one row per image; export the list again."
    if start.startswith(b"PK") or start == b"\xd0\xcf\x11\xe0":
        return f"{path}: a workbook of a spreadsheet program. Expected a list as text: save it as CSV (UTF-8)."
    zipped, named = start.startswith(b"\x1f\x8b"), path.suffix == ".gz"
    if zipped != named:
        found = "compressed by gzip" if zipped else "not compressed"
        return f"{path}: {found}, which its name does not say. Expected .csv.gz if compressed, .csv if not: rename it."
    if isinstance(err, LookupError):
        return f"{path}: encoding = {encoding!r} is unknown. Write for example 'utf-8', 'latin-1' or 'utf-16'."
    if isinstance(err, UnicodeError):
        likely = "utf-16" if start.startswith((b"\xff\xfe", b"\xfe\xff")) else "latin-1"
        likely = "utf-16-le" if start[1::2] == b"\0\0" else likely
        return (
            f"{path}: not text in {encoding} ({err}). Save it as UTF-8, or, for your own list, set its encoding in "
            f'its table, perhaps encoding = "{likely}".'
        )
    return f"{path}: cannot be read as CSV ({err})."


def _check_cells(path: Path, *, columns: Sequence[str], separator: str, encoding: str) -> None:
    """Check that every row has a cell a column: pandas pads short rows and, with `usecols`, cuts long ones.

    Blank cells at the end of a row are read past: some programs end every row with a separator.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    known = "utf-8-sig" if encoding.casefold().replace("-", "") == "utf8" else encoding
    try:
        with opener(path, "rt", encoding=known, newline="") as stream:
            rows = filter(None, csv.reader(stream, delimiter=separator))
            header = next(rows, [])
            for number, row in enumerate(rows, start=1):
                if len(row) != len(header) and (len(row) < len(header) or any(map(str.strip, row[len(header) :]))):
                    raise CohortError(
                        f"{path}: row {number}: {len(row)} cells, expected {len(header)} as in the header. Is the file "
                        f"cut off, or has a text with {separator!r} no quotation marks? Export the list again."
                    )
    except (csv.Error, ValueError, LookupError, OSError, EOFError) as err:
        raise CohortError(_not_csv(path, err, encoding)) from err
    twice = [name for name in columns if header.count(name) > 1]
    if twice:
        raise CohortError(
            f"{path}: {header.count(twice[0])} columns are named {twice[0]!r}, expected one. Rename them."
        )


def _megabytes(count: int) -> int:
    return math.ceil(count / MEGABYTE)
