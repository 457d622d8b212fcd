"""What Slurm is given: scripts and dependencies, kept by programs that stand for sbatch and squeue."""

import dataclasses
import os
import pickle
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from dpdt.base.machine import __version__, code_version
from dpdt.errors import ClusterError
from dpdt.jobs.slurm.call import SlurmCall
from dpdt.jobs.slurm.requeue import REQUEUE_CODE, Limits
from dpdt.jobs.slurm.send import _share
from dpdt.jobs.status import study_status
from dpdt.jobs.submissions import Job, outcome
from dpdt.jobs.submit import submit
from dpdt.jobs.task_call import TaskCall
from dpdt.study import Study
from dpdt.study.tasks import Task
from tests.fake_slurm import FakeSlurm

MakeStudy = Callable[..., Study]


def test_arrays_wait_for_exactly_what_their_tasks_read(make_fake_study: MakeStudy, fake_slurm: FakeSlurm) -> None:
    submit(make_fake_study(), cluster="slurm")
    found = [fake_slurm.options(n) for n in range(1, fake_slurm.count + 1)]
    sent = [(o["job-name"].removeprefix("dpdt-"), o.get("array"), o.get("dependency")) for o in found]
    assert sent == [
        ("cohort", "0-2%3", None),
        ("shards", "0-2%3", "aftercorr:1"),
        ("pretrain", None, "afterok:2_2"),  # the public domain is the third
        ("train", "0-1%2", "afterok:3:2_0"),
        ("train", "0-1%2", "afterok:3:2_1"),
        ("evaluate", "0-1%2", "aftercorr:4,afterok:2_0:2_1"),
        ("evaluate", "0-1%2", "aftercorr:5,afterok:2_0:2_1"),
        ("evaluate", None, "afterok:3:2"),  # the model before them waits for no training
        ("report", None, "afterany:6:7:8"),
        ("track", None, "afterany:9"),
    ]


def test_nothing_waits_for_what_is_done(make_fake_study: MakeStudy, fake_slurm: FakeSlurm) -> None:
    study = make_fake_study()
    submit(study, cluster="debug", stages=["cohort", "shards", "pretrain"])
    submit(study, cluster="slurm", stages=["train"])
    assert fake_slurm.count == 2  # four trainings in one array, which Slurm takes in two parts of three at most
    assert "dependency" not in fake_slurm.options(1)
    assert [fake_slurm.options(n).get("array") for n in (1, 2)] == ["0-2%3", None]


def test_evaluations_without_an_array_of_partners_wait_one_by_one(
    make_fake_study: MakeStudy, fake_slurm: FakeSlurm
) -> None:
    study = make_fake_study()
    submit(study, cluster="debug", stages=["cohort", "shards", "pretrain"])
    submit(study, cluster="slurm", stages=["train", "evaluate"])
    found = [fake_slurm.options(n).get("dependency") for n in range(1, fake_slurm.count + 1)]
    assert found == [None, None, "aftercorr:1", "afterok:2", None]  # the last is the model before the trainings


def test_an_outer_job_does_not_leak_into_new_jobs(
    make_fake_study: MakeStudy, fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    # SL-04
    for name in ("SLURM_ARRAY_JOB_ID", "SLURM_CPU_BIND", "SLURM_MEM_PER_CPU", "SBATCH_PARTITION", "SLURM_CONF"):
        monkeypatch.setenv(name, "outer")
    submit(make_fake_study(), cluster="slurm", stages=["cohort"])
    lines = (fake_slurm.folder / "1.env").read_text().splitlines()
    assert [line for line in lines if line.startswith(("SLURM_", "SBATCH_"))] == ["SLURM_CONF=outer"]
    assert os.environ["SLURM_CPU_BIND"] == "outer"


def test_a_refused_array_takes_back_those_before_it(
    make_fake_study: MakeStudy, fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    # SL-07
    monkeypatch.setenv("FAKE_SLURM_REFUSE", "3")
    study = make_fake_study()
    with pytest.raises(ClusterError, match=r"^Slurm refused a job: invalid partition\. Nothing of this submission is"):
        submit(study, cluster="slurm")
    assert fake_slurm.cancelled == "1 2\n"
    assert list(study.paths.jobs.iterdir()) == []
    assert {row["state"] for row in study_status(study)} == {"to do"}


def test_the_script_that_slurm_gets(make_fake_study: MakeStudy, fake_slurm: FakeSlurm) -> None:
    study = make_fake_study(
        "[cluster]\npartition = 'gpu'\naccount = 'lung'\nconstraint = 'a100'\ngpus_per_task = 1\ncpus_per_task = 4\n"
        "mem_gb = 1.5\nsetup = ['module load cuda']\n"
    )
    submit(study, cluster="slurm", stages=["train"])
    folder = next(study.paths.jobs.glob("2*")) / "train"
    python = f"{sys.executable} -u"
    words = '{\\"attempt\\": $attempt, \\"ended\\": \\"$1\\"'
    assert (
        fake_slurm.script(1)
        == f"""\
#!/bin/bash

# Parameters
#SBATCH --account=lung
#SBATCH --array=0-2%3
#SBATCH --constraint=a100
#SBATCH --cpus-per-task=4
#SBATCH --gpus-per-node=1
#SBATCH --job-name=dpdt-train
#SBATCH --kill-on-invalid-dep=yes
#SBATCH --mem=1536M
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output={folder}/%A_%a_0_log.out
#SBATCH --partition=gpu
#SBATCH --requeue
#SBATCH --signal=USR2@90
#SBATCH --time=240

# setup
export OMP_NUM_THREADS=4
module load cuda
trap : TERM
set +e

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output {folder}/%A_%a_%t_log.out --cpus-per-task=4 {python} -m submitit.core._submit {folder}


# teardown
code=$?
attempt=$((${{SLURM_RESTART_COUNT:-0}} + 1))
job=$SLURM_JOB_ID
[ -z "$SLURM_ARRAY_TASK_ID" ] || job=${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID
folder={folder}
ended() {{ tail -n 1 "$folder/${{job}}_attempts.jsonl" 2> /dev/null | grep -qF "{words}"; }}
if ended done; then code=0
elif ended stopped; then code=75
elif [ $code != 0 ] && [ "${{SLURM_NTASKS:-1}}" -gt 1 ]; then
  if [ -e "$folder/${{job}}_0_result.pkl" ]; then code=1; else code=75; fi
fi
if [ $code = 75 ] || [ $code = 140 ] || [ $code = 143 ]; then
  [ "$(timeout 60 squeue --noheader --job="$job" --format=%T)" = RUNNING ] && timeout 60 scontrol requeue "$job"
fi
exit $code"""
    )


def test_without_slurm_it_says_so(make_fake_study: MakeStudy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match="no Slurm here: not found: sbatch, srun, squeue, scontrol"):
        submit(make_fake_study(), cluster="slurm")


def test_a_call_asks_to_be_started_again_with_the_same_task() -> None:
    call = SlurmCall("study.json", Task("train", "a-1"), 2, limits=Limits(3, 60, 90), scratch=None, gpus=0)
    assert call.checkpoint().function is call


def test_a_task_that_got_fewer_cores_than_it_asked_for_says_so(
    make_fake_study: MakeStudy, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # SL-05; the script above passes --cpus-per-task to srun.
    study = make_fake_study()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    TaskCall(str(study.file), Task("cohort", "a", "cohort a"), num_threads=4)()
    shown = capsys.readouterr()
    assert re.search(r"== cohort a: attempt 1 on \S+ at \d{4}-", shown.out)
    assert "warning: asked for 4 cores, got 1" in shown.err


@pytest.mark.parametrize(
    ("sent_by", "refused"),
    [
        (code_version(), False),
        (("0.0.1", code_version()[1]), True),
        ((__version__, "1" * 64), True),
        ((__version__, None), True),  # of a version that had commits here, and sent from an installed package
    ],
)
def test_a_task_that_another_version_sent_is_refused_before_the_gpu_is_taken(
    make_fake_study: MakeStudy,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    sent_by: tuple[str, str | None],
    refused: bool,
) -> None:
    call = as_slurm_job(monkeypatch, tmp_path / "jobs", 1, make_fake_study())
    call = dataclasses.replace(call, sent_by=sent_by)
    # one GPU is asked for and none is here: the error says how far it came
    expected = r"train a: sent by dpdt .*, but \S+ has dpdt " if refused else r"train a: asked for 1 GPU\(s\)"
    with pytest.raises(ClusterError, match=expected):
        call()


def test_a_task_of_a_version_that_did_not_say_its_own_goes_on(
    make_fake_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = TaskCall(str(make_fake_study().file), Task("cohort", "a", "cohort a"), num_threads=1)
    del call.__dict__["sent_by"]  # as a pickle of before has it
    pickle.loads(pickle.dumps(call)).check_version()


def as_slurm_job(monkeypatch: pytest.MonkeyPatch, folder: Path, gpus: int, study: Study) -> SlurmCall:
    """The call of a training's job, in an environment like that of a job."""
    folder.mkdir(exist_ok=True)
    for name, value in {"SUBMITIT_EXECUTOR": "slurm", "SUBMITIT_FOLDER": str(folder), "SLURM_JOB_ID": "7"}.items():
        monkeypatch.setenv(name, value)
    for name in ("SLURM_NTASKS", "SLURM_JOB_NUM_NODES"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    task = Task("train", study.run_id(study.cells()[0]), "train a")
    return SlurmCall(str(study.file), task, 1, limits=Limits(3, 60, 90), scratch=None, gpus=gpus)


ENDS = """
import atexit, os, signal, sys
from dpdt.errors import LostProcessError
import dpdt.jobs.slurm.requeue
from dpdt.jobs.slurm.call import SlurmCall
from dpdt.jobs.slurm.requeue import REQUEUE_CODE, Limits
from dpdt.study.tasks import Task

class Call(SlurmCall):
    def run(self):
        how = sys.argv[3]
        if how == "stopped":
            os.kill(os.getpid(), signal.SIGUSR2)
        if how == "failed":
            raise ValueError("this rank's own error")
        if how == "lost":
            raise LostProcessError("another one is gone")

dpdt.jobs.slurm.requeue.LOST_SECONDS = 0.0
atexit.register(os.abort)
Call(sys.argv[1], Task("train", sys.argv[2]), 1, limits=Limits(3, 60, 90), scratch=None, gpus=0)()
"""


@pytest.mark.parametrize(
    ("rank", "how", "code", "noted", "result"),
    [
        (0, "stopped", REQUEUE_CODE, '"ended": "stopped"', ""),
        (1, "stopped", REQUEUE_CODE, "", ""),
        (0, "done", -signal.SIGABRT, '"ended": "done"', ""),  # submitit goes on; the script goes by what was noted
        (1, "done", 0, "", ""),
        (0, "lost", 1, '"stopped": "one of its processes was lost"', ""),
        (1, "lost", 1, "", ""),
        (0, "failed", -signal.SIGABRT, '"begun"', ""),  # submitit writes the result
        (1, "failed", -signal.SIGABRT, "", "ValueError: this rank's own error"),
    ],
)
def test_a_process_of_several_ends_with_its_code_whatever_libraries_do_at_the_end(
    make_fake_study: MakeStudy, tmp_path: Path, rank: int, how: str, code: int, noted: str, result: str
) -> None:
    # Gloo's threads ended it with SIGABRT in 4 of 8 stops, and the job was not requeued.
    study, folder = make_fake_study(), tmp_path / "job"
    folder.mkdir()
    job = {
        "SUBMITIT_EXECUTOR": "slurm",
        "SUBMITIT_FOLDER": str(folder),
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NUM_NODES": "1",
    }
    ranks = {
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank),
        "SLURM_NODEID": "0",
    }
    command = [sys.executable, "-c", ENDS, str(study.file), study.run_id(study.cells()[0]), how]
    done = subprocess.run(command, env={**os.environ, **job, **ranks}, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    attempts, kept = folder / "7_attempts.jsonl", folder / "7_0_result.pkl"
    assert noted in (attempts.read_text().splitlines()[-1] if attempts.exists() else "")
    assert attempts.exists() == (rank == 0)
    task = Task("train", "a")
    assert outcome(Job(task, "7", folder / "log", kept, "slurm")) == (result or None)


def test_a_job_that_does_not_see_its_gpu_fails_at_once(
    make_fake_study: MakeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # CT-03: on the CPU it would go on for days.
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    study = make_fake_study()
    with pytest.raises(
        ClusterError, match=r"^train a: asked for 2 GPU\(s\) on a node, but torch .*VISIBLE_DEVICES: 0,1\)"
    ):
        as_slurm_job(monkeypatch, tmp_path / "job", 2, study)()
    assert not study.paths.run(study.run_id(study.cells()[0])).state.exists()

    as_slurm_job(monkeypatch, tmp_path / "job", 0, study)()  # none was asked for
    wanted = make_fake_study('[train]\ndevice = "cpu"\n')
    as_slurm_job(monkeypatch, tmp_path / "job", 2, wanted)()
    assert wanted.paths.run(wanted.run_id(wanted.cells()[0])).state.exists()


def test_a_job_that_left_no_trace_is_a_failure_even_without_accounting(
    make_fake_study: MakeStudy, fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    # SL-06
    monkeypatch.setattr("dpdt.jobs.slurm.wait.POLL_SECONDS", 0.05)
    monkeypatch.setattr("dpdt.jobs.slurm.wait.GONE_SECONDS", 0.1)
    study = make_fake_study()
    with pytest.raises(
        ClusterError, match=r"^cohort a: ended without a result \(Slurm's state: unknown\).*3 tasks failed; 15 not run"
    ):
        submit(study, cluster="slurm", wait=True)
    rows = {row["task"]: row for row in study_status(study)}
    assert rows["cohort a"]["state"] == "failed"
    assert rows["shards a"]["note"] == "not run: cohort a failed"


def test_while_squeue_does_not_answer_nothing_is_sent_and_no_task_is_called_failed(
    make_fake_study: MakeStudy, fake_slurm: FakeSlurm
) -> None:
    study = make_fake_study()
    submit(study, cluster="slurm", stages=["cohort"])
    (fake_slurm.folder / "squeue").write_text("#!/bin/bash\nexit 1\n")
    rows = study_status(study)
    assert (rows[0]["state"], rows[0]["note"]) == ("waiting", "squeue does not answer")
    with pytest.raises(ClusterError, match="squeue does not answer"):
        submit(study, cluster="slurm")


def test_a_limit_is_shared_by_arrays_and_none_gets_nothing() -> None:
    assert _share(7, [30, 30]) == [4, 3]
    assert _share(1, [5, 5, 5]) == [1, 1, 1]
    assert sum(_share(100, [1, 2, 3, 400])) <= 100
    assert all(a >= b for a, b in pairwise(_share(64, [400, 100, 10])))
