"""Book-keeping against a float64 loop over images: the paper's network, random ones, every kind of layer, odd cases.

The right value is always that of Abadi et al. 2016 (arXiv 1607.00133), algorithm 1, one image after the other with
torch's ordinary autograd in float64.
"""

import copy
import itertools
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opacus.grad_sample import GradSampleHooks
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from dpdt import _core
from dpdt.errors import PrivacyError
from dpdt.privacy.clipping.bookkeeping import BookkeepingClipping
from dpdt.privacy.clipping.convolutions import WAYS, Convolution, choose_way, gram_squared_norms
from dpdt.privacy.clipping.engines import CLIPPING
from dpdt.privacy.clipping.gradient_sum import ClippedGradientSum
from dpdt.privacy.clipping.layers import LAYERS
from dpdt.privacy.keystream import KeyStream
from dpdt.privacy.rounding import PER_IMAGE
from dpdt.training.networks.resnet9 import ResNet9
from tests import single_images
from tests.single_images import clipped_sum, flat

Loss = Callable[[Tensor, Tensor], Tensor]

# Of book-keeping in float64 against the loop in float64; the order of additions is all that differs.
EXACT = 1e-9


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)


def engine(
    model: nn.Module, *, norm: float, kind: str = "bookkeeping", autocast: bool = False, loss: Loss = loss
) -> ClippedGradientSum:
    noise = KeyStream.from_seed("bookkeeping")
    make = CLIPPING[kind]
    return make(copy.deepcopy(model), loss, max_grad_norm=norm, noise_multiplier=0.0, noise=noise, autocast=autocast)


def gradients(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return single_images.gradients(model, inputs, targets, loss=loss)


def error(
    model: nn.Module, inputs: Tensor, targets: Tensor, *, sizes: tuple[int, ...] = (), single: bool = False
) -> float:
    """How far book-keeping is from the loop, relative to the sum; half of the images are clipped.

    In float64, so that no rounding hides a mistake, or in single precision, as it is used.
    """
    rows = gradients(model, inputs, targets)
    norm = float(rows.norm(dim=1).median())
    if not single:
        model, targets = copy.deepcopy(model).double(), targets.double()
        inputs = inputs.double() if inputs.is_floating_point() else inputs
    sums = engine(model, norm=norm)
    for part, wanted in zip(inputs.split(sizes or len(inputs)), targets.split(sizes or len(inputs)), strict=True):
        sums.add(part, wanted)
    expected = clipped_sum(rows, norm=norm)
    return float((flat(sums.sums) - expected).norm() / expected.norm())


def some_targets(images: int) -> Tensor:
    return (torch.rand(images, 5) > 0.5).float()


@pytest.mark.slow
@pytest.mark.parametrize(("in_channels", "size"), [(1, 128), (3, 77)])
def test_the_papers_network(in_channels: int, size: int) -> None:
    torch.manual_seed(size)
    model, inputs, targets = ResNet9(in_channels=in_channels), torch.rand(5, 1, size, size), some_targets(5)
    assert error(model, inputs, targets, sizes=(3, 1, 1)) < EXACT
    # In single precision the network's own rounding is in it: torch's ordinary gradients are off by as much.
    exact = gradients(model, inputs, targets).sum(0)
    loss(model(inputs), targets).sum().backward()
    ordinary = flat([p.grad for p in model.parameters() if p.grad is not None])
    ordinary_error = float((ordinary - exact).norm() / exact.norm())
    assert ordinary_error > 2e-7
    assert error(model, inputs, targets, sizes=(3, 1, 1), single=True) < max(1e-6, 2 * ordinary_error)


@pytest.mark.slow
@pytest.mark.parametrize("size", [128])
def test_in_single_precision_clipping_adds_no_error_of_its_own(size: int) -> None:
    # Opacus' gradients of the same images, from the same forward pass, clipped and added up in float64.
    torch.manual_seed(size)
    model, inputs, targets = ResNet9(), torch.rand(6, 1, size, size), some_targets(6)
    hooked = copy.deepcopy(model)
    hooks = GradSampleHooks(hooked, loss_reduction="sum")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        loss(hooked(inputs), targets).sum().backward()
    rows = torch.cat([p.grad_sample.detach().double().flatten(1) for p in hooked.parameters()], dim=1)
    hooks.remove_hooks()
    norm = float(rows.norm(dim=1).median())
    sums, expected = engine(model, norm=norm), clipped_sum(rows, norm=norm)
    sums.add(inputs, targets)
    assert (flat(sums.sums) - expected).norm() < 1e-6 * expected.norm()


def test_every_way_to_a_norm_is_used_by_the_papers_network() -> None:
    torch.manual_seed(0)
    sums = engine(ResNet9(), norm=1.0)
    assert isinstance(sums, BookkeepingClipping)
    sums.add(torch.rand(2, 1, 128, 128), some_targets(2))
    assert sums.ways["conv1.weight"] == "loop"
    assert sums.ways["layer1.0.conv1.weight"] == "grouped"
    assert sums.ways["layer2.0.downsample.0.weight"] == "pointwise"
    assert sums.ways["layer4.0.conv2.weight"] == sums.ways["fc.weight"] == "gram"
    assert set(sums.ways) == {name for name, _ in ResNet9().named_parameters()}


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Conv2d, int, int]:
    """Any convolution, and a picture that it fits on."""
    groups = draw(st.integers(1, 3))
    kernel = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    dilation = (draw(st.integers(1, 3)), draw(st.integers(1, 2)))
    padding = (draw(st.integers(0, 3)), draw(st.integers(0, 3)))
    module = nn.Conv2d(
        groups * draw(st.integers(1, 3)),
        groups * draw(st.integers(1, 3)),
        kernel,
        stride=(draw(st.integers(1, 3)), draw(st.integers(1, 3))),
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=draw(st.booleans()),
    )
    smallest = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    height, width = (max(1, s - 2 * p) + draw(st.integers(0, 9)) for s, p in zip(smallest, padding, strict=True))
    return module, height, width


@settings(max_examples=60, deadline=None)
@given(case=convolutions(), images=st.integers(1, 4))
def test_every_way_gives_the_norms_of_any_convolution(case: tuple[nn.Conv2d, int, int], images: int) -> None:
    module, height, width = case
    x = torch.randn(images, module.in_channels, height, width)
    gy = torch.randn_like(module(x))
    exact, rows = copy.deepcopy(module).double(), []
    for number in range(images):
        exact.zero_grad()
        exact(x[number : number + 1].double()).backward(gy[number : number + 1].double())
        assert exact.weight.grad is not None
        rows.append(exact.weight.grad.flatten().clone())
    shape = Convolution(module.stride, module.padding, module.dilation, module.groups)  # type: ignore[arg-type]
    right = torch.stack(rows)
    for kind in (torch.float32, torch.float64):  # by the core, and by torch
        found = gram_squared_norms(shape, x=x.to(kind), gy=gy.to(kind), weight=module.weight)
        torch.testing.assert_close(found, right.square().sum(1), rtol=1e-6, atol=1e-9)
    for name, way in WAYS.items():
        if name == "patches" and module.groups > 1:
            continue
        if name == "pointwise" and (module.kernel_size, module.padding) != ((1, 1), (0, 0)):
            continue
        if name == "pointwise" and module.groups > 1:
            continue
        torch.testing.assert_close(way(shape, x=x, gy=gy, weight=module.weight).double(), right, rtol=1e-4, atol=1e-4)


class Block(nn.Module):
    """A convolution, a norm, an activation in place and, where it fits, a residual that is added in place."""

    def __init__(self, convolution: nn.Conv2d, *, norm: bool, residual: bool) -> None:
        super().__init__()
        self.convolution = convolution
        self.norm = nn.GroupNorm(1, convolution.out_channels) if norm else nn.Identity()
        self.activation = nn.ReLU(inplace=True) if norm else nn.Mish(inplace=True)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.convolution(x))
        if self.residual and y.shape == x.shape:
            y += x
        y = self.activation(y)
        return y


@st.composite
def networks(draw: st.DrawFn) -> nn.Module:
    """One to three blocks, then one or two linear layers."""
    torch.manual_seed(draw(st.integers(0, 1000)))
    channels, blocks = 2, []
    for _ in range(draw(st.integers(1, 3))):
        groups, kernel = draw(st.sampled_from([1, 2])), draw(st.sampled_from([1, 3]))
        outputs = draw(st.sampled_from([channels, 8]))
        mode = draw(st.sampled_from(["zeros", "reflect", "circular"]))
        padding: int | str = draw(st.sampled_from(["same", 1 if kernel == 3 else 0]))
        stride = 1 if padding == "same" else draw(st.integers(1, 2))
        convolution = nn.Conv2d(
            channels,
            outputs,
            kernel,
            stride=stride,
            padding=padding,
            groups=groups,
            bias=draw(st.booleans()),
            padding_mode=mode,
        )
        blocks.append(Block(convolution, norm=draw(st.booleans()), residual=draw(st.booleans())))
        channels = outputs
    head: list[nn.Module] = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, 6)]
    if draw(st.booleans()):
        head += [nn.LayerNorm(6), nn.Mish()]
    return nn.Sequential(*blocks, *head, nn.Linear(6, 5, bias=draw(st.booleans())))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(model=networks(), images=st.integers(1, 5), height=st.integers(7, 13), width=st.integers(7, 13))
def test_random_networks(model: nn.Module, images: int, height: int, width: int) -> None:
    inputs = torch.rand(images, 2, height, width)
    assert error(model, inputs, some_targets(images), sizes=(1,) * images if height % 2 else ()) < EXACT


class Sentences(nn.Module):
    """Words to logits; the last layer's weight may be the table's, as in language models."""

    def __init__(self, *, tied: bool) -> None:
        super().__init__()
        self.words = nn.Embedding(5, 8, padding_idx=0)
        self.mix = nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)
        self.out = nn.Linear(8, 5, bias=False)
        if tied:
            self.out.weight = self.words.weight

    def forward(self, words: Tensor) -> Tensor:
        y: Tensor = self.out(self.norm(self.mix(self.words(words))).mean(1))
        return y


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("places", [1, 4, 30], ids=["one word", "few words", "many words"])
def test_words_that_occur_twice_padding_and_a_tied_table(tied: bool, places: int) -> None:
    torch.manual_seed(places)
    words = torch.randint(0, 5, (6, places))
    assert error(Sentences(tied=tied), words, some_targets(6)) < EXACT


class Twice(nn.Module):
    """A module that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.last = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.again(torch.tanh(self.again(torch.tanh(self.first(x)))))
        logits: Tensor = self.last(y.mean((2, 3)))
        return logits


def test_a_module_that_is_called_twice_counts_with_the_sum_of_its_gradients() -> None:
    torch.manual_seed(0)
    assert error(Twice(), torch.rand(4, 1, 9, 9), some_targets(4)) < EXACT


@pytest.mark.parametrize("frozen", ["conv1.weight", "bn1.weight", "fc.bias", "layer1"])
def test_frozen_parameters_are_left_out(frozen: str) -> None:
    torch.manual_seed(0)
    model = ResNet9(width=8)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = not name.startswith(frozen)
    assert error(model, torch.rand(4, 1, 32, 32), some_targets(4)) < EXACT


class Scale(nn.Module):
    """A module of somebody's own, with a parameter that no layer has."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.rand(4))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def test_modules_of_any_kind_are_covered_by_the_functions_that_they_call() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv1d(1, 4, 3), nn.Mish(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), Scale(), nn.Linear(4, 5)
    )
    assert error(model, torch.rand(4, 1, 12), some_targets(4)) < EXACT
    sums = engine(model, norm=1.0)
    assert isinstance(sums, BookkeepingClipping)
    sums.add(torch.rand(4, 1, 12), some_targets(4))
    assert sums.ways["0.weight"] == "functorch"  # no function of its own for a convolution of one axis
    assert sums.ways["4.factor"] == "spread"


def test_under_cudas_autocast_norms_compute_in_float32_as_torchs_own_do() -> None:
    # On CUDA autocast's policy for group_norm and layer_norm is float32 (torch's docs, "CUDA Ops that autocast to
    # float32"), and its kernels refuse an input and weights of two types. Shapes and types alone are looked at.
    class Tape:
        images, follows_images = 2, False

        def name(self, parameter: nn.Parameter) -> str:
            return ""

        def used(self, parameter: nn.Parameter) -> None: ...
        def keep(self, piece: Any, *, way: str) -> None: ...

    with FakeTensorMode(), torch.no_grad():
        x = torch.empty(2, 4, 6, 8, device="cuda", dtype=torch.bfloat16)
        for module, function, shape in (
            (nn.GroupNorm(2, 4, device="cuda"), F.group_norm, 2),
            (nn.LayerNorm(8, device="cuda"), F.layer_norm, (8,)),
        ):

            def forward(x: Tensor, module: Any = module, function: Any = function, shape: Any = shape) -> Tensor:
                return LAYERS[function](Tape(), x, shape, module.weight, module.bias)

            assert forward(x).dtype == torch.bfloat16
            torch.set_autocast_enabled("cuda", True)
            try:
                assert forward(x).dtype == module(x).dtype == torch.float32
            finally:
                torch.set_autocast_enabled("cuda", False)


def test_an_engine_leaves_ordinary_forward_passes_alone() -> None:
    model = ResNet9(width=8)
    sums = engine(model, norm=1.0)
    x = torch.rand(2, 1, 32, 32)
    sums.model(x).sum().backward()
    assert all(p.grad is not None for p in sums.model.parameters())
    torch.testing.assert_close(sums.model(x), model(x), rtol=0, atol=0)


class Sly(nn.Module):
    """Uses a layer's weight behind its module's back."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 5)
        self.kept = [self.fc.weight]

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(x)
        return y + F.linear(x, self.kept[0])


class DeadEnd(nn.Module):
    """Uses a layer twice, and the second result for nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        self.fc(2 * x)
        y: Tensor = self.fc(x)
        return y


@pytest.mark.parametrize(
    ("model", "why"),
    [(Sly(), "a gradient came from outside of its module"), (DeadEnd(), "gradients reached 1 of these")],
)
def test_a_gradient_that_is_not_covered_exactly_once_is_an_error(model: nn.Module, why: str) -> None:
    sums = engine(model, norm=1.0)
    with pytest.raises(PrivacyError, match=why):
        sums.add(torch.rand(3, 4), some_targets(3))
    assert flat(sums.sums).norm() == 0


def test_a_layer_that_does_not_see_images_first_is_an_error() -> None:
    model = nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Flatten(0, 1), nn.Linear(2, 5), nn.Unflatten(0, (-1, 2)))
    sums = engine(model, norm=1.0, loss=lambda outputs, _: outputs.sum((1, 2)))
    with pytest.raises(PrivacyError, match=r"2.weight saw 6 images where the batch has 3"):
        sums.add(torch.rand(3, 4), some_targets(3))


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(2, affine=False), nn.BatchNorm2d(2)])
def test_a_layer_that_mixes_images_is_refused(layer: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), layer, nn.Flatten(), nn.Linear(18, 5))
    for kind in CLIPPING:
        with pytest.raises(PrivacyError, match="1 is a BatchNorm2d, which mixes the images of a batch"):
            engine(model, norm=1.0, kind=kind)
    sums = engine(nn.Sequential(nn.Embedding(4, 5, scale_grad_by_freq=True), nn.Flatten()), norm=1.0)
    with pytest.raises(PrivacyError, match="scale_grad_by_freq or max_norm mixes the images"):
        sums.add(torch.zeros(2, 1, dtype=torch.long), some_targets(2))
    with pytest.raises(PrivacyError, match="batch_first=False; every layer takes images first"):
        engine(nn.Sequential(nn.LSTM(2, 5)), norm=1.0)


HARD_IMAGES = 8


def hard_batch(size: int) -> Tensor:
    """Like images, so that their gradients add up, and the hard ones: black, nearly black, constant, bright, broken."""
    torch.manual_seed(1)
    inputs = torch.rand(1, 1, size, size) + 0.1 * torch.rand(HARD_IMAGES, 1, size, size)
    inputs[1] = 0.0
    inputs[2] *= 1e-6
    inputs[3] = 0.5
    inputs[4] *= 1e3
    inputs[5] = torch.nan
    return inputs


@pytest.mark.slow
@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bf16"])
@pytest.mark.parametrize("kind", list(CLIPPING))
@pytest.mark.parametrize(("width", "size", "norm"), [(64, 64, 1.0), (16, 40, 0.05)])
def test_an_image_moves_the_sum_by_no_more_than_the_bound(
    kind: str, autocast: bool, width: int, size: int, norm: float
) -> None:
    torch.manual_seed(0)
    model, targets = ResNet9(width=width), torch.ones(HARD_IMAGES, 5)
    if kind == "ghost" and autocast:
        with pytest.raises(PrivacyError, match="ghost breaks its bound in bfloat16"):
            engine(model, norm=norm, kind=kind, autocast=True)
        return
    inputs = hard_batch(size)

    def total(keep: Tensor) -> Tensor:
        sums = engine(model, norm=norm, kind=kind, autocast=autocast)
        sums.fill_to = HARD_IMAGES
        sums.add(inputs[keep], targets[keep])
        return flat(sums.sums)

    everyone = torch.arange(HARD_IMAGES)
    whole = total(everyone)
    moved = [float((whole - total(everyone[everyone != left_out])).norm()) for left_out in (0, 1, 2, 4, 7)]
    assert whole.isfinite().all()
    allowance = HARD_IMAGES * PER_IMAGE["bf16" if autocast else "float32"]["cpu"]
    assert max(moved) <= norm * (1 + allowance)
    assert max(moved) >= norm * 0.999  # the bound is reached, so the test can fail


def test_where_the_terms_of_a_gradient_cancel_their_rounding_is_in_the_norm() -> None:
    # 16 places whose output gradients add up to almost nothing under a constant input.
    x = torch.full((1, 600, 4, 4), 100.0)
    gy = torch.randn(1, 600, 4, 4)
    gy -= gy.mean((2, 3), keepdim=True)
    weight = torch.empty(600, 600, 1, 1)
    shape = Convolution((1, 1), (0, 0), (1, 1), 1)
    assert choose_way(shape, weight=weight.shape, places=16) == "gram"
    entering = torch.ops.aten.convolution_backward(
        gy, x, weight, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [False, True, False]
    )[1]
    norm = gram_squared_norms(shape, x=x, gy=gy, weight=weight).sqrt()
    assert entering.double().norm() <= norm * (1 + 1e-5)
    assert norm < 0.01 * x.norm() * gy.norm()


def test_the_core_says_which_shapes_are_no_convolution() -> None:
    x, gy, out = np.zeros((2, 4, 5, 5), np.float32), np.zeros((2, 3, 5, 5), np.float32), np.empty(2)
    moves: dict[str, Any] = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "rounding": 0.0}
    _core.weight_squared_norms(x, gy, out, kernel=(3, 3), groups=1, **moves)
    with pytest.raises(ValueError, match="expected input and output gradient of this convolution"):
        _core.weight_squared_norms(x, gy, out, kernel=(2, 3), groups=1, **moves)
    with pytest.raises(ValueError, match="channels in whole groups"):
        _core.weight_squared_norms(x, gy, out, kernel=(3, 3), groups=2, **moves)
    with pytest.raises(ValueError, match="the same images"):
        _core.weight_squared_norms(x, gy, np.empty(3), kernel=(3, 3), groups=1, **moves)
    with pytest.raises(ValueError, match="expected rows and room for one number for each"):
        _core.add_squared_norms(np.zeros((3, 2), np.float32), out)


@pytest.mark.parametrize("length", [0, 1, 7, 31, 32, 33, 100_003])
def test_the_core_adds_squares_up_in_float64_on_any_number_of_threads(length: int) -> None:
    rows = (np.random.default_rng(length).standard_normal((5, length)) * 1e3).astype(np.float32)
    found = [np.full(5, 2.0) for _ in range(2)]
    for out, num_threads in zip(found, (1, 3), strict=True):
        _core.add_squared_norms(rows, out, num_threads=num_threads)
    right = [2.0 + math.fsum(float(value) ** 2 for value in row) for row in rows]
    np.testing.assert_allclose(found[0], right, rtol=1e-13)
    assert np.array_equal(found[0], found[1])


def test_units_of_several_images_equal_the_hooks() -> None:
    torch.manual_seed(0)
    model, inputs, targets = ResNet9(width=16), torch.rand(7, 1, 40, 40), some_targets(7)
    units = torch.tensor([4, 4, 1, 9, 9, 9, 2])
    for norm in (0.05, 100.0):
        found, expected = (engine(model, norm=norm, kind=kind) for kind in ("bookkeeping", "hooks"))
        for sums in (found, expected):
            sums.add(inputs, targets, units=units)
        assert (flat(found.sums) - flat(expected.sums)).norm() <= 3e-6 * flat(expected.sums).norm()


def test_the_same_batch_gives_the_same_bits() -> None:
    torch.manual_seed(0)
    model, inputs, targets = ResNet9(width=16), torch.rand(6, 1, 40, 40), some_targets(6)
    found = []
    for _ in range(2):
        sums = engine(model, norm=0.1)
        for part in (slice(0, 4), slice(4, 6)):
            sums.add(inputs[part], targets[part])
        found.append(sums.sums)
    assert all(torch.equal(one, other) for one, other in itertools.zip_longest(*found))
