"""What submitit pickles and a job runs: one task of a frozen study."""

import fcntl
import os
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final, NoReturn

from submitit.helpers import DelayedSubmission

from dpdt.stages import Task, run_task

__all__ = ["TaskCall"]

# A task that was told to stop may finish what it writes, at most so long.
GRACE_SECONDS: Final = 20.0


@dataclass(frozen=True)
class TaskCall:
    """Call it to run a task; `checkpoint` is what submitit calls before it requeues the job.

    Attributes:
        study_file: The frozen study.
        task: What to do.
        num_threads: Cores for it.
        alive: Local jobs: a file that is locked while the process that started them lives. They stop without it.
        cuda_devices: Local jobs: the value of CUDA_VISIBLE_DEVICES; None leaves it alone.
    """

    study_file: str
    task: Task
    num_threads: int
    alive: str | None = None
    cuda_devices: str | None = None

    def __call__(self) -> None:
        """Run the task; the result is in the study's folder."""
        self._print_header()
        if self.cuda_devices is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = self.cuda_devices
        if self.alive is not None:
            signal.signal(signal.SIGTERM, _stop)
            threading.Thread(target=_stop_without, args=(self.alive,), daemon=True).start()
        run_task(self.study_file, self.task, num_threads=self.num_threads)

    def checkpoint(self) -> DelayedSubmission:
        """Start the same task again: a training goes on from its own last checkpoint."""
        return DelayedSubmission(self)

    def _print_header(self) -> None:
        """Each attempt's part of the log begins with a line that says which it is."""
        attempt = int(os.environ.get("SLURM_RESTART_COUNT", "0")) + 1
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        print(f"== {self.task.label}: attempt {attempt} on {socket.gethostname()} at {now}", flush=True)
        cores = len(os.sched_getaffinity(0))
        if cores < self.num_threads:
            print(f"warning: asked for {self.num_threads} cores, got {cores}", file=sys.stderr, flush=True)


def _stop(_signal: int, _frame: FrameType | None) -> NoReturn:
    """End in an orderly way (SystemExit runs the `finally` blocks), but in any case soon."""
    killer = threading.Timer(GRACE_SECONDS, os._exit, args=(1,))
    killer.daemon = True
    killer.start()
    sys.exit(128 + signal.SIGTERM)


def _stop_without(alive: str) -> None:
    """Wait until the kernel frees the starter's lock, that is until it died; then stop this process.

    A training answers SIGTERM by a checkpoint after its step; whatever does not answer in time is ended hard.
    """
    stream: Any = open(alive)  # noqa: SIM115  (kept to the end of the process)
    fcntl.flock(stream, fcntl.LOCK_SH)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os._exit(1)
