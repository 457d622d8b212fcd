"""What submitit pickles and a job runs: one task of a frozen study."""

import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import submitit

from dpdt.base.machine import code_version, num_cores
from dpdt.errors import ClusterError
from dpdt.jobs.attempts import Attempt, attempts_file
from dpdt.jobs.stages import run_task
from dpdt.study.frozen import thaw_study
from dpdt.study.tasks import TRAINING_STAGES, Task

__all__ = ["TaskCall"]


@dataclass(frozen=True)
class TaskCall:
    """Call it to run a task. A scheduler with jobs that need more subclasses it.

    Attributes:
        study_file: The frozen study.
        task: What to do.
        num_threads: Cores for it; 0: all cores of the process.
        sent_by: Version and hash of the dpdt that sent it.
    """

    study_file: str
    task: Task
    num_threads: int
    sent_by: tuple[str, str] = field(default_factory=code_version, kw_only=True)

    def __call__(self) -> None:
        """Run the task; the result is in the study's folder."""
        self.print_header(self.new_attempt())
        self.check_version()
        self.run()

    def check_version(self) -> None:
        """Refuse to go on with other code than what sent the task: a study would be made by two versions, unnoticed.

        Tasks of versions that did not say theirs go on.

        Raises:
            ClusterError: This node has another version.
        """
        sent, here = getattr(self, "sent_by", None), code_version()
        if sent in (None, here):
            return
        raise ClusterError(
            f"{self.task.label}: sent by dpdt {_version_text(sent)}, but {socket.gethostname()} has dpdt "
            f"{_version_text(here)}. Have one version everywhere, or cancel what waits (`dpdt cancel`) and send again."
        )

    def new_attempt(self, number: int = 1, host: str | None = None) -> Attempt:
        """The attempt that begins now."""
        return Attempt(number, host or socket.gethostname(), time.time(), self._saved_step())

    def attempts_file(self) -> Path:
        """Where the attempts of the job are kept that this process is."""
        environment = submitit.JobEnvironment()
        return attempts_file(environment.paths.folder, environment.job_id)

    def print_header(self, attempt: Attempt) -> None:
        """Each attempt's part of the log begins with a line that says which it is."""
        now = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(attempt.begun))
        since = "" if attempt.step is None else f", going on from step {attempt.step}"
        print(f"== {self.task.label}: attempt {attempt.number} on {attempt.host} at {now}{since}", flush=True)
        cores = num_cores()
        if cores < self.num_threads:
            print(f"warning: asked for {self.num_threads} cores, got {cores}", file=sys.stderr, flush=True)

    def run(self) -> None:
        """Run the task itself."""
        run_task(self.study_file, self.task, num_threads=self.num_threads)

    def _saved_step(self) -> int | None:
        """Step of the training's newest checkpoint."""
        if self.task.stage not in TRAINING_STAGES:
            return None
        return thaw_study(self.study_file).paths.run(self.task.key).saved_step


def _version_text(found: tuple[str, str]) -> str:
    """Version and hash for people."""
    return f"{found[0]} (files {str(found[1])[:12]})"
