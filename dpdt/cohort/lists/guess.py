"""Which column of a list is what, guessed from its header and its cells; nothing here decides, people do."""

import itertools
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pandas as pd

from dpdt.base.vocabulary import as_name, check_labels
from dpdt.cohort.hospitals.file_search import files_by_stem, stem_of
from dpdt.cohort.hospitals.raw_cohort import age_from_text
from dpdt.cohort.lists.words import HEADERS, LABEL_WORDS, known_words, plain
from dpdt.study.domain_settings import grade_of

__all__ = [
    "FEW_WORDS",
    "Column",
    "date_formats",
    "find_columns",
    "findings_of",
    "image_base",
    "is_graded",
    "label_columns",
    "no_dates",
    "other_labels",
]

SAMPLE: Final = 2000
FEW_WORDS: Final = 20
"""A column of words has at most so many different cells."""
HIGHEST_GRADE: Final = 20
"""Larger numbers are ids, ages or years, which a study file does not show."""
NUMBERED: Final = re.compile(r"\d")
EXCEL_DAY: Final = re.compile(r"\d{5}(\.\d+)?")
ISO_DAY: Final = re.compile(r"(\d{4}-\d{2}-\d{2}|\d{8})([T ].*)?")
DATE_FORMATS: Final = (
    *("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d", "%Y.%m.%d"),
    *("%d.%m.%y", "%d/%m/%y", "%m/%d/%y", "%d-%b-%Y", "%d %b %Y"),
)


@dataclass(frozen=True)
class Column:
    """A guess.

    Attributes:
        name: Of the column.
        why: How sure it is, and what speaks for it.
    """

    name: str
    why: str


def find_columns(frame: pd.DataFrame, images: Path | None) -> dict[str, Column]:
    """Key of the study file -> its likely column.

    Args:
        frame: The list as trimmed text.
        images: Folder of the images, where it is known.
    """
    found: dict[str, Column] = {}
    if image := _image(frame, images):
        found["image"] = image
    taken = {image.name} if image else set()
    for key, words in HEADERS.items():
        named = [name for name in frame if plain(str(name)) in words]
        if key == "patient":  # in some lists an image is a patient
            named = [name for name in named if name not in taken] or named
        else:
            named = [name for name in named if name not in taken]
        fitting = [(name, why) for name in named if (why := _fits(key, frame[name]))]
        if key not in found and fitting:
            found[key] = Column(str(fitting[0][0]), fitting[0][1])
            taken.add(found[key].name)
    if "view" not in found and (view := _view(frame, taken)):
        found["view"] = view
    return found


def _view(frame: pd.DataFrame, taken: Iterable[str]) -> Column | None:
    """The column whose cells are mostly PA and AP in some spelling, whatever its name."""
    used = set(taken)
    for name in frame:
        cells = frame[name]
        if name in used or not 2 <= cells.nunique() <= FEW_WORDS:
            continue
        words = known_words("views", set(_written(cells)))[0]
        directed = [*words.get("PA", ()), *words.get("AP", ())]
        if 2 * int(cells.isin(directed).sum()) > len(cells):
            return Column(str(name), "likely: most of its cells are PA or AP")
    return None


def _image(frame: pd.DataFrame, images: Path | None) -> Column | None:
    """The column of which most cells are names of files below the folder."""
    if images is None:
        return None
    samples = {name: _written(frame[name]).drop_duplicates().iloc[:SAMPLE] for name in frame}
    stems = {name: cells.map(stem_of) for name, cells in samples.items()}
    wanted = set(itertools.chain.from_iterable(stems.values()))
    there = files_by_stem(images, [""], lambda: wanted)
    hits = {name: int(stems[name].isin(list(there)).sum()) for name in stems}
    best = max(hits, key=lambda name: hits[name], default=None)
    if best is None or not hits[best]:
        return None
    total = len(stems[best])
    sure = "sure" if hits[best] == total else "likely" if hits[best] > total // 2 else "perhaps"
    return Column(str(best), f"{sure}: {hits[best]} of {total} different cells are names of files below {images.name}")


def image_base(cells: "pd.Series[str]", images: Path, root: Path) -> Path:
    """The folder that the cells of the image column are relative to: where most of the first ones are files."""
    sample = [cell.replace("\\", "/") for cell in _written(cells).iloc[:50]]
    tried = [images, *(folder for folder in images.parents if folder == root or root in folder.parents)]
    counts = [sum((folder / cell).is_file() for cell in sample) for folder in tried]
    return tried[counts.index(max(counts))]


def _written(cells: "pd.Series[str]") -> "pd.Series[str]":
    return cells[cells != ""]


def _fits(key: str, cells: "pd.Series[str]") -> str:
    """Why a column with the right name is likely, or "" where its cells speak against it."""
    written = _written(cells)
    if written.empty:
        return ""
    if key == "age":
        share = float(age_from_text(written).notna().mean())
        return f"{_sure(share)}: its name, and {share:.0%} of its cells are ages" if share > 0.5 else ""
    if key in ("birth_date", "study_date"):
        share = float(written.str.contains(NUMBERED).mean())
        return f"{_sure(share)}: its name, and {share:.0%} of its cells have digits" if share > 0.1 else ""
    if key in ("sex", "view", "split"):
        table = f"{key}{'es' if key == 'sex' else 's'}"
        words, strange = known_words(table, written.unique())
        if key == "split" and not words:
            return ""
        return "likely: its name and its cells" if words and not strange else "perhaps: its name; look at its cells"
    if key == "patient":
        return f"likely: its name; {cells.nunique()} patients in {len(cells)} rows"
    return "likely: its name"


def _sure(share: float) -> str:
    return "likely" if share > 0.98 else "perhaps"


def label_columns(frame: pd.DataFrame, taken: Iterable[str]) -> dict[str, Column]:
    """Label -> the column of its own."""
    used = set(taken)
    found: dict[str, Column] = {}
    for label, words in LABEL_WORDS.items():
        for name in frame:
            if plain(str(name)) in words and name not in used and frame[name].nunique() <= FEW_WORDS:
                found.setdefault(label, Column(str(name), "likely: its name"))
    return found


def other_labels(frame: pd.DataFrame, taken: Iterable[str]) -> dict[str, Column]:
    """Columns that may be labels of other names than the paper's: of words for yes and no, or of grades.

    Returns:
        A name for the label -> the column.
    """
    used = set(taken)
    found: dict[str, Column] = {}
    for name in frame:
        cells = set(_written(frame[name]))
        if name in used or not 2 <= len(cells) <= FEW_WORDS:
            continue
        words, strange = known_words("words", cells)
        if is_graded(cells) or ({"yes", "no"} & set(words) and 2 * len(strange) <= len(cells)):
            label = as_name(str(name))
            try:
                check_labels([*found, label])
            except ValueError:
                label = f"label_{len(found) + 1}"
            found[label] = Column(str(name), f"perhaps: its cells are {'grades' if is_graded(cells) else 'yes and no'}")
    return found


def is_graded(cells: Iterable[str]) -> bool:
    """Whether a column's different cells are mostly numbers that are more than yes, no and uncertain."""
    listed = list(cells)
    grades = {grade for cell in listed if (grade := grade_of(cell)) is not None}
    return len(grades) > max(2, len(listed) // 2) and 1 < max(grades) <= HIGHEST_GRADE


def findings_of(cells: "pd.Series[str]") -> tuple[str, dict[str, list[str]]]:
    """The separator of a column of findings, and label -> the findings that seem to mean it."""
    best: tuple[int, str, dict[str, list[str]]] = (0, ";", {})
    counts = Counter(cells)
    for separator in (";", "|", ","):
        names = Counter[str]()
        for cell, rows in counts.items():
            for name in {part.strip() for part in cell.split(separator)} - {""}:
                names[name] += rows
        labels = {
            label: [name for name in names if plain(name) in words or plain(name) == label.replace("_", "")]
            for label, words in LABEL_WORDS.items()
        }
        hits = sum(names[name] for listed in labels.values() for name in listed)
        if hits > best[0]:
            best = (hits, separator, {label: listed for label, listed in labels.items() if listed})
    return best[1], best[2]


def date_formats(cells: "pd.Series[str]") -> list[str]:
    """The formats under which every cell with a digit is a day: [""] for ISO 8601, several or none if uncertain."""
    dates = pd.Series(cells.unique(), dtype="str")
    dates = dates[dates.str.contains(NUMBERED) & ~dates.isin(no_dates(cells))]
    if dates.empty or dates.str.fullmatch(ISO_DAY).all():
        return [""]
    if dates.str.fullmatch(EXCEL_DAY).all():
        return ["excel"]
    formats = [form for form in DATE_FORMATS if pd.to_datetime(dates, format=form, errors="coerce").notna().all()]
    return formats


def no_dates(cells: "pd.Series[str]") -> list[str]:
    """Words that stand for no date: without a digit, or of zeros alone."""
    return [cell for cell in cells.unique() if cell and not set(cell) & set("123456789")]
