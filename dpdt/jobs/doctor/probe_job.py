"""What a probe runs on a node: the text of this file, given to the tasks' own python with `-c`.

It imports nothing of dpdt, so that a node without dpdt, or with another version, can still say so.
"""

import fcntl
import json
import os
import sys
from importlib.metadata import PackageNotFoundError, version


def look(paths: list[str], writable: str, scratch: str | None, gpus: int, lock: str | None = None) -> dict[str, object]:
    """What is seen here of what a task will need."""
    seen: dict[str, object] = {
        "node": os.environ.get("SLURMD_NODENAME", ""),
        "python": f"{sys.version_info[0]}.{sys.version_info[1]}",
        "missing": [path for path in paths if not os.access(path, os.R_OK)],
        "writable": os.access(writable, os.W_OK),
        "scratch": scratch is None or os.path.isdir(os.path.expandvars(scratch)),
    }
    if lock is not None:
        seen["lock"] = try_lock(lock)
    for package in ("dpdt", "submitit"):
        try:
            seen[package] = version(package)
        except PackageNotFoundError:
            seen[package] = "missing"
    if gpus:
        import torch

        seen["gpus"] = torch.cuda.device_count()
    return seen


def try_lock(file: str) -> str:
    """Whether a lock that another node holds is seen here: `held`, `free`, or why it cannot be tried."""
    try:
        with open(file) as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return "held"
    except OSError as err:
        return str(err)
    return "free"


if __name__ == "__main__":
    print("dpdt-probe", json.dumps(look(**json.loads(sys.argv[1]))))
