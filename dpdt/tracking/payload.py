"""What MLflow is told about a run: plain data, made from the run folder without MLflow, so that it can be checked.

Only settings that are listed here, numbers and the privacy statement leave the study's folder: no image or patient id,
no path, no predictions.
"""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import pandas as pd

from dpdt.files import exclusive_lock, fingerprint
from dpdt.metrics import ALL, AVERAGE, PAPER
from dpdt.results import Run
from dpdt.study import format_epsilon
from dpdt.vocabulary import LABELS, SUBGROUPS

__all__ = ["FORMAT", "MAX_METRIC_KEYS", "RUN_ID_TAG", "Payload", "Point", "payload", "run_status", "signature"]

RUN_ID_TAG: Final = "dpdt.run_id"
MAX_METRIC_KEYS: Final = 150  # more columns make the compare page unusable
MAX_POINTS: Final = 1000  # of one chart
FORMAT: Final = 1  # of what is sent; a higher one sends everything again
QUIET_SECONDS: Final = 60.0
SECTIONS: Final = ("train", "privacy", "model", "shards", "pretrain", "evaluate")
OMITTED: Final = ("domains", "seeds", "target_epsilons", "init_weights")  # said otherwise, or a path
STEP_METRICS: Final = ("epsilon", "loss", "step_s")
STATUS: Final = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED", "running": "RUNNING"}


class Point(NamedTuple):
    """One value of one metric."""

    key: str
    value: float
    time_ms: int
    step: int


@dataclass(frozen=True)
class Payload:
    """Everything that MLflow shall know about one run."""

    name: str
    status: str
    started_ms: int
    ended_ms: int
    params: dict[str, str]
    tags: dict[str, str]
    points: list[Point]
    texts: dict[str, str] = field(default_factory=dict)  # artifacts by name


def run_status(run: Run) -> str:
    """MLflow's word for how a run is: a run that says `running` but that nobody holds the lock of was killed."""
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
    files = (paths.config, paths.state, paths.metrics_log, paths.privacy, paths.metrics, paths.audit)
    stats = [(file.stat().st_size, file.stat().st_mtime_ns) if file.exists() else None for file in files]
    return fingerprint([FORMAT, run_status(run), stats])[:16]


def payload(run: Run) -> Payload:
    """Read a run folder and say what MLflow shall know.

    Args:
        run: A run that has begun.
    """
    steps = run.steps()
    times = [float(step["time"]) for step in steps]
    updated = float(run.state.get("updated") or (times[-1] if times else run.paths.config.stat().st_mtime))
    started = times[0] - float(steps[0].get("step_s") or 0) if times else updated
    statement = run.privacy() or {}
    values = _step_values(steps, int(run.config.get("num_steps") or 0))
    final, undefined = _final_values(run, updated)
    texts = {"metrics.csv": _metrics_csv(run)} if run.paths.metrics.exists() else {}
    tags = {**_tags(run, statement), **{f"{name}.undefined": why[:500] for name, why in undefined.items()}}
    return Payload(
        name=run.title,
        status=run_status(run),
        started_ms=_ms(started),
        ended_ms=_ms(updated),
        params=_params(run),
        tags={key: value for key, value in tags.items() if value},
        points=[*final, *_audit_values(run), *values],  # MLflow's charts begin with the metric that came first
        texts={name: text for name, text in texts.items() if text},
    )


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _params(run: Run) -> dict[str, str]:
    """Those that tell the runs of a study apart first, then the other settings as `section.key`."""
    config = run.config
    data = config.get("data", {})
    first = {
        "train_domain": run.domain,
        "privacy_unit": run.unit if run.private else "none",
        "target_epsilon": format_epsilon(run.target_epsilon),
        "seed": run.seed,
        "noise_multiplier": config.get("noise_multiplier"),
        "sample_rate": config.get("sample_rate"),
        "num_steps": config.get("num_steps"),
        "units": data.get("units"),
        "images": data.get("images"),
    }
    rest = {
        f"{section}.{key}": value
        for section in SECTIONS
        for key, value in config.get("settings", {}).get(section, {}).items()
        if key not in OMITTED
    }
    return {key: _text(value) for key, value in {**first, **rest}.items()}


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else str(value)


def _tags(run: Run, statement: Mapping[str, Any]) -> dict[str, str]:
    """What people look for or filter by, and the statement in words as the run's description."""
    config, data = run.config, run.config.get("data", {})
    versions = config.get("versions", {})
    epsilon = statement.get("epsilon") if run.private else None
    private = {
        "dpdt.epsilon": _text(epsilon) if epsilon is not None else "",
        "dpdt.delta": _text(statement.get("delta")) if run.private else "",
        "dpdt.privacy_unit": run.unit if run.private else "none",
    }
    return {
        RUN_ID_TAG: run.run_id,
        "dpdt.kind": run.kind,
        "dpdt.arm": "DP" if run.private else "no DP",
        "dpdt.train_domain": run.domain,
        **private,
        "dpdt.synthetic": str(bool(config.get("synthetic"))).lower(),
        "dpdt.split_sha256": str(data.get("split_sha256", "")),
        "dpdt.manifest_sha256": str(data.get("manifest_sha256", "")),
        **{f"dpdt.version.{name}": str(version) for name, version in versions.items()},
        **({} if run.private else {"epsilon.undefined": "trained without DP"}),
        "mlflow.source.name": "dpdt",
        "mlflow.source.type": "JOB",
        "mlflow.note.content": _note(run, statement),
    }


def _note(run: Run, statement: Mapping[str, Any]) -> str:
    """The run's description in MLflow (Markdown): the privacy statement in words."""
    words = str(statement.get("paragraph") or "There is no privacy statement yet.")
    return ("**Synthetic data.** " if run.config.get("synthetic") else "") + words


def _step_values(steps: list[dict[str, Any]], num_steps: int) -> list[Point]:
    """Epsilon, loss and step time over steps: about MAX_POINTS each at most, always the same ones of a longer log."""
    stride = max(1, math.ceil(num_steps / MAX_POINTS))
    points: list[Point] = []
    bucket = -1
    for line in steps:
        step = int(line["step"])
        if step // stride == bucket and step != num_steps:
            continue
        bucket = step // stride
        for key in STEP_METRICS:
            value = line.get(key)
            if value is not None and math.isfinite(value):
                points.append(Point(key, float(value), _ms(float(line["time"])), step))
    return points


def _final_values(run: Run, updated: float) -> tuple[list[Point], dict[str, str]]:
    """Values of the evaluation as metrics, and the reasons of those that are undefined."""
    table = run.metrics()
    if table is None:
        return [], {}
    when = _ms(max(updated, run.paths.metrics.stat().st_mtime))  # after a former evaluation's, so that it is the latest
    step = int(run.state.get("step") or 0)
    points, undefined = [], {}
    room = MAX_METRIC_KEYS - len(STEP_METRICS) - len(_audit_values(run))
    for number, (name, value, reason) in enumerate(_named_values(run, table)):
        if number >= room:
            break  # the artifact metrics.csv has all
        if math.isfinite(value):
            points.append(Point(name, value, when, step))
        else:
            undefined[name] = reason or "undefined"
    return points, undefined


def _audit_values(run: Run) -> list[Point]:
    """What `dpdt audit` found: the lower bound on epsilon and the membership AUC."""
    found = run.audit()
    if found is None:
        return []
    values = {
        "audit/epsilon_lower": (found["canaries"] or {}).get("epsilon_lower"),
        "audit/membership_auc": found["membership"]["auc"],
        "audit/refuted": float(found["refuted"]),
    }
    step = int(run.state.get("step") or 0)
    return [Point(name, float(v), _ms(float(found["made"])), step) for name, v in values.items() if v is not None]


def _named_values(run: Run, table: pd.DataFrame) -> Iterator[tuple[str, float, str]]:
    """Name, value and reason of the evaluation's metrics, the most wanted first."""
    keyed = {
        (str(row["test_domain"]), str(row["label"]), str(row["subgroup"]), str(row["metric"])): row
        for row in table[(table["split"] == "test") & (table["protocol"] != PAPER)].to_dict("records")
    }
    domains = list(dict.fromkeys(key[0] for key in keyed))

    def value(domain: str, label: str, subgroup: str = ALL, metric: str = "auc") -> tuple[float, str]:
        row = keyed.get((domain, label, subgroup, metric))
        return (float(row["value"]), str(row["reason"])) if row else (math.nan, "not evaluated")

    if run.domain in domains:
        yield "on_domain_auc", *value(run.domain, AVERAGE)
    elsewhere = [v for v, _ in (value(d, AVERAGE) for d in domains if d != run.domain) if math.isfinite(v)]
    if len(domains) > (run.domain in domains):
        mean = sum(elsewhere) / len(elsewhere) if elsewhere else math.nan
        yield "off_domain_auc", mean, "no other domain has a defined AUC"
    for domain in domains:
        for label in (AVERAGE, *LABELS):
            yield f"auc/{domain}/{label}", *value(domain, label)
    for domain in domains:
        for subgroup in SUBGROUPS:
            yield f"auc/{domain}/{AVERAGE}/{subgroup}", *value(domain, AVERAGE, subgroup)
    for metric in ("accuracy", "sensitivity", "specificity"):
        for domain in domains:
            yield f"{metric}/{domain}", *value(domain, AVERAGE, metric=metric)


def _metrics_csv(run: Run) -> str:
    """All metrics, for those that are beyond MAX_METRIC_KEYS."""
    table = run.metrics()
    return "" if table is None else str(table.to_csv(index=False, float_format="%.6g"))
