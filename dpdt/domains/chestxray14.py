"""NIH ChestX-ray14: `Data_Entry_2017_v2020.csv`, the official lists, PNGs in `images/` or `images_001/images/` ….

Source: Wang et al., CVPR 2017, and the files of the NIH Clinical Center. 112,120 rows, all frontal; the official lists
split them 86,524 + 25,596 without a common patient.
"""

import re
from pathlib import Path
from typing import Final

import pandas as pd

from dpdt.domains.raw import FileNames, Filter, RawCohort, RawFiles, age_from_text, list_files, sex_word, to_label
from dpdt.errors import CohortError
from dpdt.study import DomainSettings

__all__ = ["FILES", "read"]

FILES: Final[FileNames] = {
    "table": ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv"),
    "train_list": ("train_val_list.txt",),
    "test_list": ("test_list.txt",),
    "images": ("images",),
}
COLUMNS: Final = {
    "image_id": ("Image Index",),
    "findings": ("Finding Labels",),
    "patient_id": ("Patient ID",),
    "age": ("Patient Age",),
    "sex": ("Patient Gender", "Patient Sex"),
    "view": ("View Position",),
}
FINDINGS: Final = {
    "cardiomegaly": "Cardiomegaly",
    "pleural_effusion": "Effusion",
    "pneumonia": "Pneumonia",
    "atelectasis": "Atelectasis",
    "healthy": "No Finding",
}
ID_DIGITS: Final = 8
"""Patients are numbers in the table and eight digits in file names; the latter is used."""


def read(root: Path, settings: DomainSettings) -> RawCohort:
    """Read the table and the two lists; rows in neither list are excluded.

    Raises:
        CohortError: A file or column is missing, or an image is in both lists.
    """
    files = RawFiles(root, FILES, settings)
    table = files.table("table", COLUMNS)
    train, test = set(files.lines("train_list")), set(files.lines("test_list"))
    if train & test:
        raise CohortError(f"{root}: {len(train & test)} images are in both the train_val and the test list.")
    rows = Filter(table)
    listed = table["image_id"].isin(train | test)
    rows.drop(~listed, "in neither official list")
    if settings.unknown_views == "exclude":
        rows.drop(~rows.kept["view"].isin(["PA", "AP"]), "view unknown")
    kept = rows.kept
    found = _images(files)
    folder = files.names("images")[0]
    frame = pd.DataFrame(
        {
            "image_id": kept["image_id"],
            "path": kept["image_id"].map(lambda name: found.get(name, f"{folder}/{name}")),
            "patient_id": kept["patient_id"].str.lstrip("0").str.zfill(ID_DIGITS),
            "study_id": kept["image_id"].str.removesuffix(".png"),
            "view": kept["view"].where(kept["view"].isin(["PA", "AP"]), "unknown"),
            "sex": sex_word(kept["sex"]),
            "age_years": age_from_text(kept["age"]),
            "split": kept["image_id"].isin(test).map({True: "test", False: "train"}).astype(str),
        }
    )
    findings = kept["findings"].str.split("|")
    for label, name in FINDINGS.items():
        frame[label] = to_label(findings.map(lambda names, name=name: name in names).astype(bool))
    counts = {"images not found where expected": int((~kept["image_id"].isin(found.keys())).sum())}
    return RawCohort(frame, rows.exclusions, files.read, counts)


def _images(files: RawFiles) -> dict[str, str]:
    """Where each image is, from one listing a folder."""
    root = files.root
    if files.given("images"):
        return list_files([root / files.names("images")[0]], root)
    parts = sorted(entry for entry in root.iterdir() if re.fullmatch(r"images_\d{3}", entry.name))
    return list_files([root / "images", *parts, *(part / "images" for part in parts)], root)
