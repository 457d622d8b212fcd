"""`--cluster local`: processes on this machine, a few at once; `--cluster debug`: one by one in this process."""

import glob
import os
import signal
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import submitit
from submitit.helpers import environment_variables

from dpdt.base.console import Advance, progress
from dpdt.base.files import exclusive_lock, last_line
from dpdt.errors import ClusterError
from dpdt.jobs.outcomes import Outcomes
from dpdt.jobs.selection import Plan, StagePlan, num_cores
from dpdt.jobs.submissions import Job, Submission, outcome
from dpdt.jobs.task_call import GRACE_SECONDS, TaskCall
from dpdt.study import Study
from dpdt.study.tasks import GPU_STAGES, Task

__all__ = ["run_debug", "run_local", "study_claimed"]

POLL_SECONDS: Final = 0.1
# submitit wants a limit for local jobs; there is none here.
NO_LIMIT_MIN: Final = 60 * 24 * 365
THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def run_debug(plan: Plan, submission: Submission) -> Outcomes:
    """Run every task in this process, one after another, up to the first failure.

    Raises:
        ClusterError: A task failed; the task's own error is its cause.
    """
    outcomes = Outcomes()
    executor = submitit.DebugExecutor(folder=submission.paths.folder)
    for task in plan.send:
        job = executor.submit(TaskCall(str(submission.paths.study), task, num_threads=0))
        error = job.exception()  # `result()` would start a debugger
        if error is not None:
            raise ClusterError(f"{task.label}: {type(error).__name__}: {error}") from error
        outcomes.done.add(task)
    return outcomes


@contextmanager
def study_claimed(study: Study) -> Iterator[None]:
    """Be the one local submission that works on a study.

    Raises:
        ClusterError: Another one does.
    """
    try:
        with exclusive_lock(study.paths.local_lock, blocking=False):
            yield
    except BlockingIOError as err:
        raise ClusterError(
            f"{study.folder}: another `dpdt submit --cluster local` works on this study. Wait for it, or stop it."
        ) from err


def run_local(study: Study, plan: Plan, submission: Submission) -> Outcomes:
    """Run the stages one after another, at most `cluster.local_parallelism` tasks at once, and wait for the end.

    A failed task fails only what needs it; the others go on. However this process ends, its tasks end too.
    """
    outcomes = Outcomes()
    with exclusive_lock(submission.paths.alive):
        for stage in plan.stages:
            if stage.send:
                _LocalStage(study, plan, stage, submission, outcomes).run()
    return outcomes


@dataclass
class _Running:
    """A job and the slot that it takes."""

    job: Job
    handle: Any
    slot: int


class _LocalStage:
    """One stage's tasks, started as slots get free."""

    def __init__(self, study: Study, plan: Plan, stage: StagePlan, submission: Submission, outcomes: Outcomes) -> None:
        self.stage = stage
        self.needs = plan.needs
        self.submission = submission
        self.outcomes = outcomes
        self.waiting = deque(stage.send)
        self.running: list[_Running] = []
        self.num_slots = min(study.cluster.local_parallelism, len(stage.send))
        self.free = list(range(self.num_slots))
        self.num_threads = max(1, num_cores() // self.num_slots)
        self.gpus_per_task = study.cluster.gpus_per_task

    def run(self) -> None:
        """Run all tasks; on any interruption stop those that run before it goes on upwards."""
        try:
            with progress(self.stage.stage, len(self.stage.send), unit="tasks") as advance:
                while self.waiting or self.running:
                    while self.waiting and self.free:
                        self._start(self.waiting.popleft(), advance)
                    self._collect(advance)
                    if self.running:
                        time.sleep(POLL_SECONDS)
        finally:
            self._stop()

    def _start(self, task: Task, advance: Advance) -> None:
        blocker = self.outcomes.blocker(task, self.needs[task])
        if blocker is not None:
            self.outcomes.blocked[task] = blocker
            advance(1, f"not run: {task.label}")
            return
        slot = self.free.pop(0)
        call = TaskCall(
            study_file=str(self.submission.paths.study),
            task=task,
            num_threads=self.num_threads,
            alive=str(self.submission.paths.alive),
            cuda_devices=self._gpus(slot),
        )
        executor = submitit.LocalExecutor(folder=self.submission.paths.jobs(task.name))
        executor.update_parameters(timeout_min=NO_LIMIT_MIN, stderr_to_stdout=True)
        threads = dict.fromkeys(THREAD_VARIABLES, str(self.num_threads))
        with _no_interrupts(), environment_variables(**threads):
            handle = executor.submit(call)
            job = Job(task, handle.job_id, handle.paths.stdout, handle.paths.result_pickle, "local")
            self.running.append(_Running(job, handle, slot))
        self.submission.add([job])

    def _gpus(self, slot: int) -> str:
        """GPUs of a slot; slots share them in turn if there are fewer GPUs than slots need."""
        found = _visible_gpus() if self.stage.stage in GPU_STAGES else []
        if not found:
            return ""
        count = min(max(1, self.gpus_per_task), len(found))
        return ",".join(found[(slot * count + number) % len(found)] for number in range(count))

    def _collect(self, advance: Advance) -> None:
        for running in [running for running in self.running if running.handle.done()]:
            self.running.remove(running)
            self.free.append(running.slot)
            job = running.job
            error = outcome(job)
            if error == "":
                self.outcomes.done.add(job.task)
                advance(1, job.task.label)
                continue
            if error is None:
                error = f"ended without a result, killed perhaps (out of memory?); last line: {last_line(job.log)!r}"
            self.outcomes.fail(job.task, error, job.log)
            advance(1, f"failed: {job.task.label}")

    def _stop(self) -> None:
        """Tell what still runs to stop, and wait for it (the tasks end themselves within GRACE_SECONDS)."""
        for running in self.running:
            if not running.handle.done():
                os.kill(int(running.job.job_id), signal.SIGTERM)
        last = time.monotonic() + 2 * GRACE_SECONDS
        while any(not running.handle.done() for running in self.running) and time.monotonic() < last:
            time.sleep(POLL_SECONDS)


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Block Ctrl-C, here until the end of the block and in processes started in it for good.

    A terminal sends Ctrl-C to all processes; the tasks shall hear of it from this process, once.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, without loading a library for it."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name]
    return [str(number) for number, _ in enumerate(glob.glob("/dev/nvidia[0-9]*"))]
