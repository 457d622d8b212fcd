"""Epsilon of DP-SGD steps, and the noise that a target epsilon needs.

A step releases the sum of clipped gradients of a Poisson-sampled batch plus Gaussian noise: the Poisson-subsampled
Gaussian mechanism, under addition or removal of one privacy unit. Where a blank record takes its place instead
(zero-out), q and the steps stay as they are, and the numbers are the same. Three accountants compose its steps:

- ``pld``: privacy loss distributions (Sommer, Meiser & Mohammadi 2019; connect-the-dots discretisation of Doroshenko
  et al. 2022, arXiv 2207.04380) of dp-accounting. Discretised pessimistically: an upper bound, tight to a few 0.1 %.
- ``prv``: privacy random variables (Gopi, Lee & Wutschitz 2021, arXiv 2106.02848) of Opacus; its upper bound.
- ``rdp``: Rényi DP (Mironov, Talwar & Zhang 2019, arXiv 1908.10530) of dp-accounting; looser, an upper bound.

Without sampling (q = 1) the steps are one Gaussian mechanism. Its epsilon is exact (`dpdt.privacy.gaussian`) and is
the answer whichever of them is asked. Where prv cannot answer, pld does, which agrees with it; where pld cannot, rdp
does. ``Spent.accountant`` says which did.

Gaussian DP's central limit (``gdp``) is refused: it is no bound and lies below the true epsilon.
"""

import functools
import itertools
import logging
import math
import warnings
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np

from dpdt.errors import PrivacyError
from dpdt.privacy.gaussian import gaussian_epsilon

__all__ = [
    "ACCOUNTANTS",
    "EXACT",
    "Spent",
    "calibrate_noise_multiplier",
    "check_delta",
    "delta_protects",
    "epsilon",
    "optimistic_epsilon",
    "spent_epsilon",
]

ACCOUNTANTS: Final = ("pld", "prv", "rdp")

# The accountant's name where the steps are a Gaussian mechanism; cannot be asked for.
EXACT: Final = "exact"

# Less noise than this is no protection (epsilon of one step above 1000): the answer is infinity.
MIN_NOISE_MULTIPLIER: Final = 0.02
MAX_NOISE_MULTIPLIER: Final = 1e7
# prv takes minutes and gigabytes above this (measured by the rdp bound, which is quick); pld answers instead.
MAX_PRV_EPSILON: Final = 50.0
MAX_PRV_STEPS: Final = 10**6
# Below about this Opacus refuses: rounding would dominate.
MIN_PRV_DELTA: Final = 1e-12
PRV_ERROR: Final = 0.01  # of epsilon, to either side: Opacus' own default
# A calibrated sigma spends between this part of the target and the target.
CALIBRATION_FLOOR: Final = 0.995
BRACKET_FACTOR: Final = 1.25
# Discretisation of the privacy loss: buckets a standard deviation of one step's loss, but no wider than the maximum,
# and (which goes first, for bounded time) no more of them than these over the range of one step and of the sum.
BUCKETS_PER_DEVIATION: Final = 10.0
MAX_INTERVAL: Final = 1e-2
MAX_STEP_BUCKETS: Final = 2e4
MAX_SUM_BUCKETS: Final = 4e5
# One step's Rényi divergence of order a comes out too small by up to 6e-17 a (measured against 50 digits: noise of 1 to
# 10^6, rates of 10^-6 to 0.3), which with huge noise is all that it has. So much is added for each step.
RDP_ROUNDING: Final = 2e-16
# What the Fourier transforms of so many composed steps may have lost of delta, by rounding: ten times what was measured
# against the exact delta of composed Gaussians for 10 to 100,000 steps. A delta not far above it gets the rdp bound.
ROUNDING_A_STEP: Final = 1e-16
# Above so many steps the transform is taken in stages of this number: its library sizes the sum by exponents that suit
# no more, and would make it ten times as long. A last stage that is not full is counted as full: 0.01 % more steps.
MAX_STEPS_AT_ONCE: Final = 10**6
STAGE: Final = 100
# From so many on (below, few buckets may be composed one by one) buckets are kept in an array: the library finds that
# out by computing buckets to the power of steps, a number of 10^7 digits.
DENSE_STEPS: Final = 10
TAIL_MASS: Final = 1e-15  # that a composition may cut off and count as lost: dp-accounting's own default
# An interval above this means an epsilon of many thousands: the rdp bound answers.
COARSEST_INTERVAL: Final = 1.0


def epsilon(
    *,
    noise_multiplier: float,
    sample_rate: float,
    num_steps: int,
    delta: float,
    accountant: str = "pld",
    gaussian_noise: float | None = None,
) -> float:
    """Epsilon that `num_steps` noisy steps spend, an upper bound whichever accountant is asked.

    Args:
        noise_multiplier: Standard deviation of the noise over max_grad_norm (sigma), >= 0.
        sample_rate: Probability q in (0, 1] with which a unit is in a batch, independently of all others.
        num_steps: Logical steps taken, >= 0.
        delta: In (0, 1).
        accountant: ``pld``, ``prv`` or ``rdp``.
        gaussian_noise: Noise over sensitivity of one Gaussian release over all units that is composed with the steps
            (noisy counts, for instance); None: there is none.

    Returns:
        Epsilon >= 0; 0.0 for no steps, infinity without (or with next to no) noise; never NaN.

    Raises:
        PrivacyError: A value is out of its range, or the accountant is unknown or `gdp`.

    >>> epsilon(noise_multiplier=1.0, sample_rate=0.01, num_steps=0, delta=1e-5)
    0.0
    """
    return spent_epsilon(
        noise_multiplier=noise_multiplier,
        sample_rate=sample_rate,
        num_steps=num_steps,
        delta=delta,
        accountant=accountant,
        gaussian_noise=gaussian_noise,
    ).epsilon


class Spent(NamedTuple):
    """An epsilon and the accountant that computed it.

    Attributes:
        epsilon: As of ``epsilon``.
        accountant: The one that was asked, ``pld`` or ``rdp`` where it cannot answer, or ``exact`` without sampling.
    """

    epsilon: float
    accountant: str


def spent_epsilon(
    *,
    noise_multiplier: float,
    sample_rate: float,
    num_steps: int,
    delta: float,
    accountant: str = "pld",
    gaussian_noise: float | None = None,
) -> Spent:
    """As ``epsilon``, and which accountant's answer it is.

    >>> spent_epsilon(noise_multiplier=2.0, sample_rate=1.0, num_steps=4, delta=1e-5).accountant
    'exact'
    """
    _check(sample_rate=sample_rate, num_steps=num_steps, delta=delta, accountant=accountant)
    if not 0 <= noise_multiplier < math.inf:
        raise PrivacyError(f"noise_multiplier: expected a finite number >= 0, got {noise_multiplier!r}.")
    once = None if gaussian_noise is None else float(gaussian_noise)
    if once is not None and not MIN_NOISE_MULTIPLIER <= once < math.inf:
        raise PrivacyError(f"gaussian_noise: expected a number >= {MIN_NOISE_MULTIPLIER}, got {gaussian_noise!r}.")
    if num_steps == 0:
        return Spent(0.0, accountant) if once is None else _spent(once, 1.0, 1, float(delta), accountant)
    if noise_multiplier < MIN_NOISE_MULTIPLIER:
        return Spent(math.inf, accountant)
    # Less noise than there is costs more, so the most that the accountants' series bear is a bound for any above it.
    sigma = min(float(noise_multiplier), MAX_NOISE_MULTIPLIER)
    return _spent(sigma, float(sample_rate), int(num_steps), float(delta), accountant, once)


def optimistic_epsilon(
    *, noise_multiplier: float, sample_rate: float, num_steps: int, delta: float, gaussian_noise: float | None = None
) -> float | None:
    """A lower bound on what ``epsilon`` bounds from above: between them lies what the accountant does not know.

    It says how tight the reported epsilon is, and protects nobody: the guarantee is the upper bound.

    Returns:
        The lower bound of ``prv`` (Gopi, Lee & Wutschitz 2021, arXiv 2106.02848, theorem 5.5), or the exact epsilon
        where there is no sampling; None where neither has a finite answer.

    >>> round(optimistic_epsilon(noise_multiplier=2.0, sample_rate=1.0, num_steps=4, delta=1e-5), 4)
    4.3772
    """
    values = {"sample_rate": sample_rate, "num_steps": num_steps, "delta": delta, "gaussian_noise": gaussian_noise}
    spent = spent_epsilon(noise_multiplier=noise_multiplier, **values)  # type: ignore[arg-type]
    if spent.accountant == EXACT or spent.epsilon in (0.0, math.inf):
        return spent.epsilon if math.isfinite(spent.epsilon) else None
    once = None if gaussian_noise is None else float(gaussian_noise)
    sigma = min(float(noise_multiplier), MAX_NOISE_MULTIPLIER)
    bounds = _prv_bounds(sigma, float(sample_rate), int(num_steps), float(delta), once)
    return None if bounds is None else min(bounds[0], spent.epsilon)


def calibrate_noise_multiplier(
    *,
    target_epsilon: float,
    sample_rate: float,
    num_steps: int,
    delta: float,
    accountant: str = "pld",
    gaussian_noise: float | None = None,
) -> float:
    """The smallest noise (to 0.5 % of epsilon) with which `num_steps` steps stay within the target.

    Args:
        target_epsilon: Positive and finite.
        sample_rate: Probability q in (0, 1] with which a unit is in a batch.
        num_steps: Logical steps of the whole training, >= 1.
        delta: In (0, 1).
        accountant: ``pld``, ``prv`` or ``rdp``.
        gaussian_noise: As for ``epsilon``: a release that the target has to cover too.

    Returns:
        noise_multiplier. ``epsilon`` of it is never above the target; it is at least 0.995 of it except where even
        hardly any noise spends less than the target.

    Raises:
        PrivacyError: A value is out of its range, or no noise reaches the target.
    """
    _check(sample_rate=sample_rate, num_steps=num_steps, delta=delta, accountant=accountant)
    if not (target_epsilon > 0 and math.isfinite(target_epsilon)):
        raise PrivacyError(f"target_epsilon: expected a positive finite number, got {target_epsilon!r}.")
    if num_steps < 1:
        raise PrivacyError("num_steps: expected at least 1 to calibrate noise for, got 0.")
    return _calibrate(
        float(target_epsilon), float(sample_rate), int(num_steps), float(delta), accountant, gaussian_noise
    )


def delta_protects(delta: float, *, units: int) -> bool:
    """Whether delta is below 1 / units; else a mechanism that publishes one unit whole would count as private."""
    return delta < 1 / units


def check_delta(delta: float, *, units: int | None, study_unit: str | None = None) -> None:
    """Refuse a delta that is too large to protect a unit.

    Args:
        delta: Of the guarantee.
        units: Privacy units of the train split; None: not known, nothing is refused.
        study_unit: What one of them is, where delta is a study's: the message then names the study file's keys.

    Raises:
        PrivacyError: Delta is not below 1 / units.
    """
    if units is None or delta_protects(delta, units=units):
        return
    key, otherwise = "delta", ""
    if study_unit:
        key, otherwise = "privacy.delta", ", or, for a trial on made-up data, set privacy.allow_large_delta = true"
    raise PrivacyError(
        f"{key}: {delta:g} is not below 1 / {units} {study_unit or 'unit'}s = {1 / units:.3g}. With such a delta a "
        f"mechanism that publishes one of them whole would count as private. Choose a smaller one{otherwise}."
    )


def _check(*, sample_rate: float, num_steps: int, delta: float, accountant: str) -> None:
    if accountant == "gdp":
        raise PrivacyError(
            "accountant: gdp is refused, its central-limit approximation reports less than the true epsilon "
            "(2.38 instead of 2.58 at q = 0.01, sigma = 1, 2000 steps, delta = 1e-5). Use pld, prv or rdp."
        )
    if accountant not in ACCOUNTANTS:
        raise PrivacyError(f"accountant: expected one of {', '.join(ACCOUNTANTS)}, got {accountant!r}.")
    if not 0 < sample_rate <= 1:
        raise PrivacyError(f"sample_rate: expected a number in (0, 1], got {sample_rate!r}.")
    if not 0 < delta < 1:
        raise PrivacyError(f"delta: expected a number in (0, 1), got {delta!r}.")
    if not 0 <= num_steps < math.inf or num_steps != int(num_steps):
        raise PrivacyError(f"num_steps: expected a whole number >= 0, got {num_steps!r}.")


@functools.lru_cache(maxsize=65536)
def _spent(sigma: float, rate: float, steps: int, delta: float, accountant: str, once: float | None = None) -> Spent:
    if rate == 1:
        # Dong, Roth & Su 2022 (arXiv 1905.02383), corollary 3.3: the squares of Gaussians' mus add up.
        mu = math.hypot(math.sqrt(steps) / sigma, 0.0 if once is None else 1 / once)
        return Spent(gaussian_epsilon(mu, delta=delta), EXACT)
    found: float | None = None
    if accountant == "pld":
        found = _pld_epsilon(sigma, rate, steps, delta, once)
    elif accountant == "prv":
        found = _prv_epsilon(sigma, rate, steps, delta, once)
        if found is None:  # not rdp: its bound is a sixth larger, and no noise would spend what lies between the two
            accountant, found = "pld", _pld_epsilon(sigma, rate, steps, delta, once)
    if found is None:
        return Spent(_rdp_epsilon(sigma, rate, steps, delta, once), "rdp")
    return Spent(found, accountant)


@functools.lru_cache(maxsize=1024)
def _calibrate(
    target: float, rate: float, steps: int, delta: float, accountant: str, once: float | None = None
) -> float:
    """Bracket, then interpolate ln(epsilon) over ln(sigma); the upper end always keeps the target."""

    def spent(sigma: float) -> float:
        if sigma < MIN_NOISE_MULTIPLIER:
            return math.inf
        return _spent(sigma, rate, steps, delta, accountant, once).epsilon

    if once is not None and _spent(once, 1.0, 1, delta, accountant).epsilon > target:
        raise PrivacyError(
            f"target_epsilon: {target:g} cannot be reached, the counts of labels alone spend more. Raise the target."
        )
    low, high = _bracket(spent, target, start=_guess(target, rate, steps, delta))
    if math.isinf(high):
        raise PrivacyError(
            f"target_epsilon: {target:g} cannot be reached with {accountant} at sample_rate {rate:g}, "
            f"{steps} steps and delta {delta:g}. Raise the target, or use pld."
        )
    aim = math.log(target * (1 + CALIBRATION_FLOOR) / 2)
    for turn in itertools.count():
        above, below = spent(low), spent(high)
        if below >= CALIBRATION_FLOOR * target or high / low < 1 + 1e-6:
            return high
        part = 0.5
        if turn % 3 < 2 and math.isfinite(above) and below > 0:  # every third turn halves, so the end is in sight
            part = min(max((math.log(above) - aim) / (math.log(above) - math.log(below)), 0.05), 0.95)
        middle = low * (high / low) ** part
        low, high = (low, middle) if spent(middle) <= target else (middle, high)
    raise AssertionError  # for mypy: the loop returns


def _guess(target: float, rate: float, steps: int, delta: float) -> float:
    """Where to look first: the central limit of Bu et al. 2020 (arXiv 1911.11607), good to some 10 %; no bound."""
    tail = math.sqrt(2 * math.log(1 / delta))
    mu = math.sqrt(tail**2 + 2 * target) - tail
    sigma = 1 / math.sqrt(math.log1p(mu**2 / (rate**2 * steps)))
    return min(max(sigma, MIN_NOISE_MULTIPLIER), MAX_NOISE_MULTIPLIER)


def _bracket(spent: Callable[[float], float], target: float, *, start: float) -> tuple[float, float]:
    """A noise that spends more than the target and a larger one that does not; (…, inf) if there is none."""
    high = start
    while spent(high) > target:
        high *= BRACKET_FACTOR
        if high > MAX_NOISE_MULTIPLIER:
            return high, math.inf
    low = high / BRACKET_FACTOR
    while spent(low) <= target:
        low, high = low / BRACKET_FACTOR, low
    return low, high


def _pld_epsilon(sigma: float, rate: float, steps: int, delta: float, once: float | None) -> float | None:
    """None where it has no finite answer, or the rdp bound is below it: both are bounds."""
    interval, coarse = _interval(sigma, rate, steps, once)
    lost = _lost_to_rounding(steps)
    if interval > COARSEST_INTERVAL or delta <= 2 * lost:
        return None
    composed = _self_composed(_step_distribution(sigma, rate, interval), steps)
    if once is not None:
        composed = composed.compose(_step_distribution(once, 1.0, interval))
    found = float(composed.get_epsilon_for_delta(delta - lost))
    # At a delta below the mass that the discretisation cuts off, the rdp bound may still be finite.
    if not math.isfinite(found) or (coarse and found > _rdp_epsilon(sigma, rate, steps, delta, once)):
        return None
    return found


def _self_composed(step: Any, steps: int) -> Any:
    """The distribution of a sum of `steps` losses (or of a few more, where they are very many)."""
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

    stages = 0
    while steps > MAX_STEPS_AT_ONCE:
        steps, stages = -(-steps // STAGE), stages + 1
    if steps >= DENSE_STEPS:
        step = PrivacyLossDistribution(step._pmf_remove.to_dense_pmf(), step._pmf_add.to_dense_pmf())
    composed = step.self_compose(steps, TAIL_MASS / STAGE**stages)
    for stage in range(1, stages + 1):
        composed = composed.self_compose(STAGE, TAIL_MASS / STAGE ** (stages - stage))
    return composed


def _lost_to_rounding(steps: int) -> float:
    return ROUNDING_A_STEP * (steps + 10)


@functools.lru_cache(maxsize=16)
def _step_distribution(sigma: float, rate: float, interval: float) -> Any:
    """Privacy loss distribution of one step, both directions of the neighbouring relation."""
    from dp_accounting.pld import privacy_loss_distribution

    return privacy_loss_distribution.from_gaussian_mechanism(
        sigma, sampling_prob=rate, value_discretization_interval=interval, use_connect_dots=True
    )


def _interval(sigma: float, rate: float, steps: int, once: float | None) -> tuple[float, bool]:
    """Discretisation interval: fine beside one step's loss, coarse enough that the sum's range stays in bounds.

    A coarser interval only raises the epsilon (the estimate is pessimistic), so this choice costs tightness at most.
    Rounded to a power of two so that runs of different lengths share one cached distribution.

    Returns:
        The interval, and whether it is coarser than one step's loss would want it.
    """
    # The loss ln(P/Q) for P = (1 - q) N(0, s²) + q N(1, s²), Q = N(0, s²), on a grid that carries all but 1e-18 of P.
    x = np.linspace(-9.0 * sigma, 1.0 + 9.0 * sigma, 4001)
    loss = np.logaddexp(math.log1p(-rate) if rate < 1 else -math.inf, math.log(rate) + (2 * x - 1) / (2 * sigma**2))
    weight = (1 - rate) * np.exp(-0.5 * (x / sigma) ** 2) + rate * np.exp(-0.5 * ((x - 1) / sigma) ** 2)
    weight /= weight.sum()
    mean = float((weight * loss).sum())
    deviation = float(np.sqrt((weight * (loss - mean) ** 2).sum()))
    sum_range = steps * abs(mean) + 10 * math.sqrt(steps) * deviation
    coarsest = max(np.abs(loss).max() / MAX_STEP_BUCKETS, sum_range / MAX_SUM_BUCKETS)
    if once is not None:
        coarsest = max(coarsest, (1 + 18 * once) / (2 * once**2) / MAX_STEP_BUCKETS)
    fine = min(deviation / BUCKETS_PER_DEVIATION, MAX_INTERVAL)
    return 2.0 ** math.floor(math.log2(max(fine, coarsest))), bool(coarsest > fine)


def _rdp_epsilon(sigma: float, rate: float, steps: int, delta: float, once: float | None) -> float:
    from dp_accounting import dp_event
    from dp_accounting.rdp import RdpAccountant

    step = dp_event.PoissonSampledDpEvent(rate, dp_event.GaussianDpEvent(sigma))
    log = logging.getLogger("absl")
    was_disabled, log.disabled = log.disabled, True  # it reports each fractional order with a divergent series
    try:
        composed = RdpAccountant().compose(step, steps)
        composed.compose(dp_event.GaussianDpEvent(1 / math.sqrt(2 * RDP_ROUNDING * steps)))  # costs a / (2 sigma²)
        if once is not None:
            composed.compose(dp_event.GaussianDpEvent(once))
        found = float(composed.get_epsilon(delta))
    finally:
        log.disabled = was_disabled
    return math.inf if math.isnan(found) else found


def _prv_epsilon(sigma: float, rate: float, steps: int, delta: float, once: float | None) -> float | None:
    """Opacus' upper bound where it is quick and finite; None elsewhere."""
    bounds = _prv_bounds(sigma, rate, steps, delta, once)
    return None if bounds is None else bounds[1]


@functools.lru_cache(maxsize=1024)
def _prv_bounds(sigma: float, rate: float, steps: int, delta: float, once: float | None) -> tuple[float, float] | None:
    """Opacus' lower and upper bound."""
    if steps > MAX_PRV_STEPS or delta < MIN_PRV_DELTA or delta <= 2 * _lost_to_rounding(steps):
        return None
    if _rdp_epsilon(sigma, rate, steps, delta, once) > MAX_PRV_EPSILON:
        return None
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [(sigma, rate, steps)] + ([] if once is None else [(once, 1.0, 1)])
    with warnings.catch_warnings(), np.errstate(divide="ignore"):  # log(1 - q) of a release over all units
        # Opacus sizes its grid with RDP and says so when its largest order is the best one; any order is a bound.
        warnings.filterwarnings("ignore", message="Optimal order is the", category=UserWarning)
        delta_error = delta / 1000  # as PRVAccountant.get_epsilon, which has one end
        released = accountant._get_dprv(eps_error=PRV_ERROR, delta_error=delta_error)
        try:
            low, _, high = released.compute_epsilon(delta, delta_error, PRV_ERROR)
        except RuntimeError:  # at a delta of nearly 1
            return None
    return (max(0.0, float(low)), max(0.0, float(high))) if math.isfinite(high) else None
