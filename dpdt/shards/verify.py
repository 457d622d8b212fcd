"""Hashing all shards again: finds a flipped byte, a short file, a swapped shard, an index of other shards."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dpdt.base.console import progress
from dpdt.base.files import sha256_file
from dpdt.cohort.table import images_sha256, read_cohort
from dpdt.errors import DpdtError, ShardError
from dpdt.shards.manifest import read_manifest
from dpdt.shards.reader import Shards, open_shard
from dpdt.study import Study
from dpdt.study.paths import ShardPaths

__all__ = ["verify_shards"]


def verify_shards(study: Study, domain: str) -> list[str]:
    """Check a domain's shards byte by byte against the manifest, the index and the cohort.

    Args:
        study: The study.
        domain: Name of one of its domains.

    Returns:
        One line a problem; empty if everything is as it was written.
    """
    paths = study.paths.shards(domain)
    try:
        manifest = read_manifest(paths.manifest)
        problems = [
            *_check_origin(study, domain, manifest),
            *_check_index_file(paths, manifest),
            *_check_shard_files(paths, manifest, what=f"verify {domain}"),
        ]
    except DpdtError as err:
        return [str(err)]
    if problems:
        return problems
    try:
        return _check_images(Shards.open(paths), what=f"verify {domain}")
    except ShardError as err:
        return [str(err)]


def _check_origin(study: Study, domain: str, manifest: dict[str, Any]) -> list[str]:
    file = study.paths.shards(domain).manifest
    problems = []
    if manifest["fingerprint"] != study.shards_fingerprint(domain):
        problems.append(f"{file}: made with other settings than the study now has")
    if manifest["domain"] != domain:
        problems.append(f"{file}: shards of {manifest['domain']}, expected {domain}")
    if manifest["cohort_sha256"] != images_sha256(read_cohort(study, domain)):
        problems.append(f"{file}: made from another cohort than {study.paths.cohort_table(domain)}")
    return problems


def _check_index_file(paths: ShardPaths, manifest: dict[str, Any]) -> list[str]:
    if not paths.index.exists():
        return [f"{paths.index}: no such file"]
    if sha256_file(paths.index) != manifest["index"]["sha256"]:
        return [f"{paths.index}: its checksum is not the manifest's"]
    return []


def _check_shard_files(paths: ShardPaths, manifest: dict[str, Any], *, what: str) -> list[str]:
    size = int(manifest["settings"]["size"])
    names = {shard["sha256"]: shard["file"] for shard in manifest["shards"]}
    listed = {shard["file"] for shard in manifest["shards"]}
    problems = [
        f"{file}: not in the manifest" for file in sorted(paths.folder.glob("*.npy")) if file.name not in listed
    ]
    with progress(what, len(manifest["shards"]), unit="shards") as advance:
        for shard in manifest["shards"]:
            problems += _check_shard_file(paths.folder / shard["file"], shard, size, names)
            advance(1)
    return problems


def _check_shard_file(file: Path, shard: dict[str, Any], size: int, names: dict[str, str]) -> list[str]:
    try:
        open_shard(file, rows=int(shard["rows"]), size=size)
    except ShardError as err:
        return [str(err)]
    digest = sha256_file(file)
    if digest == shard["sha256"]:
        return []
    if digest in names:
        return [f"{file}: has the content of {names[digest]}"]
    return [f"{file}: its checksum is not the manifest's: bytes have changed"]


def _check_images(shards: Shards, *, what: str) -> list[str]:
    index = shards.index
    problems = [f"{shards.paths.index}: {image_id} occurs twice" for image_id in _repeated(index)]
    with progress(what, len(index), unit="images") as advance:
        for position, expected in enumerate(index["sha256"]):
            pixels = shards.images(np.array([position]))
            if hashlib.sha256(pixels.data).hexdigest() != expected:
                where = (
                    f"{shards.paths.folder}, shard {index['shard'].iloc[position]}, row {index['row'].iloc[position]}"
                )
                problems.append(f"{where}: the pixels of {index['image_id'].iloc[position]} are not those of the index")
            advance(1)
    return problems


def _repeated(index: pd.DataFrame) -> list[str]:
    return [str(image_id) for image_id in index.loc[index["image_id"].duplicated(), "image_id"]]
