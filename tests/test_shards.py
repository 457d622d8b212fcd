"""Shards: the right pixels, the same bytes however they are made, and damage found."""

import errno
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from dpdt.base.files import read_json, sha256_file, write_json
from dpdt.cohort.table import images_sha256, read_cohort
from dpdt.errors import ShardError
from dpdt.shards.build import build_shards
from dpdt.shards.reader import Shards, shard_header, shards_done
from dpdt.shards.verify import verify_shards
from dpdt.study import Study
from dpdt.study.paths import ShardPaths
from tests.fuzz_shards import Target
from tests.small_images import SIZE, folder_bytes, make_study, picture, write_dicom
from tests.waiting import seconds_to_interrupt

REAL_DATA = os.environ.get("DPDT_REAL_DATA")
needs_real_data = pytest.mark.skipif(not REAL_DATA, reason="DPDT_REAL_DATA is not set")


def make_mixed_study(folder: Path, *, count: int = 18, **shards: object) -> Study:
    """PNG, JPEG and DICOM files in turn; the images 5 and 11 are broken."""
    raw = folder / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    files = []
    for number in range(count):
        suffix = (".png", ".jpg", ".dcm")[number % 3]
        file = raw / f"{number}{suffix}"
        if suffix == ".dcm":
            write_dicom(file, picture(number, dtype=np.uint16))
        else:
            cv2.imwrite(str(file), picture(number))
        if number in (5, 11):
            file.write_bytes(file.read_bytes()[:400])
        files.append(file.name)
    return make_study(folder, files, **{"max_reject_fraction": 0.5, **shards})


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return make_mixed_study(tmp_path)


@pytest.fixture
def built(study: Study) -> Study:
    build_shards(study, "vindr")
    return study


# --- what is in them


def test_shards_of_the_test_images_alone_are_done_once_they_are_made(study: Study) -> None:
    """The record's hash is of the whole cohort; images 3, 7, 11 and 15 of 18 are in test, of which 11 is cut off."""
    record = study.paths.cohort_record("vindr")
    write_json(record, {**read_json(record), "images_sha256": images_sha256(read_cohort(study, "vindr"))})
    abroad = study.with_input(study.shards.model_copy(update={"size": SIZE + 8}))
    assert not shards_done(abroad, "vindr")
    summary = build_shards(abroad, "vindr")
    assert (summary.images, summary.rejected) == (3, 1)
    assert shards_done(abroad, "vindr")


def test_shards_hold_the_cohorts_images_in_its_order_without_the_rejects(study: Study) -> None:
    assert not shards_done(study, "vindr")
    summary = build_shards(study, "vindr")
    assert (summary.images, summary.rejected, summary.shards, summary.complete) == (16, 2, 5, True)
    assert str(summary) == "shards vindr: 16 images in 5 shards, 2 rejected"
    assert shards_done(study, "vindr")
    shards = Shards.open(study.paths.shards("vindr"))
    expected_ids = [f"image-{n:03d}" for n in range(18) if n not in (5, 11)]
    assert shards.index["image_id"].tolist() == expected_ids
    assert shards.index["shard"].tolist() == [0] * 4 + [1] * 3 + [2] * 3 + [3] * 4 + [4] * 2
    assert shards.index["format"].tolist()[:5] == ["png", "jpeg", "dicom", "png", "jpeg"]
    assert shards.index["bits"].tolist()[:3] == [8, 8, 12]


@pytest.mark.parametrize("equalise", [False, True])
def test_pixels_are_those_of_opencv(tmp_path: Path, equalise: bool) -> None:
    study = make_mixed_study(tmp_path, equalise=equalise, recipe="area")
    build_shards(study, "vindr")
    shards = Shards.open(study.paths.shards("vindr"))
    for position, image_id in enumerate(shards.index["image_id"]):
        number = int(image_id[-3:])
        if number % 3 == 1:
            continue  # JPEG
        pixels = picture(number, dtype=np.uint8 if number % 3 == 0 else np.uint16)
        resized = cv2.resize(pixels, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        expected = cv2.normalize(resized, None, 0, 255, cv2.NORM_MINMAX, dtype=cv2.CV_8U)
        found = shards.images(np.array([position]))[0]
        if equalise:
            # one level more or less before it is a step of several after it
            assert np.corrcoef(found.ravel(), cv2.equalizeHist(expected).ravel())[0, 1] > 0.999
        else:
            assert np.abs(found.astype(int) - expected).max() <= 1


def test_shard_files_are_plain_npy(built: Study) -> None:
    shards = Shards.open(built.paths.shards("vindr"))
    arrays = [np.load(built.paths.shards("vindr").shard(n), mmap_mode="r") for n in range(5)]
    assert [array.shape for array in arrays] == [(n, SIZE, SIZE) for n in (4, 3, 3, 4, 2)]
    assert {array.dtype for array in arrays} == {np.dtype(np.uint8)}
    assert np.array_equal(np.concatenate(arrays), shards.images(np.arange(16)))


def test_images_come_in_the_asked_order(built: Study) -> None:
    shards = Shards.open(built.paths.shards("vindr"))
    everything = shards.images(np.arange(len(shards)))
    order = np.array([15, 0, 7, 7, 3, 12])
    assert np.array_equal(shards.images(order), everything[order])
    assert shards.images(np.array([], dtype=np.int64)).shape == (0, SIZE, SIZE)
    with pytest.raises(ShardError, match=r"positions must be in \[0, 16\), got \[16\]"):
        shards.images(np.array([16]))
    assert np.array_equal(pickle.loads(pickle.dumps(shards)).images(order), everything[order])


def test_rejects_have_their_reasons(built: Study) -> None:
    rejects = pd.read_csv(built.paths.shards("vindr").rejects)
    assert rejects["image_id"].tolist() == ["image-005", "image-011"]
    assert rejects["path"].tolist() == ["5.dcm", "11.dcm"]
    assert set(rejects["reason"]) <= {"truncated", "unreadable", "empty"}
    assert rejects["message"].str.len().min() > 10


def test_manifest_says_what_was_done(built: Study) -> None:
    manifest = json.loads(built.paths.shards("vindr").manifest.read_text())
    assert manifest["format"] == 1
    assert (manifest["domain"], manifest["recipe"], manifest["synthetic"]) == ("vindr", "area", True)
    assert (manifest["images"], manifest["rejected"]) == (16, 2)
    assert manifest["fingerprint"] == built.shards_fingerprint("vindr")
    assert manifest["settings"] == {
        "size": 16,
        "recipe": "area",
        "equalise": True,
        "aspect": "stretch",
        "exact_decode": False,
        "voi_window": False,
        "shard_bytes": 1024,
    }
    assert set(manifest["codecs"]) == {
        "jpeg",
        "jpeg2000",
        "jpeg_ls",
        "png",
        "tiff",
        "inflate",
        "dicom",
        "dpdt",
        "reading",
    }
    assert [shard["rows"] for shard in manifest["shards"]] == [4, 3, 3, 4, 2]
    assert not built.paths.shards("vindr").part(0).parent.exists()


def test_equal_images_in_two_splits_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(4):
        cv2.imwrite(str(tmp_path / f"{number}.png"), picture(number))
    # splits: train train val test, train train val test; files 0 and 3 are in train and test, file 1 only in train
    study = make_study(tmp_path, [f"../{n}.png" for n in (0, 1, 2, 3, 3, 1, 2, 0)])
    assert build_shards(study, "vindr").duplicates_across_splits == 4
    assert "warning: vindr: 4 images have pixels that occur in more than one split" in capsys.readouterr().err


def test_a_shard_whose_images_are_all_rejected_is_empty(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "good.png"), picture(1))
    study = make_study(tmp_path, ["missing.png"] * 4 + ["../good.png"], max_reject_fraction=0.9)
    assert build_shards(study, "vindr").images == 1
    shards = Shards.open(study.paths.shards("vindr"))
    assert [len(np.load(study.paths.shards("vindr").shard(n))) for n in range(2)] == [0, 1]
    assert shards.images(np.array([0])).shape == (1, SIZE, SIZE)
    assert verify_shards(study, "vindr") == []


# --- the same bytes, however they are made


def test_bytes_do_not_depend_on_threads_or_tasks(built: Study, tmp_path: Path) -> None:
    expected = folder_bytes(built)
    one = make_mixed_study(tmp_path / "one", num_threads=1)
    build_shards(one, "vindr")
    assert folder_bytes(one) == expected
    split = make_mixed_study(tmp_path / "split", num_threads=3)
    for task in (2, 0, 1):
        summary = build_shards(split, "vindr", task_index=task, num_tasks=3)
        assert summary.complete == (task == 1)
    assert folder_bytes(split) == expected


def test_bytes_do_not_depend_on_how_much_is_held_in_memory(
    built: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dpdt.shards.build.CHUNK_BYTES", 3 * SIZE * SIZE)
    chunked = make_mixed_study(tmp_path / "chunked")
    build_shards(chunked, "vindr")
    assert folder_bytes(chunked) == folder_bytes(built)


def test_tasks_at_the_same_time_end_with_the_same_bytes(built: Study, tmp_path: Path) -> None:
    together = make_mixed_study(tmp_path / "together")
    # tasks 0 and 1 of 2, and one more that does everything: some shards are wanted by two
    tasks = [(0, 2), (1, 2), (0, 1)]
    threads = [
        threading.Thread(target=build_shards, args=(together, "vindr"), kwargs={"task_index": i, "num_tasks": n})
        for i, n in tasks
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert folder_bytes(together) == folder_bytes(built)


KILLED = """
import os, signal, sys
from dpdt.base import files
from dpdt.shards.build import build_shards
from dpdt.shards import build
from dpdt.study import load_study

study = load_study(sys.argv[1])
calls = 0

def count(original, when):
    def counted(*args, **kwargs):
        global calls
        calls += 1
        if calls == when:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)
    return counted

deaths = 0
for when in (1, 2, 3, 5, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 20):
    child = os.fork()
    if child == 0:
        # killed before the when-th write of a header, checksum, fsync of a file or of a folder
        moments = (build, "shard_header"), (build, "sha256_file"), (files, "sync_folder"), (files.os, "fsync")
        for module, name in moments:
            setattr(module, name, count(getattr(module, name), when))
        build_shards(study, "vindr")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    deaths += os.WIFSIGNALED(status)
print(deaths)
assert not [line for line in open("/proc/self/maps") if "/dev/shm" in line]  # no shared memory that could stay behind
"""


@pytest.mark.slow
def test_killed_at_any_point_a_rerun_ends_with_the_same_bytes(built: Study, tmp_path: Path) -> None:
    killed = make_mixed_study(tmp_path / "killed")
    result = subprocess.run(
        [sys.executable, "-c", KILLED, str(killed.file)], capture_output=True, text=True, check=True, timeout=120
    )
    assert int(result.stdout.split()[-1]) >= 8, result.stderr
    build_shards(killed, "vindr")
    assert folder_bytes(killed) == folder_bytes(built)
    assert verify_shards(killed, "vindr") == []


KILLED_AT_RANDOM = """
import os, random, signal, sys, time
from dpdt.shards.build import build_shards
from dpdt.study import load_study

study = load_study(sys.argv[1])
pause = random.Random(4)
deaths = 0
for _ in range(10):
    child = os.fork()
    if child == 0:
        build_shards(study, "vindr")
        os._exit(0)
    time.sleep(pause.uniform(0, float(sys.argv[2])))
    os.kill(child, signal.SIGKILL)
    deaths += os.WIFSIGNALED(os.waitpid(child, 0)[1])
print(deaths)
"""


def test_killed_at_random_times_a_rerun_ends_with_the_same_bytes(built: Study, tmp_path: Path) -> None:
    timed = make_mixed_study(tmp_path / "timed")
    killed = make_mixed_study(tmp_path / "killed")
    start = time.monotonic()
    build_shards(timed, "vindr")
    whole = time.monotonic() - start
    command = [sys.executable, "-c", KILLED_AT_RANDOM, str(killed.file), str(whole / 4)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert int(result.stdout.split()[-1]) >= 1, result.stderr
    build_shards(killed, "vindr")
    assert folder_bytes(killed) == folder_bytes(built)


def test_what_is_there_is_not_made_again(built: Study) -> None:
    folder = built.paths.shards("vindr").folder
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    summary = build_shards(built, "vindr")
    assert (summary.built, summary.images) == (0, 16)
    assert str(summary).endswith("2 rejected (nothing to do)")
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == before


def test_other_settings_never_overwrite(built: Study, tmp_path: Path) -> None:
    changed = make_mixed_study(tmp_path, equalise=False)
    assert not shards_done(changed, "vindr")
    with pytest.raises(ShardError, match=r"manifest.json: made with other settings than the study now has.*remove"):
        build_shards(changed, "vindr")
    other = make_mixed_study(tmp_path, count=15)
    with pytest.raises(ShardError, match=r"manifest.json: made from another cohort"):
        build_shards(other, "vindr")


def test_parts_of_other_settings_are_not_mixed_in(study: Study, tmp_path: Path) -> None:
    build_shards(study, "vindr", task_index=0, num_tasks=2)
    changed = make_mixed_study(tmp_path, recipe="paper")
    with pytest.raises(ShardError, match=r"shard-00000.parquet: made with other settings"):
        build_shards(changed, "vindr")


# --- failures


@pytest.mark.parametrize(("limit", "passes"), [(0.01, True), (0.0, False)])
def test_one_bad_file_of_a_small_study_passes_unless_none_may(limit: float, passes: bool, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "good.png"), picture(1))
    study = make_study(tmp_path, ["missing.png"] + ["../good.png"] * 8, max_reject_fraction=limit)
    with nullcontext() if passes else pytest.raises(ShardError, match=r"1 of 9 images were rejected \(11\.1%"):
        assert build_shards(study, "vindr").rejected == 1


def test_too_many_rejects_fail_after_they_are_written_and_are_tried_again(tmp_path: Path) -> None:
    study = make_mixed_study(tmp_path, max_reject_fraction=0.1)
    with pytest.raises(ShardError, match=r"vindr: 2 of 18 images were rejected \(11.1%; .*max_reject_fraction = 0.1"):
        build_shards(study, "vindr")
    assert not shards_done(study, "vindr")
    assert len(pd.read_csv(study.paths.shards("vindr").rejects)) == 2
    for number in (5, 11):
        write_dicom(tmp_path / "raw" / f"{number}.dcm", picture(number, dtype=np.uint16))
    summary = build_shards(study, "vindr")
    assert (summary.built, summary.images, summary.rejected) == (2, 18, 0)


def test_missing_raw_folder_is_one_clear_error(study: Study, tmp_path: Path) -> None:
    (tmp_path / "raw").rename(tmp_path / "moved")
    with pytest.raises(ShardError, match=r"domains.vindr.root: no folder .*raw. Correct the path in .*study.toml"):
        build_shards(study, "vindr")


def test_task_numbers_are_checked(study: Study) -> None:
    with pytest.raises(ShardError, match=r"task_index: expected a number in \[0, 2\), got 2"):
        build_shards(study, "vindr", task_index=2, num_tasks=2)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_or_quota_is_a_clear_error_and_leaves_no_part(
    study: Study, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def full(path: Path) -> str:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("dpdt.shards.build.sha256_file", full)
    with pytest.raises(ShardError, match=rf"shard-00000.npy: cannot be written \({os.strerror(code)}\)"):
        build_shards(study, "vindr")
    monkeypatch.undo()
    assert [f.name for f in study.paths.shards("vindr").folder.iterdir()] == ["parts"]
    assert build_shards(study, "vindr").complete


@pytest.mark.parametrize("name", ["rejects.csv", "index.parquet", "manifest.json"])
def test_a_disk_that_is_full_at_the_very_end_is_a_clear_error_too(
    built: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    study = make_mixed_study(tmp_path / "full")
    rename = Path.rename

    def full(self: Path, target: Path) -> Path:
        if target.name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(
        ShardError, match=r"/shards/vindr: cannot be written \(No space left on device\). Nothing is lost"
    ):
        build_shards(study, "vindr")
    monkeypatch.undo()
    assert not shards_done(study, "vindr")
    build_shards(study, "vindr")
    assert folder_bytes(study) == folder_bytes(built)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_is_really_full_leaves_nothing_broken(small_disk: Path, tmp_path: Path) -> None:
    options = {"size": 64, "shard_bytes": 4 * 64 * 64}
    expected = make_mixed_study(tmp_path / "expected", **options)
    build_shards(expected, "vindr")
    study = make_mixed_study(tmp_path / "full", **options)
    study.paths.shards("vindr").folder.parent.mkdir(parents=True)
    study.paths.shards("vindr").folder.symlink_to(small_disk)
    with pytest.raises(ShardError, match=r"cannot be written \(No space left on device\). Nothing is lost: make room"):
        build_shards(study, "vindr")
    assert not [file for file in small_disk.rglob("*") if file.name.endswith(".tmp")]
    subprocess.run(["mount", "-o", "remount,size=1m", small_disk], check=True)
    assert build_shards(study, "vindr").complete
    assert folder_bytes(study) == folder_bytes(expected)


INTERRUPTED = """
import sys, time
from dpdt.shards.build import build_shards
from dpdt.study import load_study
print("started", flush=True)
try:
    build_shards(load_study(sys.argv[1]), "vindr")
except KeyboardInterrupt:
    print("interrupted", time.process_time(), flush=True)
"""


def test_ctrl_c_ends_dicom_work_within_a_second(tmp_path: Path) -> None:
    write_dicom(tmp_path / "a.dcm", picture(1, height=1500, width=1500, dtype=np.uint16))
    study = make_study(tmp_path, ["../a.dcm"] * 2000, recipe="paper", shard_bytes=1 << 20)
    command = [sys.executable, "-c", INTERRUPTED, str(study.file)]
    assert seconds_to_interrupt(command, after=1.0) < 1.0
    assert not shards_done(study, "vindr")


def write_index(paths: ShardPaths, shard: NDArray[np.int32], row: NDArray[np.int64], *, size: int) -> None:
    """Index and manifest of shards whose files are written already."""
    index = {"image_id": [str(n) for n in range(len(row))], "sha256": "0" * 64, "shard": shard, "row": row}
    pd.DataFrame(index).to_parquet(paths.index, index=False)
    shards = [
        {"file": paths.shard(n).name, "rows": int(count), "sha256": "0" * 64}
        for n, count in enumerate(np.bincount(shard))
    ]
    write_json(
        paths.manifest,
        {
            "format": 1,
            "domain": "vindr",
            "fingerprint": "",
            "cohort_sha256": "",
            "codecs": {},
            "settings": {"size": size},
            "images": len(row),
            "synthetic": True,
            "index": {"file": paths.index.name, "sha256": sha256_file(paths.index)},
            "shards": shards,
        },
    )


def test_a_shard_of_more_than_4_gib_is_read_at_its_end(tmp_path: Path) -> None:
    size, rows = 512, 20_000  # 4.9 GiB, sparse
    header = shard_header(rows, size)
    paths = ShardPaths(tmp_path)
    last = np.random.default_rng(0).integers(0, 256, (size, size), dtype=np.uint8)
    with paths.shard(0).open("wb") as stream:
        stream.write(header)
        stream.seek(len(header) + (rows - 1) * size * size)
        stream.write(last.tobytes())
    write_index(paths, np.zeros(rows, np.int32), np.arange(rows), size=size)
    images = Shards.open(paths).images(np.array([rows - 1, 0]))
    assert np.array_equal(images[0], last)
    assert not images[1].any()


WORKERS = """
import os, sys
from pathlib import Path
import numpy as np
from dpdt.study.paths import ShardPaths
from dpdt.shards.reader import Shards

def pss(pid):
    return sum(int(line.split()[1]) for line in open(f"/proc/{pid}/smaps_rollup") if line.startswith("Pss:")) / 1024

shards = Shards.open(ShardPaths(Path(sys.argv[1])))
for _ in shards.index["image_id"].iloc[:10]:
    pass
before = pss(os.getpid())
order = np.random.default_rng(0).permutation(len(shards))
children = []
for worker in range(16):
    done, tell = os.pipe()
    child = os.fork()
    if child == 0:
        for batch in np.array_split(order[worker::16], 600):
            shards.images(batch)
        os.write(tell, b"x")
        import signal
        signal.pause()
    os.read(done, 1)
    children.append(child)
print(sum(map(pss, [os.getpid(), *children])) - before)
for child in children:
    os.kill(child, 9)
"""


def test_sixteen_workers_share_one_index_of_590000_images(tmp_path: Path) -> None:
    rows, per_shard = 590_000, 59_000
    paths = ShardPaths(tmp_path)
    for number in range(rows // per_shard):
        with paths.shard(number).open("wb") as stream:
            stream.write(shard_header(per_shard, 4))
            stream.truncate(stream.tell() + per_shard * 16)
    shard = np.repeat(np.arange(rows // per_shard, dtype=np.int32), per_shard)
    write_index(paths, shard, np.tile(np.arange(per_shard), rows // per_shard), size=4)
    result = subprocess.run([sys.executable, "-c", WORKERS, tmp_path], capture_output=True, text=True, check=True)
    assert float(result.stdout) < 200  # MiB, for all together


# --- damage


def flip(file: Path, offset: int) -> None:
    data = bytearray(file.read_bytes())
    data[offset] ^= 1
    file.write_bytes(data)


def swap(first: Path, second: Path) -> None:
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)


def shorten(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def wrong_index(file: Path) -> None:
    index = pd.read_parquet(file)
    index["image_id"] = index["image_id"].to_numpy()[::-1]
    index.to_parquet(file, index=False)


DAMAGE: dict[str, tuple[Callable[[Study], None], str]] = {
    "flipped byte": (lambda s: flip(s.paths.shards("vindr").shard(1), 300), "shard-00001.npy: its checksum"),
    "flipped header": (lambda s: flip(s.paths.shards("vindr").shard(1), 20), "shard-00001.npy: its header"),
    "short file": (lambda s: shorten(s.paths.shards("vindr").shard(2)), "shard-00002.npy: 895 bytes, expected 896"),
    "missing file": (lambda s: s.paths.shards("vindr").shard(2).unlink(), "shard-00002.npy: no such file"),
    "swapped shards": (
        lambda s: swap(s.paths.shards("vindr").shard(1), s.paths.shards("vindr").shard(2)),
        "shard-00001.npy: has the content of shard-00002.npy",
    ),
    "foreign shard": (
        lambda s: s.paths.shards("vindr").shard(9).write_bytes(b""),
        "shard-00009.npy: not in the manifest",
    ),
    "wrong index": (lambda s: wrong_index(s.paths.shards("vindr").index), "index.parquet: its checksum"),
    "missing index": (lambda s: s.paths.shards("vindr").index.unlink(), "index.parquet: no such file"),
    "missing manifest": (lambda s: s.paths.shards("vindr").manifest.unlink(), "manifest.json: no shards yet"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_verify_finds(built: Study, kind: str) -> None:
    assert verify_shards(built, "vindr") == []
    damage, expected = DAMAGE[kind]
    damage(built)
    problems = verify_shards(built, "vindr")
    assert any(expected in problem for problem in problems), problems


def test_verify_finds_pixels_that_are_not_those_of_the_index(built: Study) -> None:
    paths = built.paths.shards("vindr")
    flip(paths.shard(1), 128 + SIZE * SIZE + 3)  # the second image of shard 1, and its checksum in the manifest with it
    manifest = json.loads(paths.manifest.read_text())
    manifest["shards"][1]["sha256"] = sha256_file(paths.shard(1))
    write_json(paths.manifest, manifest)
    [problem] = verify_shards(built, "vindr")
    assert "shard 1, row 1: the pixels of image-006 are not those of the index" in problem


@pytest.mark.parametrize("kind", ["short file", "missing file", "flipped header", "missing index", "missing manifest"])
def test_damaged_shards_are_refused_at_open(built: Study, kind: str) -> None:
    damage, expected = DAMAGE[kind]
    damage(built)
    with pytest.raises(ShardError, match=expected):
        Shards.open(built.paths.shards("vindr"))


@pytest.mark.parametrize("num_threads", [1, 2])
def test_a_shard_that_is_cut_while_it_is_mapped_is_a_clear_error(built: Study, num_threads: int) -> None:
    """The kernel answers with SIGBUS where a mapped page has gone: it ended the process without a word."""
    paths = built.paths.shards("vindr")
    shards = Shards.open(paths)
    everything = np.arange(len(shards))
    whole = shards.images(everything)
    file = paths.folder / shards.manifest["shards"][0]["file"]
    data = file.read_bytes()
    os.truncate(file, 0)
    with pytest.raises(ShardError, match=rf"its pixels could not be read: it has 0 bytes, expected {len(data)}"):
        shards.images(np.tile(everything, 1000), num_threads=num_threads)  # 2 MB a thread
    others = everything[shards.index["shard"] != 0]
    assert np.array_equal(shards.images(others), whole[others])
    file.write_bytes(data)
    assert np.array_equal(shards.images(everything), whole)


def test_another_bus_error_still_ends_the_process(built: Study) -> None:
    code = (
        "import os, signal, sys, time; from pathlib import Path; import numpy as np\n"
        "from dpdt.shards.reader import Shards; from dpdt.study.paths import ShardPaths\n"
        "Shards.open(ShardPaths(Path(sys.argv[1]))).images(np.array([0]))\n"
        "import mmap; file = open(sys.argv[2], 'r+b'); file.truncate(4096); pages = mmap.mmap(file.fileno(), 4096)\n"
        "file.truncate(0); pages[0]"
    )
    paths = built.paths.shards("vindr")
    arguments = [sys.executable, "-c", code, str(paths.folder), str(paths.folder / "pages")]
    (paths.folder / "pages").touch()
    assert subprocess.run(arguments, capture_output=True, timeout=60, check=False).returncode == -signal.SIGBUS


def test_index_that_points_past_a_shard_is_refused_at_open(built: Study) -> None:
    paths = built.paths.shards("vindr")
    index = pd.read_parquet(paths.index)
    index.loc[3, "row"] = 4
    index.to_parquet(paths.index, index=False)
    with pytest.raises(ShardError, match=r"index.parquet: its checksum is not the manifest's. Remove"):
        Shards.open(paths)
    manifest = json.loads(paths.manifest.read_text())
    manifest["index"]["sha256"] = sha256_file(paths.index)
    write_json(paths.manifest, manifest)
    with pytest.raises(ShardError, match=r"index.parquet: its rows do not fit the shards"):
        Shards.open(paths)


MANIFEST_DAMAGE: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no size": (lambda m: m["settings"].clear(), r"damaged \(settings.size: Field required\)"),
    "negative rows": (lambda m: m["shards"][1].update(rows=-3), r"damaged \(shards.1.rows: Input should be greater"),
    "text for a number": (lambda m: m.update(images="16"), r"damaged \(images: Input should be a valid integer"),
    "another folder": (
        lambda m: m["shards"][0].update(file="../chexpert/shard-00000.npy"),
        r"damaged \(names '../chexpert/shard-00000.npy', expected 'shard-00000.npy'\)",
    ),
    "twice the same": (lambda m: m["shards"][1].update(file="shard-00000.npy"), "expected 'shard-00001.npy'"),
    "another version": (lambda m: m.update(format=2), "format 2, expected 1. Use the version of dpdt that wrote it"),
}


@pytest.mark.parametrize("kind", MANIFEST_DAMAGE)
def test_a_damaged_manifest_is_refused_at_open(built: Study, kind: str) -> None:
    paths = built.paths.shards("vindr")
    manifest = json.loads(paths.manifest.read_text())
    damage, expected = MANIFEST_DAMAGE[kind]
    damage(manifest)
    write_json(paths.manifest, manifest)
    with pytest.raises(ShardError, match=rf"manifest.json: .*{expected}"):
        Shards.open(paths)
    assert len(verify_shards(built, "vindr")) == 1


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"[]"])
def test_a_manifest_that_is_none_is_refused_at_open(built: Study, data: bytes) -> None:
    paths = built.paths.shards("vindr")
    paths.manifest.write_bytes(data)
    with pytest.raises(ShardError, match=r"manifest.json: (not valid JSON|format None, expected 1)"):
        Shards.open(paths)


def test_whatever_the_bytes_the_reader_ends_with_an_error_or_the_right_pixels(tmp_path: Path) -> None:
    target = Target(tmp_path)  # of make fuzz, here without its engine
    random = np.random.default_rng(0)
    opened = 0
    for seed in target.seeds():
        assert target(seed)
        for _ in range(120):
            data = bytearray(seed)
            for place in random.integers(0, len(data), random.integers(1, 4)):
                data[place] = random.integers(0, 256)
            opened += target(bytes(data[: random.integers(1, len(data) + 1)] if random.random() < 0.3 else data))
    assert 0 < opened < 300


# --- real radiographs


@needs_real_data
def test_every_real_image_is_shown_or_rejected_with_a_reason(tmp_path: Path) -> None:
    root = Path(str(REAL_DATA))
    files = pd.read_csv(root / "INDEX.csv")["path"].tolist()
    options = {"size": 64, "shard_bytes": 1 << 17, "max_reject_fraction": 0.1, "exact_decode": True}
    study = make_study(tmp_path, [str(root / file) for file in files], **options)
    start = time.monotonic()
    summary = build_shards(study, "vindr")
    assert time.monotonic() - start < 60
    rejects = pd.read_csv(study.paths.shards("vindr").rejects)
    assert summary.images == len(files) - 2
    assert sorted(Path(path).parent.name for path in rejects["path"]) == ["invalid", "invalid"]
    assert verify_shards(study, "vindr") == []

    index = Shards.open(study.paths.shards("vindr"))
    names = {f"image-{n:03d}": Path(file).name for n, file in enumerate(files)}
    pixels = dict(zip([names[i] for i in index.index["image_id"]], index.images(np.arange(len(index))), strict=True))
    # The same picture in eight transfer syntaxes (see the corpus's PROVENANCE).
    twins = [name for name in pixels if name.startswith("gdcm-CR-MONO1-10-chest")]
    assert len(twins) == 8
    assert all(np.array_equal(pixels[name], pixels[twins[0]]) for name in twins)
    assert np.array_equal(pixels["RG1_UNCR.dcm"], pixels["RG1_J2KR.dcm"])
