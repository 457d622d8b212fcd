"""A network tried for DP: a few made-up images go through it together, again, and with each of them left out.

Nothing is judged by a list of layers: what counts is what the passes do. Between two passes over the same images
nothing may change, an image's output must not depend on the others of its batch, and the clipped sum of the engine that
will train the network must be that of the images' gradients taken one by one.
"""

import contextlib
import copy
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dpdt.privacy.clipping.engines import CLIPPING
from dpdt.privacy.clipping.model_guard import SHARED, Generators, NetworkCopy, moved, same_values
from dpdt.privacy.keystream import KeyStream
from dpdt.privacy.rounding import PER_IMAGE
from dpdt.study.clipping_engines import CLIPPING_ENGINES

__all__ = ["trial_images", "unfit_behaviour"]

IMAGES: Final = 9
"""Enough to see what only large batches do."""
LEFT_OUT: Final = (0, IMAGES // 2, IMAGES - 1)
"""A first, a last, and one with neighbours on both sides."""
AGAIN: Final = 2
TOLERANCE: Final = 1e-3
"""Of gradients, relative to the largest value: float32 sums in another order differ by less."""
OTHERS: Final = 1e-4
"""Of an image's outputs in two batches: other kernels for another number of images differ by less."""
REPEATED: Final = 1e-6
"""Of the outputs of the same images in the same batch: the order of the sums is the same too."""
NEGLIGIBLE: Final = 1e-3
"""A parameter's gradient below this part of the largest one is rounding (a bias before a norm)."""
SMALL: Final = 1e-3
"""A clipping norm that clips every image."""
FLAT: Final = (0.0, 0.5)
UNREACHED: Final = 1e30
"""A clipping norm that changes no gradient."""
WITHOUT: Final = "write it without (x = x + y for x += y, relu for relu_, no inplace=True)"
SQUASHERS: Final = (nn.Sigmoid, nn.Softmax, nn.LogSigmoid, nn.LogSoftmax)
DRAWS: Final = 16
"""Of parameters, before outputs are said to have one sign alone; a single logit has it by chance in 1 of 65,536."""


@dataclass
class _Pass:
    """What one forward pass showed.

    Attributes:
        outputs: What the network gave.
        drawing: Layers in which a generator moved, the innermost, by name, with its kind and the generators.
        marks: What each call of a layer was given and gave, as sums, in the order in which the calls ended.
        squashed: Name of the sigmoid or softmax that gives the network's output.
        wrote_images: Whether the images were changed in place.
    """

    outputs: Any = None
    drawing: dict[str, tuple[str, list[str]]] = field(default_factory=dict)
    marks: list[tuple[str, list[float], list[float]]] = field(default_factory=list)
    squashed: str | None = None
    wrote_images: bool = False


def trial_images(size: int) -> Tensor:
    """Made-up images, each of another brightness: a maximum or a mean over the batch shows.

    Args:
        size: Height and width in pixels.

    Returns:
        float32 in 0..1, shape (IMAGES, 1, size, size).
    """
    return torch.rand(IMAGES, 1, size, size) * torch.linspace(0.05, 1, IMAGES).view(-1, 1, 1, 1)


def unfit_behaviour(model: nn.Module, images: Tensor, *, clipping: str) -> Iterator[str]:
    """Try a network.

    Args:
        model: A copy, in the modes that it is trained in, on the CPU; not to be used afterwards.
        images: As `trial_images` gives them.
        clipping: Key of ``CLIPPING``.

    Yields:
        One line a problem.
    """
    kept = NetworkCopy(model)
    try:
        passes = [_watched(model, images)]
        left_out = {number: _plain(model(_without(images, number))) for number in LEFT_OUT}
        passes += [_watched(model, images) for _ in range(AGAIN)]  # after others: a running mean of one batch stays
    except Exception as err:  # noqa: BLE001 - whatever a custom network raises is the finding
        yield f"forward fails on float32 {tuple(images.shape)}: {type(err).__name__}: {err}"
        return
    problem = (
        _wrong_outputs(passes[0], len(images))
        or _wrote_images(passes[0], model, images)
        or _randomness(passes)
        or _changed(kept)
        or _memory(passes)
    )  # in this order: a later one may follow from one before
    if problem is None and (_mixes(passes[0].outputs, left_out) or _mixes_when_trained(model, images)):
        problem = "an image's output depends on the other images of its batch"
    problem = problem or _one_sign(model, images, passes[0].outputs)
    if problem is not None:
        yield problem
        return
    spare, trained = copy.deepcopy(model), _redrawn(model)
    found = list(_unfit_gradients(model, images, kept, clipping=clipping))
    if not found and _has_gradients(trained, images):
        found = list(_unfit_gradients(trained, images, NetworkCopy(trained), clipping=clipping))
    yield from found or _moved_by_rounding(spare, images, clipping=clipping)


def _mixes(outputs: Tensor, left_out: dict[int, Tensor]) -> bool:
    """Whether the outputs of the images that stay change when another image is left out."""
    return not all(same_values(_without(outputs, number), rest, tolerance=OTHERS) for number, rest in left_out.items())


@torch.no_grad()
def _mixes_when_trained(model: nn.Module, images: Tensor) -> bool:
    """As `_mixes`, with parameters of ordinary size: a small one, such as a layer scale, may hide that images mix."""
    other = _redrawn(model)
    outputs = other(images)
    return bool(outputs.isfinite().all()) and _mixes(outputs, {k: other(_without(images, k)) for k in LEFT_OUT})


def _has_gradients(model: nn.Module, images: Tensor) -> bool:
    """Whether they are numbers: parameters that were drawn may be too large for some networks."""
    outputs = model(images)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    found = torch.autograd.grad(outputs.sum(), trained, allow_unused=True)
    return all(bool(value.isfinite().all()) for value in (outputs, *found) if value is not None)


@torch.no_grad()
def _redrawn(model: nn.Module, *, around: float = 1.0) -> nn.Module:
    """A copy with random parameters of ordinary size; norms' gains and biases are near `around`."""
    other = copy.deepcopy(model)
    for parameter in other.parameters():
        if parameter.ndim > 1:
            parameter.copy_(torch.randn_like(parameter) / (parameter[0].numel() ** 0.5))
        else:
            parameter.copy_(around + 0.1 * torch.randn_like(parameter))
    return other


@torch.no_grad()
def _one_sign(model: nn.Module, images: Tensor, outputs: Tensor) -> str | None:
    """What to say of outputs that are on one side of 0 whatever the parameters are: of a sigmoid as a function, say."""
    signs = set(outputs.sign().flatten().tolist())
    for draw in range(DRAWS):
        if {-1.0, 1.0} <= signs:
            return None
        outputs = _redrawn(model, around=(-1.0) ** draw)(images)
        if not outputs.isfinite().all():
            return None
        signs.update(outputs.sign().flatten().tolist())
    if not signs & {-1.0, 1.0}:
        return None
    return (
        f"forward gives no number {'below' if 1.0 in signs else 'above'} 0, whatever its parameters are; expected "
        "logits, which have both signs: leave the last activation out (sigmoid, softmax), the loss has its own sigmoid"
    )


def _watched(model: nn.Module, images: Tensor) -> _Pass:
    """A forward pass, with a look at the generators before and after each layer."""
    found, generators = _Pass(), Generators(model)
    states: dict[str, Any] = {}
    last: dict[str, Any] = {}

    def before(name: str) -> Any:
        return lambda _module, _inputs: states.update({name: generators.states()})

    def after(name: str) -> Any:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            kind = _kind(name, module)
            drawn = moved(states[name], generators.states())
            if drawn and not any(inner.startswith(f"{name}." if name else "") for inner in found.drawing):
                found.drawing[name] = (kind, drawn)
            found.marks.append((kind, _sums(inputs), _sums((output,))))
            if isinstance(module, SQUASHERS):
                last[kind] = output

        return look

    version = images._version
    hooks: list[Any] = []
    for name, layer in model.named_modules():
        hooks += [layer.register_forward_pre_hook(before(name), prepend=True), layer.register_forward_hook(after(name))]
    try:
        outputs = model(images)
    finally:
        for hook in hooks:
            hook.remove()
    found.outputs, found.wrote_images = _plain(outputs), images._version != version
    found.squashed = next((kind for kind, output in last.items() if output is outputs), None)
    return found


def _kind(name: str, module: nn.Module) -> str:
    """A layer for people."""
    return f"{name or 'the model itself'} ({type(module).__name__})"


class _Writes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Which operations write to a tensor that is there, and in which layer."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.running: list[str] = []
        self.found: dict[str, str] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.partition("::")[2]
        if name.endswith("_"):
            self.found.setdefault(self.running[-1] if self.running else "the model", name)
        return func(*args, **(kwargs or {}))


def _in_place(model: nn.Module, images: Tensor) -> str:
    """The layers whose forward computes in place, for people; it is looked at only where that is what is wrong."""
    seen = _Writes()
    hooks: list[Any] = []
    for name, layer in model.named_modules():
        kind = _kind(name, layer)
        hooks.append(layer.register_forward_pre_hook(lambda *_, kind=kind: seen.running.append(kind), prepend=True))
        hooks.append(layer.register_forward_hook(lambda *_: seen.running.pop() and None))
    try:
        with seen:
            model(images.clone())
    finally:
        for hook in hooks:
            hook.remove()
    layers = ", ".join(f"{layer}: {operation}" for layer, operation in seen.found.items())
    return f"code in place in the forward pass ({layers or 'not found'})"


def _torch_says(err: Exception, model: nn.Module, images: Tensor) -> str:
    """An error of torch, or, where it complains of code in place, which layers have it."""
    if "inplace" not in str(err).replace("-", ""):
        return f"{type(err).__name__}: {err}"
    with contextlib.suppress(Exception):
        return f"{_in_place(model, images)}; {WITHOUT}"
    return f"code in place in the forward pass: {type(err).__name__}: {err}"


def _wrong_outputs(one: _Pass, images: int) -> str | None:
    outputs = one.outputs
    if not isinstance(outputs, Tensor):
        return f"forward gives {type(outputs).__name__}; expected one tensor, a row of logits an image"
    if outputs.ndim != 2 or len(outputs) != images:
        return f"forward gives shape {tuple(outputs.shape)} for {images} images; expected ({images}, outputs)"
    if one.squashed:
        return f"{one.squashed} gives the outputs; expected logits: leave it out, the loss has its own sigmoid"
    if not outputs.isfinite().all():
        return "forward gives numbers that are not finite; are the weights set?"
    return None


def _wrote_images(one: _Pass, model: nn.Module, images: Tensor) -> str | None:
    if not one.wrote_images:
        return None
    return f"the images that it is given are changed by {_in_place(model, images)}; {WITHOUT}"


def _randomness(passes: list[_Pass]) -> str | None:
    drawing: dict[str, list[str]] = {}
    for kind, drawn in (layer for one in passes for layer in one.drawing.values()):
        always = [g for g in drawn if all((kind, g) in _drawn(one) for one in passes)]  # no other thread's draw
        drawing.setdefault(kind, []).extend(g for g in drawn if g not in SHARED or g in always)
    layers = [f"{kind}: {', '.join(dict.fromkeys(drawn))}" for kind, drawn in drawing.items() if drawn]
    if not layers:
        return None
    return (
        f"forward draws random numbers in {'; '.join(layers)}: one image more moves the numbers of those "
        "behind it, so the bound of one image would not hold; remove it (dropout: p = 0)"
    )


def _drawn(one: _Pass) -> set[tuple[str, str]]:
    return {(kind, generator) for kind, drawn in one.drawing.values() for generator in drawn}


def _changed(kept: NetworkCopy) -> str | None:
    changed = kept.changes()
    if not changed:
        return None
    return (
        f"forward changes {', '.join(changed)}: what is kept there of the images gets into the weights without "
        "clipping and noise; remove it (norms: track_running_stats = False)"
    )


def _memory(passes: list[_Pass]) -> str | None:
    """Other outputs for the same images: a generator that was not found, a counter, a cache."""
    first, *others = passes
    if all(same_values(one.outputs, first.outputs, tolerance=REPEATED) for one in others):
        return None
    for other in others:
        for (kind, given, gave), (_, given_again, gave_again) in zip(first.marks, other.marks, strict=False):
            if _close(given, given_again) and not _close(gave, gave_again):
                return _memory_line(kind)
    return _memory_line("forward")


def _sums(values: Any) -> list[float]:
    """Of the values and of their sizes, of each tensor: enough to tell one call from another."""
    tensors = [value.detach().double() for value in values if isinstance(value, Tensor)]
    return [float(total) for value in tensors for total in (value.sum(), value.abs().sum())]


def _close(one: list[float], other: list[float]) -> bool:
    scale = max(map(abs, one), default=0.0)
    return len(one) == len(other) and all(abs(a - b) <= REPEATED * scale for a, b in zip(one, other, strict=True))


def _memory_line(what: str) -> str:
    return (
        f"{what} gives other numbers when the same images come again: it draws random numbers, or keeps something from "
        "one batch to the next (a counter, a cache), which has neither clipping nor noise; remove it"
    )


def _unfit_gradients(model: nn.Module, images: Tensor, kept: NetworkCopy, *, clipping: str) -> Iterator[str]:
    """The engine's clipped sum against the images' gradients, each taken alone by torch.

    It is also asked of parameters of ordinary size: behind a layer that begins as zeros no gradient shows anything.
    """
    names = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not names:
        yield "no parameter is trained"
        return
    try:
        rows = [
            torch.autograd.grad(_loss(model(one), one).sum(), list(names.values()), allow_unused=True)
            for one in images.unsqueeze(1)
        ]
    except Exception as err:  # noqa: BLE001 - as above
        yield f"backward fails: {_torch_says(err, model, images)}"
        return
    unused = [name for name, *found in zip(names, *rows, strict=True) if all(gradient is None for gradient in found)]
    if unused:
        yield f"parameters get no gradient: {', '.join(unused)}; remove them, or set requires_grad = False"
        return
    columns = [
        torch.stack([torch.zeros_like(parameter) if gradient is None else gradient for gradient in column])
        for parameter, *column in zip(names.values(), *rows, strict=True)
    ]
    norms = torch.stack([column.double().flatten(1).norm(dim=1) for column in columns]).norm(dim=0).tolist()
    norm = max(min(norms) / 2, 1e-6)  # every image is clipped, and the sum shows its norm
    factors = [min(1.0, norm / max(one, 1e-30)) for one in norms]
    wanted = [torch.tensordot(torch.tensor(factors), column, 1) for column in columns]
    generators, spare = Generators(model), copy.deepcopy(model)
    before = generators.states()
    try:
        got = _clipped_sum(model, images, norm=norm, clipping=clipping)
    except Exception as err:  # noqa: BLE001 - as above
        advice = _advice(spare, images, wanted, norm=norm, clipping=clipping)
        what = _torch_says(err, copy.deepcopy(spare), images)
        yield f"privacy.clipping = {clipping!r} cannot keep the images' gradients ({advice}): {what}"
        return
    drawn, changed = moved(before, generators.states()), _changed(kept)
    if drawn:
        yield f"backward draws random numbers ({', '.join(drawn)}), which are not an image's own; remove it"
    elif changed:
        yield changed
    elif not _equal(got, wanted).all():
        advice = _advice(spare, images, wanted, norm=norm, clipping=clipping)
        whole = _clipped_sum(spare, images, norm=UNREACHED, clipping=clipping)
        right = _equal(whole, [column.sum(0) for column in columns])
        wrong = [name for name, good in zip(names, right, strict=True) if not good]
        yield (
            f"{', '.join(wrong) or 'norms'}: an image's gradient by privacy.clipping = {clipping!r} is not that of the "
            f"image alone ({advice})"
        )


def _advice(model: nn.Module, images: Tensor, wanted: list[Tensor], *, norm: float, clipping: str) -> str:
    """Which other engines get the sum right; they are asked."""

    def right(other: str) -> bool:
        try:
            return bool(_equal(_clipped_sum(copy.deepcopy(model), images, norm=norm, clipping=other), wanted).all())
        except Exception:  # noqa: BLE001 - as above
            return False

    able = [repr(other) for other in CLIPPING_ENGINES if other != clipping and right(other)]
    return f"try {' or '.join(able)}" if able else "nor can another engine of dpdt"


def _moved_by_rounding(model: nn.Module, images: Tensor, *, clipping: str) -> Iterator[str]:
    """Whether flat images in other batches move the sum by more than is allowed for (`dpdt.privacy.rounding`).

    What a norm makes of an image without contrast is rounding, and can be large.
    """
    room = PER_IMAGE["ghost" if CLIPPING_ENGINES[clipping].own_rounding else "float32"]["cpu"] * len(images)
    for brightness in FLAT:
        flat = torch.full_like(images, brightness)
        usual, other = (
            _clipped_sum(copy.deepcopy(model), flat, norm=SMALL, clipping=clipping, at_once=at_once)
            for at_once in (len(images), 2)
        )
        differences = [(a.double() - b.double()).norm() for a, b in zip(usual, other, strict=True)]
        moved = float(torch.stack(differences).norm()) / SMALL
        if moved > room:
            yield (
                f"images without contrast move the clipped sum by {moved:.2g} clipping norms if they come in other "
                f"batches, by rounding alone, and {room:.2g} is allowed for; make the epsilon of the norms larger"
            )
            return


def _equal(values: list[Tensor], wanted: list[Tensor]) -> Tensor:
    """Whether each parameter's sum is right, shape (parameters,)."""
    largest = max(float(right.abs().max()) for right in wanted)
    scales = [max(float(right.abs().max()), NEGLIGIBLE * largest, 1e-9) for right in wanted]
    pairs = zip(values, wanted, scales, strict=True)
    return torch.tensor([bool((value - right).abs().max() <= TOLERANCE * scale) for value, right, scale in pairs])


def _clipped_sum(
    model: nn.Module, images: Tensor, *, norm: float, clipping: str, at_once: int = IMAGES
) -> list[Tensor]:
    """Of physical batches of `at_once` images, each filled up to the size of all."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):  # the training says it, once
        warnings.simplefilter("ignore")
        sums = CLIPPING[clipping](
            model,
            _loss,
            max_grad_norm=norm,
            noise_multiplier=0.0,
            noise=KeyStream.from_seed("trial"),
            fill_to=len(images),
        )
        for first in range(0, len(images), at_once):
            part = images[first : first + at_once]
            sums.add(part, part)
    return [value.detach() for value in sums.partial_sums()]


def _loss(outputs: Tensor, images: Tensor) -> Tensor:
    """One number an image, in which no output counts as another does, and no image: a mean of equal ones is as each."""
    return (outputs * torch.linspace(1, 2, outputs.shape[1])).sum(1) * (1 + images.flatten(1).mean(1))


def _without(values: Tensor, number: int) -> Tensor:
    return torch.cat((values[:number], values[number + 1 :]))


def _plain(outputs: Any) -> Any:
    """Without the graph, which is not needed."""
    return outputs.detach() if isinstance(outputs, Tensor) else outputs
