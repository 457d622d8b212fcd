"""Stopping a training in good order: a signal sets a flag, the training looks at it between two steps."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Final

__all__ = ["STOP_SIGNALS", "StopFlag", "stop_on_signals"]

# Ctrl-C, a scheduler's end, and the warning before a time limit (submitit and Slurm's --signal send SIGUSR2).
STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)


class StopFlag:
    """Asks a training to stop after the step it is in; safe to set from a signal handler or another thread."""

    def __init__(self) -> None:
        self.requested = False
        self.signal: int | None = None

    def request(self) -> None:
        """Ask to stop."""
        self.requested = True

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.signal = number
        self.requested = True


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """Let the stop signals set a flag while the block runs.

    When the block ends without an error, the handlers of before are back and the signal that came, if one did, is
    delivered to them: submitit's handler requeues the job, Ctrl-C raises KeyboardInterrupt, SIGTERM ends the process.
    Outside the main thread, which alone may have handlers, the flag is simply never set by a signal.
    """
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    before = {number: signal.signal(number, flag._on_signal) for number in STOP_SIGNALS}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if flag.signal is not None:
        signal.raise_signal(flag.signal)
