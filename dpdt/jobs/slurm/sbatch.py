"""Sending a script, so that what Slurm has and what dpdt knows is the same.

The id of a job is what `sbatch --parsable` prints, and nothing that a banner happens to say. Each script carries a tag
of its own in the job's comment. Where sbatch fails, gives up waiting, or says something else than an id, squeue is
asked for the tag: a job that is there after all is taken for the one that was sent, and never sent twice.
"""

import re
import time
import uuid
from pathlib import Path
from typing import Any, Final

import submitit
from submitit.core.utils import DelayedSubmission, JobPaths
from submitit.slurm.slurm import SlurmJob

from dpdt.base.files import make_folder
from dpdt.errors import ClusterError
from dpdt.jobs.slurm.programs import run_program
from dpdt.jobs.slurm.queue import ACTIVE_STATES

__all__ = ["Executor", "UnknownJobError", "error_lines"]

SBATCH_SECONDS: Final = 120.0
TRIES: Final = 3
# Before squeue is asked for a job that sbatch did not get an answer about, and before the next try.
PAUSE_SECONDS: Final = 10.0
# With --parsable, without it, and from wrappers that print a bare id.
ANSWER: Final = re.compile(r"(?:Submitted batch job )?(\d+)(?:;\S+| on cluster \S+)?")
# What sbatch says when the controller did not answer in time: the job may be queued all the same.
NO_ANSWER: Final = re.compile(r"timed out|unable to contact|zero bytes|temporarily un|communication|connection", re.I)


class UnknownJobError(ClusterError):
    """It is not known whether Slurm has a job."""


class Executor(submitit.SlurmExecutor):  # type: ignore[misc]
    """submitit's, with dpdt's way to call sbatch."""

    @classmethod
    def affinity(cls) -> int:
        """That it can be used: without Slurm's programs a script can be shown, and sending says what is missing."""
        return 1

    def script(self, number: int, tag: str) -> str:
        """The batch script of so many tasks; a tag tells their files apart."""
        if number > 1:
            self.parameters["map_count"] = number
        return str(self._make_submission_file_text(self._submitit_command_str, tag))

    def _internal_process_submissions(self, delayed_submissions: list[DelayedSubmission]) -> list[SlurmJob[Any]]:
        """Send the calls as an array, or as a job if it is one.

        Raises:
            ClusterError: Slurm refused it, or it is not known whether it did.
        """
        folder = make_folder(Path(self.folder))
        number = len(delayed_submissions)
        calls = [folder / f"{uuid.uuid4().hex}.pkl" for _ in delayed_submissions]
        for call, path in zip(delayed_submissions, calls, strict=True):
            call.set_timeout(self.parameters["time"], self.max_num_timeout)
            call.dump(path)
        tag = f"dpdt-{uuid.uuid4().hex}"
        script = folder / f".{tag}.sh"
        script.write_text(self.script(number, tag), encoding="utf-8")
        job_id = _send(script, tag)
        ranks = list(range(self._num_tasks()))
        JobPaths(folder, job_id).move_temporary_file(script, "submission_file", keep_as_symlink=True)
        job_ids = [job_id] if number == 1 else [f"{job_id}_{task}" for task in range(number)]
        jobs = [SlurmJob(folder=folder, job_id=one, tasks=ranks) for one in job_ids]
        for job, path in zip(jobs, calls, strict=True):
            job.paths.move_temporary_file(path, "submitted_pickle")
        return jobs


def _send(script: Path, tag: str) -> str:
    """Send a script; the id of the job or array."""
    for tries in range(1, TRIES + 1):
        done = run_program("sbatch", "--parsable", f"--comment={tag}", str(script), seconds=SBATCH_SECONDS)
        found = _job_ids(done.stdout)
        if done.returncode == 0 and len(found) == 1:
            return found.pop()
        waits = done.returncode != 0 and NO_ANSWER.search(done.stderr) is not None
        if waits:
            time.sleep(PAUSE_SECONDS)
        queued = _queued(tag, done.stderr)
        if queued is not None:
            return queued
        if not waits or tries == TRIES:
            break
    said = error_lines(done.stderr) or f"sbatch said {done.stdout.strip()!r}, which is no job id"
    raise ClusterError(f"Slurm refused a job: {said}")


def _job_ids(answer: str) -> set[str]:
    r"""Job ids in an answer of sbatch: lines that are nothing else.

    >>> _job_ids("Welcome! This is job 3 of 50.\n17;alpha\n")
    {'17'}
    """
    return {found[1] for line in answer.splitlines() if (found := ANSWER.fullmatch(line.strip()))}


def _queued(tag: str, error: str) -> str | None:
    """The id of the job that has a tag and waits or runs; None if there is none.

    Slurm also shows jobs that it refused, as failed ones.

    Raises:
        UnknownJobError: squeue does not answer, however often it is asked.
    """
    for tries in range(TRIES):
        time.sleep(PAUSE_SECONDS if tries else 0.0)
        done = run_program("squeue", "--noheader", "--me", "--format=%F|%T|%k")
        if done.returncode == 0:
            break
    else:
        raise UnknownJobError(
            f"sbatch did not say whether the job is queued ({error_lines(error)}), and squeue does not answer. Look "
            f"for a job with the comment {tag} when it does, and cancel it before you send the study again"
        )
    rows = (line.strip().split("|", 2) for line in done.stdout.splitlines() if line.count("|") >= 2)
    return next((job_id for job_id, state, comment in rows if comment == tag and state in ACTIVE_STATES), None)


def error_lines(text: str) -> str:
    r"""All that a program of Slurm complains about, in one line: a site's own reason stands before Slurm's.

    >>> error_lines("sbatch: error: no account\nsbatch: error: Batch job submission failed: Unspecified error\n")
    'no account; Batch job submission failed: Unspecified error'
    """
    lines = [re.sub(r"^s\w+: (error: )?", "", line.strip()) for line in text.splitlines()]
    return "; ".join(line for line in lines if line)
