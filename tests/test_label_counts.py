"""Class weights from noisy counts: sensitivity, noise, and the share of epsilon that they cost."""

import math

import numpy as np
import pytest

from dpdt.errors import PrivacyError
from dpdt.privacy.accounting import ACCOUNTANTS, calibrate_noise_multiplier, epsilon
from dpdt.privacy.keystream import KeyStream
from dpdt.privacy.label_counts import MAX_WEIGHT, class_weights_of, count_sensitivity, noisy_counts, unit_counts
from dpdt.privacy.mechanism import Mechanism
from dpdt.study.settings import PrivacySettings

LABELS = np.array([[1, 0], [1, np.nan], [0, 0], [np.nan, np.nan], [1, 1]], dtype=np.float32)
UNITS = np.array([0, 0, 0, 1, 2], dtype=np.int64)


def test_a_unit_counts_once_whatever_the_number_of_its_images() -> None:
    parts = unit_counts(LABELS, UNITS)
    np.testing.assert_allclose(parts[0], [[2 / 3, 0], [1 / 3, 1]])
    np.testing.assert_allclose(parts[1], 0)
    np.testing.assert_allclose(parts[2], [[1, 1], [0, 0]])


def test_no_unit_moves_the_counts_by_more_than_their_sensitivity() -> None:
    # Dwork & Roth 2014, definition 3.8: the Euclidean sensitivity, here over all ways to label up to four images.
    random = np.random.default_rng(0)
    for images in (1, 2, 4, 50):
        labels = random.choice(np.array([0, 1, np.nan], np.float32), size=(images, 5), p=[0.45, 0.45, 0.1])
        assert np.linalg.norm(unit_counts(labels, np.zeros(images, np.int64))) <= count_sensitivity(5) + 1e-12
    one = np.ones((1, 5), np.float32)
    assert np.linalg.norm(unit_counts(one, np.zeros(1, np.int64))) == pytest.approx(count_sensitivity(5))


def test_the_noise_has_the_promised_deviation() -> None:
    stream = KeyStream.from_seed("counts")
    exact = unit_counts(LABELS, UNITS).sum(axis=0)
    found = [noisy_counts(LABELS, UNITS, noise_multiplier=3.0, noise=stream) - exact for _ in range(2000)]
    assert np.std(found) == pytest.approx(3.0 * math.sqrt(2), rel=0.03)
    assert np.mean(found) == pytest.approx(0, abs=0.2)


def test_weights_stay_within_bounds_whatever_the_noise_did() -> None:
    assert class_weights_of(np.array([[-5.0, 1e6, 20], [1e6, -7.0, 30]])) == [MAX_WEIGHT, 1 / MAX_WEIGHT, 1.5]


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
def test_counts_and_steps_together_keep_to_the_target(accountant: str) -> None:
    settings = PrivacySettings(delta=1e-5, accountant=accountant)  # type: ignore[arg-type]
    shared = {"target_epsilon": 3.0, "num_units": 10_000, "sample_rate": 0.01, "num_steps": 500}
    mechanism = Mechanism.plan(settings, counts_share=0.1, **shared)  # type: ignore[arg-type]
    without = Mechanism.plan(settings, **shared)  # type: ignore[arg-type]
    assert 0.98 * 3 <= mechanism.epsilon(500) <= 3
    assert mechanism.noise_multiplier > without.noise_multiplier
    assert without.counts_noise is None
    counts_alone = epsilon(
        noise_multiplier=1.0, sample_rate=1.0, num_steps=0, delta=1e-5, gaussian_noise=mechanism.counts_noise
    )
    assert 0.98 * 0.3 <= counts_alone <= 0.3


def test_a_release_over_all_units_composes_as_one_more_step_of_rate_one() -> None:
    # Two Gaussian releases of noise s are one of noise s / sqrt(2): Dong, Roth & Su 2022 (arXiv 1905.02383), cor. 3.3.
    two = epsilon(noise_multiplier=3.0, sample_rate=1.0, num_steps=1, delta=1e-5, gaussian_noise=3.0)
    one = epsilon(noise_multiplier=3.0 / math.sqrt(2), sample_rate=1.0, num_steps=1, delta=1e-5)
    assert two == pytest.approx(one, rel=5e-3)


def test_a_target_covers_the_release_or_is_refused() -> None:
    shared = {"sample_rate": 0.01, "num_steps": 10, "delta": 1e-5, "gaussian_noise": 1.0}
    with pytest.raises(PrivacyError, match=r"target_epsilon: 0\.1 cannot be reached"):
        calibrate_noise_multiplier(target_epsilon=0.1, **shared)
    with pytest.raises(PrivacyError, match=r"gaussian_noise: expected a number >= 0\.02"):
        epsilon(noise_multiplier=1.0, **{**shared, "gaussian_noise": 0.0})
