"""The logs of tasks, found by the tasks' names."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from dpdt.base.files import read_tail
from dpdt.errors import StudyError
from dpdt.jobs.status import study_status
from dpdt.jobs.submissions import latest_jobs
from dpdt.study import Study
from dpdt.study.tasks import Task, needs

__all__ = ["find_tasks", "show_logs"]

LINE_BYTES: Final = 400
SUBMITIT: Final = re.compile(r"submitit (INFO|WARNING|ERROR) \(")
NAMES_SHOWN: Final = 8


def find_tasks(study: Study, words: Sequence[str]) -> list[Task]:
    """Tasks that are meant by names (`train-padchest-eps1-…`), stages, or parts of a name or label.

    Raises:
        StudyError: A word means no task.
    """
    known = list(needs(study))
    found: dict[Task, None] = {}
    for word in words:
        exact = [task for task in known if word in (task.name, task.stage)]
        some = exact or [task for task in known if word in task.name or word in task.label]
        if not some:
            names = ", ".join(task.name for task in known[:NAMES_SHOWN])
            raise StudyError(f"no task {word!r}; `dpdt status {study.file}` shows all. The first: {names}.")
        found.update(dict.fromkeys(some))
    return list(found)


def show_logs(study: Study, words: Sequence[str] = (), *, lines: int = 40) -> None:
    """Print the end of the logs of some tasks, or of those that failed or were stopped if none is named.

    Args:
        study: The study.
        words: As for `find_tasks`.
        lines: So many lines of each log; 0: all of them.

    Raises:
        StudyError: A word means no task.
    """
    if words:
        wanted = find_tasks(study, words)
    else:
        bad = {row["name"] for row in study_status(study) if row["state"] in ("failed", "stopped")}
        wanted = [task for task in needs(study) if task.name in bad]
    jobs = latest_jobs(study)
    if not wanted:
        print("No task failed. Name one to see its log: dpdt logs STUDY TASK")
    for task in wanted:
        job = jobs[task][1] if task in jobs else None
        if job is None or not job.log.exists():
            print(f"==> {task.name}: no log yet" if job else f"==> {task.name}: never sent")
            continue
        print(f"==> {task.name}: {job.log}")
        print(_tail(job.log, lines))


def _tail(file: Path, lines: int) -> str:
    """The last lines of a file, without those that submitit writes for its own developers."""
    text = read_tail(file, lines * LINE_BYTES or file.stat().st_size).rstrip("\n")
    return "\n".join([line for line in text.split("\n") if not SUBMITIT.match(line)][-lines:])
