"""A cohort that is built anew: what was made from the one that is there, and where that one is kept.

A model that was trained on a former cohort may have seen today's test patients. `dpdt evaluate` refuses it by the
hashes in its config; here is what tells people beforehand.
"""

import itertools
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dpdt.base.files import read_json
from dpdt.cohort.splits import normalise_patient_id
from dpdt.errors import DpdtError
from dpdt.study import Study

__all__ = ["Dependents", "dependents", "moved_patients", "set_aside"]


@dataclass(frozen=True)
class Dependents:
    """What was made from a domain's cohort.

    Attributes:
        shards: Whether there are shards, or parts of them.
        trained: Runs that were trained on it.
        tested: Other runs that were tested on it.
    """

    shards: bool
    trained: tuple[str, ...]
    tested: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.shards or self.trained or self.tested)

    def __str__(self) -> str:
        parts = ["its shards"] if self.shards else []
        parts += [f"trained on it: {', '.join(self.trained)}"] if self.trained else []
        parts += [f"tested on it: {', '.join(self.tested)}"] if self.tested else []
        return "; ".join(parts) or "nothing"


def dependents(study: Study, domain: str) -> Dependents:
    """What depends on a domain's cohort; a run whose config cannot be read counts as trained on it."""
    shards = study.paths.shards(domain)
    trained, tested = [], []
    for config in sorted(study.paths.runs.glob("*/config.json")):
        paths = study.paths.run(config.parent.name)
        on = domain
        with suppress(DpdtError):
            on = str(read_json(config).get("domain"))
        if on == domain:
            trained.append(paths.run_id)
        elif paths.predictions(domain).exists():
            tested.append(paths.run_id)
    made = shards.manifest.exists() or any(shards.part(0).parent.glob("*.parquet"))
    return Dependents(made, tuple(trained), tuple(tested))


def set_aside(study: Study, domain: str) -> str:
    """Rename the cohort's files to `<domain>.old-1.*`, or the next number that is free.

    Returns:
        The name, without a suffix.
    """
    paths = study.paths
    files = [paths.cohort_record(domain), paths.cohort_table(domain), paths.cohort_exclusions(domain)]
    for number in itertools.count(1):
        name = f"{domain}.old-{number}"
        kept = [file.with_name(file.name.replace(domain, name, 1)) for file in files]
        if not any(file.exists() for file in kept):
            break
    for file, other in zip(files, kept, strict=True):  # the record first: what is left without it vouches for nothing
        if file.exists():
            file.rename(other)
    return name


def moved_patients(before: pd.DataFrame, now: pd.DataFrame) -> dict[str, int]:
    """How many patients, in whatever spelling, were in train or val and are in test now, and the other way round."""

    def tested(cohort: pd.DataFrame) -> "pd.Series[Any]":
        rows = cohort[["patient_id", "split"]].drop_duplicates()
        return (rows["split"] == "test").set_axis(rows["patient_id"].map(normalise_patient_id)).groupby(level=0).max()

    both = pd.DataFrame({"before": tested(before), "now": tested(now)}).dropna()
    return {
        "were in train or val and are in test now": int((~both["before"].astype(bool) & both["now"]).sum()),
        "were in test and are in train or val now": int(
            (both["before"].astype(bool) & ~both["now"].astype(bool)).sum()
        ),
    }
