"""The report in a real browser: nothing wider than the page at any width, light and dark, read by anybody, on paper."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import html5lib
import pytest

from dpdt.base.vocabulary import as_name
from dpdt.report.from_csv import write_published
from dpdt.report.write import write_report
from dpdt.study import Cell
from dpdt.study.findings import findings_of
from tests.fake_runs import FakeRuns

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright here: make install")
axe_core = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe here: make install")

from tests.browser.pages import browser, chromium  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(chromium() is None, reason="no chromium here: apt-get install chromium"),
]

Make = Callable[..., FakeRuns]
WIDTHS = (390, 800, 1280, 1600)
MOST_LABELS = 28
# What sticks out of the page, what overlaps a neighbour's column, and headings out of order.
PROBE = """() => {
    document.querySelectorAll('details').forEach(d => d.open = true);
    const inside = e => e.closest('.scroll') || e.closest('svg') || e.closest('.skip');
    const wide = [...document.querySelectorAll('body *')].filter(e => !inside(e) &&
        e.getBoundingClientRect().width > 0 && e.getBoundingClientRect().right > innerWidth + 1);
    const levels = [...document.querySelectorAll('h1, h2, h3')].map(h => Number(h.tagName[1]));
    return {
        cut: [...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth)
            .map(e => e.scrollWidth - e.clientWidth + ' px: ' + e.textContent.slice(0, 40)),
        scroll: document.documentElement.scrollWidth,
        wide: wide.slice(0, 5).map(e => e.tagName + ' ' + e.textContent.slice(0, 40)),
        jumps: levels.filter((l, n) => n > 0 && l > levels[n - 1] + 1).length,
        side: getComputedStyle(document.querySelector('.side')).display,
        top: getComputedStyle(document.querySelector('.top')).display,
        ink: getComputedStyle(document.querySelector('body')).color,
        line: (e => e && getComputedStyle(e).stroke)(document.querySelector('figure svg [style*="--f555555"]')),
    };
}"""


def whole(fake_runs: Make) -> Path:
    return write_report(fake_runs(("vindr", "chestxray14", "uka"), "[1.0, 8.0, inf]", public=True).all().study)


def one_domain(fake_runs: Make) -> Path:
    return write_report(fake_runs(("a_hospital_with_quite_a_long_name",), "[2.0, inf]").all().study)


def failures(fake_runs: Make) -> Path:
    runs = fake_runs(("vindr", "uka"), "[1.0, inf]")
    runs.train(Cell("vindr", float("inf"), 0))
    runs.evaluate(Cell("vindr", float("inf"), 0))
    runs.train(Cell("vindr", 1.0, 0), status="interrupted", steps=7)
    return write_report(runs.study)


def many_labels(fake_runs: Make) -> Path:
    labels = [as_name(finding) for finding in findings_of("vindr")][:MOST_LABELS]
    return write_report(fake_runs(("vindr", "uka"), "[1.0, inf]", labels=labels).all().study)


def published(fake_runs: Make) -> Path:
    study = fake_runs(("vindr", "uka"), "[1.0, inf]").study
    lines = ["epsilon_band,label,subgroup,train_domain,test_domain,auc"]
    lines += [
        f"{band},{label},all,{train},{test},0.8"
        for band in ("0-1", "3.5-10", "inf")
        for label in ("cardiomegaly", "pleural_effusion")
        for train in ("vindr", "chestxray14", "padchest")
        for test in ("vindr", "chestxray14", "padchest")
    ]
    table = study.folder / "auc.csv"
    table.write_text("\n".join(lines))
    return write_published([table], study.folder / "published")


@pytest.fixture(scope="module")
def chrome() -> Iterator["playwright.Browser"]:
    with browser() as started:
        yield started


@pytest.mark.parametrize(
    "make",
    [whole, *(pytest.param(make, marks=pytest.mark.long) for make in (one_domain, failures, many_labels, published))],
    ids=lambda make: make.__name__,
)
def test_the_page_is_whole_at_every_width_light_and_dark(
    make: Callable[[Make], Path], fake_runs: Make, chrome: "playwright.Browser"
) -> None:
    page_file = make(fake_runs)
    html = page_file.read_text(encoding="utf-8")
    html5lib.HTMLParser(strict=True).parse(html)
    context = chrome.new_context(bypass_csp=True)
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    inks = set()
    for dark in ("light", "dark"):
        page.emulate_media(color_scheme=dark)
        page.goto(page_file.as_uri())
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            found = page.evaluate(PROBE)
            where = f"{width} px, {dark}"
            assert found["wide"] == [], where
            assert found["scroll"] <= width, where
            assert make is not whole or width < 1280 or found["cut"] == [], where  # long names may need to scroll
            assert found["jumps"] == 0, where
            assert (found["side"] == "none") == (width < 1200), where
            assert (found["top"] == "none") == (width >= 1200), where
        inks.add((found["ink"], found["line"]))
        results = axe_core.Axe().run(page).response["violations"]
        assert [(v["id"], v["nodes"][0]["html"][:200]) for v in results] == [], dark
    assert len(inks) == 2  # text and figures change with the theme
    assert {url for url in asked if not url.startswith(("file:", "data:"))} == set()
    context.close()


@pytest.mark.long
def test_on_paper_no_figure_is_cut_and_all_is_open(
    fake_runs: Make, chrome: "playwright.Browser", tmp_path: Path
) -> None:
    page = chrome.new_page()
    page.goto(whole(fake_runs).as_uri())
    page.emulate_media(media="print")
    hidden = page.evaluate(
        "() => [...document.querySelectorAll('figure')].filter(f => f.getBoundingClientRect().height < 20).length"
    )
    assert hidden == 0
    inside = page.evaluate("() => [...document.querySelectorAll('figure')].map(f => getComputedStyle(f).breakInside)")
    assert set(inside) == {"avoid"}
    page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert len(re.findall(rb"/Type\s*/Page\b", (tmp_path / "report.pdf").read_bytes())) > 3
    page.close()
