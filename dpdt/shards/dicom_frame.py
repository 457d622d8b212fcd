"""The one frame of a DICOM file: which encoding its bytes really have, and its stored values."""

import contextlib
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from dpdt import _core
from dpdt.errors import DecodeError
from dpdt.shards.dicom_header import Layout

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

Codec = Literal["plain", "rle", "jpeg", "jpeg_lossless", "jpeg_ls", "jpeg2000"]
Grid = tuple[tuple[int, int, int], tuple[int, int, int], int]
_Bytes = bytes | memoryview

__all__ = ["CODECS", "Codec", "Grid", "joined_fragments", "stored_values", "stream_codec"]

BIG_ENDIAN: Final = "1.2.840.10008.1.2.2"
CODECS: Final[dict[str, Codec]] = {
    "1.2.840.10008.1.2": "plain",
    "1.2.840.10008.1.2.1": "plain",
    "1.2.840.10008.1.2.1.99": "plain",
    BIG_ENDIAN: "plain",
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
SYNTAXES: Final[dict[Codec, str]] = {
    "plain": "1.2.840.10008.1.2.1",
    **{codec: syntax for syntax, codec in CODECS.items() if codec != "plain"},
}
"""A transfer syntax of each."""
NEW_SYNTAXES: Final = {
    "1.2.840.10008.1.2.4.110": "JPEG XL Lossless",
    "1.2.840.10008.1.2.4.111": "JPEG XL JPEG Recompression",
    "1.2.840.10008.1.2.4.112": "JPEG XL",
}
"""Names that pydicom 3.0 does not know."""
LUMA_WEIGHTS: Final = (9798, 19235, 3735)
"""BT.601 in 1/2^15, as `_core` and cv2.cvtColor have it."""
ITEM: Final = b"\xfe\xff\x00\xe0"
ITEM_END: Final = b"\xfe\xff\x0d\xe0\0\0\0\0"
SEQUENCE_END: Final = b"\xfe\xff\xdd\xe0\0\0\0\0"
UNDEFINED: Final = 0xFFFFFFFF


def stored_values(
    dataset: "Dataset", layout: Layout, oddities: list[str], *, min_side: int, max_halvings: int
) -> tuple[NDArray[Any], Grid | None, int]:
    """The frame, gray.

    Args:
        dataset: The file. Its Pixel Data are taken out of it.
        layout: What its header says.
        oddities: Gets a line about what is read past.
        min_side: As for `read_dicom`.
        max_halvings: As for `read_dicom`.

    Returns:
        Stored values (rows, columns), or fewer at a smaller scale; where they lie; oddities that the core counted.

    Raises:
        DecodeError: Damaged, truncated or not supported.
    """
    syntax = _transfer_syntax(dataset)
    if layout.is_float:
        return np.asarray(dataset.pixel_array), None, 0
    codec, data = _encoding(dataset, syntax, layout, oddities)
    del dataset.PixelData  # one copy of the stream is enough
    if codec is not None and layout.allocated in (8, 16) and layout.samples == 1:
        return _core.decode_frame(
            data,
            codec=codec,
            rows=layout.rows,
            columns=layout.columns,
            bits_allocated=layout.allocated,
            bits_stored=layout.stored,
            high_bit=layout.high_bit,
            is_signed=layout.is_signed,
            big_endian=syntax == BIG_ENDIAN,
            min_side=min_side,
            max_halvings=max_halvings,
        )
    pixels = _by_pydicom(dataset, layout, codec, syntax, data)
    return _gray(pixels) if pixels.ndim == 3 else pixels, None, 0


def _transfer_syntax(dataset: "Dataset") -> str:
    """The file's transfer syntax, if anything here decodes it; without one, the data set's own encoding tells."""
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    found = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
    if not found:
        implicit, little = dataset.original_encoding
        return ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else BIG_ENDIAN
    if str(found) not in CODECS:
        available = False
        with contextlib.suppress(NotImplementedError):
            available = bool(get_decoder(UID(found)).is_available)
        if not available:
            names = (NEW_SYNTAXES.get(str(found), UID(found).name), f"({found})")
            text = " ".join(name for name in names if name != found)
            raise DecodeError(f"unsupported: no decoder for the transfer syntax {text}")
    return str(found)


def _encoding(dataset: "Dataset", syntax: str, layout: Layout, oddities: list[str]) -> tuple[Codec | None, _Bytes]:
    """What the pixels are by their own bytes, whatever the transfer syntax says; None: left to pydicom."""
    data: bytes = dataset.PixelData
    named = CODECS.get(syntax)
    stream = joined_fragments(data)
    if stream is None and len(data) < layout.expected_bytes and stream_codec(data) is not None:
        stream = data  # compressed, and not even in an item
    if named == "plain":
        found = None if stream is None else stream_codec(stream)
        codec: Codec | None = found or "plain"
    elif stream is None:
        codec = "plain"
    else:
        codec = named and (stream_codec(stream) or named)
    if codec == "plain":
        if len(data) < layout.expected_bytes:
            raise DecodeError(f"truncated: {len(data)} bytes of pixels, expected {layout.expected_bytes}")
        stream = data
    if codec != named:
        oddities.append("the pixels are not encoded as the transfer syntax says")
    return codec, data if stream is None else stream


def joined_fragments(data: bytes) -> _Bytes | None:
    """The stream of the one frame in encapsulated pixel data (PS3.5 A.4); None if they are not made of items.

    All fragments belong to it, so the offset table is not needed: it may be wrong, empty or missing. Then the first
    item is the first fragment, which its first bytes tell.
    """
    view, items, place = memoryview(data), [], 0
    while data[place : place + 4] == ITEM and place + 8 <= len(data):
        length = int.from_bytes(data[place + 4 : place + 8], "little")
        place += 8
        if length == UNDEFINED:
            ends = [data.find(end, place) for end in (ITEM_END, SEQUENCE_END)]
            end = min((found for found in ends if found >= 0), default=len(data))
            items.append(view[place:end])
            place = end + len(ITEM_END) if data[end : end + 8] == ITEM_END else end
        else:
            items.append(view[place : place + length])
            place += length
    if not items:
        return None
    fragments = items if stream_codec(items[0]) is not None else items[1:]
    return fragments[0] if len(fragments) == 1 else b"".join(fragments)


def stream_codec(stream: _Bytes) -> Codec | None:
    """Which compression a stream has, by its first bytes; None if they tell nothing."""
    head = bytes(stream[:64])
    if head.startswith((b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ")):
        return "jpeg2000"
    if head.startswith(b"\xff\xd8"):
        return _jpeg_process(stream)
    words = [int.from_bytes(head[place : place + 4], "little") for place in range(0, len(head), 4)]
    if len(head) == 64 and 1 <= words[0] <= 15 and words[1] == 64 and not any(words[words[0] + 1 :]):  # PS3.5 G.5
        return "rle"
    return None


def _jpeg_process(stream: _Bytes) -> Codec | None:
    """By the frame header's marker (ITU-T T.81 table B.1, T.87 C.1.1)."""
    kinds: dict[int, Codec] = {0xC0: "jpeg", 0xC1: "jpeg", 0xC2: "jpeg", 0xC3: "jpeg_lossless", 0xF7: "jpeg_ls"}
    place = 2
    while place + 4 < len(stream) and stream[place] == 0xFF:
        marker = stream[place + 1]
        if marker in kinds:
            eight_bits = stream[place + 4] == 8
            return kinds[marker] if eight_bits or kinds[marker] != "jpeg" else None
        place += 1 if marker == 0xFF else 2 + int.from_bytes(stream[place + 2 : place + 4], "big")
    return None


def _by_pydicom(dataset: "Dataset", layout: Layout, codec: Codec | None, syntax: str, data: _Bytes) -> NDArray[Any]:
    """Colour, and gray of 1 and 32 bits: (rows, columns) or (rows, columns, 3)."""
    from pydicom.encaps import encapsulate
    from pydicom.uid import UID

    in_place = codec in ("plain", "rle")
    if layout.allocated == 1 and codec != "plain":
        raise DecodeError("unsupported: compressed pixels of 1 bit allocated")
    if layout.photometric.startswith("YBR") and layout.allocated != 8 and in_place:
        raise DecodeError(f"unsupported: {layout.photometric} of {layout.allocated} bits allocated")
    compressed = codec != "plain"
    if codec is not None and CODECS.get(syntax) != codec:
        syntax = SYNTAXES[codec]
    dataset.ensure_file_meta()
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.PixelData = encapsulate([bytes(data)]) if compressed else bytes(data)
    dataset["PixelData"].is_undefined_length = compressed
    dataset.PixelRepresentation = layout.representation
    dataset.BitsStored = (
        layout.allocated if in_place else layout.stored
    )  # `_take_bits` heeds High Bit, pydicom does not
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel = layout.photometric, layout.samples
    dataset.NumberOfFrames = 1
    if layout.samples == 3:
        dataset.PlanarConfiguration = layout.planar
    pixels = np.asarray(dataset.pixel_array)
    if pixels.shape[:2] != (layout.rows, layout.columns):
        raise DecodeError(f"unsupported: pixel data of shape {pixels.shape}, expected (rows, columns)")
    return _take_bits(pixels, layout) if in_place and layout.allocated > 1 else pixels


def _take_bits(pixels: NDArray[Any], layout: Layout) -> NDArray[Any]:
    """Clear the bits that do not belong to a value, or fill them with its sign."""
    if layout.stored == layout.allocated:
        return pixels
    kind = "i" if layout.is_signed else "u"
    values = pixels.astype(f"{kind}{layout.allocated // 8}")
    values <<= layout.allocated - 1 - layout.high_bit
    values >>= layout.allocated - layout.stored
    return values


def _gray(pixels: NDArray[Any]) -> NDArray[Any]:
    """RGB (h, w, 3) to gray of the same type, rounded as cv2.cvtColor rounds."""
    wide = np.dtype(np.uint32 if pixels.dtype in (np.uint8, np.uint16) else np.int64)  # sums of up to 2^47
    luma: NDArray[Any] = np.full(pixels.shape[:2], 1 << 14, dtype=wide)
    for number, weight in enumerate(LUMA_WEIGHTS):
        luma += pixels[..., number].astype(wide) * wide.type(weight)
    np.right_shift(luma, 15, out=luma)
    return luma.astype(pixels.dtype)
