"""Damaged bundles in one process: each must be refused by a BundleError, or be a bundle. `make fuzz-bundle`.

A third of the inputs have wrong bytes as they come. Two thirds have a right checksum over wrong content, so that they
reach the checks behind it.
"""

import argparse
import json
import random
import struct
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from dpdt.base.vocabulary import LABELS
from dpdt.bundle.container import BLANK, pack, unpack
from dpdt.bundle.manifest import recorded_input
from dpdt.bundle.model import parse_bundle
from dpdt.bundle.self_test import made_up_files, pixels_of
from dpdt.errors import BundleError
from dpdt.study.settings import ModelSettings, ShardSettings
from dpdt.training.networks.build import build_model

SIZE: Final = 8
STRANGE: Final = (
    None, True, -1, 0, 10**9, 10**30, 1e308, "", "../../x", "\0", "é", [], {}, [[]], {"a": None}, 0.5, "resnet9", "inf",
)  # fmt: skip


def seed_bundle() -> bytes:
    """A whole bundle, as small as one can be, of random weights."""
    shards = ShardSettings(size=SIZE)
    files = made_up_files(SIZE)
    model = build_model(ModelSettings(width=8))
    tensors: dict[str, Any] = {f"weights.{name}": value.numpy() for name, value in model.state_dict().items()}
    for number, (data, pixels) in enumerate(zip(files.values(), pixels_of(list(files.values()), shards), strict=True)):
        tensors |= {f"test.{number}.file": np.frombuffer(data, np.uint8), f"test.{number}.pixels": pixels}
    manifest = {
        "site": "fuzz",
        "labels": list(LABELS),
        "network": {"name": "resnet9", "width": 8, "in_channels": 1},
        "input": recorded_input(shards),
        "thresholds": dict.fromkeys(LABELS, 0.5),
        "target_epsilon": 1.0,
        "seed": 0,
        "synthetic": True,
        "statement": {"mechanism": "DP-SGD", "unit": "patient", "paragraph": "none", "epsilon": 1.0, "delta": 1e-5},
        "licence": "none",
        "intended_use": "none",
        "provenance": {"run_id": "none", "versions": {}, "codecs": {}, "hashes": {}},
        "self_test": [{"what": what, "scores": dict.fromkeys(LABELS, 0.5)} for what in files],
    }
    return pack(manifest, tensors)


def wrong_bytes(data: bytes, rng: random.Random) -> bytes:
    """Bytes changed, cut out, doubled or put in; most of them in the header."""
    found = bytearray(data)
    header = 8 + struct.unpack("<Q", data[:8])[0]
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(header if rng.random() < 0.8 else len(found))
        what, length = rng.randrange(4), rng.randint(1, 64)
        if what == 0:
            found[place] ^= 1 << rng.randrange(8)
        elif what == 1:
            del found[place : place + length]
        elif what == 2:
            found[place:place] = found[place : place + length]
        else:
            found[place:place] = rng.randbytes(length)
    return bytes(found)


def resealed_header(data: bytes, rng: random.Random) -> bytes:
    """A changed header of safetensors, with its length and the checksum made right."""
    import hashlib

    length = struct.unpack("<Q", data[:8])[0]
    header = bytearray(data[8 : 8 + length])
    digest = json.loads(json.loads(bytes(header))["__metadata__"]["dpdt"])["sha256"].encode()
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(header))
        if rng.random() < 0.5:
            header[place] = rng.choice(b'0123456789{}[]",:-.eE\\ua')
        else:
            header[place:place] = rng.choice([b"0", b"9" * 20, b"[", b'"', b",", b"-", b"1e9"])
    blank = struct.pack("<Q", len(header)) + bytes(header).replace(digest, BLANK.encode()) + data[8 + length :]
    return blank.replace(BLANK.encode(), hashlib.sha256(blank).hexdigest().encode(), 1)


def strange_values(data: bytes, rng: random.Random) -> bytes:
    """A manifest with strange values, or tensors of other names, shapes and kinds, packed by dpdt itself."""
    manifest, tensors = unpack(data, "seed")
    for _ in range(rng.randint(1, 2)):
        part: Any = manifest
        while True:
            key = rng.choice(list(part)) if isinstance(part, dict) else rng.randrange(len(part))
            inner = part[key]
            if not isinstance(inner, dict | list) or not inner or rng.random() < 0.3:
                break
            part = inner
        part[key] = rng.choice(STRANGE)
    if rng.random() < 0.3:
        name = rng.choice(list(tensors))
        value = tensors.pop(name)
        tensors[rng.choice([name, "../x", "weights.", "test.0.file"])] = rng.choice(
            [value.reshape(-1)[:3], value.astype(np.float32) * np.float32("nan"), value.astype(np.uint8)]
        )
    try:
        return pack(manifest, tensors)
    except (OverflowError, ValueError, TypeError):
        return data


def fuzz(inputs: int, *, seed: int = 0) -> Counter[str]:
    """Try so many inputs; what became of them.

    Raises:
        Exception: Any that is not a BundleError, or a refusal of more than one line.
    """
    rng, data, outcomes = random.Random(seed), seed_bundle(), Counter[str]()
    ways: tuple[Callable[[bytes, random.Random], bytes], ...] = (wrong_bytes, resealed_header, strange_values)
    for number in range(inputs):
        way = ways[number % len(ways)]
        damaged = way(data, rng)
        try:
            parse_bundle(damaged, "b")
        except BundleError as err:
            if "\n" in str(err):
                raise AssertionError(f"more than a line: {err}") from err
            outcomes[f"{way.__name__}: refused"] += 1
        else:
            outcomes[f"{way.__name__}: {'unchanged' if damaged == data else 'a bundle'}"] += 1
    return outcomes


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    begun = time.monotonic()
    for what, count in sorted(fuzz(options.inputs, seed=options.seed).items()):
        print(f"{what}: {count:,}")
    print(f"{options.inputs:,} inputs in {time.monotonic() - begun:.0f} s")
