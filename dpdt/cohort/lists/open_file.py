"""How a list that nobody has described can be opened: its encoding, separator, sheet and header are guessed."""

import csv
import itertools
from collections import Counter
from pathlib import Path
from typing import Final

from dpdt.cohort.lists.cells import visible_sheets, workbook_of
from dpdt.cohort.lists.rows import HEADER_ROWS, MARKS, UNREADABLE, WORKBOOKS, ListFile, not_csv, opened
from dpdt.errors import CohortError

__all__ = ["Guess", "guess_encoding", "guess_header", "guess_separator", "guess_sheet"]

SAMPLE_BYTES: Final = 1 << 22
SAMPLE_ROWS: Final = 200
SEPARATORS: Final = (",", ";", "\t", "|")
OLD_ENCODINGS: Final = ("cp1252", "cp850", "mac_roman")
LETTERS: Final = frozenset("äöüßÄÖÜéèêëàâçñáíóúÉÈÀÇÑÁÍÓÚïîôûœ")
"""What the four languages write besides ASCII: an encoding under which a text has these is likely its own."""

Guess = tuple[str, str]
"""A value, and how sure it is and why."""


def guess_encoding(path: Path) -> list[Guess]:
    """Encodings that may be right, the likeliest first; none where it is UTF-8 or has a byte order mark.

    Raises:
        CohortError: The file cannot be read.
    """
    if ListFile(path).kind not in (".csv", ".tsv", ".txt"):
        return []
    try:
        with opened(path) as stream:
            data = stream.read(SAMPLE_BYTES)
    except UNREADABLE as err:
        raise CohortError(not_csv(path, err, "utf-8")) from err
    if any(data.startswith(mark) for mark in MARKS):
        return []
    for name, zeros in (("utf-16-le", data[1::2]), ("utf-16-be", data[0::2])):
        if zeros and zeros.count(0) > len(zeros) // 2:
            return [(name, "sure: every second byte is zero")]
    if _is_utf8(data):
        return []
    counts = {}
    for name in OLD_ENCODINGS:
        text = data.decode(name, errors="replace")
        strange = Counter(each for each in text if ord(each) > 127)
        counts[name] = sum(count for each, count in strange.items() if each in LETTERS) - 10 * sum(
            count for each, count in strange.items() if each not in LETTERS
        )
    best = max(counts.values())
    likely = [name for name, count in counts.items() if count == best]
    return [(name, "likely: not UTF-8, and its letters read well so") for name in likely]


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as err:
        return len(data) == SAMPLE_BYTES and err.start > len(data) - 4  # the sample ends within a letter
    return True


def guess_separator(source: ListFile) -> list[Guess]:
    """Separators that cut each row into equally many cells, the likeliest first; none where the default is right."""
    if source.kind not in (".csv", ".tsv", ".txt"):
        return []
    widths: dict[str, int] = {}
    with source.text() as text:
        lines = list(itertools.islice(text, SAMPLE_ROWS))
    if lines and lines[0].strip('"').casefold().startswith("sep="):
        return []
    for separator in SEPARATORS:
        try:
            rows = [row for row in csv.reader(lines, delimiter=separator) if any(map(str.strip, row))]
        except csv.Error:
            continue
        counts = Counter(map(len, rows))
        width, rows_of_it = max(counts.items(), key=lambda item: (item[1], item[0]), default=(1, 0))
        if width > 1 and rows_of_it > len(rows) // 2:
            widths[separator] = width
    best = sorted(widths, key=lambda each: -widths[each])
    default = "\t" if source.kind == ".tsv" else ","
    if not best or best[0] == default:
        return []
    sure = "sure" if len(best) == 1 else "likely"
    return [(best[0], f"{sure}: it cuts the rows into {widths[best[0]]} cells each")]


def guess_sheet(source: ListFile) -> list[Guess]:
    """Sheets to choose from; none where there is one alone."""
    if source.kind not in WORKBOOKS:
        return []
    with workbook_of(source.path) as workbook:
        names = [each.title for each in visible_sheets(workbook)]
    return [(name, "several sheets have cells: keep one line") for name in names] if len(names) > 1 else []


def guess_header(source: ListFile) -> list[str]:
    """The header: of the first rows the first that has as many cells as the widest.

    Raises:
        CohortError: The list cannot be read.
    """
    if source.kind == ".parquet":
        return list(source.header())
    with source.rows() as rows:
        first = list(itertools.islice(rows, HEADER_ROWS))
    filled = [sum(1 for cell in row if cell.strip()) for row in first]
    if not any(filled):
        raise CohortError(f"{source.path}: no row has a cell. Expected a header and one row per image.")
    return first[filled.index(max(filled))]
