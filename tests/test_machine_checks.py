"""`dpdt doctor`: what it finds here, and what it says on machines that lack something."""

import errno
import json
import shutil
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import pytest

from dpdt.cli import main
from dpdt.jobs.doctor import machine as checkup
from dpdt.jobs.doctor.finding import Check
from dpdt.jobs.doctor.machine import check_machine
from dpdt.study import load_study


def named(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_a_machine_that_runs_the_tests_has_nothing_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = named(check_machine())
    assert list(found) == [
        "Python", "libraries", "C++ core", "processor", "memory", "GPU", "disk", "file locks", "shared memory", "Slurm",
        "MLflow", "containers",
    ]  # fmt: skip
    assert [check for check in found.values() if check.state == "bad"] == []
    assert {check.state for check in found.values()} <= {"good", "note"}
    assert f"{tmp_path}: " in found["disk"].found
    assert "MB/s" in found["disk"].found
    assert "jpeg" in found["C++ core"].found


def test_a_core_that_was_built_of_other_sources_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, csrc = Path(checkup.__file__).parents[3], tmp_path / "csrc"
    (tmp_path / "dpdt").mkdir()
    monkeypatch.setattr("dpdt._core.__file__", str(tmp_path / "dpdt" / "_core.so"))
    monkeypatch.setattr(checkup, "CSRC", csrc)
    assert named(check_machine())["C++ core"].state == "good"  # no checkout
    shutil.copytree(root / "csrc", csrc)
    shutil.copy(root / "CMakeLists.txt", tmp_path)
    assert named(check_machine())["C++ core"].state == "good"  # a build of before, which left no hash
    cmake = Path(sys.executable).with_name("cmake")
    options = ["-DDPDT_PYTHON=OFF", "-DDPDT_CODECS=OFF"]
    subprocess.run([cmake, "-S", tmp_path, "-B", tmp_path / "dpdt", *options], check=True, capture_output=True)
    assert named(check_machine())["C++ core"].state == "good"
    with (csrc / "noise.hpp").open("a") as stream:
        stream.write("// changed\n")
    check = named(check_machine())["C++ core"]
    assert check.state == "bad"
    assert check.found == f"was not built of the files of {csrc} as they are. `make install` rebuilds it."


def test_a_server_that_does_not_answer_is_a_note_that_says_what_to_do(tmp_path: Path) -> None:
    # port 9 (discard) of this machine: nothing listens
    (tmp_path / "study.toml").write_text('[domains.uka]\nroot = "."\n[tracking]\nuri = "http://127.0.0.1:9"')
    check = named(check_machine(load_study(tmp_path)))["MLflow"]
    assert check.state == "note"
    assert "http://127.0.0.1:9 does not answer" in check.found
    assert "Start it, or remove tracking.uri" in check.found


def test_a_driver_without_a_cuda_build_and_a_cuda_build_without_a_gpu_are_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = types.SimpleNamespace(
        cuda=types.SimpleNamespace(is_available=lambda: False),
        version=types.SimpleNamespace(cuda=None),
        __version__="2.13.0+cpu",
    )
    monkeypatch.setitem(sys.modules, "torch", fake)
    monkeypatch.setattr(shutil, "which", lambda name: name if name == "nvidia-smi" else None)
    check = named(check_machine())["GPU"]
    assert (check.state, check.found[:43]) == ("bad", "this machine has NVIDIA's driver, but torch")
    fake.version.cuda = "13.0"
    assert "sees no GPU, nvidia-smi is there" in named(check_machine())["GPU"].found
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    assert named(check_machine())["GPU"].state == "note"


def test_a_library_of_another_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup, "requires", lambda _name: ["numpy>=99", "no-such-library", "ruff; extra == 'dev'"])
    check = named(check_machine())["libraries"]
    assert check.state == "bad"
    assert "expected >=99; no-such-library is missing. `make install`" in check.found


def test_a_study_with_a_named_network_needs_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup, "requires", lambda _name: ["numpy", "no-such-library; extra == 'networks'"])
    monkeypatch.setattr(checkup, "version", lambda _name: "9")
    text = '[domains.uka]\nroot = "."\n'
    (tmp_path / "study.toml").write_text(text)
    assert named(check_machine(load_study(tmp_path)))["libraries"].state == "good"
    monkeypatch.undo()
    monkeypatch.setattr(checkup, "requires", lambda _name: ["numpy", "no-such-library; extra == 'networks'"])
    (tmp_path / "study.toml").write_text(text + '[initial.a]\nnetwork = "vit_small"\n[shards]\nsize = 32\n')
    check = named(check_machine(load_study(tmp_path)))["libraries"]
    assert check.state == "bad"
    assert "no-such-library is missing." in check.found
    assert "pip install 'dpdt[networks]'" in check.found


def test_little_memory_little_disk_and_a_foreign_folder_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkup, "LITTLE_MEMORY_GB", 1e6)
    monkeypatch.setattr(checkup, "LITTLE_DISK_GB", 1e9)
    found = named(check_machine())
    assert "cluster.local_parallelism = 1" in found["memory"].found
    assert "set study.folder" in found["disk"].found
    monkeypatch.setattr(checkup, "LITTLE_DISK_GB", 0)
    monkeypatch.setattr(checkup, "SLOW_MB_S", 1e9)
    assert "set cluster.scratch" in named(check_machine())["disk"].found

    def refused(**_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refused)
    (tmp_path / "study.toml").write_text('[domains.uka]\nroot = "."')
    assert named(check_machine(load_study(tmp_path)))["disk"].state == "bad"
    assert named(check_machine())["disk"].state == "note"


def test_json_has_the_facts_and_the_checks(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["doctor", "--json"])
    assert end.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert {check["state"] for check in found["checks"]} <= {"good", "note"}
    with pytest.raises(SystemExit) as end:
        main(["doctor", "--probe"])
    assert end.value.code == 2
    assert "--probe goes with --cluster" in capsys.readouterr().err
