"""A hospital's results as they leave it: aggregates alone, in a file that a person can read whole.

Nothing but what `export_results` lists goes in: AUCs with intervals and standard errors, counts, scores in bins, and
which models they are of. No patient, image or path. Format: docs/apart.md.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dpdt.base.machine import __version__
from dpdt.bundle.container import BLANK, CHECKSUM, check_seal, read_bytes, seal, strict_json
from dpdt.bundle.export import run_weights
from dpdt.bundle.manifest import Name, Short, recorded_input
from dpdt.bundle.model import weights_sha256
from dpdt.bundle.signature import signed_by
from dpdt.errors import BundleError, StudyError
from dpdt.evaluation.evaluate import evaluation_done, study_groups
from dpdt.evaluation.metrics import ALL, AVERAGE, Groups, auc_influence
from dpdt.evaluation.predict import wide
from dpdt.report.apart.suppression import score_bins, shown_groups
from dpdt.report.compare import compare_models
from dpdt.report.intervals import Draws
from dpdt.report.tables import auc_by_run
from dpdt.runs.read import Run, is_synthetic, model_runs
from dpdt.shards.manifest import read_manifest
from dpdt.study import BEFORE, Cell, Study, is_before

__all__ = ["FORMAT", "MINIMUM", "Results", "as_bytes", "export_results", "read_results"]

FORMAT: Final = 1
MINIMUM: Final = 10
"""Patients of each class behind every number: with fewer there is no interval either (docs/evaluation.md)."""
MOST_BYTES: Final = 64 << 20
NO_NOISE: Final = "No noise was added: epsilon of the models' statements is for their train patients, not for these."
POLICIES: Final = ("kind", "uncertain", "contradictions", "readers", "sublabels")

Auc = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Model(_Part):
    """Which model the numbers are of; `target_epsilon` is null without DP, 0 for the one before all trainings."""

    model: Count
    train_domain: Name
    target_epsilon: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None
    seed: Count
    unit: Short
    epsilon: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None
    delta: Annotated[float, Field(ge=0, le=1)] | None
    weights_sha256: Short
    carried: bool


class AucRow(_Part):
    """One AUC. Of an average: `labels` that it is over, and no counts."""

    model: Count
    test_domain: Name
    label: Name
    subgroup: Name
    auc: Auc
    ci_low: Auc | None
    ci_high: Auc | None
    standard_error: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None
    n: Count | None
    n_positive: Count | None
    labels: Annotated[str, Field(max_length=20_000)]


class Bin(_Part):
    """Images whose score is in a bin: curves and calibration come from these."""

    model: Count
    test_domain: Name
    label: Name
    low: Auc
    high: Auc
    n: Count
    n_positive: Count
    mean_score: Auc


class Pair(_Part):
    """A model against its twin without DP (`against` null) or the one before (0): macro AUC on the same patients."""

    train_domain: Name
    target_epsilon: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None
    seed: Count
    test_domain: Name
    against: float | None
    difference: Annotated[float, Field(ge=-1, le=1)]
    standard_error: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None
    p: Auc | None


class Results(_Part):
    """One hospital's results."""

    format: Literal[1]
    site: Name
    synthetic: bool
    minimum: Annotated[int, Field(ge=1)]
    noise: Short
    labels: list[Name]
    policies: dict[Name, dict[Short, Any]]
    input: dict[Short, Any]
    versions: dict[Short, Short]
    evaluation: dict[Short, Any]
    models: list[Model]
    auc: list[AucRow]
    bins: list[Bin]
    pairs: list[Pair]


def export_results(study: Study, *, site: str | None = None, minimum: int = MINIMUM) -> dict[str, Any]:
    """What leaves the hospital.

    Args:
        study: The study; its models are tested.
        site: The hospital's name for others, in place of its one domain's; default: the domain's own.
        minimum: Patients of each class behind every number; at least MINIMUM.

    Returns:
        JSON-like, as `Results` has it.

    Raises:
        StudyError: No model is tested, the minimum is too small, or a site is named for several domains.
    """
    if minimum < MINIMUM:
        raise StudyError(f"--minimum: expected at least {MINIMUM} patients of each class, got {minimum}.")
    rename = _rename(study, site)
    runs = [run for run in model_runs(study).values() if run and evaluation_done(study, run.run_id)]
    runs = [run for run in runs if run.metrics() is not None]
    if not runs:
        raise StudyError(f"{study.file}: no model is tested with the study as it is. Run `dpdt evaluate {study.file}`.")
    numbers = {run.run_id: number for number, run in enumerate(runs)}
    table = auc_by_run(study)
    labels = study.study.labels
    rows: list[dict[str, Any]] = []
    bins: list[dict[str, Any]] = []
    for run in runs:
        for domain in study.test_domains:
            frame = wide(pd.read_parquet(run.paths.predictions(domain)))
            own = table[(table["run_id"] == run.run_id) & (table["test_domain"] == domain)]
            head = {"model": numbers[run.run_id], "test_domain": rename.get(domain, domain)}
            groups = study_groups(study, domain, frame)
            shown = {label: shown_groups(frame, label, groups, minimum) for label in labels}
            rows += [{**head, **row} for row in _auc_rows(frame, own, groups, shown, study.evaluate.bootstrap_unit)]
            bins += [{**head, "label": label, **one} for label in labels for one in _bins(frame, label, shown, minimum)]
    return {
        "format": FORMAT,
        "site": site or next(iter(study.test_domains)),
        "synthetic": is_synthetic(study),
        "minimum": minimum,
        "noise": NO_NOISE,
        "labels": list(labels),
        "policies": {rename.get(name, name): _policies(study, name) for name in study.test_domains},
        "input": recorded_input(study.shards),
        "versions": _versions(study),
        "evaluation": study.evaluate.deciding(),
        "models": [_model(study, run, numbers[run.run_id], rename) for run in runs],
        "auc": rows,
        "bins": bins,
        "pairs": _pairs(study, {run.cell: numbers[run.run_id] for run in runs}, rows, rename),
    }


def read_results(path: Path, *, signers: Path | None = None) -> Results:
    """Read and check a results file.

    Raises:
        BundleError: It is no such file, damaged, of a newer format, or not signed by one of the trusted keys.
    """
    data = read_bytes(path, most=MOST_BYTES)
    if signers is not None:
        signed_by(data, path, signers)
    try:
        plain = strict_json(data.decode("utf-8"))
    except (ValueError, TypeError, RecursionError) as err:
        raise BundleError(f"{path}: not a results file. Expected what `dpdt results export` wrote.") from err
    check_seal(data, plain.pop(CHECKSUM, None), str(path))
    found = plain.get("format")
    if type(found) is int and found > FORMAT:
        raise BundleError(f"{path}: results of format {found}; this dpdt reads up to {FORMAT}. Install a newer dpdt.")
    try:
        results = Results.model_validate(plain)
    except ValidationError as err:
        first = err.errors()[0]
        raise BundleError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}. Ask for it again.") from err
    known = {model.model for model in results.models}
    named = {row.model for row in results.auc} | {row.model for row in results.bins}
    if len(known) != len(results.models) or not named <= known:
        raise BundleError(f"{path}: numbers of a model that it does not name. Ask for it again.")
    return results


def _rename(study: Study, site: str | None) -> dict[str, str]:
    if site is None:
        return {}
    own = set(study.train_domains) | set(study.test_domains)
    if len(own) != 1:
        raise StudyError(f"--site {site}: the study has several domains ({', '.join(sorted(own))}). Leave it out.")
    return {own.pop(): site}


def _model(study: Study, run: Run, number: int, rename: Mapping[str, str]) -> dict[str, Any]:
    carried, statement = run.kind == "bundle", run.privacy() or {}
    before = is_before(run.target_epsilon)
    known = carried or run.kind != BEFORE  # weights that were given as a file
    weights = run.config["bundle"]["weights_sha256"] if carried else ""
    return {
        "model": number,
        "train_domain": BEFORE if before else run.domain if carried else rename.get(run.domain, run.domain),
        "target_epsilon": _finite(run.target_epsilon),
        "seed": 0 if before else run.seed,
        "unit": run.unit,
        "epsilon": _finite(statement.get("epsilon")) if run.private else None,
        "delta": _finite(statement.get("delta")) if run.private else None,
        "weights_sha256": weights or (weights_sha256(run_weights(study, run)) if known else ""),
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
    mean = np.mean(influences, axis=0)
    return float(np.sqrt(count / (count - 1) * (mean**2).sum())) if count > 1 else math.nan


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


def _versions(study: Study) -> dict[str, str]:
    found = {"dpdt": __version__}
    for domain in study.test_domains:
        manifest = study.paths.shards(domain).manifest
        found |= read_manifest(manifest)["codecs"] if manifest.exists() else {}
    return found


def _finite(value: Any) -> float | None:
    """A number, or null for infinity, NaN and nothing."""
    return float(value) if value is not None and math.isfinite(value) else None


def as_bytes(results: Mapping[str, Any]) -> bytes:
    """The file, with a checksum that finds damage."""
    return seal((json.dumps({**results, CHECKSUM: BLANK}, indent=1, allow_nan=False) + "\n").encode())
