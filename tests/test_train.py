"""Whole trainings on small data: both arms, resumed, interrupted, crashed, refused."""

import fcntl
import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import dpdt.training.loop
from dpdt.base.files import exclusive_lock, read_json
from dpdt.errors import DpdtError, PrivacyError, ShardError, StudyError
from dpdt.jobs.checks import check_deltas
from dpdt.jobs.submit import submit
from dpdt.privacy.accounting import epsilon
from dpdt.privacy.clipping.engines import ClippedGradientSum
from dpdt.privacy.keystream import KeyStream
from dpdt.privacy.ledger import read_spent_steps
from dpdt.privacy.mechanism import Mechanism
from dpdt.runs.checkpoint import load_checkpoint, remove_checkpoints, save_checkpoint
from dpdt.shards.dataset import load_split
from dpdt.study import Cell, Study
from dpdt.study.paths import RunPaths
from dpdt.training.device import choose_device
from dpdt.training.networks.build import build_model
from dpdt.training.networks.weights import load_weights
from dpdt.training.train import pretrain, run_done, train
from tests.recorded_noise import recording
from tests.small_data import MakeStudy, StopAfter

pytestmark = pytest.mark.slow

DP = Cell("uka", 8.0, 0)
PLAIN = Cell("uka", math.inf, 0)
NUM_STEPS = 20  # 5 epochs of 32 patients, 8 a batch


@pytest.fixture
def study(make_study: MakeStudy) -> Study:
    """A study whose pretraining is done."""
    study = make_study()
    pretrain(study)
    return study


def paths_of(study: Study, cell: Cell) -> RunPaths:
    return study.paths.run(study.run_id(cell))


def weights_of(study: Study, cell: Cell) -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = torch.load(paths_of(study, cell).weights, weights_only=True)
    return loaded


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def accounted(config: dict[str, Any]) -> float:
    """The noise over what one unit can move the sum by, C·(1 + s)."""
    return float(config["noise_multiplier"] / (1 + config["rounding_allowance"]))


class Crash(Exception):
    """Stands for the end of the process."""


def crash_at_step(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let the training die in the middle of a step, after its noise."""
    plain = dpdt.training.loop.TrainingLoop._take_step

    def take(self: dpdt.training.loop.TrainingLoop, rows: Any) -> torch.Tensor:
        losses = plain(self, rows)
        if self.step + 1 == number:
            raise Crash
        return losses

    monkeypatch.setattr(dpdt.training.loop.TrainingLoop, "_take_step", take)


def test_a_dp_training_leaves_every_file_of_the_run(study: Study) -> None:
    summary = train(study, DP)
    paths = paths_of(study, DP)
    assert (summary.status, summary.step, summary.num_steps) == ("finished", NUM_STEPS, NUM_STEPS)
    assert "finished, 20 of 20 steps, epsilon" in str(summary)
    config = read_json(paths.config)
    assert (config["kind"], config["domain"], config["seed"], config["target_epsilon"]) == ("train", "uka", 0, 8.0)
    assert config["data"]["units"] == 32
    assert config["num_steps"] == NUM_STEPS
    assert config["sample_rate"] == 0.25
    assert config["initial_weights"]["source"] == study.pretrain_run_id
    assert config["synthetic"] is True
    state = read_json(paths.state)
    assert state["status"] == "finished"
    assert state["target_epsilon"] == 8.0
    spent = epsilon(noise_multiplier=accounted(config), sample_rate=0.25, num_steps=NUM_STEPS, delta=1e-3)
    assert state["epsilon"] == spent
    assert 0.98 * 8 <= spent <= 8
    assert read_spent_steps(paths.ledger) == NUM_STEPS
    lines = [json.loads(line) for line in paths.metrics_log.read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(2, NUM_STEPS + 1, 2))  # a checkpoint, so a block, in 2 steps
    assert all(a["epsilon"] < b["epsilon"] for a, b in itertools.pairwise(lines))
    assert set(lines[0]) == {"step", "epoch", "loss", "epsilon", "step_s", "time"}
    statement = read_json(paths.privacy)
    assert statement["epsilon"] == spent
    assert statement["complete"]
    assert statement["unit"] == "patient"
    assert sorted(p.name for p in paths.checkpoints.iterdir()) == ["final.pt"]  # the keys of the noise are gone


def test_the_arm_without_dp_has_the_same_files_without_an_epsilon(study: Study) -> None:
    summary = train(study, PLAIN)
    paths = paths_of(study, PLAIN)
    assert summary.epsilon is None
    assert summary.target_epsilon is None
    assert "no DP" in str(summary)
    assert read_json(paths.privacy)["mechanism"] == "none"
    assert read_json(paths.privacy)["epsilon"] is None
    assert read_json(paths.state)["epsilon"] is None
    assert read_json(paths.config)["target_epsilon"] is None
    assert not paths.ledger.exists()


def test_a_finished_run_is_not_trained_again(study: Study) -> None:
    train(study, PLAIN)
    before = paths_of(study, PLAIN).weights.stat().st_mtime_ns
    again = train(study, PLAIN)
    assert again.status == "finished"
    assert again.seconds == 0.0
    assert "done before" in str(again)
    assert paths_of(study, PLAIN).weights.stat().st_mtime_ns == before
    assert run_done(study, study.run_id(PLAIN))


@pytest.mark.slow
def test_final_weights_load_strictly_without_opacus(study: Study) -> None:
    # DP-15: names with the wrapper's prefix did not load in the evaluation job.
    train(study, DP)
    code = (
        "import sys, torch; from dpdt.study import load_study; from dpdt.training.networks.build import build_model;"
        f"model = build_model(load_study({str(study.file)!r}).model);"
        f"state = torch.load({str(paths_of(study, DP).weights)!r}, weights_only=True);"
        "model.load_state_dict(state, strict=True); assert 'opacus' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_opacus_and_mlflow_are_not_imported_without_dp(study: Study) -> None:
    code = (
        "import sys, math; from dpdt.study import load_study, Cell; from dpdt.training.train import train;"
        f"train(load_study({str(study.file)!r}), Cell('uka', math.inf, 0));"
        "assert not {'opacus', 'mlflow', 'sklearn', 'dp_accounting'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("cell", [DP, PLAIN], ids=["dp", "plain"])
@pytest.mark.parametrize("looks", [1, 7, 16])
def test_an_orderly_stop_and_a_resume_give_the_same_weights_bit_by_bit(
    study: Study, make_study: MakeStudy, cell: Cell, looks: int, tmp_path: Path
) -> None:
    train(study, cell, seeded_randomness=True)
    expected = weights_of(study, cell)
    paths = paths_of(study, cell)
    paths.folder.rename(tmp_path / "undisturbed")
    first = train(study, cell, stop=StopAfter(looks), seeded_randomness=True)
    assert first.status == "interrupted"
    assert first.step < NUM_STEPS
    assert read_json(paths.state)["status"] == "interrupted"
    if cell.private:
        assert read_spent_steps(paths.ledger) == first.step  # no budget is lost
    second = train(study, cell, seeded_randomness=True)
    assert second.status == "finished"
    assert second.step == NUM_STEPS
    assert equal(weights_of(study, cell), expected)


def test_with_cryptographic_randomness_two_trainings_differ(study: Study, tmp_path: Path) -> None:
    train(study, DP)
    first = weights_of(study, DP)
    paths_of(study, DP).folder.rename(tmp_path / "first")
    train(study, DP)
    assert not equal(weights_of(study, DP), first)


def test_the_number_of_images_at_once_changes_neither_run_nor_result(
    study: Study, make_study: MakeStudy, tmp_path: Path
) -> None:
    train(study, DP, seeded_randomness=True)
    first, run_id = weights_of(study, DP), study.run_id(DP)
    paths_of(study, DP).folder.rename(tmp_path / "first")
    other = make_study(("physical_batch_size = 5", "physical_batch_size = 2"))
    assert other.run_id(DP) == run_id
    train(other, DP, seeded_randomness=True)
    for name, value in weights_of(other, DP).items():
        torch.testing.assert_close(value, first[name], rtol=1e-3, atol=1e-4)


def test_a_shard_that_is_cut_under_a_training_ends_it_with_a_clear_error_and_the_ledger_whole(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = sorted(study.paths.shards("uka").folder.glob("shard-*.npy"))
    whole = {file: file.read_bytes() for file in shards}
    plain = dpdt.training.loop.TrainingLoop._take_step

    def cut_at_step_6(self: dpdt.training.loop.TrainingLoop, rows: Any) -> torch.Tensor:
        if self.step == 5:
            for file in shards:
                os.truncate(file, 0)
        return plain(self, rows)

    with monkeypatch.context() as patch:
        patch.setattr(dpdt.training.loop.TrainingLoop, "_take_step", cut_at_step_6)
        with pytest.raises(ShardError, match="its pixels could not be read: it has 0 bytes"):
            train(study, DP)
    paths = paths_of(study, DP)
    assert read_json(paths.state)["status"] == "failed"
    assert 6 <= read_spent_steps(paths.ledger) < NUM_STEPS  # whatever was begun is paid for
    for file, data in whole.items():
        file.write_bytes(data)  # the same file, put back
    summary = train(study, DP)
    assert summary.status == "finished"
    assert summary.epsilon is not None
    assert summary.epsilon <= 8


def test_after_a_crash_the_steps_taken_again_are_paid_for_again(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        crash_at_step(patch, 8)
        with pytest.raises(Crash):
            train(study, DP)
    paths = paths_of(study, DP)
    state = read_json(paths.state)
    assert state["status"] == "failed"
    assert read_spent_steps(paths.ledger) == 8  # the block of steps 7 and 8 was reserved
    mechanism = read_json(paths.config)
    shared = {"noise_multiplier": accounted(mechanism), "sample_rate": 0.25, "delta": 1e-3}
    assert state["epsilon"] == epsilon(num_steps=8, **shared)  # never below what was spent
    summary = train(study, DP)
    assert summary.status == "finished"
    assert summary.step == NUM_STEPS - 2  # steps 7 and 8 were taken twice, two others never
    assert read_spent_steps(paths.ledger) == NUM_STEPS
    assert summary.epsilon is not None
    assert summary.epsilon <= 8
    steps = [json.loads(line)["step"] for line in paths.metrics_log.read_text().splitlines()]
    assert steps == sorted(set(steps))
    assert steps[-1] == NUM_STEPS - 2


@pytest.mark.slow
def test_a_killed_process_leaves_a_run_that_goes_on_within_its_budget(study: Study) -> None:
    # DP-01: after SIGKILL and a new process the accountant had forgotten the steps before.
    code = (
        "from dpdt.study import Cell, load_study; from dpdt.training.train import train;"
        f"train(load_study({str(study.file)!r}), Cell('uka', 8.0, 0))"
    )
    paths = paths_of(study, DP)
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        while process.poll() is None and (not paths.ledger.exists() or paths.ledger.read_bytes().count(b"\n") < 4):
            time.sleep(0.001)
        process.kill()
    before = read_spent_steps(paths.ledger)
    assert before >= 6
    assert read_json(paths.state)["status"] in ("running", "finished")
    summary = train(study, DP)
    assert summary.status == "finished"
    assert summary.epsilon is not None
    assert summary.epsilon <= 8
    assert read_spent_steps(paths.ledger) == NUM_STEPS
    assert NUM_STEPS - 4 <= summary.step <= NUM_STEPS


def test_noise_of_different_steps_never_coincides_across_crashes_and_resumes(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    # DP-02: the noise stream was replayed from the start after a resume.
    drawn: list[str] = []
    monkeypatch.setattr(ClippedGradientSum, "release", recording(drawn.append))
    for number in (3, 9, 12):
        with monkeypatch.context() as patch:
            crash_at_step(patch, number)
            with pytest.raises(Crash):
                train(study, DP)
    train(study, DP, stop=StopAfter(3))
    train(study, DP)
    assert len(drawn) <= NUM_STEPS  # not one noisy step more than the budget
    assert len(set(drawn)) == len(drawn) > 10


def test_a_training_does_not_go_on_with_other_labels(study: Study) -> None:
    train(study, DP, stop=StopAfter(3))
    table = study.paths.cohort_table("uka")
    cohort = pd.read_parquet(table)
    before = cohort.copy()
    row = cohort.index[cohort["split"] == "train"][-1]
    cohort.loc[row, "healthy"] = 1 - cohort.loc[row, "healthy"]
    cohort.to_parquet(table, index=False)
    with pytest.raises(DpdtError, match=r"begun with data\.labels_hmac = .* it is .* now\. Put it back, or remove"):
        train(study, DP)
    before.to_parquet(table, index=False)
    assert train(study, DP).status == "finished"


def test_without_dp_a_crash_costs_nothing_and_the_result_is_the_same(
    study: Study, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    train(study, PLAIN)
    expected = weights_of(study, PLAIN)
    paths_of(study, PLAIN).folder.rename(tmp_path / "undisturbed")
    with monkeypatch.context() as patch:
        crash_at_step(patch, 9)
        with pytest.raises(Crash):
            train(study, PLAIN)
    train(study, PLAIN)
    assert equal(weights_of(study, PLAIN), expected)


def test_a_budget_spent_in_crashes_ends_in_a_refusal_not_in_an_untrained_model(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash_at_step(monkeypatch, 1)
    for _ in range(NUM_STEPS // 2):
        with pytest.raises(Crash):
            train(study, DP)
    with pytest.raises(PrivacyError, match="all 20 steps are spent, and no checkpoint is left"):
        train(study, DP)


def interrupted(study: Study) -> RunPaths:
    """A DP run that was stopped at step 6."""
    assert train(study, DP, stop=StopAfter(9)).step == 6
    return paths_of(study, DP)


def test_a_checkpoint_without_its_ledger_is_refused(study: Study) -> None:
    interrupted(study).ledger.unlink()
    with pytest.raises(PrivacyError, match="missing, but the run has begun"):
        train(study, DP)


def test_an_older_copy_of_the_ledger_is_refused(study: Study) -> None:
    paths = interrupted(study)
    lines = paths.ledger.read_bytes().splitlines(keepends=True)
    paths.ledger.write_bytes(b"".join(lines[:2]))
    with pytest.raises(PrivacyError, match="counts 2 steps, but the checkpoint has spent 6"):
        train(study, DP)


@pytest.mark.parametrize(
    "broken", [None, {"key": "zz"}, {"key": "00", "draws": 1, "seeded": False}], ids=["missing", "no hex", "short"]
)
def test_a_checkpoint_whose_noise_state_cannot_be_read_is_refused(study: Study, broken: object) -> None:
    folder = interrupted(study).checkpoints
    content = load_checkpoint(folder)
    assert content is not None
    save_checkpoint(folder, step=content["step"], content={**content, "noise": broken})
    with pytest.raises(PrivacyError, match=r"keystream|random numbers cannot be read"):
        train(study, DP)


@pytest.mark.parametrize(
    ("key", "value"), [("noise_multiplier", 0.5), ("sample_rate", 0.5), ("target_epsilon", 3.0), ("num_steps", 30)]
)
def test_a_config_that_was_altered_is_refused(study: Study, key: str, value: float) -> None:
    paths = interrupted(study)
    paths.config.write_text(json.dumps({**read_json(paths.config), key: value}))
    with pytest.raises(DpdtError, match=key):
        train(study, DP)


def test_a_ledger_of_other_noise_is_refused(study: Study) -> None:
    paths = interrupted(study)
    config = read_json(paths.config)
    paths.config.write_text(json.dumps({**config, "noise_multiplier": config["noise_multiplier"] + 1}))
    with pytest.raises(PrivacyError, match=r"noise_multiplier is .* in the ledger and .* in the run's config"):
        train(study, DP)


def test_data_that_changed_since_the_run_began_is_refused(study: Study) -> None:
    interrupted(study)
    manifest = study.paths.shards("uka").manifest
    manifest.write_text(manifest.read_text().replace('"synthetic": true', '"synthetic":  true'))
    with pytest.raises(DpdtError, match=r"data\.manifest_hmac"):
        train(study, DP)


def test_a_second_process_on_the_same_run_is_refused(study: Study) -> None:
    with (
        exclusive_lock(paths_of(study, DP).lock),
        pytest.raises(DpdtError, match="another process is training this run"),
    ):
        train(study, DP)


def test_where_locks_do_not_exclude_one_of_two_processes_stops_and_the_other_s_ledger_holds(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on a file system whose locks are a node's own: both ended "finished", with 320 steps in one ledger.
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    plain, steps, others = dpdt.training.loop.TrainingLoop._take_step, [], []

    def take(self: dpdt.training.loop.TrainingLoop, rows: Any) -> torch.Tensor:
        if self.step == 5 and not others:
            others.append("begun on another node")
            others.append(train(study, DP).status)
        steps.append(self.step)
        return plain(self, rows)

    monkeypatch.setattr(dpdt.training.loop.TrainingLoop, "_take_step", take)
    with pytest.raises(PrivacyError, match="another one trains this run too"):
        train(study, DP)
    assert others == ["begun on another node", "finished"]
    paths = paths_of(study, DP)
    assert read_spent_steps(paths.ledger) == NUM_STEPS >= len(steps) - 1  # 19 before, one more was in a booked block
    assert run_done(study, study.run_id(DP))
    stated = read_json(paths.privacy)
    assert (stated["complete"], stated["num_steps"]) == (True, NUM_STEPS)


def test_no_part_of_a_key_s_numbers_is_drawn_twice_in_a_training(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    # Batches and noise under one key and one nonce: who knows a batch would know its noise.
    used, plain = [], KeyStream._next_nonce

    def next_nonce(self: KeyStream) -> bytes:
        used.append((self.state_dict()["key"], plain(self)))
        return used[-1][1]

    monkeypatch.setattr(KeyStream, "_next_nonce", next_nonce)
    torch_s_own = torch.get_rng_state()
    train(study, DP)
    assert torch.equal(torch.get_rng_state(), torch_s_own)  # its seed has 32 bits: nothing secret may come from there
    assert len(set(used)) == len(used) > 2 * NUM_STEPS
    assert len({key for key, _ in used}) == 2


def test_batches_and_noise_from_one_key_are_refused(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KeyStream, "fresh", lambda: KeyStream(bytes(32)))
    with pytest.raises(PrivacyError, match="batches and noise would come from one key"):
        train(study, DP)


def test_trainings_wait_for_the_pretraining(make_study: MakeStudy) -> None:
    study = make_study()
    with pytest.raises(DpdtError, match=r"pretraining is not finished.*Run `dpdt pretrain"):
        train(study, DP)


def test_cuda_that_is_asked_for_and_missing_is_an_error_at_once(
    make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    # CT-03: a job without its GPU trained on the CPU for days.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DpdtError, match=r"train\.device: 'cuda' was asked for, but torch sees no GPU"):
        pretrain(make_study(('device = "cpu"', 'device = "cuda"')))


def test_a_gpu_computes_float32_in_float32_and_the_same_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = [
        (torch.backends.cuda.matmul, "allow_tf32", True, False),
        (torch.backends.cudnn, "allow_tf32", True, False),
        (torch.backends.cudnn, "deterministic", False, True),
        (torch.backends.cudnn, "benchmark", True, False),
    ]
    before = [getattr(owner, name) for owner, name, *_ in flags]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    try:
        for owner, name, wrong, _ in flags:
            setattr(owner, name, wrong)
        assert choose_device("auto").type == "cuda"
        assert [getattr(owner, name) for owner, name, *_ in flags] == [right for *_, right in flags]
    finally:
        for (owner, name, *_), value in zip(flags, before, strict=True):
            setattr(owner, name, value)


def test_delta_must_be_below_one_over_the_units(make_study: MakeStudy) -> None:
    study = make_study(("delta = 1e-3", "delta = 0.04"))
    pretrain(study)
    refused = r"privacy\.delta: 0\.04 is not below 1 / 32 patients"
    with pytest.raises(PrivacyError, match=refused):
        train(study, DP)
    with pytest.raises(PrivacyError, match=refused):  # before hours of work, as soon as there is a cohort
        submit(study, cluster="debug")
    with pytest.raises(PrivacyError, match=refused):
        check_deltas(study, study.domains)
    check_deltas(study, ["mimic"])  # no DP training is there


def test_a_signal_stops_in_good_order_and_reaches_the_handler_of_before(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    got: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: got.append(number))
    plain = dpdt.training.loop.TrainingLoop._take_step

    def take(self: dpdt.training.loop.TrainingLoop, rows: Any) -> torch.Tensor:
        if self.step == 4:
            os.kill(os.getpid(), signal.SIGUSR2)
        return plain(self, rows)

    monkeypatch.setattr(dpdt.training.loop.TrainingLoop, "_take_step", take)
    try:
        summary = train(study, DP)
        assert got == [signal.SIGUSR2]  # as submitit's handler, which requeues the job
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert summary.status == "interrupted"
    assert summary.step == 5
    assert read_spent_steps(paths_of(study, DP).ledger) == 5


def test_epoch_ends_are_told(study: Study) -> None:
    seen: list[int] = []
    train(study, PLAIN, on_epoch_end=lambda paths: seen.append(read_json(paths.state)["step"]))
    assert len(seen) == 5


def test_pretraining_counts_the_class_weights_of_the_public_domain(study: Study) -> None:
    assert study.pretrain_run_id is not None
    config = read_json(study.paths.run(study.pretrain_run_id).config)
    labels = load_split(study, "mimic", "train").labels
    expected = (labels == 0).sum(0) / (labels == 1).sum(0)
    np.testing.assert_allclose(config["public_class_weights"], expected)
    assert config["kind"] == "pretrain"
    assert config["class_weights"] is None


def test_public_class_weights_are_used_and_stated(make_study: MakeStudy) -> None:
    study = make_study(('device = "cpu"', 'device = "cpu"\nclass_weights = "public"'))
    pretrain(study)
    train(study, DP)
    assert study.pretrain_run_id is not None
    public = read_json(study.paths.run(study.pretrain_run_id).config)["public_class_weights"]
    assert read_json(paths_of(study, DP).config)["class_weights"] == public
    assert "public pretraining data" in read_json(paths_of(study, DP).privacy)["other_releases"][0]["source"]


def test_weights_of_a_file_are_the_start_instead_of_pretraining(make_study: MakeStudy, tmp_path: Path) -> None:
    study = make_study(("width = 8", 'width = 8\ninit_weights = "init.pt"'))
    torch.save(build_model(study.model).state_dict(), tmp_path / "init.pt")
    with pytest.raises(StudyError, match="nothing to pretrain on"):
        pretrain(study)
    train(study, PLAIN)
    assert read_json(paths_of(study, PLAIN).config)["initial_weights"]["source"] == "file init.pt"


def test_without_dp_the_loss_falls(study: Study, make_study: MakeStudy) -> None:
    study = make_study(("num_epochs = 5", "num_epochs = 40"))
    train(study, PLAIN)
    losses = [json.loads(line)["loss"] for line in paths_of(study, PLAIN).metrics_log.read_text().splitlines()]
    assert losses[-1] < 0.7 * losses[0]
    model = build_model(study.model)
    load_weights(model, paths_of(study, PLAIN).weights)


def test_keys_of_noise_that_a_kill_left_beside_a_finished_run_are_removed(study: Study) -> None:
    train(study, DP)
    left = paths_of(study, DP).checkpoints / "step-00000020-0123456789abcdef.pt"
    left.write_bytes(b"killed after the last report, before the checkpoints were removed")
    train(study, DP)
    assert not left.exists()


def test_a_ledger_that_is_older_than_the_state_is_refused(study: Study) -> None:
    train(study, DP, stop=StopAfter(8))
    paths = paths_of(study, DP)
    remove_checkpoints(paths.checkpoints)  # which would tell as well
    lines = paths.ledger.read_text().splitlines(keepends=True)
    paths.ledger.write_text("".join(lines[:2]))
    with pytest.raises(PrivacyError, match=r"counts 2 steps, but state\.json counts . taken ones"):
        train(study, DP)


def test_several_images_a_patient_are_recorded_and_in_the_run_id(make_study: MakeStudy) -> None:
    one = make_study()
    study = make_study(("delta = 1e-3", "delta = 1e-3\nimages_per_patient = 2"))
    assert study.run_id(DP) != one.run_id(DP)
    assert study.run_id(PLAIN) != one.run_id(PLAIN)
    pretrain(study)
    train(study, DP)
    train(study, PLAIN)
    statement = read_json(paths_of(study, DP).privacy)
    assert statement["images_per_unit"] == 2
    assert statement["epsilon"] <= 8


def test_private_class_weights_are_noisy_in_the_dp_arm_frozen_and_paid_for(make_study: MakeStudy) -> None:
    study = make_study(('device = "cpu"', 'device = "cpu"\nclass_weights = "private"'))
    pretrain(study)
    train(study, DP, stop=StopAfter(5))
    config = read_json(paths_of(study, DP).config)
    summary = train(study, DP)
    assert read_json(paths_of(study, DP).config)["class_weights"] == config["class_weights"]  # drawn once
    labels = load_split(study, "uka", "train").labels
    exact = [float(w) for w in (labels == 0).sum(0) / (labels == 1).sum(0)]
    assert config["class_weights"] != pytest.approx(exact, rel=1e-3)
    shared = {"noise_multiplier": accounted(config), "sample_rate": 0.25, "num_steps": 20, "delta": 1e-3}
    assert summary.epsilon == epsilon(**shared, gaussian_noise=config["counts_noise"])
    assert summary.epsilon > epsilon(**shared)
    assert summary.epsilon <= 8
    assert "in epsilon" in read_json(paths_of(study, DP).privacy)["other_releases"][0]["accounted"]
    train(study, PLAIN)
    assert read_json(paths_of(study, PLAIN).config)["class_weights"] == pytest.approx(exact)
    assert "without protection" in read_json(paths_of(study, PLAIN).privacy)["other_releases"][0]["accounted"]


def test_exact_counts_of_private_labels_in_a_dp_arm_are_refused(
    make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(('device = "cpu"', 'device = "cpu"\nclass_weights = "private"'))
    pretrain(study)
    plain = Mechanism.plan
    forget = {"counts_share": None, "counts_noise": None}
    monkeypatch.setattr(Mechanism, "plan", lambda settings, **given: plain(settings, **{**given, **forget}))
    with pytest.raises(PrivacyError, match="exact counts of private labels must not enter a DP training"):
        train(study, DP)


def test_what_the_network_remembers_of_images_never_gets_into_weights_or_checkpoints(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def remembering(*args: Any, **kwargs: Any) -> torch.nn.Module:
        model = build_model(*args, **kwargs)
        model.register_buffer("memory", torch.zeros(()), persistent=False)  # not in the pretrained weights either
        model.register_forward_pre_hook(lambda module, inputs: setattr(module, "memory", inputs[0].mean()))
        return model

    monkeypatch.setattr("dpdt.training.start.build_model", remembering)
    with pytest.raises(PrivacyError, match=r"memory changed in the forward pass.*neither clipping nor noise"):
        train(study, DP)
    folder = paths_of(study, DP).checkpoints
    assert not list(folder.glob("*.pt"))


def test_a_run_whose_config_is_gone_is_not_begun_again_beside_its_ledger(study: Study) -> None:
    paths = interrupted(study)
    paths.config.unlink()
    with pytest.raises(PrivacyError, match=r"config\.json: missing, but the run has a ledger"):
        train(study, DP)


def test_a_dp_run_does_not_start_from_weights_of_its_own_patients(study: Study, make_study: MakeStudy) -> None:
    train(study, PLAIN)
    weights = paths_of(study, PLAIN).weights
    other = make_study(("width = 8", f'width = 8\ninit_weights = "{weights}"'))
    with pytest.raises(PrivacyError, match=r"init_weights: .* was trained on uka itself"):
        train(other, DP)


def begin_with(make_study: MakeStudy, weights: Path, *, domain: str = "uka") -> Study:
    """A study that trains on one domain, starting from a file."""
    role = ('root = "raw/mimic"', 'root = "raw/mimic"\nrole = "study"')
    return make_study(
        ("width = 8", f'width = 8\ninit_weights = "{weights}"'),
        ("num_epochs = 5", f'domains = ["{domain}"]\nnum_epochs = 5'),
        *((role,) if domain == "mimic" else ()),
    )


def test_weights_that_saw_the_patients_three_trainings_ago_are_refused_wherever_they_lie(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    # uka without DP -> DP on mimic -> DP on uka: the first has no bound, and its patients are those of the third.
    study = make_study(('[domains.mimic]\nroot = "raw/mimic"\n', ""))
    train(study, PLAIN)
    copy = Path(shutil.copy(paths_of(study, PLAIN).weights, tmp_path / "copy.pt"))
    with pytest.raises(PrivacyError, match=r"copy\.pt was trained on uka itself \(run uka-"):
        train(begin_with(make_study, copy), DP)
    on_mimic, cell = begin_with(make_study, copy, domain="mimic"), Cell("mimic", 8.0, 0)
    train(on_mimic, cell)
    paths = paths_of(on_mimic, cell)
    ancestry = read_json(paths.config)["ancestry"]
    assert [run["run_id"] for run in ancestry["runs"]] == [study.run_id(PLAIN)]
    assert ancestry["from_random"]
    released = {item["what"]: item["accounted"] for item in read_json(paths.privacy)["other_releases"]}
    assert f"{study.run_id(PLAIN)} (trained on uka). For patients of the train split who" in released["initial weights"]
    assert "from random ones. A patient of this training who was in one" in read_json(paths.privacy)["paragraph"]
    copy = Path(shutil.copy(paths.weights, tmp_path / "again.pt"))
    with pytest.raises(PrivacyError, match=r"comes from mimic-.*, whose weights were trained on uka itself \(run uka-"):
        train(begin_with(make_study, copy), DP)
    shutil.rmtree(paths_of(study, PLAIN).folder)  # a link that is gone is known by what the run after it recorded
    with pytest.raises(PrivacyError, match=r"whose weights were trained on uka itself \(run uka-"):
        train(begin_with(make_study, copy), DP)
    config = read_json(paths.config)  # of a version that recorded none: nobody knows, and the statement says so
    paths.config.write_text(json.dumps({name: value for name, value in config.items() if name != "ancestry"}))
    third = begin_with(make_study, copy)
    train(third, DP)
    paragraph = read_json(paths_of(third, DP).privacy)["paragraph"]
    assert f"not known how those were made beyond {paths.run_id} (trained on mimic): for a patient of this" in paragraph


@pytest.mark.parametrize("keyed", [True, False], ids=["keyed", "begun before hashes were keyed"])
def test_weights_of_the_same_split_under_another_domain_s_name_are_refused(
    study: Study, make_study: MakeStudy, tmp_path: Path, keyed: bool
) -> None:
    train(study, PLAIN)
    there = tmp_path / "elsewhere"
    shutil.copytree(study.folder, there / "out")
    run = there / "out" / "runs" / study.run_id(PLAIN)
    config = read_json(run / "config.json")
    if not keyed:
        data = load_split(study, "uka", "train")
        config["data"] = {"split_sha256": data.split_sha256, "labels_sha256": data.labels_sha256}
    (run / "config.json").write_text(json.dumps({**config, "domain": "lung_clinic"}))
    shutil.rmtree(study.paths.runs)
    again = begin_with(make_study, run / "checkpoints" / "final.pt")
    with pytest.raises(PrivacyError, match="was trained on uka itself under the name lung_clinic"):
        train(again, DP)
    # Other labels of images with the same names: another hospital that numbers them from 0, too.
    name = "labels_hmac" if keyed else "labels_sha256"
    config["data"][name] = "0" * 64
    (run / "config.json").write_text(json.dumps({**config, "domain": "lung_clinic"}))
    assert train(again, DP).status == "finished"


def test_weights_that_learned_from_a_former_cohort_under_another_name_are_refused(
    study: Study, make_study: MakeStudy, tmp_path: Path
) -> None:
    """A cohort that was built anew has other hashes, and its patients are the same people."""
    train(study, PLAIN)
    there = tmp_path / "elsewhere"
    shutil.copytree(study.folder, there / "out")
    run = there / "out" / "runs" / study.run_id(PLAIN)
    (run / "config.json").write_text(json.dumps({**read_json(run / "config.json"), "domain": "lung_clinic"}))
    shutil.rmtree(study.paths.runs)
    data = load_split(study, "uka", "train")
    former = {"name": "uka.old-1", "split_sha256": data.split_sha256, "labels_sha256": data.labels_sha256}
    record = read_json(study.paths.cohort_record("uka"))
    study.paths.cohort_record("uka").write_text(json.dumps({**record, "split_sha256": "0" * 64, "former": [former]}))
    again = begin_with(make_study, run / "checkpoints" / "final.pt")
    with pytest.raises(PrivacyError, match="was trained on uka itself under the name lung_clinic"):
        train(again, DP)


def test_a_run_with_weights_of_a_file_that_was_begun_before_goes_on(make_study: MakeStudy, tmp_path: Path) -> None:
    study = begin_with(make_study, tmp_path / "w.pt")
    torch.save(build_model(study.model).state_dict(), tmp_path / "w.pt")
    train(study, DP, stop=StopAfter(8))
    paths = paths_of(study, DP)
    config = read_json(paths.config)
    assert config.pop("ancestry") == {"runs": [], "from_random": False}
    paths.config.write_text(json.dumps(config))
    assert train(study, DP).status == "finished"
    assert "It began with weights of a file w.pt, and it is not known" in read_json(paths.privacy)["paragraph"]


def test_a_run_begun_before_rounding_was_accounted_for_keeps_its_noise(study: Study) -> None:
    paths = interrupted(study)
    config = read_json(paths.config)
    assert config["rounding_allowance"] > 0
    shutil.rmtree(paths.checkpoints)
    paths.ledger.unlink()
    paths.state.unlink()
    sigma = config["noise_multiplier"]  # more than enough: its target is kept without the allowance too
    del config["rounding_allowance"], config["instruction_set"]
    paths.config.write_text(json.dumps(config))
    summary = train(study, DP)
    statement = read_json(paths.privacy)
    assert summary.epsilon == epsilon(noise_multiplier=sigma, sample_rate=0.25, num_steps=NUM_STEPS, delta=1e-3)
    assert statement["rounding_allowance"] is None
    assert "not accounted for" in statement["rounding_note"]


def test_going_on_with_other_vector_instructions_is_said(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    paths = interrupted(study)
    config = read_json(paths.config)
    paths.config.write_text(json.dumps({**config, "instruction_set": "torch NEON"}))
    assert train(study, DP).status == "finished"
    assert "begun on a processor that computes with torch NEON" in capsys.readouterr().err
