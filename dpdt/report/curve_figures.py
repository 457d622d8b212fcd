"""Figures of one hospital's test patients: a panel a label, a colour an arm. The numbers: `curves`."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from dpdt.report.canvas import COLOUR_MAP, COLUMN, QUIET, Drawing, arm_looks, exported, grid, legend, sheet
from dpdt.report.curves import Curves
from dpdt.report.figures import ON_DARK, ON_LIGHT
from dpdt.report.format import level, plain
from dpdt.report.names import domain_name, label_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["confusion_figure", "curve_figures"]

PANEL: Final = 1.55  # inches
Draw = Callable[["Axes", Curves, dict[str, Any]], None]


def curve_figures(found: Sequence[Curves], names: Mapping[float, str], confidence: float) -> dict[str, Drawing]:
    """ROC, precision–recall, calibration and histogram of each test domain, by the figure's name."""
    bands = f"bands and bars: pointwise {level(confidence)} intervals from draws of patients"
    kinds: dict[str, tuple[Draw, str, str, str, str]] = {
        "roc": (_roc, "roc", "1 − specificity", "sensitivity", f"ROC curves; {bands}; grey: chance"),
        "recall": (_recall, "recall", "recall", "precision", f"Precision–recall curves; {bands}"),
        "calibration": (
            _calibration,
            "calibration",
            "mean score",
            "part that is positive",
            f"Calibration: tenths of the images; {bands}; grey: perfect. In each panel: slope (1 is perfect) of the "
            "arm without DP, or the first one; all are in the table",
        ),
        "scores": (
            _histogram,
            "histogram",
            "score",
            "part of the class",
            "Scores: solid positive, dotted negative; bars of fewer than ten patients are not drawn",
        ),
    }
    drawn = {}
    for domain in dict.fromkeys(one.test_domain for one in found):
        here = [one for one in found if one.test_domain == domain]
        for kind, texts in kinds.items():
            drawn[f"{kind}_{domain}"] = _panels(here, names, *texts)
    return drawn


def _panels(
    here: Sequence[Curves], names: Mapping[float, str], draw: Draw, table: str, xlabel: str, ylabel: str, what: str
) -> Drawing:
    labels = list(dict.fromkeys(one.label for one in here))
    looks = arm_looks(list(names))
    columns = min(2, len(labels))
    rows = math.ceil(len(labels) / columns)
    shared = table != "histogram"
    with sheet(COLUMN, PANEL * rows + 0.4, (rows, columns), sharex=shared, sharey=shared) as (figure, every):
        for axes, label in zip(every, labels, strict=False):
            for one in (one for one in here if one.label == label):
                look = {"color": looks[one.target_epsilon]["color"], "label": names[one.target_epsilon]}
                draw(axes, one, look)
            first = next(one for one in here if one.label == label)
            axes.set_title(f"{label_name(label)} ({first.n_positive:,} of {first.n:,})", fontsize=6, loc="left")
            grid(axes, "both")
        for axes in every[len(labels) :]:
            axes.remove()
        figure.supxlabel(xlabel, fontsize=7)
        figure.supylabel(ylabel, fontsize=7)
        legend(figure, every[0])
        trained = dict.fromkeys(domain_name(one.train_domain) for one in here if one.target_epsilon > 0)
        caption = f"{domain_name(here[0].test_domain)}, test patients: {what}. Models trained on "
        caption += f"{', '.join(trained)} (first seed); in brackets: positive images of all."
        alt = f"{caption} Labels: {', '.join(map(label_name, labels))}."
        data = pd.concat([_with_slopes(one, table) for one in here], ignore_index=True)
        return exported(figure, caption=caption, alt=alt, data=data)


def _with_slopes(one: Curves, table: str) -> pd.DataFrame:
    found = one.table(table)
    return found.assign(**one.recalibration._asdict()) if table == "calibration" else found


def _roc(axes: "Axes", one: Curves, look: dict[str, Any]) -> None:
    axes.plot([0, 1], [0, 1], color=QUIET, linewidth=0.6, zorder=1)
    _line(axes, one.roc, "false_positive_rate", "sensitivity", look)


def _recall(axes: "Axes", one: Curves, look: dict[str, Any]) -> None:
    _line(axes, one.recall, "recall", "precision", look)
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))


def _line(axes: "Axes", table: pd.DataFrame, x: str, y: str, look: dict[str, Any]) -> None:
    axes.plot(table[x], table[y], linewidth=1.2, **look)
    if table["low"].notna().any():
        axes.fill_between(table[x], table["low"], table["high"], color=look["color"], alpha=0.15, linewidth=0)


def _calibration(axes: "Axes", one: Curves, look: dict[str, Any]) -> None:
    table = one.calibration
    axes.plot([0, 1], [0, 1], color=QUIET, linewidth=0.6, zorder=1)
    axes.plot(table["score"], table["observed"], "o-", linewidth=0.9, markersize=2.5, **look)
    axes.vlines(table["score"], table["low"], table["high"], color=look["color"], linewidth=0.8)
    if len(axes.texts) == 0 and not math.isnan(one.recalibration.slope):
        slope, low, high = (plain(getattr(one.recalibration, f"slope{end}"), 2) for end in ("", "_low", "_high"))
        words = f"slope {slope} ({low} to {high})"
        axes.text(0.03, 0.97, words, fontsize=6, va="top", transform=axes.transAxes)


def _histogram(axes: "Axes", one: Curves, look: dict[str, Any]) -> None:
    table = one.histogram
    edges = [*table["low"], 1.0]
    axes.stairs(table["positive"].fillna(0), edges, linewidth=1.1, **look)
    axes.stairs(table["negative"].fillna(0), edges, linewidth=0.9, linestyle=":", color=look["color"])


def confusion_figure(table: pd.DataFrame, domain: str, names: Mapping[float, str]) -> Drawing:
    """What the models call positive, of images with and without each finding.

    Args:
        table: `label, target_epsilon, train_domain, sensitivity, specificity, tp, fn, fp, tn`; NaN where a count of a
            row is small.
        domain: Whose test patients.
        names: Of the arms.
    """
    labels, arms = list(dict.fromkeys(table["label"])), list(dict.fromkeys(table["target_epsilon"]))
    with sheet(COLUMN + 0.82 * max(0, len(arms) - 3), 0.9 + 0.46 * len(labels)) as (figure, axes):
        cells = np.full((2 * len(labels), 2 * len(arms)), np.nan)
        for row in table.to_dict("records"):
            at = (2 * labels.index(row["label"]), 2 * arms.index(row["target_epsilon"]))
            shares = np.array(
                [[row["sensitivity"], 1 - row["sensitivity"]], [1 - row["specificity"], row["specificity"]]]
            )
            counts = np.array([[row["tp"], row["fn"]], [row["fp"], row["tn"]]])
            cells[at[0] : at[0] + 2, at[1] : at[1] + 2] = shares
            for (y, x), share in np.ndenumerate(shares):
                if math.isnan(share):
                    axes.text(at[1] + x, at[0] + y, "–", ha="center", va="center", fontsize=5.5, color="#555555")
                else:
                    text = f"{100 * share:.0f} %\n{counts[y, x]:,.0f}"
                    ink = ON_DARK if share > 0.65 else ON_LIGHT
                    axes.text(at[1] + x, at[0] + y, text, ha="center", va="center", fontsize=5.5, color=ink)
        edges = [np.arange(n + 1) - 0.5 for n in cells.shape[::-1]]
        axes.pcolormesh(*edges, np.ma.masked_invalid(cells), cmap=COLOUR_MAP, vmin=0, vmax=1)
        for line in range(2, cells.shape[1], 2):
            axes.axvline(line - 0.5, color="#ffffff", linewidth=3)
        for line in range(2, cells.shape[0], 2):
            axes.axhline(line - 0.5, color="#ffffff", linewidth=3)
        axes.set_xticks(range(cells.shape[1]), ["called\npositive", "called\nnegative"] * len(arms), fontsize=5.5)
        rows = [text for label in labels for text in (label_name(label), "without it")]
        axes.set_yticks(range(cells.shape[0]), rows, fontsize=6)
        top = axes.secondary_xaxis("top")
        top.set_xticks([2 * n + 0.5 for n in range(len(arms))], [names[e] for e in arms])
        for side in (axes, top):
            side.tick_params(length=0)
            side.spines[:].set_visible(False)
        axes.set_ylim(cells.shape[0] - 0.5, -0.5)
        caption = (
            f"{domain_name(domain)}, test patients, at the thresholds from validation patients: of images with each "
            "finding, and of those without it, the part that the models call positive and negative; below it the "
            "images. –: one of the two counts is below ten."
        )
        told = (
            f"{label_name(r['label'])}, {names[r['target_epsilon']]}: sensitivity {plain(r['sensitivity'], 2)}, "
            f"specificity {plain(r['specificity'], 2)}"
            for r in table.to_dict("records")
        )
        return exported(figure, caption=caption, alt=f"{caption} {'; '.join(told)}.", data=table)
