"""The findings of each published layout, and how often a list at hand has them: what `dpdt domains` shows."""

from dataclasses import asdict, dataclass
from typing import Any

from dpdt.base.vocabulary import as_name
from dpdt.cohort.hospitals import reader
from dpdt.cohort.hospitals.raw_cohort import Wanted, errors_of
from dpdt.study import Study
from dpdt.study.domain_kinds import DOMAIN_KINDS
from dpdt.study.findings import DEFINITIONS, Finding, define, findings_of

__all__ = ["FindingCount", "count_findings", "published_findings"]


@dataclass(frozen=True)
class FindingCount:
    """One finding.

    Attributes:
        domain: The domain, or a layout's name.
        finding: In the list's words.
        label: The label of that name.
        makes: Labels that are made of it: the study's, or those that ship with dpdt.
        images: Usable images in which it is positive; None where none was counted or it is unknown there.
        patients: Their patients.
    """

    domain: str
    finding: str
    label: str
    makes: tuple[str, ...]
    images: int | None = None
    patients: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def published_findings() -> list[FindingCount]:
    """The findings of every published layout; `makes` has the shipped labels of another name."""
    return [
        FindingCount(kind, finding, as_name(finding), _shipped(finding, kind))
        for kind in DOMAIN_KINDS
        for finding in findings_of(kind)
    ]


def _shipped(finding: str, kind: str) -> tuple[str, ...]:
    """Labels of another name that are made of a finding unless the study file says otherwise."""
    made = (label for label, of_kinds in DEFINITIONS.items() if finding in of_kinds.get(kind, ()))
    return tuple(label for label in made if label != as_name(finding))


def count_findings(study: Study, domain: str) -> list[FindingCount]:
    """The findings of a domain, counted in its list: images that a cohort may have, in all splits.

    Of a list of one's own they are the study's labels. In PadChest a finding has those below it.

    Raises:
        StudyError: A name in `files` is unknown.
        CohortError: The list is not there, or not as published.
    """
    kind, settings = study.kind(domain), study.domains[domain]
    of_study = study.definitions(domain)
    findings = findings_of(kind)
    if findings:
        wanted = {as_name(finding): define(as_name(finding), kind, given=[finding]) for finding in findings}
        makes = {finding: _made_of(finding, of_study) for finding in findings}
    else:
        wanted = {label: definition for label, definition in of_study.items() if definition}
        findings = tuple(wanted)
        makes = {label: (label,) for label in wanted}
    with errors_of(domain):
        frame = reader(kind).read(study.root(domain), settings, Wanted(wanted, {})).frame
    rows = []
    for finding in findings:
        label = as_name(finding)
        found: tuple[int | None, int | None] = (None, None)
        if label in frame and not frame[label].isna().all():
            positive = (frame[label] == 1).fillna(False)
            found = int(positive.sum()), int(frame["patient_id"][positive].nunique())
        rows.append(FindingCount(domain, finding, label, makes[finding], *found))
    return rows


def _made_of(finding: str, labels: dict[str, tuple[Finding, ...]]) -> tuple[str, ...]:
    return tuple(label for label, definition in labels.items() if finding in {one.name for one in definition})
