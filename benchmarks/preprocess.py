"""From files to 512x512 pixels: the core beside what others would use. `make bench-preprocess` runs it.

Prints a table and writes build/bench/preprocess.json. All methods of a case run in turn, round after round, so that a
busy machine slows all of them alike; the times are the smallest of the rounds. One thread, except where stated.
The inputs are real radiographs where DPDT_REAL_DATA names the folder, and invented ones elsewhere.
"""

import argparse
import io
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import zoom

from dpdt import _core
from dpdt.shards.dicom import read_dicom
from dpdt.shards.process import process_images
from dpdt.study.settings import ShardSettings

SIZE: Final = 512
LARGE: Final = (2544, 3056)  # width and height of a MIMIC or CheXpert original
Pixels = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True)
class Case:
    """Files of one kind, and how often they are timed."""

    name: str
    files: Sequence[Path]
    rounds: int
    dicom: bool = False


def make_cases(folder: Path) -> list[Case]:
    """The inputs, written below `folder` where they are not there as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    data = os.environ.get("DPDT_REAL_DATA")
    if data:
        images = Path(data) / "images"
        small = sorted((images / "nih").glob("*.png"))[1:60:6]
        small = [file for file in small if Image.open(file).mode == "L"]
        base = pydicom.dcmread(images / "dicom/RG1_UNCR.dcm").pixel_array
        base = (int(base.max()) - base).astype(np.uint16)  # MONOCHROME1, 15 bits
    else:
        base = invented(1955, 1841)
        small = [folder / f"small-{n}.png" for n in range(4)]
        for number, file in enumerate(small):
            Image.fromarray((cv2.resize(invented(1024, 1024, seed=number), (1024, 1024)) >> 7).astype(np.uint8)).save(
                file
            )
    large = cv2.resize(base, LARGE, interpolation=cv2.INTER_LINEAR)
    large += np.random.default_rng(0).integers(0, 4, large.shape, dtype=np.uint16)  # resizing took the noise away
    Image.fromarray(large).save(folder / "large16.png")
    Image.fromarray(large >> 3).save(folder / "large12.png")
    Image.fromarray((large >> 7).astype(np.uint8)).save(folder / "large.jpg", quality=95)
    cases = [
        Case("PNG 8 bit 1024x1024", small, 15),
        Case("PNG 16 bit 2544x3056 (15 bits used)", [folder / "large16.png"] * 8, 4),
        Case("PNG 16 bit 2544x3056 (12 bits used)", [folder / "large12.png"] * 8, 4),
        Case("JPEG 2544x3056 gray, quality 95", [folder / "large.jpg"] * 4, 15),
    ]
    if data:
        real = images / "jpg/figure1_COVID-00006.jpg"
        cases.append(Case("JPEG 3024x4032 gray (real)", [real] * 4, 15))
        for kind, rounds in (("J2KR", 3), ("JLSN", 3), ("UNCR", 9)):
            cases.append(Case(f"DICOM 1841x1955 {kind}", [images / f"dicom/RG1_{kind}.dcm"] * 2, rounds, dicom=True))
    return cases


def invented(height: int, width: int, *, seed: int = 0) -> NDArray[np.uint16]:
    """Blobs and noise, about as compressible as a radiograph."""
    random = np.random.default_rng(seed)
    coarse = random.random((height // 64, width // 64)).astype(np.float32)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth * 20000 + 6000 + random.normal(0, 60, smooth.shape), 0, 32767).astype(np.uint16)


def finish(pixels: Pixels) -> NDArray[np.uint8]:
    """Min-max and equalisation by OpenCV."""
    return cv2.equalizeHist(cv2.normalize(pixels, None, 0, 255, cv2.NORM_MINMAX, dtype=cv2.CV_8U))


def read(file: Path) -> Pixels:
    """A gray picture by OpenCV, or by pydicom."""
    if file.suffix == ".dcm":
        return pydicom.dcmread(file).pixel_array
    return cv2.imread(str(file), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)


def opencv_area(file: Path) -> object:
    """What most would write."""
    return finish(cv2.resize(read(file), (SIZE, SIZE), interpolation=cv2.INTER_AREA))


def scipy_paper(file: Path) -> object:
    """The paper's recipe as its group has it."""
    pixels = read(file)
    return finish(zoom(pixels, (SIZE / pixels.shape[0], SIZE / pixels.shape[1]), order=2))


def pillow_reduced(file: Path) -> object:
    """Pillow at its fastest: draft for JPEG, reducing_gap for the rest (8 bits only)."""
    image = Image.open(file)
    image.draft("L", (2 * SIZE, 2 * SIZE))
    return finish(np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX, reducing_gap=2.0)))


def vipsthumbnail(file: Path) -> object:
    """Run libvips as a separate process; its start is part of it."""
    command = ["vipsthumbnail", str(file), "--size", f"{SIZE}x{SIZE}!", "-o", "/tmp/%s-dpdt-bench.png"]
    return subprocess.run(command, check=True, env={**os.environ, "VIPS_CONCURRENCY": "1"}, capture_output=True)


def codec_alone(file: Path) -> object:
    """What no resampling can go below: the core's decoder, or of JPEG its entropy decoding (an eighth of the scale)."""
    if file.suffix == ".dcm":
        return read_dicom(str(file))
    if file.suffix == ".jpg":
        return cv2.imread(str(file), cv2.IMREAD_REDUCED_GRAYSCALE_8)
    return _core.decode(file.read_bytes())


def each(method: Callable[[Path], object]) -> Callable[[Sequence[Path]], object]:
    """One file after the other."""
    return lambda files: [method(file) for file in files]


def core(recipe: str, **options: object) -> Callable[[Sequence[Path]], object]:
    """The core, through the function that makes shards: all files in one call, on one thread."""
    settings = ShardSettings.model_validate({"size": SIZE, "recipe": recipe, "num_threads": 1, **options})

    def run(files: Sequence[Path]) -> object:
        out = np.empty((len(files), SIZE, SIZE), np.uint8)
        paths = [str(file) for file in files]
        for outcome in process_images(paths, out, settings=settings, advance=lambda count: None):
            if not outcome.ok:
                raise RuntimeError(f"{files}: {outcome.reason}: {outcome.message}")
        return out

    return run


def methods_of(case: Case) -> dict[str, Callable[[Sequence[Path]], object]]:
    """Who competes in a case; the first of each recipe is the peer."""
    peer = "pydicom + opencv" if case.dicom else "opencv"
    methods = {f"area: {peer}": each(opencv_area), "area: dpdt": core("area")}
    if "J2K" in case.name:
        methods["area: dpdt, exact_decode"] = core("area", exact_decode=True)
    if not case.dicom and "16 bit" not in case.name:
        methods["area: Pillow draft + reducing_gap"] = each(pillow_reduced)
    if not case.dicom and shutil.which("vipsthumbnail"):
        methods["area: vipsthumbnail (a process)"] = each(vipsthumbnail)
    methods["paper: scipy + opencv"] = each(scipy_paper)
    methods["paper: dpdt"] = core("paper")
    methods["codec: alone"] = each(codec_alone)
    return methods


def time_case(case: Case, only: str) -> list[dict[str, object]]:
    """The smallest mean milliseconds an image of each method, and its gain over the recipe's first method."""
    methods = {name: method for name, method in methods_of(case).items() if only in name}
    best: dict[str, tuple[float, float]] = {}
    for _ in range(case.rounds):
        for name, method in methods.items():
            wall, cpu = time.perf_counter(), time.process_time()
            method(case.files)
            spent = (time.perf_counter() - wall, time.process_time() - cpu)
            best[name] = tuple(map(min, spent, best.get(name, spent)))  # type: ignore[assignment]
    rows: list[dict[str, object]] = []
    peers: dict[str, float] = {}
    for name, (wall, cpu) in best.items():
        recipe, method = name.split(": ", 1)
        peer = peers.setdefault(recipe, wall)
        per_image = 1000 / len(case.files)
        row = {"case": case.name, "recipe": recipe, "method": method, "ms": wall * per_image, "cpu_ms": cpu * per_image}
        rows.append({**row, "gain": peer / wall})
    return rows


def time_threads(cases: Sequence[Case]) -> list[dict[str, object]]:
    """Many files at once on one thread and on two, in turn."""
    rows = []
    for case in [case for case in cases if not case.dicom][:4]:
        files = [str(file) for file in case.files]
        files *= -(-24 // len(files))
        out = np.zeros((len(files), SIZE, SIZE), np.uint8)
        best = {1: float("inf"), 2: float("inf")}
        for _ in range(5):
            for threads in best:
                start = time.perf_counter()
                _core.process_files(files, out, recipe="area", equalise=True, num_threads=threads)
                best[threads] = min(best[threads], time.perf_counter() - start)
        for threads, seconds in best.items():
            row = {"case": case.name, "recipe": "area", "method": f"dpdt, {threads} threads, {len(files)} files"}
            rows.append({**row, "ms": 1000 * seconds / len(files), "gain": best[1] / seconds})
    return rows


def table(rows: Sequence[dict[str, object]]) -> str:
    """Text for people."""
    stream = io.StringIO()
    print(f"{'case':<37} {'recipe':<6} {'method':<32} {'ms':>8} {'gain':>6}", file=stream)
    for row in rows:
        print(
            f"{row['case']:<37} {row['recipe']:<6} {row['method']:<32} {row['ms']:8.2f} {row['gain']:5.2f}x",
            file=stream,
        )
    return stream.getvalue()


def main() -> None:
    """Time everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/bench/preprocess.json"))
    parser.add_argument("--cases", default="", help="only cases whose name has this in it")
    parser.add_argument("--methods", default="", help="only methods whose name has this in it")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    cases = [case for case in make_cases(arguments.out.parent / "inputs") if arguments.cases in case.name]
    rows = [row for case in cases for row in time_case(case, arguments.methods)]
    if not arguments.methods and (os.cpu_count() or 1) > 1:
        rows += time_threads(cases)
    print(table(rows), end="")
    arguments.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
