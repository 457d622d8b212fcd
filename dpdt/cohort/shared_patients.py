"""Patients of a hospital's own lists that stand in two domains of a study, as two years of one hospital do."""

from collections.abc import Iterator
from itertools import combinations

import pandas as pd

from dpdt.cohort.splits import normalise_patient_id
from dpdt.cohort.table import cohort_done
from dpdt.study import Study

__all__ = ["of_shared_patients", "shared_patients"]


def shared_patients(study: Study) -> dict[tuple[str, str], int]:
    """How many train patients of two own lists have the same id, by pair; published corpora share no numbering."""
    own = [name for name in study.train_domains if study.kind(name) == "table" and cohort_done(study, name)]
    ids = {name: _train_ids(study, name) for name in own} if len(own) > 1 else {}
    found = {pair: len(ids[pair[0]] & ids[pair[1]]) for pair in combinations(ids, 2)}
    return {pair: count for pair, count in found.items() if count}


def of_shared_patients(study: Study) -> Iterator[str]:
    """What is to be said of each pair, for `dpdt plan` and `dpdt submit`."""
    for (first, second), count in shared_patients(study).items():
        yield (
            f"{first} and {second}: {count} train patients have the same id in both. If they are the same people, the "
            "epsilons of both domains add up for them, and the report counts them twice. Make one domain of both "
            "lists, or train on one of them (train.domains)."
        )


def _train_ids(study: Study, domain: str) -> set[str]:
    table = pd.read_parquet(study.paths.cohort_table(domain), columns=["patient_id", "split"])
    return set(table.loc[table["split"] == "train", "patient_id"].map(normalise_patient_id))
