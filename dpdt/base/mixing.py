"""Numbers that are an image's own: from a hash of its name, the same wherever and whenever it is drawn."""

import hashlib
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["mixed", "number_of"]

GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)


def number_of(text: str) -> int:
    """64 bits of a text's hash."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "little")


def mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's step and output (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators").

    One to one: different values stay different.

    >>> hex(int(mixed(np.array([0], dtype=np.uint64))[0]))  # the first output of the published generator with seed 0
    '0xe220a8397b1dcdaf'
    """
    mixed = values + GOLDEN
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
