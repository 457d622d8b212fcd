"""The ledger: what counts as spent, and what damage does."""

import errno
import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpdt.errors import PrivacyError
from dpdt.privacy import ledger as ledger_module
from dpdt.privacy.ledger import Countdown, Ledger, read_spent_steps

MECHANISM = {"noise_multiplier": 1.1, "sample_rate": 0.1, "max_grad_norm": 1.5, "delta": 1e-5}


def open_ledger(path: Path, num_steps: int = 20) -> Ledger:
    return Ledger(path, mechanism=MECHANISM, num_steps=num_steps)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


def test_reserved_steps_count_until_they_are_given_back(path: Path) -> None:
    with open_ledger(path) as ledger:
        assert ledger.reserve(8) == 8
        assert (ledger.spent_steps, ledger.used_steps, read_spent_steps(path)) == (8, 0, 8)
        ledger.take()
        ledger.take()
        assert ledger.used_steps == 2
        ledger.settle()
        assert (ledger.spent_steps, ledger.used_steps, read_spent_steps(path)) == (2, 2, 2)


def test_what_a_crash_left_reserved_is_spent(path: Path) -> None:
    with open_ledger(path) as ledger:
        ledger.reserve(8)
        ledger.take()
    with open_ledger(path) as ledger:
        assert (ledger.spent_steps, ledger.used_steps) == (8, 8)
        ledger.settle()  # of a block that this process did not reserve nothing comes back
        assert read_spent_steps(path) == 8


def test_the_budget_ends(path: Path) -> None:
    with open_ledger(path, num_steps=10) as ledger:
        assert ledger.reserve(8) == 8
        for _ in range(8):
            ledger.take()
        assert ledger.reserve(8) == 2
        ledger.take()
        ledger.take()
        assert ledger.reserve(8) == 0
        with pytest.raises(PrivacyError, match="not reserved"):
            ledger.take()


def test_a_step_that_is_not_reserved_is_refused(path: Path) -> None:
    with open_ledger(path) as ledger, pytest.raises(PrivacyError, match="about to be taken that is not reserved"):
        ledger.take()


def test_a_block_is_used_up_before_the_next(path: Path) -> None:
    with open_ledger(path) as ledger:
        ledger.reserve(2)
        with pytest.raises(PrivacyError, match="2 steps of the last block are not taken yet"):
            ledger.reserve(2)
        with pytest.raises(PrivacyError, match="at least 1 step"):
            ledger.reserve(0)


def test_an_entry_is_on_the_disk_before_its_steps_may_be_taken(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(path.stat().st_size))
    with open_ledger(path) as ledger:
        before = len(synced)
        ledger.reserve(3)
        assert synced[before:] == [path.stat().st_size]


def filled(path: Path) -> bytes:
    """Three blocks, the last one with steps given back: 9 spent."""
    with open_ledger(path) as ledger:
        for _ in range(2):
            ledger.reserve(4)
            for _ in range(4):
                ledger.take()
        ledger.reserve(4)
        ledger.take()
        ledger.settle()
    return path.read_bytes()


def test_a_torn_last_line_is_cut_off(path: Path) -> None:
    whole = filled(path)
    *lines, last = whole.splitlines(keepends=True)
    for cut in range(1, len(last) - 1):
        path.write_bytes(b"".join(lines) + last[:cut])
        with open_ledger(path) as ledger:
            assert ledger.spent_steps == 12  # the settle line was not finished: its block counts whole
        assert path.read_bytes() == b"".join(lines)


def test_a_last_line_that_lacks_nothing_but_its_end_counts(path: Path) -> None:
    whole = filled(path)
    path.write_bytes(whole[:-1])
    with open_ledger(path) as ledger:
        assert ledger.spent_steps == 9
    assert path.read_bytes() == whole


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_flipped_byte_is_found_or_leaves_what_was_spent(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("ledger") / "ledger.jsonl"
    whole = bytearray(filled(path))
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(whole)
    try:
        spent = read_spent_steps(path)
    except PrivacyError:
        return
    assert spent >= 9  # at most the last line's steps given back are forgotten


def test_a_missing_line_is_found(path: Path) -> None:
    lines = filled(path).splitlines(keepends=True)
    for missing in range(len(lines) - 1):
        path.write_bytes(b"".join(lines[:missing] + lines[missing + 1 :]))
        with pytest.raises(PrivacyError, match="is damaged, or a line before it is missing"):
            open_ledger(path)


@pytest.mark.parametrize("key", list(MECHANISM))
def test_a_ledger_of_another_mechanism_is_refused(path: Path, key: str) -> None:
    filled(path)
    with pytest.raises(PrivacyError, match=f"{key} is .* in the ledger and .* in the run's config"):
        Ledger(path, mechanism={**MECHANISM, key: 0.7}, num_steps=20)


def test_more_spent_than_the_run_has_is_refused(path: Path) -> None:
    filled(path)
    with pytest.raises(PrivacyError, match="9 steps are spent, but the run has only 5"):
        open_ledger(path, num_steps=5)


def test_a_ledger_that_is_not_there_cannot_be_read(path: Path) -> None:
    with pytest.raises(PrivacyError, match="the spent epsilon cannot be known"):
        read_spent_steps(path)


def test_a_full_disk_stops_before_the_step(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    ledger = open_ledger(path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(PrivacyError, match=r"cannot be written \(.*No space left"):
            ledger.reserve(4)
    with pytest.raises(PrivacyError, match="not reserved"):
        ledger.take()
    with pytest.raises(PrivacyError, match="cannot be written"):
        ledger.reserve(4)  # nothing may follow a line that may be half written
    with open_ledger(path) as again:
        assert again.spent_steps in (0, 4)


def test_killed_at_any_moment_the_file_counts_what_was_taken(path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from dpdt.privacy.ledger import Ledger\n"
        f"ledger = Ledger(Path({str(path)!r}), mechanism={MECHANISM!r}, num_steps=10**6)\n"
        "while True:\n"
        "    for _ in range(ledger.reserve(3)):\n"
        "        ledger.take(); print('step', flush=True)\n"
    )
    taken = 0
    for lines in (1, 2, 3, 5, 7, 20):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in range(lines):
                process.stdout.readline()
            process.kill()
            taken += lines + len(process.stdout.readlines())
        assert read_spent_steps(path) >= taken


def test_without_dp_steps_are_counted_and_nothing_is_written() -> None:
    steps = Countdown(num_steps=5, taken=3)
    assert steps.reserve(10) == 2
    steps.take()
    steps.settle()
    assert (steps.spent_steps, steps.used_steps, steps.reserve(10)) == (4, 4, 1)


# A file system whose locks do not hold between nodes: two processes have the same ledger open.


def block(ledger: Ledger, steps: int = 4) -> int:
    """Reserve a block and take all of it."""
    for _ in range(reserved := ledger.reserve(steps)):
        ledger.take()
    return reserved


def test_of_two_processes_one_stops_and_every_step_that_was_taken_is_counted(path: Path) -> None:
    content = filled(path)
    for order in itertools.product((0, 1), repeat=4):
        path.write_bytes(content)
        with open_ledger(path, num_steps=60) as one, open_ledger(path, num_steps=60) as other:
            both, taken, stopped = (one, other), 9, set()
            for turn in order:
                if turn not in stopped:
                    try:
                        taken += block(both[turn])
                    except PrivacyError:
                        stopped.add(turn)
            first, second = both[order[0]], both[1 - order[0]]
            assert stopped == set(order) - {order[0]}  # whoever wrote first goes on
            assert first.read_again() == taken == read_spent_steps(path)
            for finish in (second.settle, second.read_again):  # so the other one cannot say that it is finished
                with pytest.raises(PrivacyError, match="not as this process left it"):
                    finish()


def test_two_that_look_at_once_find_each_other_before_a_step(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(path)
    line = path.read_bytes().splitlines(keepends=True)[-1]

    def another_writes_too(_descriptor: int) -> None:
        with path.open("ab") as stream:
            stream.write(line)

    with open_ledger(path) as ledger:
        monkeypatch.setattr(os, "fsync", another_writes_too)
        with pytest.raises(PrivacyError, match="another one trains this run too"):
            ledger.reserve(2)
        with pytest.raises(PrivacyError, match="not reserved"):
            ledger.take()


@pytest.mark.parametrize("exchanged", [True, False], ids=["exchanged", "gone"])
def test_a_ledger_that_was_exchanged_or_removed_while_it_is_open_stops_the_training(
    path: Path, exchanged: bool
) -> None:
    content = filled(path)
    with open_ledger(path) as ledger:
        path.rename(path.with_name("old"))
        if exchanged:
            path.write_bytes(content)  # the very same bytes, but what is appended goes elsewhere
        with pytest.raises(PrivacyError, match="or the file was exchanged"):
            ledger.reserve(2)
        with pytest.raises(PrivacyError, match="not reserved"):
            ledger.take()


def test_a_line_of_another_process_is_not_cut_off_as_a_part_of_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(path)
    plain = ledger_module._read

    def read_then_another_writes(file: Path) -> Any:
        found = plain(file)
        with open_ledger_of_another(file) as other:
            block(other)
        return found

    def open_ledger_of_another(file: Path) -> Ledger:
        monkeypatch.setattr(ledger_module, "_read", plain)
        return open_ledger(file)

    monkeypatch.setattr(ledger_module, "_read", read_then_another_writes)
    with pytest.raises(PrivacyError, match="another one trains this run too"):
        open_ledger(path)
    assert read_spent_steps(path) == 13


def test_a_line_that_was_never_written_is_missed_when_the_file_is_read_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(path)
    with open_ledger(path) as ledger:
        block(ledger)
        assert ledger.read_again() == 13
        monkeypatch.setattr(Ledger, "_append", lambda *_: None)
        block(ledger)
        with pytest.raises(PrivacyError, match="13 steps are in the file, this process booked 17"):
            ledger.read_again()
