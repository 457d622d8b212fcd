"""Clipped sums: against a float64 loop, their sensitivity, noise, and the equality of both arms without noise."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpdt.errors import PrivacyError
from dpdt.privacy.clipping.bookkeeping import BookkeepingClipping
from dpdt.privacy.clipping.engines import CLIPPING, ClippedGradientSum, GradientSum
from dpdt.privacy.keystream import KeyStream
from dpdt.privacy.rounding import PER_IMAGE
from dpdt.training.networks.resnet9 import ResNet9
from tests.single_images import gradients

IMAGES = 9
NORM = 1.5
# Hooks add the very gradients whose norms are taken; ghost's norms have a margin of 1e-4 for their rounding.
# float32 itself is off by 1.0e-6 from the float64 loop: plain backward passes on any number of threads (below).
RELATIVE = {"bookkeeping": 2e-6, "hooks": 5e-6, "ghost": 2e-4}

both = pytest.mark.parametrize("kind", list(CLIPPING))


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return ResNet9(width=8)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.rand(IMAGES, 1, 32, 32), (torch.rand(IMAGES, 5) > 0.5).float()


def clipped(kind: str, model: nn.Module, *, norm: float = NORM, sigma: float = 0.0) -> ClippedGradientSum:
    return CLIPPING[kind](
        copy.deepcopy(model),
        loss,
        max_grad_norm=norm,
        noise_multiplier=sigma,
        noise=KeyStream.from_seed("clipping"),
        fill_to=IMAGES,
    )


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().double().flatten() for tensor in tensors])


def reference(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    norm: float = NORM,
    factor: Callable[[float], float] | None = None,
) -> Tensor:
    """The clipped sum, one image after the other in float64 (Abadi et al. 2016, algorithm 1), or by another factor."""
    exact = copy.deepcopy(model).double()
    total = torch.zeros(sum(p.numel() for p in exact.parameters()), dtype=torch.float64)
    for number in range(len(inputs)):
        exact.zero_grad()
        loss(exact(inputs[number : number + 1].double()), targets[number : number + 1].double()).sum().backward()
        gradient = flat([p.grad for p in exact.parameters() if p.grad is not None])
        length = gradient.norm().item()
        total += gradient * (factor(length) if factor else min(1.0, norm / length))
    return total


@both
@pytest.mark.parametrize("norm", [0.01, 4.0, 1e4], ids=["all clipped", "some clipped", "none clipped"])
def test_the_clipped_sum_is_that_of_a_float64_loop(
    kind: str, norm: float, model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    sums = clipped(kind, model, norm=norm)
    sums.add(*batch)
    expected = reference(model, *batch, norm=norm)
    assert (flat(sums.sums) - expected).norm() <= RELATIVE[kind] * expected.norm()


@pytest.mark.parametrize("kind", [kind for kind in CLIPPING if kind != "ghost"])
def test_clipping_adds_little_to_the_rounding_of_plain_backward_passes(
    kind: str, model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    exact, sums = reference(model, *batch), clipped(kind, model)
    plain = torch.zeros_like(exact)
    for inputs, targets in zip(*(part.split(1) for part in batch), strict=True):
        model.zero_grad()
        loss(model(inputs), targets).sum().backward()
        gradient = flat([p.grad for p in model.parameters() if p.grad is not None])
        plain += gradient * min(1.0, NORM / gradient.norm().item())
    sums.add(*batch)
    float32_itself = (plain - exact).norm()
    assert 5e-7 * exact.norm() < float32_itself  # a tolerance below that asks for more than the numbers have
    assert (flat(sums.sums) - exact).norm() <= 1.5 * float32_itself


@both
@pytest.mark.parametrize("pieces", [[9], [4, 4, 1], [1] * 9])
def test_physical_batches_change_nothing(
    kind: str, pieces: list[int], model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    sums = clipped(kind, model)
    losses = [sums.add(*part) for part in zip(*(part.split(pieces) for part in batch), strict=True)]
    expected = reference(model, *batch)
    assert torch.cat(losses).shape == (IMAGES,)
    assert (flat(sums.sums) - expected).norm() <= RELATIVE[kind] * expected.norm()


@both
def test_an_image_moves_the_sum_by_no_more_than_the_norm(
    kind: str, model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    inputs, targets = batch
    inputs = inputs.clone()
    inputs[3] = 0.0  # an all-black image: group norm makes its gradient enormous
    inputs[4] *= 1000
    whole = clipped(kind, model)
    whole.add(inputs, targets)
    for left_out in range(IMAGES):
        keep = torch.arange(IMAGES) != left_out
        rest = clipped(kind, model)
        rest.add(inputs[keep], targets[keep])
        assert (flat(whole.sums) - flat(rest.sums)).norm() <= NORM * (1 + IMAGES * PER_IMAGE["float32"]["cpu"])


def automatic(kind: str, model: nn.Module) -> ClippedGradientSum:
    sums = clipped(kind, model)
    sums.automatic = True
    return sums


@both
def test_automatic_clipping_is_that_of_a_float64_loop(
    kind: str, model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    # Bu et al. 2022 (arXiv 2206.07136), AUTO-S: g · R / (|g| + gamma) with gamma = 0.01.
    sums = automatic(kind, model)
    sums.add(*batch)
    expected = reference(model, *batch, factor=lambda norm: NORM / (norm + 0.01))
    assert (flat(sums.sums) - expected).norm() <= RELATIVE[kind] * expected.norm()


def moved_by_each_image(kind: str, model: nn.Module, batch: tuple[Tensor, Tensor]) -> list[float]:
    """How far each image moves an automatically clipped sum, in clipping norms."""
    whole, moved = automatic(kind, model), []
    whole.add(*batch)
    for left_out in range(IMAGES):
        keep, rest = torch.arange(IMAGES) != left_out, automatic(kind, model)
        rest.add(batch[0][keep], batch[1][keep])
        moved.append((flat(whole.sums) - flat(rest.sums)).norm().item() / NORM)
    return moved


def hard(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """A black and a bright image, and one that the network is sure of: a gradient of nearly nothing."""
    inputs, targets = batch[0].clone(), batch[1].clone()
    inputs[3], inputs[4] = 0.0, inputs[4] * 1000
    with torch.no_grad():
        targets[5] = torch.sigmoid(model(inputs[5:6]))[0] + 1e-7  # the loss' gradient is the difference
    return inputs, targets


@both
def test_an_image_moves_an_automatically_clipped_sum_by_no_more_than_the_norm(
    kind: str, model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    # Its sensitivity is R: |g| R / (|g| + gamma) < R for every g (Bu et al. 2022).
    moved = moved_by_each_image(kind, model, hard(model, batch))
    assert max(moved) <= 1 + IMAGES * PER_IMAGE["float32"]["cpu"]
    assert moved[5] < 0.01  # next to nothing stays next to nothing, which C / norm would have made C
    assert min(moved[:3]) > 0.9


@pytest.mark.parametrize(
    "factor", [lambda norms: NORM / 0.01 + 0 * norms, lambda norms: NORM / norms.clamp(min=1e-6) ** 2]
)
def test_an_automatic_factor_without_a_bound_is_caught(
    factor: Any, model: nn.Module, batch: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ClippedGradientSum, "_factors", lambda _self, norms: factor(norms).float())
    assert max(moved_by_each_image("bookkeeping", model, hard(model, batch))) > 2


@both
def test_an_image_without_a_finite_gradient_adds_zero(
    kind: str, model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    inputs, targets = batch
    broken = inputs.clone()
    broken[2] = torch.nan
    broken[5, 0, 3, 3] = torch.inf
    sums = clipped(kind, model)
    sums.add(broken, targets)
    keep = torch.tensor([n not in (2, 5) for n in range(IMAGES)])
    expected = reference(model, inputs[keep], targets[keep])
    assert (flat(sums.sums) - expected).norm() <= RELATIVE[kind] * expected.norm()


@both
def test_noise_has_the_promised_deviation_and_the_expected_batch_size_divides(kind: str, model: nn.Module) -> None:
    sums = clipped(kind, model, norm=2.0, sigma=3.0)
    sums.release(expected_batch_size=4)  # nothing was added: an empty batch is a noise-only step
    noise = flat([p.grad for p in sums.parameters if p.grad is not None])
    assert noise.std().item() == pytest.approx(3.0 * 2.0 / 4, rel=0.02)
    assert abs(noise.mean().item()) < 5 * noise.std().item() / len(noise) ** 0.5


@both
def test_noise_is_added_to_the_clipped_sum(kind: str, model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    quiet, noisy = clipped(kind, model), clipped(kind, model, sigma=0.7)
    stream = KeyStream.from_seed("clipping")
    noise = torch.cat([stream.normal(p.numel()) for p in noisy.parameters]) * 0.7 * NORM  # one draw a parameter
    for sums in (quiet, noisy):
        sums.add(*batch)
        sums.release(expected_batch_size=5)
    found = flat([p.grad for p in noisy.parameters if p.grad is not None])
    without = flat([p.grad for p in quiet.parameters if p.grad is not None])
    torch.testing.assert_close(found, without + noise / 5, rtol=1e-5, atol=1e-6)


@both
def test_a_new_batch_knows_nothing_of_the_last(kind: str, model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    sums = clipped(kind, model)
    sums.add(*batch)
    sums.clear()
    sums.add(batch[0][:2], batch[1][:2])
    expected = reference(model, batch[0][:2], batch[1][:2])
    assert (flat(sums.sums) - expected).norm() <= RELATIVE[kind] * expected.norm()


@both
def test_without_noise_and_clipping_ten_steps_equal_the_other_arm(kind: str, model: nn.Module) -> None:
    # DP-14: the price of privacy was mixed up with other differences between the arms. Batches of 0 to 9 images.
    torch.manual_seed(3)
    sizes = [9, 0, 4, 1, 7, 3, 0, 8, 5, 6]
    batches = [(torch.rand(n, 1, 32, 32), (torch.rand(n, 5) > 0.5).float()) for n in sizes]
    results = []
    for make in (lambda m: GradientSum(m, loss), lambda m: clipped(kind, m, norm=1e6)):
        sums = make(copy.deepcopy(model))
        optimizer = torch.optim.NAdam(sums.parameters, lr=1e-3)
        for inputs, targets in batches:
            sums.clear()
            for part in zip(inputs.split(4), targets.split(4), strict=True) if len(inputs) else ():
                sums.add(*part)
            sums.release(expected_batch_size=5)
            optimizer.step()
        results.append(flat(sums.parameters))
    start = flat(list(model.parameters()))
    assert (results[0] - start).norm() > 0.1
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=1e-5 if kind == "hooks" else 1e-4)


@both
def test_batch_norm_is_refused(kind: str) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 9, 5))
    with pytest.raises(PrivacyError, match="no separate gradient for each image"):
        clipped(kind, model)


@both
def test_a_parameter_that_no_gradient_reaches_is_refused(kind: str) -> None:
    class Forgetful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(4, 5), nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Any:
            return self.used(x)

    with pytest.raises(PrivacyError, match="was not used exactly once in the forward pass"):
        clipped(kind, Forgetful()).add(torch.rand(3, 4), torch.ones(3, 5))


@both
def test_frozen_parameters_get_neither_gradient_nor_noise(
    kind: str, model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    for parameter in model.parameters():
        parameter.requires_grad = False
    for parameter in model.fc.parameters():  # type: ignore[union-attr]
        parameter.requires_grad = True
    sums = clipped(kind, model, sigma=1.0)
    sums.add(*batch)
    sums.release(expected_batch_size=5)
    assert [p.grad is not None for p in sums.model.parameters()] == [p.requires_grad for p in model.parameters()]


def test_the_state_dict_has_the_networks_own_names(model: nn.Module) -> None:
    names = list(model.state_dict())
    for kind in CLIPPING:
        assert list(clipped(kind, model).model.state_dict()) == names


UNITS = torch.tensor([0, 0, 0, 1, 2, 2, 5, 6, 6])


def unit_reference(model: nn.Module, inputs: Tensor, targets: Tensor, units: Tensor, *, norm: float) -> Tensor:
    """The sum over units of the clipped mean gradient of a unit's images, in float64."""
    exact = copy.deepcopy(model).double()
    total = torch.zeros(sum(p.numel() for p in exact.parameters()), dtype=torch.float64)
    for unit in units.unique():
        exact.zero_grad()
        loss(exact(inputs[units == unit].double()), targets[units == unit].double()).mean().backward()
        gradient = flat([p.grad for p in exact.parameters() if p.grad is not None])
        total += gradient * min(1.0, norm / gradient.norm().item())
    return total


@pytest.mark.parametrize("norm", [0.01, 4.0, 1e4], ids=["all clipped", "some clipped", "none clipped"])
def test_the_images_of_a_unit_are_averaged_and_then_clipped_as_one(
    norm: float, model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    sums = clipped("hooks", model, norm=norm)
    sums.add(*batch, units=UNITS)
    expected = unit_reference(model, *batch, UNITS, norm=norm)
    assert (flat(sums.sums) - expected).norm() <= RELATIVE["hooks"] * expected.norm()


def test_a_unit_of_several_images_moves_the_sum_by_no_more_than_the_norm(
    model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    # The sensitivity that Mironov, Talwar & Zhang 2019 (arXiv 1908.10530), section 3, take for granted.
    inputs, targets = batch[0] * torch.linspace(1, 100, IMAGES)[:, None, None, None], batch[1]
    whole = clipped("hooks", model, norm=0.5)
    whole.add(inputs, targets, units=UNITS)
    for unit in UNITS.unique():
        rest = clipped("hooks", model, norm=0.5)
        rest.add(inputs[unit != UNITS], targets[unit != UNITS], units=UNITS[unit != UNITS])
        moved = (flat(whole.sums) - flat(rest.sums)).norm()
        assert 0 < moved <= 0.5 * (1 + IMAGES * PER_IMAGE["float32"]["cpu"])


def test_without_dp_the_images_of_a_unit_are_averaged_too(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    plain, silent = GradientSum(copy.deepcopy(model), loss), clipped("hooks", model, norm=1e6)
    for sums in (plain, silent):
        sums.add(*batch, units=UNITS)
        sums.release(expected_batch_size=4)
    found, expected = ([p.grad for p in sums.parameters if p.grad is not None] for sums in (plain, silent))
    torch.testing.assert_close(flat(found), flat(expected), rtol=1e-4, atol=1e-6)


def test_a_unit_with_a_broken_image_adds_zero(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    inputs = batch[0].clone()
    inputs[4] = torch.nan
    sums = clipped("hooks", model)
    sums.add(inputs, batch[1], units=UNITS)
    keep = UNITS != 2
    expected = unit_reference(model, batch[0][keep], batch[1][keep], UNITS[keep], norm=NORM)
    assert (flat(sums.sums) - expected).norm() <= RELATIVE["hooks"] * expected.norm()


def test_ghost_clipping_of_several_images_a_unit_is_refused(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(PrivacyError, match="ghost has no norm of several images' mean gradient"):
        clipped("ghost", model).add(*batch, units=UNITS)


@both
def test_a_batch_of_broken_images_alone_adds_zero(kind: str, model: nn.Module) -> None:
    sums = clipped(kind, model)
    sums.add(torch.full((3, 1, 32, 32), torch.nan), torch.ones(3, 5))
    assert flat(sums.sums).norm() == 0


by_layer = pytest.mark.parametrize("kind", ["bookkeeping", "hooks"])


def layered(kind: str, model: nn.Module, *, norm: float = NORM) -> ClippedGradientSum:
    return CLIPPING[kind](
        copy.deepcopy(model),
        loss,
        max_grad_norm=norm,
        noise_multiplier=0.0,
        noise=KeyStream.from_seed("clipping"),
        by_layer=True,
    )


class Odd(nn.Module):
    """A module that is called twice, parameters of the network itself, a frozen layer, a weight of two modules."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.rand(1, 1, 8))
        self.scale = nn.Parameter(torch.rand(8))
        self.first, self.twice, self.frozen, self.norm = (
            nn.Linear(4, 8),
            nn.Linear(8, 8),
            nn.Linear(8, 8),
            nn.LayerNorm(8),
        )
        self.last = nn.Linear(8, 5)
        self.last.weight = nn.Parameter(torch.rand(5, 8))
        self.shares = nn.Linear(8, 8, bias=False)
        self.shares.weight = self.twice.weight
        for parameter in self.frozen.parameters():
            parameter.requires_grad = False

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat((self.token.expand(len(x), -1, -1), self.first(x)), dim=1)
        x = self.twice(F.gelu(self.twice(x))) * self.scale + self.frozen(self.shares(x))
        found: Tensor = self.last(self.norm(x).mean(1))
        return found

    layers = (("token", "scale"), ("first.",), ("twice.",), ("norm.",), ("last.",))


def layers_of(model: nn.Module) -> list[list[int]]:
    """Numbers of a flat gradient by layer: of a name without its last part, or as the odd network says."""
    by_name: dict[str, list[int]] = {}
    begin = 0
    for name, value in model.named_parameters():
        if value.requires_grad:
            odd = getattr(model, "layers", None)
            key = next("".join(one) for one in odd if name.startswith(one)) if odd else name.rpartition(".")[0]
            by_name.setdefault(key, []).extend(range(begin, begin + value.numel()))
            begin += value.numel()
    return list(by_name.values())


def layered_reference(
    model: nn.Module, inputs: Tensor, targets: Tensor, *, norm: float, units: Tensor | None = None
) -> Tensor:
    """Each unit's mean gradient by ordinary autograd in float64, cut to norm / root of the layers' number in each.

    He et al. 2022 (arXiv 2212.01539), section 2, with the same threshold for all groups: together they are norm.
    """
    rows = gradients(model, inputs, targets, loss=loss)
    if units is not None:
        rows = torch.stack([rows[units == unit].mean(0) for unit in units.unique()])
    layers = layers_of(model)
    for numbers in layers:
        rows[:, numbers] *= (norm / len(layers) ** 0.5 / rows[:, numbers].norm(dim=1)).clamp(max=1.0)[:, None]
    return rows.sum(0)


@pytest.mark.parametrize("units", [None, "several"])
@pytest.mark.parametrize("norm", [0.01, 4.0, 1e4], ids=["all clipped", "some clipped", "none clipped"])
@by_layer
def test_a_sum_clipped_by_layer_is_that_of_a_float64_loop(
    kind: str, norm: float, units: str | None, model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    """Of single images, and of several images (or views) of a unit."""
    of = UNITS if units else None
    sums = layered(kind, model.double(), norm=norm)
    sums.add(batch[0].double(), batch[1].double(), units=of)
    expected = layered_reference(model, *batch, norm=norm, units=of)
    assert len(sums.layers) == len(layers_of(model)) == 25
    assert (flat(sums.sums) - expected).norm() <= 1e-9 * expected.norm()


@pytest.mark.parametrize("norm", [0.05, 1.0])
def test_a_layer_is_what_a_module_has_itself_used_as_often_as_it_likes(norm: float) -> None:
    torch.manual_seed(2)
    model, inputs, targets = Odd().double(), torch.rand(6, 3, 4).double(), (torch.rand(6, 5) > 0.5).double()
    sums = layered("bookkeeping", model, norm=norm)
    sums.add(inputs, targets)
    expected = layered_reference(model, inputs, targets, norm=norm)
    assert len(sums.layers) == len(Odd.layers)
    assert (flat(sums.sums) - expected).norm() <= 1e-9 * expected.norm()


def moved_by_each_unit(kind: str, model: nn.Module, batch: tuple[Tensor, Tensor], units: Tensor | None) -> list[float]:
    """How far each unit moves a sum that is clipped by layer, in clipping norms."""
    of, moved = torch.arange(IMAGES) if units is None else units, []
    whole = layered(kind, model)
    whole.add(*batch, units=units)
    for unit in of.unique():
        rest, keep = layered(kind, model), of != unit
        rest.add(batch[0][keep], batch[1][keep], units=None if units is None else units[keep])
        moved.append((flat(whole.sums) - flat(rest.sums)).norm().item() / NORM)
    return moved


@pytest.mark.parametrize("units", [None, UNITS], ids=["single", "several"])
@by_layer
def test_a_unit_moves_a_sum_clipped_by_layer_by_no_more_than_the_norm(
    kind: str, units: Tensor | None, model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    inputs = batch[0].clone()
    inputs[3], inputs[4] = 0.0, inputs[4] * 1000
    moved = moved_by_each_unit(kind, model.double(), (inputs.double(), batch[1].double()), units)
    assert 0.5 < max(moved) <= 1 + 1e-9


def test_layers_that_each_have_the_whole_norm_are_caught(
    model: nn.Module, batch: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ClippedGradientSum, "_factors", lambda _, norms: (NORM / norms).clamp(max=1.0).float())
    inputs = batch[0].clone()
    inputs[4] *= 1000
    assert max(moved_by_each_unit("bookkeeping", model, (inputs, batch[1]), None)) > 1.5


@by_layer
def test_by_layer_an_image_without_a_finite_gradient_adds_zero(
    kind: str, model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    broken = batch[0].double()
    broken[2] = torch.nan
    sums = layered(kind, model.double())
    sums.add(broken, batch[1].double())
    keep = torch.arange(IMAGES) != 2
    expected = layered_reference(model, batch[0][keep], batch[1][keep], norm=NORM)
    assert (flat(sums.sums) - expected).norm() <= 1e-9 * expected.norm()


def test_by_layer_what_a_layer_left_is_freed_before_the_next(
    model: nn.Module, batch: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[int] = []
    keep = BookkeepingClipping.keep

    def counted(self: BookkeepingClipping, piece: Any, *, way: str) -> None:
        keep(self, piece, way=way)
        left.append(sum(map(len, self._pieces.values())))

    monkeypatch.setattr(BookkeepingClipping, "keep", counted)
    layered("bookkeeping", model).add(*batch)
    assert (max(left), left[-1]) == (1, 0)  # a weight waits for its bias
    left.clear()
    clipped("bookkeeping", model).add(*batch)
    assert max(left) == len(list(model.parameters()))


def test_ghost_has_one_factor_for_all_layers(model: nn.Module) -> None:
    with pytest.raises(PrivacyError, match=r"privacy\.clip_scope: ghost has one factor for all layers"):
        layered("ghost", model)
