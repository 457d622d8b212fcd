"""The state of every task of a study, from its own files and from the schedulers' states of its newest jobs."""

import json
import socket
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from dpdt.base.console import format_duration, show_table
from dpdt.base.files import is_locked
from dpdt.base.vocabulary import format_bound
from dpdt.jobs.attempts import last_attempt
from dpdt.jobs.job_states import JobStates
from dpdt.jobs.schedulers import make_scheduler
from dpdt.jobs.stages import is_done
from dpdt.jobs.submissions import latest_jobs
from dpdt.runs.progress import last_auc, run_progress
from dpdt.study import Study
from dpdt.study.tasks import LAST_STAGES, STAGES, Task, needs

__all__ = ["STATES", "show_status", "study_status", "task_states", "watch_status"]

# to do: neither done nor sent; waiting: sent, but not started; failed: its last attempt ended without the result;
# stopped: it was stopped from outside (cancelled, or too many attempts): sent again, it goes on.
STATES: Final = ("done", "running", "waiting", "failed", "stopped", "to do")
NAMES_SHOWN: Final = 3
AUC: Final = "AUC: macro, over all labels of the model's own domain; of a model without one the mean over all domains."


def study_status(study: Study) -> list[dict[str, Any]]:
    """One row a task, in the order of the stages.

    Returns:
        Rows that can be written as JSON: stage, task (label), name (what `dpdt logs` and `cancel` take), key, state
        (one of STATES), step and num_steps (runs only), epsilon (spent) and target_epsilon (null without DP), auc
        (last average on the run's own domain; of the model before, over all test domains), time_left_s (an estimate),
        job (id), node, attempt, log (file), note (a failure's last line, or why the task waits or was not run).
    """
    return _Look(study).rows()


def task_states(study: Study) -> dict[Task, str]:
    """State of every task."""
    return {task: state for task, (state, _) in _Look(study).states().items()}


def _epsilon(row: dict[str, Any]) -> str:
    """What a DP run has spent, of its target."""
    target = row["target_epsilon"]
    return "" if target is None else f"{format_bound(row['epsilon'] or 0)} of {target:g}"


def show_status(rows: Sequence[dict[str, Any]], *, every_task: bool = False) -> None:
    """Print the rows of `study_status`: a line a stage, then the tasks that are not done, and what is said of them.

    Args:
        rows: As `study_status` returns them.
        every_task: Show the done tasks too.
    """
    counts = Counter((row["stage"], row["state"]) for row in rows)
    states = [state for state in STATES if any(row["state"] == state for row in rows)]
    total = ", ".join(f"{sum(counts[stage, state] for stage in STAGES)} {state}" for state in states)
    stages = dict.fromkeys(row["stage"] for row in rows)
    lines = [(stage, *(counts[stage, state] or "" for state in states)) for stage in stages]
    show_table(total or "no tasks", ("stage", *states), lines)
    shown = [row for row in rows if every_task or row["state"] != "done"]
    table = [
        (
            row["task"],
            row["state"],
            "" if row["num_steps"] is None else f"{row['step']}/{row['num_steps']}",
            _epsilon(row),
            "" if row["auc"] is None else f"{row['auc']:.3f}",
            format_duration(row["time_left_s"]),
            row["job"] or "",
            "" if row["node"] in (None, socket.gethostname()) else row["node"],
            "" if row["attempt"] in (None, 1) else row["attempt"],
        )
        for row in shown
    ]
    names = ("task", "state", "steps", "epsilon", "AUC", "left", "job", "node", "attempt")
    if table:
        show_table("", names, table, skip_empty=True)
    if any(row["auc"] is not None for row in shown):
        print(AUC)
    notes: dict[str, list[str]] = {}
    for row in shown:
        notes.setdefault(row["note"] or "", []).append(row["task"])
    for note, tasks in notes.items():
        more = f" and {len(tasks) - NAMES_SHOWN} more" if len(tasks) > NAMES_SHOWN else ""
        if note:
            print(f"{', '.join(tasks[:NAMES_SHOWN])}{more}: {note}")
    for row in shown:
        if row["state"] in ("failed", "stopped") and row["log"]:
            print(f"{row['task']}: log in {row['log']}")


class _Look:
    """What is known of a study's tasks at one moment."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.paths = study.paths
        self.of_no_domain = {*(view.before_run_id for view in study.views), *study.carried}
        self.aucs: dict[str, float | None] = {}
        self.jobs = latest_jobs(study)
        self.known = {name: self._ask(name) for name in {job.cluster for _, job in self.jobs.values()}}
        self.complete: dict[str, bool] = {}

    def _ask(self, cluster: str) -> JobStates:
        """The states of the jobs that a scheduler was sent."""
        its = {task: sent for task, sent in self.jobs.items() if sent[1].cluster == cluster}
        return make_scheduler(cluster, self.study).states(its)

    def rows(self) -> list[dict[str, Any]]:
        """As `study_status` returns them."""
        return [self._row(task, state, note) for task, (state, note) in self.states().items()]

    def states(self) -> dict[Task, tuple[str, str]]:
        """State and note of every task."""
        found: dict[Task, tuple[str, str]] = {}
        for task, before in needs(self.study).items():
            state, note = self._state(task)
            blocked = state in ("failed", "stopped", "to do") and not self._has_log(task)
            if blocked and task.stage not in LAST_STAGES:
                blocker = next((other for other in before if found[other][0] in ("failed", "stopped", "to do")), None)
                if blocker is not None:
                    why = found[blocker][0] if found[blocker][0] != "to do" else "was not run"
                    state, note = "to do", f"not run: {blocker.label} {why}"
            found[task] = state, note
        return found

    def _state(self, task: Task) -> tuple[str, str]:
        """State and note of one task, without a look at what it needs."""
        if self._is_done(task):
            return "done", ""
        if is_locked(self.paths.task_lock(task.name)):
            return "running", ""
        if task not in self.jobs:
            return "to do", ""
        job = self.jobs[task][1]
        return self.known[job.cluster].state(job)

    def _is_done(self, task: Task) -> bool:
        """Whether the result is there; parts of one domain's shards share one."""
        if task.num_parts == 1:
            return is_done(self.study, task)
        if task.key not in self.complete:
            self.complete[task.key] = is_done(self.study, task)
        return self.complete[task.key]

    def _has_log(self, task: Task) -> bool:
        """Whether the task's last job ever started."""
        return task in self.jobs and self.jobs[task][1].log.exists()

    def _row(self, task: Task, state: str, note: str) -> dict[str, Any]:
        job = self.jobs[task][1] if task in self.jobs else None
        attempt = last_attempt(job.attempts) if job else None
        node = (self.known[job.cluster].node(job) if job else "") or (attempt.host if attempt else "")
        progress = run_progress(self.paths, task, running=state == "running")
        return {
            "stage": task.stage,
            "task": task.label,
            "name": task.name,
            "key": task.key,
            "state": state,
            **progress,
            "auc": self._auc(task),
            "job": job.job_id if job else None,
            "node": node or None,
            "attempt": attempt.number if attempt else None,
            "log": str(job.log) if job and attempt and job.log.exists() else None,
            "note": note or None,
        }

    def _auc(self, task: Task) -> float | None:
        """The last AUC of a training, which two rows show."""
        if task.stage not in ("train", "evaluate"):
            return None
        if task.key not in self.aucs:
            self.aucs[task.key] = last_auc(self.paths.run(task.key), everywhere=task.key in self.of_no_domain)
        return self.aucs[task.key]


def watch_status(study: Study, *, every_seconds: float, as_json: bool = False, every_task: bool = False) -> None:
    """Print the status again and again until nothing runs or waits; Ctrl-C ends it earlier.

    Args:
        study: The study.
        every_seconds: Time between two looks.
        as_json: A line of JSON a look, for programs.
        every_task: Show the done tasks too.
    """
    while True:
        rows = study_status(study)
        if as_json:
            print(json.dumps(rows, allow_nan=False), flush=True)
        else:
            if sys.stdout.isatty():
                print("\033[2J\033[H", end="")  # on an empty screen
            show_status(rows, every_task=every_task)
        if not any(row["state"] in ("running", "waiting") for row in rows):
            return
        time.sleep(every_seconds)
