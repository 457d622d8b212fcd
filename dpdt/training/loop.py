"""The one training loop of both arms: it resumes a run where its files say it is, and leaves it ready to be resumed.

It goes in blocks of `privacy.reserve_steps` steps. A block is in the ledger, and what it will have cost in
`state.json`, before its first step; after its last one come the metrics line and, when due, a checkpoint. Between a
checkpoint and the next block nothing is spent, so a run that is resumed there draws the same numbers as an
undisturbed one. After a crash in a block those numbers may have been used: the run goes back to its
checkpoint, its streams get new keys, and the steps that it takes again are paid for again.
"""

import io
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dpdt.base.console import Advance, progress
from dpdt.base.files import atomic_path
from dpdt.base.mixing import number_of
from dpdt.base.vocabulary import format_bound
from dpdt.errors import PrivacyError
from dpdt.privacy.clipping.engines import CLIPPING, ClippedGradientSum, GradientSum
from dpdt.privacy.clipping.gradient_sum import Loss
from dpdt.privacy.clipping.model_guard import Guard
from dpdt.privacy.keystream import KeyStream
from dpdt.privacy.ledger import Countdown, Ledger
from dpdt.runs.checkpoint import load_checkpoint, save_checkpoint
from dpdt.runs.metrics_log import append_metrics, keep_metrics_until
from dpdt.runs.state import write_state
from dpdt.shards.dataset import DomainData
from dpdt.study.paths import RunPaths
from dpdt.training.averaging import WeightAverage
from dpdt.training.batches import image_losses, physical_batches
from dpdt.training.closed_form import MomentSum
from dpdt.training.features import FeatureData
from dpdt.training.networks.stochastic_depth import DepthDraws
from dpdt.training.networks.trained import freeze_but_head
from dpdt.training.networks.weights import named
from dpdt.training.optimizers import make_optimizer, rate_of_step
from dpdt.training.plan import TrainingPlan
from dpdt.training.ranks import ALONE, Ranks
from dpdt.training.read_ahead import ReadAhead
from dpdt.training.resume import check_sampling, load_optimizer, make_sampler, open_streams
from dpdt.training.stop import StopFlag
from dpdt.training.views import Views, parted

__all__ = ["EpochEnd", "TrainingLoop"]

FORMAT: Final = 1

EpochEnd = Callable[[RunPaths], object]


class TrainingLoop:
    """One run, resumed where its files say it is.

    Args:
        plan: What to do.
        model: With its initial weights, in the modes for training; trained in place.
        data: The train split.
        steps: The open ledger of a DP run; None without DP, and in a rank that does not lead.
        whole: The network that `model` is the head of, if it is one; its weights are the run's.
        ranks: The processes that train together.

    Raises:
        PrivacyError: Checkpoint and ledger do not belong together.
    """

    def __init__(
        self,
        plan: TrainingPlan,
        *,
        model: nn.Module,
        data: DomainData,
        steps: Ledger | None,
        whole: nn.Module | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.plan = plan
        self.ranks = ranks
        self.data = data
        self.model = model.to(plan.device)
        self.whole = model if whole is None else whole
        self.labels = torch.from_numpy(data.labels).to(plan.device)
        self.optimizer = make_optimizer(plan, model.parameters())
        checkpoint = ranks.share(load_checkpoint(plan.paths.checkpoints) if ranks.leads else None)
        self.step = 0 if checkpoint is None else int(checkpoint["step"])
        spent = ranks.share(self.step if steps is None else steps.spent_steps)
        # the other ranks count along with rank 0's ledger: they take the same steps, and stop at the same one
        self.steps = steps or Countdown(num_steps=plan.num_steps, taken=spent)
        streams = open_streams(plan, checkpoint, spent_steps=self.steps.spent_steps, ranks=ranks)
        if checkpoint is not None:
            self.model.load_state_dict(checkpoint["model"])
            load_optimizer(self.optimizer, checkpoint["optimizer"])
        self.average: WeightAverage | None = None
        if plan.averaging != "none":
            self.average = WeightAverage(plan.averaging, self.model, num_steps=plan.num_steps)
            if checkpoint is not None:
                self.average.load_state_dict(checkpoint["average"])
        self.sampler = make_sampler(plan, data, streams["sampling"])
        check_sampling(plan, self.sampler, data)
        self.noise = streams["noise"]
        self._thaw = freeze_but_head(self.network) if self.steps.used_steps < plan.head_steps else None
        self.gradients, self._guard = self._gradient_sum(), self._new_guard()
        if checkpoint is not None and "max_grad_norm" in checkpoint:
            cast(ClippedGradientSum, self.gradients).max_grad_norm = float(checkpoint["max_grad_norm"])
        canaries = map(str, range(len(data.image_ids), len(data)))  # of an audit, which have no id
        self._depth = DepthDraws(self.model, [*data.image_ids, *canaries], seed=plan.seed)
        self._ahead: tuple[NDArray[np.int64], dict[str, Any]] | None = None  # drawn early, and the stream before it
        self._views: Views | None = None
        if plan.views > 1:
            self._views = Views(list(data.image_ids), images=len(data), views=plan.views, seed=plan.seed)
        self._threads = torch.get_num_threads()
        self.reader = ReadAhead(self._copy, like=data.no_images, device=plan.device)
        if ranks.leads:
            keep_metrics_until(plan.paths, self.step)

    def run(self, *, stop: StopFlag, on_epoch_end: EpochEnd | None = None) -> str:
        """Take steps until the budget is used up or the run is asked to stop.

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
                self._train_all()
                if self.step - saved >= plan.checkpoint_steps:
                    self._save()
                    saved = self.step
                if int(self.epoch) > epoch:
                    epoch = int(self.epoch)
                    if on_epoch_end and self.ranks.leads:
                        on_epoch_end(plan.paths)
        self.reader.close()
        self.noise.close()
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
        """Steps of the next block: no more than to the next checkpoint, or to the last one of the head alone."""
        steps = max(1, min(self.plan.reserve_steps, saved + self.plan.checkpoint_steps - self.step))
        return steps if self._thaw is None else min(steps, self.plan.head_steps - self.steps.used_steps)

    def _train_all(self) -> None:
        """After the steps of the head alone: sum and guard are of all parameters, the clipping norm stays.

        The optimizer has had all of them from the first step: it leaves alone what has no gradient.
        """
        if self._thaw is None or self.steps.used_steps < self.plan.head_steps:
            return
        self._thaw()
        self._thaw = None
        before = self.gradients
        before.close()
        self.gradients, self._guard = self._gradient_sum(), self._new_guard()
        if isinstance(self.gradients, ClippedGradientSum):
            self.gradients.max_grad_norm = cast(ClippedGradientSum, before).max_grad_norm

    def _block(self, steps: int, stop: StopFlag, advance: Advance) -> None:
        """Take the reserved steps, unless asked to stop between two of them; log them."""
        begun, taken, images = time.perf_counter(), 0, 0
        total = torch.zeros((), device=self.plan.device)
        while taken < steps and not self._stops(stop):
            self.steps.take()
            rows = self._draw(more=taken + 1 < steps)
            total += self._take_step(rows)
            taken, images = taken + 1, images + len(rows) * self.plan.views
            self.step += 1
            advance(1)
        self._give_back()
        if self._guard is not None:
            self._refuse(self._guard.problem())
        if not taken:
            return
        self.ranks.add([total])
        loss = total.item() / images if images else math.nan
        epsilon = self.epsilon
        seconds = (time.perf_counter() - begun) / taken
        if self.ranks.leads:
            append_metrics(
                self.plan.paths,
                step=self.step,
                epoch=round(self.epoch, 4),
                loss=loss,
                epsilon=epsilon,
                step_s=seconds,
                **self._norm,
            )
        told = [] if math.isnan(loss) else [f"loss {loss:.3f}"]
        told += [] if epsilon is None else [f"epsilon {format_bound(epsilon)}"]
        advance(0, ", ".join(told))

    @property
    def _norm(self) -> dict[str, float]:
        """The clipping norm of the next step, where it follows the gradients'."""
        sums = self.gradients
        changes = isinstance(sums, ClippedGradientSum) and sums.count_noise is not None
        return {"max_grad_norm": cast(ClippedGradientSum, sums).max_grad_norm} if changes else {}

    @property
    def network(self) -> nn.Module:
        """The study's network."""
        return self.model

    def _new_guard(self) -> Guard | None:
        return None if self.plan.mechanism is None else Guard(self.network, shape=self.data.input_shape)

    def _refuse(self, problem: str | None) -> None:
        """In a DP arm nothing but the noisy steps may change the network: else there is no bound on what it keeps."""
        if self.ranks.any(problem is not None):
            raise PrivacyError(f"{self.plan.paths.run_id}: {problem or 'another process of it refuses the network.'}")

    def _stops(self, stop: StopFlag) -> bool:
        """Whether any rank was asked to stop: then all stop here."""
        return self.ranks.any(stop.requested)

    def _take_step(self, rows: NDArray[np.int64]) -> Tensor:
        """One logical step; the sum of the losses of this rank's part of the batch."""
        plan = self.plan
        total = torch.zeros((), device=plan.device)
        self.gradients.clear()
        if self._guard is not None:
            self._guard.begin()
        with self._own_draws():
            for part, inputs in self.reader.read(self._parts(rows, step=self.step)):
                images, _ = parted(part)
                labels = self.labels[self._on_device(images)]
                units = self._on_device(self.data.units[images]) if plan.images_per_unit * plan.views > 1 else None
                self._depth.begin(images, step=self.step, device=plan.device)
                total += self.gradients.add(inputs, labels, units=units).sum()
        self._depth.end()
        if self._guard is not None:
            self._refuse(self._guard.step_problem())
        self.ranks.add(self.gradients.partial_sums())
        if self.gradients.counts:
            self.ranks.add(self.gradients.counts)
        self._release()
        # from 1, as the ledger counts: after a crash beyond the model's own steps; a step outside of a block is a first
        number = max(1, self.steps.used_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate_of_step(plan, number - 1)
        self.optimizer.step()
        if self.average is not None:
            self.average.add(step=number)
        if self._guard is not None:
            self._guard.stepped()
        return total

    @contextmanager
    def _own_draws(self) -> Iterator[None]:
        """Torch's generators as seed, step and rank say: dropout of an arm without DP is the same after a resume."""
        if self._guard is not None:  # nothing draws
            yield
            return
        device = self.plan.device
        number = number_of(f"{self.plan.seed}/{self.step}/{self.ranks.rank}")
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.default_generator.manual_seed(number)
            if device.type == "cuda":
                torch.cuda.manual_seed(number)
            yield

    def _release(self) -> None:
        """Put the noisy sum, over the expected batch size, where the optimizer takes it from."""
        self.gradients.release(expected_batch_size=self.plan.expected_batch_size)

    def _on_device(self, numbers: NDArray[np.int64]) -> Tensor:
        """Whole numbers where the model is; a GPU's queue of work is not waited for."""
        return torch.from_numpy(numbers).to(self.plan.device, non_blocking=True)

    def _copy(self, part: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
        """The pictures of a physical batch; in the reader's thread."""
        rows, views = parted(part)
        self.data.images(rows, views=views, out=out, num_threads=self._threads)

    def _parts(self, rows: NDArray[np.int64], *, step: int) -> list[NDArray[np.int64]]:
        """This rank's part of the logical batch of a step, in physical ones; the views of an image are side by side."""
        mine = rows[self.ranks.part(self.data.units[rows])]
        units = np.repeat(self.data.units[mine], self.plan.views)
        if self._views is not None:
            mine = self._views.of(mine, step=step)
        return physical_batches(mine, units, size=self.plan.physical_batch_size)

    def _draw(self, *, more: bool) -> NDArray[np.int64]:
        """The next batch. If more will be drawn in this block, the one after it too, to be read during this step."""
        if self._ahead is None:
            rows = self.sampler.draw()
            self.reader.announce(self._parts(rows, step=self.step))
        else:
            rows, self._ahead = self._ahead[0], None
        if more:
            before = self.sampler.stream.state_dict()
            self._ahead = (self.sampler.draw(), before)
            self.reader.announce(self._parts(self._ahead[0], step=self.step + 1))
        return rows

    def _give_back(self) -> None:
        """Undo a draw that no step took: the stream goes on as if it had not been made."""
        if self._ahead is not None:
            self.sampler.stream = KeyStream.from_state(self._ahead[1])
            self._ahead = None
        self.reader.forget()

    def _loss(self) -> Loss:
        """One loss an image, from logits and labels."""
        weights = self.plan.class_weights
        tensor = None if weights is None else torch.tensor(weights, device=self.plan.device)

        def loss(logits: Tensor, labels: Tensor) -> Tensor:
            return image_losses(logits, labels, class_weights=tensor)

        return loss

    def _gradient_sum(self) -> GradientSum:
        mechanism = self.plan.mechanism
        if isinstance(self.data, FeatureData) and self.plan.optimizer == "closed-form":
            sigma = 0.0 if mechanism is None else mechanism.noise_multiplier
            scale = self.data.scale
            return MomentSum(self.model, self._loss(), scale=scale, noise_multiplier=sigma, noise=self.noise)
        if mechanism is None:
            return GradientSum(self.model, self._loss(), autocast=self.plan.autocast)
        return CLIPPING[self.plan.clipping](
            self.model,
            self._loss(),
            max_grad_norm=mechanism.max_grad_norm,
            noise_multiplier=mechanism.sum_noise_multiplier,
            noise=self.noise,
            autocast=self.plan.autocast,
            fill_to=self.plan.physical_batch_size if self.plan.one_size else None,
            automatic=self.plan.automatic,
            by_layer=self.plan.by_layer,
            recorded_ways=self.plan.clipping_ways,
            count_noise=mechanism.count_noise,
        )

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
            **({} if self.average is None else {"average": self.average.state_dict()}),
            **self._norm,
        }
        save_checkpoint(self.plan.paths.checkpoints, step=self.step, content=content)

    def _publish_weights(self) -> None:
        """Write the final weights, on the CPU and under the network's own names."""
        if not self.ranks.leads:
            return
        content = io.BytesIO()  # torch's own writing ends in a RuntimeError when the disk is full
        with nullcontext() if self.average is None else self.average.in_place():
            weights = {name: value.detach().cpu().contiguous() for name, value in self.whole.state_dict().items()}
            torch.save(named(weights, self.plan.labels), content)
        with atomic_path(self.plan.paths.weights) as temporary:
            temporary.write_bytes(content.getbuffer())
