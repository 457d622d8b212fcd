"""Planning a mechanism: calibrated, checked, refused."""

from typing import Any

import pytest

from dpdt.errors import PrivacyError
from dpdt.privacy.mechanism import Mechanism
from dpdt.study.settings import PrivacySettings


def plan(**changes: Any) -> Mechanism:
    settings: dict[str, Any] = {"target_epsilon": 3.0, "num_units": 1000, "sample_rate": 0.05, "num_steps": 100}
    return Mechanism.plan(PrivacySettings(delta=1e-4), **{**settings, **changes})


def test_the_whole_run_keeps_to_the_target() -> None:
    mechanism = plan()
    assert 0.98 * 3 <= mechanism.epsilon(100) <= 3
    assert mechanism.epsilon(0) == 0.0
    assert mechanism.epsilon(50) < mechanism.epsilon(100)


def test_noise_that_was_frozen_is_used_again() -> None:
    assert plan(noise_multiplier=plan().noise_multiplier) == plan()


def test_frozen_noise_that_misses_the_target_is_refused() -> None:
    with pytest.raises(PrivacyError, match=r"noise_multiplier 0.5 spends epsilon .* more than the target 3"):
        plan(noise_multiplier=0.5)


@pytest.mark.parametrize("units", [10_000, 10_001, 10**6])
def test_delta_of_one_over_the_units_or_more_is_refused(units: int) -> None:
    with pytest.raises(PrivacyError, match=r"privacy\.delta: 0\.0001 is not below 1 / "):
        plan(num_units=units)


def test_the_dict_has_all_that_a_step_depends_on() -> None:
    assert set(plan().as_dict()) >= {"unit", "sample_rate", "noise_multiplier", "max_grad_norm", "delta", "accountant"}


def test_a_large_delta_may_be_asked_for() -> None:
    settings = PrivacySettings(delta=1e-4, allow_large_delta=True)
    assert Mechanism.plan(settings, target_epsilon=3.0, num_units=10**6, sample_rate=0.05, num_steps=10).delta == 1e-4


def test_the_allowance_for_rounding_is_paid_for_with_noise() -> None:
    # Sensitivity C·(1 + s) with noise sigma·C is sensitivity 1 with noise sigma / (1 + s).
    without, allowed = plan(), plan(rounding_allowance=0.25)
    assert allowed.noise_multiplier == pytest.approx(1.25 * without.noise_multiplier)
    assert allowed.accounted_noise_multiplier >= without.noise_multiplier
    assert allowed.epsilon(100) == pytest.approx(without.epsilon(100))
    assert allowed.epsilon(100) <= 3
    assert allowed.sensitivity == pytest.approx(1.25 * allowed.max_grad_norm)
    assert plan(rounding_allowance=0.25, noise_multiplier=allowed.noise_multiplier) == allowed
    with pytest.raises(PrivacyError, match="more than the target 3"):
        plan(rounding_allowance=0.25, noise_multiplier=without.noise_multiplier)
