"""What a training starts from: the network's first weights, and the weights of the labels in its loss."""

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dpdt.base.files import read_json, sha256_file
from dpdt.cohort.table import read_record
from dpdt.errors import DpdtError, PrivacyError, StudyError
from dpdt.privacy.keystream import KeyStream
from dpdt.privacy.label_counts import class_weights_of, noisy_counts
from dpdt.privacy.mechanism import Mechanism
from dpdt.runs.ancestors import Ancestry, ancestry
from dpdt.runs.config import labels_of
from dpdt.runs.state import run_done
from dpdt.shards.dataset import DomainData
from dpdt.study.networks import weights_file
from dpdt.training.networks.build import build_model
from dpdt.training.networks.check import check_class_weights, check_model, no_random_features
from dpdt.training.networks.trained import choose_trained, freeze_but_head
from dpdt.training.networks.weights import head_of, load_weights
from dpdt.training.run import TrainingRun

__all__ = ["choose_class_weights", "count_class_weights", "initial_model"]


def initial_model(run: TrainingRun, data: DomainData) -> tuple[nn.Module, dict[str, Any]]:
    """The network before the first step, and where its weights came from.

    Args:
        run: Which training.
        data: Its train split.

    Returns:
        The network, on the CPU, frozen but for what is trained; for the config ``initial_weights``, name and checksum
        of the weights' source, where they are no random ones, ``ancestry``, the trainings that made them, and, where
        not all parameters are trained, ``trained``, how many are.

    Raises:
        PrivacyError: A DP run would start from weights that saw its own patients.
        StudyError: Given weights do not fit, or a custom network is not fit for DP.
        DpdtError: The public pretraining is not finished.
    """
    study = run.study
    check_model(study)
    with torch.random.fork_rng(devices=[]):
        seed = f"{study.study.seed}/{run.kind}/{run.domain}/{run.seed}"
        torch.manual_seed(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:7]))
        model = build_model(
            study.model, size=study.shards.size, folder=study.file.parent, num_outputs=len(study.study.labels)
        )
    choice = study.train.parameters if run.cell else "all"
    choose_trained(model, choice)
    if run.cell and study.train.head_first:
        freeze_but_head(model)()
    source, path = _initial_weights(run)
    if path is None:
        if choice != "all":
            raise no_random_features(study)
        return model, {"initial_weights": {"source": source, "sha256": None, "new_head": True}}
    given = study.model.init_weights
    made_by = ancestry(path, runs=study.paths.runs, given=None if given is None else study.file.parent / given)
    _refuse_own_patients(run, data, path, made_by)
    if run.kind == "pretrain":
        _refuse_private_domains(run, path, made_by)
    head = load_weights(model, path, new_head=True, labels=study.study.labels)
    if not head:
        _say_new_head(run, path)
        if choice == "head" and study.train.closed_form:  # a ridge goes back to it
            for parameter in (p for p in model.parameters() if p.requires_grad):
                nn.init.zeros_(parameter)
    initial = {"source": source, "sha256": sha256_file(path), "new_head": not head}
    part = {} if choice == "all" else {"trained": _trained(run, model, initial)}
    return model, {"initial_weights": initial, "ancestry": made_by.as_dict(), **part}


def _trained(run: TrainingRun, model: nn.Module, initial: dict[str, Any]) -> dict[str, int]:
    """Numbers that are trained, and all.

    Raises:
        StudyError: The last layer is a new one, and would stay as it was drawn.
    """
    head = head_of(model)[1]
    if initial["new_head"] and head is not None and not head.weight.requires_grad:
        raise StudyError(
            f"train.parameters: {run.study.train.parameters!r} leaves out the last layer, and {initial['source']} has "
            "none for the study's labels, so it would stay as it was drawn. Name its parameters, too."
        )
    numbers = {parameter: parameter.numel() for parameter in model.parameters()}
    return {"parameters": sum(n for p, n in numbers.items() if p.requires_grad), "of": sum(numbers.values())}


def _say_new_head(run: TrainingRun, path: Path) -> None:
    """Once, before the first step."""
    if not run.paths.config.exists():
        labels = ", ".join(run.study.study.labels)
        print(f"{run.run_id}: {path.name} has no last layer for {labels}: a new one is trained.", file=sys.stderr)


def _initial_weights(run: TrainingRun) -> tuple[str, Path | None]:
    """Name and file of the weights to start from; no file: random ones."""
    study = run.study
    if run.cell is None or study.pretrain_run_id is None:
        if study.model.init_weights is None:
            return "random", None
        path = weights_file(study.file.parent / study.model.init_weights)
        return f"file {path.name}", path
    if not run_done(study, study.pretrain_run_id):
        raise DpdtError(
            f"{study.paths.run(study.pretrain_run_id).folder}: the public pretraining is not finished, and trainings "
            f"start from its weights. Run `dpdt pretrain {study.file}`."
        )
    return study.pretrain_run_id, study.paths.run(study.pretrain_run_id).weights


def _refuse_own_patients(run: TrainingRun, data: DomainData, path: Path, made_by: Ancestry) -> None:
    """A training on the same patients, however far back: what it spent, or that it had no bound, would be missing."""
    if run.target_epsilon is None:
        return
    labels = run.study.study.labels
    former = read_record(run.study, run.domain).get("former", ())
    seen = [{"split_sha256": data.split_sha256, "labels_sha256": data.labels_sha256}, *former]
    for number, other in enumerate(made_by.runs):
        same = labels_of(other.config) == labels  # of other labels the hash is another, of course
        names = ("split_sha256", "labels_sha256") if same else ("split_sha256",)
        if other.domain == run.domain or any(other.saw({name: each[name] for name in names}) for each in seen):
            was = (
                "was trained"
                if number == 0
                else f"comes from {made_by.runs[0].paths.run_id}, whose weights were trained"
            )
            as_other = "" if other.domain == run.domain else f" under the name {other.domain}"
            raise PrivacyError(
                f"model.init_weights: {path} {was} on {run.domain} itself{as_other} (run {other.paths.run_id}), so the "
                "epsilon of a training that starts from it would not hold. Take weights of other people's images."
            )


def _refuse_private_domains(run: TrainingRun, path: Path, made_by: Ancestry) -> None:
    """What is pretrained is the model before all trainings, which saw no private patient."""
    for other in made_by.runs:
        if other.domain in run.study.train_domains:
            raise StudyError(
                f"model.init_weights: {path} was trained on {other.domain} (run {other.paths.run_id}), a domain that "
                "this study trains on, so what is pretrained from it would be no model before all trainings. Take "
                "other weights."
            )


def choose_class_weights(run: TrainingRun, data: DomainData, mechanism: Mechanism | None) -> list[float] | None:
    """Weight of the positives of each label in this run's loss.

    In a DP arm private labels are counted once, with noise; the weights are published by the same rename as the config
    that accounts for them, so a crash before it leaves nothing that was counted.

    Returns:
        One weight a label; None for 1.

    Raises:
        PrivacyError: The counts would be exact ones of private labels.
        StudyError: Public weights are wanted, but nothing public is pretrained on.
    """
    study = run.study
    choice = study.train.class_weights
    if run.cell is None or choice == "none":
        return None
    if choice == "private":
        if mechanism is None:
            return count_class_weights(data)  # nothing in this arm is protected
        if mechanism.counts_noise is None:
            raise PrivacyError(f"{run.run_id}: exact counts of private labels must not enter a DP training.")
        stream = KeyStream.from_seed("counts", run.run_id) if run.seeded else KeyStream.fresh()
        noisy = noisy_counts(data.labels, data.units, noise_multiplier=mechanism.counts_noise, noise=stream)
        return class_weights_of(noisy)
    if isinstance(choice, dict):
        return [float(choice.get(label, 1.0)) for label in study.study.labels]
    if choice != "public":
        return [float(weight) for weight in choice]
    check_class_weights(study)
    config = read_json(study.paths.run(str(study.pretrain_run_id)).config)
    weights = dict(zip(labels_of(config), config["public_class_weights"], strict=True))
    return [float(weights[label]) for label in study.study.labels]


def count_class_weights(data: DomainData) -> list[float]:
    """Negatives over positives of each label, 1 where one of them is missing. Exact counts: never in a DP arm."""
    positives, negatives = (data.labels == 1).sum(axis=0), (data.labels == 0).sum(axis=0)
    usable = (positives > 0) & (negatives > 0)
    return [float(w) for w in np.where(usable, negatives / np.maximum(positives, 1), 1.0)]
