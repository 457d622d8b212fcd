"""The attempts of a job, kept beside its result: a line when one begins, is stopped or ends in order.

The batch script goes by the line of the end, and not by the exit code alone: what libraries do when the interpreter
ends may change that.
"""

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from dpdt.base.files import read_tail

__all__ = [
    "Attempt",
    "attempts_file",
    "begin_attempt",
    "end_attempt",
    "ended_words",
    "last_attempt",
    "recent_attempts",
    "stop_attempt",
]

TAIL_BYTES = 4096


@dataclass(frozen=True)
class Attempt:
    """One start of a job.

    Attributes:
        number: From 1; each requeue is one more.
        host: Where it ran.
        begun: Seconds since 1970.
        step: The checkpoint that it went on from; None if there was none.
        stopped: Why it was asked to stop (`preempted`, `time limit`, `SIGTERM`); "" if it was not.
    """

    number: int
    host: str
    begun: float
    step: int | None
    stopped: str = ""


def attempts_file(folder: Path, job_id: str) -> Path:
    """Where a job's attempts are kept."""
    return folder / f"{job_id}_attempts.jsonl"


def begin_attempt(file: Path, attempt: Attempt) -> None:
    """Note that an attempt begins."""
    values = {"attempt": attempt.number, "host": attempt.host, "begun": attempt.begun, "step": attempt.step}
    _append(file, values)


def stop_attempt(file: Path, attempt: Attempt, reason: str) -> None:
    """Record that an attempt was asked to stop, and why."""
    _append(file, {"attempt": attempt.number, "stopped": reason, "time": time.time()})


def end_attempt(file: Path, attempt: Attempt, how: str, step: int | None) -> None:
    """Record that all of an attempt's files are written.

    Args:
        file: The job's attempts.
        attempt: The one that ends.
        how: `done`, or `stopped`: in good order, to be started again.
        step: The training's newest checkpoint.
    """
    _append(file, {"attempt": attempt.number, "ended": how, "step": step})


def ended_words(number: int | str, how: str) -> str:
    """How the line of `end_attempt` begins: what the batch script looks for."""
    return f'{{"attempt": {number}, "ended": "{how}"'


def last_attempt(file: Path) -> Attempt | None:
    """The newest attempt; None if the job never started."""
    return next(iter(recent_attempts(file)), None)


def recent_attempts(file: Path) -> list[Attempt]:
    """The newest attempts, the last one first; a dozen or more if there were so many."""
    found: list[Attempt] = []
    for row in _rows(file):
        if "begun" in row:
            found.append(Attempt(row["attempt"], row["host"], row["begun"], row["step"]))  # type: ignore[arg-type]
        elif "stopped" in row and found and row.get("attempt") == found[-1].number:
            found[-1] = replace(found[-1], stopped=str(row["stopped"]))
    return found[::-1]


def _append(file: Path, values: dict[str, object]) -> None:
    """One write of one line, so that a kill cannot mix two."""
    with file.open("ab") as stream:
        stream.write(f"{json.dumps(values)}\n".encode())


def _rows(file: Path) -> Iterator[dict[str, object]]:
    """The last lines; one that a kill cut off is left out."""
    for line in read_tail(file, TAIL_BYTES).splitlines():
        with suppress(ValueError):
            yield json.loads(line)
