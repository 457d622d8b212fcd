"""What would end a study after hours can be seen before: looked at when it is sent, and again by its first tasks."""

from collections.abc import Iterable
from contextlib import suppress

from dpdt.base.console import warn
from dpdt.cohort.former import dependents
from dpdt.cohort.shared_patients import of_shared_patients
from dpdt.cohort.splits import nobody_left
from dpdt.cohort.table import changed_inputs, cohort_done, read_cohort, read_record
from dpdt.errors import CohortError, StudyError
from dpdt.jobs.plan.sizes import domain_size
from dpdt.privacy.accounting import check_delta, delta_protects
from dpdt.study import Study

__all__ = ["check_deltas", "check_groups", "warn_of_changed_lists", "warn_of_shared_patients"]


def check_deltas(study: Study, domains: Iterable[str]) -> None:
    """Refuse a delta that is too large for a domain's DP trainings, as soon as the domain's patients are counted.

    Of several parts of the patients the largest is looked at: what protects it protects a smaller one.

    Raises:
        PrivacyError: Delta is not below 1 / units of a train split.
        StudyError: The study's parts of the patients have none of a domain's.
    """
    if study.privacy.allow_large_delta:
        return
    private = {cell.domain for cell in study.cells() if cell.private}
    for domain in private.intersection(domains):
        with suppress(CohortError):  # for the shards to tell
            listed = _listed_units(study, domain)
            if listed is not None and delta_protects(study.privacy.delta, units=listed):
                continue  # and so it does if some of them are rejected
            size = domain_size(study, domain, {})
            units = None if size is None else size.train_units(study.privacy.unit)
            if units == 0 and study.part_of(domain) < 1:
                raise StudyError(nobody_left(study, domain))
            check_delta(study.privacy.delta, units=units, study_unit=study.privacy.unit)


def _listed_units(study: Study, domain: str) -> int | None:
    """Units of the train split as the cohort's record has them, without a look at any image; None where it has none."""
    if study.part_of(domain) < 1 or not cohort_done(study, domain):
        return None
    count = "patients" if study.privacy.unit == "patient" else "images"
    rows = read_record(study, domain).get("counts", ())
    return next((row[count] for row in rows if (row["what"], row["split"]) == ("total", "train")), None)


def check_groups(study: Study, domains: Iterable[str]) -> None:
    """Refuse groups that a domain's test patients cannot be cut into, which evaluations would find after the trainings.

    Raises:
        StudyError: A column has too many words for parts, two of one name, or no number for its cuts.
    """
    if not study.evaluate.groups:
        return
    from dpdt.evaluation.metrics import own_groups

    for domain in set(study.test_domains).intersection(domains):
        with suppress(CohortError):  # for the cohort and shards to tell
            if cohort_done(study, domain):
                cohort = read_cohort(study, domain)
                own_groups(study.evaluate.groups, cohort[cohort["split"] == "test"])


def warn_of_changed_lists(study: Study) -> None:
    """A cohort is not rebuilt when a hospital's list was corrected, so warn that it was."""
    for domain in study.domains:
        changed = changed_inputs(study, domain) if cohort_done(study, domain) else ()
        if changed and dependents(study, domain):  # else the stage builds it anew; it reads every run's config
            for path in changed:
                warn(f"{path}: changed since the cohort of {domain} was built from it; `dpdt cohort` tells what to do.")


def warn_of_shared_patients(study: Study) -> None:
    """Two years of one hospital as two domains: the epsilons of both add up for who is in both."""
    for problem in of_shared_patients(study):
        warn(problem)
