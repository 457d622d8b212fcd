"""The lower bound on epsilon: against closed forms, exact sums, and a mechanism whose epsilon is known."""

import math
from fractions import Fraction

import numpy as np
import pytest

from dpdt.evaluation.audit.epsilon_bound import best_lower_bound, epsilon_lower_bound, p_value


def exact_p_value(success: Fraction, delta: Fraction, canaries: int, guesses: int, right: int) -> Fraction:
    """Steinke, Nasr & Jagielski 2023, their main theorem, term by term in rational numbers."""
    chance = [math.comb(guesses, k) * success**k * (1 - success) ** (guesses - k) for k in range(guesses + 1)]
    tail = sum(chance[right:], Fraction(0))
    most = max((sum(chance[right - i : right], Fraction(0)) / i for i in range(1, right + 1)), default=Fraction(0))
    return min(Fraction(1), tail + 2 * canaries * delta * most)


@pytest.mark.parametrize(("canaries", "guesses", "right"), [(10, 10, 8), (40, 12, 12), (100, 60, 41), (7, 5, 0)])
@pytest.mark.parametrize("delta", [Fraction(0), Fraction(1, 10**5), Fraction(1, 200)])
@pytest.mark.parametrize("success", [Fraction(1, 2), Fraction(3, 4), Fraction(19, 20)])
def test_the_chance_is_that_of_the_theorem_in_exact_numbers(
    success: Fraction, delta: Fraction, canaries: int, guesses: int, right: int
) -> None:
    epsilon = math.log(success / (1 - success))
    found = p_value(epsilon=epsilon, delta=float(delta), canaries=canaries, guesses=guesses, right=right)
    assert found == pytest.approx(float(exact_p_value(success, delta, canaries, guesses, right)), rel=1e-9)


@pytest.mark.parametrize("guesses", [10, 100, 1000])
def test_if_every_guess_is_right_the_bound_has_a_closed_form(guesses: int) -> None:
    # All r right has chance s^r: s = 0.05^(1 / r) is the least success rate that is not refuted, epsilon its logit.
    success = 0.05 ** (1 / guesses)
    found = epsilon_lower_bound(delta=0.0, canaries=guesses, guesses=guesses, right=guesses)
    assert found == pytest.approx(math.log(success / (1 - success)), abs=2e-4)


def test_guesses_of_a_coin_show_nothing() -> None:
    assert epsilon_lower_bound(delta=1e-5, canaries=1000, guesses=1000, right=500) == 0.0
    assert epsilon_lower_bound(delta=1e-5, canaries=1000, guesses=100, right=0) == 0.0


def test_a_larger_delta_and_more_confidence_show_less() -> None:
    shared = {"canaries": 1000, "guesses": 200, "right": 180}
    bounds = [epsilon_lower_bound(delta=delta, **shared) for delta in (0.0, 1e-5, 1e-4, 1e-3)]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[0] > bounds[3]
    assert epsilon_lower_bound(delta=0.0, confidence=0.999, **shared) < bounds[0]


@pytest.mark.slow
@pytest.mark.parametrize("epsilon", [0.5, 2.0, 4.0])
def test_of_randomised_response_the_bound_is_below_its_epsilon_and_near_it(epsilon: float) -> None:
    # Each coin told right with probability e^eps / (1 + e^eps) is eps-DP by the definition. A bound with 95 %
    # confidence may pass epsilon in 5 % of the trials; of 200 hardly in 21.
    random = np.random.default_rng(1)
    passed, found = 0, []
    for _ in range(200):
        included = random.random(400) < 0.5
        told = np.where(random.random(400) < 1 / (1 + math.exp(-epsilon)), included, ~included)
        scores = told + random.random(400) / 2
        found.append(best_lower_bound(scores, included, delta=0.0).epsilon)
        passed += found[-1] > epsilon
    assert passed <= 20
    assert np.median(found) > 0.4 * epsilon


def test_scores_that_know_nothing_give_no_bound_and_perfect_ones_a_large_one() -> None:
    random = np.random.default_rng(2)
    included = random.random(500) < 0.5
    assert best_lower_bound(random.random(500), included, delta=1e-5).epsilon < 0.5
    best = best_lower_bound(included + random.random(500) / 2, included, delta=0.0)
    assert best.right == best.guesses
    assert best.epsilon > 3.9
