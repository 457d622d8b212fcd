"""What a Slurm job runs: a task that may be stopped and requeued, on one process or several."""

import os
import pickle
import socket
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import submitit
from submitit.helpers import DelayedSubmission

from dpdt.base.files import atomic_path
from dpdt.errors import ClusterError, LostProcessError
from dpdt.jobs.attempts import Attempt
from dpdt.jobs.slurm.requeue import REQUEUE_CODE, Limits, SlurmAttempt, result_file
from dpdt.jobs.task_call import TaskCall
from dpdt.study.frozen import thaw_study
from dpdt.training.ranks import PORT_FILE

__all__ = ["SlurmCall"]


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
        environment = submitit.JobEnvironment()
        slurm = SlurmAttempt(self.task, attempt, self.limits, self.attempts_file(), environment.num_tasks)
        environment.paths.result_pickle.unlink(missing_ok=True)
        if environment.num_tasks > 1:
            os.environ.update(_torch_variables(environment, attempt.number))
            with _one_of_several(environment, slurm):
                self._attempt(slurm, attempt)
        else:
            self._attempt(slurm, attempt)

    def checkpoint(self) -> DelayedSubmission:
        """Start the same task again: what submitit calls if it is warned before the task listens itself."""
        return DelayedSubmission(self)

    def _attempt(self, slurm: SlurmAttempt, attempt: Attempt) -> None:
        """Run the task, and note how the attempt ended."""
        slurm.begin()
        if self.scratch is not None:
            os.environ["DPDT_SCRATCH"] = os.path.expandvars(self.scratch)
        self.print_header(attempt)
        self.check_version()
        self._check_gpu()
        try:
            self.run()
        except SystemExit as stop:
            slurm.ended(stop, self._saved_step())
        slurm.done()

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


@contextmanager
def _one_of_several(environment: Any, slurm: SlurmAttempt) -> Iterator[None]:
    """Run the block as one of the processes that train together; after it only rank 0 goes on, if it has succeeded."""
    leads = environment.global_rank == 0
    try:
        yield
    except SystemExit as stop:
        _end_process(REQUEUE_CODE if stop.code == REQUEUE_CODE else 1)
    except LostProcessError as err:
        print(f"{slurm.task.label}: {err}", file=sys.stderr, flush=True)
        slurm.lost()
        _end_process(1)
    except Exception:
        if not leads:  # the job's result is rank 0's
            with atomic_path(result_file(environment.paths.folder, environment.job_id)) as result:
                result.write_bytes(pickle.dumps(("error", traceback.format_exc())))
        raise
    if not leads:
        _end_process(0)


def _end_process(code: int) -> NoReturn:
    """End with this code, whatever libraries would do when the interpreter ends: all files are written."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _torch_variables(environment: Any, attempt: int) -> dict[str, str]:
    """How the processes of an attempt find each other."""
    return {
        "RANK": str(environment.global_rank),
        "LOCAL_RANK": str(environment.local_rank),
        "WORLD_SIZE": str(environment.num_tasks),
        "MASTER_ADDR": _first_node(environment) if environment.num_nodes > 1 else "127.0.0.1",
        PORT_FILE: str(Path(environment.paths.folder) / f"{environment.job_id}_{attempt}_port"),
    }


def _first_node(environment: Any) -> str:
    """Address of the first node, on which rank 0 runs: Slurm's name of it, if that is known to the network as well."""
    name = str(environment.hostnames[0])
    try:
        socket.getaddrinfo(name, None)
    except OSError:
        return os.environ.get("SLURM_LAUNCH_NODE_IPADDR", name)  # where the batch script called srun: the first node
    return name
