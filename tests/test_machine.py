"""What is known of the machine."""

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from dpdt.base import machine
from dpdt.jobs.doctor.machine import check_machine
from dpdt.training.physical_batch_size import free_bytes


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The limits of a machine that has 5 GB to give."""
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=5 * 10**9))
    return tmp_path


# (limit, use, what may still be taken), in bytes: the smaller of what the machine has and what the limit leaves, as
# Linux' cgroup-v2.rst defines memory.max and memory.current
@pytest.mark.parametrize(
    ("limit", "used", "free"),
    [
        ("max", 4 * 10**9, 5 * 10**9),
        ("3000000000", 10**9, 2 * 10**9),
        ("64000000000", 10**9, 5 * 10**9),
        ("1000", 2000, 0),  # a limit that was lowered below the use
    ],
)
def test_free_memory_is_within_the_limit_of_the_cgroup(cgroup: Path, limit: str, used: int, free: int) -> None:
    (cgroup / "memory.max").write_text(f"{limit}\n")
    (cgroup / "memory.current").write_text(f"{used}\n")
    assert machine.free_memory() == free


def test_without_a_cgroup_free_memory_is_the_machines(cgroup: Path) -> None:
    assert machine.free_memory() == 5 * 10**9


def test_doctor_and_a_training_find_the_same_memory(cgroup: Path) -> None:
    # doctor once forgot what the cgroup uses already
    (cgroup / "memory.max").write_text("6000000000\n")
    (cgroup / "memory.current").write_text("1500000000\n")
    memory = next(check for check in check_machine() if check.name == "memory")
    assert memory.found.startswith("4.5 GB can be had")
    assert free_bytes(torch.device("cpu")) == 4_500_000_000
