"""How busy the machine is during a training: samples in the run folder, which `dpdt sync` sends like everything else.

Off unless `[tracking] system_metrics = true`. Names, units and the first pause are those of MLflow's own monitor
(`mlflow.system_metrics`), so that its pages show them under *System metrics*. They are the whole machine's, as there;
of several processes of one training the leading one takes them.
"""

import contextlib
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psutil

from dpdt.base.console import warn
from dpdt.base.files import make_folder
from dpdt.base.machine import this_rank
from dpdt.runs.state import run_done
from dpdt.study import Study
from dpdt.study.paths import RunPaths
from dpdt.tracking.metrics import Point, milliseconds

__all__ = ["machine_load", "system_samples", "system_values"]

PREFIX: Final = "system/"
PAUSE_SECONDS: Final = 10.0
SAMPLES_A_PAUSE: Final = 250  # then it doubles: a week is about 2,000 samples
QUERY: Final = "utilization.gpu,memory.used,memory.total,power.draw,enforced.power.limit"
QUERY_SECONDS: Final = 5.0
MIB: Final = 1.048576  # MB


@contextlib.contextmanager
def system_samples(study: Study, run_id: str) -> Iterator[None]:
    """Sample the machine's load into the run's folder inside the block, if the study asks for it."""
    if not study.tracking.system_metrics or this_rank() or run_done(study, run_id):
        yield
        return
    ended = threading.Event()
    sampler = threading.Thread(target=_sample, args=(study.paths.run(run_id), ended), daemon=True)
    sampler.start()
    try:
        yield
    finally:
        ended.set()
        sampler.join(2 * QUERY_SECONDS)


def machine_load() -> dict[str, float]:
    """Processor, memory and each GPU that this process may use: percent since the last call, megabytes, watts."""
    memory = psutil.virtual_memory()
    load = {
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_megabytes": memory.used / 1e6,
        "system_memory_usage_percentage": memory.used / memory.total * 100,
    }
    for number, line in enumerate(_gpu_lines()):
        load |= {f"gpu_{number}_{name}": value for name, value in _gpu_load(line).items()}
    return {f"{PREFIX}{name}": round(value, 1) for name, value in load.items()}


def system_values(paths: RunPaths) -> list[Point]:
    """The samples of a run; a line that a kill has cut off is left out.

    Args:
        paths: The run's.
    """
    if not paths.system_log.exists():
        return []
    points = []
    for text in paths.system_log.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            line = json.loads(text)
            when, number = milliseconds(line["time"]), int(line["sample"])
            points += [Point(key, value, when, number) for key, value in line.items() if key.startswith(PREFIX)]
    return points


def _sample(paths: RunPaths, ended: threading.Event) -> None:
    """Append a line after each pause until the training has ended; trouble with it is one warning."""
    try:
        psutil.cpu_percent()  # from here on it counts
        number = _begin(make_folder(paths.folder) / paths.system_log.name)
        while not ended.wait(PAUSE_SECONDS * 2 ** (number // SAMPLES_A_PAUSE)):
            line = {"sample": number, **machine_load(), "time": time.time()}
            with paths.system_log.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")
            number += 1
    except (OSError, psutil.Error) as err:
        warn(f"{paths.run_id}: no more system metrics ({err}). The training goes on.")


def _begin(log: Path) -> int:
    """Cut off what a kill left of a line; the number of whole lines."""
    if not log.exists():
        return 0
    content = log.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(log, whole)
    return content.count(b"\n")


def _gpu_lines() -> list[str]:
    """What NVIDIA's own program says of the GPUs that this process may use; nothing where there is none."""
    program, visible = shutil.which("nvidia-smi"), os.environ.get("CUDA_VISIBLE_DEVICES")
    if program is None or visible in ("", "-1", "NoDevFiles"):
        return []
    command = [program, f"--query-gpu={QUERY}", "--format=csv,noheader,nounits"]
    command += [f"--id={visible}"] if visible else []
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        answer = subprocess.run(command, capture_output=True, text=True, timeout=QUERY_SECONDS, check=True)
        return answer.stdout.splitlines()
    return []


def _gpu_load(line: str) -> dict[str, float]:
    """One GPU's values; what it does not report (`[N/A]`) is left out, and a line of another kind, such as an error."""
    fields = [_reading(field) for field in line.split(",")]
    if len(fields) != 5:
        return {}
    busy, used, total, power, limit = fields
    load = {
        "utilization_percentage": busy,
        "memory_usage_megabytes": used and used * MIB,
        "memory_usage_percentage": used / total * 100 if used is not None and total else None,
        "power_usage_watts": power,
        "power_usage_percentage": power / limit * 100 if power is not None and limit else None,
    }
    return {name: value for name, value in load.items() if value is not None}


def _reading(field: str) -> float | None:
    with contextlib.suppress(ValueError):
        return float(field)
    return None
