"""How a task's python is started: in an image, and of the right version; and how its exit code is passed on."""

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dpdt.errors import ClusterError, StudyError
from dpdt.jobs.resources import resources
from dpdt.jobs.slurm.requeue import TEARDOWN
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
    data, node = tmp_path / "data of b", tmp_path / "node disk"
    data.mkdir()
    node.mkdir()
    study = make_fake_study('[cluster]\nprofile = "./site.toml"\n')
    study.file.write_text(study.file.read_text().replace("raw/b", str(data)))
    (study.folder / "raw" / "a").mkdir(parents=True)  # shown with the study's folder
    (study.folder / "site.toml").write_text('image = "x.sif"\nscratch = "$SLURM_TMPDIR"\n')
    submit(load_study(study.file), cluster="slurm", stages=["cohort"])
    (starter,) = study.paths.jobs.glob("2*/python.sh")
    binds = ["--bind", str(data), "--bind", str(study.folder)]
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


@pytest.mark.parametrize(
    ("code", "state", "asked"),
    [
        (75, "RUNNING", "requeue 9_3"),
        (143, "RUNNING", "requeue 9_3"),
        (75, "COMPLETING", ""),  # cancelled, or an operator's requeue: Slurm has decided
        (1, "RUNNING", ""),
        (137, "RUNNING", ""),  # killed, out of memory perhaps
        (0, "RUNNING", ""),
    ],
)
def test_the_host_requeues_the_one_task_of_the_array_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, state: str, asked: str
) -> None:
    # SL-01, and CT-01: python needs no scontrol, the host requeues.
    make_program(tmp_path, "squeue", f"echo {state}")
    make_program(tmp_path, "scontrol", f'echo "$*" >> {tmp_path}/asked')
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for name, value in (("SLURM_JOB_ID", "9"), ("SLURM_ARRAY_JOB_ID", "9"), ("SLURM_ARRAY_TASK_ID", "3")):
        monkeypatch.setenv(name, value)  # the last task of an array has the array's own id
    done = subprocess.run(["bash", "-c", "\n".join([f"(exit {code})", *TEARDOWN])])
    assert done.returncode == code
    file = tmp_path / "asked"
    assert (file.read_text().strip() if file.exists() else "") == asked
