"""Files that a crash cannot leave half-written."""

import errno
import os
import re
import stat
from pathlib import Path

import pytest

from dpdt.base.files import (
    atomic_path,
    exclusive_lock,
    fingerprint,
    last_line,
    nearest_folder,
    read_json,
    read_tail,
    sha256_file,
    write_json,
)
from dpdt.errors import DpdtError


def test_an_error_while_writing_leaves_the_old_file_and_no_rubbish(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_json(file, {"old": 1})
    with pytest.raises(FileNotFoundError, match="nowhere"), atomic_path(file) as temporary:
        temporary.write_text((tmp_path / "nowhere").read_text())
    assert read_json(file) == {"old": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_files_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_json(tmp_path / "private.json", 1)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "private.json").stat().st_mode) == 0o600


def test_nan_is_refused_in_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", float("nan"))
    assert os.listdir(tmp_path) == []


def test_damaged_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(DpdtError, match=r"a\.json: not valid JSON"):
        read_json(tmp_path / "a.json")
    with pytest.raises(DpdtError, match=r"b\.json: no such file"):
        read_json(tmp_path / "b.json")


def test_sha256_is_the_standard_one(tmp_path: Path) -> None:
    # FIPS 180-2, appendix B.1: the digest of "abc".
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_file(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_fingerprint_ignores_key_order_and_sees_every_value() -> None:
    assert fingerprint({"a": [1, 2], "b": None}) == fingerprint({"b": None, "a": [1, 2]})
    assert len({fingerprint(v) for v in ({"a": 1}, {"a": 1.5}, {"a": "1"}, {"a": None}, {})}) == 5


def test_a_taken_lock_is_refused_without_waiting(tmp_path: Path) -> None:
    with (
        exclusive_lock(tmp_path / "lock"),
        pytest.raises(BlockingIOError),
        exclusive_lock(tmp_path / "lock", blocking=False),
    ):
        pass
    with exclusive_lock(tmp_path / "lock", blocking=False):
        assert (tmp_path / "lock").exists()


def test_a_full_disk_is_told_with_the_file_that_did_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system says of a write that fails neither which file it was nor where."""

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=re.escape(f"No space left on device: '{tmp_path}/a.json'")):
        write_json(tmp_path / "a.json", {})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_yet_will_be_in_the_nearest_one_that_is(tmp_path: Path) -> None:
    assert nearest_folder(tmp_path / "studies" / "mine") == tmp_path
    assert nearest_folder(tmp_path) == tmp_path


def test_the_end_of_a_file_is_read_and_a_missing_file_is_empty(tmp_path: Path) -> None:
    file = tmp_path / "log"
    assert read_tail(file) == ""
    file.write_bytes("first\nä\nlast\n".encode())
    assert read_tail(file, 5) == "last\n"
    assert read_tail(file, 7) == "\N{REPLACEMENT CHARACTER}\nlast\n"  # the cut went through the two bytes of ä
    assert last_line("one\n  two \n\n") == "two"
    assert last_line("\n \n") == ""
