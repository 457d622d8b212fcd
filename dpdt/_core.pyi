"""Decoding, resampling and normalising of radiographs, many at once, in C++ without the GIL."""

from collections.abc import Callable, Sequence
from os import PathLike
from typing import Final, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

_Pixel = TypeVar("_Pixel", np.uint8, np.uint16)
_Recipe = Literal["area", "paper"]
_Aspect = Literal["stretch", "pad"]
_Codec = Literal["plain", "rle", "jpeg", "jpeg_lossless", "jpeg_ls", "jpeg2000"]
_Grid = tuple[tuple[int, int, int], tuple[int, int, int], int]

__version__: Final[str]
MAX_PIXELS: Final[int]

class ImageResult:
    """The result for one file of `process_files`."""

    @property
    def ok(self) -> bool:
        """Whether its pixels were written."""
    @property
    def reason(self) -> str:
        """Empty if ok; else missing, unreadable, empty, truncated, unsupported, too_large, constant, storage, or dicom.

        `storage`: not the file, but the disk failed; the next time it may not. `dicom` is no error: the file's pixels
        have to be read by pydicom and given to `process_array`.
        """
    @property
    def message(self) -> str:
        """The reason in words."""
    @property
    def format(self) -> str:
        """Found by the file's first bytes: jpeg, png, jpeg2000, tiff, dicom or unknown."""
    @property
    def height(self) -> int:
        """Rows of the file's picture; 0 where it was not decoded."""
    @property
    def width(self) -> int:
        """Columns of the file's picture; 0 where it was not decoded."""
    @property
    def bits(self) -> int:
        """Bits of a sample as stored in the file: 1, 2, 4, 8 or 16."""
    @property
    def warnings(self) -> int:
        """Oddities that do not change pixels, such as bytes after the picture's end."""

def reason_of(code: int) -> str:
    """Whose fault a number of `errno` is when a file is read: missing or unreadable, or storage, the disk's."""

def available_threads() -> int:
    """Cores given to this process by its affinity mask and cgroup."""

def keep_memory() -> bool:
    """Keep freed memory in the process instead of giving it back to the system, as long as the process lives.

    Returns:
        Whether it took effect: glibc's allocator can, others cannot.
    """

def fill_normal(key: bytes, nonce: bytes, out: NDArray[np.float64], *, num_threads: int = 1, vectors: str = "") -> None:
    """Fill with standard normal numbers of a ChaCha20 keystream; each is half the sum of four independent ones.

    Args:
        key: 32 bytes.
        nonce: 12 bytes, used once with a key.
        out: (n,), n up to 2^32, C order.
        num_threads: The numbers do not depend on it, nor on the processor.
        vectors: One of `noise_vectors()`, which all give the same numbers; empty: the fastest.
    """

def noise_vectors() -> list[str]:
    """Kinds of vectors that this processor has and noise is made with, the fastest last."""

def add_normal(
    key: bytes, nonce: bytes, values: NDArray[np.float32], *, scale: float, divisor: float, num_threads: int = 1
) -> None:
    """Make values (values + scale · n) / divisor, with the numbers n of `fill_normal`, in float64 and rounded once.

    Args:
        key: 32 bytes.
        nonce: 12 bytes, used once with a key.
        values: (n,), n up to 2^32, C order.
        scale: Standard deviation of what is added.
        divisor: Not 0.
        num_threads: As for `fill_normal`.
    """

def add_squared_norms(rows: NDArray[np.float32], out: NDArray[np.float64], *, num_threads: int = 1) -> None:
    """Add to each number the sum of the squares of its row, in float64.

    Args:
        rows: (n, numbers), C order.
        out: (n,), changed.
        num_threads: At most so many.
    """

def weight_squared_norms(
    x: NDArray[np.float32],
    gy: NDArray[np.float32],
    out: NDArray[np.float64],
    *,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    rounding: float,
    num_threads: int = 1,
) -> None:
    """Squared norm of each image's gradient of a convolution's weight, without it, in float64.

    Args:
        x: The layer's input (n, c, h, w), C order.
        gy: Gradient of its output (n, o, h', w'), C order.
        out: (n,), filled.
        kernel: Height and width of the kernel; the numbers after it are those of `torch.nn.Conv2d`.
        stride: Steps.
        padding: Of zeros, on both sides.
        dilation: Distance of the kernel's taps.
        groups: Of channels.
        rounding: Times the sum over places of the norms of the terms, is added, squared.
        num_threads: At most so many.

    Raises:
        ValueError: Shapes that do not fit.
    """

def gather(
    files: Sequence[NDArray[np.uint8]],
    file: NDArray[np.int64],
    row: NDArray[np.int64],
    out: NDArray[np.uint8],
    *,
    num_threads: int = 1,
) -> int | None:
    """Copy pictures from several (memory-mapped) arrays into one block, without the GIL.

    Returns the number of a file of which something is not there any more (cut, or on a disk that fails); else None.

    Args:
        files: Each (rows, height, width), C order.
        file: (k,) which of `files`.
        row: (k,) which of its pictures.
        out: (k, height, width), filled.
        num_threads: At most so many.

    Raises:
        IndexError: There is no such picture.
        ValueError: Shapes that do not fit.
    """

def view_of(seed: int) -> tuple[float, float, float, float, float, float, float]:
    """What `make_views` does for a seed.

    Returns:
        Angle in radians (what is shown turns clockwise), scale (above 1: larger), shifts to the right and down in parts
        of the side, contrast (a factor around 128), brightness (added), standard deviation of the noise.
    """

def make_views(pictures: NDArray[np.uint8], seeds: NDArray[np.uint64], *, num_threads: int = 1) -> None:
    """Turn each picture into the view of its seed, in place, without the GIL; the bytes depend on these two alone.

    Args:
        pictures: (k, size, size), C order, changed: bilinear, the nearest edge outside, never mirrored.
        seeds: (k,).
        num_threads: At most so many.

    Raises:
        ValueError: Shapes that do not fit.
    """

def codecs() -> dict[str, str]:
    """Names and versions of the libraries that decode, by format."""

def decode(data: bytes, *, max_pixels: int = ...) -> tuple[NDArray[np.uint8] | NDArray[np.uint16], int, int]:
    """Decode a JPEG, PNG, JPEG 2000 or TIFF file to gray (alpha ignored; colours by BT.601).

    Args:
        data: The file's bytes.
        max_pixels: Larger pictures are refused before memory is taken for them.

    Returns:
        The pixels (height, width) at the file's depth, uint8 or uint16; the bits of a sample as stored; the number of
        oddities that do not change pixels.

    Raises:
        DecodeError: Not a picture, a damaged or a too large one; the message begins with the reason's name.
    """

def decode_frame(
    data: bytes | bytearray | memoryview,
    *,
    codec: _Codec,
    rows: int,
    columns: int,
    bits_allocated: int,
    bits_stored: int,
    high_bit: int,
    is_signed: bool,
    big_endian: bool = False,
    max_pixels: int = ...,
    min_side: int = 0,
    max_halvings: int = ...,
) -> tuple[NDArray[np.integer], _Grid, int]:
    """Decode a DICOM frame of one sample a pixel to its stored values.

    Args:
        data: The frame's bytes.
        codec: What its transfer syntax says.
        rows: Of the picture, as the header has it, and so on.
        columns: Columns.
        bits_allocated: 8 or 16.
        bits_stored: 1 to bits_allocated.
        high_bit: bits_stored - 1 to bits_allocated - 1.
        is_signed: Pixel Representation.
        big_endian: Of plain pixels.
        max_pixels: Larger pictures are refused before memory is taken for them.
        min_side: Not 0: JPEG 2000 may be decoded at a smaller scale that leaves about this on both sides.
        max_halvings: How often it may be halved for that.

    Returns:
        The stored values (rows, columns) or fewer, 8 or 16 bits; where these pixels lie (rows, columns, halvings), for
        `process_array`; the number of oddities (a stream of another precision or signedness than the header's).

    Raises:
        DecodeError: Damaged data, or of another size than the header says; the message begins with the reason's name.
        ValueError: Bits out of their ranges.
    """

def resample(pixels: NDArray[_Pixel], *, height: int, width: int, recipe: _Recipe = "area") -> NDArray[_Pixel]:
    """Resample at native depth.

    Args:
        pixels: (h, w), uint8 or uint16, C order, sides up to 65535.
        height: Rows of the result, 1 to 32767.
        width: Columns of the result, 1 to 32767.
        recipe: `area`: mean of the covered pixels where an axis shrinks (cv2.INTER_AREA), linear where it grows, exact
            and rounded half up. `paper`: scipy.ndimage.zoom(order=2).

    Returns:
        (height, width) of the same dtype.
    """

def equalise(pixels: NDArray[np.uint8]) -> None:
    """Equalise the histogram in place, bit for bit as cv2.equalizeHist does it.

    Args:
        pixels: (h, w), C order.
    """

def process_array(
    pixels: NDArray[np.uint8] | NDArray[np.uint16],
    out: NDArray[np.uint8],
    *,
    recipe: _Recipe,
    equalise: bool,
    invert: bool = False,
    aspect: _Aspect = "stretch",
    pixel_aspect: float = 1.0,
    grid: _Grid | None = None,
) -> bool:
    """Resample, stretch to 0..255, invert if wanted, equalise if wanted.

    Args:
        pixels: (h, w), C order.
        out: (height, width), filled.
        recipe: See `resample`.
        equalise: Equalise the histogram at the end.
        invert: High values are shown dark (MONOCHROME1).
        aspect: `stretch` to the whole output, or `pad`: keep the picture's shape, centred, with 0 around it.
        pixel_aspect: Height of a pixel over its width, for `pad`.
        grid: Of a frame that was decoded at a smaller scale.

    Returns:
        False if that scale is too small for this picture: the result would be less than 45 dB from that of the whole
        one, as far as the picture tells. Then `out` is not filled.

    Raises:
        DecodeError: All pixels are equal (reason `constant`).
    """

def process_files(
    paths: Sequence[str | bytes | PathLike[str]],
    out: NDArray[np.uint8],
    *,
    recipe: _Recipe,
    equalise: bool,
    num_threads: int = 0,
    aspect: _Aspect = "stretch",
    max_pixels: int = ...,
    progress: Callable[[int], object] | None = None,
) -> list[ImageResult]:
    """Read and process many files on native threads; the GIL is free meanwhile and Ctrl-C works.

    Args:
        paths: The files, n of them.
        out: (n, height, width), C order; picture i is written to out[i] if its result is ok.
        recipe: See `resample`.
        equalise: Equalise the histogram at the end.
        num_threads: 0: `available_threads()`. The bytes do not depend on it.
        aspect: See `process_array`.
        max_pixels: Larger pictures are refused before memory is taken for them.
        progress: Called on the calling thread, every 50 ms at most, with the number of files done since the last call
            (without DICOM files, which are not done yet).

    Returns:
        One result a path. A bad file never stops the others.
    """
