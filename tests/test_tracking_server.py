"""A real MLflow server that is fed while a study runs: slow, down, unknown, killed again and again."""

import http.server
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from dpdt.base.files import read_json, write_json
from dpdt.report.write import write_report
from dpdt.runs.state import run_lock
from dpdt.study import Cell, Study, load_study
from dpdt.study.paths import RunPaths
from dpdt.tracking.live import LAST_SHARE, live_sync
from dpdt.tracking.store import environment, open_client, tracking_uri, with_uri
from dpdt.tracking.sync import sync
from dpdt.tracking.watch import watch
from tests.fake_runs import NUM_STEPS, FakeRuns
from tests.mlflow_servers import ForkedServer, MlflowServer
from tests.mlflow_view import assert_view_equals_folders
from tests.ports import free_port
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

Make = Callable[..., FakeRuns]
Serve = Callable[..., MlflowServer]
TWO = ("vindr", "uka")
CELL = Cell("vindr", 1.0, 0)


def step_on(made: FakeRuns, cell: Cell, steps: int) -> RunPaths:
    """A training that has come so far, and that says so now."""
    paths = made.train(cell, status="finished" if steps >= NUM_STEPS else "running", steps=min(steps, NUM_STEPS))
    if steps < NUM_STEPS:
        write_json(paths.state, {**read_json(paths.state), "updated": time.time()})
    return paths


@pytest.fixture
def mortal_server(tmp_path: Path) -> Iterator[ForkedServer]:
    """A server that starts quickly, with its tables made: MLflow does not survive being killed while it makes them."""
    store = f"sqlite:///{tmp_path}/server.db"
    open_client(store)
    server = ForkedServer(tmp_path, store)
    yield server
    server.close()


@pytest.mark.long
def test_a_server_killed_and_restarted_twenty_times_ends_up_with_every_value(
    fake_runs: Make, mortal_server: ForkedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server = mortal_server
    made = fake_runs(TWO, "[1.0, inf]")
    study = with_uri(made.study, server.address)
    cells = study.cells()
    chance = random.Random(8)
    for cell in cells:
        step_on(made, cell, 1)
    watcher = threading.Thread(target=watch, args=(study,), kwargs={"every_seconds": 0.05}, daemon=True)
    watcher.start()  # it begins before there is a server
    for kill in range(20):
        server.start()
        for cell in cells:
            step_on(made, cell, 2 + 2 * kill)
        time.sleep(chance.uniform(0.0, 1.5))  # a sync of all four takes about as long
        server.kill()
    server.start()
    made.all()
    write_report(made.study)
    watcher.join(200)
    assert not watcher.is_alive()
    compared = assert_view_equals_folders(study)
    assert compared >= 4 * (3 * NUM_STEPS - NUM_STEPS)  # of every run loss and step time, of two of them epsilon
    assert capsys.readouterr().err.count("warning:") <= 21  # one an outage
    assert sync(study).sent == 0
    # One version of each model, however often it was asked for.
    versions = open_client(server.address).search_model_versions()
    assert len({version.tags["dpdt.run_id"] for version in versions}) == len(versions) == 4


class Slow(http.server.BaseHTTPRequestHandler):
    """Answers after ten seconds, with nothing that is of use."""

    def do_GET(self) -> None:  # (the base class' name)
        time.sleep(10)
        with suppress(OSError):  # nobody waits any more
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

    do_POST = do_GET

    def log_message(self, format: str, *_: object) -> None:
        """Say nothing."""


@contextmanager
def slow_server() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.socket.close()


def held_up(study: Study, paths: RunPaths) -> tuple[float, float]:
    """Of a training of twelve seconds, the part that is spent on feeding MLflow: by the processor, and by the clock."""
    begun, worked, spent = time.perf_counter(), 0.0, 0.0

    def feed(what: Callable[[], object]) -> None:
        nonlocal worked, spent
        before = time.thread_time(), time.perf_counter()
        what()
        worked += time.thread_time() - before[0]
        spent += time.perf_counter() - before[1]

    with ExitStack() as stack:
        tell = stack.enter_context(live_sync(study))
        assert tell is not None
        for _ in range(60):  # epochs of a fifth of a second: a real one is longer and has fewer calls a second
            time.sleep(0.2)
            feed(lambda: tell(paths))
        feed(stack.close)
    length = time.perf_counter() - begun
    return worked / length, spent / length


def test_a_server_that_is_down_slow_or_unknown_costs_training_less_than_one_percent(
    fake_runs: Make, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    made = fake_runs(("vindr",), "[1.0]")
    paths = step_on(made, CELL, 1)
    with slow_server() as slow, ThreadPoolExecutor() as pool:
        uris = {"down": f"http://127.0.0.1:{free_port()}", "slow": slow, "unknown": "http://no-such-host.invalid"}
        shares = {}
        for kind, uri in uris.items():  # each study has its own lock
            folder = tmp_path / kind
            shutil.copytree(made.study.paths.runs, folder / "runs")
            shutil.copy(made.study.file, folder)
            study = with_uri(load_study(folder), uri)
            shares[kind] = pool.submit(held_up, study, study.paths.run(paths.run_id))
        for kind, share in shares.items():
            worked, spent = share.result()
            # What it works and what it waits at the end; by the clock, a busy machine adds to it, but a single
            # answer that is waited for would be most of the twelve seconds.
            assert worked + LAST_SHARE < 0.01, f"{kind}: {worked:.2%} and {LAST_SHARE:.2%}"
            assert spent < 0.3, f"{kind}: {spent:.2%}"
    said = capfd.readouterr().err
    assert all(said.count(f"warning: MLflow at {uri}: ") <= 1 for uri in uris.values())


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
def test_a_server_that_does_not_answer_is_one_warning_however_many_epochs_there_are(host: str, fake_runs: Make) -> None:
    made = fake_runs(("vindr",), "[1.0]")
    run_id = step_on(made, CELL, 1).run_id
    study = with_uri(made.study, f"http://{host}:{free_port()}")
    told = {"file": str(study.file), "settings": study.model_dump(mode="json"), "run_id": run_id}
    feeder = subprocess.Popen(
        [sys.executable, "-m", "dpdt.tracking.feeder"], stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    )
    assert feeder.stdin
    assert feeder.stderr
    feeder.stdin.write(f"{json.dumps(told)}\n\n".encode())
    feeder.stdin.flush()
    first = feeder.stderr.readline().decode()
    assert first.startswith(f"warning: MLflow at http://{host}:")
    assert first.endswith("The training goes on.\n")
    _, rest = feeder.communicate(b"\n\n\n", timeout=120)
    assert rest == b""
    assert feeder.returncode == 0


def test_a_training_feeds_the_server_at_its_epoch_ends_and_at_its_end(fake_runs: Make, mlflow_server: Serve) -> None:
    server = mlflow_server().start()
    made = fake_runs(TWO, "[1.0, inf]")
    study = with_uri(made.study, server.address)
    client = open_client(server.address)

    def seen() -> list[Any]:
        found = client.get_experiment_by_name("a study")
        query = "tags.`dpdt.kind` = 'train'"
        return list(client.search_runs([found.experiment_id], query)) if found else []

    step_on(made, CELL, 1)
    # A training holds its run's lock: without it, one that is silent for a minute, on a busy machine, counts as killed.
    with run_lock(study.paths.run(study.run_id(CELL))), live_sync(study) as tell:
        assert tell is not None
        for steps in (10, 20):
            tell(step_on(made, CELL, steps))
            wait_until(lambda: any(r.data.metrics.get("step_s") and r.data.tags.get("dpdt.sent") for r in seen()))
        (run,) = seen()  # the other three are not this training's
        assert (run.info.run_name, run.info.status) == ("vindr · patient ε=1 · seed 0", "RUNNING")
        wait_until(lambda: len(client.get_metric_history(run.info.run_id, "loss")) >= 20)
    made.all()
    sync(study)
    assert assert_view_equals_folders(study) > 4 * NUM_STEPS


def test_sqlite_is_not_fed_by_trainings(fake_runs: Make) -> None:
    made = fake_runs(("vindr",), "[1.0]").all()
    with live_sync(made.study) as tell:
        assert tell is None
    assert not made.study.paths.mlflow_database.exists()


def test_moving_from_sqlite_to_a_server_is_one_sync(fake_runs: Make, mlflow_server: Serve) -> None:
    made = fake_runs(TWO, "[1.0, inf]").all()
    study = made.study
    write_report(study)
    sync(study)
    server = mlflow_server().start()
    moved = with_uri(study, server.address)
    assert sync(moved).sent == 4
    here, there = assert_view_equals_folders(study), assert_view_equals_folders(moved)
    assert here == there > 0
    assert tracking_uri(study).startswith("sqlite:///")  # which still has everything


class Recorder(http.server.BaseHTTPRequestHandler):
    """Passes everything on to a real server and keeps every byte that was sent to it."""

    sent: list[bytes]
    target: str

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b"".join(self._chunks())
        headers = {k: v for k, v in self.headers.items() if k not in ("Host", "Content-Length", "Transfer-Encoding")}
        self.sent.append(f"{self.command} {self.path}\n{self.headers}\n".encode() + body)
        request = urllib.request.Request(f"{self.target}{self.path}", body or None, headers, method=self.command)
        try:
            answer = urllib.request.urlopen(request, timeout=120)
        except urllib.error.HTTPError as err:
            answer = err
        with answer:
            content = answer.read()
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass_on

    def log_message(self, format: str, *_: object) -> None:
        """Say nothing."""


def test_no_patient_no_path_and_no_pixel_is_in_any_byte_that_is_sent(fake_runs: Make, mlflow_server: Serve) -> None:
    made = fake_runs(TWO, "[1.0, inf]").all()
    for cell in made.study.cells():  # a settings table with paths in it, should training ever write one
        paths = made.study.paths.run(made.study.run_id(cell))
        config = read_json(paths.config)
        config["settings"]["domains"] = {"uka": {"root": "/hospital/SECRETPATIENT7"}}
        config["settings"]["model"]["init_weights"] = "/hospital/SECRETPATIENT7/weights.pt"
        write_json(paths.config, config)
    pixels = bytes(range(64, 128))  # as a shard or an image file would have them
    for folder in (made.study.paths.shards("vindr").folder, made.study.paths.run("vindr").folder.parent):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "shard-00000.npy").write_bytes(pixels)
    write_report(made.study)
    server = mlflow_server().start()
    recorder = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), type("Here", (Recorder,), {"sent": [], "target": server.address})
    )
    sent: list[bytes] = recorder.RequestHandlerClass.sent  # type: ignore[attr-defined]
    thread = threading.Thread(target=recorder.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        study = with_uri(made.study, f"http://127.0.0.1:{recorder.server_port}")
        sync(study)
    finally:
        recorder.shutdown()
        thread.join()
        recorder.server_close()
    everything = b"\n".join(sent)
    assert len(sent) > 50
    assert b"runs/log-batch" in everything
    assert b"report/index.html" in everything  # artifacts are among it
    assert b"This model was trained with differential privacy." in everything
    secrets = [b"SECRETPATIENT", b"SECRETIMAGE", b"/hospital", str(made.study.folder).encode(), pixels]
    secrets.append(f'"{os.environ.get("USER") or "root"}"'.encode())
    for secret in secrets:
        assert secret not in everything, secret
    assert assert_view_equals_folders(with_uri(made.study, server.address)) > 0


def test_a_deleted_store_is_rebuilt_from_the_runs(fake_runs: Make, mlflow_server: Serve) -> None:
    made = fake_runs(("vindr",), "[1.0, inf]").all()
    first = with_uri(made.study, mlflow_server().start().address)
    sync(first)
    other = with_uri(made.study, mlflow_server().start().address)
    assert sync(other).sent == 2
    assert assert_view_equals_folders(first) == assert_view_equals_folders(other)
