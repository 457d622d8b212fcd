"""The stage `cohort`: one task a domain, its table."""

from dpdt.cohort.build import build_cohort as run
from dpdt.cohort.former import dependents
from dpdt.cohort.table import changed_inputs, cohort_done
from dpdt.study import Study

__all__ = ["done", "run"]


def done(study: Study, domain: str) -> bool:
    """Whether the cohort is there, of the lists as they are now where nothing depends on it.

    Raises:
        CohortError: It was built with other settings, and shards or runs depend on it.
    """
    if not cohort_done(study, domain):
        return False
    return bool(dependents(study, domain)) or not changed_inputs(study, domain)
