"""Drawn images as files: PNG of 8 and 16 bits, JPEG, DICOM. A file is renamed into place when it is whole."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dpdt.cohort.synthetic.picture import Picture

__all__ = ["write_dicom", "write_jpeg", "write_png"]

JPEG_QUALITY = 92
PNG_LEVEL = 1
UID_ROOT = "1.2.826.0.1.3680043.8.498."
"""pydicom's own root: these objects belong to no real archive."""


def write_png(path: Path, image: NDArray[np.float32], *, bits: int) -> None:
    """Gray PNG; with more than 8 bits the values lie in the lower `bits` of 16, as in PadChest."""
    kind = np.uint8 if bits <= 8 else np.uint16
    pixels = np.rint(image * np.float32((1 << bits) - 1)).astype(kind)
    _publish(path, cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, PNG_LEVEL])[1].tobytes())


def write_jpeg(path: Path, image: NDArray[np.float32]) -> None:
    """Gray baseline JPEG."""
    pixels = np.rint(image * np.float32(255)).astype(np.uint8)
    _publish(path, cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes())


def write_dicom(
    path: Path, image: NDArray[np.float32], picture: Picture, *, bits: int, inverted: bool, sex: str, age: str
) -> None:
    """A DX object, explicit little endian, uncompressed; `inverted` writes MONOCHROME1 (0 is white)."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

    highest = (1 << bits) - 1
    pixels = np.rint(image * np.float32(highest)).astype(np.uint16)
    uid = f"{UID_ROOT}{picture.seed + 1}.{picture.patient + 1}.{picture.number + 1}"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = Dataset()
    data.file_meta = meta
    data.SOPClassUID, data.SOPInstanceUID = DigitalXRayImageStorageForPresentation, uid
    data.StudyInstanceUID, data.SeriesInstanceUID = f"{uid}.1", f"{uid}.2"
    data.PatientName, data.PatientID = "SYNTHETIC^DPDT", f"SYNTHETIC-{picture.patient:06d}"
    data.PatientSex, data.PatientAge = sex, age
    data.Modality, data.ViewPosition, data.BodyPartExamined = "DX", picture.view, "CHEST"
    data.ImageComments = "Synthetic: drawn by dpdt, not a radiograph of a person"
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME1" if inverted else "MONOCHROME2"
    data.Rows, data.Columns = image.shape
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, bits, bits - 1, 0
    data.PixelData = (highest - pixels if inverted else pixels).astype("<u2").tobytes()
    temporary = path.with_name(f".{path.name}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(temporary, enforce_file_format=True)
    temporary.rename(path)


def _publish(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    temporary.rename(path)
