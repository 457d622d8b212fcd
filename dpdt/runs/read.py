"""Reading run folders, for code that only shows them: the report and MLflow."""

import json
import math
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from dpdt.base.files import read_json
from dpdt.runs.state import read_state
from dpdt.study import BEFORE, Cell, Study, arm_name, axes_name
from dpdt.study.paths import RunPaths

__all__ = ["Run", "all_runs", "is_synthetic", "model_runs", "read_run", "run_in"]


@dataclass(frozen=True)
class Run:
    """One run folder, read at one moment."""

    paths: RunPaths
    config: dict[str, Any]
    state: dict[str, Any]

    @property
    def run_id(self) -> str:
        """The folder's name."""
        return self.paths.run_id

    @property
    def kind(self) -> str:
        """`train`, `pretrain`, `before` (given weights), `audit` (a twin) or `bundle` (another hospital's)."""
        return str(self.config.get("kind", "train"))

    @property
    def domain(self) -> str:
        """The domain that it was trained on."""
        return str(self.config["domain"])

    @property
    def seed(self) -> int:
        """The training's seed."""
        return int(self.config.get("seed") or 0)

    @property
    def initial(self) -> str:
        """The start of the training; "" in a study without `[initial.<name>]`."""
        return str(self.config.get("initial", ""))

    @property
    def fraction(self) -> float:
        """Of the domain's train patients."""
        return float(self.config.get("fraction", 1.0))

    @property
    def target_epsilon(self) -> float:
        """The wanted epsilon; infinity without DP, 0 where no private patient was seen."""
        if self.kind in ("pretrain", "before"):
            return 0.0
        value = self.config.get("target_epsilon")
        return math.inf if value is None else float(value)

    @property
    def cell(self) -> Cell:
        """Which model it is."""
        return Cell(self.domain, self.target_epsilon, self.seed, self.initial, self.fraction)

    @property
    def private(self) -> bool:
        """Whether it was trained with DP."""
        return 0 < self.target_epsilon < math.inf

    @property
    def unit(self) -> str:
        """The privacy unit."""
        return str(self.config.get("settings", {}).get("privacy", {}).get("unit", "unknown"))

    @property
    def status(self) -> str:
        """`running`, `interrupted`, `finished` or `failed`, as the training last wrote it."""
        return str(self.state.get("status", "running"))

    @property
    def title(self) -> str:
        """Name for people, e.g. ``padchest · patient ε=1 · seed 0``."""
        axes = axes_name(self.initial, self.fraction, comma=" · ")
        start = f"{axes} · " if axes else ""
        if self.kind == "pretrain":
            return f"{self.domain} · {start}public pretraining ({BEFORE}) · seed {self.seed}"
        if self.kind == "before":
            return f"{BEFORE} · {start}{self.config['initial_weights']['source']}"
        twin = "audit twin · " if self.kind == "audit" else ""
        arm = arm_name(self.target_epsilon, prefix=f"{self.unit} ε=")
        return f"{twin}{self.domain} · {start}{arm} · seed {self.seed}"

    @property
    def why_not_tested(self) -> str:
        """Of a model before all trainings: why it cannot be tested; "" where it can be."""
        return str(self.config.get("why_not", ""))

    def privacy(self) -> dict[str, Any] | None:
        """The privacy statement; None as long as there is none."""
        if not self.paths.privacy.exists():
            return None
        statement: dict[str, Any] = read_json(self.paths.privacy)
        return statement

    def audit(self) -> dict[str, Any] | None:
        """What `dpdt audit` found; None as long as it was not run."""
        if not self.paths.audit.exists():
            return None
        found: dict[str, Any] = read_json(self.paths.audit)
        return found

    def steps(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a last line that is still being written is left out."""
        if not self.paths.metrics_log.exists():
            return []
        steps = []
        for line in self.paths.metrics_log.read_text(encoding="utf-8").splitlines():
            try:
                steps.append(json.loads(line))
            except json.JSONDecodeError:
                continue  # torn by a crash, or being written at this moment
        return steps

    def metrics(self, *rows: Any) -> pd.DataFrame | None:
        """The evaluation's metrics; None if there are none yet or their file is damaged: see `dpdt evaluate`.

        Args:
            rows: Only those, as filters of Parquet: tuples that all hold, or lists of them of which one holds.
        """
        try:
            return pd.read_parquet(self.paths.metrics, filters=list(rows) or None)
        except (OSError, ValueError):
            return None

    def metrics_footer(self) -> "pq.FileMetaData | None":
        """Number and columns of the rows of `metrics`, without reading them."""
        try:
            return pq.read_metadata(self.paths.metrics)
        except (OSError, ValueError):
            return None


def read_run(study: Study, run_id: str) -> Run | None:
    """One run; None if it has not begun."""
    return run_in(study.paths.run(run_id))


def run_in(paths: RunPaths) -> Run | None:
    """The run in a folder; None if none has begun there."""
    if not paths.config.exists():
        return None
    return Run(paths, read_json(paths.config), read_state(paths) or {})


def model_runs(study: Study) -> dict[Cell, Run | None]:
    """The run of every model that the study file asks for; None where it has not begun.

    Other hospitals' models come last, each under the hospital that trained it, once their test has begun.
    """
    found = {cell: read_run(study, study.run_id(cell)) for cell in study.tested_models()}
    for view in study.views:
        carried = filter(None, (read_run(view, run_id) for run_id in view.carried))
        found |= {run.cell._replace(initial=view.start, fraction=view.fraction): run for run in carried}
    return found


def all_runs(study: Study) -> list[Run]:
    """Every run in the study's folder, pretraining and former settings included, by name."""
    if not study.paths.runs.is_dir():
        return []
    runs = (read_run(study, folder.name) for folder in sorted(study.paths.runs.iterdir()) if folder.is_dir())
    return [run for run in runs if run is not None]


def is_synthetic(study: Study) -> bool:
    """Whether anything that the study rests on says that it is synthetic."""
    files = [study.paths.cohort_record(domain) for domain in study.domains]
    files += [study.paths.shards(domain).manifest for domain in study.domains]
    records = [read_json(file) for file in files if file.exists()]
    return any(record.get("synthetic") for record in [*records, *(run.config for run in all_runs(study))])
