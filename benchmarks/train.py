"""Benchmark of a training step: `make bench-train` prints a table and writes build/bench/train.json.

The paper's network on one-channel pictures of 128×128, logical batches of 128 in physical ones of 16, and ConvNeXt-Tiny
and ViT-S/16 on 224×224, logical 32 in physical 8; noise and NAdam included: without DP, and with each way to clip that
the network's gradients can be had with (`layers`: book-keeping that clips each layer by itself). `--networks` chooses.
Every measurement is a separate process, since memory that one method has used helps the next; rounds are interleaved,
since a machine is not the same over minutes. Needs a quiet machine; `--clock cpu`, the processor's time with one
thread, less so (others still take caches and memory).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dpdt.base.console import show_table
from dpdt.privacy.clipping.engines import CLIPPING, GradientSum
from dpdt.privacy.keystream import KeyStream
from dpdt.study.settings import ModelSettings
from dpdt.training.batches import image_losses
from dpdt.training.device import keep_memory
from dpdt.training.networks.build import build_model

WARM_STEPS, STEPS, ROUNDS = 1, 3, 2
RESULT = Path("build/bench/train.json")
MALLOC = {"default": "torch as it is", "kept": "memory kept, as dpdt's trainings do"}
Case = tuple[str, str, str, str]
METHODS = ("plain", "bookkeeping", "layers", "hooks", "ghost")


@dataclass(frozen=True)
class Load:
    """What a network is measured with."""

    size: int
    physical: int
    logical: int

    def __str__(self) -> str:
        return f"{self.size}x{self.size}, physical {self.physical}, logical {self.logical}"


LOADS = {"resnet9": Load(128, 16, 128), "convnext_tiny": Load(224, 8, 32), "vit_small": Load(224, 8, 32)}
CASES: list[Case] = [
    *(("resnet9", method, "kept", "float32") for method in METHODS),
    *(("resnet9", method, "default", "float32") for method in ("plain", "bookkeeping")),
    *(("resnet9", method, "kept", "bf16") for method in ("plain", "bookkeeping")),
    *((network, method, "kept", "float32") for network in ("convnext_tiny", "vit_small") for method in METHODS),
]


def resident(name: str) -> float:
    """`VmRSS` or `VmHWM` of this process in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {name}")


def measure(network: str, method: str, malloc: str, precision: str, *, steps: int, clock: str) -> dict[str, float]:
    """One process: time an image and peak memory above the model, in this process."""
    now = time.perf_counter
    if clock == "cpu":
        torch.set_num_threads(1)  # threads that wait for each other take the processor's time too
        now = time.process_time
    if malloc == "kept":
        keep_memory(torch.device("cpu"))
    torch.manual_seed(0)
    load = LOADS[network]
    model = build_model(ModelSettings(name=network), size=load.size).train()
    pictures = [torch.rand(load.physical, 1, load.size, load.size) for _ in range(3)]
    labels = (torch.rand(load.physical, 5) < 0.3).float()
    autocast = precision == "bf16"
    if method == "plain":
        sums = GradientSum(model, image_losses, autocast=autocast)
    else:
        settings: dict[str, Any] = {"max_grad_norm": 1.5, "noise_multiplier": 1.0, "noise": KeyStream.fresh()}
        settings |= {"by_layer": method == "layers", "autocast": autocast}
        sums = CLIPPING["bookkeeping" if method == "layers" else method](model, image_losses, **settings)
    optimizer = torch.optim.NAdam(model.parameters(), lr=2e-4)
    before, times = resident("VmRSS"), []
    for _ in range(WARM_STEPS + steps):
        started = now()
        sums.clear()
        for part in range(load.logical // load.physical):
            sums.add(pictures[part % len(pictures)], labels)
        sums.release(expected_batch_size=load.logical)
        optimizer.step()
        times.append(now() - started)
    return {"ms": 1000 * statistics.median(times[WARM_STEPS:]) / load.logical, "peak_mb": resident("VmHWM") - before}


def in_process(case: Case, *, steps: int, clock: str) -> dict[str, float] | None:
    """The same, in a separate process; None where the engine cannot be used."""
    command = [sys.executable, __file__, "--case", *case, "--steps", str(steps), "--clock", clock]
    done = subprocess.run(command, check=case[1] in METHODS[:3], capture_output=True, text=True, env=os.environ)
    if done.returncode:
        print(f"{' '.join(case)}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return None
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", nargs=4, metavar=("NETWORK", "METHOD", "MALLOC", "PRECISION"))
    parser.add_argument("--networks", nargs="+", choices=LOADS, default=list(LOADS))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    arguments = parser.parse_args()
    how = {"steps": arguments.steps, "clock": arguments.clock}
    if arguments.case:
        print(json.dumps(measure(*arguments.case, **how)))
        return
    found: dict[Case, list[dict[str, float]]] = {case: [] for case in CASES if case[0] in arguments.networks}
    for _ in range(arguments.rounds):
        for case in list(found):
            run = in_process(case, **how)
            if run is None:
                del found[case]
            else:
                found[case].append(run)
    # Whatever else the machine does only adds to a time: the best process of a case is the nearest to the truth.
    best = {case: {key: min(run[key] for run in runs) for key in ("ms", "peak_mb")} for case, runs in found.items()}
    results = []
    for case, values in best.items():
        network, method, malloc, precision = case
        plain = best[network, "plain", malloc, "float32"]
        results.append(
            {
                "case": f"{network}, {LOADS[network]}, {precision}, malloc {malloc}",
                "method": method,
                "ms": values["ms"],
                "ratio": values["ms"] / plain["ms"],
                "peak_mb": values["peak_mb"],
                "peak_ratio": values["peak_mb"] / plain["peak_mb"],
                "threads": 1 if arguments.clock == "cpu" else torch.get_num_threads(),
                "clock": arguments.clock,
                "runs_ms": [run["ms"] for run in found[case]],
            }
        )
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(results, indent=2) + "\n")
    rows = [
        [
            r["method"],
            r["case"],
            f"{r['ms']:.2f}",
            f"{r['ratio']:.2f}",
            f"{r['peak_mb']:.0f}",
            f"{r['peak_ratio']:.2f}",
        ]
        for r in results
    ]
    columns = ["method", "case", "ms an image", "of plain", "peak MiB", "of plain's"]
    show_table(f"Training step; {arguments.clock} time", columns, rows)


if __name__ == "__main__":
    main()
