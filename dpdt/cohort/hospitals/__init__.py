"""One small module a hospital, behind one interface: `FILES` and `read(root, settings) -> RawCohort`."""

from importlib import import_module
from typing import cast

from dpdt.cohort.hospitals.raw_cohort import MISSING_IMAGES, RAW_COLUMNS, RawCohort, Reader
from dpdt.errors import StudyError
from dpdt.study.domain_kinds import DOMAIN_KINDS

__all__ = ["MISSING_IMAGES", "RAW_COLUMNS", "RawCohort", "Reader", "reader"]


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
