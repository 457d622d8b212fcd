"""How fast a training is on this machine: the second half of `make gpu-check`."""

import gc
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_training import SMALL, WIDTH, Pictures, Run, Scale, engine

from dpdt.errors import PrivacyError
from dpdt.training.loop import TrainingLoop
from dpdt.training.networks.resnet9 import ResNet9
from dpdt.training.physical_batch_size import find_physical_batch_size

METHODS = ("plain", "bookkeeping", "hooks", "ghost")
# An image of 512×512 through the paper's network and back, plain (docs/training-speed.md); bytes in float32.
FLOP, BYTES = 25e9, 732e6
TRAFFIC = {"plain": 1.0, "bookkeeping": 1.03, "hooks": 1.97, "ghost": 2.52}


def all_speeds(device: torch.device, scale: Scale, *, until: float) -> Iterator[dict[str, Any]]:
    """Every figure, as long as there is time; one that cannot be had says why."""
    rates = rates_of(device, scale)
    yield {"case": "rates", "method": "copy and matrix product", "ms": None, **rates}
    cases = [(method, precision) for precision in ("float32", "bf16") for method in METHODS]
    for measured in ("speed", "largest"):
        for method, precision in cases:
            if measured == "largest" and method in ("hooks", "ghost"):
                continue
            line: dict[str, Any] = {"case": f"{measured}, {precision}", "method": method, "ms": None}
            if time.monotonic() > until:
                yield {**line, "error": "not measured: out of time"}
                continue
            try:
                if measured == "speed":
                    with tempfile.TemporaryDirectory() as folder:
                        run = Run(Path(folder), device, method, precision, scale, 2 * scale.logical)
                        yield speed(run, rates=rates)
                else:
                    yield largest(device, scale, method, precision)
            except (PrivacyError, RuntimeError) as err:  # ghost is refused in bf16; hooks may not fit
                yield {**line, "error": f"{type(err).__name__}: {err}"[:300]}


def speed(run: Run, *, rates: dict[str, float]) -> dict[str, Any]:
    """Whole steps of a logical batch: as they are, and once more with every part waited for."""
    scale, device = run.scale, run.device
    data = Pictures(run.images, scale.size)
    _forget_memory(device)
    loop = run.loop(data)
    batches = [np.arange(scale.logical) + scale.logical * (number % 2) for number in range(2 * scale.steps + 3)]
    batches = [rows % len(data) for rows in batches]

    def step(number: int) -> None:
        loop.reader.announce(loop._parts(batches[number + 1], step=loop.step))
        loop._take_step(batches[number])

    loop.reader.announce(loop._parts(batches[0], step=loop.step))
    for number in range(2):
        step(number)
    begun = _now(device)
    for number in range(2, 2 + scale.steps):
        step(number)
    seconds = (_now(device) - begun) / scale.steps
    peak = torch.cuda.max_memory_allocated() / 1e6 if device.type == "cuda" else None
    shares = {"loader": 0.0, "noise": 0.0, "optimizer": 0.0}
    with _parts_timed(loop, shares):
        begun = _now(device)
        for number in range(2 + scale.steps, 2 + 2 * scale.steps):
            step(number)
        waited = _now(device) - begun
    loop.reader.close()
    loop.noise.close()
    return {
        "case": f"ResNet9 ({scale.width}), {scale.size}x{scale.size}, physical {scale.physical}, "
        f"logical {scale.logical}, {run.precision}",
        "method": run.method,
        "ms": 1e3 * seconds,
        "images_s": scale.logical / seconds,
        "peak_mb": peak,
        "shares": {name: part / waited for name, part in shares.items()},
        "floor_ms": floor_ms(run, rates),
    }


@contextmanager
def _parts_timed(loop: TrainingLoop, shares: dict[str, float]) -> Iterator[None]:
    """Add up what the loader is waited for, and what noise (with the release) and optimizer take."""
    device = loop.plan.device
    read, release, take = loop.reader.read, loop.gradients.release, loop.optimizer.step

    def timed(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            begun = _now(device)
            found = work(*args, **kwargs)
            shares[name] += _now(device) - begun
            return found

        return call

    def read_timed(parts: Any) -> Iterator[Any]:
        pieces = read(parts)
        while (piece := timed("loader", lambda: next(pieces, None))()) is not None:
            yield piece

    loop.reader.read = read_timed  # type: ignore[method-assign]
    loop.gradients.release = timed("noise", release)  # type: ignore[method-assign]
    loop.optimizer.step = timed("optimizer", take)  # type: ignore[method-assign]
    yield
    loop.reader.read, loop.gradients.release = read, release  # type: ignore[method-assign]
    loop.optimizer.step = take  # type: ignore[method-assign]


def rates_of(device: torch.device, scale: Scale) -> dict[str, float]:
    """Bytes a second of a copy, and operations a second of a matrix product by precision, on this card."""
    numbers, side = (256, 64) if scale == SMALL else (2**28, 8192)
    source, target = (torch.zeros(numbers, device=device) for _ in range(2))
    rates = {"bytes": 8 * numbers / _seconds(lambda: target.copy_(source), device)}
    for name, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16)):
        matrix = torch.ones(side, side, device=device, dtype=dtype)
        rates[name] = 2 * side**3 / _seconds(lambda matrix=matrix: matrix @ matrix, device)
    return rates


def floor_ms(run: Run, rates: dict[str, float]) -> float:
    """The least time of a step: its bytes, or its operations, whichever take longer."""
    scale, half = run.scale, 0.5 if run.precision == "bf16" else 1.0
    moved = BYTES * half * TRAFFIC[run.method] * scale.part / rates["bytes"]
    computed = FLOP * scale.part * scale.width / WIDTH / rates[run.precision]
    return 1e3 * scale.logical * max(moved, computed)


def largest(device: torch.device, scale: Scale, method: str, precision: str) -> dict[str, Any]:
    """Most images of one physical batch by doubling, what "auto" takes, and what a batch costs beyond its images."""
    torch.manual_seed(0)
    model, autocast = ResNet9(width=scale.width).to(device), precision == "bf16"
    clipping = None if method == "plain" else method
    auto = find_physical_batch_size(
        model,
        shape=(1, scale.size, scale.size),
        device=device,
        clipping=clipping,
        autocast=autocast,
        most=scale.largest,
    )
    seconds: dict[int, float] = {}
    images = 2
    while images <= scale.largest:
        _forget_memory(device)
        try:
            sums = engine(method, model, autocast=autocast)
            inputs = torch.rand(images, 1, scale.size, scale.size, device=device)
            targets = torch.zeros(images, 5, device=device)
            seconds[images] = _seconds(lambda s=sums, i=inputs, t=targets: s.add(i, t), device, repeats=2)
        except torch.cuda.OutOfMemoryError:
            break
        finally:
            sums = inputs = targets = None  # type: ignore[assignment]
        images *= 2
    small, large = min(seconds), max(n for n in seconds if n <= 64)
    per_image = (seconds[large] - seconds[small]) / (large - small)
    return {
        "case": f"largest physical batch, {scale.size}x{scale.size}, {precision}",
        "method": method,
        "ms": 1e3 * seconds[max(seconds)],
        "images": max(seconds),
        "auto": auto,
        "call_images": seconds[small] / per_image - small,
        "ms_by_images": {images: 1e3 * value for images, value in seconds.items()},
    }


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _seconds(work: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    """Of one call, after a first one."""
    work()
    begun = _now(device)
    for _ in range(repeats):
        work()
    return (_now(device) - begun) / repeats


def _forget_memory(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
