"""Parquet files that say in their metadata (the stamp) what they were made from."""

import json
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from dpdt.base.files import atomic_path

__all__ = ["Stamp", "read_stamp", "write_stamped"]

STAMP: Final = b"dpdt"  # key of the Parquet metadata
Stamp = dict[str, Any]


def write_stamped(path: Path, frame: pd.DataFrame, stamp: Stamp) -> None:
    """Write Parquet with its stamp, atomically."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), STAMP: json.dumps(stamp)})
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary)


def read_stamp(path: Path) -> Stamp:
    """The stamp of a Parquet file, {} if it has none.

    Raises:
        OSError: The file is missing.
        ValueError: It is damaged.
    """
    stamp = json.loads((pq.read_schema(path).metadata or {}).get(STAMP, b"{}"))
    return stamp if isinstance(stamp, dict) else {}
