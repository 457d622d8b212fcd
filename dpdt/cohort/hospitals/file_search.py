"""Looking for files: which of some paths are there, and which files below some folders have a wanted stem.

Both ask a disk or a server hundreds of thousands of times, on several threads.
"""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

__all__ = ["Parts", "files_by_stem", "in_threads", "parts_of", "there"]

Parts = tuple[str, ...]

SUFFIXES: Final = frozenset({"", "png", "jpg", "jpeg", "jpe", "dcm", "dicom", "dic", "ima"})
"""Of files that may be images."""
SUFFIX: Final = re.compile(r"(.+)\.([A-Za-z][A-Za-z0-9]{0,7})")
"""A stem and what counts as a suffix: the digits at the end of a DICOM UID do not."""

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
        folder, _, name = path.rpartition("/")
        folders[folder].append(name)
    absent: set[str] = set()
    found: set[str] = set()
    for part in in_threads(lambda item: _present(root, item[0], item[1], absent), folders.items()):
        found.update(part)
    return found


def _present(root: Path, folder: str, names: list[str], absent: set[str]) -> list[str]:
    """Those of a folder's images that are there; `absent` gets the outermost folder that is not."""
    if absent and not absent.isdisjoint(_with_parents(folder)):
        return []
    place, prefix = os.path.join(root, folder), f"{folder}/" if folder else ""
    inside = _listing(place) if len(names) > FEW else None
    if inside is None:
        found = [prefix + name for name in names if os.path.isfile(os.path.join(place, name))]
    else:  # a name without a suffix may be a folder's
        here = (name for name in names if name in inside)
        found = [prefix + name for name in here if "." in name or os.path.isfile(os.path.join(place, name))]
    if not found:
        gone = [parent for parent in _with_parents(folder) if not os.path.isdir(os.path.join(root, parent))]
        absent.update(gone[-1:])
    return found


def _listing(folder: str) -> frozenset[str] | None:
    """The names in a folder; None where it does not tell them, though it may tell of each."""
    try:
        return frozenset(os.listdir(folder))
    except PermissionError:
        return None
    except OSError:
        return frozenset()


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


def parts_of(path: str) -> Parts:
    """Folders and stem of a path, with either kind of slash."""
    *folders, name = path.replace("\\", "/").split("/")
    found = SUFFIX.fullmatch(name)
    return (*folders, found[1] if found else name)


def files_by_stem(root: Path, folders: Sequence[str], stems: set[str]) -> dict[str, list[str]]:
    """Every file below some folders that may be an image and has one of the stems; hidden folders are passed over."""
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


def _scan(root: Path, folder: str, stems: set[str]) -> tuple[list[tuple[str, str]], list[str], list[str]]:
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
            found = SUFFIX.fullmatch(entry.name)
            stem, suffix = found.groups() if found else (entry.name, "")
            if stem in stems and suffix.lower() in SUFFIXES:
                files.append((stem, path))
    return files, folders, links
