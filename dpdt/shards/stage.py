"""The stage `shards`: one task a domain, or several that share a domain."""

from dpdt.shards.build import ShardSummary, build_shards
from dpdt.shards.reader import shards_done
from dpdt.study import Study

__all__ = ["done", "run"]


def done(study: Study, domain: str) -> bool:
    """Whether the domain's shards are complete and were made with the study's settings."""
    return shards_done(study, domain)


def run(study: Study, domain: str, *, task_index: int = 0, num_tasks: int = 1) -> ShardSummary:
    """Make the domain's shards, or those of one of several tasks."""
    return build_shards(study, domain, task_index=task_index, num_tasks=num_tasks)
