"""`--cluster local`: processes on this machine, a few at once."""

import fcntl
import glob
import os
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn

import submitit
from submitit.helpers import environment_variables

from dpdt.base.console import Advance, format_duration, progress
from dpdt.base.files import exclusive_lock, is_locked, last_line, read_tail
from dpdt.base.machine import num_cores
from dpdt.errors import ClusterError
from dpdt.jobs.attempts import begin_attempt, last_attempt, stop_attempt
from dpdt.jobs.job_states import JobStates
from dpdt.jobs.outcomes import Outcomes
from dpdt.jobs.scheduler import Scheduler
from dpdt.jobs.selection import Plan, StagePlan
from dpdt.jobs.submissions import Job, Jobs, Submission, latest_jobs, outcome
from dpdt.jobs.task_call import TaskCall
from dpdt.runs.progress import run_progress
from dpdt.study.tasks import GPU_STAGES, Task, needs

__all__ = ["LocalCall", "LocalScheduler"]

POLL_SECONDS: Final = 0.1
LOOK_SECONDS: Final = 2.0
# A task that was asked to stop may finish what it writes, for at most this long.
GRACE_SECONDS: Final = 20.0
# submitit wants a limit for local jobs; there is none here.
NO_LIMIT_MIN: Final = 60 * 24 * 365
THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class LocalScheduler(Scheduler):
    """Processes of this machine; only one submission at a time works on a study."""

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Be the one local submission that works on the study.

        Raises:
            ClusterError: Another one does.
        """
        with ExitStack() as stack:
            try:  # the lock alone: a task that cannot be started (EAGAIN of a fork) raises the same error
                stack.enter_context(exclusive_lock(self.study.paths.local_lock, blocking=False))
            except BlockingIOError as err:
                raise ClusterError(
                    f"{self.study.folder}: another `dpdt submit --cluster local` works on this study. "
                    f"Wait for it, or stop it: dpdt cancel {self.study.file}"
                ) from err
            self.study.paths.local_lock.write_text(f"{socket.gethostname()} {os.getpid()}\n")
            yield

    def run(self, plan: Plan, submission: Submission, *, queued: Mapping[Task, Job], wait: bool) -> Outcomes:
        """Run the stages one after another, at most `cluster.local_parallelism` tasks at once, and wait for the end.

        A failed task fails only what needs it; the others go on. However this process ends, its tasks end too.
        """
        outcomes = Outcomes()
        with exclusive_lock(submission.paths.alive):
            for number, stage in enumerate(plan.stages, start=1):
                if stage.send:
                    title = f"{stage.stage} (stage {number} of {len(plan.stages)})"
                    _LocalStage(self, stage, submission, outcomes).run(title)
        return outcomes

    def at_once(self, stage: StagePlan) -> int:
        """How many of a stage's tasks run at the same time."""
        return min(stage.resources.local_parallelism, len(stage.send))

    def asked(self, stage: StagePlan) -> tuple[object, ...]:
        """The cores of this machine, shared among the tasks; no limit on anything else."""
        at_once = self.at_once(stage)
        return "", at_once, max(1, num_cores() // at_once), "as found" if stage.resources.gpus else 0, "", ""

    def states(self, jobs: Jobs) -> "_LocalStates":
        """From the locks and results of the processes."""
        return _LocalStates(jobs)

    def cancel(self, tasks: Collection[Task] | None = None) -> list[Task]:
        """Stop the submission that works on the study, as Ctrl-C does, or only some of its tasks.

        Raises:
            ClusterError: It runs on another machine.
        """
        lock = self.study.paths.local_lock
        if not is_locked(lock):
            return []
        host, pid = lock.read_text().split()
        if host != socket.gethostname() or not _holds(int(pid), lock):
            raise ClusterError(
                f"{self.study.folder}: `dpdt submit` runs on {host}: press Ctrl-C there, or cancel there."
            )
        running = [
            job
            for task, (submission, job) in latest_jobs(self.study).items()
            if (tasks is None or task in tasks) and is_locked(submission.paths.alive) and outcome(job) is None
        ]
        if tasks is None:
            os.kill(int(pid), signal.SIGINT)
        for job in running if tasks is not None else ():
            with suppress(ProcessLookupError):
                os.kill(int(job.job_id), signal.SIGTERM)
        return [job.task for job in running]


class _LocalStates(JobStates):
    """Jobs that are processes."""

    def state(self, job: Job) -> tuple[str, str]:
        """A process without a result is there only while the one that started it is."""
        if self.outcome(job) is None and is_locked(self.jobs[job.task][0].paths.alive):
            return "waiting", "starting"
        return self.ended(job, "its process ended without a result", "failed")


@dataclass(frozen=True)
class LocalCall(TaskCall):
    """A task as a process that stops with the one that started it.

    Attributes:
        alive: A file that is locked while the process lives that started this one.
        cuda_devices: The value of CUDA_VISIBLE_DEVICES.
    """

    alive: str
    cuda_devices: str

    def __call__(self) -> None:
        """Run the task until it ends, is asked to stop, or the process that started it dies."""
        attempt, file = self.new_attempt(), self.attempts_file()
        os.environ["CUDA_VISIBLE_DEVICES"] = self.cuda_devices
        begin_attempt(file, attempt)

        def stop(_number: int, _frame: FrameType | None) -> NoReturn:
            """End in an orderly way (SystemExit runs the `finally` blocks), but in any case soon."""
            stop_attempt(file, attempt, "SIGTERM")
            killer = threading.Timer(GRACE_SECONDS, os._exit, args=(1,))
            killer.daemon = True
            killer.start()
            sys.exit(128 + signal.SIGTERM)

        signal.signal(signal.SIGTERM, stop)
        threading.Thread(target=_stop_without, args=(self.alive,), daemon=True).start()
        self.print_header(attempt)
        self.run()


@dataclass
class _Running:
    """A job and the slot that it takes."""

    job: Job
    handle: Any
    slot: int


class _LocalStage:
    """One stage's tasks, started as slots get free."""

    def __init__(self, scheduler: LocalScheduler, stage: StagePlan, submission: Submission, outcomes: Outcomes) -> None:
        self.stage = stage
        self.paths = scheduler.study.paths
        self.needs = needs(scheduler.study)
        self.submission = submission
        self.outcomes = outcomes
        self.waiting = deque(stage.send)
        self.running: list[_Running] = []
        num_slots = scheduler.at_once(stage)
        self.free = list(range(num_slots))
        self.num_threads = max(1, num_cores() // num_slots)

    def run(self, title: str) -> None:
        """Run all tasks; on any interruption stop those that run before it goes on upwards."""
        try:
            with progress(title, len(self.stage.send), unit="tasks") as advance:
                next_look = time.monotonic() + LOOK_SECONDS
                while self.waiting or self.running:
                    while self.waiting and self.free:
                        self._start(self.waiting.popleft(), advance)
                    self._collect(advance)
                    if time.monotonic() > next_look:
                        advance(0, "; ".join(self._progress()))
                        next_look = time.monotonic() + LOOK_SECONDS
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
        call = LocalCall(
            study_file=str(self.submission.paths.study),
            task=task,
            num_threads=self.num_threads,
            alive=str(self.submission.paths.alive),
            cuda_devices=self._gpu(slot),
        )
        executor = submitit.LocalExecutor(folder=self.submission.paths.jobs(task.name))
        executor.update_parameters(timeout_min=NO_LIMIT_MIN, stderr_to_stdout=True)
        threads = dict.fromkeys(THREAD_VARIABLES, str(self.num_threads))
        with _no_interrupts(), environment_variables(**threads):
            handle = executor.submit(call)
            self.running.append(_Running(self.submission.new_job(task, handle), handle, slot))
        self.submission.add([self.running[-1].job])

    def _progress(self) -> Iterator[str]:
        """How far each of the trainings is that run now."""
        for running in self.running:
            task = running.job.task
            found = run_progress(self.paths, task, running=True)
            if found["num_steps"]:
                left = f", {duration} left" if (duration := format_duration(found["time_left_s"])) else ""
                yield f"{task.label}: step {found['step']} of {found['num_steps']}{left}"

    def _gpu(self, slot: int) -> str:
        """The GPU of a slot, since a task is one process here; slots share them in turn if there are fewer."""
        found = _visible_gpus() if self.stage.stage in GPU_STAGES else []
        return found[slot % len(found)] if found else ""

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
            attempt = last_attempt(job.attempts)
            if attempt is not None and attempt.stopped:
                error = f"stopped ({attempt.stopped}); sent again, it goes on"
            elif error is None:
                line = last_line(read_tail(job.log))
                error = f"ended without a result, killed perhaps (out of memory?); last line: {line!r}"
            self.outcomes.fail(job.task, error, job.log)
            advance(1, f"failed: {job.task.label}")

    def _stop(self) -> None:
        """Stop what still runs, and wait for it (the tasks end themselves within GRACE_SECONDS)."""
        for running in self.running:
            if not running.handle.done():
                os.kill(int(running.job.job_id), signal.SIGTERM)
        last = time.monotonic() + 2 * GRACE_SECONDS
        while any(not running.handle.done() for running in self.running) and time.monotonic() < last:
            time.sleep(POLL_SECONDS)


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Block Ctrl-C, here until the end of the block and in processes started in it for good.

    A terminal sends Ctrl-C to all processes; the tasks shall get one signal, from this process.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _holds(pid: int, file: Path) -> bool:
    """Whether a process of this machine has a file open: a number alone may be another process by now."""
    with suppress(OSError):
        return any(os.path.samefile(opened, file) for opened in Path(f"/proc/{pid}/fd").iterdir() if opened.exists())
    return False


def _visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, without loading a library for it."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name]
    return [str(number) for number, _ in enumerate(glob.glob("/dev/nvidia[0-9]*"))]


def _stop_without(alive: str) -> None:
    """Wait until the kernel frees the starter's lock, that is until it died; then stop this process.

    A training answers SIGTERM with a checkpoint after its step; a task that does not end in time is killed.
    """
    stream: Any = open(alive)  # noqa: SIM115  (kept to the end of the process)
    fcntl.flock(stream, fcntl.LOCK_SH)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os._exit(1)
