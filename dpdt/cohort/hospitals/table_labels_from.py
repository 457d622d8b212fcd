"""Labels of a second list, joined to the images by image, examination or patient."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pandas as pd

from dpdt.cohort.checks import is_no_id
from dpdt.cohort.hospitals.file_search import parts_of
from dpdt.cohort.splits import normalise_patient_id
from dpdt.errors import CohortError
from dpdt.study.domain_settings import LabelsFrom

__all__ = ["KEY", "join_labels", "spelled"]

KEY: Final = "key"
"""The column that joins the second list."""


def spelled(cells: "pd.Series[str]", by: str, path: Path) -> "pd.Series[str]":
    """Keys as they are compared: ids in one spelling, images by their path without the suffix.

    Raises:
        CohortError: Two examinations or images of one list differ in their spelling alone: 7 and 07 may be two.
    """
    spell = (lambda cell: "/".join(parts_of(cell))) if by == "image" else normalise_patient_id
    distinct = cells.drop_duplicates()
    alike = distinct.map({cell: spell(cell) for cell in distinct})
    twice = alike.duplicated(keep=False) & (alike != "")
    if by in ("study", "image_id") and twice.any():
        first, second = alike.index[alike == alike[twice].iloc[0]][:2]
        raise CohortError(
            f"{path}: the keys ({by}) of rows {int(first) + 1} and {int(second) + 1} differ in blanks, capitals or "
            "leading zeros alone, so it is not certain which labels are whose. Write each in one way, or join by "
            "another key."
        )
    return cells.map(dict(zip(distinct, alike, strict=True))).astype("str")


def join_labels(
    labels: "Mapping[str, pd.Series[int]]",
    images: pd.DataFrame,
    kept: pd.DataFrame,
    join: LabelsFrom,
    path: Path,
    listed: Path,
) -> "tuple[dict[str, pd.Series[int]], dict[str, int]]":
    """Each kept image's labels, and what joined nothing.

    Args:
        labels: Label -> values by key.
        images: All images of the first list.
        kept: Those that the labels are for.
        join: How the two lists are joined.
        path: The second list.
        listed: The first one.

    Raises:
        CohortError: Nothing joins, a key that should be one image's is that of several, or what joins is no id.
    """
    keys = next(iter(labels.values())).index
    mine = spelled(images[join.by], join.by, listed)
    if join.by == "image":
        mine = _by_stem(mine, keys)
    if join.by in ("image", "image_id"):
        shared = mine[mine.isin(keys) & mine.duplicated()]
        if len(shared):
            raise CohortError(
                f"{path}: a row of labels joins several images (first: image in row {int(shared.index[0]) + 1} of the "
                "list). Write the images' folders in both lists, or join by another key."
            )
    joined = mine.isin(keys)
    if not joined.any():
        raise CohortError(
            f"{path}: column {join.column!r}: none of {len(keys)} keys is one of the {mine.nunique()} of the list's "
            f"{join.by}. Is it the right column?"
        )
    no_ids = joined & mine.map({key: key != "" and is_no_id(key) for key in mine.unique()}).astype(bool)
    if no_ids.any():
        row = no_ids.index[no_ids][0]
        raise CohortError(
            f"{path}: column {join.column!r}: {int(no_ids.sum())} images would get their labels by {mine[row]!r} "
            f"(first: row {int(row) + 1} of the list), a placeholder or a number that a spreadsheet rounded. Export "
            "the ids as text, or take such rows out of this list."
        )
    of_kept = mine[kept.index]
    counts = {
        f"rows of labels that join no {join.by}": int((~keys.isin(mine)).sum()),
        "images without a row of labels": int((~joined[kept.index]).sum()),
    }
    if join.by in ("study", "patient"):
        counts[f"images that share their {join.by}'s row of labels"] = int((of_kept.duplicated(keep=False)).sum())
    found = {label: column.reindex(pd.Index(of_kept)).set_axis(kept.index) for label, column in labels.items()}
    return found, counts


def _by_stem(mine: "pd.Series[str]", keys: "pd.Index[str]") -> "pd.Series[str]":
    """Where no whole path is the same, the file's name alone joins, if it is that of one image and of one key.

    Of all images and keys, also those whose paths are the same: `b/view` is not joined to `c/view` because `a/view` is
    in both lists.
    """
    lost = ~mine.isin(keys)
    stems = pd.Series(keys, dtype="str").map(lambda key: key.rpartition("/")[2])
    left = pd.Series(keys, index=pd.Index(stems))
    left = left[~left.index.duplicated(keep=False)]
    names = mine.map(lambda path: path.rpartition("/")[2])
    names = names[lost & ~names.duplicated(keep=False)]
    return mine.mask(lost, names.map(left)).fillna(mine).astype("str")
