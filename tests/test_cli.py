"""The command line: exit codes, one-line errors, help with an example for every command."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from dpdt import errors
from dpdt.cli import app, main

COMMANDS = sorted(
    command.name or str(command.callback.__name__) for command in app.registered_commands if command.callback
)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert isinstance(stop.value.code, int)
    return stop.value.code


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, "--help") == 0
    assert f"Example: dpdt {command}" in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_that_reads_a_study_takes_set(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    # What an argument is called in the usage says whether a study is read: the study itself, or the one of a run.
    assert run(command, "--help") == 0
    shown = capsys.readouterr().out
    usage = shown[shown.index("Usage:") :].split("\n\n")[0]
    reads = re.search(r"\b(STUDY|RUN)\b", usage) is not None
    assert ("--set KEY=VALUE" in " ".join(shown.split())) == reads, usage


def test_no_summary_is_cut_at_80_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run("--help") == 0
    lines = [
        line for line in capsys.readouterr().out.splitlines() if line.startswith("  ") and line.split()[0] in COMMANDS
    ]
    assert sorted(line.split()[0] for line in lines) == COMMANDS
    for line in lines:
        assert line.endswith("."), line
        assert "..." not in line, line


def test_version_is_the_package_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.strip() == "0.1.0"


def test_wrong_use_ends_with_2_and_names_the_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("cohort", "--domian", "x") == 2
    assert "No such option: --domian" in capsys.readouterr().err


def test_only_what_the_user_wrote_ends_with_2() -> None:
    # The rule of docs' command reference: a StudyError is what can be seen from the study alone; all else is 1.
    for name in errors.__all__:
        kind = getattr(errors, name)

        @app.command("fail", hidden=True)
        def fail() -> None:
            raise kind("what, found, expected, what to do")  # noqa: B023

        assert run("fail") == (2 if kind is errors.StudyError else 1)
        app.registered_commands.pop()


@pytest.mark.parametrize(
    ("command", "option", "value"),
    [
        ("epsilon", "--noise-multiplier", "-1"),
        ("epsilon", "--noise-multiplier", "nan"),
        ("epsilon", "--sample-rate", "0"),
        ("epsilon", "--num-steps", "-1"),
        ("epsilon", "--delta", "0"),
        ("epsilon", "--delta", "1"),
        ("epsilon", "--accountant", "gdp"),
        ("calibrate", "--target-epsilon", "inf"),
        ("calibrate", "--target-epsilon", "-8"),
        ("calibrate", "--num-steps", "0"),
        ("calibrate", "--delta", "nan"),
        ("calibrate", "--units", "0"),
    ],
)
def test_a_wrong_number_for_the_accountant_ends_with_2_and_names_its_option(
    command: str, option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first = ("--noise-multiplier", "1") if command == "epsilon" else ("--target-epsilon", "1")
    right = dict([first, ("--sample-rate", "0.01"), ("--num-steps", "9"), ("--delta", "1e-5")])
    given = [word for pair in {**right, option: value}.items() for word in pair]
    assert run(command, *given) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("Error: Invalid value")
    assert option in error


def test_a_missing_study_is_one_line_and_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("cohort", str(tmp_path / "study.toml")) == 2
    error = capsys.readouterr().err
    assert error == (
        f"error: {tmp_path}/study.toml: no such study file. Expected a TOML file; `dpdt init` writes one, "
        "`dpdt demo` makes an example.\n"
    )


def test_epsilon_agrees_with_the_published_accountants(capsys: pytest.CaptureFixture[str]) -> None:
    # dp-accounting's PLD accountant: 2.584 at q=.01, sigma=1, T=2000, delta=1e-5 (computed outside of dpdt).
    mechanism = ["--sample-rate", "0.01", "--num-steps", "2000", "--delta", "1e-5"]
    assert run("epsilon", "--noise-multiplier", "1", *mechanism) == 0
    assert float(capsys.readouterr().out) == pytest.approx(2.584, abs=0.002)


def test_calibrate_keeps_within_the_target(capsys: pytest.CaptureFixture[str]) -> None:
    mechanism = ["--sample-rate", "0.01", "--num-steps", "1000", "--delta", "1e-5"]
    assert run("calibrate", "--target-epsilon", "3", *mechanism, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert 0.98 * 3 <= found["epsilon"] <= 3


def test_doctor_alone_looks_at_this_machine(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DPDT_IMAGE_DIGEST", "sha256:0123")  # these tests run in the image too, which has one of its own
    assert run("doctor", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["dpdt"] == facts["C++ core"] == "0.1.0"
    assert facts["image"] == "sha256:0123"
    assert run("doctor", "--cluster") == 2
    assert "needs the study file" in capsys.readouterr().err


def test_help_is_there_at_once() -> None:
    # CPU time of the quickest of three, so that a busy machine changes nothing. The promise is 0.3 s.
    seconds = []
    for _ in range(3):
        before = os.times()
        subprocess.run([sys.executable, "-m", "dpdt", "--help"], capture_output=True, check=True)
        after = os.times()
        seconds.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert min(seconds) < 0.3


@pytest.mark.parametrize("module", ["dpdt", "dpdt.submit"])
def test_modules_start_the_command_line(module: str) -> None:
    printed = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=True)
    assert printed.stdout.startswith("Usage: dpdt")


def test_help_imports_nothing_heavy() -> None:
    script = "import sys, dpdt.cli; print([m for m in ('torch', 'pandas', 'mlflow', 'numpy') if m in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert printed == "[]\n"


@pytest.mark.slow
def test_without_a_terminal_there_are_no_colours_and_quiet_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("image,patient,heart\n" + "".join(f"{n}.png,p{n},{n % 2}\n" for n in range(20)))
    for number in range(20):
        (tmp_path / f"{number}.png").touch()
    (tmp_path / "study.toml").write_text(
        '[domains.own]\nkind = "table"\nroot = "."\n[domains.own.table]\nfile = "list.csv"\nimage = "image"\n'
        'patient = "patient"\nlabels = { cardiomegaly = { column = "heart" } }\n'
    )

    def printed(*command: str) -> str:
        run = [sys.executable, "-m", "dpdt", *command]
        done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout + done.stderr

    for number in range(20):
        (tmp_path / f"{number}.png").touch()
    assert printed("cohort", "study.toml", "--quiet") == ""
    for command in (["cohort", "study.toml"], ["show", "study.toml"], ["doctor"]):
        text = printed(*command)
        assert len(text) > 50
        assert "\x1b" not in text
        assert "\r" not in text


def test_a_closed_stdout_is_no_crash(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text('[domains.uka]\nroot = "raw"\n')
    command = f"{shlex.quote(sys.executable)} -m dpdt show {shlex.quote(str(tmp_path))} >&-"
    ended = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
