"""The report's figures of models: heat maps, curves over epsilon, and dots with intervals by arm, label and group."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from dpdt.base.vocabulary import SUBGROUPS
from dpdt.evaluation.metrics import ALL
from dpdt.report.canvas import (
    COLOUR_MAP,
    COLOURS,
    COLUMN,
    MARKERS,
    QUIET,
    Drawing,
    arm_looks,
    exported,
    grid,
    legend,
    sheet,
)
from dpdt.report.format import plain, signed
from dpdt.report.names import domain_name, group_name
from dpdt.study import BEFORE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["auc_scale", "dot_figure", "epsilon_figure", "heat_map", "sizes_figure", "spent_figure", "subgroup_figure"]

ON_DOMAIN, OFF_DOMAIN = COLOURS[1], COLOURS[0]
DOTS: Final = ["panel", "row", "target_epsilon", "value", "ci_low", "ci_high"]
ON_LIGHT, ON_DARK = "#010101", "#fefefe"  # ink on a coloured cell, the same in every theme
MOST_ROWS: Final = 12  # of a heat map with a number in each cell; more rows are flatter and their numbers smaller


def auc_scale(auc: pd.DataFrame) -> tuple[float, float]:
    """The colour scale that all heat maps share: from 0.5 (chance), or lower if a model is worse, to 1.

    It is that of all patients: small subgroups would stretch it.
    """
    lowest = auc.loc[auc["subgroup"] == ALL, "auc"].min()
    return (0.5 if math.isnan(lowest) else min(0.5, math.floor(lowest * 20) / 20), 1.0)


def heat_map(
    matrix: pd.DataFrame,
    *,
    title: str,
    scale: tuple[float, float],
    marked: Collection[str] = (),
    what: str = "AUC",
    raster: bool = False,
) -> Drawing:
    """AUC by train domain (rows) and test domain (columns), annotated; on-domain cells are framed.

    Columns that are `marked` have a star: their means are over other labels. Of the model before all trainings it is
    one row, and no cell is on-domain.
    """
    rows, columns = matrix.shape
    before = list(matrix.index) == [BEFORE]
    crowded = max(rows, columns) > MOST_ROWS
    step, font = (0.3, 0.18), 5.5
    if not crowded:
        step, font = (0.42, 0.345), 7.0
    names = [[domain_name(str(name)) for name in side] for side in (matrix.index, matrix.columns)]
    long = max(0, max(map(len, [*names[0], *names[1]])) - 12)  # letters that want room
    size = (max(2.3, 1.2 + step[0] * columns) + 0.065 * long, 1.1 + step[1] * rows + 0.045 * long)
    with sheet(*size) as (figure, axes):
        values = matrix.to_numpy(dtype=float)
        axes.set_facecolor("#eeeeee")
        edges = [np.arange(n + 1) - 0.5 for n in (columns, rows)]
        cells = np.ma.masked_invalid(values)
        image = axes.pcolormesh(*edges, cells, cmap=COLOUR_MAP, vmin=scale[0], vmax=scale[1], edgecolors="none")
        axes.invert_yaxis()
        for (row, column), value in np.ndenumerate(values):
            star = "*" if matrix.columns[column] in marked else ""
            text, colour = ("–", "#555555") if math.isnan(value) else (plain(value, 2) + star, _ink(value, scale))
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=font)
            if matrix.index[row] == matrix.columns[column] and not before:
                x, y = np.array([-1, 1, 1, -1, -1]), np.array([-1, -1, 1, 1, -1])
                axes.plot(column + 0.47 * x, row + 0.46 * y, "-", color=colour, linewidth=1.0, zorder=3)
        axes.set_xticks(range(columns), names[1], rotation=35, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(rows), names[0], fontsize=max(font, 6))
        axes.set(xlabel="tested on", ylabel="" if before else "trained on")
        axes.set_title(title, loc="left")  # not bold: a second font in every PDF takes longer than the figure
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02, ticks=scale if rows < 3 else None)
        bar.outline.set_visible(False)
        caption = f"{what}, {title}: rows are where a model was trained, columns where it was tested."
        caption += "" if before else " Frames: tested where it was trained."
        found = values[~np.isnan(values)]
        alt = f"Heat map of {what} by train and test domain, {title}"
        alt += f"; from {plain(found.min(), 2)} to {plain(found.max(), 2)}." if len(found) else "; no number."
        data = matrix.rename_axis("trained on").reset_index()
        return exported(figure, caption=caption, alt=alt, data=data, raster=raster)


def _ink(value: float, scale: tuple[float, float]) -> str:
    """White on the dark end of the colour map, black elsewhere."""
    return ON_DARK if (value - scale[0]) / (scale[1] - scale[0]) > 0.65 else ON_LIGHT


def epsilon_figure(curve: pd.DataFrame, *, names: Mapping[float, str]) -> Drawing:
    """Macro AUC over epsilon, on- and off-domain, with intervals; the arm without DP is the rightmost point.

    The model before all trainings is a point of its own on the left: no line leads to it, for it is no training.
    """
    epsilons = sorted(curve["target_epsilon"].unique())
    place = {epsilon: number for number, epsilon in enumerate(epsilons)}
    with sheet(COLUMN, 2.6) as (figure, axes):
        for scope, colour, style in (("on-domain", ON_DOMAIN, "o-"), ("off-domain", OFF_DOMAIN, "s--")):
            of_scope = curve[(curve["scope"] == scope) & (curve["target_epsilon"] > 0)]
            for domain, line in of_scope.groupby("train_domain", sort=False):
                mean = domain == "mean"
                look: dict[str, Any] = {"linewidth": 1.5, "markersize": 4.5, "zorder": 3, "label": f"{scope}, mean"}
                quiet: dict[str, Any] = {"linewidth": 0.8, "alpha": 0.35, "markersize": 2.5}
                line = line.dropna(subset="auc")
                axes.plot(
                    line["target_epsilon"].map(place), line["auc"], style, color=colour, **(look if mean else quiet)
                )
            mean = of_scope[of_scope["train_domain"] == "mean"].dropna(subset="ci_low").sort_values("target_epsilon")
            if len(mean):
                places = mean["target_epsilon"].map(place)
                axes.fill_between(places, mean["ci_low"], mean["ci_high"], color=colour, alpha=0.18, linewidth=0)
        axes.plot([], [], "-", color=QUIET, linewidth=0.8, label="one train domain")
        before = curve[(curve["target_epsilon"] == 0) & (curve["train_domain"] == "mean")].dropna(subset="auc")
        for scope, colour, marker, side in (
            ("on-domain", ON_DOMAIN, "o", -0.06),
            ("off-domain", OFF_DOMAIN, "s", 0.06),
        ):
            _before_point(axes, before[before["scope"] == scope], colour, marker, side, f"{scope}, before")
        axes.set_xticks(range(len(epsilons)), [names[e].removeprefix("ε = ") for e in epsilons])
        axes.set_xlim(-0.3, len(epsilons) - 0.7)
        axes.set(xlabel="target ε (smaller is more private)", ylabel="macro AUC")
        grid(axes, "y")
        legend(figure, axes, columns=2)
        caption = (
            "Mean macro AUC over the target ε, on the hospital of training (on-domain) and on others (off-domain). "
            "Thin lines: one hospital of training each"
            f"{'; bands and bars: intervals of the means' if curve['ci_low'].notna().any() else ''}."
        )
        if len(before):
            caption += " Dotted: the height of the model before all trainings, which saw no private patient."
        means = curve[curve["train_domain"] == "mean"].dropna(subset="auc").sort_values("target_epsilon")
        told = (f"{r['scope']}, {names[r['target_epsilon']]}: {plain(r['auc'])}" for r in means.to_dict("records"))
        alt = f"Macro AUC over target epsilon. {'; '.join(told)}."
        return exported(figure, caption=caption, alt=alt, data=curve, raster=True)


def _before_point(axes: "Axes", point: pd.DataFrame, colour: str, marker: str, side: float, name: str) -> None:
    """The model before all trainings, at the left, and a thin line at its height for the others to be read against.

    Both scopes often have the same mean, so each stands a little to its side.
    """
    for auc, low, high in point[["auc", "ci_low", "ci_high"]].itertuples(index=False):
        axes.axhline(auc, color=colour, linewidth=0.8, linestyle=":", zorder=1)
        axes.vlines(side, low, high, color=colour, linewidth=1)
        axes.plot([side], [auc], marker, color=colour, markerfacecolor="#ffffff", markersize=4.5, zorder=3, label=name)


def spent_figure(table: pd.DataFrame) -> Drawing:
    """On-domain AUC over the epsilon that was spent, one line a domain.

    Args:
        table: Columns `domain, epsilon, auc`.
    """
    with sheet(COLUMN, 2.75) as (figure, axes):
        for number, (domain, points) in enumerate(table.groupby("domain", sort=False)):
            line = points.sort_values("epsilon")
            look: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "markersize": 3, "linewidth": 1.2}
            marker = MARKERS[number % len(MARKERS)]
            axes.plot(line["epsilon"], line["auc"], marker=marker, label=domain_name(str(domain)), **look)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set(xlabel="ε spent (smaller is more private)", ylabel="on-domain AUC")
        grid(axes, "y")
        legend(figure, axes, columns=2)
        caption = "AUC on the hospital of training over the ε that was spent (logarithmic axis), one line a hospital."
        return exported(figure, caption=caption, alt=caption, data=table)


def subgroup_figure(
    table: pd.DataFrame, *, scope: str, names: Mapping[float, str], groups: Sequence[str] = SUBGROUPS
) -> Drawing:
    """Mean macro AUC by subgroup with its interval, one marker an epsilon."""
    chosen = table[table["scope"] == scope].rename(columns={"subgroup": "row", "auc": "value"})
    return dot_figure(
        chosen.assign(panel=f"{scope} macro AUC"),
        rows=(ALL, *groups),
        names=names,
        row_name=group_name,
        what=f"Mean {scope} macro AUC by group of patients and arm",
        raster=True,
    )


def dot_figure(
    table: pd.DataFrame,
    *,
    rows: Sequence[str],
    names: Mapping[float, str],
    row_name: Callable[[str], str],
    what: str,
    zero: bool = False,
    raster: bool = False,
) -> Drawing:
    """One row a thing, one marker an arm, each with its interval; a panel each for different scales.

    Args:
        table: DOTS; `panel` is the title of its axis.
        rows: In reading order.
        names: Of the arms.
        row_name: Of a row, for people.
        what: Begins the caption.
        zero: Whether 0 is a value to compare with, such as no difference.
        raster: Whether a PNG is wanted, too.
    """
    panels = [str(name) for name in dict.fromkeys(table["panel"])]
    looks = arm_looks([float(e) for e in table["target_epsilon"].unique()])
    height = 0.6 + max(0.1 * len(looks) + 0.1, 0.22) * len(rows) + 0.19 * math.ceil(len(looks) / 3)
    with sheet(COLUMN, max(height, 1.4), (1, len(panels)), sharey=True) as (figure, every):
        for panel, axes in zip(panels, every, strict=True):
            of_panel = table[table["panel"] == panel]
            for number, (epsilon, look) in enumerate(looks.items()):
                of_arm = of_panel[of_panel["target_epsilon"] == epsilon].set_index("row").reindex(list(rows))
                places = np.arange(len(rows)) + 0.7 / len(looks) * (number - (len(looks) - 1) / 2)
                axes.plot(of_arm["value"], places, linestyle="", markersize=4, label=names[epsilon], **look)
                axes.hlines(places, of_arm["ci_low"], of_arm["ci_high"], color=look["color"], linewidth=1)
            axes.set_xlabel(panel)
            axes.locator_params(axis="x", nbins=6 if len(panels) == 1 else 4)
            axes.margins(x=0.08)
            axes.tick_params(axis="y", length=0)
            grid(axes, "x")
            if zero:
                axes.axvline(0, color="#555555", linewidth=0.9, zorder=1)
        first = every[0]
        first.set_yticks(range(len(rows)), [row_name(row) for row in rows])
        first.set_ylim(len(rows) - 0.5, -0.5)
        legend(figure, first)
        note = " The vertical line is no difference." if zero else ""
        bars = " Bars are intervals; a marker without a bar has none (too few patients, or no draws)."
        caption = f"{what}.{bars if table['ci_low'].notna().any() else ''}{note}"
        told = table[table["row"] == rows[0]].dropna(subset="value") if len(rows) else table
        values = (f"{r['panel']}, {names[r['target_epsilon']]}: {signed(r['value'])}" for r in told.to_dict("records"))
        alt = f"{what}. {row_name(rows[0])}: {'; '.join(values)}." if len(rows) else what
        return exported(figure, caption=caption, alt=alt, data=table[DOTS], raster=raster)


def sizes_figure(sizes: pd.DataFrame) -> Drawing:
    """Test images by domain and subgroup, each as its part of the domain's test set.

    Args:
        sizes: Columns `test_domain, subgroup, images`, with the subgroup `all`.
    """
    counts = sizes.pivot_table(index="test_domain", columns="subgroup", values="images", sort=False)
    shares = 100 * counts.div(counts[ALL], axis=0)
    with sheet(COLUMN, 2.6) as (figure, axes):
        for number, group in enumerate(g for g in SUBGROUPS if g in shares):
            height = np.arange(len(shares)) + 0.16 * (number - 2)
            hatch = ("", "///", "", "...", "xxx")[number]
            look: dict[str, Any] = {"color": COLOURS[number], "hatch": hatch, "edgecolor": "#ffffff", "linewidth": 0}
            axes.barh(height, shares[group], 0.15, label=group_name(group), **look)
        axes.set_yticks(
            range(len(shares)), [f"{domain_name(str(d))}\n{counts.loc[d, ALL]:,.0f} images" for d in shares.index]
        )
        axes.invert_yaxis()
        axes.set_xlabel("part of the test images (%)")
        grid(axes, "x")
        legend(figure, axes)
        caption = "Part of each hospital's test images in each group. Images of unknown sex or age are in no group."
        return exported(figure, caption=caption, alt=caption, data=sizes)
