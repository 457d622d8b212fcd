"""The manifest of a domain's shards: everything in it is checked before anything is done with it."""

from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dpdt.base.files import read_json
from dpdt.errors import DpdtError, ShardError
from dpdt.study.paths import ShardPaths

__all__ = ["FORMAT", "codec_differences", "read_manifest"]

FORMAT: Final = 1

_Count = Annotated[int, Field(ge=0)]
_Checksum = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Part(BaseModel):
    """A part that later versions may add to; values are taken as they are, never converted."""

    model_config = ConfigDict(extra="allow", strict=True)


class _Settings(_Part):
    size: Annotated[int, Field(ge=1, le=65535)]


class _Index(_Part):
    file: str
    sha256: _Checksum


class _Shard(_Part):
    file: str
    rows: _Count
    sha256: _Checksum


class _Manifest(_Part):
    domain: str
    fingerprint: str
    cohort_sha256: str
    codecs: dict[str, str]
    settings: _Settings
    images: _Count
    synthetic: bool
    index: _Index
    shards: list[_Shard]


def read_manifest(path: Path) -> dict[str, Any]:
    """Read a manifest.

    Args:
        path: The file, in the folder of its shards.

    Returns:
        What it says; the fields that the readers use are there and of the right kind, and the files that it names are
        those of this folder.

    Raises:
        ShardError: It is missing, of a format that this version does not read, or damaged.
    """
    if not path.exists():
        raise ShardError(f"{path}: no shards yet (the manifest is written last). Run `dpdt shards`.")
    try:
        manifest = read_json(path)
    except DpdtError as err:
        raise ShardError(str(err)) from err
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != FORMAT:
        raise ShardError(f"{path}: format {found!r}, expected {FORMAT}. Use the version of dpdt that wrote it.")
    try:
        checked = _Manifest.model_validate(manifest)
    except ValidationError as err:
        first = err.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ShardError(f"{path}: damaged ({where}: {first['msg']}). {_remedy(path)}") from err
    _check_names(path, checked)
    return dict(manifest)


def codec_differences(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """Where two manifests name different decoders: the same file may then give other pixels.

    Returns:
        Texts such as ``jpeg: libjpeg-turbo 2.1.5 and libjpeg-turbo 3.1.0``.
    """
    one, two = first["codecs"], second["codecs"]
    names = sorted(one.keys() | two.keys())
    if "tiff" not in one or "tiff" not in two:  # made when TIFF was no input: there is none in it
        names = [name for name in names if name != "tiff"]
    return [f"{n}: {one.get(n, 'none')} and {two.get(n, 'none')}" for n in names if one.get(n) != two.get(n)]


def _check_names(path: Path, manifest: _Manifest) -> None:
    """Shard n is in its own file: no name leads out of the folder or comes twice."""
    paths = ShardPaths(path.parent)
    expected = [paths.index.name, *(paths.shard(number).name for number in range(len(manifest.shards)))]
    found = [manifest.index.file, *(shard.file for shard in manifest.shards)]
    for wanted, name in zip(expected, found, strict=True):
        if name != wanted:
            raise ShardError(f"{path}: damaged (names {name[:80]!r}, expected {wanted!r}). {_remedy(path)}")


def _remedy(path: Path) -> str:
    return f"Remove {path.parent} and run `dpdt shards` again."
