"""`dpdt audit` on small trainings: right ones hold, planted faults are refuted."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dpdt.base.files import read_json, write_json
from dpdt.errors import DpdtError, PrivacyError, StudyError
from dpdt.evaluation.audit.run_audit import audit_run, refutations, score_canaries, summary_text
from dpdt.privacy.clipping.engines import ClippedGradientSum
from dpdt.privacy.sampling import PoissonSampler
from dpdt.report.provenance import audits
from dpdt.runs.read import read_run
from dpdt.study import Cell, Study
from dpdt.tracking.payload import payload
from dpdt.training.train import train, train_with_canaries
from tests.small_data import MakeStudy, StopAfter

DP = Cell("uka", 1.0, 0)
PLAIN = Cell("uka", math.inf, 0)
CHANGES = (
    ('[domains.mimic]\nroot = "raw/mimic"\n', ""),
    ("num_epochs = 5\nexpected_batch_size = 8\nphysical", "num_epochs = 4\nexpected_batch_size = 64\nphysical"),
    ("physical_batch_size = 5", "physical_batch_size = 64"),
    ("[8.0, inf]", "[1.0, inf]"),
    ("delta = 1e-3", "delta = 1e-5"),
    ("reserve_steps = 4", "reserve_steps = 4\n[audit]\ncanaries = 400"),
)


@pytest.fixture
def study(make_study: MakeStudy) -> Study:
    """Batches of 64 of 432 units, epsilon 1; a twin has 400 canaries."""
    return make_study(*CHANGES)


def audit_of(study: Study, cell: Cell = DP) -> dict[str, Any]:
    """What the twin's canaries show, with the randomness that a real audit has."""
    summary = train_with_canaries(study, cell)
    assert summary.status == "finished"
    return score_canaries(study.paths.run(summary.run_id))


def test_a_right_training_holds_and_its_twin_is_accounted_with_its_canaries(study: Study) -> None:
    found = audit_of(study)
    assert not found["refuted"], found
    assert found["epsilon_lower"] <= found["epsilon_upper"] <= 1.0
    assert [check["good"] for check in found["checks"]] == [True, True, True]
    statement = read_json(study.paths.run(study.audit_run_id(DP)).privacy)
    assert statement["num_units"] == 32 + 400
    assert statement["sample_rate"] == 64 / 432
    assert 120 <= found["included"] <= 280


def test_without_dp_the_canaries_are_found(study: Study) -> None:
    # All of 200 guesses right refute any epsilon up to the logit of (0.05 / 6) ** (1 / 200), 3.7.
    found = audit_of(study, PLAIN)
    assert found["epsilon_upper"] is None
    assert found["epsilon_lower"] > 2
    assert not found["refuted"]  # nothing was claimed


def noise_times(factor: float) -> Callable[[pytest.MonkeyPatch], None]:
    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        plain: Any = ClippedGradientSum.release

        def release(self: ClippedGradientSum, *, expected_batch_size: int) -> None:
            told = self.noise_multiplier
            self.noise_multiplier = told * factor
            plain(self, expected_batch_size=expected_batch_size)
            self.noise_multiplier = told

        monkeypatch.setattr(ClippedGradientSum, "release", release)

    return plant


def clipping_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ClippedGradientSum, "_factors", lambda _self, norms: torch.ones_like(norms).float())


def one_patient_in_every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = PoissonSampler.draw
    monkeypatch.setattr(PoissonSampler, "draw", lambda self: np.unique(np.append(plain(self), 0)))


@pytest.mark.parametrize(
    ("plant", "what"),
    [
        (noise_times(0.0), "epsilon is at least "),
        (noise_times(1 / 3), "noise multiplier, from canaries that were left out: measured "),
        (clipping_off, "epsilon is at least "),
        (one_patient_in_every_batch, "sample rate of the unit furthest from it: measured 1 "),
    ],
)
def test_a_planted_fault_is_refuted(
    study: Study, monkeypatch: pytest.MonkeyPatch, plant: Callable[[pytest.MonkeyPatch], None], what: str
) -> None:
    plant(monkeypatch)
    found = audit_of(study)
    assert found["refuted"]
    assert any(said.startswith(what) for said in refutations({"canaries": found})), refutations({"canaries": found})


def test_a_twin_that_is_stopped_and_goes_on_counts_every_step_once(study: Study) -> None:
    first = train_with_canaries(study, DP, stop=StopAfter(9), seeded_randomness=True)
    assert first.status == "interrupted"
    train_with_canaries(study, DP, seeded_randomness=True)
    paths = study.paths.run(study.audit_run_id(DP))
    weights = torch.load(paths.weights, weights_only=True)
    assert int(weights["steps"]) == read_json(paths.config)["num_steps"]
    assert not score_canaries(paths)["refuted"]


def test_coins_that_were_changed_are_refused(study: Study) -> None:
    train_with_canaries(study, DP)
    paths = study.paths.run(study.audit_run_id(DP))
    write_json(paths.coins, {"included": [True] * 399})
    with pytest.raises(PrivacyError, match="has 399 coins, expected 400"):
        score_canaries(paths)


def test_canaries_leave_the_run_id_and_its_files_alone(study: Study, make_study: MakeStudy) -> None:
    without = make_study(*CHANGES[:-1])
    assert without.run_id(DP) == study.run_id(DP)
    with pytest.raises(StudyError, match=r"audit\.canaries is 0"):
        train_with_canaries(without, DP)


@pytest.fixture
def trained(make_study: MakeStudy) -> Study:
    """Both arms trained, no canaries."""
    study = make_study(*CHANGES[:1])
    for cell in study.cells():
        train(study, cell)
    return study


def test_an_audit_is_written_beside_the_run_and_read_by_those_who_show_it(trained: Study) -> None:
    for cell in trained.cells():
        found = audit_run(trained, cell)
        run = read_run(trained, trained.run_id(cell))
        assert run is not None
        assert run.audit() == json.loads(json.dumps(found))
        member = found["membership"]
        assert 0 <= member["auc"] <= 1
        assert (member["low"], member["high"]) == (None, None)  # 8 others are fewer than 10
        assert (member["members"], member["others"], found["canaries"]) == (32, 8, None)
        assert not found["refuted"]
        shown = {point.key: point.value for point in payload(run).points if point.key.startswith("audit/")}
        assert shown == {"audit/membership_auc": member["auc"], "audit/refuted": 0.0}
        table = audits([run])
        assert table.rows[0][0] == run.title
        assert table.rows[0][3].startswith(f"{member['auc']:.3f} (")


def test_the_report_and_mlflow_show_the_lower_bound_beside_the_upper_one(make_study: MakeStudy) -> None:
    study = make_study(*CHANGES, patients=100)
    train(study, DP)
    found = audit_run(study, DP)
    run = read_run(study, study.run_id(DP))
    assert run is not None
    shown = {point.key: point.value for point in payload(run).points}
    assert shown["audit/epsilon_lower"] == found["canaries"]["epsilon_lower"]
    _, lower, upper, _, verdict = audits([run]).rows[0]
    assert "guesses right" in lower
    assert (upper, verdict) == (f"{found['canaries']['epsilon_upper']:.4g}", "holds")
    assert "epsilon is at least" in summary_text(run, found)


def test_the_command_takes_a_run_or_a_study(trained: Study, capsys: pytest.CaptureFixture[str]) -> None:
    from dpdt.cli import main

    run_id = trained.run_id(trained.cells()[0])
    with pytest.raises(SystemExit) as ended:
        main(["audit", str(trained.paths.run(run_id).folder)])
    assert ended.value.code == 0
    assert "membership inference by loss: AUC" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["audit", str(trained.file), "--json"])
    assert len(json.loads(capsys.readouterr().out)) == 2


def test_a_run_that_is_not_finished_or_not_there_is_refused(
    make_study: MakeStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dpdt.cli import main

    study = make_study(*CHANGES[:1])
    with pytest.raises(DpdtError, match="not trained to its end"):
        audit_run(study, study.cells()[0])
    with pytest.raises(SystemExit) as ended:
        main(["audit", str(tmp_path)])
    assert ended.value.code == 1
    assert "no run is finished yet" in capsys.readouterr().err
