"""Curves over the axes of a study: the amount of data, and the size of the network."""

import math
from typing import Any

import pandas as pd

from dpdt.report.figures import ARM_COLOURS, ARM_MARKERS, BEFORE_COLOUR, FONT, NO_DP_COLOUR, Drawing, exported
from dpdt.study import arm_name, is_before

__all__ = ["axis_figure"]


def axis_figure(table: pd.DataFrame, *, x: str, lines: str) -> Drawing:
    """Macro AUC over the amount of data or the network's size, by arm; on-domain whole lines, off-domain dashed ones.

    Args:
        table: Columns `scope, target_epsilon, auc, ci_low, ci_high, initial`, `x` and `lines`.
        x: `fraction` or `num_parameters`: the axis, logarithmic.
        lines: Rows of one value of this column are joined by lines; each has a panel.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    groups = list(dict.fromkeys(table[lines]))
    private = sorted(epsilon for epsilon in table["target_epsilon"].unique() if 0 < epsilon < math.inf)
    looks = dict(zip(private, zip(ARM_COLOURS * 9, ARM_MARKERS * 9, strict=False), strict=False))
    with rc_context(FONT):
        figure = Figure(figsize=(4.7, 0.7 + 2.6 * len(groups)), layout="constrained")
        panels = figure.subplots(len(groups), 1, squeeze=False, sharex=True, sharey=True)[:, 0]
        for axes, group in zip(panels, groups, strict=True):
            for (epsilon, scope), rows in table[table[lines] == group].groupby(["target_epsilon", "scope"]):
                colour, marker = looks.get(epsilon, (BEFORE_COLOUR, "*") if is_before(epsilon) else (NO_DP_COLOUR, "o"))
                rows, style = rows.sort_values(x), "-" if scope == "on-domain" else "--"
                axes.plot(rows[x], rows["auc"], marker + style, color=colour, label=f"{arm_name(epsilon)}, {scope}")
                axes.vlines(rows[x], rows["ci_low"], rows["ci_high"], color=colour, linewidth=1)
            axes.set(xscale="log", ylabel="macro AUC", title=group)
            axes.grid(axis="y", color="#dddddd", linewidth=0.6)
            if x == "fraction":
                ticks = sorted(table[x].unique())
                axes.set_xticks(ticks, [f"{100 * tick:g}%" for tick in ticks])
                axes.minorticks_off()
            else:
                starts = table[table[lines] == group].groupby(x)["initial"].unique()
                for size, names_of in starts.items():
                    where: dict[str, Any] = {
                        "transform": axes.get_xaxis_transform(),
                        "fontsize": 6.5,
                        "color": "#777777",
                    }
                    axes.text(size, 0.01, "\n".join(names_of), ha="center", va="bottom", **where)
        axes.set_xlabel("part of the train patients" if x == "fraction" else "parameters of the network")
        names = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        figure.legend(names.values(), names.keys(), loc="outside upper left", frameon=False, ncols=2)
        return exported(figure)
