"""The kernel against scikit-learn; the intervals' coverage by simulation."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from dpdt.evaluation.metrics import Ranking, over_blocks, patient_draws, percentile_interval
from tests.test_metrics import Labelled, auc, images, labelled_scores, measure


def probabilities(score: NDArray[np.float32]) -> NDArray[np.float32]:
    return (score / max(1.0, float(score.max()))).astype(np.float32)


def expected_calibration_error(target: NDArray[np.int64], p: NDArray[np.float64]) -> float:
    """Naeini, Cooper & Hauskrecht, AAAI 2015: the gaps of scikit-learn's curve, weighted by the images of each bin."""
    observed, predicted = calibration_curve(target, p, n_bins=10)
    images_of_bin = np.unique(np.searchsorted(np.linspace(0, 1, 11)[1:-1], p), return_counts=True)[1]
    return float(np.abs(observed - predicted) @ images_of_bin / len(p))


@given(labelled_scores())
def test_the_kernel_equals_scikit_learn_for_every_metric_and_weight(case: Labelled) -> None:
    target, score, weights = case
    p = probabilities(score)
    thresholds = (0.5, 0.25)
    found = Ranking(target, p, thresholds=thresholds, errors=True).measure(weights.astype(np.float64))
    for number, w in enumerate(weights.T):
        weighted = {"sample_weight": w}
        assert found["auc"][number] == pytest.approx(sk.roc_auc_score(target, p, **weighted), abs=1e-12)
        expected = sk.average_precision_score(target, p, **weighted)
        assert found["average_precision"][number] == pytest.approx(expected, abs=1e-12)
        expected = sk.brier_score_loss(target, p.astype(float), **weighted)
        assert found["brier"][number] == pytest.approx(expected, abs=1e-12)
        expected = expected_calibration_error(np.repeat(target, w), np.repeat(p.astype(float), w))
        assert found["calibration_error"][number] == pytest.approx(expected, abs=1e-12)
        for t, threshold in enumerate(thresholds):
            called = p >= threshold
            expected = sk.f1_score(target, called, sample_weight=w, zero_division=0)
            assert found[f"f1@{t}"][number] == pytest.approx(expected, abs=1e-12)
            assert found[f"positive_rate@{t}"][number] == pytest.approx(np.average(called, weights=w), abs=1e-12)


@given(labelled_scores())
def test_single_precision_blocks_count_exactly(case: Labelled) -> None:
    target, score, weights = case
    ranking = Ranking(target, score, thresholds=[0.5])
    (blocks,) = over_blocks([ranking], np.tile(weights, (1, 30)))  # several blocks, the last one not full
    exact = ranking.measure(weights.astype(np.float64))
    for name, values in exact.items():
        np.testing.assert_array_equal(blocks[name], np.tile(values, 30))


def test_a_large_test_set_with_ties_equals_scikit_learn_in_every_draw() -> None:
    rng = np.random.default_rng(5)
    target, score = rng.integers(0, 2, 3000), rng.normal(size=3000).round(2).astype(np.float32)
    drawn = patient_draws(rng.integers(0, 900, 3000), draws=40, seed=0, domain="uka")
    (found,) = over_blocks([Ranking(target, score, thresholds=[0.1])], drawn)
    for number in range(40):
        w = drawn[:, number]
        expected = sk.roc_auc_score(target, score, sample_weight=w)
        assert found["auc"][number] == pytest.approx(expected, abs=1e-12)
        expected = sk.average_precision_score(target, score, sample_weight=w)
        assert found["average_precision"][number] == pytest.approx(expected, abs=1e-12)
        called = score >= np.float64(0.1)
        expected = sk.accuracy_score(target, called, sample_weight=w)
        assert found["accuracy@0"][number] == pytest.approx(expected, abs=1e-12)


def test_images_can_be_drawn_instead_of_patients() -> None:
    drawn = patient_draws(np.array(["i1", "i2", "i3", "i4"]), draws=40, seed=0, domain="uka")
    assert (drawn.sum(axis=0) == 4).all()


def cell(table: pd.DataFrame, metric: str, subgroup: str, label: str = "healthy") -> pd.Series:
    chosen = (table["metric"] == metric) & (table["subgroup"] == subgroup) & (table["label"] == label)
    assert chosen.sum() == 1
    return table[chosen].iloc[0]


def test_fairness_is_largest_less_smallest_over_the_groups() -> None:
    frame = images(600)
    table = measure(frame)
    groups = ("age_0_40", "age_40_70", "age_70_100")
    aucs = [cell(table, "auc", group)["value"] for group in groups]
    gap, worst = cell(table, "auc_gap", "age_group"), cell(table, "worst_auc", "age_group")
    assert gap["value"] == pytest.approx(max(aucs) - min(aucs))
    assert worst["value"] == pytest.approx(min(aucs))
    assert worst["reason"].startswith(f"worst: {groups[int(np.argmin(aucs))]}")
    called = frame["score_healthy"] >= 0.5
    rates = [called[frame["sex"] == sex].mean() for sex in ("female", "male")]
    assert cell(table, "parity_difference", "sex")["value"] == pytest.approx(abs(rates[0] - rates[1]))
    sick = frame["target_healthy"] == 0
    rates = [called[sick & (frame["sex"] == sex)].mean() for sex in ("female", "male")]
    assert cell(table, "underdiagnosis_gap", "sex")["value"] == pytest.approx(abs(rates[0] - rates[1]))
    rates = [called[~sick & (frame["sex"] == sex)].mean() for sex in ("female", "male")]
    assert cell(table, "opportunity_difference", "sex")["value"] == pytest.approx(abs(rates[0] - rates[1]))


def test_a_group_without_positives_is_left_out_of_the_gap_and_named() -> None:
    frame = images(600)
    frame.loc[frame["age_group"] == "age_0_40", "target_healthy"] = 0.0
    table = measure(frame)
    aucs = [cell(table, "auc", group)["value"] for group in ("age_40_70", "age_70_100")]
    gap = cell(table, "auc_gap", "age_group")
    assert gap["value"] == pytest.approx(abs(aucs[0] - aucs[1]))
    assert "without age_0_40 (undefined)" in gap["reason"]
    one_sex = measure(images(600).assign(sex="female"))
    assert cell(one_sex, "auc_gap", "sex")["reason"] == "1 of 2 groups have a number"


def test_small_groups_are_flagged() -> None:
    frame = images(600).assign(age_group="age_40_70")
    frame.loc[:49, "age_group"] = "age_0_40"
    assert "small: age_0_40 (n = 50)" in cell(measure(frame), "auc_gap", "age_group")["reason"]


def test_protocol_paper_is_marked_and_never_worse_than_strict_by_youden() -> None:
    table = measure(images(600))
    of = {}
    for protocol in ("strict", "paper"):
        rows = table[(table["protocol"] == protocol) & (table["subgroup"] == "all") & (table["label"] == "healthy")]
        by_metric = rows.set_index("metric")["value"]
        of[protocol] = by_metric["sensitivity"] + by_metric["specificity"]
        assert rows["reason"].str.startswith("optimistic: ").all() == (protocol == "paper")
    assert of["paper"] >= of["strict"]


@pytest.mark.slow
def test_95_percent_intervals_cover_93_to_97_percent() -> None:
    # Patients with 1 to 3 images whose scores share a part; the AUC of the binormal model is Phi(d / sqrt 2).
    rng = np.random.default_rng(11)
    truth, covered, studies, patients = norm.cdf(1.0 / np.sqrt(2)), 0, 1000, 150
    for study in range(studies):
        patient = np.repeat(np.arange(patients), rng.integers(1, 4, patients))
        target = rng.integers(0, 2, patients)[patient]
        shared = rng.normal(size=patients)[patient]
        score = target + np.sqrt(0.7) * shared + np.sqrt(0.3) * rng.normal(size=len(patient))
        weights = patient_draws(patient, draws=400, seed=study, domain="uka")
        low, high, _ = percentile_interval(auc(target, score, weights), 0.95)
        covered += low <= truth <= high
    assert 0.93 <= covered / studies <= 0.97
