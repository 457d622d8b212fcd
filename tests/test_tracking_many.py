"""Fifty processes at once into one store: no row is lost, no run fails, and none is in "Default"."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from dpdt.runs.read import read_run
from dpdt.study import Cell, Study, load_study
from dpdt.tracking.payload import payload
from dpdt.tracking.store import with_uri
from tests.fake_runs import FakeRuns
from tests.mlflow_servers import MlflowServer, Postgres
from tests.torture_tracking import sync_at_once

pytestmark = [
    pytest.mark.long,
    pytest.mark.slow,
    # Forked before any thread that holds a lock: none has been started but by libraries that do nothing yet.
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]

PROCESSES, STUDIES = 50, 10
CELLS = [Cell("vindr", epsilon, 0) for epsilon in (0.5, 1.0, 2.0, 8.0, float("inf"))]


@pytest.fixture
def ten_studies(fake_runs: Callable[..., FakeRuns], tmp_path: Path) -> list[Study]:
    """Ten studies of five runs, each of them with more than 200 values: over 80 steps, and those of the evaluation."""
    made = fake_runs(("vindr", "uka", "padchest"), "[0.5, 1.0, 2.0, 8.0, inf]")
    for cell in CELLS:
        made.train(cell, steps=80)
        made.evaluate(cell)
    studies = []
    for number in range(STUDIES):
        folder = tmp_path / f"study{number}"
        folder.mkdir()
        shutil.copytree(made.study.paths.runs, folder / "runs")
        text = made.study.file.read_text().replace("a study", f"study {number}")
        (folder / "study.toml").write_text(text)
        studies.append(load_study(folder))
    return studies


def check(uri: str, studies: list[Study], runs: list[tuple[int, str]]) -> None:
    """Every value of every run is in the tables, and nothing else is."""
    engine = create_engine(uri, poolclass=NullPool)
    with engine.connect() as database:

        def rows(query: str) -> list[Any]:
            return list(database.execute(text(query)).fetchall())

        experiments = {name: number for number, name in rows("select experiment_id, name from experiments")}
        found = rows("select run_uuid, experiment_id, status from runs")
        names = dict(rows("select run_uuid, value from tags where key = 'dpdt.run_id'"))
        params = rows("select run_uuid, key, value from params")
        metrics = rows("select run_uuid, key, value, timestamp, step from metrics")
    assert set(experiments) == {"Default", *(study.name for study in studies)}
    assert len(found) == PROCESSES + STUDIES  # with a parent each
    where = {uuid: (experiment, names[uuid]) for uuid, experiment, _ in found}
    assert len(set(where.values())) == len(found)
    assert experiments["Default"] not in {experiment for experiment, _ in where.values()}
    assert {status for uuid, _, status in found if names[uuid] != "study"} == {"FINISHED"}
    seen = {(*where[uuid], key, value, time_ms, step) for uuid, key, value, time_ms, step in metrics}
    settings = {(*where[uuid], key, value) for uuid, key, value in params}
    wanted, wanted_settings = set(), set()
    for number, run_id in runs:
        run = read_run(studies[number], run_id)
        assert run is not None
        place, sent = (experiments[studies[number].name], run_id), payload(run)
        assert len(sent.points) > 200
        wanted |= {(*place, *point[:2], point.time_ms, point.step) for point in sent.points}
        wanted_settings |= {(*place, *item) for item in sent.params.items()}
    assert len(metrics) == len(seen)
    assert seen == wanted
    assert settings == wanted_settings


def run_all(studies: list[Study], uri: str) -> list[tuple[int, str]]:
    """Fifty processes, each of which syncs one run."""
    fed = [with_uri(study, uri) for study in studies]
    runs = [(number, study.run_id(cell)) for number, study in enumerate(studies) for cell in CELLS]
    assert len(runs) == PROCESSES
    seconds, failed = sync_at_once(fed, runs)
    assert failed == []
    print(f"{PROCESSES} processes: {seconds:.1f} s")
    return runs


def test_fifty_processes_at_once_into_one_new_sqlite_file(ten_studies: list[Study], tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/shared.db"
    check(uri, ten_studies, run_all(ten_studies, uri))


def test_fifty_processes_at_once_into_one_new_postgresql_database(ten_studies: list[Study], postgres: Postgres) -> None:
    uri = postgres.database("many")
    check(uri, ten_studies, run_all(ten_studies, uri))


def test_fifty_processes_at_once_into_one_server_over_postgresql(
    ten_studies: list[Study], postgres: Postgres, mlflow_server: Callable[..., MlflowServer]
) -> None:
    uri = postgres.database("served")
    server = mlflow_server(uri).start()
    check(uri, ten_studies, run_all(ten_studies, server.address))
