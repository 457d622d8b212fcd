"""Shards on the node's own disk: copied there before they are read, if there is room for them."""

import atexit
import os
import shutil
from pathlib import Path
from typing import Final

from dpdt.base.console import note
from dpdt.base.files import atomic_path, exclusive_lock, fingerprint, read_json
from dpdt.study.paths import ShardPaths

__all__ = ["SCRATCH", "staged"]

# Names the folder; a Slurm job sets it from `cluster.scratch`.
SCRATCH: Final = "DPDT_SCRATCH"
# Part of the free space that is left to others.
SPARE: Final = 0.05


def staged(paths: ShardPaths) -> ShardPaths:
    """Copy a domain's complete shards to the node's scratch folder, once a job, and read them there.

    Without a scratch folder, or where it has no room, the shards are read where they are; a line says so. The copy is
    removed when the process that made it ends.

    Args:
        paths: The shards; their manifest must be there.

    Returns:
        Where to read them.
    """
    root = os.environ.get(SCRATCH)
    if not root:
        return paths
    folder = Path(root)
    if not folder.is_dir():
        return _not_used(paths, f"there is no folder {root} here")
    job = os.environ.get("SLURM_JOB_ID", str(os.getpid()))
    state = paths.manifest.stat()  # not its content: others of this node see the name, and a hash could be tried
    which = fingerprint([str(paths.folder.resolve()), state.st_size, state.st_mtime_ns])
    target = ShardPaths(folder / f"dpdt-{job}-{which[:16]}")
    with exclusive_lock(folder / f"{target.folder.name}.lock"):  # ranks of one job share the copy
        if target.manifest.exists():
            return target
        names = [*(row["file"] for row in read_json(paths.manifest)["shards"]), paths.index.name]
        needed = sum((paths.folder / name).stat().st_size for name in names)
        free = int(shutil.disk_usage(folder).free * (1 - SPARE))
        if needed > free:
            return _not_used(paths, f"{root} has {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB are needed")
        atexit.register(_remove, target.folder)
        for name in (*names, paths.manifest.name):  # the manifest last: its presence says that the copy is whole
            with atomic_path(target.folder / name) as temporary:
                shutil.copyfile(paths.folder / name, temporary)
    note(f"{paths.folder.name}: shards copied to {target.folder} ({needed / 1e9:.2f} GB)")
    return target


def _not_used(paths: ShardPaths, why: str) -> ShardPaths:
    note(f"{paths.folder.name}: shards are read from {paths.folder}: {why}")
    return paths


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.with_name(f"{folder.name}.lock").unlink(missing_ok=True)
