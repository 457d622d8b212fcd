"""MLflow's pages on this machine, opened where DP and non-DP runs are compared."""

import contextlib
import errno
import glob
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

from dpdt.base.console import warn
from dpdt.errors import TrackingError
from dpdt.study import Study
from dpdt.tracking.client import find_runs
from dpdt.tracking.moved import follow_study
from dpdt.tracking.store import (
    database_file,
    environment,
    explained,
    find_experiment,
    is_server,
    open_client,
    public_name,
    tracking_uri,
)
from dpdt.tracking.study_run import PARENT, RUN_LIST, compare_fragment, compared_runs

__all__ = ["PAGES", "compare_url", "serve_ui"]

HOST: Final = "127.0.0.1"
LOCAL: Final = ("127.0.0.1", "localhost", "::1")
PAGES: Final = {"/compare": "DPDT_COMPARE_PAGE", "/runs": "DPDT_RUNS_PAGE"}
"""Short addresses, and the variables of the environment that tell `pages` the long ones, from the first `/` on."""
READY_SECONDS: Final = 120.0
STOP_SECONDS: Final = 10.0


def compare_url(study: Study, base_url: str) -> str:
    """Address of the page that compares the study's DP and non-DP runs."""
    return f"{base_url.rstrip('/')}{_addresses(study)['/compare']}"


def _addresses(study: Study) -> dict[str, str]:
    """Long addresses of PAGES, from the first `/` on.

    Raises:
        TrackingError: MLflow cannot be reached or has no run of this study.
    """
    uri = tracking_uri(study)
    file = database_file(uri)
    if file is not None and not file.exists():  # MLflow would create an empty one
        raise TrackingError(f"{file}: no tracking store yet. Fill it with `dpdt sync {study.file}`.")
    follow_study(study)
    with explained(uri):
        client = open_client(uri)
        experiment = find_experiment(client, study)
        known = find_runs(client, experiment.experiment_id) if experiment else {}
    ids = {name: run.info.run_id for name, run in known.items()}
    wanted = compared_runs(study, ids) or [run_id for name, run_id in ids.items() if name != PARENT]
    if experiment is None or not wanted:
        raise TrackingError(
            f"MLflow at {public_name(uri)} has 0 runs of {study.name!r}. Send them with `dpdt sync {study.file}`."
        )
    run_list = f"#/experiments/{experiment.experiment_id}/runs?viewStateShareKey={RUN_LIST}"
    return {
        "/compare": f"/{compare_fragment(experiment.experiment_id, wanted)}",
        "/runs": f"/{run_list}&workflowType=machine_learning",
    }


def serve_ui(study: Study, *, port: int, host: str = HOST) -> None:
    """Serve MLflow's pages until Ctrl-C, and print the address that compares the study's runs.

    If `[tracking] uri` is a server, its address is printed and nothing is started.

    Args:
        study: The study; it must have been synced.
        port: 0 takes a free one.
        host: Address to serve on; the pages ask for no password, so any but this machine's own is warned of.

    Raises:
        TrackingError: There is nothing to show, the port is taken, or the server does not start.
    """
    uri = tracking_uri(study)
    if is_server(uri):
        print(f"Compare DP and non-DP runs: {compare_url(study, public_name(uri))}", flush=True)
        return
    if host not in LOCAL:
        warn(
            f"MLflow on {host} asks for no password: whoever reaches this machine can read and change its runs. "
            "Leave --host away and use an SSH tunnel, or start the team's server (docs/tracking.md)."
        )
    port = _free_port(host, port)
    base = f"http://{_bracketed(host)}:{port}"
    addresses = {PAGES[short]: address for short, address in _addresses(study).items()}
    print(f"Starting MLflow on {base} …", flush=True)
    with tempfile.TemporaryFile() as log, _server(uri, host, port, log, addresses) as server:
        _wait_until_ready(server, base, log)
        print(f"Runs: {base}/runs\nCompare DP and non-DP runs: {base}/compare\nStop with Ctrl-C.", flush=True)
        server.wait()
        raise TrackingError(f"MLflow's server on {base} ended by itself: {_tail(log)}")


def _bracketed(host: str) -> str:
    """A host as addresses have it: one of IPv6 in brackets (RFC 3986, 3.2.2)."""
    return f"[{host}]" if ":" in host else host


def _free_port(host: str, port: int) -> int:
    """The port itself, or a free one for 0."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return int(probe.getsockname()[1])
    except OSError as err:
        if err.errno == errno.EADDRINUSE:
            raise TrackingError(
                f"port {port} on {host} is taken ({err.strerror}). Choose another: `--port 0` takes a free one."
            ) from err
        raise TrackingError(
            f"port {port} on {host} cannot be opened ({err.strerror}). Name an address of this machine, or leave "
            "--host away, and a port from 1024 on."
        ) from err


@contextlib.contextmanager
def _server(
    uri: str, host: str, port: int, log: IO[bytes], addresses: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """MLflow's server with one worker; it and its children end with the block, also on SIGTERM."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", host]
    command += ["--port", str(port), "--workers", "1", "--no-serve-artifacts", "--app-name", "dpdt"]
    variables = {**environment(), "MLFLOW_BACKEND_STORE_URI": uri, **addresses}
    if host not in LOCAL:
        from mlflow.server.security_utils import get_default_allowed_hosts  # here: it loads MLflow

        names = {host, socket.gethostname(), socket.getfqdn()}  # a browser that asks for another name gets a 403
        hosts = [*get_default_allowed_hosts(), *(f"{glob.escape(_bracketed(name))}:*" for name in sorted(names))]
        command += ["--allowed-hosts", ",".join(hosts)]
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # Its own session: Ctrl-C reaches this process alone, which then ends the server and the server's worker.
    server = subprocess.Popen(command, stdout=log, stderr=log, env=variables, start_new_session=True)
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
