"""What a domain's shards are made from, and which of them are made."""

import itertools
import shutil
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from dpdt.base.console import note
from dpdt.base.files import exclusive_lock
from dpdt.base.parquet import Stamp, read_stamp
from dpdt.cohort.table import images_sha256, read_record
from dpdt.errors import ShardError
from dpdt.shards.manifest import read_manifest
from dpdt.shards.reader import shards_cohort
from dpdt.study import Study
from dpdt.study.paths import ShardPaths

__all__ = ["ShardJob", "part_record"]


@dataclass(frozen=True)
class ShardJob:
    """One domain's shards in the making."""

    study: Study
    domain: str

    @cached_property
    def paths(self) -> ShardPaths:
        """Where they go."""
        return self.study.paths.shards(self.domain)

    @cached_property
    def cohort(self) -> pd.DataFrame:
        """The rows of the domain's cohort table that they are of."""
        return shards_cohort(self.study, self.domain)

    @cached_property
    def origin(self) -> dict[str, str]:
        """What the bytes depend on; kept with each part and in the manifest."""
        return {
            "fingerprint": self.study.shards_fingerprint(self.domain),
            "cohort_sha256": images_sha256(self.cohort),
        }

    @property
    def size(self) -> int:
        """Height and width in pixels."""
        return self.study.shards.size

    @property
    def num_shards(self) -> int:
        """Shards that the cohort fills."""
        return -(-len(self.cohort) // self.study.shards.rows_per_shard)

    def rows(self, number: int) -> pd.DataFrame:
        """The cohort rows that a shard covers."""
        rows = self.study.shards.rows_per_shard
        return self.cohort.iloc[number * rows : (number + 1) * rows]

    def check_inputs(self) -> None:
        """Refuse a raw folder that is not there (every image would be a reject) and an empty cohort."""
        root = self.study.root(self.domain)
        if not root.is_dir():
            raise ShardError(f"domains.{self.domain}.root: no folder {root}. Correct the path in {self.study.file}.")
        if len(self.cohort) == 0:
            raise ShardError(f"{self.study.paths.cohort_table(self.domain)}: no image in the cohort.")

    def set_former_aside(self) -> None:
        """Rename shards of a cohort that was built anew to `<domain>.old-1`; those of the same images stay."""
        if "former" not in read_record(self.study, self.domain):
            return
        folder = self.paths.folder
        with exclusive_lock(folder.with_name(f".{self.domain}.old.lock")):  # of several tasks, the first
            parts = sorted(self.paths.part(0).parent.glob("*.parquet"))
            found = read_manifest(self.paths.manifest) if self.paths.manifest.exists() else None
            found = part_record(parts[0]) if found is None and parts else found
            if found is None or all(found.get(key) == value for key, value in self.origin.items()):
                return
            if self.same_pixels(found):
                return
            names = (folder.with_name(f"{self.domain}.old-{number}") for number in itertools.count(1))
            kept = next(name for name in names if not name.exists())
            folder.rename(kept)
            note(f"shards {self.domain}: the cohort was built anew; the former shards are in {kept}.")

    def same_pixels(self, manifest: dict[str, Any]) -> bool:
        """Whether complete shards are of these images with these settings, whatever the labels mean now."""
        same = {"cohort_sha256": self.origin["cohort_sha256"], "settings": self.study.shards.deciding()}
        return all(manifest.get(key) == value for key, value in same.items())

    def check_manifest(self) -> None:
        """Check that complete shards are those of the study, and tidy up after a task that died while tidying up."""
        self._check_origin(read_manifest(self.paths.manifest), self.paths.manifest)
        shutil.rmtree(self.paths.part(0).parent, ignore_errors=True)

    def is_made(self, number: int) -> bool:
        """Whether a shard and its part are there; those of other settings are an error."""
        part = self.paths.part(number)
        if not part.exists() or not self.paths.shard(number).exists():
            return False
        self._check_origin(part_record(part), part)
        return True

    def _check_origin(self, found: dict[str, Any], file: Path) -> None:
        """Refuse to mix shards of different settings or cohorts."""
        for key, what in (("fingerprint", "with other settings"), ("cohort_sha256", "from another cohort")):
            if found.get(key) != self.origin[key]:
                raise ShardError(
                    f"{file}: made {what} than the study now has. Nothing is overwritten: remove "
                    f"{self.paths.folder} to make the shards again, or undo the change."
                )


def part_record(path: Path) -> Stamp:
    """What a part says about its shard.

    Raises:
        ShardError: The part is damaged.
    """
    with suppress(ValueError):
        if stamp := read_stamp(path):
            return stamp
    raise ShardError(f"{path}: damaged. Remove it and run `dpdt shards` again.")
