"""The networks by name: what they are, that each image has its own gradient in all of them, and the weights they take.

The right sum is always the loop over single images with torch's ordinary autograd in float64 (`tests.single_images`);
published sizes are those of the papers that are named beside them.
"""

import copy
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from dpdt.errors import PrivacyError, StudyError
from dpdt.privacy.clipping.bookkeeping import BookkeepingClipping
from dpdt.privacy.clipping.engines import CLIPPING
from dpdt.privacy.clipping.gradient_sum import ClippedGradientSum
from dpdt.privacy.clipping.model_requirements import unfit_parts
from dpdt.privacy.keystream import KeyStream
from dpdt.privacy.rounding import PER_IMAGE
from dpdt.study import load_study
from dpdt.study.networks import NETWORKS
from dpdt.study.settings import ModelSettings
from dpdt.training.networks.build import build_model
from dpdt.training.networks.check import check_model
from dpdt.training.networks.weights import load_weights
from tests.single_images import clipped_sum, flat, gradients

EXACT = 1e-9
WIDTHS = dict.fromkeys(NETWORKS, 16) | {"densenet121": 8, "resnet50": 8}


def size_of(name: str) -> int:
    """Two cells of a ViT on a side, or as much as the strides of a convolutional network leave a place of."""
    return 2 * NETWORKS[name].cell if NETWORKS[name].whole_cells else 32


def small(name: str, **options: Any) -> nn.Module:
    """Narrow, as deep as published; every parameter of ordinary size, so that none's gradient hides."""
    torch.manual_seed(1)
    settings = ModelSettings(name=name, width=WIDTHS[name], options=options)
    model = build_model(settings, size=size_of(name)).train()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # norms, biases, layer scales: 1e-6 at first in a ConvNeXt
                parameter.copy_(0.5 + 0.2 * torch.randn_like(parameter))
            else:
                parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)


def engine(model: nn.Module, *, norm: float, kind: str = "bookkeeping", **others: Any) -> ClippedGradientSum:
    key = KeyStream.from_seed("networks")
    return CLIPPING[kind](copy.deepcopy(model), loss, max_grad_norm=norm, noise_multiplier=0.0, noise=key, **others)


def batch(name: str, images: int = 3) -> tuple[Tensor, Tensor]:
    torch.manual_seed(2)
    size = size_of(name)
    brightness = torch.linspace(0.2, 1.0, images).view(-1, 1, 1, 1)
    return torch.rand(images, 1, size, size) * brightness, (torch.rand(images, 5) > 0.5).float()


def distance(sums: ClippedGradientSum, right: Tensor) -> float:
    return float((flat(sums.partial_sums()) - right).norm() / right.norm())


@pytest.mark.parametrize("name", NETWORKS)
def test_book_keeping_is_the_loop_over_single_images(name: str) -> None:
    model, (inputs, targets) = small(name), batch(name)
    rows = gradients(model, inputs, targets, loss=loss)
    norm = float(rows.norm(dim=1).median())
    right = clipped_sum(rows, norm=norm)
    exact = engine(copy.deepcopy(model).double(), norm=norm)
    exact.add(inputs[:2].double(), targets[:2].double())
    exact.add(inputs[2:].double(), targets[2:].double())
    assert distance(exact, right) < EXACT
    assert isinstance(exact, BookkeepingClipping)
    assert set(exact.ways) == {name for name, _ in model.named_parameters()}  # every parameter, by itself
    assert "functorch" not in exact.ways.values()
    # In single precision the network's own rounding is in it: torch's ordinary gradients are off by as much.
    single = engine(model, norm=norm)
    single.add(inputs, targets)
    loss(model(inputs), targets).sum().backward()
    ordinary = flat([p.grad for p in model.parameters() if p.grad is not None])
    rounding = float((ordinary - rows.sum(0)).norm() / rows.sum(0).norm())
    assert distance(single, right) < max(1e-6, 2 * rounding)
    assert not any(isinstance(value, Tensor) for module in single.model.modules() for value in vars(module).values())


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("name", ["convnext_tiny", "vit_small", "vit_small_dinov3", "resnet50"])
def test_an_image_moves_the_sum_by_no_more_than_the_norm(name: str, precision: str) -> None:
    # Abadi et al. 2016 (arXiv 1607.00133), section 3.1: each image's part has at most the norm C.
    model, (inputs, targets) = small(name), batch(name, 4)
    inputs[1], inputs[2] = 0.0, 30.0
    norm, autocast = 1e-2, precision == "bf16"
    everyone = engine(model, norm=norm, autocast=autocast)
    everyone.add(inputs, targets)
    total = flat(everyone.partial_sums())
    alone = []
    for number in range(len(inputs)):
        one = engine(model, norm=norm, autocast=autocast)
        one.add(inputs[number : number + 1], targets[number : number + 1])
        alone.append(flat(one.partial_sums()))
        assert 0.5 * norm < alone[-1].norm() <= norm * (1 + 1e-5)
    if not autocast:  # one image more adds its own part, and what rounding moves
        assert (total - sum(alone)).norm() <= len(inputs) * norm * max(PER_IMAGE["float32"].values())


@pytest.mark.parametrize("name", ["convnext_tiny", "vit_small", "vit_small_dinov2", "vit_small_dinov3"])
def test_the_trial_lets_named_networks_in(name: str) -> None:
    assert unfit_parts(small(name), size=size_of(name)) == []


@pytest.mark.parametrize("name", ["convnext_tiny", "densenet121"])
def test_images_below_32_pixels_are_refused_before_torch_does(name: str, tmp_path: Path) -> None:
    # docs/models.md: from 32; five halvings leave one place of 32 pixels, and none of 16.
    text = f'[domains.uka]\nroot = "."\n[model]\nname = "{name}"\nwidth = {WIDTHS[name]}\n[shards]\nsize = '
    for size in (16, 32):
        (tmp_path / "study.toml").write_text(f"{text}{size}\n")
        study = load_study(tmp_path)
        if size == 32:
            check_model(study)
            continue
        with pytest.raises(StudyError, match=rf"16 × 16 pixels are too small for {name}, which takes 32 × 32"):
            check_model(study)


@pytest.mark.parametrize("clipping", ["hooks", "ghost"])
def test_opacus_engines_train_what_they_can_and_else_the_one_that_can_is_named(clipping: str) -> None:
    assert unfit_parts(small("convnext_tiny"), size=32, clipping=clipping) == []
    (found,) = unfit_parts(small("vit_small"), size=32, clipping=clipping)
    assert re.search(rf"'{clipping}' cannot keep the images' gradients \(try 'bookkeeping'\)", found)
    with pytest.raises(PrivacyError, match="the gradient of a single image cannot be had") as refused:
        engine(small("vit_small"), norm=1.0, kind=clipping)
    assert len(str(refused.value)) < 300  # not the whole network, which Opacus prints


class ChannelsLast(nn.LayerNorm):
    """A layer norm over the channels of (n, c, h, w), by a permuted view."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("clipping", CLIPPING)
def test_a_strided_convolution_behind_a_permuted_layer_norm(clipping: str) -> None:
    # Opacus cuts patches by the strides of rows, which here are those of channels; the trial compares with torch's own.
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 8, 2, stride=2), ChannelsLast(8), nn.Conv2d(8, 6, 2, stride=2)]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))
    assert unfit_parts(model, size=16, clipping=clipping) == []


# ---- parameters wherever they are used ----


class Own(nn.Module):
    """A ViT and a ConvNeXt in small, by torch's own means: each way to use a parameter that no layer owns."""

    def __init__(self, *, fused: bool = True) -> None:
        super().__init__()
        self.fused = fused
        self.patches = nn.Conv2d(1, 8, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.position = nn.Parameter(torch.randn(1, 4, 8))
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.qkv_bias = nn.Parameter(torch.randn(8))
        self.qkv = nn.Linear(8, 24, bias=False)
        self.gamma = nn.Parameter(torch.randn(8))
        self.table = nn.Parameter(torch.randn(2, 7, 7))
        self.mix = nn.Parameter(torch.randn(8, 8))
        self.wide = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.down = nn.Conv2d(8, 6, 2, stride=2)
        self.grn = nn.Parameter(torch.randn(1, 1, 1, 8))
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        n = len(x)
        x = self.patches(x).flatten(2).transpose(1, 2)
        position = F.interpolate(self.position.transpose(1, 2), size=9, mode="linear").transpose(1, 2)
        x = F.pad(x, (0, 0, 0, 9 - x.shape[1])) + position[:, : x.shape[1]].mean(1, keepdim=True) + position
        x = torch.cat((self.token.expand(n, -1, -1), x), dim=1)
        y = self.norm(x)
        x = x + self.gamma * self.attention(y, y, y, need_weights=not self.fused)[0]
        bias = torch.cat((self.qkv_bias, torch.zeros_like(self.qkv_bias), self.qkv_bias))
        q, k, v = (self.qkv(x) + bias).view(n, -1, 3, 2, 4).permute(2, 0, 3, 1, 4)
        products = q @ k.transpose(-2, -1) / 2
        products = products + F.pad(self.table, (0, 3, 0, 3))  # a bias of positions
        x = x + (products.softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = torch.einsum("nld,de->nle", x, self.mix.tanh())  # a weight that is computed, in a function of any kind
        x = x[:, 1:].view(n, 3, 3, 8)
        x = torch.addcmul(x, self.grn, x.norm(dim=(1, 2), keepdim=True))
        x = F.pad(self.wide(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1), (0, 0, 0, 1, 0, 1))
        x = self.down(
            F.layer_norm(x, (8,), self.gamma, self.gamma).permute(0, 3, 1, 2)
        )  # strided, behind a permuted norm
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("fused", [True, False], ids=["fused attention", "plain attention"])
def test_parameters_are_covered_wherever_they_are_used(fused: bool) -> None:
    torch.manual_seed(0)
    model, inputs, targets = Own(fused=fused), torch.rand(3, 1, 8, 8), (torch.rand(3, 5) > 0.5).float()
    rows = gradients(model, inputs, targets, loss=loss)
    norm = float(rows.norm(dim=1).median())
    sums = engine(copy.deepcopy(model).double(), norm=norm)
    sums.add(inputs.double(), targets.double())
    assert distance(sums, clipped_sum(rows, norm=norm)) < EXACT
    assert unfit_parts(model, size=8) == []


class Scaled(nn.Module):
    """Its parameter meets the pixels themselves, before any layer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(1, 1, 8, 8))
        self.head = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((x * self.scale).flatten(1))  # type: ignore[no-any-return]


def test_a_parameter_may_meet_the_pixels_themselves() -> None:
    torch.manual_seed(0)
    model, inputs, targets = Scaled(), torch.rand(3, 1, 8, 8), (torch.rand(3, 5) > 0.5).float()
    rows = gradients(model, inputs, targets, loss=loss)
    sums = engine(copy.deepcopy(model).double(), norm=1.0)
    for _ in range(2):  # the first batch finds that it must be told, the second knows
        sums.clear()
        sums.add(inputs.double(), targets.double())
        assert distance(sums, clipped_sum(rows, norm=1.0)) < EXACT


class Faulty(nn.Module):
    """A network with a fault of the user's, by name."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self.first = nn.Linear(64, 6)
        self.scale = nn.Parameter(torch.rand(6))
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.flatten(1))
        match self.fault:
            case "behind the back":
                x = x * self._parameters["scale"]
            case "after the batch":
                x = (x.t() * self.scale[:, None]).t()
            case "beside the images":
                x = torch.cat((self.scale[None], x))[1:]
            case "over the batch":
                x = x * (self.scale * x).sum(0)
        return self.head(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("behind the back", "parameter scale .* was not used exactly once.*a gradient came from outside"),
        ("never", "parameter scale .* was not used exactly once.*used it 0 times"),
        ("after the batch", r"scale in \w+: it meets shape \(6, 3\) where 3 images come first"),
        ("beside the images", "scale in cat: .* leaves no axis for the images|it is put beside the images"),
    ],
)
def test_a_parameter_that_is_not_covered_is_named(fault: str, why: str) -> None:
    sums = engine(Faulty(fault), norm=1.0)
    with pytest.raises(PrivacyError, match=why):
        sums.add(torch.rand(3, 1, 8, 8), torch.ones(3, 5))
    assert flat(sums.partial_sums()).norm() == 0
    assert not any("scale" in vars(module) for module in sums.model.modules())  # the network is as it was
    assert len(unfit_parts(Faulty(fault), size=8)) == 1


def test_a_network_that_mixes_images_by_a_parameter_is_refused() -> None:
    assert re.search("depends on the other images", unfit_parts(Faulty("over the batch"), size=8)[0])


@pytest.mark.parametrize("fault", ["counted twice", "in the wrong layout", "of another image"])
def test_planted_faults_of_the_engine_are_caught(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    keep = BookkeepingClipping.keep

    def wrong(self: BookkeepingClipping, piece: Any, *, way: str) -> None:
        if piece.parameter.ndim == 1 and way == "spread":
            if fault == "counted twice":
                keep(self, piece, way=way)
            elif fault == "in the wrong layout":
                piece.gradients = piece.gradients.flip(1)
            else:
                piece.gradients = piece.gradients.roll(1, dims=0)
        keep(self, piece, way=way)

    model = small("convnext_tiny")
    assert unfit_parts(model, size=32) == []
    monkeypatch.setattr(BookkeepingClipping, "keep", wrong)
    (found,) = unfit_parts(model, size=32)
    if fault != "of another image":  # whose part of the norms the trial finds in other ways
        assert re.search(
            r"stages\.\d\.blocks\.\d\.gamma.*(was not used exactly once|is not that of the image alone)", found
        )


# ---- what they are ----


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("convnext_tiny", 28.6),  # Liu et al. 2022 (arXiv 2201.03545), table 1, with 1,000 classes
        ("convnext_small", 50.2),
        ("convnext_base", 88.6),
        ("vit_small", 22.1),  # Touvron et al. 2021 (arXiv 2012.12877), table 1
        ("vit_base", 86.6),
        ("densenet121", 7.98),  # torchvision's table of models
        ("resnet50", 25.6),
    ],
)
def test_published_sizes(name: str, millions: float) -> None:
    with torch.device("meta"):
        model = build_model(ModelSettings(name=name), size=224, num_outputs=1000)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=3e-3)


@pytest.mark.parametrize("name", NETWORKS)
def test_gray_goes_in_as_the_weights_expect_it(name: str) -> None:
    # ImageNet's mean and deviation of each channel (He et al. 2016 and all since), 0.5 for timm's own ViTs.
    model, seen = small(name).eval(), []
    first = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
    first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(torch.full((1, 1, size_of(name), size_of(name)), 0.3))
    half = name in ("vit_small", "vit_base")
    mean = torch.tensor((0.5, 0.5, 0.5) if half else (0.485, 0.456, 0.406))
    std = torch.tensor((0.5, 0.5, 0.5) if half else (0.229, 0.224, 0.225))
    torch.testing.assert_close(seen[0][0, :, 0, 0], (0.3 - mean) / std)
    assert "pixel_mean" not in model.state_dict()


def test_a_size_that_does_not_fit_and_a_missing_library_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StudyError, match=r"shards.size: vit_small cuts .* 16 pixels.*Write 96 or 112\."):
        build_model(ModelSettings(name="vit_small"), size=100)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(StudyError, match=r"comes from the library timm.*pip install 'dpdt\[networks\]'"):
        build_model(ModelSettings(name="convnext_tiny"), size=32)


def test_settings_know_each_networks_own_width() -> None:
    published = ModelSettings(name="convnext_base")
    assert (published.width, published.in_channels) == (128, 3)
    assert ModelSettings.model_validate(published.recorded()) == published
    assert ModelSettings(name="vit_base", width=64).width == 64
    for wrong, why in [
        ({"name": "convnext"}, "expected one of resnet9, convnext_tiny"),
        ({"name": "vit_base", "in_channels": 1}, "takes the gray channel three times"),
        ({"name": "vit_base", "options": {"depth": 3}}, "drop_path_rate for one of timm"),
        ({"name": "vit_base", "options": {"drop_path_rate": 1.5}}, r"expected a number in \[0, 1\), got 1.5"),
    ]:
        with pytest.raises(ValueError, match=why):
            ModelSettings.model_validate(wrong)


# ---- weights ----


def same_body(one: nn.Module, other: nn.Module) -> bool:
    """All parameters but the last layer's."""
    heads = ("head.fc.", "head.weight", "head.bias", "fc.", "classifier.")
    pairs = zip(one.named_parameters(), other.named_parameters(), strict=True)
    return all(name.startswith(heads) or torch.equal(a, b) for (name, a), (_, b) in pairs)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_folder_of_safetensors_without_a_head(name: str, tmp_path: Path) -> None:
    # As timm publishes: model.safetensors beside config.json, self-supervised ones without a last layer.
    source, target = small(name), build_model(ModelSettings(name=name, width=WIDTHS[name]), size=size_of(name))
    state = {key: value for key, value in source.state_dict().items() if not key.startswith(("fc.", "classifier."))}
    state = {key: value for key, value in state.items() if key not in ("head.weight", "head.bias")}
    save_file({key: value for key, value in state.items() if "head.fc" not in key}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    assert not load_weights(target, tmp_path, new_head=True)
    assert same_body(target, source)
    (tmp_path / "other.safetensors").write_bytes(b"")
    with pytest.raises(StudyError, match=r"one file of weights.*found model\.safetensors, other\.safetensors"):
        load_weights(target, tmp_path, new_head=True)


def test_the_authors_names_of_a_convnext(tmp_path: Path) -> None:
    # github.com/facebookresearch/ConvNeXt, models/convnext.py: its module names, and {"model": ...} around them.
    source, target = small("convnext_tiny"), build_model(ModelSettings(name="convnext_tiny", width=16), size=32)
    names = {
        r"^stem\.0": "downsample_layers.0.0",
        r"^stem\.1": "downsample_layers.0.1",
        r"^stages\.(\d)\.downsample\.(\d)": r"downsample_layers.\1.\2",
        r"^stages\.(\d)\.blocks\.(\d+)": r"stages.\1.\2",
        "conv_dw": "dwconv",
        r"mlp\.fc": "pwconv",
        r"^head\.norm": "norm",
        r"^head\.fc": "head",
    }
    state = {}
    for name, value in source.state_dict().items():
        for old, new in names.items():
            name = re.sub(old, new, name)
        state[name] = value
    assert "stages.2.8.pwconv2.weight" in state
    torch.save({"model": state}, tmp_path / "convnext_tiny_22k_224.pth")
    load_weights(target, tmp_path / "convnext_tiny_22k_224.pth", new_head=True)
    assert same_body(target, source)


def test_a_teachers_backbone_without_its_projector(tmp_path: Path) -> None:
    # As DINO writes checkpoints: student and teacher, wrapped, with the head of the self-supervision.
    source, target = small("vit_small"), build_model(ModelSettings(name="vit_small", width=16), size=32)
    state = {f"module.backbone.{k}": v for k, v in source.state_dict().items() if not k.startswith("head.")}
    teacher = {**state, "module.head.mlp.0.weight": torch.zeros(2, 2)}
    torch.save({"student": {}, "teacher": teacher, "epoch": 3}, tmp_path / "checkpoint.pth")
    assert not load_weights(target, tmp_path / "checkpoint.pth", new_head=True)
    assert same_body(target, source)


def test_positions_are_interpolated_at_the_start_alone(tmp_path: Path) -> None:
    # A position that is the same everywhere stays what it is on any grid.
    large = build_model(ModelSettings(name="vit_small_dinov2", width=16), size=8 * 14)
    state = large.state_dict()
    state["pos_embed"] = torch.arange(16.0).expand_as(state["pos_embed"]).clone()
    torch.save(state, tmp_path / "large.pt")
    model = build_model(ModelSettings(name="vit_small_dinov2", width=16), size=28)
    load_weights(model, tmp_path / "large.pt", new_head=True)
    assert model.pos_embed.shape[1] == 5 - model.num_prefix_tokens + 1
    torch.testing.assert_close(model.pos_embed, torch.arange(16.0).expand_as(model.pos_embed), rtol=1e-4, atol=1e-4)
    with pytest.raises(StudyError, match="pos_embed has shape"):  # a trained model's weights are its own or none
        load_weights(model, tmp_path / "large.pt")


def test_a_first_layer_of_one_channel_is_shared_out_over_three(tmp_path: Path) -> None:
    model = small("convnext_tiny")
    state = model.state_dict()
    state["stem.0.weight"] = torch.rand(16, 1, 4, 4)
    torch.save(state, tmp_path / "gray.pt")
    load_weights(model, tmp_path / "gray.pt")
    torch.testing.assert_close(model.stem[0].weight.sum(1, keepdim=True), state["stem.0.weight"])


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"stem.0.weight": Evil()}, tmp_path / "w.pth")
    with pytest.raises(StudyError, match="cannot be read as a state dict"):
        load_weights(small("convnext_tiny"), tmp_path / "w.pth", new_head=True)
    assert not (tmp_path / "ran").exists()
