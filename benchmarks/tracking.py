"""Benchmark of tracking: `make bench-tracking` prints a table and writes build/bench/tracking.json.

`syncs`: first sync and sync without news of 100 runs with 150 metrics each by the command `dpdt sync` (start of Python
included) into SQLite and into real MLflow servers over SQLite and PostgreSQL, and the search for all of those runs.
`trainings`: what feeding a server costs a training: the same DP training with no server, and with one that is well,
down, slow (ten seconds a call) and unknown; each twice in turn: the quicker one's time, and the larger part of its time
that a training was held up by the feeding.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from dpdt.base.console import show_table
from dpdt.base.files import write_json
from dpdt.cohort.synthetic.demo_study import make_demo_study
from dpdt.jobs.stages import run_stage
from dpdt.study import Cell, Study, load_study
from dpdt.study.paths import RunPaths
from dpdt.tracking.live import live_sync
from dpdt.tracking.metrics import MAX_METRIC_KEYS
from dpdt.tracking.store import find_experiment, open_client, tracking_uri, with_uri
from dpdt.training.train import train
from tests.fake_runs import HUNDRED, hundred_runs
from tests.mlflow_servers import MlflowServer, Postgres, free_port
from tests.test_tracking_server import slow_server

EPOCHS, PATIENTS = 12, 700
RESULT = Path("build/bench/tracking.json")


def seconds_of_sync(study: Path, *options: str) -> float:
    """Wall-clock time of `dpdt sync`."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-m", "dpdt", "sync", str(study), *options], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def syncs(folder: Path) -> list[dict[str, Any]]:
    """First and further syncs of 100 runs, and the search for them."""
    made = hundred_runs(folder, epsilons="[1.0, 2.0, 4.0, 8.0, 16.0]")
    rows = _synced(made.study, "SQLite", tracking_uri(made.study))
    server = MlflowServer(folder, f"sqlite:///{folder}/server.db").start()
    try:
        rows += _synced(made.study, "server over SQLite", server.address)
    finally:
        server.kill()
    if not Postgres.installed():
        return rows
    postgres = Postgres().start()
    server = MlflowServer(folder, postgres.database("mlflow"))
    try:
        return rows + _synced(made.study, "server over PostgreSQL", server.start().address)
    finally:
        server.kill()
        postgres.stop()


def _synced(study: Study, method: str, uri: str) -> list[dict[str, Any]]:
    """The rows of one store."""
    taken = {what: seconds_of_sync(study.folder, "--to", uri) for what in ("first sync", "sync without news")}
    client = open_client(uri)
    experiment = find_experiment(client, study)
    assert experiment is not None
    begun = time.perf_counter()
    found = client.search_runs([experiment.experiment_id], max_results=1000)
    taken["search"] = time.perf_counter() - begun
    assert len(found) == HUNDRED + 1
    assert all(len(run.data.metrics) == MAX_METRIC_KEYS for run in found if run.data.tags["dpdt.kind"] == "train")
    return [{"case": f"{HUNDRED} runs, {what}", "method": method, "ms": s * 1e3} for what, s in taken.items()]


def trainings(folder: Path) -> list[dict[str, Any]]:
    """One DP training of the demo's size, again and again, with each kind of server; on all cores of this machine."""
    make_demo_study(folder, patients=PATIENTS)
    file = folder / "study.toml"
    file.write_text(file.read_text().replace("[train]\nnum_epochs = 12", f"[train]\nnum_epochs = {EPOCHS}"))
    study = load_study(file)
    for stage in ("cohort", "shards", "pretrain"):
        run_stage(study, stage, domains=None if stage == "pretrain" else ("vindr", "mimic"))
    server = MlflowServer(folder, f"sqlite:///{folder}/server.db").start()
    with slow_server() as slow:
        uris = {
            "no server": f"sqlite:///{folder}/mlflow.db",
            "a server that is well": server.address,
            "down": f"http://127.0.0.1:{free_port()}",
            "slow: 10 s a call": slow,
            "unknown": "http://no-such-host.invalid",
        }
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in uris}
        try:
            for name in (*uris, *reversed(uris)):
                taken[name].append(_training(with_uri(study, uris[name])))
        finally:
            server.kill()
    alone = min(taken["no server"])[0]
    rows = []
    for name, runs in taken.items():
        seconds, held_up = min(runs)
        share = max(held / whole for whole, held in runs)
        rows.append({"case": f"DP training, {EPOCHS} epochs", "method": name, "ms": seconds * 1e3, "share": share})
        rows[-1] |= {"held_up_ms": held_up * 1e3, "ratio": seconds / alone}
    return rows


def _training(study: Study) -> tuple[float, float]:
    """Seconds of one training from its start, and how many of them it was held up by the feeding."""
    cell = Cell("vindr", 8.0, 0)
    shutil.rmtree(study.paths.run(study.run_id(cell)).folder, ignore_errors=True)
    begun, held_up = time.perf_counter(), 0.0
    with live_sync(study) as feed:

        def timed(paths: RunPaths) -> None:
            nonlocal held_up
            before = time.perf_counter()
            if feed:
                feed(paths)
            held_up += time.perf_counter() - before

        train(study, cell, on_epoch_end=timed)
        before = time.perf_counter()
    ended = time.perf_counter()
    return ended - begun, held_up + ended - before


PARTS = {"syncs": syncs, "trainings": trainings}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{' or '.join(PARTS)}; default: both")
    rows = []
    for part in parser.parse_args().parts or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            rows += PARTS[part](Path(folder))
    shown = [
        (row["case"], row["method"], round(row["ms"]), f"{row['share']:.2%}" if "share" in row else "") for row in rows
    ]
    show_table("tracking", ("case", "method", "ms", "held up by the feeding"), shown)
    write_json(RESULT, rows)


if __name__ == "__main__":
    main()
