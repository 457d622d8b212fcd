"""Groups of patients: which images are in which part of sex, age, or any other column of the cohort.

Without `[evaluate.groups]` they are those of the paper: sex, age groups, and their crossings, which are measured and
not compared. With it they are the study's own. A part is named by its group and its cell, `ward_icu`, or by its group
and edges, `age_0_18`; of the column sex by the cell alone. A blank cell, or "unknown", is in no part.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpdt.base.vocabulary import SUBGROUPS, as_name
from dpdt.errors import StudyError
from dpdt.evaluation.metrics.names import ALL, ATTRIBUTES, CROSSINGS
from dpdt.study.settings import GroupSettings

__all__ = ["Groups", "own_groups", "papers_groups"]

Mask = NDArray[np.bool_]
UNKNOWN: Final = ("", "unknown", "nan")
MOST_PARTS: Final = 30
"""Of a column: more are most often ids or dates."""


class Groups(NamedTuple):
    """The groups of one table of images.

    Attributes:
        attributes: What fairness compares: each with its parts.
        masks: Which images are in each part, all of them first; the parts of attributes, then crossings that are only
            measured.
    """

    attributes: Mapping[str, tuple[str, ...]]
    masks: Mapping[str, Mask]

    @property
    def compared(self) -> set[str]:
        """All images and the parts of attributes: models are compared on them."""
        return {ALL, *(part for parts in self.attributes.values() for part in parts)}


def papers_groups(frame: pd.DataFrame) -> Groups:
    """Sex, age groups, and their crossings.

    Args:
        frame: One row an image: `sex` and `age_group`.
    """
    masks = {ALL: np.ones(len(frame), dtype=bool)}
    for group in SUBGROUPS:
        masks[group] = ((frame["sex"] == group) | (frame["age_group"] == group)).to_numpy()
    for crossing, (sex, age) in CROSSINGS.items():
        masks[crossing] = masks[sex] & masks[age]
    return Groups(ATTRIBUTES, masks)


def own_groups(settings: Mapping[str, GroupSettings], cohort: pd.DataFrame) -> Groups:
    """The groups of `[evaluate.groups]`.

    Args:
        settings: By name; crossings name others of them.
        cohort: One row an image, in the order of the scores. A column that it has not is unknown in every image.

    Raises:
        StudyError: A column has more than MOST_PARTS different cells, or none that its cuts could be for, or two groups
            have a part of one name.
    """
    parts: dict[str, dict[str, Mask]] = {}
    for name, group in settings.items():
        if group.crossing:
            continue
        cells = cohort[group.column] if group.column in cohort else pd.Series("", index=cohort.index)
        parts[name] = _cut(name, group, cells)
    for name, group in settings.items():
        if group.crossing:
            crossed: dict[str, Mask] = {"": np.ones(len(cohort), dtype=bool)}
            for other in group.crossing:
                crossed = {
                    f"{one}_{part}".strip("_"): mask & of_part
                    for one, mask in crossed.items()
                    for part, of_part in parts[other].items()
                }
            parts[name] = crossed
    masks: dict[str, Mask] = {ALL: np.ones(len(cohort), dtype=bool)}
    for name in settings:
        twice = next((part for part in parts[name] if part in masks or part in settings), None)
        if twice:
            raise StudyError(f"evaluate.groups.{name}: the part {twice!r} has the name of another. Rename the group.")
        masks |= parts[name]
    return Groups({name: tuple(parts[name]) for name in settings}, masks)


def _check_words(name: str, group: GroupSettings, named: Mapping[str, str], prefix: str) -> None:
    """Each word needs a name of its own: `ER+` and `ER-` are no one part."""
    first: dict[str, str] = {}
    for word, part in named.items():
        other = first.setdefault(part, word)
        if part == prefix or other.casefold() != word.casefold():
            why = "has no letter from a to z" if part == prefix else f"has the name of {other!r}"
            raise StudyError(
                f"evaluate.groups.{name}: the cell {word!r} of {group.column!r} {why}. Name the parts: "
                f'{name} = {{ column = "{group.column}", parts = {{ a = ["{word}"], … }} }}.'
            )


def _cut(name: str, group: GroupSettings, cells: "pd.Series[str]") -> dict[str, Mask]:
    """The parts of one column."""
    words = cells.astype("str").mask(cells.isna(), "").str.strip()
    if group.cuts:
        numbers = pd.to_numeric(words.str.replace(",", "."), errors="coerce").to_numpy(dtype=np.float64)
        written = ~words.str.casefold().isin(UNKNOWN)
        if written.any() and np.isnan(numbers).all():
            raise StudyError(
                f"evaluate.groups.{name}: cuts are for numbers, and none of the {int(written.sum())} cells of "
                f"{group.column!r} is one. Name its parts, or correct the column."
            )
        edges = zip(group.cuts[:-1], group.cuts[1:], strict=True)
        return {
            f"{name}_{as_name(f'{low:g}')}_{as_name(f'{high:g}')}": (low <= numbers) & (numbers < high)
            for low, high in edges
        }
    if group.parts:
        plain = words.str.casefold()
        return {
            f"{name}_{part}": plain.isin([cell.strip().casefold() for cell in listed]).to_numpy()
            for part, listed in group.parts.items()
        }
    prefix = "" if group.column == "sex" else f"{name}_"
    named = {word: f"{prefix}{as_name(word)}" for word in words.unique() if word.casefold() not in UNKNOWN}
    _check_words(name, group, named, prefix)
    if len(set(named.values())) > MOST_PARTS:
        raise StudyError(
            f"evaluate.groups.{name}: the column {group.column!r} has {len(named)} different cells, expected at most "
            f'{MOST_PARTS}. Name its parts, {{ column = ..., parts = {{ a = ["..."] }} }}, or its cuts.'
        )
    of_image = words.map(named)
    return {part: (of_image == part).to_numpy(dtype=bool) for part in sorted({*named.values()})}
