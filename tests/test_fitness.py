"""Networks as somebody might write them who wants more out of a DP training than epsilon allows, or does not know.

What is let in keeps its bound: one image, taken out at any position of a batch, moves the clipped sum by no more than
the clipping norm (Abadi et al. 2016, arXiv 1607.00133, section 3.1). What would not is refused by name.
"""

import dataclasses
import itertools
import random
import re
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from dpdt.errors import PrivacyError
from dpdt.privacy.clipping.engines import CLIPPING
from dpdt.privacy.clipping.gradient_sum import ClippedGradientSum
from dpdt.privacy.clipping.model_guard import NetworkCopy
from dpdt.privacy.clipping.model_requirements import unfit_parts
from dpdt.privacy.keystream import KeyStream
from dpdt.runs.checkpoint import load_checkpoint
from dpdt.shards.dataset import load_split
from dpdt.study.paths import RunPaths
from dpdt.training.batches import image_losses
from dpdt.training.loop import TrainingLoop
from dpdt.training.resume import open_ledger
from dpdt.training.stop import StopFlag
from tests.small_data import MakeStudy
from tests.test_loop import SILENT, plan

SIZE = 8
Trick = Callable[["Tricky", Tensor], Tensor]


class Tricky(nn.Module):
    """Two layers, and between them whatever a test does to the features."""

    def __init__(self, trick: Trick, *, size: int = SIZE) -> None:
        super().__init__()
        self.first = nn.Linear(size * size, 16)
        self.last = nn.Linear(16, 5)
        self.trick = trick
        self.calls = 0
        self.mean: Tensor | None = None
        self.own = torch.Generator()
        self.own_numpy = np.random.default_rng(1)
        self.own_python = random.Random(1)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.last(self.trick(self, self.first(x.flatten(1)).tanh()))  # type: ignore[no-any-return]


def sequence(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), *layers, nn.Flatten(), nn.Linear(4 * 36, 5))


UNSEEN = random.Random(2)


def drop(keep: Callable[[Tricky], bool]) -> Trick:
    return lambda net, x: x if keep(net) else x * 0.5


RANDOM: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "dropout as a layer": (lambda: sequence(nn.Dropout(0.2)), r"2 \(Dropout\): torch"),
    "dropout of channels": (lambda: sequence(nn.Dropout2d(0.5)), r"2 \(Dropout2d\): torch"),
    "dropout that the built network had off": (lambda: sequence(nn.Dropout(0.2)).eval(), r"2 \(Dropout\)"),
    "dropout as a function": (lambda: Tricky(lambda _, x: F.dropout(x, 0.5)), r"itself \(Tricky\): torch"),
    "leaky units with random slopes": (lambda: sequence(nn.RReLU()), r"2 \(RReLU\): torch"),
    "stochastic depth by torch": (lambda: Tricky(drop(lambda _: bool(torch.rand(()) < 0.9))), r"\(Tricky\): torch"),
    "stochastic depth by numpy": (lambda: Tricky(drop(lambda _: np.random.rand() < 0.9)), r"\(Tricky\): numpy\.random"),
    "stochastic depth by Python": (lambda: Tricky(drop(lambda _: random.random() < 0.9)), r"\(Tricky\): random"),
    "noise by a generator of its own": (
        lambda: Tricky(lambda net, x: x + torch.randn(x.shape, generator=net.own)),
        r"\(Tricky\): own",
    ),
    "numpy's new generator": (lambda: Tricky(drop(lambda net: net.own_numpy.random() < 0.9)), r"\(Tricky\): own_numpy"),
    "a Random of its own": (lambda: Tricky(drop(lambda net: net.own_python.random() < 0.9)), r"\(Tricky\): own_python"),
    "a Random that lies elsewhere": (
        lambda: Tricky(lambda _, x: x * UNSEEN.random()),
        r"the model itself \(Tricky\) gives other numbers when the same images come again",
    ),
    "the operating system's random bytes": (
        lambda: Tricky(lambda _, x: x * random.SystemRandom().random()),
        "gives other numbers when the same images come again",
    ),
    "masks of a fixed seed, by the place in the batch": (
        lambda: Tricky(lambda _, x: x * torch.rand(x.shape, generator=torch.Generator().manual_seed(1))),
        "depends on the other images",
    ),
}  # fmt: skip


def set_bias_once(net: Tricky, x: Tensor) -> Tensor:
    """Data-dependent initialisation, past autograd and its version counters."""
    if net.calls == 1:
        net.last.bias.data = x.mean(0)[:5].detach().clone()
    return x


def copy_bias(net: Tricky, x: Tensor) -> Tensor:
    with torch.no_grad():
        net.last.bias.copy_(x.mean(0)[:5])
    return x


def replace_bias(net: Tricky, x: Tensor) -> Tensor:
    net.last.bias = nn.Parameter(net.last.bias.detach().clone())
    return x


def grow(net: Tricky, x: Tensor) -> Tensor:
    net.register_buffer("seen", x.detach().mean(0))
    return x


def running_mean(net: Tricky, x: Tensor) -> Tensor:
    now = x.detach().mean(0)
    net.mean = now if net.mean is None else 0.9 * net.mean + 0.1 * now
    return x - net.mean


def cached(net: Tricky, x: Tensor) -> Tensor:
    """Gives what it gave before, where that has the shape."""
    kept, net.mean = net.mean, x.detach().roll(1, dims=1)
    return x if kept is None or kept.shape != x.shape else x + kept


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.scale = nn.Linear(36, 36)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * (1 + 0.01 * (self.calls > 2))


class Extra(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kept = torch.zeros(())

    def get_extra_state(self) -> Tensor:
        return self.kept

    def set_extra_state(self, state: Tensor) -> None:
        self.kept = state

    def forward(self, x: Tensor) -> Tensor:
        self.kept = x.detach().mean()
        return x


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def small(layer: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(), layer, nn.GroupNorm(1, 6), nn.Linear(6, 5))


WRITES: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "a bias of the first batch": (lambda: Tricky(set_bias_once), r"forward changes last\.bias: what is kept there"),
    "a bias of every batch": (lambda: Tricky(copy_bias), r"forward changes last\.bias:"),
    "a parameter replaced by its copy": (lambda: Tricky(replace_bias), r"forward changes last\.bias:"),
    "a buffer that comes later": (lambda: Tricky(grow), r"forward changes seen:"),
    "a running mean as an attribute": (lambda: Tricky(running_mean), r"\(Tricky\) gives other numbers when the same"),
    "what the batch before gave": (lambda: Tricky(cached), r"\(Tricky\) gives other numbers when the same"),
    "a counter that counts from the third batch": (lambda: sequence(Counter()), r"2 \(Counter\) gives other numbers"),
    "state that is saved and is no buffer": (
        lambda: sequence(Extra()),
        r"2\._extra_state is saved with the weights but is no parameter and no buffer",
    ),
    "a lazy layer": (
        lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(5)),
        r"1 \(LazyLinear\) has no parameters before its first images; call the network once",
    ),
    "spectral norm": (
        lambda: small(parametrizations.spectral_norm(nn.Linear(64, 6))),
        r"1 \(ParametrizedLinear\) computes its weight",
    ),
    "weight norm": (
        lambda: small(parametrizations.weight_norm(nn.Linear(64, 6))),
        r"1 \(ParametrizedLinear\) computes its weight",
    ),
    "spectral norm of old": (
        lambda: small(nn.utils.spectral_norm(nn.Linear(64, 6))),
        r"1 \(Linear\) computes its weight from other parameters",
    ),
    "weight norm of old": (lambda: old_weight_norm(), r"1 \(Linear\) computes its weight from other parameters"),
}  # fmt: skip


def old_weight_norm() -> nn.Module:
    with pytest.warns(FutureWarning, match="weight_norm` is deprecated"):
        return small(nn.utils.weight_norm(nn.Linear(64, 6)))


@pytest.mark.parametrize("name", [*RANDOM, *WRITES])
@pytest.mark.parametrize("clipping", CLIPPING)
def test_what_would_void_the_bound_is_refused_by_name_in_one_line(name: str, clipping: str) -> None:
    make, problem = (RANDOM | WRITES)[name]
    model = make()
    before = {key: value.clone() for key, value in model.state_dict().items() if not nn.parameter.is_lazy(value)}
    found = unfit_parts(model, size=SIZE, clipping=clipping)
    assert len(found) == 1
    assert re.search(problem, found[0])
    after = model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def of_pixels(scale: Callable[[Tensor], Tensor]) -> nn.Module:
    class Scaled(Tricky):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(scale(x))

    return Scaled(lambda _, x: x)


class HiddenMix(nn.Module):
    """A layer scale that is small at first, before a mean over the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(SIZE * SIZE, 16)
        self.scale = nn.Parameter(torch.full((16,), 1e-7))
        self.last = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.flatten(1)).tanh()
        return self.last(x + self.scale * x.mean(0))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "make",
    [
        lambda: of_pixels(lambda x: x / x.max()),
        lambda: of_pixels(lambda x: (x - x.min()) / (x.max() - x.min() + 1e-6)),
        lambda: Tricky(lambda _, x: x / x.abs().max() if len(x) > 3 else x),
        HiddenMix,
    ],
    ids=["brightest of the batch", "range of the batch", "large batches alone", "small layer scale"],
)
def test_images_that_are_mixed_where_few_alike_ones_would_not_show_it_are_found(make: Callable[[], nn.Module]) -> None:
    # One bright image among 64 dark ones moved the sum of the first of these by 18 C.
    torch.manual_seed(0)
    assert unfit_parts(make(), size=SIZE) == ["an image's output depends on the other images of its batch"]


def test_a_norm_that_makes_rounding_large_is_refused_where_no_size_of_batches_helps() -> None:
    # Ghost clipping: black images moved the sum by 0.2 clipping norms, batches of one size or not.
    def convolutions(eps: float) -> nn.Module:
        torch.manual_seed(0)
        norms = [nn.InstanceNorm2d(16, eps=eps) for _ in range(2)]
        first, last = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        pool = nn.AdaptiveAvgPool2d(1)
        return nn.Sequential(
            first, norms[0], nn.ReLU(), last, norms[1], nn.ReLU(), pool, nn.Flatten(), nn.Linear(16, 2)
        )

    (found,) = unfit_parts(convolutions(1e-12), size=32, clipping="ghost")
    assert "images without contrast move the clipped sum by" in found
    assert unfit_parts(convolutions(1e-12), size=32, clipping="bookkeeping") == []


def test_what_is_saved_is_what_was_compared() -> None:
    net = nn.Linear(4, 2)
    net._register_state_dict_hook(lambda _, state, *__: state.update(bias=state["bias"] + 1))
    assert NetworkCopy(net).changes() == ["bias"]


class OwnMasks(nn.Module):
    """Drops by what is in the image itself: that is an image's own."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (x > x.flatten(1).mean(1).view(-1, 1, 1, 1))


LET_IN: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: sequence(nn.ReLU()),
    "dropout of nothing": lambda: sequence(nn.Dropout(0.0)),
    "masks of the image's own": lambda: sequence(OwnMasks()),
    "a constant mask of a fixed seed": lambda: Tricky(
        lambda _, x: x * torch.rand(16, generator=torch.Generator().manual_seed(1))
    ),
    "circular padding": lambda: sequence(nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), nn.ReLU()),
    "a frozen weight norm": lambda: small(parametrizations.weight_norm(nn.Linear(64, 6)).requires_grad_(False)),
    "a layer that Opacus' rules train": lambda: nn.Sequential(
        nn.Flatten(2), nn.Conv1d(1, 4, 3), nn.Flatten(), nn.Linear(248, 5)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LET_IN)
def test_what_is_let_in_moves_by_no_more_than_the_bound_whoever_is_left_out(name: str) -> None:
    model = LET_IN[name]()
    assert unfit_parts(model, size=SIZE) == []
    norm, images = 0.01, 6
    sums = clipped(model, norm=norm)
    inputs, labels = torch.rand(images, 1, SIZE, SIZE), (torch.rand(images, 5) > 0.5).float()
    whole = total(sums, inputs, labels)
    for number in range(images):
        rest = torch.arange(images) != number
        moved = (whole - total(sums, inputs[rest], labels[rest])).norm()
        assert 0.99 * norm < moved < 1.001 * norm  # each image is clipped, so it moves the sum by the norm itself


def test_dropout_would_move_the_sum_by_several_bounds_which_is_why_it_is_refused() -> None:
    # Issue: one image first in the batch moved the sum by 5 C at p = 0.2 (65 images), by 1 C at the end.
    norm, images = 0.01, 33
    sums = clipped(sequence(nn.Dropout(0.5)), norm=norm)
    inputs, labels = torch.rand(images, 1, SIZE, SIZE), (torch.rand(images, 5) > 0.5).float()
    moved = []
    for rest in (slice(1, None), slice(None, -1)):
        torch.manual_seed(1)
        whole = total(sums, inputs, labels)
        torch.manual_seed(1)
        moved.append(float((whole - total(sums, inputs[rest], labels[rest])).norm()) / norm)
    assert moved[0] > 2
    assert moved[1] < 1.01


def clipped(model: nn.Module, *, norm: float, clipping: str = "bookkeeping") -> ClippedGradientSum:
    key = KeyStream.from_seed("fitness")
    return CLIPPING[clipping](model, image_losses, max_grad_norm=norm, noise_multiplier=0.0, noise=key)


def total(sums: ClippedGradientSum, inputs: Tensor, labels: Tensor) -> Tensor:
    sums.clear()
    sums.add(inputs, labels)
    return torch.cat([value.detach().double().flatten() for value in sums.partial_sums()])


def test_circular_padding_is_judged_by_the_engine_that_will_train_it() -> None:
    # Opacus 1.x pads with zeros when it unfolds a circular convolution's input; torch's own gradient is the judge.
    model = LET_IN["circular padding"]()
    assert unfit_parts(model, size=SIZE, clipping="bookkeeping") == []
    for clipping in ("hooks", "ghost"):
        (line,) = unfit_parts(model, size=SIZE, clipping=clipping)
        assert f"by privacy.clipping = '{clipping}' is not that of the image alone (try 'bookkeeping')" in line


class Block(nn.Module):
    """A convolution and a linear layer, with `code` between them."""

    def __init__(self, code: Callable[[Tensor], Tensor], *, on_images: bool = False) -> None:
        super().__init__()
        self.layer, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 5)
        self.code, self.on_images = code, on_images

    def forward(self, x: Tensor) -> Tensor:
        if self.on_images:
            x = self.code(x)
        x = self.layer(x)
        return self.head((x if self.on_images else self.code(x)).mean((2, 3)))


@pytest.mark.parametrize("clipping", ["hooks", "ghost"])
def test_code_in_place_is_named_with_its_layer_and_the_hint_is_tried(clipping: str) -> None:
    model = nn.Sequential(Block(lambda x: nn.functional.relu(x, inplace=True)))
    (line,) = unfit_parts(model, size=SIZE, clipping=clipping)
    assert line == (
        f"privacy.clipping = '{clipping}' cannot keep the images' gradients (try 'bookkeeping'): code in place in the "
        "forward pass (0 (Block): relu_); write it without (x = x + y for x += y, relu for relu_, no inplace=True)"
    )
    assert unfit_parts(model, size=SIZE, clipping="bookkeeping") == []  # so the hint is right


def test_code_in_place_that_torch_itself_cannot_bear_is_named() -> None:
    model = Block(lambda x: torch.sigmoid(x).mul_(2))
    (line,) = unfit_parts(model, size=SIZE, clipping="bookkeeping")
    assert line.startswith("backward fails: code in place in the forward pass (the model itself (Block): mul_); write")
    assert "Hint: enable anomaly detection" not in line


def test_a_network_that_changes_its_images_is_told_so() -> None:
    (line,) = unfit_parts(Block(lambda x: x.sub_(0.5), on_images=True), size=SIZE, clipping="bookkeeping")
    assert line.startswith("the images that it is given are changed by code in place in the forward pass (the model")
    assert "sub_" in line


def test_a_network_without_a_gradient_is_said_to_have_none() -> None:
    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(SIZE * SIZE, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x.flatten(1)).detach()  # type: ignore[no-any-return]

    (line,) = unfit_parts(Detached(), size=SIZE)
    assert line.startswith("backward fails: RuntimeError: element 0 of tensors does not require grad")


class MixesBackwards(torch.autograd.Function):
    """Right forward; backward each image gets something of the others."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient + 0.1 * gradient.sum(0)


class MeanBackwards(MixesBackwards):
    """By a mean: of equal gradients it is as each of them."""

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient + gradient.mean(0)


class NoiseBackwards(MixesBackwards):
    """Each image's own gradient, but for noise."""

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient * (1 + 1e-6 * torch.rand_like(gradient))


@pytest.mark.parametrize("clipping", CLIPPING)
@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (MixesBackwards, "is not that of the image alone"),
        (MeanBackwards, "is not that of the image alone"),
        (NoiseBackwards, r"backward draws random numbers \(torch\)"),
    ],
)
def test_a_backward_pass_that_is_not_an_images_own_is_found(
    function: type[torch.autograd.Function], problem: str, clipping: str
) -> None:
    found = unfit_parts(Tricky(lambda _, x: function.apply(x)), size=SIZE, clipping=clipping)
    assert len(found) == 1
    assert re.search(problem, found[0])


class BehindZeros(Tricky):
    """The trick in a branch whose last layer begins as zeros: the branch has no gradient until that is trained."""

    def __init__(self, trick: Trick) -> None:
        super().__init__(trick)
        self.inner, self.gate = nn.Linear(16, 16), nn.Linear(16, 16, bias=False)
        nn.init.zeros_(self.gate.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.flatten(1)).tanh()
        return self.last(x + self.gate(self.trick(self, self.inner(x))))  # type: ignore[no-any-return]


@pytest.mark.parametrize("clipping", CLIPPING)
def test_gradients_behind_a_layer_of_zeros_are_tried_as_they_will_be(clipping: str) -> None:
    """Where it was let in: after training, with 32 images, the last one moves the clipped sum by several norms."""
    network = BehindZeros(lambda _, x: MeanBackwards.apply(x))
    (line,) = unfit_parts(network, size=SIZE, clipping=clipping)
    assert re.match(r"first\.weight, .*inner\.weight.* is not that of the image alone", line)
    assert unfit_parts(BehindZeros(lambda _, x: x), size=SIZE, clipping=clipping) == []


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64])
def test_trained_parameters_of_another_type_than_the_sums_are_refused(kind: torch.dtype) -> None:
    network = Tricky(lambda model, x: model.own_layer(x.to(kind)).float())  # type: ignore[operator]
    network.own_layer = nn.Linear(16, 16).to(kind)
    (line,) = unfit_parts(network, size=SIZE)
    assert line.startswith(f"own_layer (Linear) has trained parameters of {str(kind)[6:]}; ")
    network.own_layer.requires_grad_(False)
    assert unfit_parts(network, size=SIZE) == []


class BeginsLater(nn.Module):
    """Nothing to be seen in a trial: it begins when it has been called often enough."""

    def __init__(self, network: nn.Module, trick: Callable[[nn.Module, Tensor], Tensor], *, calls: int) -> None:
        super().__init__()
        self.network, self.trick, self.calls, self.left = network, trick, calls, calls

    def forward(self, x: Tensor) -> Tensor:
        self.left -= 1
        return self.network(self.trick(self.network, x) if self.left < 0 else x)  # type: ignore[no-any-return]


def write_data(network: nn.Module, x: Tensor) -> Tensor:
    network[-1].bias.data = x.detach().mean().expand(5).clone()  # type: ignore[index]
    return x


def write_copy(network: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        network[-1].bias[0] += 1e-6 * x.mean()  # type: ignore[index]
    return x


def replace(network: nn.Module, x: Tensor) -> Tensor:
    layer = network[-1]  # type: ignore[index]
    layer.bias = nn.Parameter(layer.bias.detach().clone())
    return x


def thaw(network: nn.Module, x: Tensor) -> Tensor:
    network[1].weight.requires_grad_(False)  # type: ignore[index]
    return x


def register(network: nn.Module, x: Tensor) -> Tensor:
    network.register_buffer("seen", x.detach().mean())
    return x


LATER: dict[str, tuple[Callable[[nn.Module, Tensor], Tensor], str]] = {
    "dropout": (lambda _, x: F.dropout(x, 0.5), r"draws random numbers or counts \(torch\)"),
    "numpy": (lambda _, x: x * np.random.rand(), r"draws random numbers or counts \(numpy\.random"),
    "Python": (lambda _, x: x * random.random(), r"draws random numbers or counts \(random"),
    "elsewhere": (lambda _, x: x * UNSEEN.random(), "two passes over one image differ"),
    "data": (write_data, r"network\.4\.bias changed in the forward pass"),
    "copy": (write_copy, r"network\.4\.bias changed in the forward pass"),
    "replace": (replace, r"network\.4\.bias"),
    "freeze": (thaw, r"network\.1\.weight"),
    "register": (register, r"network\.seen changed"),
}


def train(trick: Callable[[nn.Module, Tensor], Tensor], make_study: MakeStudy, folder: Path, *, clipping: str) -> str:
    study = make_study()
    mechanism = dataclasses.replace(SILENT, num_steps=40)  # a checkpoint after each block of four steps
    settings = plan(folder, mechanism, clipping=clipping, num_steps=40)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 196, 5))
    model = BeginsLater(network, trick, calls=18)  # physical batches of 3, and two looks: in the second block of four
    with open_ledger(settings) as ledger:
        loop = TrainingLoop(settings, model=model, data=load_split(study, "uka", "train"), steps=ledger)
        return loop.run(stop=StopFlag())


@pytest.mark.parametrize(
    ("trick", "clipping"),
    [
        *((trick, "bookkeeping") for trick in LATER),
        # Opacus' hooks themselves fail on a parameter that is replaced or frozen
        *((trick, "hooks") for trick in LATER if trick not in ("replace", "freeze")),
    ],
)
def test_a_network_that_begins_later_is_found_before_anything_of_the_block_is_saved(
    make_study: MakeStudy, tmp_path: Path, trick: str, clipping: str
) -> None:
    work, problem = LATER[trick]
    with pytest.raises(PrivacyError, match=problem):
        train(work, make_study, tmp_path / "r", clipping=clipping)
    paths = RunPaths(tmp_path / "r")
    assert [file.name[:13] for file in paths.checkpoints.glob("*.pt")] == ["step-00000004"]  # before it began
    assert not paths.weights.exists()
    assert (paths.folder / "metrics.jsonl").read_text().count("\n") == 1
    content = load_checkpoint(paths.checkpoints)
    assert content is not None
    assert "network.seen" not in content["model"]


def test_another_threads_draws_end_no_training(make_study: MakeStudy, tmp_path: Path) -> None:
    # Clients of a server draw the wait before their next try from Python's generator, beside the training.
    ended = threading.Event()

    def draw() -> None:
        for _ in itertools.takewhile(lambda _: not ended.wait(0.05), itertools.count()):
            random.random(), np.random.rand()

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        assert train(lambda _, x: x, make_study, tmp_path / "r", clipping="bookkeeping") == "finished"
    finally:
        ended.set()
        thread.join()
