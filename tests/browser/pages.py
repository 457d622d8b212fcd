"""MLflow's pages in Debian's Chromium: what a test looks at, and the screenshots of the documentation.

`make docs-images` runs this file on the finished demo and writes docs/images/.
"""

import argparse
import html
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
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
        runs, short = re.findall(r": (http\S+)", said)
        with urllib.request.urlopen(short, timeout=120) as page:  # which leads on to the long address
            long = html.unescape(re.findall(r'href="([^"]+)"', page.read().decode())[0])
        base = runs.removesuffix("/runs")
        yield base, base + long
    finally:
        ui.send_signal(signal.SIGINT)
        ui.communicate(timeout=120)


def demo_pictures(figures: Path, output: Path) -> None:
    """The demo's pictures: its report's heat maps side by side, the model before below them, and the curve."""
    names = ("epsinf", "eps8", "eps1", "eps0")
    maps = [Image.open(figures / f"auc_{name}_average.png").convert("RGB") for name in names]
    small = [image.resize((500, round(500 * image.height / image.width)), Image.Resampling.LANCZOS) for image in maps]
    whole = Image.new("RGB", (1500, small[0].height + small[-1].height), "white")
    for number, image in enumerate(small):
        whole.paste(image, (500 * (number % 3), small[0].height * (number // 3)))
    whole.save(output / "demo-heatmaps.png", optimize=True)
    shutil.copy(figures / "auc_over_epsilon.png", output / "demo-epsilon.png")


def main() -> None:
    """Make the pictures of the documentation."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("study", type=Path, help="a finished study, e.g. build/demo")
    parser.add_argument("--output", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    demo_pictures(options.study / "report" / "figures", options.output)
    with served(options.study) as (base, compare), browser() as started:
        page = new_page(started)
        page.goto(compare)
        page.get_by_text("target_epsilon").first.wait_for()
        page.wait_for_timeout(CHART_MS)
        page.screenshot(path=options.output / "mlflow-compare.png")
        page.goto(f"{base}/runs")
        page.get_by_role("columnheader", name="auc_off_domain").first.wait_for()
        page.wait_for_timeout(CHART_MS)
        page.screenshot(path=options.output / "mlflow-runs.png")
        page.locator("a[href*='/runs/']").last.click()  # the study itself has no target epsilon
        page.get_by_text("Show more").click()
        page.get_by_role("link", name="no DP").first.wait_for()
        page.wait_for_timeout(CHART_MS)
        page.screenshot(path=options.output / "mlflow-study.png")


if __name__ == "__main__":
    main()
