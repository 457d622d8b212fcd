"""Tests that compare models: DeLong against a second implementation, the others against worked values and scipy."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from dpdt.evaluation.metrics import (
    auc_covariance,
    auc_influence,
    holm,
    normal_p,
    permutation_test,
    tost,
)


def delong_by_pairs(target: NDArray[np.int64], scores: NDArray[np.float64]) -> tuple[list[float], NDArray[np.float64]]:
    """DeLong, DeLong & Clarke-Pearson 1988, equations 3 to 6, written down as they stand: every pair, O(m n)."""
    positives, negatives = scores[:, target == 1], scores[:, target == 0]
    models, m, n = len(scores), positives.shape[1], negatives.shape[1]
    psi = np.zeros((models, m, n))
    for r in range(models):
        for i in range(m):
            for j in range(n):
                x, y = positives[r, i], negatives[r, j]
                psi[r, i, j] = 1.0 if y < x else 0.5 if y == x else 0.0
    theta = [float(psi[r].mean()) for r in range(models)]
    s = np.zeros((models, models))
    for r in range(models):
        for q in range(models):
            v10 = sum((psi[r, i].mean() - theta[r]) * (psi[q, i].mean() - theta[q]) for i in range(m)) / (m - 1)
            v01 = sum((psi[r, :, j].mean() - theta[r]) * (psi[q, :, j].mean() - theta[q]) for j in range(n)) / (n - 1)
            s[r, q] = v10 / m + v01 / n
    return theta, s


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(4, 25), st.integers(1, 8))
def test_delong_equals_the_definition_over_all_pairs_also_with_ties(seed: int, n: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    target = np.r_[0, 0, 1, 1, rng.integers(0, 2, n - 4)]
    scores = rng.integers(0, levels + 1, (3, n)).astype(float)
    aucs, covariance = auc_covariance(target, scores)
    expected_aucs, expected = delong_by_pairs(target, scores)
    np.testing.assert_allclose(aucs, expected_aucs, rtol=0, atol=1e-12)
    np.testing.assert_allclose(covariance, expected, rtol=0, atol=1e-12)


def test_components_by_patient_equal_delong_where_each_patient_has_one_image() -> None:
    rng = np.random.default_rng(0)
    target, score = rng.integers(0, 2, 400), rng.normal(size=400)
    value, influence = auc_influence(target, score, np.arange(400), 400)
    _, covariance = auc_covariance(target, score[None])
    assert value == pytest.approx(roc_auc_score(target, score), abs=1e-12)
    # The factors differ: n / (n - 1) here, m / (m - 1) for each class there.
    assert 400 / 399 * (influence**2).sum() == pytest.approx(covariance[0, 0], rel=0.01)


def test_five_copies_of_every_image_do_not_shrink_the_error_by_patient() -> None:
    rng = np.random.default_rng(1)
    target, score = rng.integers(0, 2, 100), rng.normal(size=100)
    _, single = auc_influence(target, score, np.arange(100), 100)
    _, copies = auc_influence(np.repeat(target, 5), np.repeat(score, 5), np.repeat(np.arange(100), 5), 100)
    assert (copies**2).sum() == pytest.approx((single**2).sum(), rel=1e-9)


def test_one_class_only_has_no_standard_error() -> None:
    aucs, covariance = auc_covariance(np.ones(5), np.arange(10.0).reshape(2, 5))
    assert np.isnan(aucs).all()
    assert np.isnan(covariance).all()


def test_holm_of_a_worked_example() -> None:
    # Sorted .005, .01, .03, .04 times 4, 3, 2, 1 is .02, .03, .06, .04; the last is raised to .06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    found = holm([0.5, math.nan, 0.02])
    assert found[[0, 2]] == pytest.approx([0.5, 0.04])
    assert math.isnan(found[1])
    assert len(holm([])) == 0


def test_tost_is_small_only_inside_of_the_margin() -> None:
    # z = (0.01 - 0) / 0.005 = 2 on both sides: P = 1 - Phi(2) = .02275.
    assert tost(0.0, 0.005, margin=0.01) == pytest.approx(0.0227501, abs=1e-6)
    assert tost(0.02, 0.005, margin=0.01) == pytest.approx(0.9772499, abs=1e-6)
    assert tost(0.01, 0.005, margin=0.01) == pytest.approx(0.5)
    assert normal_p(0.0, 0.1) == 1


def test_a_large_p_value_of_a_difference_is_no_equivalence() -> None:
    assert normal_p(0.0, 0.05) == 1
    assert tost(0.0, 0.05, margin=0.01) > 0.4


def test_the_permutation_test_takes_all_swaps_where_they_are_few() -> None:
    target = np.array([0, 0, 0, 1, 1, 1])
    perfect, reversed_ = np.arange(6.0), np.arange(6.0)[::-1]
    # 64 swaps; the AUCs are 1 and 0, a difference of 1 that only the two uniform swaps reach: 2/64.
    assert permutation_test(target, perfect, reversed_) == pytest.approx(2 / 64)
    assert permutation_test(target, perfect, perfect) == 1
    assert math.isnan(permutation_test(np.ones(4), np.arange(4.0), np.arange(4.0)))


def test_swapping_whole_patients_leaves_fewer_swaps() -> None:
    target = np.array([0, 0, 0, 1, 1, 1])
    p = permutation_test(target, np.arange(6.0), np.arange(6.0)[::-1], units=np.array([0, 0, 0, 1, 1, 1]))
    # Two patients, four swaps. Swapping one alone pits equal ranks: 0,1,2 against 0,1,2, both AUCs one half.
    assert p == pytest.approx(2 / 4)


def test_random_permutations_agree_with_delong_where_n_is_large() -> None:
    rng = np.random.default_rng(3)
    target = rng.integers(0, 2, 400)
    first, second = target + rng.normal(size=400), 0.7 * target + rng.normal(size=400)
    aucs, covariance = auc_covariance(target, np.stack([first, second]))
    delong = normal_p(aucs[0] - aucs[1], math.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]))
    assert permutation_test(target, first, second, permutations=1000) == pytest.approx(delong, abs=0.03)
