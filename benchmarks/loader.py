"""Benchmark of the loader: `make bench-loader` prints a table and writes build/bench/loader.json.

Random pictures of 512×512 out of several memory-mapped files: gathered by the core against one memory copy of as many
bytes (warm), and against reading the same files from their disk (cold). Then a training on a fast GPU is simulated:
steps of 128 pictures, 8,000 a second, that only wait; how much longer do they take for the loader? And for the noise,
which is made meanwhile: steps of the least time that an H100's data sheet allows (`NETWORKS`)?
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import dpdt.training.read_ahead
from dpdt import _core
from dpdt.base.console import show_table
from dpdt.privacy.keystream import KeyStream
from dpdt.training.read_ahead import ReadAhead

SIZE, FILES, ROWS, BATCH = 512, 4, 500, 128
IMAGES_PER_SECOND, STEPS = 8_000, 150
NOISE_STEPS, LAYERS = 3, 50
# Numbers of a network's parameters, and milliseconds of a step of 128 pictures of 512×512 on an H100: the paper's, and
# one of 204 channels in place of 64. In float32 operations bound it (25 GFLOP a picture at 67 TFLOP/s), in bf16 bytes
# (366 MB a picture, book-keeping 1.03 of that, at 3.35 TB/s); the first grow with the square of the channels.
NETWORKS = {
    ("4.9 M", "float32"): (4_900_000, 48.0),
    ("4.9 M", "bf16"): (4_900_000, 14.4),
    ("50 M", "float32"): (50_000_000, 487.0),
    ("50 M", "bf16"): (50_000_000, 46.0),
}
RESULT = Path("build/bench/loader.json")


def make_files(folder: Path) -> list[Path]:
    """Shards of noise; half a GiB."""
    random = np.random.default_rng(0)
    paths = [folder / f"{number}.npy" for number in range(FILES)]
    for path in paths:
        np.save(path, random.integers(0, 255, (ROWS, SIZE, SIZE), dtype=np.uint8))
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)  # only clean pages can be dropped
        os.close(descriptor)
    return paths


def forget(paths: list[Path]) -> None:
    """Take the files out of the page cache."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def per_second(work: Callable[[int], object], pictures: int, repeats: int = 15) -> float:
    """Median pictures a second."""
    times = []
    for number in range(repeats):
        started = time.perf_counter()
        work(number)
        times.append(time.perf_counter() - started)
    return pictures / statistics.median(times)


def simulate(maps: list[NDArray[np.uint8]], num_threads: int) -> tuple[float, float]:
    """Pictures a second that the simulated training gets, and the part of its time that it waits for the loader."""
    random = np.random.default_rng(1)
    steps = [[random.integers(0, FILES * ROWS, BATCH)] for _ in range(STEPS)]

    def copy(rows: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
        _core.gather(maps, rows // ROWS, rows % ROWS, out, num_threads=num_threads)

    waited = 0.0
    with ReadAhead(copy, like=np.empty((0, SIZE, SIZE), np.uint8), device=torch.device("cpu")) as reader:
        reader.announce(steps[0])
        started = time.perf_counter()
        for number, step in enumerate(steps):
            if number + 1 < STEPS:
                reader.announce(steps[number + 1])
            asked = time.perf_counter()
            for _ in reader.read(step):
                waited += time.perf_counter() - asked
                time.sleep(BATCH / IMAGES_PER_SECOND)  # the device computes
                asked = time.perf_counter()
        seconds = time.perf_counter() - started
    return STEPS * BATCH / seconds, waited / seconds


def simulate_noise(numbers: int, step_ms: float, num_threads: int) -> tuple[float, float]:
    """Seconds of a step that only waits while its noise is made, and the part of it that waits for the noise."""
    stream, counts = KeyStream.fresh(), [numbers // LAYERS] * LAYERS
    values, waited, seconds = torch.zeros(counts[0]), [], []
    for _ in range(NOISE_STEPS):
        started = time.perf_counter()
        stream.make_ahead(counts, device=torch.device("cpu"), num_threads=num_threads)
        time.sleep(step_ms / 1000)
        asked = time.perf_counter()
        for made in list(stream._ahead.values()):
            made.result()
        ended = time.perf_counter()
        waited.append(ended - asked)
        seconds.append(ended - started)
        for _ in counts:  # a GPU adds it to the sum; here that is not counted
            stream.noise(values, scale=1.0, divisor=2.0)
    stream.close()
    return min(seconds), min(waited) / min(seconds)


def main() -> None:
    """Run, print, write."""
    dpdt.training.read_ahead.as_input = lambda pixels, device: torch.from_numpy(pixels)  # a GPU would convert
    random = np.random.default_rng(2)
    out = np.empty((BATCH, SIZE, SIZE), dtype=np.uint8)
    results: list[dict[str, Any]] = []

    def add(method: str, rate: float, part: float | None = None) -> None:
        gigabytes = rate * SIZE * SIZE / 1e9
        results.append({"case": f"{BATCH} random pictures of {SIZE}x{SIZE}", "method": method, "images_s": rate})
        results[-1] |= {"gb_s": gigabytes, "part": part, "ms": 1000 * BATCH / rate}

    with tempfile.TemporaryDirectory(dir=".") as folder:
        paths = make_files(Path(folder))
        maps = [np.load(path, mmap_mode="r") for path in paths]
        places = [(random.integers(0, FILES, BATCH), random.integers(0, ROWS, BATCH)) for _ in range(15)]
        copies = per_second(lambda n: np.copyto(out, maps[n % FILES][n : n + BATCH]), BATCH)
        copies = per_second(lambda n: np.copyto(out, maps[n % FILES][17 * n : 17 * n + BATCH]), BATCH)
        add("memcpy of as many bytes, one thread", copies, 1.0)
        for threads in (1, 2):
            rate = per_second(
                lambda n, threads=threads: _core.gather(maps, *places[n], out, num_threads=threads), BATCH
            )
            add(f"gather, warm, {threads} thread{'s' * (threads > 1)}", rate, rate / copies)
        for threads in (1, 2):
            rate, part = simulate(maps, threads)
            add(f"simulated training at {IMAGES_PER_SECOND:,} images/s, {threads} loading: waits", rate, part)
        for (name, precision), (numbers, step_ms) in NETWORKS.items():
            for threads in (1, 2):
                seconds, part = simulate_noise(numbers, step_ms, threads)
                what = f"noise of {name} in a step of {step_ms:g} ms ({precision}), {threads} making it: waits"
                results.append({"case": f"{BATCH} pictures of {SIZE}x{SIZE} a step", "method": what, "part": part})
                results[-1] |= {"images_s": BATCH / seconds, "gb_s": 8 * numbers / seconds / 1e9, "ms": 1000 * seconds}
        started, read = time.perf_counter(), 0
        forget(paths)
        for path in paths:
            read += len(path.read_bytes())
        disk = read / (time.perf_counter() - started) / SIZE**2
        add("reading the files through, cold", disk, 1.0)
        del maps
        forget(paths)
        maps = [np.load(path, mmap_mode="r") for path in paths]
        rate = per_second(lambda n: _core.gather(maps, *places[n], out, num_threads=2), BATCH, repeats=5)
        add("gather, cold, 2 threads", rate, rate / disk)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(results, indent=2) + "\n")
    rows = [[r["method"], f"{r['images_s']:,.0f}", f"{r['gb_s']:.2f}", f"{100 * r['part']:.1f} %"] for r in results]
    show_table(f"Loader: {BATCH} random pictures of {SIZE}x{SIZE}", ["what", "images/s", "GB/s", "part"], rows)


if __name__ == "__main__":
    main()
