"""UKA-CXR: a master list in which radiologists grade each finding, for most of them on each side.

The data set of University Hospital Aachen is private. Column names and grades are those that the group's published code
uses (`UKA_master_list.csv`); another hospital's list in this form is read as well:

- `image_id`; `path` (relative to the images folder) or `subset` (sub-folder) where images are not simply
  `<images>/<image_id>.<suffix>`;
- `subject_id` (or `patient_id`); `study_id` if there is one; `split` (train, valid or val, test) if there is one;
- `patient_sex` (F, M), `age` in years or `birth_date` and `examination_date`; `view` (PA or AP) if it is recorded;
- grades: `cardiomegaly`, `congestion` (may be missing), and `…_right` and `…_left` of
  `pleural_effusion`, `pneumonic_infiltrates`, `atelectasis`.

Grades are 0 or 1 (none), 2 (+), 3 (++), 4 (+++) and 5 (questionable). A finding is positive if it is graded 3 or 4 on
either side, or from another grade on where a label's definition says so; questionable never is. An image is healthy if
all its grades are none. A blank grade says nothing: where the other side does not already make the finding positive,
the label is unknown.
"""

from pathlib import Path
from typing import Final

import pandas as pd

from dpdt.cohort.hospitals.raw_cohort import (
    DAYS_PER_YEAR,
    FRONTAL,
    FileNames,
    Filter,
    RawCohort,
    Wanted,
    age_from_text,
    check_understood,
    possible_age,
    sex_word,
    with_columns,
)
from dpdt.cohort.hospitals.raw_files import RawFiles
from dpdt.errors import CohortError
from dpdt.study.domain_settings import DomainSettings
from dpdt.study.findings import NO_FINDING, UKA_GRADES, Definition

__all__ = ["FILES", "LISTS", "read"]

FILES: Final[FileNames] = {"table": ("UKA_master_list.csv",), "images": ("images", ".")}
LISTS: Final = ("table",)
OTHER_GRADES: Final = ("congestion",)
NONE: Final = (0, 1)
POSITIVE_FROM: Final = 3
QUESTIONABLE: Final = 5
ALL_GRADES: Final = (0, 1, 2, 3, 4, 5)
SPLITS: Final = {"train": "train", "valid": "val", "val": "val", "test": "test", "": None}
COLUMNS: Final = {
    "image_id": ("image_id",),
    "patient_id": ("subject_id", "patient_id"),
    "sex": ("patient_sex", "sex"),
    **{
        column: (column,)
        for finding, columns in UKA_GRADES.items()
        if finding not in OTHER_GRADES
        for column in columns
    },
}
OPTIONAL: Final = {
    "path": ("path",),
    "subset": ("subset",),
    "study_id": ("study_id",),
    "split": ("split",),
    "age": ("age", "age_years"),
    "birth_date": ("birth_date",),
    "examination_date": ("examination_date",),
    "view": ("view",),
    **{column: (column,) for column in OTHER_GRADES},
}


def read(root: Path, settings: DomainSettings, wanted: Wanted) -> RawCohort:
    """Read the master list.

    Raises:
        CohortError: The file or a column is missing, or a grade or split is not understood.
    """
    files = RawFiles(root, FILES, settings)
    table = files.table("table", COLUMNS, {**OPTIONAL, **wanted.names})
    where = files.path("table")
    view = table["view"].str.upper() if "view" in table else pd.Series(FRONTAL, index=table.index)
    table = table.assign(view=view.replace("", "unknown"))
    rows, paths = Filter(table), _paths(files, table)
    rows.drop(~table["view"].isin(["PA", "AP", FRONTAL, "unknown"]), "view not frontal")
    if settings.unknown_views == "exclude":
        rows.drop(rows.kept["view"] == "unknown", "view unknown")
    kept = rows.kept
    frame = pd.DataFrame(
        {
            "image_id": kept["image_id"],
            "path": paths[kept.index],
            "patient_id": kept["patient_id"],
            "study_id": kept["study_id"] if "study_id" in kept else kept["image_id"],
            "view": kept["view"],
            "sex": sex_word(kept["sex"], column=f"{where}: sex"),
            "age_years": _age(kept, where),
            "split": _split(kept, where),
        }
    )
    graded = [column for columns in UKA_GRADES.values() for column in columns if column in kept]
    grades = pd.DataFrame({column: _grade(kept[column], column, where) for column in graded})
    for label, definition in wanted.labels.items():
        if definition:
            frame[label] = _positive(grades, definition)
    rules = {"grades": "3 or 4 on either side is positive"}
    own = {
        label: f"{one.name} >= {one.at_least}"
        for label, definition in wanted.labels.items()
        for one in definition
        if one.at_least is not None
    }
    frame = with_columns(frame, kept, where, settings, wanted)
    rules |= {"cuts": "; ".join(f"{label}: {cut}" for label, cut in own.items())} if own else {}
    return RawCohort(frame, rows.exclusions, files.read, policies=rules, listed=paths)


def _grade(values: "pd.Series[str]", column: str, path: Path) -> "pd.Series[int]":
    numbers = pd.to_numeric(values, errors="coerce")
    strange = values[(values != "") & ~numbers.isin(ALL_GRADES)]
    if len(strange):
        row = int(strange.index[0]) + 1
        raise CohortError(
            f"{path}: row {row}: {column}: expected a grade from 0 to 5 or blank, got {strange.iloc[0]!r}."
        )
    return numbers.astype("Int8")


def _positive(grades: pd.DataFrame, definition: Definition) -> "pd.Series[int]":
    """1 if a side of a finding is graded from its cut on; else unknown if a side is blank; else 0."""
    positive = pd.Series(False, index=grades.index)
    blank = positive.copy()
    for finding in definition:
        if finding.name == NO_FINDING:
            none, unknown = grades.isin(NONE), grades.isna()
            positive |= none.all(axis=1)
            blank |= (none | unknown).all(axis=1) & unknown.any(axis=1)
            continue
        columns = [column for column in UKA_GRADES[finding.name] if column in grades]
        if not columns:
            blank |= True
            continue
        from_, sides = finding.at_least or POSITIVE_FROM, grades[columns]
        positive |= ((sides >= from_) & (sides < QUESTIONABLE)).fillna(False).any(axis=1)
        blank |= sides.isna().any(axis=1)
    return positive.astype("Int8").mask(~positive & blank)


def _split(kept: pd.DataFrame, path: Path) -> "pd.Series[str]":
    if "split" not in kept:
        return pd.Series(None, index=kept.index, dtype="str")
    strange = kept["split"][~kept["split"].isin(SPLITS)]
    if len(strange):
        raise CohortError(f"{path}: split: expected train, valid or test, got {strange.iloc[0]!r}.")
    return kept["split"].map(SPLITS).astype("str")


def _age(kept: pd.DataFrame, path: Path) -> "pd.Series[float]":
    age = pd.Series(float("nan"), index=kept.index)
    if "age" in kept:
        return age_from_text(kept["age"], column=f"{path}: age")
    if "birth_date" in kept and "examination_date" in kept:
        birth = pd.to_datetime(kept["birth_date"], errors="coerce", format="ISO8601", utc=True)
        examined = pd.to_datetime(kept["examination_date"], errors="coerce", format="ISO8601", utc=True)
        age = possible_age(((examined - birth).dt.days / DAYS_PER_YEAR).astype("float64"))
        check_understood(kept["birth_date"], age.notna(), f"{path}: birth_date", "dates such as 1950-01-31")
    return age


def _paths(files: RawFiles, table: pd.DataFrame) -> "pd.Series[str]":
    """Path of each image; a list without paths has no suffix either."""
    folder = next((name for name in files.names("images") if (files.root / name).is_dir()), files.names("images")[0])
    if "path" in table:
        return folder + "/" + table["path"]
    names = table["image_id"] + ".jpg"
    if "subset" in table:
        names = table["subset"].where(table["subset"] == "", table["subset"] + "/") + names
    return names if folder == "." else folder + "/" + names
