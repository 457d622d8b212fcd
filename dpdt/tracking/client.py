"""Sending in the sizes that MLflow takes, and finding again what was sent."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, Final

from dpdt.tracking.metrics import Point
from dpdt.tracking.payload import RUN_ID_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

__all__ = ["NAME_TAG", "PARENT_TAG", "SENT_TAG", "find_runs", "log"]

SENT_TAG: Final = "dpdt.sent"
PARENT_TAG: Final = "mlflow.parentRunId"
NAME_TAG: Final = "mlflow.runName"
BATCH: Final = {"metrics": 1000, "params": 100, "tags": 100}  # MLflow's limits of one call


def log(
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


def find_runs(
    client: "MlflowClient", experiment: str, *, only: Collection[str] | None = None
) -> dict[str, "MlflowRun"]:
    """MLflow's runs of an experiment by `dpdt.run_id`; a second one of the same id is deleted.

    Args:
        client: MLflow's client.
        experiment: Its id.
        only: dpdt's run ids: a search for each, which costs less than all runs of a large study.
    """
    filters = [""] if only is None else [f"tags.`{RUN_ID_TAG}` = '{run_id}'" for run_id in only]
    found: dict[str, MlflowRun] = {}
    for wanted in filters:
        token = None
        while True:
            page = client.search_runs(
                [experiment], wanted, max_results=1000, page_token=token, order_by=["attributes.start_time"]
            )
            for run in page:
                name = run.data.tags.get(RUN_ID_TAG)
                if name in found:  # a server died after creating it, before it answered, and got the call again
                    client.delete_run(run.info.run_id)
                elif name:
                    found[name] = run
            token = page.token
            if not token:
                break
    return found
