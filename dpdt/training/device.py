"""Where a training computes: the device and the threads that the study asks for."""

import os
import platform

import torch

from dpdt import _core
from dpdt.errors import DpdtError

__all__ = ["choose_device", "device_name", "keep_memory", "set_threads"]


def choose_device(choice: str) -> torch.device:
    """The device asked for; never the CPU in place of a GPU that was asked for.

    Args:
        choice: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        DpdtError: CUDA was asked for and is not there.
    """
    if choice == "cuda" and not torch.cuda.is_available():
        raise DpdtError(
            "train.device: 'cuda' was asked for, but torch sees no GPU here. Ask the scheduler for one "
            "(cluster.gpus_per_task), install torch with CUDA, or set device = 'cpu'."
        )
    if choice == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    if "LOCAL_RANK" in os.environ:  # one of several processes on this node: each has its own GPU
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    return torch.device("cuda")


def device_name(device: torch.device) -> str:
    """What a training computes on, for people: the GPU's name, or the processor's kind."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({platform.machine()})"


def set_threads(wanted: int) -> None:
    """Use the threads asked for; else what OMP_NUM_THREADS says, else every core that the process may use."""
    if wanted:
        torch.set_num_threads(wanted)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(len(os.sched_getaffinity(0)))


def keep_memory(device: torch.device) -> None:
    """Let the process keep the memory that a step frees for the next one, which needs the same: fewer page faults.

    Args:
        device: Only the CPU's steps are in the process's own memory.
    """
    if device.type == "cpu":
        _core.keep_memory()
