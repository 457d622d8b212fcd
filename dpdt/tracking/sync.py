"""Feed MLflow from the run folders. Twice is once, and a sync that was killed half-way is completed by the next one.

A run is found again by its tag `dpdt.run_id`, which is written in the transaction that creates it. A point of a metric
has the time of its line in the run folder, so that sending it again changes nothing. The tag `dpdt.sent`, written last,
says which state of the folder MLflow has seen; that of the parent run, after its own state, which state of them all.
"""

from collections.abc import Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from dpdt.base.console import progress
from dpdt.base.files import fingerprint
from dpdt.privacy.statements import refresh_statements
from dpdt.runs.read import Run, all_runs, run_in
from dpdt.study import BEFORE, Study
from dpdt.tracking.client import NAME_TAG, PARENT_TAG, SENT_TAG, find_runs, log
from dpdt.tracking.metrics import Point, is_final
from dpdt.tracking.moved import follow_study
from dpdt.tracking.payload import RETIRED_TAGS, RUN_ID_TAG, Payload, payload, signature
from dpdt.tracking.registry import register_model
from dpdt.tracking.sqlite_check import sqlite_is_current
from dpdt.tracking.store import (
    database_file,
    experiment_name,
    explained,
    make_experiment,
    one_writer,
    open_client,
    public_name,
    tracking_uri,
)
from dpdt.tracking.study_run import PARENT, create_parent, parent_state, send_parent

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput
    from mlflow.entities import Run as MlflowRun

__all__ = ["SyncSummary", "sync"]

MAX_DIGEST: Final = 36  # of MLflow


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
    if only is None:  # beside a training, that training does it
        refresh_statements(study)
    runs = [run for run in all_runs(study) if run.kind != "audit" and (only is None or run.run_id in only)]
    if not runs:
        return SyncSummary(public_name(uri), 0, 0)
    file = database_file(uri)
    follow_study(study)
    if only is None and file is not None and sqlite_is_current(study, file, runs):
        return SyncSummary(public_name(uri), len(runs), 0)
    with explained(uri), one_writer(uri, study.paths.tracking_lock):
        client = open_client(uri)
        experiment = make_experiment(client, experiment_name(study), artifacts=study.paths.mlflow_artifacts, uri=uri)
        before = _everything(study, runs) if only is None else ""
        if before and _server_is_current(client, experiment, before, num_runs=len(runs)):
            return SyncSummary(public_name(uri), len(runs), 0)
        known = find_runs(client, experiment, only=None if only is None else [PARENT, *only])
        parent = known.get(PARENT) or create_parent(client, experiment, study, runs)
        sent = 0
        shown = progress("sync", len(runs), unit="runs") if only is None else nullcontext(_silent)
        with shown as advance:
            for run in runs:
                old = known.get(run.run_id)
                if old is None or not _is_seen(old, run, parent=parent):
                    known[run.run_id] = _send_run(client, study, run, old, parent=parent)
                    sent += 1
                advance(1, run.run_id)
        if only is None:
            ids = {name: run.info.run_id for name, run in known.items()}
            send_parent(client, study, parent, ids, everything=before)
    return SyncSummary(public_name(uri), len(runs), sent)


def _everything(study: Study, runs: Sequence[Run]) -> str:
    """Fingerprint of everything that MLflow should have."""
    return fingerprint([{run.run_id: signature(run) for run in runs}, parent_state(study, {})])[:16]


def _server_is_current(client: "MlflowClient", experiment: str, everything: str, *, num_runs: int) -> bool:
    """Whether the parent run says so, and no run was deleted or doubled since: reading all would take seconds.

    They are counted by asking for the last one: what was deleted and then removed for good has left no other trace.
    """
    from mlflow.utils.search_utils import SearchUtils

    parent = find_runs(client, experiment, only=[PARENT]).get(PARENT)
    if parent is None or parent.data.tags.get(SENT_TAG, "").split()[1:] != [everything]:
        return False
    last = client.search_runs(
        [experiment],
        f"tags.`{RUN_ID_TAG}` LIKE '%'",
        max_results=1,
        page_token=SearchUtils.create_page_token(num_runs),  # that many, and the parent
        order_by=["attributes.start_time"],
    )
    return len(last) == 1 and not last.token


def _is_seen(old: "MlflowRun", run: Run, *, parent: "MlflowRun") -> bool:
    """Whether MLflow has this state of the run, below the parent that there is now."""
    tags = old.data.tags
    return bool(tags.get(SENT_TAG) == signature(run) and tags.get(PARENT_TAG) == parent.info.run_id)


def _silent(count: int = 1, note: str = "") -> None:
    """No progress bar: beside a training it would be in the way of the training's."""


def _send_run(
    client: "MlflowClient", study: Study, run: Run, known: "MlflowRun | None", *, parent: "MlflowRun"
) -> "MlflowRun":
    """Send one run's news; returns MLflow's run."""
    run = run_in(run.paths) or run  # as it is now: the runs before it may have taken minutes to send
    state = signature(run)  # before the reading: what changes meanwhile is news again
    news = payload(run)
    tags = {**news.tags, PARENT_TAG: parent.info.run_id}
    if known is None:
        experiment = parent.info.experiment_id
        known = client.create_run(experiment, start_time=news.started_ms, tags=tags, run_name=news.name)
    run_id, old = known.info.run_id, known.data.tags
    for name in [tag for tag in old if tag in RETIRED_TAGS or (tag.endswith(".undefined") and tag not in tags)]:
        client.delete_tag(run_id, name)  # it has become defined
    missing = {key: value for key, value in news.params.items() if key not in known.data.params}
    changed = {key: value for key, value in {**tags, NAME_TAG: news.name}.items() if old.get(key) != value}
    log(client, run_id, points=_points(client, known, news), params=missing, tags=changed)
    if digest := tags.get("dpdt.cohort_hmac"):
        client.log_inputs(run_id, [_dataset(run.domain, digest)])
    for name, text in news.texts.items():
        client.log_text(run_id, text, name)
    for file in (run.paths.privacy, run.paths.audit):
        if file.exists():
            client.log_artifact(run_id, str(file))
    last = {SENT_TAG: state}
    if news.status == "FINISHED" and run.kind not in (BEFORE, "bundle"):  # given weights are nobody's training
        last = {"dpdt.model": register_model(client, study, run, run_id, news), **last}
    _set_status(client, run_id, news)
    log(client, run_id, tags=last)
    return known


def _points(client: "MlflowClient", known: "MlflowRun", news: Payload) -> Sequence[Point]:
    """The values to send. MLflow shows the one of the highest step: what a former dpdt sent at the last stays there."""
    there = next((point.key for point in news.points if is_final(point.key) and point.key in known.data.metrics), None)
    if there is None:
        return news.points
    step = max(metric.step for metric in client.get_metric_history(known.info.run_id, there))
    return [point._replace(step=step) if is_final(point.key) else point for point in news.points]


def _dataset(domain: str, digest: str) -> "DatasetInput":
    """A domain as MLflow's dataset: its name and the keyed hash of who is in it, no place and no content."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(domain, digest[:MAX_DIGEST], source_type="dpdt", source="{}")
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def _set_status(client: "MlflowClient", run_id: str, news: Payload) -> None:
    """A running run is (again) RUNNING; any other has an end."""
    if news.status == "RUNNING":
        client.update_run(run_id, status="RUNNING")
    else:
        client.set_terminated(run_id, status=news.status, end_time=news.ended_ms)
