"""Trainings: the public pretraining, and every cell of the study, with or without differential privacy.

All of them go through the same loop (`dpdt.training.loop`); `dpdt.training.prepare` decides their inputs and
freezes them in the run's `config.json` before the first step. A finished run is left alone; an interrupted or crashed
one goes on.
"""

import contextlib
import dataclasses
import time
from collections.abc import Iterator

import torch
from torch import nn

from dpdt.base.console import note, warn
from dpdt.base.files import read_json, remove_leftovers
from dpdt.errors import DpdtError, LostProcessError, StudyError
from dpdt.privacy.clipping.engines import CLIPPING
from dpdt.privacy.statements import publish_statement
from dpdt.runs.checkpoint import remove_checkpoints
from dpdt.runs.state import RunSummary, read_state, run_done, run_lock, summary_of, write_state
from dpdt.shards.dataset import DomainData, load_split
from dpdt.study import Cell, Study
from dpdt.study.paths import RunPaths
from dpdt.training.canaries import CanaryData, CanaryLoop, CanaryModel, toss_coins, with_canaries
from dpdt.training.device import choose_device, keep_memory, set_threads
from dpdt.training.features import Features, split_features, with_features
from dpdt.training.loop import EpochEnd, TrainingLoop
from dpdt.training.networks.trained import trains_head_alone
from dpdt.training.prepare import prepare
from dpdt.training.ranks import Ranks, joined
from dpdt.training.resume import open_ledger
from dpdt.training.run import TrainingRun
from dpdt.training.start import initial_model
from dpdt.training.stop import StopFlag, stop_on_signals

__all__ = ["RunSummary", "StopFlag", "TrainingRun", "pretrain", "run_done", "train", "train_run", "train_with_canaries"]


def pretrain(study: Study, *, on_epoch_end: EpochEnd | None = None, stop: StopFlag | None = None) -> RunSummary:
    """Train on the public domain's train split, without DP. The weights are where all other trainings start.

    The loss is not weighted; the config records the public domain's class weights for `class_weights = "public"`.

    Args:
        study: The study, or its view with the start that is pretrained.
        on_epoch_end: As for ``train``.
        stop: As for ``train``.

    Returns:
        How it ended; at once if it was finished before.

    Raises:
        StudyError: The study has no public domain, or several starts.
        DpdtError: As for ``train``.
    """
    pretrained = dict.fromkeys(view.pretrain_run_id for view in study.views)
    if len(pretrained) > 1:
        raise StudyError(f"{study.file}: has several starts. Pretrain one of study.views, or run `dpdt pretrain`.")
    study = study.views[0]
    if study.public_domain is None or study.pretrain_run_id is None:
        raise StudyError(
            f"{study.file}: nothing to pretrain on: no domain has role 'public', or model.init_weights is set. "
            "Trainings start without it."
        )
    run = TrainingRun.of(study, study.pretrain_run_id)
    return train_run(run, on_epoch_end=on_epoch_end, stop=stop)


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
    seeded, study = seeded_randomness or not cell.private, study.at(cell)
    run = TrainingRun(study, study.run_id(cell), "train", cell.domain, cell, seeded=seeded)
    return train_run(run, on_epoch_end=on_epoch_end, stop=stop)


def train_with_canaries(
    study: Study, cell: Cell, *, stop: StopFlag | None = None, seeded_randomness: bool = False
) -> RunSummary:
    """Train the twin of a cell that has `audit.canaries` canaries among its patients; no model for use.

    Args:
        study: The study, with canaries.
        cell: As for ``train``.
        stop: As for ``train``.
        seeded_randomness: As for ``train``; the coins are then seeded too.

    Raises:
        StudyError: The study has no canaries.
        DpdtError: As for ``train``.
    """
    if not study.audit.canaries:
        raise StudyError(f"{study.file}: audit.canaries is 0. Set it, e.g. [audit] canaries = 1000.")
    seeded, study = seeded_randomness or not cell.private, study.at(cell)
    canaries = study.audit.canaries
    run = TrainingRun(study, study.audit_run_id(cell), "audit", cell.domain, cell, seeded=seeded, canaries=canaries)
    return train_run(run, on_epoch_end=None, stop=stop)


def train_run(run: TrainingRun, *, on_epoch_end: EpochEnd | None = None, stop: StopFlag | None = None) -> RunSummary:
    """Train a run, or what is left of it; as ``train``."""
    if run_done(run.study, run.run_id):
        _remove_noise_keys(run)
        return summary_of(run.paths)
    begun = time.perf_counter()
    device = choose_device(run.study.train.device)
    set_threads(run.study.train.num_threads)
    keep_memory(device)
    signals = contextlib.nullcontext(stop) if stop else stop_on_signals()
    with signals as flag, joined(flag) as ranks, _leading(run.paths, ranks):
        if ranks.leads:
            remove_leftovers(run.paths.folder)
            _warn_of_other_engines(run)
        data = load_split(run.study, run.domain, "train")
        whole, initial = initial_model(run, data)
        model: nn.Module = whole
        if run.canaries:  # they are read off the pixels
            whole, data = _add_canaries(run, whole, data, ranks)
            model = whole
        elif "trained" in initial and trains_head_alone(whole) and run.study.train.views == 1:
            if (on_features := _on_features(run, whole, data, device, ranks, flag)) is None:
                flag.signal = ranks.largest(flag.signal or 0) or None
                return _stopped_early(run)
            model, data = on_features
        with ranks.leader_first():  # it freezes the config; the others compare
            prepared = prepare(run, data, model=model, initial=initial, device=device)
        plan = prepared.plan
        with contextlib.ExitStack() as stack:
            ledger = stack.enter_context(open_ledger(plan)) if plan.mechanism and ranks.leads else None
            loop = (CanaryLoop if run.canaries else TrainingLoop)(
                plan, model=model, whole=whole, data=data, steps=ledger, ranks=ranks
            )
            if plan.mechanism and ranks.leads:
                promised = prepared.statement(spent_steps=plan.num_steps)
                publish_statement(run.study, run.paths, promised)
            status = loop.run(stop=flag, on_epoch_end=on_epoch_end)
            if status == "finished" and ranks.leads:
                spent = ledger.read_again() if ledger else loop.steps.spent_steps
                kept = prepared.statement(spent_steps=spent, complete=True)
                publish_statement(run.study, run.paths, kept)
                loop.report("finished")
                remove_checkpoints(run.paths.checkpoints)  # and with them the keys of the noise
        # no rank goes on before the last file is written, and all end by the signal that came to any of them
        flag.signal = ranks.largest(flag.signal or 0) or None
    return summary_of(run.paths, seconds=time.perf_counter() - begun)


def _on_features(
    run: TrainingRun, model: nn.Module, data: DomainData, device: torch.device, ranks: Ranks, stop: StopFlag
) -> tuple[nn.Module, DomainData] | None:
    """The head, and what it is given; network and images as they are where it is not given one row an image.

    None where a rank was asked to stop.
    """
    train = run.study.train
    features = Features(model.to(device), autocast=train.precision == "bf16", images_at_once=train.images_at_once)
    found = split_features(run.study, features, data, stop=stop) if ranks.leads else None
    if ranks.any(stop.requested):
        return None
    if not ranks.leads:  # they read what the leader computed
        found = split_features(run.study, features, data)
    if found is None:
        if train.closed_form:
            raise StudyError("train.optimizer: closed-form needs a network whose last layer takes one row an image.")
        note(f"{run.run_id}: the last layer's inputs are no row of numbers an image; every step computes them again")
        return model, data
    return features.head, with_features(data, found, scale=features.scale(data.size))


def _stopped_early(run: TrainingRun) -> RunSummary:
    """Of a run that took no step in this call; before the first one nothing is spent, and no plan counts its steps."""
    if run.paths.state.exists():
        return dataclasses.replace(summary_of(run.paths), status="interrupted")
    spent = None if run.target_epsilon is None else 0.0
    return RunSummary(run.run_id, "interrupted", 0, num_steps=0, epsilon=spent, target_epsilon=run.target_epsilon)


def _add_canaries(run: TrainingRun, model: nn.Module, data: DomainData, ranks: Ranks) -> tuple[CanaryModel, CanaryData]:
    """Put an audit's canaries into the network and the data."""
    seed = f"{run.study.study.seed}/{run.run_id}" if run.seeded and run.cell and run.cell.private else None
    with ranks.leader_first():  # it tosses the coins; the others read them
        included = toss_coins(run.paths, run.canaries, seed=seed)
    audited = with_canaries(data, included, images_each=_images_of_a_canary(run))
    return CanaryModel(model, num_canaries=run.canaries, num_units=audited.num_units), audited


def _images_of_a_canary(run: TrainingRun) -> int:
    """As many as are taken of a drawn patient; one in a twin that was begun before."""
    if run.paths.config.exists():
        return int(read_json(run.paths.config)["canaries"].get("images_each", 1))
    return run.study.privacy.images_per_patient


@contextlib.contextmanager
def _leading(paths: RunPaths, ranks: Ranks) -> Iterator[None]:
    """Rank 0 holds the run's lock and records a failure."""
    if not ranks.leads:
        yield
        return
    with run_lock(paths), _failure_recorded(paths):
        yield


def _warn_of_other_engines(run: TrainingRun) -> None:
    """Warn where the same training was begun with another way to clip: that is another run, with its own ledger."""
    study, cell = run.study, run.cell
    if cell is None or not cell.private:
        return
    for clipping in CLIPPING:
        privacy = study.privacy.model_copy(update={"clipping": clipping})
        other = study.model_copy(update={"privacy": privacy})
        folder = study.paths.run(other.audit_run_id(cell) if run.canaries else other.run_id(cell)).folder
        if folder != run.paths.folder and (folder / run.paths.ledger.name).exists():
            warn(
                f"{run.run_id}: the same training was begun with privacy.clipping = {clipping!r} ({folder.name}), and "
                "what it spent stays spent. To keep that run instead, set it in the study file."
            )


def _remove_noise_keys(run: TrainingRun) -> None:
    """Remove what a process left that was killed between its last report and the removal of its checkpoints."""
    if any(path != run.paths.weights for path in run.paths.checkpoints.iterdir()):
        with run_lock(run.paths):
            remove_checkpoints(run.paths.checkpoints)


@contextlib.contextmanager
def _failure_recorded(paths: RunPaths) -> Iterator[None]:
    """Record in the state that the training failed; its epsilon stays."""
    try:
        yield
    except BaseException as err:
        with contextlib.suppress(DpdtError, OSError):  # the error itself matters more
            state = read_state(paths)
            if state and state.get("status") != "finished":  # another process's, where locks do not keep it away
                del state["updated"]
                failed = isinstance(err, Exception) and not isinstance(err, LostProcessError)
                write_state(paths, **{**state, "status": "failed" if failed else "interrupted"})
        raise
