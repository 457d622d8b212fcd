"""Checkpoints that a crash cannot spoil: `step-<step>-<checksum>.pt` below a run's `checkpoints/`.

A file is written under a temporary name, fsynced and renamed; its name carries the first characters of its SHA-256. The
newest two are kept. One that does not match its name is set aside with a warning and the one before is taken.
"""

import hashlib
import io
import warnings
from pathlib import Path
from typing import Any, Final

import torch

from dpdt.base.files import atomic_path, make_folder, remove_leftovers
from dpdt.errors import DpdtError

__all__ = ["has_checkpoint", "load_checkpoint", "remove_checkpoints", "save_checkpoint"]

KEEP: Final = 2
CHECK_CHARACTERS: Final = 16
DAMAGED: Final = "step-*.damaged"


def save_checkpoint(folder: Path, *, step: int, content: dict[str, Any]) -> Path:
    """Write a checkpoint and remove all but the newest two.

    Args:
        folder: The run's `checkpoints/`.
        step: Logical steps of the model, part of the file's name.
        content: Tensors, numbers, strings, lists and dicts (what ``torch.load(weights_only=True)`` accepts).

    Returns:
        The file.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    data = buffer.getbuffer()
    path = folder / f"step-{step:08d}-{_check(data)}.pt"
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    for old in _files(folder)[:-KEEP]:
        old.unlink(missing_ok=True)
    return path


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint that is whole.

    Returns:
        What was saved, tensors on the CPU; None if there is no checkpoint. A part that a killed process left of one is
        removed.

    Raises:
        DpdtError: There are checkpoints, but none of them can be read; also when they were set aside before.
    """
    remove_leftovers(folder)  # of a checkpoint that a killed process was writing: it has keys of noise
    files = _files(folder)
    for path in reversed(files):
        try:
            data = path.read_bytes()
            if _check(data) != path.stem.rsplit("-", 1)[-1]:
                raise ValueError("its bytes do not match the checksum in its name")
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except Exception as err:  # noqa: BLE001  torch.load raises many kinds; whichever it is, the file is of no use
            aside = path.with_suffix(".damaged")
            path.rename(aside)
            warnings.warn(f"{path}: damaged ({err}); kept as {aside.name}, the one before is used.", stacklevel=2)
        else:
            return dict(content)
    damaged = list(folder.glob(DAMAGED))
    if damaged:
        raise DpdtError(
            f"{folder}: none of {len(damaged)} checkpoints can be read. To train again from the start with the budget "
            "that is left, remove this folder."
        )
    return None


def has_checkpoint(folder: Path) -> bool:
    """Whether there is a checkpoint, readable or not."""
    return bool(_files(folder))


def remove_checkpoints(folder: Path) -> None:
    """Remove all checkpoints, and with them the keys of the noise; final weights stay."""
    remove_leftovers(folder)
    for path in [*_files(folder), *folder.glob(DAMAGED)]:
        path.unlink(missing_ok=True)


def _files(folder: Path) -> list[Path]:
    """Checkpoints from the oldest to the newest."""
    return sorted(make_folder(folder).glob("step-*.pt"), key=lambda path: (path.stem[:13], path.stat().st_mtime_ns))


def _check(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()[:CHECK_CHARACTERS]
