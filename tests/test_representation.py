"""Geometry of representations and linear probes: hand-made cases, scikit-learn and scipy, and a whole evaluation."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from dpdt.base.files import read_json
from dpdt.base.vocabulary import LABELS
from dpdt.cohort.table import read_cohort
from dpdt.evaluation.evaluate import evaluate_run
from dpdt.evaluation.metrics.representation import displacement, effective_dimension, probe
from dpdt.privacy.statements import refresh_statements
from dpdt.report.write import write_report
from dpdt.runs.read import read_run
from dpdt.shards.dataset import load_split
from dpdt.study import Cell, Study
from dpdt.tracking.metrics import final_values
from dpdt.training.networks.build import as_input, build_model
from dpdt.training.networks.weights import load_weights
from dpdt.training.train import pretrain, train
from tests.small_data import MakeStudy

DP = Cell("uka", 8.0, 0)
PLAIN = Cell("uka", math.inf, 0)
EVALUATE = "[evaluate]\nbootstrap_draws = 0\nmin_subgroup_size = 4\n"
ASKED = ("[privacy]", f"{EVALUATE}representation = true\n[privacy]")


def cloud(images: int = 60, width: int = 7, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return (random.normal(size=(images, width)) * np.arange(1, width + 1) + 3).astype(np.float32)


def rotation(width: int) -> np.ndarray:
    return scipy.stats.special_ortho_group.rvs(width, random_state=1)


def test_what_stays_has_displacement_0_and_a_turn_has_what_geometry_says() -> None:
    features = cloud()
    assert displacement(features, features) == 0.0
    assert displacement(-features, features) == pytest.approx(2)  # half a turn
    plane = np.array([[3.0, 0.0], [0.0, 5.0]])
    assert displacement(plane @ np.array([[0, 1], [-1, 0]]), plane) == pytest.approx(math.sqrt(2))  # a quarter
    assert displacement(features + 1, features) == pytest.approx(
        math.sqrt(7) / np.mean([math.dist(row, [0] * 7) for row in features.tolist()])
    )
    assert math.isnan(displacement(plane, 0 * plane))


def test_the_dimension_is_the_number_of_directions_that_share_the_variance() -> None:
    line = np.outer(np.linspace(-1, 1, 50), [1.0, 2.0, -3.0]) + 4
    assert effective_dimension(line) == pytest.approx(1)  # collapsed to one direction
    cross = np.concatenate([np.eye(5), -np.eye(5)])
    for k in range(1, 6):
        assert effective_dimension(cross[np.abs(cross[:, :k]).sum(1) > 0]) == pytest.approx(k)
    assert math.isnan(effective_dimension(np.full((9, 4), 1e3)))


def test_the_dimension_is_that_of_scipy_and_scikit_learn_and_turns_leave_it() -> None:
    for features in (cloud(), cloud(images=5, width=40)):
        ratios = PCA().fit(features.astype(np.float64)).explained_variance_ratio_
        expected = math.exp(scipy.stats.entropy(ratios))
        found = effective_dimension(features)
        assert found == pytest.approx(expected, rel=1e-6)
        turned = features @ rotation(features.shape[1]) * 9 - 5
        assert effective_dimension(turned) == pytest.approx(found, rel=1e-5)


def test_the_probe_is_scikit_learns_logistic_regression() -> None:
    features, tested = cloud(200), cloud(90, seed=1)
    features[:, 3] = 2.0  # a feature that never changes
    random = np.random.default_rng(2)
    target = (features[:, 0] + 0.5 * features[:, 1] + random.normal(size=200) > 4.5).astype(float)
    scaler = StandardScaler().fit(features)
    other = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000).fit(scaler.transform(features), target)
    expected = other.decision_function(scaler.transform(tested))
    np.testing.assert_allclose(probe(features, target, tested), expected, atol=2e-4)


@pytest.fixture
def study(make_study: MakeStudy) -> Study:
    """Pretrained, two cells trained; every fifth patient of train is made val; the representation is asked for."""
    study = make_study(ASKED, patients=60)
    for domain in study.domains:
        table = study.paths.cohort_table(domain)
        frame = pd.read_parquet(table)
        numbers = frame["patient_id"].str[1:].astype(int)
        frame.loc[numbers % 5 == 3, "split"] = "val"
        frame.to_parquet(table, index=False)
    pretrain(study)
    train(study, DP, seeded_randomness=True)
    train(study, PLAIN)
    return study


def representation(study: Study, weights: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """What ResNet9's last layer is given, from its own parts, and the labels."""
    data = load_split(study, "uka", split)
    model = build_model(study.model)
    load_weights(model, weights)
    model.fc = torch.nn.Identity()  # type: ignore[assignment]
    with torch.no_grad():
        return model.eval()(as_input(data.images(np.arange(len(data))))).numpy(), data.labels


def test_an_evaluation_has_the_representation_of_each_model(study: Study) -> None:
    assert read_cohort(study, "uka")["split"].value_counts()["val"] > 10
    evaluate_run(study, study.run_id(DP))
    paths, before = study.paths.run(study.run_id(DP)), study.paths.run(str(study.pretrain_run_id))
    table = pd.read_parquet(paths.metrics)
    found = table.set_index(["metric", "label"])
    features, labels = representation(study, paths.weights, "test")
    initial, _ = representation(study, before.weights, "test")
    fitted, known = representation(study, paths.weights, "val")
    lengths = [np.linalg.norm(features - initial, axis=1).mean(), np.linalg.norm(initial, axis=1).mean()]
    assert found.loc[("displacement", "average"), "value"] == pytest.approx(lengths[0] / lengths[1], rel=1e-4)
    spectrum = PCA().fit(features.astype(np.float64)).explained_variance_ratio_
    expected = math.exp(scipy.stats.entropy(spectrum))
    assert found.loc[("effective_dimension", "average"), "value"] == pytest.approx(expected, rel=1e-4)
    model_auc = table[(table["metric"] == "auc") & (table["subgroup"] == "all")].set_index("label")["value"]
    aucs, gaps = [], []
    for number, label in enumerate(LABELS):
        fit, test = ~np.isnan(known[:, number]), ~np.isnan(labels[:, number])
        scaler = StandardScaler().fit(fitted[fit])
        other = LogisticRegression(tol=1e-10, max_iter=10_000).fit(scaler.transform(fitted[fit]), known[fit, number])
        score = other.decision_function(scaler.transform(features[test]))
        aucs.append(roc_auc_score(labels[test, number], score))
        gaps.append(aucs[-1] - model_auc[label])
        assert found.loc[("probe_auc", label), "value"] == pytest.approx(aucs[-1], abs=1e-6)
        assert found.loc[("utilisation_gap", label), "value"] == pytest.approx(gaps[-1], abs=1e-6)
        assert "images of val of uka, without DP" in found.loc[("probe_auc", label), "reason"]
    assert found.loc[("probe_auc", "average"), "value"] == pytest.approx(np.mean(aucs), abs=1e-6)
    assert found.loc[("utilisation_gap", "average"), "value"] == pytest.approx(np.mean(gaps), abs=1e-6)


def test_the_model_before_has_not_moved_and_report_mlflow_and_statement_know_it(study: Study) -> None:
    runs = [study.run_id(DP), study.run_id(PLAIN), str(study.pretrain_run_id)]
    for run_id in runs:
        evaluate_run(study, run_id)
    before = pd.read_parquet(study.paths.run(runs[2]).metrics).set_index(["metric", "label"])
    assert before.loc[("displacement", "average"), "value"] == 0.0
    page = write_report(study).read_text()
    assert '<h2 id="representation">Representation</h2>' in page
    assert "UKA-CXR → UKA-CXR" in page
    run = read_run(study, runs[0])
    assert run is not None
    names = {point.key for point in final_values(run, 0.0)[0]}
    metrics = ("displacement", "effective_dimension", "probe_auc", "utilisation_gap")
    assert {f"representation/{metric}/uka" for metric in metrics} <= names
    refresh_statements(study)
    releases = read_json(run.paths.privacy)["other_releases"]
    (probes,) = [entry for entry in releases if "linear probes" in entry["what"]]
    assert "fitted without DP on val patients" in probes["source"]
    refresh_statements(study)
    assert read_json(run.paths.privacy)["other_releases"] == releases


def test_without_val_patients_there_is_no_probe_and_the_reason_is_told(make_study: MakeStudy) -> None:
    study = make_study(
        ("[privacy]", "[evaluate]\nbootstrap_draws = 0\nmin_subgroup_size = 4\nrepresentation = true\n[privacy]")
    )
    pretrain(study)
    train(study, PLAIN)
    evaluate_run(study, study.run_id(PLAIN))
    found = pd.read_parquet(study.paths.run(study.run_id(PLAIN)).metrics).set_index(["metric", "label"])
    assert math.isnan(found.loc[("probe_auc", "healthy"), "value"])
    assert found.loc[("probe_auc", "healthy"), "reason"] == "no probe: val of uka: no image with this label known"
    assert found.loc[("displacement", "average"), "value"] > 0


def test_a_study_that_does_not_ask_has_no_such_rows_and_the_same_stamp(make_study: MakeStudy) -> None:
    study = make_study(("[privacy]", "[evaluate]\nbootstrap_draws = 0\n[privacy]"))
    assert "representation" not in study.evaluate.deciding()
    pretrain(study)
    train(study, PLAIN)
    evaluate_run(study, study.run_id(PLAIN))
    metrics = pd.read_parquet(study.paths.run(study.run_id(PLAIN)).metrics)["metric"]
    assert not metrics.isin(("displacement", "effective_dimension", "probe_auc", "utilisation_gap")).any()
