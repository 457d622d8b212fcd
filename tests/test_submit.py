"""Sending tasks: what is sent, how local processes behave, and what a failure looks like."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dpdt.base.files import exclusive_lock
from dpdt.errors import ClusterError, StudyError
from dpdt.jobs.local import LocalScheduler, _visible_gpus
from dpdt.jobs.outcomes import Outcomes
from dpdt.jobs.resources import PROFILES, resources
from dpdt.jobs.selection import make_plan
from dpdt.jobs.status import study_status
from dpdt.jobs.submit import cancel, submit
from dpdt.jobs.task_call import TaskCall
from dpdt.study import Study
from dpdt.study.tasks import Task, needs, tasks
from tests.waiting import wait_until

MakeStudy = Callable[..., Study]


def events(study: Study) -> list[dict[str, object]]:
    """What the stand-ins noted."""
    file = study.folder / "calls.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def started(study: Study) -> list[str]:
    """Tasks that ran, in order."""
    return [str(row["task"]) for row in events(study) if row["what"] == "start"]


def states(study: Study) -> dict[str, str]:
    """State of every task."""
    return {f"{row['stage']}-{row['key']}".rstrip("-"): row["state"] for row in study_status(study)}


def run_of(study: Study, domain: str, *, private: bool) -> str:
    """Run id of one cell."""
    return next(study.run_id(cell) for cell in study.cells() if cell.domain == domain and cell.private == private)


def test_debug_runs_everything_in_this_process_and_then_nothing(
    make_fake_study: MakeStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    study = make_fake_study()
    summary = submit(study, cluster="debug")
    assert started(study) == [task.name for task in needs(study)]
    assert {row["pid"] for row in events(study)} == {os.getpid()}
    assert (summary.sent, summary.skipped, summary.finished) == (18, 0, 18)
    assert submit(study, cluster="debug").sent == 0
    assert capsys.readouterr().out.endswith("Nothing to send: 18 tasks are done.\n")


def test_debug_ends_at_the_first_failure_with_one_line(make_fake_study: MakeStudy) -> None:
    study = make_fake_study(fail=["shards-b"])
    with pytest.raises(ClusterError, match=r"^shards b: RuntimeError: shards-b was told to fail$"):
        submit(study, cluster="debug")
    assert started(study)[-1] == "shards-b"


def test_only_the_named_stages_are_sent(make_fake_study: MakeStudy) -> None:
    study = make_fake_study()
    submit(study, cluster="debug", stages=["shards", "cohort"])
    assert started(study) == ["cohort-a", "cohort-b", "cohort-public", "shards-a", "shards-b", "shards-public"]


def test_an_unknown_stage_is_answered_with_the_valid_ones(make_fake_study: MakeStudy) -> None:
    with pytest.raises(StudyError, match=r"unknown stage 'sync'\. Valid stages: cohort, shards"):
        submit(make_fake_study(), cluster="debug", stages=["sync"])


def test_an_unknown_cluster_and_not_waiting_locally_are_refused(make_fake_study: MakeStudy) -> None:
    with pytest.raises(StudyError, match=r"expected slurm, local.* got 'pbs'"):
        submit(make_fake_study(), cluster="pbs")  # type: ignore[arg-type]
    with pytest.raises(StudyError, match="--no-wait goes with --cluster slurm"):
        submit(make_fake_study(), cluster="local", wait=False)


def test_a_dry_run_prints_a_table_and_leaves_no_trace(
    make_fake_study: MakeStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    study = make_fake_study("[cluster]\ngpus_per_task = 1\ntimeout_min = 90\n")
    before = sorted(study.folder.rglob("*"))
    summary = submit(study, cluster="slurm", dry_run=True)
    assert sorted(study.folder.rglob("*")) == before
    assert summary.sent == 18
    rows = {
        line.split()[1]: " ".join(line.replace("│", " ").split())
        for line in capsys.readouterr().out.splitlines()
        if "│" in line
    }
    # stage, tasks, done, queued, to send, depends on, at once, CPUs, GPUs, memory, time
    assert rows["cohort"] == "cohort 3 0 0 3 3 2 0 8 GB 1:30 h"
    assert rows["train"] == "train 4 0 0 4 shards, pretrain 4 2 1 8 GB 1:30 h"
    assert rows["track"] == "track 1 0 0 1 report (any end) 1 2 0 8 GB 1:30 h"


def test_local_runs_at_most_so_many_at_once_and_divides_the_cores(
    make_fake_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    study = make_fake_study('[cluster]\nprofile = "./site.toml"\n', starts=2)
    (study.file.parent / "site.toml").write_text("local_parallelism = 2\n")
    submit(study, cluster="local", stages=["cohort", "pretrain"])
    rows = sorted(events(study), key=lambda row: float(str(row["time"])))
    at_once = [sum(1 if row["what"] == "start" else -1 for row in rows[: n + 1]) for n in range(len(rows))]
    assert max(at_once) == 2
    threads = {str(row["task"]).split("-")[0]: (row["threads"], row["env"]["OMP_NUM_THREADS"]) for row in rows}  # type: ignore[index]
    assert threads["cohort"] == ([2, 2], "2")
    assert threads["pretrain"] == ([4, 4], "4")  # alone in its stage
    ended = max(float(str(row["time"])) for row in rows if str(row["task"]).startswith("cohort"))
    begun = min(float(str(row["time"])) for row in rows if str(row["task"]).startswith("pretrain"))
    assert ended < begun


def test_a_failure_names_the_task_its_log_and_the_last_line(
    make_fake_study: MakeStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    study = make_fake_study(fail=["cohort-a"])
    with pytest.raises(ClusterError) as raised:
        submit(study, cluster="local", stages=["cohort"])
    message = str(raised.value)
    assert message.startswith("cohort a: RuntimeError: cohort-a was told to fail (log: ")
    assert message.endswith("Run the same command again to go on with what is missing.")
    log = Path(message.split("(log: ")[1].split(")")[0])
    assert "== cohort a: attempt 1 on " in log.read_text()
    assert "RuntimeError: cohort-a was told to fail" in log.read_text()
    row = study_status(study)[0]
    assert (row["state"], row["note"]) == ("failed", "RuntimeError: cohort-a was told to fail")
    assert row["log"] == str(log)


@pytest.mark.slow
def test_a_failed_task_fails_only_what_needs_it(make_fake_study: MakeStudy) -> None:
    study = make_fake_study("[evaluate]\ndomains = ['a']\n", fail=["shards-b"])
    with pytest.raises(ClusterError, match=r"shards-b was told to fail .*; 4 not run because of that"):
        submit(study, cluster="local")
    found = states(study)
    assert found["shards-b"] == "failed"
    for private in (True, False):
        assert found[f"train-{run_of(study, 'b', private=private)}"] == "to do"
        assert found[f"evaluate-{run_of(study, 'b', private=private)}"] == "to do"
        assert found[f"evaluate-{run_of(study, 'a', private=private)}"] == "done"
    assert (found["report"], found["track"]) == ("done", "done")
    notes = {row["task"]: row["note"] for row in study_status(study)}
    assert notes["train b, epsilon 1, seed 0"] == "not run: shards b failed"

    before = len(started(study))
    (study.folder / "behave.json").write_text("{}")
    submit(study, cluster="local")
    assert set(states(study).values()) == {"done"}
    # what was missing, and what shows it: nothing that was done is done again
    assert sorted(name.split("-")[0] for name in started(study)[before:]) == sorted(
        ["shards", "train", "train", "evaluate", "evaluate", "report", "track"]
    )


def test_a_killed_task_is_a_failure(make_fake_study: MakeStudy) -> None:
    with pytest.raises(ClusterError, match=r"cohort b: ended without a result, killed perhaps .*attempt 1"):
        submit(make_fake_study(kill=["cohort-b"]), cluster="local", stages=["cohort"])


@pytest.mark.slow
def test_one_task_on_this_machine_can_be_cancelled_and_the_others_go_on(make_fake_study: MakeStudy) -> None:
    study = make_fake_study("[cluster]\nlocal_parallelism = 3\n", long=["cohort-b"])
    code = (
        "from dpdt.study import load_study; from dpdt.jobs.submit import submit; "
        f"submit(load_study({str(study.file)!r}), cluster='local')"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    wait_until(lambda: "cohort-b" in started(study))
    wanted = next(task for task in needs(study) if task.name == "cohort-b")
    assert cancel(study, [wanted]) == [wanted]
    _, shown = process.communicate(timeout=120)
    assert "cohort b: stopped (SIGTERM); sent again, it goes on" in shown
    assert states(study)["cohort-b"] == "stopped"
    assert states(study)["shards-a"] == "done"


def test_a_second_local_submission_is_refused(make_fake_study: MakeStudy) -> None:
    study = make_fake_study()
    with (
        exclusive_lock(study.paths.local_lock),
        pytest.raises(ClusterError, match="another `dpdt submit --cluster local` works on this study"),
    ):
        submit(study, cluster="local")


def test_a_limit_on_processes_is_not_taken_for_a_second_submission(make_fake_study: MakeStudy) -> None:
    error = BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")  # fork(2) at the limit
    with (
        pytest.raises(BlockingIOError, match="Resource temporarily unavailable"),
        LocalScheduler(make_fake_study()).claimed(),
    ):
        raise error


@pytest.mark.slow
@pytest.mark.parametrize("how", ["kill", "Ctrl-C", "dpdt cancel"])
def test_tasks_end_with_their_starter_and_a_rerun_finishes_the_rest(make_fake_study: MakeStudy, how: str) -> None:
    study = make_fake_study("[cluster]\nlocal_parallelism = 2\n", seconds=60)
    code = (
        "from dpdt.study import load_study; from dpdt.jobs.submit import submit; "
        f"submit(load_study({str(study.file)!r}), cluster='local')"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_until(lambda: len(started(study)) == 2)
    assert states(study)["cohort-a"] == "running"
    if how == "Ctrl-C":
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    elif how == "dpdt cancel":
        assert {task.name for task in cancel(study)} == set(started(study))
    else:
        process.kill()
    _, shown = process.communicate(timeout=120)
    assert process.returncode != 0
    assert how == "kill" or shown.rstrip().endswith("KeyboardInterrupt")
    pids = [int(str(row["pid"])) for row in events(study)]
    wait_until(lambda: not any(is_alive(pid) for pid in pids))
    ends = [row for row in events(study) if row["what"] == "end"]
    assert len(ends) == 2  # they ran their `finally` blocks
    rows = {row["name"]: row for row in study_status(study)}
    assert {rows[name]["state"] for name in started(study)} == {"stopped"}
    assert rows["shards-a"]["note"] == "not run: cohort a stopped"
    assert cancel(study) == []

    (study.folder / "behave.json").write_text("{}")
    before = len(started(study))
    submit(study, cluster="local")
    assert len(started(study)) - before == 18
    assert set(states(study).values()) == {"done"}


def is_alive(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_editing_the_study_file_does_not_change_tasks_that_were_sent(make_fake_study: MakeStudy) -> None:
    study = make_fake_study()
    plan = make_plan(study)
    from dpdt.jobs.submissions import new_submission

    submission = new_submission(study, "debug")
    study.file.write_text(study.file.read_text().replace("1.0, inf", "3.0"))
    for task in plan.send:
        TaskCall(str(submission.paths.study), task, num_threads=1)()
    assert started(study) == [task.name for task in plan.send]


def test_pickles_refer_to_the_package_and_not_to_main(make_fake_study: MakeStudy) -> None:
    study = make_fake_study()
    done = subprocess.run(
        [sys.executable, "-m", "dpdt.submit", str(study.file), "--cluster", "local", "--stages", "cohort"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "3 tasks done, 0 were done before. Logs: " in done.stdout
    assert sorted(started(study)) == ["cohort-a", "cohort-b", "cohort-public"]


def test_the_report_shows_what_is_there_unless_there_is_nothing() -> None:
    one, two, report = Task("evaluate", "1"), Task("evaluate", "2"), Task("report", "")
    outcomes = Outcomes()
    outcomes.fail(one, "broken")
    assert outcomes.blocker(report, (one, two)) is None
    outcomes.blocked[two] = one
    assert outcomes.blocker(report, (one, two)) == one


def test_many_failures_are_one_error_and_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = Outcomes()
    for number in range(13):
        outcomes.fail(Task("train", str(number), f"train {number}"), "broken")
    with pytest.raises(ClusterError, match=r"^train 0: broken; 13 tasks failed\. Run the same command again"):
        outcomes.raise_if_failed()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "failed: train 1: broken"
    assert lines[-1] == "failed: 2 more"


def test_each_local_task_has_one_of_the_gpus_that_this_process_may_use(
    make_fake_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a task is one process here, which uses one GPU, whatever the cluster's tasks have
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1,GPU-2")
    study = make_fake_study("[cluster]\nlocal_parallelism = 2\ngpus_per_task = 2\n")
    submit(study, cluster="local", stages=["cohort", "shards", "pretrain", "train"])
    given = {str(row["task"]): row["env"]["CUDA_VISIBLE_DEVICES"] for row in events(study)}  # type: ignore[index]
    trained = [gpu for task, gpu in given.items() if task.startswith("train")]
    assert len(trained) > 1
    assert set(trained) == {"GPU-1", "GPU-2"}
    assert {gpu for task, gpu in given.items() if task.startswith(("cohort", "shards"))} == {""}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert _visible_gpus() == []


def test_the_study_file_wins_over_the_profile_and_a_stage_over_both(make_fake_study: MakeStudy) -> None:
    study = make_fake_study('[cluster]\nprofile = "./site.toml"\nmem_gb = 64\ntimeout_min = 600\n')
    (study.file.parent / "site.toml").write_text(
        'partition = "gpu"\naccount = "lung"\ngpus_per_task = 1\nmem_gb = 32\nsetup = ["module load cuda"]\n'
        '[stages.cohort]\npartition = "cpu"\ntimeout_min = 30\n[stages.track]\nmem_gb = 16\n'
    )
    found = resources(study)
    assert (found["train"].partition, found["train"].account, found["train"].gpus) == ("gpu", "lung", 1)
    assert (found["train"].mem_gb, found["train"].timeout_min) == (64.0, 600)
    assert (found["cohort"].partition, found["cohort"].gpus, found["cohort"].timeout_min) == ("cpu", 0, 30)
    assert found["evaluate"].setup == ("module load cuda",)
    # what reads and writes tables alone asks for little, unless its own table says more
    assert (found["cohort"].mem_gb, found["report"].timeout_min, found["track"].mem_gb) == (8.0, 240, 16.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'partitoin = "gpu"\n',
            r"site\.toml: partitoin: Extra inputs are not permitted\. Valid keys: profile, partition",
        ),
        ("[stages.trian]\nmem_gb = 1\n", r"stages\.trian: unknown stage\. Valid stages: cohort"),
        ("[stages.train]\nmem = 1\n", r"stages\.train\.mem: .*Valid keys: partition, qos"),
        ("partition =", r"site\.toml: not valid TOML"),
        ("extra = 3\n", r"site\.toml: extra: Input should be a valid dictionary"),
        ("stages = 3\n", r"site\.toml: stages: Input should be a valid dictionary"),
        (
            "# für uns".encode("latin-1"),
            r"site\.toml:1: not UTF-8 text: byte 0xfc \('ü' in Latin-1\)\. Expected UTF-8",
        ),
        (
            None,
            r"site\.toml cannot be read \(No such file or directory\)\. Expected the path of a TOML file, or one of",
        ),
    ],
)
def test_a_wrong_profile_is_one_clear_error(make_fake_study: MakeStudy, text: str | bytes | None, message: str) -> None:
    study = make_fake_study('[cluster]\nprofile = "site.toml"\n')
    if text is not None:
        (study.file.parent / "site.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(StudyError, match=message):
        resources(study)


def test_a_profile_may_begin_with_a_byte_order_mark(make_fake_study: MakeStudy) -> None:
    study = make_fake_study('[cluster]\nprofile = "site.toml"\n')
    (study.file.parent / "site.toml").write_bytes(b'\xef\xbb\xbfpartition = "gpu"\n')  # RFC 3629, section 6
    assert resources(study)["train"].partition == "gpu"


def test_a_profile_of_a_user_that_is_not_there_cannot_be_read(make_fake_study: MakeStudy) -> None:
    study = make_fake_study('[cluster]\nprofile = "~no-such-user/site.toml"\n')
    with pytest.raises(StudyError, match=r"~no-such-user/site\.toml cannot be read"):
        resources(study)


@pytest.mark.parametrize("file", sorted(PROFILES.glob("*.toml")), ids=lambda file: file.stem)
def test_the_profiles_of_the_repository_are_valid(make_fake_study: MakeStudy, file: Path) -> None:
    assert resources(make_fake_study(f'[cluster]\nprofile = "{file.stem}"\n'))["train"].timeout_min > 0


def test_tasks_are_not_sent_while_an_earlier_submission_has_them(make_fake_study: MakeStudy) -> None:
    study = make_fake_study()
    submit(study, cluster="debug", stages=["cohort"])
    cohort, shards, report = (tasks(study, stage) for stage in ("cohort", "shards", "report"))
    plan = make_plan(study, queued=[cohort[0], shards[0], *report])
    assert plan.stages[0].done == tuple(cohort)  # its job is only winding down
    assert plan.stages[1].queued == tuple(shards[:1])
    assert plan.stages[1].send == tuple(shards[1:])
    assert plan.num_queued == 2
