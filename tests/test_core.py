"""The C++ core against the pixels that went in, and against OpenCV, Pillow and SciPy."""

import io
import os
import shutil
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import zoom

from dpdt import _core
from dpdt.errors import DecodeError
from tests.waiting import seconds_to_interrupt

REAL_DATA = os.environ.get("DPDT_REAL_DATA")
needs_real_data = pytest.mark.skipif(not REAL_DATA, reason="DPDT_REAL_DATA is not set")
GRAY, RGB, PALETTE, GRAY_ALPHA, RGBA = 0, 2, 3, 4, 6
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
"""First row, first column, row step, column step of each pass (PNG specification, 8.2)."""


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def packed(samples: NDArray[np.uint16], depth: int) -> bytes:
    """Rows of samples (h, w, channels), each after filter byte 0."""
    rows = []
    for row in samples.reshape(len(samples), -1):
        if depth == 16:
            data = row.astype(">u2").tobytes()
        elif depth == 8:
            data = row.astype(np.uint8).tobytes()
        else:
            bits = np.unpackbits(row.astype(np.uint8)[:, None], axis=1)[:, 8 - depth :]
            data = np.packbits(bits.ravel()).tobytes()
        rows.append(b"\0" + data)
    return b"".join(rows)


def png(samples: NDArray[np.uint16], *, depth: int, kind: int, interlaced: bool = False, extra: bytes = b"") -> bytes:
    """A PNG file of samples (h, w, channels), written from the specification."""
    height, width = samples.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, int(interlaced))
    passes = [samples[y::dy, x::dx] for y, x, dy, dx in ADAM7] if interlaced else [samples]
    data = zlib.compress(b"".join(packed(part, depth) for part in passes if part.size))
    chunks = chunk(b"IHDR", header) + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def picture(height: int = 37, width: int = 23, *, high: int = 256, channels: int = 1) -> NDArray[np.uint16]:
    return np.random.default_rng(7).integers(0, high, (height, width, channels), dtype=np.uint16)


def jpeg(pixels: NDArray[np.uint8], **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=95, **options)
    return stream.getvalue()


def smooth(height: int = 96, width: int = 120) -> NDArray[np.uint8]:
    y, x = np.mgrid[:height, :width]
    return (127 + 80 * np.sin(x / 9) + 40 * np.cos(y / 7)).astype(np.uint8)


def processed(files: list[Path], *, size: int = 16, recipe: str = "area", **options: object) -> tuple[list, NDArray]:
    out = np.zeros((len(files), size, size), np.uint8)
    return _core.process_files(files, out, recipe=recipe, equalise=False, **options), out


# --- PNG: the right pixels are those that the test wrote


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_gray_png_of_every_depth(depth: int, interlaced: bool) -> None:
    samples = picture(high=1 << depth)
    pixels, bits, warnings = _core.decode(png(samples, depth=depth, kind=GRAY, interlaced=interlaced))
    stretch = 255 // ((1 << depth) - 1) if depth < 8 else 1
    assert pixels.dtype == (np.uint16 if depth == 16 else np.uint8)
    assert np.array_equal(pixels, samples[:, :, 0] * stretch)
    assert (bits, warnings) == (depth, 0)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("kind", [GRAY_ALPHA, RGB, RGBA])
def test_png_with_alpha_or_equal_colours_equals_its_gray_twin(kind: int, depth: int, interlaced: bool) -> None:
    gray = picture(high=1 << depth)
    colours = gray if kind == GRAY_ALPHA else np.repeat(gray, 3, axis=2)
    alpha = picture(high=1 << depth)[::-1]
    samples = colours if kind == RGB else np.concatenate([colours, alpha], axis=2)
    pixels, _, _ = _core.decode(png(samples, depth=depth, kind=kind, interlaced=interlaced))
    assert np.array_equal(pixels, gray[:, :, 0])


@pytest.mark.parametrize("depth", [8, 16])
def test_colours_become_gray_as_in_opencv(depth: int) -> None:
    samples = picture(high=1 << depth, channels=3)
    pixels, _, _ = _core.decode(png(samples, depth=depth, kind=RGB))
    expected = cv2.cvtColor(samples.astype(np.uint8 if depth == 8 else np.uint16), cv2.COLOR_RGB2GRAY)
    assert np.abs(pixels.astype(int) - expected).max() <= 1  # OpenCV's vector code rounds some 16-bit sums down
    assert (pixels == expected).mean() > 0.99


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_palette_png_gives_the_palettes_colours(depth: int) -> None:
    samples = picture(high=1 << depth)
    levels = np.random.default_rng(3).integers(0, 256, 1 << depth, dtype=np.uint8)
    palette = chunk(b"PLTE", np.repeat(levels, 3).tobytes())
    transparency = chunk(b"tRNS", bytes(range(1 << depth)))
    pixels, bits, _ = _core.decode(png(samples, depth=depth, kind=PALETTE, extra=palette + transparency))
    assert np.array_equal(pixels, levels[samples[:, :, 0]])
    assert bits == depth


def test_ramp_of_16_bits_keeps_4096_values_before_scaling() -> None:
    ramp = np.arange(4096, dtype=np.uint16).reshape(64, 64, 1)
    pixels, bits, _ = _core.decode(png(ramp, depth=16, kind=GRAY))
    assert (pixels.dtype, pixels.max(), len(np.unique(pixels)), bits) == (np.uint16, 4095, 4096, 16)


# --- JPEG


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
@pytest.mark.parametrize("colour", [False, True])
def test_jpeg_equals_pillow(options: dict[str, object], colour: bool) -> None:
    pixels = np.stack([smooth(), smooth()[::-1], smooth()[:, ::-1]], axis=2) if colour else smooth()
    data = jpeg(pixels, **options)
    decoded, bits, warnings = _core.decode(data)
    image = Image.open(io.BytesIO(data))
    image.draft("L", image.size)  # libjpeg's own gray
    assert np.array_equal(decoded, np.asarray(image.convert("L")))
    assert (bits, warnings) == (8, 0)


def test_cmyk_jpeg_is_close_to_pillow() -> None:
    colour = np.stack([smooth(), smooth()[::-1], smooth()[:, ::-1]], axis=2)
    stream = io.BytesIO()
    Image.fromarray(colour).convert("CMYK").save(stream, "JPEG", quality=95)
    decoded, _, _ = _core.decode(stream.getvalue())
    expected = np.asarray(Image.open(io.BytesIO(stream.getvalue())).convert("RGB").convert("L"))
    assert np.abs(decoded.astype(int) - expected).max() <= 2


def test_extraneous_bytes_are_accepted_and_counted() -> None:
    data = jpeg(smooth())
    expected, _, _ = _core.decode(data)
    table = data.index(b"\xff\xdb")
    for damaged in (data[:table] + b"\x12\x34" + data[table:], data[:-2] + b"\x12\x34" + data[-2:], data + b"rest"):
        pixels, _, warnings = _core.decode(damaged)
        assert np.array_equal(pixels, expected)
        assert warnings == 1
    pixels, _, warnings = _core.decode(png(picture(), depth=8, kind=GRAY) + b"rest")
    assert np.array_equal(pixels, picture()[:, :, 0])
    assert warnings == 1


# --- rejects


@pytest.mark.parametrize("part", [0.6, 0.95, 0.999])
@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
def test_truncated_jpeg(options: dict[str, object], part: float) -> None:
    data = jpeg(smooth(), **options)
    with pytest.raises(DecodeError, match=r"^truncated: the JPEG data end too early"):
        _core.decode(data[: int(len(data) * part)])


@pytest.mark.parametrize("part", [0.1, 0.6, 0.95, 0.999])
def test_truncated_png(part: float) -> None:
    data = png(picture(), depth=16, kind=GRAY)
    with pytest.raises(DecodeError, match=r"^truncated: the PNG data end too early"):
        _core.decode(data[: int(len(data) * part)])


def test_damaged_files_are_never_a_picture() -> None:
    data = bytearray(jpeg(smooth(512, 512)))
    data[len(data) // 2 : len(data) // 2 + 40] = b"\xff\xd9" * 20  # the end marker in the middle of the data
    with pytest.raises(DecodeError, match=r"^unreadable: damaged JPEG data"):
        _core.decode(bytes(data))
    damaged = bytearray(png(picture(), depth=8, kind=GRAY))
    damaged[60] ^= 1
    with pytest.raises(DecodeError, match=r"^unreadable: damaged PNG data \(libpng: IDAT"):
        _core.decode(bytes(damaged))


def test_a_decompression_bomb_costs_neither_memory_nor_time() -> None:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 16, RGBA, 0, 0, 1)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    start = time.process_time()
    with pytest.raises(DecodeError, match=r"^too_large: the header says 60000x60000 pixels, more than the limit"):
        _core.decode(data)
    header = struct.pack(">IIBBBBB", 9_000, 9_000, 16, RGBA, 0, 0, 0)  # allowed, but the bytes cannot hold it
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    with pytest.raises(DecodeError, match=r"^truncated: the header promises"):
        _core.decode(data)
    assert time.process_time() - start < 0.5


def test_limit_of_pixels_can_be_set() -> None:
    data = png(picture(10, 10), depth=8, kind=GRAY)
    assert _core.decode(data, max_pixels=100)[0].shape == (10, 10)
    with pytest.raises(DecodeError, match=r"too_large: the header says 10x10 pixels, more than the limit of 99"):
        _core.decode(data, max_pixels=99)


def test_every_bad_file_has_its_reason_and_stops_no_other(tmp_path: Path) -> None:
    good = png(picture(), depth=8, kind=GRAY)
    flat = png(np.full((20, 20, 1), 9, np.uint16), depth=8, kind=GRAY)
    files = {"good.png": good, "wrong_name.jpg": good, "empty.png": b"", "text.png": b"hello", "flat.png": flat}
    files |= {"half.png": good[: len(good) // 2], "half.jpg": jpeg(smooth())[:500], "bare.dcm": b"\0" * 128 + b"DICM"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    names = [*files, "folder", "pipe", "nowhere.png", "good.png/inside"]
    results, _ = processed([tmp_path / name for name in names])
    assert {name: result.reason for name, result in zip(names, results, strict=True)} == {
        "good.png": "",
        "wrong_name.jpg": "",
        "empty.png": "empty",
        "text.png": "unsupported",
        "flat.png": "constant",
        "half.png": "truncated",
        "half.jpg": "truncated",
        "bare.dcm": "dicom",
        "folder": "unreadable",
        "pipe": "unreadable",
        "nowhere.png": "missing",
        "good.png/inside": "missing",
    }
    assert [results[0].format, results[0].height, results[0].width, results[0].bits] == ["png", 37, 23, 8]
    assert all(result.ok == (result.reason == "") and result.ok == (result.message == "") for result in results)


@pytest.mark.parametrize(("depth", "stored"), [(1, 1), (2, 2), (4, 9), (8, 9), (16, 900)])
def test_a_constant_picture_names_the_value_that_the_file_has(tmp_path: Path, depth: int, stored: int) -> None:
    flat = np.full((20, 20, 1), stored, np.uint16)
    (tmp_path / "a.png").write_bytes(png(flat, depth=depth, kind=GRAY))
    [result], _ = processed([tmp_path / "a.png"])
    assert (result.reason, result.message) == ("constant", f"all pixels have the value {stored} after resampling")


OTHERS = {
    "a WebP picture": b"RIFF\x24\0\0\0WEBPVP8 ",
    "an HTML page": b"\xef\xbb\xbf\n <!DOCTYPE html><html><head><title>Login</title>",
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "a JPEG XL picture": b"\xff\x0a\xfa\x1f",
    # ITU-T T.87: frame of 16 bits, 4 by 4, one component; behind a comment too
    "a JPEG-LS picture": b"\xff\xd8\xff\xfe\0\4ab\xff\xf7\0\x0b\x10\0\4\0\4\1\1\x11\0\xff\xda\0\10\1\1\0\0\0\0",
    "a GIF picture": b"GIF89a\1\0\1\0",
    "a ZIP archive": b"PK\3\4\x14\0\0\0",
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_kinds_of_files_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.png").write_bytes(OTHERS[name])
    [result], _ = processed([tmp_path / "a.png"])
    assert result.reason == "unsupported"
    assert result.message.startswith(f"no DICOM, PNG, JPEG, JPEG 2000 or TIFF file but {name}")


@pytest.mark.parametrize("data", [b"<", b"<!doctyp", b"\xef\xbb\xbf", b"B", b"II*", b" " * 200])
def test_files_that_end_before_they_are_known_have_no_name(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.png").write_bytes(data)
    [result], _ = processed([tmp_path / "a.png"])
    assert result.message == "its first bytes are not those of a DICOM, PNG, JPEG, JPEG 2000 or TIFF file"


# --- resampling


def overlap(source: int, target: int) -> NDArray[np.int64]:
    """How much of source pixel i lies below output pixel j, in units of 1/target: (target, source)."""
    i, j = np.arange(source), np.arange(target)[:, None]
    low, high = np.maximum(j * source, i * target), np.minimum((j + 1) * source, (i + 1) * target)
    return np.maximum(high - low, 0)


sides = st.integers(1, 90)


@settings(max_examples=60, deadline=None)
@given(height=sides, width=sides, rows=sides, columns=sides, wide=st.booleans(), seed=st.integers(0, 999))
def test_area_is_the_exact_mean_of_the_covered_pixels(
    height: int, width: int, rows: int, columns: int, wide: bool, seed: int
) -> None:
    rows, columns = min(rows, height), min(columns, width)
    dtype = np.uint16 if wide else np.uint8
    pixels = np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, (height, width), dtype=dtype)
    weighted = overlap(height, rows) @ pixels.astype(np.int64) @ overlap(width, columns).T
    expected = (2 * weighted + height * width) // (2 * height * width)
    result = _core.resample(pixels, height=rows, width=columns)
    assert result.dtype == dtype
    assert np.array_equal(result, expected)


@settings(max_examples=60, deadline=None)
@given(height=sides, width=sides, rows=sides, columns=sides, wide=st.booleans(), seed=st.integers(0, 999))
def test_area_is_within_one_level_of_opencv(
    height: int, width: int, rows: int, columns: int, wide: bool, seed: int
) -> None:
    if (rows <= height) != (columns <= width):
        columns = min(columns, width)
        rows = min(rows, height)
    dtype = np.uint16 if wide else np.uint8
    pixels = np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, (height, width), dtype=dtype)
    shrinks = rows <= height and columns <= width
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    expected = cv2.resize(pixels.astype(np.float32), (columns, rows), interpolation=how)
    result = _core.resample(pixels, height=rows, width=columns)
    assert np.abs(result.astype(float) - expected).max() <= (1.0 if wide else 0.6)  # single precision


def test_checkerboard_of_single_pixels_becomes_flat_gray() -> None:
    board = (np.indices((1024, 1000)).sum(axis=0) % 2 * 255).astype(np.uint8)
    assert np.unique(_core.resample(board, height=512, width=500)).tolist() == [128]  # 127.5, half up
    odd = _core.resample(board, height=100, width=77)
    assert int(odd.max()) - int(odd.min()) <= 2


@settings(max_examples=60, deadline=None)
@given(height=sides, width=sides, size=st.integers(1, 64), wide=st.booleans(), seed=st.integers(0, 999))
@example(height=1, width=16, size=8, wide=True, seed=485)  # a near tie, rounded apart in all eight equal rows
def test_paper_equals_scipy(height: int, width: int, size: int, wide: bool, seed: int) -> None:
    dtype = np.uint16 if wide else np.uint8
    pixels = np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, (height, width), dtype=dtype)
    exact = zoom(pixels.astype(np.float64), (size / height, size / width), order=2)
    expected = exact.clip(0, np.iinfo(dtype).max)
    result = _core.resample(pixels, height=size, width=size, recipe="paper")
    # SciPy writes 0 where rounding puts the last position a hair past the last pixel; here it is that pixel.
    inside = np.ix_(*(np.arange(size) * ((n - 1) / max(size - 1, 1)) <= n - 1 for n in (height, width)))
    difference = np.abs(result - expected)[inside]
    assert difference.max(initial=0) <= 0.51  # rounded, from less than 0.01 beside SciPy's value before rounding


# --- normalising


@pytest.mark.parametrize("shape", [(1, 2), (64, 64), (33, 57)])
@pytest.mark.parametrize("levels", [2, 40, 256])
def test_equalise_equals_opencv(shape: tuple[int, int], levels: int) -> None:
    pixels = (np.random.default_rng(levels).random(shape) ** 3 * levels).astype(np.uint8)
    expected = cv2.equalizeHist(pixels)
    _core.equalise(pixels)
    assert np.array_equal(pixels, expected)


def test_min_max_and_inversion() -> None:
    pixels = np.array([[1000, 1001, 1510], [3050, 2000, 1005]], dtype=np.uint16)
    out = np.zeros((2, 3), np.uint8)
    _core.process_array(pixels, out, recipe="area", equalise=False)
    # round((v - 1000) / 2050 * 255)
    assert out.tolist() == [[0, 0, 63], [255, 124, 1]]
    inverted = np.zeros((2, 3), np.uint8)
    _core.process_array(pixels, inverted, recipe="area", equalise=False, invert=True)
    assert np.array_equal(inverted, 255 - out)


def test_recipe_is_resampling_then_min_max_then_equalisation(tmp_path: Path) -> None:
    pixels = picture(300, 200, high=4096)[:, :, 0]
    (tmp_path / "a.png").write_bytes(png(pixels[:, :, None], depth=16, kind=GRAY))
    for recipe, resampled in (
        ("area", _core.resample(pixels, height=64, width=64)),
        ("paper", zoom(pixels, (64 / 300, 64 / 200), order=2)),
    ):
        expected = cv2.equalizeHist(cv2.normalize(resampled, None, 0, 255, cv2.NORM_MINMAX, dtype=cv2.CV_8U))
        out = np.zeros((1, 64, 64), np.uint8)
        [result] = _core.process_files([tmp_path / "a.png"], out, recipe=recipe, equalise=True)
        assert result.ok
        assert np.abs(out[0].astype(int) - expected).max() <= 1


# --- many files


def test_bytes_do_not_depend_on_the_number_of_threads(tmp_path: Path) -> None:
    files = []
    for number in range(40):
        file = tmp_path / f"{number}.png"
        file.write_bytes(png(picture(number + 2, 50 - number, high=1000 + number), depth=16, kind=GRAY))
        files.append(file)
    _, expected = processed(files, num_threads=1)
    counts: list[int] = []
    for threads in (0, 2, 7):
        results, out = processed(files, num_threads=threads, progress=counts.append)
        assert all(result.ok for result in results)
        assert np.array_equal(out, expected)
    assert sum(counts) == 3 * 40


def test_exception_in_the_progress_callback_is_carried_back(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(picture(), depth=8, kind=GRAY))

    def fail(count: int) -> None:
        raise RuntimeError(f"after {count}")

    with pytest.raises(RuntimeError, match="after 1"):
        processed([tmp_path / "a.png"], progress=fail)


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    out = np.zeros((2, 8, 8), np.uint8)
    with pytest.raises(ValueError, match="expected one picture for each of the 1 paths, got room for 2"):
        _core.process_files(["a"], out, recipe="area", equalise=True)
    with pytest.raises(ValueError, match=r"recipe: expected area or paper, got fast"):
        _core.process_files(["a", "b"], out, recipe="fast", equalise=True)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="incompatible function arguments"):
        _core.process_files(["a", "b"], out.astype(np.float32), recipe="area", equalise=True)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="incompatible function arguments"):
        _core.process_files(["a"], out[:, ::2, :], recipe="area", equalise=True)
    with pytest.raises(ValueError, match=r"pixels: expected a two-dimensional array"):
        _core.resample(np.zeros((0, 3), np.uint8), height=2, width=2)
    assert _core.process_files([], np.zeros((0, 8, 8), np.uint8), recipe="area", equalise=True) == []


INTERRUPTED = """
import sys, time, numpy as np
from dpdt import _core
out = np.zeros((20000, 256, 256), np.uint8)
print("started", flush=True)
try:
    _core.process_files([sys.argv[1]] * len(out), out, recipe="paper", equalise=True, num_threads=2)
except KeyboardInterrupt:
    print("interrupted", time.process_time(), flush=True)
"""


def test_ctrl_c_ends_it_within_a_second(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(picture(700, 700, high=65536), depth=16, kind=GRAY))
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path / "a.png")]
    assert seconds_to_interrupt(command, after=0.3) < 1.0


FORKED = """
import os, signal, sys
import numpy as np, torch
from dpdt import _core

def answers():
    norms, noise = np.zeros(64), np.zeros(100_000, np.float32)
    _core.add_squared_norms(np.ones((64, 10_000), np.float32), norms, num_threads=2)
    _core.add_normal(bytes(32), bytes(12), noise, scale=1.0, divisor=1.0, num_threads=2)
    return norms.tobytes() + noise.tobytes()

first = answers()
child = os.fork()
if child == 0:
    signal.alarm(30)  # it hung for ever
    os._exit(0 if answers() == first else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_process_that_was_forked_after_threads_were_used_answers_too() -> None:
    """OpenMP's pool, which torch and the core share, is not there in a forked child: it waits for threads for ever."""
    assert subprocess.run([sys.executable, "-c", FORKED], check=False, timeout=120).returncode == 0


def test_slurm_decides_the_number_of_threads_where_it_gives_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    without = _core.available_threads()
    for text, expected in (("1", 1), ("4096", without), ("", without), ("many", without), ("0", without)):
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", text)
        assert _core.available_threads() == expected, text


def test_affinity_decides_the_number_of_threads() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert _core.available_threads() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert 1 <= _core.available_threads() <= len(before)


def test_libraries_tell_their_versions() -> None:
    versions = _core.codecs()
    assert versions["jpeg"].startswith("libjpeg")
    assert versions["png"].startswith("libpng 1.")


# --- under the sanitizers


def has_sanitizers(folder: Path) -> bool:
    (folder / "main.cpp").write_text("int main() {}")
    command = ["c++", "-fsanitize=address,undefined", str(folder / "main.cpp"), "-o", str(folder / "main")]
    try:
        subprocess.run(command, check=True, capture_output=True)
        return subprocess.run([folder / "main"], capture_output=True, check=False).returncode == 0
    except (OSError, subprocess.CalledProcessError):
        return False


def find_cmake() -> str | None:
    return shutil.which("cmake", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))


@pytest.mark.slow
def test_the_core_without_codecs_needs_no_other_library_and_makes_the_same_noise() -> None:
    # For `make gpu-check` on a machine that has the libraries of no codec.
    import pybind11  # not in the image, where the quick tests of this file run

    cmake = find_cmake()
    if cmake is None:
        pytest.skip("needs cmake")
    root = Path(__file__).parent.parent
    build = root / "build" / "no-codecs"
    options = [
        "-DDPDT_CODECS=OFF",
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        f"-DPython_EXECUTABLE={sys.executable}",
    ]
    for command in ([cmake, "-S", root, "-B", build, *options], [cmake, "--build", build, "-j", "2"]):
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr
    (module,) = build.glob("_core*.so")
    needed = subprocess.run(["ldd", module], capture_output=True, text=True, check=True).stdout
    assert "libstdc++" in needed
    assert not any(library in needed for library in ("jpeg", "png", "tiff", "deflate", "openjp2", "charls"))
    noise = "out = numpy.empty(9_001); _core.fill_normal(bytes(32), bytes(12), out); print(out.sum())"
    script = f"import _core, numpy; {noise}"
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(build)}, capture_output=True, text=True
    )
    right = np.empty(9_001)
    _core.fill_normal(bytes(32), bytes(12), right)
    assert done.stdout.strip() == str(right.sum()), done.stderr


@pytest.mark.slow
def test_core_under_the_sanitizers(tmp_path: Path) -> None:
    cmake = find_cmake()
    if cmake is None or not has_sanitizers(tmp_path):
        pytest.skip("needs cmake and the libraries of AddressSanitizer and UndefinedBehaviorSanitizer")
    root = Path(__file__).parent.parent
    build = root / "build" / "sanitize"
    options = ["-DDPDT_PYTHON=OFF", "-DDPDT_TESTS=ON", "-DDPDT_SANITIZE=ON", "-DCMAKE_BUILD_TYPE=RelWithDebInfo"]
    for command in ([cmake, "-S", root, "-B", build, *options], [cmake, "--build", build, "-j", "2"]):
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr
    colour = np.stack([smooth(), smooth()[::-1], smooth()[:, ::-1]], axis=2)
    files = {
        "gray.jpg": jpeg(smooth()),
        "progressive.jpg": jpeg(colour, progressive=True),
        "gray16.png": png(picture(high=65536), depth=16, kind=GRAY),
        "rgba.png": png(picture(channels=4), depth=8, kind=RGBA, interlaced=True),
        "bits.png": png(picture(high=2), depth=1, kind=GRAY, interlaced=True),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    result = subprocess.run(
        [build / "core_tests", *(tmp_path / name for name in files)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "checks passed" in result.stdout


# --- real radiographs


def real_images() -> list[Path]:
    folder = Path(REAL_DATA or ".") / "images"
    kinds = (".png", ".jpg", ".jpeg")
    return sorted(file for file in folder.rglob("*") if file.suffix in kinds and file.parent.name != "invalid")


@needs_real_data
def test_every_real_image_agrees_with_opencv_and_scipy() -> None:
    files = real_images()
    assert len(files) >= 100
    for file in files:
        pixels, _, _ = _core.decode(file.read_bytes())
        expected = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION)
        assert pixels.dtype == expected.dtype, file
        assert np.abs(pixels.astype(int) - expected).max() <= 1, file
        if min(pixels.shape) >= 512:
            area = cv2.resize(pixels, (512, 512), interpolation=cv2.INTER_AREA)
            difference = np.abs(_core.resample(pixels, height=512, width=512).astype(int) - area)
            assert difference.max() <= 1, file
            assert (difference > 0).mean() < 0.01, file  # ties: OpenCV rounds half to even


@needs_real_data
def test_paper_agrees_with_scipy_on_every_real_image() -> None:
    files = real_images()
    for file in files:
        pixels, _, _ = _core.decode(file.read_bytes())
        zoomed = zoom(pixels, (512 / pixels.shape[0], 512 / pixels.shape[1]), order=2).astype(float)
        expected = (zoomed - zoomed.min()) / (zoomed.max() - zoomed.min()) * 255
        out = np.zeros((512, 512), np.uint8)
        _core.process_array(pixels, out, recipe="paper", equalise=False)
        assert (np.abs(out - expected) <= 1).mean() >= 0.999, file
