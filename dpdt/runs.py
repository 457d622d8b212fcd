"""A run's own small files: the frozen config, the state, the log of losses. They are the truth about a run."""

import contextlib
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from dpdt.errors import DpdtError
from dpdt.files import exclusive_lock, make_folder, read_json, write_json, write_text
from dpdt.paths import RunPaths
from dpdt.study import Study, format_epsilon
from dpdt.vocabulary import format_bound

__all__ = [
    "RunSummary",
    "append_metrics",
    "freeze_config",
    "frozen_settings",
    "image_digest",
    "keep_metrics_until",
    "read_state",
    "run_done",
    "run_lock",
    "summary_of",
    "write_state",
]

# Recorded in the config, but a run may be resumed with other values: they cannot change its result or its epsilon.
FREE_KEYS: Final = ("created", "versions", "device", "instruction_set", "physical_batch_size")
SPEED_KEYS: Final = {
    "shards": {"num_threads", "max_reject_fraction"},
    "train": {"physical_batch_size", "checkpoint_every_steps", "device", "num_threads"},
    "privacy": {"reserve_steps"},
}
GIT_SECONDS: Final = 10.0
LIBRARIES: Final = ("dpdt", "torch", "numpy", "opacus", "dp-accounting")


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
        privacy = "no DP"
        if self.target_epsilon is not None:
            spent = "no bound" if self.epsilon is None else format_bound(self.epsilon)
            privacy = f"epsilon {spent} of {format_epsilon(self.target_epsilon)}"
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


def frozen_settings(study: Study, *, kind: str) -> dict[str, Any]:
    """The study file's sections that decide the result of a run, as the config records them."""
    sections = ("shards", "model", "pretrain") if kind == "pretrain" else ("shards", "model", "train", "privacy")
    other_runs = {"train": {"domains", "seeds"}, "privacy": {"target_epsilons"}}
    settings: dict[str, Any] = {"seed": study.study.seed}
    for name in sections:
        settings[name] = getattr(study, name).model_dump(mode="json", exclude=other_runs.get(name))
    return settings


def freeze_config(paths: RunPaths, config: dict[str, Any]) -> dict[str, Any]:
    """Write a run's config before its first step, or check that it is still the one that was written.

    Returns:
        The config as it stands in the file.

    Raises:
        DpdtError: The run was begun with other settings or other data.
    """
    if not paths.config.exists():
        make_folder(paths.folder)
        full = {**config, "created": time.time(), "versions": _versions()}
        write_json(paths.config, full)
        return full
    frozen: dict[str, Any] = read_json(paths.config)
    was, now = _flat(frozen), _flat(json.loads(json.dumps(config)))
    for key in sorted({*was, *now}):
        if _fixed(key) and was.get(key) != now.get(key):
            raise DpdtError(
                f"{paths.config}: the run was begun with {key} = {was.get(key)!r}, it is {now.get(key)!r} now. "
                f"Put it back, or remove {paths.folder} to train anew (which spends privacy again)."
            )
    return frozen


def append_metrics(paths: RunPaths, **values: float | None) -> None:
    """Add a line to the metrics log; a number that is not finite becomes null."""
    line = {key: _finite(value) for key, value in values.items()} | {"time": time.time()}
    with paths.metrics_log.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line, allow_nan=False) + "\n")


def keep_metrics_until(paths: RunPaths, step: int) -> None:
    """Drop what was logged after a step that the training goes back to, and a line that a crash cut off."""
    if not paths.metrics_log.exists():
        return
    kept = []
    for line in paths.metrics_log.read_text(encoding="utf-8").splitlines(keepends=True):
        with contextlib.suppress(ValueError):
            if json.loads(line)["step"] <= step:
                kept.append(line if line.endswith("\n") else line + "\n")
    write_text(paths.metrics_log, "".join(kept))


def _fixed(key: str) -> bool:
    top, *rest = key.split(".")
    if top == "settings" and len(rest) > 1:
        return rest[1] not in SPEED_KEYS.get(rest[0], set())
    return top not in FREE_KEYS


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, under dotted names."""
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{prefix}{key}.") if isinstance(inner, dict) else {f"{prefix}{key}": inner}
    return flat


def image_digest() -> str | None:
    """Which container image this process runs in.

    Returns:
        `DPDT_IMAGE_DIGEST`, where whoever started the container gave it; else the digest of what the image's build
        put into it (an image cannot contain its own digest); None outside of dpdt's images.
    """
    given = os.environ.get("DPDT_IMAGE_DIGEST")
    if given:
        return given
    built = Path(sys.prefix) / "share" / "dpdt" / "image.txt"
    return built.read_text(encoding="utf-8").strip() if built.exists() else None


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}
    further = {"image": image_digest(), "commit": _commit()}
    return found | {name: value for name, value in further.items() if value}


def _commit() -> str | None:
    """The commit of the checkout that this code lies in, `-dirty` if it was changed; None for an installed package."""
    checkout = Path(__file__).parents[1]
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=GIT_SECONDS, check=True)
    except (subprocess.SubprocessError, OSError):
        return None
    return answer.stdout.strip()


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
