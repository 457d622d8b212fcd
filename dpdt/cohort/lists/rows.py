"""Opening a list: CSV, workbook, Parquet or JSON lines become columns of text; a row has the number that Excel shows.

A CSV is read once, by one parser. A row that has not a cell a column is an error, because its labels may stand below
the wrong names. Rows without any cell are passed over. The header is the first row that has every wanted column.
"""

import codecs
import csv
import gzip
import io
import itertools
import math
import operator
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, cast

import numpy as np
import pandas as pd

from dpdt.base.console import progress
from dpdt.cohort.lists.cells import OLD_WORKBOOK, json_rows, parquet_frame, parquet_header, parquet_table, sheet_rows
from dpdt.errors import CohortError

__all__ = [
    "HEADER_ROWS",
    "LIST_SUFFIXES",
    "MARKS",
    "UNREADABLE",
    "WHOLE_ROW",
    "WORKBOOKS",
    "ListFile",
    "not_csv",
    "opened",
]

LIST_SUFFIXES: Final = frozenset({".csv", ".tsv", ".txt", ".xlsx", ".xlsm", ".parquet", ".json", ".jsonl"})
WORKBOOKS: Final = (".xlsx", ".xlsm")
JSON: Final = (".json", ".jsonl")
WHOLE_ROW: Final = "\0row"
"""Name of a column that is the same in two rows if all their cells are."""

CHUNK_ROWS: Final = 50_000
HEADER_ROWS: Final = 30
"""So many rows are looked at for the header: above it may be a title, or names of groups of columns."""
MEGABYTE: Final = 1_000_000
MARKS: Final = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Byte order marks. The third is the beginning of the second."""

UNREADABLE: Final = (OSError, EOFError, zlib.error)
"""What reading a file raises, compressed or not."""
NO_TEXT: Final = (b"PK\3\4", OLD_WORKBOOK, b"\x1f\x8b")
"""How a .zip, so a workbook too, the workbooks of old programs, and what gzip made begin."""


@dataclass(frozen=True)
class ListFile:
    """A list on disk.

    Attributes:
        path: `.csv` and `.tsv`, also with `.gz`; `.xlsx`; `.parquet`; `.json` with one object a line.
        separator: Of a CSV; None: what its line `sep=` says, else a tab in `.tsv` and a comma elsewhere.
        encoding: Of a CSV; a byte order mark wins over it.
        sheet: Of a workbook; None: the only one.
    """

    path: Path
    separator: str | None = None
    encoding: str = "utf-8"
    sheet: str | None = None

    @property
    def kind(self) -> str:
        """Its suffix in small letters, without `.gz`."""
        return Path(self.path.name.lower().removesuffix(".gz")).suffix

    def header(self, wanted: Collection[str] = ()) -> tuple[str, ...]:
        """Column names: of the first row that has all that are wanted, else of the one that has most of them.

        Raises:
            CohortError: The file is empty or cannot be read.
        """
        if self.kind == ".parquet":
            return parquet_header(self.path)
        with self.rows() as rows:
            return tuple(self._to_header(rows, wanted)[1])

    def read(self, columns: Sequence[str]) -> pd.DataFrame:
        """Columns as text, missing cells as "", and WHOLE_ROW; the index is the number of the row in Excel less 1.

        Raises:
            CohortError: It cannot be read, a wanted column is there twice, or a row has not a cell a column.
        """
        if self.kind == ".parquet":
            return parquet_table(self.path, list(columns))
        with self.rows() as rows:
            number, header = self._to_header(rows, columns)
            for name in columns:
                if header.count(name) != 1:
                    raise CohortError(
                        f"{self.path}: {header.count(name)} columns are named {name!r}, expected one. Rename them."
                    )
            return self._columns(rows, number, header, columns)

    def whole_rows(self, frame: pd.DataFrame) -> "pd.Series[int]":
        """WHOLE_ROW of what `read` gave; for Parquet it is calculated only now, when rows must be compared."""
        if WHOLE_ROW in frame:
            return frame[WHOLE_ROW]
        import pyarrow.parquet
        import pyarrow.types

        schema = pyarrow.parquet.read_schema(self.path)
        flat = [each.name for each in schema if not pyarrow.types.is_nested(each.type)]
        return pd.util.hash_pandas_object(parquet_frame(self.path, flat), index=False)

    def _columns(
        self, rows: Iterator[list[str]], number: int, header: list[str], columns: Sequence[str]
    ) -> pd.DataFrame:
        width, csv_like = len(header), self.kind not in (*WORKBOOKS, *JSON)
        pick = operator.itemgetter(*(header.index(name) for name in columns), 0)  # a tuple, however few they are
        parts: list[pd.DataFrame] = []
        cells: list[tuple[str, ...]] = []
        numbers: list[int] = []
        whole: list[int] = []

        def flush() -> None:
            if cells or not parts:
                found = list(zip(*cells, strict=True)) or [()] * (len(columns) + 1)
                part = {name: pd.Series(found[at], dtype="str") for at, name in enumerate(columns)}
                part[WHOLE_ROW] = pd.Series(np.array(whole, dtype=np.int64))
                parts.append(pd.DataFrame(part).set_axis(pd.Index(numbers, dtype="int64")))
            for each in (cells, numbers, whole):
                each.clear()

        for at, row in enumerate(rows, start=number + 1):
            if len(row) != width or not row[0].strip():
                if not any(map(str.strip, row)):
                    continue
                row = self._fitting(row, width, at, csv_like)
            cells.append(pick(row))
            numbers.append(at)
            whole.append(hash(tuple(row)))
            if len(cells) == CHUNK_ROWS:
                flush()
        flush()
        return pd.concat(parts)

    def _fitting(self, row: list[str], width: int, number: int, csv_like: bool) -> list[str]:
        """A row with a cell a column: blank cells at its end are read past; some programs end rows with a separator.

        In a workbook, where a row ends with its last cell, no cell can stand below the wrong name.
        """
        if not csv_like:
            return [*row, *[""] * (width - len(row))][:width]
        if len(row) < width or any(map(str.strip, row[width:])):
            raise CohortError(
                f"{self.path}: row {number + 1}: {len(row)} cells, expected {width} as in the header. Is the file cut "
                f"off, or has a text with {self.separator or ','!r} no quotation marks? Export the list again."
            )
        return row[:width]

    def _to_header(self, rows: Iterator[list[str]], wanted: Collection[str]) -> tuple[int, list[str]]:
        """Number (from 0) and cells of the header; the rows go on below it.

        Where no row has all that is wanted the header is the one that has most of it, of equals the first row with a
        cell, and the rows are used up.
        """
        best: tuple[int, list[str]] | None = None
        most = -1
        for number, row in enumerate(itertools.islice(rows, HEADER_ROWS)):
            if any(map(str.strip, row)):
                has = len(set(wanted) & set(row))
                if has == len(set(wanted)):
                    return number, row
                if has > most:
                    best, most = (number, row), has
        if best is None:
            raise CohortError(f"{self.path}: no row has a cell. Expected a header and one row per image.")
        return best

    @contextmanager
    def rows(self) -> Iterator[Iterator[list[str]]]:
        """All rows, the header too; what cannot be read is explained."""
        if self.kind in WORKBOOKS:
            yield sheet_rows(self.path, self.sheet)
            return
        with self.text() as text:
            yield json_rows(self.path, text) if self.kind in JSON else self._csv(text)

    def _csv(self, text: io.TextIOWrapper) -> Iterator[list[str]]:
        """The rows of a CSV; a line `sep=;` before them, which spreadsheets do not show, is not counted."""
        lines = self._without_nul(text)
        first = next(lines, "")
        said = first.rstrip("\r\n").strip('"')
        is_mark = said[:4].casefold() == "sep=" and len(said) <= 5
        separator = self.separator or (said[4:] if is_mark else "") or ("\t" if self.kind == ".tsv" else ",")
        reader = csv.reader(lines if is_mark else itertools.chain([first], lines), delimiter=separator, strict=True)
        done = 0
        try:
            for row in reader:
                yield row
                done += 1
        except csv.Error as err:
            raise CohortError(
                f"{self.path}: row {done + 1}: {err}. Is a quotation mark not closed, or not doubled inside of a text?"
            ) from err

    def _without_nul(self, text: Iterator[str]) -> Iterator[str]:
        """The lines; a zero byte is in no text, and would part two spellings of one patient."""
        for line in text:
            if "\0" in line:
                raise CohortError(
                    f"{self.path}: zero bytes, so it is not text in {self.encoding}. Save it as UTF-8, or, for your "
                    'own list, set its encoding in its table, perhaps encoding = "utf-16-le".'
                )
            yield line

    @contextmanager
    def text(self) -> Iterator[io.TextIOWrapper]:
        """A CSV's text; a byte order mark says its encoding, and what is no text is explained."""
        try:
            with self._opened() as text:
                yield text
        except (csv.Error, UnicodeError, LookupError, *UNREADABLE) as err:
            raise CohortError(not_csv(self.path, err, self.encoding)) from err

    @contextmanager
    def _opened(self) -> Iterator[io.TextIOWrapper]:
        size = math.ceil(self.path.stat().st_size / MEGABYTE)
        with self.path.open("rb") as raw, progress(f"reading {self.path.name}", size, unit="MB") as advance:
            plain: BinaryIO = gzip.GzipFile(fileobj=raw) if _is_zipped(self.path) else raw  # type: ignore[assignment]
            buffered = io.BufferedReader(_Counted(plain, raw, advance), MEGABYTE)
            start = buffered.peek(4)[:4]
            if not start or start.startswith(NO_TEXT):
                raise EOFError("no text")
            known = next((name for mark, name in MARKS.items() if start.startswith(mark)), self.encoding)
            with io.TextIOWrapper(buffered, encoding=known, newline="") as text:
                yield text


class _Counted(io.RawIOBase):
    """Bytes of a file, compressed or not; the bar moves by what was read of the file."""

    def __init__(self, plain: BinaryIO, raw: BinaryIO, advance: Callable[..., None]) -> None:
        self._plain, self._raw, self._advance, self._done = plain, raw, advance, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        block = self._plain.read(len(buffer))
        buffer[: len(block)] = block
        now = math.ceil(self._raw.tell() / MEGABYTE)
        if now > self._done:
            self._advance(now - self._done)
            self._done = now
        return len(block)


def _is_zipped(path: Path) -> bool:
    """Whether a file's name says that gzip compressed it."""
    return path.suffix.lower() == ".gz"


def opened(path: Path) -> BinaryIO:
    """A file's bytes, those of a `.gz` as they were before."""
    return cast(BinaryIO, gzip.open(path)) if _is_zipped(path) else path.open("rb")


def not_csv(path: Path, err: Exception, encoding: str) -> str:
    """What to say about a file that cannot be read as CSV: what it is instead, and what to do."""
    try:
        with path.open("rb") as stream:
            start = stream.read(4)
    except OSError as unreadable:
        return f"{path}: cannot be read ({unreadable.strerror}). Correct its permissions."
    if not start:
        return f"{path}: empty (0 bytes). Expected a header and one row per image; export the list again."
    if start == OLD_WORKBOOK:
        return f"{path}: a workbook of an old spreadsheet program. Save it as .xlsx, or as CSV (UTF-8)."
    if start.startswith(b"PK"):
        return f"{path}: a workbook or another archive. Save it as .xlsx or as CSV; if it is an .xlsx, name it so."
    zipped, named = start.startswith(NO_TEXT[2]), _is_zipped(path)
    if zipped != named:
        found = "compressed by gzip" if zipped else "not compressed"
        return f"{path}: {found}, which its name does not say. Expected .csv.gz if compressed, .csv if not: rename it."
    if isinstance(err, LookupError):
        return f"{path}: encoding = {encoding!r} is unknown. Write for example 'utf-8', 'cp1252' or 'utf-16'."
    if isinstance(err, UnicodeError):
        likely = "utf-16-le" if start[1::2] == b"\0\0" else "cp1252"
        return (
            f"{path}: not text in {encoding} ({err}). Save it as UTF-8, or, for your own list, set its encoding in "
            f'its table, perhaps encoding = "{likely}".'
        )
    return f"{path}: cannot be read as CSV ({err})."
