"""Keep MLflow up to date while a study runs, from one process on any machine that sees the study's folder."""

import time

from dpdt.base.console import warn
from dpdt.errors import TrackingError
from dpdt.runs.read import model_runs, read_run
from dpdt.study import Study, is_before
from dpdt.tracking.payload import run_status
from dpdt.tracking.sync import SyncSummary, sync

__all__ = ["is_complete", "watch"]


def watch(study: Study, *, every_seconds: float) -> SyncSummary:
    """Sync again and again until the study is complete; Ctrl-C ends it earlier.

    A server that does not answer is one warning until it answers again.

    Args:
        study: The study.
        every_seconds: Pause between two syncs.

    Returns:
        What the last sync did.
    """
    down = False
    while True:
        complete = is_complete(study)  # before the sync, so that the last one sees the end
        try:
            summary = sync(study)
        except TrackingError as err:
            if not down:
                warn(f"{err} Trying again every {every_seconds:g} s.")
            down = True
        else:
            if summary.sent or down:
                print(summary, flush=True)
            down = False
            if complete:
                return summary
        time.sleep(every_seconds)


def is_complete(study: Study) -> bool:
    """Whether every training is finished and evaluated, every carried model too, and the report is newer than all."""
    if any(read_run(study, run_id) is None for run_id in study.carried):
        return False
    newest = 0.0
    for cell, run in model_runs(study).items():
        if is_before(cell.target_epsilon):
            continue  # it is tested long before the last training ends; an older study may be without it
        if run is None or run_status(run) != "FINISHED" or not run.paths.metrics.exists():
            return False
        newest = max(newest, run.paths.metrics.stat().st_mtime)
    report = study.paths.report / "index.html"
    return report.exists() and report.stat().st_mtime >= newest
