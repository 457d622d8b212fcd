"""How unequal a model is among the groups of one attribute (sex, age); definitions in docs/evaluation.md.

Every measure is a largest minus a smallest value over groups, so 0 is equality. A largest minus a smallest value is
never negative and therefore, with small groups, too large on average: the interval and the groups' n belong to it.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np

from dpdt.base.vocabulary import LABELS
from dpdt.evaluation.metrics.estimate import Cell, undefined_cell
from dpdt.evaluation.metrics.names import ATTRIBUTES, AVERAGE, FAIRNESS, STRICT, UNDERDIAGNOSIS

__all__ = ["SMALL_GROUP", "fairness_cells"]

SMALL_GROUP: Final = 100  # groups with fewer images are named beside the measure
Key = tuple[str, str, str, str]

# What each measure compares: metric and protocol.
COMPARED: Final = {
    "auc_gap": ("auc", ""),
    "worst_auc": ("auc", ""),
    "parity_difference": ("positive_rate", STRICT),
    "opportunity_difference": ("sensitivity", STRICT),
    "underdiagnosis_gap": (UNDERDIAGNOSIS, STRICT),
}


def fairness_cells(cells: Mapping[Key, Cell]) -> dict[Key, Cell]:
    """Fairness measures of every label and the average, for sex and age group.

    Args:
        cells: By label, subgroup, metric and protocol.

    Returns:
        The measures by the same key, with the attribute in the place of the subgroup. Groups without a number are left
        out and named; with fewer than two groups there is no measure. `underdiagnosis_gap` is of the label healthy.
    """
    found: dict[Key, Cell] = {}
    for attribute, groups in ATTRIBUTES.items():
        for measure in FAIRNESS:
            metric, protocol = COMPARED[measure]
            labels = ("healthy",) if metric == UNDERDIAGNOSIS else (*LABELS, AVERAGE)
            for label in labels:
                of_groups = {
                    group: _mean_of_shared(cells, group, groups, metric, protocol)
                    if label == AVERAGE
                    else cells[label, group, metric, protocol]
                    for group in groups
                }
                found[label, attribute, measure, protocol] = _compare(of_groups, measure)
    return found


def _mean_of_shared(cells: Mapping[Key, Cell], group: str, groups: tuple[str, ...], metric: str, protocol: str) -> Cell:
    """A group's mean over the labels that every group with any number has, so that groups differ in nothing else."""

    def defined(of_group: str) -> set[str]:
        return {label for label in LABELS if not np.isnan(cells[label, of_group, metric, protocol].value)}

    usable = [labels for labels in map(defined, groups) if labels]
    shared = set.intersection(*usable) if usable else set()
    whole = cells[AVERAGE, group, metric, protocol]
    if not shared or not shared <= defined(group):
        return undefined_cell("no label shared with the other groups", draws=len(whole.draws), n=whole.n)
    chosen = [cells[label, group, metric, protocol] for label in LABELS if label in shared]
    value, draws = np.mean([cell.value for cell in chosen]), np.mean([cell.draws for cell in chosen], axis=0)
    return Cell(float(value), draws, whole.n, None, "")


def _compare(of_groups: Mapping[str, Cell], measure: str) -> Cell:
    """Largest minus smallest over the groups, or the smallest, in the data and in every draw."""
    defined = {group: cell for group, cell in of_groups.items() if not np.isnan(cell.value)}
    n = sum(cell.n for cell in defined.values())
    if len(defined) < 2:
        draws = len(next(iter(of_groups.values())).draws)
        return undefined_cell(f"{len(defined)} of {len(of_groups)} groups have a number", draws=draws, n=n)
    values = np.array([cell.value for cell in defined.values()])
    drawn = np.stack([cell.draws for cell in defined.values()])
    lowest = list(defined)[int(values.argmin())]
    highest = list(defined)[int(values.argmax())]
    notes = [f"worst: {lowest}"] if measure == "worst_auc" else [f"lowest {lowest}, highest {highest}"]
    notes += [f"without {group} (undefined)" for group in of_groups if group not in defined]
    notes += [f"small: {group} (n = {cell.n})" for group, cell in defined.items() if cell.n < SMALL_GROUP]
    if measure == "worst_auc":
        return Cell(float(values.min()), drawn.min(axis=0), n, None, "; ".join(notes))
    return Cell(float(np.ptp(values)), np.ptp(drawn, axis=0), n, None, "; ".join(notes))
