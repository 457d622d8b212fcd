"""The file of a bundle: safetensors, whose one metadata entry is a JSON text with a checksum over the whole file.

Format: docs/bundle.md. It has no code, no names of files and no compression, so a reader executes nothing, writes
nowhere, and allocates no more than the file has.
"""

import hashlib
import json
import stat
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dpdt.base.files import atomic_path
from dpdt.errors import BundleError

__all__ = [
    "BLANK",
    "CHECKSUM",
    "FORMAT",
    "MOST_BYTES",
    "MOST_HEADER",
    "check_seal",
    "pack",
    "read_bytes",
    "seal",
    "strict_json",
    "unpack",
    "write_bytes",
]

FORMAT: Final = 1
KEY: Final = "dpdt"  # of the metadata
CHECKSUM: Final = "sha256"  # of the JSON; this place is the same in every format
BLANK: Final = "0" * 64  # stands in the checksum's place while it is computed
LENGTH: Final = struct.Struct("<Q")
MOST_HEADER: Final = 4 << 20
MOST_BYTES: Final = 1 << 30
Tensors = dict[str, NDArray[Any]]


def pack(manifest: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """The bytes of a bundle: the same content gives the same bytes.

    Args:
        manifest: JSON-like, without NaN; `format` and `sha256` are added.
        tensors: float32 and uint8, C order, by name.
    """
    from safetensors.numpy import save

    content = {"format": FORMAT, CHECKSUM: BLANK, **manifest}
    text = json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    blank = bytes(save({name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}, {KEY: text}))
    return seal(blank)


def seal(blank: bytes) -> bytes:
    """Put the SHA-256 of all bytes in the place of the 64 zeros among them."""
    return blank.replace(BLANK.encode(), hashlib.sha256(blank).hexdigest().encode(), 1)


def check_seal(data: bytes, claimed: Any, name: str) -> None:
    """Check the checksum of bytes that `seal` wrote.

    Args:
        data: All of them.
        claimed: What they say their checksum is.
        name: For messages.

    Raises:
        BundleError: There is none, or it is not theirs.
    """
    digits = claimed.encode("ascii", "replace") if isinstance(claimed, str) and len(claimed) == len(BLANK) else b""
    place = data.find(digits)
    if not digits or place < 0 or data.find(digits, place + 1) >= 0:
        raise BundleError(f"{name}: it has no checksum. Ask for the file again.")
    digest = hashlib.sha256(data[:place])
    digest.update(BLANK.encode())
    digest.update(memoryview(data)[place + len(digits) :])
    if digest.hexdigest() != claimed:
        raise BundleError(f"{name}: damaged or changed: its checksum is not that of its bytes. Ask for the file again.")


def unpack(data: bytes, name: str) -> tuple[dict[str, Any], Tensors]:
    """Check the bytes of a bundle and take them apart.

    Args:
        data: The whole file.
        name: For messages.

    Returns:
        The manifest, without `format` and `sha256`, and the tensors.

    Raises:
        BundleError: It is no bundle, cut, changed, too large, or of a newer format.
    """
    header = _header(data, name)
    manifest = _manifest(header, name)
    check_seal(data, manifest.pop(CHECKSUM, None), name)
    found = manifest.pop("format", None)
    if type(found) is int and found > FORMAT:
        raise BundleError(
            f"{name}: a bundle of format {found}, and this dpdt reads formats up to {FORMAT}. Install a newer dpdt."
        )
    if type(found) is not int or found != FORMAT:
        raise BundleError(f"{name}: format {str(found)[:20]!r}, expected {FORMAT}. Ask for the file again.")
    return manifest, _tensors(data, name)


def read_bytes(path: Path, *, most: int = MOST_BYTES) -> bytes:
    """All bytes of a file that comes from elsewhere, if they are no more than a bundle may have.

    Raises:
        BundleError: It is missing, no plain file, or too large.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # before it is opened: a pipe would wait for ever
            raise BundleError(f"{path}: not a file. Name the file that was sent.")
        with path.open("rb") as stream:
            data = stream.read(most + 1)
    except OSError as err:
        raise BundleError(f"{path}: cannot be read ({err.strerror}). Name the file that was sent.") from err
    if len(data) > most:
        raise BundleError(f"{path}: more than {most:,} bytes, the most that such a file may have.")
    return data


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file that leaves the hospital: whole or not at all, and for nobody else's eyes (0600)."""
    with atomic_path(path) as temporary:
        temporary.chmod(0o600)
        temporary.write_bytes(data)


def _header(data: bytes, name: str) -> bytes:
    """The JSON of safetensors, after a look at its length."""
    if len(data) > MOST_BYTES:
        raise BundleError(f"{name}: {len(data):,} bytes; a bundle has at most {MOST_BYTES:,}.")
    length = LENGTH.unpack_from(data)[0] if len(data) >= LENGTH.size else 0
    if length == 0 or data[LENGTH.size : LENGTH.size + 1] != b"{":
        raise BundleError(f"{name}: not a model bundle. Expected a file that `dpdt export` wrote.")
    if length > MOST_HEADER or length > len(data) - LENGTH.size:
        raise BundleError(
            f"{name}: damaged: a header of {length:,} bytes in a file of {len(data):,} (at most {MOST_HEADER:,}). "
            "Ask for the file again."
        )
    return data[LENGTH.size : LENGTH.size + length]


def _manifest(header: bytes, name: str) -> dict[str, Any]:
    """The JSON text in the metadata."""
    try:
        text = strict_json(header.decode("utf-8"))["__metadata__"][KEY]
        manifest = strict_json(text)
    except (ValueError, TypeError, KeyError, RecursionError) as err:
        raise BundleError(
            f"{name}: not a model bundle, or damaged (no {KEY} in its header). Ask for the file again."
        ) from err
    return manifest


def strict_json(text: Any) -> dict[str, Any]:
    """Strict JSON: an object, no name twice, no NaN. Another reader could take what is ambiguous for something else."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a name twice")
        return found

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    found = json.loads(text, object_pairs_hook=once, parse_constant=refuse)
    if not isinstance(found, dict):
        raise TypeError("not an object")
    return found


def _tensors(data: bytes, name: str) -> Tensors:
    """The arrays. The library checks every offset and length before it shows one."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return dict(load(data))
    except (SafetensorError, ValueError, TypeError, KeyError, OverflowError) as err:
        raise BundleError(f"{name}: its tensors are not as safetensors has them ({err}).") from err
