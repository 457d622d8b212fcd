"""The numbers of the report, as tables: everything that a figure or a sentence shows is computed here."""

import math
from dataclasses import dataclass
from typing import Final

import pandas as pd

from dpdt.base.vocabulary import SUBGROUPS
from dpdt.evaluation.evaluate import evaluation_done
from dpdt.evaluation.metrics import ALL, AVERAGE, CROSSINGS, common_labels, labels_of_averages
from dpdt.report.grid import Grid
from dpdt.report.intervals import NO_DRAWS, UNKNOWN, DrawKey, Draws, Interval
from dpdt.runs.read import model_runs
from dpdt.study import BEFORE, Study, is_before

__all__ = [
    "AUC_COLUMNS",
    "SCOPES",
    "Arm",
    "arms",
    "auc_by_run",
    "averaged_over",
    "domain_pairs",
    "epsilon_curve",
    "evaluated_before",
    "groups_of",
    "macro_matrix",
    "mean_over_seeds",
    "missing_runs",
    "other_labels",
    "pair_keys",
    "stale_runs",
    "subgroup_table",
    "with_common",
]

KEYS: Final = ["privacy_unit", "target_epsilon", "label", "subgroup", "train_domain", "test_domain"]
# `labels` and `auc_common` are of averages: over which labels `auc` is, and the mean over those that all averages of
# the subgroup share.
AUC_COLUMNS: Final = [*KEYS, "auc", "ci_low", "ci_high", "n", "labels", "auc_common"]
RUN_COLUMNS: Final = [*AUC_COLUMNS[:-1], "n_positive", "reason", "seed", "run_id"]
SCOPES: Final = ("on-domain", "off-domain")


@dataclass(frozen=True)
class Arm:
    """Mean macro AUC of all models of one target epsilon, over the labels that all of them have."""

    target_epsilon: float
    scope: str  # on-domain or off-domain
    auc: float  # NaN if nothing is defined
    pairs: int  # train × test domain pairs that the mean is over
    expected_pairs: int
    difference: float  # to no DP, over the pairs defined in both; NaN where there is none
    shared_pairs: int
    interval: Interval = UNKNOWN
    difference_interval: Interval = UNKNOWN
    extremes: Interval = UNKNOWN  # the lowest and the highest difference of a pair


def auc_by_run(study: Study) -> pd.DataFrame:
    """AUC of every evaluated model × test domain × label (and average) × subgroup (and all), with RUN_COLUMNS."""
    quiet = () if study.evaluate.groups else tuple(CROSSINGS)  # which are measured and not shown
    tables = []
    for cell, run in model_runs(study).items():
        table = run.metrics(("metric", "==", "auc")) if run else None
        if run is None or table is None:
            continue
        table = table[~table["subgroup"].isin(quiet)]
        table = table.assign(labels=labels_of_averages(table)).rename(columns={"value": "auc"})
        tables.append(
            table.assign(
                privacy_unit=study.privacy.unit if is_before(cell.target_epsilon) else run.unit,
                target_epsilon=cell.target_epsilon,
                train_domain=cell.domain,
                seed=cell.seed,
                run_id=run.run_id,
            )[RUN_COLUMNS]
        )
    if not tables:
        return pd.DataFrame(columns=RUN_COLUMNS)
    return _sorted(study, pd.concat(tables, ignore_index=True))


def groups_of(by_run: pd.DataFrame) -> tuple[str, ...]:
    """The groups of a table of AUCs, in its order, all patients aside."""
    return tuple(str(group) for group in by_run["subgroup"].unique() if group != ALL) or SUBGROUPS


def _sorted(study: Study, table: pd.DataFrame) -> pd.DataFrame:
    """Rows in reading order: epsilon, label, subgroup, then the study file's domains."""
    order = {
        "label": (AVERAGE, *study.study.labels),
        "subgroup": (ALL, *groups_of(table)),
        "train_domain": tuple(dict.fromkeys([BEFORE, *study.domains, *table["train_domain"]])),
        "test_domain": tuple(study.domains),
    }
    rank = {column: {name: number for number, name in enumerate(names)} for column, names in order.items()}
    by = [column for column in (*KEYS, "seed") if column in table]
    return table.sort_values(
        by, key=lambda column: column.map(rank[column.name]) if column.name in rank else column, ignore_index=True
    )


def mean_over_seeds(study: Study, by_run: pd.DataFrame) -> pd.DataFrame:
    """One row a model, with AUC_COLUMNS: of several seeds the mean AUC and the means of the bounds.

    A mean of bounds is no interval of the mean (it is wider); `auc_by_run.csv` has each seed's own.
    """
    if by_run.empty:
        return pd.DataFrame(columns=AUC_COLUMNS)
    grouped = by_run.groupby(KEYS, sort=False, as_index=False)
    table = grouped.agg({"auc": "mean", "ci_low": "mean", "ci_high": "mean", "n": "max", "labels": "first"})
    return _sorted(study, with_common(table))[AUC_COLUMNS]


def with_common(auc: pd.DataFrame) -> pd.DataFrame:
    """The table with `auc_common`: averages over the labels that all averages of their subgroup share.

    Args:
        auc: Columns `target_epsilon, label, subgroup, train_domain, test_domain, auc, labels`; once a cell.

    Returns:
        With `auc_common`; NaN in rows of labels, and where no label is shared or known.
    """
    cell = ["target_epsilon", "subgroup", "train_domain", "test_domain"]
    averages = auc[(auc["label"] == AVERAGE) & auc["auc"].notna()]
    found = auc.assign(auc_common=math.nan)
    for subgroup, rows in averages.groupby("subgroup", sort=False):
        shared = common_labels(rows["labels"])
        of_labels = auc[auc["label"].isin(shared) & (auc["subgroup"] == subgroup)]
        means = of_labels.groupby(cell)["auc"].mean().rename("mean")
        own = rows["labels"] == ",".join(shared)  # as it is there, to the last bit
        values = rows.join(means, on=cell)["mean"]
        found.loc[rows.index, "auc_common"] = values.where(~own, rows["auc"]) if shared else math.nan
    return found


def averaged_over(auc: pd.DataFrame, subgroup: str = ALL) -> tuple[str, ...]:
    """The labels over which arms and domains are compared; the word average where all averages are over the same."""
    rows = auc[(auc["label"] == AVERAGE) & (auc["subgroup"] == subgroup) & auc["auc"].notna()]
    shared = common_labels(rows["labels"])
    return shared if shared and rows["labels"].nunique() > 1 else (AVERAGE,)


def other_labels(auc: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    """Test domains with a macro AUC (all patients) that lacks labels which others have: the labels that it is over."""
    rows = auc[(auc["label"] == AVERAGE) & (auc["subgroup"] == ALL) & auc["auc"].notna() & (auc["labels"] != "")]
    every = {label for text in rows["labels"] for label in text.split(",")}
    found = {domain: common_labels(part["labels"]) for domain, part in rows.groupby("test_domain", sort=False)}
    return {str(domain): labels for domain, labels in found.items() if set(labels) != every}


def missing_runs(study: Study) -> list[tuple[str, str]]:
    """Models that are not in the tables: their run id, and how far they are."""
    missing = []
    for cell, run in model_runs(study).items():
        if run is None:
            missing.append((study.run_id(cell), f"not {'tested' if is_before(cell.target_epsilon) else 'trained'} yet"))
        elif run.metrics_footer() is None and not run.why_not_tested:
            state = "trained, not evaluated yet" if run.status == "finished" else f"training {run.status}"
            missing.append((run.run_id, state))
    begun = {run.run_id for run in model_runs(study).values() if run}
    return missing + [(run_id, "not tested yet") for run_id in study.carried if run_id not in begun]


def stale_runs(study: Study) -> list[str]:
    """Models in the tables that were not evaluated on today's cohorts and shards, with today's settings."""
    evaluated = (run for run in model_runs(study).values() if run and run.metrics_footer() is not None)
    return [run.run_id for run in evaluated if not evaluation_done(study, run.run_id)]


def evaluated_before(study: Study) -> list[str]:
    """Models that an earlier dpdt evaluated: they have intervals of few patients, and means over labels with them."""
    footers = {run.run_id: run.metrics_footer() for run in model_runs(study).values() if run}
    return [run_id for run_id, footer in footers.items() if footer and "labels" not in footer.schema.names]


def macro_matrix(
    grid: Grid,
    auc: pd.DataFrame,
    target_epsilon: float,
    *,
    label: str = AVERAGE,
    subgroup: str = ALL,
    column: str = "auc",
) -> pd.DataFrame:
    """AUC by train domain (rows) and test domain (columns); NaN where it is missing or undefined.

    At epsilon 0 there is one row, `before`. Each average is over its own labels, or over the common ones with
    `column` = "auc_common".
    """
    chosen = auc[(auc["target_epsilon"] == target_epsilon) & (auc["label"] == label) & (auc["subgroup"] == subgroup)]
    matrix = chosen.pivot_table(index="train_domain", columns="test_domain", values=column, dropna=False)
    return matrix.reindex(index=list(grid.rows(target_epsilon)), columns=list(grid.test_domains)).astype("float64")


def domain_pairs(grid: Grid, auc: pd.DataFrame, scope: str, subgroup: str = ALL) -> dict[float, "pd.Series[float]"]:
    """Macro AUC by train × test domain pair within one scope, for each target epsilon; over common labels if any."""
    pairs = {}
    column = "auc" if averaged_over(auc, subgroup) == (AVERAGE,) else "auc_common"
    for epsilon in sorted(grid.epsilons):
        matrix = macro_matrix(grid, auc, epsilon, subgroup=subgroup, column=column)
        if is_before(epsilon):  # it is where the model of each train domain started
            matrix = matrix.reindex([BEFORE] * len(grid.train_domains)).set_axis(list(grid.train_domains))
        index = pd.MultiIndex.from_product([matrix.index, matrix.columns], names=["train_domain", "test_domain"])
        values = pd.Series(matrix.to_numpy(dtype="float64").ravel(), index=index)
        on_domain = values.index.get_level_values(0) == values.index.get_level_values(1)
        pairs[epsilon] = values[on_domain if scope == "on-domain" else ~on_domain]
    return pairs


def arms(grid: Grid, auc: pd.DataFrame, *, subgroup: str = ALL, draws: Draws = NO_DRAWS) -> list[Arm]:
    """Mean on- and off-domain macro AUC for each target epsilon, with the paired difference to no DP."""
    result = []
    for scope in SCOPES:
        pairs = domain_pairs(grid, auc, scope, subgroup)
        without = pairs.get(math.inf)
        for epsilon, values in sorted(pairs.items(), reverse=True):
            shared = (values - without).dropna() if without is not None and math.isfinite(epsilon) else values.iloc[:0]
            defined = values.dropna()
            keys = pair_keys(auc, epsilon, defined.index, subgroup)
            both = [pair_keys(auc, e, shared.index, subgroup) for e in (epsilon, math.inf)]
            result.append(
                Arm(
                    target_epsilon=epsilon,
                    scope=scope,
                    auc=float(defined.mean()) if len(defined) else math.nan,
                    pairs=len(defined),
                    expected_pairs=len(values),
                    difference=float(shared.mean()) if len(shared) else math.nan,
                    shared_pairs=len(shared),
                    interval=draws.mean(keys),
                    difference_interval=draws.mean(both[0], minus=both[1]),
                    extremes=Interval(float(shared.min()), float(shared.max())) if len(shared) else UNKNOWN,
                )
            )
    return result


def epsilon_curve(grid: Grid, auc: pd.DataFrame, draws: Draws = NO_DRAWS) -> pd.DataFrame:
    """Macro AUC over epsilon: by scope and train domain (off-domain: mean over the other domains), and their mean."""
    rows = []
    for scope in SCOPES:
        for epsilon, values in domain_pairs(grid, auc, scope).items():
            by_domain = values.groupby(level=0, sort=False).mean()
            rows += [(epsilon, scope, domain, value, *UNKNOWN) for domain, value in by_domain.items()]
            keys = pair_keys(auc, epsilon, values.dropna().index)
            rows.append((epsilon, scope, "mean", values.mean(), *draws.mean(keys)))
    return pd.DataFrame(rows, columns=["target_epsilon", "scope", "train_domain", "auc", "ci_low", "ci_high"])


def pair_keys(auc: pd.DataFrame, epsilon: float, pairs: pd.Index, subgroup: str = ALL) -> list[DrawKey]:
    """Keys of the draws whose mean is the mean of the pairs' macro AUCs, as `domain_pairs` has them."""
    names = averaged_over(auc, subgroup)
    return [DrawKey(epsilon, str(pair[0]), str(pair[1]), name, subgroup, "auc") for pair in pairs for name in names]


def subgroup_table(grid: Grid, auc: pd.DataFrame, draws: Draws = NO_DRAWS) -> pd.DataFrame:
    """Mean macro AUC by subgroup, scope and epsilon, with the paired difference to no DP."""
    rows = [
        {
            "subgroup": subgroup,
            "scope": arm.scope,
            "target_epsilon": arm.target_epsilon,
            "auc": arm.auc,
            "ci_low": arm.interval.low,
            "ci_high": arm.interval.high,
            "difference_to_no_dp": arm.difference,
            "difference_low": arm.difference_interval.low,
            "difference_high": arm.difference_interval.high,
            "pairs": arm.pairs,
        }
        for subgroup in (ALL, *grid.groups)
        for arm in arms(grid, auc, subgroup=subgroup, draws=draws)
    ]
    return pd.DataFrame(rows)
