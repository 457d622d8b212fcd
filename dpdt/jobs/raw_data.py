"""Is the raw data there that a study's cohorts and shards are still to be made from? Asked before anything is sent."""

from dpdt.cohort.hospitals import check_lists
from dpdt.cohort.table import cohort_done
from dpdt.errors import CohortError, StudyError
from dpdt.shards.reader import shards_done
from dpdt.study import Study

__all__ = ["lost_data"]


def lost_data(study: Study) -> dict[str, str]:
    """Domain -> what its root or lists lack; domains that have what they need are left out.

    Quick: it looks for the root and for each list, and opens none. A domain with a cohort needs its root alone, for the
    images, and one with shards needs nothing.
    """
    found = {}
    for domain in study.used_domains:
        if problem := _problem(study, domain):
            found[domain] = problem
    return found


def _problem(study: Study, domain: str) -> str:
    """What a domain lacks, in words; "" where it lacks nothing."""
    try:
        if shards_done(study, domain):
            return ""
        if not cohort_done(study, domain):
            check_lists(study.kind(domain), study.root(domain), study.domains[domain])
        elif not study.root(domain).is_dir():
            return f"{study.root(domain)}: no such folder, and its images are still to be read. Correct `root`."
    except StudyError as err:
        return f"domains.{domain}.{err}"
    except CohortError as err:
        return str(err)
    return ""
