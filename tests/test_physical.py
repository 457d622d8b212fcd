"""`physical_batch_size = "auto"`: what it finds, that it is recorded, and that it changes nothing but rounding."""

import math
import platform

import pytest
import torch
from torch import nn

import dpdt.training.physical_batch_size as physical
from dpdt.base.files import read_json
from dpdt.errors import DpdtError
from dpdt.study import Cell
from dpdt.training.networks.resnet9 import ResNet9
from dpdt.training.physical_batch_size import find_physical_batch_size
from dpdt.training.train import pretrain, train
from tests.small_data import MakeStudy

CPU = torch.device("cpu")
DP = Cell("uka", 8.0, 0)


def find(model: nn.Module, *, clipping: str | None = "bookkeeping", size: int = 64, most: int = 10**9) -> int:
    return find_physical_batch_size(
        model, shape=(1, size, size), device=CPU, clipping=clipping, autocast=False, most=most
    )


def test_the_images_that_fit_follow_from_what_a_forward_pass_saves(monkeypatch: pytest.MonkeyPatch) -> None:
    # A linear layer saves its input, 64 · 64 floats of 4 bytes an image; tanh its output, 8 floats.
    model = nn.Sequential(nn.Flatten(), nn.Linear(64 * 64, 8), nn.Tanh())
    image = physical.PEAK_OVER_SAVED * (64 * 64 + 8) * 4
    monkeypatch.setattr(physical, "free_bytes", lambda device: 10 * image / physical.PART + 1)
    assert find(model) == 10
    assert find(model, most=4) == 4
    gradient = (64 * 64 * 8 + 8) * 4  # hooks keep this for each image
    assert find(model, clipping="hooks") == int(10 * image / (image + gradient))


def test_a_larger_picture_leaves_room_for_fewer_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(physical, "free_bytes", lambda device: 8 * 10**9)
    small, large = (find(ResNet9(width=16), size=size) for size in (32, 64))
    assert small == pytest.approx(4 * large, rel=0.05)


def test_where_not_one_image_fits_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(physical, "free_bytes", lambda device: 1000)
    with pytest.raises(DpdtError, match=r"one image of 64x64 takes about .* Choose a smaller shards.size"):
        find(ResNet9(width=16))


def test_what_was_found_is_recorded_used_again_and_changes_neither_run_nor_epsilon(
    make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study()
    pretrain(study)
    train(study, DP, seeded_randomness=True)
    paths = study.paths.run(study.run_id(DP))
    weights, spent = torch.load(paths.weights, weights_only=True), read_json(paths.privacy)["epsilon"]
    paths.folder.rename(paths.folder.with_name("before"))
    auto = make_study(("physical_batch_size = 5", 'physical_batch_size = "auto"'))
    assert auto.run_id(DP) == study.run_id(DP)
    train(auto, DP, seeded_randomness=True)
    found = read_json(paths.config)["physical_batch_size"]
    images = math.ceil(8 + 3 * math.sqrt(8))  # all of a logical batch fit
    assert found == {"images": images, "machine": f"cpu ({platform.machine()})"}
    assert read_json(paths.privacy)["epsilon"] == spent
    for name, value in torch.load(paths.weights, weights_only=True).items():
        torch.testing.assert_close(value, weights[name], rtol=1e-3, atol=1e-4)
    paths.weights.unlink()
    (paths.folder / "state.json").unlink()
    paths.ledger.unlink()
    monkeypatch.setattr(physical, "free_bytes", lambda device: 1)  # would not do, but nobody asks
    assert train(auto, DP, seeded_randomness=True).status == "finished"
