"""A row a task."""

import json
from collections.abc import Callable

import pytest

from dpdt.base.files import exclusive_lock, write_json
from dpdt.jobs.status import STATES, show_status, study_status
from dpdt.jobs.submit import submit
from dpdt.study import Study
from dpdt.study.tasks import tasks

MakeStudy = Callable[..., Study]


def test_a_new_study_has_nothing_yet(make_fake_study: MakeStudy) -> None:
    rows = study_status(make_fake_study())
    assert len(rows) == 18
    assert {row["state"] for row in rows} == {"to do"}
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows


def test_a_training_shows_its_steps_and_epsilon(make_fake_study: MakeStudy, capsys: pytest.CaptureFixture[str]) -> None:
    study = make_fake_study()
    task = tasks(study, "train")[0]
    state = {"status": "running", "step": 40, "num_steps": 120, "epsilon": 0.4321, "target_epsilon": 1.0}
    write_json(study.paths.run(task.key).state, state)
    row = next(row for row in study_status(study) if row["key"] == task.key)
    assert {key: row[key] for key in ("step", "num_steps", "epsilon", "target_epsilon")} == {
        key: value for key, value in state.items() if key != "status"
    }
    show_status([row], every_task=True)
    shown = capsys.readouterr().out
    assert "40/120" in shown
    assert "0.433 of 1" in shown  # rounded up


def test_the_column_of_aucs_is_explained_where_there_are_some(
    make_fake_study: MakeStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = study_status(make_fake_study())
    show_status(rows)
    assert "AUC: macro" not in capsys.readouterr().out
    show_status([{**rows[-2], "auc": 0.8125}])
    shown = capsys.readouterr().out
    assert "0.812" in shown
    assert "AUC: macro, over all labels of the model's own domain; of a model without one the mean over all" in shown


def test_a_task_that_somebody_runs_by_hand_is_running(make_fake_study: MakeStudy) -> None:
    study = make_fake_study()
    with exclusive_lock(study.paths.task_lock("cohort-b")):
        states = {row["task"]: row["state"] for row in study_status(study)}
    assert (states["cohort a"], states["cohort b"]) == ("to do", "running")


def test_a_result_that_was_removed_is_missing_and_says_why(make_fake_study: MakeStudy) -> None:
    study = make_fake_study()
    submit(study, cluster="local", stages=["cohort"])
    study.paths.cohort_record("a").unlink()
    row = study_status(study)[0]
    assert row["state"] == "to do"
    assert row["note"] == "done before, but its result was removed, or the settings or what it was made from changed"
    assert {row["state"] for row in study_status(study)} <= set(STATES)


def test_the_log_of_a_failure_is_named_below_the_table(
    make_fake_study: MakeStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    study = make_fake_study(fail=["cohort-a"])
    with pytest.raises(Exception, match="cohort-a was told to fail"):
        submit(study, cluster="local", stages=["cohort"])
    show_status(study_status(study))
    shown = capsys.readouterr().out
    assert "2 done, 1 failed, 15 to do" in shown
    assert f"cohort a: log in {study.paths.jobs}" in shown
