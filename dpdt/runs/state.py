"""The state of a run: its file, its lock, and how it ended."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dpdt.base.files import exclusive_lock, read_json, write_json
from dpdt.base.vocabulary import format_bound
from dpdt.errors import DpdtError
from dpdt.runs.metrics_log import _finite
from dpdt.study import Study, arm_name
from dpdt.study.paths import RunPaths

__all__ = ["RunSummary", "read_state", "run_done", "run_lock", "summary_of", "write_state"]


@dataclass(frozen=True)
class RunSummary:
    """How a training ended.

    Attributes:
        run_id: The run.
        status: ``finished`` or ``interrupted``.
        step: Logical steps that the weights have had.
        num_steps: Logical steps of the whole run.
        epsilon: Spent; None without DP.
        target_epsilon: None without DP.
        seconds: Time of this call; 0.0 if the run was finished before.
    """

    run_id: str
    status: str
    step: int
    num_steps: int
    epsilon: float | None
    target_epsilon: float | None
    seconds: float = 0.0

    def __str__(self) -> str:
        """One line for people."""
        spent = "no bound" if self.epsilon is None else format_bound(self.epsilon)
        privacy = arm_name(self.target_epsilon, prefix=f"epsilon {spent} of ")
        time = f", {self.seconds:.1f} s" if self.seconds else ", done before"
        return f"{self.run_id}: {self.status}, {self.step} of {self.num_steps} steps, {privacy}{time}"


def run_done(study: Study, run_id: str) -> bool:
    """Whether a run has its final weights."""
    paths = study.paths.run(run_id)
    return paths.weights.exists() and (read_state(paths) or {}).get("status") == "finished"


def read_state(paths: RunPaths) -> dict[str, Any] | None:
    """The run's state; None if it has not begun.

    Raises:
        DpdtError: The file is damaged.
    """
    if not paths.state.exists():
        return None
    state: dict[str, Any] = read_json(paths.state)
    return state


def write_state(
    paths: RunPaths, *, status: str, step: int, num_steps: int, epsilon: float | None, target_epsilon: float | None
) -> None:
    """Publish the run's state."""
    state = {
        "status": status,
        "step": step,
        "num_steps": num_steps,
        "epsilon": _finite(epsilon),
        "target_epsilon": _finite(target_epsilon),
        "updated": time.time(),
    }
    write_json(paths.state, state)


def summary_of(paths: RunPaths, *, seconds: float = 0.0) -> RunSummary:
    """Summary of a run from its state."""
    state = read_json(paths.state)
    keys = ("status", "step", "num_steps", "epsilon", "target_epsilon")
    return RunSummary(run_id=paths.run_id, seconds=seconds, **{key: state[key] for key in keys})


@contextlib.contextmanager
def run_lock(paths: RunPaths) -> Iterator[None]:
    """Be the only process that trains this run.

    Raises:
        DpdtError: Another process is training it.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(exclusive_lock(paths.lock, blocking=False))
        except BlockingIOError as err:
            raise DpdtError(
                f"{paths.folder}: another process is training this run. Two would spend its budget twice; "
                "wait for the other one, or stop it."
            ) from err
        yield
