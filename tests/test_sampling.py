"""Poisson sampling over units: rates, one image a unit, empty batches."""

import itertools

import numpy as np
import pytest
from scipy import stats

from dpdt.errors import PrivacyError
from dpdt.privacy.keystream import KeyStream
from dpdt.privacy.sampling import PoissonSampler, num_steps_for, sample_rate_for

UNITS = np.array([0, 2, 0, 1, 2, 2, 3, 0], dtype=np.int64)


def sampler(units: np.ndarray, rate: float, name: str = "") -> PoissonSampler:
    return PoissonSampler(units, sample_rate=rate, stream=KeyStream.from_seed("sampling", name))


def test_a_drawn_unit_brings_exactly_one_of_its_images() -> None:
    drawn = sampler(UNITS, 0.6)
    for _ in range(300):
        rows = drawn.draw()
        assert len(set(UNITS[rows])) == len(rows)
        assert list(UNITS[rows]) == sorted(UNITS[rows])


def test_at_rate_one_every_unit_is_in_every_batch() -> None:
    drawn = sampler(UNITS, 1.0)
    assert all(set(UNITS[drawn.draw()]) == {0, 1, 2, 3} for _ in range(50))


def test_batch_sizes_have_the_binomial_distribution() -> None:
    # DP-05: shuffled batches of a fixed size were accounted as Poisson sampling.
    # Binomial(200, 0.1) has mean 20 and variance 18.
    drawn = sampler(np.arange(200), 0.1)
    sizes = np.array([len(drawn.draw()) for _ in range(4000)])
    assert sizes.mean() == pytest.approx(20, abs=0.3)
    assert sizes.var() == pytest.approx(18, rel=0.1)


def test_units_are_drawn_independently_and_all_at_the_same_rate() -> None:
    drawn = sampler(np.repeat(np.arange(10), np.arange(1, 11)), 0.3)
    units = np.repeat(np.arange(10), np.arange(1, 11))
    present = np.zeros((3000, 10))
    for row in present:
        row[units[drawn.draw()]] = 1
    np.testing.assert_allclose(present.mean(0), 0.3, atol=0.04)  # also of the unit with ten images
    correlations = np.corrcoef(present.T)[np.triu_indices(10, 1)]
    assert np.abs(correlations).max() < 0.08


def test_the_images_of_a_unit_are_equally_likely() -> None:
    drawn = sampler(np.zeros(5, dtype=np.int64), 1.0)
    counts = np.bincount([drawn.draw()[0] for _ in range(5000)], minlength=5)
    assert stats.chisquare(counts).pvalue > 1e-3


def test_empty_batches_come_and_are_empty() -> None:
    # DP-06: ten units, one expected: 35 % of the batches are empty.
    drawn = sampler(np.arange(10), 0.1)
    empty = sum(len(drawn.draw()) == 0 for _ in range(1000))
    assert empty / 1000 == pytest.approx(0.9**10, abs=0.06)


def test_a_unit_counts_once_however_many_images_it_has() -> None:
    assert sampler(UNITS, 0.5).num_units == 4


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1])
def test_a_rate_that_is_no_probability_is_refused(rate: float) -> None:
    with pytest.raises(PrivacyError, match=r"expected a sample_rate in \(0, 1\]"):
        sampler(UNITS, rate)


def test_no_image_is_refused() -> None:
    with pytest.raises(PrivacyError, match="at least one image"):
        sampler(np.array([], dtype=np.int64), 0.5)


def test_the_rate_comes_from_the_units_and_not_from_a_number_of_batches() -> None:
    # DP-04: q was 1 / batches, 781 times the real one.
    assert sample_rate_for(expected_batch_size=16, num_units=100_000) == 0.00016


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(PrivacyError, match="expected_batch_size: 64 is more than the 30 privacy units"):
        sample_rate_for(expected_batch_size=64, num_units=30)
    with pytest.raises(PrivacyError, match=r"pretrain\.expected_batch_size: 64 is more than the 30 images of the"):
        sample_rate_for(expected_batch_size=64, num_units=30, section="pretrain", unit="image")


@pytest.mark.parametrize("units", [93 * 128, 99 * 128, 105 * 128])
def test_an_epoch_has_exactly_its_steps(units: int) -> None:
    # Opacus' int(1 / q) runs one step short for 93, 99, 105, … batches an epoch.
    assert num_steps_for(num_epochs=1, expected_batch_size=128, num_units=units) == units // 128


def test_there_is_always_a_step() -> None:
    assert num_steps_for(num_epochs=0.01, expected_batch_size=8, num_units=10) == 1


def test_several_images_of_a_drawn_unit_are_different_ones_and_no_more_than_it_has() -> None:
    drawn = PoissonSampler(UNITS, sample_rate=0.6, stream=KeyStream.from_seed("several"), images_per_unit=2)
    for _ in range(200):
        rows = drawn.draw()
        assert len(set(rows)) == len(rows)
        units, counts = np.unique(UNITS[rows], return_counts=True)
        assert list(counts) == [{0: 2, 1: 1, 2: 2, 3: 1}[unit] for unit in units]
        assert list(UNITS[rows]) == sorted(UNITS[rows])


def test_all_pairs_of_a_units_images_are_equally_likely() -> None:
    drawn = PoissonSampler(np.zeros(4, np.int64), sample_rate=1.0, stream=KeyStream.from_seed("p"), images_per_unit=2)
    pairs = [tuple(sorted(drawn.draw())) for _ in range(6000)]
    counts = [pairs.count(pair) for pair in itertools.combinations(range(4), 2)]
    assert sum(counts) == 6000
    assert stats.chisquare(counts).pvalue > 1e-3


def test_less_than_one_image_of_a_unit_is_refused() -> None:
    with pytest.raises(PrivacyError, match="at least 1 image of a drawn unit, got 0"):
        PoissonSampler(UNITS, sample_rate=0.5, stream=KeyStream.fresh(), images_per_unit=0)
