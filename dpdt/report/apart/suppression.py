"""Which cells of a hospital's results may leave: none that few patients stand behind, and none that gives one away.

A cell is small where fewer than a minimum of patients are positive, or fewer are negative. A small group is left out.
So is every further group whose count, added to or taken from those that are shown, would give a small set of images
(secondary suppression; Hundepool et al., Statistical Disclosure Control, 2012, ch. 4): the whole less the shown parts,
two cuts of one column that nearly agree, a crossing that is the rest of its group.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpdt.evaluation.metrics import ALL, Groups

__all__ = ["is_small", "score_bins", "shown_groups"]

BINS: Final = 20
ROUNDING: Final = 1e-6
MOST_TRIED: Final = 4000
"""Sets of atoms that are tried; a group with which there would be more of them is left out."""

Mask = NDArray[np.bool_]


def is_small(target: NDArray[np.float64], patients: NDArray[Any], mask: Mask, minimum: int) -> bool:
    """Whether fewer than `minimum` patients of either class have an image in the mask.

    Args:
        target: 1, 0, NaN where unknown, (n,).
        patients: Of each image, (n,).
        mask: Which images, (n,).
        minimum: Patients.
    """
    return min(len(np.unique(patients[mask & (target == value)])) for value in (0, 1)) < minimum


def shown_groups(frame: pd.DataFrame, label: str, groups: Groups, minimum: int) -> set[str]:
    """The groups (`all`, and parts that models are compared on) whose numbers of a label may leave.

    Args:
        frame: One row an image: `patient_key`, `target_<label>`.
        label: Which label.
        groups: Of the frame's images.
        minimum: Patients of each class.

    Returns:
        Names of `groups`; none where `all` is small.
    """
    target, patients = frame[f"target_{label}"].to_numpy(dtype=np.float64), frame["patient_key"].to_numpy()
    known = ~np.isnan(target)
    target, patients = target[known], np.unique(patients[known], return_inverse=True)[1]
    masks = {name: mask[known] for name, mask in groups.masks.items() if name in groups.compared}
    if is_small(target, patients, masks[ALL], minimum):
        return set()
    shown, atoms = [ALL], np.zeros(len(target), dtype=np.intp)
    for parts in groups.attributes.values():
        for name in sorted(parts, key=lambda part: int(masks[part].sum()), reverse=True):
            if is_small(target, patients, masks[name], minimum):
                continue
            tried = np.unique(2 * atoms + masks[name], return_inverse=True)[1]
            table = [masks[one] for one in (*shown, name)]
            if not any(_gives_away(tried, table, patients, target == value, minimum) for value in (0, 1)):
                shown.append(name)
                atoms = tried
    return set(shown)


def _gives_away(
    atoms: NDArray[np.intp], shown: Sequence[Mask], patients: NDArray[np.intp], of_class: Mask, minimum: int
) -> bool:
    """Whether sums and differences of the shown counts give those of a set with few patients of a class, and some.

    Such a set is a union of atoms (images that are in the same shown groups), and its atoms' 0 and 1 are a linear
    combination of the groups'. In reduced row echelon form, its values at the pivots are the coefficients: so the
    sets of pivots that are small themselves are tried. The largest atoms become pivots, so that these are few.
    """
    first = np.unique(atoms, return_index=True)[1]
    people = int(patients.max()) + 1
    atom, patient = np.divmod(np.unique(atoms[of_class] * people + patients[of_class]), people)
    counts = np.bincount(atom, minlength=len(first))
    order = np.argsort(-counts, kind="stable")
    reduced, pivots = _echelon(np.stack([mask[first[order]] for mask in shown]).astype(np.float64))
    of_atom = [set(patient[atom == place].tolist()) for place in order]
    tried, stack = 0, [(0, np.zeros(len(first)), set[int]())]
    while stack:
        start, union, seen = stack.pop()
        for row in range(start, len(pivots)):
            inside = seen | of_atom[pivots[row]]
            if len(inside) >= minimum:
                continue
            tried += 1
            added = union + reduced[row]
            if np.abs(added * (added - 1)).max() < ROUNDING:
                whole = set[int]().union(*(of_atom[place] for place in np.flatnonzero(added > 0.5)))
                if 0 < len(whole) < minimum:
                    return True
            stack.append((row + 1, added, inside))
        if tried > MOST_TRIED:
            return True
    return False


def _echelon(table: NDArray[np.float64]) -> tuple[NDArray[np.float64], list[int]]:
    """Reduced row echelon form, without its empty rows, and the columns of the pivots."""
    rows, pivots = table.copy(), list[int]()
    for column in range(rows.shape[1]):
        done = len(pivots)
        if done == len(rows):
            break
        best = done + int(np.abs(rows[done:, column]).argmax())
        if abs(rows[best, column]) < ROUNDING:
            continue
        rows[[done, best]] = rows[[best, done]]
        rows[done] /= rows[done, column]
        others = np.arange(len(rows)) != done
        rows[others] -= np.outer(rows[others, column], rows[done])
        pivots.append(column)
    return rows[: len(pivots)], pivots


def score_bins(target: NDArray[Any], score: NDArray[Any], patients: NDArray[Any], minimum: int) -> list[dict[str, Any]]:
    """Scores in bins of a twentieth, joined until each has enough patients of both classes: ROC and calibration.

    Args:
        target: 1 or 0, (n,).
        score: Probabilities, (n,).
        patients: Of each image, (n,).
        minimum: Patients of each class in a bin.

    Returns:
        Bins from low to high: `low`, `high` (exclusive, but 1), `n`, `n_positive`, `mean_score` (4 decimals).
    """
    place = np.minimum((score.astype(np.float64) * BINS).astype(int), BINS - 1)
    edges, first = [0], 0
    for last in range(1, BINS + 1):
        if not is_small(target, patients, (place >= first) & (place < last), minimum):
            edges.append(last)
            first = last
    edges = [*edges[:-1], BINS] if len(edges) > 1 else []  # the last one takes what is left over
    found = []
    for low, high in pairwise(edges):
        inside = (place >= low) & (place < high)
        mean = round(float(score[inside].mean(dtype=np.float64)), 4)
        counts = {"n": int(inside.sum()), "n_positive": int((target[inside] == 1).sum())}
        found.append({"low": low / BINS, "high": high / BINS, **counts, "mean_score": mean})
    return found
