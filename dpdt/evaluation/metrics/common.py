"""Which labels a macro AUC is a mean over, and means over the labels that several of them share.

A domain without one label has a macro AUC of four labels beside those of five: means over other labels are compared
over the labels that all have.
"""

from collections.abc import Iterable

import pandas as pd

from dpdt.base.vocabulary import LABELS
from dpdt.evaluation.metrics.names import ALL, AVERAGE

__all__ = ["common_labels", "joined_labels", "labels_of_averages", "macro_aucs"]


def labels_of_averages(table: pd.DataFrame) -> pd.Series:
    """Labels that each average of a table of metrics is over, separated by commas; "" for rows of labels.

    Args:
        table: With COLUMNS; one of a former version has no `labels`, and each of its averages is over all labels that
            are defined.
    """
    if "labels" in table:
        return table["labels"]
    cell = ["test_domain", "subgroup", "metric", "protocol"]
    defined = table[table["label"].isin(LABELS) & table["value"].notna()]
    names = defined.groupby(cell, sort=False)["label"].agg(joined_labels)
    found = table[cell].merge(names.rename("labels").reset_index(), how="left", on=cell)["labels"].fillna("")
    return found.set_axis(table.index).where(table["label"] == AVERAGE, "")


def joined_labels(labels: Iterable[str]) -> str:
    """Labels in the vocabulary's order, separated by commas.

    >>> joined_labels(["healthy", "cardiomegaly", "healthy"])
    'cardiomegaly,healthy'
    """
    known = set(labels)
    return ",".join(label for label in LABELS if label in known)


def common_labels(averages: Iterable[str]) -> tuple[str, ...]:
    """The labels that all of them are over, in the vocabulary's order; none where one is unknown.

    >>> common_labels(["cardiomegaly,pneumonia,healthy", "cardiomegaly,healthy"])
    ('cardiomegaly', 'healthy')
    """
    sets = [set(text.split(",")) for text in averages]
    shared = set.intersection(*sets) if sets else set()
    return tuple(label for label in LABELS if label in shared)


def macro_aucs(table: pd.DataFrame) -> pd.DataFrame:
    """One model's macro AUC of all patients on each test domain.

    Args:
        table: One model's metrics, with COLUMNS.

    Returns:
        By test domain: `auc`, `labels` that it is over, `auc_common` over those that all the domains share (NaN where
        they share none).
    """
    chosen = table[(table["metric"] == "auc") & (table["subgroup"] == ALL) & (table["split"] == "test")]
    of_labels = chosen.pivot(index="test_domain", columns="label", values="value")
    averages = chosen.assign(labels=labels_of_averages(chosen))
    averages = averages[averages["label"] == AVERAGE].set_index("test_domain")
    found = averages[["value", "labels"]].rename(columns={"value": "auc"})
    texts = found.loc[found["auc"].notna(), "labels"]
    shared = list(common_labels(texts))
    if texts.nunique() < 2:
        return found.assign(auc_common=found["auc"])
    common = of_labels.reindex(columns=shared).mean(axis=1).reindex(found.index) if shared else float("nan")
    return found.assign(auc_common=common).assign(auc_common=lambda t: t["auc_common"].where(t["auc"].notna()))
