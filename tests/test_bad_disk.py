"""Storage that is slow, fails, or loses its folder: no image is left out for it, and the bytes are the same (FUSE)."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from dpdt import _core
from dpdt.cohort.hospitals.vindr import _header
from dpdt.errors import ShardError
from dpdt.shards.build import build_shards
from dpdt.study import Study
from tests.bad_disk import faults_file, mounted
from tests.small_images import folder_bytes, make_study, picture, write_dicom

MODULE = "dpdt.shards.build"


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """PNG and DICOM files in turn, made into shards from the disk as it is."""
    (tmp_path / "raw").mkdir()
    for number in range(12):
        file = tmp_path / "raw" / f"{number}.{('png', 'dcm')[number % 2]}"
        if number % 2:
            write_dicom(file, picture(number, dtype=np.uint16))
        else:
            cv2.imwrite(str(file), picture(number))
    study = make_study(tmp_path, sorted(file.name for file in (tmp_path / "raw").iterdir()), max_reject_fraction=0.5)
    build_shards(study, "vindr")
    return study


@pytest.fixture
def disk(study: Study, tmp_path: Path) -> Iterator[Path]:
    """The raw folder's real place, shown where the study looks through a file system that does what it is told."""
    real = tmp_path / "real"
    (tmp_path / "raw").rename(real)
    try:
        with mounted(real, tmp_path / "raw"):
            yield real
    except (RuntimeError, ImportError, FileNotFoundError) as err:
        pytest.skip(str(err))


def made_anew(study: Study) -> dict[str, bytes]:
    """The former bytes; the shards are gone."""
    before = folder_bytes(study)
    shutil.rmtree(study.paths.shards("vindr").folder)
    return before


@pytest.mark.parametrize("name", ["4.png", "3.dcm"])
def test_a_read_that_fails_once_is_tried_again_and_leaves_no_trace(
    study: Study, disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.setattr(f"{MODULE}.PAUSES", (0.01, 0.01))
    before = made_anew(study)
    faults_file(disk).write_text(json.dumps({"fail": {name: 1}}))
    assert build_shards(study, "vindr").rejected == 0
    assert folder_bytes(study) == before
    assert f"1 images cannot be read, the first {study.root('vindr')}/{name}: " in capsys.readouterr().err


@pytest.mark.parametrize("name", ["4.png", "3.dcm"])
def test_a_read_that_goes_on_failing_stops_the_stage_and_the_next_run_goes_on(
    study: Study, disk: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(f"{MODULE}.PAUSES", (0.01,))
    before = made_anew(study)
    faults_file(disk).write_text(json.dumps({"fail": {name: 1000}}))
    with pytest.raises(ShardError, match=rf"{name}: cannot open the file: Input/output error. The disk failed"):
        build_shards(study, "vindr")
    assert not study.paths.shards("vindr").manifest.exists()
    faults_file(disk).write_text("{}")
    build_shards(study, "vindr")
    assert folder_bytes(study) == before


@pytest.mark.parametrize("mount_point", [False, True])
def test_a_folder_that_goes_away_in_the_middle_is_no_missing_image(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mount_point: bool
) -> None:
    made_anew(study)
    real = _core.process_files

    def late(paths: list[str], out: object, **options: object) -> object:
        (tmp_path / "raw").rename(tmp_path / "gone")
        if mount_point:
            (tmp_path / "raw").mkdir()
        return real(paths, out, **options)  # type: ignore[arg-type, call-overload]

    monkeypatch.setattr("dpdt.shards.process._core.process_files", late)
    with pytest.raises(ShardError, match=r"raw went away while its images were read"):
        build_shards(study, "vindr")


def test_a_disk_that_fails_leaves_no_patient_without_sex_and_age(study: Study, disk: Path) -> None:
    faults_file(disk).write_text(json.dumps({"fail": {"3.dcm": 1000}}))
    with pytest.raises(OSError, match="Input/output error"):
        _header(study.root("vindr") / "3.dcm")
    assert _header(study.root("vindr") / "never-was.dcm") == ("", "")


def test_few_open_files_are_enough(tmp_path: Path) -> None:
    program = """if True:
        import resource, sys, numpy as np
        from dpdt import _core
        resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))
        out = np.empty((200, 16, 16), np.uint8)
        results = _core.process_files(sys.argv[1:] * 200, out, recipe="area", equalise=True, num_threads=4)
        print({result.reason for result in results})
    """
    cv2.imwrite(str(tmp_path / "a.png"), picture(0))
    command = [sys.executable, "-c", program, str(tmp_path / "a.png")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "{''}\n"


def test_openings_of_20_ms_are_waited_for_many_at_once(study: Study, disk: Path) -> None:
    faults_file(disk).write_text(json.dumps({"open_s": 0.02}))
    names = [str(study.root("vindr") / f"{number}.png") for number in range(0, 12, 2)] * 8
    out = np.empty((len(names), 16, 16), np.uint8)
    begun = time.perf_counter()
    results = _core.process_files(names, out, recipe="area", equalise=True, num_threads=1)
    seconds = time.perf_counter() - begun
    assert [result.reason for result in results] == [""] * len(names)
    assert seconds < 0.02 * len(names) / 2  # one at a time would take 0.02 s each
