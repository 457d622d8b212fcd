"""Programs that stand for Slurm's: they keep what they are given, and answer what a test wants."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass
class FakeSlurm:
    """Programs that stand for Slurm's: sbatch keeps each script and its environment."""

    folder: Path

    def program(self, name: str, text: str) -> None:
        """Let a program do something else."""
        (self.folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (self.folder / name).chmod(0o755)

    def script(self, job_id: int) -> str:
        """What was given to sbatch."""
        return (self.folder / f"{job_id}.sh").read_text()

    def options(self, job_id: int) -> dict[str, str]:
        """Its #SBATCH lines."""
        return dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", self.script(job_id), re.MULTILINE))

    def queue(self, *rows: str) -> None:
        """What squeue answers: `12_3|RUNNING|None|node1`."""
        (self.folder / "queue").write_text("".join(f"{row}\n" for row in rows))

    @property
    def num_looks(self) -> int:
        """How often squeue was called."""
        file = self.folder / "squeue.calls"
        return len(file.read_text().splitlines()) if file.exists() else 0

    @property
    def count(self) -> int:
        """Number of arrays and jobs."""
        return len(list(self.folder.glob("*.sh")))

    @property
    def cancelled(self) -> str:
        """Job ids given to scancel."""
        file = self.folder / "cancelled"
        return file.read_text() if file.exists() else ""


@pytest.fixture
def fake_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """A Slurm that takes everything (up to job `FAKE_SLURM_REFUSE`) and runs nothing; MaxArraySize is 3."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    programs = {
        "sbatch": f"""
            n=$(ls {folder}/*.sh 2> /dev/null | wc -l); n=$((n + 1))
            [ "$n" = "$FAKE_SLURM_REFUSE" ] && {{ echo 'sbatch: error: invalid partition' >&2; exit 1; }}
            cp "${{@: -1}}" {folder}/$n.sh; env > {folder}/$n.env; echo "Submitted batch job $n" """,
        "srun": "exit 0",
        "squeue": f"""
            echo "$*" >> {folder}/squeue.calls
            case "$*" in *%k*) cat {folder}/comments;; *) cat {folder}/queue;; esac 2> /dev/null; exit 0""",
        "scontrol": 'echo "MaxArraySize            = ${FAKE_SLURM_MAX_ARRAY:-3}"',
        "scancel": f'echo "$*" > {folder}/cancelled',
        "sacct": "echo 'accounting storage is disabled' >&2; exit 1",
    }
    fake = FakeSlurm(folder)
    for name, text in programs.items():
        fake.program(name, text)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return fake
