"""How much privacy a run has spent: an append-only file that is on the disk before the noise it accounts for exists.

`ledger.jsonl` has one JSON object a line. The first names the mechanism (noise_multiplier, sample_rate, max_grad_norm,
delta, …). A `reserve` line books a block of noisy steps before the first of them is taken. A `settle` line
returns, after an orderly stop, the steps of the last block that were not taken. Whatever was reserved and not returned
is spent: a crash can make the spent budget larger than what was used, never smaller.

Each line carries a checksum over itself and the line before, so an altered, missing or reordered line is found. A
crash while a line is written leaves a part of a line at the end of the file; that line's steps were never taken, and it
is cut off.

A run's lock keeps other processes away, where the file system has locks that hold between nodes. The ledger does not
rely on that: before and after each line it looks whether the file is as this process left it. Of two processes that
train one run, one stops before its next block, and no line is written over.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from dpdt.base.files import make_folder, sync_folder
from dpdt.errors import PrivacyError

__all__ = ["Ledger", "read_spent_steps"]

FORMAT: Final = 1
CHECK_CHARACTERS: Final = 16


class Ledger:
    """The open ledger of one run; the caller holds the run's lock.

    Args:
        path: The file; created, with the mechanism on its first line, if it is not there.
        mechanism: What every step of the run does; the file's first line must say exactly the same.
        num_steps: Steps that may be spent in all.

    Raises:
        PrivacyError: The file is damaged, or belongs to another mechanism; in all methods that write: another process
            has written to it.
    """

    def __init__(self, path: Path, *, mechanism: Mapping[str, Any], num_steps: int) -> None:
        self._path = path
        self._num_steps = num_steps
        self._open_block = 0  # steps of the last block if this process reserved it, else 0
        self._used = 0  # of them, steps that were taken
        entries, self._check, whole = _read(path)
        self._size, self._last_line = len(whole), whole[whole[:-1].rfind(b"\n") + 1 :]
        make_folder(path.parent)
        self._stream = path.open("ab", buffering=0)
        try:
            self._cut_off_part()
            if entries:
                _compare(path, entries[0], mechanism)
                if not self._last_line.endswith(b"\n"):
                    self._write(b"\n", last_line=self._last_line + b"\n")
            else:
                self._append({"event": "open", "format": FORMAT, **mechanism})
                sync_folder(path.parent)
            self._spent = _spent(path, entries)
            if self._spent > num_steps:
                raise PrivacyError(f"{path}: {self._spent} steps are spent, but the run has only {num_steps}.")
        except BaseException:
            self._stream.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    @property
    def spent_steps(self) -> int:
        """Steps that count: all reserved ones except those returned."""
        return self._spent

    @property
    def used_steps(self) -> int:
        """Spent steps without those of this process' open block that are not taken yet."""
        return self._spent - (self._open_block - self._used)

    def reserve(self, steps: int) -> int:
        """Book the next block of noisy steps, on the disk when this returns.

        Args:
            steps: How many are wanted, at least 1.

        Returns:
            How many there are: fewer at the end of the budget, 0 when all of it is spent.

        Raises:
            PrivacyError: The line could not be written. No step of the block may be taken.
        """
        if steps < 1:
            raise PrivacyError(f"ledger: expected to reserve at least 1 step, got {steps}.")
        if self._used < self._open_block:
            raise PrivacyError(f"ledger: {self._open_block - self._used} steps of the last block are not taken yet.")
        block = min(steps, self._num_steps - self._spent)
        if block:
            self._append({"event": "reserve", "steps": block, "spent_steps": self._spent + block})
            self._spent += block
            self._open_block, self._used = block, 0
        return block

    def take(self) -> None:
        """Count one step of the open block as taken; call it before the step draws its batch.

        Raises:
            PrivacyError: No reserved step is left.
        """
        if self._used >= self._open_block:
            raise PrivacyError("ledger: a noisy step was about to be taken that is not reserved.")
        self._used += 1

    def settle(self) -> None:
        """Return the steps of the open block that were not taken: an orderly stop loses no budget."""
        rest = self._open_block - self._used
        if rest:
            self._append({"event": "settle", "unused": rest, "spent_steps": self._spent - rest})
            self._spent -= rest
        else:
            self._refuse_strangers()
        self._open_block = self._used = 0

    def read_again(self) -> int:
        """Spent steps as the file has them, all of it read once more: what a statement that is complete says.

        Raises:
            PrivacyError: It is damaged, or not as this process left it.
        """
        self._refuse_strangers()
        entries, _, _ = _read(self._path)
        if (spent := _spent(self._path, entries)) != self._spent:
            raise PrivacyError(f"{self._path}: {spent} steps are in the file, this process booked {self._spent}.")
        return spent

    def _refuse_strangers(self) -> None:
        """The file ends as this process left it. Opened anew: so a file system of a network asks its server."""
        try:
            with self._path.open("rb") as stream:
                stream.seek(self._size - len(self._last_line))
                as_left = stream.read() == self._last_line
        except FileNotFoundError:
            as_left = False
        if not as_left:
            self._stream.close()  # nothing may follow
            raise PrivacyError(
                f"{self._path}: not as this process left it, so another one trains this run too, or the file was "
                "exchanged. Locks do not keep processes apart on this file system (`dpdt doctor STUDY --cluster "
                "--probe` tries them). This process stops; no step was taken without an entry. Let one process alone "
                "go on, and move the study to a file system with locks."
            )

    def _cut_off_part(self) -> None:
        """Remove the part of a line that a crash left at the end; a whole line would be another process's."""
        if self._path.stat().st_size > self._size:
            if b"\n" not in self._path.read_bytes()[self._size :]:
                self._stream.truncate(self._size)
            self._refuse_strangers()

    def _append(self, entry: dict[str, Any]) -> None:
        if self._stream.closed:
            raise _unwritable(self._path, "nothing may follow a line that failed")
        self._refuse_strangers()
        check = _check(self._check, entry)
        line = json.dumps({**entry, "check": check}, allow_nan=False).encode() + b"\n"
        self._write(line, last_line=line)
        self._check = check

    def _write(self, line: bytes, *, last_line: bytes) -> None:
        try:
            written = self._stream.write(line)
            os.fsync(self._stream.fileno())
        except OSError as err:
            self._stream.close()
            raise _unwritable(self._path, str(err)) from err
        if written != len(line):
            self._stream.close()  # nothing may follow half a line
            raise _unwritable(self._path, f"only {written} of {len(line)} bytes were taken; the disk may be full")
        self._size, self._last_line = self._size + len(line), last_line
        self._refuse_strangers()  # two that looked at once both wrote: the later one, or both, find it here


def read_spent_steps(path: Path) -> int:
    """Steps that a ledger counts as spent, for readers that take no steps.

    Raises:
        PrivacyError: The file is missing, empty or damaged.
    """
    entries, _, _ = _read(path)
    if not entries:
        raise PrivacyError(f"{path}: no such ledger, or an empty one; the spent epsilon cannot be known.")
    return _spent(path, entries)


def _unwritable(path: Path, reason: str) -> PrivacyError:
    return PrivacyError(
        f"{path}: cannot be written ({reason}). No step was taken without an entry. "
        "Make room or repair the disk and start the training again."
    )


def _check(previous: str, entry: Mapping[str, Any]) -> str:
    """Checksum of an entry and, through the one before it, of everything before."""
    text = previous + json.dumps(entry, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:CHECK_CHARACTERS]


def _read(path: Path) -> tuple[list[dict[str, Any]], str, bytes]:
    """Entries, the last one's checksum, and their bytes."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return [], "", b""
    entries: list[dict[str, Any]] = []
    check, whole_bytes = "", 0
    *lines, rest = content.split(b"\n")
    for number, line in enumerate([*lines, rest] if rest else lines, start=1):
        entry = _entry(line, check)
        if entry is None:
            if number > len(lines):
                break  # a part of a line after the last line end
            raise PrivacyError(
                f"{path}: line {number} is damaged, or a line before it is missing, so the spent epsilon cannot "
                "be known. Restore the file from a backup, or remove the whole run and start it again "
                "(which spends privacy again)."
            )
        check = entry.pop("check")
        entries.append(entry)
        whole_bytes = min(whole_bytes + len(line) + 1, len(content))
    return entries, check, content[:whole_bytes]


def _entry(line: bytes, previous: str) -> dict[str, Any] | None:
    """The line's entry, if its checksum is right."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    if not isinstance(entry, dict):
        return None
    body = {key: value for key, value in entry.items() if key != "check"}
    return entry if entry.get("check") == _check(previous, body) else None


def _compare(path: Path, first: Mapping[str, Any], mechanism: Mapping[str, Any]) -> None:
    found = {key: value for key, value in first.items() if key not in ("event", "format")}
    if first.get("event") != "open" or first.get("format") != FORMAT:
        raise PrivacyError(f"{path}: expected a ledger of format {FORMAT}, got {dict(first)}.")
    for key in sorted({*found, *mechanism}):
        if found.get(key) != mechanism.get(key):
            raise PrivacyError(
                f"{path}: {key} is {found.get(key)!r} in the ledger and {mechanism.get(key)!r} in the run's config. "
                "Steps of two mechanisms must not share a ledger; restore the files that belong together."
            )


def _spent(path: Path, entries: list[dict[str, Any]]) -> int:
    """Add up the blocks; a settle line must follow its own block and return no more than it."""
    spent = block = 0
    for entry in entries[1:]:
        if entry["event"] == "reserve" and entry["steps"] >= 1:
            block = entry["steps"]
            spent += block
        elif entry["event"] == "settle" and 1 <= entry["unused"] <= block:
            spent -= entry["unused"]
            block = 0
        else:
            raise PrivacyError(f"{path}: an entry that makes no sense: {entry}.")
        if entry["spent_steps"] != spent:
            raise PrivacyError(f"{path}: the entries add up to {spent} steps, but one says {entry['spent_steps']}.")
    return spent


class Countdown:
    """The ledger's place in the arm without DP: counts steps, spends nothing, writes nothing.

    Args:
        num_steps: Steps of the whole run.
        taken: Steps that the resumed checkpoint has.
    """

    def __init__(self, *, num_steps: int, taken: int) -> None:
        self._num_steps = num_steps
        self.used_steps = taken
        self.spent_steps = taken

    def reserve(self, steps: int) -> int:
        """The next block: how many steps it has."""
        return min(steps, self._num_steps - self.used_steps)

    def take(self) -> None:
        """Count one step."""
        self.used_steps += 1
        self.spent_steps += 1

    def settle(self) -> None:
        """Nothing was reserved, so nothing is returned."""
