"""Which task was sent as which job, and what became of it: read from the jobs' own files and from `squeue`.

The record of a submission lies beside its jobs' files (`jobs/<time>/record.json`). Nothing here needs Slurm's
accounting (`sacct`), which many sites do not have.
"""

import fcntl
import io
import os
import pickle
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dpdt.attempts import attempts_file
from dpdt.errors import ClusterError
from dpdt.files import NO_LOCKS, make_folder, read_json, write_json
from dpdt.frozen import freeze_study
from dpdt.paths import SubmissionPaths
from dpdt.stages import Task
from dpdt.study import Study

__all__ = [
    "Job",
    "Queued",
    "Submission",
    "is_locked",
    "last_line",
    "latest_jobs",
    "new_submission",
    "outcome",
    "read_accounting",
    "read_queue",
    "submissions",
]

ASK_SECONDS: Final = 30.0
LOG_TAIL_BYTES: Final = 8192
# Words of Slurm for a job that has not ended.
ACTIVE_STATES: Final = frozenset(
    ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "RESIZING", "SUSPENDED", "STOPPED")
)


@dataclass(frozen=True)
class Job:
    """One task as it was sent.

    Attributes:
        task: What it does.
        job_id: Slurm's id (`12` or `12_3`), or the process id of a local job.
        log: Its log file.
        result: Where submitit leaves what became of it.
        cluster: `slurm`, `local` or `debug`.
    """

    task: Task
    job_id: str
    log: Path
    result: Path
    cluster: str

    @property
    def attempts(self) -> Path:
        """Where its attempts are noted."""
        return attempts_file(self.result.parent, self.job_id)


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


class Submission:
    """What one `dpdt submit` sent; each change is on disk at once, so that a crash forgets no job."""

    def __init__(self, paths: SubmissionPaths, cluster: str, jobs: Sequence[Job] = ()) -> None:
        self.paths = paths
        self.cluster = cluster
        self.jobs = list(jobs)

    def add(self, jobs: Sequence[Job]) -> None:
        """Note jobs that were just sent."""
        self.jobs.extend(jobs)
        rows = [
            {
                "stage": job.task.stage,
                "key": job.task.key,
                "label": job.task.label,
                "part": job.task.part,
                "num_parts": job.task.num_parts,
                "job_id": job.job_id,
                "log": os.path.relpath(job.log, self.paths.folder),
                "result": os.path.relpath(job.result, self.paths.folder),
            }
            for job in self.jobs
        ]
        write_json(self.paths.record, {"format": 1, "cluster": self.cluster, "jobs": rows})

    def forget(self) -> None:
        """Forget the jobs: they were taken back."""
        self.jobs = []
        self.add([])


def new_submission(study: Study, cluster: str) -> Submission:
    """Make the folder of a submission and freeze the study in it."""
    make_folder(study.paths.jobs)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for number in range(1, 1000):
        paths = study.paths.submission(stamp if number == 1 else f"{stamp}-{number}")
        try:
            paths.folder.mkdir()
        except FileExistsError:
            continue
        freeze_study(study, paths.study)
        return Submission(paths, cluster)
    raise ClusterError(f"{study.paths.jobs}: a thousand submissions within one second; wait a moment.")


def submissions(study: Study) -> Iterator[Submission]:
    """All submissions of a study, the newest first."""
    folder = study.paths.jobs
    names = (entry.parent.name for entry in folder.glob("*/record.json"))
    for name in sorted(names, key=_by_time, reverse=True):
        paths = study.paths.submission(name)
        record = read_json(paths.record)
        jobs = [
            Job(
                task=Task(row["stage"], row["key"], row["label"], row.get("part", 0), row.get("num_parts", 1)),
                job_id=row["job_id"],
                log=paths.folder / row["log"],
                result=paths.folder / row["result"],
                cluster=record["cluster"],
            )
            for row in record["jobs"]
        ]
        yield Submission(paths, record["cluster"], jobs)


def _by_time(name: str) -> tuple[str, int]:
    """Sort key: the date and time, then the number within the second."""
    return name[:15], int(name[16:] or 1)


def latest_jobs(study: Study) -> dict[Task, tuple[Submission, Job]]:
    """The newest job of every task that was ever sent."""
    found: dict[Task, tuple[Submission, Job]] = {}
    for submission in submissions(study):
        for job in submission.jobs:
            found.setdefault(job.task, (submission, job))
    return found


def outcome(job: Job) -> str | None:
    """What a job left behind.

    Returns:
        None: nothing (not ended, or killed). `""`: it succeeded. Otherwise the last line of its error.
    """
    try:
        kind, value = _PlainUnpickler(io.BytesIO(job.result.read_bytes())).load()
    except FileNotFoundError:
        return None
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError) as err:
        return f"{job.result.name} cannot be read ({err})"
    if kind == "success":
        return ""
    lines = [line for line in str(value).splitlines() if line.strip()]
    return lines[-1].strip().removeprefix("dpdt.errors.") if lines else "failed without a message"


class _PlainUnpickler(pickle.Unpickler):
    """Reads submitit's ("success" | "error", text); a pickle that names a class is refused, not executed."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        raise pickle.UnpicklingError(f"unexpected {module_name}.{global_name}")


def last_line(file: Path) -> str:
    """The last line of a log that is not empty; "" if there is no log."""
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
            text = stream.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def is_locked(file: Path) -> bool:
    """Whether another process holds the lock on a file; a missing file is not locked, and is not created."""
    try:
        with file.open("r") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError as err:
        if err.errno not in NO_LOCKS:
            raise
    return False


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
    if shutil.which(command[0]) is None:
        return None
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=ASK_SECONDS, check=True).stdout
    except (subprocess.SubprocessError, OSError):
        return None
