"""The report: heat maps, curves, comparisons and tables of a study, as one HTML page, CSV, LaTeX, PNG, SVG and PDF.

Made from the study's folder alone, and from whatever is there: models that are missing are named on the page. A table
of published AUCs makes the same page, as far as its numbers go.
"""

import shutil
from dataclasses import replace
from pathlib import Path

from dpdt.report import compare, provenance, tables
from dpdt.report.axes import write_axes
from dpdt.report.cards import data_sheets, model_cards
from dpdt.report.draw import draw_study
from dpdt.report.examples import write_examples
from dpdt.report.format import plain
from dpdt.report.from_csv import write_published
from dpdt.report.grid import Grid
from dpdt.report.intervals import Draws
from dpdt.report.methods import paper_of
from dpdt.report.page import Contents, contents_of, render
from dpdt.report.publish import latex_tables, publish
from dpdt.runs.read import model_runs
from dpdt.study import Study

__all__ = ["auc_table", "write_published", "write_report"]


def write_report(study: Study) -> Path:
    """Write the report below `report/`: `index.html`, `answer.txt`, `auc.csv` and other tables, `tables/`, `figures/`.

    Of a study with several starts or amounts of data each has such a folder below `views/`, and `index.html` compares
    them; its CSV files have all rows of all of them.

    Args:
        study: The study; runs that are not evaluated yet are left out and named.

    Returns:
        The page, which opens without a server or a network.

    Raises:
        DpdtError: A file of the study is damaged.
    """
    write_examples(study)
    folder, views = study.paths.report, study.views
    wanted = {view.slug for view in views if len(views) > 1}
    for former in (folder / "views").glob("*"):
        if former.name not in wanted:
            shutil.rmtree(former)
    if len(views) == 1:
        write_view(views[0], folder)
        return folder / "index.html"
    written = {view.slug: write_view(view, folder / "views" / view.slug) for view in views}
    return write_axes(study, written)


def write_view(study: Study, folder: Path) -> Contents:
    """Write the report of a study's view into a folder; returns what its page shows."""
    by_run, draws = tables.auc_by_run(study), Draws.of(study)
    grid = replace(Grid.of(study), groups=tables.groups_of(by_run))
    auc = tables.mean_over_seeds(study, by_run)
    metrics = compare.metrics_table(study)
    contents = contents_of(
        grid,
        auc,
        draws,
        more=draw_study(study, grid, metrics),
        auc_by_run=by_run,
        metrics=metrics,
        comparisons=compare.compare_models(study, draws),
        fairness=compare.fairness_table(metrics, draws),
    )
    runs = [run for run in model_runs(study).values() if run]
    people = provenance.people(study, runs)
    paper = paper_of(study, runs, people)
    cards = (data_sheets(study, runs), model_cards(runs, by_run))
    page = render(study, contents, paper, cards, runs=runs, people=people)
    publish(
        folder,
        page=page,
        answer=contents.answer(study.evaluate.equivalence_margin),
        csv=contents.csv(),
        tex=latex_tables(contents),
        drawn=contents.figures,
        texts=paper.files() | {file: html for card in cards for file, (_, html) in card.items()},
    )
    return contents


def auc_table(study: Study, target_epsilon: float) -> tuple[list[str], list[list[str]]]:
    """The macro AUC matrix as columns and rows for the terminal; `–` where it is missing or undefined.

    Test domains whose means lack labels that others have are marked by a star.
    """
    auc = tables.mean_over_seeds(study, tables.auc_by_run(study))
    matrix, other = tables.macro_matrix(Grid.of(study), auc, target_epsilon), tables.other_labels(auc)
    columns = ["trained on", *(f"{domain}*" if domain in other else str(domain) for domain in matrix.columns)]
    rows = [[str(domain), *map(plain, matrix.loc[domain])] for domain in matrix.index]
    return columns, rows
