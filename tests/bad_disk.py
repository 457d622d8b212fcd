"""A folder behind a file system that is slow, fails, or shows files late: `python -m tests.bad_disk FOLDER POINT`.

It is FUSE: the kernel asks this program. What it does wrong is in `FOLDER.json`, which is read again at each opening:
`open_s` and `read_s`, seconds that an opening and a read take; `fail`, by name how many openings end with EIO (a file
with a larger number never opens); `hidden`, names that are not there yet. Only reading is possible.
"""

import errno
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def faults_file(folder: Path) -> Path:
    """Where a folder's faults are written."""
    return folder.with_name(f"{folder.name}.json")


@contextmanager
def mounted(folder: Path, point: Path) -> Iterator[Path]:
    """The folder below `point`, until the block ends.

    Raises:
        RuntimeError: FUSE cannot be used here.
    """
    point.mkdir()
    command = [sys.executable, "-m", "tests.bad_disk", folder, point]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            while not os.path.ismount(point):
                if server.poll() is not None:
                    raise RuntimeError(f"no FUSE here: {server.stderr.read() if server.stderr else ''}")
                time.sleep(0.02)
            yield point
        finally:
            subprocess.run(["fusermount3", "-u", "-z", point], check=False, capture_output=True)
            server.terminate()


def serve(folder: Path, point: Path) -> None:
    """Show the folder until it is unmounted."""
    from mfusepy import FUSE, FuseOSError, Operations

    tries: Counter[str] = Counter()
    counting = threading.Lock()

    class Disk(Operations):  # type: ignore[misc]
        def faults(self) -> dict[str, Any]:
            file = faults_file(folder)
            return dict(json.loads(file.read_text())) if file.exists() else {}

        def real(self, path: str) -> str:
            if Path(path).name in self.faults().get("hidden", ()):
                raise FuseOSError(errno.ENOENT)
            return f"{folder}{path}"

        def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
            found = os.lstat(self.real(path))
            return {key: getattr(found, key) for key in ("st_mode", "st_size", "st_mtime", "st_nlink", "st_uid")}

        def readdir(self, path: str, fh: int) -> list[str]:
            return [".", "..", *os.listdir(f"{folder}{path}")]

        def open(self, path: str, flags: int) -> int:
            faults, name = self.faults(), Path(path).name
            time.sleep(faults.get("open_s", 0))
            with counting:
                tries[name] += 1
                if tries[name] <= faults.get("fail", {}).get(name, 0):
                    raise FuseOSError(errno.EIO)
            return os.open(self.real(path), flags)

        def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
            time.sleep(self.faults().get("read_s", 0))
            return os.pread(fh, size, offset)

        def release(self, path: str, fh: int) -> int:
            os.close(fh)
            return 0

    FUSE(Disk(), str(point), foreground=True, nothreads=False, ro=True, attr_timeout=0, entry_timeout=0)


if __name__ == "__main__":
    serve(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
