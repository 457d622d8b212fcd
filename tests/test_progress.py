"""How far a run is."""

import json
from collections.abc import Callable

import pandas as pd
import pytest

from dpdt.base.files import write_json
from dpdt.runs.progress import last_auc, run_progress
from dpdt.study import Study
from dpdt.study.tasks import tasks
from tests.fake_runs import FakeRuns

MakeStudy = Callable[..., Study]


def test_the_time_that_is_left_is_told_of_what_runs(make_fake_study: MakeStudy) -> None:
    study = make_fake_study()
    task = tasks(study, "train")[0]
    paths = study.paths.run(task.key)
    assert run_progress(study.paths, task, running=True)["num_steps"] is None
    state = {"status": "running", "step": 40, "num_steps": 120, "epsilon": 0.4, "target_epsilon": 1.0}
    write_json(paths.state, state)
    paths.metrics_log.write_text("".join(json.dumps({"step": n, "step_s": 0.5}) + "\n" for n in range(40)))
    assert run_progress(study.paths, task, running=True)["time_left_s"] == 40.0  # 80 steps of half a second
    assert run_progress(study.paths, task, running=False)["time_left_s"] is None


def test_the_auc_is_that_of_the_runs_own_domain(fake_runs: Callable[..., FakeRuns]) -> None:
    runs = fake_runs(("vindr", "uka"), "[inf]")
    cell = runs.study.cells()[1]
    paths = runs.train(cell)
    assert last_auc(paths) is None
    runs.evaluate(cell)
    table = pd.read_parquet(paths.metrics)
    own = table.query("test_domain == @cell.domain and label == 'average' and subgroup == 'all' and metric == 'auc'")
    assert last_auc(paths) == pytest.approx(own["value"].item())
    paths.metrics.write_bytes(b"not parquet")
    assert last_auc(paths) is None
