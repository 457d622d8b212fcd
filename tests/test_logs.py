"""Logs of tasks by name."""

from collections.abc import Callable

import pytest

from dpdt.errors import StudyError
from dpdt.jobs.logs import find_tasks, show_logs
from dpdt.jobs.submit import submit
from dpdt.study import Study

MakeStudy = Callable[..., Study]


def test_a_name_a_stage_or_a_part_of_a_name_means_tasks(make_fake_study: MakeStudy) -> None:
    study = make_fake_study()
    assert [task.name for task in find_tasks(study, ["shards-b"])] == ["shards-b"]
    assert [task.name for task in find_tasks(study, ["cohort"])] == ["cohort-a", "cohort-b", "cohort-public"]
    assert {task.stage for task in find_tasks(study, ["no DP"])} == {"train", "evaluate"}
    with pytest.raises(StudyError, match=r"no task 'padchest'; .*The first: cohort-a, cohort-b"):
        find_tasks(study, ["padchest"])


def test_the_logs_of_failures_are_shown_unless_a_task_is_named(
    make_fake_study: MakeStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    study = make_fake_study(fail=["cohort-a"])
    show_logs(study)
    assert "No task failed." in capsys.readouterr().out
    with pytest.raises(Exception, match="cohort-a was told to fail"):
        submit(study, cluster="local", stages=["cohort"])
    show_logs(study, lines=1)
    shown = capsys.readouterr().out
    assert "==> cohort-a: " in shown
    assert shown.splitlines()[-1].startswith("RuntimeError: cohort-a was told to fail")
    assert "submitit INFO" not in shown
    show_logs(study, ["cohort-b", "shards-b"], lines=0)
    shown = capsys.readouterr().out
    assert "== cohort b: attempt 1 on " in shown
    assert "==> shards-b: never sent" in shown
