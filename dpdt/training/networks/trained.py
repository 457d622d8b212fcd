"""Which parameters of a network are trained; the others stay as they begin, and cost neither time nor noise.

A part of the network in which nothing is trained is in evaluation mode: a batch norm there computes with the numbers
that came with the weights, and learns none.
"""

import difflib
import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Final

from torch import nn

from dpdt.errors import StudyError
from dpdt.study.settings import NETWORK_STAGES
from dpdt.training.networks.weights import head_of

__all__ = ["choose_trained", "freeze_but_head", "stages_of", "trains_head_alone"]

CONTAINERS: Final = ("stages", "blocks", "features", "layers")
"""Names of children that hold stages and are none themselves."""
SHOWN: Final = 5


def choose_trained(model: nn.Module, choice: str | Sequence[str]) -> None:
    """Set a network's modes for training, and freeze all parameters but the chosen ones.

    Args:
        model: Changed in place. A parameter that it froze itself stays frozen.
        choice: The study's `train.parameters`.

    Raises:
        StudyError: A pattern matches nothing, there are fewer stages, or nothing is left to train.
    """
    model.train()
    if choice == "all":
        return
    named = dict(model.named_parameters(remove_duplicate=False))
    chosen = {id(named[name]) for name in _chosen(model, choice, list(named))}
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.requires_grad and id(parameter) in chosen)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise StudyError(
            f"train.parameters: {_told(choice)} leaves nothing to train: the network froze these parameters itself. "
            "Choose others."
        )
    for module in model.modules():
        module.training = any(parameter.requires_grad for parameter in module.parameters())


def stages_of(model: nn.Module) -> list[list[str]]:
    """Names of the parameters of each stage, first to last; the head belongs to none.

    Stages are the network's children that have parameters, in the order in which the network registers them; in place
    of one that is called as in `CONTAINERS` its own children are. Where all but the head is in one child, that child's
    children are. Children without a matrix or kernel (norms) belong to the stage before them, parameters that the
    network owns itself (class token, positions) to the first.
    """
    head = head_of(model)[0]
    named = {name: value for name, value in model.named_parameters() if name.rpartition(".")[0] != head}
    prefix = ""
    while named and len(children := {name.removeprefix(prefix).split(".")[0] for name in named}) == 1:
        only = children.pop()
        if f"{prefix}{only}" in named:
            break
        prefix += f"{only}."
    parts: dict[str, list[str]] = {}
    for name in named:
        path = name.removeprefix(prefix).split(".")
        depth = 2 if path[0] in CONTAINERS and len(path) > 2 else 1
        parts.setdefault(".".join(path[:depth]) if len(path) > 1 else "", []).append(name)
    stages: list[list[str]] = [[]]
    begun = False  # whether the last one has a matrix or kernel
    for part, names in parts.items():
        large = part != "" and any(named[name].ndim > 1 for name in names)
        if large and begun:
            stages.append([])
        begun |= large
        stages[-1] += names
    return [names for names in stages if names]


def trains_head_alone(model: nn.Module) -> bool:
    """Whether every trained parameter is the head's."""
    head = head_of(model)[1]
    own = set() if head is None else set(head.parameters())
    return all(parameter in own for parameter in model.parameters() if parameter.requires_grad)


def freeze_but_head(model: nn.Module) -> Callable[[], None]:
    """Freeze all but the head of a network whose trained parameters are chosen, with the modes of `choose_trained`.

    Returns:
        What makes it as it was.

    Raises:
        StudyError: The head is not trained, or nothing else is.
    """
    head = head_of(model)[1]
    own = set() if head is None else set(head.parameters())
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    others = [parameter for parameter in trained if parameter not in own]
    if not others or len(others) == len(trained):
        found = "nothing but the head" if not others else "no head"
        raise StudyError(
            f"train.head_first: needs a trained head and other trained parameters, and {found} is trained."
        )
    modes = {module: module.training for module in model.modules()}

    def undo() -> None:
        for parameter in others:
            parameter.requires_grad_(True)
        for module, mode in modes.items():
            module.training = mode

    choose_trained(model, "head")
    return undo


def _chosen(model: nn.Module, choice: str | Sequence[str], names: list[str]) -> list[str]:
    """Names of the parameters that a choice means."""
    if not isinstance(choice, str):
        return [name for pattern in choice for name in _matching(pattern, names)]
    head, layer = head_of(model)
    if layer is None:
        raise StudyError(
            f"train.parameters: {choice!r} needs a head, and the network has no linear layer. Expected patterns of its "
            f"parameters' names: {_some(names)}."
        )
    chosen = [name for name in names if name.rpartition(".")[0] == head]
    if choice == "norms+head":
        norms = {name for name, module in model.named_modules() if _is_norm(module)}
        return chosen + [name for name in names if name.rpartition(".")[0] in norms]
    if last := re.fullmatch(NETWORK_STAGES, choice):
        stages = stages_of(model)
        if int(last[1]) > len(stages):
            told = "; ".join(f"{number}: {stage[0]} …" for number, stage in enumerate(stages, start=1))
            raise StudyError(f"train.parameters: {choice!r}, but the network has {len(stages)} stages ({told}).")
        chosen += [name for stage in stages[-int(last[1]) :] for name in stage]
    return chosen


def _matching(pattern: str, names: list[str]) -> list[str]:
    found = [name for name in names if fnmatchcase(name, pattern)]
    if not found:
        near = difflib.get_close_matches(pattern, names, n=SHOWN, cutoff=0.3) or names
        raise StudyError(
            f"train.parameters: {pattern!r} matches no parameter of the network. Expected a pattern of names such as "
            f"{_some(near)}; * stands for any characters."
        )
    return found


def _is_norm(module: nn.Module) -> bool:
    return any("Norm" in kind.__name__ for kind in type(module).__mro__)


def _told(choice: str | Sequence[str]) -> str:
    return repr(choice) if isinstance(choice, str) else ", ".join(map(repr, choice))


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
