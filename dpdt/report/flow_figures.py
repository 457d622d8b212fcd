"""Figures of how a study went: cohorts from list to splits (CONSORT's form), and the epsilon of each step."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from dpdt.report.canvas import COLUMN, Drawing, arm_looks, exported, grid, legend, sheet
from dpdt.report.names import domain_name, model_name
from dpdt.runs.read import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["flow_figure", "ledger_figure"]

LINE: Final = 0.115  # inches of a line of text
MOST_POINTS: Final = 200  # of a curve


def flow_figure(domain: str, flow: pd.DataFrame) -> Drawing:
    """One hospital's images from its list to the splits.

    Args:
        domain: The hospital.
        flow: `step, what, images, patients`: steps `read`, `excluded`, `rejected` (each reason a row), `used`
            and `split`; patients NaN where they are not counted.
    """
    left = {
        step: [_text(row) for row in flow[flow["step"] == step].to_dict("records")] for step in flow["step"].unique()
    }
    sides = ["\n".join(textwrap.fill(t, 38, subsequent_indent="   ") for t in left.get(s, ["none"])) for s in SIDES]
    words = [*left.get("read", []), *left.get("used", [])]
    heights = [LINE * (side.count("\n") + 2) + 0.08 for side in sides]
    total = 1.65 + sum(heights)
    with sheet(COLUMN, total) as (figure, axes):
        axes.set(xlim=(0, COLUMN), ylim=(-total, 0))
        axes.axis("off")
        at, middle = -0.22, 0.78
        boxes = [(at, words[0] if words else "")]
        for name, side, height in zip(SIDES, sides, heights, strict=True):
            centre = at - 0.19 - height / 2
            axes.annotate("", (1.5, centre), (middle, centre), arrowprops=ARROW)
            _box(axes, 1.53, centre, f"{name.capitalize()}\n{side}", align="left", size=5.5)
            at = centre - height / 2 - 0.09
        at -= 0.19
        boxes.append((at, words[-1] if words else ""))
        splits = left.get("split", [])
        axes.annotate("", (middle, boxes[1][0] + 0.19), (middle, boxes[0][0] - 0.15), arrowprops=ARROW)
        places = np.linspace(0.56, COLUMN - 0.56, max(len(splits), 1))
        for place, text in zip(places, splits, strict=False):
            axes.annotate("", (place, at - 0.41), (middle, at - 0.15), arrowprops=ARROW)
            _box(axes, place, at - 0.6, text.replace(": ", "\n").replace(" (", "\n("), size=5.5)
        for height, text in boxes:
            _box(axes, middle, height, text.replace(": ", "\n"))
        caption = (
            f"{domain_name(domain)}: how the images of its list became those that the networks saw, and the splits."
        )
        told = "; ".join(_text(row) for row in flow.to_dict("records"))
        return exported(figure, caption=caption, alt=f"{caption} {told}.", data=flow)


SIDES: Final = ("excluded", "rejected")
ARROW: Final[dict[str, Any]] = {"arrowstyle": "-|>", "color": "#555555", "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0}


def _text(row: Mapping[Any, Any]) -> str:
    people = f" ({row['patients']:,.0f} patients)" if pd.notna(row["patients"]) else ""
    return f"{row['what']}: {row['images']:,.0f} images{people}"


def _box(axes: "Axes", x: float, y: float, text: str, *, align: str = "center", size: float = 6) -> None:
    look = {"boxstyle": "square,pad=0.4", "facecolor": "#ffffff", "edgecolor": "#555555", "linewidth": 0.8}
    axes.text(x, y, text, ha=align, va="center", fontsize=size, bbox=look, multialignment=align, zorder=3)


def ledger_figure(runs: Sequence[Run], names: Mapping[float, str]) -> Drawing | None:
    """Epsilon spent after each step, one line a training with DP; None where there is none."""
    lines = {}
    for run in (run for run in runs if run.private):
        found = pd.DataFrame([(s["step"], s.get("epsilon")) for s in run.steps()], columns=["step", "epsilon"]).dropna()
        if len(found):
            keep = np.unique(np.linspace(0, len(found) - 1, min(len(found), MOST_POINTS)).astype(int))
            lines[run.run_id] = (run, found.iloc[keep])
    if not lines:
        return None
    looks = arm_looks(sorted({run.target_epsilon for run, _ in lines.values()}))
    with sheet(COLUMN, 2.25) as (figure, axes):
        for run, line in lines.values():
            look = {"color": looks[run.target_epsilon]["color"], "linewidth": 1, "alpha": 0.8}
            axes.plot(line["step"], line["epsilon"].astype(float), **look)
        for epsilon, look in looks.items():
            axes.axhline(epsilon, color=look["color"], linewidth=0.7, linestyle=":")
            axes.plot([], [], color=look["color"], label=names.get(epsilon, f"ε = {epsilon:g}"))
        axes.set(xlabel="step", ylabel="ε spent so far")
        axes.set_yscale("log" if max(looks) / min(looks) >= 4 else "linear")
        axes.set_yticks(sorted(looks), [f"{epsilon:g}" for epsilon in sorted(looks)])
        axes.minorticks_off()
        grid(axes, "y")
        legend(figure, axes)
        caption = (
            "ε spent after each training step, one line a training. Dotted: the ε that a training may spend; none may "
            "pass it."
        )
        ends = (f"{model_name(run)}: {line['epsilon'].iloc[-1]:.3g}" for run, line in lines.values())
        data = pd.concat([line.assign(run=run_id)[["run", "step", "epsilon"]] for run_id, (_, line) in lines.items()])
        return exported(figure, caption=caption, alt=f"{caption} At the end: {'; '.join(ends)}.", data=data)
