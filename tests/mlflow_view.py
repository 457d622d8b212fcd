"""Whether MLflow has what the run folders have: every value of every run, neither more nor less."""

from dpdt.runs.read import all_runs
from dpdt.study import Study
from dpdt.tracking.metrics import Point
from dpdt.tracking.payload import RUN_ID_TAG, payload
from dpdt.tracking.store import find_experiment, open_client, tracking_uri


def assert_view_equals_folders(study: Study) -> int:
    """Compare everything, by MLflow's own client; returns the number of metric values that were compared."""
    client = open_client(tracking_uri(study))
    experiment = find_experiment(client, study)
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], max_results=5000)
    by_id = {run.data.tags[RUN_ID_TAG]: run for run in found}
    assert len(by_id) == len(found), "a run is there twice"
    runs = all_runs(study)
    assert set(by_id) == {"study", *(run.run_id for run in runs)}
    compared = 0
    for run in runs:
        sent, seen = payload(run), by_id[run.run_id]
        assert (seen.info.run_name, seen.info.status) == (sent.name, sent.status)
        assert seen.info.start_time == sent.started_ms
        assert sent.status == "RUNNING" or seen.info.end_time == sent.ended_ms
        assert seen.data.params == sent.params
        assert sent.tags.items() <= seen.data.tags.items()
        assert seen.data.tags["mlflow.parentRunId"] == by_id["study"].info.run_id
        assert set(seen.data.metrics) == {point.key for point in sent.points}
        for key in seen.data.metrics:
            history = client.get_metric_history(seen.info.run_id, key)
            values = sorted(Point(m.key, m.value, m.timestamp, m.step) for m in history)
            assert values == sorted(point for point in sent.points if point.key == key)
            compared += len(values)
    assert client.search_runs(["0"]) == []  # nothing in "Default"
    return compared
