"""The report's figures, as PNG bytes; each is legible at the width of a phone."""

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from dpdt.metrics import ALL
from dpdt.study import format_epsilon
from dpdt.vocabulary import SUBGROUPS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["arm_name", "auc_scale", "epsilon_figure", "heat_map", "subgroup_figure"]

DPI: Final = 170
FONT: Final = {"font.size": 9, "axes.titlesize": 10, "axes.spines.top": False, "axes.spines.right": False}
COLOUR_MAP: Final = "Blues"  # one hue, monotone in lightness: the same to colour-blind readers and in grey print
ON_DOMAIN, OFF_DOMAIN, QUIET = "#0072B2", "#D55E00", "#999999"  # Okabe and Ito's palette
ARM_COLOURS: Final = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
ARM_MARKERS: Final = ("s", "^", "v", "P", "X", "d")
NO_DP_COLOUR: Final = "#222222"


def arm_name(target_epsilon: float) -> str:
    """``ε = 8``, or ``no DP``."""
    return f"ε = {format_epsilon(target_epsilon)}" if math.isfinite(target_epsilon) else "no DP"


def auc_scale(auc: pd.DataFrame) -> tuple[float, float]:
    """The colour scale that all heat maps share: from 0.5 (chance), or lower if a model is worse, to 1."""
    lowest = auc.loc[auc["subgroup"] == ALL, "auc"].min() if len(auc) else math.nan
    return (0.5 if math.isnan(lowest) else min(0.5, math.floor(lowest * 20) / 20), 1.0)


def _figure(width: float, height: float) -> tuple["Figure", "Axes"]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")  # no pyplot: nothing global, no window system
    return figure, figure.add_subplot()


def _png(figure: "Figure") -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DPI, metadata={"Software": None})
    return stream.getvalue()


def heat_map(matrix: pd.DataFrame, *, title: str, scale: tuple[float, float]) -> bytes:
    """AUC by train domain (rows) and test domain (columns), annotated; on-domain cells are framed."""
    from matplotlib import rc_context
    from matplotlib.patches import Rectangle

    rows, columns = matrix.shape
    with rc_context(FONT):
        figure, axes = _figure(1.6 + 0.56 * columns, 1.35 + 0.46 * rows)
        values = matrix.to_numpy(dtype=float)
        axes.set_facecolor("#eeeeee")
        image = axes.imshow(values, cmap=COLOUR_MAP, vmin=scale[0], vmax=scale[1], aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            text, colour = ("–", "#555555") if math.isnan(value) else (f"{value:.2f}", _ink(value, scale))
            axes.text(column, row, text, ha="center", va="center", color=colour)
            if matrix.index[row] == matrix.columns[column]:
                frame = Rectangle((column - 0.47, row - 0.46), 0.94, 0.92, fill=False, edgecolor=colour, linewidth=1.3)
                axes.add_patch(frame)
        axes.set_xticks(range(columns), list(matrix.columns), rotation=35, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(rows), list(matrix.index))
        axes.set(xlabel="tested on", ylabel="trained on")
        axes.set_title(title, loc="left", fontweight="bold")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02)
        bar.outline.set_visible(False)
        return _png(figure)


def _ink(value: float, scale: tuple[float, float]) -> str:
    """White on the dark end of the colour map, black elsewhere."""
    return "white" if (value - scale[0]) / (scale[1] - scale[0]) > 0.65 else "black"


def epsilon_figure(curve: pd.DataFrame) -> bytes:
    """Macro AUC over epsilon, on- and off-domain; the arm without DP is the rightmost point."""
    from matplotlib import rc_context

    epsilons = sorted(curve["target_epsilon"].unique())
    place = {epsilon: number for number, epsilon in enumerate(epsilons)}
    with rc_context(FONT):
        figure, axes = _figure(4.7, 3.5)
        for scope, colour, style in (("on-domain", ON_DOMAIN, "o-"), ("off-domain", OFF_DOMAIN, "s--")):
            of_scope = curve[curve["scope"] == scope]
            for domain, line in of_scope.groupby("train_domain", sort=False):
                mean = domain == "mean"
                look: dict[str, Any] = {"linewidth": 2, "markersize": 6, "zorder": 3, "label": f"{scope}, mean"}
                quiet: dict[str, Any] = {"linewidth": 0.8, "alpha": 0.35, "markersize": 2.5}
                line = line.dropna(subset="auc")
                axes.plot(
                    line["target_epsilon"].map(place), line["auc"], style, color=colour, **(look if mean else quiet)
                )
        axes.plot([], [], "-", color=QUIET, linewidth=0.8, label="one train domain")
        axes.set_xticks(range(len(epsilons)), [format_epsilon(e) if math.isfinite(e) else "no DP" for e in epsilons])
        axes.set_xlim(-0.3, len(epsilons) - 0.7)
        axes.set(xlabel="target ε (smaller is more private)", ylabel="macro AUC")
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        figure.legend(loc="outside upper left", frameon=False, ncols=2)
        return _png(figure)


def subgroup_figure(table: pd.DataFrame, *, scope: str) -> bytes:
    """Mean macro AUC by subgroup, one marker an epsilon."""
    from matplotlib import rc_context

    groups: Sequence[str] = (ALL, *SUBGROUPS)
    chosen = table[table["scope"] == scope]
    epsilons = sorted(chosen["target_epsilon"].unique(), reverse=True)
    with rc_context(FONT):
        figure, axes = _figure(4.7, 3.3)
        finite = 0
        for number, epsilon in enumerate(epsilons):
            values = chosen[chosen["target_epsilon"] == epsilon].set_index("subgroup")["auc"].reindex(list(groups))
            height = np.arange(len(groups)) + 0.16 * (number - (len(epsilons) - 1) / 2)
            colour, marker = NO_DP_COLOUR, "o"
            if math.isfinite(epsilon):
                colour, marker = ARM_COLOURS[finite % len(ARM_COLOURS)], ARM_MARKERS[finite % len(ARM_MARKERS)]
                finite += 1
            axes.plot(values, height, marker, color=colour, markersize=6, label=arm_name(epsilon))
        axes.set_yticks(range(len(groups)), [group_name(group) for group in groups])
        axes.invert_yaxis()
        axes.margins(x=0.08)
        axes.locator_params(axis="x", nbins=6)
        axes.set_xlabel(f"{scope} macro AUC")
        axes.grid(axis="x", color="#dddddd", linewidth=0.6)
        axes.axhline(0.5, color="#bbbbbb", linewidth=0.8)
        axes.axhline(2.5, color="#bbbbbb", linewidth=0.8)
        axes.tick_params(axis="y", length=0)
        axes.set_axisbelow(True)
        figure.legend(loc="outside upper left", frameon=False, ncols=3)
        return _png(figure)


def group_name(group: str) -> str:
    """A subgroup in words.

    >>> group_name("age_40_70"), group_name("female"), group_name("all")
    ('40 to < 70 years', 'female', 'all patients')
    """
    if group == ALL:
        return "all patients"
    if group.startswith("age_"):
        low, high = group.removeprefix("age_").split("_")
        return f"{low} to < {high} years"
    return group
