"""One split of one domain, ready for training or testing: pixels from the shards, the rest from the cohort table."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpdt import _core
from dpdt.base.files import sha256_file
from dpdt.cohort.splits import in_part, nobody_left
from dpdt.cohort.table import labels_sha256, read_cohort, read_record
from dpdt.errors import ShardError, StudyError
from dpdt.shards.reader import Shards
from dpdt.shards.scratch import staged
from dpdt.study import Study

__all__ = ["DomainData", "load_split"]


@dataclass(frozen=True)
class DomainData:
    """Images of one split of one domain, in the order of the shards.

    Attributes:
        domain: Its name.
        split: ``train``, ``val`` or ``test``.
        size: Height and width of the images in pixels.
        labels: float32, (n, labels) in the order of the study's: 1, 0, NaN where unknown.
        units: int64, (n,): privacy unit of each image, numbered from 0 without gaps.
        frame: Rows of the cohort table, aligned with the images. Has patient ids: not for logs.
        split_sha256: Which patients are in which split.
        labels_sha256: Which labels the images of this split have.
        manifest_sha256: Which pixels.
        synthetic: Whether the images are made up.
    """

    domain: str
    split: str
    size: int
    labels: NDArray[np.float32]
    units: NDArray[np.int64]
    frame: pd.DataFrame
    split_sha256: str
    labels_sha256: str
    manifest_sha256: str
    synthetic: bool
    _shards: Shards
    _positions: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self._positions)

    @property
    def image_ids(self) -> pd.Series:
        """Id of each image."""
        return self.frame["image_id"]

    @property
    def num_units(self) -> int:
        """Privacy units that have an image here."""
        return int(self.units.max()) + 1 if len(self.units) else 0

    @property
    def no_images(self) -> NDArray[Any]:
        """What `images` gives of no image: its shape and type are an image's."""
        return np.empty((0, self.size, self.size), dtype=np.uint8)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of an image as the network takes it."""
        return (1, self.size, self.size)

    def images(
        self,
        rows: NDArray[np.int64],
        *,
        views: NDArray[np.uint64] | None = None,
        out: NDArray[Any] | None = None,
        num_threads: int = 1,
    ) -> NDArray[Any]:
        """Copy images out of the memory-mapped shards.

        Args:
            rows: Image numbers of this split, shape (k,).
            views: Seed of the view that each image is turned into (`_core.make_views`), shape (k,); None: as they are.
            out: Where to put them, of the result's shape; None: into a new array.
            num_threads: That copy them.

        Returns:
            uint8, shape (k, size, size).
        """
        found = self._shards.images(self._positions[rows], out=out, num_threads=num_threads)
        if views is not None:
            _core.make_views(found, np.ascontiguousarray(views), num_threads=num_threads)
        return found


def load_split(study: Study, domain: str, split: str) -> DomainData:
    """Join a domain's shards with its cohort table.

    Args:
        study: The study.
        domain: One of its domains.
        split: ``train``, ``val`` or ``test``.

    Returns:
        The images of the split. Those that the shards rejected are left out, and of ``train`` the patients who are not
        in the study's part of them.

    Raises:
        CohortError: The cohort stage was not run.
        ShardError: The shards are missing, of other settings or of another cohort, or the split has no image.
        StudyError: The study's part of the train patients has none.
    """
    paths = study.paths.shards(domain)
    if not paths.manifest.exists():
        raise ShardError(f"{paths.folder}: no shards of {domain} yet. Run `dpdt shards {study.file}` first.")
    cohort = read_cohort(study, domain)
    shards = Shards.open(staged(paths))
    if shards.manifest["fingerprint"] != study.shards_fingerprint(domain):
        raise ShardError(
            f"{paths.manifest}: made with other settings than the study file has now. "
            f"Remove {paths.folder} and run `dpdt shards` again."
        )
    places = pd.Index(cohort["image_id"]).get_indexer(shards.index["image_id"])
    if (places < 0).any():
        strange = int((places < 0).sum())
        raise ShardError(
            f"{paths.index}: {strange} of {len(places)} images are not in the cohort table of {domain}. "
            f"Remove {paths.folder} and run `dpdt shards` again."
        )
    wanted = whole = cohort["split"] == split
    if split == "train":
        wanted = whole & in_part(cohort["patient_id"], study, domain)
    positions = np.flatnonzero(wanted.to_numpy()[places])
    frame = cohort.iloc[places[positions]].reset_index(drop=True)
    if frame.empty and whole.to_numpy()[places].any():
        raise StudyError(nobody_left(study, domain))
    if frame.empty:
        raise ShardError(f"{paths.folder}: no image of {domain} is in split {split!r}.")
    return DomainData(
        domain=domain,
        split=split,
        size=shards.size,
        labels=frame[list(study.study.labels)].to_numpy(dtype=np.float32, na_value=np.nan),
        units=_units(frame, unit=study.privacy.unit),
        frame=frame,
        split_sha256=str(read_record(study, domain)["split_sha256"]),
        labels_sha256=labels_sha256(cohort, split, study.study.labels),
        manifest_sha256=sha256_file(paths.manifest),
        synthetic=bool(shards.manifest["synthetic"]),
        _shards=shards,
        _positions=positions.astype(np.int64),
    )


def _units(frame: pd.DataFrame, *, unit: str) -> NDArray[np.int64]:
    """Patients, or images, numbered from 0."""
    if unit == "image":
        return np.arange(len(frame), dtype=np.int64)
    return pd.factorize(frame["patient_id"], sort=True)[0].astype(np.int64)
