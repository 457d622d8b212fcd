"""Which version of a published file is this? SHA-256 of the label files that dpdt's own counts were checked on.

Label files change without a word: ChestX-ray14's table exists in several versions. A file with another hash is read
all the same; the cohort stage says so, and its record has the hash.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from dpdt.cohort.lists.rows import opened

__all__ = ["KNOWN", "content_sha256", "version"]

CHUNK_BYTES: Final = 1 << 20

KNOWN: Final[Mapping[tuple[str, str], Mapping[str, str]]] = {
    ("chestxray14", "table"): {
        "dc1d2df67fdc1c5a7601d48699cda2b13dc2c4841488b4183dcf04884dbaca11": "Data_Entry_2017_v2020.csv",
    },
    ("chestxray14", "train_list"): {
        "61fbe896321c1c1c8b75f3e4f3a08e4fef6486d95ef8a667c31d4d60dca6cb81": "86,524 names",
        "eb8e4beb07b2018a5a9f16ba088761c0311959623e46fc54c9c2abb3e3737e47": "86,524 names and a final newline",
    },
    ("chestxray14", "test_list"): {
        "38ca5ef7f756092946f57c1a59faca882ed589a1ab1f72590b45dc06c6d5e1cc": "25,596 names",
        "3d0c44b68d287fd04f90c4f25df13428bba7b3e729f65715d5cf73a88e83d226": "25,596 names and a final newline",
    },
    ("chexpert", "table"): {
        "b4bcd3d7942de23349bbe922a2389185d639cb06a24e700efb4980caae80b8e8": "CheXpert-v1.0-small, train.csv",
        # Made from the one above by writing the full release's folder into Path; not seen as a file.
        "449292c6df0fc3140add2444b7788121c1f32694d9d1a6b1493171a45a615a95": "CheXpert-v1.0, train.csv",
    },
    ("padchest", "table"): {
        "b02e42e5f1c53609298b47b1246a5dbed725fcae88e2cff407b772dfe10d2ddc": "labels_160K_01.02.19",
    },
    ("vindr", "kaggle_table"): {
        "d3c52e5b96a73b9263e535ee803dde7fd053e4c8c6a50faf6b00f7dd8f5e2a80": "VinBigData competition, train.csv",
    },
}
"""(Kind, logical name) -> SHA-256 of the uncompressed bytes -> what it is."""


def content_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes after `gunzip`, so that it does not depend on how the file was compressed."""
    digest = hashlib.sha256()
    with opened(path) as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def version(kind: str, name: str, sha256: str) -> tuple[bool, str | None]:
    """Whether published versions of this file are known, and which one the hash belongs to (None: another)."""
    known = KNOWN.get((kind, name))
    return known is not None, (known or {}).get(sha256)
