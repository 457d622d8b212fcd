"""The inputs of a training: decided from study and data, and frozen in the run's config before the first step."""

from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import nn

from dpdt.base.console import warn
from dpdt.base.files import read_json, sha256_file
from dpdt.cohort.data_hashes import recorded_hashes
from dpdt.errors import PrivacyError
from dpdt.privacy.accounting import delta_protects
from dpdt.privacy.clipping.engines import CLIPPING
from dpdt.privacy.mechanism import Mechanism
from dpdt.privacy.rounding import allowance_of, images_at_once, images_of_a_unit, needs_one_size
from dpdt.privacy.sampling import num_steps_for, sample_rate_for
from dpdt.privacy.statement import StatedRun, privacy_statement, statement_without_privacy
from dpdt.runs.config import freeze_config, frozen_settings, recorded_labels
from dpdt.shards.dataset import DomainData
from dpdt.study import BEFORE, Cell
from dpdt.training.canaries import CanaryData
from dpdt.training.device import device_name, instruction_set
from dpdt.training.features import FeatureData
from dpdt.training.networks.custom import model_code
from dpdt.training.physical_batch_size import find_physical_batch_size, largest_batch
from dpdt.training.plan import TrainingPlan
from dpdt.training.run import TrainingRun
from dpdt.training.start import choose_class_weights, count_class_weights

__all__ = ["Prepared", "prepare"]

MOST_FEATURES: Final = 4096
"""Images of a physical batch of features."""
QUICK_BLOCKS: Final = 100
QUICK_CHECKPOINTS: Final = 20
"""At most so many of a training on features, whose steps take a millisecond, and accounting and disk many."""


@dataclass(frozen=True)
class Prepared:
    """A training that can begin.

    Attributes:
        run: Which training.
        data: Its train split.
        plan: What the loop does.
        config: The frozen one.
    """

    run: TrainingRun
    data: DomainData
    plan: TrainingPlan
    config: dict[str, Any]

    def statement(self, *, spent_steps: int, complete: bool = False) -> dict[str, Any]:
        """The run's privacy statement.

        Args:
            spent_steps: Steps that the ledger counts; before and while it runs, those of the whole run.
            complete: Whether the training has ended.
        """
        choice = self.run.study.train.class_weights if self.run.cell else "none"
        patients = self.data.frame["patient_id"]
        stated = StatedRun(
            run_id=self.run.run_id,
            domain=self.run.domain,
            class_weights=choice if isinstance(choice, str) else "given",
            initial_weights=self.config["initial_weights"]["source"],
            ancestry=self.config.get("ancestry"),
            randomness=self.config["randomness"],
            max_images_per_patient=int(patients.value_counts().max()),
            averaging=self.plan.averaging,
            automatic=self.plan.automatic,
            by_layer=self.plan.by_layer,
            closed_form=self.plan.optimizer == "closed-form",
            views=self.plan.views,
            head_steps=self.plan.head_steps,
            patients_known=bool((patients != self.data.frame["image_id"]).any()),
            weights_note=self.run.study.weights_note,
            fraction=self.run.study.part_of(self.run.domain),
            trained=self.config.get("trained"),
        )
        if self.plan.mechanism is None:
            unit = self.run.study.privacy.unit
            return statement_without_privacy(stated, unit=unit, num_units=self.data.num_units, num_steps=spent_steps)
        return privacy_statement(self.plan.mechanism, stated, spent_steps=spent_steps, complete=complete)


@dataclass(frozen=True)
class _Schedule:
    """How often the data is drawn from, with how much noise, and what its labels weigh: public once it is decided."""

    expected_batch_size: int
    num_steps: int
    sample_rate: float
    mechanism: Mechanism | None
    class_weights: list[float] | None


def prepare(
    run: TrainingRun, data: DomainData, *, model: nn.Module, initial: dict[str, Any], device: torch.device
) -> Prepared:
    """What the loop needs, and the config: frozen now, or checked against the one that is frozen.

    Args:
        run: Which training.
        data: Its train split.
        model: The network, for the ways to its gradients' norms: others would round otherwise.
        initial: Where the first weights come from, as the config has it.
        device: Where to compute.

    Raises:
        PrivacyError: The target cannot be reached, delta is too large, or the frozen noise misses the target.
        DpdtError: The run was begun with other settings, or class weights cannot be had.
    """
    frozen = _frozen_config(run)
    schedule = _schedule(run, data, frozen)
    config = {
        **_what_is_trained(run, data, frozen),
        **_as_recorded(schedule),
        **initial,
        "randomness": "seeded" if run.seeded else "cryptographic",
        "synthetic": data.synthetic,
        "device": device_name(device),
        "instruction_set": instruction_set(),
        **_of_some_runs(run, data, model, frozen),
    }
    images = _physical_batch_size(run, model, data, device=device, known=frozen.get("physical_batch_size"))
    if run.study.train.physical_batch_size == "auto":
        config["physical_batch_size"] = {"images": images, "machine": device_name(device)}
    _say_if_bits_differ(run, frozen, config)
    plan = _plan(run, data, schedule, device=device, physical_batch_size=images)
    plan = replace(plan, clipping_ways=config.get("clipping_ways", {}))
    return Prepared(run, data, plan, freeze_config(run.paths, config))


def _frozen_config(run: TrainingRun) -> dict[str, Any]:
    """The config of a run that was begun; empty for a new one."""
    frozen: dict[str, Any] = read_json(run.paths.config) if run.paths.config.exists() else {}
    if not frozen and run.paths.ledger.exists():  # labels would be counted again, and their first counts not paid for
        raise PrivacyError(
            f"{run.paths.config}: missing, but the run has a ledger, so it was begun. Restore the config, or remove "
            f"{run.paths.folder} to train from scratch (which spends privacy again)."
        )
    return frozen


def _schedule(run: TrainingRun, data: DomainData, frozen: dict[str, Any]) -> _Schedule:
    sizes = {"expected_batch_size": run.settings.batch_of(data.num_units), "num_units": data.num_units}
    sample_rate = sample_rate_for(**sizes, section="train" if run.cell else "pretrain", unit=run.study.privacy.unit)
    num_steps = num_steps_for(num_epochs=run.settings.passes, **sizes)
    mechanism = _mechanism(run, num_units=data.num_units, sample_rate=sample_rate, num_steps=num_steps, frozen=frozen)
    class_weights = frozen["class_weights"] if "class_weights" in frozen else choose_class_weights(run, data, mechanism)
    return _Schedule(sizes["expected_batch_size"], num_steps, sample_rate, mechanism, class_weights)


def _what_is_trained(run: TrainingRun, data: DomainData, frozen: dict[str, Any]) -> dict[str, Any]:
    """Which run, its settings, and which data it sees."""
    hashes = {
        "split_sha256": data.split_sha256,
        "labels_sha256": data.labels_sha256,
        "manifest_sha256": data.manifest_sha256,
    }
    return {
        "run_id": run.run_id,
        "kind": run.kind,
        "domain": run.domain,
        **(run.cell or Cell(BEFORE, 0.0, 0, run.study.start)).recorded,
        "seed": run.seed,
        "target_epsilon": run.target_epsilon,
        "settings": frozen_settings(run.study, kind=run.kind),
        **recorded_labels(run.study),
        "data": {
            **recorded_hashes(run.study, hashes, frozen=frozen["data"] if frozen else None),
            "units": data.num_units,
            "images": len(data),
        },
    }


def _as_recorded(schedule: _Schedule) -> dict[str, Any]:
    mechanism = schedule.mechanism
    return {
        "num_steps": schedule.num_steps,
        "sample_rate": schedule.sample_rate,
        "noise_multiplier": mechanism and mechanism.noise_multiplier,
        "counts_noise": mechanism and mechanism.counts_noise,
        "rounding_allowance": mechanism and mechanism.rounding_allowance,
        "class_weights": schedule.class_weights,
    }


def _of_some_runs(run: TrainingRun, data: DomainData, model: nn.Module, frozen: dict[str, Any]) -> dict[str, Any]:
    """What the config has of audits, of DP runs, of networks of one's own, and of the pretraining."""
    found: dict[str, Any] = {}
    if run.canaries:
        found["canaries"] = {"canaries": run.canaries, "coins_sha256": sha256_file(run.paths.coins)}
        if isinstance(data, CanaryData) and data.images_each > 1:
            found["canaries"]["images_each"] = data.images_each
    if run.target_epsilon is not None:
        recorded = frozen.get("clipping_ways", {})
        ways = CLIPPING[run.study.privacy.clipping].choose_ways(model, shape=data.input_shape, recorded=recorded)
        found |= {"clipping_ways": ways} if ways else {}
    code = model_code(run.study.model, run.study.file.parent)
    if code is not None:
        found["model_code_sha256"] = code
    if run.kind == "pretrain":
        found["public_class_weights"] = count_class_weights(data)
    return found


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
    if study.train.closed_form:
        settings = settings.model_copy(update={"max_grad_norm": 1.0})  # by construction: `dpdt.training.closed_form`
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
        quantile=settings.clip_factor == "quantile" and not study.train.closed_form,
    )


def _physical_batch_size(
    run: TrainingRun, model: nn.Module, data: DomainData, *, device: torch.device, known: dict[str, Any] | None
) -> int:
    """The one asked for; or as many as fit, and on the same machine what was found when the run was begun.

    Features take so little memory that a logical batch is one physical one, but for the rarest.
    """
    study = run.study
    images_per_unit = images_of_a_unit(study) if run.cell else 1
    most = largest_batch(expected_batch_size=run.settings.batch_of(data.num_units), images_per_unit=images_per_unit)
    if isinstance(data, FeatureData):
        return min(most, MOST_FEATURES)
    if study.train.physical_batch_size != "auto":
        return study.train.physical_batch_size
    if known is not None and known["machine"] == device_name(device):
        return int(known["images"])
    return find_physical_batch_size(
        model,
        shape=data.input_shape,
        device=device,
        clipping=study.privacy.clipping if run.target_epsilon is not None else None,
        autocast=study.train.precision == "bf16",
        most=most,
    )


def _plan(
    run: TrainingRun, data: DomainData, schedule: _Schedule, *, device: torch.device, physical_batch_size: int
) -> TrainingPlan:
    study, settings, class_weights = run.study, run.settings, schedule.class_weights
    mechanism, images_per_unit = schedule.mechanism, study.privacy.images_per_patient if run.cell else 1
    one_size = mechanism is not None and mechanism.rounding_allowance is not None and needs_one_size(study)
    reserve_steps, checkpoint_steps = study.privacy.reserve_steps, study.train.checkpoint_every_steps
    if isinstance(data, FeatureData):
        reserve_steps = max(reserve_steps, schedule.num_steps // QUICK_BLOCKS)
        checkpoint_steps = max(checkpoint_steps, schedule.num_steps // QUICK_CHECKPOINTS)
    elif one_size:
        physical_batch_size = images_at_once(
            most=physical_batch_size,
            expected_batch_size=schedule.expected_batch_size,
            images_per_unit=images_of_a_unit(study),
        )
    return TrainingPlan(
        paths=run.paths,
        title=run.title,
        num_steps=schedule.num_steps,
        sample_rate=schedule.sample_rate,
        expected_batch_size=schedule.expected_batch_size,
        learning_rate=_learning_rate(run, schedule),
        weight_decay=settings.weight_decay,
        class_weights=None if class_weights is None else tuple(class_weights),
        mechanism=mechanism,
        clipping=study.privacy.clipping,
        autocast=study.train.precision == "bf16",
        images_per_unit=images_per_unit,
        seed=f"{study.study.seed}/{run.run_id}",
        seeded=run.seeded,
        physical_batch_size=physical_batch_size,
        one_size=one_size,
        reserve_steps=reserve_steps,
        checkpoint_every_steps=checkpoint_steps,
        device=device,
        labels=study.study.labels,
        **_recipe(run),
    )


def _learning_rate(run: TrainingRun, schedule: _Schedule) -> float:
    """The one asked for; with DP what its noise leaves of it."""
    if run.cell is None or schedule.mechanism is None:
        return run.settings.learning_rate
    return run.study.train.learning_rate_with(
        expected_batch_size=schedule.expected_batch_size, noise_multiplier=schedule.mechanism.noise_multiplier
    )


def _recipe(run: TrainingRun) -> dict[str, Any]:
    """What trainings have and the pretraining has not."""
    if run.cell is None:
        return {}
    train = run.study.train
    names = ("averaging", "optimizer", "schedule", "warm_up", "views", "head_first")
    privacy = run.study.privacy
    clipped = {"automatic": privacy.clip_factor == "automatic", "by_layer": privacy.clip_scope == "layers"}
    return {**clipped, **{name: getattr(train, name) for name in names}}
