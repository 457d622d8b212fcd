"""The paper's analysis of domain transfer: how much AUC falls where a model was not trained, with and without DP.

For a test domain, each other train domain and each label is a pair. Its fall is the AUC of the model of the test domain
itself without DP, less the AUC of the model from elsewhere. The falls with and without DP are compared by Student's
paired t test. Source: Radiology: Artificial Intelligence 2024, 6(1):e230212. Beside both stands the fall of the model
before all trainings, which the paper has not.
"""

import math
from typing import Final

import numpy as np
import pandas as pd

from dpdt.evaluation.metrics import ALL, AVERAGE, holm
from dpdt.report.grid import Grid
from dpdt.report.tables import averaged_over
from dpdt.study import BEFORE, is_before

__all__ = ["TRANSFER_COLUMNS", "transfer_pairs", "transfer_table"]

MODELS: Final = ("on_domain", "no_dp", "dp", "before")
_TRANSFER_COLUMNS: Final = (
    "target_epsilon test_domain on_domain_auc off_domain_auc_no_dp off_domain_auc_dp off_domain_auc_before fall_no_dp "
    "fall_dp fall_before macro_fall_no_dp macro_fall_dp macro_fall_before difference t p p_holm pairs reason"
)
TRANSFER_COLUMNS: Final = _TRANSFER_COLUMNS.split()


def transfer_pairs(auc: pd.DataFrame, grid: Grid, target_epsilon: float, test_domain: str) -> pd.DataFrame:
    """Falls of every pair of another train domain and a label.

    Args:
        auc: Columns `target_epsilon, label, subgroup, train_domain, test_domain, auc, labels`; once a cell.
        grid: The domains.
        target_epsilon: The arm with DP.
        test_domain: Where the models are tested.

    Returns:
        `train_domain, label, on_domain, no_dp, dp, before, fall_no_dp, fall_dp, fall_before`; NaN where an AUC is
        missing. `before` is of the model that has not been trained anywhere.
    """
    cells = auc[(auc["subgroup"] == ALL) & (auc["label"] != AVERAGE) & (auc["test_domain"] == test_domain)]
    if few := _few(auc, test_domain):
        cells = cells.assign(auc=cells["auc"].mask(cells["label"].isin(few)))
    by_key = cells.set_index(["target_epsilon", "train_domain", "label"])["auc"].to_dict()
    labels = list(dict.fromkeys(cells["label"]))
    rows = [
        {
            "train_domain": train_domain,
            "label": label,
            "on_domain": by_key.get((math.inf, test_domain, label), math.nan),
            "no_dp": by_key.get((math.inf, train_domain, label), math.nan),
            "dp": by_key.get((target_epsilon, train_domain, label), math.nan),
            "before": by_key.get((0.0, BEFORE, label), math.nan),
        }
        for train_domain in grid.train_domains
        if train_domain != test_domain
        for label in labels
    ]
    table = pd.DataFrame(rows, columns=["train_domain", "label", *MODELS]).astype(dict.fromkeys(MODELS, "float64"))
    return table.assign(
        fall_no_dp=table["on_domain"] - table["no_dp"],
        fall_dp=table["on_domain"] - table["dp"],
        fall_before=table["on_domain"] - table["before"],
    )


def transfer_table(auc: pd.DataFrame, grid: Grid) -> pd.DataFrame:
    """The analysis for every arm with DP and every test domain, with TRANSFER_COLUMNS.

    Means are over the pairs in which all three AUCs are defined; `macro_fall_…` are the same from the macro AUCs, which
    the paper prints. P values of one arm are adjusted together by Holm.
    """
    tables = []
    for epsilon in grid.private:
        rows = [_row(auc, grid, epsilon, domain) for domain in grid.test_domains if domain in grid.train_domains]
        table = pd.DataFrame(rows, columns=TRANSFER_COLUMNS)
        table["p_holm"] = holm(table["p"].to_numpy(dtype=np.float64))
        tables.append(table)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=TRANSFER_COLUMNS)


def _row(auc: pd.DataFrame, grid: Grid, epsilon: float, domain: str) -> dict[str, object]:
    """One test domain under one arm."""
    pairs = transfer_pairs(auc, grid, epsilon, domain)
    used = pairs.dropna(subset=["on_domain", "no_dp", "dp"])
    # The on-domain AUC is common to both falls: testing the AUCs themselves is the same test with less rounding.
    t, p, reason = _paired_t(used["no_dp"], used["dp"])
    mean = used.drop(columns=["train_domain", "label"]).mean()
    left_out = len(pairs) - len(used)
    notes = [reason] if reason else []
    few = ", or of too few patients" if _few(auc, domain) else ""
    notes += [f"without {left_out} of {len(pairs)} pairs (no AUC{few})"] if left_out else []
    return {
        "target_epsilon": epsilon,
        "test_domain": domain,
        "on_domain_auc": mean["on_domain"],
        "off_domain_auc_no_dp": mean["no_dp"],
        "off_domain_auc_dp": mean["dp"],
        "off_domain_auc_before": mean["before"],
        "fall_no_dp": mean["fall_no_dp"],
        "fall_dp": mean["fall_dp"],
        "fall_before": mean["fall_before"],
        "macro_fall_no_dp": _macro_fall(auc, grid, math.inf, domain),
        "macro_fall_dp": _macro_fall(auc, grid, epsilon, domain),
        "macro_fall_before": _macro_fall(auc, grid, 0.0, domain),
        "difference": (used["no_dp"] - used["dp"]).mean(),
        "t": t,
        "p": p,
        "p_holm": math.nan,
        "pairs": len(used),
        "reason": "; ".join(notes),
    }


def _few(auc: pd.DataFrame, test_domain: str) -> set[str]:
    """Labels with an AUC of so few patients that no macro AUC of the domain has it: they are in no test either."""
    here = auc[(auc["subgroup"] == ALL) & (auc["test_domain"] == test_domain) & auc["auc"].notna()]
    averaged = {label for text in here["labels"] for label in text.split(",") if label}
    return set(here.loc[here["label"] != AVERAGE, "label"]) - averaged if averaged else set()


def _paired_t(first: pd.Series, second: pd.Series) -> tuple[float, float, str]:
    """Student's t and its two-sided P value of paired numbers, or why there is none."""
    from scipy.stats import ttest_rel

    differences = (first - second).to_numpy(dtype=np.float64)
    if len(differences) < 2:
        return math.nan, math.nan, f"{len(differences)} pairs, fewer than 2"
    if np.ptp(differences) <= 1e-12:  # nothing but rounding, which t would divide by
        return math.nan, math.nan, "all differences are equal"
    found = ttest_rel(first, second)
    return float(found.statistic), float(found.pvalue), ""


def _macro_fall(auc: pd.DataFrame, grid: Grid, epsilon: float, domain: str) -> float:
    """On-domain macro AUC without DP less the mean off-domain macro AUC of an arm; NaN if one of them is missing."""
    macro = auc[(auc["subgroup"] == ALL) & (auc["label"] == AVERAGE) & (auc["test_domain"] == domain)]
    column = "auc" if averaged_over(auc) == (AVERAGE,) else "auc_common"
    by_key = macro.set_index(["target_epsilon", "train_domain"])[column].to_dict()
    others = grid.rows(epsilon) if is_before(epsilon) else [o for o in grid.train_domains if o != domain]
    elsewhere = [by_key.get((epsilon, other), math.nan) for other in others]
    return float(by_key.get((math.inf, domain), math.nan) - np.mean(elsewhere)) if elsewhere else math.nan
