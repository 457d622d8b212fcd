"""The network: names, size, published weights, and that images do not mix."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dpdt.errors import StudyError
from dpdt.study.settings import ModelSettings
from dpdt.training.networks.build import as_input, build_model
from dpdt.training.networks.resnet9 import ResNet9, num_groups
from dpdt.training.networks.weights import load_weights

# Parameters of torchvision's ResNet with one basic block a stage, without the running statistics of batch norm.
STAGES = {
    "layer1.0": ("conv1", "bn1", "conv2", "bn2"),
    "layer2.0": ("conv1", "bn1", "conv2", "bn2", "downsample.0", "downsample.1"),
    "layer3.0": ("conv1", "bn1", "conv2", "bn2", "downsample.0", "downsample.1"),
    "layer4.0": ("conv1", "bn1", "conv2", "bn2", "downsample.0", "downsample.1"),
}


def torchvision_names() -> set[str]:
    names = {"conv1.weight", "bn1.weight", "bn1.bias", "fc.weight", "fc.bias"}
    for stage, modules in STAGES.items():
        for module in modules:
            names.add(f"{stage}.{module}.weight")
            if "bn" in module or module == "downsample.1":
                names.add(f"{stage}.{module}.bias")
    return names


def test_parameter_names_are_those_of_torchvisions_resnet() -> None:
    assert set(ResNet9(width=8).state_dict()) == torchvision_names()


def test_the_papers_network_has_its_size() -> None:
    # The paper's ResNet9 has 4.90 M parameters with one input channel.
    model = build_model(ModelSettings())
    assert sum(p.numel() for p in model.parameters()) == 4_902_085
    assert [m.num_groups for m in model.modules() if isinstance(m, nn.GroupNorm)] == [32] * 12
    assert model.layer4[0].conv1.weight.shape == (512, 256, 3, 3)


@pytest.mark.parametrize("width", range(8, 136, 8))
def test_every_width_has_a_group_norm(width: int) -> None:
    assert width % num_groups(width) == 0
    assert num_groups(width) == min(32, width // 2) or width > 64


@pytest.mark.parametrize("size", [16, 32, 64, 100])
def test_any_image_size_gives_a_logit_a_label(size: int) -> None:
    assert ResNet9(width=8)(torch.rand(2, 1, size, size)).shape == (2, 5)


def test_images_of_a_batch_do_not_mix() -> None:
    torch.manual_seed(0)
    model, images = ResNet9(width=8), torch.rand(4, 1, 32, 32)
    alone = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(model(images), alone, rtol=1e-4, atol=1e-5)


def test_pixels_become_numbers_from_zero_to_one() -> None:
    pixels = np.array([[[0, 255], [51, 102]]], dtype=np.uint8)
    expected = torch.tensor([[[[0.0, 1.0], [0.2, 0.4]]]])
    torch.testing.assert_close(as_input(pixels), expected)


def test_published_weights_for_three_channels_are_folded_exactly(tmp_path: Path) -> None:
    torch.manual_seed(0)
    three = ResNet9(width=8, in_channels=3)
    torch.save(three.state_dict(), tmp_path / "published.pt")
    one = ResNet9(width=8, in_channels=1)
    assert load_weights(one, tmp_path / "published.pt")
    images = torch.rand(3, 1, 32, 32)
    torch.testing.assert_close(one(images), three(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prefix", ["_module.", "module.", "_orig_mod.", "_orig_mod._module."])
@pytest.mark.parametrize("outer", [None, "state_dict", "model_state_dict"])
def test_prefixes_of_wrappers_are_removed(tmp_path: Path, prefix: str, outer: str | None) -> None:
    source, target = ResNet9(width=8), ResNet9(width=8)
    state = {prefix + name: value for name, value in source.state_dict().items()}
    torch.save({outer: state} if outer else state, tmp_path / "w.pt")
    load_weights(target, tmp_path / "w.pt")
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))


def test_a_head_for_other_labels_is_refused_or_left_out(tmp_path: Path) -> None:
    torch.save(ResNet9(width=8, num_outputs=14).state_dict(), tmp_path / "w.pt")
    model = ResNet9(width=8)
    before = model.fc.weight.clone()
    with pytest.raises(StudyError, match=r"fc.weight has shape \(14, 64\), the model's is \(5, 64\); its labels are"):
        load_weights(model, tmp_path / "w.pt")
    assert not load_weights(model, tmp_path / "w.pt", new_head=True)
    assert torch.equal(model.fc.weight, before)


def test_weights_of_another_width_are_refused(tmp_path: Path) -> None:
    torch.save(ResNet9(width=16).state_dict(), tmp_path / "w.pt")
    with pytest.raises(StudyError, match=r"conv1.weight has shape \(16, 1, 7, 7\).*check model.width"):
        load_weights(ResNet9(width=8), tmp_path / "w.pt")


def test_batch_norm_weights_are_refused(tmp_path: Path) -> None:
    state = ResNet9(width=8).state_dict()
    torch.save({**state, "bn1.running_mean": torch.zeros(8)}, tmp_path / "w.pt")
    with pytest.raises(StudyError, match=r"unknown parameter 'bn1\.running_mean'"):
        load_weights(ResNet9(width=8), tmp_path / "w.pt")


def test_a_missing_parameter_is_named(tmp_path: Path) -> None:
    state = ResNet9(width=8).state_dict()
    del state["layer2.0.conv1.weight"]
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(StudyError, match=r"missing parameter 'layer2\.0\.conv1\.weight'"):
        load_weights(ResNet9(width=8), tmp_path / "w.pt")


def test_files_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no such file of weights"):
        load_weights(ResNet9(width=8), tmp_path / "w.pt")
    (tmp_path / "w.pt").write_text("hello")
    with pytest.raises(StudyError, match="cannot be read as a state dict"):
        load_weights(ResNet9(width=8), tmp_path / "w.pt")
    torch.save([1, 2], tmp_path / "w.pt")
    with pytest.raises(StudyError, match="expected a dict of tensors"):
        load_weights(ResNet9(width=8), tmp_path / "w.pt")
