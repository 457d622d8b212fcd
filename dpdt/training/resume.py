"""Where a run is resumed: its ledger, its random streams, its sampler, and whether they belong together.

After an orderly stop the checkpoint's streams go on. After a crash numbers of them may have been used since, so the
streams get new keys: no noise is drawn twice, and the steps that are taken again are paid for again.
"""

from typing import Any, Final

import pandas as pd
import torch

from dpdt.errors import PrivacyError
from dpdt.privacy.keystream import KeyStream
from dpdt.privacy.ledger import Ledger
from dpdt.privacy.sampling import PoissonSampler
from dpdt.runs.checkpoint import has_checkpoint
from dpdt.runs.state import read_state
from dpdt.shards.dataset import DomainData
from dpdt.training.plan import TrainingPlan
from dpdt.training.ranks import ALONE, Ranks

__all__ = ["check_sampling", "load_optimizer", "make_sampler", "open_ledger", "open_streams"]

# Each has a secret key of its own: both number their draws from 0, and a key's draws are never used twice.
STREAMS: Final = ("sampling", "noise")


def open_ledger(plan: TrainingPlan) -> Ledger:
    """The ledger of a DP run.

    Raises:
        PrivacyError: The run has taken steps, but its ledger is gone; or the ledger is damaged or another run's.
    """
    paths, mechanism = plan.paths, plan.mechanism
    if mechanism is None:
        raise PrivacyError(f"{paths.run_id}: a run without DP has no ledger.")
    begun = has_checkpoint(paths.checkpoints) or read_state(paths) is not None
    if begun and not paths.ledger.exists():
        raise PrivacyError(
            f"{paths.ledger}: missing, but the run has begun, so the spent epsilon cannot be known. "
            f"Restore the ledger, or remove {paths.folder} to train from scratch (which spends privacy again)."
        )
    return Ledger(paths.ledger, mechanism=mechanism.as_dict(), num_steps=plan.num_steps)


def open_streams(
    plan: TrainingPlan,
    checkpoint: dict[str, Any] | None,
    *,
    spent_steps: int,
    ranks: Ranks = ALONE,
) -> dict[str, KeyStream]:
    """Where batches and noise come from: the checkpoint's streams if nothing was drawn since, else new ones.

    Args:
        plan: What the run does.
        checkpoint: The newest one; None if there is none.
        spent_steps: What the ledger counts.
        ranks: The processes that train together; all get the same streams.

    Raises:
        PrivacyError: Checkpoint, ledger and state do not belong together, the budget is spent and nothing is left, or
            the streams have one key.
    """
    _check_books(plan, checkpoint, spent_steps)
    if checkpoint is not None and int(checkpoint["spent_steps"]) == spent_steps:
        streams = {name: KeyStream.from_state(checkpoint.get(name)) for name in STREAMS}
    elif plan.seeded:
        streams = {name: KeyStream.from_seed(name, plan.seed, spent_steps) for name in STREAMS}
    else:
        states = ranks.share({name: KeyStream.fresh().state_dict() for name in STREAMS})
        streams = {name: KeyStream.from_state(states[name]) for name in STREAMS}
    if len({stream.state_dict()["key"] for stream in streams.values()}) < len(STREAMS):  # who saw a batch had its noise
        raise PrivacyError(f"{plan.paths.run_id}: batches and noise would come from one key. Each needs its own.")
    return streams


def _check_books(plan: TrainingPlan, checkpoint: dict[str, Any] | None, spent: int) -> None:
    """Refuse a ledger that counts fewer steps than the run's other files."""
    saved = 0 if checkpoint is None else int(checkpoint["spent_steps"])
    if saved > spent:
        raise PrivacyError(
            f"{plan.paths.ledger}: counts {spent} steps, but the checkpoint has spent {saved}. The ledger "
            "is an older copy; restore the right one."
        )
    reported = 0 if plan.mechanism is None else int((read_state(plan.paths) or {}).get("step", 0))
    if reported > spent:
        raise PrivacyError(
            f"{plan.paths.ledger}: counts {spent} steps, but {plan.paths.state.name} counts {reported} taken "
            "ones. The ledger is an older copy; restore the right one."
        )
    begun = checkpoint is not None and int(checkpoint["step"]) > 0
    if plan.mechanism and not begun and spent >= plan.num_steps:
        raise PrivacyError(
            f"{plan.paths.ledger}: all {spent} steps are spent, and no checkpoint is left. "
            f"Remove {plan.paths.folder} to train from scratch (which spends privacy again)."
        )


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Put a checkpoint's optimizer back, as it was when it was saved.

    NAdam's product of momenta is read on the CPU in each step. torch keeps it there for a new optimizer, but brings a
    loaded one to the parameters' device, where each step would wait for the GPU twice a parameter.
    """
    optimizer.load_state_dict(state)
    for found, saved in zip(optimizer.state.values(), state["state"].values(), strict=True):
        if "mu_product" in saved:
            found["mu_product"] = saved["mu_product"].clone()


def make_sampler(plan: TrainingPlan, data: DomainData, stream: KeyStream) -> PoissonSampler:
    """Draws the batches of the plan."""
    return PoissonSampler(data.units, sample_rate=plan.sample_rate, stream=stream, images_per_unit=plan.images_per_unit)


def check_sampling(plan: TrainingPlan, sampler: PoissonSampler, data: DomainData) -> None:
    """Refuse to train with other batches than those that are accounted for: this is the one place that sees both.

    Raises:
        PrivacyError: The batches are not the Poisson samples that the mechanism counts with, or what is drawn are not
            the patients (or images) of the cohort table.
    """
    mechanism = plan.mechanism
    if mechanism is None:
        return
    if type(sampler) is not PoissonSampler:
        raise PrivacyError(
            f"{plan.paths.run_id}: batches of a {type(sampler).__name__} are not Poisson samples, which the "
            "accountant's epsilon holds for. A DP arm takes a PoissonSampler and nothing else."
        )
    drawn = (sampler.num_units, sampler.sample_rate, sampler.images_per_unit)
    accounted = (mechanism.num_units, mechanism.sample_rate, mechanism.images_per_unit)
    if drawn != accounted:
        raise PrivacyError(
            f"{plan.paths.run_id}: (units, rate, images a unit) of the batches are {drawn}, accounted for are "
            f"{accounted}."
        )
    ids = data.frame["patient_id" if mechanism.unit == "patient" else "image_id"].to_numpy()
    pairs = pd.DataFrame({"id": ids, "unit": data.units[: len(ids)]}).drop_duplicates()  # behind them: canaries
    if not (pairs["id"].is_unique and pairs["unit"].is_unique):
        raise PrivacyError(
            f"{plan.paths.run_id}: what is drawn are not the {mechanism.unit}s of the cohort table: {data.domain} has "
            f"{pairs['id'].nunique()} of them in this split, and {pairs['unit'].nunique()} units would be drawn."
        )
