"""MIMIC-CXR-JPG: three gzipped CSVs beside `files/`, and MIMIC-IV's patients table for sex and age where given.

Source: Johnson et al., PhysioNet 2.0.0/2.1.0. 377,110 images of 227,835 studies; 8 studies have no label row.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import pandas as pd

from dpdt.cohort.hospitals.raw_cohort import (
    MAX_AGE_YEARS,
    FileNames,
    Filter,
    RawCohort,
    Wanted,
    check_understood,
    is_among,
    possible_age,
    sex_word,
    with_columns,
)
from dpdt.cohort.hospitals.raw_files import RawFiles
from dpdt.cohort.hospitals.uncertain_labels import apply_policy, check_values, columns_for, policies
from dpdt.errors import CohortError
from dpdt.study.domain_settings import DomainSettings

__all__ = ["FILES", "LISTS", "read"]

FILES: Final[FileNames] = {
    "metadata": ("mimic-cxr-2.0.0-metadata.csv.gz",),
    "split": ("mimic-cxr-2.0.0-split.csv.gz",),
    "labels": ("mimic-cxr-2.0.0-chexpert.csv.gz",),
    "patients": ("patients.csv.gz", "hosp/patients.csv.gz"),
    "admissions": ("admissions.csv.gz", "hosp/admissions.csv.gz"),
    "images": ("files",),
}
LISTS: Final = ("metadata", "split", "labels")
KEYS: Final = {"subject_id": ("subject_id",), "study_id": ("study_id",)}
SPLITS: Final = {"train": "train", "validate": "val", "test": "test"}
STUDIES_WITHOUT_LABELS: Final = 8
"""As published; more means that the files do not belong together."""

TOP_CODED_AGE: Final = 91.0
"""MIMIC-IV gives every patient above 89 this age; it says "old" and cannot be counted on from."""


def read(root: Path, settings: DomainSettings, wanted: Wanted) -> RawCohort:
    """Read and join the tables; every join must match.

    Raises:
        CohortError: A file or column is missing, a key occurs twice, or a join leaves keys over.
    """
    files = RawFiles(root, FILES, settings)
    table = files.table(
        "metadata",
        {"image_id": ("dicom_id",), **KEYS, "view": ("ViewPosition",)},
        {"study_date": ("StudyDate",), **wanted.names},
    )
    table = table.assign(split=_splits(files, table["image_id"]))
    rows = Filter(table)
    unknown = rows.kept["view"] == ""
    if settings.unknown_views == "exclude":
        rows.drop(unknown, "view unknown")
    for view in sorted(set(rows.kept["view"]) - {"PA", "AP", ""}):
        rows.drop(rows.kept["view"] == view, f"view {view}")
    _join_labels(files, rows, table["study_id"], columns_for(wanted))
    counts = apply_policy(rows, settings, wanted)
    kept = rows.kept
    subject = kept["subject_id"]
    folder = files.names("images")[0]
    study = "p" + subject.str[:2] + "/p" + subject + "/s" + kept["study_id"]
    sex, age, people = _people(files, kept)
    frame = pd.DataFrame(
        {
            "image_id": kept["image_id"],
            "path": f"{folder}/" + study + "/" + kept["image_id"] + ".jpg",
            "patient_id": subject,
            "study_id": kept["study_id"],
            "view": kept["view"].replace("", "unknown"),
            "sex": sex,
            "age_years": age,
            "split": kept["split"],
            **{label: kept[label] for label in wanted.labels if label in kept},
        }
    )
    kept = kept.assign(**_of_admissions(files, subject, {k: v for k, v in wanted.names.items() if k not in kept}))
    frame = with_columns(frame, kept, files.path("metadata"), settings, wanted)
    return RawCohort(frame, rows.exclusions, files.read, {**counts, **people}, policies(settings))


def _unique(values: "pd.Series[str]", path: Path, what: str) -> None:
    twice = values[values.duplicated()]
    if len(twice):
        raise CohortError(f"{path}: {len(twice)} rows repeat a {what}, first row {int(twice.index[0]) + 1}.")


def _matching(values: "pd.Series[str]", known: "pd.Series[str]", path: Path, other: Path, what: str) -> None:
    """Every value must be known."""
    left = values[~is_among(values, known)]
    if len(left):
        first = ", ".join(left.iloc[:3])
        raise CohortError(
            f"{path}: {len(left)} of {len(values)} {what} are not in {other.name}, first {first}. "
            "Are the files of one release?"
        )


def _splits(files: RawFiles, image_ids: "pd.Series[str]") -> "pd.Series[str]":
    """Official split of each image."""
    split = files.table("split", {"image_id": ("dicom_id",), "split": ("split",)})
    path, metadata = files.path("split"), files.path("metadata")
    _unique(image_ids, metadata, "dicom_id")
    _unique(split["image_id"], path, "dicom_id")
    _matching(image_ids, split["image_id"], metadata, path, "dicom_ids")
    _matching(split["image_id"], image_ids, path, metadata, "dicom_ids")
    strange = set(split["split"]) - set(SPLITS)
    if strange:
        raise CohortError(f"{path}: split: expected {', '.join(SPLITS)}, got {min(strange)!r}.")
    return image_ids.map(split.set_index("image_id")["split"]).map(SPLITS)


def _join_labels(files: RawFiles, rows: Filter, studies: "pd.Series[str]", columns: Sequence[str]) -> None:
    """Give each image its study's labels."""
    labels = files.table("labels", {**KEYS, **{name: (name,) for name in columns}})
    path, metadata = files.path("labels"), files.path("metadata")
    check_values(labels, columns, path)
    _unique(labels["study_id"], path, "study_id")
    _matching(labels["study_id"], studies, path, metadata, "study_ids")
    unlabelled = studies[~is_among(studies, labels["study_id"])].drop_duplicates()
    if len(unlabelled) > STUDIES_WITHOUT_LABELS:
        _matching(unlabelled, labels["study_id"], metadata, path, "study_ids")
    rows.drop(is_among(rows.kept["study_id"], unlabelled), "study without labels")
    by_study = labels.set_index("study_id")
    belongs = rows.kept["study_id"].map(by_study["subject_id"]) == rows.kept["subject_id"]
    if not belongs.all():
        first = rows.kept["study_id"][~belongs].iloc[0]
        raise CohortError(f"{path}: {int((~belongs).sum())} images have another subject_id, first study_id {first}.")
    rows.kept = rows.kept.assign(**{name: rows.kept["study_id"].map(by_study[name]) for name in columns})


def _of_admissions(
    files: RawFiles, subjects: "pd.Series[str]", columns: Mapping[str, tuple[str, ...]]
) -> "dict[str, pd.Series[str]]":
    """Columns of MIMIC-IV's admissions table, where there is one: of a subject's cells the most frequent, no blank."""
    if not columns or files.optional("admissions") is None:
        return {}
    table = files.table("admissions", {"subject_id": ("subject_id",)}, columns)
    found = {}
    for name in columns:
        if name in table:
            cells = table[table[name] != ""].groupby("subject_id")[name]
            found[name] = subjects.map(cells.agg(lambda of: str(of.value_counts(sort=False).idxmax()))).fillna("")
    return found


def _people(files: RawFiles, kept: pd.DataFrame) -> "tuple[pd.Series[str], pd.Series[float], dict[str, int]]":
    """Sex and age by the patients table; unknown without it.

    Age is `anchor_age` moved from `anchor_year` to the year of the study, where both years are given.
    """
    if files.optional("patients") is None:
        unknown = pd.Series("unknown", index=kept.index), pd.Series(float("nan"), index=kept.index)
        return *unknown, {"no patients table, sex and age unknown": len(kept)}
    patients = files.table(
        "patients",
        {"subject_id": ("subject_id",), "sex": ("gender",), "age": ("anchor_age",)},
        {"year": ("anchor_year",)},
    )
    _unique(patients["subject_id"], files.path("patients"), "subject_id")
    by_subject = patients.set_index("subject_id")
    sex = sex_word(kept["subject_id"].map(by_subject["sex"]).fillna(""), column=f"{files.path('patients')}: gender")
    anchors = kept["subject_id"].map(by_subject["age"]).fillna("")
    age = possible_age(pd.to_numeric(anchors, errors="coerce"))
    check_understood(anchors, age.notna(), f"{files.path('patients')}: anchor_age", "years from 0 to 100")
    passed = pd.Series(float("nan"), index=kept.index)
    if "year" in by_subject and "study_date" in kept:
        anchor = pd.to_numeric(kept["subject_id"].map(by_subject["year"]), errors="coerce")
        passed = (pd.to_numeric(kept["study_date"].str[:4], errors="coerce") - anchor).astype("float64")
    strangers = ~is_among(kept["subject_id"], by_subject.index)
    unmoved = age.notna() & passed.isna() & (age < TOP_CODED_AGE)
    counts = {
        "subject not in the patients table, sex and age unknown": int(strangers.sum()),
        "age is anchor_age, no year to move it by": int(unmoved.sum()),
        "age top-coded, taken as it is": int((age >= TOP_CODED_AGE).sum()),
    }
    moved = age + passed.fillna(0.0).where(age < TOP_CODED_AGE, 0.0)
    old = (moved >= MAX_AGE_YEARS) & (age < TOP_CODED_AGE)
    counts["age of 100 or more by the years that passed, top-coded"] = int(old.sum())
    return sex, possible_age(moved.mask(old, TOP_CODED_AGE)), counts
