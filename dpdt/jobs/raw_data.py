"""Is the raw data there that a study's cohorts and shards are still to be made from? Asked before anything is sent."""

import os
from pathlib import Path

from dpdt.cohort.hospitals import check_lists
from dpdt.errors import CohortError, DpdtError, StudyError
from dpdt.jobs.stages import is_done
from dpdt.study import Study
from dpdt.study.tasks import Task

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
        return _lost(study, domain)
    except StudyError as err:
        return f"domains.{domain}.{err}"
    except CohortError as err:
        return str(err)
    except OSError as err:
        file = Path(err.filename or study.root(domain))
        key = "root" if any(file.is_relative_to(path) for path in study.raw_paths(domain)) else "study.folder"
        return f"{file}: cannot be read ({err.strerror}). Correct its permissions for you, or `{key}`."


def _lost(study: Study, domain: str) -> str:
    """As `_problem`, for the folder of the images alone; lists that lack something are an error."""
    try:
        shards, cohort = (is_done(study, Task(stage, domain)) for stage in ("shards", "cohort"))
    except DpdtError:  # made with other settings, or damaged: those who read it say so
        return ""
    root = study.root(domain)
    if not cohort:
        check_lists(study.kind(domain), root, study.domains[domain])
    if not shards and not root.is_dir():
        return f"{root}: no such folder, and its images are still to be read. Correct `root`."
    if not shards:
        os.scandir(root).close()
    return ""
