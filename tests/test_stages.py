"""The stages, their tasks and what each needs; running a task."""

import errno
import json
import math
import os
import pickle
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dpdt.base.files import exclusive_lock
from dpdt.errors import ClusterError, DpdtError, StudyError
from dpdt.jobs.stages import is_done, run_stage, run_task
from dpdt.study import Study, load_study
from dpdt.study.frozen import freeze_study, thaw_study
from dpdt.study.tasks import STAGES, Task, check_stages, needs, tasks

MakeStudy = Callable[..., Study]

IMPORTS = "from dpdt.jobs.stages import run_task; from dpdt.study.tasks import Task"


def calls(study: Study, what: str = "start") -> list[str]:
    """Names of the tasks that ran, in order."""
    file = study.folder / "calls.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [row["task"] for row in rows if row["what"] == what]


def test_a_study_has_a_task_for_each_domain_and_each_cell(make_fake_study: MakeStudy) -> None:
    study = make_fake_study()
    numbers = {stage: len(tasks(study, stage)) for stage in STAGES}
    # a, b and the public domain; 2 domains x 2 epsilons x 1 seed, and the model before them is evaluated, too
    assert numbers == {"cohort": 3, "shards": 3, "pretrain": 1, "train": 4, "evaluate": 5, "report": 1, "track": 1}


def test_a_study_without_a_public_domain_has_no_pretraining(tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_text('[domains.vindr]\nroot = "raw"\n')
    study = load_study(file)
    assert tasks(study, "pretrain") == []
    assert [before.name for before in needs(study)[tasks(study, "train")[0]]] == ["shards-vindr"]


@pytest.mark.parametrize("stage", STAGES)
def test_nothing_of_a_new_study_is_done_whatever_the_stage(tmp_path: Path, stage: str) -> None:
    file = tmp_path / "study.toml"
    file.write_text('[domains.vindr]\nroot = "raw"\n[domains.mimic]\nroot = "raw"\n')
    study = load_study(file)
    found = tasks(study, stage)
    assert found
    assert not any(is_done(study, task) for task in found)


def test_labels_are_for_people(make_fake_study: MakeStudy) -> None:
    labels = [task.label for task in needs(make_fake_study())]
    assert labels[0] == "cohort a"
    assert "train a, epsilon 1, seed 0" in labels
    assert "evaluate b, no DP, seed 0" in labels


def test_each_task_needs_what_it_reads(make_fake_study: MakeStudy) -> None:
    study = make_fake_study()
    run_id = study.run_id(study.cells()[0])
    found = {task.name: {before.name for before in after} for task, after in needs(study).items()}
    assert found["cohort-a"] == set()
    assert found["shards-a"] == {"cohort-a"}
    assert found[f"pretrain-{study.pretrain_run_id}"] == {"shards-public"}
    assert found[f"train-{run_id}"] == {f"pretrain-{study.pretrain_run_id}", "shards-a"}
    assert found[f"evaluate-{run_id}"] == {f"train-{run_id}", "shards-a", "shards-b"}
    assert found["report"] == {f"evaluate-{study.run_id(cell)}" for cell in study.tested_models()}
    assert found["track"] == {"report"}
    assert [task.stage for task in needs(study)] == sorted((t.stage for t in needs(study)), key=STAGES.index)


def test_stages_are_put_in_order_and_unknown_ones_are_named() -> None:
    assert check_stages(None) == STAGES
    assert check_stages(["train", "cohort", "train"]) == ("cohort", "train")
    with pytest.raises(StudyError, match=r"unknown stage 'trian'\. Valid stages: cohort, shards, pretrain, train"):
        check_stages(["trian"])
    with pytest.raises(StudyError, match="expected at least one stage, got none"):
        check_stages([])


def test_a_task_can_be_pickled_and_compared_without_its_label() -> None:
    task = Task("train", "a-1", "train a")
    assert pickle.loads(pickle.dumps(task)) == task == Task("train", "a-1")


def test_a_task_is_run_once_and_then_done(make_fake_study: MakeStudy, capsys: pytest.CaptureFixture[str]) -> None:
    study = make_fake_study()
    for task in needs(study):
        assert not is_done(study, task)
        run_task(str(study.file), task)
        assert is_done(study, task), task.name
        run_task(str(study.file), task)
    assert calls(study) == [task.name for task in needs(study)]
    assert "made cohort-a\ncohort a: already done\n" in capsys.readouterr().out


def test_the_report_and_mlflow_are_due_again_when_a_run_changed(make_fake_study: MakeStudy) -> None:
    study = make_fake_study()
    for task in needs(study):
        run_task(str(study.file), task)
    report, track = tasks(study, "report")[0], tasks(study, "track")[0]
    assert is_done(study, report)
    assert is_done(study, track)
    study.paths.run(study.run_id(study.cells()[0])).metrics.write_text("other results")
    assert not is_done(study, report)
    assert not is_done(study, track)


def test_the_report_of_a_copied_study_is_not_due_again(make_fake_study: MakeStudy, tmp_path: Path) -> None:
    study = make_fake_study()
    for task in needs(study):
        run_task(str(study.file), task)
    shutil.copytree(
        study.folder, tmp_path / "elsewhere" / study.folder.name, copy_function=shutil.copyfile
    )  # new times
    copy = load_study(tmp_path / "elsewhere" / study.folder.name / study.file.name)
    assert copy.folder != study.folder
    assert is_done(copy, tasks(copy, "report")[0])


def test_outputs_are_private_unless_the_study_says_otherwise(make_fake_study: MakeStudy) -> None:
    before = os.umask(0o022)
    try:
        study = make_fake_study()
        run_task(str(study.file), tasks(study, "cohort")[0])
        assert stat.S_IMODE(study.paths.cohort_record("a").stat().st_mode) == 0o600
        study = make_fake_study("[study]\nprivate_files = false\n")
        run_task(str(study.file), tasks(study, "cohort")[1])
        assert stat.S_IMODE(study.paths.cohort_record("b").stat().st_mode) == 0o644
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


def test_threads_are_given_only_where_the_study_leaves_them_open(make_fake_study: MakeStudy) -> None:
    study = make_fake_study("[train]\nnum_threads = 5\n")
    run_task(str(study.file), tasks(study, "cohort")[0], num_threads=3)
    row = json.loads((study.folder / "calls.jsonl").read_text().splitlines()[0])
    assert row["threads"] == [3, 5]  # shards, train
    assert [t.key for t in tasks(study, "train")] == [t.key for t in tasks(make_fake_study(), "train")]


def test_a_second_process_waits_for_the_first(make_fake_study: MakeStudy) -> None:
    study = make_fake_study()
    task = tasks(study, "cohort")[0]
    code = f"{IMPORTS}; run_task({str(study.file)!r}, Task('cohort', 'a', 'cohort a'))"
    with exclusive_lock(study.paths.task_lock(task.name)):
        process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        assert process.stderr.readline() == "cohort a: another process runs it; waiting for it to end\n"
        assert calls(study) == []
        (study.folder / "cohort").mkdir()
        study.paths.cohort_record("a").write_text("{}")
    assert process.wait(120) == 0
    process.stderr.close()
    assert calls(study) == []  # it found the work done


def test_a_task_that_may_start_no_process_is_not_taken_for_one_that_another_runs(
    make_fake_study: MakeStudy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*_: object) -> str:  # fork(2): EAGAIN at a limit on processes, in Python the error of a taken lock
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    study = make_fake_study()
    monkeypatch.setattr(sys.modules["dpdt.cohort.stage"], "run", run)
    with pytest.raises(BlockingIOError, match="Resource temporarily unavailable"):
        run_task(str(study.file), tasks(study, "cohort")[0])
    assert "another process runs it" not in capsys.readouterr().err


def test_run_stage_runs_what_is_asked_for(make_fake_study: MakeStudy) -> None:
    study = make_fake_study()
    run_stage(study, "cohort", domains=["b"])
    run_stage(study, "train", domains=["a"], target_epsilons=[math.inf], seeds=[0])
    cell = next(cell for cell in study.cells() if cell.domain == "a" and not cell.private)
    assert calls(study) == ["cohort-b", f"train-{study.run_id(cell)}"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"domains": ["z"]}, "train: domain z is not in the study, which has: a, b"),
        ({"target_epsilons": [3.0]}, r"train: target epsilon 3\.0 is not in the study, which has: 1\.0, inf"),
        ({"seeds": [7]}, "train: seed 7 is not in the study, which has: 0"),
    ],
)
def test_run_stage_says_what_the_study_does_not_have(
    make_fake_study: MakeStudy, asked: dict[str, list[object]], message: str
) -> None:
    with pytest.raises(StudyError, match=message):
        run_stage(make_fake_study(), "train", **asked)  # type: ignore[arg-type]


def test_a_training_that_the_study_no_longer_has_is_refused(make_study: MakeStudy) -> None:
    with pytest.raises(StudyError, match="has no training gone-1"):
        run_task(str(make_study().file), Task("train", "gone-1", "train gone"))


def test_a_task_that_stopped_early_is_no_success(make_fake_study: MakeStudy) -> None:
    study = make_fake_study(stop=["cohort-a"])
    with pytest.raises(ClusterError, match="cohort a: stopped before its end"):
        run_task(str(study.file), tasks(study, "cohort")[0])


def test_a_frozen_study_is_the_same_study(make_fake_study: MakeStudy, tmp_path: Path) -> None:
    study = make_fake_study('[model]\ninit_weights = "weights.pt"\n[study]\nfolder = "out"\n')
    freeze_study(study, tmp_path / "elsewhere" / "study.json")
    study.file.write_text("[study]\nseed = 5\n")
    frozen = thaw_study(tmp_path / "elsewhere" / "study.json")
    assert frozen == study
    assert frozen.folder == study.folder
    assert frozen.root("a") == study.root("a")
    assert [frozen.run_id(cell) for cell in frozen.cells()] == [study.run_id(cell) for cell in study.cells()]


def test_a_damaged_frozen_study_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(DpdtError, match=r"study\.json: not valid JSON"):
        thaw_study(tmp_path / "study.json")


def test_cohort_and_shards_do_not_load_torch(make_fake_study: MakeStudy) -> None:
    study = make_fake_study()
    code = f"{IMPORTS}; [run_task({str(study.file)!r}, Task(s, 'a')) for s in ('cohort', 'shards')]"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)
    rows = [json.loads(line) for line in (study.folder / "calls.jsonl").read_text().splitlines()]
    assert {name for row in rows for name in row["heavy"]} == set()
