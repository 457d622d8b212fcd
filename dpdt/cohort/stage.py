"""The stage `cohort`: one task a domain."""

from dpdt.cohort.build import CohortSummary, build_cohort
from dpdt.cohort.table import cohort_done
from dpdt.study import Study

__all__ = ["done", "run"]


def done(study: Study, domain: str) -> bool:
    """Whether the domain's cohort table is there and was built with the study's settings."""
    return cohort_done(study, domain)


def run(study: Study, domain: str) -> CohortSummary:
    """Build the domain's cohort table."""
    return build_cohort(study, domain)
