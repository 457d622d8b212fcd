"""Facts about this process and the machine it runs on: version, commit, container image, rank, cores, memory."""

import functools
import hashlib
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Final

__all__ = [
    "__version__",
    "code_commit",
    "code_version",
    "cpu_flags",
    "free_memory",
    "image_digest",
    "num_cores",
    "this_rank",
]

__version__ = version("dpdt")
GIT_SECONDS: Final = 10.0
# Limits of a container or of a job, as the kernel shows them inside of it (cgroup v2).
CGROUP: Final = Path("/sys/fs/cgroup")


def image_digest() -> str | None:
    """Which container image this process runs in.

    Returns:
        `DPDT_IMAGE_DIGEST`, where whoever started the container gave it; else the digest of what the image's build
        put into it (an image cannot contain its own digest); None outside of dpdt's images.
    """
    given = os.environ.get("DPDT_IMAGE_DIGEST")
    if given:
        return given
    built = Path(sys.prefix) / "share" / "dpdt" / "image.txt"
    return built.read_text(encoding="utf-8").strip() if built.exists() else None


def code_commit() -> str | None:
    """The commit of the checkout that this code lies in, `-dirty` if it was changed; None for an installed package."""
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=GIT_SECONDS, check=True)
    except (subprocess.SubprocessError, OSError):
        return None
    return answer.stdout.strip()


@functools.lru_cache(maxsize=1)
def code_version() -> tuple[str, str]:
    """Version, and a hash of the package's own Python files, of the code that this process began with.

    A checkout, an installed package and an image that have the same files have the same hash, whatever is committed.
    """
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(f"{file.relative_to(package).as_posix()}\0".encode() + file.read_bytes() + b"\0")
    return __version__, digest.hexdigest()


def this_rank() -> int:
    """Number of this process in its training, before it has joined the others."""
    return int(os.environ.get("RANK", "0"))


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def cpu_flags() -> set[str]:
    """What the kernel says that this processor can do (x86: `flags`, ARM: `Features`); empty where it says nothing."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return set()
    found = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    return set(found[1].split()) if found else set()


def free_memory() -> int:
    """Bytes of main memory that this process may still take: what is available, within the limit of its cgroup."""
    import psutil

    free = int(psutil.virtual_memory().available)
    try:
        limit = (CGROUP / "memory.max").read_text(encoding="ascii").strip()
        used = (CGROUP / "memory.current").read_text(encoding="ascii").strip()
    except FileNotFoundError:  # no cgroup limits this process
        return free
    return free if limit == "max" else max(0, min(free, int(limit) - int(used)))
