"""A real, throw-away Slurm for the tests in this folder."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

import dpdt
from tests.ports import free_port

DEV = Path(dpdt.__file__).parents[1] / "slurm" / "dev"
PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch")
PACKAGES = ("munge", "slurmctld", "slurmd", "slurm-client")
SCRIPT_SECONDS = 150
INSTALL_SECONDS = 240


@pytest.fixture(scope="session")
def cluster_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Four nodes, up for the tests of this folder; taken down in any case."""
    _install(PROGRAMS, PACKAGES)
    with _cluster(tmp_path_factory.mktemp("slurm"), port=free_port(8)) as folder:
        yield folder


@pytest.fixture
def cluster(cluster_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cluster of this session; SLURM_CONF points to it."""
    monkeypatch.setenv("SLURM_CONF", str(cluster_folder / "etc" / "slurm.conf"))
    return cluster_folder


@pytest.fixture
def accounting_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A separate cluster for one test, with accounting."""
    _install((*PROGRAMS, "slurmdbd", "mariadbd"), (*PACKAGES, "slurmdbd", "mariadb-server"))
    with _cluster(_reachable(), "--accounting", port=free_port(8)) as folder:
        monkeypatch.setenv("SLURM_CONF", str(folder / "etc" / "slurm.conf"))
        yield folder


@contextmanager
def _cluster(folder: Path, *options: str, port: int) -> Iterator[Path]:
    """A cluster that is taken down at the end; the port is the first of a few, so that two tests may run at once."""
    started = subprocess.run(
        [str(DEV / "start.sh"), "--folder", str(folder), "--port", str(port), *options],
        capture_output=True,
        text=True,
        timeout=SCRIPT_SECONDS,
    )
    try:
        assert started.returncode == 0, started.stdout + started.stderr
        yield folder
    finally:
        subprocess.run([str(DEV / "stop.sh"), "--folder", str(folder)], check=True, timeout=SCRIPT_SECONDS)


def _reachable() -> Path:
    """A folder that the user mysql can reach; pytest's own are closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="dpdt-slurm-"))
    folder.chmod(0o755)
    return folder


def _install(programs: Sequence[str], packages: Sequence[str]) -> None:
    """Install Slurm from Debian's packages where that may be done; otherwise skip and say why."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    if all(shutil.which(program, path=path) for program in programs):
        return
    command = f"apt-get install {' '.join(packages)}"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip(f"no Slurm here, and it cannot be installed without root and apt-get: {command}")
    settings = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for step in (["update", "-qq"], ["install", "-qq", "-y", "--no-install-recommends", *packages]):
        done = subprocess.run(["apt-get", *step], env=settings, capture_output=True, text=True, timeout=INSTALL_SECONDS)
        if done.returncode != 0:
            pytest.skip(f"no Slurm here, and `{command}` failed: {done.stderr.strip()[-300:]}")
