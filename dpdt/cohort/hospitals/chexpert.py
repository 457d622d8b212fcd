"""CheXpert: `train.csv` of the full or the "small" release, frontal images, the labeller's 1, 0, -1 and blank.

Source: Irvin et al., AAAI 2019. 223,414 rows, 191,027 frontal, 64,540 patients. The published validation set has 200
patients; for a test set of a usable size patients are split by a stable hash, as nothing official exists.
"""

from pathlib import Path
from typing import Final

import pandas as pd

from dpdt.cohort.hospitals.raw_cohort import (
    FRONTAL,
    FileNames,
    Filter,
    RawCohort,
    Wanted,
    age_from_text,
    sex_word,
    with_columns,
)
from dpdt.cohort.hospitals.raw_files import RawFiles
from dpdt.cohort.hospitals.uncertain_labels import apply_policy, check_values, columns_for, policies
from dpdt.errors import CohortError
from dpdt.study.domain_settings import DomainSettings

__all__ = ["FILES", "LISTS", "read"]

RELEASES: Final = ("CheXpert-v1.0-small", "CheXpert-v1.0")
BATCH_OF_TABLES: Final = "CheXpert-v1.0 batch 1 (validate & csv)"
FILES: Final[FileNames] = {
    "table": ("train.csv", *(f"{release}/train.csv" for release in (*RELEASES, BATCH_OF_TABLES))),
    "images": (".", *RELEASES),
}
LISTS: Final = ("table",)
COLUMNS: Final = {
    "path": ("Path",),
    "sex": ("Sex",),
    "age": ("Age",),
    "side": ("Frontal/Lateral",),
    "projection": ("AP/PA",),
}

MIN_AGE_YEARS: Final = 18.0
"""The collection is of adults: its three ages of 0 are missing ones."""


def read(root: Path, settings: DomainSettings, wanted: Wanted) -> RawCohort:
    """Read `train.csv`; `root` is the release's folder or the one that holds it.

    Raises:
        CohortError: A file or column is missing, or a path is not `…/train/patientX/studyY/file.jpg`.
    """
    files = RawFiles(root, FILES, settings)
    findings = {name: (name,) for name in columns_for(wanted)}
    table = files.table("table", {**COLUMNS, **findings}, wanted.names)
    check_values(table, [*findings], files.path("table"))
    parts = table["path"].str.extract(r"^(?:.*/)?(train/(patient\w+)/(study\w+)/([^/]+))$")
    if parts[0].isna().any():
        row = int(parts.index[parts[0].isna()][0])
        raise CohortError(f"{files.path('table')}: row {row + 1}: Path is not `…/train/patientX/studyY/file.jpg`.")
    table = table.assign(
        path=_prefix(files, table["path"]) + parts[0],
        patient_id=parts[1],
        study_id=parts[1] + "/" + parts[2],
        image_id=parts[1] + "/" + parts[2] + "/" + parts[3].str.replace(r"\.jpe?g$", "", regex=True),
        view=table["projection"].where(table["projection"].isin(["PA", "AP"]), FRONTAL),
    )
    table["view"] = table["view"].where(table["side"] == "Frontal", table["side"].str.casefold().replace("", "unknown"))
    rows = Filter(table)
    rows.drop(rows.kept["view"] == "lateral", "view lateral")
    unknown = ~rows.kept["view"].isin(["PA", "AP", FRONTAL])
    if settings.unknown_views == "exclude":
        rows.drop(unknown, "view unknown")
    counts = apply_policy(rows, settings, wanted)
    kept = rows.kept
    frame = pd.DataFrame(
        {
            "image_id": kept["image_id"],
            "path": kept["path"],
            "patient_id": kept["patient_id"],
            "study_id": kept["study_id"],
            "view": kept["view"].where(kept["view"].isin(["PA", "AP", FRONTAL]), "unknown"),
            "sex": sex_word(kept["sex"], column=f"{files.path('table')}: Sex"),
            "age_years": age_from_text(kept["age"], at_least=MIN_AGE_YEARS, column=f"{files.path('table')}: Age"),
            "split": pd.Series(None, index=kept.index, dtype="str"),
            **{label: kept[label] for label in wanted.labels if label in kept},
        }
    )
    frame = with_columns(frame, kept, files.path("table"), settings, wanted)
    return RawCohort(frame, rows.exclusions, files.read, counts, policies(settings), listed=table["path"])


def _prefix(files: RawFiles, paths: "pd.Series[str]") -> str:
    """Folder that holds `train/`, relative to root, with a slash at its end."""
    if files.given("images"):
        return f"{files.names('images')[0]}/"
    release = paths.iloc[0].split("/train/")[0] if len(paths) else ""
    for folder in dict.fromkeys((release, ".", *RELEASES)):
        if (files.root / folder / "train").is_dir():
            return "" if folder in ("", ".") else f"{folder}/"
    return f"{release}/" if release else ""
