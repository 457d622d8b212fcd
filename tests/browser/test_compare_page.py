"""What people see: MLflow's compare page, parent run, child run and model in a real browser on a real server."""

import json
import re
from collections.abc import Callable

import pytest

from dpdt.report.write import write_report
from dpdt.runs.read import read_run
from dpdt.study import Cell, Study
from dpdt.tracking.payload import payload
from dpdt.tracking.sync import sync
from tests.fake_runs import BEGUN, FakeRuns

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright here: make install")

from tests.browser.pages import WAIT_MS, browser, chromium, new_page, served  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),  # the pages' own waits are long: only a page that never comes is a failure
    pytest.mark.skipif(chromium() is None, reason="no chromium here: apt-get install chromium"),
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"),
]

PRIVATE, PLAIN = Cell("padchest", 1.0, 0), Cell("padchest", float("inf"), 0)


@pytest.fixture
def study(fake_runs: Callable[..., FakeRuns]) -> Study:
    made = fake_runs(("padchest", "uka"), "[1.0, inf]", name="a study to look at").all()
    samples = ({"sample": n, "system/cpu_utilization_percentage": 50.0 + n, "time": BEGUN + 10 * n} for n in range(3))
    log = made.study.paths.run(made.study.run_id(PRIVATE)).system_log
    log.write_text("".join(f"{json.dumps(sample)}\n" for sample in samples))
    write_report(made.study)
    sync(made.study)
    return made.study


def latest(study: Study, cell: Cell, key: str) -> float:
    """A metric's value in the run folder."""
    run = read_run(study, study.run_id(cell))
    assert run is not None
    (value,) = (point.value for point in payload(run).points if point.key == key)
    return value


def test_the_pages_show_what_the_study_asks(study: Study) -> None:
    with served(study.folder) as (base, compare), browser() as started:
        page = new_page(started, height=3000)
        failures: list[str] = []
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.goto(compare)
        page.get_by_text("padchest · patient ε=1 · seed 0").first.wait_for()
        page.get_by_text("padchest · no DP · seed 0").first.wait_for()

        # Parameters that differ come first, and the plots begin with the target epsilon and the AUC.
        names = page.locator("tr.diff-row th").all_inner_texts()
        assert names[:2] == ["target_epsilon", "train_domain"]
        chosen = page.locator(".ant-select-selection-item, [class*=select-selection-item]").all_inner_texts()
        assert chosen[0] == "target_epsilon"
        assert "auc" in chosen

        # Both runs' epsilon and AUC.
        rows: dict[str, list[str]] = page.evaluate(
            "() => Object.fromEntries([...document.querySelectorAll('tr')].filter(row => row.querySelector('th'))"
            ".map(row => [row.querySelector('th').innerText.trim(),"
            " [...row.querySelectorAll('td')].map(cell => cell.innerText.trim())]))"
        )
        assert rows["target_epsilon"][:2] == ["1", "inf"]
        assert rows["dpdt.epsilon"][:2] == ["1", ""]  # spent; without DP there is none
        assert rows["epsilon.undefined"][:2] == ["", "trained without DP"]
        metrics: str = page.evaluate(  # the table of metrics has only the rows that are in sight; the first is `auc`
            "() => { let at = [...document.querySelectorAll('a')].find(link => link.innerText.trim() === 'auc');"
            " while (!/[0-9][.][0-9]/.test(at.innerText)) at = at.parentElement; return at.innerText; }"
        )
        assert metrics.split()[0] == "auc"
        values = [float(word) for word in metrics.split() if re.fullmatch(r"0[.][0-9]+", word)]
        assert values[:2] == pytest.approx([latest(study, cell, "auc") for cell in (PRIVATE, PLAIN)], abs=6e-4)

        page.get_by_role("tab", name="Scatter Plot").click()
        axes = [page.locator(f"#{axis}-axis-selector").inner_text().strip() for axis in "xy"]
        assert axes == ["target_epsilon", "auc"]

        # The run list: every run in sight with its epsilon and AUC, nothing to click away, in a new browser.
        fresh = started.new_page(viewport={"width": 1400, "height": 1100})
        fresh.set_default_timeout(WAIT_MS)
        fresh.goto(f"{base}/runs")
        fresh.get_by_role("link", name="padchest · patient ε=1 · seed 0").wait_for()
        headers = fresh.get_by_role("columnheader").all_inner_texts()
        assert {"auc", "auc_off_domain", "epsilon", "target_epsilon"} <= set(headers)
        shown = fresh.inner_text("body")
        assert str(latest(study, PRIVATE, "auc"))[:6] in shown
        assert "usage data" not in shown
        assert fresh.evaluate("localStorage.getItem('mlflow.assistant.panelOpen_v1')") == "false"  # it opens by itself
        fresh.close()

        # The parent: its charts, and the way to the comparison.
        page.goto(f"{base}/#/experiments/1/runs?workflowType=machine_learning")
        page.locator("a[href*='/runs/']", has_text="a study to look at").first.click()
        page.get_by_text("Mean AUC on-domain").wait_for()
        assert page.get_by_role("link", name="Compare DP and non-DP runs").get_attribute("href") == (
            compare.removeprefix(base).lstrip("/")
        )
        images = page.locator("img[src*='get-artifact']")
        images.first.wait_for(state="attached")
        assert images.count() == 4  # what DP costs, AUC over epsilon, subgroups at home and abroad
        for image in images.all():
            assert image.evaluate("i => i.decode().then(() => i.naturalWidth)") > 100
        page.get_by_role("tab", name="Model metrics").click()
        page.get_by_text("AUC over epsilon").first.wait_for()

        # A child: its statement, and how busy the machine was.
        page.get_by_role("tab", name="Overview").click()
        page.get_by_role("link", name="padchest · patient ε=1 · seed 0").first.click()
        page.get_by_text("This model was trained with differential privacy.").first.wait_for()
        page.get_by_role("tab", name="System metrics").click()
        page.get_by_text("cpu_utilization_percentage", exact=True).first.wait_for()

        # What is undefined breaks neither a run's page nor sorting: epsilon of a run without DP.
        page.goto(f"{base}/#/experiments/1/runs?workflowType=machine_learning&orderByKey=metrics.%60epsilon%60")
        page.get_by_text("matching runs").wait_for()
        page.locator("a[href*='/runs/']", has_text="a study to look at").first.click()
        page.get_by_role("link", name="padchest · no DP · seed 0").first.click()
        page.get_by_text("trained without DP").first.wait_for()

        # The model's card.
        page.goto(f"{base}/#/models/a%20study%20to%20look%20at.padchest/versions/1")
        page.get_by_text("neighbouring relation").wait_for()
        page.get_by_text("zero out one patient").wait_for()
        assert failures == []
