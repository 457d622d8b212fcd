"""The report of a study with several starts or amounts of data: what each of them came to, side by side.

Starts are never mixed in a mean or a comparison: each has its own page, of its own models, and here a row of its own.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from dpdt.report.axes_figures import axis_figure
from dpdt.report.canvas import Drawing
from dpdt.report.format import Table, estimate, plain, signed
from dpdt.report.page import Contents, rendered, shown
from dpdt.report.publish import publish
from dpdt.report.tables import missing_runs
from dpdt.runs.read import is_synthetic, model_runs
from dpdt.study import Study, axes_name

__all__ = ["write_axes"]

AXES: Final = ["initial", "fraction"]
FIGURES: Final = {
    "auc_over_fraction": "AUC over the amount of data",
    "auc_over_parameters": "AUC over the network's size",
}


@dataclass(frozen=True)
class Part:
    """One view of the study with what its own page shows.

    Attributes:
        study: The view.
        contents: Of its page.
        num_parameters: Of its network.
    """

    study: Study
    contents: Contents
    num_parameters: int

    @property
    def name(self) -> str:
        """In words."""
        return axes_name(self.study.start, self.study.fraction) or "all patients"

    def rows(self) -> list[dict[str, Any]]:
        """Its arms, on- and off-domain."""
        study = self.study
        gains = {(gain.scope, gain.target_epsilon): gain for gain in self.contents.gains}
        weights = "random" if study.model.init_weights is None else "file"
        head = {"initial": study.start, "fraction": study.fraction, "network": study.model.name}
        head |= {"num_parameters": self.num_parameters, "train_units": _mean_units(study)}
        head |= {"weights": f"{weights}, pretrained" if study.pretrain_run_id else weights}
        rows = []
        for arm in self.contents.arms:
            gain = gains.get((arm.scope, arm.target_epsilon))
            row: dict[str, Any] = {**head, "scope": arm.scope, "target_epsilon": arm.target_epsilon, "auc": arm.auc}
            row |= {"ci_low": arm.interval.low, "ci_high": arm.interval.high, "pairs": arm.pairs}
            row |= {"difference_to_no_dp": arm.difference, "gain": gain.gain if gain else math.nan}
            rows.append({**row, "share_kept": gain.share if gain else math.nan})
        return rows


def _mean_units(study: Study) -> float:
    """Units that the view's trainings saw, a mean over the domains; NaN before the first has begun."""
    runs = [run for run in model_runs(study).values() if run and run.kind == "train"]
    seen = {run.domain: run.config["data"]["units"] for run in runs}
    return sum(seen.values()) / len(seen) if seen else math.nan


def write_axes(study: Study, written: Mapping[str, Contents]) -> Path:
    """Write the overview of a study's views, and the tables of all of them in one file each.

    Args:
        study: The study.
        written: What each view's page shows, by the folder's name below `views/`.
    """
    from dpdt.training.networks.build import num_parameters

    sizes = {name: num_parameters(start) for name, start in study.starts.items()}
    views = {view.slug: view for view in study.views}
    parts = [Part(views[slug], contents, sizes[views[slug].start]) for slug, contents in written.items()]
    tables: dict[str, list[pd.DataFrame]] = {}
    for slug, contents in written.items():
        for name, table in contents.csv().items():
            named = table.assign(initial=views[slug].start, fraction=views[slug].fraction)
            tables.setdefault(name, []).append(named[[*AXES, *table.columns]])
    axes = pd.DataFrame([row for part in parts for row in part.rows()])
    drawn = {name: one.with_level(study.evaluate.confidence) for name, one in _figures(axes).items()}
    margin = study.evaluate.equivalence_margin
    return publish(
        study.paths.report,
        page=_page(study, parts, drawn),
        answer=[f"{part.name}: {sentence}" for part in parts for sentence in part.contents.answer(margin)],
        csv={name: pd.concat(found, ignore_index=True) for name, found in tables.items()} | {"axes": axes},
        tex={},
        drawn=drawn,
    )


def _figures(axes: pd.DataFrame) -> dict[str, Drawing]:
    """Macro AUC over the amount of data, and over the size of the network, where there are several of them."""
    drawn = {}
    known = axes.dropna(subset="auc")
    if known["fraction"].nunique() > 1:
        drawn["auc_over_fraction"] = axis_figure(known, x="fraction", lines="initial")
    whole = known[known["fraction"] == known["fraction"].max()]
    if whole["num_parameters"].nunique() > 1:
        drawn["auc_over_parameters"] = axis_figure(whole, x="num_parameters", lines="weights")
    return drawn


def _page(study: Study, parts: Sequence[Part], drawn: Mapping[str, Drawing]) -> str:
    """The overview as HTML."""
    margin = study.evaluate.equivalence_margin
    return rendered(
        "axes.html.j2",
        name=study.name,
        synthetic=is_synthetic(study),
        parts=[
            {"name": part.name, "page": f"views/{part.study.slug}/index.html", "answer": part.contents.answer(margin)}
            for part in parts
        ],
        arms=_arms(parts),
        figures={name: shown(name, drawing) for name, drawing in drawn.items()},
        titles=FIGURES,
        missing=missing_runs(study),
    )


def _arms(parts: Sequence[Part]) -> Table:
    rows = []
    for part in parts:
        for row, arm in zip(part.rows(), part.contents.arms, strict=True):
            size = [f"{part.num_parameters:,}", plain(row["train_units"], 0)]
            auc = estimate(arm.auc, arm.interval)
            changes = [estimate(arm.difference, arm.difference_interval, sign=True), signed(row["gain"])]
            name = part.contents.grid.name(arm.target_epsilon)
            rows.append([part.name, *size, arm.scope, name, auc, *changes])
    columns = ["start", "parameters", "train units", "tested", "model", "macro AUC"]
    return Table([*columns, "change from no DP", "gain over before"], rows)
