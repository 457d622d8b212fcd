"""Trainings: the public pretraining, and every cell of the study, with or without differential privacy.

All of them go through the same loop (`dpdt.loop`); this module decides what it is given and freezes that in the
run's `config.json` before the first step. A finished run is left alone; an interrupted or crashed one goes on.
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dpdt.checkpoint import remove_checkpoints
from dpdt.dataset import DomainData, load_split
from dpdt.errors import DpdtError, PrivacyError, StudyError
from dpdt.files import read_json, remove_leftovers, sha256_file, write_json
from dpdt.loop import EpochEnd, TrainingLoop, TrainingPlan, open_ledger
from dpdt.model import build_model, load_weights
from dpdt.paths import RunPaths
from dpdt.privacy.counts import class_weights_of, noisy_counts
from dpdt.privacy.keystream import KeyStream
from dpdt.privacy.mechanism import Mechanism
from dpdt.privacy.sampling import num_steps_for, sample_rate_for
from dpdt.privacy.statement import privacy_statement, statement_without_privacy
from dpdt.ranks import Ranks, joined
from dpdt.runs import (
    RunSummary,
    freeze_config,
    frozen_settings,
    read_state,
    run_done,
    run_lock,
    summary_of,
    write_state,
)
from dpdt.stop import StopFlag, stop_on_signals
from dpdt.study import Cell, PretrainSettings, Study, TrainSettings, format_epsilon
from dpdt.vocabulary import LABELS

__all__ = ["RunSummary", "StopFlag", "pretrain", "run_done", "train"]


@dataclass(frozen=True)
class _Run:
    """Which training this is: a cell of the study, or the pretraining."""

    study: Study
    run_id: str
    kind: str
    domain: str
    cell: Cell | None
    seeded: bool

    @property
    def paths(self) -> RunPaths:
        return self.study.paths.run(self.run_id)

    @property
    def settings(self) -> PretrainSettings | TrainSettings:
        return self.study.train if self.cell else self.study.pretrain

    @property
    def target_epsilon(self) -> float | None:
        return self.cell.target_epsilon if self.cell and self.cell.private else None

    @property
    def seed(self) -> int:
        return self.cell.seed if self.cell else 0

    @property
    def title(self) -> str:
        if self.cell is None:
            return f"pretrain {self.domain}"
        return f"train {self.domain} epsilon {format_epsilon(self.cell.target_epsilon)}"


def pretrain(study: Study, *, on_epoch_end: EpochEnd | None = None, stop: StopFlag | None = None) -> RunSummary:
    """Train on the public domain's train split, without DP. The weights are where all other trainings start.

    The loss is not weighted; the config records the public domain's class weights for `class_weights = "public"`.

    Args:
        study: The study.
        on_epoch_end: As for ``train``.
        stop: As for ``train``.

    Returns:
        How it ended; at once if it was finished before.

    Raises:
        StudyError: The study has no public domain.
        DpdtError: As for ``train``.
    """
    if study.public_domain is None or study.pretrain_run_id is None:
        raise StudyError(
            f"{study.file}: nothing to pretrain on: no domain has role 'public', or model.init_weights is set. "
            "Trainings start without it."
        )
    run = _Run(study, study.pretrain_run_id, "pretrain", study.public_domain, cell=None, seeded=True)
    return _train(run, on_epoch_end=on_epoch_end, stop=stop)


def train(
    study: Study,
    cell: Cell,
    *,
    on_epoch_end: EpochEnd | None = None,
    stop: StopFlag | None = None,
    seeded_randomness: bool = False,
) -> RunSummary:
    """Train one cell of the study on its domain's train split.

    Without `stop`, SIGINT, SIGTERM and SIGUSR2 end the training in good order after the step it is in (in the main
    thread): all is saved, no budget is lost, and the signal is then delivered to the handler that was there before.

    Args:
        study: The study.
        cell: Domain, target epsilon (inf for no DP) and seed.
        on_epoch_end: Called with the run's paths after the block in which an epoch ended.
        stop: Asks to stop in place of signals.
        seeded_randomness: Take a DP arm's batches and noise from the seed: for tests alone, the privacy statement
            then says that the guarantee is void. An arm without DP is always seeded.

    Returns:
        How it ended: ``finished`` or ``interrupted``; at once if it was finished before.

    Raises:
        PrivacyError: Going on would make the epsilon wrong: ledger missing, damaged or another's; delta too large.
        StudyError: Pretrained weights are missing, CUDA was asked for and is not there, or the run was begun with
            other settings.
        DpdtError: Another process is training this run.
    """
    run = _Run(study, study.run_id(cell), "train", cell.domain, cell, seeded=seeded_randomness or not cell.private)
    return _train(run, on_epoch_end=on_epoch_end, stop=stop)


def _train(run: _Run, *, on_epoch_end: EpochEnd | None, stop: StopFlag | None) -> RunSummary:
    """Do a run, or what is left of it."""
    if run_done(run.study, run.run_id):
        _remove_noise_keys(run)
        return summary_of(run.paths)
    begun = time.perf_counter()
    device = _device(run.study.train.device)
    _set_threads(run.study.train.num_threads)
    signals = contextlib.nullcontext(stop) if stop else stop_on_signals()
    with joined() as ranks, _leading(run.paths, ranks, signals) as flag:
        if ranks.leads:
            remove_leftovers(run.paths.folder)
        data = load_split(run.study, run.domain, "train")
        model, initial = _initial_model(run)
        with ranks.leader_first():  # who freezes the config; the others compare
            plan, config = _plan(run, data, initial, device)
        with contextlib.ExitStack() as stack:
            ledger = stack.enter_context(open_ledger(plan)) if plan.mechanism and ranks.leads else None
            loop = TrainingLoop(plan, model=model, data=data, steps=ledger, ranks=ranks)
            if plan.mechanism and ranks.leads:
                write_json(run.paths.privacy, _statement(run, plan, config, data, spent_steps=plan.num_steps))
            status = loop.run(stop=flag, on_epoch_end=on_epoch_end)
            if status == "finished" and ranks.leads:
                spent = loop.steps.spent_steps
                write_json(run.paths.privacy, _statement(run, plan, config, data, spent_steps=spent, complete=True))
                loop.report("finished")
                remove_checkpoints(run.paths.checkpoints)  # and with them the keys of the noise
        ranks.share(None)  # nobody goes on before the last file is written
    return summary_of(run.paths, seconds=time.perf_counter() - begun)


@contextlib.contextmanager
def _leading(paths: RunPaths, ranks: Ranks, signals: contextlib.AbstractContextManager[StopFlag]) -> Iterator[StopFlag]:
    """Listen to the signals; rank 0 also holds the run's lock and records a failure."""
    with contextlib.ExitStack() as stack:
        if ranks.leads:
            stack.enter_context(run_lock(paths))
        flag = stack.enter_context(signals)
        if ranks.leads:
            stack.enter_context(_failure_recorded(paths))
        yield flag


def _remove_noise_keys(run: _Run) -> None:
    """Remove what a process left that was killed between its last report and the removal of its checkpoints."""
    if any(path != run.paths.weights for path in run.paths.checkpoints.iterdir()):
        with run_lock(run.paths):
            remove_checkpoints(run.paths.checkpoints)


def _plan(
    run: _Run, data: DomainData, initial: dict[str, Any], device: torch.device
) -> tuple[TrainingPlan, dict[str, Any]]:
    """What the loop needs, and the config: frozen now, or checked against the one that is frozen."""
    study, settings, target = run.study, run.settings, run.target_epsilon
    sizes = {"expected_batch_size": settings.expected_batch_size, "num_units": data.num_units}
    rate = sample_rate_for(**sizes, section="train" if run.cell else "pretrain")
    num_steps = num_steps_for(num_epochs=settings.num_epochs, **sizes)
    mechanism = None
    frozen = read_json(run.paths.config) if run.paths.config.exists() else {}
    if target is not None:
        counted = study.train.class_weights == "private"
        mechanism = Mechanism.plan(
            study.privacy,
            target_epsilon=target,
            num_units=data.num_units,
            sample_rate=rate,
            num_steps=num_steps,
            noise_multiplier=frozen.get("noise_multiplier"),
            counts_share=study.privacy.class_weights_share if counted else None,
            counts_noise=frozen.get("counts_noise"),
        )
    class_weights = frozen["class_weights"] if "class_weights" in frozen else _class_weights(run, data, mechanism)
    config = {
        "run_id": run.run_id,
        "kind": run.kind,
        "domain": run.domain,
        "seed": run.seed,
        "target_epsilon": target,
        "settings": frozen_settings(study, kind=run.kind),
        "data": {
            "split_sha256": data.split_sha256,
            "manifest_sha256": data.manifest_sha256,
            "units": data.num_units,
            "images": len(data),
        },
        "num_steps": num_steps,
        "sample_rate": rate,
        "noise_multiplier": mechanism and mechanism.noise_multiplier,
        "counts_noise": mechanism and mechanism.counts_noise,
        "class_weights": class_weights,
        "initial_weights": initial,
        "randomness": "seeded" if run.seeded else "cryptographic",
        "synthetic": data.synthetic,
    }
    if run.kind == "pretrain":
        config["public_class_weights"] = _count_class_weights(data)
    plan = TrainingPlan(
        paths=run.paths,
        title=run.title,
        num_steps=num_steps,
        sample_rate=rate,
        expected_batch_size=settings.expected_batch_size,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        class_weights=None if class_weights is None else tuple(class_weights),
        mechanism=mechanism,
        clipping=study.privacy.clipping,
        images_per_unit=study.privacy.images_per_patient if run.cell else 1,
        seed=f"{study.study.seed}/{run.run_id}",
        seeded=run.seeded,
        physical_batch_size=study.train.physical_batch_size,
        reserve_steps=study.privacy.reserve_steps,
        checkpoint_every_steps=study.train.checkpoint_every_steps,
        device=device,
    )
    return plan, freeze_config(run.paths, config)


def _statement(
    run: _Run,
    plan: TrainingPlan,
    config: dict[str, Any],
    data: DomainData,
    *,
    spent_steps: int,
    complete: bool = False,
) -> dict[str, Any]:
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
        **shared,
    )


def _initial_model(run: _Run) -> tuple[nn.Module, dict[str, Any]]:
    """The network before the first step, and where its weights came from."""
    study = run.study
    with torch.random.fork_rng(devices=[]):
        seed = f"{study.study.seed}/{run.kind}/{run.domain}/{run.seed}"
        torch.manual_seed(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:7]))
        model = build_model(study.model)
    source, path = _initial_weights(run)
    if path is None:
        return model, {"source": source, "sha256": None, "new_head": True}
    head = load_weights(model, path, new_head=True)
    return model, {"source": source, "sha256": sha256_file(path), "new_head": not head}


def _initial_weights(run: _Run) -> tuple[str, Path | None]:
    """Name and file of the weights to start from; no file: random ones."""
    study = run.study
    if study.model.init_weights is not None:
        path = study.file.parent / study.model.init_weights
        return f"file {path.name}", path
    if run.cell is None or study.pretrain_run_id is None:
        return "random", None
    if not run_done(study, study.pretrain_run_id):
        raise StudyError(
            f"{study.paths.run(study.pretrain_run_id).folder}: the public pretraining is not finished, and trainings "
            f"start from its weights. Run `dpdt pretrain {study.file}`."
        )
    return study.pretrain_run_id, study.paths.run(study.pretrain_run_id).weights


def _class_weights(run: _Run, data: DomainData, mechanism: Mechanism | None) -> list[float] | None:
    """Weight of the positives of each label in this run's loss.

    In a DP arm private labels are counted once, with noise; the weights are published by the same rename as the config
    that accounts for them, so a crash before it leaves nothing that was counted.
    """
    study = run.study
    choice = study.train.class_weights
    if run.cell is None or choice == "none":
        return None
    if choice == "private":
        if mechanism is None:
            return _count_class_weights(data)  # nothing in this arm is protected
        if mechanism.counts_noise is None:
            raise PrivacyError(f"{run.run_id}: exact counts of private labels must not enter a DP training.")
        stream = KeyStream.from_seed("counts", run.run_id) if run.seeded else KeyStream.fresh()
        noisy = noisy_counts(data.labels, data.units, noise_multiplier=mechanism.counts_noise, noise=stream)
        return class_weights_of(noisy)
    if choice != "public":
        return [float(weight) for weight in choice]
    if study.pretrain_run_id is None:
        raise StudyError(
            f"{study.file}: train.class_weights = 'public' needs a public domain that is pretrained on. "
            f"Write the five numbers instead ({', '.join(LABELS)}), or 'none'."
        )
    config = read_json(study.paths.run(study.pretrain_run_id).config)
    return [float(weight) for weight in config["public_class_weights"]]


def _count_class_weights(data: DomainData) -> list[float]:
    """Negatives over positives of each label, 1 where one of them is missing. Exact counts: never in a DP arm."""
    positives, negatives = (data.labels == 1).sum(axis=0), (data.labels == 0).sum(axis=0)
    usable = (positives > 0) & (negatives > 0)
    return [float(w) for w in np.where(usable, negatives / np.maximum(positives, 1), 1.0)]


def _device(choice: str) -> torch.device:
    """The device asked for; never the CPU in place of a GPU that was asked for."""
    if choice == "cuda" and not torch.cuda.is_available():
        raise StudyError(
            "train.device: 'cuda' was asked for, but torch sees no GPU here. Ask the scheduler for one "
            "(cluster.gpus_per_task), install torch with CUDA, or set device = 'cpu'."
        )
    if choice == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    if "LOCAL_RANK" in os.environ:  # one of several processes on this node: each has its own GPU
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    return torch.device("cuda")


def _set_threads(wanted: int) -> None:
    """Use the threads asked for; else what OMP_NUM_THREADS says, else every core that the process may use."""
    if wanted:
        torch.set_num_threads(wanted)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(len(os.sched_getaffinity(0)))


@contextlib.contextmanager
def _failure_recorded(paths: RunPaths) -> Iterator[None]:
    """Leave word in the state that the training failed; what it says of epsilon stays."""
    try:
        yield
    except BaseException as err:
        with contextlib.suppress(DpdtError, OSError):  # the error itself matters more
            state = read_state(paths)
            if state:
                del state["updated"]
                write_state(paths, **{**state, "status": "failed" if isinstance(err, Exception) else "interrupted"})
        raise
