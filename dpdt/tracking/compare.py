"""Runs side by side, as MLflow's compare page shows them, from the run folders themselves."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from dpdt.base.console import show_table
from dpdt.errors import StudyError
from dpdt.evaluation.metrics import AVERAGE
from dpdt.runs.read import Run, all_runs, run_in
from dpdt.study import Study
from dpdt.study.paths import RunPaths
from dpdt.tracking.metrics import STEP_METRICS
from dpdt.tracking.payload import Payload, payload

__all__ = ["compare_rows", "find_compared", "show_comparison"]

LABELS_TAG: Final = "dpdt.labels."
KINDS = ("parameter", "metric")
FIRST: Final = re.compile(rf"epsilon|auc|auc_\w+|auc/[^/]+/{AVERAGE}")
"""Metrics that come first where they are shown."""


def find_compared(names: Sequence[str], study: Study | None) -> list[Run]:
    """Find runs by folder, id or name.

    Args:
        names: Run folders, or parts of run ids or of names such as ``padchest · no DP``.
        study: Where the ids are looked for; None if all are folders.

    Raises:
        StudyError: Nothing fits a name, or fewer than two runs are left.
    """
    known = all_runs(study) if study else []
    found: dict[Path, Run] = {}
    for name in names:
        folder = Path(name)
        here = run_in(RunPaths(folder.resolve())) if folder.is_dir() else None
        fitting = [here] if here else [run for run in known if name in run.run_id or name in run.title]
        if not fitting:
            there = ", ".join(run.run_id for run in known) or "none"
            raise StudyError(f"{name}: neither a run folder nor a part of a run's name. Runs: {there}.")
        found.update((run.paths.folder.resolve(), run) for run in fitting)
    if len(found) < 2:
        raise StudyError(f"{' '.join(names)}: expected at least two runs to compare, found {len(found)}.")
    return list(found.values())


def compare_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """A row for each parameter that differs and for each metric: kind, name, and each run's value (None: it has none).

    A macro AUC that is not of the same labels everywhere has `labels` beside it, each run's own; `auc_common` and
    `auc_off_domain_common` are over those that all test domains share.

    Args:
        runs: Two or more runs.
    """
    sent = [payload(run) for run in runs]
    params = _rows("parameter", [one.params for one in sent])
    metrics = _rows("metric", [_latest(one) for one in sent])
    for row in metrics:
        labels = [_labels(run, one, row["name"]) for run, one in zip(runs, sent, strict=True)]
        if any(labels):
            row["labels"] = labels
    return [row for row in params if len(set(row["values"])) > 1] + metrics


def _labels(run: Run, sent: Payload, name: str) -> str | None:
    """The labels of a macro AUC, where a run's test domains differ in them; None of other metrics."""
    of = {tag.removeprefix(LABELS_TAG): text for tag, text in sent.tags.items() if tag.startswith(LABELS_TAG)}
    if name == "auc" and run.domain in of:
        return of[run.domain]
    if name in ("auc", "auc_off_domain") and of:
        return "; ".join(f"{domain}: {text}" for domain, text in of.items() if domain != run.domain)
    first, *rest = name.split("/")
    return of.get(rest[0]) if first == "auc" and rest[1:] == [AVERAGE] else None


def _rows(kind: str, tables: Sequence[Mapping[str, object]]) -> list[dict[str, Any]]:
    names = dict.fromkeys(name for table in tables for name in table)
    return [{"kind": kind, "name": name, "values": [table.get(name) for table in tables]} for name in names]


def _latest(sent: Payload) -> dict[str, float]:
    """Each metric's last value, as MLflow shows it: what the training spent and lost first, then the evaluation."""
    last: dict[str, float] = {}
    for point in sorted(sent.points, key=lambda point: (point.step, point.time_ms)):
        last[point.key] = point.value
    ordered = dict.fromkeys((*STEP_METRICS, *(point.key for point in sent.points)))
    return {key: last[key] for key in ordered if key in last}


def show_comparison(runs: Sequence[Run]) -> None:
    """Print the rows of `compare_rows` as tables, those that matter most first; of two runs with their difference."""
    rows = compare_rows(runs)
    pair = len(runs) == 2
    for kind in KINDS:
        chosen = sorted((row for row in rows if row["kind"] == kind), key=lambda row: not FIRST.fullmatch(row["name"]))
        title = "parameters that differ" if kind == "parameter" else "metrics"
        columns = ("", *(run.title for run in runs), *(["second minus first"] if pair and kind == "metric" else []))
        lines = []
        for row in chosen:
            star = " *" if "labels" in row else ""
            lines.append((row["name"] + star, *_texts(row["values"], difference=pair and kind == "metric")))
        show_table(title, columns, lines)
    averages = [row for row in rows if "labels" in row and row["name"].endswith(f"/{AVERAGE}")]
    if averages:
        print("* means over other labels; auc_common and auc_off_domain_common are over those that all domains share:")
        for row in averages:
            print(f"  {row['name'].split('/')[1]}: {next(filter(None, row['labels'])).replace(',', ', ')}")


def _texts(values: Sequence[object], *, difference: bool) -> list[str]:
    """A row's cells, all with the digits that its largest number has in four."""
    numbers = [float(value) for value in values if isinstance(value, int | float)]
    largest = max((abs(number) for number in numbers), default=0.0)
    digits = max(0, 3 - (math.floor(math.log10(largest)) if largest else 0))
    texts = [f"{v:.{digits}f}" if isinstance(v, int | float) else "–" if v is None else str(v) for v in values]
    if difference:
        texts.append(f"{numbers[1] - numbers[0]:+z.{digits}f}" if len(numbers) == len(values) else "–")
    return texts
