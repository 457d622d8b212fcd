"""Real trainings and MLflow: one that is killed stays one run, and the load of its machine is sampled."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import dpdt.tracking.system_metrics
from dpdt.base.files import is_locked
from dpdt.runs.read import read_run
from dpdt.study import Cell, load_study
from dpdt.study.paths import RunPaths
from dpdt.tracking.payload import payload
from dpdt.tracking.store import find_experiment, open_client, tracking_uri
from dpdt.tracking.sync import sync
from dpdt.tracking.system_metrics import machine_load, system_samples, system_values
from tests.fake_runs import FakeRuns
from tests.mlflow_view import assert_view_equals_folders
from tests.small_data import MakeStudy
from tests.waiting import wait_until

Make = Callable[..., FakeRuns]
CELL = Cell("uka", 8.0, 0)
TRAIN = """
import sys
import dpdt.tracking.system_metrics
from dpdt.jobs.stages import run_stage
from dpdt.study import load_study
dpdt.tracking.system_metrics.PAUSE_SECONDS = 0.05
run_stage(load_study(sys.argv[1]), "train")
"""
# The fields of its `--query-gpu`, two GPUs; the second tells no power, as some do not.
NVIDIA_SMI = """#!/bin/sh
echo "$@" > "$(dirname "$0")/asked"
echo "97, 20480, 81920, 350.50, 700.00"
echo "0, 0, 81920, [N/A], [N/A]"
"""


def lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


@pytest.mark.slow
def test_a_training_killed_by_sigkill_is_marked_and_comes_back_as_the_same_run(
    make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(
        ('[domains.mimic]\nroot = "raw/mimic"\n', ""),
        ("num_epochs = 5", "num_epochs = 100\ncheckpoint_every_steps = 8"),
        ("target_epsilons = [8.0, inf]", "target_epsilons = [8.0]"),
        ('folder = "out"\n', 'folder = "out"\n[tracking]\nsystem_metrics = true\n'),
    )
    paths = study.paths.run(study.run_id(CELL))
    monkeypatch.setattr("dpdt.tracking.payload.QUIET_SECONDS", 0.0)  # else a run may be silent for a minute

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", TRAIN, str(study.file)], stderr=subprocess.DEVNULL)

    def wait_for(process: subprocess.Popen[bytes], file: Path, number: int) -> None:
        wait_until(lambda: lines(file) >= number or process.poll() is not None, pause=0.005)
        assert process.poll() is None, "it ended too early"

    def in_mlflow() -> tuple[str, str]:
        """Id and status of the one training that MLflow has."""
        sync(study)
        client = open_client(tracking_uri(study))
        experiment = find_experiment(client, study)
        assert experiment is not None
        (run,) = client.search_runs([experiment.experiment_id], "tags.`dpdt.kind` = 'train'")
        return run.info.run_id, run.info.status

    first = start()
    wait_for(first, paths.metrics_log, 4)
    wait_for(first, paths.system_log, 2)
    first.kill()
    assert first.wait() == -signal.SIGKILL
    run_id, status = in_mlflow()
    assert status == "KILLED"

    with paths.system_log.open("a") as stream:
        stream.write('{"sample": 99, "system/cpu_ut')  # a kill may come in the middle of a line
    before = lines(paths.metrics_log), lines(paths.system_log)
    second = start()
    wait_for(second, paths.system_log, before[1] + 1)
    wait_until(lambda: is_locked(paths.lock) or second.poll() is not None)  # samples begin while torch is loaded
    os.kill(second.pid, signal.SIGSTOP)  # so that it is surely under way when MLflow is told
    try:
        assert in_mlflow() == (run_id, "RUNNING")
    finally:
        os.kill(second.pid, signal.SIGCONT)
    assert second.wait(280) == 0
    assert in_mlflow() == (run_id, "FINISHED")
    assert lines(paths.metrics_log) > before[0]
    samples = [json.loads(line)["sample"] for line in paths.system_log.read_text().splitlines()]
    assert samples == list(range(len(samples)))
    assert assert_view_equals_folders(study) > 3 * len(samples)
    assert sync(study).sent == 0


def test_the_machine_s_load_has_mlflow_s_names_and_units(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no GPU
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor

    theirs = CPUMonitor()
    theirs.collect_metrics()
    here, there = machine_load(), theirs.aggregate_metrics()
    assert set(here) == {f"system/{name}" for name in there}
    memory = there["system_memory_usage_megabytes"]
    assert here["system/system_memory_usage_megabytes"] == pytest.approx(memory, rel=0.2)
    assert 0 <= here["system/cpu_utilization_percentage"] <= 100


def test_the_gpus_of_this_process_are_among_the_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(NVIDIA_SMI)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    gpus = {key.removeprefix("system/gpu_"): value for key, value in machine_load().items() if "gpu" in key}
    assert gpus == {
        "0_utilization_percentage": 97.0,
        "0_memory_usage_megabytes": 21474.8,  # 20,480 MiB
        "0_memory_usage_percentage": 25.0,
        "0_power_usage_watts": 350.5,
        "0_power_usage_percentage": 50.1,
        "1_utilization_percentage": 0.0,
        "1_memory_usage_megabytes": 0.0,
        "1_memory_usage_percentage": 0.0,
    }
    assert "--id=2,5" in (tmp_path / "asked").read_text()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # a training on the CPU of a machine with GPUs
    assert not any("gpu" in key for key in machine_load())
    program.write_text("#!/bin/sh\necho 'Unable to determine the device handle for GPU0: Unknown Error'\n")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert not any("gpu" in key for key in machine_load())
    program.write_text("#!/bin/sh\nexit 9\n")  # a driver that does not answer
    assert not any("gpu" in key for key in machine_load())


def test_nothing_is_sampled_unless_the_study_says_so(fake_runs: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dpdt.tracking.system_metrics, "PAUSE_SECONDS", 0.0)
    made = fake_runs(("vindr",), "[1.0]")
    paths = made.train(Cell("vindr", 1.0, 0), status="interrupted", steps=10)
    made.study.file.write_text(made.study.file.read_text() + "[tracking]\nsystem_metrics = true\n")
    on = load_study(made.study.file)

    def sampled_in(study: object, *, wait_s: float = 0.2, **environment: str) -> bool:
        paths.system_log.unlink(missing_ok=True)
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            with system_samples(study, paths.run_id):  # type: ignore[arg-type]
                until = time.monotonic() + wait_s
                while not lines(paths.system_log) and time.monotonic() < until:
                    time.sleep(0.01)
        return lines(paths.system_log) > 0

    assert sampled_in(on, wait_s=150)
    assert not sampled_in(made.study)
    assert not sampled_in(on, RANK="1")  # the leading process does it
    made.train(Cell("vindr", 1.0, 0))
    paths.weights.parent.mkdir(exist_ok=True)
    paths.weights.touch()
    assert not sampled_in(on)  # it was finished before


def test_a_full_disk_ends_the_samples_and_not_the_training(
    fake_runs: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full() -> dict[str, float]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dpdt.tracking.system_metrics, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(dpdt.tracking.system_metrics, "machine_load", full)
    study = fake_runs(("vindr",), "[1.0]", more="[tracking]\nsystem_metrics = true\n").study
    said: list[str] = []

    def warned() -> bool:
        said.append(capsys.readouterr().err)
        return "warning" in "".join(said)

    with system_samples(study, "a-run"):
        wait_until(warned)
    warning = "warning: a-run: no more system metrics ([Errno 28] No space left on device). The training goes on."
    assert warning in "".join(said) + capsys.readouterr().err


def write_samples(paths: RunPaths, *, gpus: int) -> int:
    """Ten samples of a machine with GPUs; how many keys they have."""
    keys = [f"system/{name}" for name in ("cpu_utilization_percentage", "system_memory_usage_megabytes")]
    keys += [f"system/gpu_{gpu}_utilization_percentage" for gpu in range(gpus)]
    samples = ({"sample": n, **dict.fromkeys(keys, float(n)), "time": 1_700_000_000.0 + 10 * n} for n in range(10))
    paths.system_log.write_text("".join(f"{json.dumps(sample)}\n" for sample in samples))
    return len(keys)


def test_system_metrics_count_among_the_150_and_twice_is_once(fake_runs: Make) -> None:
    made = fake_runs(tuple(f"hospital_{number}" for number in range(20)), "[1.0]")
    cell = Cell("hospital_3", 1.0, 0)
    paths = made.train(cell)
    made.evaluate(cell)
    keys = write_samples(paths, gpus=16)
    run = read_run(made.study, paths.run_id)
    assert run is not None
    sent = payload(run)
    names = {point.key for point in sent.points}
    assert len(names) == 150
    assert len({name for name in names if name.startswith("system/")}) == keys == 18
    assert len(system_values(paths)) == 180
    assert sorted(names)[0] == "auc"  # what MLflow plots where nothing is chosen
    sync(made.study)
    assert sync(made.study).sent == 0
    os.utime(paths.system_log, ns=(1, 1))
    assert sync(made.study).sent == 1
    assert assert_view_equals_folders(made.study) > 180
