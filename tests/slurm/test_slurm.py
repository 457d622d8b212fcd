"""Submission on a real Slurm of four nodes: dependencies, failures, and nobody waiting."""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dpdt.errors import ClusterError
from dpdt.jobs.status import study_status
from dpdt.jobs.submissions import latest_jobs
from dpdt.jobs.submit import submit
from dpdt.study import Study
from tests.waiting import wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("cluster", "quick_polls")]

MakeStudy = Callable[..., Study]
CLUSTER = """
[train]
device = "cpu"
[cluster]
partition = "low"
cpus_per_task = 2
mem_gb = 0.5
timeout_min = 10
gpus_per_task = 1
"""
STAGES_RUN = sorted(
    ["cohort", "shards"] * 3 + ["pretrain"] + ["train", "evaluate"] * 4 + ["evaluate", "report", "track"]
)


@pytest.fixture
def quick_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Poll often: here squeue disturbs no other user."""
    monkeypatch.setattr("dpdt.jobs.slurm.wait.POLL_SECONDS", 0.5)


def started(study: Study) -> list[str]:
    """Tasks that ran, in order."""
    file = study.folder / "calls.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [row["task"] for row in rows if row["what"] == "start"]


def states(study: Study) -> dict[str, str]:
    """State of every task."""
    return {f"{row['stage']}-{row['key']}".rstrip("-"): row["state"] for row in study_status(study)}


def settled(study: Study) -> bool:
    """Whether no task waits or runs."""
    return not {"waiting", "running"} & set(states(study).values())


def processes(study: Study) -> list[str]:
    """Processes of the study's jobs that are alive, wherever they were started."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = file.read_bytes().decode(errors="replace").split("\0")
            found += [" ".join(words)] if any(word.startswith(str(study.paths.jobs)) for word in words) else []
    return found


def job_details(job_id: str) -> dict[str, str]:
    """What `scontrol show job` says about the first record of a job."""
    shown = subprocess.run(["scontrol", "show", "job", job_id], capture_output=True, text=True, check=True).stdout
    return dict(re.findall(r"(\S+?)=(\S*)", shown.split("\n\n")[0]))


def test_a_study_finishes_though_nobody_waits_and_is_not_sent_again(
    make_fake_study: MakeStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    study = make_fake_study(CLUSTER + "array_parallelism = 2\n", seconds=1.0)
    outer_job = {"SLURM_ARRAY_JOB_ID": "999", "SLURM_MEM_PER_CPU": "1", "SBATCH_PARTITION": "none"}
    done = subprocess.run(
        [sys.executable, "-m", "dpdt.submit", str(study.file), "--cluster", "slurm"],
        env={**os.environ, **outer_job},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "18 tasks sent to slurm, 0 were done before" in done.stdout

    ids = {task.name: job.job_id for task, (_, job) in latest_jobs(study).items()}
    first = {stage: next(ids[name] for name in ids if name.startswith(stage)) for stage in ("train", "evaluate")}
    train = job_details(first["train"].split("_")[0])
    evaluate = job_details(first["evaluate"].split("_")[0])
    report = job_details(ids["report"])
    assert set(re.findall(r"(\w+):(\d+)", train["Dependency"])) == {
        ("afterok", ids[f"pretrain-{study.pretrain_run_id}"]),
        ("afterok", ids["shards-a"].split("_")[0]),
    }
    assert f"aftercorr:{first['train'].split('_')[0]}" in evaluate["Dependency"]
    assert set(re.findall(r"(\w+):\d+", report["Dependency"])) == {"afterany"}
    assert (train["NumCPUs"], train["TimeLimit"], train["Partition"]) == ("2", "00:10:00", "low")
    assert "gpu:1" in train["TresPerNode"]
    assert "TresPerNode" not in report

    wait_until(lambda: settled(study))
    assert set(states(study).values()) == {"done"}, study_status(study)
    order = [name.split("-")[0] for name in started(study)]
    assert sorted(order) == STAGES_RUN
    assert order[-2:] == ["report", "track"]
    wait_until(lambda: processes(study) == [])  # SL-09: nothing outlives a result
    assert submit(study, cluster="slurm").sent == 0
    assert "Nothing to send: 18 tasks are done." in capsys.readouterr().out


def test_what_needs_a_failed_task_is_cancelled_and_the_rest_goes_on(make_fake_study: MakeStudy) -> None:
    # SL-12, SL-14
    study = make_fake_study(CLUSTER + "[evaluate]\ndomains = ['a']\n")
    failing = next(study.run_id(cell) for cell in study.cells() if cell.domain == "a" and cell.private)
    told = {"fail": ["shards-b", f"train-{failing}"], "seconds": 0.5}
    (study.folder / "behave.json").write_text(json.dumps(told))
    with pytest.raises(
        ClusterError, match=r"shards b: RuntimeError: shards-b was told to fail \(log: .*2 tasks failed"
    ):
        submit(study, cluster="slurm", wait=True)
    assert settled(study)
    rows = {row["task"]: row for row in study_status(study)}
    assert rows["shards b"]["state"] == "failed"
    assert rows["train b, no DP, seed 0"]["note"] == "not run: shards b failed"
    assert rows["train a, epsilon 1, seed 0"]["state"] == "failed"
    assert rows["train a, epsilon 1, seed 0"]["note"].endswith("was told to fail")
    assert Path(rows["train a, epsilon 1, seed 0"]["log"]).exists()
    assert rows["evaluate a, epsilon 1, seed 0"]["state"] == "to do"
    assert rows["evaluate a, no DP, seed 0"]["state"] == "done"
    assert rows["report"]["state"] == rows["track"]["state"] == "done"


def test_slurms_refusal_is_one_line_and_leaves_nothing_in_the_queue(make_fake_study: MakeStudy) -> None:
    study = make_fake_study(CLUSTER.replace("gpus_per_task = 1", "gpus_per_task = 9"))
    with pytest.raises(ClusterError, match=r"Slurm refused a job: .*Requested node configuration is not available"):
        submit(study, cluster="slurm")
    wait_until(lambda: subprocess.run(["squeue", "--noheader"], capture_output=True, check=True).stdout == b"")
    assert latest_jobs(study) == {}
    assert started(study) == []


def test_tasks_in_the_queue_are_not_sent_twice(make_fake_study: MakeStudy) -> None:
    study = make_fake_study(CLUSTER, seconds=3.0)
    submit(study, cluster="slurm", stages=["cohort"])
    summary = submit(study, cluster="slurm", stages=["cohort", "shards"], wait=True)
    assert (summary.sent, summary.queued, summary.finished) == (3, 3, 6)  # it waited for those too
    assert sorted(started(study)) == ["cohort-a", "cohort-b", "cohort-public", "shards-a", "shards-b", "shards-public"]


def test_status_tells_a_cancelled_task_from_one_that_runs(make_fake_study: MakeStudy) -> None:
    study = make_fake_study(CLUSTER, seconds=60)
    submit(study, cluster="slurm", stages=["cohort"])
    wait_until(lambda: states(study)["cohort-a"] == "running")
    job_id = study_status(study)[0]["job"]
    subprocess.run(["scancel", job_id], check=True)
    wait_until(lambda: states(study)["cohort-a"] == "stopped")
    assert study_status(study)[0]["note"].startswith("ended without a result (Slurm's state: CANCELLED)")
    assert states(study)["cohort-b"] == "running"
    subprocess.run(["scancel", job_id.split("_")[0]], check=True)
    wait_until(lambda: settled(study))


APPTAINER = """\
#!/bin/bash
# Stands for apptainer: a clean environment but for what it is given, and none of Slurm's programs.
given=()
while read -r name; do given+=("${{name#APPTAINERENV_}}=$(printenv "$name")"); done < <(compgen -e APPTAINERENV_)
while [ "$1" != dpdt.sif ]; do shift; done
exec env -i PATH=/nowhere PYTHONPATH={path} "${{given[@]}}" {python} "${{@:3}}"
"""


@pytest.mark.parametrize("place", ["host", "image"])
def test_a_task_that_is_warned_comes_back_by_itself(
    make_fake_study: MakeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    study = make_fake_study(CLUSTER, seconds=60)
    if place == "image":  # CT-01: neither python nor what it imports can reach Slurm
        study = make_fake_study(f'{CLUSTER}profile = "./site.toml"\n', seconds=60)
        (study.folder / "site.toml").write_text('image = "dpdt.sif"\n')
        (tmp_path / "bin").mkdir()
        program = tmp_path / "bin" / "apptainer"
        program.write_text(APPTAINER.format(path=os.environ["PYTHONPATH"], python=sys.executable))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    submit(study, cluster="slurm", stages=["cohort"])
    assert len(list(study.paths.jobs.glob("2*/python.sh"))) == (place == "image")
    wait_until(lambda: len(started(study)) == 3)
    (study.folder / "behave.json").write_text("{}")
    job_id = study_status(study)[0]["job"]
    time.sleep(0.5)
    per_task = min(len(processes(study)) for _ in range(5)) // 3  # without those that a start leaves for a moment
    assert per_task >= 1
    subprocess.run(["scancel", "--signal=USR2", job_id], check=True)  # as Slurm does before it preempts
    wait_until(lambda: states(study)["cohort-a"] == "waiting")
    wait_until(lambda: len(processes(study)) == 2 * per_task)  # SL-09: or a requeue
    # Slurm holds a requeued job for two minutes; not `now`, or the node refuses the credential
    subprocess.run(["scontrol", "update", f"jobid={job_id}", "StartTime=now+3"], check=True)
    wait_until(lambda: states(study)["cohort-a"] == "done")
    assert states(study)["cohort-b"] == "running"  # only this task of the array was requeued
    log = Path(study_status(study)[0]["log"]).read_text()
    assert "== cohort a: attempt 1 on" in log
    assert "== cohort a: attempt 2 on" in log
    subprocess.run(["scancel", job_id.split("_")[0]], check=True)
    wait_until(lambda: settled(study))
