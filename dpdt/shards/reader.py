"""Opening shards: everything is checked before a pixel is shown."""

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.lib import format as npy
from numpy.typing import NDArray

from dpdt import _core
from dpdt.base.files import read_json
from dpdt.cohort.table import images_sha256, read_cohort
from dpdt.errors import ShardError
from dpdt.shards.manifest import read_manifest
from dpdt.study import Study
from dpdt.study.paths import ShardPaths

__all__ = [
    "INDEX_COLUMNS",
    "Shards",
    "open_shard",
    "shard_header",
    "shards_cohort",
    "shards_done",
    "used_images",
]

TEXT: Final = (pa.string(), pa.large_string())
INTEGER: Final = (pa.int32(), pa.int64())
NEEDED: Final = {"image_id": TEXT, "sha256": TEXT, "shard": INTEGER, "row": INTEGER}
"""Columns of the index without which no pixel is shown, and their types."""
INDEX_COLUMNS: Final = ("image_id", "shard", "row", "sha256", "format", "height", "width", "bits", "window", "warnings")


def shards_cohort(study: Study, domain: str) -> pd.DataFrame:
    """The cohort's rows that a domain's shards are of: all, or for a carried model's input those of test alone.

    Raises:
        CohortError: The cohort is not built.
    """
    cohort = read_cohort(study, domain)
    return cohort[cohort["split"] == "test"] if study.test_alone else cohort


def shards_done(study: Study, domain: str) -> bool:
    """Whether the domain's shards are complete and made with the study's settings, of the cohort that there is."""
    path, record = study.paths.shards(domain).manifest, study.paths.cohort_record(domain)
    if not path.exists():
        return False
    manifest = read_manifest(path)
    images = read_json(record).get("images_sha256") if record.exists() else None  # gone, or of an earlier version
    if images is not None and study.test_alone:
        images = images_sha256(shards_cohort(study, domain))
    return manifest.get("fingerprint") == study.shards_fingerprint(domain) and images in (
        None,
        manifest.get("cohort_sha256"),
    )


def used_images(study: Study, domain: str) -> pd.DataFrame | None:
    """The cohort's images that have pixels, which are those that a network sees; None without the study's shards.

    Args:
        study: The study.
        domain: One of its domains, with a cohort.
    """
    if not shards_done(study, domain):
        return None
    cohort = read_cohort(study, domain)
    index = pd.read_parquet(study.paths.shards(domain).index, columns=["image_id"])
    used: pd.DataFrame = cohort[cohort["image_id"].isin(index["image_id"])]
    return used


def shard_header(rows: int, size: int) -> bytes:
    """The .npy header (format 1.0) of a shard; its length does not depend on the number of rows."""
    stream = io.BytesIO()
    npy.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": (rows, size, size)})
    return stream.getvalue()


def open_shard(path: Path, *, rows: int, size: int) -> NDArray[np.uint8]:
    """Map one shard file, read-only, after a check of its header and length.

    Args:
        path: The file.
        rows: Images that the manifest says it has.
        size: Height and width in pixels.

    Returns:
        (rows, size, size).

    Raises:
        ShardError: The file is missing, shorter or longer than expected, or not the array that is expected.
    """
    header = shard_header(rows, size)
    expected = len(header) + rows * size * size
    try:
        with path.open("rb") as stream:
            found = stream.seek(0, 2)
            stream.seek(0)
            start = stream.read(len(header))
    except FileNotFoundError as err:
        raise ShardError(f"{path}: no such file, but the manifest lists it. {_remedy(path)}") from err
    if found != expected:
        raise ShardError(f"{path}: {found} bytes, expected {expected}. The file is damaged. {_remedy(path)}")
    if start != header:
        raise ShardError(f"{path}: its header is not that of {rows} uint8 images of {size}x{size}. {_remedy(path)}")
    if rows == 0:
        return np.empty((0, size, size), dtype=np.uint8)
    return np.memmap(path, dtype=np.uint8, mode="r", offset=len(header), shape=(rows, size, size))


def _remedy(path: Path) -> str:
    return f"Remove {path.parent} and run `dpdt shards` again."


def _read_index(path: Path, expected: str) -> pd.DataFrame:
    """The index, after a look at its checksum and columns."""
    if not path.exists():
        raise ShardError(f"{path}: no such file. {_remedy(path)}")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != expected:
        raise ShardError(f"{path}: its checksum is not the manifest's. {_remedy(path)}")
    try:
        table = pq.read_table(pa.BufferReader(data)).replace_schema_metadata(None)
        table.validate(full=True)
    except Exception as err:  # Arrow raises much, and no index is used that it cannot read
        raise ShardError(f"{path}: not a Parquet file ({err}). {_remedy(path)}") from err
    if not all(_is_filled(table, name, kinds) for name, kinds in NEEDED.items()):
        wanted = "image_id and sha256 (text), shard and row (integers), all filled"
        raise ShardError(f"{path}: expected the columns {wanted}; found {table.column_names}. {_remedy(path)}")
    frame: pd.DataFrame = table.to_pandas()
    return frame


def _is_filled(table: pa.Table, name: str, kinds: tuple[pa.DataType, ...]) -> bool:
    """Whether a column is there once, of one of these types, and without gaps."""
    return table.column_names.count(name) == 1 and table[name].type in kinds and table[name].null_count == 0


class Shards:
    """One domain's images, read-only and memory-mapped.

    Attributes:
        index: One row an image, in cohort order: image_id, shard, row, sha256 (of its pixels), and format, height,
            width, bits, window (what its range was cut to) and warnings (oddities read past) of its file.
        size: Height and width in pixels.
        manifest: What manifest.json says.
    """

    def __init__(self, paths: ShardPaths, index: pd.DataFrame, manifest: Mapping[str, Any]) -> None:
        """Use `Shards.open`."""
        self.paths = paths
        self.index = index
        self.manifest = dict(manifest)
        self.size = int(manifest["settings"]["size"])
        self._maps = [
            open_shard(paths.folder / shard["file"], rows=int(shard["rows"]), size=self.size)
            for shard in manifest["shards"]
        ]
        self._shard = index["shard"].to_numpy(dtype=np.int64)
        self._row = index["row"].to_numpy(dtype=np.int64)
        self._check_index()

    @classmethod
    def open(cls, paths: ShardPaths) -> Self:
        """Open a domain's shards; all but the pixels' checksums is checked (see `verify_shards` for those).

        Raises:
            ShardError: Something is missing, or the index, a size or a header is not as the manifest says.
        """
        manifest = read_manifest(paths.manifest)
        return cls(paths, _read_index(paths.index, manifest["index"]["sha256"]), manifest)

    def _check_index(self) -> None:
        rows = np.array([len(images) for images in self._maps], dtype=np.int64)
        where = self.paths.index
        if len(self.index) != int(self.manifest["images"]) or int(rows.sum()) != len(self.index):
            raise ShardError(f"{where}: {len(self.index)} images, expected {self.manifest['images']}. {_remedy(where)}")
        counts = np.bincount(self._shard[(self._shard >= 0) & (self._shard < len(rows))], minlength=len(rows))
        expected_rows = np.concatenate([np.arange(n) for n in rows]) if len(rows) else rows
        if not np.array_equal(counts, rows) or not np.array_equal(self._row, expected_rows):
            raise ShardError(f"{where}: its rows do not fit the shards that the manifest lists. {_remedy(where)}")

    def __len__(self) -> int:
        """Number of images."""
        return len(self.index)

    def __reduce__(self) -> tuple[Any, ...]:
        """Worker processes open the files again instead of getting a copy of the pixels."""
        return Shards.open, (self.paths,)

    def images(
        self, positions: NDArray[np.integer[Any]], *, out: NDArray[np.uint8] | None = None, num_threads: int = 1
    ) -> NDArray[np.uint8]:
        """Pixels of some images.

        Args:
            positions: (k,) rows of `index`, in any order, repeats allowed.
            out: Where to put them, (k, size, size), C order; None: into a new array.
            num_threads: That copy them.

        Returns:
            (k, size, size), a copy.

        Raises:
            ShardError: A position is outside of the index, or a file was cut after it was opened.
        """
        places = np.asarray(positions, dtype=np.int64)
        if places.size and (places.min() < 0 or places.max() >= len(self)):
            raise ShardError(f"{self.paths.folder}: positions must be in [0, {len(self)}), got {places.tolist()[:10]}")
        out = np.empty((len(places), self.size, self.size), dtype=np.uint8) if out is None else out
        cut = _core.gather(self._maps, self._shard[places], self._row[places], out, num_threads=num_threads)
        if cut is not None:
            path = self.paths.folder / self.manifest["shards"][cut]["file"]
            found = path.stat().st_size if path.exists() else 0
            expected = len(shard_header(len(self._maps[cut]), self.size)) + self._maps[cut].size
            raise ShardError(
                f"{path}: its pixels could not be read: it has {found} bytes, expected {expected}. It was cut while it "
                f"was read, or its disk fails. {_remedy(path)}"
            )
        return out
