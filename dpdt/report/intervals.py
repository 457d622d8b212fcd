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
                count, total = sums.get(key, (0, np.zeros(len(draws))))
                same = len(draws) == len(total)  # not where one seed was evaluated with another number of draws
                sums[key] = (count + 1, total + draws.astype(np.float64) if same else np.empty(0))
        means = {key: total / count for key, (count, total) in sums.items() if len(total)}
        return cls(means, study.evaluate.confidence)

    def __bool__(self) -> bool:
        """Whether there are any: a published table has none."""
        return bool(self._found)

    def mean(self, keys: Keys, *, minus: Keys = ()) -> Interval:
        """Interval of the mean over `keys`, less the mean over `minus`; none where `_means` has none."""
        found = self._means(keys, minus) if minus else self._means(keys)
        if found is None:
            return UNKNOWN
        return self._interval(found[0] - found[1] if minus else found[0])

    def share(self, part: Keys, *, start: Keys, whole: Keys) -> tuple[Interval, Interval]:
        """Interval of (part - start) / (whole - start), each the mean over its keys, and that of the denominator.

        The first is unknown where the second holds 0: a quotient by what may be nothing has no bounds.
        """
        found = self._means(part, start, whole)
        if found is None:
            return UNKNOWN, UNKNOWN
        kept, base, most = found
        denominator = self._interval(most - base)
        if not denominator.excludes_0:
            return UNKNOWN, denominator
        with np.errstate(divide="ignore", invalid="ignore"):
            return self._interval((kept - base) / (most - base)), denominator

    def _interval(self, values: Floats) -> Interval:
        return Interval(*percentile_interval(values, self.confidence)[:2])

    def _means(self, *parts: Keys) -> list[Floats] | None:
        """Mean of each part; None where a part is empty, a key has no draws, or one has another number of them.

        Their number differs between models that were evaluated before and after a change of `bootstrap_draws`.
        """
        own = [
            [key._replace(train_domain=BEFORE) if is_before(key.target_epsilon) else key for key in keys]
            for keys in parts
        ]
        if not all(own) or any(key not in self._found for keys in own for key in keys):
            return None
        found = [[self._found[key] for key in keys] for keys in own]
        if len({len(draws) for of_part in found for draws in of_part}) > 1:
            return None
        return [np.mean(of_part, axis=0) for of_part in found]


NO_DRAWS: Final = Draws({}, 0.95)
"""Of a published table; the confidence is what such tables have most often."""
