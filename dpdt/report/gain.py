"""What private training brought, and what DP keeps of it: every model against the one before all trainings.

The model before has seen no private patient, so what is better than it came from the patients. The share that DP keeps
is (AUC with DP − AUC before) / (AUC without DP − AUC before), each a mean over the same pairs of a model and a test
domain. Its interval is of the quotient, draw by draw; where the denominator's own holds 0, there is no number. (The
values that the data do not contradict, in Fieller's sense: J. R. Statist. Soc. B 16 (1954). With the draws in place of
a normal distribution they are the percentiles of the quotient, as long as no draw of the denominator is below 0.)
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd

from dpdt.evaluation.metrics import ALL, AVERAGE
from dpdt.report.grid import Grid
from dpdt.report.intervals import NO_DRAWS, UNKNOWN, DrawKey, Draws, Interval
from dpdt.report.tables import SCOPES, domain_pairs, pair_keys
from dpdt.study import BEFORE, is_before

__all__ = ["WORSE_COLUMNS", "Gain", "gain_table", "gains", "worse_than_before"]

# Without intervals, a share of a smaller gain than this is not worth a number. An AUC of two decimals is off by up to
# 0.005 and a gain by 0.01: a fifth of 0.05.
SMALLEST: Final = 0.01
SMALLEST_ROUNDED: Final = 0.05
CELL: Final = ["train_domain", "test_domain", "label", "subgroup"]
WORSE_COLUMNS: Final = ["target_epsilon", *CELL, "auc_before", "auc", "difference", "ci_low", "ci_high"]


@dataclass(frozen=True)
class Gain:
    """What the models of one arm have over the one before, in one scope; NaN where it is undefined.

    Attributes:
        target_epsilon: The arm.
        scope: on-domain or off-domain.
        before: Mean macro AUC of the model before, over the pairs.
        gain: The models' mean less that.
        pairs: Train × test domain pairs that are defined in both.
        interval: Of the gain.
        share: Of the gain without DP; NaN of the arm without DP itself, and where `why_no_share` says so.
        share_interval: Of the share.
        why_no_share: `no model without DP`, `unknown` (the gain without DP may be 0, or little more than rounding)
            or `worse` (it is below 0).
    """

    target_epsilon: float
    scope: str
    before: float
    gain: float
    pairs: int
    interval: Interval = UNKNOWN
    share: float = math.nan
    share_interval: Interval = UNKNOWN
    why_no_share: str = ""


def gains(grid: Grid, auc: pd.DataFrame, draws: Draws = NO_DRAWS) -> list[Gain]:
    """The gain of each arm over the model before, on- and off-domain; empty where there is no such model."""
    if not grid.before:
        return []
    found = []
    for scope in SCOPES:
        pairs = domain_pairs(grid, auc, scope)
        for epsilon in (e for e in grid.epsilons if not is_before(e)):
            both = pd.DataFrame({BEFORE: pairs[0.0], "arm": pairs[epsilon]}).dropna()
            if both.empty:
                continue
            mean = both.mean()
            keys, start = (pair_keys(auc, e, both.index) for e in (epsilon, 0.0))
            interval = draws.mean(keys, minus=start)
            share = (math.nan, UNKNOWN, "")
            if epsilon in grid.private:
                share = _share(auc, pairs, epsilon, draws)
            gain = float(mean["arm"] - mean[BEFORE])
            found.append(Gain(epsilon, scope, float(mean[BEFORE]), gain, len(both), interval, *share))
    return found


def _share(
    auc: pd.DataFrame, pairs: dict[float, "pd.Series[float]"], epsilon: float, draws: Draws
) -> tuple[float, Interval, str]:
    """Share of the gain without DP, its interval, and why there is none."""
    shared = pd.DataFrame({e: pairs[e] for e in (0.0, epsilon, math.inf) if e in pairs}).dropna()
    if math.inf not in shared or shared.empty:
        return math.nan, UNKNOWN, "no model without DP"
    before, arm, without = (float(shared[e].mean()) for e in (0.0, epsilon, math.inf))
    start, part, most = (pair_keys(auc, e, shared.index) for e in (0.0, epsilon, math.inf))
    interval, whole = draws.share(part, start=start, whole=most)
    known = whole.excludes_0 if draws else abs(without - before) >= (SMALLEST_ROUNDED if _rounded(auc) else SMALLEST)
    if not known:
        return math.nan, UNKNOWN, "unknown"
    if without < before:
        return math.nan, UNKNOWN, "worse"
    return (arm - before) / (without - before), interval, ""


def _rounded(auc: pd.DataFrame) -> bool:
    """Whether a table's numbers have two decimals; means that were computed from them may have more."""
    of_labels = auc["label"] != AVERAGE
    values = auc.loc[of_labels if of_labels.any() else slice(None), "auc"]
    return bool(((values - values.round(2)).abs().dropna() < 1e-9).all())


def gain_table(found: Sequence[Gain]) -> pd.DataFrame:
    """The gains as they are written to `gain.csv`."""
    columns = ["target_epsilon", "scope", "auc_before", "gain", "gain_low", "gain_high", "pairs"]
    rows = [
        [
            *(one.target_epsilon, one.scope, one.before, one.gain, *one.interval, one.pairs),
            *(one.share, *one.share_interval, one.why_no_share),
        ]
        for one in found
    ]
    return pd.DataFrame(rows, columns=[*columns, "share_kept", "share_low", "share_high", "why_no_share"])


def worse_than_before(grid: Grid, auc: pd.DataFrame, draws: Draws = NO_DRAWS) -> pd.DataFrame:
    """Where a model with DP is worse than the one before: labels of all patients, and the macro AUC of each group.

    Returns:
        WORSE_COLUMNS, the largest loss of each arm first; intervals are of each row by itself.
    """
    table = grid.spread(auc)
    labels = (table["label"] != AVERAGE) & (table["subgroup"] == ALL)
    groups = (table["label"] == AVERAGE) & table["subgroup"].isin((ALL, *grid.groups))
    table = table[labels | groups].dropna(subset="auc")
    start = table[table["target_epsilon"] == 0].set_index(CELL)["auc"].rename("auc_before")
    models = table[table["target_epsilon"].isin(grid.private)].join(start, on=CELL)
    models = models.assign(difference=models["auc"] - models["auc_before"])
    models = models[models["difference"] < 0].sort_values(["target_epsilon", "difference"], kind="stable")
    bounds = [_bounds(row, draws) for row in models.to_dict("records")]
    found = models.assign(ci_low=[b.low for b in bounds], ci_high=[b.high for b in bounds])
    return found[WORSE_COLUMNS].reset_index(drop=True)


def _bounds(row: Mapping[Any, Any], draws: Draws) -> Interval:
    where = (row["train_domain"], row["test_domain"], row["label"], row["subgroup"])
    arm, start = (DrawKey(epsilon, *where, "auc") for epsilon in (row["target_epsilon"], 0.0))
    return draws.mean([arm], minus=[start])
