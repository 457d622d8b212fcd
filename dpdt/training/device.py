"""Where a training computes: the device and the threads that the study asks for."""

import os
import platform
from typing import Final

import torch

from dpdt import _core
from dpdt.base.machine import cpu_flags
from dpdt.errors import DpdtError

__all__ = ["choose_device", "device_name", "instruction_set", "keep_memory", "set_threads"]

# In the order of their age; oneDNN takes the newest that the processor has.
ONEDNN_FLAGS: Final = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16")
ONEDNN_CAPS: Final = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")


def choose_device(choice: str) -> torch.device:
    """The device asked for; never the CPU in place of a GPU that was asked for.

    A GPU computes float32 in float32, and the same twice.

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
    _compute_as_on_the_cpu()
    if "LOCAL_RANK" in os.environ:  # one of several processes on this node: each has its own GPU
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    return torch.device("cuda")


def _compute_as_on_the_cpu() -> None:
    """Without TF32, and with one kernel a shape that adds up in one order.

    A gradient's norm and its part of the sum must be those of the same numbers, and a run that goes on has the same
    bits as one that was not disturbed.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False


def device_name(device: torch.device) -> str:
    """What a training computes on, for people: the GPU's name, or the processor's kind."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({platform.machine()})"


def instruction_set() -> str:
    """Vector instructions of this processor that torch and its oneDNN compute with; another set rounds otherwise.

    torch's own functions have one set; oneDNN chooses by the processor's flags, up to the cap in its environment.
    """
    found = f"torch {torch.backends.cpu.get_cpu_capability()}"
    flags = cpu_flags()
    found += f", oneDNN {' '.join(name for name in ONEDNN_FLAGS if name in flags) or 'unknown'}"
    cap = next((os.environ[name] for name in ONEDNN_CAPS if os.environ.get(name)), None)
    return found if cap is None else f"{found}, capped to {cap}"


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
