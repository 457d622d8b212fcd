"""Benchmark of a training step: `make bench-train` prints a table and writes build/bench/train.json.

The paper's network on one-channel pictures of 128×128, logical batches of 128 in physical ones of 16, noise and NAdam
included: without DP, and with each way to clip. Every measurement is a separate process, since memory that one method
has used helps the next; rounds are interleaved, since a machine is not the same over minutes. Needs a quiet machine;
`--clock cpu`, the processor's time with one thread, less so (others still take caches and memory).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from dpdt.base.console import show_table
from dpdt.privacy.clipping.engines import CLIPPING, GradientSum
from dpdt.privacy.keystream import KeyStream
from dpdt.training.batches import image_losses
from dpdt.training.device import keep_memory
from dpdt.training.networks.resnet9 import ResNet9

SIZE, PHYSICAL, LOGICAL = 128, 16, 128
WARM_STEPS, STEPS, ROUNDS = 1, 3, 2
RESULT = Path("build/bench/train.json")
MALLOC = {"default": "torch as it is", "kept": "memory kept, as dpdt's trainings do"}
CASES = [
    *((method, "kept", "float32") for method in ("plain", "bookkeeping", "hooks", "ghost")),
    *((method, "default", "float32") for method in ("plain", "bookkeeping")),
    *((method, "kept", "bf16") for method in ("plain", "bookkeeping")),
]


def resident(name: str) -> float:
    """`VmRSS` or `VmHWM` of this process in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {name}")


def measure(method: str, malloc: str, precision: str, *, steps: int, clock: str) -> dict[str, float]:
    """One process: time an image and peak memory above the model, in this process."""
    now = time.perf_counter
    if clock == "cpu":
        torch.set_num_threads(1)  # threads that wait for each other take the processor's time too
        now = time.process_time
    if malloc == "kept":
        keep_memory(torch.device("cpu"))
    torch.manual_seed(0)
    model = ResNet9().train()
    pictures = [torch.rand(PHYSICAL, 1, SIZE, SIZE) for _ in range(3)]
    labels = (torch.rand(PHYSICAL, 5) < 0.3).float()
    autocast = precision == "bf16"
    if method == "plain":
        sums = GradientSum(model, image_losses, autocast=autocast)
    else:
        settings: dict[str, Any] = {"max_grad_norm": 1.5, "noise_multiplier": 1.0, "noise": KeyStream.fresh()}
        sums = CLIPPING[method](model, image_losses, autocast=autocast, **settings)
    optimizer = torch.optim.NAdam(model.parameters(), lr=2e-4)
    before, times = resident("VmRSS"), []
    for _ in range(WARM_STEPS + steps):
        started = now()
        sums.clear()
        for part in range(LOGICAL // PHYSICAL):
            sums.add(pictures[part % len(pictures)], labels)
        sums.release(expected_batch_size=LOGICAL)
        optimizer.step()
        times.append(now() - started)
    return {"ms": 1000 * statistics.median(times[WARM_STEPS:]) / LOGICAL, "peak_mb": resident("VmHWM") - before}


def in_process(case: tuple[str, str, str], *, steps: int, clock: str) -> dict[str, float]:
    """The same, in a separate process."""
    command = [sys.executable, __file__, "--case", *case, "--steps", str(steps), "--clock", clock]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", nargs=3, metavar=("METHOD", "MALLOC", "PRECISION"))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    arguments = parser.parse_args()
    how = {"steps": arguments.steps, "clock": arguments.clock}
    if arguments.case:
        print(json.dumps(measure(*arguments.case, **how)))
        return
    found: dict[tuple[str, str, str], list[dict[str, float]]] = {case: [] for case in CASES}
    for _ in range(arguments.rounds):
        for case in CASES:
            found[case].append(in_process(case, **how))
    # Whatever else the machine does only adds to a time: the best process of a case is the nearest to the truth.
    best = {case: {key: min(run[key] for run in runs) for key in ("ms", "peak_mb")} for case, runs in found.items()}
    results = []
    for (method, malloc, precision), values in best.items():
        plain = best["plain", malloc, "float32"]
        results.append(
            {
                "case": f"ResNet9, {SIZE}x{SIZE}, physical {PHYSICAL}, logical {LOGICAL}, {precision}, malloc {malloc}",
                "method": method,
                "ms": values["ms"],
                "ratio": values["ms"] / plain["ms"],
                "peak_mb": values["peak_mb"],
                "peak_ratio": values["peak_mb"] / plain["peak_mb"],
                "threads": 1 if arguments.clock == "cpu" else torch.get_num_threads(),
                "clock": arguments.clock,
                "runs_ms": [run["ms"] for run in found[method, malloc, precision]],
            }
        )
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(results, indent=2) + "\n")
    rows = [
        [
            r["method"],
            r["case"].split(", ", 4)[4],
            f"{r['ms']:.2f}",
            f"{r['ratio']:.2f}",
            f"{r['peak_mb']:.0f}",
            f"{r['peak_ratio']:.2f}",
        ]
        for r in results
    ]
    columns = ["method", "precision, malloc", "ms an image", "of plain", "peak MiB", "of plain's"]
    show_table(
        f"Training step: ResNet9, {SIZE}x{SIZE}, physical {PHYSICAL}, logical {LOGICAL}; {arguments.clock} time",
        columns,
        rows,
    )


if __name__ == "__main__":
    main()
