"""What a DICOM header says about its pixels; elements that are not as the standard has them are read past, and told."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from dpdt import _core
from dpdt.errors import DecodeError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["Layout", "layout_of", "modality_table", "numbers", "padding_range", "pixel_aspect", "rescaling"]

GRAY: Final = ("MONOCHROME1", "MONOCHROME2")
COLOUR: Final = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
ALLOCATED: Final = (1, 8, 16, 32)
FLOATS: Final = {"FloatPixelData": 32, "DoubleFloatPixelData": 64}
# Vertical over horizontal distance of pixels. The first is there where the others are not: PS3.3 C.7.6.3.1.7.
ASPECTS: Final = ("PixelAspectRatio", "PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
MAX_ASPECT: Final = 20.0


@dataclass(frozen=True)
class Layout:
    """The picture's size and the bits of a sample (PS3.3 C.7.6.3).

    Attributes:
        rows: Of the picture.
        columns: Of the picture.
        samples: Of a pixel: 1 or 3.
        photometric: Photometric Interpretation.
        allocated: Bits of a sample's place: 1, 8, 16, 32; 64 for floating point only.
        stored: Bits of its value.
        high_bit: Number of the value's highest bit.
        representation: 1: two's complement.
        planar: 1: the samples of a colour lie together.
        is_float: Floating point; the bits above mean nothing then.
    """

    rows: int
    columns: int
    samples: int
    photometric: str
    allocated: int
    stored: int
    high_bit: int
    representation: int
    planar: int
    is_float: bool

    @property
    def is_signed(self) -> bool:
        """Whether the values are two's complement."""
        return self.representation == 1

    @property
    def expected_bytes(self) -> int:
        """Bytes of uncompressed pixels."""
        # two pixels share both colours: PS3.3 C.7.6.3.1.2
        samples = 2 if self.photometric == "YBR_FULL_422" else self.samples
        return (self.rows * self.columns * samples * self.allocated + 7) // 8


def layout_of(dataset: "Dataset", oddities: list[str]) -> Layout:
    """Read and check what must be known before anything of the picture's size is allocated.

    Raises:
        DecodeError: No pixels, too many of them, or a kind that is not supported, by name.
    """
    floats = [bits for keyword, bits in FLOATS.items() if keyword in dataset]
    if "PixelData" not in dataset and not floats:
        raise DecodeError("empty: a DICOM file without pixel data")
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    if rows < 1 or columns < 1:
        raise DecodeError(f"empty: the header says {columns}x{rows} pixels")
    if rows * columns > _core.MAX_PIXELS:
        raise DecodeError(
            f"too_large: the header says {columns}x{rows} pixels, more than the limit of {_core.MAX_PIXELS}"
        )
    frames = next(iter(numbers(dataset, "NumberOfFrames", oddities)), 1.0) or 1.0
    if frames != 1:
        raise DecodeError(f"unsupported: {frames:g} frames, expected one radiograph")
    samples = _integer(dataset, "SamplesPerPixel", 1)
    photometric = _photometric(dataset, samples, oddities)
    allocated = floats[0] if floats else int(dataset.BitsAllocated)
    stored = _integer(dataset, "BitsStored", allocated)
    layout = Layout(
        rows=rows,
        columns=columns,
        samples=samples,
        photometric=photometric,
        allocated=allocated,
        stored=stored,
        high_bit=_integer(dataset, "HighBit", stored - 1),
        representation=_integer(dataset, "PixelRepresentation", 0),
        planar=_integer(dataset, "PlanarConfiguration", 0) if samples > 1 else 0,
        is_float=bool(floats),
    )
    if not layout.is_float:
        _check_bits(layout)
    return layout


def _integer(dataset: "Dataset", keyword: str, otherwise: int) -> int:
    value = dataset.get(keyword, None)
    return otherwise if value is None else int(value)


def _photometric(dataset: "Dataset", samples: int, oddities: list[str]) -> str:
    photometric = str(dataset.get("PhotometricInterpretation", None) or "").strip().upper()
    if not photometric and samples in (1, 3):
        photometric = "MONOCHROME2" if samples == 1 else "RGB"
        oddities.append("no PhotometricInterpretation")
    if photometric not in (GRAY if samples == 1 else COLOUR if samples == 3 else ()):
        raise DecodeError(f"unsupported: photometric interpretation {photometric[:20]} with {samples} samples a pixel")
    return photometric


def _check_bits(layout: Layout) -> None:
    allocated, stored, high = layout.allocated, layout.stored, layout.high_bit
    if allocated not in ALLOCATED or (allocated == 1 and layout.samples != 1):
        raise DecodeError(f"unsupported: {allocated} bits allocated, expected 1 (gray), 8, 16 or 32")
    if not 1 <= stored <= allocated:
        raise DecodeError(f"unsupported: {stored} bits stored of {allocated} allocated")
    if layout.planar not in (0, 1) or layout.representation not in (0, 1):
        raise DecodeError(
            f"unsupported: planar configuration {layout.planar}, pixel representation {layout.representation}; "
            "expected 0 or 1"
        )
    if not stored - 1 <= high < allocated:
        raise DecodeError(f"unsupported: high bit {high} with {stored} bits stored of {allocated} allocated")


def numbers(dataset: "Dataset", keyword: str, oddities: list[str], *, comma: bool = False) -> list[float]:
    """The values of an element; none if it is missing, empty, or not made of finite numbers, which is an oddity.

    Args:
        dataset: The header.
        keyword: The element.
        oddities: Gets a line about what is read past.
        comma: A decimal comma is read for a point. It is an oddity as well.
    """
    written: Any = dataset.get_item(keyword)  # before pydicom turns it into a number
    try:
        value = dataset.get(keyword, None)
        values: Any = [] if value is None or value == "" else np.atleast_1d(value)
        found = [float(each) for each in values]
    except (ValueError, TypeError, ArithmeticError):
        oddities.append(f"{keyword} is not a number")
        found = _with_comma(written.value) if comma else []
    if not all(map(math.isfinite, found)):
        oddities.append(f"{keyword} is not finite")
        return []
    return found


def _with_comma(text: object) -> list[float]:
    try:
        return [float(part.replace(b",", b".")) for part in text.split(b"\\")] if isinstance(text, bytes) else []
    except ValueError:
        return []


def rescaling(dataset: "Dataset", oddities: list[str]) -> tuple[float, float, bool]:
    """Rescale slope and intercept, and whether they are known: min-max needs the slope's sign alone, a window all."""
    before = len(oddities)
    values = []
    for keyword, otherwise in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0)):
        found = numbers(dataset, keyword, oddities, comma=True)
        if len(found) > 1:
            oddities.append(f"{keyword} has several values")
        values.append(found[0] if found else otherwise)
    slope, intercept = values
    return slope or 1.0, intercept, len(oddities) == before


def pixel_aspect(dataset: "Dataset", oddities: list[str]) -> float:
    """Height of a pixel over its width; 1 where nothing is said."""
    for keyword in ASPECTS:
        if keyword in dataset:
            found = numbers(dataset, keyword, oddities)
            if len(found) == 2 and min(found) > 0 and 1 / MAX_ASPECT <= found[0] / found[1] <= MAX_ASPECT:
                return found[0] / found[1]
            if found:
                oddities.append(f"{keyword} is no shape of a pixel")
    return 1.0


def padding_range(dataset: "Dataset", layout: Layout, oddities: list[str]) -> tuple[int, int] | None:
    """Lowest and highest stored value of pixel padding (PS3.3 C.7.5.1.1.2); None without it."""
    value = _stored_value(dataset, "PixelPaddingValue", layout, oddities)
    if value is None:
        return None
    limit = _stored_value(dataset, "PixelPaddingRangeLimit", layout, oddities)
    return min(value, value if limit is None else limit), max(value, value if limit is None else limit)


def _stored_value(dataset: "Dataset", keyword: str, layout: Layout, oddities: list[str]) -> int | None:
    """A value whose VR should be that of the pixels: SS where they are signed, US where not."""
    element: Any = dataset.get_item(keyword)
    if element is None or not element.value:
        return None
    data, vr = element.value, element.VR
    if not isinstance(data, bytes) or len(data) != (4 if vr in ("UL", "SL") else 2):
        oddities.append(f"{keyword} is not one number")
        return None
    value = int.from_bytes(data, "little" if element.is_little_endian else "big", signed=layout.is_signed)
    if vr in ("US", "SS", "UL", "SL") and vr.startswith("S") != layout.is_signed:
        oddities.append(f"{keyword} has the sign of another PixelRepresentation")
        if layout.stored <= 16:  # as the pixels are read: bits above the stored ones do not count
            value %= 1 << layout.stored
            if layout.is_signed and value >> (layout.stored - 1):
                value -= 1 << layout.stored
    return value


def modality_table(dataset: "Dataset", pixels: NDArray[Any], layout: Layout) -> NDArray[Any]:
    """Apply the modality lookup table (PS3.3 C.11.1.1), of 1 to 16 bits, in bytes or in words.

    Returns:
        uint8 for tables of up to 8 bits, otherwise uint16.

    Raises:
        DecodeError: The table is shorter than its descriptor says.
    """
    item = dataset.ModalityLUTSequence[0]
    descriptor: Any = item.get_item("LUTDescriptor")
    order: Any = "<" if descriptor.is_little_endian else ">"
    entries, first, bits = (int(word) for word in np.frombuffer(descriptor.value, f"{order}u2", 3))
    entries = entries or 1 << 16
    if layout.is_signed and first >> 15:
        first -= 1 << 16
    data = bytes(item.get_item("LUTData").value)
    if len(data) < 2 * entries and bits <= 8:
        data = np.frombuffer(data, f"{order}u2").astype("<u2").tobytes()  # bytes in words: the lower one first
        table = np.frombuffer(data, np.uint8)
    else:
        table = np.frombuffer(data[: len(data) // 2 * 2], f"{order}u2").astype(np.uint16)
    if len(table) < entries:
        raise DecodeError(f"unreadable: a modality table of {len(table)} entries, its descriptor says {entries}")
    table = table[:entries].astype(np.uint8 if bits <= 8 else np.uint16)
    places: NDArray[Any] = pixels.astype(np.int32 if pixels.dtype.itemsize <= 2 else np.int64)
    np.subtract(places, first, out=places)
    np.clip(places, 0, entries - 1, out=places)
    looked_up: NDArray[Any] = table[places]
    return looked_up
