"""PadChest: one CSV of 160,861 rows, 16-bit PNGs in `<ImageDir>/<ImageID>`.

Source: Bustos et al., Medical Image Analysis 2020. Frontal are the projections PA, AP and AP_horizontal (110,633
rows). Labels are a Python list as text with stray spaces; they are parsed, trimmed and compared whole, so that
`atypical pneumonia` is not `pneumonia` by accident but because the definition says so.
"""

import ast
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from dpdt.cohort.hospitals.raw_cohort import (
    FileNames,
    Filter,
    RawCohort,
    Wanted,
    check_understood,
    is_among,
    named_labels,
    possible_age,
    sex_word,
    with_columns,
)
from dpdt.cohort.hospitals.raw_files import RawFiles
from dpdt.errors import CohortError, StudyError
from dpdt.study.domain_settings import DomainSettings
from dpdt.study.explain import did_you_mean
from dpdt.study.findings import padchest_tree

__all__ = ["FILES", "LISTS", "parse_labels", "read"]

FILES: Final[FileNames] = {
    "table": ("PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv",),
    "bad_files": ("padchest_known_bad_files.txt",),
    "images": (".", "images"),
}
LISTS: Final = ("table",)
COLUMNS: Final = {
    "image_id": ("ImageID",),
    "folder": ("ImageDir",),
    "study_date": ("StudyDate_DICOM",),
    "study_id": ("StudyID",),
    "patient_id": ("PatientID",),
    "birth": ("PatientBirth",),
    "sex": ("PatientSex_DICOM",),
    "view": ("Projection",),
    "labels": ("Labels",),
}
FRONTAL_VIEWS: Final = ("PA", "AP", "AP_horizontal")
UNKNOWN_VIEWS: Final = ("UNK", "")
BLANK_CELLS: Final = ("", "nan")
PLAIN: Final = re.compile(r"\['[^'\"\\]*'(?:, *'[^'\"\\]*')*\]")


def read(root: Path, settings: DomainSettings, wanted: Wanted) -> RawCohort:
    """Read the CSV; broken PNGs are found by decoding later, or left out now by the list `files.bad_files`.

    Raises:
        CohortError: The file or a column is missing, or Labels is not a list.
    """
    files = RawFiles(root, FILES, settings)
    table = files.table("table", COLUMNS, wanted.names)
    rows = Filter(table)
    unknown = rows.kept["view"].isin(UNKNOWN_VIEWS)
    if settings.unknown_views == "exclude":
        rows.drop(unknown, "view unknown")
    for view in sorted(set(rows.kept["view"]) - {*FRONTAL_VIEWS, *UNKNOWN_VIEWS}):
        rows.drop(rows.kept["view"] == view, f"view {view}")
    cells = rows.kept["labels"]
    parsed = _cached_labels(cells, files.path("table"))
    codes = pd.Series(pd.factorize(cells)[0], index=cells.index)  # parsed has the cells in this order

    def rows_with(rule: Callable[[frozenset[str]], bool]) -> "pd.Series[bool]":
        of_cell = np.fromiter(map(rule, parsed.values()), dtype=bool, count=len(parsed))
        return pd.Series(of_cell[codes[rows.kept.index]], index=rows.kept.index)

    rows.drop(rows_with(lambda names: not names), "no labels")
    if files.optional("bad_files") is not None:
        rows.drop(is_among(rows.kept["image_id"], files.lines("bad_files")), "in the list of bad files")
    for word in ("exclude", "suboptimal study"):
        rows.drop(rows_with(lambda names, word=word: word in names), f"label {word}")  # type: ignore[misc]
    kept = rows.kept
    frame = pd.DataFrame(
        {
            "image_id": kept["image_id"],
            "path": _paths(files, kept),
            "patient_id": kept["patient_id"],
            "study_id": kept["study_id"],
            "view": kept["view"].where(kept["view"].isin(FRONTAL_VIEWS), "unknown"),
            "sex": sex_word(kept["sex"], column=f"{files.path('table')}: PatientSex_DICOM"),
            "age_years": _age(kept["study_date"], kept["birth"], files.path("table")),
            "split": pd.Series(None, index=kept.index, dtype="str"),
        }
    )
    sublabels = {label: sorted(one.name for one in found) for label, found in wanted.labels.items() if found}
    if settings.sublabels:
        known = frozenset().union(*(parsed[cell] for cell in kept["labels"].unique()))
        _check_sublabels(settings, known, files.path("table"))
    frame = frame.join(named_labels(kept["labels"], parsed, wanted.labels))
    sexes = table["sex"].where(table["sex"] != "nan").groupby(table["patient_id"]).nunique()
    counts = {"patients with two sexes in the table": int((sexes > 1).sum())}
    frame = with_columns(frame, kept, files.path("table"), settings, wanted)
    return RawCohort(frame, rows.exclusions, files.read, counts, {"sublabels": sublabels})


def _check_sublabels(settings: DomainSettings, known: frozenset[str], path: Path) -> None:
    """A name in `sublabels` that is in no row, and not in the published tree, is a mistake."""
    for label, names in settings.sublabels.items():
        for name in sorted({name.strip() for name in names} - known - {*padchest_tree()}):
            hint = did_you_mean(name, known, diagnoses=True)
            raise StudyError(f"sublabels.{label}: {name!r} is a label of no frontal row of {path.name}.{hint}")


def parse_labels(text: str) -> frozenset[str]:
    """The set of labels in one cell; a blank cell and an empty list both say nothing.

    >>> parse_labels("[]") == parse_labels("nan") == parse_labels("['']") == frozenset()
    True
    >>> sorted(parse_labels("['pneumonia', ' pleural effusion ', '']"))
    ['pleural effusion', 'pneumonia']
    """
    if PLAIN.fullmatch(text):  # nearly all cells; Python's own parser takes ten times as long
        return frozenset(sys.intern(part.strip()) for part in text.split("'")[1::2]) - {""}
    value = [] if text in BLANK_CELLS else ast.literal_eval(text)
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError("not a list of texts")
    return frozenset(name.strip() for name in value) - {""}


def _cached_labels(cells: "pd.Series[str]", path: Path) -> dict[str, frozenset[str]]:
    """Parsed labels of each distinct cell."""
    parsed = {}
    for text in cells.unique().tolist():
        try:
            parsed[text] = parse_labels(text)
        except (ValueError, SyntaxError) as err:
            row = int(cells.index[cells == text][0])
            raise CohortError(f"{path}: row {row + 1}: Labels: expected a list of texts, got {text[:60]!r}.") from err
    return parsed


def _paths(files: RawFiles, kept: pd.DataFrame) -> "pd.Series[str]":
    """Path of each image as published: below the folder of its archive, without one where the list names none."""
    base = files.names("images")[0]
    folders = {name: Path(base, name).as_posix() for name in kept["folder"].unique()}
    prefixes = {name: "" if folder == "." else f"{folder}/" for name, folder in folders.items()}
    return kept["folder"].map(prefixes) + kept["image_id"]


def _age(study_date: "pd.Series[str]", birth: "pd.Series[str]", path: Path) -> "pd.Series[float]":
    """Year of the study minus year of birth: the only birth date that is published."""
    years = pd.to_numeric(study_date.str[:4], errors="coerce") - pd.to_numeric(birth, errors="coerce")
    age = possible_age(years)
    check_understood(birth, age.notna(), f"{path}: PatientBirth", "a year up to 100 before that of StudyDate_DICOM")
    return age
