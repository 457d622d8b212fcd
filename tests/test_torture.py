"""A light `make torture-privacy`: trainings killed at random places, and planted faults that it must find."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = [pytest.mark.slow, pytest.mark.long]


def torture(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.torture_privacy", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=200)


def test_trainings_killed_at_random_places_count_every_noisy_step() -> None:
    done = torture("--kills", "15", "--seed", "5")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert sum(count for end, count in figures["ends"].items() if end != "finished") == 15
    assert figures["max_epsilon"] <= figures["target_epsilon"]


def test_processes_that_train_together_stop_in_order_and_lose_nothing() -> None:
    command = [sys.executable, "-m", "tests.torture_ranks", "--stops", "2", "--kills", "3", "--seed", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert (figures["stops"]["stops"], figures["kills"]["kills"]) >= (2, 3)
    assert figures["kills"]["max_epsilon"] <= figures["kills"]["target_epsilon"]


@pytest.mark.parametrize(("fault", "message"), [("replay", "noise was drawn twice"), ("unbooked", "in the ledger")])
def test_a_planted_fault_is_found(fault: str, message: str) -> None:
    done = torture("--kills", "40", "--seed", "1", "--plant", fault)
    assert done.returncode != 0
    assert message in done.stderr
