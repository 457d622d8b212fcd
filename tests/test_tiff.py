"""TIFF and JPEG 2000 files as they are: right pixels are those that Pillow and OpenJPEG's encoder were given."""

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from openjpeg.utils import encode_array
from PIL import Image

from dpdt import _core
from dpdt.errors import DecodeError
from dpdt.shards.manifest import codec_differences
from tests.small_images import picture

Pixels = NDArray[Any]
GRAY = picture(1, height=70, width=53)
WIDE = picture(2, height=70, width=53, dtype=np.uint16) * np.uint16(16)
COLOUR = np.stack([picture(n, height=70, width=53) for n in range(3)], axis=2)
PHOTOMETRIC = 262


def tiff(pixels: Pixels, compression: str | None = None, **tags: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "TIFF", compression=compression, **tags)
    return stream.getvalue()


def with_tag(data: bytes, tag: int, value: int) -> bytes:
    """A short value of the first directory of a little-endian file, otherwise."""
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        if struct.unpack_from("<H", data, entry) == (tag,):
            return data[: entry + 8] + struct.pack("<H", value) + data[entry + 10 :]
    raise ValueError(f"no tag {tag}")


def decoded(data: bytes) -> Pixels:
    return _core.decode(data)[0]


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("pixels", [GRAY, WIDE], ids=["8", "16"])
def test_gray_samples_of_each_lossless_compression_are_those_that_were_written(
    pixels: Pixels, compression: str | None
) -> None:
    assert np.array_equal(decoded(tiff(pixels, compression)), pixels)


def test_big_endian_predictors_and_colour() -> None:
    big = io.BytesIO()
    Image.fromarray(WIDE.astype(">u2")).save(big, "TIFF")
    assert np.array_equal(decoded(big.getvalue()), WIDE)
    assert np.array_equal(decoded(tiff(GRAY, "tiff_lzw", tiffinfo={317: 2})), GRAY)  # horizontal differences
    assert np.array_equal(decoded(tiff(COLOUR, "tiff_lzw")), cv2.cvtColor(COLOUR, cv2.COLOR_RGB2GRAY))


def test_where_0_is_white_it_is_inverted() -> None:
    assert np.array_equal(decoded(with_tag(tiff(GRAY), PHOTOMETRIC, 0)), 255 - GRAY)
    assert np.array_equal(decoded(with_tag(tiff(WIDE), PHOTOMETRIC, 0)), 65535 - WIDE)


def several_pages() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(GRAY).save(stream, "TIFF", save_all=True, append_images=[Image.fromarray(GRAY)])
    return stream.getvalue()


def palette() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(COLOUR).quantize(16).save(stream, "TIFF")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (several_pages, "unsupported: a TIFF picture of several pages"),
        (palette, "unsupported: a TIFF picture that is neither gray nor RGB"),
        (lambda: tiff(GRAY > 99), "unsupported: a TIFF picture of 1 bits a sample"),
        (lambda: tiff(GRAY.astype(np.float32)), "unsupported: a TIFF picture of 32 bits a sample"),
        (lambda: with_tag(tiff(GRAY), 258, 12), "unsupported: a TIFF picture of 12 bits"),
        (lambda: tiff(GRAY)[:2000], "(truncated|unreadable): "),
        (lambda: tiff(GRAY, "tiff_lzw")[:-900], "(truncated|unreadable): "),
        (lambda: b"II*\0\x08\0\0\0", "(truncated|unreadable): "),
    ],
)
def test_other_kinds_are_refused_by_name(make: Callable[[], bytes], message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        decoded(make())


@pytest.mark.parametrize("boxes", [False, True], ids=["stream", "file"])
@pytest.mark.parametrize("pixels", [GRAY, WIDE], ids=["8", "16"])
def test_jpeg_2000_needs_no_dicom_around_it(pixels: Pixels, boxes: bool, tmp_path: Path) -> None:
    data = encode_array(pixels, bits_stored=8 * pixels.itemsize, codec_format=int(boxes))
    assert np.array_equal(decoded(data), pixels)
    (tmp_path / "a.jp2").write_bytes(data)
    out = np.zeros((1, 16, 16), np.uint8)
    [found] = _core.process_files([str(tmp_path / "a.jp2")], out, recipe="area", equalise=False)
    assert (found.reason, found.format, found.height, found.bits) == ("", "jpeg2000", 70, 8 * pixels.itemsize)
    with pytest.raises(DecodeError, match="truncated: the JPEG 2000 data end too early"):
        decoded(data[:-400])


def test_signed_jpeg_2000_is_refused() -> None:
    data = encode_array(WIDE.astype(np.int16), bits_stored=16, codec_format=0)
    with pytest.raises(DecodeError, match="unsupported: JPEG 2000 of signed samples"):
        decoded(data)


def test_shards_from_before_are_not_told_to_have_another_decoder_of_tiff() -> None:
    now = {"codecs": _core.codecs()}
    before = {"codecs": {name: library for name, library in _core.codecs().items() if name != "tiff"}}
    assert codec_differences(before, now) == codec_differences(now, before) == []
    other = {"codecs": {**_core.codecs(), "tiff": "libtiff 3"}}
    assert codec_differences(now, other) == [f"tiff: {_core.codecs()['tiff']} and libtiff 3"]
