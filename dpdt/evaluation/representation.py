"""What a training did to a network's representation, and how much of it the head uses (arXiv 2603.01098).

The representation of an image is what the head is given. Definitions: docs/evaluation.md. The linear probe is fitted on
`val` patients of the test domain, without DP; its AUC of test patients is kept, and the probe is thrown away.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpdt.base.files import read_json
from dpdt.cohort.table import read_cohort
from dpdt.errors import StudyError
from dpdt.evaluation import metrics
from dpdt.evaluation.metrics.representation import displacement, effective_dimension, probe
from dpdt.evaluation.predict import trained_network
from dpdt.shards.dataset import DomainData, load_split
from dpdt.study import Study

__all__ = ["representation_rows"]

NO_ENCODER = "the network's last layer is not given one row of numbers an image"
NO_BEGINNING = "the weights that it began with are no longer there"


def representation_rows(study: Study, run_id: str, weights: Path, tested: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows of one model, a table a test domain.

    Args:
        study: The study.
        run_id: The model's run.
        weights: Its weights.
        tested: Its metrics on all test domains, with COLUMNS: the AUC that the probe's is compared with.

    Returns:
        `displacement` and `effective_dimension` (label average), `probe_auc` and `utilisation_gap` (each label, and the
        mean over those that have both), with COLUMNS.
    """
    from dpdt.training.device import choose_device
    from dpdt.training.features import Features, split_features

    device = choose_device(study.train.device)

    def encoder(model: Any) -> Features:
        return Features(model.eval().to(device), autocast=False, images_at_once=study.train.images_at_once)

    own = encoder(trained_network(study, weights))
    beginning = None if run_id == study.before_run_id else _initial_model(study, run_id)
    initial = own if run_id == study.before_run_id else None if beginning is None else encoder(beginning)
    tables = []
    for domain in study.test_domains:
        test = load_split(study, domain, "test")
        if own.width(test.size) is None:
            tables.append(_table(domain, [_row(metric, len(test), NO_ENCODER) for metric in metrics.GEOMETRY]))
            continue
        # on disk: every model of this beginning wants them
        began = None if initial is None else split_features(study, initial, test)
        same = initial is not None and own.digest() == initial.digest()
        features = began if same and began is not None else _computed(own, test)
        rows = [
            _row("displacement", len(test), "" if began is not None else NO_BEGINNING)
            | {"value": float("nan") if began is None else displacement(features, began)},
            _row("effective_dimension", len(test)) | {"value": effective_dimension(features)},
        ]
        of_domain = tested[(tested["test_domain"] == domain) & (tested["metric"] == "auc")]
        aucs = of_domain[of_domain["subgroup"] == metrics.ALL].set_index("label")["value"]
        rows += _probed(study, domain, own, test, features, aucs)
        tables.append(_table(domain, rows))
    return tables


def _initial_model(study: Study, run_id: str) -> Any:
    """The network before the run's first step; None where the weights that it began with are no longer there."""
    from dpdt.training.run import TrainingRun
    from dpdt.training.start import initial_model

    run = TrainingRun.of(study, run_id)
    began = read_json(run.paths.config)["initial_weights"]["sha256"]
    try:
        model, initial = initial_model(run, load_split(study, run.domain, "train"))
    except StudyError:
        return None
    return model if initial["initial_weights"]["sha256"] == began else None


def _computed(encoder: Any, data: DomainData) -> NDArray[np.float32]:
    return np.concatenate(list(encoder.compute(data)))


def _probed(
    study: Study,
    domain: str,
    encoder: Any,
    test: DomainData,
    features: NDArray[np.float32],
    aucs: pd.Series,
) -> list[dict[str, Any]]:
    """AUC of the probe and what the model lacks of it, by label and on average."""
    labels, minimum = study.study.labels, study.evaluate.min_subgroup_size
    has_val = bool((read_cohort(study, domain)["split"] == "val").any())
    val = load_split(study, domain, "val") if has_val else None
    of_val = None if val is None else _computed(encoder, val)
    probes: list[dict[str, Any]] = []
    gaps: list[dict[str, Any]] = []
    for number, label in enumerate(labels):
        target = test.labels[:, number]
        known, n_positive = ~np.isnan(target), int((target == 1).sum())
        fitted = np.empty(0) if val is None else val.labels[:, number]
        fit = ~np.isnan(fitted)
        why_not = metrics.undefined_reason(target[known], minimum=minimum)
        few = metrics.undefined_reason(fitted[fit], minimum=minimum)
        why_not = why_not or (f"no probe: val of {domain}: {few}" if few else "")
        row = {"label": label, "n": int(known.sum()), "n_positive": n_positive, "reason": why_not}
        value = gap = float("nan")
        if not why_not and of_val is not None:
            score = probe(of_val[fit], fitted[fit], features[known])
            value = float(metrics.Ranking(target[known], score).measure(np.ones((len(score), 1)))["auc"][0])
            gap = value - float(aucs.get(label, float("nan")))
            row["reason"] = f"probe fitted on {int(fit.sum())} images of val of {domain}, without DP"
        probes.append({**row, "metric": "probe_auc", "value": value})
        gaps.append({**row, "metric": "utilisation_gap", "value": gap})
    both = [number for number, row in enumerate(gaps) if not np.isnan(row["value"])]
    why_not = "" if both else "no label has a probe and an AUC"
    for rows in (probes, gaps):
        mean = float(np.mean([rows[number]["value"] for number in both])) if both else float("nan")
        over = ",".join(labels[number] for number in both)
        rows.append(_row(rows[0]["metric"], len(test), why_not) | {"value": mean, "labels": over})
    return [*probes, *gaps]


def _row(metric: str, n: int, why_not: str = "") -> dict[str, Any]:
    return {"label": metrics.AVERAGE, "metric": metric, "value": float("nan"), "n": n, "reason": why_not}


def _table(domain: str, rows: list[dict[str, Any]]) -> pd.DataFrame:
    """With COLUMNS; a constant representation has no dimension."""
    blank = {"test_domain": domain, "split": "test", "subgroup": metrics.ALL, "n_positive": None}
    for row in rows:
        if row["metric"] in metrics.GEOMETRY and np.isnan(row["value"]) and not row["reason"]:
            row["reason"] = "all images have one representation, or none had a length before"
    return metrics.as_table([{**blank, **row} for row in rows])
