"""Images that were replaced after their pixels were taken: found by their files' times, and sure by their pixels."""

import hashlib
import os
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from dpdt.cohort.hospitals.file_search import in_threads
from dpdt.shards.inputs import ShardJob
from dpdt.shards.process import process_images

__all__ = ["replaced_images"]

LOOKED_AT: Final = 4096
MADE_AGAIN: Final = 64


def replaced_images(job: ShardJob, images: pd.DataFrame, made: Path) -> list[str]:
    """Images whose files give other pixels now.

    A file that was written, moved or copied to its place since has a later change time (ctime), whatever it says of
    its content's time. So up to LOOKED_AT files, spread over the table, are asked for that, which costs no reading, and
    up to MADE_AGAIN of those that are later are made again and compared.

    Args:
        job: Whose shards.
        images: `path` below the domain's root, and `sha256` of the pixels that were taken.
        made: What was written when they were.

    Returns:
        Their paths in the table; what is not there any more, or cannot be read now, is not replaced.
    """
    root, since = job.study.root(job.domain), made.stat().st_mtime
    sample = _spread(images, LOOKED_AT)
    times = in_threads(_changed, [root / path for path in sample["path"]])
    later = _spread(sample[np.fromiter((time > since for time in times), bool, len(sample))], MADE_AGAIN)
    pixels = np.empty((len(later), job.size, job.size), np.uint8)
    files = [str(root / path) for path in later["path"]]
    outcomes = process_images(files, pixels, settings=job.study.shards, advance=lambda _: None)
    found = zip(later["path"], later["sha256"], outcomes, pixels, strict=True)
    return [
        str(path)
        for path, taken, outcome, picture in found
        if outcome.reason not in ("missing", "storage")
        and (not outcome.ok or hashlib.sha256(picture.data).hexdigest() != taken)
    ]


def _spread(rows: pd.DataFrame, most: int) -> pd.DataFrame:
    return rows.iloc[:: max(1, -(-len(rows) // most))]


def _changed(file: Path) -> float:
    try:
        return os.stat(file).st_ctime
    except OSError:
        return 0.0
