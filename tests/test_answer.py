"""The report's first answer: three sentences that are right for every kind of result, on made-up numbers."""

import math

import pytest

from dpdt.report.answer import answer
from dpdt.report.gain import Gain
from dpdt.report.grid import Grid
from dpdt.report.intervals import UNKNOWN, Interval
from dpdt.report.tables import Arm

GRID = Grid(("a", "b"), ("a", "b"), (math.inf, 1.0, 0.0))
ON = "on-domain"


def arms(difference: float, interval: Interval, *, scope: str = ON, without: float = 0.9) -> list[Arm]:
    return [
        Arm(math.inf, scope, without, 2, 2, math.nan, 0),
        Arm(1.0, scope, without + difference, 2, 2, difference, 2, UNKNOWN, interval),
        Arm(0.0, scope, 0.8, 2, 2, 0.8 - without, 2),
    ]


def brought(
    dp: tuple[float, Interval],
    without: tuple[float, Interval],
    share: tuple[float, Interval],
    why: str = "",
    *,
    scope: str = ON,
) -> list[Gain]:
    return [Gain(math.inf, scope, 0.8, without[0], 2, without[1]), Gain(1.0, scope, 0.8, dp[0], 2, dp[1], *share, why)]


def sentences(of_arms: list[Arm], of_gains: list[Gain]) -> list[str]:
    return answer(of_arms, of_gains, GRID, 0.01)


def test_dp_that_costs_and_keeps_a_part() -> None:
    # The demo on-domain (see the docs): .904 without DP, .832 with ε = 1, .816 before
    of_gains = brought(
        (0.016, Interval(0.008, 0.025)), (0.088, Interval(0.07, 0.1)), (0.016 / 0.088, Interval(0.1, 0.27))
    )
    assert sentences(arms(-0.072, Interval(-0.09, -0.055)), of_gains) == [
        "What DP costs on average: at the models' own hospital, where macro AUC is 0.900 without DP, it is 0.072 "
        "lower (0.055 to "
        "0.090) with ε = 1.",
        "What private training brought on average: at the models' own hospital, where macro AUC is 0.800 before it, "
        "it is 0.088 "
        "higher (0.070 to 0.100) without DP and 0.016 higher (0.008 to 0.025) with ε = 1.",
        "What DP keeps of it: at the models' own hospital 18 % (10 % to 27 %) with ε = 1.",
    ]


@pytest.mark.parametrize(
    ("difference", "interval", "words"),
    [
        (-0.05, Interval(-0.06, -0.04), "0.050 lower (0.040 to 0.060)"),
        (0.05, Interval(0.04, 0.06), "0.050 higher (0.040 to 0.060)"),
        # within the margin of .01: the same, though its interval holds no 0
        (-0.004, Interval(-0.006, -0.002), "the same within ±0.01 (−0.004; −0.006 to −0.002)"),
        (0.001, Interval(-0.003, 0.005), "the same within ±0.01 (+0.001; −0.003 to +0.005)"),
        (-0.02, Interval(-0.05, 0.01), "not known to differ (−0.02; −0.05 to +0.01)"),
        (0.004, Interval(-0.006, 0.014), "not known to differ (+0.004; −0.006 to +0.014)"),
        # without intervals: what the numbers say
        (-0.05, UNKNOWN, "0.050 lower"),
        (0.05, UNKNOWN, "0.050 higher"),
        (0.0, UNKNOWN, "the same"),
    ],
)
def test_each_kind_of_difference_in_both_sentences(difference: float, interval: Interval, words: str) -> None:
    of_gains = brought((difference, interval), (0.1, Interval(0.08, 0.12)), (difference / 0.1, UNKNOWN))
    cost, gain, _ = sentences(arms(difference, interval), of_gains)
    assert cost.endswith(f"it is {words} with ε = 1.")
    assert gain.endswith(f"it is 0.100 higher (0.080 to 0.120) without DP and {words} with ε = 1.")


@pytest.mark.parametrize(
    ("share", "bounds", "words"),
    [
        (0.42, Interval(0.3, 0.55), "42 % (30 % to 55 %)"),
        (1.2, Interval(0.9, 1.6), "120 % (90 % to 160 %)"),
        (0.0, Interval(-0.2, 0.2), "0 % (−20 % to 20 %)"),
        (-0.2, Interval(-0.4, -0.03), "none of it (−20 %; −40 % to −3 %)"),
        (-0.2, UNKNOWN, "none of it (−20 %)"),
        (0.42, UNKNOWN, "42 %"),
    ],
)
def test_each_kind_of_share(share: float, bounds: Interval, words: str) -> None:
    of_gains = brought((0.1 * share, UNKNOWN), (0.1, Interval(0.08, 0.12)), (share, bounds))
    kept = sentences(arms(-0.05, UNKNOWN), of_gains)[2]
    assert kept == f"What DP keeps of it: at the models' own hospital {words} with ε = 1."


def test_a_gain_that_may_be_nothing_has_no_share() -> None:
    whole = (0.007, Interval(-0.002, 0.015))
    of_gains = brought((0.002, Interval(-0.004, 0.008)), whole, (math.nan, UNKNOWN), "unknown", scope="off-domain")
    found = sentences(arms(-0.005, Interval(-0.012, 0.002), scope="off-domain"), of_gains)
    assert found[0].startswith(
        "What DP costs on average: at the other hospitals, where macro AUC is 0.900 without DP, it is not known"
    )
    assert found[2] == (
        "What DP keeps of it: at the other hospitals there is no share to give: what it brought without DP may be "
        "nothing (+0.007; −0.002 to +0.015)."
    )


def test_private_training_that_made_the_models_worse_leaves_nothing_to_keep() -> None:
    whole = (-0.03, Interval(-0.04, -0.02))
    of_gains = brought((-0.01, Interval(-0.02, -0.002)), whole, (math.nan, UNKNOWN), "worse")
    found = sentences(arms(0.02, Interval(0.01, 0.03)), of_gains)
    assert "0.030 lower (0.020 to 0.040) without DP and 0.010 lower (0.002 to 0.020) with ε = 1" in found[1]
    assert found[2] == (
        "What DP keeps of it: at the models' own hospital there is nothing to keep: without DP it made the models "
        "worse (−0.030; −0.040 to −0.020)."
    )


def test_several_epsilons_and_both_scopes_are_in_one_sentence_each() -> None:
    of_arms = [
        Arm(epsilon, scope, auc, 2, 2, auc - 0.9, 2, UNKNOWN, Interval(auc - 0.91, auc - 0.89))
        for scope in (ON, "off-domain")
        for epsilon, auc in ((math.inf, 0.9), (8.0, 0.85), (1.0, 0.83))
    ]
    of_arms = [arm if arm.target_epsilon < math.inf else Arm(*vars(arm).values()) for arm in of_arms]
    grid = Grid(("a", "b"), ("a", "b"), (math.inf, 8.0, 1.0))
    assert answer(of_arms, [], grid, 0.01)[0] == (
        "What DP costs on average: at the models' own hospital, where macro AUC is 0.900 without DP, it is 0.050 "
        "lower (0.040 to "
        "0.060) with ε = 8 and 0.070 lower (0.060 to 0.080) with ε = 1; at the other hospitals, where macro AUC is "
        "0.900 without DP, it is 0.050 lower (0.040 to 0.060) with ε = 8 and 0.070 lower (0.060 to 0.080) with ε = 1."
    )


def test_without_a_model_before_it_says_why() -> None:
    grid = Grid(("a", "b"), ("a", "b"), (math.inf, 1.0), why_no_before="trainings start from random weights")
    assert answer(arms(-0.05, UNKNOWN)[:2], [], grid, 0.01) == [
        "What DP costs on average: at the models' own hospital, where macro AUC is 0.900 without DP, it is 0.050 lower "
        "with ε = 1.",
        "What private training brought, and what DP keeps of it, is not known: trainings start from random weights.",
    ]


def test_without_a_model_without_dp_there_is_a_gain_and_no_cost() -> None:
    of_arms = [arm for arm in arms(-0.05, UNKNOWN) if not math.isinf(arm.target_epsilon)]
    of_gains = [Gain(1.0, ON, 0.8, 0.05, 2, Interval(0.03, 0.07), math.nan, UNKNOWN, "no model without DP")]
    assert sentences(of_arms, of_gains) == [
        "What DP costs is not known: no model without DP was tested; macro AUC is 0.850 with ε = 1 at the models' own "
        "hospital.",
        "What private training brought on average: at the models' own hospital, where macro AUC is 0.800 before it, "
        "it is 0.05 "
        "higher (0.03 to 0.07) with ε = 1.",
        "What DP keeps of it: at the models' own hospital it is not known, for no model without DP was tested on the "
        "same pairs.",
    ]


def test_without_a_model_with_dp_there_is_a_gain_alone() -> None:
    of_arms = [arm for arm in arms(-0.05, UNKNOWN) if arm.target_epsilon != 1]
    of_gains = [Gain(math.inf, ON, 0.8, 0.1, 2, Interval(0.08, 0.12))]
    assert sentences(of_arms, of_gains) == [
        "What DP costs is not known: no model with DP was tested; macro AUC is 0.900 without DP at the models' own "
        "hospital.",
        "What private training brought on average: at the models' own hospital, where macro AUC is 0.800 before it, "
        "it is 0.100 "
        "higher (0.080 to 0.120) without DP.",
    ]


def test_where_nothing_is_trained_there_is_no_answer_yet() -> None:
    assert sentences([], []) == ["No model has been evaluated yet."]
    assert sentences([Arm(0.0, ON, 0.8, 2, 2, math.nan, 0)], []) == ["No model has been evaluated yet."]
    assert sentences([Arm(1.0, ON, math.nan, 0, 2, math.nan, 0)], []) == ["No model has been evaluated yet."]


def test_a_value_that_has_no_twin_does_not_pass_for_one_that_has() -> None:
    """Without DP there are values of the other domains alone."""
    of_arms = [
        Arm(math.inf, "off-domain", 0.8, 1, 2, math.nan, 0),
        Arm(1.0, ON, 0.7, 1, 1, math.nan, 0),
        Arm(1.0, "off-domain", 0.6, 2, 2, -0.1, 1),
    ]
    assert answer(of_arms, [], Grid(("a", "b"), ("b", "c"), (math.inf, 1.0)), 0.01)[0] == (
        "What DP costs on average: at the models' own hospital macro AUC is 0.700 with ε = 1, with nothing to "
        "compare it to; at "
        "the other hospitals, where macro AUC is 0.800 without DP, it is 0.100 lower with ε = 1."
    )


def test_pairs_that_cancel_are_told_beside_their_mean() -> None:
    """Twenty pairs of a study whose mean was within the margin, thirteen of them not: a statistician's finding."""
    many = Arm(1.0, "off-domain", 0.8, 20, 20, -0.001, 20, UNKNOWN, Interval(-0.008, 0.006), Interval(-0.053, 0.054))
    one = Arm(1.0, ON, 0.8, 1, 1, -0.1, 1, UNKNOWN, UNKNOWN, Interval(-0.1, -0.1))
    without = Arm(math.inf, "off-domain", 0.8, 20, 20, math.nan, 0)
    found = answer([without, one, many], [], GRID, 0.01)[0]
    assert "it is the same within ±0.01 (−0.001; −0.008 to +0.006) with ε = 1. Single pairs" in found
    words = "Single pairs of a model and a hospital: at the other hospitals, of 20, from {} to {} with ε = 1."
    assert found.endswith(words.format("−0.053", "+0.054"))
    # among numbers with intervals, one without has two decimals
    assert answer([without, one, many], [], GRID, 0.01, drawn=True)[0].endswith(words.format("−0.05", "+0.05"))
