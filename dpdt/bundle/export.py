"""From a finished run to a bundle: what goes in is listed here, and nothing else does."""

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dpdt.bundle.container import pack
from dpdt.bundle.manifest import check_site, recorded_input
from dpdt.bundle.model import WEIGHTS, checked_scorer, parse_bundle, scorer
from dpdt.bundle.self_test import made_up_files, pixels_of
from dpdt.errors import BundleError
from dpdt.privacy.statement import released
from dpdt.runs.config import labels_of
from dpdt.runs.read import Run
from dpdt.shards.manifest import read_manifest
from dpdt.shards.reader import used_images
from dpdt.study import Study
from dpdt.study.settings import ModelSettings, ShardSettings

__all__ = ["export_run", "run_weights"]

VERSIONS: Final = ("dpdt", "commit", "python", "torch", "numpy", "opacus", "dp-accounting", "timm")
HASHES: Final = ("split_hmac", "labels_hmac", "manifest_hmac", "key_id")  # under the hospital's key; never plain ones
MOST_FEW: Final = 10
"""Val patients of a class below which a threshold would say too much of single patients."""
THRESHOLD_DIGITS: Final = 3
"""A threshold is the score of one val patient: rounded, it is that of many."""


def export_run(
    study: Study,
    run: Run,
    *,
    licence: str,
    intended_use: str,
    site: str | None = None,
    without_privacy: bool = False,
    with_thresholds: bool = True,
) -> bytes:
    """The bundle of a training.

    Args:
        study: Its study.
        run: Which training.
        licence: What others may do with it.
        intended_use: What it is for.
        site: Name of the hospital, as others shall see it; default: the train domain's.
        without_privacy: Export weights that no guarantee covers, too.
        with_thresholds: Whether decision thresholds, which come from val patients, go along.

    Returns:
        The file's bytes; the same run and arguments give the same bytes.

    Raises:
        BundleError: It is not a finished training, has no guarantee, or a network of one's own.
        StudyError: The site is no name.
    """
    check_site(site)
    statement = _statement(run, without_privacy=without_privacy)
    network, shards = _settings(run)
    labels = list(labels_of(run.config))
    files = made_up_files(shards.size)
    pixels = pixels_of(list(files.values()), shards)
    tensors: dict[str, NDArray[Any]] = {f"{WEIGHTS}{name}": value for name, value in run_weights(study, run).items()}
    for number, data in enumerate(files.values()):
        tensors[f"test.{number}.file"] = np.frombuffer(data, dtype=np.uint8)
        tensors[f"test.{number}.pixels"] = pixels[number]
    manifest = {
        "site": site or run.domain,
        "labels": labels,
        "network": network,
        "input": recorded_input(shards),
        "thresholds": _thresholds(study, run, labels) if with_thresholds else dict.fromkeys(labels),
        "target_epsilon": run.target_epsilon if run.private else None,
        "seed": run.seed,
        "synthetic": bool(run.config.get("synthetic")),
        "statement": released(statement, site=site),
        "licence": licence,
        "intended_use": intended_use,
        "provenance": _provenance(study, run),
    }
    # its scores are computed by the code that will compare them, then written into it
    tests = [{"what": what, "scores": dict.fromkeys(labels, 0.0)} for what in files]
    draft = parse_bundle(pack({**manifest, "self_test": tests}, tensors), run.run_id)
    for test, scores in zip(tests, scorer(draft, device="cpu")(draft.pixels), strict=True):
        test["scores"] = {label: round(float(score), 6) for label, score in zip(labels, scores, strict=True)}
    data = pack({**manifest, "self_test": tests}, tensors)
    checked_scorer(parse_bundle(data, run.run_id), run.run_id, device="cpu")
    return data


def run_weights(study: Study, run: Run) -> dict[str, NDArray[np.float32]]:
    """A finished training's weights, by name.

    Raises:
        StudyError: The file is missing or damaged.
    """
    from dpdt.training.networks.build import build_model
    from dpdt.training.networks.weights import load_weights

    recorded, labels = run.config["settings"], list(labels_of(run.config))
    settings, size = ModelSettings.model_validate(recorded["model"]), recorded["shards"]["size"]
    model = build_model(settings, size=size, folder=study.file.parent, num_outputs=len(labels))
    load_weights(model, run.paths.weights, labels=labels)
    return {name: value.numpy().astype(np.float32) for name, value in model.state_dict().items()}


def _statement(run: Run, *, without_privacy: bool) -> dict[str, Any]:
    """The run's statement, if it may leave."""
    if run.kind != "train":
        raise BundleError(f"{run.run_id}: of kind {run.kind!r}; only trainings are exported.")
    statement = run.privacy()
    if run.status != "finished" or statement is None or not statement.get("complete"):
        raise BundleError(f"{run.run_id}: its training is {run.status}. Finish it first: `dpdt train`.")
    guaranteed = run.private and statement.get("epsilon") is not None and statement.get("randomness") != "seeded"
    if not guaranteed and not without_privacy:
        raise BundleError(
            f"{run.run_id}: no guarantee holds for its weights (no DP, or noise from a seed): they may reveal single "
            "patients and are as confidential as the radiographs. Export a run with DP, or, where the radiographs "
            "themselves could be sent, add --without-privacy."
        )
    return statement


def _settings(run: Run) -> tuple[dict[str, Any], ShardSettings]:
    """Network and input, as the run's config has them."""
    settings = run.config["settings"]
    model = ModelSettings.model_validate(settings["model"])
    if ":" in model.name:
        raise BundleError(
            f"{run.run_id}: its network is your own code ({model.name}), and a bundle carries no code: the other side "
            "would have to run it. Only dpdt's own networks are exported."
        )
    network = {"name": model.name, "width": model.width, "in_channels": model.in_channels}
    return network, ShardSettings.model_validate(ShardSettings.deciding_of(settings["shards"]))


def _thresholds(study: Study, run: Run, labels: list[str]) -> dict[str, float | None]:
    """Youden's thresholds of val, rounded; None where the run was not evaluated, or a class has few patients there."""
    found: dict[str, float | None] = dict.fromkeys(labels)
    table, used = run.metrics(), used_images(study, run.domain)
    if table is None or used is None:
        return found
    val = used[used["split"] == "val"]
    for row in table[table["metric"] == "threshold"].to_dict("records"):
        value = float(row["value"])
        if row["label"] not in found or row["label"] not in val or not math.isfinite(value):
            continue
        patients = (val.loc[val[row["label"]] == of_class, "patient_id"].nunique() for of_class in (0, 1))
        if min(patients) >= MOST_FEW:
            found[row["label"]] = round(min(max(value, 0.0), 1.0), THRESHOLD_DIGITS)
    return found


def _provenance(study: Study, run: Run) -> dict[str, Any]:
    """Versions, and keyed hashes of cohort and shards as the run's config has them."""
    versions, data = run.config.get("versions", {}), run.config.get("data", {})
    manifest = study.paths.shards(run.domain).manifest
    return {
        "run_id": run.run_id,
        "versions": {name: str(versions[name]) for name in VERSIONS if name in versions},
        "codecs": read_manifest(manifest)["codecs"] if manifest.exists() else {},
        "hashes": {name: data[name] for name in HASHES if name in data},
    }
