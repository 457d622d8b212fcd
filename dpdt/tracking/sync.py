"""Feed MLflow from the run folders. Twice is once, and a sync that was killed half-way is completed by the next one.

A run is found again by its tag `dpdt.run_id`, which is written in the transaction that creates it. A point of a metric
has the time of its line in the run folder, so that sending it again changes nothing. The tag `dpdt.sent`, written last,
says which state of the folder MLflow has seen.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dpdt.console import progress
from dpdt.files import exclusive_lock, fingerprint
from dpdt.results import Run, all_runs, cell_runs, is_synthetic
from dpdt.study import Study
from dpdt.tracking.payload import FORMAT, RUN_ID_TAG, Payload, Point, payload, run_status, signature
from dpdt.tracking.store import explained, make_experiment, open_client, public_name, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

__all__ = ["PARENT", "SyncSummary", "find_runs", "sync"]

PARENT: Final = "study"  # the parent run's dpdt.run_id
SENT_TAG: Final = "dpdt.sent"
PARENT_TAG: Final = "mlflow.parentRunId"
NAME_TAG: Final = "mlflow.runName"
BATCH: Final = {"metrics": 1000, "params": 100, "tags": 100}  # MLflow's limits of one call


@dataclass(frozen=True)
class SyncSummary:
    """What one sync did; printed as one line."""

    uri: str
    runs: int
    sent: int

    def __str__(self) -> str:
        """One line for people."""
        if not self.runs:
            return "No run has begun: nothing to send to MLflow."
        return f"MLflow at {self.uri}: {self.runs} runs, {self.sent} with news sent, {self.runs - self.sent} unchanged"


def sync(study: Study, *, only: Collection[str] | None = None) -> SyncSummary:
    """Bring MLflow up to date with the study's run folders.

    Args:
        study: The study.
        only: Run ids; the others and the report are left for another time.

    Raises:
        TrackingError: MLflow cannot be reached or refuses. Whatever was sent stays, the rest is sent the next time.
    """
    uri = tracking_uri(study)
    runs = [run for run in all_runs(study) if run.kind != "audit" and (only is None or run.run_id in only)]
    if not runs:
        return SyncSummary(public_name(uri), 0, 0)
    with explained(uri), exclusive_lock(study.paths.tracking_lock):
        client = open_client(uri)
        experiment = make_experiment(client, study)
        known = find_runs(client, experiment)
        parent = known.get(PARENT) or _create_parent(client, experiment, study, runs)
        sent = 0
        with progress("sync", len(runs), unit="runs") as advance:
            for run in runs:
                sent += _send_run(client, experiment, parent.info.run_id, run, known.get(run.run_id))
                advance(1, run.run_id)
        if only is None:
            _send_study(client, study, parent)
    return SyncSummary(public_name(uri), len(runs), sent)


def find_runs(client: "MlflowClient", experiment: str) -> dict[str, "MlflowRun"]:
    """MLflow's runs of an experiment by `dpdt.run_id`."""
    found: dict[str, MlflowRun] = {}
    token = None
    while True:
        page = client.search_runs([experiment], max_results=1000, page_token=token, order_by=["attributes.start_time"])
        for run in page:
            if RUN_ID_TAG in run.data.tags:
                found.setdefault(run.data.tags[RUN_ID_TAG], run)
        token = page.token
        if not token:
            return found


def _create_parent(client: "MlflowClient", experiment: str, study: Study, runs: Sequence[Run]) -> "MlflowRun":
    tags = {RUN_ID_TAG: PARENT, "dpdt.kind": "study", "mlflow.source.name": "dpdt", "mlflow.source.type": "JOB"}
    started = min(payload(run).started_ms for run in runs)
    return client.create_run(experiment, start_time=started, tags=tags, run_name=study.name)


def _send_run(client: "MlflowClient", experiment: str, parent: str, run: Run, known: "MlflowRun | None") -> bool:
    """Send one run's news; returns whether there were any."""
    state = signature(run)
    if known is not None and known.data.tags.get(SENT_TAG) == state:
        return False
    news = payload(run)
    tags = {**news.tags, PARENT_TAG: parent}
    if known is None:
        known = client.create_run(experiment, start_time=news.started_ms, tags=tags, run_name=news.name)
    run_id, old = known.info.run_id, known.data.tags
    for name in [tag for tag in old if tag.endswith(".undefined") and tag not in tags]:
        client.delete_tag(run_id, name)  # it has become defined
    missing = {key: value for key, value in news.params.items() if key not in known.data.params}
    _log(client, run_id, points=news.points, params=missing, tags={**tags, NAME_TAG: news.name})
    for name, text in news.texts.items():
        client.log_text(run_id, text, name)
    if run.paths.privacy.exists():
        client.log_artifact(run_id, str(run.paths.privacy))
    _set_status(client, run_id, news)
    _log(client, run_id, tags={SENT_TAG: state})
    return True


def _log(
    client: "MlflowClient",
    run_id: str,
    *,
    points: Sequence[Point] = (),
    params: dict[str, str] | None = None,
    tags: dict[str, str] | None = None,
) -> None:
    """Log in batches of the sizes that MLflow takes."""
    from mlflow.entities import Metric, Param, RunTag

    everything: dict[str, list[Any]] = {
        "params": [Param(key, value) for key, value in (params or {}).items()],
        "tags": [RunTag(key, value) for key, value in (tags or {}).items()],
        "metrics": [Metric(p.key, p.value, p.time_ms, p.step) for p in points],
    }
    for kind, entities in everything.items():
        for first in range(0, len(entities), BATCH[kind]):
            client.log_batch(run_id, **{kind: entities[first : first + BATCH[kind]]})


def _set_status(client: "MlflowClient", run_id: str, news: Payload) -> None:
    """A running run is (again) RUNNING; any other has an end."""
    if news.status == "RUNNING":
        client.update_run(run_id, status="RUNNING")
    else:
        client.set_terminated(run_id, status=news.status, end_time=news.ended_ms)


def _send_study(client: "MlflowClient", study: Study, parent: "MlflowRun") -> None:
    """The parent run: the report as artifacts, and whether the study is done."""
    files = sorted(file for file in study.paths.report.rglob("*") if file.is_file() and not file.name.startswith("."))
    cells = list(cell_runs(study).values())
    done = all(run is not None and run_status(run) == "FINISHED" for run in cells)
    stats = [(_below(file, study), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    state = fingerprint([FORMAT, done, stats])[:16]
    if parent.data.tags.get(SENT_TAG) == state:
        return
    run_id = parent.info.run_id
    if files:
        client.log_artifacts(run_id, str(study.paths.report), "report")
    synthetic = is_synthetic(study)
    note = "**Synthetic data.** " if synthetic else ""
    tags = {
        NAME_TAG: study.name,
        "dpdt.synthetic": str(synthetic).lower(),
        "dpdt.runs": str(len(cells)),
        "mlflow.note.content": f"{note}The study's trainings are below this run; its report is the artifact `report`.",
    }
    _log(client, run_id, tags=tags)
    if done:
        ended = max(float(run.state.get("updated") or 0) for run in cells if run)
        client.set_terminated(run_id, status="FINISHED", end_time=round(ended * 1000))
    else:
        client.update_run(run_id, status="RUNNING")
    _log(client, run_id, tags={SENT_TAG: state})


def _below(file: Path, study: Study) -> str:
    return file.relative_to(study.paths.report).as_posix()
