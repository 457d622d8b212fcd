"""Another hospital's model, tested on this study's patients: its run folder, its scores by label, its thresholds.

The folder has what a run of the study's own has, as far as the bundle says it, so that every table and page shows the
model beside the own ones. A file that changes is another model: its test is made again.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpdt.base.files import make_folder, read_json, sha256_once, write_json
from dpdt.bundle.model import Bundle, Score, checked_scorer, open_bundle, weights_sha256
from dpdt.errors import BundleError
from dpdt.evaluation.metrics import Threshold
from dpdt.runs.read import read_run
from dpdt.runs.state import write_state
from dpdt.shards.build import build_shards
from dpdt.shards.reader import shards_done
from dpdt.study import Cell, Study
from dpdt.study.paths import RunPaths
from dpdt.study.settings import ShardSettings

__all__ = ["CarriedModel", "begin_carried", "begun_input"]


@dataclass(frozen=True)
class CarriedModel:
    """A model that came in a bundle.

    Attributes:
        bundle: The bundle.
        study: This study with the model's preprocessing.
        score: Pixels to probabilities in the order of the study's labels; NaN for those that the model does not have.
    """

    bundle: Bundle
    study: Study
    score: Score

    @property
    def site(self) -> str:
        """The hospital that trained it."""
        return self.bundle.manifest.site

    @property
    def labels(self) -> tuple[str, ...]:
        """The study's labels that the model has."""
        return tuple(label for label in self.study.study.labels if label in self.bundle.manifest.labels)

    @property
    def weights_sha256(self) -> str:
        """By which its predictions are recognised."""
        return weights_sha256(self.bundle.weights)

    def thresholds(self) -> dict[str, Threshold]:
        """By label, from the bundle; they were chosen at the hospital that trained it."""
        given, found = self.bundle.manifest.thresholds, {}
        for label in self.study.study.labels:
            value = given.get(label)
            source = f"bundle of {self.site}" + (": none" if value is None else "")
            found[label] = Threshold(math.nan if value is None else value, source, 0, 0)
        return found


def begin_carried(study: Study, paths: RunPaths) -> CarriedModel:
    """Open the bundle, pass its self-test, and write the run's config, state and statement, or leave them of this file.

    Test images get shards with the model's preprocessing where that is not the study's.

    Raises:
        BundleError: The bundle cannot be used, has no label of the study, or another model has its name in the tables.
    """
    settings = study.models[study.carried[paths.run_id]]
    file = study.file.parent / settings.bundle
    signers = None if settings.signers is None else study.file.parent / settings.signers
    bundle = open_bundle(file, signers=signers)
    manifest = bundle.manifest
    wanted = study.study.labels
    if not set(manifest.labels) & set(wanted):
        raise BundleError(f"{file}: none of its labels ({', '.join(manifest.labels)}) is one of the study's.")
    _check_name(study, paths, bundle)
    score = _by_label(bundle, wanted, checked_scorer(bundle, str(file), device=study.train.device))
    if not paths.config.exists() or read_json(paths.config)["bundle"]["sha256"] != bundle.sha256:
        make_folder(paths.folder)
        for old in (paths.metrics, paths.draws):
            old.unlink(missing_ok=True)
        write_json(paths.privacy, manifest.statement)
        write_json(paths.config, _config(paths, bundle))
        epsilon = manifest.statement.get("epsilon")
        write_state(
            paths, status="finished", step=0, num_steps=0, epsilon=epsilon, target_epsilon=manifest.target_epsilon
        )
    found = CarriedModel(bundle, study.with_input(manifest.shards), score)
    for domain in study.test_domains:
        if found.study.test_alone and not shards_done(found.study, domain):
            build_shards(found.study, domain)
    return found


def begun_input(study: Study, run_id: str) -> Study | None:
    """This study with the preprocessing of a model whose test was begun; None if not, or with another file than now."""
    paths = study.paths.run(run_id)
    file = study.file.parent / study.models[study.carried[run_id]].bundle
    if not (paths.config.exists() and paths.state.exists()):
        return None
    config = read_json(paths.config)
    if file.exists() and config["bundle"]["sha256"] != sha256_once(file):
        return None  # a file that is gone cannot have become another
    return study.with_input(ShardSettings.model_validate(config["settings"]["shards"]))


def _check_name(study: Study, paths: RunPaths, bundle: Bundle) -> None:
    """A model is known by its hospital, target epsilon and seed: two may not have the same."""
    manifest = bundle.manifest
    cell = Cell(manifest.site, manifest.epsilon_name, manifest.seed)
    others = {run_id: read_run(study, run_id) for run_id in study.carried if run_id != paths.run_id}
    taken = {run.cell: run_id for run_id, run in others.items() if run is not None}
    taken |= {Cell(*own[:3]): study.run_id(own) for own in study.cells()}  # all of one view
    if cell in taken:
        raise BundleError(
            f"models.{study.carried[paths.run_id]}: a model of {cell.domain} with its target epsilon and seed is there "
            f"already ({taken[cell]}). Remove one of them, or have it exported with another --site."
        )


def _config(paths: RunPaths, bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest
    return {
        "run_id": paths.run_id,
        "kind": "bundle",
        "domain": manifest.site,
        "seed": manifest.seed,
        "target_epsilon": manifest.target_epsilon,
        "settings": {
            "shards": manifest.input,
            "model": manifest.network.model_dump(),
            "privacy": {"unit": manifest.statement.get("unit")},
        },
        "data": {},
        "num_steps": 0,
        "synthetic": manifest.synthetic,
        "versions": manifest.provenance.versions,
        "bundle": {
            "sha256": bundle.sha256,
            "weights_sha256": weights_sha256(bundle.weights),
            "signer": bundle.signer,
            "run_id": manifest.provenance.run_id,
            "codecs": manifest.provenance.codecs,
            "labels": manifest.labels,
        },
    }


def _by_label(bundle: Bundle, wanted: tuple[str, ...], score: Score) -> Score:
    """The same scores in the order of the study's labels: models and studies are joined by the labels' names."""
    columns = {label: number for number, label in enumerate(bundle.manifest.labels)}

    def joined(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        found = score(images)
        missing = np.full(len(found), np.nan, dtype=np.float32)
        return np.stack([found[:, columns[name]] if name in columns else missing for name in wanted], axis=1)

    return joined
