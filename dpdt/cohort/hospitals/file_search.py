"""Looking for files: which of some paths are there, and which files below some folders have a wanted stem.

Both ask a disk or a server hundreds of thousands of times, on several threads.
"""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

__all__ = ["NOT_UTF8", "PICTURES", "Parts", "files_by_stem", "in_threads", "is_utf8", "parts_of", "stem_of", "there"]

Parts = tuple[str, ...]

PICTURES: Final = frozenset({"png", "jpg", "jpeg", "jpe", "jp2", "j2k", "tif", "tiff", "dcm", "dicom", "dic", "ima"})
SUFFIXES: Final = PICTURES | {""}
"""Of files that may be images."""
LONGEST_SUFFIX: Final = 8
NOT_UTF8: Final = "a name that is not UTF-8, as old systems write them: rename it, for example with convmv"

THREADS: Final = 8
"""Questions at one time: each waits for a disk, or for a server."""
CHUNK: Final = 256
FEW: Final = 4
"""So many images of a folder are looked at one by one; more are compared with one listing of the folder."""


def there(root: Path, paths: Iterable[str]) -> set[str]:
    """Those of some paths, relative to `root` or absolute, at which there is a file.

    A folder that is not there is asked for once, and not for each of its images.
    """
    folders: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        folders[path.rpartition("/")[0]].append(path)
    absent: set[str] = set()
    found: set[str] = set()
    for part in in_threads(lambda item: _present(root, item[0], item[1], absent), folders.items()):
        found.update(part)
    return found


def _present(root: Path, folder: str, paths: list[str], absent: set[str]) -> list[str]:
    """Those of a folder's paths that are there; `absent` gets the outermost folder that is not."""
    if absent and not absent.isdisjoint(_with_parents(folder)):
        return []
    inside = _listing(os.path.join(root, folder)) if len(paths) > FEW else None
    if inside is None:
        found = [path for path in paths if os.path.isfile(os.path.join(root, path))]
    else:
        start = len(folder) + 1 if folder else 0
        found = [path for path in paths if path[start:] in inside]
    if not found:
        gone = [parent for parent in _with_parents(folder) if not os.path.isdir(os.path.join(root, parent))]
        absent.update(gone[-1:])
    return found


def _listing(folder: str) -> frozenset[str] | None:
    """The names of the files in a folder; None where it does not tell them, though it may tell of each."""
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if _is_file(entry))
    except PermissionError:
        return None
    except OSError:
        return frozenset()


def _is_file(entry: "os.DirEntry[str]") -> bool:
    """Whether a folder's entry is a file, or a link that leads to one; most disks tell it without being asked again."""
    with suppress(OSError):
        return entry.is_file()
    return False


def _with_parents(folder: str) -> list[str]:
    """A folder and those above it, the innermost first."""
    found = []
    while folder:
        found.append(folder)
        folder = folder.rpartition("/")[0]
    return found


def in_threads(function: Callable[[Any], Any], items: Collection[Any]) -> Iterator[Any]:
    """The function's answers in the order of the items; on this thread alone where they are few."""
    if len(items) <= CHUNK:
        yield from map(function, items)
        return
    listed = list(items)
    chunks = [listed[start : start + CHUNK] for start in range(0, len(listed), CHUNK)]
    with ThreadPoolExecutor(THREADS) as pool:
        for answers in pool.map(lambda chunk: list(map(function, chunk)), chunks):
            yield from answers


def split_suffix(name: str) -> tuple[str, str]:
    """Stem and suffix of a file's name; the digits at the end of a DICOM UID are no suffix.

    >>> split_suffix("00000001_000.png"), split_suffix("1.2.840.113.5")
    (('00000001_000', 'png'), ('1.2.840.113.5', ''))
    """
    name = name if name.isascii() else unicodedata.normalize("NFC", name)  # macOS writes ö as o and two dots
    stem, _, suffix = name.rpartition(".")
    if stem and suffix and (suffix in SUFFIXES or _may_be_a_suffix(suffix)):
        return stem, suffix
    return name, ""


def _may_be_a_suffix(text: str) -> bool:
    return text[0].isalpha() and text.isalnum() and len(text) <= LONGEST_SUFFIX


def is_utf8(path: str) -> bool:
    """Whether a path is text: one of an old system may have other bytes, which no table can hold."""
    with suppress(UnicodeEncodeError):
        path.encode()
        return True
    return False


def parts_of(path: str) -> Parts:
    """Folders and stem of a path, with either kind of slash."""
    *folders, name = (path if path.isascii() else unicodedata.normalize("NFC", path)).replace("\\", "/").split("/")
    return (*folders, split_suffix(name)[0])


def stem_of(path: str) -> str:
    """The last of its parts."""
    return split_suffix(path.replace("\\", "/").rpartition("/")[2])[0]


def files_by_stem(root: Path, folders: Sequence[str], stems: Callable[[], set[str]]) -> dict[str, list[str]]:
    """Every file below some folders that may be an image and has one of the stems; hidden folders are passed over.

    Args:
        root: The domain's folder.
        folders: Where to look, relative to `root` or absolute.
        stems: Gives the wanted ones; asked when there is a file.
    """
    index: dict[str, list[str]] = defaultdict(list)
    seen = {os.path.realpath(root / folder) for folder in folders}
    level = list(folders)
    while level:
        below: list[str] = []
        for files, inside, links in in_threads(lambda folder: _scan(root, folder, stems), level):
            for stem, file in files:
                index[stem].append(file)
            below += inside
            for link in links:  # each target once, or a link to a folder above would never end
                target = os.path.realpath(root / link)
                if target not in seen:
                    seen.add(target)
                    below.append(link)
        level = below
    return index


def _scan(root: Path, folder: str, stems: Callable[[], set[str]]) -> tuple[list[tuple[str, str]], list[str], list[str]]:
    """What is in one folder: wanted files by stem, folders, links to folders."""
    files: list[tuple[str, str]] = []
    folders: list[str] = []
    links: list[str] = []
    with suppress(OSError), os.scandir(os.path.join(root, folder)) as entries:
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir():
                if not entry.name.startswith("."):
                    (links if entry.is_symlink() else folders).append(path)
                continue
            stem, suffix = split_suffix(entry.name)
            if suffix.lower() in SUFFIXES and stem in stems() and _is_file(entry):
                files.append((stem, path))
    return files, folders, links
