"""The exact epsilon of the Gaussian mechanism: what steps without sampling spend, and a release over all units."""

import math
from typing import Final

from dpdt.errors import PrivacyError

__all__ = ["gaussian_epsilon", "gaussian_mu"]

# Parts of the last place that a difference of two scaled error functions may be wrong by (scipy's is good to about 1).
ULPS: Final = 8 * 2.0**-52
# The argument of those functions is rounded too; of epsilon that is less than this part.
ROUNDED: Final = 1e-12


def gaussian_epsilon(mu: float, *, delta: float) -> float:
    """The epsilon at which a Gaussian mechanism's delta is the given one.

    Its delta is Phi(mu/2 - epsilon/mu) - e^epsilon Phi(-mu/2 - epsilon/mu) (Balle & Wang 2018, arXiv 1805.06530,
    theorem 8, mu = sensitivity over noise), which falls with epsilon. It is computed in logarithms, so that neither a
    tiny delta nor a huge epsilon is lost, and rounded up.

    Args:
        mu: Sensitivity over the noise's standard deviation, >= 0; of composed releases the root of the sum of squares.
        delta: In (0, 1).

    Returns:
        Not below the exact epsilon, and above it by rounding alone: parts of 1e-9 of any delta above 1e-7 * mu.

    >>> round(gaussian_epsilon(1.0, delta=1e-5), 4)
    4.3772
    """
    wanted = math.log(delta)
    if mu == 0 or _log_delta(0.0, mu) <= wanted:
        return 0.0
    low, high = 0.0, mu * mu / 2 + mu * math.sqrt(-2 * wanted)  # delta <= Phi(mu/2 - epsilon/mu), a Gaussian's tail
    while high > math.nextafter(low, math.inf):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if _log_delta(middle, mu) > wanted else (low, middle)
    return high * (1 + ROUNDED)


def gaussian_mu(epsilon: float, *, delta: float) -> float:
    """The largest mu whose Gaussian mechanism is (epsilon, delta)-DP: the inverse of `gaussian_epsilon`.

    Args:
        epsilon: Positive and finite.
        delta: In (0, 1).

    Returns:
        Not above the exact one, and below it by parts of 1e-9.

    Raises:
        PrivacyError: Epsilon or delta is no such number.

    >>> round(gaussian_mu(4.3772, delta=1e-5), 4)
    1.0
    """
    if not 0 < epsilon < math.inf:
        raise PrivacyError(f"epsilon: expected a number above 0, got {epsilon:g}.")
    if not 0 < delta < 1:
        raise PrivacyError(f"delta: expected a number between 0 and 1, got {delta:g}.")
    low, high = 0.0, 1.0
    while gaussian_epsilon(high, delta=delta) <= epsilon:
        low, high = high, 2 * high
    while high - low > ROUNDED * high:
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if gaussian_epsilon(middle, delta=delta) <= epsilon else (low, middle)
    return low


def _log_delta(epsilon: float, mu: float) -> float:
    """Logarithm of delta, rounded up.

    With u = (epsilon/mu - mu/2) / sqrt(2) and v = u + mu / sqrt(2), v² - u² = epsilon, so that delta is
    exp(-u²) (erfcx(u) - erfcx(v)) / 2: no term overflows where u >= 0, and below that erfc(u) / 2 is no small number.
    """
    from scipy.special import erfc, erfcx

    u = (epsilon / mu - mu / 2) / math.sqrt(2)
    v = (epsilon / mu + mu / 2) / math.sqrt(2)
    if u >= 0:
        left = float(erfcx(u))
        return -u * u + math.log((left - float(erfcx(v)) + ULPS * left) / 2)
    left = float(erfc(u))
    return math.log(min(1.0, (left - math.exp(-u * u) * float(erfcx(v)) + ULPS * left) / 2))
