"""What layouts share: their interface, invented ids, CSV files with the same bytes each time."""

import gzip
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpdt.base.files import atomic_path, write_text
from dpdt.cohort.synthetic.hospitals import Hospital
from dpdt.cohort.synthetic.picture import Picture

__all__ = ["Layout", "Pixels", "digits", "hexadecimal", "save_table"]

Pixels = NDArray[np.float32]


class Layout(Protocol):
    """One hospital's files.

    Attributes:
        hospital: How it differs from the others.
    """

    hospital: Hospital

    def image_id(self, picture: Picture) -> str:
        """The id that the cohort table has."""

    def relative(self, picture: Picture) -> str:
        """Path of the image below the hospital's root."""

    def write(self, path: Path, image: Pixels, picture: Picture) -> None:
        """Write the image."""

    def tables(self, root: Path, pictures: Sequence[Picture]) -> None:
        """Write all tables and lists."""


def digits(picture: Picture, what: str, count: int) -> str:
    """Decimal digits that depend on the patient (and on the image, if `what` says so)."""
    key = f"{picture.domain}:{picture.seed}:{picture.patient}:{what}"
    return str(int(hashlib.sha256(key.encode()).hexdigest(), 16))[:count].replace("0", "7")


def hexadecimal(picture: Picture, count: int) -> str:
    """Hexadecimal digits that depend on the image."""
    key = f"{picture.domain}:{picture.seed}:{picture.patient}:{picture.number}"
    return hashlib.sha256(key.encode()).hexdigest()[:count]


def save_table(path: Path, table: pd.DataFrame) -> None:
    """Write a CSV, gzipped if its name says so, always with the same bytes."""
    text = table.to_csv(index=False)
    if path.suffix != ".gz":
        return write_text(path, text)
    with atomic_path(path) as temporary:
        temporary.write_bytes(gzip.compress(text.encode(), compresslevel=1, mtime=0))
