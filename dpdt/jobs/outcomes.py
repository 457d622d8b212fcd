"""How the tasks of a submission ended."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from dpdt.errors import ClusterError
from dpdt.study.tasks import LAST_STAGES, Task

__all__ = ["Outcomes"]

LINES_SHOWN: Final = 10


@dataclass
class Outcomes:
    """Which tasks succeeded, failed (with the reason), or could not be run because of another."""

    done: set[Task] = field(default_factory=set)
    failed: dict[Task, str] = field(default_factory=dict)
    blocked: dict[Task, Task] = field(default_factory=dict)

    def fail(self, task: Task, error: str, log: Path | None = None) -> None:
        """Note a failure; `error` is the last line of its traceback."""
        where = "" if log is None else f" (log: {log})"
        self.failed[task] = f"{task.label}: {error}{where}"

    def blocker(self, task: Task, needs: tuple[Task, ...]) -> Task | None:
        """The task because of which this one cannot run, if there is one.

        The report and MLflow show what is there; they are blocked only if nothing that they show succeeded.
        """
        bad = [before for before in needs if before in self.failed or before in self.blocked]
        if not bad or (task.stage in LAST_STAGES and len(bad) < len(needs)):
            return None
        return bad[0]

    def raise_if_failed(self) -> None:
        """Say each failure on a line of stderr, and raise one error if there was any.

        Raises:
            ClusterError: A task failed; the message has its name, last traceback line and log file.
        """
        if not self.failed:
            return
        lines = list(self.failed.values())
        for line in lines[1 : LINES_SHOWN + 1]:
            print(f"failed: {line}", file=sys.stderr)
        if len(lines) > LINES_SHOWN + 1:
            print(f"failed: {len(lines) - LINES_SHOWN - 1} more", file=sys.stderr)
        others = f"; {len(lines)} tasks failed" if len(lines) > 1 else ""
        others += f"; {len(self.blocked)} not run because of that" if self.blocked else ""
        raise ClusterError(f"{lines[0]}{others}. Run the same command again to go on with what is missing.")
