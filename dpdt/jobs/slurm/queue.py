"""The states of jobs in Slurm: from `squeue` for those that it still knows, from `sacct` for older ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dpdt.jobs.slurm.programs import run_program

__all__ = [
    "ACTIVE_STATES",
    "Queued",
    "read_accounting",
    "read_queue",
]

ASK_SECONDS: Final = 30.0
# Words of Slurm for a job that has not ended.
ACTIVE_STATES: Final = frozenset(
    ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "RESIZING", "SUSPENDED", "STOPPED")
)


@dataclass(frozen=True)
class Queued:
    """A job as Slurm knows it.

    Attributes:
        state: Slurm's word in full, e.g. `RUNNING`.
        reason: Why it waits; "" if it does not.
        node: Where it runs or ran; "" if it never did.
    """

    state: str
    reason: str = ""
    node: str = ""

    @property
    def active(self) -> bool:
        """Whether it waits or runs."""
        return self.state in ACTIVE_STATES


def read_queue() -> dict[str, Queued] | None:
    """All jobs of this user that Slurm still knows, by id (`12` or `12_3`), from one call of squeue.

    Returns:
        None where there is no squeue or it does not answer; that says nothing about the jobs.
    """
    answer = _ask("squeue", "--noheader", "--array", "--me", "--states=all", "--format=%i|%T|%r|%N")
    if answer is None:
        return None
    rows = (line.strip().split("|", 3) for line in answer.splitlines() if line.count("|") >= 3)
    return {job_id: Queued(state, "" if reason == "None" else reason, node) for job_id, state, reason, node in rows}


def read_accounting(job_ids: Sequence[str]) -> dict[str, Queued] | None:
    """What the accounting says of jobs that have left Slurm's memory, from one call of sacct.

    Args:
        job_ids: `12` or `12_3`.

    Returns:
        None where the site keeps no accounting.
    """
    whole = sorted({job_id.split("_")[0] for job_id in job_ids})
    answer = _ask(
        "sacct",
        "--noheader",
        "--parsable2",
        "--allocations",
        "--format=JobID,State,NodeList",
        f"--jobs={','.join(whole)}",
    )
    if answer is None:
        return None
    found: dict[str, Queued] = {}
    for line in answer.splitlines():
        listed, state, node = (*line.split("|"), "", "")[:3]
        row = Queued(state.split(" ")[0], "", "" if node == "None assigned" else node)
        found.update(dict.fromkeys(_elements(listed), row))
    return {job_id: found[job_id] for job_id in job_ids if job_id in found}


def _elements(listed: str) -> list[str]:
    """Job ids of a line of sacct, which writes elements of an array that never started together.

    >>> _elements("12_3"), _elements("12_[0,4-6%2]")
    (['12_3'], ['12_0', '12_4', '12_5', '12_6'])
    """
    array_id, bracket, inside = listed.partition("_[")
    if not bracket:
        return [listed]
    ends = [part.split("-") for part in inside.rstrip("]").split("%")[0].split(",")]
    return [f"{array_id}_{number}" for end in ends for number in range(int(end[0]), int(end[-1]) + 1)]


def _ask(*command: str) -> str | None:
    """What a program of Slurm prints; None where it is missing, fails or does not answer."""
    done = run_program(*command, seconds=ASK_SECONDS)
    return done.stdout if done.returncode == 0 else None
