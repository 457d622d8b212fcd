"""NIH ChestX-ray14: `Data_Entry_2017_v2020.csv`, the official lists, PNGs in `images/` or elsewhere.

Source: Wang et al., CVPR 2017, and the files of the NIH Clinical Center. 112,120 rows, all frontal; the official lists
split them 86,524 + 25,596 without a common patient.
"""

from pathlib import Path
from typing import Final

import pandas as pd

from dpdt.cohort.checks import is_no_id
from dpdt.cohort.hospitals.raw_cohort import (
    FileNames,
    Filter,
    RawCohort,
    Wanted,
    age_from_text,
    is_among,
    mapped,
    named_labels,
    sex_word,
    with_columns,
)
from dpdt.cohort.hospitals.raw_files import RawFiles
from dpdt.errors import CohortError
from dpdt.study.domain_settings import DomainSettings

__all__ = ["FILES", "LISTS", "read"]

FILES: Final[FileNames] = {
    "table": ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv", "sample_labels.csv"),
    "train_list": ("train_val_list.txt",),
    "test_list": ("test_list.txt",),
    "images": ("images",),
}
LISTS: Final = ("table", "train_list", "test_list")
COLUMNS: Final = {
    "image_id": ("Image Index",),
    "findings": ("Finding Labels",),
    "patient_id": ("Patient ID",),
    "age": ("Patient Age",),
    "sex": ("Patient Gender", "Patient Sex"),
    "view": ("View Position",),
}
ID_DIGITS: Final = 8
"""Patients are numbers in the table and eight digits in file names; the latter is used."""

SAMPLE_FRACTION: Final = 0.5
"""A table with at most this part of the listed images is taken for a sample of the data set."""


def read(root: Path, settings: DomainSettings, wanted: Wanted) -> RawCohort:
    """Read the table and the two lists; rows in neither list are excluded. Without an official split no list is read.

    Raises:
        CohortError: A file or column is missing, an image is in both lists, or a listed one is not in the table.
    """
    files = RawFiles(root, FILES, settings)
    table = files.table("table", COLUMNS, wanted.names)
    rows, lost = Filter(table.assign(split=None)), 0
    if settings.split == "official":
        train, test = _lists(files)
        lost = _listed_without_row(files, table["image_id"], train | test)
        rows.kept["split"] = is_among(table["image_id"], test).map({True: "test", False: "train"})
        rows.drop(~is_among(table["image_id"], train | test), "in neither official list")
    if settings.unknown_views == "exclude":
        rows.drop(~rows.kept["view"].isin(["PA", "AP"]), "view unknown")
    rows.drop(rows.kept["findings"] == "", "no labels")
    kept = rows.kept
    frame = pd.DataFrame(
        {
            "image_id": kept["image_id"],
            "path": f"{files.names('images')[0]}/" + kept["image_id"],
            "patient_id": mapped(kept["patient_id"], {cell: _padded(cell) for cell in kept["patient_id"].unique()}),
            "study_id": kept["image_id"].str.removesuffix(".png"),
            "view": kept["view"].where(kept["view"].isin(["PA", "AP"]), "unknown"),
            "sex": sex_word(kept["sex"], column=f"{files.path('table')}: sex"),
            "age_years": age_from_text(kept["age"], column=f"{files.path('table')}: age"),
            "split": kept["split"].astype("str"),
        }
    )
    named = {cell: frozenset(map(str.strip, cell.split("|"))) for cell in kept["findings"].unique()}
    frame = frame.join(named_labels(kept["findings"], named, wanted.labels))
    counts = {"listed images that a table of a sample does not have": lost}
    frame = with_columns(frame, kept, files.path("table"), settings, wanted)
    return RawCohort(frame, rows.exclusions, files.read, counts, {"findings": "names compared whole"})


def _padded(patient: str) -> str:
    """A patient's number as file names have it; what is no id stays as it is, so that the checks see it.

    >>> _padded("13"), _padded("nan"), _padded("1E+05"), _padded("")
    ('00000013', 'nan', '1E+05', '')
    """
    return patient if is_no_id(patient) else patient.lstrip("0").zfill(ID_DIGITS)


def _lists(files: RawFiles) -> tuple[set[str], set[str]]:
    """Names of the official train_val and test list."""
    if files.optional("train_list") is None and files.path("table").name.startswith("sample_labels"):
        raise CohortError(
            f"{files.path('table')}: the table of a sample, without official lists. Put train_val_list.txt and "
            'test_list.txt beside it, or split its patients by hash: split = "patients" in the domain.'
        )
    train, test = set(files.lines("train_list")), set(files.lines("test_list"))
    if train & test:
        raise CohortError(f"{files.root}: {len(train & test)} images are in both the train_val and the test list.")
    return train, test


def _listed_without_row(files: RawFiles, image_ids: "pd.Series[str]", listed: set[str]) -> int:
    """How many listed images the table lacks: any is an error, unless the table has so few that it is a sample."""
    lost = sorted(listed.difference(image_ids))
    if lost and len(listed) - len(lost) > SAMPLE_FRACTION * len(listed):
        raise CohortError(
            f"{files.path('table')}: {len(lost)} of {len(listed)} listed images have no row, first "
            f"{', '.join(lost[:3])}. Are table and lists of one release?"
        )
    return len(lost)
