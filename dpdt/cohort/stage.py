"""The stage `cohort`: one task a domain, its table."""

from dpdt.cohort.build import build_cohort as run
from dpdt.cohort.table import cohort_done as done

__all__ = ["done", "run"]
