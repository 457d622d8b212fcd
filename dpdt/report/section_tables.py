"""The report's tables on transfer, on comparisons of models, on rates at a threshold, and on fairness."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pandas as pd

from dpdt.base.vocabulary import healthy_label
from dpdt.evaluation.metrics import (
    ALL,
    AT_THRESHOLD,
    AVERAGE,
    FAIRNESS,
    PAPER,
    REPRESENTATION,
    STRICT,
    THRESHOLD_FREE,
    UNDERDIAGNOSIS,
)
from dpdt.report.format import Table, estimate, p_text, percent, plain, signed
from dpdt.report.gain import Gain
from dpdt.report.grid import Grid
from dpdt.report.intervals import DrawKey, Draws, Interval
from dpdt.report.names import domain_name, group_name, label_name
from dpdt.report.tables import SCOPES
from dpdt.study import is_before

__all__ = [
    "comparison_table",
    "fairness_rows",
    "gain_rows",
    "label_table",
    "rates_table",
    "representation_table",
    "small_groups",
    "transfer_rows",
    "underdiagnosis_table",
    "verdicts",
    "worse_rows",
]

ALPHA: Final = 0.05
MEASURES: Final = {
    "auc_gap": "AUC gap",
    "worst_auc": "AUC of the worst group",
    "parity_difference": "statistical parity difference",
    "opportunity_difference": "equal opportunity difference",
    "underdiagnosis_gap": "underdiagnosis gap",
}
ATTRIBUTE_NAMES: Final = {"age_group": "age"}  # others are read as they are
# In the table of rates: the AUC has tables of its own. Names that are not here are read as they are.
RATES: Final = (*AT_THRESHOLD, *(metric for metric in THRESHOLD_FREE if metric != "auc"))
RATE_NAMES: Final = {"positive_rate": "called positive", "f1": "F1", "brier": "Brier"}


def transfer_rows(transfer: pd.DataFrame, epsilon: float) -> Table:
    """The paper's analysis for one arm with DP."""
    rows = []
    before = bool(transfer["fall_before"].notna().any())
    for row in transfer[transfer["target_epsilon"] == epsilon].to_dict("records"):
        macro = [plain(row[f"macro_fall_{arm}"]) for arm in ("dp", "no_dp")]
        falls = [plain(row["fall_dp"]), plain(row["fall_no_dp"])]
        aucs = [plain(row[name]) for name in ("on_domain_auc", "off_domain_auc_no_dp", "off_domain_auc_dp")]
        tested = [p_text(row["p"]), p_text(row["p_holm"]), str(row["pairs"])]
        if before:
            aucs.append(plain(row["off_domain_auc_before"]))
            falls.append(plain(row["fall_before"]))
            macro.append(plain(row["macro_fall_before"]))
        rows.append([domain_name(row["test_domain"]), *aucs, *falls, " / ".join(macro), *tested])
    names = ["DP", "no DP", *(["before"] if before else [])]
    columns = ["tested on", "own, no DP", "others, no DP", "others, DP", *(["before"] if before else [])]
    columns += [*(f"fall, {name}" for name in names), f"macro fall, {' / '.join(names)}"]
    return Table([*columns, "P", "P (Holm)", "pairs"], rows)


def verdicts(comparisons: pd.DataFrame, grid: Grid, margin: float) -> list[str]:
    """For each arm with DP: how many models are as good as without, and as before, and how many differ."""
    found = []
    averages = comparisons[comparisons["label"] == AVERAGE]
    for against, epsilon in ((against, epsilon) for against in (math.inf, 0.0) for epsilon in grid.private):
        rows = averages[(averages["target_epsilon"] == epsilon) & (averages["against"] == against)]
        if rows.empty:
            continue
        equivalent = int((rows["p_equivalence_holm"] < ALPHA).sum())
        worse = int(((rows["p_holm"] < ALPHA) & (rows["difference"] < 0)).sum())
        better = int(((rows["p_holm"] < ALPHA) & (rows["difference"] > 0)).sum())
        other = "before all trainings" if is_before(against) else "without DP"
        found.append(
            f"{grid.name(epsilon)}: of {len(rows)} pairs of a model and a test domain, {equivalent} are shown to be "
            f"within ±{margin:g} macro AUC of the model {other}, {worse} are worse and {better} better "
            "(P < .05)."
        )
    return found


def comparison_table(comparisons: pd.DataFrame, grid: Grid) -> Table:
    """Every model against its twin without DP and against the one before all trainings, macro AUC."""
    rows = []
    for row in comparisons[comparisons["label"] == AVERAGE].to_dict("records"):
        interval = Interval(row["ci_low"], row["ci_high"])
        tested = [p_text(row[name]) for name in ("p", "p_holm", "p_equivalence", "p_equivalence_holm")]
        pair = [_pair(row), grid.name(row["target_epsilon"])]
        aucs = [plain(row["auc"]), grid.name(row["against"]), plain(row["auc_against"])]
        rows.append([*pair, *aucs, estimate(row["difference"], interval, sign=True), *tested])
    columns = ["trained → tested", "model", "AUC", "against", "its AUC", "difference", "P", "P (Holm)"]
    return Table([*columns, "P equivalent", "P equivalent (Holm)"], rows)


def gain_rows(gains: Sequence[Gain], grid: Grid) -> Table:
    """What each arm has over the model before, and the share of it that DP keeps."""
    drawn = any(not math.isnan(gain.interval.low) for gain in gains)
    nothing = "it may be nothing" if drawn else "too small a gain for rounded numbers"
    why = {"unknown": f"– ({nothing})", "worse": "– (worse without DP)", "no model without DP": "–", "": ""}
    rows = []
    for gain in gains:
        change = estimate(gain.gain, gain.interval, sign=True, drawn=drawn)
        kept = why[gain.why_no_share]
        if not math.isnan(gain.share):
            low, high = map(percent, gain.share_interval)
            kept = percent(gain.share) + (f" ({low.removesuffix(' %')} to {high})" if low != "– %" else "")
        scope = gain.scope.replace("-", "\N{NON-BREAKING HYPHEN}")
        name = grid.name(gain.target_epsilon)
        rows.append([scope, name, plain(gain.before), change, kept, str(gain.pairs)])
    return Table(["tested", "model", "macro AUC before", "gain", "share of it that DP keeps", "pairs"], rows)


def _pair(row: Mapping[Any, Any]) -> str:
    return f"{domain_name(row['train_domain'])} → {domain_name(row['test_domain'])}"


def worse_rows(worse: pd.DataFrame, grid: Grid, draws: Draws) -> tuple[Table, int]:
    """Where a DP model is worse than before beyond chance (or at all, without intervals), and how many other cells."""
    surely = worse[worse["ci_high"] < 0] if draws else worse
    rows = [
        [
            grid.name(row["target_epsilon"]),
            _pair(row),
            label_name(row["label"]),
            group_name(row["subgroup"]),
            plain(row["auc_before"]),
            plain(row["auc"]),
            estimate(row["difference"], Interval(row["ci_low"], row["ci_high"]), sign=True, drawn=bool(draws)),
        ]
        for row in surely.to_dict("records")
    ]
    columns = ["model", "trained → tested", "label", "group", "AUC before", "AUC", "difference"]
    return Table(columns, rows), len(worse) - len(surely)


def label_table(auc: pd.DataFrame, grid: Grid) -> Table:
    """Mean AUC of each label by scope and arm, over the pairs in which it is defined; the study's order."""
    chosen = grid.spread(auc[auc["subgroup"] == ALL])
    own = chosen["train_domain"] == chosen["test_domain"]
    means = {
        scope: chosen[of].groupby(["label", "target_epsilon"])["auc"].mean().to_dict()
        for scope, of in zip(SCOPES, (own, ~own), strict=True)
    }
    rows = [
        [label_name(label), *(plain(means[s].get((label, e), math.nan)) for s in SCOPES for e in grid.epsilons)]
        for label in grid.labels
    ]
    return Table(["label", *(f"{scope}, {grid.name(e)}" for scope in SCOPES for e in grid.epsilons)], rows)


def rates_table(metrics: pd.DataFrame, grid: Grid) -> Table:
    """Means over models and labels of the metrics at a threshold, by scope and protocol."""
    rows: list[list[str]] = []
    chosen = grid.spread(metrics[(metrics["label"] == AVERAGE) & (metrics["subgroup"] == ALL)])
    for scope in SCOPES:
        own = (chosen["train_domain"] == chosen["test_domain"]) == (scope == "on-domain")
        for protocol in (STRICT, PAPER):
            for epsilon in grid.epsilons:
                of_arm = chosen[own & (chosen["target_epsilon"] == epsilon)]
                values = {
                    metric: of_arm[(of_arm["metric"] == metric) & of_arm["protocol"].isin((protocol, ""))]["value"]
                    for metric in RATES
                }
                if not len(values["accuracy"].dropna()):
                    continue
                name = f"{protocol} (optimistic)" if protocol == PAPER else protocol
                rows.append([scope, name, grid.name(epsilon), *(plain(value.mean()) for value in values.values())])
    names = [RATE_NAMES.get(metric, metric.replace("_", " ")) for metric in RATES]
    return Table(["tested", "protocol", "model", *names], rows)


def representation_table(metrics: pd.DataFrame, grid: Grid) -> Table:
    """Each model's representation on each test domain, and the probe of it; means over seeds."""
    chosen = metrics[metrics["metric"].isin(REPRESENTATION) & (metrics["label"] == AVERAGE)]
    if chosen.empty:
        return Table([], [])
    place = ["target_epsilon", "train_domain", "test_domain"]
    values = chosen.groupby([*place, "metric"], sort=False)["value"].mean().unstack("metric")
    values = values.reindex(columns=list(REPRESENTATION))
    rows = [
        [
            _pair(row),
            grid.name(row["target_epsilon"]),
            plain(row["displacement"]),
            plain(row["effective_dimension"], 1),
            plain(row["probe_auc"]),
            signed(row["utilisation_gap"]),
        ]
        for row in values.reset_index().to_dict("records")
    ]
    return Table(["trained → tested", "model", "displacement", "effective dimension", "AUC of a probe", "gap"], rows)


def fairness_rows(fairness: pd.DataFrame, draws: Draws, grid: Grid, scope: str) -> Table:
    """Fairness measures of each arm, means over the models, and the change from no DP with its interval.

    The mean of gaps has no interval: each gap is too large by chance, and the more of them, the surer the mean is.
    """
    rows: list[list[str]] = []
    if fairness.empty:
        return Table([], rows)
    fairness = grid.spread(fairness)
    own = (fairness["train_domain"] == fairness["test_domain"]) == (scope == "on-domain")
    for measure in FAIRNESS:
        label = healthy_label(grid.labels) if measure == "underdiagnosis_gap" else AVERAGE
        for attribute in fairness["attribute"].unique():
            name = ATTRIBUTE_NAMES.get(attribute, attribute.replace("_", " "))
            of_measure = fairness[own & (fairness["measure"] == measure) & (fairness["attribute"] == attribute)]
            of_measure = of_measure[of_measure["label"] == label].dropna(subset="value")
            by_arm = {
                epsilon: of_measure[of_measure["target_epsilon"] == epsilon].set_index(["train_domain", "test_domain"])
                for epsilon in grid.epsilons
            }
            row = [f"{MEASURES[measure]}, {name}{_left_out(of_measure)}"]
            for epsilon, table in by_arm.items():
                row.append(_with_change(table, by_arm.get(math.inf, table.iloc[:0]), epsilon, draws))
            if of_measure["value"].notna().any():
                rows.append(row)
    return Table(["measure", *map(grid.name, grid.epsilons)], rows)


def _left_out(of_measure: pd.DataFrame) -> str:
    """In how many pairs of a model and a test domain a group has no number, so that it is not in the measure."""
    pairs = of_measure[["train_domain", "test_domain"]].drop_duplicates()
    without = of_measure["reason"].astype(str).str.contains("without ")
    lack = of_measure.loc[without, ["train_domain", "test_domain"]].drop_duplicates()
    return f" (a group is left out in {len(lack)} of {len(pairs)} pairs)" if len(lack) else ""


def _with_change(table: pd.DataFrame, without: pd.DataFrame, epsilon: float, draws: Draws) -> str:
    """Mean of an arm, and the mean paired change from no DP with its interval."""
    if table.empty:
        return "–"

    def keys(of_epsilon: float, pairs: pd.Index) -> list[DrawKey]:
        chosen = table.loc[pairs]
        names = zip(chosen["label"], chosen["attribute"], chosen["measure"], strict=True)
        return [DrawKey(of_epsilon, pair[0], pair[1], *name) for pair, name in zip(pairs, names, strict=True)]

    text = plain(float(table["value"].mean()))
    shared = table.index.intersection(without.index)
    if math.isfinite(epsilon) and len(shared):
        change = float((table["value"] - without["value"]).loc[shared].mean())
        bounds = draws.mean(keys(epsilon, shared), minus=keys(math.inf, shared))
        text += f"; change {estimate(change, bounds, sign=True, drawn=bool(draws))}"
    return text


def underdiagnosis_table(metrics: pd.DataFrame, grid: Grid) -> Table:
    """Mean underdiagnosis rate by subgroup and arm, protocol strict, on- and off-domain."""
    rows = []
    chosen = grid.spread(metrics[(metrics["metric"] == UNDERDIAGNOSIS) & (metrics["protocol"] == STRICT)])
    own = chosen["train_domain"] == chosen["test_domain"]
    for group in (ALL, *grid.groups):
        row = [group_name(group)]
        for of_scope in (own, ~own):
            for epsilon in grid.epsilons:
                cells = chosen[of_scope & (chosen["subgroup"] == group) & (chosen["target_epsilon"] == epsilon)]
                row.append(plain(float(cells["value"].mean())))
        rows.append(row)
    names = [f"{scope}, {grid.name(epsilon)}" for scope in SCOPES for epsilon in grid.epsilons]
    return Table(["subgroup", *names], [row for row in rows if set(row[1:]) != {"–"}])


def small_groups(fairness: pd.DataFrame) -> Sequence[str]:
    """Groups with few images, once a test domain."""
    reasons: dict[str, dict[str, None]] = {}
    for row in fairness[fairness["label"] == AVERAGE].itertuples():
        for note in str(row.reason).split("; "):
            if note.startswith(("small: ", "without ")):
                group, _, why = _in_words(note.removeprefix("small: ").removeprefix("without ")).partition(" (")
                reasons.setdefault(f"{domain_name(str(row.test_domain))}: {group}", {})[why.removesuffix(")")] = None
    return sorted(f"{group} ({'; '.join(sorted(why))})" for group, why in reasons.items())


def _in_words(note: str) -> str:
    """A note with groups as readers call them."""
    return re.sub(r"[a-z]+_[a-z0-9_]+", lambda name: group_name(name[0]), note)
