"""A training feeds MLflow at its epoch ends, by a separate process that it never waits for.

The process (`dpdt.tracking.feeder`) learns of an epoch's end by a byte in a pipe. A server that is slow, down or
unknown therefore holds up that process alone. When the training ends, it gives its last news a moment: at most
LAST_SHARE of the training's time and LAST_SECONDS. What was not sent by then, `dpdt sync` sends.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Final

from dpdt.study import Study
from dpdt.study.frozen import as_frozen
from dpdt.study.paths import RunPaths
from dpdt.tracking.store import environment, is_server, tracking_uri

__all__ = ["live_sync"]

LAST_SHARE: Final = 0.005
LAST_SECONDS: Final = 10.0


@contextlib.contextmanager
def live_sync(study: Study) -> Iterator[Callable[[RunPaths], None] | None]:
    """Feed MLflow from a training inside the block.

    Yields:
        What the training calls at an epoch's end; None if the tracking URI is not a server: one process that feeds
        SQLite after the trainings is better than many at once.
    """
    if not is_server(tracking_uri(study)):
        yield None
        return
    feeder = _Feeder(study)
    try:
        yield feeder.tell
    finally:
        feeder.close()


class _Feeder:
    """The training's side of the pipe."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.begun = time.monotonic()
        self.process: subprocess.Popen[bytes] | None = None

    def tell(self, paths: RunPaths) -> None:
        """Report that there is news of a run; returns at once."""
        if self.process is None:
            self._start(paths.run_id)
        self._write(b"\n")

    def close(self) -> None:
        """Report the training's end, and end the process: in good order if it is quick."""
        if self.process is None:
            return
        self._write(b"\n")
        if self.process.stdin:
            self.process.stdin.close()
        patience = min(LAST_SECONDS, LAST_SHARE * (time.monotonic() - self.begun))
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(patience)
        self.process.kill()
        self.process.wait()

    def _start(self, run_id: str) -> None:
        command = [sys.executable, "-m", "dpdt.tracking.feeder"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment(), bufsize=0
        )
        frozen = {**as_frozen(self.study), "run_id": run_id}
        self._write(json.dumps(frozen).encode() + b"\n")  # shorter than a pipe holds
        if self.process.stdin:
            os.set_blocking(self.process.stdin.fileno(), False)

    def _write(self, line: bytes) -> None:
        """Write unless the process has ended or is so far behind that the pipe is full."""
        if self.process and self.process.stdin:
            with contextlib.suppress(BlockingIOError, BrokenPipeError):
                self.process.stdin.write(line)
