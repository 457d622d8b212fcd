"""The stage `shards`: one task a domain, or several that share a domain."""

from dpdt.shards.build import build_shards as run
from dpdt.shards.reader import shards_done as done

__all__ = ["done", "run"]
