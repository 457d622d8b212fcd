"""Making shards: restartable, by one task or several at once, with the same bytes."""

import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dpdt import _core
from dpdt.cohort import read_cohort, read_record
from dpdt.console import Advance, progress
from dpdt.errors import ShardError, StudyError
from dpdt.files import atomic_path, exclusive_lock, sha256_file, write_json
from dpdt.paths import ShardPaths
from dpdt.shards.images import ImageOutcome, num_workers, process_images
from dpdt.shards.reader import FORMAT, INDEX_COLUMNS, cohort_sha256, read_manifest, shard_header
from dpdt.study import Study

__all__ = ["ShardSummary", "build_shards"]

CHUNK_BYTES: Final = 64 << 20
"""Pixels that are held in memory before they are written."""

REJECT_COLUMNS: Final = ("image_id", "path", "reason", "message")


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
        duplicates_across_splits: Images whose very pixels occur in more than one split (0 until complete).
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
    job = _Job(study, domain)
    if not job.paths.manifest.exists():
        job.check_root()
        built = sum(job.build(task_index, num_tasks))
        job.finish()
    else:
        built = 0
        job.check_manifest()
    return job.summary(built)


@dataclass(frozen=True)
class _Job:
    """One domain's shards in the making."""

    study: Study
    domain: str

    @cached_property
    def paths(self) -> ShardPaths:
        return self.study.paths.shards(self.domain)

    @cached_property
    def cohort(self) -> pd.DataFrame:
        return read_cohort(self.study, self.domain)

    @cached_property
    def origin(self) -> dict[str, str]:
        """What the bytes depend on; kept with each part and in the manifest."""
        return {
            "fingerprint": self.study.shards_fingerprint(self.domain),
            "cohort_sha256": cohort_sha256(self.cohort),
        }

    @property
    def size(self) -> int:
        return self.study.shards.size

    @property
    def num_shards(self) -> int:
        return -(-len(self.cohort) // self.study.shards.rows_per_shard)

    def rows(self, number: int) -> pd.DataFrame:
        """The cohort rows that a shard covers."""
        rows = self.study.shards.rows_per_shard
        return self.cohort.iloc[number * rows : (number + 1) * rows]

    def check_root(self) -> None:
        root = self.study.root(self.domain)
        if not root.is_dir():
            raise StudyError(f"domains.{self.domain}.root: no folder {root}. Correct the path in {self.study.file}.")
        if len(self.cohort) == 0:
            raise ShardError(f"{self.study.paths.cohort_table(self.domain)}: no image in the cohort.")

    def check_origin(self, found: dict[str, Any], file: Path) -> None:
        """Refuse to mix shards of different settings or cohorts."""
        for key, what in (("fingerprint", "with other settings"), ("cohort_sha256", "from another cohort")):
            if found.get(key) != self.origin[key]:
                raise ShardError(
                    f"{file}: made {what} than the study now has. Nothing is overwritten: remove "
                    f"{self.paths.folder} to make the shards again, or undo the change."
                )

    def check_manifest(self) -> dict[str, Any]:
        manifest = read_manifest(self.paths.manifest)
        self.check_origin(manifest, self.paths.manifest)
        shutil.rmtree(self.paths.part(0).parent, ignore_errors=True)
        return manifest

    def build(self, task_index: int, num_tasks: int) -> Iterator[bool]:
        """Make the shards of one task; yields whether each had to be made."""
        numbers = range(task_index, self.num_shards, num_tasks)
        total = sum(len(self.rows(number)) for number in numbers)
        with progress(f"shards {self.domain}", total, unit="images") as advance:
            for number in numbers:
                yield self.build_shard(number, advance)

    def build_shard(self, number: int, advance: Advance) -> bool:
        part = self.paths.part(number)
        with exclusive_lock(part.with_suffix(".lock")):  # two tasks with the same shard: the second one waits
            if self.paths.manifest.exists() or self.is_made(number):
                advance(len(self.rows(number)))
                return False
            shard = self.paths.shard(number)
            for stale in shard.parent.glob(f".{shard.name}.*.tmp"):  # of a killed task
                stale.unlink(missing_ok=True)
            try:
                self.write_shard(number, advance)
            except OSError as err:
                raise ShardError(
                    f"{shard}: cannot be written ({err.strerror or err}). Nothing is lost: make room or correct the "
                    "permissions, then run the same command again."
                ) from err
        return True

    def is_made(self, number: int) -> bool:
        part = self.paths.part(number)
        if not part.exists() or not self.paths.shard(number).exists():
            return False
        self.check_origin(_part_record(part), part)
        return True

    def write_shard(self, number: int, advance: Advance) -> None:
        rows = self.rows(number)
        shard = self.paths.shard(number)
        frames = []
        count = 0
        with atomic_path(shard) as temporary:
            with temporary.open("wb") as stream:
                stream.write(shard_header(0, self.size))
                for pixels, frame in self.process(rows, advance):
                    stream.write(pixels.data)
                    frame["row"] = np.where(frame["reason"] == "", np.cumsum(frame["reason"] == "") - 1 + count, -1)
                    count += len(pixels)
                    frames.append(frame)
                stream.seek(0)
                stream.write(shard_header(count, self.size))
            digest = sha256_file(temporary)
        frame = pd.concat(frames, ignore_index=True)
        frame.insert(1, "shard", np.int32(number))
        record = {**self.origin, "file": shard.name, "rows": count, "sha256": digest}
        _write_part(self.paths.part(number), frame, record)

    def process(self, rows: pd.DataFrame, advance: Advance) -> Iterator[tuple[NDArray[np.uint8], pd.DataFrame]]:
        """Pixels of the accepted images, (n, size, size), and what became of all of them, chunk by chunk."""
        root = self.study.root(self.domain)
        chunk = max(1, CHUNK_BYTES // (self.size * self.size))
        buffer = np.empty((min(chunk, len(rows)), self.size, self.size), dtype=np.uint8)
        with ThreadPoolExecutor(num_workers(self.study.shards)) as threads:
            for start in range(0, len(rows), chunk):
                some = rows.iloc[start : start + chunk]
                out = buffer[: len(some)]
                files = [str(root / path) for path in some["path"]]
                outcomes = process_images(files, out, settings=self.study.shards, advance=advance)
                digests = threads.map(_sha256, out, [outcome.ok for outcome in outcomes])
                frame = _outcome_frame(some, outcomes, list(digests))
                yield out[[outcome.ok for outcome in outcomes]], frame

    def finish(self) -> None:
        """Write index, rejects and manifest, if every shard is made."""
        with exclusive_lock(self.paths.lock):
            if self.paths.manifest.exists():
                self.check_manifest()
                return
            if not all(self.is_made(number) for number in range(self.num_shards)):
                return
            parts = [self.paths.part(number) for number in range(self.num_shards)]
            table = pd.concat([pd.read_parquet(part) for part in parts], ignore_index=True)
            good = table["reason"] == ""
            rejects = table.loc[~good, list(REJECT_COLUMNS)]
            with atomic_path(self.paths.rejects) as temporary:
                rejects.to_csv(temporary, index=False)
            self.check_rejects(rejects, table, parts)
            with atomic_path(self.paths.index) as temporary:
                table.loc[good, list(INDEX_COLUMNS)].to_parquet(temporary, index=False)
            manifest = self.manifest(table, [_part_record(part) for part in parts])
            if manifest["duplicates_across_splits"]:
                print(
                    f"warning: {self.domain}: {manifest['duplicates_across_splits']} images have pixels that occur in "
                    "more than one split (same sha256 in index.parquet)",
                    file=sys.stderr,
                )
            write_json(self.paths.manifest, manifest)
            shutil.rmtree(parts[0].parent, ignore_errors=True)

    def check_rejects(self, rejects: pd.DataFrame, table: pd.DataFrame, parts: list[Path]) -> None:
        """Fail on too many; their shards are made again next time, when the files may be there."""
        allowed = self.study.shards.max_reject_fraction
        fraction = len(rejects) / len(table)
        if fraction <= allowed:
            return
        for number in table.loc[rejects.index, "shard"].unique():
            parts[number].unlink()
        reasons = ", ".join(f"{reason} {count}" for reason, count in _counts(rejects["reason"]).items())
        raise ShardError(
            f"{self.domain}: {len(rejects)} of {len(table)} images were rejected ({fraction:.1%}; {reasons}), more "
            f"than shards.max_reject_fraction = {allowed:g} allows. {self.paths.rejects} names them: repair the files "
            "or raise the limit, then run the same command again."
        )

    def manifest(self, table: pd.DataFrame, records: list[dict[str, Any]]) -> dict[str, Any]:
        good = table["reason"] == ""
        return {
            "format": FORMAT,
            "domain": self.domain,
            **self.origin,
            "settings": self.study.shards.model_dump(mode="json", exclude={"num_threads", "max_reject_fraction"}),
            "recipe": self.study.shards.recipe,
            "codecs": {**_core.codecs(), "dicom": f"pydicom {version('pydicom')}", "dpdt": version("dpdt")},
            "images": int(good.sum()),
            "rejected": int((~good).sum()),
            "rejected_reasons": _counts(table.loc[~good, "reason"]),
            "warnings": int(table["warnings"].sum()),
            "duplicates_across_splits": self.count_duplicates(table[good]),
            "synthetic": bool(read_record(self.study, self.domain).get("synthetic", False)),
            "index": {"file": self.paths.index.name, "sha256": sha256_file(self.paths.index)},
            "shards": [{key: record[key] for key in ("file", "rows", "sha256")} for record in records],
        }

    def count_duplicates(self, images: pd.DataFrame) -> int:
        """Images whose very pixels occur in more than one split: a leak that no patient id shows."""
        split = images["image_id"].map(self.cohort.set_index("image_id")["split"])
        splits = split.groupby(images["sha256"]).transform("nunique")
        return int((splits > 1).sum())

    def summary(self, built: int) -> ShardSummary:
        if not self.paths.manifest.exists():
            return ShardSummary(domain=self.domain, built=built, shards=self.num_shards, complete=False)
        manifest = read_manifest(self.paths.manifest)
        return ShardSummary(
            domain=self.domain,
            built=built,
            shards=self.num_shards,
            complete=True,
            images=manifest["images"],
            rejected=manifest["rejected"],
            duplicates_across_splits=manifest["duplicates_across_splits"],
        )


def _sha256(pixels: NDArray[np.uint8], ok: bool) -> str:
    return hashlib.sha256(pixels.data).hexdigest() if ok else ""


def _outcome_frame(rows: pd.DataFrame, outcomes: list[ImageOutcome], digests: list[str]) -> pd.DataFrame:
    frame = rows[["image_id", "path"]].reset_index(drop=True)
    return pd.concat([frame.assign(sha256=digests), pd.DataFrame([asdict(o) for o in outcomes])], axis=1)


def _counts(values: pd.Series) -> dict[str, int]:
    """How often each value occurs, sorted by name."""
    return {str(value): int(count) for value, count in values.value_counts().sort_index().items()}


def _write_part(path: Path, frame: pd.DataFrame, record: dict[str, Any]) -> None:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), b"dpdt": json.dumps(record).encode()})
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary)


def _part_record(path: Path) -> dict[str, Any]:
    """What a part says about its shard."""
    with suppress(pa.ArrowInvalid, KeyError, TypeError):
        return dict(json.loads(pq.read_schema(path).metadata[b"dpdt"]))
    raise ShardError(f"{path}: damaged. Remove it and run `dpdt shards` again.")
