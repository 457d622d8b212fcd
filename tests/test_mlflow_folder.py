"""The team's server as mlflow/ starts it: PostgreSQL, passwords, TLS, backup, restore, retention; all for real."""

import os
import shutil
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

from dpdt.errors import TrackingError
from dpdt.tracking.client import find_runs
from dpdt.tracking.store import find_experiment, open_client, with_uri
from dpdt.tracking.sync import sync
from tests.fake_runs import FakeRuns
from tests.mlflow_servers import MlflowServer, Postgres, ask
from tests.mlflow_view import assert_view_equals_folders
from tests.ports import free_port
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[1] / "mlflow"
ADMIN, ANA, DATABASE = "a password for the admin", "a password for ana", "a password for the database"
Make = Callable[..., FakeRuns]


@pytest.fixture
def settings(postgres: Postgres, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment variables of the scripts."""
    secret = tmp_path / "admin_password"
    secret.write_text(f"{ADMIN}\n")
    for database in ("mlflow", "mlflow_auth"):
        postgres.database(database)
    yield {
        **os.environ,
        **postgres.env,
        "PATH": f"{postgres.bin}:{os.environ['PATH']}",
        "MLFLOW": str(Path(sys.executable).parent / "mlflow"),
        "MLFLOW_ARTIFACTS_DESTINATION": str(tmp_path / "artifacts"),
        "MLFLOW_AUTH_ADMIN_PASSWORD_FILE": str(secret),
        "MLFLOW_WORKERS": "1",
        "MLFLOW_NAMES": "localhost",  # by which the test of TLS reaches it
    }
    for database in ("mlflow", "mlflow_auth"):
        postgres.drop(database)


@pytest.fixture
def team_server(settings: dict[str, str], mlflow_server: Callable[..., MlflowServer]) -> MlflowServer:
    """mlflow/serve.sh, with an account for Ana."""
    server = mlflow_server(command=[str(FOLDER / "serve.sh")], env=settings).start()
    ask(server.address, "users/create", {"username": "ana", "password": ANA}, user=("admin", ADMIN))
    return server


def script(name: str, settings: dict[str, str], *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([FOLDER / name, *arguments], env=settings, capture_output=True, text=True, check=False)


def as_ana(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ana")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", ANA)


@pytest.fixture
def container_settings(settings: dict[str, str], postgres: Postgres, tmp_path: Path) -> Iterator[dict[str, str]]:
    """A database as its image makes it: a user with a password, a database of the user's, then the SQL files."""
    for database in ("mlflow", "mlflow_auth"):
        postgres.drop(database)
    sql(postgres, "postgres", f"CREATE ROLE mlflow SUPERUSER LOGIN PASSWORD '{DATABASE}'")
    sql(postgres, "postgres", "CREATE DATABASE mlflow OWNER mlflow")
    secret = tmp_path / "postgres_password"
    secret.write_text(f"{DATABASE}\n")
    rules = postgres.folder / "data" / "pg_hba.conf"
    trusting = rules.read_text()
    rules.write_text(f"host all mlflow 127.0.0.1/32 scram-sha-256\n{trusting}")
    sql(postgres, "postgres", "SELECT pg_reload_conf()")
    yield {**settings, "PGUSER": "mlflow", "POSTGRES_PASSWORD_FILE": str(secret)}
    rules.write_text(trusting)
    sql(postgres, "postgres", "SELECT pg_reload_conf()")
    for database in ("mlflow", "mlflow_auth"):
        postgres.drop(database)
        postgres.database(database)  # `settings` drops them again
    sql(postgres, "postgres", "DROP ROLE mlflow")


def sql(postgres: Postgres, database: str, command: str, *options: str) -> str:
    """What psql answers; `options` may name another user."""
    program = [postgres.bin / "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", database, *options, "-c", command]
    done = subprocess.run(program, env={**os.environ, **postgres.env}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_users_sql_and_the_password_file_are_what_the_containers_need(
    container_settings: dict[str, str], postgres: Postgres, mlflow_server: Callable[..., MlflowServer], tmp_path: Path
) -> None:
    settings = container_settings
    wrong = tmp_path / "wrong_password"
    wrong.write_text("another password\n")
    others = {**settings, "POSTGRES_PASSWORD_FILE": str(wrong)}
    deadline = time.monotonic() + 120
    while script("backup.sh", others, tmp_path / "refused").returncode == 0:  # until the new rules hold
        assert time.monotonic() < deadline, "PostgreSQL takes any password"
    assert "no database mlflow" in script("backup.sh", others, tmp_path / "refused").stderr

    users = (FOLDER / "users.sql").read_text()  # the image gives such a file to psql as POSTGRES_USER, to POSTGRES_DB
    sql(postgres, "mlflow", users)
    owner = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'mlflow_auth'"
    assert sql(postgres, "mlflow", owner) == "mlflow"

    server = mlflow_server(command=[str(FOLDER / "serve.sh")], env=settings).start()
    assert ask(server.address, "users/create", {"username": "ana", "password": ANA}, user=("admin", ADMIN)) == 200
    assert sql(postgres, "mlflow_auth", "SELECT count(*) FROM users WHERE username = 'ana'") == "1"
    (tmp_path / "artifacts").mkdir(exist_ok=True)
    done = script("backup.sh", settings, tmp_path / "backups")
    assert done.returncode == 0, done.stderr
    assert {file.name for file in Path(done.stdout.strip()).glob("*.dump")} == {"mlflow.dump", "mlflow_auth.dump"}

    # Artifacts on S3 are S3's to keep: the backup has the databases, says so, and can be restored.
    on_s3 = {**settings, "MLFLOW_ARTIFACTS_DESTINATION": "s3://bucket/path"}
    done = script("backup.sh", on_s3, tmp_path / "backups-beside-s3")
    assert done.returncode == 0, done.stderr
    assert "Artifacts are in s3://bucket/path: turn on versioning there" in done.stderr
    backup = Path(done.stdout.strip())
    assert {file.name for file in backup.iterdir()} == {"SHA256SUMS", "mlflow.dump", "mlflow_auth.dump"}
    server.kill()
    assert script("restore.sh", on_s3, backup, "--replace").returncode == 0
    assert sql(postgres, "mlflow_auth", "SELECT count(*) FROM users WHERE username = 'ana'") == "1"


def test_nobody_without_a_password_reads_or_writes(
    team_server: MlflowServer, fake_runs: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = {"experiment_ids": "0"}
    assert ask(team_server.address, "runs/search", search, user=None) == 401
    assert ask(team_server.address, "runs/search", search, user=("ana", "a wrong password")) == 401
    study = with_uri(fake_runs(("vindr",), "[1.0]").all().study, team_server.address)
    with pytest.raises(TrackingError, match=r"MLflow at http://127\.0\.0\.1:\d+: .*not authenticated"):
        sync(study)
    as_ana(monkeypatch)
    assert sync(study).sent == 1
    assert assert_view_equals_folders(study) > 0


@pytest.mark.long
def test_a_backup_brings_every_value_back(
    team_server: MlflowServer,
    settings: dict[str, str],
    postgres: Postgres,
    fake_runs: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    as_ana(monkeypatch)
    study = with_uri(fake_runs(("vindr", "uka"), "[1.0, inf]").all().study, team_server.address)
    sync(study)
    before = assert_view_equals_folders(study)
    done = script("backup.sh", settings, tmp_path / "backups")
    assert done.returncode == 0, done.stderr
    backup = Path(done.stdout.strip())
    assert {file.name for file in backup.iterdir()} == {
        "SHA256SUMS",
        "artifacts.tar",
        "mlflow.dump",
        "mlflow_auth.dump",
    }
    assert backup.stat().st_mode & 0o077 == 0

    refused = script("restore.sh", settings, backup)
    assert refused.returncode == 1
    assert "--replace overwrites them" in refused.stderr

    team_server.kill()  # the machine burns down
    shutil.rmtree(tmp_path / "artifacts")
    for database in ("mlflow", "mlflow_auth"):
        postgres.drop(database)
    restored = script("restore.sh", settings, backup)
    assert restored.returncode == 0, restored.stderr
    team_server.start()
    assert assert_view_equals_folders(study) == before  # Ana's password is back as well
    client = open_client(team_server.address)
    experiment = find_experiment(client, study)
    assert experiment is not None
    for name, run in find_runs(client, experiment.experiment_id).items():
        if name != "study":
            kept = client.download_artifacts(run.info.run_id, "privacy.json", str(tmp_path))
            assert Path(kept).read_bytes() == study.paths.run(name).privacy.read_bytes()
    assert sync(study).sent == 0

    team_server.kill()
    again = script("restore.sh", settings, backup, "--replace")
    assert again.returncode == 0, again.stderr
    dump = backup / "mlflow.dump"
    dump.write_bytes(dump.read_bytes()[:-1] + b"x")
    damaged = script("restore.sh", settings, backup, "--replace")
    assert damaged.returncode == 1
    assert "is damaged" in damaged.stderr


def test_deleted_runs_and_old_backups_are_removed_for_good_and_nothing_else(
    team_server: MlflowServer,
    settings: dict[str, str],
    fake_runs: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    as_ana(monkeypatch)
    made = fake_runs(("vindr",), "[1.0, inf]").all()
    study = with_uri(made.study, team_server.address)
    sync(study)
    client = open_client(team_server.address)
    experiment = find_experiment(client, study)
    assert experiment is not None
    runs = find_runs(client, experiment.experiment_id)
    gone, *_, kept = sorted(set(runs) - {"study"})
    client.delete_run(runs[gone].info.run_id)
    for hour in range(4):
        (tmp_path / "backups" / f"20260101T0{hour}0000Z").mkdir(parents=True)
    (tmp_path / "backups" / "notes").mkdir()

    def files(name: str) -> list[Path]:
        return list((tmp_path / "artifacts").rglob(f"{runs[name].info.run_id}/**/privacy.json"))

    settings = {**settings, "MLFLOW_PORT": str(team_server.port)}
    done = script("retention.sh", settings)  # deleted today: stays for 30 days
    assert done.returncode == 0, done.stderr
    assert len(files(gone)) == len(files(kept)) == 1
    time.sleep(1.1)
    short = {**settings, "MLFLOW_KEEP_DELETED": "1s", "MLFLOW_KEEP_BACKUPS": "3"}
    done = script("retention.sh", short, tmp_path / "backups")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name[9:11] for path in (tmp_path / "backups").glob("2026*")) == ["01", "02", "03"]
    assert (tmp_path / "backups" / "notes").exists()
    assert files(gone) == []
    assert len(files(kept)) == 1
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", ADMIN)
    with pytest.raises(MlflowException, match="not found"):
        client.get_run(runs[gone].info.run_id)
    as_ana(monkeypatch)
    assert client.get_run(runs[kept].info.run_id).info.status == "FINISHED"
    assert sync(study).sent == 1  # what the folders have, MLflow has again


@pytest.mark.long
def test_tls_in_front_of_the_server(
    team_server: MlflowServer, fake_runs: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if nginx is None:
        pytest.skip("no nginx here: apt-get install nginx-light")
    port = free_port()
    certificate, key = tmp_path / "fullchain.pem", tmp_path / "privkey.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    make += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(make, check=True, capture_output=True)
    site = (FOLDER / "nginx.conf").read_text()
    for name, here in {
        "443": f"127.0.0.1:{port}",
        "listen 80": f"listen 127.0.0.1:{free_port()}",
        "mlflow.example": "localhost",
        "/etc/ssl/mlflow": str(tmp_path),
        "127.0.0.1:5000": f"127.0.0.1:{team_server.port}",
    }.items():
        assert name in site
        site = site.replace(name, here)
    temporary = "".join(f"{kind}_temp_path {tmp_path}/{kind};" for kind in ("client_body", "proxy", "fastcgi"))
    temporary += f"uwsgi_temp_path {tmp_path}/uwsgi; scgi_temp_path {tmp_path}/scgi; access_log off;"
    config = tmp_path / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""
    config.write_text(f"{user} daemon off; pid {tmp_path}/pid; events {{}} http {{ {temporary} {site} }}")
    proxy = subprocess.Popen([nginx, "-c", str(config), "-e", str(tmp_path / "nginx.log")])
    try:
        trusted = ssl.create_default_context(cafile=str(certificate))

        def answers() -> bool:
            with suppress(OSError), urllib.request.urlopen(f"https://localhost:{port}/health", context=trusted):
                return True
            return False

        wait_until(answers)
        as_ana(monkeypatch)
        monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(certificate))
        study = with_uri(fake_runs(("vindr",), "[1.0]").all().study, f"https://localhost:{port}")
        assert sync(study).sent == 1
        assert assert_view_equals_folders(study) > 0
    finally:
        proxy.terminate()
        proxy.wait()


def test_any_other_address_without_authentication_is_warned_of(
    settings: dict[str, str], mlflow_server: Callable[..., MlflowServer]
) -> None:
    for host, warned in (("0.0.0.0", True), ("127.0.0.1", False)):
        env = {**settings, "MLFLOW_AUTHENTICATION": "none", "MLFLOW_HOST": host}
        server = mlflow_server(command=[str(FOLDER / "serve.sh")], env=env).start()
        assert ("without authentication" in server.log.read_text()) is warned
        server.kill()


def test_the_folder_does_not_hide_the_package_mlflow() -> None:
    assert not list(FOLDER.rglob("*.py"))
