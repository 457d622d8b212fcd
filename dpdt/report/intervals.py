"""The models' bootstrap draws. They are shared by all models, so sums and differences are taken draw by draw."""

import math
from collections.abc import Iterable
from typing import Final, NamedTuple

import numpy as np
import pandas as pd

from dpdt.evaluation.metrics import percentile_interval
from dpdt.evaluation.metrics.bootstrap import Floats
from dpdt.runs.read import cell_runs
from dpdt.study import Study

__all__ = ["UNKNOWN", "DrawKey", "Draws", "Interval"]


class DrawKey(NamedTuple):
    """One number of one arm's model on one test domain."""

    target_epsilon: float
    train_domain: str
    test_domain: str
    label: str
    subgroup: str
    metric: str


class Interval(NamedTuple):
    """Bounds; NaN where there are none."""

    low: float = math.nan
    high: float = math.nan


UNKNOWN: Final = Interval()


class Draws:
    """Draws by key; of several seeds their mean, draw by draw. Empty where there are none."""

    def __init__(self, found: dict[DrawKey, Floats], confidence: float) -> None:
        self._found = found
        self._confidence = confidence

    @classmethod
    def of(cls, study: Study) -> "Draws":
        """All draws of a study's evaluated runs."""
        seeds: dict[DrawKey, list[Floats]] = {}
        for cell, run in cell_runs(study).items():
            try:
                table = pd.read_parquet(run.paths.draws) if run and run.paths.metrics.exists() else None
            except (OSError, ValueError):
                table = None  # `dpdt evaluate` repairs it; the numbers themselves are in metrics.parquet
            if table is None:
                continue
            for row in table.itertuples():
                key = DrawKey(
                    cell.target_epsilon,
                    cell.domain,
                    *(str(getattr(row, name)) for name in ("test_domain", "label", "subgroup", "metric")),
                )
                seeds.setdefault(key, []).append(np.asarray(row.draws, dtype=np.float64))
        return cls({key: np.mean(found, axis=0) for key, found in seeds.items()}, study.evaluate.confidence)

    def mean(self, keys: Iterable[DrawKey], *, minus: Iterable[DrawKey] = ()) -> Interval:
        """Interval of the mean over `keys`, less the mean over `minus`; none if any has no draws."""
        parts = [self._mean(list(keys))]
        subtracted = list(minus)
        if subtracted:
            parts.append(self._mean(subtracted))
        if any(part is None for part in parts):
            return UNKNOWN
        values = [part for part in parts if part is not None]
        low, high, _ = percentile_interval(values[0] - values[1] if subtracted else values[0], self._confidence)
        return Interval(low, high)

    def _mean(self, keys: list[DrawKey]) -> Floats | None:
        found = [self._found[key] for key in keys if key in self._found]
        if not keys or len(found) < len(keys):
            return None
        mean: Floats = np.mean(found, axis=0)
        return mean
