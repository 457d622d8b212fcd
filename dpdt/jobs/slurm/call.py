"""What a Slurm job runs: a task that may be stopped and requeued, on one process or several."""

import os
import socket
import sys
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import submitit
from submitit.helpers import DelayedSubmission

from dpdt.errors import ClusterError
from dpdt.jobs.slurm.requeue import REQUEUE_CODE, Limits, SlurmAttempt
from dpdt.jobs.task_call import TaskCall
from dpdt.study.frozen import thaw_study

__all__ = ["SlurmCall"]

# Below the range that systems hand out by themselves.
FIRST_PORT: Final = 20_000
NUM_PORTS: Final = 10_000


@dataclass(frozen=True)
class SlurmCall(TaskCall):
    """A task as a Slurm job.

    Attributes:
        limits: How often and how long it may run.
        scratch: A folder of the node that shards are copied to, e.g. `$SLURM_TMPDIR`.
        gpus: How many GPUs were asked for on each node.
    """

    limits: Limits
    scratch: str | None
    gpus: int

    def __call__(self) -> None:
        """Run as one attempt of the job; what an earlier attempt left as its result is void."""
        number = int(os.environ.get("SLURM_RESTART_COUNT", "0")) + 1
        # several slurmd on one host have different names
        attempt = self.new_attempt(number, os.environ.get("SLURMD_NODENAME"))
        slurm = SlurmAttempt(self.task, attempt, self.limits, self.attempts_file())
        environment = submitit.JobEnvironment()
        environment.paths.result_pickle.unlink(missing_ok=True)
        if environment.num_tasks > 1:
            os.environ.update(_torch_variables(environment))
        slurm.begin()
        if self.scratch is not None:
            os.environ["DPDT_SCRATCH"] = os.path.expandvars(self.scratch)
        self.print_header(attempt)
        self._check_gpu()
        try:
            self.run()
        except SystemExit as stop:
            try:
                slurm.ended(stop)
            except SystemExit:
                if environment.num_tasks > 1:
                    _end_process(REQUEUE_CODE if stop.code == REQUEUE_CODE else 1)
                raise

    def checkpoint(self) -> DelayedSubmission:
        """Start the same task again: what submitit calls if it is warned before the task listens itself."""
        return DelayedSubmission(self)

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


def _end_process(code: int) -> NoReturn:
    """End with this code, whatever libraries would do when the interpreter ends.

    All files are written. Gloo's threads may still run then, and end the process with an abort: the batch script would
    take that for a failure, and not ask for the requeue.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


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
