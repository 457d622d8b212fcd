"""Many processes that sync at once into one MLflow store: `make torture-tracking`, and tests/test_tracking_many.py.

The processes are forked from one that has loaded MLflow: loading it takes two seconds of a core each, and here the
store is tried, not the loading. They wait for each other, and then all begin within the same moment.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from dpdt.study import Study, load_study
from dpdt.tracking.sync import sync

__all__ = ["sync_at_once"]


def sync_at_once(studies: Sequence[Study], runs: Sequence[tuple[int, str]]) -> tuple[float, list[int]]:
    """One process a run, all at once.

    Args:
        studies: The studies.
        runs: Which study (its number) and run each process syncs.

    Returns:
        Seconds until the last one ended, and the numbers of those that failed (their tracebacks are printed).
    """
    import mlflow.store.model_registry.sqlalchemy_store
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 (loaded once, before the forks)

    ready, go = os.pipe(), os.pipe()
    children = [_fork(studies[number], run_id, ready, go) for number, run_id in runs]
    for _ in children:
        os.read(ready[0], 1)
    begun = time.perf_counter()
    os.close(go[1])  # the end of the pipe is what all wait for
    states = [os.waitpid(child, 0)[1] for child in children]
    seconds = time.perf_counter() - begun
    for end in (*ready, go[0]):
        os.close(end)
    return seconds, [number for number, state in enumerate(states) if state]


def _fork(study: Study, run_id: str, ready: tuple[int, int], go: tuple[int, int]) -> int:
    child = os.fork()
    if child:
        return child
    state = 1
    try:
        os.close(go[1])
        os.write(ready[1], b".")
        os.read(go[0], 1)
        sync(study, only=[run_id])
        state = 0
    finally:
        if state:
            traceback.print_exc()  # of what is under way
        os._exit(state)


def main() -> None:
    """Sync copies of a finished study's runs, each copy as a separate study, into one store."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("study", type=Path, help="folder of a finished study, e.g. build/demo")
    parser.add_argument("--processes", type=int, default=50)
    parser.add_argument("--uri", help="default: a new SQLite file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        uri = options.uri or f"sqlite:///{folder}/shared.db"
        studies, runs = [], []
        while len(runs) < options.processes:
            copy = Path(folder) / f"study{len(studies)}"
            shutil.copytree(options.study / "runs", copy / "runs")
            text = (options.study / "study.toml").read_text().replace("name =", f'name = "copy {len(studies)}" #')
            (copy / "study.toml").write_text(f'{text}\n[tracking]\nuri = "{uri}"\n')
            studies.append(load_study(copy))
            runs += [(len(studies) - 1, run.name) for run in sorted((copy / "runs").iterdir())]
        seconds, failed = sync_at_once(studies, runs[: options.processes])
    print(json.dumps({"processes": options.processes, "seconds": round(seconds, 1), "failed": len(failed)}))


if __name__ == "__main__":
    main()
