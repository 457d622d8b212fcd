"""Curves of test patients: against scikit-learn where pieces do not matter, and never of few patients."""

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import precision_recall_curve, roc_auc_score, roc_curve

from dpdt.evaluation.metrics import patient_draws, recalibration
from dpdt.report.curves import curves_of, measured
from dpdt.report.differences import differences
from dpdt.report.grid import Grid
from dpdt.report.intervals import Draws
from dpdt.report.tables import auc_by_run, mean_over_seeds
from dpdt.study import Cell
from tests.fake_runs import FakeRuns


def scores(n: int = 6000, share: float = 0.2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Targets, probabilities and patients of two images each."""
    rng = np.random.default_rng(7)
    target = (rng.random(n) < share).astype(float)
    score = 1 / (1 + np.exp(-(rng.normal(size=n) + 1.5 * target - 1)))
    return target, score.astype(np.float32), np.arange(n) // 2


def test_curves_are_scikit_learn_s_within_the_width_of_a_piece() -> None:
    target, score, patients = scores()
    weights = patient_draws(patients, draws=100, seed=0, domain="uka")
    found = measured(target, score, patients, weights, 0.95)
    roc, recall = found["roc"], found["recall"]
    alarms, hits, _ = roc_curve(target, score)
    # Sixty pieces of equal weight of both classes: a chord lies within a thirtieth below the curve.
    exact = np.interp(roc["false_positive_rate"], alarms, hits)
    assert np.abs(roc["sensitivity"] - exact).max() < 0.03
    assert np.trapezoid(roc["sensitivity"], roc["false_positive_rate"]) == pytest.approx(
        roc_auc_score(target, score), abs=0.004
    )
    precision, sensitivity, _ = precision_recall_curve(target, score)
    exact = np.interp(recall["recall"], sensitivity[::-1], precision[::-1])
    assert np.abs(recall["precision"] - exact)[2:].max() < 0.03
    inside = (roc["low"] <= roc["sensitivity"]) & (roc["sensitivity"] <= roc["high"])
    assert inside.all()
    # Binomial standard error of a sensitivity p of 1,190 positives, two images a patient: 1.96 sqrt(p (1 - p) / 1190)
    middle = roc.iloc[10]
    p = middle["sensitivity"]
    assert (middle["high"] - middle["low"]) / 2 == pytest.approx(1.96 * math.sqrt(p * (1 - p) / target.sum()), rel=0.5)


def test_calibration_is_the_fraction_of_positives_by_tenths() -> None:
    target, score, patients = scores()
    found = measured(target, score, patients, patient_draws(patients, draws=100, seed=0, domain="a"), 0.95)
    table = found["calibration"]
    assert table["images"].sum() == len(target)
    assert (table["images"] >= 20).all()
    assert np.average(table["observed"], weights=table["images"]) == pytest.approx(target.mean())
    assert np.average(table["score"], weights=table["images"]) == pytest.approx(score.mean(), rel=1e-5)
    assert table["score"].is_monotonic_increasing


def test_slope_and_intercept_are_those_of_logistic_regression() -> None:
    target, score, patients = scores()
    found = recalibration(target, score, patients)
    logit = np.log(score.astype(float) / (1 - score.astype(float)))[:, None]
    fitted = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(logit, target)
    assert found.slope == pytest.approx(fitted.coef_[0, 0], abs=1e-4)
    # In the large, the mean of the shifted probabilities is the share of positives: that is what the intercept solves.
    shifted = 1 / (1 + np.exp(-(logit[:, 0] + found.intercept)))
    assert shifted.mean() == pytest.approx(target.mean(), abs=1e-9)
    assert found.slope_low < found.slope < found.slope_high
    # Twice each image, as a second one of its patient, is no new information: the errors stay.
    twice = recalibration(np.tile(target, 2), np.tile(score, 2), np.tile(np.arange(len(target)), 2))
    once = recalibration(target, score, np.arange(len(target)))
    assert twice.slope_high - twice.slope_low == pytest.approx(once.slope_high - once.slope_low, rel=1e-6)


def test_a_right_probability_has_slope_1_and_intercept_0() -> None:
    rng = np.random.default_rng(3)
    score = rng.uniform(0.02, 0.98, 200_000)
    target = (rng.random(len(score)) < score).astype(float)
    found = recalibration(target, score, np.arange(len(score)))
    assert found.slope == pytest.approx(1, abs=0.02)
    assert found.intercept == pytest.approx(0, abs=0.02)


def test_perfect_separation_has_no_slope_but_nan() -> None:
    target, score = np.repeat([0.0, 1.0], 50), np.repeat([0.2, 0.8], 50)
    found = recalibration(target, score, np.arange(100))
    assert math.isnan(found.slope)


def test_nothing_that_is_shown_is_of_fewer_than_ten_patients() -> None:
    """Ties, few patients with many images each, and a long tail."""
    rng = np.random.default_rng(5)
    for n, people in ((300, 40), (2000, 25), (5000, 4000)):
        patients = rng.integers(0, people, n)
        target = (rng.random(n) < 0.15).astype(float)
        score = np.round(rng.beta(1, 8, n), 2).astype(np.float32)
        found = measured(target, score, patients, patient_draws(patients, draws=10, seed=0, domain="a"), 0.95)
        for name, value in (("positive", 1), ("negative", 0)):
            for row in found["histogram"].to_dict("records"):
                last = score <= 1 if row["high"] == 1 else score.astype(np.float64) < row["high"]
                inside = (target == value) & (score.astype(np.float64) >= row["low"]) & last
                few = len(np.unique(patients[inside])) < 10
                assert math.isnan(row[name]) == (few and bool(inside.any()))
        # Each calibration group is whole pieces; its mean score tells which images are in it.
        edges = np.cumsum(found["calibration"]["images"])
        order = np.argsort(score, kind="stable")
        for first, last in zip([0, *edges], edges, strict=False):
            assert len(np.unique(patients[order[first:last]])) >= 10


def test_small_labels_have_no_curve_and_the_model_is_the_hospital_s_own(fake_runs: Callable[..., FakeRuns]) -> None:
    def few(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(target_healthy=[1.0] * 18 + [0.0] * (len(frame) - 18))  # nine patients

    study = fake_runs(("vindr", "uka"), "[1.0, inf]").all(change=few).study
    found = curves_of(study, Grid.of(study))
    assert {one.label for one in found} == {"cardiomegaly", "pleural_effusion", "pneumonia", "atelectasis"}
    assert {(one.train_domain, one.test_domain) for one in found} == {("vindr", "vindr"), ("uka", "uka")}
    assert {one.target_epsilon for one in found} == {1.0, math.inf}


def test_bands_are_of_the_model_s_own_patients_though_another_arm_was_tested_on_as_many_images(
    fake_runs: Callable[..., FakeRuns],
) -> None:
    """Arms may have been tested before and after a cohort changed: draws of the first patients are not the others'."""
    made = fake_runs(("vindr",), "[1.0, inf]").all()

    def bands() -> list[pd.DataFrame]:
        found = curves_of(made.study, Grid.of(made.study))
        return [one.calibration for one in found if one.target_epsilon == 1.0]

    others = {"change": lambda frame: frame.assign(patient_key=frame["patient_key"].to_numpy()[::-1])}
    made.evaluate(Cell("vindr", 1.0, 0), **others)
    beside_another = bands()
    made.evaluate(Cell("vindr", math.inf, 0), **others)  # so that both have the same
    assert beside_another
    for one, other in zip(beside_another, bands(), strict=True):
        pd.testing.assert_frame_equal(one, other)


def test_differences_are_those_of_the_table(fake_runs: Callable[..., FakeRuns]) -> None:
    study = fake_runs(("vindr", "uka"), "[1.0, inf]").all().study
    grid, auc = Grid.of(study), mean_over_seeds(study, auc_by_run(study))
    found = differences(grid, auc, Draws.of(study)).set_index(["scope", "label", "subgroup"])
    of = auc.set_index(["target_epsilon", "train_domain", "test_domain", "label", "subgroup"])["auc"]
    pairs = (("vindr", "uka"), ("uka", "vindr"))
    for label, group in (("pneumonia", "all"), ("average", "female")):
        expected = np.mean([of[1.0, *pair, label, group] - of[math.inf, *pair, label, group] for pair in pairs])
        row = found.loc[("off-domain", label, group)]
        assert row["difference"] == pytest.approx(expected)
        assert row["ci_low"] < row["difference"] < row["ci_high"]
        assert row["pairs"] == 2
