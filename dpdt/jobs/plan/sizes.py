"""How many images and patients each domain has: counted in its shards or cohort, or given by the user."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from dpdt.cohort.hospitals.file_search import there
from dpdt.cohort.splits import in_part
from dpdt.cohort.table import cohort_done, read_cohort
from dpdt.errors import StudyError
from dpdt.shards.reader import used_images
from dpdt.study import Study

__all__ = ["DomainSize", "domain_size", "parse_sizes"]


@dataclass(frozen=True)
class DomainSize:
    """Images and patients of one domain.

    Attributes:
        images: All, train, val and test.
        patients: All of them.
        train_images: Of the train split.
        train_patients: Of the train split.
        test_images: Of the test split.
        source: `shards` (what they hold), `cohort` (what is there of it) or `--size`.
        not_there: Images of the cohort that are not counted, as their files are not there.
    """

    images: int
    patients: int
    train_images: int
    train_patients: int
    test_images: int
    source: str
    not_there: int = 0

    def train_units(self, unit: str) -> int:
        """Privacy units of the train split."""
        return self.train_patients if unit == "patient" else self.train_images


def parse_sizes(given: Sequence[str], study: Study) -> dict[str, tuple[int, int]]:
    """`NAME=IMAGES` or `NAME=IMAGES/PATIENTS`, as after `--size`.

    >>> from pathlib import Path
    >>> study = Study.model_validate({"domains": {"uka": {"root": "."}}, "file": Path("study.toml")})
    >>> parse_sizes(["uka=193000/54000"], study)
    {'uka': (193000, 54000)}

    Raises:
        StudyError: It is not of that form, or the study has no such domain.
    """
    sizes: dict[str, tuple[int, int]] = {}
    for text in given:
        name, _, numbers = text.partition("=")
        images, slash, patients = numbers.replace("_", "").partition("/")
        if name not in study.domains:
            raise StudyError(
                f"--size {text}: no domain {name!r} in the study. Its domains: {', '.join(study.domains)}."
            )
        if (
            not images.isdecimal()
            or (slash and not patients.isdecimal())
            or int(images) < int(patients or 1)
            or int(images) < 1
        ):
            raise StudyError(
                f"--size {text}: expected NAME=IMAGES/PATIENTS in whole numbers, no more patients than images, for "
                f"example --size {name}=112120/30805."
            )
        sizes[name] = (int(images), int(patients or images))
    return sizes


def domain_size(study: Study, domain: str, given: Mapping[str, tuple[int, int]]) -> DomainSize | None:
    """The size of a domain in a view of the study; None where it is not known yet. What the user gives wins.

    Given numbers are split as patients without an official split would be.
    """
    if domain in given:
        images, patients = given[domain]
        settings = study.domains[domain]
        part = (1 - settings.test_fraction) * (1 - settings.val_fraction) * study.part_of(domain)
        tested = round(images * settings.test_fraction)
        return DomainSize(images, patients, round(images * part), round(patients * part), tested, "--size")
    if not cohort_done(study, domain):
        return None
    seen = used_images(study, domain)
    cohort = read_cohort(study, domain)
    table = _present(study, domain, cohort) if seen is None else seen
    train = table[(table["split"] == "train") & in_part(table["patient_id"], study, domain)]
    return DomainSize(
        images=len(table),
        patients=table["patient_id"].nunique(),
        train_images=len(train),
        train_patients=train["patient_id"].nunique(),
        test_images=int((table["split"] == "test").sum()),
        source="cohort" if seen is None else "shards",
        not_there=len(cohort) - len(table) if seen is None else 0,
    )


def _present(study: Study, domain: str, cohort: pd.DataFrame) -> pd.DataFrame:
    """The rows whose files are there.

    Where not one file is there nothing is said of single ones: the images are on another machine, or come later.
    """
    present = there(study.root(domain), cohort["path"])
    return cohort[cohort["path"].isin(present)] if present else cohort
