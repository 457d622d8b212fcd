"""The features of a frozen network, computed once a split: a head trained on them is the head trained the long way."""

import dataclasses
import math
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import dpdt.training.train
from dpdt.base.files import exclusive_lock
from dpdt.errors import PrivacyError
from dpdt.shards.dataset import load_split
from dpdt.study import Cell, Study
from dpdt.training.features import Features, split_features
from dpdt.training.networks.build import as_input, build_model
from dpdt.training.networks.trained import choose_trained
from dpdt.training.networks.weights import load_weights
from dpdt.training.train import pretrain, train, train_with_canaries
from tests.small_data import SIZE, MakeStudy, StopAfter

DP = Cell("uka", 8.0, 0)
PLAIN = Cell("uka", math.inf, 0)
HEAD = ("learning_rate = 1e-3\nnum_threads", 'learning_rate = 1e-3\nparameters = "head"\nnum_threads')


@pytest.fixture
def study(make_study: MakeStudy) -> Study:
    """A study of heads whose pretraining is done."""
    study = make_study(HEAD)
    pretrain(study)
    return study


def small(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(SIZE * SIZE, 6), nn.Linear(6, 5))
    choose_trained(model, "head")
    return model


def features(model: nn.Module) -> Features:
    return Features(model, autocast=False, images_at_once=7)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The domain of each computation of features."""
    found: list[str] = []
    plain = Features.compute

    def compute(self: Features, data: Any, **begin: int) -> Any:
        found.append(data.domain)
        return plain(self, data, **begin)

    monkeypatch.setattr(Features, "compute", compute)
    return found


def files(study: Study, pattern: str = "*.npy") -> list[Path]:
    return sorted((study.paths.shards("uka").folder / "features").glob(pattern))


def test_features_are_what_numpy_computes_and_an_ordinary_array_on_disk(make_study: MakeStudy) -> None:
    study = make_study()
    data, model = load_split(study, "uka", "train"), small()
    found = split_features(study, features(model), data)
    layer: Any = model[1]  # type: ignore[index]
    pixels = data.images(np.arange(len(data))).reshape(len(data), -1) / 255
    expected = pixels @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()
    assert found is not None
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    (file,) = files(study)
    np.testing.assert_array_equal(np.load(file, mmap_mode="r"), found)
    assert isinstance(found, np.memmap)


def test_the_name_of_a_file_follows_weights_split_and_precision_but_not_the_head(make_study: MakeStudy) -> None:
    study = make_study()
    data = load_split(study, "uka", "train")
    model = small()
    split_features(study, features(model), data)
    with torch.no_grad():
        model[2].weight.zero_()  # type: ignore[index,union-attr]
    split_features(study, features(model), data)
    assert len(files(study)) == 1
    split_features(study, features(small(1)), data)
    assert len(files(study)) == 2
    split_features(study, features(model), load_split(study, "uka", "test"))
    split_features(study, Features(model, autocast=True, images_at_once=7), data)
    assert [file.name.partition("-")[0] for file in files(study)] == ["test", "train", "train", "train"]


@pytest.mark.parametrize("damage", ["flip", "cut", "grow"])
def test_a_damaged_file_is_noticed_and_made_again(
    make_study: MakeStudy, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    study = make_study()
    data, model = load_split(study, "uka", "train"), small()
    right = np.array(split_features(study, features(model), data))
    (file,) = files(study)
    content = bytearray(file.read_bytes())
    content[300] ^= 1
    file.write_bytes({"flip": content, "cut": content[:-5], "grow": content + b"\0"}[damage])
    again = split_features(study, features(model), data)
    assert "damaged (its numbers do not match its checksum)" in capsys.readouterr().err
    np.testing.assert_array_equal(again, right)


def test_two_tasks_at_once_compute_once(make_study: MakeStudy, passes: list[str]) -> None:
    study = make_study()
    data = load_split(study, "uka", "train")
    threads = [threading.Thread(target=split_features, args=(study, features(small()), data)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert passes == ["uka"]
    assert len(files(study)) == 1
    assert not list(files(study)[0].parent.glob("*.tmp"))


class _Pooled(nn.Module):
    """The mean over places is taken behind its last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(SIZE, 6), nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(x[:, 0])).mean(1)  # type: ignore[no-any-return]


class _Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(SIZE * SIZE, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * self.head(x.flatten(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", [_Pooled, _Scaled])
def test_a_network_that_goes_on_behind_its_last_layer_has_no_features(
    make_study: MakeStudy, kind: type[nn.Module]
) -> None:
    study = make_study()
    assert split_features(study, features(kind()), load_split(study, "uka", "train")) is None
    assert files(study) == []


@pytest.mark.parametrize(
    ("cell", "privacy"),
    [
        (PLAIN, "reserve_steps = 4"),
        (DP, "reserve_steps = 4"),
        (DP, 'reserve_steps = 4\nclipping = "hooks"'),
        (DP, "reserve_steps = 4\nimages_per_patient = 2"),
    ],
    ids=["plain", "dp", "hooks", "two images"],
)
def test_the_head_trained_on_features_is_the_head_trained_the_long_way(
    make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch, cell: Cell, privacy: str, passes: list[str]
) -> None:
    study = make_study(HEAD, ("reserve_steps = 4", privacy))
    pretrain(study)
    train(study, cell, seeded_randomness=True)
    paths = study.paths.run(study.run_id(cell))
    quick = torch.load(paths.weights, weights_only=True)
    assert passes == ["uka"]
    paths.folder.rename(paths.folder.with_name("quick"))
    monkeypatch.setattr(dpdt.training.train, "split_features", lambda *_, stop: None)
    train(study, cell, seeded_randomness=True)  # the same batches and noise, all layers in every step
    long = torch.load(paths.weights, weights_only=True)
    assert quick.keys() == long.keys()
    before = torch.load(study.paths.run(str(study.pretrain_run_id)).weights, weights_only=True)
    assert not torch.equal(long["fc.weight"], before["fc.weight"])
    for name in long:
        torch.testing.assert_close(quick[name], long[name], rtol=0, atol=1e-6 if name.startswith("fc") else 0)


def test_trainings_share_the_features_go_on_and_leave_a_whole_network(study: Study, passes: list[str]) -> None:
    train(study, PLAIN)
    assert train(study, DP, stop=StopAfter(9)).status == "interrupted"
    assert train(study, DP).status == "finished"
    assert passes == ["uka"]
    data = load_split(study, "uka", "test")
    model = build_model(study.model)
    load_weights(model, study.paths.run(study.run_id(DP)).weights)
    assert model.eval()(as_input(data.images(np.arange(4)))).shape == (4, 5)


def test_what_was_just_made_is_not_checked_against_the_network_again(
    make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, checked = make_study(), []
    data, plain = load_split(study, "uka", "train"), Features.first
    monkeypatch.setattr(Features, "first", lambda self, data: checked.append(data.domain) or plain(self, data))
    made = split_features(study, features(small()), data)
    assert checked == []
    np.testing.assert_array_equal(split_features(study, features(small()), data), made)
    assert checked == ["uka"]


@pytest.mark.parametrize("cell", [PLAIN, DP])
def test_a_signal_stops_the_making_of_features_and_the_next_call_goes_on(
    study: Study, monkeypatch: pytest.MonkeyPatch, cell: Cell
) -> None:
    came: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, _: came.append(number))
    with monkeypatch.context() as patch:
        plain = Features.compute

        def compute(self: Features, data: Any, **begin: int) -> Any:
            for block in plain(self, data, **begin):
                signal.raise_signal(signal.SIGUSR2)
                yield block

        patch.setattr(Features, "compute", compute)
        try:
            stopped = train(study, cell)
        finally:
            signal.signal(signal.SIGUSR2, before)
    assert came == [signal.SIGUSR2]  # handed on to the handler of before, once: a scheduler's requeues the job
    assert (stopped.status, stopped.step) == ("interrupted", 0)
    assert list(study.paths.shards("uka").folder.glob("features/*.npy*")) == []
    assert not study.paths.run(study.run_id(cell)).ledger.exists()
    assert train(study, cell).status == "finished"
    assert len(files(study)) == 1


class ByPlace(nn.Module):
    """Rounds as a threaded matrix product may: by the image's place in its batch."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(SIZE * SIZE, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        places = 1 + 1e-7 * torch.arange(len(x))[:, None]
        found: torch.Tensor = self.head(x.flatten(1) * places)
        return found


@pytest.mark.parametrize("network", [small, ByPlace])
def test_features_are_the_same_when_a_patient_has_left(make_study: MakeStudy, network: Callable[[], nn.Module]) -> None:
    """Else the sums of all units move with the one that left, by more than any allowance for rounding counts."""
    study, model = make_study(), network()
    choose_trained(model, "head")
    data = load_split(study, "uka", "train")
    stay = data.units != data.units[0]
    assert 0 < stay.sum() < len(data)

    fewer = dataclasses.replace(data, _positions=data._positions[stay], frame=data.frame[stay].reset_index(drop=True))
    found, less = (split_features(study, features(model), split) for split in (data, fewer))
    assert found is not None
    assert len(files(study)) == 2
    np.testing.assert_array_equal(found[stay], less)


@pytest.mark.parametrize("damage", [False, True])
def test_a_stopped_pass_is_gone_on_with_behind_what_it_has(
    make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], damage: bool
) -> None:
    study = make_study()
    data, model = load_split(study, "uka", "train"), small()
    right = np.array(split_features(study, features(model), data))
    files(study)[0].unlink()
    assert split_features(study, features(model), data, stop=StopAfter(0)) is None
    (begun,) = files(study, "*.begun")
    assert np.array_equal(np.load(begun), right[:32])  # a batch
    if damage:
        begun.write_bytes(begun.read_bytes()[:-1])
    computed, plain = [], Features.compute
    monkeypatch.setattr(Features, "compute", lambda *a, begin: computed.append(begin) or plain(*a, begin=begin))
    np.testing.assert_array_equal(split_features(study, features(model), data), right)
    assert computed == [0 if damage else 32]
    assert ("damaged" in capsys.readouterr().err) == damage
    assert np.array_equal(np.load(files(study)[0]), right)
    assert files(study, "*.begun") == []


def test_who_waits_for_the_features_of_another_can_be_stopped(make_study: MakeStudy) -> None:
    study = make_study()
    data = load_split(study, "uka", "train")
    with exclusive_lock(study.paths.shards("uka").folder / "features" / ".lock"):
        assert split_features(study, features(small()), data, stop=StopAfter(1)) is None
    assert files(study) == []


def test_an_audit_s_twin_sees_pixels_because_canaries_are_read_off_them(
    make_study: MakeStudy, passes: list[str]
) -> None:
    study = make_study(HEAD, ("[privacy]", "[audit]\ncanaries = 4\n[privacy]"))
    pretrain(study)
    assert train_with_canaries(study, DP, seeded_randomness=True).status == "finished"
    assert passes == []
    weights = torch.load(study.paths.run(study.audit_run_id(DP)).weights, weights_only=True)
    before = torch.load(study.paths.run(str(study.pretrain_run_id)).weights, weights_only=True)
    frozen = [name for name in before if not name.startswith("fc")]
    assert all(torch.equal(weights[f"network.{name}"], before[name]) for name in frozen)


class Keeps(nn.Module):
    """Keeps the mean of the first batch of more than nine images: more than a trial has."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(1, 1, SIZE, SIZE))
        self.first, self.head = nn.Linear(SIZE * SIZE, 6), nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > 9 and not self.centre.any():
            self.centre.copy_(x.mean(0, keepdim=True))
        found: torch.Tensor = self.head(self.first((x - self.centre).flatten(1)))
        return found


def test_a_network_that_keeps_what_it_saw_of_the_images_has_no_features(make_study: MakeStudy) -> None:
    study, model = make_study(), Keeps()
    choose_trained(model, "head")
    with pytest.raises(PrivacyError, match=r"centre changed in the forward pass"):
        split_features(study, Features(model, autocast=False, images_at_once=16), load_split(study, "uka", "train"))
    assert files(study) == []


def test_a_file_that_other_code_made_is_made_again(
    make_study: MakeStudy, passes: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = make_study()
    data, model = load_split(study, "uka", "train"), small()
    found = split_features(study, features(model), data)
    assert found is not None
    monkeypatch.setattr(type(model[0]), "forward", lambda _, x: 2 * x.flatten(1))  # type: ignore[index]
    again = split_features(study, features(model), data)
    assert again is not None
    assert passes == ["uka", "uka"]
    assert "made by other code" in capsys.readouterr().err
    bias = model[1].bias.detach().numpy()  # type: ignore[index, union-attr]
    np.testing.assert_allclose(np.asarray(again) - bias, 2 * (np.load(files(study)[0]) - bias) / 2, rtol=1e-5)
