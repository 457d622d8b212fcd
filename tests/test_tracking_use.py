"""MLflow from the command line: compare, watch, sync --to, and a sync that has nothing to send."""

import http.client
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from dpdt.base.vocabulary import LABELS
from dpdt.cli import main
from dpdt.errors import StudyError, TrackingError
from dpdt.report.write import write_report
from dpdt.study import Cell, load_study
from dpdt.tracking.compare import compare_rows, find_compared
from dpdt.tracking.store import find_experiment, open_client, tracking_uri, with_uri
from dpdt.tracking.sync import sync
from dpdt.tracking.ui import serve_ui
from dpdt.tracking.watch import is_complete, watch
from tests.fake_runs import FakeRuns
from tests.mlflow_view import assert_view_equals_folders
from tests.ports import free_port

Make = Callable[..., FakeRuns]
TWO = ("vindr", "uka")
PRIVATE, PLAIN = Cell("vindr", 1.0, 0), Cell("vindr", float("inf"), 0)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert isinstance(stop.value.code, int)
    return stop.value.code


def test_compare_prints_what_mlflow_shows(fake_runs: Make, capsys: pytest.CaptureFixture[str]) -> None:
    study = fake_runs(TWO, "[1.0, inf]").all().study
    sync(study)
    capsys.readouterr()
    assert run("compare", str(study.folder), "vindr · no DP", "vindr-patient-eps1", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["runs"] == [study.run_id(PLAIN), study.run_id(PRIVATE)]
    params = {row["name"]: row["values"] for row in found["rows"] if row["kind"] == "parameter"}
    assert params == {
        "target_epsilon": ["inf", "1"],
        "training.noise_multiplier": [None, "1.25"],
        "training.privacy_unit": ["none", "patient"],
    }
    client = open_client(tracking_uri(study))
    experiment = find_experiment(client, study)
    assert experiment is not None
    for number, run_id in enumerate(found["runs"]):
        (there,) = client.search_runs([experiment.experiment_id], f"tags.`dpdt.run_id` = '{run_id}'")
        here = {row["name"]: row["values"][number] for row in found["rows"] if row["kind"] == "metric"}
        assert {name: value for name, value in here.items() if value is not None} == there.data.metrics
    assert run("compare", str(study.folder), "vindr") == 0
    printed = capsys.readouterr().out
    assert "parameters that differ" in printed
    assert "auc/uka/healthy" in printed
    assert "using." not in printed


def test_compare_marks_macro_aucs_of_other_labels(fake_runs: Make, capsys: pytest.CaptureFixture[str]) -> None:
    """One hospital has no pneumonia: its own mean is of four labels, and both means are shown."""

    def without(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(target_pneumonia=float("nan")) if frame["image_id"][0].startswith("uka") else frame

    study = fake_runs(TWO, "[inf]").all(change=without).study
    assert run("compare", str(study.folder), "vindr · no DP", "uka · no DP", "--json") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    four = ",".join(label for label in LABELS if label != "pneumonia")
    assert rows["auc"]["labels"] == [",".join(LABELS), four]
    assert rows["auc/uka/average"]["labels"] == [four, four]
    assert "labels" not in rows["auc/uka/healthy"]
    for name, domains in (("auc_common", TWO), ("auc_off_domain_common", TWO[::-1])):
        for number, domain in enumerate(domains):
            values = [rows[f"auc/{domain}/{label}"]["values"][number] for label in four.split(",")]
            assert rows[name]["values"][number] == pytest.approx(sum(values) / 4)
    assert run("compare", str(study.folder), "vindr", "uka") == 0
    printed = capsys.readouterr().out
    assert "auc *" in printed
    assert "uka: cardiomegaly, pleural_effusion, atelectasis, healthy" in printed
    same = fake_runs(TWO, "[inf]").all().study
    assert not any("labels" in row or "common" in row["name"] for row in compare_rows(find_compared(["no DP"], same)))


def test_compare_takes_run_folders_without_a_study(fake_runs: Make, tmp_path: Path) -> None:
    study = fake_runs(("vindr",), "[1.0, inf]").all().study
    moved = tmp_path / "elsewhere"
    shutil.copytree(study.paths.runs, moved)
    runs = find_compared([str(folder) for folder in sorted(moved.iterdir())], None)
    assert [run.run_id for run in runs] == sorted(study.run_id(cell) for cell in study.cells())
    assert {row["name"] for row in compare_rows(runs)} >= {"target_epsilon", "epsilon", "auc"}


def test_compare_says_what_there_is_when_nothing_fits(fake_runs: Make) -> None:
    study = fake_runs(("vindr",), "[1.0, inf]").all().study
    with pytest.raises(StudyError, match=r"padchest: neither a run folder nor .* Runs: vindr-patient-eps1.*, vindr-"):
        find_compared(["padchest"], study)
    with pytest.raises(StudyError, match=r"eps1: expected at least two runs to compare, found 1\."):
        find_compared(["eps1"], study)


@pytest.mark.slow
def test_a_sync_without_news_does_not_even_load_mlflow(fake_runs: Make) -> None:
    study = fake_runs(TWO, "[1.0, inf]").all().study
    write_report(study)
    sync(study)
    code = "import sys; from dpdt.study import load_study; from dpdt.tracking.sync import sync; "
    code += "print(sync(load_study(sys.argv[1])).sent, 'mlflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(study.file)], capture_output=True, text=True, check=True)
    assert done.stdout == "0 False\n"


def test_whatever_is_gone_from_mlflow_comes_back(fake_runs: Make) -> None:
    study = fake_runs(("vindr",), "[1.0, inf]").all().study
    sync(study)
    client = open_client(tracking_uri(study))
    experiment = find_experiment(client, study)
    assert experiment is not None
    for name in (study.run_id(PRIVATE), "study"):
        (there,) = client.search_runs([experiment.experiment_id], f"tags.`dpdt.run_id` = '{name}'")
        client.delete_run(there.info.run_id)
        sync(study)
        assert assert_view_equals_folders(study) > 0


def test_a_run_that_a_dying_server_made_twice_is_one_again(fake_runs: Make) -> None:
    made = fake_runs(("vindr",), "[1.0, inf]")
    made.train(PRIVATE, steps=10, status="interrupted")
    study = made.study
    sync(study)
    client = open_client(tracking_uri(study))
    experiment = find_experiment(client, study)
    assert experiment is not None
    name = study.run_id(PRIVATE)
    (first,) = client.search_runs([experiment.experiment_id], f"tags.`dpdt.run_id` = '{name}'")
    client.create_run(experiment.experiment_id, start_time=first.info.start_time, tags={"dpdt.run_id": name})
    made.all()
    sync(study)
    assert assert_view_equals_folders(study) > 0


@pytest.mark.slow
def test_watch_ends_when_all_is_trained_evaluated_and_reported(
    fake_runs: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    made = fake_runs(("vindr",), "[1.0, inf]")
    study = made.study
    made.train(PRIVATE, steps=10, status="running")
    watcher = threading.Thread(target=watch, args=(study,), kwargs={"every_seconds": 0.05}, daemon=True)
    watcher.start()
    made.train(PRIVATE)
    made.train(PLAIN)
    assert not is_complete(study)  # nothing is evaluated
    made.all()
    assert not is_complete(study)  # there is no report
    write_report(study)
    assert is_complete(study)
    watcher.join(120)
    assert not watcher.is_alive()
    assert "2 runs, " in capsys.readouterr().out
    assert assert_view_equals_folders(study) > 0


def test_a_study_whose_bundle_is_not_tested_yet_is_not_complete(fake_runs: Make) -> None:
    """The model was added after the report: its test is a task of the study that has yet to run."""
    study = fake_runs(("vindr",), "[1.0, inf]").all().study
    write_report(study)
    assert is_complete(study)
    study.file.write_text(study.file.read_text() + '\n[models.other]\nbundle = "other.dpdt"\n')
    assert not is_complete(load_study(study.file))


def test_sync_to_another_store_says_how_to_stay_there(
    fake_runs: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = fake_runs(("vindr",), "[1.0, inf]").all().study
    other = f"sqlite:///{tmp_path}/other.db"
    assert run("sync", str(study.folder), "--to", other) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"MLflow at {other}: 2 runs, 2 with news sent")
    assert '[tracking] uri = "' in printed
    assert not study.paths.mlflow_database.exists()
    assert assert_view_equals_folders(with_uri(study, other)) > 0


def test_serving_to_others_without_a_password_is_warned_of(
    fake_runs: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = fake_runs(("vindr",), "[1.0]").all().study
    sync(study)

    def not_started(*_: object) -> None:
        raise TrackingError("not started")

    monkeypatch.setattr("dpdt.tracking.ui._server", not_started)
    for host, warned in (("0.0.0.0", True), ("127.0.0.1", False)):
        with pytest.raises(TrackingError, match="not started"):
            serve_ui(study, port=free_port(), host=host)
        assert ("asks for no password" in capsys.readouterr().err) is warned


@pytest.mark.slow
def test_a_browser_elsewhere_asks_for_this_machine_by_its_name(fake_runs: Make) -> None:
    study = fake_runs(("vindr",), "[1.0]").all().study
    sync(study)
    port = free_port()
    code = "import sys; from dpdt.study import load_study; from dpdt.tracking.ui import serve_ui; "
    code += f"serve_ui(load_study(sys.argv[1]), port={port}, host='0.0.0.0')"
    with subprocess.Popen([sys.executable, "-c", code, str(study.file)], stdout=subprocess.PIPE, text=True) as ui:
        assert ui.stdout
        assert any("Ctrl-C" in line for line in ui.stdout)
        codes = {}
        for name in (socket.gethostname(), "attacker.example"):
            asked = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            asked.request("GET", "/api/2.0/mlflow/experiments/get?experiment_id=0", headers={"Host": f"{name}:{port}"})
            codes[name] = asked.getresponse().status
            asked.close()
        ui.send_signal(signal.SIGINT)
    assert codes == {socket.gethostname(): 200, "attacker.example": 403}


def test_an_address_with_a_password_is_shown_without_it(
    fake_runs: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = with_uri(fake_runs(("vindr",), "[1.0]").study, "https://me:hunter2@mlflow.example")
    monkeypatch.setattr("dpdt.tracking.ui.compare_url", lambda _, base: f"{base}/#/compare-runs")
    serve_ui(study, port=0)
    assert "hunter2" not in capsys.readouterr().out
