"""Checkpoints: whatever happens to a file, an older whole one is found."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dpdt.errors import DpdtError
from dpdt.runs.checkpoint import has_checkpoint, load_checkpoint, remove_checkpoints, save_checkpoint


def save(folder: Path, step: int) -> Path:
    return save_checkpoint(folder, step=step, content={"step": step, "model": {"w": torch.full((3,), float(step))}})


def test_the_newest_is_loaded(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        save(tmp_path, step)
    content = load_checkpoint(tmp_path)
    assert content is not None
    assert content["step"] == 15
    assert torch.equal(content["model"]["w"], torch.full((3,), 15.0))


def test_two_are_kept(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        save(tmp_path, step)
    assert [path.name[:13] for path in sorted(tmp_path.iterdir())] == ["step-00000010", "step-00000015"]


def test_without_a_checkpoint_there_is_none(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "checkpoints") is None
    assert not has_checkpoint(tmp_path / "checkpoints")


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_damaged_newest_is_set_aside_with_a_warning(tmp_path: Path, damage: str) -> None:
    # SL-11: a kill while saving left a corrupt file and no way to resume.
    save(tmp_path, 5)
    newest = save(tmp_path, 10)
    data = newest.read_bytes()
    flipped = data[:200] + bytes([data[200] ^ 1]) + data[201:]
    newest.write_bytes({"cut": data[: len(data) // 2], "flip": flipped, "empty": b""}[damage])
    with pytest.warns(UserWarning, match="step-00000010.* damaged .*the one before is used"):
        content = load_checkpoint(tmp_path)
    assert content is not None
    assert content["step"] == 5
    save(tmp_path, 7)
    content = load_checkpoint(tmp_path)  # the damaged one does not count as the newest any more
    assert content is not None
    assert content["step"] == 7


def test_if_none_can_be_read_it_is_an_error(tmp_path: Path) -> None:
    save(tmp_path, 5).write_bytes(b"nothing")
    with (
        pytest.warns(UserWarning, match="damaged"),
        pytest.raises(DpdtError, match="none of 1 checkpoints can be read"),
    ):
        load_checkpoint(tmp_path)
    with pytest.raises(DpdtError, match="none of 1 checkpoints can be read"):  # a requeued job does not begin anew
        load_checkpoint(tmp_path)


def test_a_full_disk_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 5)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            save(tmp_path, 10)
    content = load_checkpoint(tmp_path)
    assert content is not None
    assert content["step"] == 5
    assert len(list(tmp_path.iterdir())) == 1


KILLED_WHILE_SAVING = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from dpdt.runs.checkpoint import load_checkpoint, remove_checkpoints, save_checkpoint

folder, said = Path(sys.argv[1]), Path(sys.argv[2])
torch.set_num_threads(1)
delays = random.Random(11)
cut_off = 0

def stop(child):
    os.kill(child, signal.SIGSTOP)
    os.waitpid(child, os.WUNTRACED)

for number in range(20):
    child = os.fork()
    if child == 0:
        for step in range(1, 100_000):
            save_checkpoint(folder, step=step, content={"step": step, "w": torch.full((300_000,), float(step))})
            said.write_text(str(step))
    while not said.exists():
        time.sleep(0.001)
    time.sleep(delays.uniform(0, 0.03))
    stop(child)
    while number % 2 and not any(folder.glob(".*.tmp")):  # every other one ends within a file
        os.kill(child, signal.SIGCONT)
        time.sleep(delays.uniform(0, 0.003))
        stop(child)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    cut_off += any(folder.glob(".*.tmp"))
    content = load_checkpoint(folder)
    assert content["step"] >= int(said.read_text() or 0), content["step"]
    assert torch.equal(content["w"], torch.full((300_000,), float(content["step"])))
    said.unlink()
    remove_checkpoints(folder)
print(cut_off)
"""


def test_killed_at_20_random_points_while_saving_there_is_always_a_whole_one(tmp_path: Path) -> None:
    # SL-11. Children that only save are killed; the newest checkpoint is never older than the last that was reported.
    command = [sys.executable, "-W", "error", "-c", KILLED_WHILE_SAVING, str(tmp_path / "run"), str(tmp_path / "said")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 10  # so many kills cut off a file that was being written


def test_removing_leaves_the_final_weights(tmp_path: Path) -> None:
    save(tmp_path, 5)
    (tmp_path / "step-00000003-0.damaged").write_bytes(b"")
    (tmp_path / "final.pt").write_bytes(b"weights")
    remove_checkpoints(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["final.pt"]


def test_what_a_killed_process_was_writing_is_removed_with_the_keys_in_it(tmp_path: Path) -> None:
    for remove in (load_checkpoint, remove_checkpoints):
        (tmp_path / ".step-00000004-0123.pt.abc.tmp").write_bytes(b"key of the noise")
        remove(tmp_path)
        assert list(tmp_path.iterdir()) == []
