"""A study of 100 runs with 150 metrics each: MLflow's search, and its compare page in a real browser.

Limits are on the processor's time, which does not depend on what else the machine does.
"""

import re
import time

import pytest

from dpdt.runs.read import read_run
from dpdt.study import Study
from dpdt.tracking.metrics import MAX_METRIC_KEYS
from dpdt.tracking.payload import payload
from dpdt.tracking.store import find_experiment, open_client, tracking_uri
from dpdt.tracking.study_run import MAX_COMPARED
from dpdt.tracking.sync import sync
from tests.fake_runs import HUNDRED, hundred_runs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    made = hundred_runs(tmp_path_factory.mktemp("hundred"), epsilons="[1.0, 2.0, 4.0, 8.0, inf]").study
    begun = time.process_time()
    assert sync(made).sent == HUNDRED
    assert time.process_time() - begun < 60
    return made


def test_the_search_for_a_hundred_runs_takes_less_than_five_seconds(study: Study) -> None:
    client = open_client(tracking_uri(study))
    experiment = find_experiment(client, study)
    assert experiment is not None
    begun = time.process_time()
    found = client.search_runs([experiment.experiment_id], max_results=1000, order_by=["metrics.auc DESC"])
    assert time.process_time() - begun < 5
    trained = [run for run in found if run.data.tags["dpdt.kind"] == "train"]
    assert len(trained) == HUNDRED
    for run in trained:  # epsilon is a metric of those with DP only
        without = run.data.params["target_epsilon"] == "inf"
        assert len(run.data.metrics) == MAX_METRIC_KEYS - without
        assert len(run.data.metrics) > 140
    aucs = [run.data.metrics["auc"] for run in trained]
    assert aucs == sorted(aucs, reverse=True)


def test_a_sync_without_news_of_a_hundred_runs_takes_less_than_two_seconds(study: Study) -> None:
    begun = time.process_time()
    assert sync(study).sent == 0
    assert time.process_time() - begun < 2


def auc_of_the_first(study: Study) -> float:
    """The first run's AUC on its own domain, from its folder: the mean over labels, without subgroups."""
    first = study.cells()[0]
    run = read_run(study, study.run_id(first))
    assert run is not None
    (value,) = (point.value for point in payload(run).points if point.key == "auc")
    return value


def test_the_compare_page_of_thirty_runs_with_150_metrics_is_usable(study: Study) -> None:
    pytest.importorskip("playwright.sync_api", reason="no playwright here: make install")
    from tests.browser.pages import browser, chromium, new_page, served

    if chromium() is None:
        pytest.skip("no chromium here: apt-get install chromium")
    with served(study.folder) as (_, compare), browser() as started:
        page = new_page(started, height=3000)
        failures: list[str] = []
        page.on("pageerror", lambda error: failures.append(str(error)))
        chrome = page.context.new_cdp_session(page)
        chrome.send("Performance.enable", {"timeDomain": "threadTicks"})
        page.goto(compare)
        page.get_by_role("heading", name=f"Comparing {MAX_COMPARED} Runs").wait_for()
        page.get_by_text("hospital_05 · no DP · seed 0").first.wait_for()
        epsilons: list[str] = page.evaluate(
            "() => [...[...document.querySelectorAll('tr')].find(row => row.querySelector('th')?.innerText.trim()"
            " === 'target_epsilon').querySelectorAll('td')].map(cell => cell.innerText.trim())"
        )
        assert epsilons == ["1", "2", "4", "8", "inf"] * (MAX_COMPARED // 5)
        metrics: str = page.evaluate(  # the table has only the rows and columns in sight; its first row is `auc`
            "() => { let at = [...document.querySelectorAll('a')].find(link => link.innerText.trim() === 'auc');"
            " while (!/[0-9][.][0-9]/.test(at.innerText)) at = at.parentElement; return at.innerText; }"
        )
        shown = [float(word) for word in metrics.split() if re.fullmatch(r"0[.][0-9]+", word)]
        assert shown[0] == pytest.approx(auc_of_the_first(study), abs=6e-4)
        page.get_by_role("tab", name="Scatter Plot").click()
        page.locator("#x-axis-selector").wait_for()
        used = {one["name"]: one["value"] for one in chrome.send("Performance.getMetrics")["metrics"]}
        assert 0 < used["TaskDuration"] < 30  # seconds that the page's thread computed; 3 were measured
        assert failures == []
