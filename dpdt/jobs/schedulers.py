"""The schedulers that `--cluster` names. To add one, write its module, and add a word and a row here."""

from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Final, Literal, cast

from dpdt.errors import StudyError

if TYPE_CHECKING:
    from dpdt.jobs.scheduler import Scheduler
    from dpdt.study import Study

__all__ = ["SCHEDULERS", "Cluster", "Registered", "make_scheduler", "queueing"]

Cluster = Literal["slurm", "local", "debug"]


@dataclass(frozen=True)
class Registered:
    """A scheduler as far as it must be known before it is imported.

    Attributes:
        path: Module and class, a `Scheduler`.
        summary: How it runs tasks, for `--help`.
        waits: Whether `submit` stays until its tasks have ended; otherwise they wait and run without it.
    """

    path: str
    summary: str
    waits: bool = True


SCHEDULERS: Final[dict[Cluster, Registered]] = {
    "slurm": Registered("dpdt.jobs.slurm.scheduler:SlurmScheduler", "arrays with dependencies", waits=False),
    "local": Registered("dpdt.jobs.local:LocalScheduler", "processes here"),
    "debug": Registered("dpdt.jobs.debug:DebugScheduler", "in this process"),
}


def make_scheduler(name: str, study: "Study") -> "Scheduler":
    """The scheduler of that name, for a study.

    Raises:
        StudyError: There is none of that name.
    """
    if name not in SCHEDULERS:
        *others, last = SCHEDULERS
        raise StudyError(f"cluster: expected {', '.join(others)} or {last}, got {name!r}.")
    found = cast("type[Scheduler]", resolve_name(SCHEDULERS[name].path))
    return found(study)


def queueing() -> list[str]:
    """Names of the schedulers that keep jobs in a queue and run them after `submit` has ended."""
    return [name for name, registered in SCHEDULERS.items() if not registered.waits]
