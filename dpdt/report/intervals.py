"""The models' bootstrap draws. They are shared by all models, so sums and differences are taken draw by draw."""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import pandas as pd

from dpdt.evaluation.metrics import percentile_interval
from dpdt.evaluation.metrics.bootstrap import Floats
from dpdt.runs.read import model_runs
from dpdt.study import BEFORE, Study, is_before

__all__ = ["NO_DRAWS", "UNKNOWN", "DrawKey", "Draws", "Interval"]


class DrawKey(NamedTuple):
    """One number of one arm's model on one test domain; every train domain names the one model before."""

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

    @property
    def excludes_0(self) -> bool:
        """Whether all of it lies on one side of 0; False where there is none."""
        return self.low > 0 or self.high < 0

    def within(self, margin: float) -> bool:
        """Whether all of it lies within ± a margin; False where there is none."""
        return -margin < self.low and self.high < margin


UNKNOWN: Final = Interval()
Keys = Sequence[DrawKey]


class Draws:
    """Draws by key; of several seeds their mean, draw by draw. Empty where there are none."""

    def __init__(self, found: dict[DrawKey, Floats], confidence: float) -> None:
        self._found = found
        self.confidence = confidence

    @classmethod
    def of(cls, study: Study) -> "Draws":
        """All draws of the evaluated runs of a study's view."""
        study = study.one_view()
        sums: dict[DrawKey, tuple[int, Floats]] = {}
        for cell, run in model_runs(study).items():
            try:
                table = pd.read_parquet(run.paths.draws) if run and run.paths.metrics.exists() else None
            except (OSError, ValueError):
                table = None  # `dpdt evaluate` repairs it; the numbers themselves are in metrics.parquet
            if table is None:
                continue
            names = (table[name].tolist() for name in ("test_domain", "label", "subgroup", "metric"))
            for *rest, draws in zip(*names, table["draws"].tolist(), strict=True):
                key = DrawKey(cell.target_epsilon, cell.domain, *rest)
                count, total = sums.get(key, (0, 0.0))
                sums[key] = (count + 1, total + draws.astype(np.float64))
        return cls({key: total / count for key, (count, total) in sums.items()}, study.evaluate.confidence)

    def __bool__(self) -> bool:
        """Whether there are any: a published table has none."""
        return bool(self._found)

    def mean(self, keys: Keys, *, minus: Keys = ()) -> Interval:
        """Interval of the mean over `keys`, less the mean over `minus`; none if there is no key or one has no draws."""
        values, less = self._mean(keys), self._mean(minus) if minus else 0.0
        return UNKNOWN if values is None or less is None else self._interval(values - less)

    def share(self, part: Keys, *, start: Keys, whole: Keys) -> tuple[Interval, Interval]:
        """Interval of (part - start) / (whole - start), each the mean over its keys, and that of the denominator.

        The first is unknown where the second holds 0: a quotient by what may be nothing has no bounds.
        """
        kept, base, most = (self._mean(keys) for keys in (part, start, whole))
        if kept is None or base is None or most is None:
            return UNKNOWN, UNKNOWN
        denominator = self._interval(most - base)
        if not denominator.excludes_0:
            return UNKNOWN, denominator
        with np.errstate(divide="ignore", invalid="ignore"):
            return self._interval((kept - base) / (most - base)), denominator

    def _interval(self, values: Floats) -> Interval:
        return Interval(*percentile_interval(values, self.confidence)[:2])

    def _mean(self, keys: Keys) -> Floats | None:
        own = [key._replace(train_domain=BEFORE) if is_before(key.target_epsilon) else key for key in keys]
        found = [self._found[key] for key in own if key in self._found]
        if not keys or len(found) < len(keys):
            return None
        mean: Floats = np.mean(found, axis=0)
        return mean


NO_DRAWS: Final = Draws({}, 0.95)
"""Of a published table; the confidence is what such tables have most often."""
