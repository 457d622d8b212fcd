"""Waiting for what other processes do, on a machine that may be busy with other work."""

import signal
import subprocess
import time
from collections.abc import Callable, Sequence

import psutil


def wait_until(condition: Callable[[], bool], *, seconds: float = 150, pause: float = 0.1) -> None:
    """Wait until something has happened; far longer than it takes, so that only what never happens fails."""
    last = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < last, "waited too long"
        time.sleep(pause)


def seconds_to_interrupt(command: Sequence[str], *, after: float) -> float:
    """Processor's seconds from Ctrl-C until a program says `interrupted`, sent some seconds after it said `started`.

    A program that never stops to look works on; one on a busy machine merely waits for the processor.
    """
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        time.sleep(after)
        before = psutil.Process(process.pid).cpu_times()
        process.send_signal(signal.SIGINT)
        said, seconds = process.stdout.readline().split()
        assert said == "interrupted"
        return float(seconds) - before.user - before.system
