"""Weight averages, optimizers and schedules: against their definitions, and through whole trainings."""

import dataclasses
import math
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import dpdt.training.loop
from dpdt.base.files import read_json
from dpdt.errors import StudyError
from dpdt.privacy.clipping.engines import CLIPPING
from dpdt.privacy.keystream import KeyStream
from dpdt.privacy.mechanism import Mechanism
from dpdt.privacy.rounding import allowance_of, needs_one_size, rounding_allowance
from dpdt.privacy.sampling import num_steps_for
from dpdt.shards.dataset import load_split
from dpdt.study import Cell, Study, load_study
from dpdt.training.averaging import WeightAverage
from dpdt.training.loop import TrainingLoop
from dpdt.training.networks.build import build_model
from dpdt.training.networks.check import check_model
from dpdt.training.networks.trained import choose_trained
from dpdt.training.optimizers import CorrectedAdam, make_optimizer, rate_of_step, spread_of_noise
from dpdt.training.plan import TrainingPlan
from dpdt.training.resume import open_ledger
from dpdt.training.stop import StopFlag
from dpdt.training.train import pretrain, train
from tests.small_data import MakeStudy, StopAfter
from tests.test_loop import SILENT, plan

DP = Cell("uka", 8.0, 0)
PLAIN = Cell("uka", math.inf, 0)
NUM_STEPS = 20
RECIPES = {
    "ema": 'averaging = "ema"',
    "tail, SGD, cosine": 'averaging = "tail"\noptimizer = "sgd"\nschedule = "cosine"\nwarm_up = 0.2',
    "AdamW, warm-up": 'optimizer = "adamw"\nwarm_up = 0.5',
    "corrected, cosine": 'optimizer = "adam-corrected"\nschedule = "cosine"\nweight_decay = 0.01',
    "views": "views = 3",
    "head first": 'head_first = 0.3\naveraging = "ema"\nweight_decay = 0.1',
    "all": 'averaging = "ema"\noptimizer = "adam-corrected"\nschedule = "cosine"\nwarm_up = 0.1\nviews = 2',
}


def with_recipe(make_study: MakeStudy, recipe: str) -> Study:
    study = make_study(("learning_rate = 1e-3", f"learning_rate = 1e-3\n{RECIPES[recipe]}"))
    pretrain(study)
    return study


def final(study: Study, cell: Cell) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(study.paths.run(study.run_id(cell)).weights, weights_only=True)
    return found


@pytest.mark.parametrize("num_steps", [3, 40])
def test_an_ema_is_adams_corrected_moving_average_and_a_tail_the_mean_of_the_last_quarter(num_steps: int) -> None:
    # Kingma & Ba 2015, section 3: (1 - d) sum of d^(t - i) w_i, over 1 - d^t; d from a time constant of a tenth of T.
    weights = np.random.default_rng(0).normal(size=(num_steps, 4))
    decay = max(0.0, 1 - 1 / (0.1 * num_steps))
    powers = decay ** np.arange(num_steps - 1, -1, -1.0)
    last = weights[-max(1, round(num_steps / 4)) :]
    expected = {"ema": (1 - decay) * powers @ weights / (1 - decay**num_steps), "tail": last.mean(0)}
    for kind, right in expected.items():
        model = nn.Linear(4, 1, bias=False)
        average = WeightAverage(kind, model, num_steps=num_steps)
        for step, row in enumerate(weights, start=1):
            with torch.no_grad():
                model.weight.copy_(torch.from_numpy(row)[None])
            average.add(step=step)
        with average.in_place():
            np.testing.assert_allclose(model.weight.detach()[0], right, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(model.weight.detach()[0], weights[-1].astype(np.float32))


def test_an_average_has_the_networks_names_its_buffers_and_what_is_not_trained() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model.register_buffer("kept", torch.tensor(3.0))
    model[1].weight.requires_grad_(False)
    model[1].bias = model[0].bias  # one parameter of two names
    average = WeightAverage("tail", model, num_steps=2)
    with torch.no_grad():
        model[0].bias.copy_(torch.tensor([5.0, 7.0]))
        model[1].weight.fill_(9.0)
    average.add(step=2)
    with torch.no_grad():
        model[0].bias.fill_(1.0)
    with average.in_place():
        state = {name: value.clone() for name, value in model.state_dict().items()}
    assert list(state) == list(model.state_dict())
    assert state["kept"] == 3
    assert bool((state["1.weight"] == 9).all())
    assert state["0.bias"].tolist() == state["1.bias"].tolist() == [5.0, 7.0]
    assert model[0].bias.tolist() == [1.0, 1.0], "the last weights are back"


@pytest.mark.slow
@pytest.mark.parametrize("cell", [DP, PLAIN], ids=["dp", "plain"])
def test_the_final_weights_are_the_average_of_those_after_each_step(
    make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch, cell: Cell
) -> None:
    study = with_recipe(make_study, "tail, SGD, cosine")
    seen: list[dict[str, torch.Tensor]] = []
    plain = dpdt.training.loop.TrainingLoop._take_step

    def take(self: dpdt.training.loop.TrainingLoop, rows: Any) -> torch.Tensor:
        losses = plain(self, rows)
        seen.append({name: value.detach().double().clone() for name, value in self.model.named_parameters()})
        return losses

    monkeypatch.setattr(dpdt.training.loop.TrainingLoop, "_take_step", take)
    train(study, cell)
    assert len(seen) == NUM_STEPS
    for name, value in final(study, cell).items():
        expected = torch.stack([weights[name] for weights in seen[-5:]]).mean(0)  # a quarter of 20
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
        assert not torch.equal(value, seen[-1][name].float())


@pytest.mark.slow
@pytest.mark.parametrize("cell", [DP, PLAIN], ids=["dp", "plain"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_stop_and_a_resume_give_the_same_weights_bit_by_bit(
    make_study: MakeStudy, recipe: str, cell: Cell, tmp_path: Path
) -> None:
    study = with_recipe(make_study, recipe)
    train(study, cell, seeded_randomness=True)
    expected = final(study, cell)
    study.paths.run(study.run_id(cell)).folder.rename(tmp_path / "undisturbed")
    for looks in (7, 9):
        assert train(study, cell, stop=StopAfter(looks), seeded_randomness=True).status == "interrupted"
    assert train(study, cell, seeded_randomness=True).step == NUM_STEPS
    found = final(study, cell)
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    if cell.private:
        statement = read_json(study.paths.run(study.run_id(cell)).privacy)
        assert 0.98 * 8 < statement["epsilon"] <= 8


def test_without_noise_corrected_adam_is_adam() -> None:
    # torch's own Adam, and AdamW where weights decay, are the right values.
    for decay, right in ((0.0, torch.optim.Adam), (0.1, torch.optim.AdamW)):
        torch.manual_seed(0)
        one, other = (nn.Parameter(torch.ones(50)) for _ in range(2))
        corrected = CorrectedAdam([one], lr=0.1, noise=0.0, weight_decay=decay)
        reference = right([other], lr=0.1, weight_decay=decay)
        for _ in range(20):
            one.grad = torch.randn(50)
            other.grad = one.grad.clone()
            corrected.step()
            reference.step()
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_corrected_adam_is_algorithm_1_of_its_paper() -> None:
    # Tang et al. 2023: m and v as Adam's, theta -= lr m^ / sqrt(max(v^ - (sigma C / B)^2, floor)), here in float64.
    random, noise, rate = np.random.default_rng(0), 0.5, 0.01
    theta, m, v = np.ones(40), np.zeros(40), np.zeros(40)
    parameter = nn.Parameter(torch.ones(40))
    optimizer = CorrectedAdam([parameter], lr=rate, noise=noise)
    floors = 0
    for t in range(1, 31):
        gradient = random.normal(size=40) * noise + np.linspace(0, 3, 40)
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        floor = noise**2 * spread_of_noise(0.999, step=t)
        second = v / (1 - 0.999**t) - noise**2
        floors += int((second < floor).sum())
        theta -= rate * m / (1 - 0.9**t) / np.sqrt(np.maximum(second, floor))
        parameter.grad = torch.from_numpy(gradient).float()
        optimizer.step()
    assert 0 < floors < 30 * 40
    np.testing.assert_allclose(parameter.detach(), theta, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("step", [1, 7, 300])
def test_the_floor_is_the_spread_of_a_second_moment_of_noise_alone(step: int) -> None:
    noise = np.random.default_rng(1).normal(size=(step, 20_000))
    v = np.zeros(20_000)
    for row in noise:
        v = 0.99 * v + 0.01 * row**2
    assert spread_of_noise(0.99, step=step) == pytest.approx((v / (1 - 0.99**step)).std(), rel=0.03)


def test_the_noise_that_corrected_adam_takes_out_is_that_of_a_released_gradient(tmp_path: Path) -> None:
    mechanism = dataclasses.replace(SILENT, noise_multiplier=1.7, max_grad_norm=0.6)
    optimizer = make_optimizer(plan(tmp_path, mechanism, optimizer="adam-corrected"), [nn.Parameter(torch.ones(1))])
    model = nn.Linear(200, 200)
    sums = CLIPPING["bookkeeping"](
        model, lambda out, _: out.sum(1), max_grad_norm=0.6, noise_multiplier=1.7, noise=KeyStream.from_seed("noise")
    )
    sums.release(expected_batch_size=8)  # of an empty batch: noise alone
    assert model.weight.grad is not None
    assert optimizer.defaults["noise"] == pytest.approx(float(model.weight.grad.std()), rel=0.02)
    plain = make_optimizer(plan(tmp_path, None, optimizer="adam-corrected"), [nn.Parameter(torch.ones(1))])
    assert plain.defaults["noise"] == 0


def test_sgd_has_momentum(tmp_path: Path) -> None:
    # Two steps with gradient 1: 1, then 0.9 + 1, times 0.001.
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = make_optimizer(plan(tmp_path, None, optimizer="sgd"), [parameter])
    for _ in range(2):
        parameter.grad = torch.ones(1)
        optimizer.step()
    assert parameter.item() == pytest.approx(-0.0029)


def test_the_learning_rate_warms_up_and_falls_as_a_cosine(tmp_path: Path) -> None:
    # Loshchilov & Hutter 2017, equation 5 with eta_min 0 and no restart; the warm-up of 2 of 8 steps is a line.
    settings = plan(tmp_path, None, num_steps=8, learning_rate=2.0, warm_up=0.25, schedule="cosine")
    falls = [1 + math.cos(math.pi * k / 6) for k in range(6)]
    assert [rate_of_step(settings, step) for step in range(8)] == pytest.approx([1.0, 2.0, *falls])
    constant = dataclasses.replace(settings, schedule="constant")
    assert [rate_of_step(constant, step) for step in range(8)] == [1.0, *[2.0] * 7]
    never = dataclasses.replace(settings, warm_up=0.999)
    assert [rate_of_step(never, step) for step in range(8)] == pytest.approx([(step + 1) / 4 for step in range(8)])


@pytest.mark.slow
def test_every_step_of_a_training_has_its_own_rate_also_after_a_resume(
    make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, rates = with_recipe(make_study, "tail, SGD, cosine"), list[float]()
    step = torch.optim.SGD.step

    def counted(self: torch.optim.SGD, *args: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args)

    monkeypatch.setattr(torch.optim.SGD, "step", counted)
    train(study, DP, stop=StopAfter(9))
    train(study, DP)
    falls = [(1 + math.cos(math.pi * k / 16)) / 2 for k in range(16)]
    assert rates == pytest.approx([1e-3 * part for part in (0.25, 0.5, 0.75, 1.0, *falls)])


@pytest.mark.parametrize("units", [32, 4_500, 100_000])
def test_batches_of_a_part_of_the_units_take_as_many_steps_everywhere(make_study: MakeStudy, units: int) -> None:
    # q = 1/8 and 30 passes are 240 steps, whatever the hospital.
    study = make_study(("num_epochs = 5\nexpected_batch_size = 8", "num_epochs = 30\nsample_rate = 0.125"))
    batch = study.train.batch_of(units)
    assert batch == round(units / 8)
    assert abs(num_steps_for(num_epochs=30, expected_batch_size=batch, num_units=units) - 240) <= 1
    fixed = rounding_allowance(expected_batch_size=batch, num_units=units, images_per_unit=1, precision="float32")
    assert allowance_of(study, num_units=units) == fixed


@pytest.mark.slow
def test_a_training_draws_the_part_of_the_units_that_its_study_says(make_study: MakeStudy) -> None:
    study = make_study(("num_epochs = 5\nexpected_batch_size = 8", "num_epochs = 5\nsample_rate = 0.125"))
    pretrain(study)
    train(study, DP)
    config = read_json(study.paths.run(study.run_id(DP)).config)
    assert (config["sample_rate"], config["num_steps"]) == (0.125, 40)  # 5 passes of 32 patients, 4 a batch
    statement = read_json(study.paths.run(study.run_id(DP)).privacy)
    assert statement["sample_rate"] == 0.125


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "full_at", "part"), [(DP, 1000, 8 / 1000), (DP, 0.01, None), (PLAIN, 1000, None)], ids=str
)
def test_with_much_noise_a_training_has_a_part_of_the_learning_rate(
    make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch, cell: Cell, full_at: float, part: float | None
) -> None:
    """Batch (8 patients) over noise multiplier and 1000, which is less than 1; else, and without DP, the whole rate."""
    study = make_study(("learning_rate = 1e-3", f"learning_rate = 1e-3\nfull_learning_rate_at = {full_at}"))
    pretrain(study)
    rates: list[float] = []

    def make(plan: TrainingPlan, parameters: Any) -> torch.optim.Optimizer:
        optimizer = make_optimizer(plan, parameters)
        rates.append(optimizer.param_groups[0]["lr"])
        return optimizer

    monkeypatch.setattr(dpdt.training.loop, "make_optimizer", make)
    train(study, cell)
    noise = read_json(study.paths.run(study.run_id(cell)).privacy)["noise_multiplier"] if part else 1.0
    assert rates == [pytest.approx(1e-3 * (part or 1.0) / noise)]


def test_the_strong_preset_is_below_the_keys_of_the_study(make_study: MakeStudy) -> None:
    strong = ('folder = "out"', 'folder = "out"\npreset = "strong"')
    study = make_study(strong, ("num_epochs = 5\nexpected_batch_size = 8", "num_epochs = 5"))
    assert (study.train.sample_rate, study.train.full_learning_rate_at) == (0.125, 300)  # docs/recipes.md
    assert (study.train.num_epochs, study.train.learning_rate) == (5, 1e-3)  # the study's own
    assert study.shards.size == 16  # the preset says nothing of images and networks


@pytest.mark.slow
def test_the_statement_says_what_is_kept_and_how_it_came_about(make_study: MakeStudy) -> None:
    study = with_recipe(make_study, "all")
    train(study, DP)
    statement = read_json(study.paths.run(study.run_id(DP)).privacy)
    releases = {entry["what"]: entry for entry in statement["other_releases"]}
    kept = releases["choice of checkpoint"]
    assert kept["source"].startswith("always an exponential average of the weights after each step")
    assert kept["accounted"] == "no cost: computed from weights that epsilon covers"
    assert releases["views of images"]["source"].startswith("2 random views of each drawn image")
    config = read_json(study.paths.run(study.run_id(DP)).config)
    chosen = {name: config["settings"]["train"][name] for name in ("averaging", "optimizer", "schedule", "views")}
    assert chosen == {"averaging": "ema", "optimizer": "adam-corrected", "schedule": "cosine", "views": 2}


class CrashError(Exception):
    """Takes a training down in the middle of a block."""


def test_where_crashes_lost_the_whole_tail_the_last_weights_are_kept(make_study: MakeStudy, tmp_path: Path) -> None:
    """8 steps, the tail is the last 2, and both are lost: the model is that of the 6 taken, not that of none."""
    study = make_study()
    data = load_split(study, "uka", "train")
    settings = plan(tmp_path, dataclasses.replace(SILENT, num_steps=8), num_steps=8, averaging="tail")
    after: list[Tensor] = []
    for crash in (6, 6, None):

        class Loop(TrainingLoop):
            def _take_step(self, rows: NDArray[np.int64], crash: int | None = crash) -> Tensor:
                if self.step == crash:
                    raise CrashError
                total = super()._take_step(rows)
                after.append(next(self.model.parameters()).detach().clone())
                return total

        torch.manual_seed(0)
        model = build_model(study.model)
        with suppress(CrashError), open_ledger(settings) as ledger:
            assert Loop(settings, model=model, data=data, steps=ledger).run(stop=StopFlag()) == "finished"
    assert len(after) == 6
    published = torch.load(settings.paths.weights, weights_only=True)
    assert torch.equal(published[next(iter(dict(model.named_parameters())))], after[-1])


def test_after_crashes_the_tail_is_of_the_last_steps_that_were_taken(make_study: MakeStudy, tmp_path: Path) -> None:
    """40 steps are paid for; three crashes lose some, so the weights' own steps end below the last quarter's first."""
    study = make_study()
    data = load_split(study, "uka", "train")
    settings = plan(tmp_path, dataclasses.replace(SILENT, num_steps=40), num_steps=40, averaging="tail")
    after: dict[int, Tensor] = {}
    for crash in (7, 11, 19, None):

        class Loop(TrainingLoop):
            def _take_step(self, rows: NDArray[np.int64], crash: int | None = crash) -> Tensor:
                if self.step == crash:
                    raise CrashError
                total = super()._take_step(rows)
                after[self.steps.used_steps] = next(self.model.parameters()).detach().clone()
                return total

        torch.manual_seed(0)
        model = build_model(study.model)
        with suppress(CrashError), open_ledger(settings) as ledger:
            loop = Loop(settings, model=model, data=data, steps=ledger)
            assert loop.run(stop=StopFlag()) == "finished"
    assert loop.step < 30 <= loop.steps.spent_steps == 40
    counted = [weights for number, weights in after.items() if number > 30]
    assert 1 < len(counted) <= 10
    published = torch.load(settings.paths.weights, weights_only=True)
    name = next(iter(dict(model.named_parameters())))
    np.testing.assert_allclose(published[name], torch.stack(counted).double().mean(0), rtol=1e-5, atol=1e-6)


class Watched(TrainingLoop):
    """Keeps the weights after each step, by name."""

    after: list[dict[str, Tensor]]

    def _take_step(self, rows: NDArray[np.int64]) -> Tensor:
        total = super()._take_step(rows)
        self.after.append({name: value.detach().clone() for name, value in self.model.named_parameters()})
        return total


def watched(settings: TrainingPlan, study: Study, *, stops: tuple[int, ...] = (), choice: str = "all") -> Watched:
    """A training of ResNet9 that stops and goes on after so many looks, with the weights after each step of all."""
    after: list[dict[str, Tensor]] = []
    for looks in (*stops, None):
        torch.manual_seed(0)
        model = build_model(study.model)
        choose_trained(model, choice)
        with open_ledger(settings) if settings.mechanism else nullcontext() as ledger:
            loop = Watched(settings, model=model, data=load_split(study, "uka", "train"), steps=ledger)
            loop.after = after
            loop.run(stop=StopFlag() if looks is None else StopAfter(looks))
    return loop


NOISY = dataclasses.replace(SILENT, noise_multiplier=1.0, max_grad_norm=1.0)
HEAD = ("fc.weight", "fc.bias")


@pytest.mark.parametrize("clipping", CLIPPING)
@pytest.mark.parametrize("optimizer", ["nadam", "adamw", "sgd", "adam-corrected"])
def test_the_first_steps_are_those_of_the_head_alone_and_all_else_rests(
    make_study: MakeStudy, tmp_path: Path, optimizer: str, clipping: str
) -> None:
    """Rests to the bit, under weight decay, momentum and noise; the right value is a training of the head alone."""
    if clipping != "bookkeeping" and optimizer != "sgd":
        return
    study = make_study()
    changes: dict[str, Any] = {"optimizer": optimizer, "weight_decay": 0.1, "clipping": clipping}
    first = watched(plan(tmp_path / "first", NOISY, head_first=0.4, averaging="ema", **changes), study)
    alone = watched(plan(tmp_path / "alone", NOISY, **changes), study, choice="head")
    torch.manual_seed(0)
    began = dict(build_model(study.model).named_parameters())
    for step in range(4):
        for name, value in first.after[step].items():
            assert torch.equal(value, alone.after[step][name] if name in HEAD else began[name]), (step, name)
        assert not torch.equal(first.after[step]["fc.weight"], began["fc.weight"])
    for name, value in first.after[4].items():
        assert not torch.equal(value, first.after[3][name]), name
    published = torch.load(first.plan.paths.weights, weights_only=True)
    for name, value in published.items():  # time constant of one step: the last weights (test of the average above)
        assert torch.equal(value, first.after[-1][name]), name


@pytest.mark.parametrize("mechanism", [NOISY, None], ids=["dp", "plain"])
def test_the_average_is_of_all_parameters_though_the_head_began_alone(
    make_study: MakeStudy, tmp_path: Path, mechanism: Mechanism | None
) -> None:
    settings = plan(tmp_path, mechanism and dataclasses.replace(mechanism, num_steps=40), num_steps=40)
    loop = watched(dataclasses.replace(settings, averaging="ema", head_first=0.5), make_study())
    decay = 1 - 1 / (0.1 * 40)  # Kingma & Ba 2015, section 3, as above
    powers = [(1 - decay) * decay ** (40 - step) / (1 - decay**40) for step in range(1, 41)]
    for name, value in torch.load(settings.paths.weights, weights_only=True).items():
        expected = sum(power * after[name].double() for power, after in zip(powers, loop.after, strict=True))
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("stops", [(2,), (5,), (6,), (2, 3, 4)])
@pytest.mark.parametrize("mechanism", [NOISY, None], ids=["dp", "plain"])
def test_stops_before_at_and_after_the_end_of_the_heads_steps_change_no_bit(
    make_study: MakeStudy, tmp_path: Path, mechanism: Mechanism | None, stops: tuple[int, ...]
) -> None:
    study, recipe = make_study(), {"head_first": 0.4, "averaging": "ema", "weight_decay": 0.1}
    whole = watched(plan(tmp_path / "whole", mechanism, **recipe), study)
    parts = watched(plan(tmp_path / "parts", mechanism, **recipe), study, stops=stops)
    assert parts.steps.spent_steps == len(parts.after) == 10
    for one, other in zip(whole.after, parts.after, strict=True):
        assert all(torch.equal(value, other[name]) for name, value in one.items())
    one, other = (torch.load(loop.plan.paths.weights, weights_only=True) for loop in (whole, parts))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_norm_that_follows_the_gradients_goes_on_after_the_heads_steps(make_study: MakeStudy, tmp_path: Path) -> None:
    loop = watched(plan(tmp_path, dataclasses.replace(NOISY, quantile=True), head_first=0.4), make_study())
    norms = pd.read_json(loop.plan.paths.metrics_log, lines=True)["max_grad_norm"]
    moves = np.diff(np.log(norms, dtype=float))  # by 0.2 |count + noise| / B, of a count of at most half of the units
    assert len(norms) == 10
    assert max(abs(moves)) < 0.25 < abs(math.log(norms[3]))  # where a fresh start would come from


@pytest.mark.slow
def test_the_statement_says_what_the_first_steps_were(make_study: MakeStudy) -> None:
    study = with_recipe(make_study, "head first")
    assert study.run_id(DP) != make_study().run_id(DP)
    study = with_recipe(make_study, "head first")
    train(study, DP)
    statement = read_json(study.paths.run(study.run_id(DP)).privacy)
    assert (statement["head_steps"], statement["num_steps"]) == (6, NUM_STEPS)
    assert (
        "In the first 6 of the 20 counted steps the last layer alone was trained, with the same"
        in statement["paragraph"]
    )
    assert statement["epsilon"] == pytest.approx(8, rel=0.02)


LAYERS = ("reserve_steps = 4", 'reserve_steps = 4\nclip_scope = "layers"')


@pytest.mark.slow
def test_a_training_whose_layers_are_clipped_one_by_one(make_study: MakeStudy) -> None:
    study = make_study(LAYERS, ("learning_rate = 1e-3", "learning_rate = 1e-3\nhead_first = 0.3"))
    pretrain(study)
    train(study, DP)
    statement = read_json(study.paths.run(study.run_id(DP)).privacy)
    assert statement["mechanism"].endswith(
        "each layer's gradient clipped to max_grad_norm over the root of their number"
    )
    assert statement["sensitivity"] == pytest.approx(1.5 * (1 + statement["rounding_allowance"]))
    assert needs_one_size(study)


@pytest.mark.parametrize("other", ['clip_factor = "quantile"', 'clipping = "ghost"', "\n[audit]\ncanaries = 10"])
def test_what_layers_do_not_go_with_is_refused(make_study: MakeStudy, other: str) -> None:
    with pytest.raises(StudyError, match=r"privacy\.clip_scope: layers needs privacy\.clipping = 'bookkeeping'"):
        make_study((LAYERS[0], f"{LAYERS[1]}\n{other}"))


@pytest.mark.parametrize("more", ["", '\noptimizer = "closed-form"'])
def test_a_head_alone_has_no_steps_after_the_heads(make_study: MakeStudy, more: str) -> None:
    with pytest.raises(StudyError, match=r"train\.head_first: train\.parameters = 'head', also in closed form"):
        make_study(("learning_rate = 1e-3", f'learning_rate = 1e-3\nhead_first = 0.2\nparameters = "head"{more}'))


@pytest.mark.parametrize(("patterns", "found"), [('["fc.*"]', "nothing but the head"), ('["layer1.*"]', "no head")])
def test_patterns_need_the_head_and_something_else(make_study: MakeStudy, patterns: str, found: str) -> None:
    study = make_study(("learning_rate = 1e-3", f"learning_rate = 1e-3\nhead_first = 0.2\nparameters = {patterns}"))
    with pytest.raises(StudyError, match=f"train.head_first: needs a trained head .*, and {found} is trained"):
        check_model(study)


def test_of_two_ways_to_say_how_large_a_batch_is_the_study_s_own_counts(make_study: MakeStudy, tmp_path: Path) -> None:
    strong = ('folder = "out"', 'folder = "out"\npreset = "strong"')
    study = make_study(strong)  # with its own expected_batch_size
    assert study.train.sample_rate is None
    assert study.train.batch_of(1000) == study.train.expected_batch_size
    assert load_study(tmp_path, overrides=["train.sample_rate=0.25"]).train.batch_of(1000) == 250
    rate = ("learning_rate = 1e-3", "learning_rate = 1e-3\nsample_rate = 0.25")
    with pytest.raises(StudyError, match=r"train\.expected_batch_size and train\.sample_rate are two ways"):
        make_study(rate)
