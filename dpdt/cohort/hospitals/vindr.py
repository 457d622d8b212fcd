"""VinDr-CXR of PhysioNet: DICOM files and image-level labels, three readers in train, their consensus in test.

Source: Nguyen et al., Scientific Data 2022. 15,000 + 3,000 postero-anterior radiographs of adults. No patient id is
published, so the image's id is used; sex and age are in the DICOM headers, often missing or a placeholder (`000Y`).
The Kaggle competition's table (one row a box) is understood as well: it has no test labels and no pneumonia.
"""

from functools import partial
from pathlib import Path
from typing import Any, Final

import pandas as pd

from dpdt import _core
from dpdt.base.console import progress
from dpdt.cohort.hospitals.file_search import in_threads
from dpdt.cohort.hospitals.raw_cohort import FileNames, Filter, RawCohort, Wanted, age_from_text, sex_word, to_label
from dpdt.cohort.hospitals.raw_files import RawFiles
from dpdt.errors import CohortError, StudyError
from dpdt.study.domain_settings import DomainSettings

__all__ = ["FILES", "LISTS", "read"]

FILES: Final[FileNames] = {
    "train_labels": ("annotations/image_labels_train.csv", "train.csv", "vinbigdata-train.csv"),
    "test_labels": ("annotations/image_labels_test.csv",),
    "train_images": ("train",),
    "test_images": ("test",),
}
LISTS: Final = ("train_labels",)
OTHER_NAMES: Final = {"Other diseases": ("Other diseases", "Other disease")}
"""The published tables of train and test differ in it."""

KAGGLE_FINDINGS: Final = (
    *("Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Consolidation", "ILD", "Infiltration"),
    *("Lung Opacity", "Nodule/Mass", "Other lesion", "Pleural effusion", "Pleural thickening", "Pneumothorax"),
    *("Pulmonary fibrosis", "No finding"),
)
"""The classes of the competition; the others are unknown in its table."""
READERS: Final = 3
MIN_AGE_YEARS: Final = 18.0
"""The collection is of adults: smaller ages in its headers are placeholders."""

SEX_TAG, AGE_TAG = 0x00100040, 0x00101010


def read(root: Path, settings: DomainSettings, wanted: Wanted) -> RawCohort:
    """Read the label tables and the DICOM headers.

    Raises:
        CohortError: A file or column is missing, or an image is labelled in train and in test.
        StudyError: The study file names other columns: there are none.
    """
    if settings.columns:
        raise StudyError("columns: VinDr's lists have a row a reader, and no column that is of an image.")
    files = RawFiles(root, FILES, settings)
    kaggle = "class_name" in files.header("train_labels")
    tested = not kaggle or files.optional("test_labels") is not None
    train = _kaggle(files, settings, wanted) if kaggle else _votes(files, "train_labels", settings, wanted)
    parts = [train.assign(split="train" if tested else pd.Series(None, index=train.index, dtype="str"))]
    if tested:
        parts.append(_votes(files, "test_labels", settings, wanted).assign(split="test"))
    labels = pd.concat(parts, ignore_index=True)
    folders = {split: f"{files.names(f'{split}_images')[0]}/" for split in ("train", "test")}
    frame = pd.DataFrame(
        {
            "image_id": labels["image_id"],
            "path": labels["split"].fillna("train").map(folders) + labels["image_id"] + ".dicom",
            "patient_id": labels["image_id"],
            "study_id": labels["image_id"],
            "view": "PA",
            "sex": "unknown",
            "age_years": float("nan"),
            "split": labels["split"].astype("str"),
            **{label: labels[label] for label in wanted.labels if label in labels},
            **dict.fromkeys(wanted.columns, ""),  # of readers' votes, not of images
        }
    )
    counts = {
        "training images not read by three readers": int((train["readers"] != READERS).sum()),
        **{
            f"{label} unknown, not a class of the Kaggle table": len(train)
            for label, definition in wanted.labels.items()
            if kaggle and definition and not {finding.name for finding in definition} & {*KAGGLE_FINDINGS}
        },
    }
    read = {"kaggle_table" if kaggle and name == "train_labels" else name: path for name, path in files.read.items()}
    rules = {"readers": f"{settings.readers} of the readers in train, consensus in test"}
    return RawCohort(frame, Filter(frame).exclusions, read, counts, rules, add_headers=partial(_add_headers, root))


def _agreed(votes: Any, readers: Any, settings: DomainSettings) -> Any:
    """Whether enough of an image's readers voted: more than half of them, one, or all."""
    return {"majority": 2 * votes > readers, "any": votes > 0, "all": votes == readers}[settings.readers]


def _votes(files: RawFiles, name: str, settings: DomainSettings, wanted: Wanted) -> pd.DataFrame:
    """Labels by the votes of an image's readers; the test table has one row an image, their consensus."""
    findings = dict.fromkeys(finding.name for definition in wanted.labels.values() for finding in definition)
    columns = {"image_id": ("image_id",), **{finding: OTHER_NAMES.get(finding, (finding,)) for finding in findings}}
    table = files.table(name, columns, {"reader": ("rad_id", "rad_ID")})
    twice = table.duplicated(["image_id", *(["reader"] if "reader" in table else [])])
    if twice.any():
        image = table["image_id"][twice].iloc[0]
        raise CohortError(f"{files.path(name)}: {int(twice.sum())} rows repeat an image and reader, first {image!r}.")
    said = {}
    for finding in findings:
        values = pd.to_numeric(table[finding], errors="coerce")
        if not values.isin([0, 1]).all():
            row = int(values.index[~values.isin([0, 1])][0])
            found = table[finding][row]
            raise CohortError(f"{files.path(name)}: row {row + 1}: {finding}: expected 0 or 1, got {found!r}.")
        said[finding] = values.astype("int64")
    of_labels = {label: [said[one.name] for one in found] for label, found in wanted.labels.items() if found}
    votes = table[["image_id"]].assign(**{label: pd.concat(v, axis=1).max(axis=1) for label, v in of_labels.items()})
    by_image = votes.groupby("image_id", sort=False)
    found, readers = by_image.sum(), by_image.size()
    labels = pd.DataFrame({label: to_label(_agreed(found[label], readers, settings)) for label in of_labels})
    return labels.assign(readers=readers).reset_index()


def _kaggle(files: RawFiles, settings: DomainSettings, wanted: Wanted) -> pd.DataFrame:
    """Labels of the competition's table, where a reader has a row a box, as far as they are among its classes."""
    columns = {name: (name,) for name in ("image_id", "rad_id", "class_name")}
    table = files.table("train_labels", columns).drop_duplicates()
    readers = table.groupby("image_id", sort=False)["rad_id"].nunique()
    labels = pd.DataFrame(index=readers.index)
    for label, definition in wanted.labels.items():
        names = {finding.name for finding in definition}
        if not names:
            continue
        votes = table[table["class_name"].isin(names)].groupby("image_id")["rad_id"].nunique()
        agreed = to_label(_agreed(votes.reindex(readers.index, fill_value=0), readers, settings))
        labels[label] = agreed if names <= {*KAGGLE_FINDINGS} else agreed.mask(agreed == 0)
    return labels.assign(readers=readers).reset_index()


def _add_headers(root: Path, frame: pd.DataFrame) -> pd.DataFrame:
    """Sex and age as each file's PatientSex and PatientAge say."""
    people = []
    with progress("headers", len(frame), unit="files") as advance:
        for person in in_threads(_header, [root / path for path in frame["path"]]):
            people.append(person)
            advance()
    told = pd.DataFrame(people, columns=["sex", "age"], index=frame.index, dtype="str")
    return frame.assign(sex=sex_word(told["sex"]), age_years=age_from_text(told["age"], at_least=MIN_AGE_YEARS))


def _header(path: Path) -> tuple[str, str]:
    """Sex and age of one file; empty where missing or unreadable (the shards stage will report the file)."""
    import pydicom

    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[SEX_TAG, AGE_TAG])
    except Exception as err:  # of a damaged header pydicom raises anything
        if isinstance(err, OSError) and err.errno is not None and _core.reason_of(err.errno) == "storage":
            raise  # nothing is known of the patient
        return "", ""
    return _element_text(dataset, SEX_TAG), _element_text(dataset, AGE_TAG)


def _element_text(dataset: "object", tag: int) -> str:
    """A text element as it stands in the file: converting it would warn about every malformed age."""
    element = dataset.get_item(tag) if tag in dataset else None  # type: ignore[attr-defined, operator]
    value = getattr(element, "value", None)
    if isinstance(value, bytes):
        value = value.decode("ascii", errors="replace")
    return str(value or "").strip(" \0")
