"""How far a run is: read from its own small files; a library is loaded only if there is something to read with it."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from dpdt.base.files import last_line, read_json, read_tail
from dpdt.errors import DpdtError
from dpdt.study.paths import RunPaths, StudyPaths
from dpdt.study.tasks import Task

__all__ = ["last_auc", "run_progress"]

KEYS: Final = ("step", "num_steps", "epsilon", "target_epsilon")


def run_progress(paths: StudyPaths, task: Task, *, running: bool) -> dict[str, Any]:
    """Progress of a pretraining or training.

    Args:
        paths: The study's.
        task: One of its tasks.
        running: Whether a process runs it: the remaining time is given only then.

    Returns:
        step, num_steps, epsilon, target_epsilon and time_left_s, each None where it does not apply.
    """
    values: dict[str, Any] = dict.fromkeys((*KEYS, "time_left_s"))
    if task.stage not in ("pretrain", "train"):
        return values
    run = paths.run(task.key)
    with suppress(DpdtError):
        state = read_json(run.state)
        values.update((key, state.get(key)) for key in KEYS)
        if running and (seconds := _step_seconds(run.metrics_log)):
            values["time_left_s"] = round(seconds * max(0, state["num_steps"] - state["step"]), 1)
    return values


def last_auc(run: RunPaths, *, everywhere: bool = False) -> float | None:
    """The average AUC of a training on its own domain, from its evaluation; None before that.

    Args:
        run: The run.
        everywhere: The mean over all test domains instead: of a model that none of them is the own domain of.
    """
    if not run.metrics.exists():
        return None
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = {"metric": "auc", "label": "average", "subgroup": "all"}
    try:
        table = pq.read_table(
            run.metrics, columns=["value", "test_domain", *wanted], filters=[(k, "==", v) for k, v in wanted.items()]
        )
    except (pa.ArrowInvalid, OSError, KeyError):
        return None  # not whole, or not ours: for the evaluation to say
    by_domain = dict(zip(table["test_domain"].to_pylist(), table["value"].to_pylist(), strict=True))
    chosen = by_domain.values() if everywhere else [by_domain.get(run.run_id.split("-")[0])]
    values = [value for value in chosen if value is not None]
    return sum(values) / len(values) if values else None


def _step_seconds(log: Path) -> float | None:
    """Seconds of a step, from the last line of the log of losses."""
    with suppress(OSError, ValueError, KeyError):
        seconds = json.loads(last_line(read_tail(log)))["step_s"]
        return None if seconds is None else float(seconds)
    return None
