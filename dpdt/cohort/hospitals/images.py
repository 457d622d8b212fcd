"""Where a domain's images lie: at the path that its list gives, or found by name below the domain's folders.

People have resized copies with another suffix, all in one folder, or in folders of their own. A listed image that is
not in its place is looked for by its stem, the file's name without its suffix. Where several listed images share a
stem, as CheXpert's `view1_frontal` do, the end of the path decides: as many folders as tell the listed paths apart. An
image for which two files are left is an error; no file is given to an image whose path it does not end as.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd

from dpdt.base.console import note
from dpdt.cohort.hospitals.file_search import Parts, files_by_stem, parts_of, there
from dpdt.cohort.hospitals.raw_cohort import ELSEWHERE, MISSING_IMAGES, RawCohort, is_among
from dpdt.errors import CohortError
from dpdt.study.domain_settings import DomainSettings

__all__ = ["place_images"]


def place_images(raw: RawCohort, root: Path, settings: DomainSettings) -> RawCohort:
    """Give each image the path at which it is; what is nowhere is treated by the policy `missing_images`.

    Args:
        raw: A reader's answer; its `frame.path` says where an image should be, relative to `root`.
        root: The domain's folder.
        settings: The domain's settings.

    Returns:
        The same with paths of files that are there, relative to `root`, or absolute where they are outside of it. An
        image that is nowhere keeps its path, or is excluded.

    Raises:
        CohortError: An image has two candidates, a folder of `image_folders` is not there, or no image is.
    """
    wanted = raw.frame["path"]
    found = _find(root, wanted, wanted if raw.listed is None else raw.listed, settings)
    lost = ~is_among(wanted, found)
    if len(wanted) and lost.all() and settings.missing_images != "later":
        raise _none_is_there(root, wanted.iloc[0], len(wanted), settings)
    moved = {path: file for path, file in found.items() if _folder(file) != _folder(path)}
    counts = {**raw.counts, ELSEWHERE: int(is_among(wanted, moved).sum())}
    frame, exclusions = raw.frame.assign(path=[found.get(path, path) for path in wanted]), raw.exclusions
    if settings.missing_images == "exclude":
        gone = frame.loc[lost, ["image_id", "view"]].assign(reason="image not found")
        frame, exclusions = frame[~lost], pd.concat([exclusions, gone]).sort_index(kind="stable")
    else:
        counts[MISSING_IMAGES] = int(lost.sum())
    warnings = (*raw.warnings, *_mixed_folders(found, moved))
    return replace(raw, frame=frame, exclusions=exclusions, counts=counts, warnings=warnings)


def _find(root: Path, wanted: "pd.Series[str]", listed: "pd.Series[str]", settings: DomainSettings) -> dict[str, str]:
    """Wanted path -> path of its file as the cohort's table has it; what is nowhere is left out."""
    folders = _searched(root, settings)
    absent = [folder for folder in folders if not (root / folder).is_dir()]
    if absent and settings.image_folders and settings.missing_images != "later":
        raise CohortError(f"image_folders: no folder {root / absent[0]}. Correct it in the study file.")
    found: dict[str, list[str]] = defaultdict(list)
    for folder in folders if settings.image_folders else [""]:
        for path, file in _in_place(root, folder, wanted):
            found[path].append(file)
    lost = [path for path in wanted if path not in found]
    if lost:
        where = " or ".join(str(root / folder) for folder in folders)
        note(f"{len(lost)} of {len(wanted)} images are not where the list says: looking for their names below {where}.")
        found |= _by_name(lost, listed, files_by_stem(root, folders, {parts_of(path)[-1] for path in lost}))
    return _one_each(root, found)


def _below(root: Path, folder: Path) -> str:
    """A folder relative to `root`, or absolute where it is outside of it."""
    below = (folder.relative_to(root) if folder.is_relative_to(root) else folder).as_posix()
    return "" if below == "." else below


def _searched(root: Path, settings: DomainSettings) -> list[str]:
    """Where images are looked for by name: never past a folder that the study file names."""
    named = [*settings.image_folders]
    if not named:
        named += [folder for name, folder in settings.files.items() if name.endswith("images")]
        named += [] if settings.table is None else [settings.table.images]
    return [_below(root, folder) for folder in named] or [""]


def _in_place(root: Path, folder: str, paths: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Each path that is there below a folder of the root, as written or with slashes for backslashes, and its file."""
    files = {path: os.path.join(folder, path) for path in paths}
    present = there(root, files.values())
    slashed = {path: file.replace("\\", "/") for path, file in files.items() if "\\" in file and file not in present}
    present |= there(root, slashed.values())
    files |= slashed
    yield from ((path, file) for path, file in files.items() if file in present)


def _folder(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[0]


def _by_name(lost: Iterable[str], listed: Iterable[str], files: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """The candidates of each lost path that has one.

    Of the files with a path's stem those are its own that end as it does and as no other listed path does; of these,
    those that share most of their last folders with it.
    """
    alike: dict[str, dict[str, Parts]] = defaultdict(dict)
    for path in (*lost, *listed) if files else ():
        parts = parts_of(path)
        if parts[-1] in files:
            alike[parts[-1]][path] = parts
    searched, found = frozenset(lost), {}
    for stem, paths in alike.items():
        ends = {file: parts_of(file) for file in files[stem]}
        for path, own in _own_files(paths, ends).items():
            if path in searched and own:
                shared = {file: _shared_end(paths[path], ends[file]) for file in own}
                found[path] = [file for file in own if shared[file] == max(shared.values())]
    return found


def _own_files(paths: Mapping[str, Parts], files: Mapping[str, Parts]) -> dict[str, list[str]]:
    """Of paths and files of one stem: the files that end as a path does, by as many parts as make that end its own."""
    found: dict[str, list[str]] = {}
    length, left = 1, dict(paths)
    while left:
        counts = Counter(parts[-length:] for parts in paths.values())
        ending: dict[Parts, list[str]] = defaultdict(list)
        for file, parts in files.items():
            ending[parts[-length:]].append(file)
        for path, parts in list(left.items()):
            if counts[parts[-length:]] == 1:
                found[path] = ending.get(parts[-length:], [])
            elif len(parts) >= length:
                continue  # one more part may tell it apart
            del left[path]
        length += 1
    return found


def _shared_end(one: Parts, other: Parts) -> int:
    """How many last parts are the same."""
    length = 0
    while length < min(len(one), len(other)) and one[-1 - length] == other[-1 - length]:
        length += 1
    return length


def _one_each(root: Path, found: Mapping[str, list[str]]) -> dict[str, str]:
    """The file of each path; two names of one file are one.

    Raises:
        CohortError: A path has more than one.
    """
    several = {path: files for path, files in found.items() if len(files) > 1}
    for path, files in list(several.items()):
        real = {os.path.realpath(root / file): file for file in sorted(files, reverse=True)}
        several[path] = sorted(real.values())
        if len(real) == 1:
            del several[path]
    if several:
        path, files = next(iter(several.items()))
        raise CohortError(
            f"{len(several)} listed images may be one of several files; the first, {path}: {files[0]} or {files[1]} "
            f'below {root}. Say which folder counts: image_folders = ["…"] in the domain, or remove the others.'
        )
    return {path: min(files) for path, files in found.items()}


def _mixed_folders(found: Mapping[str, str], moved: Mapping[str, str]) -> Iterator[str]:
    """A warning where some images of a folder are in it and others were found elsewhere: are they the same pictures?"""
    whole = {_folder(path) for path in found if path not in moved}
    strange = [path for path in moved if _folder(path) in whole]
    if strange:
        yield (
            f"{len(strange)} images were found by name in another folder than others of their own, the first: "
            f"{moved[strange[0]]} for {strange[0]}. If those are other pictures, say where to look: image_folders."
        )


def _none_is_there(root: Path, first: str, count: int, settings: DomainSettings) -> CohortError:
    folders = [root / folder for folder in _searched(root, settings)]
    where = " or ".join(f"{folder}{'' if folder.is_dir() else ' (no such folder)'}" for folder in folders)
    return CohortError(
        f"none of {count} listed images is there: neither {root / first}, nor a file of that name below {where}. "
        'Correct `root`, or name the images\' folders: image_folders = ["…"] in the domain. '
        'To go on from the lists alone: missing_images = "later".'
    )
