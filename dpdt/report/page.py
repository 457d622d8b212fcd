"""The report's page: what its sentences and tables say; `page.html.j2` says how it looks."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib.resources import files
from typing import Any, Final

import pandas as pd

from dpdt.base.machine import __version__
from dpdt.base.vocabulary import MAIN_LABELS
from dpdt.evaluation.metrics import ALL, AVERAGE, FEWEST_PATIENTS, common_labels
from dpdt.report import provenance, story, tables
from dpdt.report import section_tables as sections
from dpdt.report.answer import answer
from dpdt.report.canvas import DARK, Drawing, inline
from dpdt.report.differences import differences
from dpdt.report.draw import draw, draw_differences, draw_story, heat_map_name
from dpdt.report.format import Table, decimals, estimate, level, plain, signed
from dpdt.report.gain import Gain, gain_table, gains, worse_than_before
from dpdt.report.grid import Grid
from dpdt.report.intervals import NO_DRAWS, Draws, Interval
from dpdt.report.methods import Paper
from dpdt.report.names import domain_name, group_name, label_name
from dpdt.report.tables import SCOPES, Arm
from dpdt.report.transfer import transfer_table
from dpdt.runs.read import Run, is_synthetic
from dpdt.study import Study, axes_name

__all__ = [
    "Contents",
    "Source",
    "arms_table",
    "contents_of",
    "render",
    "render_published",
    "rendered",
    "shown",
    "subgroup_table",
]

WIDE: Final = 700  # pixels: a figure that is not made smaller to stand beside another
EQUAL: Final = 0.01  # AUC; what a published table, which has no study file, counts as the same


@dataclass(frozen=True)
class Contents:
    """What the page shows."""

    grid: Grid
    auc: pd.DataFrame
    arms: Sequence[Arm]
    epsilon_curve: pd.DataFrame
    subgroups: pd.DataFrame
    transfer: pd.DataFrame
    differences: pd.DataFrame
    gains: Sequence[Gain]
    worse_than_before: pd.DataFrame
    figures: Mapping[str, Drawing]
    draws: Draws
    auc_by_run: pd.DataFrame = field(default_factory=pd.DataFrame)
    metrics: pd.DataFrame = field(default_factory=pd.DataFrame)
    comparisons: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=["label"]))
    fairness: pd.DataFrame = field(default_factory=pd.DataFrame)

    def answer(self, margin: float) -> list[str]:
        """The study's answer, in sentences; within ± `margin` an AUC counts as the same."""
        return answer(self.arms, self.gains, self.grid, margin, drawn=bool(self.draws))

    def csv(self) -> dict[str, pd.DataFrame]:
        """Its tables by their files' names."""
        found = {one.name: getattr(self, one.name) for one in fields(self)} | {"gain": gain_table(self.gains)}
        return {name: t for name, t in found.items() if isinstance(t, pd.DataFrame) and len(t.columns) > 1}


def contents_of(
    grid: Grid, auc: pd.DataFrame, draws: Draws = NO_DRAWS, *, more: Mapping[str, Drawing], **tables_of: pd.DataFrame
) -> Contents:
    """All that follows from AUCs, with its figures.

    Args:
        grid: Arms and domains.
        auc: With AUC_COLUMNS.
        draws: For the intervals.
        more: Further figures.
        tables_of: Further tables of a study, by their names in `Contents`.
    """
    arms, found = tables.arms(grid, auc, draws=draws), gains(grid, auc, draws)
    curve, subgroups = tables.epsilon_curve(grid, auc, draws), tables.subgroup_table(grid, auc, draws)
    changes = differences(grid, auc, draws)
    drawn = draw_story(arms, found, grid) | draw(grid, auc, curve, subgroups) | draw_differences(changes, grid)
    drawn = {name: one.with_level(draws.confidence) for name, one in drawn.items()}
    return Contents(
        grid=grid,
        auc=auc,
        arms=arms,
        epsilon_curve=curve,
        subgroups=subgroups,
        transfer=transfer_table(auc, grid),
        differences=changes,
        gains=found,
        worse_than_before=worse_than_before(grid, auc, draws),
        figures=drawn | dict(more),
        draws=draws,
        **tables_of,
    )


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


def render(
    study: Study,
    contents: Contents,
    paper: Paper,
    cards: Sequence[Mapping[str, tuple[str, str]]],
    *,
    runs: Sequence[Run],
    people: str,
) -> str:
    """The page of a study's view as HTML, with its images inside.

    Args:
        study: The view.
        contents: What is shown.
        paper: What authors paste.
        cards: Names and pages by file: data sheets, then model cards.
        runs: Its models.
        people: How many patients took part, in words.
    """
    grid, margin = contents.grid, study.evaluate.equivalence_margin
    sheets, models = ({file: name for file, (name, _) in pages.items()} for pages in cards)
    return rendered(
        "page.html.j2",
        **_shared(contents, margin),
        judged=story.judged(contents.arms, contents.gains, grid, margin),
        rules=story.RULES,
        guesses=story.guesses(runs, grid),
        people=people,
        flows=[domain for domain in study.used_domains if f"flow_{domain}" in contents.figures],
        curves={d: domain_name(d) for d in study.test_domains if f"roc_{d}" in contents.figures},
        published=None,
        methods=paper.text,
        checklists=paper.lists,
        sheets=sheets,
        cards=models,
        intervals=True,
        disagreements=[],
        further={},
        name=" · ".join(filter(None, (study.name, axes_name(study.start, study.fraction)))),
        synthetic=is_synthetic(study),
        unit=study.privacy.unit,
        seeds=len(study.train.seeds),
        draws=study.evaluate.bootstrap_draws,
        bootstrap_unit=study.evaluate.bootstrap_unit,
        confidence=level(study.evaluate.confidence),
        minimum=study.evaluate.min_subgroup_size,
        margin=f"{margin:g}",
        verdicts=sections.verdicts(contents.comparisons, grid, margin),
        comparisons=sections.comparison_table(contents.comparisons, grid),
        rates=sections.rates_table(contents.metrics, grid),
        representation=sections.representation_table(contents.metrics, grid),
        fairness={scope: sections.fairness_rows(contents.fairness, contents.draws, grid, scope) for scope in SCOPES},
        underdiagnosis=sections.underdiagnosis_table(contents.metrics, grid),
        small_groups=sections.small_groups(contents.fairness),
        undefined=_undefined(contents.auc_by_run),
        missing=tables.missing_runs(study),
        stale=tables.stale_runs(study),
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
    tables_of_a_study = "judged comparisons rates representation underdiagnosis undefined privacy audits provenance"
    lists_of_a_study = (
        "rules guesses flows curves checklists sheets cards verdicts small_groups stale earlier paragraphs"
    )
    return rendered(
        "page.html.j2",
        **_shared(contents, EQUAL),
        **dict.fromkeys([*tables_of_a_study.split(), "other_releases"], empty),
        **dict.fromkeys([*lists_of_a_study.split(), "versions", "people", "methods", "cohort", "margin"], ()),
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
        fairness=dict.fromkeys(SCOPES, empty),
        missing=source.missing,
    )


def rendered(template: str, /, **values: Any) -> str:
    """A template of the report as HTML, with its chapters beside it."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(str(files("dpdt.report")))
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    colours = {
        theme: " ".join(f"--f{light[1:]}: {dark if theme == 'dark' else light};" for light, dark in DARK.items())
        for theme in ("light", "dark")
    }
    page = environment.get_template(template)
    return _with_chapters(page.render(version=__version__, fewest=FEWEST_PATIENTS, **colours, **values))


def _with_chapters(html: str) -> str:
    """The page with its chapters beside it: every `<h2>` is one, and gets an id by which others can link to it."""
    titles: dict[str, str] = {}

    def with_id(heading: re.Match[str]) -> str:
        name = re.sub(r"[^a-z0-9]+", "-", re.sub(r"<[^>]+>|&[^;]+;", "", heading[1]).lower()).strip("-")
        titles[name] = heading[1]
        return f'<h2 id="{name}">{heading[1]}</h2>'

    html = re.sub(r"<h2>(.*?)</h2>", with_id, html)
    html = re.sub(r' <a href="#([^"]+)">See there</a>', lambda link: link[0] if link[1] in titles else "", html)
    chapters = "".join(f'<li><a href="#{name}">{title}</a></li>' for name, title in titles.items())
    return html.replace("<!-- chapters -->", f"<ol>{chapters}</ol>")


def _shared(contents: Contents, margin: float) -> dict[str, Any]:
    """What a study and a published table have in common."""
    grid = contents.grid
    worse, by_chance = sections.worse_rows(contents.worse_than_before, grid, contents.draws)
    return {
        "train_domains": [domain_name(domain) for domain in grid.train_domains],
        "test_domains": [domain_name(domain) for domain in grid.test_domains],
        "figures": {name: shown(name, drawing) for name, drawing in contents.figures.items()},
        "answer": contents.answer(margin),
        "arms": arms_table(contents.arms, grid),
        "averaged": _label_names(tables.averaged_over(contents.auc), contents.auc),
        "other_labels": [
            f"{domain_name(domain)} ({_label_names(labels, contents.auc)})"
            for domain, labels in tables.other_labels(contents.auc).items()
        ],
        "gains": sections.gain_rows(contents.gains, grid),
        "worse": worse,
        "worse_by_chance": by_chance,
        "transfer": {grid.name(e): sections.transfer_rows(contents.transfer, e) for e in grid.private},
        "numbers": bool(contents.auc["auc"].notna().any()),
        "average_maps": _maps(contents, AVERAGE),
        "label_table": sections.label_table(contents.auc, grid) if len(grid.labels) > MAIN_LABELS else Table([], []),
        "main_labels": MAIN_LABELS,
        "label_maps": {label_name(label): maps for label in grid.labels if (maps := _maps(contents, label))},
        "subgroups": {scope: subgroup_table(contents.subgroups, scope, grid) for scope in SCOPES},
    }


def arms_table(arms: Sequence[Arm], grid: Grid) -> Table:
    """Mean AUC of each arm by scope, with what the mean is over."""
    rows = []
    drawn = any(not math.isnan(arm.interval.low) for arm in arms)
    for arm in arms:
        difference = estimate(arm.difference, arm.difference_interval, sign=True, drawn=drawn)
        if not math.isnan(arm.difference) and arm.shared_pairs < arm.expected_pairs:
            difference += f" ({arm.shared_pairs} pairs)"
        value = estimate(arm.auc, arm.interval, drawn=drawn)
        scope = arm.scope.replace("-", "\N{NON-BREAKING HYPHEN}")
        rows.append([scope, grid.name(arm.target_epsilon), value, difference, f"{arm.pairs} of {arm.expected_pairs}"])
    return Table(["tested", "model", "macro AUC", "change from no DP", "pairs"], rows)


def _maps(contents: Contents, label: str) -> list[str]:
    """Names of the heat maps of a label that were drawn."""
    names = (heat_map_name(epsilon, label) for epsilon in contents.grid.epsilons)
    return [name for name in names if name in contents.figures]


def _label_names(labels: Sequence[str], auc: pd.DataFrame) -> str:
    """Labels in words, or their number where they are many; of the one average of a table, those that it is over."""
    if tuple(labels) == (AVERAGE,):
        rows = auc[(auc["label"] == AVERAGE) & (auc["subgroup"] == ALL) & auc["auc"].notna()]
        labels = common_labels(rows["labels"])
    if len(labels) > MAIN_LABELS:
        return f"{len(labels)} labels"
    return ", ".join(map(label_name, labels))


def shown(name: str, drawing: Drawing) -> dict[str, Any]:
    """A figure as the page has it."""
    svg = inline(name, drawing)
    width = re.search(r' width="(\d+)"', svg)
    return {"svg": svg, "caption": drawing.caption, "wide": width is not None and int(width[1]) > WIDE}


def subgroup_table(subgroups: pd.DataFrame, scope: str, grid: Grid) -> Table:
    """AUC by subgroup (rows) and arm (columns), DP arms with their difference to no DP."""
    cells = {
        (row["subgroup"], row["target_epsilon"]): row
        for row in subgroups[subgroups["scope"] == scope].to_dict("records")
    }
    rows = []
    drawn = bool(subgroups["ci_low"].notna().any())
    for group in (ALL, *grid.groups):
        row = [group_name(group)]
        for epsilon in grid.epsilons:
            cell = cells[group, epsilon]
            digits = decimals(Interval(cell["ci_low"], cell["ci_high"]), drawn=drawn)
            change = cell["difference_to_no_dp"]
            row.append(plain(cell["auc"], digits) + ("" if math.isnan(change) else f" ({signed(change, digits)})"))
        rows.append(row)
    return Table(["group", *map(grid.name, grid.epsilons)], rows)


def _undefined(by_run: pd.DataFrame) -> Table:
    """Cells without a number or an interval, once a test domain, label and subgroup, with the reason."""
    without = by_run["auc"].isna() | (by_run["ci_low"].isna() & (by_run["reason"] != ""))
    cells = by_run[without & (by_run["label"] != AVERAGE)]
    unknown = by_run[(by_run["subgroup"] == ALL) & (by_run["n"] == 0)]  # of all patients: said once, not a group
    key = ["test_domain", "label"]
    nowhere = pd.MultiIndex.from_frame(cells[key]).isin(pd.MultiIndex.from_frame(unknown[key]))
    unique = cells[~nowhere | (cells["subgroup"] == ALL)].drop_duplicates([*key, "subgroup"])
    rows = [
        [domain_name(str(row.test_domain)), label_name(str(row.label)), group_name(str(row.subgroup)), str(row.reason)]
        for row in unique.itertuples()
    ]
    return Table(["tested on", "label", "group", "why there is no AUC, or no interval"], rows)
