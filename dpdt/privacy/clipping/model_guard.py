"""In a DP arm images enter the weights by the noisy steps alone, and no image moves the random numbers of the others.

Two things that no clipping sees would break the bound. A forward pass that writes to the network (a bias set from the
first batch, running statistics) releases what it wrote without noise. And a forward pass that draws from a generator of
the whole process (dropout, stochastic depth) gives an image numbers that depend on how many images came before it: one
image more moves the gradients of all behind it, by far more than its own. So while images are in the network nothing of
it may change, and no generator may move.
"""

import math
import pickle
import random
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["SHARED", "Generators", "Guard", "NetworkCopy", "moved", "same_values"]

BITS: Final = {2: torch.int16, 4: torch.int32, 8: torch.int64}
SHARED: Final = ("random", "numpy.random")
"""Generators that other threads may draw from too (a client's wait before its next try): a move alone shows nothing."""
SEEDS: Final = 8
TOLERANCE: Final = 1e-3
"""Of two passes over the same images, relative to the largest output."""


class NetworkCopy:
    """All that a network keeps: parameters and buffers, with their names and values.

    Args:
        network: Watched; never changed.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._objects = _kept(network)
        self._values = {name: value.detach().clone() for name, value in self._objects.items()}
        self._trained = {name: value for name, value in self._objects.items() if value.requires_grad}
        self._saved = set(network.state_dict())

    def update(self) -> None:
        """The trained parameters are right as they are now: a noisy step was taken."""
        for name, value in self._trained.items():
            self._values[name].copy_(value.detach())

    def changes(self, *, trained_alone: bool = False) -> list[str]:
        """Names of what was written, replaced, added or removed since the copy was made.

        Args:
            trained_alone: Compare the values of trained parameters, and no others'.
        """
        now = _kept(self._network)
        found = set(now.keys() ^ self._objects.keys())
        if not trained_alone:
            saved = self._network.state_dict()
            found |= set(saved) ^ self._saved
            same = {name: (value, now[name].detach()) for name, value in saved.items() if name in now}
            found |= _differing({name: pair for name, pair in same.items() if pair[0].shape == pair[1].shape})
        pairs: dict[str, tuple[Tensor, Tensor]] = {}
        for name in now.keys() & self._objects.keys():
            was, value = self._values[name], now[name]
            replaced = isinstance(value, nn.Parameter) and value is not self._objects[name]
            trained = name in self._trained
            if replaced or value.requires_grad != trained or value.shape != was.shape or value.dtype != was.dtype:
                found.add(name)
            elif trained or not trained_alone:
                pairs[name] = (value.detach(), was)
        return sorted(found | _differing(pairs))


class Guard:
    """Watches the network of a DP arm while it trains.

    Args:
        network: With its initial weights, where it is trained.
        shape: Of an image as it takes it, (1, size, size).
    """

    def __init__(self, network: nn.Module, *, shape: tuple[int, ...]) -> None:
        self._network = network
        self._copy = NetworkCopy(network)
        self._generators = Generators(network)
        device = next((p.device for p in network.parameters()), torch.device("cpu"))
        self._states = self._generators.states(shared=False)
        self._images = torch.linspace(0, 1, math.prod(shape), device=device).view(1, *shape)

    def begin(self) -> None:
        """Images are about to go through the network."""
        self._states = self._generators.states(shared=False)

    def step_problem(self) -> str | None:
        """Between the passes of a logical batch and the release of its sum: what is wrong with the passes.

        Returns:
            None where each trained parameter is what the step before left, and no generator moved since `begin`.
        """
        drawn = moved(self._states, self._generators.states(shared=False))
        return _draws_line(drawn) or _changes_line(self._copy.changes(trained_alone=True))

    def stepped(self) -> None:
        """The optimizer has taken a noisy step."""
        self._copy.update()

    def problem(self) -> str | None:
        """Before weights are saved: whether all else is unchanged too, and two passes give the same.

        Returns:
            What is wrong; None where nothing is.
        """
        changed = self._copy.changes()
        if changed:
            return _changes_line(changed)
        return _draws_line(self._draws()) or _changes_line(self._copy.changes())

    def _draws(self) -> list[str]:
        """What passes over the same made-up image show of randomness and memory."""
        before = self._generators.states()
        first = self._look()
        same = same_values(self._look(), first, tolerance=TOLERANCE)
        drawn = moved(before, self._generators.states())
        if not same:
            return drawn or ["two passes over one image differ"]
        found = [name for name in drawn if name not in SHARED]
        return found or (drawn if drawn and self._depends_on_seed(first) else [])

    def _depends_on_seed(self, first: Tensor) -> bool:
        """Whether the outputs follow Python's or numpy's generator, both of which are then put back."""
        states = random.getstate(), np.random.get_state(legacy=False)
        try:
            for seed in range(SEEDS):
                random.seed(seed)
                np.random.seed(seed)
                if not same_values(self._look(), first, tolerance=TOLERANCE):
                    return True
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
        return False

    @torch.no_grad()
    def _look(self) -> Tensor:
        outputs: Tensor = self._network(self._images)
        return outputs


class Generators:
    """The process' generators of random numbers, and those that layers hold as attributes.

    Args:
        network: Its layers are looked through, once.
    """

    def __init__(self, network: nn.Module) -> None:
        device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
        self._gpu = device if device.type == "cuda" else None
        self._held = {
            f"{name}.{key}" if name else key: value
            for name, layer in network.named_modules()
            for key, value in vars(layer).items()
            if _state_of(value) is not None
        }

    def states(self, *, shared: bool = True) -> dict[str, Any]:
        """What changes with every draw, by the generator's name.

        Args:
            shared: With those of `SHARED`.
        """
        states: dict[str, Any] = {"torch": torch.get_rng_state().numpy().tobytes()}
        if self._gpu is not None:
            states["torch.cuda"] = torch.cuda.get_rng_state(self._gpu).numpy().tobytes()
        if shared:
            states["random"] = random.getstate()
            states["numpy.random"] = pickle.dumps(np.random.get_state(legacy=False))
        return states | {name: _state_of(value) for name, value in self._held.items()}


def moved(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Names of the generators that drew between two calls of `Generators.states`."""
    return [name for name, state in after.items() if name in before and before[name] != state]


def same_values(one: Tensor, other: Tensor, *, tolerance: float) -> bool:
    """Whether two tensors agree up to rounding, relative to the largest value; NaN is NaN."""
    if one.shape != other.shape:
        return False
    one, other = one.detach().float(), other.detach().float()
    scale = max(float(other.abs().nan_to_num(0.0, 0.0).max()), 1e-6) if other.numel() else 1.0
    return torch.allclose(one, other, rtol=0.0, atol=tolerance * scale, equal_nan=True)


def _kept(network: nn.Module) -> dict[str, Tensor]:
    return dict(network.named_parameters(remove_duplicate=False)) | dict(network.named_buffers(remove_duplicate=False))


def _differing(pairs: dict[str, tuple[Tensor, Tensor]]) -> set[str]:
    """Which of some pairs of equal shapes differ in a bit (so NaN is itself); waits for a GPU once."""
    found, flags = set(), {}
    for name, pair in pairs.items():
        now, was = (value.reshape(-1).view(BITS.get(value.itemsize, torch.uint8)) for value in pair)
        if now.device.type == "cpu":  # numpy takes a twentieth of torch's time here
            if not np.array_equal(now.numpy(), was.numpy()):
                found.add(name)
        else:
            flags[name] = (now != was).any()
    if flags:
        found |= {name for name, flag in zip(flags, torch.stack(list(flags.values())).tolist(), strict=True) if flag}
    return found


def _state_of(value: Any) -> Any:
    """State of a generator; None for everything else."""
    if isinstance(value, torch.Generator):
        return value.get_state().numpy().tobytes()
    if isinstance(value, random.Random) and not isinstance(value, random.SystemRandom):
        return value.getstate()
    if isinstance(value, np.random.Generator):
        return pickle.dumps(value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return pickle.dumps(value.get_state(legacy=False))
    return None


def _changes_line(names: list[str]) -> str | None:
    if not names:
        return None
    return (
        f"{', '.join(names)} changed in the forward pass. What the network keeps there of its images has neither "
        "clipping nor noise, so epsilon would not hold. Nothing of this block was saved. Remove it from the network "
        "(norms: track_running_stats = False)."
    )


def _draws_line(names: list[str]) -> str | None:
    if not names:
        return None
    return (
        f"the forward pass draws random numbers or counts ({', '.join(names)}). What it gives for an image depends on "
        "the images before it, so one image moves more than its own gradient and epsilon would not hold. Nothing of "
        "this block was saved. Remove it from the network (dropout: p = 0)."
    )
