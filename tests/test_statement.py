"""The privacy statement: its figures and its words."""

import dataclasses
import json
import math
from typing import Any

import pytest
from dp_accounting import dp_event
from dp_accounting.pld import PLDAccountant
from dp_accounting.privacy_accountant import NeighboringRelation

from dpdt.privacy.accounting import epsilon
from dpdt.privacy.mechanism import Mechanism
from dpdt.privacy.statement import (
    StatedRun,
    brought_up_to_date,
    group_privacy,
    privacy_statement,
    released,
    selection_cost,
    statement_without_privacy,
)

MECHANISM = Mechanism(
    unit="patient",
    num_units=1000,
    sample_rate=0.05,
    noise_multiplier=1.0,
    max_grad_norm=1.5,
    num_steps=200,
    delta=1e-5,
    accountant="pld",
    target_epsilon=8.0,
)


def statement(mechanism: Mechanism = MECHANISM, **changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "run_id": "uka-run",
        "domain": "uka",
        "spent_steps": 150,
        "randomness": "cryptographic",
        "class_weights": "none",
        "initial_weights": "pretrain-mimic",
        "max_images_per_patient": 7,
        "complete": True,
    }
    settings |= changes
    of_the_ledger = {key: settings.pop(key) for key in ("spent_steps", "complete")}
    return privacy_statement(mechanism, StatedRun(**settings), **of_the_ledger)


def test_epsilon_is_that_of_the_spent_steps() -> None:
    found = statement()
    spent = epsilon(noise_multiplier=1.0, sample_rate=0.05, num_steps=150, delta=1e-5)
    assert (found["epsilon"], found["num_steps"], found["planned_num_steps"]) == (spent, 150, 200)
    for key in ("unit", "num_units", "sample_rate", "noise_multiplier", "max_grad_norm", "delta", "accountant"):
        assert found[key] == getattr(MECHANISM, key)
    assert found["neighbouring_relation"] == "zero out one patient"
    assert "2103.00039" in found["neighbouring_note"]
    assert "the number of patients is published and counts as fixed" in found["paragraph"]
    assert found["target_epsilon"] == 8.0


def test_it_is_json_and_names_no_patient() -> None:
    json.dumps(statement(), allow_nan=False)
    json.dumps(statement(dataclasses.replace(MECHANISM, noise_multiplier=0.0)), allow_nan=False)
    assert statement(dataclasses.replace(MECHANISM, noise_multiplier=0.0))["epsilon"] is None


def test_the_paragraph_says_what_the_figures_say() -> None:
    text = statement()["paragraph"]
    assert "trained on 1000 patients of uka with differential privacy" in text
    assert f"{statement()['epsilon']:.3g}" in text
    assert f"at most a factor of {math.exp(statement()['epsilon']):.3g}" in text
    assert "seed" not in text
    assert "not complete" not in text


def test_a_seeded_or_unfinished_run_says_so() -> None:
    assert "guarantee is void" in statement(randomness="seeded")["paragraph"]
    assert "what the whole of it may spend" in statement(complete=False)["paragraph"]


def test_everything_else_that_left_the_data_is_listed() -> None:
    what = {entry["what"]: entry for entry in statement()["other_releases"]}
    assert what["number of units"]["accounted"] == "taken as public"
    loss = next(entry for name, entry in what.items() if name.startswith("training loss"))
    assert "not covered by epsilon" in loss["accounted"]
    assert what["class weights"]["source"] == "not used"
    assert "public pretraining data" in statement(class_weights="public")["other_releases"][0]["source"]
    assert "study file" in statement(class_weights="given")["other_releases"][0]["source"]


def test_for_images_the_patient_with_most_has_a_bound_by_group_privacy() -> None:
    found = statement(dataclasses.replace(MECHANISM, unit="image"))
    bound = found["patient_bound"]
    assert bound["epsilon"] == pytest.approx(7 * found["epsilon"])
    assert bound["images_of_the_patient_with_most"] == 7
    assert "itself not covered" in bound["note"]
    assert "for the patient with most images (7)" in found["paragraph"]
    assert "patient_bound" not in statement()


@pytest.mark.parametrize("size", [1, 2, 3, 10])
def test_group_privacy_is_the_geometric_sum(size: int) -> None:
    # Vadhan 2017, lemma 2.2, before its last simplification: delta · (e^(k·epsilon) - 1) / (e^epsilon - 1).
    spent, delta = group_privacy(epsilon=0.7, delta=1e-9, size=size)
    assert spent == pytest.approx(0.7 * size)
    assert delta == pytest.approx(1e-9 * math.expm1(0.7 * size) / math.expm1(0.7))
    assert delta <= size * math.exp((size - 1) * 0.7) * 1e-9 * (1 + 1e-12)


@pytest.mark.parametrize(("size", "spent"), [(300, 8.0), (10**6, 1e-9), (5, 1e5), (3, math.inf)])
def test_a_bound_that_says_nothing_is_one_and_never_an_overflow(size: int, spent: float) -> None:
    assert 0 < group_privacy(epsilon=spent, delta=1e-5, size=size)[1] <= 1.0


def test_without_dp_it_says_so() -> None:
    run = StatedRun("r", "uka", "none", "random", randomness="seeded", max_images_per_patient=1)
    found = statement_without_privacy(run, unit="patient", num_units=9, num_steps=5)
    assert found["mechanism"] == "none"
    assert found["epsilon"] is None
    assert "without differential privacy" in found["paragraph"]
    assert set(found) == set(statement())


def test_a_delta_that_protects_nobody_is_said_in_plain_words() -> None:
    assert "do not rely on" in statement(dataclasses.replace(MECHANISM, delta=1e-3))["paragraph"]
    assert "do not rely on" not in statement()["paragraph"]


def test_the_best_of_several_runs_costs_their_sum() -> None:
    # Basic composition: epsilons add up, and so do deltas.
    cost = selection_cost([(1.0, 1e-6), (8.0, 1e-6), (8.0, 3e-6)])
    assert (cost["runs"], cost["epsilon"]) == (3, 17.0)
    assert cost["delta"] == pytest.approx(5e-6)
    found = today(statement(), [(1.0, 1e-5), (8.0, 1e-5)])
    assert found["selection"]["epsilon"] == 9.0
    assert found["selection"]["as_of"] == "2026-01-01T00:00:00+00:00"
    assert "answers for epsilon = 9 and delta = 2e-05 together" in found["paragraph"]
    assert "`selection` is the cost" in str(found["other_releases"])


def today(found: dict[str, Any], budgets: list[tuple[float, float]], **changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {"plain_hashes": False, "as_of": "2026-01-01T00:00:00+00:00"}
    return brought_up_to_date(found, budgets=budgets, **{**settings, **changes})


def test_a_statement_of_the_same_count_keeps_its_time() -> None:
    once = today(statement(), [(8.0, 1e-5)])
    assert today(once, [(8.0, 1e-5)], as_of="2027-01-01T00:00:00+00:00") == once
    more = today(once, [(8.0, 1e-5), (8.0, 1e-5)], as_of="2027-01-01T00:00:00+00:00")
    assert (more["selection"]["runs"], more["selection"]["as_of"]) == (2, "2027-01-01T00:00:00+00:00")


def test_plain_hashes_of_a_run_begun_before_are_named_once() -> None:
    once = today(statement(), [(8.0, 1e-5)], plain_hashes=True)
    twice = today(once, [(8.0, 1e-5)], plain_hashes=True)
    assert twice == once
    (entry,) = [entry for entry in once["other_releases"] if entry["what"].startswith("SHA-256")]
    assert entry["accounted"].startswith("not covered by epsilon")
    assert not any("SHA-256" in entry["what"] for entry in today(statement(), [(8.0, 1e-5)])["other_releases"])


def test_a_run_that_is_alone_has_nobody_to_be_chosen_from() -> None:
    assert statement()["selection"]["runs"] == 1
    assert "such models" not in statement()["paragraph"]


def test_figures_in_words_are_rounded_up() -> None:
    # 1 - 1e-9 of a bound is none: the true figure must not be above the one that is shown.
    for steps in range(100, 150):
        found = statement(spent_steps=steps, complete=False)
        said = found["paragraph"].split("epsilon = ")[1].split(" ")[0]
        factor = found["paragraph"].split("at most a factor of ")[1].split(", ")[0]
        assert found["epsilon"] <= float(said) <= found["epsilon"] * 1.01
        assert math.exp(found["epsilon"]) <= float(factor) <= math.exp(found["epsilon"]) * 1.01


def test_exact_counts_of_the_train_split_in_the_report_are_named() -> None:
    released = {item["what"]: item["accounted"] for item in statement()["other_releases"]}
    assert next(said for what, said in released.items() if "cohort tables" in what).startswith("not covered by epsilon")


def test_weights_of_a_file_are_not_taken_as_free() -> None:
    released = {item["what"]: item["accounted"] for item in statement(initial_weights="file w.pt")["other_releases"]}
    assert "not covered by epsilon" in released["initial weights"]
    assert {i["what"]: i["accounted"] for i in statement()["other_releases"]}["initial weights"] == "no cost"


@pytest.mark.parametrize(
    ("ancestry", "said"),
    [
        (None, "not known how those were made: for a patient of this training who was in theirs too, this guarantee"),
        ({"runs": [], "from_random": False}, "not known how those were made: for a patient"),
        (
            {"runs": [{"run_id": "a-1", "domain": "a"}], "from_random": False},
            "beyond a-1 (trained on a): for a patient",
        ),
        (
            {"runs": [{"run_id": "b-1", "domain": "b"}, {"run_id": "a-1", "domain": "a"}], "from_random": True},
            "b-1 (trained on b), which began with the weights of a-1 (trained on a), from random ones. A patient of",
        ),
    ],
)
def test_the_paragraph_says_what_is_known_of_the_weights_of_a_file(ancestry: Any, said: str) -> None:
    assert said in statement(initial_weights="file w.pt", ancestry=ancestry)["paragraph"]
    assert "began with" not in statement()["paragraph"]


def test_a_statement_of_before_gets_todays_words_and_keeps_its_figures() -> None:
    now = today(statement(initial_weights="file w.pt"), [(8.0, 1e-5)])
    old = {name: value for name, value in now.items() if name not in ("neighbouring_note", "events", "ancestry")}
    old |= {"neighbouring_relation": "add or remove one patient", "paragraph": "Words of before."}
    found = today(old, [(8.0, 1e-5)])
    assert found["neighbouring_relation"] == "zero out one patient"
    assert "it is not known how those were made" in found["paragraph"]
    assert all(found[name] == now[name] for name in ("epsilon", "delta", "num_steps", "selection"))
    assert today(found, [(8.0, 1e-5)]) is found


def rebuilt(event: dict[str, Any]) -> dp_event.DpEvent:
    """As somebody else would, who has the JSON and dp-accounting and nothing of dpdt."""
    fields = {name: value for name, value in event.items() if name != "event_type"}
    if "event" in fields:
        fields["event"] = rebuilt(fields["event"])
    if "events" in fields:
        fields["events"] = [rebuilt(part) for part in fields["events"]]
    made: dp_event.DpEvent = getattr(dp_event, event["event_type"])(**fields)
    return made


@pytest.mark.parametrize("counts_noise", [None, 5.0])
def test_the_events_are_enough_to_recompute_epsilon_elsewhere(counts_noise: float | None) -> None:
    mechanism = dataclasses.replace(MECHANISM, counts_noise=counts_noise, rounding_allowance=0.01)
    found = json.loads(json.dumps(statement(mechanism)))
    relation = NeighboringRelation.REPLACE_SPECIAL  # dp-accounting's name of zero-out
    accountant = PLDAccountant(relation, value_discretization_interval=1e-3).compose(rebuilt(found["events"]))
    assert accountant.get_epsilon(found["delta"]) == pytest.approx(found["epsilon"], rel=2e-3)
    assert found["epsilon_optimistic"] < found["epsilon"] < found["epsilon_optimistic"] + 0.03
    assert statement(mechanism, complete=False)["epsilon_optimistic"] is None


def test_a_domain_without_patient_ids_does_not_promise_a_patient_silently() -> None:
    assert "each image counts as one patient" in statement(patients_known=False)["paragraph"]
    assert "unit_note" not in statement()


def test_what_was_assumed_of_rounding_is_said_for_new_runs_and_for_those_of_before() -> None:
    before, now = statement(), statement(dataclasses.replace(MECHANISM, rounding_allowance=0.01))
    assert before["rounding_note"].startswith("Rounding was not accounted for")
    assert (before["rounding_allowance"], before["accounted_noise_multiplier"]) == (None, 1.0)
    assert now["sensitivity"] == pytest.approx(1.5 * 1.01)
    spent = epsilon(noise_multiplier=1.0 / 1.01, sample_rate=0.05, num_steps=150, delta=1e-5)
    assert now["epsilon"] == spent > before["epsilon"]


def test_the_note_on_images_that_count_as_patients_has_the_hospital_s_name_for_others() -> None:
    told = released(statement(patients_known=False), site="st_mary")
    assert told["unit_note"].startswith("st_mary does not publish which patient an image is of, so each image counts")
    assert told["unit_note"] in told["paragraph"]
