"""Which task was sent as which job, and how it ended: read from the jobs' own files and from `squeue`.

The record of a submission lies beside its jobs' files (`jobs/<time>/record.json`). Nothing here needs Slurm's
accounting (`sacct`), which many sites do not have.
"""

import io
import os
import pickle
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dpdt.base.files import last_line, make_folder, read_json, write_json
from dpdt.errors import ClusterError
from dpdt.jobs.attempts import attempts_file
from dpdt.study import Study
from dpdt.study.frozen import freeze_study
from dpdt.study.paths import SubmissionPaths
from dpdt.study.tasks import Task

__all__ = ["Job", "Jobs", "Submission", "latest_jobs", "new_submission", "outcome", "submissions"]


NAME: Final = re.compile(r"\d{8}-\d{6}(-\d+)?")
"""Of a submission's folder; another is somebody's copy of one."""


@dataclass(frozen=True)
class Job:
    """One task as it was sent.

    Attributes:
        task: What it does.
        job_id: Slurm's id (`12` or `12_3`), or the process id of a local job.
        log: Its log file.
        result: Where submitit writes its result.
        cluster: Its scheduler, a key of `SCHEDULERS`.
    """

    task: Task
    job_id: str
    log: Path
    result: Path
    cluster: str

    @property
    def attempts(self) -> Path:
        """Where its attempts are recorded."""
        return attempts_file(self.result.parent, self.job_id)


class Submission:
    """What one `dpdt submit` sent; each change is on disk at once, so that a crash forgets no job."""

    def __init__(self, paths: SubmissionPaths, cluster: str, jobs: Sequence[Job] = ()) -> None:
        self.paths = paths
        self.cluster = cluster
        self.jobs = list(jobs)
        self._rows: list[dict[str, Any]] = []

    def new_job(self, task: Task, handle: Any) -> Job:
        """The job that submitit made of a task; it is not recorded yet."""
        return Job(task, handle.job_id, handle.paths.stdout, handle.paths.result_pickle, self.cluster)

    def add(self, jobs: Sequence[Job]) -> None:
        """Note jobs that were just sent."""
        self.jobs.extend(jobs)
        self._rows += [
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
            for job in self.jobs[len(self._rows) :]
        ]
        write_json(self.paths.record, {"format": 1, "cluster": self.cluster, "jobs": self._rows})

    def remove(self) -> None:
        """Forget the jobs, and remove the folder: they were taken back."""
        self.jobs, self._rows = [], []
        shutil.rmtree(self.paths.folder, ignore_errors=True)


# The newest job of each task, and the submission that it was sent with.
Jobs = dict[Task, tuple[Submission, Job]]


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
    for name in sorted(filter(NAME.fullmatch, names), key=_by_time, reverse=True):
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


def latest_jobs(study: Study) -> Jobs:
    """The newest job of every task that was ever sent."""
    found: Jobs = {}
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
        data = job.result.read_bytes()
    except FileNotFoundError:
        return None
    try:
        kind, value = _PlainUnpickler(io.BytesIO(data)).load()
    except Exception as err:  # noqa: BLE001  a damaged pickle raises nearly any error, as its documentation says
        return f"{job.result.name} cannot be read ({err})"
    if kind == "success":
        return ""
    return last_line(str(value)).removeprefix("dpdt.errors.") or "failed without a message"


class _PlainUnpickler(pickle.Unpickler):
    """Reads submitit's ("success" | "error", text); a pickle that names a class is refused, not executed."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        raise pickle.UnpicklingError(f"unexpected {module_name}.{global_name}")
