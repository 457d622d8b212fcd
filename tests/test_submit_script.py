"""How a task's python is started: in an image, and of the right version; and how its exit code is passed on."""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dpdt.errors import ClusterError, StudyError
from dpdt.jobs.resources import resources
from dpdt.jobs.slurm.requeue import teardown
from dpdt.jobs.submit import submit
from dpdt.study import Study, load_study
from tests.fake_slurm import FakeSlurm

MakeStudy = Callable[..., Study]


def make_program(folder: Path, name: str, text: str) -> None:
    """A program on the path."""
    (folder / name).write_text(f"#!/bin/bash\n{text}\n")
    (folder / name).chmod(0o755)


def with_profile(make_fake_study: MakeStudy, text: str) -> Study:
    """A study with a cluster profile of its own."""
    study = make_fake_study('[cluster]\nprofile = "./site.toml"\n')
    (study.folder / "site.toml").write_text(text)
    return study


def test_an_image_is_started_on_the_node_with_options_before_it_and_what_a_task_must_know(
    make_fake_study: MakeStudy, fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    # CT-01, CT-03
    seen = fake_slurm.folder / "seen"
    make_program(
        fake_slurm.folder,
        "apptainer",
        f'printf "%s\\n" "$@" > {seen}; env >> {seen}; shift $(($# - 2)); exec {sys.executable} "$@"',
    )
    study = with_profile(make_fake_study, "image = \"/shared/it's.sif\"\nbinds = ['/data:/data:ro']\n")
    submit(study, cluster="slurm", stages=["train"])  # the versions in the image were asked for, and are right
    script = fake_slurm.script(1)
    (starter,) = study.paths.jobs.glob("2*/python.sh")
    assert f"sh {shlex.quote(str(starter))} -u -m submitit.core._submit" in script
    assert "srun " in script.split("apptainer")[0]  # sbatch, srun and scontrol stay on the host

    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    subprocess.run(["sh", str(starter), "-c", "pass"], check=True)
    lines = seen.read_text().splitlines()
    binds = ["--bind", "/data:/data:ro", "--bind", str(study.folder)]  # the study's folder needs no mention
    options = ["exec", "--nv", "--cleanenv", *binds, "/shared/it's.sif", "python"]
    assert lines[: len(options)] == options
    assert {"APPTAINERENV_SLURM_JOB_ID=7", "APPTAINERENV_SUBMITIT_EXECUTOR=slurm"} <= set(lines)


def test_an_image_shows_the_studys_data_and_the_nodes_own_disk(
    make_fake_study: MakeStudy, fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = fake_slurm.folder / "seen"
    make_program(
        fake_slurm.folder, "apptainer", f'printf "%s\\n" "$@" > {seen}; shift $(($# - 2)); exec {sys.executable} "$@"'
    )
    data, node, small = tmp_path / "data of b", tmp_path / "node disk", tmp_path / "small images"
    for folder in (data, node, small):
        folder.mkdir()
    study = make_fake_study('[cluster]\nprofile = "./site.toml"\n')
    study.file.write_text(study.file.read_text().replace('raw/b"', f'{data}"\nimage_folders = ["{small}"]'))
    (study.folder / "site.toml").write_text('image = "x.sif"\nscratch = "$SLURM_TMPDIR"\n')
    submit(load_study(study.file), cluster="slurm", stages=["cohort"])
    (starter,) = study.paths.jobs.glob("2*/python.sh")
    binds = ["--bind", str(data), "--bind", str(small), "--bind", str(study.folder)]
    for variable, disk in ((str(node), ["--bind", str(node)]), ("/nowhere", [])):
        monkeypatch.setenv("SLURM_TMPDIR", variable)
        subprocess.run(["sh", str(starter), "-c", "pass"], check=True)
        assert seen.read_text().splitlines()[3:-2] == [*binds, *disk, "x.sif", "python"]


def test_a_python_of_another_version_is_refused_before_anything_is_queued(
    make_fake_study: MakeStudy, fake_slurm: FakeSlurm
) -> None:
    make_program(fake_slurm.folder, "old-python", "echo dpdt-python 3.9 0.0.1 1.5.3")
    study = with_profile(make_fake_study, 'python = "old-python"\n')
    with pytest.raises(ClusterError, match=r"= 3\.9 0\.0\.1 1\.5\.3, this one 3\.\d+ .*Install the same version"):
        submit(study, cluster="slurm", stages=["train"])
    assert fake_slurm.count == 0
    assert list(study.paths.jobs.iterdir()) == []


def test_a_python_that_only_nodes_have_is_a_warning(
    make_fake_study: MakeStudy, fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    submit(with_profile(make_fake_study, 'python = "python-of-nodes"\n'), cluster="slurm", stages=["cohort"])
    assert "warning: the tasks' python cannot be tried here (python-of-nodes: " in capsys.readouterr().err
    assert fake_slurm.count == 1


def test_a_profile_names_one_python_and_leaves_the_slices_to_the_study(make_fake_study: MakeStudy) -> None:
    with pytest.raises(StudyError, match="python and image: only one of them"):
        resources(with_profile(make_fake_study, 'python = "a"\nimage = "b.sif"\n'))
    with pytest.raises(StudyError, match=r"shard_tasks: belongs in \[cluster\] of the study file"):
        resources(with_profile(make_fake_study, "shard_tasks = 3\n"))


def test_the_kind_of_gpu_is_asked_for(make_fake_study: MakeStudy, fake_slurm: FakeSlurm) -> None:
    submit(make_fake_study("[cluster]\ngpus_per_task = 2\ngpu_type = 'a100'\n"), cluster="slurm", stages=["train"])
    assert fake_slurm.options(1)["gpus-per-node"] == "a100:2"


DONE, STOPPED = (f'{{"attempt": 2, "ended": "{how}", "step": 4}}' for how in ("done", "stopped"))


@pytest.mark.parametrize(
    ("code", "state", "noted", "ended", "asked"),
    [
        (75, "RUNNING", "", 75, True),
        (143, "RUNNING", "", 143, True),
        (75, "COMPLETING", "", 75, False),  # cancelled, or an operator's requeue: Slurm has decided
        (1, "RUNNING", "", 1, False),
        (137, "RUNNING", "", 137, False),  # killed, out of memory perhaps
        (0, "RUNNING", "", 0, False),
        (134, "RUNNING", DONE, 0, False),  # a library ended the process with an abort after the last file
        (134, "RUNNING", STOPPED, 75, True),
        (134, "COMPLETING", STOPPED, 75, False),
        (134, "RUNNING", DONE.replace("2", "1"), 134, False),  # that was the attempt before
        (134, "RUNNING", STOPPED.replace("2", "12"), 134, False),
    ],
)
def test_the_host_requeues_the_one_task_of_the_array_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, state: str, noted: str, ended: int, asked: bool
) -> None:
    # SL-01, and CT-01: python needs no scontrol, the host requeues.
    assert end_of_job(tmp_path, monkeypatch, code, state, noted=noted) == (ended, "requeue 9_3" if asked else "")


@pytest.mark.parametrize(
    ("code", "noted", "result", "ended"),
    [
        (137, "", False, 75),  # one was killed
        (1, "", False, 75),  # and the others say that they cannot go on
        (1, "", True, 1),  # one failed, and says why
        (75, "", True, 1),  # and srun stopped the others
        (134, STOPPED, False, 75),
        (134, DONE, True, 0),
        (0, "", False, 0),
    ],
)
def test_of_several_processes_one_that_was_killed_lets_the_job_come_back_and_one_that_failed_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, noted: str, result: bool, ended: int
) -> None:
    found = end_of_job(tmp_path, monkeypatch, code, "RUNNING", noted=noted, result=result, num_tasks=2)
    assert found == (ended, "requeue 9_3" if ended == 75 else "")


def test_a_job_that_was_killed_before_it_began_ends_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert end_of_job(tmp_path, monkeypatch, 137, "RUNNING", noted=None) == (137, "")
    assert capfd.readouterr() == ("", "")


def end_of_job(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    state: str,
    *,
    noted: str | None,
    result: bool = False,
    num_tasks: int = 1,
) -> tuple[int, str]:
    """The batch script's code and what it asks Slurm for, in attempt 2 of task 3 of array 9, after python's `code`.

    `noted` is the last line of the attempts; None where no attempt has begun.
    """
    make_program(folder, "squeue", f"echo {state}")
    make_program(folder, "scontrol", f'echo "$*" >> {folder}/asked')
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    jobs = folder / "jobs of ours"
    jobs.mkdir()
    if noted is not None:
        (jobs / "9_3_attempts.jsonl").write_text(f'{{"attempt": 2, "host": "n"}}\n{noted}\n')
    if result:
        (jobs / "9_3_0_result.pkl").touch()
    values = {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "9"}  # the last task of an array has the array's own id
    values |= {"SLURM_ARRAY_TASK_ID": "3", "SLURM_RESTART_COUNT": "1", "SLURM_NTASKS": str(num_tasks)}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    done = subprocess.run(["bash", "-c", "\n".join([f"(exit {code})", *teardown(jobs)])])
    file = folder / "asked"
    return done.returncode, file.read_text().strip() if file.exists() else ""


def test_a_verbose_dry_run_shows_the_scripts_that_are_sent_and_writes_nothing(
    make_fake_study: MakeStudy,
    fake_slurm: FakeSlurm,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = "partition = 'gpu'\nsetup = ['module load python']\nimage = 'it.sif'\narray_parallelism = 2\n"
    study = with_profile(make_fake_study, text)
    make_program(fake_slurm.folder, "apptainer", f'shift $(($# - 2)); exec {sys.executable} "$@"')
    submit(study, cluster="slurm", stages=["cohort"])
    fake_slurm.queue(*(f"1_{number}|RUNNING|None|node1" for number in range(3)))
    (first,) = study.paths.jobs.iterdir()
    before = sorted(study.folder.rglob("*"))
    monkeypatch.setenv("DPDT_VERBOSE", "1")
    submit(study, cluster="slurm", dry_run=True)
    shown = capsys.readouterr().out.split("\n\n#!")[1:]
    assert sorted(study.folder.rglob("*")) == before
    submit(study, cluster="slurm")
    (folder,) = set(study.paths.jobs.iterdir()) - {first}
    sent = [fake_slurm.script(number) for number in range(2, fake_slurm.count + 1)]
    # an id is known when Slurm has the job: JOB1 was its second here
    asked = [re.sub(r"JOB(\d+)", lambda job: str(int(job[1]) + 1), f"#!{script}") for script in shown]
    assert "".join(asked) == "".join(sent).replace(folder.name, "TIME") + "\n"
    found = [" ".join(re.findall(r"^#SBATCH --(?:array|dependency)=(.*)$", one, re.MULTILINE)) for one in asked]
    # two tasks at once: of the shards, which wait for cohorts in the queue, the third also waits for the first; of each
    # of the two arrays of trainings one runs
    shards = ["afterok:1_0", "afterok:1_1", "afterany:2,afterok:1_2"]
    assert found[:6] == [*shards, "afterok:4", "0-1%1 afterok:5:2", "0-1%1 afterok:5:3"]
