"""One number of a table of metrics with its bootstrap draws, and the mean of such numbers over labels."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from dpdt.evaluation.metrics.bootstrap import Floats
from dpdt.evaluation.metrics.names import Threshold

__all__ = ["Cell", "average", "threshold_reason", "undefined_cell"]


class Cell(NamedTuple):
    """One metric of one label in one subgroup, with its bootstrap distribution."""

    value: float
    draws: Floats
    n: int
    n_positive: int | None
    reason: str


def undefined_cell(reason: str, *, draws: int, n: int) -> Cell:
    """A cell without a number."""
    return Cell(float("nan"), np.full(draws, np.nan), n, None, reason)


def threshold_reason(threshold: Threshold) -> str:
    """Why there is no threshold, or an empty text."""
    return "" if np.isfinite(threshold.value) else f"no threshold: {threshold.source}"


def average(cells: Mapping[str, Cell], n: int) -> Cell:
    """Mean over the defined labels; the reason names those left out."""
    defined = [cell for cell in cells.values() if not np.isnan(cell.value)]
    without = [label for label, cell in cells.items() if np.isnan(cell.value)]
    if not defined:
        reasons = sorted({cell.reason for cell in cells.values()})
        draws = len(next(iter(cells.values())).draws)
        return undefined_cell(f"no label is defined: {'; '.join(reasons)}", draws=draws, n=n)
    value = float(np.mean([cell.value for cell in defined]))
    note = f"without {', '.join(without)} (undefined)" if without else ""
    return Cell(value, np.mean([cell.draws for cell in defined], axis=0), n, None, note)
