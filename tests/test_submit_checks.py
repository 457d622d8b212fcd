"""What `dpdt doctor --cluster` finds, with programs that stand for Slurm's."""

import errno
import fcntl
import json
import os
import re
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dpdt.cli import main
from dpdt.errors import StudyError
from dpdt.jobs.doctor.cluster import check_cluster
from dpdt.jobs.doctor.machine import check_machine
from dpdt.jobs.submit import submit
from dpdt.study import Study
from tests.fake_slurm import FakeSlurm

MakeStudy = Callable[..., Study]
SINFO = "gpu|up|1:00:00|32|128000+|gpu:a100:4(S:0-1)|8|a100,ib|gpu\\nlow|up|infinite|4|4000|(null)|2|(null)|low*"


@pytest.fixture
def site(fake_slurm: FakeSlurm) -> FakeSlurm:
    """A site with a partition of GPUs and a default one without."""
    programs = {
        "sinfo": f"printf '{SINFO}\\n'",
        "sbatch": "echo 'sbatch: Job 7 to start now' >&2",
        "scontrol": """case "$1" in
            ping) echo 'Slurmctld(primary) at head is UP' ;;
            *) printf '%s\\n' "MaxJobCount = ${FAKE_SLURM_MAX_JOBS:-10000}" \\
                'PluginDir = ' 'PreemptMode = REQUEUE' 'JobRequeue = 1' 'KillWait = 30 sec' ;;
        esac""",
    }
    for name, text in programs.items():
        fake_slurm.program(name, text)
    return fake_slurm


def found(study: Study, *, probe: bool = False) -> dict[str, tuple[str, str]]:
    """State and text of each check."""
    return {check.name: (check.state, check.found) for check in check_cluster(study, probe=probe)}


def test_a_site_that_has_all_that_is_asked_for_is_good(make_fake_study: MakeStudy, site: FakeSlurm) -> None:
    checks = found(
        make_fake_study(
            "[cluster]\npartition='low,gpu'\ngpu_type='a100'\ngpus_per_task=4\ntimeout_min=60\nconstraint='ib'\n"
        )
    )
    assert {state for state, _ in checks.values()} <= {"good", "note"}
    assert "REQUEUE, jobs hear of it by SIGTERM" in checks["preemption"][1]
    assert "no sacct here" in checks["accounting"][1]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ("partition = 'gpus'", r"no partition gpus. There are: gpu, low."),
        ("partition = 'low,gpus'", r"no partition gpus. There are: gpu, low."),
        ("partition = 'gpu'\ntimeout_min = 90", "timeout_min = 90 is above the time limit"),
        ("partition = 'gpu'\ngpus_per_task = 5", "no node has gpus_per_task = 5 GPUs"),
        ("partition = 'gpu'\ngpus_per_task = 1\ngpu_type = 'h100'", "1 GPUs of gpu_type = h100"),
        ("partition = 'gpu'\nconstraint = 'v100'", "no node has the feature 'v100'; there are: a100, ib"),
        ("cpus_per_task = 8", "no node has cpus_per_task = 8 CPUs"),
        ("mem_gb = 5", "no node has mem_gb = 5"),
    ],
)
def test_what_no_node_has_is_named(make_fake_study: MakeStudy, site: FakeSlurm, settings: str, text: str) -> None:
    base = "timeout_min = 60\n" if "timeout_min" not in settings else ""
    state, shown = found(make_fake_study(f"[cluster]\n{base}{settings}\n"))["partition"]
    assert state == "bad"
    assert text in shown


def test_what_extra_asks_for_in_place_of_dpdts_own_is_sbatchs_to_judge(
    make_fake_study: MakeStudy, site: FakeSlurm
) -> None:
    asked = "timeout_min = 90\nmem_gb = 5\ncpus_per_task = 8\ngpus_per_task = 5\nconstraint = 'v100'\n"
    extra = "partition = 'gpu', time = 30, mem = false, cpus-per-task = 2, gpus-per-node = 1, constraint = 'ib|a100'"
    state, shown = found(make_fake_study(f"[cluster]\n{asked}extra = {{ {extra} }}\n"))["partition"]
    assert (state, shown.partition(":")[0]) == ("good", "gpu")
    state, shown = found(make_fake_study("[cluster]\ntimeout_min = 60\nextra = { partition = 'gpus' }\n"))["partition"]
    assert (state, shown) == ("bad", "no partition gpus. There are: gpu, low.")


def test_slurms_own_objection_is_shown(make_fake_study: MakeStudy, site: FakeSlurm) -> None:
    (site.folder / "sbatch").write_text(
        "#!/bin/bash\necho 'allocation failure: Invalid qos specification' >&2; exit 1\n"
    )
    assert found(make_fake_study())["sbatch train"] == ("bad", "allocation failure: Invalid qos specification")


def test_a_missing_program_is_named_without_a_traceback(
    make_fake_study: MakeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # CT-01
    study = make_fake_study()
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}")
    with pytest.raises(SystemExit) as stop:
        main(["doctor", str(study.file), "--cluster"])
    assert stop.value.code == 1
    assert "not found: sbatch, srun, squeue, scontrol, scancel." in capsys.readouterr().out


def test_an_image_that_is_not_there_is_bad(make_fake_study: MakeStudy, site: FakeSlurm, tmp_path: Path) -> None:
    study = make_fake_study('[cluster]\nprofile = "./site.toml"\n')
    (study.folder / "site.toml").write_text('image = "/nowhere/dpdt.sif"\n')
    (site.folder / "apptainer").write_text("#!/bin/bash\nexit 255\n")
    (site.folder / "apptainer").chmod(0o755)
    assert found(study)["container"][0] == "bad"


def test_more_tasks_than_slurm_or_the_account_takes_are_bad(
    make_fake_study: MakeStudy, site: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_fake_study()  # 18 tasks
    assert found(study)["arrays"][0] == "good"
    site.program("sacctmgr", "printf '\\n16\\n20\\n'")  # an association without a limit, and two with one
    assert found(study)["arrays"] == (
        "bad",
        "18 tasks, MaxArraySize 1001; larger arrays are cut, all parts keep to one throttle; MaxSubmitJobs = 16 is "
        "less: send some stages first (--stages)",
    )
    site.program("sacctmgr", "exit 1")
    monkeypatch.setenv("FAKE_SLURM_MAX_JOBS", "10")
    assert "; MaxJobCount = 10 is less" in found(study)["arrays"][1]


def on_a_node(site: FakeSlurm, before: str = "") -> Path:
    """Let srun run its program here; what it was given is kept in the file that is returned."""
    asked = site.folder / "srun.asked"
    skip = 'while [ "${1#--}" != "$1" ]; do shift; done'
    site.program("srun", f'printf "%s\\n" "$@" >> {asked}; export SLURMD_NODENAME=node7; {skip}; {before} exec "$@"')
    return asked


def test_a_probe_asks_a_node_as_the_stages_will(make_fake_study: MakeStudy, site: FakeSlurm) -> None:
    asked = on_a_node(site)
    study = make_fake_study(
        "[cluster]\npartition='gpu'\naccount='lung'\ngpus_per_task=2\ngpu_type='a100'\nscratch='/nowhere'\ntimeout_min=60\n"
        '[train]\ndevice = "cpu"\n'
    )
    checks = found(study, probe=True)
    python = f"Python {sys.version_info[0]}.{sys.version_info[1]}, dpdt "
    for name in ("a node for cohort", "a node for train"):
        state, text = checks[name]
        assert (state, text.startswith(f"node7: {python}")) == ("note", True), text
        assert text.endswith(
            "sees the study and its data, may write, locks hold between it and this machine; "
            "no folder /nowhere, so shards are read where they are"
        )
    options = asked.read_text().splitlines()
    assert {"--partition=gpu", "--account=lung", "--gpus-per-node=a100:2"} <= set(options)
    assert options.count("--gpus-per-node=a100:2") == 1  # the cohort needs none


def test_a_probe_asks_with_the_sites_own_lines_that_srun_knows(make_fake_study: MakeStudy, site: FakeSlurm) -> None:
    asked = on_a_node(site)
    lines = (
        "reservation = 'lung', mem = false, mem_per_cpu = '4G', exclusive = true, requeue = false, mail-type = 'END'"
    )
    study = make_fake_study(f"[cluster]\nprofile = './site.toml'\nextra = {{ {lines} }}\n[train]\ndevice = 'cpu'\n")
    (study.file.parent / "site.toml").write_text(
        "gpus_per_task = 2\n[stages.train.extra]\ngpus-per-node = false\ngres = 'gpu:a100:2'\n"
    )
    assert found(study, probe=True)["a node for train"][0] == "good"
    cohort, train = (set(call.split("\nbash\n")[0].split("\n")) for call in asked.read_text().split("dpdt-there")[:2])
    assert {"--reservation=lung", "--mem-per-cpu=4G", "--exclusive"} <= cohort & train
    assert "--gres=gpu:a100:2" in train - cohort
    assert not [word for word in cohort | train if re.match("--(mem=|gpus|requeue|mail)", word)]


def test_a_probe_tries_a_lock_that_this_machine_holds_from_the_node(
    make_fake_study: MakeStudy, site: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_node(site)
    study = make_fake_study()
    assert found(study, probe=True)["a node for cohort"][0] == "good"
    with monkeypatch.context() as patch:  # locks that are a node's own: the node does not see this one
        patch.setattr(fcntl, "flock", lambda *_: None)
        state, text = found(study, probe=True)["a node for cohort"]
    assert state == "bad"
    assert "a lock that this machine holds in" in text
    assert "not -o localflock" in text
    monkeypatch.setattr(socket, "gethostname", lambda: "node7.cluster")
    assert found(study, probe=True)["a node for cohort"][1].endswith("locks hold (it is this machine)")
    assert not list(study.folder.glob(".dpdt-probe-*"))


def test_a_probe_says_what_a_node_does_not_have(make_fake_study: MakeStudy, site: FakeSlurm, tmp_path: Path) -> None:
    on_a_node(site)
    study = make_fake_study("[cluster]\npartition='gpu'\ngpus_per_task=1\ntimeout_min=60\n")
    shutil.rmtree(study.root("b"))
    checks = found(study, probe=True)
    state, text = checks["a node for train"]
    assert state == "bad"
    assert f"{study.root('b')} is not there, or cannot be read; put it on a shared folder" in text
    assert str(study.root("a")) not in text
    assert text.endswith("torch sees 0 of 1 GPUs")

    study = make_fake_study('[cluster]\nprofile = "./site.toml"\n')
    (study.folder / "site.toml").write_text('python = "env false"\n')
    assert found(study, probe=True)["a node for cohort"] == (
        "bad",
        "the tasks' python does not start there: exit code 1",
    )
    answer = {
        "node": "n",
        "python": "3.9",
        "dpdt": "0.0.1",
        "submitit": "1.5.3",
        "missing": [],
        "writable": True,
        "scratch": True,
    }
    site.program("old-python", f"echo 'dpdt-probe {json.dumps(answer)}'")
    (study.folder / "site.toml").write_text('python = "old-python"\n')
    assert "(Python, dpdt, submitit) are 3.9 0.0.1 1.5.3 there and " in found(study, probe=True)["a node for cohort"][1]


def test_a_probe_that_gets_no_node_soon_says_nothing_about_nodes(make_fake_study: MakeStudy, site: FakeSlurm) -> None:
    site.program("srun", "echo 'srun: error: Unable to allocate resources: Immediate/exclusive request' >&2; exit 1")
    state, text = found(make_fake_study(), probe=True)["a node for cohort"]
    assert (state, text) == (
        "note",
        "no answer: srun: error: Unable to allocate resources: Immediate/exclusive request",
    )


# ---- raw data ----


def test_raw_data_that_is_not_there_is_told_before_anything_is_sent(
    make_fake_study: MakeStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    study = make_fake_study()
    shutil.rmtree(study.root("a"))
    (study.root("b") / "UKA_master_list.csv").unlink()
    lost = [f"a: {study.root('a')}: no such folder. Set `root`", f"b: {study.root('b')}: no UKA_master_list.csv"]
    with pytest.raises(StudyError, match=r"^nothing was sent, raw data is not there\. ") as refused:
        submit(study, cluster="local")
    assert all(text in str(refused.value) for text in lost)
    assert not study.paths.jobs.exists()
    submit(study, cluster="local", dry_run=True)
    warned = capsys.readouterr().err
    assert all(f"warning: {text}" in warned for text in lost)
    assert "public" not in warned
    checks = {check.name: check for check in check_machine(study) if check.name.startswith("data ")}
    assert {name: check.state for name, check in checks.items()} == {
        "data a": "bad",
        "data b": "bad",
        "data public": "good",
    }
    assert checks["data b"].found.startswith(f"{study.root('b')}: no UKA_master_list.csv")
    submit(study, cluster="debug", stages=["train"], dry_run=True)
    assert "no such folder" not in capsys.readouterr().err  # trainings read shards


def test_a_folder_that_may_not_be_read_is_one_finding_with_advice_for_raw_data(
    make_fake_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_fake_study()
    folders, scandir, stat = {name: str(study.root(name)) for name in ("a", "b")}, os.scandir, os.stat

    def refused(path: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    # in place of chmod, which is nothing to root: a folder of mode 0, whose files cannot be looked at, and one that may
    # be searched and not read
    within = folders["a"] + "/"
    monkeypatch.setattr(
        os, "stat", lambda path, **kw: refused(path) if str(path).startswith(within) else stat(path, **kw)
    )
    monkeypatch.setattr(os, "scandir", lambda path: refused(path) if str(path) == folders["b"] else scandir(path))
    checks = {check.name: check for check in check_machine(study)}
    assert checks["data public"].state == "good"
    for name, folder in folders.items():
        check = checks[f"data {name}"]
        assert (check.state, check.found.startswith(folder)) == ("bad", True)
        assert check.found.endswith(": cannot be read (Permission denied). Correct its permissions for you, or `root`.")
