"""Cells that a workbook, Parquet or JSON file keeps as numbers, dates and truth values, as the text that a CSV has."""

import datetime
import json
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, Final
from xml.etree.ElementTree import ParseError

import pandas as pd

from dpdt.errors import CohortError

__all__ = [
    "OLD_WORKBOOK",
    "cell_text",
    "json_rows",
    "parquet_frame",
    "parquet_header",
    "parquet_table",
    "shape_of",
    "sheet_rows",
    "shown",
    "visible_sheets",
    "workbook_of",
]

EXACT: Final = 1e15
"""Spreadsheets keep 15 digits: a longer number has lost its last ones, and two patients may have become one."""
LEADING_ZEROS: Final = re.compile(r"0{2,}")
NOT_CALCULATED: Final = re.compile(
    rb'<c\b(?![^>]*\bt="str")[^>]*>\s*<f\b(?:[^>]*/>|[^>]*>[^<]*</f>)\s*(?:<v\s*/>|<v></v>)?\s*</c>'
)
"""A formula without a result, as programs write it; an empty text is one (`t="str"`)."""
MOST_DIGITS: Final = 4
"""Of a word, a grade or an age; ids and dates have more."""
LONGEST_SHOWN: Final = 40
"""A longer cell is hardly a word: free text may say who somebody is."""
OLD_WORKBOOK: Final = b"\xd0\xcf\x11\xe0"
"""How the workbooks of old programs begin, and those that a password protects."""
XML_BYTES: Final = 1 << 20
LONGEST_CELL: Final = 1 << 16


def cell_text(value: Any) -> str:
    """A typed cell as text: 1 for 1.0 and True, 40.5, 2020-01-31 for a day, "" for nothing.

    A whole number of more than 15 digits that is kept as a float is written as spreadsheets show it (1.2E+18), which is
    refused as the id of a patient.

    >>> [cell_text(value) for value in (1.0, True, 40.5, None, 12345678901234567.0, datetime.datetime(2020, 1, 31))]
    ['1', '1', '40.5', '', '1.23456789012346E+16', '2020-01-31']
    """
    if isinstance(value, str):
        return value
    if value is None or value is pd.NaT or value is pd.NA or value != value:
        return ""
    if isinstance(value, bool | int):
        return str(int(value))
    if isinstance(value, datetime.datetime):
        return str(value.date() if value.time() == datetime.time() else value)
    if isinstance(value, Decimal):
        return f"{value.normalize():f}"
    if isinstance(value, datetime.date | datetime.time | datetime.timedelta):
        return str(value)
    if isinstance(value, dict | list | tuple | bytes):
        raise TypeError("a cell holds a list, a table or bytes, expected text or a number")
    if hasattr(value, "item") and not isinstance(value, float):  # numpy's, shortest in their own precision
        return cell_text(value.item()) if value.dtype.kind in "biu" else _float_text(str(value), float(value))
    return _float_text(repr(float(value)), float(value))


def _float_text(text: str, number: float) -> str:
    if not number.is_integer():
        return text
    return str(int(number)) if abs(number) < EXACT else f"{number:.14E}"


def shape_of(cell: str) -> str:
    """A cell without what it says: letters become a, digits 9.

    >>> shape_of("31.01.1950"), shape_of("Bild_7.png")
    ('99.99.9999', 'aaaa_9.aaa')
    """
    return re.sub(r"\d", "9", re.sub(r"[^\W\d_]", "a", cell))


def shown(cell: str) -> str:
    """A cell as a message has it, which is copied into mails: of ids, dates and long texts the form or beginning alone.

    >>> shown("n.b."), shown("12.03.1951"), shown("MUELLER, 70012")
    ("'n.b.'", "of the form '99.99.9999'", "of the form 'aaaaaaa, 99999'")
    """
    if sum(map(str.isdigit, cell)) > MOST_DIGITS:
        return f"of the form {shape_of(cell[:LONGEST_SHOWN])!r}"
    return repr(cell if len(cell) <= LONGEST_SHOWN else f"{cell[:LONGEST_SHOWN]}…")


def sheet_rows(path: Path, sheet: str | None) -> Iterator[list[str]]:
    """The rows of a workbook's sheet, as Excel counts them.

    Args:
        path: .xlsx or .xlsm.
        sheet: Its name; None: the only one that is visible and has cells.

    Raises:
        CohortError: It is damaged, has no such sheet or several to choose from, or formulas without results.
    """
    with workbook_of(path) as workbook:
        chosen = _sheet(workbook, path, sheet)
        _check_formulas(path, chosen)
        chosen.reset_dimensions()  # a workbook's own word for its size may be wrong
        for row in chosen.iter_rows():
            yield [_sheet_cell(cell) for cell in row]


@contextmanager
def workbook_of(path: Path) -> Iterator[Any]:
    """A workbook, open; what cannot be read is explained."""
    import openpyxl

    workbook = None
    try:
        with warnings.catch_warnings():  # about styles and rules for input, of which nothing is read
            warnings.simplefilter("ignore")
            workbook = openpyxl.load_workbook(path, read_only=True, data_only=True)
        yield workbook
    except (zipfile.BadZipFile, zlib.error, ParseError, KeyError, ValueError, TypeError, OSError) as err:
        with path.open("rb") as stream:
            locked = stream.read(4) == OLD_WORKBOOK
        why = "protected by a password, or of an old spreadsheet program" if locked else err
        raise CohortError(f"{path}: cannot be read as a workbook ({why}). Save it as .xlsx again, or as CSV.") from err
    finally:
        if workbook is not None:
            workbook.close()


def _sheet(workbook: Any, path: Path, name: str | None) -> Any:
    sheets = {each.title: each for each in workbook.worksheets}
    if name is not None:
        if name not in sheets:
            raise CohortError(f"{path}: no sheet {name!r}; found {', '.join(map(repr, sheets))}. Correct `sheet`.")
        return sheets[name]
    shown = visible_sheets(workbook)
    if len(shown) == 1:
        return shown[0]
    hidden = [title for title, each in sheets.items() if each.sheet_state != "visible"]
    told = f" Hidden, and never taken unless named: {', '.join(map(repr, hidden))}." if hidden else ""
    if not shown:
        raise CohortError(f"{path}: no visible sheet has a cell.{told} Expected a header and one row per image.")
    names = ", ".join(repr(each.title) for each in shown)
    raise CohortError(
        f"{path}: {len(shown)} sheets have cells: {names}. Say which is the list: sheet = "
        f"{json.dumps(shown[0].title, ensure_ascii=False)} in the domain's table.{told}"
    )


def visible_sheets(workbook: Any) -> list[Any]:
    """The sheets of a workbook that one sees and that have cells."""
    return [each for each in workbook.worksheets if each.sheet_state == "visible" and _has_cells(each)]


def _has_cells(sheet: Any) -> bool:
    return any(value is not None for row in sheet.iter_rows(values_only=True) for value in row)


def _sheet_cell(cell: Any) -> str:
    value = cell.value
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    text = cell_text(value)
    if isinstance(value, float) and text.isdecimal() and LEADING_ZEROS.fullmatch(cell.number_format):
        return text.zfill(len(cell.number_format))
    return text


def _check_formulas(path: Path, sheet: Any) -> None:
    """A formula that was never calculated reads as an empty cell: a label, and nobody would see that it is lost."""
    with zipfile.ZipFile(path) as archive, archive.open(sheet._worksheet_path) as stream:
        kept = b""
        while block := stream.read(XML_BYTES):
            if NOT_CALCULATED.search(kept + block):
                raise CohortError(
                    f"{path}: sheet {sheet.title!r} has formulas without results: a program wrote it, and no "
                    "spreadsheet has calculated it. Open it there, save it, and run this again."
                )
            kept = (kept + block)[-LONGEST_CELL:]


def json_rows(path: Path, text: Iterator[str]) -> Iterator[list[str]]:
    """The records of a file with one JSON object a line, below a header of the first one's keys."""
    header: list[str] = []
    for number, line in enumerate(text, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise TypeError(f"found a {type(record).__name__}")
            if not header:
                header = list(record)
                yield header
            yield [cell_text(record.get(name)) for name in header]
        except (ValueError, AttributeError, TypeError) as err:
            raise CohortError(f"{path}: line {number}: not a JSON object with one value a key ({err}).") from err


def parquet_header(path: Path) -> tuple[str, ...]:
    """The columns of a Parquet file.

    Raises:
        CohortError: It is none.
    """
    import pyarrow.parquet

    try:
        return tuple(pyarrow.parquet.read_schema(path).names)
    except (OSError, ValueError) as err:  # pyarrow's errors are ValueErrors
        raise CohortError(f"{path}: cannot be read as Parquet ({err}).") from err


def parquet_frame(path: Path, columns: list[str]) -> pd.DataFrame:
    """Columns of a Parquet file as they are typed; whole numbers stay whole where a cell is missing.

    As floats, which pandas makes of them otherwise, long ids of two patients or examinations would become one.
    """
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path, columns=columns)
    frame: pd.DataFrame = table.to_pandas(integer_object_nulls=True, ignore_metadata=True)
    return frame[columns]


def parquet_table(path: Path, columns: list[str]) -> pd.DataFrame:
    """Columns of a Parquet file as text; the index counts rows from 0.

    Raises:
        CohortError: A column holds lists or bytes.
    """
    frame = parquet_frame(path, columns)

    def text(name: str) -> "pd.Series[str]":
        column = frame[name]
        try:
            if pd.api.types.is_string_dtype(column.dtype):
                return column.map(cell_text, na_action=None).astype("str")
            return column.map({value: cell_text(value) for value in column.unique()}).fillna("").astype("str")
        except (TypeError, ValueError) as err:
            raise CohortError(
                f"{path}: column {name!r} holds lists, tables or bytes, expected text or numbers."
            ) from err

    return pd.DataFrame({name: text(name) for name in columns})
