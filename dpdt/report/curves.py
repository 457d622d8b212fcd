"""ROC and precision–recall curves, calibration and score histograms of test patients: aggregates, never one person.

Scores are cut into pieces of at least FEWEST_PATIENTS patients, and all that is shown are sums over pieces: between two
points of a curve, and in each group of a calibration plot, there are so many. A bar of a histogram with fewer patients
is withheld. A label with fewer images than `evaluate.min_subgroup_size`, or fewer patients of a class, has no figure.
Bands are pointwise percentiles of the patients' bootstrap draws that all models of a study share.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpdt.base.vocabulary import MAIN_LABELS
from dpdt.evaluation.metrics import (
    FEWEST_PATIENTS,
    Recalibration,
    count_patients,
    few_reason,
    patient_draws,
    recalibration,
    undefined_reason,
)
from dpdt.evaluation.predict import wide
from dpdt.report.grid import Grid
from dpdt.runs.read import Run, model_runs
from dpdt.study import Study, is_before

__all__ = ["Curves", "curves_of", "measured"]

Floats = NDArray[np.float64]
PIECES: Final = 60
GROUPS: Final = 10  # of a calibration plot
BARS: Final = 20  # of a histogram
BAND_DRAWS: Final = 200  # of the study's draws, the first: enough for a band, and a curve is 50 numbers
AXIS: Final = np.linspace(0, 1, 51)


@dataclass(frozen=True)
class Curves:
    """One model's scores of one label on one test domain.

    Attributes:
        target_epsilon: The model's arm.
        train_domain: Where it was trained.
        test_domain: Whose patients.
        label: Which label.
        n: Images.
        n_positive: Positive ones.
        roc: `false_positive_rate, sensitivity, low, high`.
        recall: `recall, precision, low, high`.
        calibration: `score, observed, low, high, images`.
        recalibration: Intercept and slope.
        histogram: `low, high, positive, negative`: parts of the class; NaN where withheld.
    """

    target_epsilon: float
    train_domain: str
    test_domain: str
    label: str
    n: int
    n_positive: int
    roc: pd.DataFrame
    recall: pd.DataFrame
    calibration: pd.DataFrame
    recalibration: Recalibration
    histogram: pd.DataFrame

    def table(self, name: str) -> pd.DataFrame:
        """One of its tables with the model's names in front."""
        head = {"label": self.label, "target_epsilon": self.target_epsilon, "train_domain": self.train_domain}
        part: pd.DataFrame = getattr(self, name)
        found = part.assign(**head, test_domain=self.test_domain)  # type: ignore[arg-type]
        return found[[*head, "test_domain", *part.columns]]


def curves_of(study: Study, grid: Grid) -> list[Curves]:
    """Of each test domain, the model that was trained there (else at the first domain), first seed, in every arm."""
    runs = {cell: run for cell, run in model_runs(study).items() if run and run.metrics_footer() is not None}
    found = []
    for domain in study.test_domains:
        trainer = domain if any(cell.domain == domain for cell in runs) else next(iter(grid.train_domains), "")
        drawn, weights = np.empty(0), np.empty(0, np.uint8)
        for epsilon in grid.epsilons:
            of_arm = [
                (cell.seed, cell.domain, run)
                for cell, run in runs.items()
                if cell.target_epsilon == epsilon and (is_before(epsilon) or cell.domain == trainer)
            ]
            if not of_arm:
                continue
            _, name, run = min(of_arm, key=lambda one: one[0])
            frame = _scores(run, domain, study.study.labels[:MAIN_LABELS])
            if frame is None:
                continue
            units = frame["patient_key" if study.evaluate.bootstrap_unit == "patient" else "image_id"].to_numpy()
            if not np.array_equal(units, drawn):  # the arms have them in common
                draws = min(BAND_DRAWS, study.evaluate.bootstrap_draws)
                drawn, weights = units, patient_draws(units, draws=draws, seed=study.study.seed, domain=domain)
            found += list(_of_frame(study, frame, weights, (epsilon, name, domain)))
    return found


def _scores(run: Run, domain: str, labels: tuple[str, ...]) -> pd.DataFrame | None:
    try:
        chosen = pd.read_parquet(run.paths.predictions(domain), filters=[("label", "in", list(labels))])
        return wide(chosen)
    except (OSError, ValueError, KeyError):
        return None  # `dpdt evaluate` repairs it; the page names models without numbers


def _of_frame(
    study: Study, frame: pd.DataFrame, weights: NDArray[np.uint8], names: tuple[float, str, str]
) -> Iterator[Curves]:
    patients = np.unique(frame["patient_key"].to_numpy(), return_inverse=True)[1]
    for label in study.study.labels[:MAIN_LABELS]:
        target = frame[f"target_{label}"].to_numpy(dtype=np.float64)
        known = np.flatnonzero(~np.isnan(target))
        target, who = target[known], patients[known]
        few = undefined_reason(target, minimum=study.evaluate.min_subgroup_size)
        if few or few_reason(count_patients(target, who)):
            continue
        score = frame[f"score_{label}"].to_numpy()[known]
        tables = measured(target, score, who, weights[known], study.evaluate.confidence)
        yield Curves(*names, label, len(target), int(target.sum()), **tables)


def measured(
    target: Floats, score: NDArray[Any], patients: NDArray[np.intp], weights: NDArray[np.uint8], confidence: float
) -> dict[str, Any]:
    """The tables of `Curves`.

    Args:
        target: 1 or 0, (n,).
        score: Probabilities, (n,).
        patients: Number of each image's patient, (n,).
        weights: Multiplicity of each image in each draw, (n, draws).
        confidence: Of the bands, in (0, 1).
    """
    piece = _pieces(target, score, patients)
    sums = _sums(target, piece, weights)
    return {
        "roc": _roc(sums, confidence),
        "recall": _recall(sums, confidence),
        "calibration": _calibration(sums, piece, score, confidence),
        "recalibration": recalibration(target, score, patients),
        "histogram": _histogram(target, score, patients),
    }


def _pieces(target: Floats, score: NDArray[Any], patients: NDArray[np.intp]) -> NDArray[np.intp]:
    """Number of each image's piece, 0 the highest scores: equal scores together, enough patients in each."""
    distinct, tie = np.unique(-score.astype(np.float64), return_inverse=True)
    share = np.where(target == 1, 0.5 / target.sum(), 0.5 / (len(target) - target.sum()))
    place = np.cumsum(np.bincount(tie, share, minlength=len(distinct)))
    fine = np.minimum((place * PIECES).astype(int), PIECES - 1)[tie]
    whole, seen, number = np.zeros(PIECES, dtype=np.intp), set[int](), 0
    for one in range(PIECES):
        whole[one] = number
        seen |= set(patients[fine == one].tolist())
        if len(seen) >= FEWEST_PATIENTS:
            number, seen = number + 1, set()
    if number:
        whole = np.minimum(whole, number - 1)  # the last one takes what is left over
    merged: NDArray[np.intp] = whole[fine]
    return merged


def _sums(target: Floats, piece: NDArray[np.intp], weights: NDArray[np.uint8]) -> Floats:
    """Images by class (0, 1), piece and draw, (2, pieces, 1 + draws); the first is of the data themselves."""
    from scipy.sparse import csr_array

    count = int(piece.max()) + 1
    rows = piece + count * (target == 1)
    one_hot = csr_array((np.ones(len(rows), dtype=np.float32), (rows, np.arange(len(rows)))), (2 * count, len(rows)))
    drawn = one_hot @ np.column_stack([np.ones(len(rows), dtype=np.float32), weights.astype(np.float32)])
    return np.asarray(drawn, dtype=np.float64).reshape(2, count, -1)


def _band(of_draws: Floats, confidence: float) -> tuple[Floats, Floats]:
    """Pointwise percentiles along the last axis; NaN without draws."""
    if of_draws.shape[-1] == 0:
        empty = np.full(of_draws.shape[0], np.nan)
        return empty, empty
    low, high = np.nanquantile(of_draws, [(1 - confidence) / 2, (1 + confidence) / 2], axis=-1)
    return low, high


def _roc(sums: Floats, confidence: float) -> pd.DataFrame:
    count = sums.sum(axis=1, keepdims=True)
    rates = np.cumsum(sums / np.maximum(count, 1), axis=1)
    alarms, hits = (np.concatenate([np.zeros((1, sums.shape[2])), one]) for one in rates)
    on_axis = np.column_stack([np.interp(AXIS, alarms[:, d], hits[:, d]) for d in range(sums.shape[2])])
    low, high = _band(on_axis[:, 1:], confidence)
    return pd.DataFrame({"false_positive_rate": AXIS, "sensitivity": on_axis[:, 0], "low": low, "high": high})


def _recall(sums: Floats, confidence: float) -> pd.DataFrame:
    negative, positive = np.cumsum(sums, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = positive / (positive + negative), positive / positive[-1]
    axis = AXIS[float(recall[0, 0]) <= AXIS]
    on_axis = np.column_stack([_at(axis, recall[:, d], precision[:, d]) for d in range(sums.shape[2])])
    low, high = _band(on_axis[:, 1:], confidence)
    return pd.DataFrame({"recall": axis, "precision": on_axis[:, 0], "low": low, "high": high})


def _at(axis: Floats, recall: Floats, precision: Floats) -> Floats:
    good = ~np.isnan(precision) & ~np.isnan(recall)
    return np.interp(axis, recall[good], precision[good]) if good.any() else np.full(len(axis), np.nan)


def _calibration(sums: Floats, piece: NDArray[np.intp], score: NDArray[Any], confidence: float) -> pd.DataFrame:
    """Neighbouring pieces together, until each has about a tenth of the images."""
    images = sums[:, :, 0].sum(axis=0)
    middle = (np.cumsum(images) - images / 2) / images.sum()
    group = np.unique((middle * GROUPS).astype(int), return_inverse=True)[1]
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    negative, positive = np.add.reduceat(sums, starts, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        observed = positive / (positive + negative)
    low, high = _band(observed[:, 1:], confidence)
    of_image = group[piece]
    mean = np.bincount(of_image, score.astype(np.float64)) / np.bincount(of_image)
    whole = np.add.reduceat(images, starts).astype(np.int64)
    columns = {"score": mean, "observed": observed[:, 0], "low": low, "high": high, "images": whole}
    return pd.DataFrame(columns)[::-1].reset_index(drop=True)


def _histogram(target: Floats, score: NDArray[Any], patients: NDArray[np.intp]) -> pd.DataFrame:
    bar = np.clip((score.astype(np.float64) * BARS).astype(int), 0, BARS - 1)
    found: dict[str, Any] = {"low": np.arange(BARS) / BARS, "high": (np.arange(BARS) + 1) / BARS}
    for name, value in (("positive", 1), ("negative", 0)):
        chosen = target == value
        parts = np.bincount(bar[chosen], minlength=BARS) / max(chosen.sum(), 1)
        people = np.array([len(np.unique(patients[chosen & (bar == one)])) for one in range(BARS)])
        found[name] = np.where((people > 0) & (people < FEWEST_PATIENTS), math.nan, parts)
    return pd.DataFrame(found)
