"""Membership inference by loss: its losses and its AUC."""

import math

import numpy as np
import pandas as pd
import pytest

from dpdt.base.vocabulary import LABELS
from dpdt.evaluation.audit.membership import membership_auc, membership_text, patient_losses


def predictions(rows: list[tuple[str, str, float, float | None]]) -> pd.DataFrame:
    """Image, patient, score of every label, target of every label."""
    parts = [
        {
            "image_id": image,
            "patient_key": patient,
            "sex": "female",
            "age_group": "age_0_40",
            "label": label,
            "target": target,
            "score": score,
        }
        for label in LABELS
        for image, patient, score, target in rows
    ]
    return pd.DataFrame(parts).astype({"target": "Int8", "score": "float32"})


def test_a_patients_loss_is_the_mean_over_images_and_known_labels() -> None:
    frame = predictions([("a1", "a", 0.5, 1), ("a2", "a", 0.25, 0), ("b1", "b", 0.1, 1), ("c1", "c", 0.3, None)])
    expected = [(math.log(2) - math.log(0.75)) / 2, -math.log(0.1)]  # c has no known label
    np.testing.assert_allclose(patient_losses(frame), expected, rtol=1e-6)


def test_a_score_of_zero_costs_a_finite_loss() -> None:
    assert np.isfinite(patient_losses(predictions([("a1", "a", 0.0, 1)]))).all()


def test_the_auc_counts_pairs() -> None:
    # Members 1 and 3, others 2 and 4: of four pairs the member has the smaller loss in three.
    found = membership_auc(np.array([1.0, 3.0]), np.array([2.0, 4.0]))
    assert found.auc == 0.75
    assert (found.members, found.others) == (2, 2)


def test_losses_that_know_nothing_have_an_interval_around_a_half() -> None:
    random = np.random.default_rng(0)
    found = membership_auc(random.random(300), random.random(100))
    assert found.low < 0.5 < found.high


@pytest.mark.parametrize(("members", "others"), [(1, 2), (9, 300), (20, 20)])
def test_few_patients_and_a_perfect_attack_have_no_interval(members: int, others: int) -> None:
    """Nine are fewer than ten; twenty who are all told apart have a variance of 0, which is not known to be 0."""
    found = membership_auc(np.full(members, 1.0), np.arange(2.0, 2.0 + others)).as_dict()
    assert (found["auc"], found["low"], found["high"]) == (1.0, None, None)
    assert membership_text(found) == "1.000 (no interval: too few patients)"


@pytest.mark.parametrize("confidence", [0.9, 0.99])
def test_the_interval_is_delongs(confidence: float) -> None:
    # Variance of an AUC with components by hand: members' shares five times 1 and 1/2, variance 10 / 16 / 9 = 5/72,
    # over 10 members 1/144; the others' the same.
    from scipy import stats

    found = membership_auc(np.repeat([1.0, 3.0], 5), np.repeat([2.0, 4.0], 5), confidence=confidence)
    width = stats.norm.ppf((1 + confidence) / 2) * math.sqrt(2 / 144)
    assert found.low == pytest.approx(max(0, 0.75 - width))
    assert found.high == pytest.approx(min(1, 0.75 + width))
