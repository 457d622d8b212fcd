"""Making shards: restartable, by one task or several at once, with the same bytes."""

import hashlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpdt.base.console import Advance, note, progress, warn
from dpdt.base.files import atomic_path, exclusive_lock, sha256_file
from dpdt.base.parquet import write_stamped
from dpdt.errors import ShardError
from dpdt.shards.inputs import ShardJob
from dpdt.shards.manifest import read_manifest
from dpdt.shards.process import ImageOutcome, num_workers, process_images
from dpdt.shards.publish import adopt, decoders, publish
from dpdt.shards.reader import shard_header
from dpdt.shards.sources import replaced_images
from dpdt.study import Study

__all__ = ["ShardSummary", "build_shards"]

PAUSES: Final = (1.0, 5.0, 25.0)
"""Seconds between attempts to read what the disk failed to give."""
CHUNK_BYTES: Final = 64 << 20
"""Pixels that are held in memory before they are written."""


@dataclass(frozen=True)
class ShardSummary:
    """What `build_shards` found or made.

    Attributes:
        domain: The domain.
        built: Shards that this call made.
        shards: Shards of the domain.
        complete: Whether the manifest is there; false while other tasks still work.
        images: Images in the shards (0 until complete).
        rejected: Images that could not be used (0 until complete).
        duplicates_across_splits: Images with the same pixels in more than one split (0 until complete).
    """

    domain: str
    built: int
    shards: int
    complete: bool
    images: int = 0
    rejected: int = 0
    duplicates_across_splits: int = 0

    def __str__(self) -> str:
        """One line for people."""
        if not self.complete:
            return f"shards {self.domain}: made {self.built} of {self.shards}; other tasks still have to make theirs"
        line = f"shards {self.domain}: {self.images} images in {self.shards} shards, {self.rejected} rejected"
        return line if self.built else f"{line} (nothing to do)"


def build_shards(study: Study, domain: str, *, task_index: int = 0, num_tasks: int = 1) -> ShardSummary:
    """Make a domain's shards, or those of one task; what is there is not made again.

    Task t of n makes the shards t, t + n, t + 2n, …; the task that finds all of them made writes the index, the rejects
    and, last, the manifest. Killed at any point, a rerun ends with the same bytes.

    Args:
        study: The study.
        domain: Name of one of its domains; its cohort must be built.
        task_index: Which task this is, in [0, num_tasks).
        num_tasks: How many tasks share the domain.

    Returns:
        Counts.

    Raises:
        ShardError: More images than `max_reject_fraction` were rejected (rejects.csv says which and why), the folder
            holds shards of other settings or of another cohort, or it cannot be written to.
        StudyError: The raw data's folder does not exist.
        CohortError: The cohort is not built.
    """
    if not 0 <= task_index < num_tasks:
        raise ShardError(f"task_index: expected a number in [0, {num_tasks}), got {task_index}")
    job = ShardJob(study, domain)
    built = 0
    job.set_former_aside()
    if job.paths.manifest.exists():
        adopt(job)
        job.check_manifest()
        _tell_of_replaced(job)
    else:
        job.check_inputs()
        built = _build_task(job, range(task_index, job.num_shards, num_tasks))
        with _clear_errors(job.paths.folder):
            publish(job)
    return _summary(job, built)


def _tell_of_replaced(job: ShardJob) -> None:
    """Warn where images have other pixels now than the finished shards, read by the same libraries."""
    if read_manifest(job.paths.manifest)["codecs"] != decoders():
        return
    index = pd.read_parquet(job.paths.index, columns=["image_id", "sha256"])
    images = index.merge(job.cohort[["image_id", "path"]], on="image_id")
    if replaced := replaced_images(job, images, job.paths.manifest):
        warn(
            f"{job.domain}: images were replaced after their shards were made, the first found {replaced[0]}. The "
            "shards stay as they are, and so do the trainings on them. To make them of today's files, remove "
            f"{job.paths.folder} and run the same command again."
        )


def _summary(job: ShardJob, built: int) -> ShardSummary:
    if not job.paths.manifest.exists():
        return ShardSummary(domain=job.domain, built=built, shards=job.num_shards, complete=False)
    manifest = read_manifest(job.paths.manifest)
    counts = {key: manifest[key] for key in ("images", "rejected", "duplicates_across_splits")}
    return ShardSummary(domain=job.domain, built=built, shards=job.num_shards, complete=True, **counts)


def _build_task(job: ShardJob, numbers: range) -> int:
    """Make some shards; returns how many were not there yet."""
    total = sum(len(job.rows(number)) for number in numbers)
    with progress(f"shards {job.domain}", total, unit="images") as advance:
        return sum(_build_shard(job, number, advance) for number in numbers)


def _build_shard(job: ShardJob, number: int, advance: Advance) -> bool:
    shard = job.paths.shard(number)
    with exclusive_lock(job.paths.part(number).with_suffix(".lock")):  # a second task for the same shard waits
        if job.paths.manifest.exists() or (job.is_made(number) and not _was_replaced(job, number)):
            advance(len(job.rows(number)))
            return False
        for stale in shard.parent.glob(f".{shard.name}.*.tmp"):  # of a killed task
            stale.unlink(missing_ok=True)
        with _clear_errors(shard):
            _write_shard(job, number, advance)
    return True


def _was_replaced(job: ShardJob, number: int) -> bool:
    """Whether images of a shard were replaced since an earlier call made it, so that they must not be mixed."""
    part = job.paths.part(number)
    images = pd.read_parquet(part, columns=["path", "sha256", "reason"])
    replaced = replaced_images(job, images[images["reason"] == ""], part)
    if replaced:
        note(f"{job.domain}: images were replaced, the first found {replaced[0]}: shard {number} is made again.")
    return bool(replaced)


@contextmanager
def _clear_errors(path: Path) -> Iterator[None]:
    """Say what to do about a full disk, a full quota or a lack of permission."""
    try:
        yield
    except OSError as err:
        raise ShardError(
            f"{path}: cannot be written ({err.strerror or err}). Nothing is lost: make room or correct the "
            "permissions, then run the same command again."
        ) from err


def _write_shard(job: ShardJob, number: int, advance: Advance) -> None:
    """Publish the pixels first, then the part that says that they are there."""
    shard = job.paths.shard(number)
    frames = []
    count = 0
    with atomic_path(shard) as temporary:
        with temporary.open("wb") as stream:
            stream.write(shard_header(0, job.size))  # as long as the right one, which is known at the end
            for pixels, frame in _process(job, job.rows(number), advance):
                stream.write(pixels.data)
                good = frame["reason"] == ""
                frames.append(frame.assign(shard=np.int32(number), row=np.where(good, count + good.cumsum() - 1, -1)))
                count += len(pixels)
            stream.seek(0)
            stream.write(shard_header(count, job.size))
        digest = sha256_file(temporary)
    record = {**job.origin, "file": shard.name, "rows": count, "sha256": digest}
    write_stamped(job.paths.part(number), pd.concat(frames, ignore_index=True), record)


def _process(job: ShardJob, rows: pd.DataFrame, advance: Advance) -> Iterator[tuple[NDArray[np.uint8], pd.DataFrame]]:
    """Pixels of the accepted images, (n, size, size), and the results of all of them, chunk by chunk."""
    root = job.study.root(job.domain)
    had_files = _has_files(root)
    chunk = max(1, CHUNK_BYTES // (job.size * job.size))
    buffer = np.empty((min(chunk, len(rows)), job.size, job.size), dtype=np.uint8)
    with ThreadPoolExecutor(num_workers(job.study.shards)) as threads:
        for start in range(0, len(rows), chunk):
            some = rows.iloc[start : start + chunk]
            out = buffer[: len(some)]
            files = [str(root / path) for path in some["path"]]
            outcomes = _process_surely(job, files, out, advance, had_files=had_files)
            good = [outcome.ok for outcome in outcomes]
            digests = list(threads.map(_sha256, out, good))
            yield out[good], _outcome_frame(some, outcomes, digests)


def _has_files(folder: Path) -> bool:
    """Whether there is anything in it: where a share was mounted, an empty folder stays."""
    return folder.is_dir() and any(folder.iterdir())


def _process_surely(
    job: ShardJob, files: list[str], out: NDArray[np.uint8], advance: Advance, *, had_files: bool
) -> list[ImageOutcome]:
    """The outcomes of files. What a failing disk does not give is asked for again, and never left out.

    Raises:
        ShardError: The disk goes on failing.
    """
    outcomes = process_images(files, out, settings=job.study.shards, advance=advance)
    for pause in (*PAUSES, None):
        failed = [index for index, outcome in enumerate(outcomes) if outcome.reason == "storage"]
        if not failed:
            break
        what = f"{job.domain}: {len(failed)} images cannot be read, the first {files[failed[0]]}: "
        what += outcomes[failed[0]].message
        if pause is None:
            raise ShardError(
                f"{what}. The disk failed, so nothing is known of the images, and they are not left out. What is done "
                "is kept: run the same command again. If a file stays so, copy it anew, or remove it: it is counted "
                "as missing then."
            )
        warn(f"{what}; again in {pause:g} s")
        time.sleep(pause)
        pixels = np.empty((len(failed), *out.shape[1:]), out.dtype)
        again = process_images([files[i] for i in failed], pixels, settings=job.study.shards, advance=lambda _: None)
        for index, outcome, picture in zip(failed, again, pixels, strict=True):
            outcomes[index], out[index] = outcome, picture
    root = job.study.root(job.domain)
    if had_files and any(outcome.reason == "missing" for outcome in outcomes) and not _has_files(root):
        raise ShardError(f"domains.{job.domain}.root: {root} went away while its images were read. Run it again.")
    return outcomes


def _sha256(pixels: NDArray[np.uint8], ok: bool) -> str:
    return hashlib.sha256(pixels.data).hexdigest() if ok else ""


def _outcome_frame(rows: pd.DataFrame, outcomes: list[ImageOutcome], digests: list[str]) -> pd.DataFrame:
    frame = rows[["image_id", "path"]].reset_index(drop=True)
    return pd.concat([frame.assign(sha256=digests), pd.DataFrame([asdict(o) for o in outcomes])], axis=1)
