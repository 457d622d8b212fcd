"""What `dpdt doctor --cluster` finds, with programs that stand for Slurm's."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dpdt.cli import main
from dpdt.study import Study
from dpdt.submit.checks import check_cluster
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
            *) printf '%s\\n' 'PluginDir = ' 'PreemptMode = REQUEUE' 'JobRequeue = 1' 'KillWait = 30 sec' ;;
        esac""",
    }
    for name, text in programs.items():
        (fake_slurm.folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (fake_slurm.folder / name).chmod(0o755)
    return fake_slurm


def found(study: Study) -> dict[str, tuple[str, str]]:
    """State and text of each check."""
    return {check.name: (check.state, check.found) for check in check_cluster(study)}


def test_a_site_that_has_all_that_is_asked_for_is_good(make_fake_study: MakeStudy, site: FakeSlurm) -> None:
    checks = found(
        make_fake_study(
            "[cluster]\npartition='gpu'\ngpu_type='a100'\ngpus_per_task=4\ntimeout_min=60\nconstraint='ib'\n"
        )
    )
    assert {state for state, _ in checks.values()} <= {"good", "note"}
    assert "REQUEUE, jobs hear of it by SIGTERM" in checks["preemption"][1]
    assert "no sacct here" in checks["accounting"][1]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ("partition = 'gpus'", r"no partition gpus. There are: gpu, low."),
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


def test_slurms_own_objection_is_shown(make_fake_study: MakeStudy, site: FakeSlurm) -> None:
    (site.folder / "sbatch").write_text(
        "#!/bin/bash\necho 'allocation failure: Invalid qos specification' >&2; exit 1\n"
    )
    assert found(make_fake_study())["sbatch train"] == ("bad", "allocation failure: Invalid qos specification")


def test_a_missing_program_is_named_without_a_traceback(
    make_fake_study: MakeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
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
