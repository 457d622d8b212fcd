"""How the report looks: no label over another or outside of its figure, nothing wider than the page."""

import itertools
import math
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from dpdt.base.vocabulary import SUBGROUPS
from dpdt.report import figures
from dpdt.report.write import write_report
from tests.fake_runs import FIVE, FakeRuns

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


DRAWN: dict[str, Callable[[], object]] = {
    "heat map": lambda: figures.heat_map(
        pd.DataFrame(np.full((7, 7), 0.85), list(LONG), list(LONG)), title="pleural effusion, ε 3.5–10", scale=(0.5, 1)
    ),
    "heat map of one": lambda: figures.heat_map(
        pd.DataFrame([[math.nan]], ["uka"], ["uka"]), title="pleural effusion, ε = 8", scale=(0.5, 1)
    ),
    "curve": lambda: figures.epsilon_figure(curve(), names=EPSILONS),
    "subgroups": lambda: figures.subgroup_figure(subgroups(), scope="on-domain", names=EPSILONS),
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
    [figure] = set(kept)  # once for each format
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


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_page(fake_runs: Callable[..., FakeRuns], tmp_path: Path, width: int) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs chromium")
    page = write_report(fake_runs(FIVE[:2], "[8.0, 1.0, inf]").all().study)
    # The page in a frame of the wanted width; what sticks out of it is told in the frame's own document.
    probe = """<script>addEventListener("load", () => {
    document.querySelectorAll("details").forEach(d => d.open = true);
    const wide = [...document.querySelectorAll("body *")].filter(e => !e.closest(".scroll") &&
        e.getBoundingClientRect().right > innerWidth + 1).map(e => e.tagName + ":" + e.textContent.slice(0, 30));
    parent.postMessage([innerWidth, document.documentElement.scrollWidth, wide.length, ...wide].join("|"), "*");
    });</script>"""
    html = page.read_text(encoding="utf-8").replace("</body>", probe + "</body>")
    (tmp_path / "probe.html").write_text(re.sub(r"<meta http-equiv[^>]*>", "", html))  # the page allows no script
    (tmp_path / "frame.html").write_text(
        f'<iframe src="probe.html" style="width:{width}px;height:900px;border:0"></iframe><p id="found"></p><script>'
        'addEventListener("message", e => document.getElementById("found").textContent = "FOUND " + e.data);</script>'
    )
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
    command += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={tmp_path / 'user'}"]
    command += ["--virtual-time-budget=8000", "--dump-dom", (tmp_path / "frame.html").as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    found = re.search(r"id=.found.>FOUND ([^<]+)", shown.stdout)
    assert found, shown.stderr[-500:]
    inner, scroll, count, *wide = found.group(1).split("|")
    assert (int(inner), int(count)) == (width, 0), wide
    assert int(scroll) <= width  # less by the width of a scroll bar
