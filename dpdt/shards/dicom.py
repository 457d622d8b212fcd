"""Pixels of DICOM files: pydicom reads the header, the core decodes the frame."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from dpdt import _core
from dpdt.errors import DecodeError
from dpdt.shards.dicom_frame import Grid, stored_values
from dpdt.shards.dicom_header import layout_of, modality_table, numbers, padding_range, pixel_aspect, rescaling

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["DicomPixels", "read_dicom"]

LINEAR: Final = ("LINEAR", "LINEAR_EXACT")
PIXELS: Final = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


@dataclass(frozen=True)
class DicomPixels:
    """One frame.

    Attributes:
        pixels: (h, w), uint8 or uint16, C order. A rising straight line of the stored values: min-max takes it back.
        invert: High values are shown dark: MONOCHROME1, or a falling rescale slope, but not both.
        bits: Bits Stored.
        height: Rows of the file's picture; more than those of `pixels` if it was decoded at a smaller scale.
        width: Columns of the file's picture.
        pixel_aspect: Height of a pixel over its width.
        grid: Where the pixels lie in it, for `_core.process_array`; None at full scale.
        warnings: Oddities that were read past.
        oddities: In words, as far as they are in the header; never with a value of the file.
        window: Whether the range was cut: `off` (not asked for), `linear`, `linear_exact`, or `none` (nothing to use).
        line: Step and origin that make of a value here what the file has stored (of a modality table: what it gives).
    """

    pixels: NDArray[np.uint8] | NDArray[np.uint16]
    invert: bool
    bits: int
    height: int
    width: int
    pixel_aspect: float = 1.0
    grid: Grid | None = None
    warnings: int = 0
    oddities: Sequence[str] = ()
    window: str = "off"
    line: tuple[float, float] = (1.0, 0.0)

    @property
    def constant_message(self) -> str:
        """Why there is no picture where all pixels came out the same."""
        step, origin = self.line
        low, high = (step * float(value) + origin for value in (self.pixels.min(), self.pixels.max()))
        if low == high:
            return f"all pixels have the stored value {low:g}"
        return f"the stored values {low:g} to {high:g} become one after resampling"

    @property
    def halvings(self) -> int:
        """How often the picture was halved when it was decoded."""
        return 0 if self.grid is None else self.grid[2]


def read_dicom(path: str, *, min_side: int = 0, max_halvings: int = 32, voi_window: bool = False) -> DicomPixels:
    """Read the one frame of a DICOM file as unsigned gray values.

    Rescale slope and intercept are a straight line, which the later min-max takes back, except for the slope's sign. A
    modality lookup table is applied. Pixel padding (PS3.3 C.7.5.1.1.2) gets the darkest value shown, so that it does
    not widen the range. Presentation lookup tables are not applied, windows only if asked for. An element that cannot
    be used and is not needed is an oddity.

    Args:
        path: The file.
        min_side: Not 0: decode JPEG 2000 at a smaller scale if that leaves about this many rows and columns.
        max_halvings: How often it may be halved for that.
        voi_window: Clip to the file's first window (PS3.3 C.11.2.1.2), if it names one that is linear, not empty, and
            not beside all values of the picture.

    Returns:
        Pixels, whether to invert them after min-max, and what else there is to say.

    Raises:
        DecodeError: The message begins with the reason's name (`truncated: …`).
    """
    try:
        return _pixels_of(_read(Path(path)), min_side=min_side, max_halvings=max_halvings, voi_window=voi_window)
    except (DecodeError, MemoryError):
        raise
    except OSError as err:
        if err.errno is None:
            raise DecodeError(f"unreadable: damaged DICOM data ({err})") from err
        raise DecodeError(f"{_core.reason_of(err.errno)}: cannot read the file: {err.strerror}") from err
    except Exception as err:  # pydicom's plugins raise anything, and one bad file never stops a job
        reason = "truncated" if isinstance(err, EOFError) else "unreadable"
        raise DecodeError(f"{reason}: damaged DICOM data ({type(err).__name__}: {err})") from err


def _read(path: Path) -> "Dataset":
    """The data set. pydicom drops all of it where pixels of undefined length have no end: they are read here."""
    import pydicom

    dataset = pydicom.dcmread(path, force=True)
    if any(keyword in dataset for keyword in PIXELS):
        return dataset
    with path.open("rb") as stream:
        header = pydicom.dcmread(stream, force=True, stop_before_pixels=True)
        rest = stream.read()
    implicit, little = header.original_encoding
    tag, length = (b"\xe0\x7f\x10\x00", b"\xff" * 4) if little else (b"\x7f\xe0\x00\x10", b"\xff" * 4)
    start = 8 if implicit else 12
    if rest[:4] == tag and rest[start - 4 : start] == length:
        header.add_new("PixelData", "OB", rest[start:])
        return header
    return dataset


def _pixels_of(dataset: "Dataset", *, min_side: int, max_halvings: int, voi_window: bool) -> DicomPixels:
    oddities: list[str] = []
    layout = layout_of(dataset, oddities)
    padding = padding_range(dataset, layout, oddities)
    slope, intercept, known = rescaling(dataset, oddities)
    has_table = bool(dataset.get("ModalityLUTSequence", None))
    if padding is not None or has_table:
        min_side = 0  # values that are no brightness must not be averaged
    pixels, grid, warnings = stored_values(dataset, layout, oddities, min_side=min_side, max_halvings=max_halvings)
    is_padding = _within(pixels, padding)
    if padding is not None and is_padding is not None and is_padding.all():
        raise DecodeError(f"constant: all pixels are padding (stored values {padding[0]} to {padding[1]})")
    if has_table:
        pixels, slope, intercept, known = modality_table(dataset, pixels, layout), 1.0, 0.0, True
    invert = (layout.photometric == "MONOCHROME1") != (slope < 0)
    if is_padding is not None:
        shown = pixels[~is_padding]
        pixels = np.where(is_padding, shown.max() if invert else shown.min(), pixels)
    window, edges = _window(dataset, oddities) if voi_window else ("off", None)
    if edges is not None and not known:
        window, edges = "none", None
    if edges is not None:
        low, high = sorted((edge - intercept) / slope for edge in edges)
        span = np.iinfo(pixels.dtype) if pixels.dtype.kind in "iu" else np.finfo(pixels.dtype)
        clipped = np.clip(pixels, *np.clip(np.rint([low, high]), span.min, span.max).astype(pixels.dtype))
        if clipped.min() < clipped.max() or pixels.min() == pixels.max():
            pixels = clipped
        else:
            window = "none"
            oddities.append("the window leaves no contrast")
    unsigned, line = _unsigned(pixels)
    return DicomPixels(
        pixels=unsigned,
        invert=invert,
        bits=layout.stored,
        height=layout.rows,
        width=layout.columns,
        pixel_aspect=pixel_aspect(dataset, oddities),
        grid=grid,
        warnings=warnings + len(oddities),
        oddities=tuple(oddities),
        window=window,
        line=line,
    )


def _window(dataset: "Dataset", oddities: list[str]) -> tuple[str, tuple[float, float] | None]:
    """Kind and edges (in rescaled values) of the first window; `none` without one, or if empty or not linear."""
    kind = str(dataset.get("VOILUTFunction", None) or "LINEAR").upper()
    centres, widths = (numbers(dataset, name, oddities) for name in ("WindowCenter", "WindowWidth"))
    if kind not in LINEAR or not centres or not widths:
        return "none", None
    centre, width = centres[0], widths[0]
    if kind == "LINEAR":
        centre, width = centre - 0.5, width - 1
    return (kind.lower(), (centre - width / 2, centre + width / 2)) if width > 0 else ("none", None)


def _within(stored: NDArray[Any], span: tuple[int, int] | None) -> NDArray[np.bool_] | None:
    """Which stored values are padding; None if none are."""
    if span is None:
        return None
    found = (stored >= span[0]) & (stored <= span[1])
    return found if found.any() else None


def _unsigned(pixels: NDArray[Any]) -> tuple[NDArray[np.uint8] | NDArray[np.uint16], tuple[float, float]]:
    """Order-preserving straight line into uint8 or uint16, and step and origin of the way back.

    Only types wider than 16 bits lose anything by it.
    """
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)  # Explicit VR Big Endian
    if pixels.dtype in (np.uint8, np.uint16):
        return np.ascontiguousarray(pixels), (1.0, 0.0)
    if pixels.dtype == np.int8:
        return np.ascontiguousarray(pixels).view(np.uint8) ^ np.uint8(0x80), (1.0, -128.0)
    if pixels.dtype == np.int16:
        return np.ascontiguousarray(pixels).view(np.uint16) ^ np.uint16(0x8000), (1.0, -32768.0)
    wide = pixels.astype(np.float64)
    low, high = float(wide.min()), float(wide.max())
    if not np.isfinite([low, high]).all():
        raise DecodeError("unsupported: pixels that are not finite numbers")
    scale = 65535.0 / (high - low) if high > low else 0.0
    return np.rint((wide - low) * scale).astype(np.uint16), (1 / scale if scale else 1.0, low)
