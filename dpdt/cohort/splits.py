"""Train, val and test: official where it exists, otherwise by a hash of the patient's id; never across a patient."""

import hashlib
import re
import unicodedata
from typing import Final

import numpy as np
import pandas as pd

from dpdt.errors import CohortError
from dpdt.study import Study

__all__ = [
    "check_patients",
    "fill_split",
    "in_part",
    "nobody_left",
    "normalise_patient_id",
    "one_spelling",
    "patient_fraction",
]

UNSEEN: Final = ("Cc", "Cf")


def normalise_patient_id(patient_id: str) -> str:
    """One spelling of a patient id: without blanks, case, leading zeros and the `.0` that spreadsheets add to numbers.

    Characters that nobody sees, such as a blank of no width, are left out, too.

    >>> normalise_patient_id(" P 0012 ") == normalise_patient_id("p0012"), normalise_patient_id("007.0")
    (True, '7')
    """
    if patient_id.isascii() and patient_id.isalnum():  # nearly all of them, and nothing else is to be done
        return patient_id.casefold().lstrip("0")
    text = "".join(unicodedata.normalize("NFKC", patient_id).split()).casefold()
    if not text.isascii() or not text.isprintable():
        text = "".join(each for each in text if unicodedata.category(each) not in UNSEEN)
    return re.sub(r"^(\d+)\.0+$", r"\1", text).lstrip("0")


def patient_fraction(patient_id: str, *, salt: str) -> float:
    """A number in [0, 1) that depends on the patient and the salt alone: SHA-256, first 53 bits.

    >>> patient_fraction("0012", salt="0:test") == patient_fraction("12", salt="0:test")
    True
    """
    digest = hashlib.sha256(f"dpdt:{salt}:{normalise_patient_id(patient_id)}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / float(1 << 53)


def one_spelling(frame: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Make ids that differ only in blanks, case, leading zeros or `.0` one patient: they are one privacy unit.

    Returns:
        The frame with the first spelling (in sorting order) of each id, and the number of spellings that went.
    """
    first: dict[str, str] = {}
    ids = sorted(frame["patient_id"].unique())
    spelled = {patient: first.setdefault(normalise_patient_id(patient), patient) for patient in ids}
    if len(first) == len(ids):
        return frame, 0
    return frame.assign(patient_id=frame["patient_id"].map(spelled).astype("str")), len(ids) - len(first)


def fill_split(frame: pd.DataFrame, study: Study, domain: str) -> tuple[pd.DataFrame, dict[str, str]]:
    """Fill in `split`: official, else by hash; val out of train where none is official.

    Returns:
        The frame, and how test and val came about, for the record.

    Raises:
        CohortError: Only some rows have an official split.
    """
    settings, seed = study.domains[domain], study.study.seed
    split = frame["split"].astype(object)
    official = split.notna()
    if official.any() and not official.all():
        raise CohortError(f"{domain}: {int((~official).sum())} of {len(frame)} rows have no official split.")
    how = {"test": "official", "val": "official"}
    if not official.any():
        test = _hashed_below(frame["patient_id"], settings.test_fraction, f"{seed}:test")
        split = pd.Series(np.where(test, "test", "train"), index=frame.index, dtype=object)
        how["test"] = f"patients by hash, seed {seed}, test_fraction {settings.test_fraction:g}"
    if not (split == "val").any():
        val = _hashed_below(frame["patient_id"], settings.val_fraction, f"{seed}:val")
        split = split.mask((split == "train") & val, "val")
        how["val"] = f"patients of train by hash, seed {seed}, val_fraction {settings.val_fraction:g}"
    return frame.assign(split=split.astype("str")), how


def in_part(patient_ids: "pd.Series[str]", study: Study, domain: str) -> "pd.Series[bool]":
    """Whether each row's patient is in the part that a view of the study trains on; a smaller part is in a larger one.

    By a hash of the patient and the study's seed alone, as splits are: whoever comes or goes moves nobody else.
    """
    part = study.part_of(domain)
    if part == 1:
        return pd.Series(True, index=patient_ids.index)
    return _hashed_below(patient_ids, part, f"{study.study.seed}:part")


def nobody_left(study: Study, domain: str) -> str:
    """What to say where a view's part of the train patients has none."""
    return f"train.fraction: {study.part_of(domain):g} leaves no patient of {domain} to train on. Make it larger."


def check_patients(frame: pd.DataFrame, domain: str) -> None:
    """No patient may be in two splits, however the id is spelled.

    Raises:
        CohortError: One is; the message does not name the patient, nor a hash of the id, which could be reversed.
    """
    keys = frame["patient_id"].map({p: normalise_patient_id(p) for p in frame["patient_id"].unique()})
    splits = pd.DataFrame({"key": keys, "split": frame["split"]}).drop_duplicates()["key"].value_counts()
    crossing = splits.index[splits > 1]
    if len(crossing):
        raise CohortError(
            f"{domain}: {len(crossing)} patients are in more than one split. "
            "The published split is not disjoint by patient; correct the list."
        )


def _hashed_below(patient_ids: "pd.Series[str]", fraction: float, salt: str) -> "pd.Series[bool]":
    """Whether each row's patient falls below `fraction`."""
    places = {patient: patient_fraction(patient, salt=salt) < fraction for patient in patient_ids.unique()}
    return patient_ids.map(places).astype(bool)
