"""DICOM frames against the pixels that went in: streams written here, by pydicom and by its plugins."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from openjpeg.utils import encode_array
from pydicom.pixels.encoders.native import _encode_frame

from dpdt import _core
from dpdt.errors import DecodeError

CATEGORIES = 17
"""Every Huffman code of the lossless streams here is five bits long: categories 0 to 16 in order."""


def frame(data: bytes, pixels: NDArray[np.integer], *, codec: str, stored: int = 0, **options: object) -> NDArray:
    """Decode a frame that should hold these pixels."""
    layout = {
        "rows": pixels.shape[0],
        "columns": pixels.shape[1],
        "bits_allocated": 8 * pixels.itemsize,
        "bits_stored": stored or 8 * pixels.itemsize,
        "is_signed": pixels.dtype.kind == "i",
    }
    layout["high_bit"] = layout["bits_stored"] - 1
    return _core.decode_frame(data, codec=codec, **{**layout, **options})[0]  # type: ignore[arg-type]


def noise(height: int, width: int, precision: int, *, seed: int = 0) -> NDArray[np.integer]:
    dtype = np.uint8 if precision <= 8 else np.uint16
    return np.random.default_rng(seed).integers(0, 1 << precision, (height, width)).astype(dtype)


def predict(pixels: NDArray[np.int64], y: int, x: int, predictor: int, first: int, restarts: bool) -> int:
    """Table H.1 of ITU-T T.81."""
    if x == 0:
        return first if restarts else int(pixels[y - 1, 0])
    left = int(pixels[y, x - 1])
    if restarts:
        return left
    above, corner = int(pixels[y - 1, x]), int(pixels[y - 1, x - 1])
    return (
        left,
        above,
        corner,
        left + above - corner,
        left + ((above - corner) >> 1),
        above + ((left - corner) >> 1),
        (left + above) >> 1,
    )[predictor - 1]


def lossless_jpeg(
    pixels: NDArray[np.integer], *, precision: int, predictor: int = 1, restart_rows: int = 0, shift: int = 0
) -> bytes:
    """Lossless JPEG, written from the standard."""
    height, width = pixels.shape
    values = pixels.astype(np.int64) >> shift
    parts, bits = [], ""
    for y in range(height):
        restarts = y == 0 or (restart_rows > 0 and y % restart_rows == 0)
        if restarts and y > 0:
            parts.append(entropy_coded(bits) + bytes([0xFF, 0xD0 + (y // restart_rows - 1) % 8]))
            bits = ""
        for x in range(width):
            guess = predict(values, y, x, predictor, 1 << (precision - shift - 1), restarts)
            difference = (int(values[y, x]) - guess + 32767) % 65536 - 32767  # -32767 … 32768
            category = abs(difference).bit_length()
            bits += format(category, "05b")
            if 0 < category < 16:
                bits += format(difference if difference > 0 else difference + (1 << category) - 1, f"0{category}b")
    parts.append(entropy_coded(bits))
    table = bytes([0, 0, 0, 0, 0, CATEGORIES, *[0] * 11, *range(CATEGORIES)])
    header = struct.pack(">BHHBBBB", precision, height, width, 1, 1, 0x11, 0)
    segments = [(0xC3, header), (0xC4, table), (0xDD, struct.pack(">H", restart_rows * width))]
    segments.append((0xDA, bytes([1, 1, 0, predictor, 0, shift])))
    start = b"".join(struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data for marker, data in segments)
    return b"\xff\xd8" + start + b"".join(parts) + b"\xff\xd9"


def entropy_coded(bits: str) -> bytes:
    bits += "1" * (-len(bits) % 8)
    data = int(bits, 2).to_bytes(len(bits) // 8, "big") if bits else b""
    return data.replace(b"\xff", b"\xff\x00")


@pytest.mark.parametrize("precision", [2, 8, 10, 12, 16])
@pytest.mark.parametrize("predictor", range(1, 8))
def test_lossless_jpeg_of_every_predictor(predictor: int, precision: int) -> None:
    pixels = noise(13, 17, precision)
    data = lossless_jpeg(pixels, precision=precision, predictor=predictor)
    assert np.array_equal(frame(data, pixels, codec="jpeg_lossless", stored=precision), pixels)


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_lossless_jpeg_with_restarts(rows: int) -> None:
    pixels = noise(27, 9, 12)
    data = lossless_jpeg(pixels, precision=12, predictor=4, restart_rows=rows)
    assert np.array_equal(frame(data, pixels, codec="jpeg_lossless", stored=12), pixels)


def test_lossless_jpeg_with_a_point_transform() -> None:
    pixels = noise(8, 8, 12) & 0xFFC
    data = lossless_jpeg(pixels, precision=12, predictor=6, shift=2)
    assert np.array_equal(frame(data, pixels, codec="jpeg_lossless", stored=12), pixels)


def test_lossless_jpeg_that_is_cut_or_wrong_is_never_a_picture() -> None:
    pixels = noise(20, 20, 12)
    data = lossless_jpeg(pixels, precision=12)
    for size in (3, 40, len(data) // 2, len(data) - 2):
        with pytest.raises(DecodeError, match=r"^truncated: the lossless JPEG data end too early"):
            frame(data[:size], pixels, codec="jpeg_lossless", stored=12)
    with pytest.raises(DecodeError, match=r"^unsupported: a JPEG process that is not the lossless one"):
        frame(data.replace(b"\xff\xc3", b"\xff\xc1"), pixels, codec="jpeg_lossless", stored=12)
    with pytest.raises(DecodeError, match=r"^unreadable: the stream has 20x20 pixels, the DICOM header says 21x20"):
        frame(data, noise(20, 21, 12), codec="jpeg_lossless", stored=12)


def rle(pixels: NDArray[np.integer]) -> bytes:
    """A frame by pydicom's encoder."""
    from types import SimpleNamespace

    runner = SimpleNamespace(
        bits_allocated=8 * pixels.itemsize,
        samples_per_pixel=1,
        rows=pixels.shape[0],
        columns=pixels.shape[1],
        transfer_syntax="1.2.840.10008.1.2.5",
    )
    runner.get_option = lambda name, default=None: "<" if name == "byteorder" else default
    return bytes(_encode_frame(pixels.tobytes(), runner))  # type: ignore[arg-type]


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 300), wide=st.booleans(), levels=st.sampled_from([1, 2, 250]))
def test_run_lengths_are_undone(height: int, width: int, wide: bool, levels: int) -> None:
    dtype = np.uint16 if wide else np.uint8
    pixels = np.random.default_rng(height).integers(0, levels, (height, width)).astype(dtype)
    assert np.array_equal(frame(rle(pixels), pixels, codec="rle"), pixels)


def test_run_lengths_that_are_cut_or_wrong_are_never_a_picture() -> None:
    pixels = noise(20, 20, 16)
    data = rle(pixels)
    behind = "^truncated: an RLE segment lies behind the end"
    for size, text in ((40, "within their header"), (300, behind), (len(data) - 60, "before|within")):
        with pytest.raises(DecodeError, match=text):
            frame(data[:size], pixels, codec="rle")
    with pytest.raises(DecodeError, match="2 segments, expected 1"):
        frame(data, noise(20, 20, 8), codec="rle")


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16])
def test_plain_pixels_of_every_type(dtype: type) -> None:
    info = np.iinfo(dtype)
    pixels = np.random.default_rng(0).integers(info.min, info.max + 1, (5, 7)).astype(dtype)
    assert np.array_equal(frame(pixels.tobytes(), pixels, codec="plain"), pixels)
    assert np.array_equal(frame(pixels.byteswap().tobytes(), pixels, codec="plain", big_endian=True), pixels)
    assert frame(pixels.tobytes(), pixels, codec="plain").dtype == dtype


def test_wrong_layouts_are_refused() -> None:
    pixels = noise(4, 4, 16)
    for options in ({"bits_stored": 17}, {"bits_stored": 0}, {"high_bit": 16}, {"bits_allocated": 32}):
        with pytest.raises(ValueError, match="bits: expected 8 or 16 allocated"):
            frame(pixels.tobytes(), pixels, codec="plain", **options)
    with pytest.raises(ValueError, match="codec: unknown name mpeg"):
        frame(b"", pixels, codec="mpeg")
    with pytest.raises(DecodeError, match=r"^empty: a frame of 0 bytes"):
        frame(b"", pixels, codec="plain")


def test_a_frame_of_padding_only_is_a_reject() -> None:  # found by make fuzz: it leaked libjpeg's state
    with pytest.raises(DecodeError, match=r"^unreadable: damaged JPEG data \(libjpeg: Empty input file"):
        frame(b"\0", noise(4, 4, 8), codec="jpeg")


def test_truncated_jpeg_2000_is_a_reject() -> None:
    pixels = noise(64, 64, 12)
    data = encode_array(pixels, bits_stored=12, codec_format=0)
    assert np.array_equal(frame(data, pixels, codec="jpeg2000", stored=12), pixels)
    with pytest.raises(DecodeError, match=r"^truncated: the JPEG 2000 data end too early"):
        frame(data[: len(data) // 2], pixels, codec="jpeg2000", stored=12)
    with pytest.raises(DecodeError, match=r"^(unreadable|truncated): "):
        frame(data[:50], pixels, codec="jpeg2000", stored=12)


def test_smaller_jpeg_2000_lies_where_the_full_one_lies() -> None:
    y, x = np.mgrid[:501, :403]
    pixels = (2000 + 900 * np.sin(x / 40) + 900 * np.cos(y / 50)).astype(np.uint16)
    data = encode_array(pixels, bits_stored=12, codec_format=0)
    layout = {"rows": 501, "columns": 403, "bits_allocated": 16, "bits_stored": 12, "high_bit": 11, "is_signed": False}
    small, grid, _ = _core.decode_frame(data, codec="jpeg2000", min_side=100, **layout)
    assert small.shape == (126, 101)  # a quarter, of odd sides
    outs = np.zeros((2, 50, 50), np.uint8)
    _core.process_array(pixels, outs[0], recipe="area", equalise=False)
    _core.process_array(small, outs[1], recipe="area", equalise=False, grid=grid)  # type: ignore[arg-type]
    assert np.abs(outs[0].astype(int) - outs[1]).max() <= 2  # half a pixel of the small one would be 6
