"""Decoding, resampling and normalising of radiographs, many at once, in C++ without the GIL."""

from collections.abc import Callable, Sequence
from os import PathLike
from typing import Final, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

_Pixel = TypeVar("_Pixel", np.uint8, np.uint16)
_Recipe = Literal["area", "paper"]

__version__: Final[str]
MAX_PIXELS: Final[int]

class ImageResult:
    """What became of one file of `process_files`."""

    @property
    def ok(self) -> bool:
        """Whether its pixels were written."""
    @property
    def reason(self) -> str:
        """Empty if ok; else missing, unreadable, empty, truncated, unsupported, too_large, constant, or dicom.

        `dicom` is no error: the file's pixels have to be read by pydicom and given to `process_array`.
        """
    @property
    def message(self) -> str:
        """The reason in words."""
    @property
    def format(self) -> str:
        """Found by the file's first bytes: jpeg, png, dicom or unknown."""
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

def available_threads() -> int:
    """Cores given to this process by its affinity mask and cgroup."""

def codecs() -> dict[str, str]:
    """Names and versions of the libraries that decode, by format."""

def decode(data: bytes, *, max_pixels: int = ...) -> tuple[NDArray[np.uint8] | NDArray[np.uint16], int, int]:
    """Decode a JPEG or PNG file to gray (alpha ignored; colours by BT.601).

    Args:
        data: The file's bytes.
        max_pixels: Larger pictures are refused before memory is taken for them.

    Returns:
        The pixels (height, width) at the file's depth, uint8 or uint16; the bits of a sample as stored; the number of
        oddities that do not change pixels.

    Raises:
        DecodeError: Not a picture, a damaged or a too large one; the message begins with the reason's name.
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
) -> None:
    """Resample, stretch to 0..255, invert if wanted, equalise if wanted.

    Args:
        pixels: (h, w), C order.
        out: (height, width), filled.
        recipe: See `resample`.
        equalise: Equalise the histogram at the end.
        invert: High values are shown dark (MONOCHROME1).

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
    exact_decode: bool = False,
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
        exact_decode: Decode at full scale. Otherwise `area` may let the codec leave out detail below twice the target.
        max_pixels: Larger pictures are refused before memory is taken for them.
        progress: Called on the calling thread, every 50 ms at most, with the number of files done since the last call
            (without DICOM files, which are not done yet).

    Returns:
        One result a path. A bad file never stops the others.
    """
