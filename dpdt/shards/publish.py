"""From finished parts to the index, the rejects and, last, the manifest."""

import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import pandas as pd

from dpdt import _core
from dpdt.base.console import note
from dpdt.base.files import atomic_path, exclusive_lock, sha256_file, write_json
from dpdt.cohort.table import read_record
from dpdt.errors import ShardError
from dpdt.shards.inputs import ShardJob, part_record
from dpdt.shards.manifest import FORMAT, read_manifest
from dpdt.shards.reader import INDEX_COLUMNS

__all__ = ["adopt", "decoders", "publish"]

# Which pixels a file has for dpdt itself; another number where the same libraries would give others. 2: JPEG whole,
# JPEG 2000 at a scale that its picture decides, padding and colour of strange headers.
READING: Final = "2"
REJECT_COLUMNS: Final = ("image_id", "path", "reason", "message")


def publish(job: ShardJob) -> None:
    """Write index, rejects and manifest if every shard is made; one task at a time.

    Raises:
        ShardError: Too many images were rejected; rejects.csv is written, the manifest is not.
    """
    with exclusive_lock(job.paths.lock):
        if job.paths.manifest.exists():
            job.check_manifest()
            return
        if not all(job.is_made(number) for number in range(job.num_shards)):
            return
        parts = [job.paths.part(number) for number in range(job.num_shards)]
        table = pd.concat([pd.read_parquet(part) for part in parts], ignore_index=True)
        good = table["reason"] == ""
        with atomic_path(job.paths.rejects) as temporary:
            table.loc[~good, list(REJECT_COLUMNS)].to_csv(temporary, index=False)
        _check_rejects(job, table[~good], parts, images=len(table))
        with atomic_path(job.paths.index) as temporary:
            table.loc[good, list(INDEX_COLUMNS)].to_parquet(temporary, index=False)
        manifest = _manifest(job, table, parts)
        _warn_of_duplicates(job, manifest)
        write_json(job.paths.manifest, manifest)
        shutil.rmtree(parts[0].parent, ignore_errors=True)


def decoders() -> dict[str, str]:
    """What decides the pixels that a file gives: the libraries, and dpdt's own part."""
    own = {"dicom": f"pydicom {version('pydicom')}", "dpdt": version("dpdt"), "reading": READING}
    return {**_core.codecs(), **own}


def adopt(job: ShardJob) -> None:
    """Let the shards of a former cohort be those of the one that was built anew of the same images."""
    if "former" not in read_record(job.study, job.domain):
        return
    with exclusive_lock(job.paths.lock):
        found = read_manifest(job.paths.manifest)
        if not job.same_pixels(found):
            return  # `check_manifest` says so
        images = pd.read_parquet(job.paths.index, columns=["image_id", "sha256"])
        manifest = {**found, **job.origin, "duplicates_across_splits": _count_duplicates(job, images)}
        if manifest != found:
            write_json(job.paths.manifest, manifest)
            note(f"shards {job.domain}: the cohort was built anew, of the same images: their shards stay.")
            _warn_of_duplicates(job, manifest)


def _check_rejects(job: ShardJob, rejects: pd.DataFrame, parts: list[Path], *, images: int) -> None:
    """Fail on too many; their shards are made again next time, when the files may be there."""
    allowed = job.study.shards.max_reject_fraction
    fraction = len(rejects) / images
    if fraction <= allowed or (allowed > 0 and len(rejects) == 1):
        return
    for number in rejects["shard"].unique():
        parts[number].unlink()
    reasons = ", ".join(f"{reason} {count}" for reason, count in _counts(rejects["reason"]).items())
    exclude = f' Images that you do not have are left out by missing_images = "exclude" in [domains.{job.domain}].'
    raise ShardError(
        f"{job.domain}: {len(rejects)} of {images} images were rejected ({fraction:.1%}; {reasons}), more "
        f"than shards.max_reject_fraction = {allowed:g} allows. {job.paths.rejects} names them: repair the files "
        "or raise the limit, then run the same command again."
        + (exclude if (rejects["reason"] == "missing").any() else "")
    )


def _manifest(job: ShardJob, table: pd.DataFrame, parts: list[Path]) -> dict[str, Any]:
    good = table["reason"] == ""
    records = [part_record(part) for part in parts]
    oddities = _oddities(table.loc[good, "message"])
    if oddities:
        told = ", ".join(f"{text} ({count})" for text, count in oddities.items())
        note(f"{job.domain}: images were used in whose DICOM headers something was read past: {told}")
    return {
        "format": FORMAT,
        "domain": job.domain,
        **job.origin,
        "settings": job.study.shards.deciding(),
        "recipe": job.study.shards.recipe,
        "codecs": decoders(),
        "images": int(good.sum()),
        "rejected": int((~good).sum()),
        "rejected_reasons": _counts(table.loc[~good, "reason"]),
        "warnings": int(table["warnings"].sum()),
        **({"oddities": oddities} if oddities else {}),
        "duplicates_across_splits": _count_duplicates(job, table[good]),
        "synthetic": bool(read_record(job.study, job.domain).get("synthetic", False)),
        "index": {"file": job.paths.index.name, "sha256": sha256_file(job.paths.index)},
        "shards": [{key: record[key] for key in ("file", "rows", "sha256")} for record in records],
    }


def _count_duplicates(job: ShardJob, images: pd.DataFrame) -> int:
    """Images with the same pixels in more than one split: a leak that no patient id shows."""
    split = images["image_id"].map(job.cohort.set_index("image_id")["split"])
    return int((split.groupby(images["sha256"]).transform("nunique") > 1).sum())


def _warn_of_duplicates(job: ShardJob, manifest: dict[str, Any]) -> None:
    count = manifest["duplicates_across_splits"]
    if count:
        print(
            f"warning: {job.domain}: {count} images have pixels that occur in more than one split (same sha256 in "
            f"{job.paths.index})",
            file=sys.stderr,
        )


def _oddities(messages: pd.Series) -> dict[str, int]:
    """How many images each oddity was found in."""
    texts = messages.str.split("; ").explode()
    return _counts(texts[texts.fillna("") != ""])


def _counts(values: pd.Series) -> dict[str, int]:
    """How often each value occurs, sorted by name."""
    return {str(value): int(count) for value, count in values.value_counts().sort_index().items()}
