"""The log of losses of a run, one line a block of steps."""

import contextlib
import json
import math
import time

from dpdt.base.files import write_text
from dpdt.study.paths import RunPaths

__all__ = [
    "append_metrics",
    "keep_metrics_until",
]


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


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
