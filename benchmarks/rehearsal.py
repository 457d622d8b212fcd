"""The whole way at the paper's size, with made-up radiographs: `make rehearsal`, or FRACTION=0.01 for a hundredth.

Five hospitals with the paper's 591,682 images and a public one with MIMIC-CXR's 377,110, as dpdt's synthetic hospitals
lay them out. Each image is a file of its own: a hard link to one of 64 drawn pictures of its hospital, one with the
same findings where there is one. The pictures have the corpora's formats and a quarter of their lengths (a sixteenth
of the pixels), so that one disk and an evening hold them; what decoding costs at full length is `make
bench-preprocess`'s to say. Hard links stay in the disk's cache: reading from a slow disk is not a part of this.

Every stage is a command of its own. What is done is kept: after an interruption the same command goes on, and marks
the stage that was cut. Prints a table of all fractions so far, with the exponent of the growth of each stage's
processor time from one fraction to the next (1: linear), and writes build/rehearsal/rehearsal.json.
"""

import argparse
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from dpdt.base.console import say, show_table
from dpdt.base.files import make_folder, read_json, write_json, write_text
from dpdt.cohort.synthetic import Picture
from dpdt.cohort.synthetic.drawing import draw
from dpdt.cohort.synthetic.layouts import LAYOUTS
from dpdt.cohort.synthetic.layouts.base import digits
from dpdt.cohort.synthetic.patients import patient_pictures
from dpdt.study.tasks import STAGES

FOLDER: Final = Path("build/rehearsal")
RESULT: Final = FOLDER / "rehearsal.json"
DRAWN: Final = 64
SIZES: Final = {  # images (the paper's, Data sets), and the longer side of a picture in pixels, a quarter of the usual
    "vindr": (18_000, 700),
    "chestxray14": (112_120, 256),
    "chexpert": (157_676, 700),
    "uka": (193_361, 620),
    "padchest": (110_525, 640),
    "mimic": (377_110, 760),
}
STUDY: Final = """
[study]
name = "rehearsal"
[shards]
size = 64
[model]
width = 16
[pretrain]
num_epochs = 0.2
expected_batch_size = 64
[train]
num_epochs = 0.1
sample_rate = 0.005     # 20 steps, whatever the hospital's size
physical_batch_size = 64
[privacy]
target_epsilons = [8.0, inf]
delta = {delta}
"""


def pictures(domain: str, images: int) -> Iterator[Picture]:
    """So many radiographs, all of a patient's; a patient whose short invented ids are taken is left out."""
    taken: set[str] = set()
    patient = 0
    while images > 0:
        found = patient_pictures(domain, seed=0, patient=patient)[:images]
        ids = {digits(found[0], "patient", 10), digits(found[0], "image", 9)}
        if not ids & taken:
            taken |= ids
            images -= len(found)
            yield from found
        patient += 1


def make_hospital(root: Path, domain: str, images: int) -> None:
    """Lists, and one file an image."""
    layout, longest = LAYOUTS[domain], SIZES[domain][1]
    shown = list(pictures(domain, images))
    drawn: dict[frozenset[str], list[Path]] = {}
    kept = make_folder(root.parent / "drawn" / domain)
    for number, picture in enumerate(shown[:DRAWN]):
        path = kept / f"{number}{Path(layout.relative(picture)).suffix}"
        layout.write(path, draw(picture, image_size=round(longest / max(picture.hospital.aspect))), picture)
        drawn.setdefault(frozenset(picture.findings), []).append(path)
    every = [path for paths in drawn.values() for path in paths]
    for picture in shown:
        path = root / layout.relative(picture)
        path.parent.mkdir(parents=True, exist_ok=True)
        choice = drawn.get(frozenset(picture.findings), every)
        path.unlink(missing_ok=True)
        os.link(choice[picture.patient % len(choice)], path)
    layout.tables(root, shown)


def make_study(folder: Path, fraction: float) -> None:
    """The study's file and its hospitals."""
    for domain, (images, _) in SIZES.items():
        root = folder / "raw" / domain
        if not (root / "done").is_file():
            make_hospital(root, domain, max(200, round(images * fraction)))
            write_text(root / "done", "")
    domains = "".join(f'[domains.{domain}]\nroot = "raw/{domain}"\n' for domain in SIZES)
    delta = min(1e-3, 1e-5 / fraction)
    write_text(folder / "study.toml", STUDY.format(delta=delta) + domains)


def commands(folder: Path) -> dict[str, Sequence[str]]:
    """What is measured, in order."""
    study, dpdt = str(folder / "study.toml"), [sys.executable, "-m", "dpdt"]
    stages = {stage: [*dpdt, "--quiet", "submit", study, "--cluster", "local", "--stages", stage] for stage in STAGES}
    return {**stages, "verify": [*dpdt, "verify", study], "status": [*dpdt, "status", study]}


def measure(command: Sequence[str]) -> dict[str, Any]:
    """Run a command; seconds, memory of the largest of its processes, what they read, wrote and opened.

    Bytes and calls are Linux's own account of this process and its ended children (/proc/self/io), so a process of its
    own calls this. Openings are counted where strace is installed.
    """
    counts = Path(tempfile.mkdtemp()) / "opened"
    traced = ["strace", "-f", "--seccomp-bpf", "-c", "-e", "trace=open,openat", "-U", "calls,name", "-o", str(counts)]
    begun = time.perf_counter()
    done = subprocess.run([*(traced if shutil.which("strace") else []), *command], stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - begun
    if done.returncode:
        raise SystemExit(done.returncode)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    io = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    lines = counts.read_text().splitlines() if counts.is_file() else []
    opened = sum(int(line.split()[0]) for line in lines if line.split()[-1:] in (["open"], ["openat"]))
    return {
        "seconds": seconds,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_mib": used.ru_maxrss / 1024,
        "opened": opened,
        "read_mib": int(io["rchar"]) / 2**20,
        "written_mib": int(io["wchar"]) / 2**20,
    }


def rehearse(fraction: float) -> None:
    """Every command that was not measured yet."""
    folder = make_folder(FOLDER / f"{fraction:g}")
    make_study(folder, fraction)
    kept = folder / "measured.json"
    measured = read_json(kept) if kept.is_file() else {}
    for name, command in commands(folder).items():
        if "seconds" in measured.get(name, {}):
            continue
        begun_before = name in measured
        write_json(kept, {**measured, name: {}})
        say(f"{fraction:g}: {name}")
        own = [sys.executable, __file__, "--measure", json.dumps(command)]
        done = subprocess.run(own, check=True, stdout=subprocess.PIPE, text=True)
        measured[name] = {**json.loads(done.stdout), "cut": begun_before}
        write_json(kept, measured)
    figures = read_json(RESULT) if RESULT.is_file() else {}
    write_json(RESULT, {**figures, f"{fraction:g}": measured})


def show() -> None:
    """All fractions so far: a row a stage and fraction."""
    figures = {float(fraction): rows for fraction, rows in read_json(RESULT).items()}
    rows = []
    for name in next(iter(figures.values())):
        before: tuple[float, float] | None = None
        for fraction in sorted(figures):
            row = figures[fraction][name]
            growth = before and math.log(row["cpu_seconds"] / before[1]) / math.log(fraction / before[0])
            before = fraction, row["cpu_seconds"]
            rows.append(
                (
                    name + ("*" if row["cut"] else ""),
                    f"{fraction:g}",
                    f"{row['seconds']:.1f}",
                    f"{row['cpu_seconds']:.0f}",
                    "" if growth is None else f"{growth:.2f}",
                    f"{row['peak_mib']:,.0f}",
                    f"{row['opened']:,}" if row["opened"] else "",
                    f"{row['read_mib']:,.0f}",
                    f"{row['written_mib']:,.0f}",
                )
            )
    columns = ("stage", "size", "s", "CPU s", "growth", "peak MiB", "opened", "read MiB", "written MiB")
    show_table("Rehearsal (*: cut and gone on with, its time is that of the rest)", columns, rows)


def main() -> None:
    """Rehearse, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fraction", type=float, default=1.0, help="of the paper's images, above 0 and up to 1")
    parser.add_argument("--measure", metavar="COMMAND", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(json.loads(arguments.measure))))
        return
    rehearse(arguments.fraction)
    show()


if __name__ == "__main__":
    main()
