"""How every figure is made: one sheet, one export, one way into the page.

A figure is drawn once and kept as SVG and PDF (what MLflow shows as PNG, too) with its caption, its description for
those who cannot see it, and its numbers. In the page the SVG stands inline: its text is text, and its colours are
variables that follow the reader's light or dark theme. Colours are Okabe and Ito's, which colour-blind readers tell
apart; markers differ, too.
"""

import functools
import html
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import pandas as pd

from dpdt.base.files import atomic_path
from dpdt.report.format import level
from dpdt.study import is_before

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "COLOURS",
    "COLOUR_MAP",
    "COLUMN",
    "DARK",
    "MARKERS",
    "QUIET",
    "Drawing",
    "arm_looks",
    "exported",
    "grid",
    "inline",
    "legend",
    "sheet",
]

DPI: Final = 230
UNDATED: Final[dict[str, dict[str, None]]] = {
    "png": {"Software": None},
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
}
COLOUR_MAP: Final = "Blues"  # one hue, monotone in lightness: the same to colour-blind readers and in grey print
COLOURS: Final = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS: Final = ("s", "^", "v", "P", "X", "d")
NO_DP_COLOUR, BEFORE_COLOUR, QUIET, GRID = "#222222", "#8c8c8c", "#999999", "#dddddd"
SHORT: Final = 8  # letters
COLUMN: Final = 3.5  # inches: a column of Radiology and of most journals (two are 7); on a screen it fits a phone
SCREEN: Final = 2.15  # pixels of the page a point: seven points are read as 15 px
FONT: Final[dict[str, Any]] = {
    "font.size": 7,
    "axes.titlesize": 7.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "dpdt",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
}
DARK: Final = {
    "#ffffff": "#14181c",
    "#000000": "#e4e8ec",
    "#222222": "#f2f2f2",
    "#dddddd": "#3a4148",
    "#bbbbbb": "#59626a",
    "#999999": "#8d969e",
    "#8c8c8c": "#a8b0b7",
    "#eeeeee": "#2a3036",
    "#555555": "#b4bbc2",
    "#0072b2": "#56b4f4",
    "#d55e00": "#ff8b3d",
    "#009e73": "#33cfa0",
    "#cc79a7": "#e79cc6",
    "#e69f00": "#f5bd3d",
    "#56b4e9": "#8fd0f7",
}
"""What each colour of a figure becomes in the dark. What stands on a coloured cell (#010101, #fefefe) stays."""


@dataclass(frozen=True)
class Drawing:
    """A finished figure.

    Attributes:
        files: By ending: svg, pdf, and perhaps png.
        caption: Stands alone: what is shown, of whom, with which intervals.
        alt: What a reader who cannot see it should know.
        data: The numbers that are drawn; written beside it as CSV.
    """

    files: Mapping[str, bytes]
    caption: str = ""
    alt: str = ""
    data: pd.DataFrame = field(default_factory=pd.DataFrame)

    def with_level(self, confidence: float) -> "Drawing":
        """The same with a caption that says which intervals it has."""
        return replace(self, caption=self.caption.replace("intervals", f"{level(confidence)} intervals"))


@contextmanager
def sheet(
    width: float, height: float, panels: tuple[int, int] | None = None, **options: Any
) -> Iterator[tuple["Figure", Any]]:
    """A blank figure of so many inches: with its axes, or an array of them (flat) where panels are asked for."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(FONT):
        figure = Figure(figsize=(width, height), layout="constrained")  # no pyplot: nothing global, no window system
        axes = figure.subplots(*(panels or (1, 1)), squeeze=False, **options).ravel()
        yield figure, axes[0] if panels is None else axes


def exported(figure: "Figure", *, caption: str, alt: str, data: pd.DataFrame, raster: bool = False) -> Drawing:
    """The figure as SVG and PDF (`raster`: and as PNG), the same bytes each time: nothing says when it was drawn."""
    from matplotlib import rc_context, rcParams

    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the layout is found; it would be sought again for each format
    files = {}
    for kind, undated in UNDATED.items():
        if kind == "png" and not raster:
            continue
        stream = io.BytesIO()
        with rc_context({"font.sans-serif": [_lean_font(), *rcParams["font.sans-serif"]]} if kind == "pdf" else {}):
            figure.savefig(stream, format=kind, dpi=DPI, metadata=undated)
        files[kind] = stream.getvalue()
    return Drawing(files, caption, alt, data)


@functools.cache
def _lean_font() -> str:
    """Name of the usual font without its rules of layout: to read them for each PDF took a third of a report's time.

    It is kept beside matplotlib's own cache: a job's process ends without removing its temporary files.
    """
    import matplotlib
    from fontTools import subset
    from matplotlib import font_manager

    options = subset.Options(glyph_names=True, layout_features=[], hinting=False)
    options.drop_tables += ["GSUB", "GPOS", "GDEF", "FFTM"]
    path = Path(matplotlib.get_cachedir(), f"dpdt-lean-{matplotlib.__version__}.ttf")
    if not path.exists():
        with subset.load_font(font_manager.findfont("DejaVu Sans"), options) as font, atomic_path(path) as temporary:
            subsetter = subset.Subsetter(options)
            subsetter.populate(unicodes=list(font.getBestCmap()))
            subsetter.subset(font)
            subset.save_font(font, str(temporary), options)
    found = font_manager.ttfFontProperty(font_manager.get_font(path))
    font_manager.fontManager.ttflist.append(replace(found, name="dpdt lean"))
    return "dpdt lean"


def inline(name: str, drawing: Drawing) -> str:
    """A figure's SVG as a part of an HTML page: names are its own, colours follow the theme."""
    text = drawing.files["svg"].decode("utf-8")
    text = text[text.find("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->|<defs>\s*</defs>", "", text, flags=re.DOTALL)
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text))
    text = re.sub(r'\sid="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", text)
    text = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", text)
    text = re.sub(r"#[0-9a-f]{6}\b", lambda m: f"var(--f{m[0][1:]})" if m[0] in DARK else m[0], text)
    text = re.sub(r">\s+<", "><", text).replace("<g></g>", "")
    text = re.sub(r'^(<svg[^>]*?) width="([\d.]+)pt" height="[\d.]+pt"', _wider, text)
    label = html.escape(drawing.alt, quote=True)
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1).strip()


def _wider(tag: re.Match[str]) -> str:
    """The SVG's tag with a width for a screen; its height follows."""
    return f'{tag[1]} width="{SCREEN * float(tag[2]):.0f}"'


def arm_looks(epsilons: Sequence[float]) -> dict[float, dict[str, Any]]:
    """Colour and marker of each arm: the same in every figure of a report."""
    looks: dict[float, dict[str, Any]] = {}
    for epsilon in sorted(epsilons, reverse=True):
        colour, marker = (BEFORE_COLOUR, "*") if is_before(epsilon) else (NO_DP_COLOUR, "o")
        if 0 < epsilon < math.inf:
            at = sum(0 < other < math.inf for other in looks)
            colour, marker = COLOURS[at % len(COLOURS)], MARKERS[at % len(MARKERS)]
        looks[epsilon] = {"color": colour, "marker": marker}
    return looks


def grid(axes: "Axes", axis: Literal["x", "y", "both"]) -> None:
    """Thin lines behind the data."""
    axes.grid(axis=axis, color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)


def legend(figure: "Figure", axes: "Axes", *, columns: int = 3) -> None:
    """Names above the panels, where they hide nothing; short ones of four arms in one line."""
    handles, labels = axes.get_legend_handles_labels()
    columns += len(labels) == 4 and max(map(len, labels)) <= SHORT
    figure.legend(handles, labels, loc="outside upper left", frameon=False, ncols=columns)
