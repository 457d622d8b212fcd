"""How unequal a model is among the groups of one attribute (sex, age, …); definitions in docs/evaluation.md.

Every measure is a largest minus a smallest value over groups, so 0 is equality. A largest minus a smallest value is
never negative and therefore, with small groups, too large on average: the interval (`extreme_interval`) and the groups'
n belong to it.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from dpdt.base.vocabulary import healthy_label
from dpdt.evaluation.metrics.estimate import Estimate, left_out, undefined_estimate, well_founded
from dpdt.evaluation.metrics.names import AVERAGE, FAIRNESS, STRICT, UNDERDIAGNOSIS

__all__ = ["SMALL_GROUP", "fairness_estimates"]

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


def fairness_estimates(
    estimates: Mapping[Key, Estimate], *, labels: Sequence[str], attributes: Mapping[str, tuple[str, ...]]
) -> dict[Key, Estimate]:
    """Fairness measures of every label and the average, for each attribute.

    Args:
        estimates: By label, subgroup, metric and protocol.
        labels: The study's.
        attributes: Each with its groups.

    Returns:
        The measures by the same key, with the attribute in the place of the subgroup. Groups without a number are left
        out and named; with fewer than two groups there is no measure. `underdiagnosis_gap` is of the healthy label.
    """
    found: dict[Key, Estimate] = {}
    healthy = healthy_label(labels)
    for attribute, groups in attributes.items():
        for measure in FAIRNESS if groups else ():
            metric, protocol = COMPARED[measure]
            of_measure = (*labels, AVERAGE)
            if metric == UNDERDIAGNOSIS:
                of_measure = () if healthy is None else (healthy,)
            for label in of_measure:
                of_groups = {
                    group: _mean_of_shared(estimates, group, groups, metric, protocol, labels)
                    if label == AVERAGE
                    else estimates[label, group, metric, protocol]
                    for group in groups
                }
                found[label, attribute, measure, protocol] = _compare(of_groups, measure)
    return found


def _mean_of_shared(
    estimates: Mapping[Key, Estimate],
    group: str,
    groups: tuple[str, ...],
    metric: str,
    protocol: str,
    labels: Sequence[str],
) -> Estimate:
    """A group's mean over the labels that every group with any number has, so that groups differ in nothing else."""
    of_groups = {
        one: well_founded({label: estimates[label, one, metric, protocol] for label in labels}) for one in groups
    }
    usable = [set(labels) for labels in of_groups.values() if labels]
    shared = set.intersection(*usable) if usable else set()
    whole = estimates[AVERAGE, group, metric, protocol]
    if not shared or not shared <= set(of_groups[group]):
        return undefined_estimate("no label shared with the other groups", draws=len(whole.draws), n=whole.n)
    chosen = {label: estimate for label, estimate in of_groups[group].items() if label in shared}
    value = np.mean([estimate.value for estimate in chosen.values()])
    draws = np.mean([estimate.draws for estimate in chosen.values()], axis=0)
    few = next((estimate.few for estimate in chosen.values() if estimate.few), "")
    return Estimate(float(value), draws, whole.n, None, "", few, tuple(chosen))


def _compare(of_groups: Mapping[str, Estimate], measure: str) -> Estimate:
    """Largest minus smallest over the groups, or the smallest, in the data and in every draw."""
    defined = well_founded(of_groups, at_least=2)
    n = sum(estimate.n for estimate in defined.values())
    if len(defined) < 2:
        draws = len(next(iter(of_groups.values())).draws)
        return undefined_estimate(f"{len(defined)} of {len(of_groups)} groups have a number", draws=draws, n=n)
    values = np.array([estimate.value for estimate in defined.values()])
    drawn = np.stack([estimate.draws for estimate in defined.values()])
    lowest = list(defined)[int(values.argmin())]
    highest = list(defined)[int(values.argmax())]
    notes = [f"worst: {lowest}"] if measure == "worst_auc" else [f"lowest {lowest}, highest {highest}"]
    notes += filter(None, [left_out(of_groups, defined)])
    notes += [f"small: {group} (n = {estimate.n})" for group, estimate in defined.items() if estimate.n < SMALL_GROUP]
    worst = measure == "worst_auc"
    value, draws_of_it = (values.min(), drawn.min(axis=0)) if worst else (np.ptp(values), np.ptp(drawn, axis=0))
    few = "a group has too few patients: no interval, no test" if any(e.few for e in defined.values()) else ""
    labels = next(iter(defined.values())).labels
    deviations = drawn - values[:, None]
    if worst:
        distances = values - value
    else:
        one, other = np.triu_indices(len(values), 1)  # the gap is the largest difference of two groups
        distances, deviations = value - np.abs(values[one] - values[other]), deviations[one] - deviations[other]
    compared = (distances, deviations)
    return Estimate(float(value), draws_of_it, n, None, "; ".join(notes), few, labels, compared)
