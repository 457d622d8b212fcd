"""Finished runs' statements follow the runs' folder: who adds a run changes what the best of all costs."""

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from dpdt.base.files import read_json, write_json
from dpdt.privacy.ledger import Ledger
from dpdt.privacy.mechanism import Mechanism
from dpdt.privacy.statement import StatedRun, privacy_statement
from dpdt.privacy.statements import publish_statement, refresh_statements
from dpdt.study import Cell, Study
from dpdt.training.train import pretrain, train, train_with_canaries
from tests.small_data import MakeStudy, StopAfter

DP = Cell("uka", 8.0, 0)


def with_settings(study: Study, section: str, **values: Any) -> Study:
    part = getattr(study, section).model_copy(update=values)
    return study.model_copy(update={section: part})


@pytest.fixture
def study(make_study: MakeStudy) -> Study:
    """A study that plans one DP run of uka."""
    return with_settings(make_study(), "privacy", target_epsilons=[8.0])


def selection(study: Study, cell: Cell) -> dict[str, Any]:
    found: dict[str, Any] = read_json(study.paths.run(study.run_id(cell)).privacy)
    return found["selection"]


def begun(study: Study, cell: Cell, *, domain: str = "uka", unit: str = "patient", steps: int = 3) -> None:
    """A run that has booked `steps` of its 20 steps."""
    paths = study.paths.run(study.run_id(cell))
    mechanism = Mechanism(
        unit=unit,
        num_units=32,
        sample_rate=0.25,
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        num_steps=20,
        delta=1e-3,
        accountant="pld",
        target_epsilon=cell.target_epsilon,
    )
    with Ledger(paths.ledger, mechanism=mechanism.as_dict(), num_steps=20) as ledger:
        ledger.reserve(steps)
    settings = {"privacy": {"delta": 1e-3, "unit": unit}}
    config = {"domain": domain, "target_epsilon": cell.target_epsilon, "data": {"key_id": "0"}, "settings": settings}
    write_json(paths.config, config)
    run = StatedRun(paths.run_id, domain, "none", "random", randomness="cryptographic", max_images_per_patient=1)
    statement = privacy_statement(mechanism, run, spent_steps=20, complete=False)
    publish_statement(study, paths, statement)


def test_the_first_run_s_statement_counts_the_nine_that_came_after_it(study: Study) -> None:
    pretrain(study)
    train(study, DP)
    assert selection(study, DP)["runs"] == 1
    grown = with_settings(study, "train", seeds=list(range(8)))
    for seed in range(1, 8):
        begun(grown, Cell("uka", 8.0, seed))
    begun(with_settings(study, "train", learning_rate=0.1), DP)  # another study file: another run id, the same folder
    begun(with_settings(study, "train", learning_rate=0.2), DP)
    found = selection(study, DP)
    assert (found["runs"], found["epsilon"]) == (10, 80.0)  # basic composition
    assert found["delta"] == pytest.approx(10 * 1e-3)
    statement = read_json(study.paths.run(study.run_id(DP)).privacy)
    assert "There are 10 such models of this domain" in statement["paragraph"]
    assert statement["complete"]
    everyone = [
        read_json(file)["selection"]["runs"] for file in study.paths.runs.glob("*/privacy.json") if "eps" in str(file)
    ]
    assert everyone == [10] * 10


def test_other_domains_units_and_empty_ledgers_are_not_counted(study: Study) -> None:
    begun(study, DP)
    begun(with_settings(study, "train", learning_rate=0.1), DP, domain="chexpert")
    begun(with_settings(study, "train", learning_rate=0.2), DP, unit="image")
    other = study.paths.run("uka-patient-eps8-seed0-00000000")
    other.folder.mkdir()
    other.ledger.write_bytes(b"")
    refresh_statements(study)
    assert selection(study, DP)["runs"] == 1


def test_a_run_that_is_half_done_counts_with_all_that_it_may_spend(study: Study) -> None:
    begun(study, DP)
    half = Cell("uka", 3.0, 0)
    begun(study, half, steps=1)
    assert selection(study, DP)["epsilon"] == 11.0


def test_runs_that_the_study_plans_are_counted_before_they_begin(study: Study) -> None:
    begun(study, DP)
    refresh_statements(with_settings(study, "privacy", target_epsilons=[1.0, 8.0, math.inf]))
    assert (selection(study, DP)["runs"], selection(study, DP)["epsilon"]) == (2, 9.0)


def test_a_run_whose_config_is_lost_counts_for_every_domain(study: Study) -> None:
    begun(study, DP)
    other = Cell("uka", 2.0, 0)
    begun(study, other)
    study.paths.run(study.run_id(other)).config.unlink()
    refresh_statements(study)
    assert selection(study, DP)["epsilon"] == 10.0


@pytest.mark.parametrize(
    "line", ["[1]", "null", '{"target_epsilon": -100, "delta": 0.001, "unit": "patient"}', '{"target_epsilon": NaN}']
)
def test_a_ledger_whose_first_line_is_damaged_counts_with_its_configs_target(study: Study, line: str) -> None:
    begun(study, DP)
    other = Cell("uka", 2.0, 0)
    begun(study, other)
    study.paths.run(study.run_id(other)).ledger.write_text(line + "\n")
    refresh_statements(study)
    assert selection(study, DP)["epsilon"] == 10.0


@pytest.mark.parametrize("content", ["[]", "null", "3", "{}", '{"selection": {"runs": 1}}', "not JSON"])
@pytest.mark.parametrize("name", ["privacy.json", "config.json"])
def test_a_strangers_files_among_the_runs_stop_nobody(study: Study, name: str, content: str) -> None:
    begun(study, DP)
    stranger = study.paths.runs / "stranger"
    stranger.mkdir()
    (stranger / name).write_text(content)
    (stranger / "ledger.jsonl").mkdir()
    refresh_statements(study)
    assert selection(study, DP)["runs"] == 1
    assert (stranger / name).read_text() == content


def test_an_audit_s_twin_is_a_training_on_the_same_patients(study: Study) -> None:
    audited = with_settings(study, "audit", canaries=20)
    pretrain(audited)
    train(audited, DP)
    train_with_canaries(audited, DP, stop=StopAfter(3))
    twin = read_json(audited.paths.run(audited.audit_run_id(DP)).privacy)
    assert selection(audited, DP)["runs"] == twin["selection"]["runs"] == 2


def test_what_nothing_changed_in_is_not_written_again(study: Study) -> None:
    pretrain(study)
    train(study, DP)
    begun(study, Cell("uka", 8.0, 1))
    files = sorted(study.paths.runs.glob("*/privacy.json"))
    assert len(files) == 3  # the pretraining too
    before = [(file.stat().st_mtime_ns, file.read_bytes()) for file in files]
    refresh_statements(study)
    assert [(file.stat().st_mtime_ns, file.read_bytes()) for file in files] == before


def test_the_statement_of_a_run_of_before_gets_its_count_and_date(study: Study) -> None:
    begun(study, DP)
    begun(with_settings(study, "train", learning_rate=0.1), DP)
    file = study.paths.run(study.run_id(DP)).privacy
    old = read_json(file)
    old["selection"] = {"runs": 1, "epsilon": 8.0, "delta": 1e-3, "how": "basic composition", "note": "Counts …"}
    write_json(file, old)
    refresh_statements(study)
    found = selection(study, DP)
    assert found["runs"] == 2
    assert found["as_of"].endswith("+00:00")


def test_statements_written_at_once_lose_nothing(study: Study) -> None:
    # A training that ends writes `complete`; another one's refresh must not put the statement of before back.
    begun(study, DP)
    paths = study.paths.run(study.run_id(DP))
    done = {**read_json(paths.privacy), "complete": True}
    with ThreadPoolExecutor(4) as pool:
        others = [pool.submit(begun, study, Cell("uka", 8.0, seed)) for seed in range(1, 9)]
        written = pool.submit(publish_statement, study, paths, done)
        for waiting in [*others, written]:
            waiting.result()
    assert read_json(paths.privacy)["complete"]
    assert selection(study, DP)["runs"] == 9
