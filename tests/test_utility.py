"""The benchmark of recipes, `make bench-utility SHORT=1`, in small: it ends, keeps to epsilon, and can go on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "utility.py"
# Views take as long as all others together, and have tests of their own.
SETTINGS = ("as before", "large batches", "ema", "cosine, warm-up", "automatic", "quantile", "head alone")
SETTINGS += ("head in closed form",)


def bench(folder: Path) -> tuple[str, list[dict[str, object]]]:
    command = [sys.executable, str(SCRIPT), "--short", "--patients", "240", "--only", *SETTINGS]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, json.loads((folder / "build" / "bench" / "utility.json").read_text())


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_short_bench_trains_every_setting_within_epsilon_and_a_second_call_finds_all_done(tmp_path: Path) -> None:
    printed, rows = bench(tmp_path)
    before, *others = rows
    assert before["case"] == "before"
    assert [row["case"] for row in others] == list(SETTINGS)
    for row in others:
        assert row["case"] in printed
        assert 0.98 * 8 < float(str(row["spent"])) <= 8
        assert 0.3 < float(str(row["home"])) < 1
        assert 0.3 < float(str(row["abroad"])) < 1
    _, again = bench(tmp_path)
    assert again == rows
