"""PadChest: one CSV of 160,861 rows, 16-bit PNGs in `<ImageDir>/<ImageID>`.

Source: Bustos et al., Medical Image Analysis 2020. Frontal are the projections PA, AP and AP_horizontal (110,633
rows). Labels are a Python list as text with stray spaces; they are parsed, trimmed and compared whole, so that
`atypical pneumonia` is not `pneumonia` by accident but because SUBLABELS says so.
"""

import ast
from pathlib import Path
from typing import Any, Final

import pandas as pd

from dpdt.cohort.hospitals.raw_cohort import (
    FileNames,
    Filter,
    RawCohort,
    check_understood,
    is_among,
    possible_age,
    sex_word,
    to_label,
)
from dpdt.cohort.hospitals.raw_files import RawFiles
from dpdt.errors import CohortError, StudyError
from dpdt.study.domain_settings import DomainSettings
from dpdt.study.explain import did_you_mean

__all__ = ["FILES", "LISTS", "SUBLABELS", "parse_labels", "read"]

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
SUBLABELS: Final = {
    "cardiomegaly": frozenset({"cardiomegaly"}),
    "pleural_effusion": frozenset({"pleural effusion", "loculated pleural effusion", "loculated fissural effusion"}),
    "pneumonia": frozenset({"pneumonia", "atypical pneumonia"}),
    "atelectasis": frozenset(
        {
            "atelectasis",
            "atelectasis basal",
            "laminar atelectasis",
            "lobar atelectasis",
            "round atelectasis",
            "segmental atelectasis",
            "total atelectasis",
        }
    ),
    "healthy": frozenset({"normal"}),
}
"""PadChest's labels below each of ours in its own tree; `sublabels` of the study file replaces a label's set.

With these, 5.6 % of the frontal rows have atelectasis, as in the paper's test set (1,240 of 22,045); with
`atelectasis` alone it would be 2.0 %."""


BLANK_CELLS: Final = ("", "nan")


def read(root: Path, settings: DomainSettings) -> RawCohort:
    """Read the CSV; broken PNGs are found by decoding later, or left out now by the list `files.bad_files`.

    Raises:
        CohortError: The file or a column is missing, or Labels is not a list.
    """
    files = RawFiles(root, FILES, settings)
    table = files.table("table", COLUMNS)
    rows = Filter(table)
    unknown = rows.kept["view"].isin(UNKNOWN_VIEWS)
    if settings.unknown_views == "exclude":
        rows.drop(unknown, "view unknown")
    for view in sorted(set(rows.kept["view"]) - {*FRONTAL_VIEWS, *UNKNOWN_VIEWS}):
        rows.drop(rows.kept["view"] == view, f"view {view}")
    cells = rows.kept["labels"]
    labels = cells.map(_cached_labels(cells, files.path("table")))
    rows.drop(labels.map(len) == 0, "no labels")
    if files.optional("bad_files") is not None:
        rows.drop(is_among(rows.kept["image_id"], files.lines("bad_files")), "in the list of bad files")
    for word in ("exclude", "suboptimal study"):
        rows.drop(labels[rows.kept.index].map(lambda names, word=word: word in names).astype(bool), f"label {word}")
    kept = rows.kept
    labels = labels[kept.index]
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
    sublabels = _sublabels(settings, labels, files.path("table"))
    for label, names in sublabels.items():
        frame[label] = to_label(labels.map(lambda found, names=names: not names.isdisjoint(found)).astype(bool))
    sexes = table["sex"].where(table["sex"] != "nan").groupby(table["patient_id"]).nunique()
    counts = {"patients with two sexes in the table": int((sexes > 1).sum())}
    return RawCohort(
        frame, rows.exclusions, files.read, counts, {"sublabels": {k: sorted(v) for k, v in sublabels.items()}}
    )


def _sublabels(settings: DomainSettings, labels: "pd.Series[Any]", path: Path) -> dict[str, frozenset[str]]:
    """Which of PadChest's labels make each of ours; one that is given, but in no row, is a mistake."""
    given = {label: frozenset(name.strip() for name in names) for label, names in settings.sublabels.items()}
    known = frozenset().union(*labels.unique())
    for label, names in given.items():
        for name in sorted(names - known - SUBLABELS[label]):
            hint = did_you_mean(name, known, diagnoses=True)
            raise StudyError(f"sublabels.{label}: {name!r} is a label of no frontal row of {path.name}.{hint}")
    return {**SUBLABELS, **given}


def parse_labels(text: str) -> frozenset[str]:
    """The set of labels in one cell; a blank cell and an empty list both say nothing.

    >>> parse_labels("[]") == parse_labels("nan") == parse_labels("['']") == frozenset()
    True
    >>> sorted(parse_labels("['pneumonia', ' pleural effusion ', '']"))
    ['pleural effusion', 'pneumonia']
    """
    value = [] if text in BLANK_CELLS else ast.literal_eval(text)
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError("not a list of texts")
    return frozenset(name.strip() for name in value) - {""}


def _cached_labels(cells: "pd.Series[str]", path: Path) -> dict[str, frozenset[str]]:
    """Parsed labels of each distinct cell."""
    parsed = {}
    for text in cells.unique():
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
