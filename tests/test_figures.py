"""How the report's figures look: no label over another or outside of its figure."""

import itertools
import math
import os
import re
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from dpdt.base.vocabulary import LABELS, SUBGROUPS
from dpdt.report import curve_figures, figures, flow_figures
from dpdt.report.canvas import Drawing, exported, sheet
from dpdt.report.curves import Curves, measured
from dpdt.report.names import label_name

LONG = ("vindr", "chestxray14", "chexpert", "uka", "a_hospital_with_a_long_name", "six", "seven")
EPSILONS = {math.inf: "no DP", 10.0: "ε 3.5–10", 8.0: "ε = 8", 3.5: "ε 2–3.5", 1.0: "ε 0–1"}
SCOPES = ("on-domain", "off-domain")


def curve() -> pd.DataFrame:
    rows = [
        {"scope": scope, "train_domain": domain, "target_epsilon": e, "auc": 0.7 + place, "ci_low": 0.7, "ci_high": 0.8}
        for scope in SCOPES
        for place, e in enumerate(np.linspace(0, 0.2, 5))
        for domain in (*LONG, "mean")
    ]
    return pd.DataFrame(rows).assign(target_epsilon=np.tile(np.repeat(list(EPSILONS), 8), 2), auc=0.8)


def subgroups() -> pd.DataFrame:
    keys = itertools.product(SCOPES, ("all", *SUBGROUPS), EPSILONS)
    frame = pd.DataFrame(keys, columns=["scope", "subgroup", "target_epsilon"])
    return frame.assign(auc=np.linspace(0.61234, 0.61299, len(frame)), ci_low=0.6, ci_high=0.63, pairs=5)


def sizes() -> pd.DataFrame:
    frame = pd.DataFrame(itertools.product(LONG, ("all", *SUBGROUPS)), columns=["test_domain", "subgroup"])
    return frame.assign(images=np.where(frame["subgroup"] == "all", 1_000_000, 123_456))


def spent() -> pd.DataFrame:
    frame = pd.DataFrame(itertools.product(LONG, (0.29, 0.99, 2.01, 13.43)), columns=["domain", "epsilon"])
    return frame.assign(auc=np.linspace(0.7, 0.9, len(frame)))


MANY = tuple(f"hospital_{number}" for number in range(16))
FLOW = pd.DataFrame(
    [
        ("read", "in the list", 1_234_567, math.nan),
        ("excluded", "view LATERAL is not one of PA, AP, and is not wanted in this study", 123_456, math.nan),
        ("excluded", "no label", 1, math.nan),
        ("rejected", "the file is damaged", 12, math.nan),
        ("used", "used", 1_000_000, 400_000),
        ("split", "train", 700_000, 300_000),
        ("split", "val", 100_000, 50_000),
        ("split", "test", 200_000, 50_000),
    ],
    columns=["step", "what", "images", "patients"],
)


def of_curves(kind: str) -> object:
    rng = np.random.default_rng(0)
    found = []
    for label in LABELS:
        for epsilon in EPSILONS:
            target = (rng.random(400) < 0.3).astype(float)
            score = rng.beta(2, 5, 400).astype(np.float32)
            tables = measured(target, score, np.arange(400), rng.integers(0, 3, (400, 20), dtype=np.uint8), 0.95)
            found.append(Curves(epsilon, "padchest", "padchest", label, 400, int(target.sum()), **tables))
    return curve_figures.curve_figures(found, EPSILONS, 0.95)[f"{kind}_padchest"]


def confusion() -> pd.DataFrame:
    keys = pd.DataFrame(itertools.product(LABELS, EPSILONS), columns=["label", "target_epsilon"])
    counts = {"tp": 123_456, "fn": 23_456, "fp": 123_456, "tn": 1_234_567}
    return keys.assign(train_domain="uka", sensitivity=0.8, specificity=0.7, **counts)


DRAWN: dict[str, Callable[[], object]] = {
    "heat map": lambda: figures.heat_map(
        pd.DataFrame(np.full((7, 7), 0.85), list(LONG), list(LONG)), title="pleural effusion, ε 3.5–10", scale=(0.5, 1)
    ),
    "heat map of one": lambda: figures.heat_map(
        pd.DataFrame([[math.nan]], ["uka"], ["uka"]), title="pleural effusion, ε = 8", scale=(0.5, 1)
    ),
    "heat map of one long name": lambda: figures.heat_map(
        pd.DataFrame([[0.8]], ["a_hospital_with_quite_a_long_name"], ["a_hospital_with_quite_a_long_name"]),
        title="no DP",
        scale=(0.5, 1),
    ),
    "curve": lambda: figures.epsilon_figure(curve(), names=EPSILONS),
    "subgroups": lambda: figures.subgroup_figure(subgroups(), scope="on-domain", names=EPSILONS),
    "differences": lambda: figures.dot_figure(
        pd.DataFrame(
            [
                (panel, label, e, 0.01, -0.02, 0.03)
                for panel in ("difference to no DP", "difference to before")
                for label in LABELS
                for e in EPSILONS
            ],
            columns=figures.DOTS,
        ),
        rows=LABELS,
        names=EPSILONS,
        row_name=label_name,
        what="Differences",
        zero=True,
    ),
    "crowded heat map": lambda: figures.heat_map(
        pd.DataFrame(np.full((16, 16), 0.85), list(MANY), list(MANY)), title="ε = 8", scale=(0.5, 1)
    ),
    "roc": lambda: of_curves("roc"),
    "recall": lambda: of_curves("recall"),
    "calibration": lambda: of_curves("calibration"),
    "scores": lambda: of_curves("scores"),
    "confusion": lambda: curve_figures.confusion_figure(confusion(), "chestxray14", EPSILONS),
    "flow": lambda: flow_figures.flow_figure("padchest", FLOW),
    "sizes": lambda: figures.sizes_figure(sizes()),
    "spent": lambda: figures.spent_figure(spent()),
}


def corners(text: Text) -> np.ndarray:
    """Of the text's rectangle as it stands, rotated or not, in pixels."""
    angle = text.get_rotation()
    text.set_rotation(0)
    flat = text.get_window_extent()
    text.set_rotation(angle)
    around = text.get_window_extent()
    turn = np.deg2rad(angle)
    half = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [flat.width / 2, flat.height / 2]
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return half @ rotation + [around.x0 + around.width / 2, around.y0 + around.height / 2]


def overlap(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two convex shapes share more than two pixels in every direction of an edge (separating axes)."""
    for shape in (first, second):
        for edge in np.diff(shape, axis=0, append=shape[:1])[:2]:
            normal = np.array([-edge[1], edge[0]]) / max(np.hypot(*edge), 1e-9)
            one, two = first @ normal, second @ normal
            if min(one.max(), two.max()) - max(one.min(), two.min()) < 2:
                return False
    return True


def ticks_beyond(axes: Axes) -> Iterator[Text]:
    """Labels of ticks beyond an axis' ends, which are not drawn."""
    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        slack = 1e-9 * (high - low)
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
            if not low - slack <= tick.get_loc() <= high + slack:
                yield from (tick.label1, tick.label2)


@pytest.mark.parametrize("name", DRAWN)
def test_no_label_lies_over_another_or_outside_of_its_figure(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: kept.append(figure))
    DRAWN[name]()
    figure = kept[-1]  # the same, once for each format; of several figures the last
    assert len(set(kept[-2:])) == 1
    figure.draw_without_rendering()
    hidden = {id(label) for axes in figure.axes for label in ticks_beyond(axes)}
    texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip() and id(t) not in hidden]
    whole = figure.bbox
    shown = []
    for text in texts:
        box: Bbox = text.get_window_extent()
        assert box.x0 >= whole.x0 - 1, text
        assert box.x1 <= whole.x1 + 1, text
        assert box.y0 >= whole.y0 - 1, text
        assert box.y1 <= whole.y1 + 1, text
        shown.append((text.get_text(), corners(text)))
    assert len(shown) >= 3
    clashes = [(a, b) for (a, one), (b, two) in itertools.combinations(shown, 2) if overlap(one, two)]
    assert clashes == []


def test_a_pdf_has_the_letters_of_all_its_words_in_a_font_that_is_small() -> None:
    words = "Ñandú Złoty ε ≤ 8 → ½ сердце Ա"
    with sheet(3, 2) as (figure, axes), warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of a letter that no font has
        axes.set_title(words)
        made = exported(figure, caption="", alt="", data=pd.DataFrame()).files["pdf"]
    found = set()  # what the PDF says that its glyphs are: <first> <last> [<letter> …]
    for stream in re.findall(rb"stream\r?\n(x.*?)endstream", made, re.DOTALL):
        for letters in re.findall(rb"\[((?:<[0-9a-f]{4}> ?)+)\]", zlib.decompress(stream.rstrip(b"\r\n"))):
            found |= {chr(int(code, 16)) for code in re.findall(rb"[0-9a-f]{4}", letters)}
    assert set(words) <= found
    assert len(made) < 12_000  # 14,500 with the font's rules of layout


def test_a_caption_has_all_digits_of_the_level() -> None:
    """99.9 % is not 100 %, nor 97.5 % 98 %: `evaluate.confidence` may be any number between 0 and 1."""
    for confidence, words in ((0.95, "95% intervals"), (0.975, "97.5% intervals"), (0.999, "99.9% intervals")):
        assert words in Drawing({}, caption="Bars are intervals.").with_level(confidence).caption


def test_a_process_that_ends_at_once_leaves_no_font_and_the_next_draws_the_same(tmp_path: Path) -> None:
    """As jobs end: no library's end may change their code, so nothing of Python's own end is run."""
    draw = (
        "import os, sys, pandas as pd; from dpdt.report.canvas import exported, sheet\n"
        "with sheet(3, 2) as (figure, axes): axes.set_title('ε ≤ 8')\n"
        "made = exported(figure, caption='', alt='', data=pd.DataFrame()).files['pdf']\n"
        "sys.stdout.buffer.write(made); sys.stdout.flush(); os._exit(0)"
    )
    (temporary := tmp_path / "tmp").mkdir()
    here = {**os.environ, "TMPDIR": str(temporary), "MPLCONFIGDIR": str(tmp_path / "matplotlib")}
    first, second = (
        subprocess.run([sys.executable, "-c", draw], env=here, capture_output=True, check=True).stdout for _ in range(2)
    )
    assert first == second
    assert first.startswith(b"%PDF")
    assert [*temporary.iterdir()] == []
