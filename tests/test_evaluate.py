"""Evaluation of a tiny network on two small synthetic hospitals, through the real cohort, shards and data set."""

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score, roc_curve

from dpdt.base.files import make_folder, read_json, sha256_file, write_json
from dpdt.base.parquet import read_stamp, write_stamped
from dpdt.base.vocabulary import LABELS
from dpdt.cohort.build import build_cohort
from dpdt.cohort.synthetic import make_hospitals
from dpdt.cohort.table import read_cohort, read_record
from dpdt.errors import CohortError, DpdtError, ShardError
from dpdt.evaluation.evaluate import _summary, evaluate_run, evaluation_done
from dpdt.evaluation.predict import PREDICTION_COLUMNS
from dpdt.shards.build import build_shards
from dpdt.shards.dataset import load_split
from dpdt.study import Cell, Study, load_study
from dpdt.study.paths import RunPaths
from dpdt.training.networks.build import as_input, build_model
from tests.fake_runs import FakeRuns

DOMAINS = ("chexpert", "uka")
CELL = Cell("chexpert", math.inf, 0)
STUDY = """
[domains.chexpert]
root = "raw/chexpert"
val_fraction = 0.3
[domains.uka]
root = "raw/uka"
[shards]
size = 32
[model]
width = 8
[privacy]
target_epsilons = [inf]
[evaluate]
bootstrap_draws = 25
min_subgroup_size = 5
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose one training (on chexpert) is finished."""
    folder = tmp_path_factory.mktemp("base")
    (folder / "study.toml").write_text(STUDY)
    study = load_study(folder)
    make_hospitals(folder / "raw", domains=DOMAINS, patients=80, image_size=48)
    for domain in DOMAINS:
        build_cohort(study, domain)
        build_shards(study, domain)
    paths = study.paths.run(study.run_id(CELL))
    make_folder(paths.checkpoints)
    torch.manual_seed(0)
    torch.save(build_model(study.model).state_dict(), paths.weights)
    data = {"split_sha256": read_record(study, "chexpert")["split_sha256"]}
    write_json(paths.config, {"run_id": paths.run_id, "domain": "chexpert", "target_epsilon": None, "data": data})
    write_json(paths.state, {"status": "finished", "step": 9, "num_steps": 9})
    return folder


@pytest.fixture
def study(base: Path, tmp_path: Path) -> Study:
    """A copy of it that a test may damage."""
    return copy_of(base, tmp_path / "study")


def copy_of(base: Path, folder: Path) -> Study:
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("raw"))
    return load_study(folder)


@pytest.fixture(scope="module")
def evaluated(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The study after its evaluation: only for reading."""
    study = copy_of(base, tmp_path_factory.mktemp("evaluated") / "study")
    evaluate_run(study, study.run_id(CELL))
    return study


def run_of(study: Study) -> RunPaths:
    return study.paths.run(study.run_id(CELL))


def metric(table: pd.DataFrame, **wanted: str) -> pd.Series:
    chosen = (table[list(wanted)] == pd.Series(wanted)).all(axis=1)
    assert chosen.sum() == 1
    return table[chosen].iloc[0]


def test_predictions_are_the_model_s_probabilities_on_test_images(evaluated: Study) -> None:
    paths = run_of(evaluated)
    frame = pd.read_parquet(paths.predictions("uka"))
    assert tuple(frame.columns) == PREDICTION_COLUMNS
    assert (frame["target"].dtype, frame["score"].dtype) == (pd.Int8Dtype(), np.float32)
    data = load_split(evaluated, "uka", "test")
    model = build_model(evaluated.model)
    model.load_state_dict(torch.load(paths.weights, weights_only=True))
    with torch.inference_mode():
        expected = torch.sigmoid(model.eval()(as_input(data.images(np.arange(len(data))))))
    for number, label in enumerate(LABELS):
        part = frame[frame["label"] == label]
        assert list(part["image_id"]) == list(data.image_ids)
        # Other batches than the evaluation's, so the last bits may differ.
        np.testing.assert_allclose(part["score"], expected[:, number], atol=1e-5)
        np.testing.assert_array_equal(part["target"].astype("Float64"), data.frame[label].astype("Float64"))


def test_no_raw_patient_id_is_in_the_predictions(evaluated: Study) -> None:
    for domain in DOMAINS:
        ids = set(read_cohort(evaluated, domain)["patient_id"])
        frame = pd.read_parquet(run_of(evaluated).predictions(domain))
        assert frame["patient_key"].str.fullmatch("[0-9a-f]{16}").all()
        assert not ids & set(frame["patient_key"])
        patients = load_split(evaluated, domain, "test").frame["patient_id"]
        assert frame["patient_key"].nunique() == patients.nunique()


def test_auc_equals_scikit_learn_on_the_stored_predictions(evaluated: Study) -> None:
    paths = run_of(evaluated)
    table = pd.read_parquet(paths.metrics)
    for domain in DOMAINS:
        frame = pd.read_parquet(paths.predictions(domain))
        known = frame[(frame["label"] == "pleural_effusion") & frame["target"].notna()]
        row = metric(table, test_domain=domain, label="pleural_effusion", subgroup="all", metric="auc")
        expected = roc_auc_score(known["target"].astype(int), known["score"])
        assert row["value"] == pytest.approx(expected, abs=1e-12)
        assert row["n"] == len(known)
        fewest = known.groupby("target")["patient_key"].nunique().min()  # of either class, in this small study
        assert math.isnan(row["ci_low"]) == (fewest < 10)
        assert row["reason"].endswith("fewer than 10: no interval, no test") == (fewest < 10)
        assert fewest < 10 or row["ci_low"] <= row["value"] <= row["ci_high"]


def test_thresholds_are_youden_s_on_val_of_the_train_domain(evaluated: Study) -> None:
    table = pd.read_parquet(run_of(evaluated).metrics)
    row = metric(table, split="val", metric="threshold", label="cardiomegaly")
    assert (row["test_domain"], row["reason"]) == ("chexpert", "val of chexpert")
    data = load_split(evaluated, "chexpert", "val")
    model = build_model(evaluated.model)
    model.load_state_dict(torch.load(run_of(evaluated).weights, weights_only=True))
    with torch.inference_mode():
        scores = torch.sigmoid(model.eval()(as_input(data.images(np.arange(len(data))))))[:, 0].numpy()
    target = data.labels[:, 0]
    fall_out, sensitivity, _ = roc_curve(target, scores, drop_intermediate=False)
    reached = (scores >= row["value"] - 1e-6)[target == 1].mean() - (scores >= row["value"] - 1e-6)[target == 0].mean()
    assert reached == pytest.approx((sensitivity - fall_out).max(), abs=1e-12)


def test_shuffled_test_labels_leave_every_threshold_as_it_is(study: Study) -> None:
    evaluate_run(study, run_of(study).run_id)
    before = pd.read_parquet(run_of(study).metrics)
    for domain in DOMAINS:
        path = run_of(study).predictions(domain)
        frame, stamp = pd.read_parquet(path), read_stamp(path)
        for label in LABELS:
            of_label = frame["label"] == label
            shuffled = frame.loc[of_label, "target"].sample(frac=1, random_state=1).to_numpy()
            frame.loc[of_label, "target"] = pd.array(shuffled, dtype="Int8")
        write_stamped(path, frame, stamp)
    run_of(study).metrics.unlink()
    evaluate_run(study, run_of(study).run_id)
    after = pd.read_parquet(run_of(study).metrics)
    thresholds = before["metric"] == "threshold"
    assert thresholds.sum() == len(LABELS)
    pd.testing.assert_frame_equal(before[thresholds], after[thresholds])
    assert not before[~thresholds]["value"].equals(after[~thresholds]["value"])


def test_a_finished_evaluation_is_left_as_it_is(evaluated: Study) -> None:
    times = {file: file.stat().st_mtime_ns for file in run_of(evaluated).folder.rglob("*.parquet")}
    again = evaluate_run(evaluated, run_of(evaluated).run_id)
    assert again.skipped
    assert str(again).endswith("evaluated already")
    assert {file: file.stat().st_mtime_ns for file in run_of(evaluated).folder.rglob("*.parquet")} == times


def damage_metrics(paths: RunPaths) -> None:
    paths.metrics.write_bytes(paths.metrics.read_bytes()[:-50])


def remove_predictions(paths: RunPaths) -> None:
    paths.predictions("uka").unlink()


def damage_predictions(paths: RunPaths) -> None:
    paths.predictions("uka").write_bytes(b"PAR1 not any more")


@pytest.mark.parametrize("damage", [damage_metrics, remove_predictions, damage_predictions])
def test_a_damaged_or_half_set_is_made_again(study: Study, damage: Any) -> None:
    paths = run_of(study)
    evaluate_run(study, paths.run_id)
    whole, kept = pd.read_parquet(paths.metrics), paths.predictions("chexpert").stat().st_mtime_ns
    damage(paths)
    assert not evaluation_done(study, paths.run_id)
    assert not evaluate_run(study, paths.run_id).skipped
    assert evaluation_done(study, paths.run_id)
    pd.testing.assert_frame_equal(pd.read_parquet(paths.metrics), whole)
    assert paths.predictions("chexpert").stat().st_mtime_ns == kept


def test_other_settings_make_new_metrics_from_the_same_predictions(study: Study) -> None:
    paths = run_of(study)
    evaluate_run(study, paths.run_id)
    scored = paths.predictions("uka").stat().st_mtime_ns
    study.file.write_text(STUDY.replace("bootstrap_draws = 25", "bootstrap_draws = 0"))
    changed = load_study(study.file)
    assert not evaluation_done(changed, paths.run_id)
    evaluate_run(changed, paths.run_id)
    assert pd.read_parquet(paths.metrics)["ci_low"].isna().all()
    assert paths.predictions("uka").stat().st_mtime_ns == scored


def test_corrected_labels_of_a_test_domain_make_new_metrics(study: Study) -> None:
    paths, table = run_of(study), study.paths.cohort_table("uka")
    evaluate_run(study, paths.run_id)
    before = pd.read_parquet(paths.predictions("uka"))
    cohort = pd.read_parquet(table)
    cohort["cardiomegaly"] = 1 - cohort["cardiomegaly"]  # same images, patients and split
    cohort.to_parquet(table, index=False)
    assert not evaluation_done(study, paths.run_id)
    evaluate_run(study, paths.run_id)
    after = pd.read_parquet(paths.predictions("uka"))
    of_label = before["label"] == "cardiomegaly"
    assert (after["target"][of_label] == 1 - before["target"][of_label]).all()
    assert after["target"][~of_label].equals(before["target"][~of_label])


def test_other_pixels_of_the_same_files_make_new_predictions(study: Study) -> None:
    paths, shards = run_of(study), study.paths.shards("uka")
    evaluate_run(study, paths.run_id)
    index = pd.read_parquet(shards.index)
    index.assign(sha256="0" * 64).to_parquet(shards.index, index=False)
    manifest = read_json(shards.manifest)
    manifest["index"]["sha256"] = sha256_file(shards.index)
    write_json(shards.manifest, manifest)
    assert not evaluation_done(study, paths.run_id)
    evaluate_run(study, paths.run_id)
    assert evaluation_done(study, paths.run_id)
    shutil.rmtree(shards.folder)  # to make room: the evaluation stays what it is
    assert evaluation_done(study, paths.run_id)


def test_other_weights_make_new_predictions(study: Study) -> None:
    paths = run_of(study)
    evaluate_run(study, paths.run_id)
    before = pd.read_parquet(paths.predictions("uka"))
    torch.manual_seed(1)
    torch.save(build_model(study.model).state_dict(), paths.weights)
    paths.metrics.unlink()
    evaluate_run(study, paths.run_id)
    assert not before["score"].equals(pd.read_parquet(paths.predictions("uka"))["score"])


def test_an_unknown_run_and_an_unfinished_one_are_clear_errors(study: Study) -> None:
    with pytest.raises(
        DpdtError, match=r"run unknown: not trained yet \(.*config\.json is missing\)\. Run `dpdt train"
    ):
        evaluate_run(study, "unknown")
    paths = run_of(study)
    write_json(paths.state, {"status": "interrupted", "step": 3, "num_steps": 9})
    with pytest.raises(DpdtError, match=r"expected a finished training, found: interrupted, step 3 of 9"):
        evaluate_run(study, paths.run_id)
    write_json(paths.state, {"status": "finished", "step": 9, "num_steps": 9})
    paths.weights.unlink()
    with pytest.raises(DpdtError, match=r"finished, but .*final\.pt is missing"):
        evaluate_run(study, paths.run_id)


def test_a_run_of_another_split_is_refused(study: Study) -> None:
    paths = run_of(study)
    config = read_json(paths.config)
    config["data"]["split_sha256"] = "0" * 64
    write_json(paths.config, config)
    with pytest.raises(CohortError, match=r"trained on another split of chexpert than that of chexpert\.json"):
        evaluate_run(study, paths.run_id)


def correct_a_label(study: Study, split: str) -> None:
    """As a corrected list does: the same patients, one label another."""
    table = study.paths.cohort_table("chexpert")
    cohort = pd.read_parquet(table)
    row = cohort.index[(cohort["split"] == split) & cohort["pneumonia"].notna()][0]
    cohort.loc[row, "pneumonia"] = 1 - cohort.loc[row, "pneumonia"]
    cohort.to_parquet(table, index=False)


def test_a_run_that_learned_labels_which_were_corrected_since_is_refused(study: Study) -> None:
    paths = run_of(study)
    config = read_json(paths.config)
    config["data"]["labels_sha256"] = load_split(study, "chexpert", "train").labels_sha256
    write_json(paths.config, config)
    correct_a_label(study, "test")  # it learned nothing from these
    evaluate_run(study, paths.run_id)
    correct_a_label(study, "train")
    assert not evaluation_done(study, paths.run_id)
    with pytest.raises(CohortError, match=r"trained on other labels of chexpert than chexpert\.parquet has today"):
        evaluate_run(study, paths.run_id)


def test_a_patient_on_both_sides_of_the_split_is_refused(study: Study) -> None:
    table = study.paths.cohort_table("chexpert")
    cohort = pd.read_parquet(table)
    tested = cohort.index[cohort["split"] == "test"]
    cohort.loc[tested[0], "split"] = "train"
    same = cohort["patient_id"] == cohort.loc[tested[0], "patient_id"]
    cohort.loc[same, "split"] = ["train", *["test"] * (same.sum() - 1)] if same.sum() > 1 else "train"
    if same.sum() == 1:
        cohort.loc[tested[1], "patient_id"] = cohort.loc[tested[0], "patient_id"]
    cohort.to_parquet(table, index=False)
    with pytest.raises(CohortError, match=r"cohort chexpert: 1 patients are in test and in train or val"):
        evaluate_run(study, run_of(study).run_id)


def test_scores_that_are_not_finite_are_an_error(study: Study) -> None:
    paths = run_of(study)
    state = torch.load(paths.weights, weights_only=True)
    state["fc.bias"][2] = math.nan
    torch.save(state, paths.weights)
    with pytest.raises(ShardError, match=r"scores on chexpert are not finite"):
        evaluate_run(study, paths.run_id)
    assert not evaluation_done(study, paths.run_id)


def test_shards_of_other_decoders_than_the_trainings_are_named(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate_run(study, study.run_id(CELL))
    assert "decoders" not in capsys.readouterr().err
    run_of(study).predictions("uka").unlink()
    manifest = read_json(study.paths.shards("uka").manifest)
    manifest["codecs"]["jpeg"] = "libjpeg-turbo 1.2.1"
    write_json(study.paths.shards("uka").manifest, manifest)
    evaluate_run(study, study.run_id(CELL))
    expected = r"the shards of chexpert and uka were made with different decoders \(jpeg: .+ and libjpeg-turbo 1.2.1\)"
    assert re.search(expected, capsys.readouterr().err)


def test_without_val_there_are_no_thresholds_but_there_is_an_auc(study: Study) -> None:
    table = study.paths.cohort_table("chexpert")
    cohort = pd.read_parquet(table)
    cohort.loc[cohort["split"] == "val", "split"] = "train"
    cohort.to_parquet(table, index=False)
    evaluate_run(study, run_of(study).run_id)
    rows = pd.read_parquet(run_of(study).metrics)
    of_label = {"test_domain": "uka", "subgroup": "all", "label": "pleural_effusion"}
    strict = metric(rows, **of_label, metric="sensitivity", protocol="strict")
    assert strict["reason"] == "no threshold: val of chexpert: no image"
    assert math.isfinite(metric(rows, **of_label, metric="auc")["value"])


def test_the_summary_is_one_line_with_its_numbers(evaluated: Study) -> None:
    table = pd.read_parquet(run_of(evaluated).metrics)
    macro = {"label": "average", "subgroup": "all", "metric": "auc"}
    line = str(evaluate_run(evaluated, run_of(evaluated).run_id))
    assert "\n" not in line
    summary = evaluate_run(evaluated, run_of(evaluated).run_id)
    assert summary.on_domain == metric(table, test_domain="chexpert", **macro)["value"]
    assert summary.off_domain == metric(table, test_domain="uka", **macro)["value"]
    assert json.dumps(summary.__dict__, allow_nan=False)


@pytest.mark.parametrize(("lacks", "over"), [("nobody", ""), ("uka", " over the 4 labels that all domains have")])
def test_the_line_says_which_labels_its_aucs_are_over(
    lacks: str, over: str, fake_runs: Callable[..., FakeRuns]
) -> None:
    """One hospital has no pneumonia; with all five labels everywhere there is nothing to say."""

    def without(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(target_pneumonia=math.nan) if frame["image_id"][0].startswith(lacks) else frame

    study = fake_runs(("vindr", "uka"), "[inf]").all(change=without).study
    paths = study.paths.run(study.run_id(study.cells()[0]))
    line = str(_summary(study, paths, "vindr", seconds=1.0, skipped=False))
    assert re.search(rf" images of 2 domains, macro AUC{over} on-domain 0\.\d+, off-domain 0\.\d+ \(1 s\)$", line)


def plain_stamp(study: Study, paths: RunPaths, domain: str) -> dict[str, str]:
    """As it was before hashes had a key."""
    return {
        "shards": study.shards_fingerprint(domain),
        "split": read_record(study, domain)["split_sha256"],
        "cohort": sha256_file(study.paths.cohort_table(domain)),
        "pixels": read_json(study.paths.shards(domain).manifest)["index"]["sha256"],
        "weights": sha256_file(paths.weights),
    }


def test_results_carry_no_plain_hash_of_the_test_patients(study: Study) -> None:
    paths = run_of(study)
    evaluate_run(study, paths.run_id)
    results = [paths.metrics, paths.draws, *(paths.predictions(domain) for domain in study.test_domains)]
    for domain in study.test_domains:
        plain = plain_stamp(study, paths, domain)
        for name in ("split", "cohort", "pixels"):
            assert not any(plain[name].encode() in file.read_bytes() for file in results), name
    assert evaluation_done(study, paths.run_id)


def test_results_of_before_with_plain_hashes_stay_done_until_their_data_changes(study: Study) -> None:
    paths = run_of(study)
    evaluate_run(study, paths.run_id)
    stamps = {domain: plain_stamp(study, paths, domain) for domain in study.test_domains}
    stamp = {"evaluate": read_stamp(paths.metrics)["evaluate"], "predictions": stamps}
    for file, what in ((paths.metrics, stamp), (paths.draws, stamp)):
        write_stamped(file, pd.read_parquet(file), what)
    for domain, what in stamps.items():
        write_stamped(paths.predictions(domain), pd.read_parquet(paths.predictions(domain)), what)
    study.paths.data_key.unlink()
    assert evaluation_done(study, paths.run_id)
    assert evaluate_run(study, paths.run_id).skipped
    assert not study.paths.data_key.exists()  # nothing needed it
    correct_a_label(study, "test")
    assert not evaluation_done(study, paths.run_id)
