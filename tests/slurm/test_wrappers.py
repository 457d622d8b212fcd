"""A real Slurm behind what sites put in front of it: wrappers of sbatch and squeue that say more, less or no."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from dpdt.errors import ClusterError
from dpdt.jobs.status import study_status
from dpdt.jobs.submissions import latest_jobs
from dpdt.jobs.submit import submit
from dpdt.study import Study
from tests.slurm.test_slurm import CLUSTER, settled, started, states
from tests.waiting import wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("cluster")]

MakeStudy = Callable[..., Study]
COHORTS = ["cohort-a", "cohort-b", "cohort-public"]
TIMED_OUT = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
NO_MEM = """if grep -q '^#SBATCH --mem=' "${@: -1}"; then
  echo 'sbatch: error: Memory goes with the cores here: leave --mem out' >&2
  echo 'sbatch: error: Batch job submission failed: Unspecified error' >&2
  exit 1
fi
exec $real "$@\""""

NO_GPUS_PER_NODE = """if grep -q '^#SBATCH --gpus-per-node' "${@: -1}"; then
  echo 'sbatch: error: Ask for GPUs with --gres' >&2
  exit 1
fi
exec $real "$@\""""


@pytest.fixture
def wrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Put a script in front of a program of Slurm, which it knows as $real."""
    folder = tmp_path / "wrappers"
    folder.mkdir()
    search = os.environ["PATH"]
    monkeypatch.setenv("PATH", f"{folder}:{search}")
    monkeypatch.setattr("dpdt.jobs.slurm.sbatch.PAUSE_SECONDS", 0.5)

    def write(name: str, text: str) -> None:
        real = shutil.which(name, path=search)
        (folder / name).write_text(f"#!/bin/bash\nreal={real} here={folder}\n{text}\n")
        (folder / name).chmod(0o755)

    return write


def queued_ids() -> set[str]:
    """What Slurm itself has, whoever sent it."""
    shown = subprocess.run(["squeue", "--noheader", "--array", "--format=%i"], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    return set(shown.stdout.split())


@pytest.mark.parametrize(
    ("sbatch", "squeue"),
    [
        pytest.param("echo 'Welcome. This is job 3 of 50.'; exec $real \"$@\"", "", id="banner"),
        pytest.param('id=$($real "$@") && echo "Submitted batch job $id on cluster alpha"', "", id="on-cluster"),
        pytest.param(f"$real \"$@\" > /dev/null; echo '{TIMED_OUT}' >&2; exit 1", "", id="timed-out-though-queued"),
        pytest.param(
            f"$real \"$@\" > /dev/null; echo '{TIMED_OUT}' >&2; exit 1",
            # the first question about the tag is not answered
            '[[ "$*" == *%k* ]] && mkdir $here/asked 2> /dev/null && exit 1; exec $real "$@"',
            id="squeue-too",
        ),
        pytest.param(
            f"mkdir $here/tried 2> /dev/null && {{ echo '{TIMED_OUT}' >&2; exit 1; }}; exec $real \"$@\"",
            "",
            id="timed-out-and-not-queued",
        ),
    ],
)
def test_the_jobs_that_slurm_has_are_those_that_dpdt_knows(
    make_fake_study: MakeStudy, wrap: Callable[[str, str], None], sbatch: str, squeue: str
) -> None:
    study = make_fake_study(CLUSTER, seconds=2.0)
    wrap("sbatch", sbatch)
    if squeue:
        wrap("squeue", squeue)
    before = queued_ids()  # those of the test before may still be completing
    assert submit(study, cluster="slurm", stages=["cohort"]).sent == 3
    assert queued_ids() - before == {job.job_id for _, job in latest_jobs(study).values()}
    assert submit(study, cluster="slurm", stages=["cohort"]).sent == 0
    wait_until(lambda: settled(study))
    assert sorted(started(study)) == COHORTS
    assert [states(study)[name] for name in COHORTS] == ["done"] * 3, study_status(study)


def test_a_site_that_refuses_mem_is_told_in_its_own_words_and_an_extra_line_helps(
    make_fake_study: MakeStudy, wrap: Callable[[str, str], None]
) -> None:
    wrap("sbatch", NO_MEM)
    with pytest.raises(
        ClusterError,
        match=r"^Slurm refused a job: Memory goes with the cores here: leave --mem out; Batch job submission failed: "
        r"Unspecified error\. Nothing of this submission is left in the queue\.",
    ):
        submit(make_fake_study(CLUSTER, seconds=60), cluster="slurm", stages=["cohort"])
    wait_until(lambda: queued_ids() == set())  # those of the test before may still be completing
    study = make_fake_study(CLUSTER + "extra = { mem = false, mem-per-cpu = '250M' }\n")
    assert submit(study, cluster="slurm", stages=["cohort"]).sent == 3
    wait_until(lambda: settled(study))
    assert sorted(started(study)) == COHORTS


def test_a_site_that_wants_gres_for_gpus_gets_it_from_an_extra_line(
    make_fake_study: MakeStudy, wrap: Callable[[str, str], None]
) -> None:
    wrap("sbatch", NO_GPUS_PER_NODE)
    stages = ["cohort", "shards", "pretrain"]
    with pytest.raises(ClusterError, match=r"^Slurm refused a job: Ask for GPUs with --gres\. Nothing of this"):
        submit(make_fake_study(CLUSTER, seconds=60), cluster="slurm", stages=stages)
    wait_until(lambda: queued_ids() == set())
    study = make_fake_study(CLUSTER + "extra = { gpus-per-node = false, gres = 'gpu:1' }\n")
    sent = submit(study, cluster="slurm", stages=stages).sent
    wait_until(lambda: settled(study))
    assert len(started(study)) == sent


def test_an_error_of_several_lines_in_the_middle_takes_back_what_was_sent(
    make_fake_study: MakeStudy, wrap: Callable[[str, str], None]
) -> None:
    lines = ("Project x1 has no hours left", "Ask help@site", "Batch job submission failed: Invalid account")
    told = "".join(f"sbatch: error: {line}\\n" for line in lines)
    wrap("sbatch", f"mkdir $here/first 2> /dev/null && exec $real \"$@\"; printf '{told}' >&2; exit 1")
    study = make_fake_study(CLUSTER, seconds=60)
    with pytest.raises(ClusterError, match=rf"^Slurm refused a job: {'; '.join(lines)}\. Nothing of this submission"):
        submit(study, cluster="slurm", stages=["cohort", "shards"])
    wait_until(lambda: queued_ids() == set())
    assert latest_jobs(study) == {}
