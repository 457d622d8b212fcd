"""Trainings that a busy cluster disturbs end with the results of undisturbed ones."""

import json
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

import dpdt
from dpdt.base.files import read_json
from dpdt.jobs.status import study_status
from dpdt.jobs.submissions import latest_jobs
from dpdt.jobs.submit import submit
from dpdt.study import Study, load_study
from tests.small_data import statement
from tests.waiting import wait_until

pytest.importorskip("dpdt._core", reason="the C++ core is not built here")

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.usefixtures("cluster")]

MakeStudy = Callable[..., Study]
Rows = dict[str, dict[str, Any]]
REAL_TRAINING = Path(__file__).parent / "real_training"
NUM_NODES = 4
CLUSTER = """
[cluster]
partition = "low"
cpus_per_task = 2
mem_gb = 1.5
timeout_min = 10
"""


def slurm(*command: str) -> str:
    """What a program of Slurm prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def rows_of(study: Study) -> Rows:
    """Status of the trainings by run id."""
    return {row["key"]: row for row in study_status(study) if row["stage"] == "train"}


def states(study: Study) -> Counter[str]:
    """How many trainings are in which state."""
    return Counter(row["state"] for row in rows_of(study).values())


def undisturbed(study: Study, folder: Path, run_ids: set[str]) -> Study:
    """The same trainings in this process, from a copy of the study as it was before."""
    from dpdt.training.train import train

    copy = load_study(folder / study.file.name)
    for cell in copy.cells():
        if copy.run_id(cell) in run_ids:
            train(copy, cell, seeded_randomness=True)
    return copy


def is_same_result(study: Study, other: Study, run_id: str) -> bool:
    """Whether weights are equal bit by bit, and privacy statements and steps in the ledger too."""
    import torch

    one, two = study.paths.run(run_id), other.paths.run(run_id)
    weights, wanted = (torch.load(paths.weights, weights_only=True) for paths in (one, two))
    assert weights.keys() == wanted.keys()
    same = all(torch.equal(weights[name], wanted[name]) for name in weights)
    keys = ("status", "step", "num_steps", "epsilon", "target_epsilon")
    states = [{key: read_json(paths.state)[key] for key in keys} for paths in (one, two)]
    return same and states[0] == states[1] and statement(one) == statement(two)


def requeued(study: Study, run_ids: set[str]) -> None:
    """Wait until tasks are back in the queue, then shorten the two minutes that Slurm holds a requeued job."""
    wait_until(lambda: all(rows_of(study)[run_id]["state"] == "waiting" for run_id in run_ids))
    for run_id in run_ids:
        job = f"jobid={rows_of(study)[run_id]['job']}"
        slurm("scontrol", "update", job, "TimeLimit=10")
        slurm("scontrol", "update", job, "StartTime=now+3")


@pytest.mark.long
@pytest.mark.timeout(600)
def test_eight_trainings_on_four_nodes_survive_what_a_cluster_does(
    make_study: MakeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dpdt.training.train import pretrain

    root = Path(dpdt.__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(REAL_TRAINING), str(root)]))
    study = make_study(
        ("[train]\nnum_epochs = 5", "[train]\nseeds = [0, 1, 2, 3]\nnum_epochs = 10"),
        ("reserve_steps = 4\n", f"reserve_steps = 4\n{CLUSTER}"),
    )
    pretrain(study)
    calm = tmp_path.parent / f"{tmp_path.name}-calm"
    shutil.copytree(tmp_path, calm)
    runs = [study.run_id(cell) for cell in study.cells()]
    failing = next(study.run_id(cell) for cell in study.cells() if cell.private and cell.seed == 1)
    (study.folder / "held").mkdir()
    (study.folder / "hold").touch()
    (study.folder / "fail").write_text(failing)

    assert submit(study, cluster="slurm", stages=["train"]).sent == 8
    held = study.folder / "held"
    wait_until(lambda: len(list(held.iterdir())) == 7 and states(study)["failed"] == 1)
    rows = rows_of(study)
    assert states(study) == {"running": 7, "failed": 1}
    assert {row["node"] for row in rows.values()} == {f"node{n + 1}" for n in range(NUM_NODES)}
    assert {row["attempt"] for row in rows.values()} == {1}
    assert rows[failing]["note"] == "RuntimeError: told to fail"

    on_node: dict[str, list[str]] = {}
    for run_id, row in rows.items():
        if run_id != failing:
            on_node.setdefault(row["node"], []).append(run_id)
    (by_hand,) = next(some for some in on_node.values() if len(some) == 1)
    busy, drained, broken = (node for node, some in on_node.items() if len(some) == 2)
    job = {run_id: row["job"] for run_id, row in rows.items()}
    try:
        # an operator, a job with a higher priority, the time limit, a node that is drained, one that breaks down
        slurm("scontrol", "requeue", job[by_hand])
        slurm("scontrol", "update", f"nodename={drained}", "state=drain", "reason=test")
        slurm("scontrol", "update", f"nodename={broken}", "state=down", "reason=test")
        slurm("scontrol", "update", f"nodename={broken}", "state=drain", "reason=test")  # it shall not come back yet
        slurm("sbatch", "-p", "high", "-w", busy, "-c", "2", "--mem=10", "-o", "/dev/null", "--wrap", "sleep 1")
        wait_until(lambda: any(rows_of(study)[run_id]["state"] == "waiting" for run_id in on_node[busy]))
        (in_time,) = (run_id for run_id in on_node[busy] if rows_of(study)[run_id]["state"] == "running")
        slurm("scontrol", "update", f"jobid={job[in_time]}", "TimeLimit=1")
        moved = {by_hand, *on_node[busy], *on_node[broken]}
        requeued(study, moved)
        assert states(study) == {"running": 2, "waiting": 5, "failed": 1}
        (study.folder / "hold").unlink()
        wait_until(lambda: states(study) == {"done": 7, "failed": 1})
    finally:
        for node in (drained, broken):
            slurm("scontrol", "update", f"nodename={node}", "state=resume")
    rows = rows_of(study)
    assert {run_id: row["attempt"] for run_id, row in rows.items()} == {r: 1 + (r in moved) for r in runs}
    assert {rows[run_id]["node"] for run_id in on_node[broken]}.isdisjoint({broken, drained})
    assert rows[failing]["note"] == "RuntimeError: told to fail"
    logs = {task.key: job.log.read_text() for task, (_, job) in latest_jobs(study).items()}
    assert all("attempt 2 on " in logs[r] and "going on from step " in logs[r] for r in moved)

    other = undisturbed(study, calm, set(runs) - {failing})
    assert [r for r in runs if r != failing and not is_same_result(study, other, r)] == []
    _kill_and_resume(study, failing)


def _kill_and_resume(study: Study, run_id: str) -> None:
    """Send the failed training again, kill it without grace, and once more: it goes on, and its budget is kept."""
    (study.folder / "fail").unlink()
    (study.folder / "hold").touch()
    assert submit(study, cluster="slurm", stages=["train"], retry_failed=True).sent == 1
    wait_until(lambda: (study.folder / "held" / run_id).exists())
    slurm("pkill", "-KILL", "-f", f"submitit.core._submit {latest_jobs_folder(study, run_id)}")
    wait_until(lambda: rows_of(study)[run_id]["state"] == "failed")
    assert "ended without a result (Slurm's state: FAILED)" in rows_of(study)[run_id]["note"]
    (study.folder / "hold").unlink()
    assert submit(study, cluster="slurm", stages=["train"], retry_failed=True).sent == 1
    wait_until(lambda: states(study) == {"done": 8})
    stated = read_json(study.paths.run(run_id).privacy)
    assert stated["epsilon"] <= 8.0
    assert stated["num_steps"] == read_json(study.paths.run(run_id).config)["num_steps"]


def latest_jobs_folder(study: Study, run_id: str) -> Path:
    """Where the newest job of a training has its files."""
    return next(job.log.parent for task, (_, job) in latest_jobs(study).items() if task.key == run_id)


@pytest.mark.long
@pytest.mark.parametrize(
    ("nodes", "gpus", "killed"),
    [(1, 2, False), (2, 1, False), (1, 2, True), (2, 1, True)],
    ids=["one node", "two nodes", "one node, one is killed", "two nodes, one is killed"],
)
def test_two_processes_train_one_model_and_come_back_together(
    make_study: MakeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nodes: int, gpus: int, killed: bool
) -> None:
    """Stopped in good order, or after one was killed. The fake GPUs make two processes of it, the device is the CPU."""
    import torch

    from dpdt.training.train import pretrain

    root = Path(dpdt.__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(REAL_TRAINING), str(root)]))
    study = make_study(
        ("target_epsilons = [8.0, inf]", "target_epsilons = [8.0]"),
        ("reserve_steps = 4\n", f"reserve_steps = 4\n{CLUSTER}nodes_per_task = {nodes}\ngpus_per_task = {gpus}\n"),
    )
    pretrain(study)
    calm = tmp_path.parent / f"{tmp_path.name}-calm"
    shutil.copytree(tmp_path, calm)
    run_id = study.run_id(study.cells()[0])
    (study.folder / "held").mkdir()
    (study.folder / "hold").touch()
    submit(study, cluster="slurm", stages=["train"])
    wait_until(lambda: any((study.folder / "held").iterdir()))
    job = rows_of(study)[run_id]["job"]
    assert slurm("squeue", "--noheader", f"--job={job}", "--format=%D").split() == [str(nodes)]
    if killed:
        pattern = f"submitit.core._submit {latest_jobs_folder(study, run_id)}"
        ranks = [process for process in psutil.process_iter() if rank_of(process, pattern) == "1"]
        assert len(ranks) == 1
        ranks[0].kill()
    else:
        slurm("scancel", "--signal=USR2", job)
    (study.folder / "hold").unlink()
    requeued(study, {run_id})
    wait_until(lambda: rows_of(study)[run_id]["state"] not in ("waiting", "running"))
    row = rows_of(study)[run_id]
    assert (row["state"], row["attempt"]) == ("done", 2), row["note"]

    other = undisturbed(study, calm, {run_id})
    one, two = study.paths.run(run_id), other.paths.run(run_id)
    if killed:  # steps are taken again, with other noise, and paid for again
        assert statement(one)["epsilon"] <= 8.0
        return
    weights, wanted = (torch.load(paths.weights, weights_only=True) for paths in (one, two))
    for name in wanted:
        torch.testing.assert_close(weights[name], wanted[name], rtol=1e-4, atol=1e-5)
    assert statement(one) == statement(two)


def rank_of(process: psutil.Process, pattern: str) -> str | None:
    """The rank of a process of a job; None if it is not one."""
    try:
        ours = pattern in " ".join(process.cmdline()) and "python" in process.name()
        return process.environ().get("SLURM_PROCID") if ours else None
    except psutil.Error:
        return None


def behave(study: Study, **told: object) -> None:
    """Tell the stand-ins what shall happen from now on."""
    (study.folder / "behave.json").write_text(json.dumps(told))


def test_more_requeues_than_three_and_at_last_a_state_to_go_on_from(make_fake_study: MakeStudy) -> None:
    """With SIGTERM alone, as where a site sends nothing else, and with the warning; limits below ten minutes.

    SL-01, SL-02, SL-08.
    """
    study = make_fake_study(
        '[cluster]\npartition = "low"\nmem_gb = 0.5\ntimeout_min = 5\ncpus_per_task = 1\nmax_attempts = 5\n', seconds=90
    )
    submit(study, cluster="slurm", stages=["cohort"])
    warned = {"cohort-a": "TERM", "cohort-b": "USR2"}
    rows: dict[str, dict[str, Any]] = {}

    def look() -> dict[str, dict[str, Any]]:
        rows.update({row["name"]: row for row in study_status(study)})
        return rows

    def all_are(attempt: int, state: str) -> bool:
        look()
        return all((rows[name]["attempt"], rows[name]["state"]) == (attempt, state) for name in warned)

    for attempt in range(1, 6):
        wait_until(partial(all_are, attempt, "running"))
        for name, signal in warned.items():
            slurm("scancel", f"--signal={signal}", rows[name]["job"])
        wait_until(partial(all_are, attempt, "waiting" if attempt < 5 else "stopped"))
        for name in warned if attempt < 5 else ():
            slurm("scontrol", "update", f"jobid={rows[name]['job']}", "StartTime=now+2")
    assert "stopped in attempt 5, and cluster.max_attempts allows 5" in rows["cohort-a"]["note"]
    assert rows["cohort-public"]["attempt"] == 1  # only the tasks that were warned were requeued
    assert rows["cohort-public"]["state"] == "running"
    log = Path(rows["cohort-b"]["log"]).read_text()
    assert log.count("stops: preempted") == 5  # and never for a time-out
    assert [f"attempt {n} on " in log for n in range(1, 6)] == [True] * 5

    behave(study)
    summary = submit(study, cluster="slurm", stages=["cohort"], retry_failed=True, wait=True)
    assert (summary.sent, summary.finished) == (2, 2)
    slurm("scancel", rows["cohort-public"]["job"])
    wait_until(lambda: look()["cohort-public"]["state"] == "stopped")
    assert rows["cohort-public"]["note"].startswith("ended without a result (Slurm's state: CANCELLED)")
