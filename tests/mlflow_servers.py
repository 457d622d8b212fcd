"""Real servers for the tests: MLflow's own, and a throw-away PostgreSQL from the packages of the system."""

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from dpdt.tracking.store import environment
from tests.ports import free_port

READY_SECONDS = 120


def ask(address: str, what: str, body: dict[str, str], *, user: tuple[str, str] | None, host: str = "") -> int:
    """POST to a server's API, by the name of another host if one is given; the status of the answer."""
    headers = {"Content-Type": "application/json", **({"Host": host} if host else {})}
    if user:
        headers["Authorization"] = f"Basic {b64encode(':'.join(user).encode()).decode()}"
    request = urllib.request.Request(f"{address}/api/2.0/mlflow/{what}", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as err:
        with err:
            return err.code


class MlflowServer:
    """`mlflow server` on one port, which can be killed and started again."""

    def __init__(self, folder: Path, store: str, *, command: Sequence[str] = (), env: dict[str, str] | None = None):
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.log = folder / "server.log"
        self.command = command or [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)),
            *("--workers", "1", "--backend-store-uri", store, "--artifacts-destination", str(folder / "artifacts")),
        ]
        self.env = {**environment(), "MLFLOW_PORT": str(self.port), **(env or {})}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "MlflowServer":
        """Start it, and wait until it answers."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, env=self.env, start_new_session=True, cwd=self.log.parent
            )
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            with suppress(OSError), urllib.request.urlopen(f"{self.address}/health", timeout=5):
                return self
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        raise AssertionError(f"no answer within {READY_SECONDS} s: {self.log.read_text()}")

    def kill(self) -> None:
        """SIGKILL to all of its processes, in the middle of whatever they do."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


FORKER = """
import os, signal, sys
import uvicorn
from mlflow.server.fastapi_app import app
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("loaded", flush=True)
for _ in sys.stdin:
    child = os.fork()
    if not child:
        os.setpgid(0, 0)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        uvicorn.run(app, host="127.0.0.1", port=int(os.environ["MLFLOW_PORT"]), log_level="error")
        os._exit(0)
    print(child, flush=True)
"""


class ForkedServer(MlflowServer):
    """The same server, forked from a process that has loaded it: a start takes half a second rather than four."""

    def __init__(self, folder: Path, store: str) -> None:
        super().__init__(folder, store)
        # what `mlflow server` tells its worker
        self.env |= {
            "_MLFLOW_SERVER_FILE_STORE": store,
            "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(folder / "artifacts"),
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        }
        command = [sys.executable, "-c", FORKER]
        with self.log.open("ab") as log:
            self.forker = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=self.env, text=True
            )
        self.child: int | None = None
        self._said()

    def start(self) -> "ForkedServer":
        assert self.forker.stdin
        self.forker.stdin.write("\n")
        self.forker.stdin.flush()
        self.child = int(self._said())
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            with suppress(OSError), urllib.request.urlopen(f"{self.address}/health", timeout=5):
                return self
            time.sleep(0.02)
        raise AssertionError(f"no answer within {READY_SECONDS} s: {self.log.read_text()}")

    def kill(self) -> None:
        if self.child is not None:
            os.kill(self.child, signal.SIGKILL)
            self.child = None

    def close(self) -> None:
        """Kill it for the last time, and what it is forked from."""
        self.kill()
        self.forker.kill()
        self.forker.communicate()

    def _said(self) -> str:
        assert self.forker.stdout
        line = self.forker.stdout.readline()
        assert line, self.log.read_text()
        return line.strip()


class Postgres:
    """A PostgreSQL server in a separate folder, without fsync."""

    @staticmethod
    def installed() -> list[Path]:
        """Debian's programs `initdb`, the oldest version first."""
        return sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))

    def __init__(self) -> None:
        programs = self.installed()
        if not programs:
            pytest.skip("no PostgreSQL here: apt-get install postgresql")
        self.bin = programs[-1].parent
        self.user = None
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root; its package made a user
            try:
                self.user = pwd.getpwnam("postgres").pw_name
            except KeyError:
                pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
        self.folder = Path(tempfile.mkdtemp(prefix="dpdt-postgres-"))  # not below pytest's, which is root's alone
        if self.user:
            shutil.chown(self.folder, self.user)
        self.port = free_port()
        self.env = {"PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": "tester"}

    def start(self) -> "Postgres":
        data = self.folder / "data"
        self._run("initdb", "--pgdata", data, "--username", "tester", "--auth", "trust", "--no-sync", "-E", "UTF8")
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self.folder} -c fsync=off -c max_connections=200"
        self._run("pg_ctl", "--pgdata", data, "--wait", "--log", self.folder / "log", "-o", options, "start")
        return self

    def stop(self) -> None:
        with suppress(subprocess.CalledProcessError):
            self._run("pg_ctl", "--pgdata", self.folder / "data", "--mode", "immediate", "stop")
        shutil.rmtree(self.folder)

    def database(self, name: str) -> str:
        """A new database's URI."""
        self._run("createdb", *self._where, name)
        return f"postgresql+psycopg2://tester@127.0.0.1:{self.port}/{name}"

    def drop(self, name: str) -> None:
        self._run("dropdb", *self._where, "--force", name)

    @property
    def _where(self) -> tuple[str, ...]:
        return ("--host", "127.0.0.1", "--port", str(self.port), "--username", "tester")

    def _run(self, program: str, *arguments: str | Path) -> None:
        command = [self.bin / program, *arguments]
        # not through pipes: the server would inherit and hold them
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(command, user=self.user, cwd="/", stdout=output, stderr=output, check=False)
            output.seek(0)
            assert done.returncode == 0, output.read().decode()


@pytest.fixture
def mlflow_server(tmp_path: Path) -> Iterator[Callable[..., MlflowServer]]:
    """Make a server (SQLite unless told otherwise) that ends with the test; start it yourself."""
    with ExitStack() as stack:

        def make(store: str | None = None, **options: object) -> MlflowServer:
            folder = tmp_path / f"server{len(list(tmp_path.glob('server*')))}"
            folder.mkdir()
            server = MlflowServer(folder, store or f"sqlite:///{folder}/mlflow.db", **options)  # type: ignore[arg-type]
            stack.callback(server.kill)
            return server

        yield make


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """A throw-away PostgreSQL; skips where there is none."""
    server = Postgres()
    try:
        yield server.start()
    finally:
        server.stop()
