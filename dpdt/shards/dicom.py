"""Pixels of DICOM files: pydicom reads the header, the core decodes the frame."""

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from dpdt import _core
from dpdt.errors import DecodeError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_Codec = Literal["plain", "rle", "jpeg", "jpeg_lossless", "jpeg_ls", "jpeg2000"]
_Grid = tuple[tuple[int, int, int], tuple[int, int, int]]

__all__ = ["DicomPixels", "read_dicom"]

GRAY: Final = ("MONOCHROME1", "MONOCHROME2")
LINEAR: Final = ("LINEAR", "LINEAR_EXACT")
COLOUR: Final = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
CODECS: Final[dict[str, _Codec]] = {
    "1.2.840.10008.1.2": "plain",
    "1.2.840.10008.1.2.1": "plain",
    "1.2.840.10008.1.2.1.99": "plain",
    "1.2.840.10008.1.2.2": "plain",
    "1.2.840.10008.1.2.4.50": "jpeg",
    "1.2.840.10008.1.2.4.57": "jpeg_lossless",
    "1.2.840.10008.1.2.4.70": "jpeg_lossless",
    "1.2.840.10008.1.2.4.80": "jpeg_ls",
    "1.2.840.10008.1.2.4.81": "jpeg_ls",
    "1.2.840.10008.1.2.4.90": "jpeg2000",
    "1.2.840.10008.1.2.4.91": "jpeg2000",
    "1.2.840.10008.1.2.5": "rle",
}
"""Transfer syntaxes that the core decodes; pydicom's plugins see to the others."""
LUMA_WEIGHTS: Final = np.array([9798, 19235, 3735], dtype=np.uint32)
"""BT.601 in 1/2^15, as `_core` and cv2.cvtColor have it."""


@dataclass(frozen=True)
class DicomPixels:
    """One frame.

    Attributes:
        pixels: (h, w), uint8 or uint16, C order. A rising straight line of the stored values: min-max takes it back.
        invert: High values are shown dark: MONOCHROME1, or a falling rescale slope, but not both.
        bits: Bits Stored.
        height: Rows of the file's picture; more than those of `pixels` if it was decoded at a smaller scale.
        width: Columns of the file's picture.
        grid: Where the pixels lie in it, for `_core.process_array`; None at full scale.
        warnings: Oddities that were read past.
        window: Whether the range was cut: `off` (not asked for), `linear`, `linear_exact`, or `none` (nothing to use).
    """

    pixels: NDArray[np.uint8] | NDArray[np.uint16]
    invert: bool
    bits: int
    height: int
    width: int
    grid: _Grid | None = None
    warnings: int = 0
    window: str = "off"


def read_dicom(path: str, *, min_side: int = 0, voi_window: bool = False) -> DicomPixels:
    """Read the one frame of a DICOM file as unsigned gray values.

    Rescale slope and intercept are a straight line, which the later min-max takes back, except for the slope's sign. A
    modality lookup table is applied. Pixel padding (PS3.3 C.7.5.1.1.2) gets the darkest value shown, so that it does
    not widen the range. Presentation lookup tables are not applied, windows only if asked for.

    Args:
        path: The file.
        min_side: Not 0: decode JPEG and JPEG 2000 at a smaller scale if that leaves about this many rows and columns.
        voi_window: Clip to the file's first window (PS3.3 C.11.2.1.2), if it names one that is linear and not empty.

    Returns:
        Pixels, whether to invert them after min-max, and what else there is to say.

    Raises:
        DecodeError: The message begins with the reason's name (`truncated: …`).
    """
    import pydicom

    try:
        dataset = pydicom.dcmread(path, force=True)
        return _pixels_of(dataset, min_side=min_side, voi_window=voi_window)
    except (DecodeError, MemoryError):
        raise
    except Exception as err:  # pydicom's plugins raise anything, and one bad file never stops a job
        reason = "truncated" if isinstance(err, EOFError) else "unreadable"
        raise DecodeError(f"{reason}: damaged DICOM data ({type(err).__name__}: {err})") from err


def _pixels_of(dataset: "Dataset", *, min_side: int, voi_window: bool) -> DicomPixels:
    _check(dataset)
    if "PixelPaddingValue" in dataset or "ModalityLUTSequence" in dataset:
        min_side = 0  # values that are no brightness must not be averaged
    pixels, grid, oddities = _stored_values(dataset, min_side=min_side)
    padding = _padding(pixels, dataset)
    slope = float(dataset.get("RescaleSlope", None) or 1.0)
    intercept = float(dataset.get("RescaleIntercept", None) or 0.0)
    if "ModalityLUTSequence" in dataset:
        from pydicom.pixels import apply_modality_lut

        pixels, slope, intercept = apply_modality_lut(pixels, dataset), 1.0, 0.0
    invert = (dataset.PhotometricInterpretation == "MONOCHROME1") != (slope < 0)
    if padding is not None:
        shown = pixels[~padding]
        pixels = np.where(padding, shown.max() if invert else shown.min(), pixels)
    window, edges = _window(dataset) if voi_window else ("off", None)
    if edges is not None:
        low, high = sorted((edge - intercept) / slope for edge in edges)
        span = np.iinfo(pixels.dtype) if pixels.dtype.kind in "iu" else np.finfo(pixels.dtype)
        pixels = np.clip(pixels, *np.clip(np.rint([low, high]), span.min, span.max).astype(pixels.dtype))
    return DicomPixels(
        pixels=_unsigned(pixels),
        invert=invert,
        bits=int(dataset.BitsStored),
        height=int(dataset.Rows),
        width=int(dataset.Columns),
        grid=grid,
        warnings=oddities,
        window=window,
    )


def _stored_values(dataset: "Dataset", *, min_side: int) -> tuple[NDArray[Any], _Grid | None, int]:
    """The frame (rows, columns), where its pixels lie, and the number of oddities."""
    syntax = str(dataset.file_meta.TransferSyntaxUID)
    codec = CODECS.get(syntax)
    allocated = int(dataset.BitsAllocated)
    if codec is None or allocated not in (8, 16) or int(dataset.get("SamplesPerPixel", 1)) != 1:
        pixels = np.asarray(dataset.pixel_array)
        if pixels.ndim == 3:
            pixels = _gray(pixels)
        if pixels.ndim != 2:
            raise DecodeError(f"unsupported: pixel data of shape {pixels.shape}, expected (rows, columns)")
        return pixels, None, 0
    data = dataset.PixelData
    if codec != "plain":
        from pydicom.encaps import get_frame

        data = get_frame(data, 0, number_of_frames=1)
        del dataset.PixelData  # one copy of the stream is enough
    stored = int(dataset.BitsStored)
    high_bit = dataset.get("HighBit", None)
    return _core.decode_frame(
        data,
        codec=codec,
        rows=int(dataset.Rows),
        columns=int(dataset.Columns),
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=stored - 1 if high_bit is None else int(high_bit),
        is_signed=int(dataset.get("PixelRepresentation", 0)) == 1,
        big_endian=syntax == "1.2.840.10008.1.2.2",
        min_side=min_side,
    )


def _window(dataset: "Dataset") -> tuple[str, tuple[float, float] | None]:
    """Kind and edges (in rescaled values) of the first window; `none` without one, or if empty or not linear."""
    kind = str(dataset.get("VOILUTFunction", None) or "LINEAR").upper()
    centres, widths = (np.atleast_1d(dataset.get(name, None)) for name in ("WindowCenter", "WindowWidth"))
    if kind not in LINEAR or not len(centres) or not len(widths) or centres[0] is None or widths[0] is None:
        return "none", None
    centre, width = float(centres[0]), float(widths[0])
    if kind == "LINEAR":
        centre, width = centre - 0.5, width - 1
    return (kind.lower(), (centre - width / 2, centre + width / 2)) if width > 0 else ("none", None)


def _check(dataset: "Dataset") -> None:
    """Say what is not supported before anything of the picture's size is allocated."""
    if "PixelData" not in dataset and "FloatPixelData" not in dataset and "DoubleFloatPixelData" not in dataset:
        raise DecodeError("empty: a DICOM file without pixel data")
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    if rows < 1 or columns < 1:
        raise DecodeError(f"empty: the header says {columns}x{rows} pixels")
    if rows * columns > _core.MAX_PIXELS:
        raise DecodeError(
            f"too_large: the header says {columns}x{rows} pixels, more than the limit of {_core.MAX_PIXELS}"
        )
    frames = int(dataset.get("NumberOfFrames", None) or 1)
    if frames != 1:
        raise DecodeError(f"unsupported: {frames} frames, expected one radiograph")
    photometric = str(dataset.PhotometricInterpretation)
    samples = int(dataset.get("SamplesPerPixel", 1))
    if photometric not in (GRAY if samples == 1 else COLOUR if samples == 3 else ()):
        raise DecodeError(f"unsupported: photometric interpretation {photometric} with {samples} samples a pixel")
    stored = 2 if photometric == "YBR_FULL_422" else samples  # two pixels share both colours: PS3.3 C.7.6.3.1.2
    _check_transfer_syntax(dataset, expected_bytes=rows * columns * stored * ((int(dataset.BitsAllocated) + 7) // 8))


def _check_transfer_syntax(dataset: "Dataset", *, expected_bytes: int) -> None:
    from pydicom.pixels import get_decoder
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    syntax = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
    if syntax is None:  # a bare data set: its own encoding tells
        implicit, little = dataset.original_encoding
        syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.ensure_file_meta()
        dataset.file_meta.TransferSyntaxUID = syntax
    if syntax.is_encapsulated and str(syntax) not in CODECS:
        available = False
        with contextlib.suppress(NotImplementedError):
            available = bool(get_decoder(syntax).is_available)
        if not available:
            raise DecodeError(f"unsupported: no decoder for the transfer syntax {syntax.name} ({syntax})")
    if not syntax.is_encapsulated and "PixelData" in dataset and len(dataset.PixelData) < expected_bytes:
        raise DecodeError(f"truncated: {len(dataset.PixelData)} bytes of pixels, expected {expected_bytes}")


def _gray(pixels: NDArray[Any]) -> NDArray[Any]:
    """RGB (h, w, 3) of 8 or 16 bits to gray, rounded as cv2.cvtColor rounds."""
    luma = (pixels.astype(np.uint32) @ LUMA_WEIGHTS + (1 << 14)) >> 15
    return luma.astype(pixels.dtype)


def _padding(stored: NDArray[Any], dataset: "Dataset") -> NDArray[np.bool_] | None:
    """Which stored values are padding; None if none or all are."""
    value = dataset.get("PixelPaddingValue", None)
    if value is None:
        return None
    limit = dataset.get("PixelPaddingRangeLimit", None)
    low, high = sorted((int(value), int(value if limit is None else limit)))
    padding = (stored >= low) & (stored <= high)
    return padding if padding.any() and not padding.all() else None


def _unsigned(pixels: NDArray[Any]) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Order-preserving straight line into uint8 or uint16; only types wider than 16 bits lose anything by it."""
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)  # Explicit VR Big Endian
    if pixels.dtype in (np.uint8, np.uint16):
        return np.ascontiguousarray(pixels)
    if pixels.dtype == np.int8:
        return np.ascontiguousarray(pixels).view(np.uint8) ^ np.uint8(0x80)
    if pixels.dtype == np.int16:
        return np.ascontiguousarray(pixels).view(np.uint16) ^ np.uint16(0x8000)
    wide = pixels.astype(np.float64)
    low, high = float(wide.min()), float(wide.max())
    if not np.isfinite([low, high]).all():
        raise DecodeError("unsupported: pixels that are not finite numbers")
    scale = 65535.0 / (high - low) if high > low else 0.0
    return np.rint((wide - low) * scale).astype(np.uint16)
