"""Every model on every domain's test patients: predictions first, then all metrics from them."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dpdt.base.console import warn
from dpdt.base.files import read_json, sha256_file, sha256_once
from dpdt.base.parquet import Stamp, read_stamp, write_stamped
from dpdt.cohort.data_hashes import data_key, recorded_hashes
from dpdt.cohort.table import labels_sha256, read_cohort, read_record
from dpdt.errors import CohortError, DpdtError, StudyError
from dpdt.evaluation import metrics
from dpdt.evaluation.before import begin_given, begun_given, given_weights
from dpdt.evaluation.carried import begin_carried, begun_input
from dpdt.evaluation.metrics import DomainMetrics, Threshold
from dpdt.evaluation.predict import ALONE, predictor, read_predictions, wide
from dpdt.runs.state import read_state
from dpdt.shards.manifest import codec_differences, read_manifest
from dpdt.study import BEFORE, Study
from dpdt.study.paths import RunPaths, StudyPaths

__all__ = ["EvaluateSummary", "evaluate_run", "evaluation_done", "study_groups"]


@dataclass(frozen=True)
class EvaluateSummary:
    """What one evaluation did; printed as one line."""

    run_id: str
    domains: int
    images: int
    on_domain: float  # NaN where no test domain is the model's own
    off_domain: float
    seconds: float
    before: bool = False
    skipped: bool = False
    over: str = ""  # what the AUCs are means over, where test domains have other labels
    why_not: str = ""  # of a model before all trainings that cannot be tested

    def __str__(self) -> str:
        """One line for people."""
        if self.why_not:
            return f"{self.run_id}: no model from before the trainings is tested: {self.why_not}"
        if self.skipped:
            return f"{self.run_id}: evaluated already"
        means = f"macro AUC{self.over} on-domain {_auc_text(self.on_domain)}, off-domain {_auc_text(self.off_domain)}"
        if self.before:
            means = f"macro AUC{self.over} before all trainings {_auc_text(self.off_domain)}"
        return f"{self.run_id}: {self.images:,} images of {self.domains} domains, {means} ({self.seconds:.0f} s)"


def _auc_text(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.3f}"


def evaluation_done(study: Study, run_id: str) -> bool:
    """Whether the predictions and metrics are there, readable, and made from this study's data and settings."""
    study = study.of_run(run_id)
    paths = study.paths.run(run_id)
    given = given_weights(study, run_id)
    if given is not None:
        begun = begun_given(paths, given)
        if begun is None or begun["why_not"]:
            return begun is not None
    seen = begun_input(study, run_id) if run_id in study.carried else study
    if seen is None:
        return False
    try:
        found = read_stamp(paths.metrics)
        stamps = {domain: read_stamp(paths.predictions(domain)) for domain in study.test_domains}
        wanted = {domain: _data_stamp(seen, domain, like=stamps[domain]) for domain in study.test_domains}
    except (DpdtError, OSError, ValueError):
        return False
    if not paths.draws.exists():
        return False
    same_data = all(stamps[domain].items() >= wanted[domain].items() for domain in wanted)
    return same_data and found == {"evaluate": _settings_stamp(study), "predictions": stamps}


def evaluate_run(study: Study, run_id: str) -> EvaluateSummary:
    """Test one model on every test domain. What is done is skipped; a damaged or half set is made again.

    Args:
        study: The study.
        run_id: A finished training, the model before all of them, or another hospital's.

    Returns:
        A summary; `skipped` if everything was there. A model before all trainings that is none (weights without a head
        for the labels) has a reason instead.

    Raises:
        DpdtError: The run is unknown or its training has not finished.
        CohortError: The run was trained on another split than today's, or a patient is in two splits.
        ShardError: A test domain's shards are missing or damaged.
        BundleError: Another hospital's bundle cannot be used here.
    """
    started, study = time.monotonic(), study.of_run(run_id)
    paths = study.paths.run(run_id)
    given = given_weights(study, run_id)
    domain: str | None = None  # weights from a file or a bundle: none of the study's domains is their own
    carried = begin_carried(study, paths) if run_id in study.carried else None
    seen = carried.study if carried else study
    if carried is None and given is None:
        domain = _trained_domain(study, paths)
        _check_data(study, paths, domain)
    elif given is not None and (why_not := begin_given(study, paths, given)):
        return EvaluateSummary(run_id, 0, 0, math.nan, math.nan, 0.0, why_not=why_not)
    if evaluation_done(study, run_id):
        return _summary(study, paths, domain, seconds=0.0, skipped=True)
    weights = given or paths.weights
    made_by = {"weights": carried.weights_sha256 if carried else sha256_file(weights)}
    of_bundle: dict[str, Any] = {"score": carried.score, "labels": carried.labels} if carried else {}
    there = {name: _stamp_there(paths.predictions(name)) for name in study.test_domains}
    stamps = {
        name: _data_stamp(seen, name, like=like) | made_by | ({ALONE: like[ALONE]} if ALONE in like else {})
        for name, like in there.items()
    }
    read = {
        name: read_predictions(paths.predictions(name), stamps[name], study.study.labels) for name in study.test_domains
    }
    frames = {name: frame for name, frame in read.items() if frame is not None}
    todo = [name for name in study.test_domains if name not in frames]
    val: list[tuple[str, str]] = []
    if domain is not None:
        _warn_of_other_codecs(study.paths, domain, todo)
        val = [(domain, "val")] if (read_cohort(study, domain)["split"] == "val").any() else []
    with predictor(seen, paths, [*((name, "test") for name in todo), *val], weights=weights, **of_bundle) as predict:
        for name in todo:
            frames[name] = predict(name, "test")
            stamps[name][ALONE] = frames[name].attrs.get(ALONE, False)
            write_stamped(paths.predictions(name), frames[name], stamps[name])
        chosen = predict(*val[0]) if val else None
    thresholds = carried.thresholds() if carried else _thresholds(study, domain, chosen)
    tables = [_threshold_rows(carried.site if carried else domain or BEFORE, thresholds)]
    measured = [_domain_metrics(study, name, frames[name], thresholds) for name in study.test_domains]
    tables += [of_domain.table for of_domain in measured]
    if study.evaluate.representation and carried is None:
        from dpdt.evaluation.representation import representation_rows  # here: its training's parts load torch

        tables += representation_rows(study, run_id, weights, pd.concat(tables, ignore_index=True))
    stamp = {"evaluate": _settings_stamp(study), "predictions": stamps}
    write_stamped(paths.draws, pd.concat([of_domain.draws for of_domain in measured], ignore_index=True), stamp)
    write_stamped(paths.metrics, pd.concat(tables, ignore_index=True), stamp)
    return _summary(study, paths, domain, seconds=time.monotonic() - started, skipped=False)


def _trained_domain(study: Study, paths: RunPaths) -> str:
    """The run's train domain; an error if the training has not finished."""
    run = paths.run_id
    if not paths.config.exists():
        raise DpdtError(f"run {run}: not trained yet ({paths.config} is missing). Run `dpdt train {study.file}` first.")
    state = read_state(paths) or {}
    if state.get("status") != "finished":
        where = f"step {state.get('step', 0)} of {state.get('num_steps', 'unknown')}"
        found = f"{state.get('status', 'not started')}, {where}"
        raise DpdtError(f"run {run}: expected a finished training, found: {found}. Go on with `dpdt train`.")
    if not paths.weights.exists():
        raise DpdtError(
            f"run {run}: finished, but {paths.weights} is missing. Restore it, or move the run's folder away."
        )
    domain = str(read_json(paths.config)["domain"])
    if domain not in study.domains:
        known = ", ".join(study.domains)
        raise StudyError(f"run {run}: trained on {domain}, which is not in the study file (its domains: {known}).")
    return domain


def _check_data(study: Study, paths: RunPaths, domain: str) -> None:
    """Refuse what was trained on other patients or labels than today's, and patients on both sides of the split."""
    trained = read_json(paths.config).get("data", {})
    cohort = read_cohort(study, domain)
    plain = {"split_sha256": read_record(study, domain)["split_sha256"]}
    if any(name.startswith("labels_") for name in trained):
        plain["labels_sha256"] = labels_sha256(cohort, "train", study.study.labels)
    today = recorded_hashes(study, plain, frozen=trained)
    changed = {name.split("_")[0] for name, value in today.items() if trained.get(name) != value}
    if "split" in changed:
        raise CohortError(
            f"run {paths.run_id}: trained on another split of {domain} than that of "
            f"{study.paths.cohort_record(domain).name} (by its hash in {paths.config.name}), so its patients may be "
            "today's test patients. Restore that cohort, or move the run's folder away and train again (which spends "
            "privacy again)."
        )
    if "labels" in changed:
        raise CohortError(
            f"run {paths.run_id}: trained on other labels of {domain} than {study.paths.cohort_table(domain).name} has "
            f"today. Restore that cohort, or move the run's folder away and train again (which spends privacy again)."
        )
    tested = cohort["split"] == "test"
    shared = set(cohort.loc[tested, "patient_id"]) & set(cohort.loc[~tested, "patient_id"])
    if shared:
        raise CohortError(
            f"cohort {domain}: {len(shared)} patients are in test and in train or val; expected none. "
            f"Remove {study.paths.cohort_table(domain).name} and run `dpdt cohort` again."
        )


def _warn_of_other_codecs(paths: StudyPaths, domain: str, tested: Sequence[str]) -> None:
    """Say so where test images were decoded by other libraries than the training's: their pixels may differ."""
    manifests = {name: paths.shards(name).manifest for name in (domain, *tested)}
    if not all(file.exists() for file in manifests.values()):
        return  # what is missing is an error where it is needed
    trained = read_manifest(manifests[domain])
    for name in tested:
        different = codec_differences(trained, read_manifest(manifests[name]))
        if different:
            warn(
                f"the shards of {domain} and {name} were made with different decoders ({'; '.join(different)}), so "
                "pixels may differ by a few levels. Make both on one machine to rule that out."
            )


def _stamp_there(predictions: Path) -> Stamp:
    """The stamp of predictions, {} if there are none."""
    try:
        return read_stamp(predictions)
    except (OSError, ValueError):
        return {}


def _data_stamp(study: Study, domain: str, *, like: Stamp) -> Stamp:
    """What a domain's test images are: labels, groups and pixels too, which a corrected list or file changes.

    Pixels are left out where the shards are gone: they cannot have become others. Hashes are keyed, but where `like`,
    a stamp from before they were, has plain ones.
    """
    shards, hashes = {"shards": study.shards_fingerprint(domain)}, _data_hashes(study, domain)
    if "split" in like and "key_id" not in like:
        return shards | hashes
    key = data_key(study)
    return shards | {"key_id": key.key_id} | {name: key.hash(name, value) for name, value in hashes.items()}


def _data_hashes(study: Study, domain: str) -> dict[str, str]:
    hashes = {"split": str(read_record(study, domain)["split_sha256"])}
    hashes["cohort"] = sha256_once(study.paths.cohort_table(domain))
    manifest = study.paths.shards(domain).manifest
    return hashes | ({"pixels": read_manifest(manifest)["index"]["sha256"]} if manifest.exists() else {})


def _settings_stamp(study: Study) -> Stamp:
    """What else decides the metrics."""
    return {**study.evaluate.deciding(), "seed": study.study.seed}


def _thresholds(study: Study, domain: str | None, predictions: pd.DataFrame | None) -> dict[str, Threshold]:
    """Youden's threshold by label, from the train domain's validation patients; none where there are none."""
    if predictions is None:
        why_not = "weights from a file have no val" if domain is None else f"val of {domain}: no image"
        return dict.fromkeys(study.study.labels, Threshold(math.nan, why_not, 0, 0))
    frame = wide(predictions)
    thresholds = {}
    for label in study.study.labels:
        target = frame[f"target_{label}"].to_numpy()
        known = ~np.isnan(target)
        target, score = target[known], frame[f"score_{label}"].to_numpy()[known]
        why_not = metrics.undefined_reason(target, minimum=study.evaluate.min_subgroup_size)
        value = math.nan if why_not else metrics.youden_threshold(target, score)
        source = f"val of {domain}" + (f": {why_not}" if why_not else "")
        thresholds[label] = Threshold(value, source, len(target), int((target == 1).sum()))
    return thresholds


def _threshold_rows(domain: str, thresholds: dict[str, Threshold]) -> pd.DataFrame:
    """The thresholds as rows of metrics.parquet; `reason` holds their source."""
    return metrics.as_table(
        [
            {
                "test_domain": domain,
                "split": "val",
                "label": label,
                "subgroup": metrics.ALL,
                "metric": "threshold",
                "protocol": metrics.STRICT,
                "value": threshold.value,
                "n": threshold.n,
                "n_positive": threshold.n_positive,
                "reason": threshold.source,
            }
            for label, threshold in thresholds.items()
        ]
    )


def _domain_metrics(
    study: Study, domain: str, predictions: pd.DataFrame, thresholds: dict[str, Threshold]
) -> DomainMetrics:
    """All metrics on one test domain."""
    frame = wide(predictions)
    settings = study.evaluate
    unit = "patient_key" if settings.bootstrap_unit == "patient" else "image_id"
    weights = metrics.patient_draws(
        frame[unit].to_numpy(), draws=settings.bootstrap_draws, seed=study.study.seed, domain=domain
    )
    return metrics.measure_domain(
        frame,
        test_domain=domain,
        thresholds=thresholds,
        weights=weights,
        minimum=settings.min_subgroup_size,
        confidence=settings.confidence,
        groups=study_groups(study, domain, frame),
    )


def study_groups(study: Study, domain: str, frame: pd.DataFrame) -> metrics.Groups:
    """The groups of a test domain's images: the study's own, or the paper's.

    Args:
        study: The study.
        domain: The test domain.
        frame: One row an image: `image_id`, `sex`, `age_group`.
    """
    if not study.evaluate.groups:
        return metrics.papers_groups(frame)
    cohort = read_cohort(study, domain).set_index("image_id")
    return metrics.own_groups(study.evaluate.groups, cohort.loc[frame["image_id"]])


def _summary(study: Study, paths: RunPaths, domain: str | None, *, seconds: float, skipped: bool) -> EvaluateSummary:
    """What is in metrics.parquet, in one line."""
    table = pd.read_parquet(paths.metrics)
    macro = metrics.macro_aucs(table)
    images = table[
        (table["metric"] == "auc") & (table["label"] == metrics.AVERAGE) & (table["subgroup"] == metrics.ALL)
    ]
    before = paths.run_id == study.before_run_id
    column = "auc_common" if macro["auc_common"].notna().any() else "auc"
    averages, over = macro.loc[macro["auc"].notna(), "labels"], ""
    if averages.nunique() > 1:
        shared = len(metrics.common_labels(averages))
        over = f" over the {shared} labels that all domains have" if shared else " over each domain's own labels"
    off_domain = (macro if before else macro.drop(domain or "", errors="ignore"))[column].mean()
    return EvaluateSummary(
        run_id=paths.run_id,
        domains=len(study.test_domains),
        images=int(images["n"].sum()),
        on_domain=float(macro[column].get(domain or "", math.nan)),
        off_domain=float(off_domain),
        seconds=seconds,
        before=before,
        skipped=skipped,
        over=over,
    )
