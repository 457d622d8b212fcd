"""The report's figures, as PNG for the page and as SVG and PDF for a paper; each is legible at the width of a phone."""

import io
import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from dpdt.base.vocabulary import SUBGROUPS
from dpdt.evaluation.metrics import ALL
from dpdt.study import BEFORE, is_before

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "Drawing",
    "auc_scale",
    "epsilon_figure",
    "exported",
    "group_name",
    "heat_map",
    "sizes_figure",
    "spent_figure",
    "subgroup_figure",
]

Drawing = dict[str, bytes]  # by the file's ending: png, svg, pdf

DPI: Final = 170
STYLE: Final[dict[str, Any]] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
FONT: Final = {**STYLE, "svg.hashsalt": "dpdt", "pdf.fonttype": 42}
COLOUR_MAP: Final = "Blues"  # one hue, monotone in lightness: the same to colour-blind readers and in grey print
ON_DOMAIN, OFF_DOMAIN, QUIET = "#0072B2", "#D55E00", "#999999"  # Okabe and Ito's palette
ARM_COLOURS: Final = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
ARM_MARKERS: Final = ("s", "^", "v", "P", "X", "d")
NO_DP_COLOUR: Final = "#222222"
BEFORE_COLOUR: Final = "#8c8c8c"
AGES: Final = re.compile(r"age_(\d+)_(\d+)")


def auc_scale(auc: pd.DataFrame) -> tuple[float, float]:
    """The colour scale that all heat maps share: from 0.5 (chance), or lower if a model is worse, to 1."""
    lowest = auc.loc[auc["subgroup"] == ALL, "auc"].min() if len(auc) else math.nan
    return (0.5 if math.isnan(lowest) else min(0.5, math.floor(lowest * 20) / 20), 1.0)


def _figure(width: float, height: float) -> tuple["Figure", "Axes"]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")  # no pyplot: nothing global, no window system
    return figure, figure.add_subplot()


def exported(figure: "Figure") -> Drawing:
    """The same bytes for the same figure: nothing says when it was drawn."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the layout is found; it would be sought again for each format
    drawing = {}
    for kind, undated in (("png", {"Software": None}), ("svg", {"Date": None}), ("pdf", {"CreationDate": None})):
        stream = io.BytesIO()
        figure.savefig(stream, format=kind, dpi=DPI, metadata=undated)
        drawing[kind] = stream.getvalue()
    return drawing


def heat_map(matrix: pd.DataFrame, *, title: str, scale: tuple[float, float], marked: Collection[str] = ()) -> Drawing:
    """AUC by train domain (rows) and test domain (columns), annotated; on-domain cells are framed.

    Columns that are `marked` have a star: their means are over other labels. Of the model before all trainings it is
    one row, and no cell is on-domain.
    """
    from matplotlib import rc_context
    from matplotlib.patches import Rectangle

    rows, columns = matrix.shape
    with rc_context(FONT):
        figure, axes = _figure(max(3.1, 1.6 + 0.56 * columns), 1.35 + 0.46 * rows)  # wide enough for the title
        values = matrix.to_numpy(dtype=float)
        axes.set_facecolor("#eeeeee")
        image = axes.imshow(values, cmap=COLOUR_MAP, vmin=scale[0], vmax=scale[1], aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            star = "*" if matrix.columns[column] in marked else ""
            text, colour = ("–", "#555555") if math.isnan(value) else (f"{value:.2f}{star}", _ink(value, scale))
            axes.text(column, row, text, ha="center", va="center", color=colour)
            if matrix.index[row] == matrix.columns[column] and list(matrix.index) != [BEFORE]:
                frame = Rectangle((column - 0.47, row - 0.46), 0.94, 0.92, fill=False, edgecolor=colour, linewidth=1.3)
                axes.add_patch(frame)
        axes.set_xticks(range(columns), list(matrix.columns), rotation=35, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(rows), list(matrix.index))
        axes.set(xlabel="tested on", ylabel="" if list(matrix.index) == [BEFORE] else "trained on")
        axes.set_title(title, loc="left", fontweight="bold")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02)
        bar.outline.set_visible(False)
        return exported(figure)


def _ink(value: float, scale: tuple[float, float]) -> str:
    """White on the dark end of the colour map, black elsewhere."""
    return "white" if (value - scale[0]) / (scale[1] - scale[0]) > 0.65 else "black"


def epsilon_figure(curve: pd.DataFrame, *, names: Mapping[float, str]) -> Drawing:
    """Macro AUC over epsilon, on- and off-domain, with intervals; the arm without DP is the rightmost point.

    The model before all trainings is a point of its own on the left: no line leads to it, for it is no training.
    """
    from matplotlib import rc_context

    epsilons = sorted(curve["target_epsilon"].unique())
    place = {epsilon: number for number, epsilon in enumerate(epsilons)}
    with rc_context(FONT):
        figure, axes = _figure(4.7, 3.5)
        for scope, colour, style in (("on-domain", ON_DOMAIN, "o-"), ("off-domain", OFF_DOMAIN, "s--")):
            of_scope = curve[(curve["scope"] == scope) & (curve["target_epsilon"] > 0)]
            for domain, line in of_scope.groupby("train_domain", sort=False):
                mean = domain == "mean"
                look: dict[str, Any] = {"linewidth": 2, "markersize": 6, "zorder": 3, "label": f"{scope}, mean"}
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
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        figure.legend(loc="outside upper left", frameon=False, ncols=2)
        return exported(figure)


def _before_point(axes: "Axes", point: pd.DataFrame, colour: str, marker: str, side: float, name: str) -> None:
    """The model before all trainings, at the left, and a thin line at its height for the others to be read against.

    Both scopes often have the same mean, so each stands a little to its side.
    """
    for auc, low, high in point[["auc", "ci_low", "ci_high"]].itertuples(index=False):
        axes.axhline(auc, color=colour, linewidth=0.8, linestyle=":", zorder=1)
        axes.vlines(side, low, high, color=colour, linewidth=1)
        axes.plot([side], [auc], marker, color=colour, markerfacecolor="white", markersize=6, zorder=3, label=name)


def spent_figure(table: pd.DataFrame) -> Drawing:
    """On-domain AUC over the epsilon that was spent, one line a domain.

    Args:
        table: Columns `domain, epsilon, auc`.
    """
    from matplotlib import rc_context

    with rc_context(FONT):
        figure, axes = _figure(4.7, 3.7)
        for number, (domain, points) in enumerate(table.groupby("domain", sort=False)):
            line = points.sort_values("epsilon")
            look: dict[str, Any] = {"color": ARM_COLOURS[number % len(ARM_COLOURS)], "markersize": 4, "linewidth": 1.2}
            marker = ARM_MARKERS[number % len(ARM_MARKERS)]
            axes.plot(line["epsilon"], line["auc"], marker=marker, label=str(domain), **look)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set(xlabel="ε spent (smaller is more private)", ylabel="on-domain AUC")
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        figure.legend(loc="outside upper left", frameon=False, ncols=2)
        return exported(figure)


def subgroup_figure(
    table: pd.DataFrame, *, scope: str, names: Mapping[float, str], groups: Sequence[str] = SUBGROUPS
) -> Drawing:
    """Mean macro AUC by subgroup with its interval, one marker an epsilon."""
    from matplotlib import rc_context

    rows_of, groups = max(len(groups), len(SUBGROUPS)), (ALL, *groups)
    chosen = table[table["scope"] == scope]
    epsilons = sorted(chosen["target_epsilon"].unique(), reverse=True)
    with rc_context(FONT):
        figure, axes = _figure(4.7, 3.3 * (rows_of + 1) / (len(SUBGROUPS) + 1))
        finite = 0
        for number, epsilon in enumerate(epsilons):
            rows = chosen[chosen["target_epsilon"] == epsilon].set_index("subgroup").reindex(list(groups))
            values = rows["auc"]
            height = np.arange(len(groups)) + 0.16 * (number - (len(epsilons) - 1) / 2)
            colour, marker = (BEFORE_COLOUR, "*") if is_before(epsilon) else (NO_DP_COLOUR, "o")
            if 0 < epsilon < math.inf:
                colour, marker = ARM_COLOURS[finite % len(ARM_COLOURS)], ARM_MARKERS[finite % len(ARM_MARKERS)]
                finite += 1
            axes.plot(values, height, marker, color=colour, markersize=6, label=names[epsilon])
            axes.hlines(height, rows["ci_low"], rows["ci_high"], color=colour, linewidth=1)
        axes.set_yticks(range(len(groups)), [group_name(group) for group in groups])
        axes.invert_yaxis()
        axes.margins(x=0.08)
        axes.locator_params(axis="x", nbins=6)
        axes.set_xlabel(f"{scope} macro AUC")
        axes.grid(axis="x", color="#dddddd", linewidth=0.6)
        axes.axhline(0.5, color="#bbbbbb", linewidth=0.8)
        if groups[1:] == SUBGROUPS:
            axes.axhline(2.5, color="#bbbbbb", linewidth=0.8)
        axes.tick_params(axis="y", length=0)
        axes.set_axisbelow(True)
        figure.legend(loc="outside upper left", frameon=False, ncols=3)
        return exported(figure)


def sizes_figure(sizes: pd.DataFrame) -> Drawing:
    """Test images by domain and subgroup, each as its part of the domain's test set.

    Args:
        sizes: Columns `test_domain, subgroup, images`, with the subgroup `all`.
    """
    from matplotlib import rc_context

    counts = sizes.pivot_table(index="test_domain", columns="subgroup", values="images", sort=False)
    shares = 100 * counts.div(counts[ALL], axis=0)
    with rc_context(FONT):
        figure, axes = _figure(4.7, 3.5)
        for number, group in enumerate(g for g in SUBGROUPS if g in shares):
            height = np.arange(len(shares)) + 0.16 * (number - 2)
            colour, hatch = ARM_COLOURS[number], ("", "///", "", "...", "xxx")[number]
            look: dict[str, Any] = {"color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0}
            axes.barh(height, shares[group], 0.15, label=group_name(group), **look)
        axes.set_yticks(range(len(shares)), [f"{d}\n{counts.loc[d, ALL]:,.0f} images" for d in shares.index])
        axes.invert_yaxis()
        axes.set_xlabel("part of the test images (%)")
        axes.grid(axis="x", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        figure.legend(loc="outside upper left", frameon=False, ncols=3)
        return exported(figure)


def group_name(group: str) -> str:
    """A subgroup in words.

    >>> group_name("age_40_70"), group_name("female"), group_name("all"), group_name("ward_icu")
    ('40 to < 70 years', 'female', 'all patients', 'ward icu')
    """
    if group == ALL:
        return "all patients"
    if age := AGES.fullmatch(group):
        return f"{age[1]} to < {age[2]} years"
    return group.replace("_", " ")
