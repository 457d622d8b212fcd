"""Which cells of a hospital's results may leave: none that few patients stand behind, and none that gives one away.

A cell is small where fewer than a minimum of patients are positive, or fewer are negative. A small group is left out.
So is the next smallest one, as long as what is left out, which everybody can compute as the whole less what is shown,
is small itself (secondary suppression; Hundepool et al., Statistical Disclosure Control, 2012, ch. 4).
"""

from itertools import pairwise
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpdt.evaluation.metrics import ALL, ATTRIBUTES

__all__ = ["is_small", "score_bins", "shown_groups"]

BINS: Final = 20


def is_small(target: NDArray[np.float64], patients: NDArray[Any], mask: NDArray[np.bool_], minimum: int) -> bool:
    """Whether fewer than `minimum` patients of either class have an image in the mask.

    Args:
        target: 1, 0, NaN where unknown, (n,).
        patients: Of each image, (n,).
        mask: Which images, (n,).
        minimum: Patients.
    """
    return min(len(np.unique(patients[mask & (target == value)])) for value in (0, 1)) < minimum


def shown_groups(frame: pd.DataFrame, label: str, minimum: int) -> set[str]:
    """The groups (`all`, and those by sex and age) whose numbers of a label may leave; none where `all` is small.

    Args:
        frame: One row an image: `patient_key`, the attributes, `target_<label>`.
        label: Which label.
        minimum: Patients of each class.
    """
    target, patients = frame[f"target_{label}"].to_numpy(dtype=np.float64), frame["patient_key"].to_numpy()
    known = ~np.isnan(target)
    if is_small(target, patients, known, minimum):
        return set()
    shown = {ALL}
    for attribute, names in ATTRIBUTES.items():
        masks = {name: known & (frame[attribute] == name).to_numpy() for name in names}
        large = [name for name in names if not is_small(target, patients, masks[name], minimum)]
        large.sort(key=lambda name: int(masks[name].sum()), reverse=True)
        while large and _gives_away(target, patients, known & ~np.any([masks[n] for n in large], axis=0), minimum):
            large.pop()
        shown |= set(large)
    return shown


def _gives_away(target: NDArray[np.float64], patients: NDArray[Any], rest: NDArray[np.bool_], minimum: int) -> bool:
    """Whether what is not shown has patients of a class, and fewer than the minimum."""
    counts = (len(np.unique(patients[rest & (target == value)])) for value in (0, 1))
    return any(0 < count < minimum for count in counts)


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
