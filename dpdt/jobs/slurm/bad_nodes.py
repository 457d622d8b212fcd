"""Nodes that tasks are kept away from: those on which tasks of this study failed that others finished elsewhere."""

from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import Final

from dpdt.base.console import note
from dpdt.jobs.attempts import last_attempt
from dpdt.jobs.submissions import Job, outcome, submissions
from dpdt.study import Study
from dpdt.study.tasks import Task

__all__ = ["bad_nodes"]

FAILURES: Final = 2


def bad_nodes(study: Study, tasks: Collection[Task]) -> list[str]:
    """Nodes on which jobs of a stage failed twice and none succeeded, while another node finished one; told.

    A fault of the study fails on every node, and takes none of them away. A job that was stopped has not failed.

    Args:
        study: The study.
        tasks: What is to be sent again; nothing of it is in the queue.
    """
    wanted = set(tasks)
    jobs = [job for sent in submissions(study) if sent.cluster == "slurm" for job in sent.jobs]
    failed: dict[tuple[str, str], list[Job]] = defaultdict(list)
    for job, node in _with_node(job for job in jobs if job.task in wanted):
        if outcome(job) != "":
            failed[job.task.stage, node].append(job)
    suspects = {key: lost for key, lost in failed.items() if len(lost) >= FAILURES}
    finished: dict[str, set[str]] = defaultdict(set)
    stages = {stage for stage, _ in suspects}  # the files of thousands of done jobs are read only where one is
    for job, node in _with_node(job for job in jobs if job.task.stage in stages):
        if outcome(job) == "":
            finished[job.task.stage].add(node)
    found = set()
    for (stage, node), lost in suspects.items():
        if finished[stage] - {node} and node not in finished[stage]:
            found.add(node)
            names = ", ".join(sorted({job.task.label for job in lost}))
            note(f"node {node} is left out: {len(lost)} jobs failed on it ({names}), none of {stage} ended well there")
    return sorted(found)


def _with_node(jobs: Iterable[Job]) -> Iterable[tuple[Job, str]]:
    """Jobs that ran and were not stopped, each with the node of its last attempt."""
    for job in jobs:
        attempt = last_attempt(job.attempts)
        if attempt is not None and not attempt.stopped:
            yield job, attempt.host
