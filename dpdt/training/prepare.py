"""The inputs of a training: decided from study and data, and frozen in the run's config before the first step."""

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from dpdt.base.console import warn
from dpdt.base.files import read_json, sha256_file
from dpdt.cohort.data_hashes import recorded_hashes
from dpdt.errors import PrivacyError
from dpdt.privacy.accounting import delta_protects
from dpdt.privacy.clipping.bookkeeping import clipping_ways
from dpdt.privacy.mechanism import Mechanism
from dpdt.privacy.rounding import allowance_of, images_at_once
from dpdt.privacy.sampling import num_steps_for, sample_rate_for
from dpdt.privacy.statement import privacy_statement, statement_without_privacy
from dpdt.runs.config import freeze_config, frozen_settings
from dpdt.shards.dataset import DomainData
from dpdt.training.device import device_name, instruction_set
from dpdt.training.networks.custom import model_code
from dpdt.training.physical_batch_size import find_physical_batch_size, largest_batch
from dpdt.training.plan import TrainingPlan
from dpdt.training.run import TrainingRun
from dpdt.training.start import choose_class_weights, count_class_weights

__all__ = ["make_statement", "prepare"]


def prepare(
    run: TrainingRun, data: DomainData, *, model: nn.Module, initial: dict[str, Any], device: torch.device
) -> tuple[TrainingPlan, dict[str, Any]]:
    """What the loop needs, and the config: frozen now, or checked against the one that is frozen.

    Args:
        run: Which training.
        data: Its train split.
        model: The network, for the ways to its gradients' norms: others would round otherwise.
        initial: Where the first weights come from, for the config.
        device: Where to compute.

    Raises:
        PrivacyError: The target cannot be reached, delta is too large, or the frozen noise misses the target.
        DpdtError: The run was begun with other settings, or class weights cannot be had.
    """
    frozen = read_json(run.paths.config) if run.paths.config.exists() else {}
    if (
        not frozen and run.paths.ledger.exists()
    ):  # labels would be counted again, and their first counts not accounted for
        raise PrivacyError(
            f"{run.paths.config}: missing, but the run has a ledger, so it was begun. Restore the config, or remove "
            f"{run.paths.folder} to train from scratch (which spends privacy again)."
        )
    sizes = {"expected_batch_size": run.settings.expected_batch_size, "num_units": data.num_units}
    sample_rate = sample_rate_for(**sizes, section="train" if run.cell else "pretrain", unit=run.study.privacy.unit)
    num_steps = num_steps_for(num_epochs=run.settings.num_epochs, **sizes)
    mechanism = _mechanism(run, num_units=data.num_units, sample_rate=sample_rate, num_steps=num_steps, frozen=frozen)
    class_weights = frozen["class_weights"] if "class_weights" in frozen else choose_class_weights(run, data, mechanism)
    hashes = {
        "split_sha256": data.split_sha256,
        "labels_sha256": data.labels_sha256,
        "manifest_sha256": data.manifest_sha256,
    }
    seen = {
        **recorded_hashes(run.study, hashes, frozen=frozen["data"] if frozen else None),
        "units": data.num_units,
        "images": len(data),
    }
    config = {
        "run_id": run.run_id,
        "kind": run.kind,
        "domain": run.domain,
        "seed": run.seed,
        "target_epsilon": run.target_epsilon,
        "settings": frozen_settings(run.study, kind=run.kind),
        "data": seen,
        "num_steps": num_steps,
        "sample_rate": sample_rate,
        "noise_multiplier": mechanism and mechanism.noise_multiplier,
        "counts_noise": mechanism and mechanism.counts_noise,
        "rounding_allowance": mechanism and mechanism.rounding_allowance,
        "class_weights": class_weights,
        "initial_weights": initial,
        "randomness": "seeded" if run.seeded else "cryptographic",
        "synthetic": data.synthetic,
        "device": device_name(device),
        "instruction_set": instruction_set(),
    }
    if run.canaries:
        config["canaries"] = {"canaries": run.canaries, "coins_sha256": sha256_file(run.paths.coins)}
    if mechanism is not None and run.study.privacy.clipping == "bookkeeping":
        config["clipping_ways"] = clipping_ways(model, size=data.size)
    code = model_code(run.study.model, run.study.file.parent)
    if code is not None:
        config["model_code_sha256"] = code
    if run.kind == "pretrain":
        config["public_class_weights"] = count_class_weights(data)
    images = _physical_batch_size(run, model, data, device=device, known=frozen.get("physical_batch_size"))
    if run.study.train.physical_batch_size == "auto":
        config["physical_batch_size"] = {"images": images, "machine": device_name(device)}
    _say_if_bits_differ(run, frozen, config)
    plan = _plan(
        run,
        device,
        physical_batch_size=images,
        mechanism=mechanism,
        sample_rate=sample_rate,
        num_steps=num_steps,
        class_weights=class_weights,
    )
    if plan.fill_to is not None:
        fitting = images_at_once(
            most=images, expected_batch_size=plan.expected_batch_size, images_per_unit=plan.images_per_unit
        )
        plan = replace(plan, physical_batch_size=fitting)
    return plan, freeze_config(run.paths, config)


def _say_if_bits_differ(run: TrainingRun, frozen: dict[str, Any], config: dict[str, Any]) -> None:
    """A run that goes on elsewhere keeps its epsilon, not its last bits."""
    was, now = frozen.get("instruction_set"), config["instruction_set"]
    if was not in (None, now):
        warn(
            f"{run.run_id}: begun on a processor that computes with {was}, here it is {now}. It goes on, and its "
            "privacy guarantee holds; but its weights will not be those of an undisturbed run, bit for bit."
        )


def _mechanism(
    run: TrainingRun, *, num_units: int, sample_rate: float, num_steps: int, frozen: dict[str, Any]
) -> Mechanism | None:
    """What is accounted for; None without DP."""
    study = run.study
    if run.target_epsilon is None:
        return None
    allowance = frozen.get("rounding_allowance") if frozen else allowance_of(study, num_units=num_units)
    counted = study.train.class_weights == "private"
    settings = study.privacy
    units = num_units - run.canaries  # the rule protects patients, and canaries are none
    if delta_protects(settings.delta, units=units):
        settings = settings.model_copy(update={"allow_large_delta": True})
    return Mechanism.plan(
        settings,
        target_epsilon=run.target_epsilon,
        num_units=num_units,
        sample_rate=sample_rate,
        num_steps=num_steps,
        noise_multiplier=frozen.get("noise_multiplier"),
        counts_share=study.privacy.class_weights_share if counted else None,
        counts_noise=frozen.get("counts_noise"),
        rounding_allowance=allowance,
    )


def _physical_batch_size(
    run: TrainingRun, model: nn.Module, data: DomainData, *, device: torch.device, known: dict[str, Any] | None
) -> int:
    """The one asked for; or as many as fit, and on the same machine what was found when the run was begun."""
    study = run.study
    if study.train.physical_batch_size != "auto":
        return study.train.physical_batch_size
    if known is not None and known["machine"] == device_name(device):
        return int(known["images"])
    images_per_unit = study.privacy.images_per_patient if run.cell else 1
    return find_physical_batch_size(
        model,
        size=data.size,
        device=device,
        clipping=study.privacy.clipping if run.target_epsilon is not None else None,
        autocast=study.train.precision == "bf16",
        most=largest_batch(expected_batch_size=run.settings.expected_batch_size, images_per_unit=images_per_unit),
    )


def _plan(
    run: TrainingRun,
    device: torch.device,
    *,
    physical_batch_size: int,
    mechanism: Mechanism | None,
    sample_rate: float,
    num_steps: int,
    class_weights: list[float] | None,
) -> TrainingPlan:
    study, settings = run.study, run.settings
    return TrainingPlan(
        paths=run.paths,
        title=run.title,
        num_steps=num_steps,
        sample_rate=sample_rate,
        expected_batch_size=settings.expected_batch_size,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        class_weights=None if class_weights is None else tuple(class_weights),
        mechanism=mechanism,
        clipping=study.privacy.clipping,
        autocast=study.train.precision == "bf16",
        images_per_unit=study.privacy.images_per_patient if run.cell else 1,
        seed=f"{study.study.seed}/{run.run_id}",
        seeded=run.seeded,
        physical_batch_size=physical_batch_size,
        reserve_steps=study.privacy.reserve_steps,
        checkpoint_every_steps=study.train.checkpoint_every_steps,
        device=device,
    )


def make_statement(
    run: TrainingRun,
    plan: TrainingPlan,
    config: dict[str, Any],
    data: DomainData,
    *,
    spent_steps: int,
    complete: bool = False,
) -> dict[str, Any]:
    """The privacy statement of a run.

    Args:
        run: Which training.
        plan: What it does.
        config: The frozen one.
        data: Its train split.
        spent_steps: Steps that the ledger counts; before and while it runs, those of the whole run.
        complete: Whether the training has ended.
    """
    choice = run.study.train.class_weights if run.cell else "none"
    shared = {
        "run_id": run.run_id,
        "domain": run.domain,
        "class_weights": choice if isinstance(choice, str) else "given",
        "initial_weights": config["initial_weights"]["source"],
    }
    if plan.mechanism is None:
        return statement_without_privacy(
            unit=run.study.privacy.unit, num_units=data.num_units, num_steps=spent_steps, **shared
        )
    return privacy_statement(
        plan.mechanism,
        spent_steps=spent_steps,
        randomness=config["randomness"],
        max_images_per_patient=int(data.frame["patient_id"].value_counts().max()),
        complete=complete,
        patients_known=bool((data.frame["patient_id"] != data.frame["image_id"]).any()),
        **shared,
    )
