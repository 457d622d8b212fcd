"""Made-up image files that a bundle carries: their pixels and scores are compared where the bundle is opened.

They are of a formula, not of a person: a picture that is brighter to one side, with discs, stripes and a fine texture,
so that a turned grey scale, another resampling, a stretched side or a left-out window changes its pixels.
"""

import io
import tempfile
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dpdt.errors import BundleError
from dpdt.shards.process import process_images
from dpdt.study.settings import ShardSettings

__all__ = ["made_up_files", "pixels_of"]

BITS: Final = 12
UID: Final = "1.2.826.0.1.3680043.8.498.1"  # below pydicom's own root: of no archive


def made_up_files(size: int) -> dict[str, bytes]:
    """The files by what they are: a PNG of 16 bits, and a DICOM object with MONOCHROME1, a window and oblong pixels.

    Args:
        size: Of the model's input in pixels: the pictures are larger, and higher than wide.
    """
    import cv2

    picture = _picture(size + size // 2 + 5, size + size // 4 + 3)
    png: bytes = cv2.imencode(".png", picture << (16 - BITS))[1].tobytes()
    return {"PNG, 16 bits": png, "DICOM, MONOCHROME1, window": _dicom(picture)}


def pixels_of(files: list[bytes], shards: ShardSettings) -> NDArray[np.uint8]:
    """What the preprocessing makes of them, (files, size, size).

    Raises:
        BundleError: One of them cannot be read here.
    """
    out = np.empty((len(files), shards.size, shards.size), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / str(number) for number in range(len(files))]
        for path, data in zip(paths, files, strict=True):
            path.write_bytes(data)
        outcomes = process_images([str(path) for path in paths], out, settings=shards, advance=lambda _: None)
    for outcome in outcomes:
        if not outcome.ok:
            raise BundleError(f"self-test: its made-up image cannot be read here ({outcome.reason}).")
    return out


def _picture(height: int, width: int) -> NDArray[np.uint16]:
    """Whole numbers from whole numbers, so that it is the same on every machine."""
    y, x = np.mgrid[0:height, 0:width].astype(np.int64)
    slope = 1200 * x // width + 700 * y // height
    disc = 900 * (((x - width // 3) ** 2 + (y - height // 4) ** 2) * 25 < width * width)
    stripes = 350 * ((y * 16 // height) % 2) * (x > width // 2)
    texture = (x * 7919 + y * 104729 + x * y * 31) % 97
    picture: NDArray[np.uint16] = (300 + slope + disc + stripes + texture).astype(np.uint16)
    return picture


def _dicom(picture: NDArray[np.uint16]) -> bytes:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

    meta, data = FileMetaDataset(), Dataset()
    meta.MediaStorageSOPClassUID = data.SOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = UID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta = meta
    data.ImageComments = "Made up: not a radiograph of a person"
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME1"
    data.Rows, data.Columns = picture.shape
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, BITS, BITS - 1, 0
    data.PixelAspectRatio = [4, 3]
    data.WindowCenter, data.WindowWidth = 1700, 1800
    data.PixelData = picture.astype("<u2").tobytes()
    stream = io.BytesIO()
    data.save_as(stream, enforce_file_format=True)
    return stream.getvalue()
