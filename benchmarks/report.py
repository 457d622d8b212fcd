"""The report of a large study: `make bench-report`.

200 finished runs (5 domains, 4 arms, 10 seeds) on 5 test domains with 28 labels, 240 made-up test images a domain; each
is a copy of one of the first. Prints how long `dpdt report` takes, its page's size and, where there is a Chromium,
the seconds until it is open; writes build/bench/report.json.
"""

import json
import shutil
import time
from pathlib import Path

from dpdt.base.files import make_folder, write_text
from dpdt.base.vocabulary import as_name
from dpdt.report.write import write_report
from dpdt.study import load_study
from dpdt.study.findings import findings_of
from tests.fake_runs import FIVE, FakeRuns

FOLDER = Path("build/bench/report")
LABELS = [as_name(finding) for finding in findings_of("vindr")][:28]


def make_study() -> FakeRuns:
    """The study's folder."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    domains = "".join(f'[domains.{name}]\nroot = "raw"\nkind = "vindr"\n' for name in FIVE)
    head = f"[study]\nlabels = {json.dumps(LABELS)}\n[privacy]\ntarget_epsilons = [0.5, 1.0, 8.0, inf]\n"
    write_text(make_folder(FOLDER) / "study.toml", f"{head}[train]\nseeds = {list(range(10))}\n{domains}")
    made, first = FakeRuns(load_study(FOLDER)), {}
    for cell in made.study.cells():
        paths = made.train(cell)
        kind = (cell.domain, cell.target_epsilon)
        if kind not in first:
            first[kind] = made.evaluate(cell)
            continue
        for name in ("metrics", "draws"):
            shutil.copy(getattr(first[kind], name), getattr(paths, name))
        shutil.copytree(first[kind].predictions("uka").parent, paths.predictions("uka").parent)
    return made


def seconds_to_open(page: Path) -> float | None:
    """Until a browser has loaded and drawn the page."""
    from tests.browser.pages import browser, chromium

    if chromium() is None:
        return None
    with browser() as started:
        tab = started.new_page(viewport={"width": 1280, "height": 900})
        begun = time.perf_counter()
        tab.goto(page.resolve().as_uri(), wait_until="load")
        tab.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        return time.perf_counter() - begun


def main() -> None:
    """Run, print, write."""
    made = make_study()
    begun = time.perf_counter()
    page = write_report(made.study)
    seconds = time.perf_counter() - begun
    found = {
        "case": f"{len(made.study.cells())} runs x {len(FIVE)} domains x {len(LABELS)} labels",
        "report_s": round(seconds, 1),
        "page_mib": round(page.stat().st_size / 2**20, 2),
        "open_s": seconds_to_open(page),
    }
    print(found)
    (FOLDER.parent / "report.json").write_text(json.dumps([found], indent=2) + "\n")


if __name__ == "__main__":
    main()
