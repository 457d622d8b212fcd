"""Small image files, DICOM among them, and studies whose cohort they are."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian

from dpdt.base.files import write_json
from dpdt.base.vocabulary import LABELS
from dpdt.study import Study, load_study

SIZE = 16


def picture(number: int, *, height: int = 40, width: int = 30, dtype: type = np.uint8) -> NDArray[np.integer]:
    high = 4096 if dtype != np.uint8 else 256
    return np.random.default_rng(number).integers(0, high, (height, width)).astype(dtype)


def write_dicom(path: Path, pixels: NDArray[np.integer], **elements: object) -> None:
    """An uncompressed DICOM file, as small as pydicom reads it."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3"
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = pixels.shape[2] if pixels.ndim == 3 else 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = pixels.dtype.itemsize * 8
    dataset.BitsStored = 8 if pixels.dtype.itemsize == 1 else 12
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes()
    for name, value in elements.items():
        setattr(dataset, name, value)
    if "BitsStored" in dataset:
        dataset.HighBit = dataset.BitsStored - 1
    dataset["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"
    dataset.save_as(path, enforce_file_format=True)


def encapsulated(path: Path, syntax: str, stream: bytes, shape: tuple[int, int], **elements: object) -> None:
    """A compressed DICOM file of 16 bits allocated."""
    write_dicom(path, np.zeros(shape, np.uint16), **elements)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([stream])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)


def make_study(folder: Path, files: list[str], **shards: object) -> Study:
    """A study whose domain vindr has a cohort of these files (below folder/raw), written by hand."""
    (folder / "raw").mkdir(parents=True, exist_ok=True)
    options = {"size": SIZE, "shard_bytes": 4 * SIZE * SIZE, "num_threads": 2, **shards}
    lines = [f"{key} = {json.dumps(value)}" for key, value in options.items()]
    (folder / "study.toml").write_text("\n".join(['[domains.vindr]\nroot = "raw"\n[shards]', *lines]))
    study = load_study(folder / "study.toml")
    count = len(files)
    cohort = pd.DataFrame(
        {
            "image_id": [f"image-{n:03d}" for n in range(count)],
            "path": files,
            "domain": "vindr",
            "patient_id": [f"patient-{n}" for n in range(count)],
            "study_id": "",
            "view": "PA",
            "sex": "female",
            "age_years": 50.0,
            "split": [("train", "train", "val", "test")[n % 4] for n in range(count)],
        }
    )
    for label in LABELS:
        cohort[label] = pd.array([1] * count, dtype="Int8")
    table = study.paths.cohort_table("vindr")
    table.parent.mkdir(parents=True, exist_ok=True)
    cohort.to_parquet(table, index=False)
    study.paths.cohort_exclusions("vindr").write_text("image_id,reason\n")
    record = {"fingerprint": study.cohort_fingerprint("vindr"), "synthetic": True}
    write_json(study.paths.cohort_record("vindr"), record)
    return study


def folder_bytes(study: Study) -> dict[str, bytes]:
    """All files of the shards of the study's domain, but the lock."""
    folder = study.paths.shards("vindr").folder
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir()) if file.name != ".lock"}
