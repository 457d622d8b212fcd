"""A hospital's results as they leave it: aggregates alone, that a person can read whole.

Nothing but what `export_results` lists goes in: AUCs with intervals and standard errors, counts, scores in bins, and
which models they are of. No patient, image or path. Format: docs/apart.md.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from pandas.util import hash_pandas_object
from pydantic import TypeAdapter

from dpdt.base.files import fingerprint
from dpdt.base.machine import __version__
from dpdt.bundle.export import run_weights
from dpdt.bundle.manifest import check_site, recorded_input
from dpdt.bundle.model import weights_sha256
from dpdt.errors import StudyError
from dpdt.evaluation.evaluate import evaluation_done, study_groups
from dpdt.evaluation.metrics import ALL, AVERAGE, FEWEST_PATIENTS, Groups, auc_influence, standard_error
from dpdt.evaluation.predict import wide
from dpdt.report.apart.file import FORMAT, NOISY_FORMAT, OWN_LIST, unreadable
from dpdt.report.apart.noisy import noisy_parts, record_export
from dpdt.report.apart.suppression import score_bins, shown_groups
from dpdt.report.compare import compare_models
from dpdt.report.intervals import Draws
from dpdt.report.tables import auc_by_run, missing_runs, stale_runs
from dpdt.runs.read import Run, is_synthetic, model_runs
from dpdt.shards.manifest import read_manifest
from dpdt.study import BEFORE, Cell, Study, is_before

__all__ = ["MINIMUM", "export_results", "left_out"]

MINIMUM: Final = FEWEST_PATIENTS
"""Patients of each class behind every number: with fewer there is no interval either (docs/evaluation.md)."""
NO_NOISE: Final = "No noise was added: epsilon of the models' statements is for their train patients, not for these."
POLICIES: Final = ("kind", "uncertain", "contradictions", "readers", "sublabels")


def export_results(
    study: Study,
    *,
    site: str | None = None,
    minimum: int = MINIMUM,
    epsilon: float | None = None,
    delta: float | None = None,
) -> dict[str, Any]:
    """What leaves the hospital.

    Args:
        study: The study; its models are tested.
        site: The hospital's name for others. A single domain has it, too; several keep theirs. Default: the first
            test domain's.
        minimum: Patients of each class behind every number; at least MINIMUM.
        epsilon: Budget of the test patients for all numbers together; None: exact numbers, without a guarantee.
        delta: Of that budget; default: the study's.

    Returns:
        JSON-like, as `Results` has it.

    Raises:
        StudyError: No model is tested, the minimum is too small, the site is no name, or nobody could read the
            results.
        PrivacyError: No such epsilon or delta.
    """
    study = study.one_view()
    if minimum < MINIMUM:
        raise StudyError(f"--minimum: expected at least {MINIMUM} patients of each class, got {minimum}.")
    rename = _rename(study, site)
    runs = [run for run in model_runs(study).values() if run and evaluation_done(study, run.run_id)]
    runs = [run for run in runs if run.metrics() is not None]
    if not runs:
        raise StudyError(f"{study.file}: no model is tested with the study as it is. Run `dpdt evaluate {study.file}`.")
    labels = study.study.labels
    if epsilon is not None:
        delta = study.privacy.delta if delta is None else delta
        parts = noisy_parts(study, runs, rename, epsilon=epsilon, delta=delta, minimum=minimum)
    elif delta is not None:
        raise StudyError("--delta: there is no noise without --epsilon. Give both, or neither.")
    else:
        parts = _exact_parts(study, runs, rename, minimum)
    found = {
        "format": FORMAT if epsilon is None else NOISY_FORMAT,
        "site": site or next(iter(study.test_domains)),
        "synthetic": is_synthetic(study),
        "minimum": minimum,
        "noise": NO_NOISE,
        "labels": list(labels),
        "policies": {rename.get(name, name): _policies(study, name) for name in study.test_domains},
        "definitions": {rename.get(name, name): _definitions(study, name) for name in study.test_domains},
        "input": recorded_input(study.shards),
        "versions": _versions(study),
        "evaluation": _evaluation(study),
        "models": [_model(study, run, number, rename) for number, run in enumerate(runs)],
        **parts,
    }
    wrong = unreadable(found)
    if wrong:
        raise StudyError(f"{study.file}: no other hospital could read these results: {wrong}. Rename it in the study.")
    return found


def _exact_parts(study: Study, runs: Sequence[Run], rename: Mapping[str, str], minimum: int) -> dict[str, Any]:
    """AUCs, bins and pairs without noise, small cells left out."""
    table, labels = auc_by_run(study), study.study.labels
    rows: list[dict[str, Any]] = []
    bins: list[dict[str, Any]] = []
    known: dict[tuple[str, str, bytes], set[str]] = {}
    for number, run in enumerate(runs):
        for domain in study.test_domains:
            frame = wide(pd.read_parquet(run.paths.predictions(domain)))
            own = table[(table["run_id"] == run.run_id) & (table["test_domain"] == domain)]
            head = {"model": number, "test_domain": rename.get(domain, domain)}
            groups = study_groups(study, domain, frame)
            shown = {}
            for label in labels:
                images = hash_pandas_object(frame[["image_id", f"target_{label}"]], index=False).to_numpy().tobytes()
                if (domain, label, images) not in known:  # most models have the same images and labels
                    known[domain, label, images] = shown_groups(frame, label, groups, minimum)
                shown[label] = known[domain, label, images]
            rows += [{**head, **row} for row in _auc_rows(frame, own, groups, shown, study.evaluate.bootstrap_unit)]
            bins += [{**head, "label": label, **one} for label in labels for one in _bins(frame, label, shown, minimum)]
    pairs = _pairs(study, {Cell(*run.cell[:3]): number for number, run in enumerate(runs)}, rows, rename)
    record_export(study, mu=None, delta=None)
    return {"auc": rows, "bins": bins, "pairs": pairs}


def left_out(study: Study, found: Mapping[str, Any]) -> list[str]:
    """What of the study's AUCs is not in its results, and why: for the hospital's own eyes, a line each.

    Args:
        study: The study.
        found: From `export_results`.
    """
    table = auc_by_run(study)
    there = table[table["auc"].notna() & ~table["run_id"].isin(stale_runs(study))]
    sent = pd.DataFrame(found["auc"], columns=["test_domain", "label", "subgroup"]).value_counts()
    rename = _rename(study, found["site"])
    lines = []
    for (domain, label), part in there.groupby(["test_domain", "label"], sort=False):
        name = rename.get(str(domain), str(domain))
        counts = part["subgroup"].value_counts(sort=False)
        few = [str(group) for group, n in counts.items() if n > sent.get((name, label, group), 0)]
        if few:
            lines.append(f"{name}, {label}: {', '.join(few)} (few patients, or it would give away few)")
    if found.get("privacy"):
        few_of = {(row["model"], row["test_domain"], row["label"]) for row in found["noisy_bins"]}
        few_of -= {(row["model"], row["test_domain"], row["label"]) for row in found["auc"]}
        names = [f"model {model} on {domain}, {label}" for model, domain, label in sorted(few_of)]
        lines = [
            "groups, images, exact bins and AUCs, bootstrap intervals, comparisons of pairs (not counted with noise)"
        ]
        lines += [f"AUC of {name} (too few patients for this noise)" for name in names]
    missing = [(run_id, "not tested with the study as it is") for run_id in stale_runs(study)] + missing_runs(study)
    return lines + [f"{run_id}: {why}" for run_id, why in missing]


def _rename(study: Study, site: str | None) -> dict[str, str]:
    check_site(site)
    if site is None:
        return {}
    own = set(study.train_domains) | set(study.test_domains)
    return {own.pop(): site} if len(own) == 1 else {}


def _model(study: Study, run: Run, number: int, rename: Mapping[str, str]) -> dict[str, Any]:
    carried, statement = run.kind == "bundle", run.privacy() or {}
    before = is_before(run.target_epsilon)
    guaranteed = run.private and statement.get("randomness") != "seeded"
    if carried:
        weights = run.config["bundle"]["weights_sha256"]
    elif run.kind == BEFORE:
        weights = run.config["initial_weights"]["sha256"]  # of the file that was given
    else:
        weights = weights_sha256(run_weights(study, run))
    return {
        "model": number,
        "train_domain": BEFORE if before else run.domain if carried else rename.get(run.domain, run.domain),
        "target_epsilon": _finite(run.target_epsilon),
        "seed": 0 if before else run.seed,
        "unit": run.unit,
        "epsilon": _finite(statement.get("epsilon")) if guaranteed else None,
        "delta": _finite(statement.get("delta")) if guaranteed else None,
        "weights_sha256": weights,
        "carried": carried,
    }


def _auc_rows(
    frame: pd.DataFrame, own: pd.DataFrame, groups: Groups, shown: Mapping[str, set[str]], unit: str
) -> list[dict[str, Any]]:
    """The AUCs of one model on one test domain that may leave."""
    rows = []
    for row in own.to_dict("records"):
        label, subgroup, names = row["label"], row["subgroup"], str(row["labels"])
        over = names.split(",") if label == AVERAGE else [label]
        if math.isnan(row["auc"]) or not all(subgroup in shown.get(name, ()) for name in over):
            continue
        counts = dict.fromkeys(("n", "n_positive"))
        if label != AVERAGE:
            counts = {"n": int(row["n"]), "n_positive": int(row["n_positive"])}
        bounds = {name: _finite(row[name]) for name in ("ci_low", "ci_high")}
        error = _finite(_standard_error(frame[groups.masks[subgroup]], over, unit))
        head = {"label": label, "subgroup": subgroup, "auc": float(row["auc"])}
        rows.append({**head, **bounds, "standard_error": error, **counts, "labels": names if label == AVERAGE else ""})
    return rows


def _standard_error(part: pd.DataFrame, labels: list[str], unit: str) -> float:
    """DeLong's, summed by patient, of the mean AUC of some labels."""
    key = part["patient_key" if unit == "patient" else "image_id"].to_numpy()
    units = np.unique(key, return_inverse=True)[1]
    count = int(units.max()) + 1 if len(units) else 0
    influences = []
    for label in labels:
        target = part[f"target_{label}"].to_numpy(dtype=np.float64)
        known = ~np.isnan(target)
        influences.append(
            auc_influence(target[known], part[f"score_{label}"].to_numpy()[known], units[known], count)[1]
        )
    return standard_error(np.mean(influences, axis=0))


def _bins(frame: pd.DataFrame, label: str, shown: Mapping[str, set[str]], minimum: int) -> list[dict[str, Any]]:
    if ALL not in shown[label]:
        return []
    target = frame[f"target_{label}"].to_numpy(dtype=np.float64)
    known = ~np.isnan(target)
    patients, score = frame["patient_key"].to_numpy()[known], frame[f"score_{label}"].to_numpy()[known]
    return score_bins(target[known], score, patients, minimum)


def _pairs(
    study: Study, numbers: Mapping[Cell, int], rows: list[dict[str, Any]], rename: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Paired comparisons of macro AUCs, where both models' macro AUCs are shown."""
    shown = {(row["model"], row["test_domain"]) for row in rows if (row["label"], row["subgroup"]) == (AVERAGE, ALL)}
    before = next((number for cell, number in numbers.items() if is_before(cell.target_epsilon)), None)
    found = compare_models(study, Draws.of(study))
    pairs = []
    for row in found[(found["label"] == AVERAGE) & found["difference"].notna()].to_dict("records"):
        cell = Cell(row["train_domain"], row["target_epsilon"], row["seed"])
        other = before if is_before(row["against"]) else numbers.get(cell._replace(target_epsilon=math.inf))
        domain = rename.get(row["test_domain"], row["test_domain"])
        if not {(numbers.get(cell), domain), (other, domain)} <= shown:
            continue
        head = {"train_domain": rename.get(cell.domain, cell.domain), "target_epsilon": _finite(cell.target_epsilon)}
        head |= {"seed": int(cell.seed), "test_domain": domain, "against": _finite(row["against"])}
        numbers_of = {name: _finite(row[name]) for name in ("standard_error", "p")}
        pairs.append({**head, "difference": float(row["difference"]), **numbers_of})
    return pairs


def _policies(study: Study, domain: str) -> dict[str, Any]:
    """What was made of the hospital's own labels, as far as it has no names of files or columns."""
    settings = study.domains[domain].model_dump(mode="json")
    return {str(name): settings[name] for name in POLICIES if name in settings} | {"kind": study.kind(domain)}


def _definitions(study: Study, domain: str) -> dict[str, str]:
    """What makes each label: a published list's findings; of a list of one's own a hash, and where grades are cut.

    Columns and cells of one's own list stay: nobody needs them to see that two hospitals mean something else.
    """
    table = study.domains[domain].table
    found = {}
    for label, definition in study.definitions(domain).items():
        own = table.labels.given.get(label) if table else None
        names = [f"{one.name}{'' if one.at_least is None else f' >= {one.at_least}'}" for one in definition]
        text = ", ".join(names) or "unknown in every image"
        if table and definition:
            text = f"{OWN_LIST}, {_hash([own, table.words, table.no_findings])}"
            text += f", >= {own.cut:g}" if own and own.cut is not None else ""
        found[label] = text
    return found


def _evaluation(study: Study) -> dict[str, Any]:
    """How the numbers were computed; of the study's own groups hashes, because columns and cells stay."""
    found = study.evaluate.deciding()
    groups = {name: _hash(group) for name, group in study.evaluate.groups.items()}
    return found | ({"groups": groups} if groups else {})


def _hash(value: Any) -> str:
    """By which it is seen that two hospitals' settings are the same."""
    return fingerprint(TypeAdapter(Any).dump_python(value, mode="json"))[:12]


def _versions(study: Study) -> dict[str, str]:
    found = {"dpdt": __version__}
    for domain in study.test_domains:
        manifest = study.paths.shards(domain).manifest
        found |= read_manifest(manifest)["codecs"] if manifest.exists() else {}
    return found


def _finite(value: Any) -> float | None:
    """A number, or null for infinity, NaN and nothing."""
    return float(value) if value is not None and math.isfinite(value) else None
