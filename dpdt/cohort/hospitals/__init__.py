"""One small module a hospital, behind one interface: `FILES`, `LISTS`, `read(root, settings, wanted) -> RawCohort`."""

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Final, cast

import pandas as pd

from dpdt.cohort.hospitals.images import check_image_folders, place_images
from dpdt.cohort.hospitals.raw_cohort import MISSING_IMAGES, RAW_COLUMNS, RawCohort, Reader, Wanted
from dpdt.cohort.hospitals.raw_files import RawFiles
from dpdt.cohort.hospitals.table import list_of
from dpdt.errors import StudyError
from dpdt.study.domain_kinds import DOMAIN_KINDS
from dpdt.study.domain_settings import DomainSettings

__all__ = ["MISSING_IMAGES", "RAW_COLUMNS", "RawCohort", "Reader", "Wanted", "check_lists", "read_domain", "reader"]

SPLIT_LISTS: Final = ("train_list", "test_list")
"""They are read for the official split alone."""


def reader(kind: str) -> Reader:
    """The module that reads an institution's raw metadata.

    Args:
        kind: One of DOMAIN_KINDS.

    Raises:
        StudyError: There is no such institution.
    """
    if kind not in DOMAIN_KINDS:
        raise StudyError(f"kind: no reader {kind!r}. Valid kinds: {', '.join(DOMAIN_KINDS)}.")
    return cast(Reader, import_module(f"dpdt.cohort.hospitals.{kind}"))


def read_domain(kind: str, root: Path, settings: DomainSettings, wanted: Wanted | None = None) -> RawCohort:
    """Read an institution's lists, find its images, and apply the policies that are the same for all of them.

    Args:
        kind: One of DOMAIN_KINDS.
        root: Folder of the raw data.
        settings: The domain's.
        wanted: Labels and columns; default: the paper's five labels.

    Raises:
        StudyError: There is no such institution, or a name in `files` is unknown.
        CohortError: The lists are not as published, or the images are not there or not told apart.
    """
    wanted = wanted or Wanted.papers(kind, settings)
    raw = place_images(reader(kind).read(root, settings, wanted), root, settings)
    frame, counts = raw.frame, dict(raw.counts)
    unknown = [label for label in wanted.labels if label not in frame]
    counts |= {f"{label} unknown in every image": len(frame) for label in unknown}
    frame = frame.join(pd.DataFrame(dict.fromkeys(unknown, pd.Series(pd.NA, index=frame.index, dtype="Int8"))))
    if raw.add_headers is not None:
        frame = raw.add_headers(frame)
    if settings.split == "patients":
        frame = frame.assign(split=pd.Series(None, index=frame.index, dtype="str"))
    newborn = frame["age_years"] == 0
    counts[f"age 0, {settings.zero_ages}"] = int(newborn.sum())
    if settings.zero_ages == "unknown":
        frame = frame.assign(age_years=frame["age_years"].mask(newborn))
    return replace(raw, frame=frame, counts=counts)


def check_lists(kind: str, root: Path, settings: DomainSettings) -> None:
    """Check that a domain's folders and lists are there; none is opened.

    Raises:
        StudyError: There is no such institution, or a name in `files` is unknown.
        CohortError: A folder or a list is not there.
    """
    module = reader(kind)
    files = RawFiles(root, module.FILES, settings)
    if settings.table is not None:
        list_of(root, settings.table)
    check_image_folders(root, settings)
    for name in module.LISTS:
        if settings.split == "official" or name not in SPLIT_LISTS:
            files.path(name)
