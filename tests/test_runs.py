"""A run's small files: config, state, metrics log."""

import json
import math
import sys
from pathlib import Path

import pytest

from dpdt.base.files import read_json
from dpdt.base.machine import image_digest
from dpdt.errors import DpdtError
from dpdt.runs.config import freeze_config, frozen_settings
from dpdt.runs.metrics_log import append_metrics, keep_metrics_until
from dpdt.runs.state import RunSummary, read_state, run_done, summary_of, write_state
from dpdt.study.paths import RunPaths
from tests.small_data import MakeStudy

CONFIG = {"run_id": "r", "settings": {"train": {"learning_rate": 1e-3, "physical_batch_size": 8}}, "data": {"units": 5}}


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return RunPaths(tmp_path / "r")


def test_the_config_is_written_once(paths: RunPaths) -> None:
    first = freeze_config(paths, CONFIG)
    assert first["versions"]["torch"]
    written = paths.config.read_bytes()
    assert freeze_config(paths, CONFIG) == first
    assert paths.config.read_bytes() == written


def test_the_config_names_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DPDT_IMAGE_DIGEST", raising=False)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert image_digest() is None
    assert "image" not in freeze_config(RunPaths(tmp_path / "outside"), CONFIG)["versions"]
    (tmp_path / "share/dpdt").mkdir(parents=True)
    (tmp_path / "share/dpdt/image.txt").write_text("contents-sha256:aa\n")
    assert freeze_config(RunPaths(tmp_path / "inside"), CONFIG)["versions"]["image"] == "contents-sha256:aa"
    monkeypatch.setenv("DPDT_IMAGE_DIGEST", "sha256:bb")
    assert freeze_config(RunPaths(tmp_path / "told"), CONFIG)["versions"]["image"] == "sha256:bb"


def test_a_run_begun_with_other_settings_is_refused_and_the_key_named(paths: RunPaths) -> None:
    freeze_config(paths, CONFIG)
    other = {**CONFIG, "settings": {"train": {"learning_rate": 0.5, "physical_batch_size": 8}}}
    with pytest.raises(DpdtError, match=r"begun with settings\.train\.learning_rate = 0\.001, it is 0\.5 now"):
        freeze_config(paths, other)
    with pytest.raises(DpdtError, match=r"data\.units = 5, it is 6 now"):
        freeze_config(paths, {**CONFIG, "data": {"units": 6}})


def test_speed_may_change(paths: RunPaths) -> None:
    freeze_config(paths, CONFIG)
    freeze_config(paths, {**CONFIG, "settings": {"train": {"learning_rate": 1e-3, "physical_batch_size": 99}}})


def test_the_config_has_no_path_of_raw_data(make_study: MakeStudy) -> None:
    settings = frozen_settings(make_study(), kind="train")
    assert set(settings) == {"seed", "shards", "model", "train", "privacy"}
    assert "target_epsilons" not in settings["privacy"]
    json.dumps(settings, allow_nan=False)


def test_a_number_that_is_not_finite_is_null_in_the_log(paths: RunPaths) -> None:
    paths.folder.mkdir()
    append_metrics(paths, step=1, loss=math.nan, epsilon=None)
    line = json.loads(paths.metrics_log.read_text())
    assert (line["step"], line["loss"], line["epsilon"]) == (1, None, None)


def test_the_log_goes_back_with_the_training(paths: RunPaths) -> None:
    paths.folder.mkdir()
    keep_metrics_until(paths, 3)
    for step in (2, 4, 6):
        append_metrics(paths, step=step)
    with paths.metrics_log.open("a") as stream:
        stream.write('{"step": 8, "lo')  # cut off by a crash
    keep_metrics_until(paths, 4)
    assert [json.loads(line)["step"] for line in paths.metrics_log.read_text().splitlines()] == [2, 4]


def test_the_state_is_what_was_written(paths: RunPaths) -> None:
    assert read_state(paths) is None
    write_state(paths, status="running", step=3, num_steps=9, epsilon=math.inf, target_epsilon=None)
    state = read_json(paths.state)
    assert {key: state[key] for key in ("status", "step", "num_steps", "epsilon")} == {
        "status": "running",
        "step": 3,
        "num_steps": 9,
        "epsilon": None,
    }
    assert summary_of(paths).step == 3


def test_a_run_is_done_when_it_says_so_and_has_its_weights(make_study: MakeStudy) -> None:
    study = make_study()
    paths = study.paths.run("r")
    assert not run_done(study, "r")
    write_state(paths, status="finished", step=9, num_steps=9, epsilon=None, target_epsilon=None)
    assert not run_done(study, "r")
    paths.checkpoints.mkdir()
    paths.weights.write_bytes(b"")
    assert run_done(study, "r")


def test_a_summary_is_one_line() -> None:
    summary = RunSummary("r", "finished", 9, 9, epsilon=7.954, target_epsilon=8.0, seconds=1.25)
    assert str(summary) == "r: finished, 9 of 9 steps, epsilon 7.96 of 8, 1.2 s"  # rounded up
    assert str(RunSummary("r", "interrupted", 3, 9, None, None)) == "r: interrupted, 3 of 9 steps, no DP, done before"
