"""Are two folders of the demo equal, bit by bit, in shards and in weights trained without DP? `compare.py HERE IMAGE`.

HERE was made in a venv, IMAGE in the container; what only IMAGE has is not looked at. Exit code 1 if they differ, 3 if
their libraries differ, so that equal weights cannot be expected.
"""

import hashlib
import json
import sys
from pathlib import Path

import torch

NO_LIBRARIES = ("python", "image", "commit")  # versions that do not decide the weights
SHARD_FILES = "shards/*/shard-*.npy"
RUNS = "runs/*/config.json"


def sha256(file: Path) -> str:
    """Checksum of a file; empty if it is missing."""
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else ""


def different_shards(here: Path, image: Path) -> tuple[int, list[str]]:
    """Number of shards, and those that differ."""
    files = sorted(here.glob(SHARD_FILES))
    return len(files), [str(f.relative_to(here)) for f in files if sha256(f) != sha256(image / f.relative_to(here))]


def equal_weights(here: Path, image: Path) -> bool:
    """Whether two files have the same tensors, bit by bit."""
    one, other = (torch.load(file, map_location="cpu", weights_only=True) for file in (here, image))
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def main(here: str, image: str) -> int:
    """Compare and print."""
    number, different = different_shards(Path(here), Path(image))
    for shard in different:
        print(f"differs: {shard}")
    print(f"shards: {number - len(different)} of {number} equal")
    failed = bool(different) or not number
    compared = 0
    for file in sorted(Path(here).glob(RUNS)):
        run = file.parent.relative_to(here)
        one, other = (json.loads((Path(root) / run / "config.json").read_text()) for root in (here, image))
        if one["target_epsilon"] is not None:
            continue  # noise of a private run comes from the operating system and is never the same twice
        libraries = [{k: v for k, v in c["versions"].items() if k not in NO_LIBRARIES} for c in (one, other)]
        if libraries[0] != libraries[1]:
            print(f"{run}: not compared, other libraries: {libraries[0]} here, {libraries[1]} in the image")
            return 1 if failed else 3
        equal = equal_weights(*(Path(root) / run / "checkpoints" / "final.pt" for root in (here, image)))
        print(f"{run}: weights {'equal' if equal else 'DIFFER'}")
        compared += 1
        failed |= not equal
    return 1 if failed or not compared else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
