"""The report's page: what its sentences and tables say; `page.html.j2` says how it looks."""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, Final

import pandas as pd

from dpdt.base.machine import __version__
from dpdt.base.vocabulary import MAIN_LABELS
from dpdt.evaluation.metrics import ALL, AVERAGE, FEWEST_PATIENTS, common_labels
from dpdt.report import figures, provenance, tables
from dpdt.report import section_tables as sections
from dpdt.report.answer import answer
from dpdt.report.format import Table, interval_text, plain, signed
from dpdt.report.gain import Gain
from dpdt.report.grid import Grid
from dpdt.report.intervals import Draws
from dpdt.report.tables import SCOPES, Arm
from dpdt.runs.read import is_synthetic, model_runs
from dpdt.study import Study, axes_name, format_epsilon

__all__ = ["Contents", "Source", "arms_table", "heat_map_name", "render", "render_published", "subgroup_table"]

EQUAL: Final = 0.01  # AUC; what a published table, which has no study file, counts as the same


@dataclass(frozen=True)
class Contents:
    """What the page shows."""

    grid: Grid
    auc: pd.DataFrame
    arms: Sequence[Arm]
    subgroups: pd.DataFrame
    transfer: pd.DataFrame
    figures: Mapping[str, figures.Drawing]
    by_run: pd.DataFrame = field(default_factory=pd.DataFrame)
    metrics: pd.DataFrame = field(default_factory=pd.DataFrame)
    gains: Sequence[Gain] = ()
    worse: pd.DataFrame = field(default_factory=pd.DataFrame)
    comparisons: pd.DataFrame = field(default_factory=pd.DataFrame)
    fairness: pd.DataFrame = field(default_factory=pd.DataFrame)
    draws: Draws = field(default_factory=lambda: Draws({}, 0.95))

    def answer(self, margin: float) -> list[str]:
        """The study's answer, in sentences; within ± `margin` an AUC counts as the same."""
        return answer(self.arms, self.gains, self.grid, margin, drawn=bool(self.draws))


@dataclass(frozen=True)
class Source:
    """Where the numbers of a page without a study come from.

    Attributes:
        name: Of the table.
        intervals: Whether it has intervals.
        synthetic: Whether some of them are of made-up images.
        missing: Models that are not in it, and why.
        disagreements: What is not the same in its parts.
        tables: Further tables of the page by their titles.
        csv: The same as files.
    """

    name: str
    intervals: bool = False
    synthetic: bool = False
    missing: Sequence[tuple[str, str]] = ()
    disagreements: Sequence[str] = ()
    tables: Mapping[str, Table] = field(default_factory=dict)
    csv: Mapping[str, pd.DataFrame] = field(default_factory=dict)


def render(study: Study, contents: Contents, *, missing: Sequence[tuple[str, str]], stale: Sequence[str]) -> str:
    """The page of a study's view as HTML, with its images inside."""
    runs = [run for run in model_runs(study).values() if run]
    grid, margin = contents.grid, study.evaluate.equivalence_margin
    return _template(
        **_shared(contents, margin),
        published=None,
        intervals=True,
        disagreements=[],
        further={},
        name=" · ".join(filter(None, (study.name, axes_name(study.start, study.fraction)))),
        synthetic=is_synthetic(study),
        unit=study.privacy.unit,
        seeds=len(study.train.seeds),
        draws=study.evaluate.bootstrap_draws,
        bootstrap_unit=study.evaluate.bootstrap_unit,
        confidence=f"{study.evaluate.confidence:.0%}",
        minimum=study.evaluate.min_subgroup_size,
        margin=f"{margin:g}",
        verdicts=sections.verdicts(contents.comparisons, grid, margin),
        comparisons=sections.comparison_table(contents.comparisons, grid),
        rates=sections.rates_table(contents.metrics, grid),
        representation=sections.representation_table(contents.metrics, grid),
        fairness={scope: sections.fairness_rows(contents.fairness, contents.draws, grid, scope) for scope in SCOPES},
        underdiagnosis=sections.underdiagnosis_table(contents.metrics, grid),
        small_groups=sections.small_groups(contents.fairness),
        undefined=_undefined(contents.by_run),
        missing=missing,
        stale=stale,
        earlier=tables.evaluated_before(study),
        cohort=provenance.cohort(study),
        privacy=provenance.privacy_table(runs),
        audits=provenance.audits(runs),
        paragraphs=provenance.paragraphs(runs),
        other_releases=provenance.other_releases(runs),
        provenance=provenance.provenance(runs),
        versions=provenance.versions(runs),
    )


def render_published(contents: Contents, *, name: str, source: Source) -> str:
    """The page of a table of published AUCs: what such a table can show."""
    empty = Table([], [])
    return _template(
        **_shared(contents, EQUAL),
        published=source.name,
        intervals=source.intervals,
        disagreements=source.disagreements,
        further=source.tables,
        name=name,
        synthetic=source.synthetic,
        unit="unit",
        seeds=1,
        draws=0,
        bootstrap_unit="patient",
        confidence="95%",
        minimum=0,
        margin="",
        verdicts=[],
        comparisons=empty,
        rates=empty,
        representation=empty,
        fairness=dict.fromkeys(SCOPES, empty),
        underdiagnosis=empty,
        small_groups=[],
        undefined=empty,
        missing=source.missing,
        stale=[],
        earlier=[],
        cohort=None,
        privacy=empty,
        audits=empty,
        paragraphs=[],
        other_releases=empty,
        provenance=empty,
        versions=[],
    )


def _template(**values: Any) -> str:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    source = files("dpdt.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source).render(version=__version__, fewest=FEWEST_PATIENTS, **values)


def _shared(contents: Contents, margin: float) -> dict[str, Any]:
    """What a study and a published table have in common."""
    grid = contents.grid
    worse, by_chance = sections.worse_rows(contents.worse, grid, contents.draws)
    labels = [label for label in grid.labels if any(heat_map_name(e, label) in contents.figures for e in grid.epsilons)]
    return {
        "train_domains": grid.train_domains,
        "test_domains": grid.test_domains,
        "answer": contents.answer(margin),
        "arms": arms_table(contents.arms, grid),
        "averaged": _label_names(tables.averaged_over(contents.auc), contents.auc),
        "other_labels": [
            f"{domain} ({_label_names(labels, contents.auc)})"
            for domain, labels in tables.other_labels(contents.auc).items()
        ],
        "gains": sections.gain_rows(contents.gains, grid),
        "worse": worse,
        "worse_by_chance": by_chance,
        "transfer": {grid.name(e): sections.transfer_rows(contents.transfer, e) for e in grid.private},
        "average_maps": [_map(contents, epsilon, AVERAGE) for epsilon in grid.epsilons],
        "label_table": sections.label_table(contents.auc, grid) if len(grid.labels) > MAIN_LABELS else Table([], []),
        "main_labels": MAIN_LABELS,
        "label_maps": {label: [_map(contents, epsilon, label) for epsilon in grid.epsilons] for label in labels},
        "curve": _image(contents, "auc_over_epsilon", "Macro AUC over target epsilon, on- and off-domain."),
        "spent": _image(contents, "auc_over_spent_epsilon", "On-domain AUC over the epsilon spent, one line a domain."),
        "sizes": _image(contents, "subgroup_sizes", "Part of each domain's test images in each subgroup."),
        "subgroup_images": [
            _image(contents, f"subgroups_{scope}", f"Mean {scope} macro AUC by group and target epsilon.")
            for scope in SCOPES
        ],
        "subgroups": {scope: subgroup_table(contents.subgroups, scope, grid) for scope in SCOPES},
    }


def arms_table(arms: Sequence[Arm], grid: Grid) -> Table:
    """Mean AUC of each arm by scope, with what the mean is over."""
    rows = []
    for arm in arms:
        difference = signed(arm.difference)
        if not math.isnan(arm.difference_interval.low):
            difference += f" ({interval_text(arm.difference_interval, sign=True)})"
        if not math.isnan(arm.difference) and arm.shared_pairs < arm.expected_pairs:
            difference += f" ({arm.shared_pairs} pairs)"
        value = plain(arm.auc) + (f" ({interval_text(arm.interval)})" if not math.isnan(arm.interval.low) else "")
        scope = arm.scope.replace("-", "\N{NON-BREAKING HYPHEN}")
        rows.append([scope, grid.name(arm.target_epsilon), value, difference, f"{arm.pairs} of {arm.expected_pairs}"])
    return Table(["tested", "model", "macro AUC", "change from no DP", "pairs"], rows)


def heat_map_name(target_epsilon: float, label: str) -> str:
    """Name of a heat map's file, without its ending."""
    return f"auc_eps{format_epsilon(target_epsilon)}_{label}"


def _map(contents: Contents, epsilon: float, label: str) -> dict[str, str] | None:
    what = "macro AUC" if label == AVERAGE else f"AUC of {label.replace('_', ' ')}"
    text = f"Heat map of {what} by train and test domain, {contents.grid.name(epsilon)}."
    return _image(contents, heat_map_name(epsilon, label), text)


def _label_names(labels: Sequence[str], auc: pd.DataFrame) -> str:
    """Labels in words, or their number where they are many; of the one average of a table, those that it is over."""
    if tuple(labels) == (AVERAGE,):
        rows = auc[(auc["label"] == AVERAGE) & (auc["subgroup"] == ALL) & auc["auc"].notna()]
        labels = common_labels(rows["labels"])
    if len(labels) > MAIN_LABELS:
        return f"{len(labels)} labels"
    return ", ".join(label.replace("_", " ") for label in labels)


def _image(contents: Contents, name: str, text: str) -> dict[str, str] | None:
    """An image as a data URI with its description; None if it was not drawn."""
    if name not in contents.figures:
        return None
    data = base64.b64encode(contents.figures[name]["png"]).decode()
    return {"source": f"data:image/png;base64,{data}", "text": text}


def subgroup_table(subgroups: pd.DataFrame, scope: str, grid: Grid) -> Table:
    """AUC by subgroup (rows) and arm (columns), DP arms with their difference to no DP."""
    cells = {
        (row["subgroup"], row["target_epsilon"]): (row["auc"], row["difference_to_no_dp"])
        for row in subgroups[subgroups["scope"] == scope].to_dict("records")
    }
    rows = []
    for group in (ALL, *grid.groups):
        row = [figures.group_name(group)]
        for epsilon in grid.epsilons:
            value, change = cells[group, epsilon]
            row.append(plain(value) + ("" if math.isnan(change) else f" ({signed(change)})"))
        rows.append(row)
    return Table(["subgroup", *map(grid.name, grid.epsilons)], rows)


def _undefined(by_run: pd.DataFrame) -> Table:
    """Cells without a number or an interval, once a test domain, label and subgroup, with the reason."""
    without = by_run["auc"].isna() | (by_run["ci_low"].isna() & (by_run["reason"] != ""))
    cells = by_run[without & (by_run["label"] != AVERAGE)]
    unknown = by_run[(by_run["subgroup"] == ALL) & (by_run["n"] == 0)]  # of all patients: said once, not a group
    key = ["test_domain", "label"]
    nowhere = pd.MultiIndex.from_frame(cells[key]).isin(pd.MultiIndex.from_frame(unknown[key]))
    unique = cells[~nowhere | (cells["subgroup"] == ALL)].drop_duplicates([*key, "subgroup"])
    rows = [
        [str(row.test_domain), str(row.label).replace("_", " "), figures.group_name(str(row.subgroup)), str(row.reason)]
        for row in unique.itertuples()
    ]
    return Table(["tested on", "label", "subgroup", "why there is no AUC, or no interval"], rows)
