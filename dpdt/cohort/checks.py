"""Checks of a cohort's rows: errors that stop the stage, and warnings about what is probably a mistake.

A patient is the unit of splits and of privacy. So a placeholder for a patient (`nan`, `NULL`, `-`), or a number that a
spreadsheet rounded (`1.23457E+12`), is an error: all its rows would count as one patient, with one patient's epsilon.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import pandas as pd

from dpdt.base.files import read_json
from dpdt.base.vocabulary import folded
from dpdt.errors import CohortError, PrivacyError
from dpdt.study import Study

__all__ = ["check_rows", "check_shared_patients", "check_training", "is_no_id", "warnings_of"]

PLACEHOLDERS: Final = frozenset(
    {"nan", "null", "nil", "none", "na", "n/a", "nat", "<na>", "undefined", "missing", "empty", "unknown"}
    | {"not known", "not available", "anonymous", "anonymised", "anonymized", "unbekannt", "anonym", "leer"}
    | {"k.a.", "fehlt", "(leer)", "inconnu", "anonyme", "desconocido", "an\u00f3nimo", "anonimo", "(blank)", "#div/0!"}
)
"""What programs and people write where there is no id; compared trimmed and without case."""
ROUNDED: Final = re.compile(r"\d([.,]\d+)?E\+\d+", re.IGNORECASE)
"""A long number as spreadsheets show and export it: its last digits are lost."""

EXACT_DIGITS: Final = 15
"""Spreadsheets keep so many of a number: the others become zeros."""
FEW: Final = 3
"""So many ids may end with zeros by chance."""

MANY_IMAGES: Final = 50
LARGE_PART: Final = 0.02
"""More images than both, or half of all, for one patient is a warning: ChestX-ray14's largest has 184 (0.16%)."""
LISTS_OF_ROWS: Final = ("table", "metadata", "train_labels", "test_labels")
"""Names of the files that readers take their rows from."""


def is_no_id(patient_id: str) -> bool:
    """Whether a cell names no patient: a placeholder, a rounded number, or nothing but punctuation.

    >>> [is_no_id(cell) for cell in (" NaN", "--", "1.23457E+12", "", "0012", "12E3", "Nana", "0")]
    [True, True, True, True, False, False, False, False]
    """
    text = folded(patient_id)
    is_error = text.startswith("#") and not any(map(str.isdigit, text))  # of a spreadsheet, in its language: #N/A, #NV
    return text in PLACEHOLDERS or is_error or not any(map(str.isalnum, text)) or ROUNDED.fullmatch(text) is not None


def check_rows(frame: pd.DataFrame, domain: str) -> None:
    """Check every row of a cohort.

    Args:
        frame: Columns RAW_COLUMNS; the index is the row's number in the raw table less 1.
        domain: Its name, for messages.

    Raises:
        CohortError: An image occurs twice, a required cell is empty, or a patient's id is a placeholder.
    """
    twice = frame["image_id"][frame["image_id"].duplicated()]
    if len(twice):
        row, other = (int(row) + 1 for row in frame.index[frame["image_id"] == twice.iloc[0]][:2])
        raise CohortError(
            f"{domain}: {len(twice)} rows repeat an image_id, first rows {row} and {other} of the raw table. "
            "Each image must occur once: remove the repeated rows from the list."
        )
    for column in ("image_id", "patient_id", "path"):
        empty = frame[column].isna() | (frame[column] == "")
        if empty.any():
            row = int(frame.index[empty][0]) + 1
            raise CohortError(f"{domain}: {column} is empty in {int(empty.sum())} rows, first row {row}.")
    patients = frame["patient_id"].unique()
    rounded = _rounded(patients)
    no_ids = sorted({*rounded, *filter(is_no_id, patients)})
    if no_ids:
        rows = frame["patient_id"].isin(no_ids)
        shown = ", ".join(map(repr, no_ids[:3])) + (", …" if len(no_ids) > 3 else "")
        why = "a number that a spreadsheet rounded" if rounded == {*no_ids} else "which is no id"
        raise CohortError(
            f"{domain}: the patient of {int(rows.sum())} rows is {shown} (first in row {int(frame.index[rows][0]) + 1} "
            f"of the raw table), {why}: these "
            "rows would be one patient, in one split and with one patient's epsilon. Export the ids as text, or take "
            "the rows out of the list."
        )


def _rounded(patients: Iterable[str]) -> set[str]:
    """The ids that a spreadsheet rounded: as it shows them, or as numbers of which none has more than 15 digits."""
    shown = {patient for patient in patients if ROUNDED.fullmatch(patient.strip())}
    long = {patient for patient in patients if patient.isdecimal() and len(patient) > EXACT_DIGITS}
    some = len(long) > FEW and all(set(patient[EXACT_DIGITS:]) == {"0"} for patient in long)
    return shown | long if some else shown


def check_training(frame: pd.DataFrame, exclusions: pd.DataFrame, domain: str) -> None:
    """Check that there is something to train on.

    Raises:
        CohortError: No image is in the train split; the message says where they went.
    """
    if (frame["split"] == "train").any():
        return
    if len(frame):
        splits = ", ".join(f"{split} {images}" for split, images in frame["split"].value_counts().items())
        raise CohortError(
            f"{domain}: no image is left for training: the {len(frame)} images of {frame['patient_id'].nunique()} "
            f"patients are in {splits}. Splits are by patient: more patients are needed, or a split column."
        )
    reasons = ", ".join(f"{why} {rows}" for why, rows in exclusions["reason"].value_counts().items())
    raise CohortError(
        f"{domain}: no image is left for training: all {len(exclusions)} rows were left out ({reasons}). Do the study "
        "file's words for views and labels fit the cells of the list?"
    )


def warnings_of(study: Study, domain: str, table: pd.DataFrame, *, missing: int) -> Iterator[str]:
    """Warnings: what does not stop the stage, but is most often a mistake.

    Args:
        study: The study.
        domain: Its domain.
        table: The cohort table.
        missing: How many images the reader did not find.
    """
    if missing:
        root = study.root(domain)
        first = next((path for path in table["path"] if not (root / path).is_file()), None)
        where = f", the first: {root / first}" if first is not None else ""
        yield (
            f"{domain}: {missing} listed images are not there{where}. The shards stage will reject them; "
            'missing_images = "exclude" in the domain leaves them out.'
        )
    images = table["patient_id"].value_counts()
    if images.iloc[0] > max(LARGE_PART * len(table), min(MANY_IMAGES, len(table) // 2)):
        yield (
            f"{domain}: one patient has {images.iloc[0]} of {len(table)} images. Is this id a placeholder for many "
            "people? They would share one patient's split and epsilon."
        )
    if domain in study.test_domains and not (table["split"] == "test").any():
        yield (
            f"{domain}: no image in test ({table['patient_id'].nunique()} patients), so no model can be tested there. "
            "Add patients, raise test_fraction, or change study.seed."
        )


def check_shared_patients(study: Study, domain: str) -> Iterator[str]:
    """Find other domains of the study with the same patients, read from the same list under whatever name.

    Args:
        study: The study; the other domains' cohorts are read where they are there.
        domain: A domain with a cohort.

    Yields:
        A warning for each such domain.

    Raises:
        PrivacyError: One of the two is public: pretraining has no DP, and these patients are trained on with DP.
    """
    mine, others = _lists(study.paths.cohort_record(domain)), (name for name in study.domains if name != domain)
    for other in others:
        record = study.paths.cohort_record(other)
        if not record.is_file() or not mine & _lists(record):
            continue
        shared = len(_patients(study.paths.cohort_table(domain)) & _patients(study.paths.cohort_table(other)))
        if shared and study.role(domain) != study.role(other):
            raise PrivacyError(
                f"domains {domain} and {other} read the same list and share {shared} patients, and one of them is "
                "public: these patients are pretrained on without DP, so no epsilon would hold for them. Correct "
                "`root` or the list of one."
            )
        if shared:
            yield (
                f"{domain} and {other} read the same list and share {shared} patients: a test of one's model at the "
                "other is in part a test on its own training data. Correct `root` or the list of one."
            )


def _lists(record: Path) -> set[str]:
    """Hashes of the lists that a cohort's rows came from."""
    inputs = read_json(record)["inputs"]
    return {entry["content_sha256"] for entry in inputs if entry["name"] in LISTS_OF_ROWS}


def _patients(table: Path) -> set[str]:
    return set(pd.read_parquet(table, columns=["patient_id"])["patient_id"])
