"""Which labels a macro AUC is a mean over, and means over the labels that several of them share.

A domain without one label has a macro AUC of four labels beside those of five: means over other labels are compared
over the labels that all have.
"""

from collections.abc import Iterable

import pandas as pd

from dpdt.base.vocabulary import LABELS
from dpdt.evaluation.metrics.names import ALL, AVERAGE

__all__ = ["common_labels", "joined_labels", "labels_of", "labels_of_averages", "macro_aucs"]


def labels_of_averages(table: pd.DataFrame) -> pd.Series:
    """Labels that each average of a table of metrics is over, separated by commas; "" for rows of labels.

    Args:
        table: With COLUMNS; one of a former version has no `labels`, and each of its averages is over all labels that
            are defined.
    """
    if "labels" in table:
        return table["labels"]
    cell = ["test_domain", "subgroup", "metric", "protocol"]
    defined = table[(table["label"] != AVERAGE) & table["value"].notna()]
    names = defined.groupby(cell, sort=False)["label"].agg(joined_labels)
    found = table[cell].merge(names.rename("labels").reset_index(), how="left", on=cell)["labels"].fillna("")
    return found.set_axis(table.index).where(table["label"] == AVERAGE, "")


def joined_labels(labels: Iterable[str]) -> str:
    """Labels separated by commas, each once: the paper's in its order, then others in theirs.

    >>> joined_labels(["healthy", "cardiomegaly", "healthy", "edema"])
    'cardiomegaly,healthy,edema'
    """
    rank = {label: number for number, label in enumerate(LABELS)}
    return ",".join(sorted(dict.fromkeys(labels), key=lambda label: rank.get(label, len(rank))))


def common_labels(averages: Iterable[str]) -> tuple[str, ...]:
    """The labels that all of them are over, in the order of the first; none where one is unknown.

    >>> common_labels(["cardiomegaly,pneumonia,healthy", "cardiomegaly,healthy"])
    ('cardiomegaly', 'healthy')
    """
    texts = [text.split(",") for text in averages]
    shared = set.intersection(*map(set, texts)) if texts else set()
    return tuple(label for label in texts[0] if label in shared - {""}) if texts else ()


def labels_of(table: pd.DataFrame) -> tuple[str, ...]:
    """The labels of a table of metrics, in its order: that of the study."""
    return tuple(str(label) for label in table["label"].unique() if label != AVERAGE)


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
