"""Networks by import path: `[model] name = "package.module:function"`.

The function is called with `num_outputs` and `in_channels` (and the study's `model.options`) and returns a
`torch.nn.Module` that takes float32 in 0..1 of shape (n, in_channels, size, size) and gives one logit an output.
The module is looked for beside the study file too.
"""

import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpdt.errors import StudyError
from dpdt.study.settings import ModelSettings

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["custom_model", "model_code"]


def custom_model(settings: ModelSettings, folder: Path, *, num_outputs: int) -> "nn.Module":
    """Call the function that `model.name` names.

    Args:
        settings: The study file's `[model]`.
        folder: Of the study file.
        num_outputs: Logits an image.

    Raises:
        StudyError: It cannot be imported or called, or gives no module.
    """
    from torch import nn

    function = _function(settings, folder)
    arguments = {"num_outputs": num_outputs, "in_channels": settings.in_channels, **settings.options}
    try:
        model = function(**arguments)
    except (Exception, SystemExit) as err:  # whatever the user's function raises
        given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        raise StudyError(f"model.name: {settings.name}({given}) failed: {type(err).__name__}: {err}.") from err
    if not isinstance(model, nn.Module):
        raise StudyError(f"model.name: {settings.name} gave {type(model).__name__}, expected a torch.nn.Module.")
    if settings.in_channels != 1:
        model.register_forward_pre_hook(_repeat_gray(settings.in_channels))
    return model


def model_code(settings: ModelSettings, folder: Path) -> str | None:
    """Checksum of the file that defines a custom network; None for dpdt's own networks."""
    if ":" not in settings.name:
        return None
    file = inspect.getsourcefile(inspect.unwrap(_function(settings, folder)))
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else None


def _function(settings: ModelSettings, folder: Path) -> Callable[..., Any]:
    module_name, _, function_name = settings.name.partition(":")
    with _importable(folder):
        try:
            module = importlib.import_module(module_name)
        except ImportError as err:
            if err.name not in (module_name, module_name.partition(".")[0]):
                raise StudyError(
                    f"model.name: {module_name} fails at import: {err}. Install what it imports beside dpdt."
                ) from err
            raise StudyError(
                f"model.name: {settings.name!r}: cannot import {module_name!r} ({err}). Expected a module beside the "
                f"study file (in {folder}), installed, or on PYTHONPATH."
            ) from err
        except (Exception, SystemExit) as err:  # whatever the user's module raises
            raise StudyError(f"model.name: {module_name} fails at import: {type(err).__name__}: {err}.") from err
    function = getattr(module, function_name, None)
    if not callable(function):
        names = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise StudyError(
            f"model.name: {module_name} has no function {function_name!r}. It has: {', '.join(names) or 'none'}."
        )
    return function  # type: ignore[no-any-return]


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Inside the block modules beside the study file can be imported."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _repeat_gray(channels: int) -> Callable[["nn.Module", tuple["Tensor", ...]], tuple["Tensor", ...]]:
    """A hook that repeats the gray channel before the network sees it; names of parameters stay as they are."""

    def repeat(_module: "nn.Module", inputs: tuple["Tensor", ...]) -> tuple["Tensor", ...]:
        return (inputs[0].expand(-1, channels, -1, -1), *inputs[1:])

    return repeat
