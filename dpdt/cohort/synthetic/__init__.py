"""Made-up hospitals in their raw layouts, to try dpdt without real data.

    >>> sorted(HOSPITALS)
    ['chestxray14', 'chexpert', 'mimic', 'padchest', 'uka', 'vindr']

Drawn radiographs (`drawing`) of invented patients (`patients`), photographed by machines with different habits
(`hospitals`), written as the institutions publish theirs (`layouts`, `encode`).
"""

import multiprocessing
import os
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dpdt.base.console import progress
from dpdt.base.files import exclusive_lock, make_folder, read_json, write_json, write_text
from dpdt.cohort.synthetic.drawing import draw
from dpdt.cohort.synthetic.layouts import HOSPITALS, LAYOUTS
from dpdt.cohort.synthetic.patients import hospital_pictures, patient_pictures
from dpdt.cohort.synthetic.picture import Picture
from dpdt.cohort.table import SYNTHETIC_MARKER
from dpdt.errors import DpdtError, StudyError

__all__ = ["DEFAULT_IMAGE_SIZE", "HOSPITALS", "Picture", "hospital_pictures", "make_hospitals"]

DEFAULT_IMAGE_SIZE: Final = 144
FORMAT: Final = 1
STATE: Final = "synthetic.json"
CHUNK_PATIENTS: Final = 25
POOL_PATIENTS: Final = 150
"""Fewer patients are drawn here; starting processes would take longer."""

NOTICE: Final = """Everything in this folder is synthetic: drawn by dpdt ({domain}, seed {seed}).
No image shows a person, no row describes one. The layout imitates a published data set; nothing is copied from it.
Results from these files say nothing about medicine.
"""


@dataclass(frozen=True)
class _Chunk:
    """Patients of one hospital that are drawn in one go."""

    domain: str
    root: Path
    seed: int
    first: int
    last: int
    image_size: int


def make_hospitals(
    folder: Path,
    *,
    seed: int = 0,
    patients: int | Mapping[str, int] | None = None,
    domains: Iterable[str] | None = None,
    image_size: int = DEFAULT_IMAGE_SIZE,
    num_processes: int | None = None,
) -> dict[str, Path]:
    """Write synthetic hospitals in their raw layouts; what is there is not made again.

    The same arguments give the same files, whatever the number of processes. A patient does not depend on how many
    others there are.

    Args:
        folder: Each hospital gets a sub-folder of its name.
        seed: Of everything.
        patients: A number for every hospital, or by hospital; default: 550 to 1,000 each.
        domains: Which hospitals; default: all of HOSPITALS.
        image_size: Scale of raw images in pixels; each hospital has its own shape.
        num_processes: Default: the cores given to this process.

    Returns:
        Hospital -> its root folder.

    Raises:
        StudyError: An unknown hospital, or a number that is not positive.
        DpdtError: The folder holds hospitals made with other arguments.
    """
    chosen = list(domains) if domains is not None else list(HOSPITALS)
    counts = _counts(chosen, patients)
    if image_size < 32:
        raise StudyError(f"image_size: expected at least 32 pixels, got {image_size}.")
    roots = {domain: Path(folder) / domain for domain in chosen}
    with exclusive_lock(Path(folder) / ".synth.lock"):
        wanted = {d: _state(d, seed, counts[d], image_size) for d in chosen}
        missing = [d for d in chosen if not _finished(roots[d], wanted[d])]
        for domain in missing:
            make_folder(roots[domain])
            write_text(roots[domain] / SYNTHETIC_MARKER, NOTICE.format(domain=domain, seed=seed))
            write_json(roots[domain] / STATE, {**wanted[domain], "finished": False})
        chunks = [
            _Chunk(d, roots[d], seed, first, min(first + CHUNK_PATIENTS, counts[d]), image_size)
            for d in missing
            for first in range(0, counts[d], CHUNK_PATIENTS)
        ]
        _draw_all(chunks, num_processes)
        for domain in missing:
            LAYOUTS[domain].tables(roots[domain], list(hospital_pictures(domain, seed=seed, patients=counts[domain])))
            write_json(roots[domain] / STATE, {**wanted[domain], "finished": True})
    return roots


def _counts(domains: list[str], patients: int | Mapping[str, int] | None) -> dict[str, int]:
    """Patients of each hospital."""
    given = {} if patients is None else dict.fromkeys(domains, patients) if isinstance(patients, int) else patients
    for domain in (*domains, *given):
        if domain not in HOSPITALS:
            raise StudyError(f"no synthetic hospital {domain!r}. Valid names: {', '.join(HOSPITALS)}.")
    counts = {domain: given.get(domain, HOSPITALS[domain].patients) for domain in domains}
    for domain, count in counts.items():
        if count < 1:
            raise StudyError(f"patients: expected at least 1 for {domain}, got {count}.")
    return counts


def _state(domain: str, seed: int, patients: int, image_size: int) -> dict[str, object]:
    return {"format": FORMAT, "domain": domain, "seed": seed, "patients": patients, "image_size": image_size}


def _finished(root: Path, wanted: dict[str, object]) -> bool:
    """Whether a hospital is complete."""
    path = root / STATE
    if not path.is_file():
        if root.is_dir() and any(root.iterdir()) and not (root / SYNTHETIC_MARKER).is_file():
            raise DpdtError(f"{root}: not empty, and nothing says that it is synthetic. Choose another folder.")
        return False
    found = read_json(path)
    finished = bool(found.pop("finished", False))
    if found != wanted:
        raise DpdtError(f"{root}: made with other arguments: found {found}, wanted {wanted}. Remove the folder.")
    return finished


def _draw_all(chunks: list[_Chunk], num_processes: int | None) -> None:
    processes = num_processes or len(os.sched_getaffinity(0))
    total = sum(chunk.last - chunk.first for chunk in chunks)
    if not total:
        return
    with progress("synthetic hospitals", total, unit="patients") as advance:
        if processes == 1 or total < POOL_PATIENTS:
            for chunk in chunks:
                advance(_draw_chunk(chunk))
            return
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context, initializer=_start_worker) as pool:
            for done in as_completed([pool.submit(_draw_chunk, chunk) for chunk in chunks]):
                advance(done.result())


def _start_worker() -> None:
    """A process a core (OpenCV's own threads would only get in each other's way) that ends with its parent."""
    import cv2

    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Wait for the parent; one killed by SIGKILL cannot tell its workers to stop."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _draw_chunk(chunk: _Chunk) -> int:
    """Draw and write what is missing; return the number of patients."""
    layout = LAYOUTS[chunk.domain]
    for patient in range(chunk.first, chunk.last):
        for picture in patient_pictures(chunk.domain, seed=chunk.seed, patient=patient):
            path = chunk.root / layout.relative(picture)
            if not path.is_file():
                layout.write(path, draw(picture, image_size=chunk.image_size), picture)
    return chunk.last - chunk.first
