"""Shards on the node's own disk."""

import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest

from dpdt.base.files import sha256_file
from dpdt.shards.scratch import staged
from dpdt.study import Study

MakeStudy = Callable[..., Study]
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def node_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for `$SLURM_TMPDIR`."""
    folder = tmp_path / "node"
    folder.mkdir()
    monkeypatch.setenv("DPDT_SCRATCH", str(folder))
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setattr("atexit.register", lambda *_: None)
    return folder


def test_shards_are_copied_once_and_read_there(make_study: MakeStudy, node_disk: Path) -> None:
    paths = make_study().paths.shards("uka")
    copy = staged(paths)
    assert copy.folder.parent == node_disk
    assert copy.folder.name.startswith("dpdt-77-")
    assert sha256_file(paths.manifest)[:8] not in copy.folder.name  # others on the node see the name
    for file in (paths.shard(0), paths.shard(1), paths.index, paths.manifest):
        assert (copy.folder / file.name).read_bytes() == file.read_bytes()
    before = copy.shard(0).stat().st_mtime_ns
    assert staged(paths) == copy
    assert copy.shard(0).stat().st_mtime_ns == before


def test_without_room_or_a_folder_they_are_read_where_they_are(
    make_study: MakeStudy, node_disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = make_study().paths.shards("uka")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10, 10, 1000))
    assert staged(paths) == paths
    assert "has 0.0 GB free" in capsys.readouterr().err
    monkeypatch.setenv("DPDT_SCRATCH", "$SLURM_TMPDIR")  # the site does not set it
    assert staged(paths) == paths
    assert "there is no folder $SLURM_TMPDIR here" in capsys.readouterr().err
    monkeypatch.delenv("DPDT_SCRATCH")
    assert staged(paths) == paths


def test_a_copy_that_was_cut_off_is_made_again(make_study: MakeStudy, node_disk: Path) -> None:
    paths = make_study().paths.shards("uka")
    copy = staged(paths)
    copy.manifest.unlink()
    copy.shard(0).write_bytes(b"half")
    assert staged(paths).shard(0).read_bytes() == paths.shard(0).read_bytes()
