"""MLflow from hand-made run folders: what it gets, that twice is once, and that no patient goes there."""

import html
import json
import math
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

import pandas as pd
import pytest

from dpdt.base.files import exclusive_lock, read_json, write_json
from dpdt.errors import TrackingError
from dpdt.privacy.ledger import Ledger
from dpdt.privacy.mechanism import Mechanism
from dpdt.privacy.statement import StatedRun, privacy_statement
from dpdt.report.write import write_report
from dpdt.runs.read import read_run
from dpdt.study import Cell, Study, load_study
from dpdt.tracking import stage
from dpdt.tracking.metrics import MAX_METRIC_KEYS
from dpdt.tracking.moved import was_moved
from dpdt.tracking.payload import payload
from dpdt.tracking.store import explained, open_client, public_name, tracking_uri
from dpdt.tracking.sync import sync
from dpdt.tracking.ui import compare_url, serve_ui
from tests.fake_runs import NUM_STEPS, FakeRuns
from tests.ports import free_port

Make = Callable[..., FakeRuns]
TWO = ("vindr", "uka")
PRIVATE, PLAIN = Cell("vindr", 1.0, 0), Cell("vindr", math.inf, 0)


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite store with MLflow's tables, made once: its migrations take seconds."""
    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    open_client(f"sqlite:///{file}").search_experiments(max_results=1)
    return file


@pytest.fixture
def runs(fake_runs: Make, empty_store: Path) -> Make:
    """As `fake_runs`, with an empty tracking store in the study's folder."""

    def make(*arguments: Any, **options: Any) -> FakeRuns:
        made = fake_runs(*arguments, **options)
        shutil.copy(empty_store, made.study.paths.mlflow_database)
        return made

    return make


def contents(study: Study) -> dict[str, dict[str, Any]]:
    """All that MLflow has, by dpdt.run_id; ids that MLflow invents are left out."""
    with closing(sqlite3.connect(study.paths.mlflow_database)) as database:

        def rows(query: str) -> list[Any]:
            return database.execute(query).fetchall()

        names = dict(rows("select run_uuid, value from tags where key = 'dpdt.run_id'"))
        found: dict[str, dict[str, Any]] = {
            names[uuid]: {"name": name, "status": status, "start": start, "end": end, "points": []}
            for uuid, name, status, start, end in rows("select run_uuid, name, status, start_time, end_time from runs")
        }
        assert len(found) == len(names) == rows("select count(*) from runs")[0][0]
        for kind in ("tags", "params"):
            for uuid, key, value in rows(f"select run_uuid, key, value from {kind}"):
                parent = key == "mlflow.parentRunId"
                found[names[uuid]].setdefault(kind, {})[key] = names[value] if parent else value
        for uuid, *point, is_nan in rows("select run_uuid, key, value, timestamp, step, is_nan from metrics"):
            assert not is_nan
            found[names[uuid]]["points"].append(tuple(point))
    for run in found.values():
        run["points"].sort()
    return found


def latest(study: Study, cell: Cell) -> dict[str, float]:
    """What MLflow's pages show as a run's metrics."""
    with closing(sqlite3.connect(study.paths.mlflow_database)) as database:
        query = (
            "select m.key, m.value from latest_metrics m join tags t using (run_uuid) where t.key = 'dpdt.run_id' and "
        )
        return dict(database.execute(f"{query} t.value = ?", [study.run_id(cell)]).fetchall())


def artifacts(study: Study) -> dict[str, list[str]]:
    """Artifact files by dpdt.run_id."""
    with closing(sqlite3.connect(study.paths.mlflow_database)) as database:
        query = "select t.value, r.artifact_uri from runs r join tags t using (run_uuid) where t.key = 'dpdt.run_id'"
        folders = {name: Path(unquote(uri.removeprefix("file://"))) for name, uri in database.execute(query)}
    return {
        name: sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
        for name, folder in folders.items()
    }


def test_a_study_is_one_parent_and_a_child_for_each_training(runs: Make) -> None:
    study = runs(TWO, "[1.0, inf]", name="my study").all().study
    write_report(study)
    summary = sync(study)
    assert (summary.runs, summary.sent) == (4, 4)
    found = contents(study)
    names = {run["name"] for run in found.values()}
    assert names == {"my study", *(f"{d} · {arm} · seed 0" for d in TWO for arm in ("patient ε=1", "no DP"))}
    for run_id, run in found.items():
        assert run["status"] == "FINISHED"
        assert run["tags"].get("mlflow.parentRunId") == (None if run_id == "study" else "study")
    with closing(sqlite3.connect(study.paths.mlflow_database)) as database:
        experiments = database.execute("select name, artifact_location from experiments where experiment_id > 0")
        assert experiments.fetchall() == [("my study", study.paths.mlflow_artifacts.as_uri())]
        ids = database.execute("select distinct experiment_id from runs").fetchall()
    assert ids == [(1,)]  # nothing in "Default"
    kept = artifacts(study)
    assert kept[study.run_id(PRIVATE)] == ["metrics.csv", "model/README.md", "privacy.json"]
    assert {"report/index.html", "report/auc.csv", "report/figures/auc_over_epsilon.png"} <= set(kept["study"])


def test_mlflow_has_the_values_of_the_run_folder(runs: Make) -> None:
    study = runs(TWO, "[1.0, inf]").all().study
    sync(study)
    run = contents(study)[study.run_id(PRIVATE)]
    paths = study.paths.run(study.run_id(PRIVATE))
    lines = [json.loads(line) for line in paths.metrics_log.read_text().splitlines()]
    for key in ("epsilon", "loss", "step_s"):
        points = [(value, time_ms, step) for name, value, time_ms, step in run["points"] if name == key]
        assert sorted(points) == sorted((x[key], round(x["time"] * 1000), x["step"]) for x in lines)
    table = pd.read_parquet(paths.metrics)
    auc = table[(table["metric"] == "auc") & (table["subgroup"] == "all")]
    shown = latest(study, PRIVATE)
    for row in auc.itertuples():
        assert shown[f"auc/{row.test_domain}/{row.label}"] == row.value
    assert shown["auc"] == shown["auc/vindr/average"]
    assert shown["auc_off_domain"] == shown["auc/uka/average"]
    female = table[(table["metric"] == "auc") & (table["subgroup"] == "female") & (table["label"] == "average")]
    assert shown["auc/uka/average/female"] == female.set_index("test_domain")["value"]["uka"]
    assert (run["start"], run["end"]) == (
        round((lines[0]["time"] - 0.05) * 1000),
        round(lines[-1]["time"] * 1000) + 1000,
    )


def test_params_that_differ_come_first_and_the_statement_is_in_the_tags(runs: Make) -> None:
    study = runs(TWO, "[1.0, inf]").all().study
    run = read_run(study, study.run_id(PRIVATE))
    assert run is not None
    sent = payload(run)
    assert sent.params["train_domain"] == "vindr"
    assert sent.params["training.privacy_unit"] == "patient"
    assert sent.params["target_epsilon"] == "1"
    assert sent.params["training.seed"] == "0"
    assert sent.params["training.noise_multiplier"] == "1.25"
    assert sent.params["using.train.learning_rate"] == "0.0002"
    # MLflow's pages sort by character: this is the order that they show, and plot over the first of.
    shown = sorted(sent.params)
    assert shown[:3] == ["target_epsilon", "train_domain", "training.images"]
    plain = read_run(study, study.run_id(PLAIN))
    assert plain is not None
    other = payload(plain).params
    differing = {key for key in {*sent.params, *other} if sent.params.get(key) != other.get(key)}
    assert differing == {"target_epsilon", "training.noise_multiplier", "training.privacy_unit"}
    constant = [key for key in shown if key.startswith("using.")]
    assert shown[-len(constant) :] == constant
    assert sorted(point.key for point in sent.points)[0] == "auc"  # what MLflow plots where nothing is chosen
    assert (sent.tags["dpdt.epsilon"], sent.tags["dpdt.delta"]) == ("1", "1e-05")
    assert sent.tags["dpdt.privacy_unit"] == "patient"
    assert sent.tags["mlflow.note.content"] == "**Synthetic data.** This model was trained with differential privacy."
    assert other["target_epsilon"] == "inf"
    assert payload(plain).tags["dpdt.privacy_unit"] == "none"


def test_tags_say_which_cohort_code_container_device_and_how_many_hours(runs: Make) -> None:
    made = runs(("vindr",), "[1.0]")
    paths = made.train(PRIVATE)
    config = read_json(paths.config)
    versions = {"dpdt": "0.1.0", "image": "sha256:abc", "commit": "c0ffee-dirty"}
    write_json(paths.config, {**config, "device": "NVIDIA H100", "versions": versions})
    run = read_run(made.study, paths.run_id)
    assert run is not None
    tags = payload(run).tags
    assert tags["dpdt.cohort_hmac"] == "5" * 64
    assert tags["dpdt.shards_hmac"] == "a" * 64
    assert tags["dpdt.image"] == "sha256:abc"
    assert tags["dpdt.version.dpdt"] == "0.1.0"
    assert tags["dpdt.version.commit"] == "c0ffee-dirty"
    assert tags["mlflow.source.git.commit"] == "c0ffee"
    assert tags["dpdt.device"] == "NVIDIA H100"
    assert float(tags["dpdt.hours"]) == pytest.approx(NUM_STEPS * 0.05 / 3600, rel=1e-2)


def test_plain_hashes_that_a_former_version_sent_are_removed_by_the_next_sync(runs: Make) -> None:
    study = runs(("vindr",), "[1.0]").all().study
    paths = study.paths.run(study.run_id(PRIVATE))
    config = read_json(paths.config)
    plain = {"split_sha256": "c" * 64, "labels_sha256": "d" * 64, "manifest_sha256": "e" * 64}
    write_json(paths.config, {**config, "data": {**plain, "units": 300, "images": 500}})
    sync(study)
    client = open_client(tracking_uri(study))
    ids = {run.data.tags["dpdt.run_id"]: run.info.run_id for run in client.search_runs(["1"])}
    for name, value in (("dpdt.cohort_sha256", "c" * 64), ("dpdt.shards_sha256", "e" * 64), ("dpdt.sent", "format 2")):
        client.set_tag(ids[paths.run_id], name, value)
    client.set_tag(ids["study"], "dpdt.sent", "format 2")
    assert sync(study).sent == 1
    assert not [name for name in contents(study)[paths.run_id]["tags"] if "sha256" in name or "hmac" in name]
    database = study.paths.mlflow_database.read_bytes()
    kept = [file.read_bytes() for file in study.paths.mlflow_artifacts.rglob("*") if file.is_file()]
    assert not any(value.encode() in content for value in plain.values() for content in kept)
    with closing(sqlite3.connect(study.paths.mlflow_database)) as store:
        assert store.execute("select count(*) from tags where key like '%sha256%'").fetchone() == (0,)
    assert plain["labels_sha256"].encode() not in database  # it was never sent
    assert sync(study).sent == 0


def test_a_run_that_is_added_is_in_the_other_runs_statements_in_mlflow_and_twice_is_once(runs: Make) -> None:
    made = runs(("vindr",), "[1.0]").all()
    study, paths = made.study, made.study.paths.run(made.study.run_id(PRIVATE))
    mechanism = Mechanism(
        unit="patient",
        num_units=300,
        sample_rate=0.1,
        noise_multiplier=1.25,
        max_grad_norm=1.5,
        num_steps=10,
        delta=1e-5,
        accountant="pld",
        target_epsilon=1.0,
    )
    run = StatedRun(paths.run_id, "vindr", "none", "random", randomness="cryptographic", max_images_per_patient=1)
    statement = privacy_statement(mechanism, run, spent_steps=10, complete=True)
    write_json(paths.privacy, statement)
    sync(study)
    other = study.paths.run("vindr-patient-eps1-seed0-0123abcd")  # another study file's, in the same folder
    write_json(other.config, {**read_json(paths.config), "run_id": other.run_id})
    with Ledger(other.ledger, mechanism=mechanism.as_dict(), num_steps=10) as ledger:
        ledger.reserve(2)
    assert sync(study).sent == 2
    (file,) = [file for file in study.paths.mlflow_artifacts.rglob("privacy.json") if paths.run_id in file.read_text()]
    assert (read_json(file)["selection"]["runs"], read_json(file)["selection"]["epsilon"]) == (2, 2.0)
    assert "There are 2 such models" in contents(study)[paths.run_id]["tags"]["mlflow.note.content"]
    assert "There are 2 such models" in file.with_name("model").joinpath("README.md").read_text()
    before = contents(study)
    assert sync(study).sent == 0
    assert contents(study) == before


def test_the_audit_s_lower_bound_is_a_metric(runs: Make) -> None:
    made = runs(("vindr",), "[1.0]").all()
    paths = made.study.paths.run(made.study.run_id(PRIVATE))
    sync(made.study)
    assert "audit/epsilon_lower" not in latest(made.study, PRIVATE)
    found = {"canaries": {"epsilon_lower": 0.42}, "membership": {"auc": 0.51}, "refuted": False}
    write_json(paths.audit, found)
    assert sync(made.study).sent == 1
    shown = {key: value for key, value in latest(made.study, PRIVATE).items() if key.startswith("audit/")}
    assert shown == {"audit/epsilon_lower": 0.42, "audit/membership_auc": 0.51, "audit/refuted": 0.0}
    assert "audit.json" in artifacts(made.study)[paths.run_id]
    write_json(paths.audit, {**found, "canaries": None})
    sync(made.study)
    tags = contents(made.study)[paths.run_id]["tags"]
    assert tags["audit/epsilon_lower.undefined"] == "the audit has no such number"


def test_gaps_by_subgroup_are_metrics(runs: Make) -> None:
    study = runs(TWO, "[1.0]").all().study
    sync(study)
    shown = latest(study, PRIVATE)
    table = pd.read_parquet(study.paths.run(study.run_id(PRIVATE)).metrics)
    for name, label in (("auc_gap", "average"), ("underdiagnosis_gap", "healthy")):
        rows = table[(table["metric"] == name) & (table["label"] == label)]
        values = rows.set_index(["test_domain", "subgroup"])["value"]
        for attribute in ("sex", "age_group"):
            assert shown[f"{name}/uka/{attribute}"] == values["uka", attribute]


def test_a_finished_run_is_a_model_whose_card_is_its_privacy_statement(runs: Make) -> None:
    made = runs(("vindr",), "[1.0, inf]", name="a: study/2").all()
    study = made.study
    sync(study)
    client = open_client(tracking_uri(study))
    versions = client.search_model_versions("name = 'a  study 2.vindr'")
    assert len(versions) == 2
    found = {version.tags["dpdt.run_id"]: version for version in versions}
    private = found[study.run_id(PRIVATE)]
    assert "This model was trained with differential privacy." in private.description
    assert "| epsilon | 1 |" in private.description
    assert "| neighbouring relation | zero out one patient |" in private.description
    assert "number of units: exact count. Accounting: taken as public." in private.description
    auc = latest(study, PRIVATE)["auc"]
    assert f"| auc | {auc:.3f} |" in private.description
    aliases = {"patient-eps1-seed0": private.version, "no-dp-seed0": found[study.run_id(PLAIN)].version}
    assert {k: int(v) for k, v in client.get_registered_model(private.name).aliases.items()} == aliases
    assert contents(study)[study.run_id(PRIVATE)]["tags"]["dpdt.model"] == f"a  study 2.vindr v{private.version}"
    assert not list(study.paths.mlflow_artifacts.rglob("*.pt"))  # weights may give away what they were trained on
    # A new evaluation is the same version with a new card.
    made.evaluate(PRIVATE, change=lambda frame: frame.assign(score_healthy=1 - frame["score_healthy"]))
    sync(study)
    again = {v.tags["dpdt.run_id"]: v for v in client.search_model_versions("name = 'a  study 2.vindr'")}
    assert {v.version for v in again.values()} == {v.version for v in versions}
    assert f"| auc | {latest(study, PRIVATE)['auc']:.3f} |" in again[study.run_id(PRIVATE)].description
    assert latest(study, PRIVATE)["auc"] != auc


def test_an_unfinished_run_and_an_audit_s_twin_are_no_models(runs: Make) -> None:
    made = runs(("vindr",), "[1.0, inf]")
    made.train(PRIVATE, status="interrupted", steps=10)
    twin = made.train(PLAIN)
    write_json(twin.config, {**read_json(twin.config), "kind": "audit"})
    sync(made.study)
    assert set(contents(made.study)) == {"study", made.study.run_id(PRIVATE)}  # the twin is not even a run
    assert open_client(tracking_uri(made.study)).search_registered_models() == []


def test_values_of_no_step_are_bars_and_those_that_were_lines_stay_the_latest(runs: Make) -> None:
    """MLflow draws a bar a run where a metric has step 0 alone, else lines; it shows the value of the highest step."""
    made = runs(TWO, "[1.0, inf]")
    for cell in (PRIVATE, PLAIN):
        made.train(cell)
    sync(made.study)
    client = open_client(tracking_uri(made.study))
    (old,) = client.search_runs(["1"], f"tags.`dpdt.run_id` = '{made.study.run_id(PLAIN)}'")
    client.log_metric(old.info.run_id, "auc", 0.123, timestamp=1, step=NUM_STEPS)  # as dpdt did before
    for cell in (PRIVATE, PLAIN):
        made.evaluate(cell)
    sync(made.study)
    found = contents(made.study)
    for cell, step in ((PRIVATE, 0), (PLAIN, NUM_STEPS)):
        points = found[made.study.run_id(cell)]["points"]
        assert {at for key, _, _, at in points if key.startswith("auc")} == {step}
        table = pd.read_parquet(made.study.paths.run(made.study.run_id(cell)).metrics)
        own = (table["test_domain"] == cell.domain) & (table["subgroup"] == "all") & (table["label"] == "average")
        assert latest(made.study, cell)["auc"] == table[own & (table["metric"] == "auc")]["value"].item()
        assert {at for key, _, _, at in points if key == "loss"} == {*range(1, NUM_STEPS + 1)}


@pytest.mark.slow
def test_the_parent_shows_the_charts_and_what_privacy_cost(runs: Make) -> None:
    study = runs(TWO, "[1.0, inf]").all().study
    write_report(study)
    sync(study)
    images = [name for name in artifacts(study)["study"] if name.startswith("images/")]
    shown = ["What DP costs", "AUC over epsilon", "AUC of subgroups on-domain", "AUC of subgroups off-domain"]
    assert sorted(name.split("+")[0] for name in images) == sorted(2 * [f"images/{name}" for name in shown])
    parent = contents(study)["study"]
    assert parent["tags"]["mlflow.loggedImages"] == "True"
    curve = pd.read_csv(study.paths.report / "epsilon_curve.csv")
    mean = curve[(curve["train_domain"] == "mean")].set_index(["scope", "target_epsilon"])["auc"]
    assert parent["points"] == []  # a chart of one dot each: the description says them all
    note = parent["tags"]["mlflow.note.content"]
    assert f"Mean AUC on-domain: {mean['on-domain', 1.0]:.3f} (ε=1), {mean['on-domain', math.inf]:.3f} (no DP)." in note
    assert "](#/compare-runs?runs=" in note
    assert "](get-artifact?path=report%2Ffigures%2Fauc_over_epsilon.png&run_uuid=" in note
    # Another report replaces the images, it does not add to them.
    (study.paths.report / "figures" / "auc_over_epsilon.png").touch()
    write_report(study)
    sync(study)
    assert [name for name in artifacts(study)["study"] if name.startswith("images/")] == images


@pytest.mark.slow
def test_twice_is_once(runs: Make) -> None:
    study = runs(TWO, "[1.0, inf]").all().study
    write_report(study)
    sync(study)
    before, kept = contents(study), artifacts(study)
    again = sync(study)
    assert (again.runs, again.sent) == (4, 0)
    assert (contents(study), artifacts(study)) == (before, kept)
    # Also if the folders look new (a copy of them has other times).
    for file in study.paths.runs.rglob("*.json"):
        os.utime(file, ns=(1, 1))
    assert sync(study).sent == 4
    after = contents(study)
    for run in (*before.values(), *after.values()):
        run["tags"].pop("dpdt.sent")
    assert after == before


def test_killed_while_the_tables_are_made_leaves_no_half_made_store(fake_runs: Make) -> None:
    study = fake_runs(("vindr",), "[1.0]").all().study
    script = (
        "import os, sys; from pathlib import Path; from dpdt.study import load_study;"
        "from dpdt.tracking.sync import sync\n"
        "Path.rename = lambda *_: os._exit(9)\n"
        "sync(load_study(Path(sys.argv[1])))"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(study.file)], capture_output=True, text=True)
    assert killed.returncode == 9, killed.stderr
    assert not study.paths.mlflow_database.exists()
    assert sync(study).sent == 1


@pytest.mark.slow
@pytest.mark.parametrize("calls", [0, 1, 2, 3, 7, 20, 21, 22, 23])
def test_killed_half_way_and_repeated_is_once(runs: Make, monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    from mlflow import MlflowClient

    study = runs(TWO, "[1.0, inf]").all().study
    left = calls

    def killing(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            return method(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        for name in (
            "create_experiment",
            "create_run",
            "log_batch",
            "log_text",
            "log_artifact",
            "set_terminated",
            "create_model_version",
        ):
            patch.setattr(MlflowClient, name, killing(getattr(MlflowClient, name)))
        with pytest.raises(KeyboardInterrupt):
            sync(study)
    sync(study)
    repeated = contents(study)
    assert sync(study).sent == 0
    assert len(repeated) == 5
    for cell in study.cells():
        run = read_run(study, study.run_id(cell))
        assert run is not None
        sent, found = payload(run), repeated[run.run_id]
        assert found["points"] == sorted(sent.points)
        assert found["params"] == sent.params
        assert sent.tags.items() <= found["tags"].items()
        assert found["status"] == "FINISHED"


def test_a_run_keeps_its_mlflow_run_over_its_states(runs: Make) -> None:
    made = runs(("vindr",), "[1.0]")
    study, run_id = made.study, made.study.run_id(PRIVATE)
    seen = []
    for status, steps in (("running", 10), ("interrupted", 12), ("running", 20), ("finished", NUM_STEPS)):
        paths = made.train(PRIVATE, status=status, steps=steps)
        state = read_json(paths.state)
        write_json(paths.state, {**state, "updated": time.time()} if status == "running" else state)
        assert sync(study).sent == 1
        found = contents(study)[run_id]
        assert len([p for p in found["points"] if p[0] == "loss"]) == steps
        seen.append(found["status"])
    assert seen == ["RUNNING", "KILLED", "RUNNING", "FINISHED"]
    made.train(PRIVATE, status="failed", steps=3)
    sync(study)
    assert contents(study)[run_id]["status"] == "FAILED"


def test_a_silent_run_is_killed_unless_somebody_holds_its_lock(runs: Make) -> None:
    made = runs(("vindr",), "[1.0]")
    paths = made.train(PRIVATE, status="running", steps=10)  # its last word is from 2023
    code = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True)"
    holder = subprocess.Popen(
        [sys.executable, "-c", f"{code}; sys.stdin.read()", str(paths.lock)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout
    assert holder.stdout.readline() == b"held\n"
    sync(made.study)
    assert contents(made.study)[paths.run_id]["status"] == "RUNNING"
    holder.communicate()
    sync(made.study)
    assert contents(made.study)[paths.run_id]["status"] == "KILLED"
    with exclusive_lock(paths.lock, blocking=False):
        pass  # the look at the lock has left it free


def test_what_is_undefined_is_a_tag_with_its_reason_until_it_is_defined(runs: Make) -> None:
    made = runs(("vindr",), "[inf]")
    made.train(PLAIN)
    made.evaluate(PLAIN, change=lambda frame: frame.assign(target_pneumonia=0.0))
    sync(made.study)
    tags = contents(made.study)[made.study.run_id(PLAIN)]["tags"]
    assert tags["auc/vindr/pneumonia.undefined"] == "one class only: 0 of 240 images positive"
    assert tags["epsilon.undefined"] == "trained without DP"
    shown = latest(made.study, PLAIN)
    assert "auc/vindr/pneumonia" not in shown
    assert "epsilon" not in shown
    assert all(math.isfinite(value) and abs(value) < 1e300 for value in shown.values())
    made.evaluate(PLAIN)
    sync(made.study)
    tags = contents(made.study)[made.study.run_id(PLAIN)]["tags"]
    assert "auc/vindr/pneumonia.undefined" not in tags
    assert 0 < latest(made.study, PLAIN)["auc/vindr/pneumonia"] < 1


def test_numbers_that_were_not_finite_are_told_with_their_reason(runs: Make) -> None:
    made = runs(("vindr",), "[1.0]")
    paths = made.train(PRIVATE)
    lines = [json.loads(line) for line in paths.metrics_log.read_text().splitlines()]
    for line in lines[:3]:  # as `append_metrics` writes NaN and infinity
        line |= {"loss": None, "epsilon": None}
    paths.metrics_log.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    sync(made.study)
    run = contents(made.study)[paths.run_id]
    reason = "NaN or infinite, an empty batch, or a head in closed form"
    assert run["tags"]["loss.undefined"] == f"3 of 40 logged values: {reason}"
    assert run["tags"]["epsilon.undefined"].startswith("3 of 40 logged values: no finite bound")
    assert len([point for point in run["points"] if point[0] == "loss"]) == NUM_STEPS - 3


def test_a_second_evaluation_s_values_are_the_ones_shown(runs: Make) -> None:
    made = runs(("vindr",), "[inf]").all()
    sync(made.study)
    first = latest(made.study, PLAIN)["auc/vindr/healthy"]
    made.evaluate(PLAIN, change=lambda frame: frame.assign(score_healthy=1 - frame["score_healthy"]))
    sync(made.study)
    assert latest(made.study, PLAIN)["auc/vindr/healthy"] == pytest.approx(1 - first)


def test_no_run_has_more_than_150_metrics_and_the_rest_is_an_artifact(runs: Make) -> None:
    many = tuple(f"hospital_{number}" for number in range(20))
    made = runs(many, "[1.0]")
    cell = Cell("hospital_3", 1.0, 0)
    made.train(cell)
    made.evaluate(cell)
    sync(made.study)
    shown = latest(made.study, cell)
    assert len(shown) == MAX_METRIC_KEYS == 150
    assert {"auc", "auc_off_domain", "auc/hospital_19/healthy"} <= set(shown)
    (folder,) = (file.parent for file in made.study.paths.mlflow_artifacts.rglob("metrics.csv"))
    table = pd.read_csv(folder / "metrics.csv")
    assert len(table) == len(pd.read_parquet(made.study.paths.run(made.study.run_id(cell)).metrics))


def test_a_long_log_is_thinned_to_a_chart_of_a_thousand_points(runs: Make) -> None:
    made = runs(("vindr",), "[1.0]")
    paths = made.train(PRIVATE)
    write_json(paths.config, {**read_json(paths.config), "num_steps": 50_000})
    lines = ({"step": step, "loss": 0.5, "epsilon": None, "time": 1e9 + step} for step in range(10, 50_001, 10))
    paths.metrics_log.write_text("".join(f"{json.dumps(line)}\n" for line in lines) + '{"step": 50010, "lo')
    run = read_run(made.study, paths.run_id)
    assert run is not None
    points = [point.step for point in payload(run).points]
    assert 900 <= len(points) <= 1001
    assert points[-1] == 50_000


@pytest.mark.slow
def test_no_patient_image_or_path_reaches_mlflow(runs: Make) -> None:
    study = runs(TWO, "[1.0, inf]").all().study
    for cell in study.cells():  # a settings table with paths in it, should training ever write one
        paths = study.paths.run(study.run_id(cell))
        config = read_json(paths.config)
        config["settings"]["domains"] = {"uka": {"root": "/hospital/SECRETPATIENT7"}}
        config["settings"]["model"]["init_weights"] = "/hospital/SECRETPATIENT7/weights.pt"
        write_json(paths.config, config)
    write_report(study)
    sync(study)
    files = [file for file in study.paths.mlflow_artifacts.rglob("*") if file.is_file()]
    with closing(sqlite3.connect(study.paths.mlflow_database)) as database:
        dump = "\n".join(database.iterdump())
    assert len(files) > 10
    assert "vindr · no DP" in dump
    for secret in ("SECRETPATIENT", "SECRETIMAGE", "/hospital"):
        assert secret not in dump
        for file in files:
            assert secret.encode() not in file.read_bytes(), file.name
    user = os.environ.get("USER") or "root"
    assert f"'{user}'" not in dump


def test_a_server_that_is_down_is_one_clear_error_soon(runs: Make) -> None:
    port = free_port()
    uri = f"http://somebody:hunter2@127.0.0.1:{port}"
    study = runs(("vindr",), "[inf]", more=f'[tracking]\nuri = "{uri}"').all().study
    begun = time.monotonic()
    with pytest.raises(TrackingError, match=rf"MLflow at http://127\.0\.0\.1:{port}: .*dpdt sync") as caught:
        sync(study)
    assert time.monotonic() - begun < 20
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_kind_of_store_is_an_error(runs: Make) -> None:
    study = runs(("vindr",), "[inf]", more='[tracking]\nuri = "carrier-pigeon://here"').all().study
    with pytest.raises(TrackingError, match="MLflow at carrier-pigeon://here"):
        sync(study)


def test_errors_keep_passwords_to_themselves() -> None:
    uri = "postgresql://me:pass@db.example/mlflow"
    assert public_name(uri) == "postgresql://db.example/mlflow"
    assert public_name("http://me:pass@[::1]:5000/x") == "http://[::1]:5000/x"  # RFC 3986, 3.2.2: IPv6 in brackets
    with pytest.raises(TrackingError, match=r"db\.example") as caught, explained(uri):
        raise OSError(f"cannot connect to {uri}\nand a long explanation")
    assert "pass@" not in str(caught.value)


def test_the_store_is_in_the_study_s_folder_and_made_nowhere_else(
    fake_runs: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    study = fake_runs(("vindr",), "[inf]").all().study
    with pytest.raises(TrackingError, match=r"mlflow\.db: no tracking store yet.*dpdt sync"):
        compare_url(study, "http://127.0.0.1:5000")
    assert not study.paths.mlflow_database.exists()
    sync(study)
    assert study.paths.mlflow_database.exists()
    assert list(elsewhere.iterdir()) == []
    study.file.write_text(study.file.read_text() + '[tracking]\nuri = "sqlite:///other.db"\n')
    assert tracking_uri(load_study(study.file)) == f"sqlite:///{study.folder}/other.db"


def test_a_study_without_runs_sends_nothing(fake_runs: Make) -> None:
    study = fake_runs(("vindr",), "[inf]").study
    assert str(sync(study)) == "No run has begun: nothing to send to MLflow."
    assert not study.paths.mlflow_database.exists()


def test_the_compare_page_has_dp_and_non_dp_runs_chosen(runs: Make) -> None:
    study = runs(TWO, "[1.0, inf]").study
    with pytest.raises(TrackingError, match=r"has 0 runs of 'a study'.*dpdt sync"):
        compare_url(study, "http://127.0.0.1:5000")
    made = FakeRuns(study).all()
    sync(made.study)
    address = compare_url(study, "http://127.0.0.1:5000/")
    assert address.startswith("http://127.0.0.1:5000/#/compare-runs?runs=%5B%22")
    query = parse_qs(address.partition("?")[2])
    with closing(sqlite3.connect(study.paths.mlflow_database)) as database:
        chosen = "select value from tags where key = 'dpdt.arm' and run_uuid = ?"
        arms = [database.execute(chosen, [run]).fetchone()[0] for run in json.loads(query["runs"][0])]
    assert arms == ["DP", "no DP"] * 2
    assert json.loads(query["experiments"][0]) == ["1"]


def test_a_deleted_experiment_comes_back(runs: Make) -> None:
    study = runs(("vindr",), "[inf]").all().study
    sync(study)
    client = open_client(tracking_uri(study))
    client.delete_experiment("1")
    assert sync(study).runs == 1
    assert client.get_experiment("1").lifecycle_stage == "active"
    assert len(contents(study)) == 2


@pytest.mark.slow
def test_processes_that_sync_at_once_into_a_new_store_lose_nothing(fake_runs: Make) -> None:
    study = fake_runs(TWO, "[1.0, inf]").all().study
    code = "import sys; from dpdt.study import load_study; from dpdt.tracking.sync import sync;"
    code += "sync(load_study(sys.argv[1]))"
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(study.file)], stderr=subprocess.PIPE) for _ in range(3)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert sync(study).sent == 0
    assert len(contents(study)) == 5


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)])
def test_a_taken_port_is_a_clear_error(host: str, family: socket.AddressFamily, runs: Make) -> None:
    study = runs(("vindr",), "[inf]").all().study
    sync(study)
    with socket.socket(family) as taken:
        try:
            taken.bind((host, 0))
        except OSError:
            pytest.skip(f"this machine has no {host}")
        taken.listen()
        port = taken.getsockname()[1]
        words = rf"port {port} on {re.escape(host)} is taken \(Address already in use\).*--port 0"
        with pytest.raises(TrackingError, match=words):
            serve_ui(study, port=port, host=host)


def test_an_address_of_another_machine_is_not_called_taken(runs: Make) -> None:
    study = runs(("vindr",), "[inf]").all().study
    sync(study)
    with pytest.raises(TrackingError, match=r"port 5000 on 203\.0\.113\.1 cannot be opened .*--host"):
        serve_ui(study, port=5000, host="203.0.113.1")  # RFC 5737: of no machine


def test_a_server_s_own_address_is_printed_and_nothing_is_started(
    runs: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = runs(("vindr",), "[inf]", more='[tracking]\nuri = "https://mlflow.example"').study
    monkeypatch.setattr("dpdt.tracking.ui.compare_url", lambda _, base: f"{base}/#/compare-runs?…")
    serve_ui(study, port=0)
    assert capsys.readouterr().out == "Compare DP and non-DP runs: https://mlflow.example/#/compare-runs?…\n"


@pytest.mark.slow
def test_the_ui_serves_every_run_on_this_machine_alone_until_ctrl_c(runs: Make) -> None:
    study = runs(TWO, "[1.0, inf]").all().study
    sync(study)
    code = "import sys; from dpdt.study import load_study; from dpdt.tracking.ui import serve_ui; "
    code += "serve_ui(load_study(sys.argv[1]), port=0)"
    ui = subprocess.Popen([sys.executable, "-c", code, str(study.file)], stdout=subprocess.PIPE, text=True)
    try:
        assert ui.stdout
        lines = []
        while "Ctrl-C" not in "".join(lines):
            line = ui.stdout.readline()
            assert line, "".join(lines)
            lines.append(line)
        base = lines[1].split()[-1].removesuffix("/runs")
        assert base.startswith("http://127.0.0.1:")
        assert lines[2].split()[-1] == f"{base}/compare"
        for short, long in (
            ("compare", "/#/compare-runs?runs="),
            ("runs", "/#/experiments/1/runs?viewStateShareKey=dpdt&"),
        ):
            with urllib.request.urlopen(f"{base}/{short}", timeout=120) as answer:
                page = answer.read().decode()
            assert html.unescape(re.findall(r'href="([^"]+)"', page)[0]).startswith(long)
        body = json.dumps({"experiment_ids": ["1"], "order_by": ["metrics.`auc/uka/healthy` DESC"]}).encode()
        request = urllib.request.Request(
            f"{base}/api/2.0/mlflow/runs/search", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            assert len(json.load(answer)["runs"]) == 5
        ui.send_signal(signal.SIGINT)
        assert ui.wait(120) == 0
        host, port = base.removeprefix("http://").split(":")
        with socket.socket() as probe:
            assert probe.connect_ex((host, int(port))) != 0  # nobody is left behind
    finally:
        ui.kill()
        ui.communicate()


@pytest.mark.slow
def test_artifacts_follow_a_study_that_was_moved(runs: Make, tmp_path: Path) -> None:
    """The database has absolute addresses: `mv`, another mount, or a container's /study opened on the host."""
    study = runs(("vindr",), "[1.0, inf]").all().study
    sync(study)

    def artifacts(study: Study) -> dict[str, list[str]]:
        client = open_client(tracking_uri(study))
        experiment = client.get_experiment_by_name(study.name)
        assert experiment is not None
        found = client.search_runs([experiment.experiment_id])
        return {run.data.tags["dpdt.run_id"]: [a.path for a in client.list_artifacts(run.info.run_id)] for run in found}

    before = artifacts(study)
    assert all("privacy.json" in names for name, names in before.items() if name != "study")
    there = tmp_path.with_name(f"{tmp_path.name} moved, 100%")  # its address has signs that must be escaped
    tmp_path.rename(there)
    moved = load_study(there)
    assert not stage.done(moved)  # `dpdt submit` sends its task again, too
    write_json(moved.paths.run(moved.run_id(PLAIN)).privacy, {"paragraph": "news"})
    command = [sys.executable, "-m", "dpdt", "sync", str(there)]  # MLflow keeps places in a process that knew them
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "the study was moved: MLflow's artifacts are now those in" in done.stderr
    assert "1 with news sent" in done.stdout
    assert artifacts(moved) == before
    assert not was_moved(moved)
    assert sync(moved).sent == 0
    client = open_client(tracking_uri(moved))
    (run,) = client.search_runs(["1"], f"tags.`dpdt.run_id` = '{moved.run_id(PLAIN)}'")
    assert "news" in Path(client.download_artifacts(run.info.run_id, "privacy.json")).read_text()
    assert not tmp_path.exists()  # the old folder is not made again
    tmp_path.mkdir()  # pytest's to remove


@pytest.mark.slow
def test_an_artifact_store_that_was_chosen_stays(runs: Make, tmp_path: Path) -> None:
    study = runs(("vindr",), "[inf]").all().study
    chosen = (tmp_path / "chosen by hand").as_uri()
    open_client(tracking_uri(study)).create_experiment(study.name, artifact_location=chosen)
    assert not was_moved(study)
    sync(study)
    assert open_client(tracking_uri(study)).get_experiment_by_name(study.name).artifact_location == chosen
