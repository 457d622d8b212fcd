"""JPEG 2000 at a smaller scale: 45 dB from full decoding, whatever was burned into the picture."""

import os
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from openjpeg.utils import encode_array
from pydicom.uid import JPEG2000, JPEG2000Lossless

from dpdt import _core
from dpdt.errors import DecodeError
from dpdt.shards.dicom import read_dicom
from dpdt.shards.process import process_images
from dpdt.study.settings import ShardSettings
from tests.small_images import encapsulated, write_dicom

REAL_DATA = os.environ.get("DPDT_REAL_DATA")
SIZES = (64, 96, 128, 224, 256, 320, 384, 512)
MARKS = ("none", "thin text", "thick text", "bright text", "line", "marker", "collimation", "bright border", "stripes")


def radiograph(height: int, width: int) -> NDArray[np.uint16]:
    """Large shapes, soft edges and a little noise, of 12 bits."""
    y, x = np.mgrid[:height, :width].astype(np.float32) / width
    shapes = 1700 + 700 * np.sin(9 * x + 2 * y) + 500 * np.cos(7 * y) + 250 * np.tanh(40 * (np.sin(24 * y) - 0.6))
    noisy = shapes + np.random.default_rng(0).normal(0, 6, shapes.shape)
    return np.asarray(noisy.clip(0, 4095), np.uint16)


def marked(pixels: NDArray[np.uint16], marks: str) -> NDArray[np.uint16]:
    """What stations burn into pictures, with hard edges."""
    pixels, (height, width), high = pixels.copy(), pixels.shape, int(pixels.max())
    if "text" in marks:
        drawn = np.zeros(pixels.shape, np.uint8)
        for line in range(3):
            place, size = (width // 30 + line, int(height * (0.1 + 0.3 * line))), width / 1000 * (0.6 + 0.5 * line)
            thick = 6 if marks == "thick text" else 1
            cv2.putText(drawn, "L PORTABLE 12:34", place, cv2.FONT_HERSHEY_SIMPLEX, size, 255, thick)
        pixels[drawn > 0] = min(65535, high * 2 if marks == "bright text" else high)
    elif marks == "line":
        pixels[height // 3, :] = pixels[:, width // 3 + 1] = high
    elif marks == "marker":
        pixels[height // 15 : height // 10, width * 4 // 5 : width * 17 // 20] = high * 3 // 2
    elif marks in ("collimation", "bright border"):
        edge = width // 17 + 1
        value = 0 if marks == "collimation" else high * 6 // 5
        pixels[:edge] = pixels[:, :edge] = pixels[:, -edge:] = value
    elif marks == "stripes":
        pixels[height // 20 : height // 16, width // 10 : width // 3] = high
        pixels[height // 20 : height // 16, width // 10 : width // 3 : 7] = 0
    return pixels


def write(path: Path, pixels: NDArray[np.uint16], *, lossy: bool) -> None:
    bits = max(12, int(pixels.max()).bit_length())
    ratios: list[float] | None = [8.0] if lossy else None
    stream = encode_array(pixels, bits_stored=bits, codec_format=0, compression_ratios=ratios)
    encapsulated(path, JPEG2000 if lossy else JPEG2000Lossless, stream, pixels.shape, BitsStored=bits)


def processed(file: Path, size: int, **options: object) -> NDArray[np.uint8]:
    settings = ShardSettings.model_validate({"size": size, "equalise": False, "num_threads": 1, **options})
    out = np.zeros((1, size, size), np.uint8)
    [outcome] = process_images([str(file)], out, settings=settings, advance=lambda count: None)
    assert outcome.ok, outcome.message
    found: NDArray[np.uint8] = out[0]
    return found


def exact(pixels: NDArray[np.integer], size: int) -> NDArray[np.uint8]:
    """From all pixels."""
    out = np.zeros((size, size), np.uint8)
    _core.process_array(pixels, out, recipe="area", equalise=False)  # type: ignore[arg-type]
    return out


def unchecked(file: Path, size: int) -> NDArray[np.uint8]:
    """At the smallest scale, whatever the picture."""
    frame = read_dicom(str(file), min_side=2 * size)
    out = np.zeros((size, size), np.uint8)
    assert frame.grid is not None
    assert _core.process_array(frame.pixels, out, recipe="area", equalise=False, grid=(*frame.grid[:2], 0))
    return out


def psnr(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    error = ((first.astype(float) - second) ** 2).mean()
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


@pytest.mark.parametrize("marks", MARKS)
def test_what_is_burned_in_does_not_move_the_range(tmp_path: Path, marks: str) -> None:
    write(tmp_path / "a.dcm", marked(radiograph(930, 910), marks), lossy=marks in MARKS[::3])
    whole = read_dicom(str(tmp_path / "a.dcm")).pixels
    for size in (64, 96, 128, 224, 256):
        assert psnr(processed(tmp_path / "a.dcm", size), exact(whole, size)) >= 45


def test_the_marks_of_these_tests_do_move_the_range_where_nothing_is_checked(tmp_path: Path) -> None:
    worst = {}
    for marks in MARKS:
        pixels = marked(radiograph(930, 910), marks)
        write(tmp_path / "a.dcm", pixels, lossy=False)
        worst[marks] = min(psnr(unchecked(tmp_path / "a.dcm", size), exact(pixels, size)) for size in (64, 96, 128))
    assert sum(found < 45 for found in worst.values()) >= 3, worst


@pytest.mark.parametrize("size", SIZES)
def test_a_picture_without_hard_edges_is_decoded_at_a_smaller_scale(tmp_path: Path, size: int) -> None:
    smooth = cv2.GaussianBlur(radiograph(1900, 1800), (0, 0), 4)
    write(tmp_path / "a.dcm", smooth, lossy=False)
    found = processed(tmp_path / "a.dcm", size)
    assert not np.array_equal(found, exact(smooth, size))
    assert psnr(found, exact(smooth, size)) >= 45


def test_the_next_larger_scale_is_taken_until_one_is_good_enough(tmp_path: Path) -> None:
    write(tmp_path / "a.dcm", marked(radiograph(1130, 1010), "thin text"), lossy=False)
    answers = {}
    for halvings in (3, 2, 1, 0):
        frame = read_dicom(str(tmp_path / "a.dcm"), min_side=128, max_halvings=halvings)
        assert frame.halvings == halvings
        out = np.zeros((64, 64), np.uint8)
        answers[halvings] = _core.process_array(frame.pixels, out, recipe="area", equalise=False, grid=frame.grid)
        assert answers[halvings] == out.any()
    assert answers[0]
    assert not answers[3]


@pytest.mark.parametrize("marks", MARKS)
def test_jpeg_is_always_decoded_whole(tmp_path: Path, marks: str) -> None:
    pixels = (marked(radiograph(1130, 1010), marks) >> 4).clip(0, 255).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "a.jpg"), pixels)
    whole = np.asarray(cv2.imread(str(tmp_path / "a.jpg"), cv2.IMREAD_GRAYSCALE), np.uint8)
    write_dicom(tmp_path / "a.dcm", whole)
    assert np.array_equal(processed(tmp_path / "a.jpg", 64), processed(tmp_path / "a.dcm", 64))


@pytest.mark.skipif(not REAL_DATA, reason="DPDT_REAL_DATA is not set")
def test_real_jpeg_2000_files_are_45_db_from_full_decoding() -> None:
    files = sorted((Path(str(REAL_DATA)) / "images").glob("dicom*/*.dcm"))
    kinds = [
        file for file in files if pydicom.dcmread(file).file_meta.TransferSyntaxUID in (JPEG2000, JPEG2000Lossless)
    ]
    assert len(kinds) >= 4
    for file in kinds:
        for size in SIZES:
            assert psnr(processed(file, size), processed(file, size, exact_decode=True)) >= 45, (file.name, size)


@pytest.mark.slow
@pytest.mark.skipif(not REAL_DATA, reason="DPDT_REAL_DATA is not set")
@pytest.mark.parametrize("marks", MARKS)
def test_real_radiographs_with_marks_are_45_db_from_full_decoding(tmp_path: Path, marks: str) -> None:
    pixels = read_dicom(str(Path(str(REAL_DATA)) / "images/dicom/RG1_J2KR.dcm")).pixels
    small = cv2.imread(str(Path(str(REAL_DATA)) / "images/nih/00000003_000.png"), cv2.IMREAD_GRAYSCALE)
    for source in (np.asarray(pixels, np.uint16), np.asarray(small, np.uint16)):
        write(tmp_path / "a.dcm", marked(source, marks), lossy=False)
        for size in SIZES:
            assert psnr(processed(tmp_path / "a.dcm", size), exact(marked(source, marks), size)) >= 45, size


@pytest.mark.filterwarnings("ignore:End of file reached")
@pytest.mark.parametrize("min_side", [0, 64])
@pytest.mark.parametrize("lossy", [True, False], ids=["lossy", "lossless"])
def test_a_stream_whose_second_half_is_zeros_is_counted_or_rejected(tmp_path: Path, lossy: bool, min_side: int) -> None:
    """Zeros are empty packets to OpenJPEG: the picture lacks detail, at a small scale nothing. Its end is missing."""
    write(tmp_path / "whole.dcm", radiograph(640, 512), lossy=lossy)
    data = (tmp_path / "whole.dcm").read_bytes()
    (tmp_path / "half.dcm").write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    whole = read_dicom(str(tmp_path / "whole.dcm"), min_side=min_side)
    assert whole.warnings == 0
    if not lossy:
        with pytest.raises(DecodeError, match=r"^truncated: the JPEG 2000 data end too early"):
            read_dicom(str(tmp_path / "half.dcm"), min_side=min_side)
        return
    half = read_dicom(str(tmp_path / "half.dcm"), min_side=min_side)
    assert half.warnings == 1
    assert np.array_equal(half.pixels, whole.pixels) == (min_side > 0)
