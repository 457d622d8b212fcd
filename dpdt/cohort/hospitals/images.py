"""Where a domain's images lie: at the path that its list gives, or found by name below the domain's folders.

People have resized copies with another suffix, all in one folder, or in folders of their own. A listed image that is
not in its place is looked for by its stem, the file's name without its suffix. Where several listed images share a
stem, as CheXpert's `view1_frontal` do, the end of the path decides: as many folders as tell the listed paths apart. An
image for which two files are left is an error; no file is given to an image whose path it does not end as. In one flat
folder the path's own folders may be a part of the name, joined by `_`.
"""

import functools
import itertools
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd

from dpdt.base.console import note
from dpdt.cohort.hospitals.file_search import NOT_UTF8, Parts, files_by_stem, is_utf8, parts_of, stem_of, there
from dpdt.cohort.hospitals.raw_cohort import ELSEWHERE, MISSING_IMAGES, RawCohort
from dpdt.errors import CohortError
from dpdt.study.domain_settings import DomainSettings

__all__ = ["check_image_folders", "place_images"]


def place_images(raw: RawCohort, root: Path, settings: DomainSettings) -> RawCohort:
    """Give each image the path at which it is; what is nowhere is treated by the policy `missing_images`.

    Args:
        raw: A reader's answer; its `frame.path` says where an image should be, relative to `root`.
        root: The domain's folder.
        settings: The domain's settings.

    Returns:
        The same with paths of files that are there, relative to `root`, or absolute where they are outside of it. An
        image that is nowhere keeps its path, with slashes, or is excluded.

    Raises:
        CohortError: An image has two candidates, a folder of `image_folders` is not there, no image is, or the name of
            one is not UTF-8.
    """
    wanted = raw.frame["path"].tolist()
    files, lost = _find(root, wanted, wanted if raw.listed is None else raw.listed, settings)
    if lost and lost.issuperset(wanted) and settings.missing_images != "later":
        raise _none_is_there(root, wanted[0].replace("\\", "/"), len(wanted), settings)
    if odd := next((file for file in files.values() if not is_utf8(file)), None):
        raise CohortError(f"{root}: the image {os.fsencode(odd)!r} has {NOT_UTF8}.")
    frame, exclusions, counts = raw.frame, raw.exclusions, dict(raw.counts)
    spelled = {path: path.replace("\\", "/") for path in lost if "\\" in path} | files
    if spelled:
        frame = frame.assign(path=[spelled.get(path, path) for path in wanted])
    if lost and settings.missing_images == "exclude":
        nowhere = pd.Series([path in lost for path in wanted], index=frame.index)
        gone = frame.loc[nowhere, ["image_id", "view"]].assign(reason="image not found")
        frame, exclusions = frame[~nowhere], pd.concat([exclusions, gone]).sort_index(kind="stable")
    elif lost:
        counts[MISSING_IMAGES] = sum(path in lost for path in wanted)
    strangers = {path: file for path, file in files.items() if _folder(file) != _folder(path)}
    if strangers:
        counts[ELSEWHERE] = sum(path in strangers for path in wanted)
    at_home = {_folder(path) for path in wanted if path not in strangers and path not in lost} if strangers else set()
    said = settings.missing_images != "reject"  # that a part of the images is not there yet
    warnings = (*raw.warnings, *_mixed_folders(strangers, at_home), *([] if said else _some_by_name(strangers, lost)))
    return replace(raw, frame=frame, exclusions=exclusions, counts=counts, warnings=warnings)


def _find(
    root: Path, wanted: list[str], listed: Iterable[str], settings: DomainSettings
) -> tuple[dict[str, str], set[str]]:
    """Wanted path -> path of its file, where that is another one; and the wanted paths whose file is nowhere."""
    check_image_folders(root, settings)
    folders = _searched(root, settings)
    if settings.image_folders:
        files = _in_place(root, folders, wanted)
        lost = [path for path in wanted if path not in files]
    else:
        present = there(root, wanted)
        lost = [path for path in wanted if path not in present]
        files = _in_place(root, [""], [path for path in lost if "\\" in path])
        lost = [path for path in lost if path not in files]
    if lost:
        where = " or ".join(str(root / folder) for folder in folders)
        note(f"{len(lost)} of {len(wanted)} images are not where the list says: looking for their names below {where}.")
        stems = functools.cache(lambda: {stem for path in lost for stem in (stem_of(path), *_flat(path))})
        named = files_by_stem(root, folders, stems)
        found = _by_name(lost, listed, named)
        flat = _by_flat_name([path for path in lost if path not in found], listed, named)
        files |= _one_each(root, found | flat)
    return files, {path for path in lost if path not in files}


def check_image_folders(root: Path, settings: DomainSettings) -> None:
    """Check that the folders of `image_folders` are there, unless images come later.

    Raises:
        CohortError: One is not.
    """
    absent = [root / folder for folder in settings.image_folders if not (root / folder).is_dir()]
    if absent and settings.missing_images != "later":
        raise CohortError(f"image_folders: no folder {absent[0]}. Correct it in the study file.")


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


def _in_place(root: Path, folders: Iterable[str], paths: Collection[str]) -> dict[str, str]:
    """Listed paths that are there below a folder, as written or with slashes for backslashes, and their files."""
    found: dict[str, list[str]] = defaultdict(list)
    for folder in folders:
        spelled = {path: [os.path.join(folder, one) for one in {path, path.replace("\\", "/")}] for path in paths}
        present = there(root, itertools.chain.from_iterable(spelled.values()))
        for path, files in spelled.items():
            found[path] += [file for file in files if file in present]
    return _one_each(root, {path: files for path, files in found.items() if files})


def _folder(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[0]


def _by_name(lost: Collection[str], listed: Iterable[str], files: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """The candidates of each lost path that has one.

    Of the files with a path's stem those are its own that end as it does and as no other listed path does; of these,
    those that share most of their last folders with it. Where listed images have the same stem in several folders,
    a stem that is listed once says no more than theirs: `p1/7.png` is not the `7.png` of a patient who is not listed.
    """
    alike: dict[str, list[str]] = defaultdict(list)
    every = tuple(dict.fromkeys((*lost, *listed))) if files else ()
    stems = [stem_of(path) for path in every]
    for path, stem in zip(every, stems, strict=True):
        if stem in files:
            alike[stem].append(path)
    searched, found = frozenset(lost), {}
    own_folder = _folder_ends(every) if len({*stems}) < len(stems) else None
    for stem, paths in alike.items():
        alone = {paths[0]: [file for file in files[stem] if own_folder is None or own_folder(paths[0], file)]}
        for path, own in (alone if len(paths) == 1 else _own_files(paths, files[stem])).items():
            if own and path in searched:
                found[path] = own if len(own) == 1 else _nearest(path, own)
    return found


def _flat(path: str) -> list[str]:
    """Names that a path's file may have in one flat folder: `patient1_study1_view1` for `patient1/study1/view1`."""
    folders, _, name = path.replace("\\", "/").rpartition("/")
    stem, found = stem_of(name), []
    while folders:
        found.append(f"{folders}/{stem}".replace("/", "_"))
        folders = folders.partition("/")[2]
    return found


def _by_flat_name(lost: Collection[str], listed: Iterable[str], files: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """The candidates of lost paths whose folders are a part of the file's name; a name of two paths is none's."""
    if not lost or not files:
        return {}
    owners = Counter(
        name for path in dict.fromkeys((*lost, *listed)) for name in (stem_of(path), *_flat(path)) if name in files
    )
    found = {path: [file for name in _flat(path) if owners[name] == 1 for file in files.get(name, ())] for path in lost}
    return {path: own for path, own in found.items() if own}


def _folder_ends(paths: Iterable[str]) -> Callable[[str, str], bool]:
    """Tells whether a file's folder may be a path's.

    It ends as the path's folder does, by as many parts as tell that from the other paths' folders, or is above it.
    """
    counts = Counter(
        folder[start:] for folder in {parts_of(path)[:-1] for path in paths} for start in range(len(folder) + 1)
    )

    def may_be(path: str, file: str) -> bool:
        own, found = parts_of(path)[:-1], parts_of(file)[:-1]
        needed = next((length for length in range(len(own)) if counts[own[len(own) - length :]] == 1), len(own))
        return _shared_end(own, found) >= needed or own[: len(found)] == found

    return may_be


def _own_files(paths: Iterable[str], files: Iterable[str]) -> dict[str, list[str]]:
    """Of paths and files of one stem: the files that end as a path does, by as many parts as make that end its own."""
    ends, left = {file: parts_of(file) for file in files}, {path: parts_of(path) for path in paths}
    every, length = list(left.values()), 1
    found: dict[str, list[str]] = {}
    while left:
        counts = Counter(parts[-length:] for parts in every)
        ending: dict[Parts, list[str]] = defaultdict(list)
        for file, parts in ends.items():
            ending[parts[-length:]].append(file)
        for path, parts in list(left.items()):
            if counts[parts[-length:]] == 1:
                found[path] = ending.get(parts[-length:], [])
            elif len(parts) >= length:
                continue  # one more part may tell it apart
            del left[path]
        length += 1
    return found


def _nearest(path: str, files: Iterable[str]) -> list[str]:
    """The files that share most of their last parts with a path."""
    shared = {file: _shared_end(parts_of(path), parts_of(file)) for file in files}
    return [file for file, length in shared.items() if length == max(shared.values())]


def _shared_end(one: Parts, other: Parts) -> int:
    """How many last parts are the same."""
    pairs = zip(reversed(one), reversed(other), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


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


def _mixed_folders(strangers: Mapping[str, str], at_home: Collection[str]) -> Iterator[str]:
    """A warning where some images of a folder are in it and others were found elsewhere: are they the same pictures?"""
    odd = [path for path in strangers if _folder(path) in at_home]
    if odd:
        yield (
            f"{len(odd)} images were found by name in another folder than others of their own, the first: "
            f"{strangers[odd[0]]} for {odd[0]}. If those are other pictures, say where to look: image_folders."
        )


def _some_by_name(strangers: Mapping[str, str], lost: Collection[str]) -> Iterator[str]:
    """A warning where no image is where it should be, some were found by name and others nowhere: another year's?"""
    if strangers and lost:
        path = next(iter(strangers))
        yield (
            f"{len(strangers)} images were found by name alone, the first: {strangers[path]} for {path}, and "
            f"{len(lost)} nowhere. Is it the right folder? Other patients' pictures may have the same names."
        )


def _none_is_there(root: Path, first: str, count: int, settings: DomainSettings) -> CohortError:
    folders = [root / folder for folder in _searched(root, settings)]
    where = " or ".join(f"{folder}{'' if folder.is_dir() else ' (no such folder)'}" for folder in folders)
    return CohortError(
        f"none of {count} listed images is there: neither {root / first}, nor a file of that name below {where}. "
        'Correct `root`, or name the images\' folders: image_folders = ["…"] in the domain. '
        'To go on from the lists alone: missing_images = "later".'
    )
