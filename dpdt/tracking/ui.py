"""MLflow's pages on this machine, opened where DP and non-DP runs are compared."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import IO, Final
from urllib.parse import quote

from dpdt.errors import TrackingError
from dpdt.results import cell_runs
from dpdt.study import Study
from dpdt.tracking.store import database_file, environment, explained, find_experiment, open_client, tracking_uri
from dpdt.tracking.sync import PARENT, find_runs

__all__ = ["compare_url", "serve_ui"]

HOST: Final = "127.0.0.1"
READY_SECONDS: Final = 120.0
MAX_COMPARED: Final = 30  # runs that the compare page shows without a wait
STOP_SECONDS: Final = 10.0


def compare_url(study: Study, base_url: str) -> str:
    """Address of the page that compares the study's DP and non-DP runs.

    Args:
        study: The study.
        base_url: Address of the MLflow server, e.g. ``http://127.0.0.1:5000``.

    Raises:
        TrackingError: MLflow cannot be reached or has no run of this study.
    """
    uri = tracking_uri(study)
    file = database_file(uri)
    if file is not None and not file.exists():  # MLflow would create an empty one
        raise TrackingError(f"{file}: no tracking store yet. Fill it with `dpdt sync {study.file}`.")
    with explained(uri):
        client = open_client(uri)
        experiment = find_experiment(client, study)
        known = find_runs(client, experiment.experiment_id) if experiment else {}
    wanted = [run.run_id for run in cell_runs(study).values() if run and run.run_id in known] or [
        run_id for run_id in known if run_id != PARENT
    ]
    if experiment is None or not wanted:
        raise TrackingError(f"MLflow at {uri} has 0 runs of {study.name!r}. Send them with `dpdt sync {study.file}`.")
    runs = json.dumps([known[run_id].info.run_id for run_id in wanted[:MAX_COMPARED]])
    experiments = json.dumps([experiment.experiment_id])
    query = f"runs={quote(runs)}&experiments={quote(experiments)}&workflowType=machine_learning"
    return f"{base_url.rstrip('/')}/#/compare-runs?{query}"


def serve_ui(study: Study, *, port: int) -> None:
    """Serve MLflow's pages on 127.0.0.1 until Ctrl-C, and print the address that compares the study's runs.

    If `[tracking] uri` is a server, its address is printed and nothing is started.

    Args:
        study: The study; it must have been synced.
        port: 0 takes a free one.

    Raises:
        TrackingError: There is nothing to show, the port is taken, or the server does not start.
    """
    uri = tracking_uri(study)
    if uri.startswith(("http://", "https://")):
        print(f"Compare DP and non-DP runs: {compare_url(study, uri)}", flush=True)
        return
    port = _free_port(port)
    base = f"http://{HOST}:{port}"
    address = compare_url(study, base)
    print(f"Starting MLflow on {base} …", flush=True)
    with tempfile.TemporaryFile() as log, _server(uri, port, log) as server:
        _wait_until_ready(server, base, log)
        print(f"MLflow: {base}\nCompare DP and non-DP runs: {address}\nStop with Ctrl-C.", flush=True)
        server.wait()
        raise TrackingError(f"MLflow's server on {base} ended by itself: {_tail(log)}")


def _free_port(port: int) -> int:
    """The port itself, or a free one for 0."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as err:
            raise TrackingError(
                f"port {port} on {HOST} is taken ({err.strerror}). Choose another: `--port 0` takes a free one."
            ) from err
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _server(uri: str, port: int, log: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """MLflow's server with one worker; it and its children end with the block, also on SIGTERM."""
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--host", HOST]
    command += ["--port", str(port), "--workers", "1", "--no-serve-artifacts"]
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # Its own session: Ctrl-C reaches this process alone, which then ends the server and the server's worker.
    server = subprocess.Popen(command, stdout=log, stderr=log, env=environment(), start_new_session=True)
    try:
        yield server
    except KeyboardInterrupt:
        print("Stopped.", flush=True)
    finally:
        signal.signal(signal.SIGTERM, before)
        _stop(server)


def _stop(server: subprocess.Popen[bytes]) -> None:
    """End the server's whole process group, at first politely."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(STOP_SECONDS)


def _wait_until_ready(server: subprocess.Popen[bytes], base: str, log: IO[bytes]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise TrackingError(f"MLflow's server did not start: {_tail(log)}")
        with (
            contextlib.suppress(urllib.error.URLError, OSError),
            urllib.request.urlopen(f"{base}/health", timeout=2) as answer,
        ):
            if answer.status == 200:
                return
        time.sleep(0.2)
    raise TrackingError(f"MLflow's server did not answer on {base} within {READY_SECONDS:.0f} s: {_tail(log)}")


def _tail(log: IO[bytes]) -> str:
    """The log's last line."""
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no output"
