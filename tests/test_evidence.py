"""Checks of noise, clipping and sampling: what is right passes, what is wrong is found."""

import numpy as np
import pytest

from dpdt.evaluation.audit.mechanism_checks import clipping_finding, noise_finding, sampling_finding

RANDOM = np.random.default_rng(0)


def test_the_right_noise_is_found_to_be_right() -> None:
    noise = 1.3 * RANDOM.standard_normal(20_000)
    found = noise_finding(float((noise**2).sum()), 20_000, noise_multiplier=1.3)
    assert found.good
    assert found.low < 1.3 < found.high
    assert found.measured == pytest.approx(1.3, rel=0.03)


@pytest.mark.parametrize("part", [0.0, 1 / 3, 0.9, 1.1])
def test_noise_that_is_a_tenth_off_is_found(part: float) -> None:
    noise = part * 1.3 * RANDOM.standard_normal(20_000)
    assert not noise_finding(float((noise**2).sum()), 20_000, noise_multiplier=1.3).good


def test_a_unit_that_moves_more_than_the_norm_is_found() -> None:
    shared = {"draws": 1000, "samples": 2000, "noise_multiplier": 1.0}
    assert clipping_finding(1000.0, **shared).good
    assert not clipping_finding(2000.0, **shared).good
    assert not clipping_finding(0.0, **shared).good  # and one that does not arrive: nothing would be audited


def test_binomial_draws_pass_and_a_unit_that_is_always_drawn_is_found() -> None:
    draws = RANDOM.binomial(50, 0.1, size=1000)
    assert sampling_finding(draws, steps=50, sample_rate=0.1).good
    draws[17] = 50
    found = sampling_finding(draws, steps=50, sample_rate=0.1)
    assert not found.good
    assert found.measured == 1.0


def test_draws_at_twice_the_accounted_rate_are_found() -> None:
    draws = RANDOM.binomial(500, 0.2, size=1000)
    assert not sampling_finding(draws, steps=500, sample_rate=0.1).good
