"""What MLflow gets about a run: plain data, made from the run folder without MLflow, so that it can be checked.

Only settings that are listed here, numbers and the privacy statement leave the study's folder: no image or patient id,
no path, no predictions, no weights.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, Final

import pandas as pd
import pyarrow as pa
from pyarrow import csv

from dpdt.base.files import exclusive_lock, file_state, fingerprint
from dpdt.bundle.card import markdown_card, plain_markdown, run_card
from dpdt.runs.read import Run
from dpdt.study import BEFORE, arm_name, format_epsilon, is_before
from dpdt.tracking.metrics import Point, final_values, macro_labels, milliseconds, step_values
from dpdt.tracking.system_metrics import system_values

__all__ = ["FORMAT", "RETIRED_TAGS", "RUN_ID_TAG", "Payload", "payload", "run_status", "signature", "started_ms"]

RUN_ID_TAG: Final = "dpdt.run_id"
FORMAT: Final = 6  # of what is sent; a higher one sends everything again
# Sent in plain by former versions: hashes of private data, which the next sync removes.
RETIRED_TAGS: Final = ("dpdt.cohort_sha256", "dpdt.shards_sha256")
CARD_RESULTS: Final = ("auc", "auc_off_domain", "audit/epsilon_lower")
QUIET_SECONDS: Final = 60.0
SECTIONS: Final = ("train", "privacy", "model", "shards", "pretrain", "evaluate")
OMITTED: Final = ("domains", "seeds", "target_epsilons", "init_weights")  # given in another way, or a path
STATUS: Final = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED", "running": "RUNNING"}


@dataclass(frozen=True)
class Payload:
    """Everything that MLflow gets about one run."""

    name: str
    status: str
    started_ms: int
    ended_ms: int
    params: dict[str, str]
    tags: dict[str, str]
    points: list[Point]
    texts: dict[str, str] = field(default_factory=dict)  # artifacts by name


def run_status(run: Run) -> str:
    """MLflow's word for a run's status: a run that says `running` but has no locked lock file was killed."""
    status = STATUS.get(run.status, "RUNNING")
    silent = time.time() - float(run.state.get("updated") or 0) > QUIET_SECONDS
    # The lock is tried only after a silence, so that a training that begins now is not disturbed.
    return "KILLED" if status == "RUNNING" and silent and _lock_is_free(run) else status


def _lock_is_free(run: Run) -> bool:
    if not run.paths.lock.exists():
        return True
    try:
        with exclusive_lock(run.paths.lock, blocking=False):
            return True
    except BlockingIOError:
        return False


def signature(run: Run) -> str:
    """Changes whenever there is news of a run; cheap."""
    paths = run.paths
    files = (paths.config, paths.state, paths.metrics_log, paths.system_log, paths.privacy, paths.audit, paths.metrics)
    states = [file_state(file) for file in files]
    return fingerprint([FORMAT, run_status(run), paths.saved_step, states])[:16]


def payload(run: Run) -> Payload:
    """Read a run folder: what MLflow gets about the run.

    Args:
        run: A run that has begun.
    """
    steps = run.steps()
    times = [float(step["time"]) for step in steps]
    updated = float(run.state.get("updated") or (times[-1] if times else run.paths.config.stat().st_mtime))
    started = _started(steps, updated)
    statement = run.privacy() or {}
    values, gaps = step_values(run, _kept(run, steps))
    system = system_values(run.paths)
    final, undefined = final_values(run, updated, taken=len({point.key for point in system}))
    reasons = {f"{name}.undefined": why[:500] for name, why in {**gaps, **undefined}.items()}
    table = run.metrics()
    labels = {} if table is None else {f"dpdt.labels.{name}": text for name, text in macro_labels(table).items()}
    auc = next((f"{point.value:.3f}" for point in final if point.key == "auc"), "")
    tags = {**_tags(run, statement), "dpdt.auc": auc, "dpdt.hours": f"{_hours(steps):.3g}", **labels, **reasons}
    texts = {}
    if statement and run.kind != "bundle":
        shown = [(point.key, f"{point.value:.3f}") for point in final if point.key in CARD_RESULTS]
        texts["model/README.md"] = markdown_card(run_card(run, shown))
    if table is not None:
        texts["metrics.csv"] = _metrics_csv(table)
    return Payload(
        name=run.title,
        status=run_status(run),
        started_ms=milliseconds(started),
        ended_ms=milliseconds(updated),
        params=_params(run),
        tags={key: value for key, value in tags.items() if value},
        points=[*final, *values, *system],  # MLflow's charts begin with the metric that came first
        texts=texts,
    )


def _kept(run: Run, steps: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Steps that stay: a killed training goes back to its newest checkpoint, and MLflow deletes no value."""
    if run.state.get("status") == "finished":
        return list(steps)
    saved = run.paths.saved_step or 0
    return [step for step in steps if int(step["step"]) <= saved]


def started_ms(run: Run) -> int:
    """When a run's first step began, or when it last changed if it has taken none."""
    updated = float(run.state.get("updated") or run.paths.config.stat().st_mtime)
    return milliseconds(_started(run.steps()[:1], updated))


def _started(steps: Sequence[Mapping[str, Any]], updated: float) -> float:
    return float(steps[0]["time"]) - float(steps[0].get("step_s") or 0) if steps else updated


def _hours(steps: Sequence[Mapping[str, Any]]) -> float:
    """Time spent in the logged steps; waits in a queue and between attempts are not in it."""
    seconds, before = 0.0, 0
    for line in steps:
        seconds += (int(line["step"]) - before) * float(line.get("step_s") or 0)
        before = int(line["step"])
    return seconds / 3600


def _params(run: Run) -> dict[str, str]:
    """Settings, in names that MLflow's pages sort so that what differs between the runs of a study comes first.

    Its compare page plots over the first ones: `target_epsilon`, then `train_domain`, then those below `training.`;
    the study's other settings are below `using.`. A value that a run does not have is left out: "none" among numbers
    would make their axis one of words.
    """
    config, data = run.config, run.config.get("data", {})
    first = {
        "target_epsilon": format_epsilon(run.target_epsilon),
        "train_domain": run.domain,
        **{f"training.{axis}": value for axis, value in run.cell.recorded.items()},
        "training.images": data.get("images"),
        "training.labels": ", ".join(config.get("labels", ())) or None,
        "training.noise_multiplier": config.get("noise_multiplier"),
        "training.num_steps": config.get("num_steps"),
        "training.privacy_unit": run.unit if run.private else "none",
        "training.sample_rate": config.get("sample_rate"),
        "training.seed": run.seed,
        "training.units": data.get("units"),
    }
    rest = {
        f"using.{section}.{key}": "none" if value is None else value
        for section in SECTIONS
        for key, value in config.get("settings", {}).get(section, {}).items()
        if key not in OMITTED
    }
    return {key: _parameter_text(value) for key, value in {**first, **rest}.items() if value is not None}


def _parameter_text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _tags(run: Run, statement: Mapping[str, Any]) -> dict[str, str]:
    """Tags to search and filter by, and the statement in words as the run's description."""
    config, data = run.config, run.config.get("data", {})
    versions = dict(config.get("versions", {}))
    epsilon, delta = (statement.get(key) if run.private else None for key in ("epsilon", "delta"))
    return {
        RUN_ID_TAG: run.run_id,
        "dpdt.kind": run.kind,
        "dpdt.arm": "DP" if run.private else arm_name(run.target_epsilon),
        "dpdt.train_domain": run.domain,
        **{f"dpdt.{axis}": _parameter_text(value) for axis, value in run.cell.recorded.items()},
        "dpdt.epsilon": "" if epsilon is None else _parameter_text(epsilon),
        "dpdt.delta": "" if delta is None else _parameter_text(delta),
        "dpdt.privacy_unit": run.unit if run.private else "none",
        "dpdt.synthetic": str(bool(config.get("synthetic"))).lower(),
        "dpdt.cohort_hmac": str(data.get("split_hmac", "")),
        "dpdt.shards_hmac": str(data.get("manifest_hmac", "")),
        "dpdt.image": str(versions.pop("image", "")),
        "dpdt.device": str(config.get("device", "")),
        "mlflow.source.git.commit": str(versions.get("commit", "")).removesuffix("-dirty"),
        **{f"dpdt.version.{name}": str(version) for name, version in versions.items()},
        "mlflow.source.name": "dpdt",
        "mlflow.source.type": "JOB",
        "mlflow.note.content": _description(run, statement),
    }


def _description(run: Run, statement: Mapping[str, Any]) -> str:
    """The run's description in MLflow (Markdown): the privacy statement in words."""
    words = str(statement.get("paragraph") or "There is no privacy statement yet.")
    words = plain_markdown(words) if run.kind == "bundle" else words  # another house's
    if is_before(run.target_epsilon):
        given = f"Weights of {run.config['initial_weights']['source']}." if run.kind == BEFORE else words
        words = f"The model before all trainings: it has seen no private patient, so its epsilon is 0. {given}"
    return ("**Synthetic data.** " if run.config.get("synthetic") else "") + words


def _metrics_csv(table: pd.DataFrame) -> str:
    """All metrics, for those that are beyond MAX_METRIC_KEYS."""
    stream = BytesIO()
    csv.write_csv(pa.Table.from_pandas(table, preserve_index=False), stream)  # twenty times as fast as pandas
    return stream.getvalue().decode()
