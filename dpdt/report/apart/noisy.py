"""Results with differential privacy for the test patients: all numbers come from histograms with noise, and no other.

AUC, its interval, ROC curve and calibration are computed from the noisy counts (post-processing; Dwork & Roth 2014,
proposition 2.1), as Cormode & Markov 2023 (PVLDB 16, arXiv 2210.12526) do it with score histograms, and Stoddard et al.
2014 (arXiv 1411.5428) for ROC curves.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import norm

from dpdt.base.files import exclusive_lock, read_json, write_json
from dpdt.base.parquet import read_stamp
from dpdt.base.vocabulary import format_bound
from dpdt.errors import PrivacyError
from dpdt.evaluation.metrics import ALL, AVERAGE, joined_labels
from dpdt.evaluation.predict import ALONE, wide
from dpdt.privacy.accounting import check_delta
from dpdt.privacy.gaussian import gaussian_epsilon, gaussian_mu
from dpdt.privacy.keystream import KeyStream
from dpdt.privacy.score_histograms import EDGES, NUM_BINS, histogram_sensitivity, noisy_histograms, score_counts
from dpdt.runs.config import labels_of
from dpdt.runs.read import Run
from dpdt.study import Study

__all__ = ["BinnedAuc", "binned_auc", "noisy_parts", "record_export", "too_noisy"]

ROUNDING: Final = 1 / 12
"""Variance of rounding to a whole number."""
FEWEST_DEVIATIONS: Final = 3.0
"""A count that is not so many standard deviations of its noise has no ratio worth a name."""

Floats = NDArray[np.float64]


class BinnedAuc(NamedTuple):
    """An AUC and the two parts of its variance: patients that were drawn, and noise that was added."""

    auc: float
    sampling: float
    noise: float


def binned_auc(positives: NDArray[Any], negatives: NDArray[Any], *, variance: float) -> BinnedAuc:
    """The AUC of two histograms, ties within a bin counted as a half.

    Sampling: DeLong's components, each patient as if all of it were in one bin, which is never too little (Jensen).
    Noise: the first and second order of the AUC in the counts (the delta method).

    Args:
        positives: Counts from the lowest bin to the highest, (bins,).
        negatives: Likewise. Both sums are positive.
        variance: Of the noise in each count.

    >>> binned_auc(np.array([1, 3]), np.array([2, 2]), variance=0.0).auc
    0.625
    """
    p, n = positives.astype(np.float64), negatives.astype(np.float64)
    above = np.tri(len(p), k=-1) + np.eye(len(p)) / 2  # row: bin of a positive; column: bin of a negative
    of_positive, of_negative = above @ n / n.sum(), p @ above / p.sum()
    auc = float(p @ above @ n / (p.sum() * n.sum()))
    first = ((of_positive - auc) / p.sum()) ** 2, ((of_negative - auc) / n.sum()) ** 2
    mixed = (above - of_positive[:, None] - of_negative + auc) / (p.sum() * n.sum())
    sampling = max(float(p @ first[0] + n @ first[1]), 0.0)
    noise = variance * float(first[0].sum() + first[1].sum()) + variance**2 * float((mixed**2).sum())
    return BinnedAuc(min(max(auc, 0.0), 1.0), sampling, noise)


def too_noisy(counts: NDArray[Any], *, deviation: float, minimum: int) -> bool:
    """Whether the noisy count of positives or of negatives is too small for an AUC; (2, bins)."""
    return bool(counts.sum(axis=1).min() < max(minimum, FEWEST_DEVIATIONS * deviation * math.sqrt(NUM_BINS)))


def _check_alone(run: Run, domain: str) -> None:
    """The counts' sensitivity is that of one patient's own scores.

    Raises:
        PrivacyError: A score depends on other images, or nobody looked.
    """
    alone = read_stamp(run.paths.predictions(domain)).get(ALONE)
    if alone is None:
        raise PrivacyError(
            f"{run.paths.run_id}: its predictions on {domain} are of an older dpdt, which tested the last images in a "
            f"smaller piece. Remove {run.paths.predictions(domain)} and run `dpdt evaluate` again."
        )
    if not alone:
        raise PrivacyError(
            f"{run.paths.run_id}: this network's score of an image depends on the images that are tested with it, so "
            "no noise hides a test patient. Export without --epsilon, or without this model."
        )


def noisy_parts(
    study: Study, runs: Sequence[Run], rename: Mapping[str, str], *, epsilon: float, delta: float, minimum: int
) -> dict[str, Any]:
    """The parts of a results file that are of test patients; the export is recorded before any noise is drawn.

    Args:
        study: The study.
        runs: Its tested models, in the order of their numbers.
        rename: Names of domains for others.
        epsilon: Of all numbers together, for a patient of one test domain.
        delta: Likewise, below 1 / patients of any test domain.
        minimum: Positive and negative patients, by the noisy counts, behind an AUC.

    Returns:
        `noise`, `privacy`, `auc`, `bins`, `noisy_bins`, `pairs` of the file.

    Raises:
        PrivacyError: No such epsilon or delta.
    """
    mu = gaussian_mu(epsilon, delta=delta)
    counted: dict[tuple[str, int], dict[str, NDArray[np.int64]]] = {}
    for domain in study.test_domains:
        defined, keys = {label for label, made in study.definitions(domain).items() if made}, set[str]()
        for number, run in enumerate(runs):
            _check_alone(run, domain)
            frame = wide(pd.read_parquet(run.paths.predictions(domain)))
            patients, names = pd.factorize(frame["patient_key"])
            keys.update(names)
            counted[domain, number] = {
                label: score_counts(
                    frame[f"target_{label}"].to_numpy(np.float64), frame[f"score_{label}"].to_numpy(), patients
                )
                for label in study.study.labels
                if label in defined and label in labels_of(run.config)
            }
        check_delta(delta, units=len(keys))
    histograms = max(
        sum(len(found) for (name, _), found in counted.items() if name == domain) for domain in study.test_domains
    )
    deviation = histogram_sensitivity(histograms) / mu
    exports, of_all = record_export(study, mu=mu, delta=delta)
    source, auc, bins = KeyStream.fresh(), list[dict[str, Any]](), list[dict[str, Any]]()
    for (domain, number), found in counted.items():
        if not found:
            continue
        drawn = noisy_histograms(np.stack(list(found.values())), deviation=deviation, noise=source)
        noisy = dict(zip(found, drawn, strict=True))
        head = {"model": number, "test_domain": rename.get(domain, domain)}
        auc += [{**head, **row} for row in _auc_rows(noisy, deviation, minimum, study.evaluate.confidence)]
        bins += [{**head, "label": name, **row} for name, counts in noisy.items() for row in _bins(counts, deviation)]
    statement = {"epsilon": epsilon, "delta": delta, "unit": "patient", "histograms": histograms}
    statement |= {"deviation": deviation, "exports": exports, "epsilon_of_all_exports": of_all}
    return {"noise": _words(statement), "privacy": statement, "auc": auc, "bins": [], "noisy_bins": bins, "pairs": []}


def record_export(study: Study, *, mu: float | None, delta: float | None) -> tuple[int, float | None]:
    """Record that results leave; None: without noise.

    Returns:
        How many exports of this study there are now, and the epsilon of all of them at the given delta (Gaussian
        mechanisms compose as the root of the sum of their mu's squares: Dong, Roth & Su 2022, arXiv 1905.02383,
        corollary 3.3); None where one was without noise.
    """
    file = study.paths.test_releases
    with exclusive_lock(file.with_suffix(".lock")):
        known = read_json(file) if file.exists() else []
        known.append({"time": datetime.now(UTC).isoformat(timespec="seconds"), "mu": mu, "delta": delta})
        write_json(file, known)
    spent = [one["mu"] for one in known]
    if delta is None or None in spent:
        return len(known), None
    return len(known), gaussian_epsilon(math.hypot(*spent), delta=delta)


def _auc_rows(
    noisy: Mapping[str, NDArray[np.int64]], deviation: float, minimum: int, confidence: float
) -> list[dict[str, Any]]:
    """AUCs of one model on one test domain, and their mean."""
    quantile, found, rows = float(norm.ppf((1 + confidence) / 2)), dict[str, BinnedAuc](), list[dict[str, Any]]()

    def add(label: str, auc: float, error: float, **more: Any) -> None:
        bounds = {"ci_low": max(auc - quantile * error, 0.0), "ci_high": min(auc + quantile * error, 1.0)}
        head = {"label": label, "subgroup": ALL, "auc": auc}
        rows.append({**head, **bounds, "standard_error": error, **more})

    for label, counts in noisy.items():
        if too_noisy(counts, deviation=deviation, minimum=minimum):
            continue
        one = found[label] = binned_auc(*counts, variance=deviation**2 + ROUNDING)
        n_positive, n_negative = counts.sum(axis=1).tolist()
        error = math.sqrt(one.sampling + one.noise)
        add(label, one.auc, error, n=n_positive + n_negative, n_positive=n_positive, labels="")
    if found:
        # labels share patients, at worst wholly; their noise is independent
        sampling = float(np.mean([math.sqrt(one.sampling) for one in found.values()]))
        error = math.hypot(sampling, math.sqrt(sum(one.noise for one in found.values())) / len(found))
        mean = float(np.mean([one.auc for one in found.values()]))
        add(AVERAGE, mean, error, n=None, n_positive=None, labels=joined_labels(list(found)))
    return rows


def _bins(counts: NDArray[np.int64], deviation: float) -> list[dict[str, Any]]:
    """Noisy counts of each bin; calling its scores and those above positive, sensitivity and specificity."""
    edges, totals = [0.0, *EDGES, 1.0], counts.sum(axis=1)
    rows = []
    for place, (positives, negatives) in enumerate(counts.T.tolist()):
        rates = dict.fromkeys(("sensitivity", "specificity", "observed"))
        if not too_noisy(counts, deviation=deviation, minimum=1):
            rates["sensitivity"] = _part(int(counts[0, place:].sum()), int(totals[0]))
            rates["specificity"] = _part(int(counts[1, :place].sum()), int(totals[1]))
        if positives + negatives > FEWEST_DEVIATIONS * deviation * math.sqrt(2):
            rates["observed"] = _part(positives, positives + negatives)
        span = {"low": edges[place], "high": edges[place + 1]}
        rows.append({**span, "positives": positives, "negatives": negatives, **rates})
    return rows


def _part(count: int, total: int) -> float:
    return round(min(max(count / total, 0.0), 1.0), 4)


def _words(statement: Mapping[str, Any]) -> str:
    """The guarantee in sentences."""
    of_all = statement["epsilon_of_all_exports"]
    together = (
        "one of them had no noise, and no guarantee covers it"
        if of_all is None
        else f"epsilon of all together {format_bound(of_all, digits=4)}"
    )
    return (
        f"All numbers of test patients in this file together are (epsilon {format_bound(statement['epsilon'])}, delta "
        f"{statement['delta']:g})-differentially private for a patient of one test domain (neighbours: the patient's "
        f"images are there or not): scores counted in {NUM_BINS} bins for {statement['histograms']} pairs of a model "
        f"and a label, with Gaussian noise of {statement['deviation']:.4g} patients; the rest is computed from these "
        "counts. "
        "Each patient weighs the same. Intervals include the noise. "
        f"Export {statement['exports']} of this study: {together}. Epsilon of the models is for their train patients."
    )
