"""The process beside a training that feeds MLflow from its run folder: `python -m dpdt.tracking.feeder`.

It reads the study and the run id from the first line of stdin; each further line says that there is news. Lines that
come while it is at work are one. It ends with its stdin, yields the processor to the training, and says once that the
server does not answer; then it tries again ever more seldom.
"""

import contextlib
import json
import os
import signal
import time
from typing import Final

from dpdt.base.console import warn
from dpdt.errors import DpdtError
from dpdt.study import Study
from dpdt.study.frozen import from_frozen

__all__ = ["feed", "main"]

FIRST_PAUSE_SECONDS: Final = 30.0
LONGEST_PAUSE_SECONDS: Final = 600.0
NICENESS: Final = 19
# The training's: it ends this process when it has dealt with them.
IGNORED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def main() -> None:
    """Feed MLflow until stdin ends."""
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    first = bytearray()
    while not first.endswith(b"\n"):
        part = os.read(0, 1)
        if not part:
            return
        first += part
    frozen = json.loads(first)
    feed(from_frozen(frozen), frozen["run_id"])


def feed(study: Study, run_id: str) -> None:
    """Send a run's news whenever stdin says that there is some."""
    from dpdt.tracking.sync import sync

    failures, not_before = 0, 0.0
    while os.read(0, 1 << 16):
        if time.monotonic() < not_before:
            continue
        try:
            sync(study, only=[run_id])
            failures = 0
        except DpdtError as err:
            if failures == 0:
                warn(f"{err} The training goes on.")
            pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2**failures)
            failures, not_before = failures + 1, time.monotonic() + pause


if __name__ == "__main__":
    main()
