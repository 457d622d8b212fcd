"""MLflow's pages in Debian's Chromium: what a test looks at, and the screenshots of the documentation.

`make tracking-images` runs this file on a finished study and writes docs/images/mlflow-*.png.
"""

import argparse
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

__all__ = ["browser", "chromium", "new_page", "served"]

OPTIONS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync")
# MLflow's assistant opens itself once in every new browser.
QUIET = "for (const key of ['', '_v1']) { localStorage.setItem('mlflow.assistant.panelOpen' + key, 'false');"
QUIET += "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad' + key, 'true'); }"
# Pages for trainings, not for chat models: what one chooses at the top left, once.
QUIET += """localStorage.setItem('mlflow.workflowType_v1', '"machine_learning"');"""
WAIT_MS = 240_000  # however busy the machine is
CHART_MS = 2_500  # until a chart has drawn itself


def chromium() -> str | None:
    """Debian's Chromium; None where there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser without a window."""
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium(), args=list(OPTIONS))
        try:
            yield started
        finally:
            started.close()


def new_page(started: Browser, *, height: int = 1100) -> Page:
    """A tab in which MLflow's assistant stays shut."""
    page = started.new_page(viewport={"width": 1400, "height": height})
    page.set_default_timeout(WAIT_MS)
    page.add_init_script(QUIET)
    return page


@contextmanager
def served(study: Path) -> Iterator[tuple[str, str]]:
    """`dpdt ui` on a study that was synced; gives its base address and that of the compare page."""
    command = [sys.executable, "-m", "dpdt", "ui", str(study), "--port", "0"]
    ui = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert ui.stdout
        said = ""
        while "Ctrl-C" not in said:
            line = ui.stdout.readline()
            assert line, said
            said += line
        base, short = re.findall(r": (http\S+)", said)
        with urllib.request.urlopen(short, timeout=120) as page:  # which leads on to the long address
            yield base, page.url
    finally:
        ui.send_signal(signal.SIGINT)
        ui.communicate(timeout=120)


def main() -> None:
    """Take the screenshots of the documentation."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("study", type=Path, help="a finished study, e.g. build/demo")
    parser.add_argument("--output", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    with served(options.study) as (base, compare), browser() as started:
        page = new_page(started)
        page.goto(compare)
        page.get_by_text("target_epsilon").first.wait_for()
        page.wait_for_timeout(CHART_MS)
        page.screenshot(path=options.output / "mlflow-compare.png")
        page.goto(f"{base}/#/experiments/1/runs?workflowType=machine_learning")
        page.locator("a[href*='/runs/']").first.click()
        page.get_by_text("Show more").click()
        page.get_by_role("link", name="no DP").first.wait_for()
        page.wait_for_timeout(CHART_MS)
        page.screenshot(path=options.output / "mlflow-study.png")


if __name__ == "__main__":
    main()
