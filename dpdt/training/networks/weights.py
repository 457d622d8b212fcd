"""Weights from a file, into a network; the outputs of its last layer by the names of their labels.

A training on other labels than the paper's five writes their names beside the weights, so that a copy of the file has
them. A file without names has the paper's five where it has five outputs: dpdt wrote no other then.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dpdt.base.vocabulary import LABELS
from dpdt.errors import StudyError
from dpdt.study.networks import weights_file
from dpdt.training.networks.resnet9 import ResNet9

__all__ = ["head_of", "load_weights", "named"]

WRAPPER_PREFIXES: Final = ("_module.", "module.", "_orig_mod.")
BODY_PREFIXES: Final = ("model.", "backbone.", "encoder.")
"""Where a network lies in another, whose own parts are left out."""
NAMES: Final = "dpdt.labels"
"""Beside the parameters: the labels' names, as the bytes of JSON."""
WRAPPED_STATE_KEYS: Final = ("state_dict", "model_state_dict", "model", "teacher")


def named(state: dict[str, Tensor], labels: Sequence[str]) -> dict[str, Tensor]:
    """A state dict with the names of its outputs, if they are not the paper's five."""
    if tuple(labels) == LABELS:
        return state
    return {**state, NAMES: torch.tensor(list(json.dumps(list(labels)).encode()), dtype=torch.uint8)}


def load_weights(model: nn.Module, path: Path, *, new_head: bool = False, labels: Sequence[str] | None = None) -> bool:
    """Load a state dict: one that dpdt wrote, or published weights under torchvision's or timm's names.

    Prefixes of wrappers (Opacus, DataParallel, torch.compile, a network in another) are removed; a first convolution
    for three channels is summed over them where the model takes one (exact for a repeated gray channel), and one for
    one channel shared out over three. timm translates what it knows other names for, and interpolates positions.

    Args:
        model: A network of this package; changed in place.
        path: File of ``torch.save``, read with ``weights_only=True``; file of safetensors, or the folder of one.
        new_head: Whether a last layer for other outputs is left out, so that the model's own stays as it is.
        labels: Of the model's outputs: the file's are taken by name, in whatever order it has them, if it has them all.
            None: by position.

    Returns:
        Whether the last layer came from the file.

    Raises:
        StudyError: The file is missing or no state dict, or its names, shapes or labels are not the model's.
    """
    state, names = _read(path, model)
    if new_head:
        state = _translated(model, state)
    own = model.state_dict()
    stem, head = _ends(model)
    theirs = names or _labels_of(state, head)
    outputs = _outputs(theirs, labels)
    first = state.get(stem)
    if first is not None and first.ndim == 4 and (first.shape[1], own[stem].shape[1]) == (3, 1):
        state[stem] = first.sum(1, keepdim=True)
    elif first is not None and first.ndim == 4 and (first.shape[1], own[stem].shape[1]) == (1, 3):
        state[stem] = (first / 3).expand(-1, 3, -1, -1)
    if outputs:
        state = {name: value[outputs] if name in head else value for name, value in state.items()}
    fits = all(name in state and state[name].shape == own[name].shape for name in head)
    has_head = fits and outputs is not None
    if fits and not has_head and not new_head:
        raise StudyError(
            f"{path}: its last layer is for {', '.join(theirs or ('labels that it does not name',))}; expected "
            f"{', '.join(labels or ())}. Take weights of these labels."
        )
    if not has_head and new_head:
        state = {**state, **{name: own[name] for name in head}}
    _check_names_and_shapes(path, model, state, head)
    model.load_state_dict(state, strict=True)
    return has_head


def _read(path: Path, model: nn.Module) -> tuple[dict[str, Tensor], tuple[str, ...] | None]:
    """The parameters of a file, and the labels of its outputs where it names them."""
    path = weights_file(path)
    try:
        if path.suffix == ".safetensors":
            loaded: Any = load_file(path)
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
        state = _plain_state(loaded)
    except FileNotFoundError as err:
        raise StudyError(
            f"{path}: no such file of weights. Correct model.init_weights (relative to the study file)."
        ) from err
    except Exception as err:  # torch.load raises many kinds, most of them for a file that is not its own
        why = str(err).partition("\n")[0].partition(". ")[0].rstrip(".")
        raise StudyError(
            f"{path}: cannot be read as a state dict ({type(err).__name__}: {why}). Expected what "
            "torch.save(model.state_dict(), FILE) wrote."
        ) from err
    names = tuple(json.loads(bytes(state.pop(NAMES).tolist()))) if NAMES in state else None
    own = model.state_dict()
    for prefix in BODY_PREFIXES:
        inside = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        if inside and not any(name.startswith(prefix) for name in own):
            state = inside
    return state, names


def _translated(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """In timm's names and sizes, for a network of timm's."""
    translate = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if translate is None or not type(model).__module__.startswith("timm."):
        return state
    return dict(translate(state, model))


def _labels_of(state: dict[str, Tensor], head: tuple[str, ...]) -> tuple[str, ...] | None:
    """The labels of the outputs of a file that does not name them; None where nobody knows."""
    return LABELS if any(len(state[name]) == len(LABELS) for name in head if name in state) else None


def _outputs(theirs: tuple[str, ...] | None, labels: Sequence[str] | None) -> list[int] | None:
    """Which of a file's outputs are the model's, in its order; [] for all as they are, None where they are others."""
    if labels is None or theirs == tuple(labels):
        return []
    if theirs is None or not {*labels} <= {*theirs}:
        return None
    return [theirs.index(label) for label in labels]


def _ends(model: nn.Module) -> tuple[str, tuple[str, ...]]:
    """Names of the weight of the first convolution, and of the parameters of the last linear layer."""
    convolutions = [name for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)]
    stem = f"{convolutions[0]}.weight" if convolutions else ""
    head, layer = head_of(model)
    return stem, () if layer is None else tuple(f"{head}.{name}" for name, _ in layer.named_parameters())


def head_of(model: nn.Module) -> tuple[str, nn.Linear | None]:
    """Name of the last linear layer, whose outputs are the labels', and the layer; None where there is none."""
    linear = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    return linear[-1] if linear else ("", None)


def _plain_state(loaded: Any) -> dict[str, Tensor]:
    """The state dict itself, without an outer dict and wrappers' prefixes."""
    for key in WRAPPED_STATE_KEYS:
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise TypeError("expected a dict of tensors")
    state = {}
    for name, value in loaded.items():
        while name.startswith(WRAPPER_PREFIXES):
            name = name.split(".", 1)[1]
        state[name] = value
    return state


def _check_names_and_shapes(path: Path, model: nn.Module, state: dict[str, Tensor], head: tuple[str, ...]) -> None:
    own = model.state_dict()
    names = "those of your own network"
    if isinstance(model, ResNet9):
        names = "the names of a ResNet9 (torchvision's)"
    elif type(model).__module__.startswith("timm."):
        names = f"those of timm's {type(model).__name__}"
    for name, kind in [(n, "missing") for n in own if n not in state] + [(n, "unknown") for n in state if n not in own]:
        raise StudyError(f"{path}: {kind} parameter {name!r}. Expected {names}.")
    for name, value in own.items():
        if state[name].shape != value.shape:
            hint = "its labels are not the study's" if name in head else "check model.width and in_channels"
            raise StudyError(
                f"{path}: {name} has shape {tuple(state[name].shape)}, the model's is {tuple(value.shape)}; {hint}."
            )
