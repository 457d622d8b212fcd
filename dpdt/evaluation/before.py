"""The model from before all trainings where its weights are given as a file: a run folder for it, and no training.

A public pretraining has a run folder of its own. The file may change, so its check sum is kept, and what was made from
another file is made again.
"""

from pathlib import Path
from typing import Any

from dpdt.base.files import read_json, sha256_file, sha256_once
from dpdt.runs.ancestors import ancestry
from dpdt.runs.config import freeze_config, frozen_settings, recorded_labels
from dpdt.runs.read import is_synthetic
from dpdt.runs.state import write_state
from dpdt.study import BEFORE, Cell, Study
from dpdt.study.networks import weights_file
from dpdt.study.paths import RunPaths

__all__ = ["begin_given", "begun_given", "given_weights"]


def given_weights(study: Study, run_id: str) -> Path | None:
    """The file with the model before all trainings, if the run is of one; None for every other run."""
    study = study.of_run(run_id)
    if study.model.init_weights is None or run_id != study.before_run_id or study.pretrain_run_id is not None:
        return None
    return weights_file(study.file.parent / study.model.init_weights)


def begin_given(study: Study, paths: RunPaths, weights: Path) -> str:
    """Write the config and state of the run, or leave them where they are of this very file.

    Args:
        study: The study.
        paths: The run.
        weights: The file.

    Returns:
        Why the model cannot be tested; "" where it can be.

    Raises:
        StudyError: The file is missing or does not fit the network.
    """
    begun = begun_given(paths, weights)
    if begun is None:
        for old in (paths.config, paths.metrics, paths.draws):
            old.unlink(missing_ok=True)
        why_not = _why_not(study, weights)
        source = {"source": f"file {weights.name}", "sha256": sha256_file(weights), "new_head": bool(why_not)}
        config = {
            "run_id": paths.run_id,
            "kind": BEFORE,
            "domain": BEFORE,
            **Cell(BEFORE, 0.0, 0, study.start).recorded,
            "seed": 0,
            "target_epsilon": 0.0,
            "settings": frozen_settings(study, kind="pretrain"),
            **recorded_labels(study),
            "data": {},
            "num_steps": 0,
            "initial_weights": source,
            "synthetic": is_synthetic(study),
            "why_not": why_not,
        }
        begun = freeze_config(paths, config)
        write_state(paths, status="finished", step=0, num_steps=0, epsilon=0.0, target_epsilon=0.0)
    return str(begun["why_not"])


def begun_given(paths: RunPaths, weights: Path) -> dict[str, Any] | None:
    """The run's config; None where it was not begun, or with another file than there is now."""
    if not (paths.config.exists() and paths.state.exists()):
        return None
    config: dict[str, Any] = read_json(paths.config)
    if not weights.exists():  # it is gone, so it cannot have become another
        return config
    return config if config["initial_weights"]["sha256"] == sha256_once(weights) else None


def _why_not(study: Study, weights: Path) -> str:
    from dpdt.training.networks.build import build_model
    from dpdt.training.networks.weights import load_weights

    labels = study.study.labels
    model = build_model(study.model, size=study.shards.size, folder=study.file.parent, num_outputs=len(labels))
    if not load_weights(model, weights, new_head=True, labels=labels):
        return f"{weights.name} has no head for the labels {', '.join(labels)}"
    for run in ancestry(weights, runs=study.paths.runs).runs:
        if run.domain in study.train_domains:
            return f"{weights.name} was trained on {run.domain} itself (run {run.paths.run_id})"
    return ""
