"""The report's first screen: what epsilon means to a person, and verdicts by stated rules; and words of the page."""

import math
from collections.abc import Callable

import pandas as pd
import pytest

from dpdt.base.files import read_json, write_json
from dpdt.report.canvas import Drawing
from dpdt.report.gain import Gain
from dpdt.report.grid import Grid
from dpdt.report.intervals import UNKNOWN, Draws, Interval
from dpdt.report.provenance import paragraphs
from dpdt.report.section_tables import fairness_rows, small_groups
from dpdt.report.story import chance_of_guessing, guesses, judged, verdict
from dpdt.report.tables import Arm
from dpdt.runs.read import model_runs
from dpdt.study import Cell
from tests.fake_runs import FakeRuns


def test_the_chance_of_guessing_by_hand() -> None:
    # e^1 = 2.718281828: 2.718281828 / 3.718281828 = 0.731058579; with delta 0.01: 2.728281828 / 3.718281828 = .733748
    assert chance_of_guessing(1.0, 0.0) == pytest.approx(0.731058579, abs=1e-9)
    assert chance_of_guessing(1.0, 0.01) == pytest.approx(0.733747993, abs=1e-9)
    # No epsilon: all that is left is delta, the part of cases in which everything may be told; half of them are new.
    assert chance_of_guessing(0.0, 0.2) == pytest.approx(0.6)
    assert chance_of_guessing(800.0, 1e-5) == 1.0  # e^800 has no floating-point number


def test_randomised_response_reaches_the_bound() -> None:
    """Who tells the truth with probability p has epsilon ln(p / (1 - p)), and a guess is right as often as that."""
    for p in (0.6, 0.75, 0.99):
        assert chance_of_guessing(math.log(p / (1 - p)), 0.0) == pytest.approx(p)


def test_the_weakest_statement_of_an_arm_counts_and_is_rounded_up(fake_runs: Callable[..., FakeRuns]) -> None:
    study = fake_runs(("vindr", "uka"), "[1.0, 8.0, inf]").all().study
    statement = study.paths.run(study.run_id(Cell("uka", 1.0, 0))).privacy
    write_json(statement, {**read_json(statement), "epsilon": 1.2, "delta": 0.0})  # e^1.2 / (1 + e^1.2) = 0.76852
    unfinished = study.paths.run(study.run_id(Cell("vindr", 8.0, 0))).privacy  # it may yet spend its target
    write_json(unfinished, {**read_json(unfinished), "epsilon": 0.5, "complete": False})
    runs = [run for run in model_runs(study).values() if run]
    # e^8 / (1 + e^8) = 0.999665
    assert guesses(runs, Grid.of(study)) == [
        "ε = 8: from 50 % to at most 99.97 %",
        "ε = 1: from 50 % to at most 76.9 %",
    ]


SAME, ABOVE, BELOW, WIDE = Interval(-0.005, 0.005), Interval(0.02, 0.04), Interval(-0.04, -0.02), Interval(-0.1, 0.1)


@pytest.mark.parametrize(
    ("cost", "gain", "words"),
    [
        (SAME, ABOVE, "worth it"),
        (BELOW, ABOVE, "worth it, at a price"),
        (WIDE, ABOVE, "worth it, price open"),
        (UNKNOWN, ABOVE, "worth it, price open"),
        (BELOW, SAME, "in vain"),
        (BELOW, Interval(0.001, 0.009), "in vain"),  # above 0, but by less than counts
        (SAME, Interval(0.0003, 0.011), "open"),  # likewise, and it may be more
        (BELOW, BELOW, "harmful"),
        (BELOW, WIDE, "open"),
        (SAME, UNKNOWN, "open"),
        (SAME, None, "the same as without DP"),
        (BELOW, None, "worse than without DP"),
        (WIDE, None, "open"),
    ],
)
def test_verdicts_by_the_stated_rules(cost: Interval, gain: Interval | None, words: str) -> None:
    over_before = None if gain is None else (sum(gain) / 2, gain)
    assert verdict(cost, over_before, 0.01) == words


def test_a_verdict_for_each_arm_and_place_and_none_without_intervals() -> None:
    grid = Grid(("a", "b"), ("a", "b"), (math.inf, 1.0, 0.0))
    arms = [
        Arm(math.inf, "on-domain", 0.9, 2, 2, math.nan, 0),
        Arm(1.0, "on-domain", 0.85, 2, 2, -0.05, 2, UNKNOWN, BELOW),
        Arm(1.0, "off-domain", 0.8, 2, 2, 0.0, 2, UNKNOWN, SAME),
    ]
    gains = [
        Gain(1.0, "on-domain", 0.8, 0.05, 2, ABOVE),
        Gain(1.0, "off-domain", 0.8, 0.0, 2, SAME),
    ]
    assert judged(arms, gains, grid, 0.01).rows == [
        ["ε = 1", "at the models' own hospital", "worth it, at a price"],
        ["ε = 1", "at the other hospitals", "in vain"],
    ]
    assert judged([Arm(1.0, "on-domain", 0.85, 2, 2, -0.05, 2)], [], grid, 0.01).rows == []


def test_statements_are_read_with_the_hospital_s_name_and_without_json_s_keys(
    fake_runs: Callable[..., FakeRuns],
) -> None:
    made = fake_runs(("vindr", "my_ward"), "[1.0]")
    for domain in ("vindr", "my_ward"):
        paths = made.train(Cell(domain, 1.0, 0))
        text = f"From 9 patients of {domain}. {domain} says: vindrs. It does not cover the items of `other_releases`."
        write_json(paths.privacy, {**read_json(paths.privacy), "paragraph": text})
    runs = [run for run in model_runs(made.study).values() if run]
    assert [text for _, text in paragraphs(runs)] == [
        f"From 9 patients of {name}. {name} says: vindrs. It does not cover what else was released (the table above)."
        for name in ("VinDr-CXR", "my ward")
    ]


def test_a_small_group_is_named_once_with_all_its_reasons() -> None:
    rows = [
        ("vindr", "average", "small: age_0_40 (n = 13); without age_0_40 (too few patients)"),
        ("vindr", "average", "small: female (n = 67)"),
        ("vindr", "healthy", "small: male (n = 1)"),
        ("uka", "average", "without age_0_40 (undefined); small: age_0_40 (n = 13)"),
    ]
    found = small_groups(pd.DataFrame(rows, columns=["test_domain", "label", "reason"]))
    assert list(found) == [
        "UKA-CXR: ages 0 to 40 (n = 13; undefined)",
        "VinDr-CXR: ages 0 to 40 (n = 13; too few patients)",
        "VinDr-CXR: female (n = 67)",
    ]


def test_a_measure_says_in_how_many_pairs_a_group_is_left_out() -> None:
    """Else the worst group's AUC reads higher than that of a group which is not in it."""
    rows = [
        (epsilon, domain, domain, "average", "age_group", "worst_auc", 0.9, reason)
        for epsilon in (math.inf, 1.0)
        for domain, reason in (("a", "worst: age_0_40; without age_70_100 (undefined)"), ("b", "worst: age_0_40"))
    ]
    columns = ["target_epsilon", "train_domain", "test_domain", "label", "attribute", "measure", "value", "reason"]
    grid = Grid(("a", "b"), ("a", "b"), (math.inf, 1.0))
    found = fairness_rows(pd.DataFrame(rows, columns=columns), Draws({}, 0.95), grid, "on-domain")
    assert found.rows == [
        ["AUC of the worst group, age (a group is left out in 1 of 2 pairs)", "0.900", "0.900; change 0.000"]
    ]


def test_a_caption_says_which_intervals_it_has() -> None:
    drawing = Drawing({}, caption="Differences. Bars are intervals; a marker without a bar has none.")
    assert drawing.with_level(0.9).caption == "Differences. Bars are 90% intervals; a marker without a bar has none."
