"""The model from before all trainings where its weights are given as a file: a run folder for it, and no training.

A public pretraining has a run folder of its own. The file may change, so its check sum is kept, and what was made from
another file is made again.
"""

import functools
from pathlib import Path
from typing import Any

from dpdt.base.files import file_state, read_json, sha256_file
from dpdt.base.vocabulary import LABELS
from dpdt.runs.config import freeze_config, frozen_settings
from dpdt.runs.read import is_synthetic
from dpdt.runs.state import write_state
from dpdt.study import BEFORE, Study
from dpdt.study.paths import RunPaths

__all__ = ["begin_given", "begun_given", "given_weights"]


def given_weights(study: Study, run_id: str) -> Path | None:
    """The file with the model before all trainings, if the run is of one; None for every other run."""
    if study.model.init_weights is None or run_id != study.before_run_id:
        return None
    return study.file.parent / study.model.init_weights


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
            "seed": 0,
            "target_epsilon": 0.0,
            "settings": frozen_settings(study, kind="pretrain"),
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
    state = file_state(weights)
    if not (paths.config.exists() and paths.state.exists()):
        return None
    config: dict[str, Any] = read_json(paths.config)
    if state is None:  # it is gone, so it cannot have become another
        return config
    return config if config["initial_weights"]["sha256"] == _sha256_once(weights, *state) else None


@functools.lru_cache(maxsize=8)
def _sha256_once(file: Path, *_state: int) -> str:
    """Check sum of a file in this state: each look at the study's tasks asks for it."""
    return sha256_file(file)


def _why_not(study: Study, weights: Path) -> str:
    from dpdt.training.networks.build import build_model
    from dpdt.training.networks.weights import load_weights, trained_on

    if not load_weights(build_model(study.model, folder=study.file.parent), weights, new_head=True):
        return f"{weights.name} has no head for the labels {', '.join(LABELS)}"
    seen = trained_on(weights)
    if seen is not None and seen.get("domain") in study.train_domains:
        return f"{weights.name} was trained on {seen['domain']} itself (run {seen.get('run_id')})"
    return ""
