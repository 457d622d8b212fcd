"""Differences in AUC to the model without DP and to the one before, by label and by group: what a forest plot shows."""

import math
from collections.abc import Iterator
from typing import Any, Final

import pandas as pd

from dpdt.evaluation.metrics import ALL, AVERAGE
from dpdt.report.grid import Grid
from dpdt.report.intervals import NO_DRAWS, DrawKey, Draws
from dpdt.report.tables import SCOPES, averaged_over, pair_keys
from dpdt.study import is_before

__all__ = ["DIFFERENCE_COLUMNS", "differences"]

CELL: Final = ["scope", "against", "label", "subgroup", "target_epsilon"]
DIFFERENCE_COLUMNS: Final = [*CELL, "difference", "ci_low", "ci_high", "pairs"]


def differences(grid: Grid, auc: pd.DataFrame, draws: Draws = NO_DRAWS) -> pd.DataFrame:
    """Mean difference of each arm over the pairs of a model and a test domain that both arms have.

    Args:
        grid: Arms and domains.
        auc: With AUC_COLUMNS.
        draws: For the intervals.

    Returns:
        DIFFERENCE_COLUMNS: rows of each label (all patients), and of each group (macro AUC, over the labels that all
        have in it). `against` is inf (no DP) or 0 (before).
    """
    return pd.DataFrame(list(_rows(grid, auc, draws)), columns=DIFFERENCE_COLUMNS)


def _rows(grid: Grid, auc: pd.DataFrame, draws: Draws) -> Iterator[tuple[Any, ...]]:
    of_labels = (auc["label"] != AVERAGE) & (auc["subgroup"] == ALL)
    table = grid.spread(auc[of_labels | (auc["label"] == AVERAGE)])
    shared = {group: averaged_over(auc, group) != (AVERAGE,) for group in table["subgroup"].unique()}
    common = (table["label"] == AVERAGE) & table["subgroup"].map(shared).astype(bool)
    table = table.assign(auc=table["auc"].mask(common, table["auc_common"]))
    keys = ["label", "subgroup", "train_domain", "test_domain"]
    wide = table.pivot(index=keys, columns="target_epsilon", values="auc").reset_index(keys[2:])
    own = wide["train_domain"] == wide["test_domain"]
    for scope, inside in zip(SCOPES, (own, ~own), strict=True):
        for (label, group), part in wide[inside].groupby(level=[0, 1], sort=False):
            of_pairs = part.set_index(keys[2:])
            for against in (a for a in (math.inf, 0.0) if a in of_pairs):
                for epsilon in (e for e in grid.epsilons if e in of_pairs and e != against and not is_before(e)):
                    change = (of_pairs[epsilon] - of_pairs[against]).dropna()
                    if change.empty:
                        continue
                    both = [_keys(auc, e, change.index, str(label), str(group)) for e in (epsilon, against)]
                    interval = draws.mean(both[0], minus=both[1])
                    yield (scope, against, label, group, epsilon, float(change.mean()), *interval, len(change))


def _keys(auc: pd.DataFrame, epsilon: float, pairs: pd.Index, label: str, group: str) -> list[DrawKey]:
    if label == AVERAGE:
        return pair_keys(auc, epsilon, pairs, group)
    return [DrawKey(epsilon, str(train), str(test), label, group, "auc") for train, test in pairs]
