"""Curves over the axes of a study: the amount of data, and the size of the network."""

import pandas as pd

from dpdt.report.canvas import COLUMN, QUIET, Drawing, arm_looks, exported, grid, legend, sheet
from dpdt.study import arm_name

__all__ = ["axis_figure"]


def axis_figure(table: pd.DataFrame, *, x: str, lines: str) -> Drawing:
    """Macro AUC over the amount of data or the network's size, by arm; on-domain whole lines, off-domain dashed ones.

    Args:
        table: Columns `scope, target_epsilon, auc, ci_low, ci_high, initial`, `x` and `lines`.
        x: `fraction` or `num_parameters`: the axis, logarithmic.
        lines: Rows of one value of this column are joined by lines; each has a panel.
    """
    groups = list(dict.fromkeys(table[lines]))
    looks = arm_looks([float(epsilon) for epsilon in table["target_epsilon"].unique()])
    with sheet(COLUMN, 0.5 + 1.95 * len(groups), (len(groups), 1), sharex=True, sharey=True) as (figure, panels):
        for axes, group in zip(panels, groups, strict=True):
            for (epsilon, scope), rows in table[table[lines] == group].groupby(["target_epsilon", "scope"]):
                look, rows = looks[epsilon], rows.sort_values(x)
                style = "-" if scope == "on-domain" else "--"
                axes.plot(rows[x], rows["auc"], linestyle=style, label=f"{arm_name(epsilon)}, {scope}", **look)
                axes.vlines(rows[x], rows["ci_low"], rows["ci_high"], color=look["color"], linewidth=1)
            axes.set(xscale="log", ylabel="macro AUC", title=group)
            grid(axes, "y")
            if x == "fraction":
                ticks = sorted(table[x].unique())
                axes.set_xticks(ticks, [f"{100 * tick:g}%" for tick in ticks])
                axes.minorticks_off()
                continue
            at_bottom = axes.get_xaxis_transform()
            for size, names in table[table[lines] == group].groupby(x)["initial"].unique().items():
                text = "\n".join(names)
                axes.text(size, 0.01, text, ha="center", va="bottom", transform=at_bottom, fontsize=5.5, color=QUIET)
        what = "part of the train patients" if x == "fraction" else "parameters of the network"
        axes.set_xlabel(what)
        fullest = max(panels, key=lambda axes: len(axes.get_legend_handles_labels()[1]))
        legend(figure, fullest, columns=2)
        caption = (
            f"Mean macro AUC over the {what}, by arm: on the hospital of training whole lines, on others dashed ones. "
            "Bars are intervals of the means."
        )
        return exported(figure, caption=caption, alt=caption, data=table)
