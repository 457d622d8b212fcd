"""`--cluster slurm`: a stage's tasks as arrays, chained by Slurm's own dependencies, so no process has to wait.

Tasks that wait for the same jobs share an array. A task of `shards` or `evaluate` waits for its partner in the array
before (`aftercorr`), everything else for whole jobs (`afterok`), the report and MLflow for any end (`afterany`). So a
failed task takes along only what needs it, and Slurm removes that from the queue (`--kill-on-invalid-dep`).
"""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from dpdt.errors import ClusterError
from dpdt.jobs.resources import Resources
from dpdt.jobs.selection import Plan, StagePlan
from dpdt.jobs.slurm.bad_nodes import bad_nodes
from dpdt.jobs.slurm.call import SlurmCall
from dpdt.jobs.slurm.programs import run_program, slurm_config
from dpdt.jobs.slurm.queue import read_queue
from dpdt.jobs.slurm.requeue import Limits
from dpdt.jobs.slurm.sbatch import Executor, UnknownJobError, error_lines
from dpdt.jobs.slurm.script import check_python, cpus_per_rank, make_executor
from dpdt.jobs.submissions import Job, Submission, submissions
from dpdt.study import Study
from dpdt.study.tasks import CORRESPONDS, LAST_STAGES, Task

__all__ = ["PROGRAMS", "max_array_size", "outside_of_any_job", "queued_jobs", "scripts", "send"]

DEFAULT_MAX_ARRAY_SIZE: Final = 1001
PROGRAMS: Final = ("sbatch", "srun", "squeue", "scontrol", "scancel")


@dataclass(frozen=True)
class _Array:
    """Tasks that are sent together, and what they wait for."""

    tasks: tuple[Task, ...]
    dependency: str | None


def queued_jobs(study: Study) -> list[tuple[Submission, Job]]:
    """Jobs of the study in Slurm's queue, waiting or running, the newest submission first; of a report maybe two.

    Raises:
        ClusterError: There is no Slurm here, or it does not answer.
    """
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        raise ClusterError(
            f"no Slurm here: not found: {', '.join(missing)}. `dpdt submit` runs on the host, not in the container; "
            "log in to a node that has Slurm's programs, or use --cluster local."
        )
    queue = read_queue()
    if queue is None:
        raise ClusterError("squeue does not answer: is slurmctld up (`scontrol ping`)? Nothing was sent.")
    active = {job_id for job_id, row in queue.items() if row.active}
    sent = (one for one in submissions(study) if one.cluster == "slurm")
    return [(one, job) for one in sent for job in one.jobs if job.job_id in active]


def send(study: Study, plan: Plan, submission: Submission, *, queued: Mapping[Task, Job]) -> None:
    """Send all stages of a plan. If Slurm refuses one array, those sent before it are cancelled.

    Args:
        study: The study.
        plan: What to send.
        submission: Where jobs are recorded.
        queued: Tasks that are in the queue already; new tasks wait for them too.

    Raises:
        ClusterError: Slurm refused a job; the message is Slurm's.
    """
    sender = _Sender(study, plan, submission, queued)
    try:
        with outside_of_any_job():
            check_python(submission, [stage.resources for stage in plan.stages if stage.send])
            sender.send_all(plan)
    except BaseException as err:
        left = sender.cancel("else " if isinstance(err, UnknownJobError) else "")
        if isinstance(err, ClusterError):
            raise ClusterError(
                f"{err}. {left} Look at [cluster] in {study.file} and at the profile; `--dry-run` shows what is asked "
                "for."
            ) from err
        raise


def scripts(study: Study, plan: Plan, submission: Submission, *, queued: Mapping[Task, Job]) -> list[str]:
    """The scripts that `send` would send; nothing is written, and jobs that have no id yet are called `JOB1`, …."""
    shower = _Shower(study, plan, submission, queued)
    shower.send_all(plan)
    return shower.scripts


class _Sender:
    """Sends stage after stage and knows which task became which job."""

    def __init__(self, study: Study, plan: Plan, submission: Submission, queued: Mapping[Task, Job]) -> None:
        self.study = study
        self.needs = plan.needs
        self.submission = submission
        self.job_ids = {task: job.job_id for task, job in queued.items()}
        self.arrays: dict[str, list[str]] = {}
        self.max_array_size = max_array_size()
        self.left_out = bad_nodes(study, plan.send)

    def send_all(self, plan: Plan) -> None:
        """Send all stages of a plan, in order: a job's dependencies have ids when it is sent."""
        for stage in plan.stages:
            if stage.send:
                self._send_stage(stage)

    def _send_stage(self, stage: StagePlan) -> None:
        """Send one stage as one array or more; together they keep to the stage's limit of tasks at once."""
        arrays = [part for array in self._group(stage) for part in self._cut(array)]
        limits = _share(stage.resources.array_parallelism, [len(array.tasks) for array in arrays])
        lanes: list[str] = []
        for number, (array, limit) in enumerate(zip(arrays, limits, strict=True)):
            if number >= stage.resources.array_parallelism:  # more arrays than tasks at once: one after another
                before = f"afterany:{lanes[number - stage.resources.array_parallelism]}"
                array = replace(array, dependency=_both(before, array.dependency))
            lanes.append(self._send_array(stage, array, limit))

    def cancel(self, but: str) -> str:
        """Cancel what was sent before; says what is left of it in the queue (`but` another job that is not known)."""
        job_ids = sorted({job.job_id.split("_")[0] for job in self.submission.jobs})
        done = run_program("scancel", *job_ids) if job_ids else None
        if done is None or done.returncode == 0:
            self.submission.remove()
            return f"Nothing {but}of this submission is left in the queue."
        return (
            f"Jobs {', '.join(job_ids)} could not be cancelled ({error_lines(done.stderr)}); `dpdt cancel` tries again."
        )

    def _group(self, stage: StagePlan) -> list[_Array]:
        """Put tasks with the same dependencies together."""
        groups: dict[tuple[str | None, tuple[str, ...]], list[Task]] = {}
        partners: dict[Task, str | None] = {}
        for task in stage.send:
            partners[task], others = self._waits_for(task)
            array_id = (partners[task] or "").split("_")[0] or None
            groups.setdefault((array_id, others), []).append(task)
        word = "afterany" if stage.stage in LAST_STAGES else "afterok"
        arrays = []
        for (array_id, others), tasks in groups.items():
            after = f"{word}:{':'.join(self._whole_arrays(others))}" if others else None
            if array_id is None:
                arrays.append(_Array(tuple(tasks), after))
            elif [partners[task] for task in tasks] == self.arrays.get(array_id):
                arrays.append(_Array(tuple(tasks), _both(f"aftercorr:{array_id}", after)))
            else:  # not one to one: an array for each partner
                of_partner: dict[str | None, list[Task]] = {}
                for task in tasks:
                    of_partner.setdefault(partners[task], []).append(task)
                arrays += [
                    _Array(tuple(some), _both(f"afterok:{partner}", after)) for partner, some in of_partner.items()
                ]
        return arrays

    def _waits_for(self, task: Task) -> tuple[str | None, tuple[str, ...]]:
        """Job id of the task's partner in the stage that corresponds to its own, and of the others that it needs."""
        before = [other for other in self.needs[task] if other in self.job_ids]
        partner = next((self.job_ids[t] for t in before if t.stage == CORRESPONDS.get(task.stage)), None)
        return partner, tuple(self.job_ids[t] for t in before if self.job_ids[t] != partner)

    def _cut(self, array: _Array) -> list[_Array]:
        """Cut an array to the size that Slurm takes."""
        starts = range(0, len(array.tasks), self.max_array_size)
        return [_Array(array.tasks[start : start + self.max_array_size], array.dependency) for start in starts]

    def _whole_arrays(self, job_ids: Sequence[str]) -> list[str]:
        """Write an array's id once if all of its elements are named."""
        found: dict[str, list[str]] = {}
        for job_id in job_ids:
            found.setdefault(job_id.split("_")[0], []).append(job_id)
        return [
            text
            for array_id, members in found.items()
            for text in ([array_id] if len(members) == len(self.arrays.get(array_id, ())) else members)
        ]

    def _send_array(self, stage: StagePlan, array: _Array, limit: int) -> str:
        """Send an array, or a job if it is one task; returns its id."""
        executor = make_executor(self.submission, stage.stage, stage.resources, self.left_out)
        executor.update_parameters(dependency=array.dependency, array_parallelism=limit)
        job_ids = self._submit(executor, array.tasks, stage.resources)
        self.job_ids.update(zip(array.tasks, job_ids, strict=True))
        array_id = job_ids[0].split("_")[0]
        if len(job_ids) > 1:
            self.arrays[array_id] = job_ids
        return array_id

    def _submit(self, executor: Executor, tasks: Sequence[Task], asked: Resources) -> list[str]:
        """Let Slurm have the tasks; returns their ids."""
        limits = Limits(asked.max_attempts, asked.timeout_min, asked.signal_delay_s)
        study = str(self.submission.paths.study)
        calls = [
            SlurmCall(study, task, cpus_per_rank(asked), limits=limits, scratch=asked.scratch, gpus=asked.gpus)
            for task in tasks
        ]
        handles = executor.submit_array(calls)
        jobs = [self.submission.new_job(task, handle) for task, handle in zip(tasks, handles, strict=True)]
        self.submission.add(jobs)
        return [job.job_id for job in jobs]


class _Shower(_Sender):
    """Keeps the scripts that it would send."""

    def __init__(self, study: Study, plan: Plan, submission: Submission, queued: Mapping[Task, Job]) -> None:
        super().__init__(study, plan, submission, queued)
        self.scripts: list[str] = []

    def _submit(self, executor: Executor, tasks: Sequence[Task], asked: Resources) -> list[str]:
        """Keep the script; the ids are `JOB1`, or `JOB1_0` and so on."""
        self.scripts.append(executor.script(len(tasks), "script"))
        job_id = f"JOB{len(self.scripts)}"
        return [job_id] if len(tasks) == 1 else [f"{job_id}_{number}" for number in range(len(tasks))]


def _both(first: str, second: str | None) -> str:
    """Two conditions, both of which must hold."""
    return f"{first},{second}" if second else first


def _share(limit: int, sizes: Sequence[int]) -> list[int]:
    """Divide a limit of tasks at once among arrays in proportion to their sizes; each gets at least one.

    >>> _share(8, [30, 30, 30]), _share(64, [3, 3])
    ([3, 3, 2], [32, 32])
    """
    spare = max(0, limit - len(sizes))
    cuts = [-(-spare * sum(sizes[:number]) // sum(sizes)) for number in range(len(sizes) + 1)]
    return [1 + cuts[number + 1] - cuts[number] for number in range(len(sizes))]


def max_array_size() -> int:
    """Slurm's limit on the number of tasks of an array."""
    found = re.match(r"\d+", slurm_config().get("MaxArraySize", ""))
    return max(1, int(found[0])) if found else DEFAULT_MAX_ARRAY_SIZE


@contextlib.contextmanager
def outside_of_any_job() -> Iterator[None]:
    """Hide the variables of a job that this process runs in: sbatch and the new jobs would take them for their own."""
    hidden = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("SLURM_", "SBATCH_", "SRUN_", "SUBMITIT_")) and name != "SLURM_CONF"
    }
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)
