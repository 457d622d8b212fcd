"""What submitit pickles and a job runs: one task of a frozen study."""

import fcntl
import os
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn

import submitit
from submitit.helpers import DelayedSubmission

from dpdt.errors import ClusterError
from dpdt.jobs.attempts import Attempt, attempts_file, begin_attempt
from dpdt.jobs.requeue import Limits, SlurmAttempt
from dpdt.jobs.stages import run_task
from dpdt.study.frozen import thaw_study
from dpdt.study.tasks import Task

__all__ = ["TaskCall"]

# A task that was told to stop may finish what it writes, at most so long.
GRACE_SECONDS: Final = 20.0
# Below the range that systems hand out by themselves.
FIRST_PORT, NUM_PORTS = 20_000, 10_000


@dataclass(frozen=True)
class TaskCall:
    """Call it to run a task.

    Attributes:
        study_file: The frozen study.
        task: What to do.
        num_threads: Cores for it.
        alive: Local jobs: a file that is locked while the process that started them lives. They stop without it.
        cuda_devices: Local jobs: the value of CUDA_VISIBLE_DEVICES; None leaves it alone.
        limits: Slurm jobs: how often and how long it may run.
        scratch: Slurm jobs: a folder of the node that shards are copied to, e.g. `$SLURM_TMPDIR`.
        gpus: Slurm jobs: how many GPUs were asked for on each node.
    """

    study_file: str
    task: Task
    num_threads: int
    alive: str | None = None
    cuda_devices: str | None = None
    limits: Limits | None = None
    scratch: str | None = None
    gpus: int = 0

    def __call__(self) -> None:
        """Run the task; the result is in the study's folder."""
        attempt = self._this_attempt()
        if self.limits is not None:
            self._run_in_slurm(SlurmAttempt(self.task, attempt, self.limits, self._attempts_file()))
            return
        if self.cuda_devices is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = self.cuda_devices
        if self.alive is not None:
            begin_attempt(self._attempts_file(), attempt)
            signal.signal(signal.SIGTERM, _stop)
            threading.Thread(target=_stop_without, args=(self.alive,), daemon=True).start()
        self._print_header(attempt)
        self._run()

    def checkpoint(self) -> DelayedSubmission:
        """Start the same task again: what submitit calls if it is warned before the task listens itself."""
        return DelayedSubmission(self)

    def _run_in_slurm(self, slurm: SlurmAttempt) -> None:
        """Run as one attempt of a job; what an earlier attempt left as its result is void."""
        environment = submitit.JobEnvironment()
        environment.paths.result_pickle.unlink(missing_ok=True)
        if environment.num_tasks > 1:
            os.environ.update(_torch_variables(environment))
        slurm.begin()
        if self.scratch is not None:
            os.environ["DPDT_SCRATCH"] = os.path.expandvars(self.scratch)
        self._print_header(slurm.attempt)
        self._check_gpu()
        try:
            self._run()
        except SystemExit as stop:
            slurm.ended(stop)

    def _check_gpu(self) -> None:
        """Fail at once where the GPU that was asked for is not seen: on the CPU a training would go on for days.

        Raises:
            ClusterError: It is not seen, and the study does not say that it shall not be used.
        """
        if not self.gpus or thaw_study(self.study_file).train.device == "cpu":
            return
        import torch

        if not torch.cuda.is_available():
            seen = os.environ.get("CUDA_VISIBLE_DEVICES", "not set")
            raise ClusterError(
                f"{self.task.label}: asked for {self.gpus} GPU(s) on a node, but torch {torch.__version__} sees none "
                f"(CUDA_VISIBLE_DEVICES: {seen}). Install torch with CUDA for the node's driver (`nvidia-smi`), "
                'repair the image, or set train.device = "cpu".'
            )

    def _run(self) -> None:
        run_task(self.study_file, self.task, num_threads=self.num_threads)

    def _this_attempt(self) -> Attempt:
        number = int(os.environ.get("SLURM_RESTART_COUNT", "0")) + 1
        # several slurmd on one host have names of their own
        host = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
        return Attempt(number, host, time.time(), self._saved_step())

    def _attempts_file(self) -> Path:
        environment = submitit.JobEnvironment()
        return attempts_file(environment.paths.folder, environment.job_id)

    def _saved_step(self) -> int | None:
        """Step of the training's newest checkpoint."""
        if self.task.stage not in ("pretrain", "train"):
            return None
        return thaw_study(self.study_file).paths.run(self.task.key).saved_step

    def _print_header(self, attempt: Attempt) -> None:
        """Each attempt's part of the log begins with a line that says which it is."""
        now = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(attempt.begun))
        since = "" if attempt.step is None else f", going on from step {attempt.step}"
        print(f"== {self.task.label}: attempt {attempt.number} on {attempt.host} at {now}{since}", flush=True)
        cores = len(os.sched_getaffinity(0))
        if cores < self.num_threads:
            print(f"warning: asked for {self.num_threads} cores, got {cores}", file=sys.stderr, flush=True)


def _torch_variables(environment: Any) -> dict[str, str]:
    """How the processes of a training find each other: what torchrun would set."""
    return {
        "RANK": str(environment.global_rank),
        "LOCAL_RANK": str(environment.local_rank),
        "WORLD_SIZE": str(environment.num_tasks),
        "MASTER_ADDR": _first_node(environment) if environment.num_nodes > 1 else "127.0.0.1",
        "MASTER_PORT": str(FIRST_PORT + int(environment.raw_job_id) % NUM_PORTS),
    }


def _first_node(environment: Any) -> str:
    """Address of the first node, on which rank 0 runs: Slurm's name of it, if that is known to the network as well."""
    name = str(environment.hostnames[0])
    try:
        socket.getaddrinfo(name, None)
    except OSError:
        return os.environ.get("SLURM_LAUNCH_NODE_IPADDR", name)  # where the batch script called srun: the first node
    return name


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
