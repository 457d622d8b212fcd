"""Metrics against scikit-learn, and what happens where there is no right number."""

import math
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, recall_score, roc_auc_score, roc_curve

from dpdt.base.vocabulary import LABELS, SUBGROUPS
from dpdt.evaluation.metrics import (
    ALL,
    AVERAGE,
    COLUMNS,
    FAIRNESS,
    STRICT,
    UNDERDIAGNOSIS,
    Ranking,
    Threshold,
    extreme_interval,
    measure_domain,
    over_blocks,
    patient_draws,
    percentile_interval,
    undefined_reason,
    youden_threshold,
)

Labelled = tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.uint8]]


@st.composite
def labelled_scores(draw: st.DrawFn) -> Labelled:
    """Both classes present, many tied scores, weights from 0 to 3 with both classes keeping some."""
    n = draw(st.integers(2, 60))
    target = draw(arrays.arrays(np.int64, n, elements=st.integers(0, 1)))
    target[:2] = [0, 1]
    tied = draw(st.booleans())
    elements = st.integers(0, 4).map(float) if tied else st.floats(0, 1, width=32)
    score = draw(arrays.arrays(np.float32, n, elements=elements))
    weights = draw(arrays.arrays(np.uint8, (n, 3), elements=st.integers(0, 3)))
    weights[:2] = 1
    order = np.array(draw(st.permutations(range(n))))
    return target[order], score[order], weights[order]


def auc(target: NDArray[Any], score: NDArray[Any], weights: NDArray[np.uint8] | None = None) -> NDArray[np.float64]:
    """One AUC for each column of weights; without weights one of all images."""
    one = np.ones((len(target), 1), dtype=np.uint8)
    return over_blocks([Ranking(target, score)], one if weights is None else weights)[0]["auc"]


@given(labelled_scores())
def test_auc_equals_scikit_learn_also_with_ties_and_weights(case: Labelled) -> None:
    target, score, weights = case
    assert auc(target, score)[0] == pytest.approx(roc_auc_score(target, score), abs=1e-12)
    expected = [roc_auc_score(target, score, sample_weight=column) for column in weights.T]
    np.testing.assert_allclose(auc(target, score, weights), expected, rtol=0, atol=1e-12)


@given(labelled_scores())
def test_youden_threshold_reaches_scikit_learns_best_point(case: Labelled) -> None:
    target, score, _ = case
    fall_out, sensitivity, thresholds = roc_curve(target, score, drop_intermediate=False)
    ours = youden_threshold(target, score)
    reached = (score >= ours)[target == 1].mean() - (score >= ours)[target == 0].mean()
    # roc_curve's first threshold is infinite (call nothing positive), which is no score.
    assert reached == pytest.approx((sensitivity - fall_out)[1:].max(), abs=1e-12)
    assert ours in thresholds


@given(labelled_scores())
def test_rates_equal_scikit_learn(case: Labelled) -> None:
    target, score, weights = case
    called = score >= np.float32(0.5)
    (rates,) = over_blocks([Ranking(target, score, thresholds=[0.5])], weights)
    for number, column in enumerate(weights.T):
        weighted = {"y_true": target, "y_pred": called, "sample_weight": column}
        assert rates["accuracy@0"][number] == pytest.approx(accuracy_score(**weighted), abs=1e-12)
        assert rates["sensitivity@0"][number] == pytest.approx(recall_score(**weighted, zero_division=0), abs=1e-12)
        specificity = recall_score(**weighted, pos_label=0, zero_division=0)
        assert rates["specificity@0"][number] == pytest.approx(specificity, abs=1e-12)


def test_auc_of_the_worked_example_in_scikit_learns_documentation() -> None:
    # sklearn.metrics.roc_auc_score / roc_curve user guide: y = [1, 1, 2, 2], scores = [.1, .4, .35, .8], AUC 0.75.
    assert auc(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8])) == 0.75


def test_auc_is_one_for_a_perfect_zero_for_a_reversed_and_a_half_for_a_constant_score() -> None:
    target = np.array([0, 0, 1])
    assert auc(target, np.array([0.0, 0.1, 0.2])) == 1
    assert auc(target, np.array([0.2, 0.1, 0.0])) == 0
    assert auc(target, np.zeros(3)) == 0.5


def test_one_class_only_gives_no_number() -> None:
    for target in (np.zeros(5), np.ones(5), np.zeros(0)):
        assert math.isnan(auc(target, np.arange(len(target), dtype=float))[0])
    assert math.isnan(youden_threshold(np.ones(3), np.arange(3.0)))


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ([], "no image with this label known"),
        ([0, 1, 1], "3 images, fewer than 4"),
        ([1, 1, 1, 1], "one class only: 4 of 4 images positive"),
        ([0, 0, 0, 0, 0], "one class only: 0 of 5 images positive"),
        ([0, 0, 1, 0], ""),
    ],
)
def test_the_reason_for_no_number_is_in_words(target: list[int], reason: str) -> None:
    assert undefined_reason(np.array(target), minimum=4) == reason


def test_a_draw_takes_whole_patients_and_as_many_as_there_are() -> None:
    patients = np.array(["c", "a", "b", "a", "c", "c", "d"])
    drawn = patient_draws(patients, draws=50, seed=1, domain="uka")
    assert drawn.shape == (7, 50)
    by_patient = pd.DataFrame(drawn).groupby(patients)
    assert (by_patient.nunique() == 1).all(axis=None)
    assert (by_patient.first().sum() == 4).all()


def test_draws_depend_on_seed_and_domain_alone() -> None:
    patients = np.array([f"p{number % 20}" for number in range(60)])
    base = patient_draws(patients, draws=10, seed=1, domain="uka")
    np.testing.assert_array_equal(base, patient_draws(patients, draws=10, seed=1, domain="uka"))
    # More draws keep the first ones; another order of the images is the same draw of patients.
    np.testing.assert_array_equal(base, patient_draws(patients, draws=20, seed=1, domain="uka")[:, :10])
    np.testing.assert_array_equal(base[::-1], patient_draws(patients[::-1], draws=10, seed=1, domain="uka"))
    assert (base != patient_draws(patients, draws=10, seed=2, domain="uka")).any()
    assert (base != patient_draws(patients, draws=10, seed=1, domain="vindr")).any()


def test_a_draw_equals_scikit_learn_on_the_repeated_images() -> None:
    rng = np.random.default_rng(0)
    target, score = rng.integers(0, 2, 80), rng.normal(size=80).round(1)
    drawn = patient_draws(rng.integers(0, 25, 80), draws=5, seed=3, domain="vindr")
    for number, value in enumerate(auc(target, score, drawn)):
        repeated = np.repeat(np.arange(80), drawn[:, number])
        assert value == pytest.approx(roc_auc_score(target[repeated], score[repeated]), abs=1e-12)


def images(n: int = 400, *, seed: int = 0, per_patient: int = 1) -> pd.DataFrame:
    """Test images of one domain with scores that know something."""
    rng = np.random.default_rng(seed)
    patient = np.arange(n) // per_patient
    sex, age = rng.integers(0, 2, n)[patient], rng.integers(0, 3, n)[patient]
    frame = pd.DataFrame(
        {
            "patient_key": [f"p{number:05d}" for number in patient],
            "sex": np.where(sex == 1, "female", "male"),
            "age_group": np.array(["age_0_40", "age_40_70", "age_70_100"])[age],
        }
    )
    for label in LABELS:
        target = rng.integers(0, 2, n)[patient]
        frame[f"target_{label}"] = target.astype(float)
        # One score a patient: the images of a patient are as alike as can be.
        frame[f"score_{label}"] = (rng.normal(size=n)[patient] + target).astype(np.float32)
    return frame


THRESHOLDS = {label: Threshold(0.5, "val of vindr", 100, 50) for label in LABELS}


def measure(
    frame: pd.DataFrame,
    *,
    draws: int = 20,
    minimum: int = 10,
    seed: int = 0,
    thresholds: dict[str, Threshold] = THRESHOLDS,
) -> pd.DataFrame:
    weights = patient_draws(frame["patient_key"].to_numpy(), draws=draws, seed=seed, domain="vindr")
    return measure_domain(
        frame, test_domain="vindr", thresholds=thresholds, weights=weights, minimum=minimum, confidence=0.95
    ).table


def cell(
    table: pd.DataFrame, *, label: str, subgroup: str = ALL, metric: str = "auc", protocol: str = STRICT
) -> pd.Series:
    chosen = (table["label"] == label) & (table["subgroup"] == subgroup) & (table["metric"] == metric)
    chosen &= table["protocol"].isin(["", protocol])
    assert chosen.sum() == 1
    return table[chosen].iloc[0]


def test_every_label_and_subgroup_has_a_row() -> None:
    table = measure(images())
    assert tuple(table.columns) == COLUMNS
    measured = table[~table["metric"].isin([*FAIRNESS, UNDERDIAGNOSIS])]
    # 6 crossings beside the subgroups and all; the metrics at a threshold once a protocol
    assert len(measured) == (len(LABELS) + 1) * (len(SUBGROUPS) + 1 + 6) * (4 + 2 * 5)
    assert (table["metric"] == UNDERDIAGNOSIS).sum() == 2 * 12
    # each measure for 5 labels and their average, underdiagnosis for healthy alone, by sex and by age group
    assert table["metric"].isin(FAIRNESS).sum() == 2 * (4 * 6 + 1)
    assert not table["value"].isna().any()
    assert (measured["ci_low"] <= measured["value"]).mean() > 0.99  # 20 draws may lie on one side of the value
    assert (measured["value"] <= measured["ci_high"]).mean() > 0.99


def test_subgroup_cells_and_the_macro_average_equal_scikit_learn() -> None:
    frame = images()
    table = measure(frame)
    old = frame[frame["age_group"] == "age_70_100"]
    expected = {label: roc_auc_score(old[f"target_{label}"], old[f"score_{label}"]) for label in LABELS}
    for label in LABELS:
        assert cell(table, label=label, subgroup="age_70_100")["value"] == pytest.approx(expected[label], abs=1e-12)
    average = cell(table, label=AVERAGE, subgroup="age_70_100")
    assert average["value"] == pytest.approx(np.mean(list(expected.values())), abs=1e-12)
    assert average["n"] == len(old)


def test_an_undefined_label_is_empty_and_left_out_of_the_average() -> None:
    frame = images().assign(target_pneumonia=0.0)
    table = measure(frame)
    pneumonia = cell(table, label="pneumonia")
    assert math.isnan(pneumonia["value"])
    assert math.isnan(pneumonia["ci_low"])
    assert pneumonia["reason"] == "one class only: 0 of 400 images positive"
    assert (pneumonia["n"], pneumonia["n_positive"]) == (400, 0)
    average = cell(table, label=AVERAGE)
    others = [cell(table, label=label)["value"] for label in LABELS if label != "pneumonia"]
    assert average["value"] == pytest.approx(np.mean(others), abs=1e-12)
    assert average["reason"] == "without pneumonia (undefined)"


def test_unknown_labels_are_left_out_of_n() -> None:
    frame = images()
    frame.loc[:149, "target_healthy"] = np.nan
    known = frame.iloc[150:]
    healthy = cell(measure(frame), label="healthy")
    assert healthy["n"] == 250
    assert healthy["value"] == pytest.approx(roc_auc_score(known["target_healthy"], known["score_healthy"]), abs=1e-12)


def test_a_small_subgroup_and_an_empty_one_say_so() -> None:
    frame = images().assign(age_group="age_40_70")
    frame.loc[:4, "age_group"] = "age_0_40"
    table = measure(frame)
    assert cell(table, label="healthy", subgroup="age_0_40")["reason"] == "5 images, fewer than 10"
    assert cell(table, label="healthy", subgroup="age_70_100")["reason"] == "no image with this label known"
    average = cell(table, label=AVERAGE, subgroup="age_70_100")
    assert math.isnan(average["value"])
    assert average["reason"].startswith("no label is defined")


def test_the_share_of_undefined_draws_is_told() -> None:
    low, high, undefined = percentile_interval(np.r_[np.full(3, np.nan), np.linspace(0, 1, 9)], 0.5)
    assert (low, high, undefined) == pytest.approx((0.25, 0.75, 3 / 12))  # quartiles of 0, 1/8 … 1


def few_positive(patients: int, *, per_patient: int = 1) -> pd.DataFrame:
    """400 images of which the first patients alone are healthy."""
    frame = images(400, per_patient=per_patient).assign(target_healthy=0.0)
    frame.loc[: patients * per_patient - 1, "target_healthy"] = 1.0
    return frame


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (few_positive(1), "positive in 1 patient, fewer than 10: no interval, no test"),
        (few_positive(9), "positive in 9 patients, fewer than 10: no interval, no test"),
        (few_positive(1, per_patient=4), "positive in 1 patient, fewer than 10: no interval, no test"),
    ],
)
def test_an_auc_of_few_patients_has_a_value_but_no_interval(frame: pd.DataFrame, reason: str) -> None:
    table = measure(frame)
    row = cell(table, label="healthy")
    assert row["value"] == pytest.approx(roc_auc_score(frame["target_healthy"], frame["score_healthy"]), abs=1e-12)
    assert math.isnan(row["ci_low"])
    assert math.isnan(row["ci_high"])
    assert row["reason"] == reason
    # What rests on the negatives alone, of whom there are enough, has an interval; what rests on the few has none.
    assert math.isfinite(cell(table, label="healthy", metric="specificity")["ci_low"])
    assert math.isfinite(cell(table, label="healthy", metric="brier")["ci_low"])
    assert math.isnan(cell(table, label="healthy", metric="sensitivity")["ci_low"])
    # The macro AUC is of the others, and says so.
    average = cell(table, label=AVERAGE)
    others = [label for label in LABELS if label != "healthy"]
    assert average["value"] == pytest.approx(
        np.mean([cell(table, label=label)["value"] for label in others]), abs=1e-12
    )
    assert (average["reason"], average["labels"]) == ("without healthy (too few patients)", ",".join(others))
    assert math.isfinite(average["ci_low"])


def test_ten_patients_of_each_class_are_enough() -> None:
    assert math.isfinite(cell(measure(few_positive(10), draws=50), label="healthy")["ci_low"])
    frame = few_positive(10)
    turned = frame.assign(target_healthy=1 - frame["target_healthy"])
    assert math.isfinite(cell(measure(turned, draws=50), label="healthy")["ci_low"])


def test_a_small_study_has_its_mean_over_all_labels_and_says_that_it_has_no_interval() -> None:
    frame = images(40)
    for label in LABELS:
        frame[f"target_{label}"] = [1.0] * 4 + [0.0] * 36
    table = measure(frame)
    average = cell(table, label=AVERAGE)
    assert average["value"] == pytest.approx(
        np.mean([cell(table, label=label)["value"] for label in LABELS]), abs=1e-12
    )
    assert math.isnan(average["ci_low"])
    assert average["reason"] == "every label has too few patients: no interval, no test"


def test_a_perfect_score_has_no_interval_without_width() -> None:
    frame = images(400)
    frame["score_healthy"] = frame["target_healthy"].astype(np.float32)
    row = cell(measure(frame), label="healthy")
    assert row["value"] == 1
    assert math.isnan(row["ci_low"])
    assert row["reason"] == "all draws alike: no interval"
    assert "healthy" in cell(measure(frame), label=AVERAGE)["labels"]  # it is as good as any in a mean


@pytest.mark.parametrize("seed", range(3))
def test_an_interval_of_a_gap_holds_its_own_estimate(seed: int) -> None:
    """A largest less a smallest value is larger in each draw than in the data: percentiles lay beside it."""
    table = measure(images(300, seed=seed), draws=100)
    gaps = table[table["metric"].isin(FAIRNESS)]
    assert gaps["ci_low"].notna().all()
    assert ((gaps["ci_low"] <= gaps["value"]) & (gaps["value"] <= gaps["ci_high"])).all()
    assert (gaps["ci_low"] >= 0).all()


def test_the_interval_of_a_gap_of_two_groups_is_that_of_their_difference() -> None:
    # One pair is the only one that may be the largest: the estimate ± the 0.8 quantile of |-2|, |-1|, |0|, |1|, |2|
    # (hundredths), which by linear interpolation is 2.
    deviations = np.array([[-2.0, -1.0, 0.0, 1.0, 2.0]]) / 100
    assert extreme_interval(0.1, np.zeros(1), deviations, 0.8)[:2] == pytest.approx((0.08, 0.12))
    # A pair far from the largest is not asked, however much it errs within the reach of all; one near to it is.
    both = np.r_[deviations, 3 * deviations]
    assert extreme_interval(0.1, np.array([0.0, 0.07]), both, 0.8)[:2] == pytest.approx((0.08, 0.12))
    assert extreme_interval(0.1, np.array([0.0, 0.05]), both, 0.8)[:2] == pytest.approx((0.04, 0.16))
    assert extreme_interval(0.03, np.array([0.0, 0.05]), both, 0.8)[0] == 0  # no gap is below 0


@pytest.mark.parametrize("aucs", [(0.8, 0.8, 0.8), (0.85, 0.7)])
def test_intervals_of_a_gap_cover_the_true_one(aucs: tuple[float, ...]) -> None:
    """Groups' estimates are normal here, as AUCs of many patients are; 2,000 studies: 95 % ± 3 errors of the count."""
    rng = np.random.default_rng(1)
    true, error = np.ptp(aucs), 0.03
    one, other = np.triu_indices(len(aucs), 1)
    hits = 0
    for _ in range(2000):
        found = np.array(aucs) + error * rng.normal(size=len(aucs))
        drawn = error * rng.normal(size=(len(aucs), 200))
        differences = np.abs(found[one] - found[other])
        low, high, _ = extreme_interval(np.ptp(found), np.ptp(found) - differences, drawn[one] - drawn[other], 0.95)
        hits += low <= true <= high
    assert 0.93 <= hits / 2000 <= 0.97


def test_a_group_of_few_patients_makes_no_gap() -> None:
    frame = images(400).assign(target_healthy=lambda f: f["target_healthy"].where(f["age_group"] != "age_0_40", 0.0))
    young = frame.index[frame["age_group"] == "age_0_40"]
    frame.loc[young[:2], "target_healthy"] = 1.0
    row = cell(measure(frame), label="healthy", subgroup="age_group", metric="auc_gap")
    values = [cell(measure(frame), label="healthy", subgroup=group)["value"] for group in ("age_40_70", "age_70_100")]
    assert row["value"] == pytest.approx(abs(values[0] - values[1]), abs=1e-12)
    assert "without age_0_40 (too few patients)" in row["reason"]


def test_without_draws_there_are_no_intervals() -> None:
    table = measure(images(), draws=0)
    assert table["ci_low"].isna().all()
    assert not table["value"].isna().any()


def test_a_missing_threshold_leaves_the_rates_empty_and_says_why() -> None:
    none = Threshold(math.nan, "val of vindr: one class only: 0 of 9 images positive", 9, 0)
    table = measure(images(), thresholds={**THRESHOLDS, "healthy": none})
    row = cell(table, label="healthy", metric="sensitivity")
    assert math.isnan(row["value"])
    assert row["reason"] == "no threshold: val of vindr: one class only: 0 of 9 images positive"
    assert cell(table, label="healthy", metric="auc")["reason"] == ""


def test_sensitivity_without_positives_is_undefined_but_specificity_is_not() -> None:
    table = measure(images().assign(target_healthy=0.0))
    assert math.isnan(cell(table, label="healthy", metric="sensitivity")["value"])
    assert cell(table, label="healthy", metric="sensitivity")["reason"].startswith("one class only")
    assert math.isfinite(cell(table, label="healthy", metric="specificity")["value"])


def test_nothing_warns_when_everything_is_undefined() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = measure(images(6))
    assert table["value"].isna().all()
    assert (table["reason"] != "").all()


def test_the_interval_is_of_patients_not_of_images() -> None:
    one, five = images(300, seed=4), images(1500, seed=4, per_patient=5)
    # Five copies of everything about a patient add no information, so the interval must not shrink by sqrt(5).
    width = {}
    for name, frame in (("one", one), ("five", five)):
        row = cell(measure(frame, draws=500), label="healthy")
        width[name] = row["ci_high"] - row["ci_low"]
    assert width["five"] > 0.75 * width["one"]


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 1000))
def test_a_bootstrap_interval_has_about_the_width_of_hanley_and_mcneils(seed: int) -> None:
    row = cell(measure(images(2000, seed=seed), draws=400), label="healthy")
    a, positive = row["value"], row["n_positive"]
    negative = row["n"] - positive
    # Hanley & McNeil 1982, equation 2.
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    variance = a * (1 - a) + (positive - 1) * (q1 - a * a) + (negative - 1) * (q2 - a * a)
    expected = 2 * 1.96 * math.sqrt(variance / (positive * negative))
    assert row["ci_high"] - row["ci_low"] == pytest.approx(expected, rel=0.25)


def test_a_single_patient_has_no_interval() -> None:
    """Every draw of one patient is the data themselves: an interval without width would say that AUC is certain."""
    drawn = patient_draws(np.array(["p", "p", "p"]), draws=50, seed=0, domain="uka")
    assert drawn.shape == (3, 0)
    assert all(map(math.isnan, percentile_interval(np.empty(0), 0.95)))
