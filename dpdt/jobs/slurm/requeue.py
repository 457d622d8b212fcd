"""How a Slurm job is stopped and requeued: python ends with a special exit code, the batch script asks for the requeue.

Signals that come before a preemption or the time limit (SIGUSR2, or only SIGTERM where a site sends nothing else) end
the task in good order: a training writes its checkpoint after the step it is in (`dpdt.training.stop`), everything
else ends at once, because its files are written whole or not at all. submitit's own handlers are replaced: they pass
over SIGTERM, take every warning of a job shorter than ten minutes for a time-out, and need `scontrol` inside of a
container.

The batch script runs on the host, also where python runs in a container. It goes by what the attempt noted before it
ended, and only without such a note by the exit code. It requeues the one task of the array, and only while Slurm says
that the job is running: after `scancel`, or an operator's `scontrol requeue`, Slurm has decided already.

A job of several processes that ends without a note and without an error of its own lost one of them (killed, out of
memory): it comes back too, unless that happens again and again at the same step.
"""

import os
import shlex
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

from dpdt.base.machine import this_rank
from dpdt.errors import ClusterError
from dpdt.jobs.attempts import (
    Attempt,
    attempts_file,
    begin_attempt,
    end_attempt,
    ended_words,
    recent_attempts,
    stop_attempt,
)
from dpdt.study.tasks import GPU_STAGES, LAST_STAGES, Task

__all__ = ["REQUEUE_CODE", "SETUP", "Limits", "SlurmAttempt", "result_file", "teardown"]

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGUSR2)
# EX_TEMPFAIL of sysexits.h: nothing is wrong, try again later.
REQUEUE_CODE: Final = 75
# What does not end within this time after it was asked to is killed (a training may take as long as its step).
STOP_SECONDS: Final = 20.0
# How long a process that lost another waits before it ends: srun then ends all, and one that failed shall say why.
LOST_SECONDS: Final = 5.0
# Slurm may warn up to a minute earlier than it was asked to.
SIGNAL_GRAIN_SECONDS: Final = 60.0
TIME_LIMIT: Final = "time limit"
LOST: Final = "one of its processes was lost"
# So many attempts of several processes that begin at the same step, and end without a word, have a reason that stays.
LOST_IN_A_ROW: Final = 3
# These start from the beginning in each attempt: one that meets its time limit twice in a row would do so for ever.
WHOLE_STAGES: Final = ("cohort", *LAST_STAGES)

# bash must survive the signals that it gets together with python, and go on after a python that failed.
SETUP: Final = ("trap : TERM", "set +e")


def result_file(folder: Path | str, job_id: str) -> Path:
    """Where submitit keeps a job's result: its rank 0's."""
    return Path(folder) / f"{job_id}_0_result.pkl"


def teardown(folder: Path) -> list[str]:
    """What the batch script does when python has ended.

    Args:
        folder: Where the job's attempts and result are.
    """
    words = ended_words("$attempt", "$1").replace('"', r"\"")
    return [
        "code=$?",
        "attempt=$((${SLURM_RESTART_COUNT:-0} + 1))",
        "job=$SLURM_JOB_ID",
        '[ -z "$SLURM_ARRAY_TASK_ID" ] || job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID',
        f"folder={shlex.quote(str(folder))}",
        # a job that was killed before it began has no such file
        f'ended() {{ tail -n 1 "{attempts_file(Path("$folder"), "${job}")}" 2> /dev/null | grep -qF "{words}"; }}',
        "if ended done; then code=0",  # whatever libraries did after that
        f"elif ended stopped; then code={REQUEUE_CODE}",
        # of several processes one was killed, unless one says that it failed
        'elif [ $code != 0 ] && [ "${SLURM_NTASKS:-1}" -gt 1 ]; then',
        f'  if [ -e "{result_file("$folder", "${job}")}" ]; then code=1; else code={REQUEUE_CODE}; fi',
        "fi",
        # 140 and 143: python was warned (SIGUSR2, SIGTERM) before it could listen
        f"if [ $code = {REQUEUE_CODE} ] || [ $code = 140 ] || [ $code = 143 ]; then",
        '  [ "$(timeout 60 squeue --noheader --job="$job" --format=%T)" = RUNNING ] && '
        'timeout 60 scontrol requeue "$job"',
        "fi",
        "exit $code",
    ]


@dataclass(frozen=True)
class Limits:
    """What a job may use up.

    Attributes:
        max_attempts: Starts in all, whoever asked for them.
        timeout_min: Its time limit.
        signal_delay_s: How long before it the job is warned.
    """

    max_attempts: int
    timeout_min: int
    signal_delay_s: int


class SlurmAttempt:
    """The attempt that this process is, alone or one of several; it listens to the signals from `begin` on."""

    def __init__(self, task: Task, attempt: Attempt, limits: Limits, file: Path, num_processes: int = 1) -> None:
        self.task = task
        self.attempt = attempt
        self.limits = limits
        self.file = file
        self.num_processes = num_processes
        self.clock = time.monotonic()

    def begin(self) -> None:
        """Note the attempt and listen.

        Raises:
            ClusterError: The job was started more often than is allowed.
        """
        if self.attempt.number > self.limits.max_attempts:
            self._give_up(f"attempt {self.attempt.number}, and {self._allowed}")
        if self._loses_processes():
            self._give_up(
                f"{LOST_IN_A_ROW} attempts in a row went on from step {self.attempt.step or 0}, and {LOST} in each. "
                "Was it out of memory? Raise mem_gb, or lower train.physical_batch_size"
            )
        for number in STOP_SIGNALS:
            signal.signal(number, self._stop)
        signal.signal(signal.SIGCONT, signal.SIG_DFL)  # comes along with SIGTERM; submitit would note it in the log
        if this_rank() == 0:
            begin_attempt(self.file, self.attempt)

    def done(self) -> None:
        """Note that the task is done; a signal that comes now comes too late."""
        self._ignore_signals()
        self._note("done", None)

    def lost(self) -> None:
        """Note that this process cannot go on because another one is gone, and let one that failed say so first."""
        self._ignore_signals()
        self._record(LOST)
        time.sleep(LOST_SECONDS)

    def ended(self, stop: SystemExit, step: int | None) -> NoReturn:
        """Let the job be requeued, or, after its last attempt, fail in a state from which a new job goes on.

        Args:
            stop: What ends it.
            step: The training's newest checkpoint.

        Raises:
            ClusterError: It was the last attempt, or another one would not get further.
            SystemExit: As given.
        """
        if stop.code == REQUEUE_CODE and self.attempt.number >= self.limits.max_attempts:
            self._give_up(f"stopped in attempt {self.attempt.number}, and {self._allowed}")
        if stop.code == REQUEUE_CODE and self._needs_more_time():
            raise ClusterError(
                f"{self.task.label}: two attempts met the time limit, and this stage starts from the beginning in "
                f"each. Raise timeout_min (now {self.limits.timeout_min}) in [stages.{self.task.stage}] of the profile."
            )
        if stop.code == REQUEUE_CODE:
            self._note("stopped", step)
        raise stop

    @property
    def _allowed(self) -> str:
        return f"cluster.max_attempts allows {self.limits.max_attempts}"

    def _needs_more_time(self) -> bool:
        """Whether a third attempt would end as this one and the one before."""
        ends = [attempt.stopped for attempt in recent_attempts(self.file)[:2]]
        return self.task.stage in WHOLE_STAGES and ends == [TIME_LIMIT, TIME_LIMIT]

    def _loses_processes(self) -> bool:
        """Whether the attempts before this one lost a process each, and got no further."""
        before = recent_attempts(self.file)[:LOST_IN_A_ROW]
        same = [one for one in before if one.step == self.attempt.step and one.stopped in ("", LOST)]
        return self.num_processes > 1 and len(same) == LOST_IN_A_ROW

    def _ignore_signals(self) -> None:
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def _note(self, how: str, step: int | None) -> None:
        """Note the end, once for all of its processes."""
        if this_rank() == 0:
            end_attempt(self.file, self.attempt, how, step)

    def _give_up(self, what: str) -> NoReturn:
        self._record("too many attempts")
        raise ClusterError(
            f"{self.task.label}: {what}. Nothing that it did is lost: `dpdt submit --retry-failed` sends it again, "
            "and it goes on from there."
        )

    def _stop(self, number: int, _frame: FrameType | None) -> NoReturn:
        """End in an orderly way (SystemExit runs the `finally` blocks), but soon."""
        self._ignore_signals()
        reason = self._reason(number)
        self._record(reason)
        print(f"== {self.task.label}: attempt {self.attempt.number} stops: {reason}", flush=True)
        if self.task.stage not in GPU_STAGES:
            killer = threading.Timer(STOP_SECONDS, os._exit, args=(REQUEUE_CODE,))
            killer.daemon = True
            killer.start()
        raise SystemExit(REQUEUE_CODE)

    def _record(self, reason: str) -> None:
        """Record why the attempt stops, once for all of its processes."""
        if this_rank() == 0:
            stop_attempt(self.file, self.attempt, reason)

    def _reason(self, number: int) -> str:
        if number == signal.SIGTERM:
            return "SIGTERM"
        left = 60 * self.limits.timeout_min - (time.monotonic() - self.clock)
        return TIME_LIMIT if left <= self.limits.signal_delay_s + SIGNAL_GRAIN_SECONDS else "preempted"
