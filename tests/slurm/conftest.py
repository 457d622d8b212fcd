"""A real, throw-away Slurm for the tests in this folder."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import dpdt

DEV = Path(dpdt.__file__).parents[1] / "slurm" / "dev"
PACKAGES = ("munge", "slurmctld", "slurmd", "slurm-client")
SCRIPT_SECONDS = 60
INSTALL_SECONDS = 240


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Four nodes, up for the tests of this folder; SLURM_CONF points to it, and it is taken down in any case."""
    _install()
    folder = tmp_path_factory.mktemp("slurm")
    port = 20_000 + os.getpid() % 10_000  # another test may run beside this one
    started = subprocess.run(
        [str(DEV / "start.sh"), "--folder", str(folder), "--port", str(port)],
        capture_output=True,
        text=True,
        timeout=SCRIPT_SECONDS,
    )
    try:
        assert started.returncode == 0, started.stdout + started.stderr
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SLURM_CONF", str(folder / "etc" / "slurm.conf"))
            yield folder
    finally:
        subprocess.run([str(DEV / "stop.sh"), "--folder", str(folder)], check=True, timeout=SCRIPT_SECONDS)


def _install() -> None:
    """Install Slurm from Debian's packages where that may be done; otherwise skip and say why."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    if all(shutil.which(program, path=path) for program in ("munged", "slurmctld", "slurmd", "srun", "sbatch")):
        return
    command = f"apt-get install {' '.join(PACKAGES)}"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip(f"no Slurm here, and it cannot be installed without root and apt-get: {command}")
    settings = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for step in (["update", "-qq"], ["install", "-qq", "-y", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run(["apt-get", *step], env=settings, capture_output=True, text=True, timeout=INSTALL_SECONDS)
        if done.returncode != 0:
            pytest.skip(f"no Slurm here, and `{command}` failed: {done.stderr.strip()[-300:]}")
