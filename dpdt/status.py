"""The state of every task of a study, from its own files, the newest jobs and one call of `squeue`."""

from collections.abc import Sequence
from typing import Any, Final

from dpdt.console import show_table
from dpdt.errors import DpdtError
from dpdt.files import read_json
from dpdt.jobs import Job, Queued, Submission, is_locked, last_line, latest_jobs, outcome, read_queue
from dpdt.stages import LAST_STAGES, Task, is_done, needs
from dpdt.study import Study

__all__ = ["STATES", "show_status", "study_status"]

# missing: nobody is at it; waiting: sent, but not started; failed: its last attempt ended without the result.
STATES: Final = ("done", "running", "waiting", "failed", "missing")

Jobs = dict[Task, tuple[Submission, Job]]


def study_status(study: Study) -> list[dict[str, Any]]:
    """One row a task, in the order of the stages.

    Returns:
        Rows that can be written as JSON: stage, task (label), key, state (one of STATES), step and num_steps (runs
        only), epsilon (spent) and target_epsilon (null without DP), job (id), log (file), note (a failure's last
        line, or why the task waits or was not run).
    """
    jobs = latest_jobs(study)
    queue = read_queue() if any(job.cluster == "slurm" for _, job in jobs.values()) else {}
    rows: list[dict[str, Any]] = []
    states: dict[Task, str] = {}
    for task, before in needs(study).items():
        state, note = _state(study, task, jobs.get(task), queue)
        blocker = next((other for other in before if states[other] in ("failed", "missing")), None)
        if state in ("failed", "missing") and not _has_log(jobs, task) and blocker and task.stage not in LAST_STAGES:
            why = "failed" if states[blocker] == "failed" else "was not run"
            state, note = "missing", f"not run: {blocker.label} {why}"
        states[task] = state
        rows.append(_row(study, task, state, note, jobs))
    return rows


def show_status(rows: Sequence[dict[str, Any]]) -> None:
    """Print the rows of `study_status` as a table, and the reason of each failure below it."""
    columns = ("stage", "task", "state", "steps", "epsilon", "job", "note")
    table = [
        (
            row["stage"],
            row["task"],
            row["state"],
            "" if row["num_steps"] is None else f"{row['step']}/{row['num_steps']}",
            "" if row["target_epsilon"] is None else f"{row['epsilon'] or 0:.2f} of {row['target_epsilon']:g}",
            row["job"] or "",
            row["note"] or "",
        )
        for row in rows
    ]
    counts = {state: sum(row["state"] == state for row in rows) for state in STATES}
    title = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    show_table(title or "no tasks", columns, table)
    for row in rows:
        if row["state"] == "failed" and row["log"]:
            print(f"{row['task']}: log in {row['log']}")


def _state(
    study: Study, task: Task, sent: tuple[Submission, Job] | None, queue: dict[str, Queued] | None
) -> tuple[str, str]:
    """State and note of one task, without a look at what it needs."""
    if is_done(study, task):
        return "done", ""
    if is_locked(study.paths.task_lock(task.name)):
        return "running", ""
    if sent is None:
        return "missing", ""
    submission, job = sent
    if job.cluster == "slurm":
        return _slurm_state(job, queue)
    error = outcome(job)
    if error is None and is_locked(submission.paths.alive):
        return "waiting", "starting"
    return _ended(job, error, "its process ended without a result")


def _slurm_state(job: Job, queue: dict[str, Queued] | None) -> tuple[str, str]:
    listed = queue.get(job.job_id) if queue is not None else None
    if listed is not None and listed.active:
        return ("waiting", listed.reason) if listed.state.startswith(("PENDING", "REQUEUE")) else ("running", "")
    error = outcome(job)
    if queue is None and error is None:
        return "waiting", "squeue does not answer"
    return _ended(job, error, f"ended without a result (Slurm's state: {listed.state if listed else 'unknown'})")


def _ended(job: Job, error: str | None, without_result: str) -> tuple[str, str]:
    """State of a job that is over, though the task's result is not there."""
    if error == "":
        return "missing", "done before, but its result was removed or the settings changed"
    if error is not None:
        return "failed", error
    line = last_line(job.log)
    return "failed", f"{without_result}; last line: {line}" if line else without_result


def _has_log(jobs: Jobs, task: Task) -> bool:
    """Whether the task's last attempt ever started."""
    return task in jobs and jobs[task][1].log.exists()


def _row(study: Study, task: Task, state: str, note: str, jobs: Jobs) -> dict[str, Any]:
    steps = _steps(study, task)
    job = jobs[task][1] if task in jobs else None
    return {
        "stage": task.stage,
        "task": task.label,
        "key": task.key,
        "state": state,
        "step": steps.get("step"),
        "num_steps": steps.get("num_steps"),
        "epsilon": steps.get("epsilon"),
        "target_epsilon": steps.get("target_epsilon"),
        "job": job.job_id if job else None,
        "log": str(job.log) if job and job.log.exists() else None,
        "note": note or None,
    }


def _steps(study: Study, task: Task) -> dict[str, Any]:
    """Progress of a run."""
    if task.stage not in ("pretrain", "train"):
        return {}
    try:
        found: dict[str, Any] = read_json(study.paths.run(task.key).state)
    except DpdtError:
        return {}
    return found
