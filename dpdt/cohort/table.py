"""The cohort table and the record beside it: what the later stages read."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd

from dpdt.base.files import read_json, sha256_once
from dpdt.base.vocabulary import LABELS
from dpdt.cohort.former import dependents
from dpdt.cohort.hospitals.raw_cohort import RAW_COLUMNS
from dpdt.errors import CohortError
from dpdt.study import Study
from dpdt.study.domain_settings import DomainSettings

__all__ = [
    "COLUMNS",
    "SYNTHETIC_MARKER",
    "changed_inputs",
    "cohort_columns",
    "cohort_done",
    "images_sha256",
    "labels_sha256",
    "lost_columns",
    "read_cohort",
    "read_record",
    "why_outdated",
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
        CohortError: It was built with other settings, and shards or runs depend on it.
    """
    if not _is_whole(study, domain):
        return False
    if _other_settings(study, domain):
        if made := dependents(study, domain):
            raise CohortError(
                f"{_other_settings(study, domain)}, and it is used ({made}). Undo the change, or build it anew and "
                f"keep the former one beside it: `dpdt cohort {study.file} --domain {domain} --rebuild`."
            )
        return False
    return not lost_columns(study, domain)


def lost_columns(study: Study, domain: str) -> list[str]:
    """Columns that groups of the study ask for and a built cohort is without; nobody is in or out of it by them."""
    there = read_json(study.paths.cohort_record(domain)).get("columns", {})
    return [name for name, column in study.group_columns(domain).items() if there.get(name) != column]


def _is_whole(study: Study, domain: str) -> bool:
    paths = study.paths
    files = paths.cohort_record(domain), paths.cohort_table(domain), paths.cohort_exclusions(domain)
    return all(file.is_file() for file in files)


def _other_settings(study: Study, domain: str) -> str:
    path = study.paths.cohort_record(domain)
    if read_json(path).get("fingerprint") == study.cohort_fingerprint(domain):
        return ""
    return f"{path}: this cohort was built with other settings of [domains.{domain}] or another seed"


def why_outdated(study: Study, domain: str) -> str | None:
    """Why a cohort must be built anew: "" where it need not, None where there is none."""
    if not _is_whole(study, domain):
        return None
    if other := _other_settings(study, domain):
        return other
    changed = changed_inputs(study, domain)
    return f"{changed[0]}: changed since the cohort of {domain} was built from it" if changed else ""


def changed_inputs(study: Study, domain: str) -> list[Path]:
    """Raw tables that are not what a built cohort was read from; those that are not there any more are left out."""
    root, settings = study.root(domain), study.domains[domain]
    found = []
    for entry in read_json(study.paths.cohort_record(domain)).get("inputs", ()):
        given = _given(settings, entry["name"])
        path = root / (given if given and given.is_absolute() else entry["file"])
        if path.is_file() and sha256_once(path) != entry["sha256"]:
            found.append(path)
    return found


def _given(settings: DomainSettings, name: str) -> Path | None:
    """The path that the study file gives a list."""
    table = settings.table
    if table is None:
        return settings.files.get(name)
    return table.labels_from.file if name == "labels" and table.labels_from else table.file


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


def images_sha256(cohort: pd.DataFrame) -> str:
    """Hash of which images a cohort has, where, and in which order."""
    digest = hashlib.sha256()
    for image_id, path in zip(cohort["image_id"], cohort["path"], strict=True):
        digest.update(f"{image_id}\0{path}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


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
        lost = lost_columns(study, domain) if study.paths.cohort_record(domain).is_file() else []
        why = f"built without the column {lost[0]}, which a group of [evaluate.groups] asks for" if lost else ""
        table = study.paths.cohort_table(domain)
        raise CohortError(f"{table}: {why or 'no cohort yet'}. Run `dpdt cohort {study.file}`.")
