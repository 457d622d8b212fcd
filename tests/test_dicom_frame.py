"""The one frame of a DICOM file: every layout of its bits, and encodings that are not what the header says."""

import itertools
import struct
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from openjpeg.utils import encode_array
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from dpdt.errors import DecodeError
from dpdt.shards.build import build_shards
from dpdt.shards.dicom import read_dicom
from dpdt.shards.dicom_frame import joined_fragments, stream_codec
from dpdt.shards.reader import Shards
from tests.small_images import make_study, picture, write_dicom
from tests.test_frame import lossless_jpeg, rle

LAYOUTS = [
    (allocated, stored, high, signed, samples, planar)
    for allocated in (8, 16, 32)
    for stored in (allocated, allocated - 3, 5)
    for high in sorted({stored - 1, allocated - 1})
    for signed, samples in itertools.product((0, 1), (1, 3))
    for planar in ((0,) if samples == 1 else (0, 1))
]


def values_of(stored: int, signed: int, samples: int) -> NDArray[np.int64]:
    """Values over the whole range, its ends among them: (6, 8) or (6, 8, 3)."""
    shape = (6, 8) if samples == 1 else (6, 8, 3)
    low, high = (-(1 << (stored - 1)), (1 << (stored - 1)) - 1) if signed else (0, (1 << stored) - 1)
    values = np.random.default_rng(stored).integers(low, high, shape, dtype=np.int64, endpoint=True)
    values[0, 0], values[0, 1] = low, high
    return values


def cells(values: NDArray[np.int64], *, allocated: int, stored: int, high: int) -> NDArray[np.integer]:
    """Values in their cells (PS3.5 8.1.1); the bits that are not theirs are noise."""
    low = high + 1 - stored
    mask = ((1 << stored) - 1) << low
    noise = np.random.default_rng(0).integers(0, 1 << allocated, values.shape, dtype=np.int64)
    return ((values << low) & mask | noise & ~mask).astype(f"u{allocated // 8}")


def run_lengths(cells: NDArray[np.integer]) -> bytes:
    """RLE of literal runs (PS3.5 G): a segment a byte of each sample, the highest byte first."""
    planes = cells.reshape(*cells.shape[:2], -1).transpose(2, 0, 1)
    big = planes.astype(planes.dtype.newbyteorder(">"))
    segments = []
    for plane in big:
        bytes_of = plane.reshape(-1, 1).view(np.uint8).reshape(-1, planes.itemsize).T
        segments += [bytes([len(each) - 1]) + each.tobytes() + b"\x80" * (1 - len(each) % 2) for each in bytes_of]
    offsets = np.cumsum([64, *map(len, segments)])[:-1]
    return struct.pack("<16I", len(segments), *offsets, *[0] * (15 - len(offsets))) + b"".join(segments)


def expected_of(values: NDArray[np.int64]) -> NDArray[np.float64]:
    """Gray in 0..1. Colours by BT.601, in whole numbers without bounds."""
    gray = values.astype(object)
    if values.ndim == 3:
        gray = (gray[..., 0] * 9798 + gray[..., 1] * 19235 + gray[..., 2] * 3735 + (1 << 14)) >> 15
    return np.asarray((gray - gray.min()) / (gray.max() - gray.min()), dtype=np.float64)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless])
@pytest.mark.parametrize(("allocated", "stored", "high", "signed", "samples", "planar"), LAYOUTS)
def test_every_layout_of_bits_is_read_right(
    tmp_path: Path, syntax: str, allocated: int, stored: int, high: int, signed: int, samples: int, planar: int
) -> None:
    values = values_of(stored, signed, samples)
    stored_cells = cells(values, allocated=allocated, stored=stored, high=high)
    write_dicom(tmp_path / "a.dcm", stored_cells, BitsStored=stored, PixelRepresentation=signed)
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    dataset.HighBit = high
    stream = run_lengths(stored_cells)
    if samples == 3:
        dataset.PhotometricInterpretation, dataset.PlanarConfiguration = "RGB", planar
        stored_cells = stored_cells.transpose(2, 0, 1) if planar else stored_cells
    big = syntax == ExplicitVRBigEndian
    dataset.PixelData = stored_cells.astype(stored_cells.dtype.newbyteorder(">" if big else "<")).tobytes()
    if syntax == RLELossless:
        dataset.PixelData = encapsulate([stream])
        dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = syntax
    new = pydicom.Dataset(dataset)
    new.file_meta = dataset.file_meta
    pydicom.dcmwrite(tmp_path / "b.dcm", new, implicit_vr=False, little_endian=not big, force_encoding=True)
    found = read_dicom(str(tmp_path / "b.dcm")).pixels.astype(float)
    found = (found - found.min()) / (found.max() - found.min())
    assert np.abs(found - expected_of(values)).max() < (1e-4 if allocated > 16 else 1e-9)


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ({"BitsAllocated": 12}, "12 bits allocated, expected 1 .gray., 8, 16 or 32"),
        ({"BitsAllocated": 24, "BitsStored": 24}, "24 bits allocated, expected"),
        ({"BitsAllocated": 64}, "64 bits allocated, expected"),
        ({"BitsAllocated": 0}, "0 bits allocated, expected"),
        ({"BitsStored": 17}, "17 bits stored of 16 allocated"),
        ({"BitsStored": 0}, "0 bits stored of 16 allocated"),
        ({"HighBit": 10}, "high bit 10 with 12 bits stored of 16 allocated"),
        ({"HighBit": 16}, "high bit 16 with 12 bits stored of 16 allocated"),
        ({"PixelRepresentation": 2}, "planar configuration 0, pixel representation 2; expected 0 or 1"),
        ({"SamplesPerPixel": 2}, "photometric interpretation MONOCHROME2 with 2 samples a pixel"),
        ({"SamplesPerPixel": 3}, "photometric interpretation MONOCHROME2 with 3 samples a pixel"),
        ({"SamplesPerPixel": 4, "PhotometricInterpretation": "ARGB"}, "ARGB with 4 samples a pixel"),
        (
            {"SamplesPerPixel": 3, "PhotometricInterpretation": "YBR_FULL", "Rows": 10, "PlanarConfiguration": 0},
            "YBR_FULL of 16 bits allocated",
        ),
    ],
)
def test_layouts_that_are_not_read_are_refused_by_name(
    tmp_path: Path, elements: dict[str, object], message: str
) -> None:
    write_dicom(tmp_path / "a.dcm", picture(1, dtype=np.uint16))
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    for name, value in elements.items():
        setattr(dataset, name, value)
    dataset.save_as(tmp_path / "a.dcm")
    with pytest.raises(DecodeError, match=rf"^unsupported: .*{message}"):
        read_dicom(str(tmp_path / "a.dcm"))


def test_one_bit_a_pixel_is_read_from_the_lowest_bit_on(tmp_path: Path) -> None:  # PS3.5 8.1.1
    write_dicom(tmp_path / "a.dcm", picture(1, height=3, width=5), BitsAllocated=1, BitsStored=1, Rows=3, Columns=5)
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    dataset.PixelData = bytes([0b10110001, 0b01001110])
    dataset.save_as(tmp_path / "a.dcm")
    expected = [[1, 0, 0, 0, 1], [1, 0, 1, 0, 1], [1, 1, 0, 0, 1]]
    assert read_dicom(str(tmp_path / "a.dcm")).pixels.tolist() == expected


# --- encodings


PIXELS = picture(1, height=64, width=56, dtype=np.uint16)
STREAM = encode_array(PIXELS, bits_stored=12, codec_format=0)
STREAM += b"\0" * (len(STREAM) % 2)
HALVES = [STREAM[: len(STREAM) // 4 * 2], STREAM[len(STREAM) // 4 * 2 :]]
END = b"\xfe\xff\xdd\xe0\0\0\0\0"
GUESSED = None


def item(data: bytes, length: int | None = None) -> bytes:
    """An item of encapsulated pixel data (PS3.5 A.4)."""
    return b"\xfe\xff\x00\xe0" + struct.pack("<I", len(data) if length is None else length) + data


def write_element(path: Path, data: bytes, syntax: str | None, *, undefined: bool = True, bare: bool = False) -> None:
    """The header of PIXELS, then a Pixel Data element of these bytes, with nothing after them."""
    write_dicom(path, PIXELS)
    dataset = pydicom.dcmread(path)
    del dataset.PixelData
    implicit = syntax == ImplicitVRLittleEndian
    dataset.file_meta.TransferSyntaxUID = syntax or ExplicitVRLittleEndian
    if syntax is GUESSED:
        del dataset.file_meta.TransferSyntaxUID
    if bare:
        del dataset.file_meta
        dataset.preamble = None
    plain = {"implicit_vr": implicit, "little_endian": True, "force_encoding": True}
    pydicom.dcmwrite(path, dataset, **plain)
    length = struct.pack("<I", 0xFFFFFFFF if undefined else len(data))
    path.write_bytes(path.read_bytes() + b"\xe0\x7f\x10\x00" + (b"" if implicit else b"OB\0\0") + length + data)


FRAGMENTS = {
    "one": item(b"") + item(STREAM) + END,
    "two": item(b"") + item(HALVES[0]) + item(HALVES[1]) + END,
    "a good table": item(struct.pack("<I", 0)) + item(HALVES[0]) + item(HALVES[1]) + END,
    "a table of fragments": item(struct.pack("<II", 0, 8 + len(HALVES[0]))) + item(HALVES[0]) + item(HALVES[1]) + END,
    "a table that leads nowhere": item(struct.pack("<I", 77)) + item(HALVES[0]) + item(HALVES[1]) + END,
    "a table of a strange length": item(b"\0" * 6) + item(STREAM) + END,
    "no table": item(STREAM) + END,
    "no table, two": item(HALVES[0]) + item(HALVES[1]) + END,
    "no end": item(b"") + item(STREAM),
    "an item of undefined length": item(b"") + item(STREAM, 0xFFFFFFFF) + END,
    "an item of undefined length with its end": item(b"")
    + item(STREAM, 0xFFFFFFFF)
    + b"\xfe\xff\x0d\xe0\0\0\0\0"
    + END,
}


@pytest.mark.filterwarnings("ignore:End of file reached")
@pytest.mark.parametrize("undefined", [True, False], ids=["undefined", "defined"])
@pytest.mark.parametrize("kind", FRAGMENTS)
def test_fragments_of_one_frame_need_no_offset_table(tmp_path: Path, kind: str, undefined: bool) -> None:
    write_element(tmp_path / "a.dcm", FRAGMENTS[kind], JPEG2000Lossless, undefined=undefined)
    frame = read_dicom(str(tmp_path / "a.dcm"))
    assert np.array_equal(frame.pixels, PIXELS)
    assert frame.warnings == 0


@pytest.mark.filterwarnings("ignore:End of file reached")
@pytest.mark.parametrize("undefined", [True, False], ids=["undefined", "defined"])
def test_run_lengths_without_a_table_and_plain_pixels_without_an_end(tmp_path: Path, undefined: bool) -> None:
    write_element(tmp_path / "a.dcm", item(rle(PIXELS)) + END, RLELossless, undefined=undefined)
    assert np.array_equal(read_dicom(str(tmp_path / "a.dcm")).pixels, PIXELS)
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        write_element(tmp_path / "a.dcm", PIXELS.tobytes(), syntax, undefined=undefined)
        assert np.array_equal(read_dicom(str(tmp_path / "a.dcm")).pixels, PIXELS)


@pytest.mark.filterwarnings("ignore:End of file reached")
def test_fragments_that_are_cut_are_truncated_and_empty_ones_empty(tmp_path: Path) -> None:
    for data in (item(b"") + item(STREAM)[:-900], item(b"") + item(HALVES[0]) + END):
        write_element(tmp_path / "a.dcm", data, JPEG2000Lossless)
        with pytest.raises(DecodeError, match=r"^truncated: the JPEG 2000 data end too early"):
            read_dicom(str(tmp_path / "a.dcm"))
    write_element(tmp_path / "a.dcm", item(b"") + item(rle(PIXELS)[:100]), RLELossless)
    with pytest.raises(DecodeError, match=r"^truncated: "):
        read_dicom(str(tmp_path / "a.dcm"))
    write_element(tmp_path / "a.dcm", item(b"") + END, JPEG2000Lossless)
    with pytest.raises(DecodeError, match=r"^empty: a frame of 0 bytes"):
        read_dicom(str(tmp_path / "a.dcm"))
    write_element(tmp_path / "a.dcm", PIXELS.tobytes()[:-2], ExplicitVRLittleEndian)
    with pytest.raises(DecodeError, match=r"^truncated: 7166 bytes of pixels, expected 7168"):
        read_dicom(str(tmp_path / "a.dcm"))


ENCODINGS: dict[str, tuple[bytes, str | None, bool]] = {
    "compressed, said to be plain": (FRAGMENTS["two"], ExplicitVRLittleEndian, True),
    "compressed, said to be plain and implicit": (FRAGMENTS["two"], ImplicitVRLittleEndian, True),
    "compressed, without a transfer syntax": (FRAGMENTS["two"], GUESSED, True),
    "another compression": (FRAGMENTS["two"], JPEGBaseline8Bit, True),
    "JPEG 2000, said to be run lengths": (FRAGMENTS["no table"], RLELossless, True),
    "run lengths, said to be JPEG 2000": (item(b"") + item(rle(PIXELS)) + END, JPEG2000Lossless, True),
    "lossless JPEG, said to be plain": (
        item(b"") + item(lossless_jpeg(PIXELS, precision=12)) + END,
        ExplicitVRLittleEndian,
        True,
    ),
    "plain, said to be compressed": (PIXELS.tobytes(), JPEG2000Lossless, False),
    "a stream without items, said to be plain": (STREAM, ExplicitVRLittleEndian, False),
}


@pytest.mark.parametrize("bare", [False, True], ids=["file", "bare"])
@pytest.mark.parametrize("kind", ENCODINGS)
def test_pixels_are_read_as_they_are_encoded_whatever_the_transfer_syntax_says(
    tmp_path: Path, kind: str, bare: bool
) -> None:
    data, syntax, undefined = ENCODINGS[kind]
    write_element(tmp_path / "a.dcm", data, syntax, undefined=undefined, bare=bare)
    frame = read_dicom(str(tmp_path / "a.dcm"))
    assert np.array_equal(frame.pixels, PIXELS)
    assert frame.warnings == (0 if bare and "plain, said" in kind else 1)


def test_colour_of_another_encoding_than_the_transfer_syntax_says(tmp_path: Path) -> None:
    colour = np.random.default_rng(6).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    stream = encode_array(colour, bits_stored=8, photometric_interpretation=1, use_mct=False, codec_format=0)
    rgb = {"PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    write_dicom(tmp_path / "a.dcm", colour, **rgb)
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    dataset.PixelData = encapsulate([stream])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.save_as(tmp_path / "a.dcm")
    frame = read_dicom(str(tmp_path / "a.dcm"))
    assert np.array_equal(frame.pixels, cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY))
    assert frame.warnings == 1


@pytest.mark.parametrize(
    ("syntax", "name"),
    [
        ("1.2.840.113619.5.2", ""),  # GE's own, of implicit VR and big-endian pixels
        ("1.2.840.10008.1.2.4.110", "JPEG XL Lossless "),
        ("1.2.840.10008.1.2.4.111", "JPEG XL JPEG Recompression "),
        ("1.2.840.10008.1.2.4.112", "JPEG XL "),
        ("1.2.840.10008.1.2.4.100", r"MPEG2 Main Profile / Main Level "),
    ],
)
def test_transfer_syntaxes_without_a_decoder_are_unsupported_by_name(tmp_path: Path, syntax: str, name: str) -> None:
    write_element(tmp_path / "a.dcm", item(b"") + item(b"\xff\x0a" * 50) + END, syntax)
    expected = rf"^unsupported: no decoder for the transfer syntax {name}\({syntax}\)$"
    with pytest.raises(DecodeError, match=expected):
        read_dicom(str(tmp_path / "a.dcm"))


def test_a_frame_without_photometric_interpretation_is_gray_with_high_values_bright(tmp_path: Path) -> None:
    write_dicom(tmp_path / "a.dcm", PIXELS)
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    del dataset.PhotometricInterpretation
    dataset.save_as(tmp_path / "a.dcm")
    frame = read_dicom(str(tmp_path / "a.dcm"))
    assert np.array_equal(frame.pixels, PIXELS)
    assert (frame.invert, frame.warnings, frame.oddities) == (False, 1, ("no PhotometricInterpretation",))


@pytest.mark.parametrize("keyword", ["FloatPixelData", "DoubleFloatPixelData"])
def test_floating_point_pixels_have_no_bits_stored(tmp_path: Path, keyword: str) -> None:  # PS3.3 C.7.6.24
    values = np.random.default_rng(0).normal(size=(8, 10)).astype(np.float32 if keyword[0] == "F" else np.float64)
    write_dicom(tmp_path / "a.dcm", picture(1, height=8, width=10))
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    for gone in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(dataset, gone)
    dataset.BitsAllocated = 8 * values.itemsize
    setattr(dataset, keyword, values.tobytes())
    dataset.save_as(tmp_path / "a.dcm")
    expected = np.rint((values.astype(float) - values.min()) / (float(values.max()) - values.min()) * 65535)
    assert np.abs(read_dicom(str(tmp_path / "a.dcm")).pixels - expected).max() <= 1


def test_an_encoding_that_was_read_past_is_counted_in_the_shards(tmp_path: Path) -> None:
    write_element(tmp_path / "a.dcm", FRAGMENTS["two"], ExplicitVRLittleEndian)
    study = make_study(tmp_path, ["../a.dcm"])
    build_shards(study, "vindr")
    assert Shards.open(study.paths.shards("vindr")).index["warnings"].tolist() == [1]


@pytest.mark.parametrize("seed", range(20))
def test_no_bytes_break_the_reading_of_fragments(seed: int) -> None:
    random = np.random.default_rng(seed)
    for data in FRAGMENTS.values():
        damaged = bytearray(data[:400])
        for place in random.integers(0, len(damaged), 8):
            damaged[place] = random.integers(256)
        joined = joined_fragments(bytes(damaged))
        assert joined is None or len(joined) <= len(damaged)
        stream_codec(bytes(damaged[random.integers(len(damaged)) :]))
