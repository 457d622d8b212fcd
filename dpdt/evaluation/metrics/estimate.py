"""One number of a table of metrics: its bootstrap draws or why it is undefined, its threshold, its mean over labels."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dpdt.evaluation.metrics.bootstrap import Floats
from dpdt.evaluation.metrics.names import BOTH, FEWEST_PATIENTS, NEGATIVES, POSITIVES, Threshold

__all__ = [
    "Estimate",
    "Patients",
    "average",
    "count_patients",
    "few_reason",
    "left_out",
    "threshold_reason",
    "undefined_estimate",
    "undefined_reason",
    "well_founded",
    "youden_threshold",
]

CLASSES: Final = {POSITIVES: ("positive",), NEGATIVES: ("negative",), BOTH: ("positive", "negative")}


class Patients(NamedTuple):
    """How many patients stand behind the images of a label; one with images of both classes is in both."""

    positive: int
    negative: int
    all: int


class Estimate(NamedTuple):
    """One metric of one label in one subgroup, with its bootstrap distribution."""

    value: float
    draws: Floats
    n: int
    n_positive: int | None
    reason: str
    few: str = ""  # why the draws are no distribution of it: too few patients; they are then NaN
    labels: tuple[str, ...] = ()  # of an average: over which
    compared: tuple[Floats, Floats] | None = None  # of a largest or smallest: distances and deviations of all


def count_patients(target: NDArray[Any], patients: NDArray[np.intp]) -> Patients:
    """Patients of each class.

    Args:
        target: 0 or 1, (n,).
        patients: Number of each image's patient, from 0, (n,).

    >>> count_patients(np.array([1, 1, 0, 0]), np.array([7, 7, 7, 2]))
    Patients(positive=1, negative=2, all=2)
    """

    def number(rows: NDArray[Any]) -> int:
        return int(np.count_nonzero(np.bincount(patients[rows])))

    is_positive = np.asarray(target) == 1
    return Patients(number(is_positive), number(~is_positive), number(np.ones(len(target), dtype=bool)))


def few_reason(patients: Patients, rests_on: str = BOTH) -> str:
    """Why there is no interval and no test, or an empty text: fewer than FEWEST_PATIENTS in a class.

    >>> few_reason(Patients(positive=1, negative=99, all=99))
    'positive in 1 patient, fewer than 10: no interval, no test'
    """
    counted = CLASSES.get(rests_on, ("all",))
    few = {name: number for name in counted if (number := getattr(patients, name)) < FEWEST_PATIENTS}
    words = [("" if name == "all" else f"{name} in ") + _patients(number) for name, number in few.items()]
    return f"{' and '.join(words)}, fewer than {FEWEST_PATIENTS}: no interval, no test" if words else ""


def _patients(number: int) -> str:
    return f"{number} patient{'' if number == 1 else 's'}"


def undefined_estimate(reason: str, *, draws: int, n: int) -> Estimate:
    """An estimate without a number."""
    return Estimate(float("nan"), np.full(draws, np.nan), n, None, reason)


def undefined_reason(target: NDArray[Any], *, minimum: int) -> str:
    """Why a cell has no number, or an empty text: too few images, or one class only.

    >>> undefined_reason(np.array([0, 0, 0]), minimum=2)
    'one class only: 0 of 3 images positive'
    """
    n, positive = len(target), int((target == 1).sum())
    if n == 0:
        return "no image with this label known"
    if n < minimum:
        return f"{n} images, fewer than {minimum}"
    if positive in (0, n):
        return f"one class only: {positive} of {n} images positive"
    return ""


def youden_threshold(target: NDArray[Any], score: NDArray[Any]) -> float:
    """Score that maximises sensitivity + specificity - 1 when scores at or above it are called positive.

    Of several best ones the highest is taken (the most specific). NaN if there is one class only.

    Source: Youden, Cancer 3 (1950).
    """
    order = np.argsort(-score, kind="stable")
    ranked, is_positive = score[order], np.asarray(target)[order] == 1
    if is_positive.all() or not is_positive.any():
        return float("nan")
    last = np.append(ranked[1:] != ranked[:-1], True)  # the end of each group of tied scores
    hits, false_alarms = (np.cumsum(of_class, dtype=np.float64)[last] for of_class in (is_positive, ~is_positive))
    return float(ranked[last][np.argmax(hits / hits[-1] - false_alarms / false_alarms[-1])])


def threshold_reason(threshold: Threshold) -> str:
    """Why there is no threshold, or an empty text."""
    return "" if np.isfinite(threshold.value) else f"no threshold: {threshold.source}"


def average(estimates: Mapping[str, Estimate], n: int) -> Estimate:
    """Mean over the labels that are defined and have enough patients; the reason names those left out."""
    chosen = well_founded(estimates)
    if not chosen:
        reasons = sorted({estimate.reason for estimate in estimates.values()})
        draws = len(next(iter(estimates.values())).draws)
        return undefined_estimate(f"no label is defined: {'; '.join(reasons)}", draws=draws, n=n)
    value = float(np.mean([estimate.value for estimate in chosen.values()]))
    draws_of_all = np.mean([estimate.draws for estimate in chosen.values()], axis=0)
    few = "every label has too few patients: no interval, no test" if any(e.few for e in chosen.values()) else ""
    return Estimate(value, draws_of_all, n, None, left_out(estimates, chosen), few, tuple(chosen))


def well_founded(estimates: Mapping[str, Estimate], *, at_least: int = 1) -> dict[str, Estimate]:
    """The estimates that others are computed from: those of enough patients, or all that are defined.

    A number of one or two patients is mostly chance, and its draws do not show that; what is computed from it would
    look as sure as the rest. Where fewer than `at_least` have enough patients, there is nothing better than all.
    """
    defined = {name: estimate for name, estimate in estimates.items() if not np.isnan(estimate.value)}
    enough = {name: estimate for name, estimate in defined.items() if not estimate.few}
    return enough if len(enough) >= at_least else defined


def left_out(estimates: Mapping[str, Estimate], chosen: Mapping[str, Estimate]) -> str:
    """Which estimates are not among the chosen ones, and why; an empty text if all are."""

    def names(undefined: bool) -> Sequence[str]:
        return [n for n, e in estimates.items() if n not in chosen and bool(np.isnan(e.value)) == undefined]

    parts = [("undefined", names(True)), ("too few patients", names(False))]
    return "; ".join(f"without {', '.join(found)} ({why})" for why, found in parts if found)
