"""The cohort table and the record beside it: what the later stages read."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd

from dpdt.base.files import read_json, sha256_file
from dpdt.base.vocabulary import LABELS
from dpdt.cohort.hospitals.raw_cohort import RAW_COLUMNS
from dpdt.errors import CohortError
from dpdt.study import Study

__all__ = [
    "COLUMNS",
    "SYNTHETIC_MARKER",
    "changed_inputs",
    "cohort_columns",
    "cohort_done",
    "labels_sha256",
    "read_cohort",
    "read_record",
]

COLUMNS: Final = ("image_id", "path", "domain", *RAW_COLUMNS[2:])
"""Of every cohort table, before the study's labels and the columns that groups ask for."""
SYNTHETIC_MARKER: Final = "SYNTHETIC.txt"
"""A raw folder with this file holds drawn data; everything made from it is marked."""


def cohort_columns(study: Study, domain: str) -> tuple[str, ...]:
    """Columns of a domain's cohort table: those of every cohort, the study's labels, those that groups ask for."""
    return (*COLUMNS, *study.study.labels, *study.group_columns(domain))


def cohort_done(study: Study, domain: str) -> bool:
    """Whether the domain's cohort is complete.

    Raises:
        CohortError: It was built with other settings.
    """
    path = study.paths.cohort_record(domain)
    if not path.is_file():
        return False
    record = read_json(path)
    if record.get("fingerprint") != study.cohort_fingerprint(domain):
        raise CohortError(
            f"{path}: this cohort was built with other settings of [domains.{domain}] or another seed. "
            "Remove the file to rebuild it; shards and runs made from it stay as they are."
        )
    wanted, there = study.group_columns(domain), record.get("columns", {})
    lost = [name for name, column in wanted.items() if there.get(name) != column]
    if lost:
        raise CohortError(
            f"{path}: this cohort was built without the column {lost[0]}, which a group of [evaluate.groups] asks for. "
            "Remove the file to rebuild it: shards and runs made from it stay as they are."
        )
    return study.paths.cohort_table(domain).is_file() and study.paths.cohort_exclusions(domain).is_file()


def changed_inputs(study: Study, domain: str) -> list[Path]:
    """Raw tables that are not what a built cohort was read from; those that are not there any more are left out."""
    root, settings = study.root(domain), study.domains[domain]
    found = []
    for entry in read_record(study, domain).get("inputs", ()):
        given = settings.table.file if settings.table else settings.files.get(entry["name"])
        path = root / (given if given and given.is_absolute() else entry["file"])
        if path.is_file() and sha256_file(path) != entry["sha256"]:
            found.append(path)
    return found


def read_cohort(study: Study, domain: str) -> pd.DataFrame:
    """The cohort table: one row an image, sorted by image_id, columns `cohort_columns`.

    Raises:
        CohortError: It is not built, or with other settings.
    """
    _require(study, domain)
    return pd.read_parquet(study.paths.cohort_table(domain))


def read_record(study: Study, domain: str) -> dict[str, Any]:
    """Settings, counts and hashes of the cohort.

    Raises:
        CohortError: It is not built, or with other settings.
    """
    _require(study, domain)
    record: dict[str, Any] = read_json(study.paths.cohort_record(domain))
    return record


def labels_sha256(cohort: pd.DataFrame, split: str, labels: Sequence[str] = LABELS) -> str:
    """Hash of which labels the images of a split have: a corrected list changes it where the patients stay the same.

    Args:
        cohort: A cohort table.
        split: ``train``, ``val`` or ``test``.
        labels: The study's; their names are in the hash, too, where they are not the paper's.
    """
    rows = cohort[cohort["split"] == split]
    digest = hashlib.sha256("\n".join(rows["image_id"]).encode("utf-8", "surrogateescape"))
    if tuple(labels) != LABELS:
        digest.update("\0".join(("", *labels)).encode())
    digest.update(b"\0" + rows[list(labels)].to_numpy(dtype="int8", na_value=-1).tobytes())
    return digest.hexdigest()


def _require(study: Study, domain: str) -> None:
    if not cohort_done(study, domain):
        raise CohortError(f"{study.paths.cohort_table(domain)}: no cohort yet. Run `dpdt cohort {study.file}`.")
