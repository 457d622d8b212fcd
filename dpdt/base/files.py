"""Files that a crash cannot leave half-written, and that other users cannot read."""

import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from dpdt.errors import DpdtError

__all__ = [
    "atomic_path",
    "exclusive_lock",
    "file_state",
    "fingerprint",
    "is_locked",
    "last_line",
    "make_folder",
    "nearest_folder",
    "read_json",
    "read_tail",
    "remove_leftovers",
    "sha256_file",
    "sha256_once",
    "write_json",
    "write_text",
]

TAIL_BYTES: Final = 8192
CHUNK_BYTES = 1 << 20
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


def make_folder(folder: Path) -> Path:
    """Create a folder and its parents (0700 under the umask that the command line sets) and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`; publish it by fsync and rename when the block ends without an error.

    Readers see the old file or the new one, never a part. The temporary file is removed if the block raises.

    Args:
        path: Where the finished file shall be. Its folder is created.

    Yields:
        The name to write to, in the same folder.
    """
    make_folder(path.parent)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.rename(path)
        sync_folder(path.parent)
    except OSError as err:
        if err.filename is not None or err.errno is None:
            raise
        raise OSError(err.errno, err.strerror, str(path)) from err  # a full disk says of no write which file it was
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes were writing to `folder` by `atomic_path`; the caller must be the only writer."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically (UTF-8)."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, keys in the given order; NaN and infinity are refused because JSON has none."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DpdtError: The file is missing or not JSON; the message names it.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise DpdtError(f"{path}: no such file") from err
    except (ValueError, RecursionError) as err:  # not JSON, not UTF-8, or nested without end
        raise DpdtError(
            f"{path}: not valid JSON ({err}). The file is damaged; remove it and run the stage again."
        ) from err


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_once(path: Path) -> str:
    """`sha256_file`, read again only when the file has changed: of what is asked for at each look at a study."""
    state = path.stat()
    return _sha256_in_state(path, state.st_ino, state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _sha256_in_state(path: Path, *_state: int) -> str:
    return sha256_file(path)


def file_state(path: Path) -> tuple[int, int] | None:
    """A file's size and time of change (ns), by which a change is seen without reading it; None if there is no file."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_size, found.st_mtime_ns


def fingerprint(value: Any) -> str:
    """SHA-256 of a JSON-like value, independent of key order; infinity is written as ``Infinity``.

    >>> fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


@contextlib.contextmanager
def exclusive_lock(path: Path, *, blocking: bool = True) -> Iterator[None]:
    """Hold an advisory lock on `path` (created if missing); the kernel frees it when the process dies.

    Args:
        path: The lock file.
        blocking: Wait for the lock; otherwise raise at once if another process holds it.

    Raises:
        BlockingIOError: `blocking` is false and the lock is taken.
        DpdtError: The file system does not support locks.
    """
    make_folder(path.parent)
    with path.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if blocking else fcntl.LOCK_NB))
        except OSError as err:
            if err.errno not in NO_LOCKS:
                raise
            raise DpdtError(
                f"{path}: this file system has no locks ({err.strerror}), and without them two tasks could spend one "
                "privacy budget twice. Mount it with them (Lustre: -o flock), or set study.folder to another place."
            ) from err
        yield


def read_tail(file: Path, num_bytes: int = TAIL_BYTES) -> str:
    """The last bytes of a text file (the first line may be incomplete); "" if there is no file."""
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - num_bytes))
            return stream.read().decode(errors="replace")
    except FileNotFoundError:
        return ""


def last_line(text: str) -> str:
    """The last line that is not empty, without the spaces around it; "" if there is none."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def nearest_folder(folder: Path) -> Path:
    """A folder, or the nearest one above it that exists already."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def is_locked(file: Path) -> bool:
    """Whether another process holds the lock on a file; a missing file is not locked, and is not created."""
    try:
        with file.open("r") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError as err:
        if err.errno not in NO_LOCKS:
            raise
    return False
