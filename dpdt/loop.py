"""The one training loop of both arms: it takes up a run where the files say it is, and leaves it so that it can go on.

It goes in blocks of `privacy.reserve_steps` steps. A block is in the ledger, and what it will have cost in
`state.json`, before its first step; after its last one come the metrics line and, when due, a checkpoint. Between a
checkpoint and the next block nothing is spent, so a run that is taken up there goes on with the very numbers that an
undisturbed one would have drawn. After a crash in a block those numbers may have been used: the run goes back to its
checkpoint, its streams get new keys, and the steps that it takes again are paid for again.
"""

import io
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from dpdt.checkpoint import has_checkpoint, load_checkpoint, save_checkpoint
from dpdt.console import Advance, progress
from dpdt.dataset import DomainData
from dpdt.errors import PrivacyError
from dpdt.files import atomic_path
from dpdt.model import as_input
from dpdt.paths import RunPaths
from dpdt.privacy.clipping import CLIPPING, GradientSum
from dpdt.privacy.keystream import KeyStream
from dpdt.privacy.ledger import Countdown, Ledger
from dpdt.privacy.mechanism import Mechanism
from dpdt.privacy.sampling import PoissonSampler
from dpdt.ranks import ALONE, Ranks
from dpdt.runs import append_metrics, keep_metrics_until, read_state, write_state
from dpdt.stop import StopFlag
from dpdt.vocabulary import LABELS

__all__ = ["EpochEnd", "TrainingLoop", "TrainingPlan", "image_losses", "open_ledger", "physical_batches"]

FORMAT: Final = 1
# However rare checkpoints shall be, a run has at least so many, so that a crash costs a bounded part of its budget.
MIN_CHECKPOINTS: Final = 10

EpochEnd = Callable[[RunPaths], object]


@dataclass(frozen=True)
class TrainingPlan:
    """All that decides a training but its data.

    Attributes:
        paths: The run's files.
        title: For the progress bar.
        num_steps: Logical steps of the whole run.
        sample_rate: Probability of each unit to be in a batch.
        expected_batch_size: Divides the sum of gradients.
        learning_rate: Of NAdam.
        weight_decay: Of NAdam.
        class_weights: Weight of the positives of each label in the loss; None for 1.
        mechanism: None without DP.
        clipping: Key of ``CLIPPING``.
        images_per_unit: Images of a drawn unit.
        seed: Names the random streams of a run whose randomness is seeded.
        seeded: Whether it is: always without DP; with DP only in tests.
        physical_batch_size: Images at once in memory.
        reserve_steps: Steps of a block.
        checkpoint_every_steps: At most so many steps between checkpoints.
        device: Where the model is.
    """

    paths: RunPaths
    title: str
    num_steps: int
    sample_rate: float
    expected_batch_size: int
    learning_rate: float
    weight_decay: float
    class_weights: tuple[float, ...] | None
    mechanism: Mechanism | None
    clipping: str
    images_per_unit: int
    seed: str
    seeded: bool
    physical_batch_size: int
    reserve_steps: int
    checkpoint_every_steps: int
    device: torch.device

    @property
    def checkpoint_steps(self) -> int:
        """Steps between two checkpoints."""
        return min(self.checkpoint_every_steps, max(1, self.num_steps // MIN_CHECKPOINTS))


def image_losses(logits: Tensor, labels: Tensor, *, class_weights: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of each image: the mean over the five labels, unknown ones adding zero.

    Args:
        logits: Shape (n, 5).
        labels: 1, 0, NaN where unknown; shape (n, 5).
        class_weights: Weight of the positives of each label, shape (5,).

    Returns:
        Shape (n,).
    """
    known = ~labels.isnan()
    losses = F.binary_cross_entropy_with_logits(logits, labels.nan_to_num(), pos_weight=class_weights, reduction="none")
    return (losses * known).sum(1) / len(LABELS)


def physical_batches(rows: NDArray[np.int64], units: NDArray[np.int64], *, size: int) -> list[NDArray[np.int64]]:
    """Cut a logical batch into pieces of at most `size` images, but never between two images of a unit.

    Args:
        rows: Images, shape (n,); those of a unit side by side.
        units: Unit of each of them, shape (n,).
        size: Images at once; a unit that has more is a piece of its own.

    >>> [list(part) for part in physical_batches(np.arange(5), np.array([7, 7, 8, 9, 9]), size=3)]
    [[np.int64(0), np.int64(1), np.int64(2)], [np.int64(3), np.int64(4)]]
    """
    ends = np.flatnonzero(np.diff(units, append=-1))  # last image of each unit
    cuts, start = [], 0
    for before, end in itertools.pairwise(ends):
        if end + 1 - start > size:
            start = int(before) + 1
            cuts.append(start)
    return np.split(rows, cuts) if len(rows) else []


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
            f"Restore the ledger, or remove {paths.folder} to train anew (which spends privacy again)."
        )
    return Ledger(paths.ledger, mechanism=mechanism.as_dict(), num_steps=plan.num_steps)


def _make_sampler(plan: TrainingPlan, data: DomainData, stream: KeyStream) -> PoissonSampler:
    return PoissonSampler(data.units, sample_rate=plan.sample_rate, stream=stream, images_per_unit=plan.images_per_unit)


def _check_sampling(plan: TrainingPlan, sampler: PoissonSampler) -> None:
    """Refuse to train with other batches than those that are accounted for: this is the one place that sees both."""
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


class TrainingLoop:
    """One run, taken up where its files say it is.

    Args:
        plan: What to do.
        model: With its initial weights; trained in place.
        data: The train split.
        steps: The open ledger of a DP run; None without DP, and in a rank that does not lead.
        ranks: The processes that train together.

    Raises:
        PrivacyError: Checkpoint and ledger do not belong together.
    """

    def __init__(
        self, plan: TrainingPlan, *, model: nn.Module, data: DomainData, steps: Ledger | None, ranks: Ranks = ALONE
    ) -> None:
        self.plan = plan
        self.ranks = ranks
        self.data = data
        self.model = model.to(plan.device).train()
        self.labels = torch.from_numpy(data.labels).to(plan.device)
        self.optimizer = torch.optim.NAdam(model.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay)
        if plan.device.type == "cuda":  # a gradient's norm and its part of the sum must be those of the same numbers
            torch.backends.cudnn.allow_tf32 = False
        checkpoint = ranks.share(load_checkpoint(plan.paths.checkpoints) if ranks.leads else None)
        self.step = 0 if checkpoint is None else int(checkpoint["step"])
        spent = ranks.share(self.step if steps is None else steps.spent_steps)
        # the other ranks count along with rank 0's ledger: they take the same steps, and stop at the same one
        self.steps = steps or Countdown(num_steps=plan.num_steps, taken=spent)
        streams = self._streams(checkpoint)
        if checkpoint is not None:
            self.model.load_state_dict(checkpoint["model"])
            self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.sampler = _make_sampler(plan, data, streams["sampling"])
        _check_sampling(plan, self.sampler)
        self.noise = streams["noise"]
        self.gradients = self._gradient_sum()
        if ranks.leads:
            keep_metrics_until(plan.paths, self.step)

    def run(self, *, stop: StopFlag, on_epoch_end: EpochEnd | None = None) -> str:
        """Take steps until the budget is used up or somebody asks to stop.

        Returns:
            ``finished`` (the final weights are written) or ``interrupted`` (all is saved to go on later).
        """
        plan = self.plan
        epoch, saved = int(self.epoch), self.step
        with progress(plan.title, plan.num_steps, unit="steps") as advance:
            advance(self.steps.spent_steps)
            while not self._stops(stop) and (block := self.steps.reserve(self._block_steps(saved))):
                self.report("running")
                self._block(block, stop, advance)
                if self.step - saved >= plan.checkpoint_steps:
                    self._save()
                    saved = self.step
                if int(self.epoch) > epoch:
                    epoch = int(self.epoch)
                    if on_epoch_end and self.ranks.leads:
                        on_epoch_end(plan.paths)
        if self.step != saved:
            self._save()
        self.steps.settle()
        finished = self.steps.spent_steps >= plan.num_steps
        if finished:
            self._publish_weights()
        else:
            self.report("interrupted")
        return "finished" if finished else "interrupted"

    @property
    def epoch(self) -> float:
        """How often each unit has been drawn, in expectation."""
        return self.step * self.plan.sample_rate

    @property
    def epsilon(self) -> float | None:
        """What the steps that the ledger counts have spent; None without DP."""
        mechanism = self.plan.mechanism
        return None if mechanism is None else mechanism.epsilon(self.steps.spent_steps)

    def report(self, status: str) -> None:
        """Publish the run's state."""
        if not self.ranks.leads:
            return
        mechanism = self.plan.mechanism
        write_state(
            self.plan.paths,
            status=status,
            step=self.step,
            num_steps=self.plan.num_steps,
            epsilon=self.epsilon,
            target_epsilon=None if mechanism is None else mechanism.target_epsilon,
        )

    def _block_steps(self, saved: int) -> int:
        """Steps of the next block: no more than to the next checkpoint."""
        return max(1, min(self.plan.reserve_steps, saved + self.plan.checkpoint_steps - self.step))

    def _block(self, steps: int, stop: StopFlag, advance: Advance) -> None:
        """Take the reserved steps, unless asked to stop between two of them; log them."""
        begun, taken, images = time.perf_counter(), 0, 0
        total = torch.zeros((), device=self.plan.device)
        while taken < steps and not self._stops(stop):
            self.steps.take()
            rows = self.sampler.draw()
            total += self._take_step(rows)
            taken, images = taken + 1, images + len(rows)
            self.step += 1
            advance(1)
        if not taken:
            return
        self.ranks.add([total])
        loss = total.item() / images if images else math.nan
        epsilon = self.epsilon
        seconds = (time.perf_counter() - begun) / taken
        if self.ranks.leads:
            append_metrics(
                self.plan.paths, step=self.step, epoch=round(self.epoch, 4), loss=loss, epsilon=epsilon, step_s=seconds
            )
        advance(0, f"loss {loss:.3f}" + ("" if epsilon is None else f", epsilon {epsilon:.2f}"))

    def _stops(self, stop: StopFlag) -> bool:
        """Whether any rank was asked to stop: then all stop here."""
        return self.ranks.any(stop.requested)

    def _take_step(self, rows: NDArray[np.int64]) -> Tensor:
        """One logical step; the sum of the losses of this rank's part of the batch."""
        plan = self.plan
        rows = rows[self.ranks.part(self.data.units[rows])]
        total = torch.zeros((), device=plan.device)
        self.gradients.clear()
        for part in physical_batches(rows, self.data.units[rows], size=plan.physical_batch_size):
            inputs = as_input(self.data.images(part), plan.device)
            labels = self.labels[torch.from_numpy(part).to(plan.device)]
            units = torch.from_numpy(self.data.units[part]).to(plan.device) if plan.images_per_unit > 1 else None
            total += self.gradients.add(inputs, labels, units=units).sum()
        self.ranks.add(self.gradients.partial_sums())
        self.gradients.release(expected_batch_size=plan.expected_batch_size)
        self.optimizer.step()
        return total

    def _gradient_sum(self) -> GradientSum:
        weights = self.plan.class_weights
        tensor = None if weights is None else torch.tensor(weights, device=self.plan.device)

        def loss(logits: Tensor, labels: Tensor) -> Tensor:
            return image_losses(logits, labels, class_weights=tensor)

        mechanism = self.plan.mechanism
        if mechanism is None:
            return GradientSum(self.model, loss)
        return CLIPPING[self.plan.clipping](
            self.model,
            loss,
            max_grad_norm=mechanism.max_grad_norm,
            noise_multiplier=mechanism.noise_multiplier,
            noise=self.noise,
        )

    def _streams(self, checkpoint: dict[str, Any] | None) -> dict[str, KeyStream]:
        """Where batches and noise come from: the checkpoint's streams if nothing was drawn since, else new ones."""
        plan, spent = self.plan, self.steps.spent_steps
        saved = 0 if checkpoint is None else int(checkpoint["spent_steps"])
        if saved > spent:
            raise PrivacyError(
                f"{plan.paths.ledger}: counts {spent} steps, but the checkpoint has spent {saved}. The ledger "
                "is an older copy; restore the right one."
            )
        reported = 0 if plan.mechanism is None else int((read_state(plan.paths) or {}).get("step", 0))
        if reported > spent:
            raise PrivacyError(
                f"{plan.paths.ledger}: counts {spent} steps, but {plan.paths.state.name} tells of {reported} taken "
                "ones. The ledger is an older copy; restore the right one."
            )
        if plan.mechanism and self.step == 0 and spent >= plan.num_steps:
            raise PrivacyError(
                f"{plan.paths.ledger}: all {spent} steps are spent, and no checkpoint is left. "
                f"Remove {plan.paths.folder} to train anew (which spends privacy again)."
            )
        names = ("sampling", "noise")
        if checkpoint is not None and saved == spent:
            return {name: KeyStream.from_state(checkpoint.get(name)) for name in names}
        if plan.seeded:
            return {name: KeyStream.from_seed(name, plan.seed, spent) for name in names}
        states = self.ranks.share({name: KeyStream.fresh().state_dict() for name in names})
        return {name: KeyStream.from_state(states[name]) for name in names}

    def _save(self) -> None:
        if not self.ranks.leads:
            return
        content = {
            "format": FORMAT,
            "step": self.step,
            "spent_steps": self.steps.used_steps,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "sampling": self.sampler.stream.state_dict(),
            "noise": self.noise.state_dict(),
        }
        save_checkpoint(self.plan.paths.checkpoints, step=self.step, content=content)

    def _publish_weights(self) -> None:
        """Write the final weights, on the CPU and under the network's own names."""
        if not self.ranks.leads:
            return
        weights = {name: value.detach().cpu().contiguous() for name, value in self.model.state_dict().items()}
        content = io.BytesIO()  # torch's own writing ends in a RuntimeError when the disk is full
        torch.save(weights, content)
        with atomic_path(self.plan.paths.weights) as temporary:
            temporary.write_bytes(content.getbuffer())
