"""The loop's loss, and the equality of both arms through the whole loop. Whole trainings: test_train.py."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from dpdt.errors import PrivacyError
from dpdt.privacy.clipping.engines import ClippedGradientSum
from dpdt.privacy.mechanism import Mechanism
from dpdt.privacy.sampling import PoissonSampler
from dpdt.shards.dataset import DomainData, load_split
from dpdt.study import Study
from dpdt.study.paths import RunPaths
from dpdt.training.batches import image_losses, physical_batches
from dpdt.training.loop import TrainingLoop
from dpdt.training.networks.build import build_model
from dpdt.training.plan import TrainingPlan
from dpdt.training.ranks import Ranks
from dpdt.training.resume import load_optimizer, open_ledger
from dpdt.training.stop import StopFlag
from tests.small_data import MakeStudy, StopAfter

SILENT = Mechanism("patient", 32, 0.25, 0.0, 1e6, 10, 1e-3, "pld", 8.0)  # no noise, and a norm that nothing reaches


def plan(folder: Path, mechanism: Mechanism | None, **changes: Any) -> TrainingPlan:
    settings = TrainingPlan(
        paths=RunPaths(folder),
        title="test",
        num_steps=10,
        sample_rate=0.25,
        expected_batch_size=8,
        learning_rate=1e-3,
        weight_decay=0.0,
        class_weights=(1.0, 2.0, 1.0, 1.0, 1.0),
        mechanism=mechanism,
        clipping="bookkeeping",
        autocast=False,
        images_per_unit=1,
        seed="test",
        seeded=True,
        physical_batch_size=3,
        one_size=False,
        reserve_steps=4,
        checkpoint_every_steps=50,
        device=torch.device("cpu"),
    )
    return dataclasses.replace(settings, **changes)


def weights_after(plan: TrainingPlan, study: Study, data: DomainData) -> list[Tensor]:
    torch.manual_seed(0)
    model = build_model(study.model)
    if plan.mechanism is None:
        assert TrainingLoop(plan, model=model, data=data, steps=None).run(stop=StopFlag()) == "finished"
    else:
        with open_ledger(plan) as ledger:
            loop = TrainingLoop(plan, model=model, data=data, steps=ledger)
            assert loop.run(stop=StopFlag()) == "finished"
    return [p.detach() for p in model.parameters()]


@pytest.mark.parametrize("clipping", ["bookkeeping", "hooks", "ghost"])
def test_without_noise_and_clipping_the_dp_arm_is_the_other_arm(
    make_study: MakeStudy, tmp_path: Path, clipping: str
) -> None:
    # DP-14: sigma 0, an unreachable norm, the same batches: equal weights after ten steps.
    study = make_study()
    data = load_split(study, "uka", "train")
    without = weights_after(plan(tmp_path / "plain", None), study, data)
    silent = weights_after(plan(tmp_path / clipping, SILENT, clipping=clipping), study, data)
    torch.manual_seed(0)
    start = list(build_model(study.model).parameters())
    assert max((a - b).abs().max().item() for a, b in zip(without, start, strict=True)) > 1e-3
    assert max((a - b).abs().max().item() for a, b in zip(without, silent, strict=True)) < 1e-5


def test_noise_made_during_the_passes_changes_no_bit_and_is_made_again_after_a_stop(
    make_study: MakeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study()
    data = load_split(study, "uka", "train")
    noisy = dataclasses.replace(SILENT, max_grad_norm=1.0, noise_multiplier=1.0)
    right = weights_after(plan(tmp_path / "right", noisy), study, data)
    clear, begun = ClippedGradientSum.clear, list[int]()

    def clear_as_on_a_gpu(self: ClippedGradientSum) -> None:
        clear(self)
        counts = [p.numel() for p in self.parameters]
        self.noise.make_ahead([*counts, *counts], device=torch.device("cpu"), num_threads=1)  # the next step's too
        begun.append(len(counts))

    monkeypatch.setattr(ClippedGradientSum, "clear", clear_as_on_a_gpu)
    settings = plan(tmp_path / "ahead", noisy)
    with open_ledger(settings) as ledger:
        torch.manual_seed(0)
        loop = TrainingLoop(settings, model=build_model(study.model), data=data, steps=ledger)
        assert loop.run(stop=StopAfter(8)) == "interrupted"
        assert 0 < loop.step < 10
    found = weights_after(settings, study, data)
    assert len(begun) == 10
    assert all(torch.equal(one, other) for one, other in zip(found, right, strict=True))


def test_dropout_of_an_arm_without_dp_is_the_same_after_a_stop_and_draws_anew_in_each_step(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    data = load_split(make_study(), "uka", "train")
    masks: list[Tensor] = []

    def trained(name: str, *stops: StopFlag) -> Tensor:
        for stop in stops:
            torch.rand(len(name))  # whatever else the process drew
            layer = torch.nn.Linear(data.size**2, 5)
            torch.nn.init.zeros_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
            dropout = torch.nn.Dropout(0.5)
            dropout.register_forward_hook(lambda _module, _inputs, outputs: masks.append(outputs[0] == 0))
            state = torch.get_rng_state()
            model = torch.nn.Sequential(torch.nn.Flatten(), dropout, layer)
            TrainingLoop(plan(tmp_path / name, None), model=model, data=data, steps=None).run(stop=stop)
            assert torch.equal(torch.get_rng_state(), state)  # the process goes on as if nothing had drawn
        return layer.weight.detach()

    undisturbed = trained("undisturbed", StopFlag())
    assert not torch.equal(masks[0], masks[-1])
    assert torch.equal(trained("stopped", StopAfter(4), StopFlag()), undisturbed)


def test_an_optimizer_that_goes_on_keeps_on_the_cpu_what_it_reads_there() -> None:
    # "meta" stands for a GPU: torch brings what it loads to the parameters' device, where this number would be lost
    def optimizer(device: str) -> torch.optim.Optimizer:
        return torch.optim.NAdam([torch.nn.Parameter(torch.ones(3, device=device)) for _ in range(2)], lr=0.1)

    saved = optimizer("cpu")
    for parameter in saved.param_groups[0]["params"]:
        parameter.grad = torch.ones(3)
    saved.step()
    loaded = optimizer("meta")
    load_optimizer(loaded, saved.state_dict())
    for found, wanted in zip(loaded.state.values(), saved.state.values(), strict=True):
        assert found["exp_avg"].device.type == "meta"
        assert found["mu_product"].item() == wanted["mu_product"].item() < 1


def test_a_tiny_data_set_has_empty_batches_and_ends_well(make_study: MakeStudy, tmp_path: Path) -> None:
    # DP-06: N = 10, one expected: every third batch is empty.
    study = make_study(patients=12)
    data = load_split(study, "uka", "train")
    assert data.num_units == 10
    mechanism = dataclasses.replace(SILENT, num_units=10, sample_rate=0.1, noise_multiplier=1.0, num_steps=60)
    settings = plan(tmp_path / "r", mechanism, num_steps=60, sample_rate=0.1, expected_batch_size=1, class_weights=None)
    weights = weights_after(settings, study, data)
    assert all(bool(w.isfinite().all()) for w in weights)
    assert settings.paths.weights.exists()


def test_a_loss_is_the_mean_over_five_labels_and_unknown_ones_add_zero() -> None:
    logits = torch.zeros(3, 5)
    labels = torch.tensor([[1.0, 0, 1, 0, 1], [torch.nan, 0, 1, 0, 1], [torch.nan] * 5])
    log2 = np.log(2)  # the cross-entropy of an undecided logit
    torch.testing.assert_close(image_losses(logits, labels), torch.tensor([log2, 0.8 * log2, 0.0]).float())


def test_class_weights_weigh_positives_alone() -> None:
    logits, labels = torch.zeros(2, 5), torch.tensor([[1.0] * 5, [0.0] * 5])
    weights = torch.tensor([3.0, 1, 1, 1, 1])
    log2 = np.log(2)
    expected = torch.tensor([(3 + 4) / 5 * log2, log2]).float()
    torch.testing.assert_close(image_losses(logits, labels, class_weights=weights), expected)


def test_an_unknown_label_moves_no_weight() -> None:
    logits = torch.randn(1, 5, requires_grad=True)
    labels = torch.tensor([[1.0, torch.nan, 0, torch.nan, 1]])
    image_losses(logits, labels).sum().backward()
    assert logits.grad is not None
    assert bool((logits.grad[0, [1, 3]] == 0).all())
    assert bool((logits.grad[0, [0, 2, 4]] != 0).all())


def test_a_run_without_dp_has_no_ledger(tmp_path: Path) -> None:
    with pytest.raises(PrivacyError, match="a run without DP has no ledger"):
        open_ledger(plan(tmp_path, None))


class Weighted(PoissonSampler):
    """Stands for torch's weighted and shuffled samplers, which are no Poisson samples."""


def test_a_sampler_that_is_not_poissons_is_refused(
    make_study: MakeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # DP-04, DP-05: weighted and shuffled batches were accounted as Poisson samples. The loop makes its own sampler, so
    # that none can be given; a subclass that is put in its place is refused too.
    study = make_study()
    settings = plan(tmp_path / "r", SILENT)
    monkeypatch.setattr(
        "dpdt.training.loop.make_sampler",
        lambda plan, data, stream: Weighted(data.units, sample_rate=plan.sample_rate, stream=stream),
    )
    with pytest.raises(PrivacyError, match="batches of a Weighted are not Poisson samples"):
        weights_after(settings, study, load_split(study, "uka", "train"))


@pytest.mark.parametrize("change", [{"sample_rate": 0.125}, {"num_units": 31}, {"images_per_unit": 2}])
def test_other_batches_than_those_accounted_for_are_refused(
    make_study: MakeStudy, tmp_path: Path, change: dict[str, Any]
) -> None:
    study = make_study()
    settings = plan(tmp_path / "r", dataclasses.replace(SILENT, **change))
    with pytest.raises(PrivacyError, match=r"of the batches are .*, accounted for are"):
        weights_after(settings, study, load_split(study, "uka", "train"))


def test_a_physical_batch_never_parts_the_images_of_a_unit() -> None:
    units = np.array([3, 3, 4, 5, 5, 5, 5, 6, 7, 7])
    parts = physical_batches(np.arange(10), units, size=3)
    assert [list(units[part]) for part in parts] == [[3, 3, 4], [5, 5, 5, 5], [6, 7, 7]]
    assert physical_batches(np.arange(0), units[:0], size=3) == []
    assert [len(part) for part in physical_batches(np.arange(8), np.arange(8), size=3)] == [3, 3, 2]


def test_several_images_a_patient_train_and_physical_batches_change_nothing(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    study = make_study()
    data = load_split(study, "uka", "train")
    mechanism = dataclasses.replace(SILENT, images_per_unit=2, max_grad_norm=1.0)
    found = [
        weights_after(plan(tmp_path / str(size), mechanism, images_per_unit=2, physical_batch_size=size), study, data)
        for size in (2, 100)
    ]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


class OneOf(Ranks):
    """One of several ranks whose others run before or after it; keeps what it would add to the sums."""

    sums: list[Tensor]

    def share(self, value: Any) -> Any:
        return value

    def any(self, flag: bool) -> bool:
        return flag

    def add(self, tensors: Sequence[Tensor]) -> None:
        if len(tensors) > 1:  # not the logged loss
            object.__setattr__(self, "sums", [tensor.clone() for tensor in tensors])


@pytest.mark.parametrize("clipping", ["bookkeeping", "hooks"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_patient_of_several_images_moves_the_sum_by_one_norm_on_any_number_of_ranks(
    make_study: MakeStudy, tmp_path: Path, ranks: int, clipping: str
) -> None:
    # One image a gradient, or the images of a patient dealt out to two ranks, would be twice the sensitivity.
    study = make_study()
    data = load_split(study, "uka", "train")
    mine = np.flatnonzero(data.units == np.bincount(data.units).argmax())[:2]
    parts = {"labels": data.labels[mine], "frame": data.frame.iloc[mine], "_positions": data._positions[mine]}
    patient = dataclasses.replace(data, units=np.zeros(2, np.int64), **parts)
    norm = 1e-3
    mechanism = dataclasses.replace(
        SILENT, num_units=1, sample_rate=1.0, images_per_unit=2, max_grad_norm=norm, num_steps=1
    )
    sums = []
    for rank in range(ranks):
        changes = {"num_steps": 1, "sample_rate": 1.0, "expected_batch_size": 1, "images_per_unit": 2}
        settings = plan(tmp_path / f"rank-{rank}", mechanism, clipping=clipping, **changes)
        torch.manual_seed(0)
        group = OneOf(rank, ranks)
        with open_ledger(settings) as ledger:
            loop = TrainingLoop(settings, model=build_model(study.model), data=patient, steps=ledger, ranks=group)
            loop.run(stop=StopFlag())
        sums.append(torch.cat([total.flatten() for total in group.sums]))
    moved = torch.stack(sums).sum(0).norm().item()
    assert 0.99 * norm < moved <= norm * (1 + 1e-4)


def studies(frame: pd.DataFrame, *, unit: str) -> Any:
    return pd.factorize(frame["study_id"])[0].astype(np.int64)


def one_patient_twice(frame: pd.DataFrame, *, unit: str) -> Any:
    units = pd.factorize(frame["patient_id"], sort=True)[0].astype(np.int64)
    units[np.flatnonzero(units == 1)[-1]] = 0  # an image of one patient counts as another's: as many units as before
    return units


@pytest.mark.parametrize("wrong", [studies, one_patient_twice])
def test_units_that_are_not_the_patients_of_the_table_are_refused(
    make_study: MakeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: Any
) -> None:
    study = make_study()
    monkeypatch.setattr("dpdt.shards.dataset._units", wrong)
    data = load_split(study, "uka", "train")
    rate = 8 / data.num_units
    mechanism = dataclasses.replace(SILENT, num_units=data.num_units, sample_rate=rate)
    with pytest.raises(PrivacyError, match="what is drawn are not the patients of the cohort table"):
        weights_after(plan(tmp_path / "r", mechanism, sample_rate=rate), study, data)
