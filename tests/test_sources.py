"""Images that are replaced under the same name after their shards were made: told, and never mixed."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from dpdt.shards.build import build_shards
from dpdt.study import Study
from tests.small_images import folder_bytes, make_study, picture

COUNT = 12


def hospital(folder: Path, *, other: int | None = None) -> Study:
    """Twelve images in three shards; one of them may be another picture."""
    (folder / "raw").mkdir(parents=True)
    for number in range(COUNT):
        write(folder / "raw" / f"{number:02d}.png", 99 if number == other else number)
    return make_study(folder, [f"{number:02d}.png" for number in range(COUNT)])


def write(file: Path, number: int) -> None:
    cv2.imwrite(str(file), picture(number), [cv2.IMWRITE_PNG_COMPRESSION, 0])  # each has the same size


def replace(file: Path, number: int) -> None:
    """With a file of the same size and the same time, as `rsync -a` or `cp -p` of another picture does."""
    before = file.stat()
    new = file.with_suffix(".new")
    write(Path(f"{new}.png"), number)
    Path(f"{new}.png").rename(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def test_a_replaced_image_is_told_and_finished_shards_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = hospital(tmp_path)
    build_shards(study, "vindr")
    before = folder_bytes(study)
    capsys.readouterr()
    replace(tmp_path / "raw" / "05.png", 99)
    build_shards(study, "vindr")
    told = capsys.readouterr().err
    assert "vindr: images were replaced after their shards were made, the first found 05.png." in told
    assert folder_bytes(study) == before


def test_files_that_were_touched_moved_or_removed_are_not_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = hospital(tmp_path)
    build_shards(study, "vindr")
    capsys.readouterr()
    raw = tmp_path / "raw"
    (raw / "01.png").touch()
    (raw / "02.png").rename(raw / "x.png")
    (raw / "x.png").rename(raw / "02.png")
    (raw / "03.png").unlink()
    assert str(build_shards(study, "vindr")).endswith("(nothing to do)")
    assert "replaced" not in capsys.readouterr().err


def test_a_replaced_image_of_half_made_shards_is_not_mixed_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study, expected = hospital(tmp_path / "a"), hospital(tmp_path / "b", other=1)
    build_shards(expected, "vindr")
    assert build_shards(study, "vindr", task_index=0, num_tasks=3).built == 1
    replace(tmp_path / "a" / "raw" / "01.png", 99)
    assert build_shards(study, "vindr").built == 3
    assert "images were replaced, the first found 01.png: shard 0 is made again" in capsys.readouterr().err
    assert folder_bytes(study) == folder_bytes(expected)


def test_a_half_made_study_without_changes_goes_on_where_it_was(tmp_path: Path) -> None:
    study = hospital(tmp_path)
    build_shards(study, "vindr", task_index=0, num_tasks=3)
    part = study.paths.shards("vindr").part(0)
    inode = part.stat().st_ino
    build_shards(study, "vindr", task_index=1, num_tasks=3)
    assert part.stat().st_ino == inode
    assert build_shards(study, "vindr").built == 1
    assert np.load(study.paths.shards("vindr").shard(0)).shape == (4, 16, 16)
