"""libFuzzer target (through atheris) for the reader of shards; `make fuzz` runs it.

Whatever the bytes of a manifest, an index or a shard, the end is a ShardError or the pixels that were written.
"""

import hashlib
import inspect
import json
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from dpdt.errors import ShardError
from dpdt.shards import manifest, reader
from dpdt.shards.reader import Shards, shard_header
from dpdt.study.paths import ShardPaths

SIZE: Final = 4
ROWS: Final = (3, 2)
STRANGE: Final = (0, -1, 1, 2, 3, 4, 5, 1 << 31, 1 << 63, 10**30, 1.5, None, True, "", "..", "a" * 64, [], {}, [[]])


class Target:
    """Good shards in a folder of their own, and what to do with an input."""

    def __init__(self, folder: Path) -> None:
        self.paths = ShardPaths(folder)
        self.written: dict[Path, bytes] = {}
        self.pixels = np.random.default_rng(0).integers(0, 256, (sum(ROWS), SIZE, SIZE), dtype=np.uint8)
        parts = np.split(self.pixels, np.cumsum(ROWS)[:-1])
        files = [shard_header(len(part), SIZE) + part.tobytes() for part in parts]
        self.shards = {self.paths.shard(n): data for n, data in enumerate(files)}
        self.index = {
            "image_id": [f"image-{n}" for n in range(sum(ROWS))],
            "sha256": [hashlib.sha256(image.data).hexdigest() for image in self.pixels],
            "shard": np.repeat(np.arange(len(ROWS), dtype=np.int32), ROWS),
            "row": np.concatenate([np.arange(n) for n in ROWS]),
        }
        self.index_bytes = pd.DataFrame(self.index).to_parquet(index=False)
        self.write()

    def manifest(self, index: bytes) -> dict[str, Any]:
        """That of an index."""
        return {
            "format": 1,
            "domain": "vindr",
            "fingerprint": "a" * 64,
            "cohort_sha256": "b" * 64,
            "codecs": {},
            "settings": {"size": SIZE},
            "images": sum(ROWS),
            "synthetic": True,
            "index": {"file": self.paths.index.name, "sha256": hashlib.sha256(index).hexdigest()},
            "shards": [
                {"file": path.name, "rows": rows, "sha256": hashlib.sha256(data).hexdigest()}
                for rows, (path, data) in zip(ROWS, self.shards.items(), strict=True)
            ],
        }

    def write(
        self, *, manifest: bytes | None = None, index: bytes | None = None, shards: dict[Path, bytes] | None = None
    ) -> None:
        """Write the whole folder, good but for what is given."""
        index = self.index_bytes if index is None else index
        manifest = json.dumps(self.manifest(index)).encode() if manifest is None else manifest
        wanted = {self.paths.index: index, self.paths.manifest: manifest, **self.shards, **(shards or {})}
        for path, data in wanted.items():
            if self.written.get(path) != data:
                path.write_bytes(data)
        self.written = wanted

    def seeds(self) -> list[bytes]:
        """A good input of each kind."""
        manifest = json.dumps(self.manifest(self.index_bytes)).encode()
        shard = next(iter(self.shards.values()))
        rows = bytes([*self.index["shard"], *self.index["row"]])
        return [b"\0" + manifest, b"\1" + self.index_bytes, b"\2" + shard, b"\3" + rows, b"\4\0\1\0\2\3"]

    def __call__(self, data: bytes) -> bool:
        """Whether the shards could be opened; their pixels are then the right ones."""
        if not data:
            return False
        kind, rest = data[0] % 5, data[1:]
        first = next(iter(self.shards))
        if kind == 0:
            self.write(manifest=rest)
        elif kind == 1:
            self.write(index=rest)
        elif kind == 2:
            self.write(shards={first: rest})
        elif kind == 3:
            self.write(index=self._index_of(rest))
        else:
            self.write(manifest=self._manifest_of(rest))
        try:
            shards = Shards.open(self.paths)
            images = shards.images(np.arange(len(shards)))
        except ShardError as err:
            if str(self.paths.folder) not in str(err):
                raise RuntimeError(f"a message that names no file: {err}") from err
            return False
        expected = self.pixels
        if kind == 2:
            header = len(shard_header(ROWS[0], SIZE))
            changed = np.frombuffer(rest[header:], np.uint8).reshape(ROWS[0], SIZE, SIZE)
            expected = np.concatenate([changed, expected[ROWS[0] :]])
        if not np.array_equal(images, expected):
            raise RuntimeError("pixels that were not written")
        return True

    def _index_of(self, data: bytes) -> bytes:
        """An index whose numbers are signed bytes of the input; as many rows as they fill."""
        numbers = np.frombuffer(data[: len(data) // 2 * 2], np.int8).reshape(2, -1).astype(np.int64)
        count = numbers.shape[1]
        texts = {name: (list(self.index[name]) * (count + 1))[:count] for name in ("image_id", "sha256")}
        frame = pd.DataFrame({**texts, "shard": numbers[0], "row": numbers[1]})
        return bytes(frame.astype({"image_id": "str", "sha256": "str"}).to_parquet(index=False))

    def _manifest_of(self, data: bytes) -> bytes:
        """A manifest some of whose values are strange: two bytes each, a place and a value."""
        manifest = self.manifest(self.index_bytes)
        parts: list[dict[str, Any]] = [manifest, manifest["settings"], manifest["index"], *manifest["shards"]]
        for place, value in zip(data[::2], data[1::2], strict=False):
            part = parts[place % len(parts)]
            part[list(part)[(place >> 3) % len(part)]] = STRANGE[value % len(STRANGE)]
        return json.dumps(manifest).encode()


def main() -> None:
    """Fuzz: the arguments are libFuzzer's."""
    import atheris  # needed here only: the target itself is an ordinary function

    for place in (manifest, reader, Shards):
        for function in vars(place).values():
            function = getattr(function, "__func__", function)  # a class method's
            if inspect.isfunction(function) and function.__module__.startswith("dpdt.shards"):
                atheris.instrument_func(function)
    with tempfile.TemporaryDirectory() as folder:
        target = Target(Path(folder))

        def one_input(data: bytes) -> None:
            target(data)

        atheris.Setup(sys.argv, one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
