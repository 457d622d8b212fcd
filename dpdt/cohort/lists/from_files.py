"""`dpdt list`: a list made from files, where a hospital has none: from DICOM headers, or from the files' names.

Headers are read up to the pixels, by several processes. The list has ids of patients, so it is written for its owner
alone (0600) and goes nowhere else. An age is written, never a date of birth.
"""

import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, Final

from dpdt.base.console import progress
from dpdt.base.private_csv import no_formula, private_csv
from dpdt.cohort.hospitals.file_search import NOT_UTF8, PICTURES, is_utf8, split_suffix
from dpdt.cohort.hospitals.raw_cohort import DAYS_PER_YEAR
from dpdt.errors import CohortError

__all__ = ["COLUMNS", "FileCounts", "list_files"]

ELEMENTS: Final = {
    "patient": ("PatientID",),
    "study": ("StudyInstanceUID",),
    "accession": ("AccessionNumber",),
    "sop_instance_uid": ("SOPInstanceUID",),
    "study_date": ("StudyDate", "AcquisitionDate", "ContentDate"),
    "sex": ("PatientSex",),
    "age": ("PatientAge",),
    "view": ("ViewPosition",),
    "modality": ("Modality",),
    "body_part": ("BodyPartExamined",),
    "maker": ("Manufacturer",),
    "model": ("ManufacturerModelName",),
    "burned_in": ("BurnedInAnnotation",),
    "presentation": ("PresentationIntentType",),
}
"""Column -> the elements that it is read from, the first that says something."""
COLUMNS: Final = ("path", *ELEMENTS)
OTHERS: Final = ("SOPClassUID", "Rows", "PatientBirthDate", "ViewCodeSequence", "SpecificCharacterSet")

PREAMBLE: Final = 128
DICOM_SUFFIXES: Final = frozenset({"dcm", "dicom", "dic"})
FIRST_GROUPS: Final = (b"\2\0", b"\x08\0")
"""Of a file without a preamble, as old devices write it."""
CHUNK: Final = 64
NO_PICTURE: Final = "no picture"
DIRECTORY: Final = "1.2.840.10008.1.3.10"
"""SOP class of a DICOMDIR."""

Row = dict[str, str]
Read = tuple[str, Row | None, str]
"""Path, its row or None, and why there is none: "" for a file that is no DICOM."""


@dataclass
class FileCounts:
    """What `list_files` found.

    Attributes:
        listed: Rows of the list.
        passed_over: Files that are no DICOM, or whose name does not fit.
        no_picture: DICOM files without an image: reports, directories.
        unreadable: Files that could not be read, and why; they are in a second file.
        cells: Column -> how often each of its cells is there, for a few columns.
    """

    listed: int = 0
    passed_over: int = 0
    no_picture: int = 0
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    cells: dict[str, Counter[str]] = field(default_factory=dict)


def list_files(folder: Path, output: Path, *, pattern: str | None = None, processes: int | None = None) -> FileCounts:
    """Write a list of the images below a folder, and of what could not be read.

    Args:
        folder: Where the images are; folders in it too, hidden ones aside.
        output: The list, a CSV. What could not be read is in `<output>.unreadable.csv`.
        pattern: Instead of headers: a regular expression for the images' paths below `folder`; its named groups are the
            columns.
        processes: How many read; default: one a core.

    Raises:
        CohortError: The folder is not there, the pattern is none, or not one image was found.
    """
    if not folder.is_dir():
        raise CohortError(f"{folder}: no such folder. Expected the folder of the images.")
    counts = FileCounts()
    paths = sorted(_files(folder, counts.unreadable))
    if pattern is None:
        columns, read = COLUMNS, partial(_header, folder)
    else:
        named = _compiled(pattern)
        columns, read = ("path", *named.groupindex), partial(_named, named)
    unreadable = output.with_name(f"{output.name}.unreadable.csv")
    with private_csv(output, columns) as write:
        with progress("headers" if pattern is None else "names", len(paths), unit="files") as advance:
            for path, row, reason in _each(read, paths, 1 if pattern else processes):
                advance()
                _count(counts, path, row, reason)
                if row is not None:
                    write([no_formula(row.get(name, ""), is_path=name == "path") for name in columns])
        if not counts.listed:
            raise CohortError(_nothing(folder, counts, pattern))
    unreadable.unlink(missing_ok=True)
    if counts.unreadable:
        with private_csv(unreadable, ("path", "reason")) as write:
            for path, reason in counts.unreadable:
                write([no_formula(path, is_path=True), no_formula(reason)])
    return counts


def _count(counts: FileCounts, path: str, row: Row | None, reason: str) -> None:
    if row is not None:
        counts.listed += 1
        for name in ("modality", "burned_in", "presentation", "patient"):
            cell = row.get(name, "")
            known = cell if name != "patient" else "there" if cell else ""
            counts.cells.setdefault(name, Counter())[known] += 1
    elif reason == NO_PICTURE:
        counts.no_picture += 1
    elif reason:
        counts.unreadable.append((path, reason))
    else:
        counts.passed_over += 1


def _nothing(folder: Path, counts: FileCounts, pattern: str | None) -> str:
    what = "DICOM image" if pattern is None else "image whose path fits the pattern"
    return (
        f"{folder}: no {what} in {counts.passed_over + counts.no_picture + len(counts.unreadable)} files "
        f"({counts.passed_over} are none, {counts.no_picture} have no picture, {len(counts.unreadable)} could not be "
        f"read{f', the first: {counts.unreadable[0]}' if counts.unreadable else ''})."
    )


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        named = re.compile(pattern)
    except re.error as err:
        raise CohortError(f"--pattern: {pattern!r} is no regular expression ({err}).") from err
    if not named.groupindex or "path" in named.groupindex:
        raise CohortError(f"--pattern: {pattern!r}: expected named groups for columns, such as (?P<patient>[0-9]+).")
    return named


def _files(folder: Path, unreadable: list[tuple[str, str]]) -> Iterator[str]:
    """Every file below a folder, relative to it; links to folders are not followed."""

    def closed(err: OSError) -> None:
        unreadable.append((os.path.relpath(err.filename or folder, folder), err.strerror or "unreadable"))

    for parent, folders, files in os.walk(folder, onerror=closed):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = os.path.relpath(parent, folder)
        for path in (name if below == "." else f"{below}/{name}" for name in files if not name.startswith(".")):
            if is_utf8(path):
                yield path
            else:
                unreadable.append((path.encode(errors="backslashreplace").decode(), NOT_UTF8))


def _each(read: Callable[[str], Read], paths: list[str], processes: int | None) -> Iterator[Read]:
    processes = processes or len(os.sched_getaffinity(0))
    if processes == 1 or len(paths) <= CHUNK:
        yield from map(read, paths)
        return
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(read, paths, chunksize=CHUNK)


def _named(pattern: re.Pattern[str], path: str) -> Read:
    found = pattern.search(path) if split_suffix(path.rpartition("/")[2])[1].lower() in PICTURES else None
    return path, None if found is None else {"path": path, **{k: v or "" for k, v in found.groupdict().items()}}, ""


def _header(folder: Path, path: str) -> Read:
    """One file: its row, or why it has none."""
    import pydicom

    suffix = split_suffix(path.rpartition("/")[2])[1].lower()
    try:
        with (folder / path).open("rb") as stream:
            start = stream.read(PREAMBLE + 4)
            bare = start[PREAMBLE:] != b"DICM"
            if bare and not (suffix in ("", "ima", *DICOM_SUFFIXES) and start.startswith(FIRST_GROUPS)):
                return path, None, "not DICOM, though its name says so" if suffix in DICOM_SUFFIXES else ""
            stream.seek(0)
            with warnings.catch_warnings():  # about values that are not as the standard has them
                warnings.simplefilter("ignore")
                tags: list[Any] = [*(name for names in ELEMENTS.values() for name in names), *OTHERS]
                dataset = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=tags, force=bare)
                if "Rows" not in dataset:
                    return path, None, _without_picture(dataset, bare=bare)
                return path, {"path": path, **_row(dataset)}, ""
    except Exception as err:  # noqa: BLE001 - of a damaged header pydicom raises anything; one file is not the list
        return path, None, f"{type(err).__name__}: {err}".replace(str(folder), "")[:200]


def _without_picture(dataset: Any, *, bare: bool) -> str:
    """Why a file has no picture's size: it is a report or a directory, it is cut off, or it is no DICOM at all."""
    kind = dataset.get("SOPClassUID", None) or getattr(dataset, "file_meta", {}).get("MediaStorageSOPClassUID", None)
    if "SOPClassUID" in dataset or str(kind) == DIRECTORY:
        return NO_PICTURE
    return "" if bare else "its header ends before the picture's size"


def _row(dataset: Any) -> Row:
    row = {
        column: next(filter(None, (_text(dataset, name) for name in names)), "") for column, names in ELEMENTS.items()
    }
    row["age"] = row["age"] or _age(_text(dataset, "PatientBirthDate"), row["study_date"])
    if day := _day(row["study_date"]):
        row["study_date"] = day.isoformat()
    if not row["view"] and dataset.get("ViewCodeSequence"):
        row["view"] = _text(dataset.ViewCodeSequence[0], "CodeMeaning")
    return row


def _text(dataset: Any, name: str) -> str:
    value = dataset.get(name, None)
    text = "" if value is None else str(value)
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())


def _day(text: str) -> date | None:
    with suppress(ValueError):
        return date.fromisoformat(f"{text[:4]}-{text[4:6]}-{text[6:8]}" if len(text) == 8 else text)
    return None


def _age(born: str, examined: str) -> str:
    """Years between two days, in the one place where a date of birth is looked at."""
    first, last = _day(born), _day(examined)
    return f"{(last - first).days / DAYS_PER_YEAR:.1f}" if first and last and last >= first else ""
