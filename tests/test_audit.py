"""`dpdt audit` on small trainings: right ones hold, planted faults are refuted."""

import itertools
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from dpdt.base.files import read_json, write_json
from dpdt.errors import DpdtError, PrivacyError, StudyError
from dpdt.evaluation.audit.mechanism_checks import variance_finding
from dpdt.evaluation.audit.run_audit import audit_run, refutations, score_canaries, summary_text
from dpdt.privacy.clipping.engines import ClippedGradientSum
from dpdt.privacy.sampling import PoissonSampler
from dpdt.report.provenance import audits
from dpdt.runs.checkpoint import load_checkpoint, save_checkpoint
from dpdt.runs.read import read_run
from dpdt.study import Cell, Study, arm_name
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

SEVERAL = (*CHANGES[:-1], ("reserve_steps = 4", "reserve_steps = 4\nimages_per_patient = 2\n[audit]\ncanaries = 400"))


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
    assert [check["good"] for check in found["checks"]] == [True] * 6
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


def shuffled_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every unit once an epoch, in batches of one size: right rates, and none of the privacy of Poisson samples."""
    left: list[int] = []

    def draw(self: PoissonSampler) -> np.ndarray:
        size = round(self.num_units * self.sample_rate)
        if len(left) < size:
            left[:] = [*left, *np.random.default_rng(1).permutation(self.num_units)]
        units, left[:] = np.sort(left[:size]), left[size:]
        return self._by_unit[self._first[units]]

    monkeypatch.setattr(PoissonSampler, "draw", draw)


def batches_of_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn anew each step, but always as many."""
    random = np.random.default_rng(1)

    def draw(self: PoissonSampler) -> np.ndarray:
        units = random.choice(self.num_units, round(self.num_units * self.sample_rate), replace=False)
        return self._by_unit[self._first[np.sort(units)]]

    monkeypatch.setattr(PoissonSampler, "draw", draw)


@pytest.mark.parametrize(
    ("plant", "what"),
    [
        (shuffled_epochs, "how often units were drawn: its variance over that of independent draws: measured 0"),
        (batches_of_one_size, "batch sizes: their variance over that of independent draws: measured 0"),
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


def test_images_of_a_patient_that_are_clipped_one_by_one_are_refuted(
    make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The step forgets the units: a patient of two images moves the sum by two norms. Canaries have two images, too.
    study = make_study(*SEVERAL)
    plain: Any = ClippedGradientSum.add
    monkeypatch.setattr(ClippedGradientSum, "add", lambda *args, units=None: plain(*args, units=None))
    found = audit_of(study)
    assert found["refuted"]
    assert any(
        said.startswith("most that one unit moved the sum by in a step") for said in refutations({"canaries": found})
    )
    most = next(check for check in found["checks"] if check["what"].startswith("most that one unit moved"))
    assert most["measured"] == pytest.approx(2)
    monkeypatch.undo()
    shutil.rmtree(study.paths.run(study.audit_run_id(DP)).folder)
    right = audit_of(study)
    assert not right["refuted"], right
    assert read_json(study.paths.run(study.audit_run_id(DP)).config)["canaries"]["images_each"] == 2


RECIPE = ("learning_rate = 1e-3", 'learning_rate = 1e-3\naveraging = "ema"\noptimizer = "adam-corrected"\nviews = 2')
AUTOMATIC = ("reserve_steps = 4", 'reserve_steps = 4\nclip_factor = "automatic"')


def test_a_twin_with_every_setting_of_a_recipe_holds_and_views_that_are_counted_one_by_one_are_refuted(
    make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(*CHANGES, RECIPE, AUTOMATIC)
    plain: Any = ClippedGradientSum.add
    monkeypatch.setattr(ClippedGradientSum, "add", lambda *args, units=None: plain(*args, units=None))
    most = next(check for check in audit_of(study)["checks"] if check["what"].startswith("most that one unit moved"))
    assert not most["good"]
    assert most["measured"] == pytest.approx(2, rel=1e-3)  # each view a norm of its own
    monkeypatch.undo()
    shutil.rmtree(study.paths.run(study.audit_run_id(DP)).folder)
    right = audit_of(study)
    assert not right["refuted"], right


def test_a_twin_begun_before_goes_on_with_its_canaries_and_without_its_batch_sizes(make_study: MakeStudy) -> None:
    # As an earlier version left it: canaries of one image, and no batch sizes in its checkpoints.
    study = make_study(*SEVERAL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dpdt.training.train._images_of_a_canary", lambda _run: 1)
        train_with_canaries(study, DP, stop=StopAfter(9))
    paths = study.paths.run(study.audit_run_id(DP))
    assert "images_each" not in read_json(paths.config)["canaries"]
    checkpoint = load_checkpoint(paths.checkpoints)
    assert checkpoint is not None
    shutil.rmtree(paths.checkpoints)
    added = ("sized_steps", "size_squares", "most_moved")
    for name in added:
        del checkpoint["model"][name]
    save_checkpoint(paths.checkpoints, step=checkpoint["step"], content=checkpoint)
    found = audit_of(study)
    assert not found["refuted"], found
    weights = torch.load(paths.weights, weights_only=True)
    assert 0 < int(weights["sized_steps"]) == int(weights["steps"]) - checkpoint["step"]
    torch.save({name: value for name, value in weights.items() if name not in added}, paths.weights)  # finished before
    assert len(score_canaries(paths)["checks"]) == 4


def test_an_audit_does_not_warn_of_its_own_run(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = study.paths.run(study.run_id(DP)).ledger
    ledger.parent.mkdir(parents=True)
    ledger.write_text("")
    train_with_canaries(study, DP, stop=StopAfter(1))
    assert "the same training was begun with" not in capsys.readouterr().err
    study = study.model_copy(update={"privacy": study.privacy.model_copy(update={"clipping": "hooks"})})
    train_with_canaries(study, DP, stop=StopAfter(1))
    assert "the same training was begun with privacy.clipping = 'bookkeeping' (audit400-" in capsys.readouterr().err


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


@pytest.mark.parametrize(("trials", "rate"), [(10, 0.3), (4, 0.05)])
def test_right_counts_are_outside_of_the_interval_of_their_variance_with_less_than_the_stated_chance(
    trials: int, rate: float
) -> None:
    # Every outcome of three counts, each with its chance.
    chance = stats.binom.pmf(np.arange(trials + 1), trials, rate)
    found = variance_finding("", 0.0, counts=3, trials=trials, rate=rate)
    variance, outside = trials * rate * (1 - rate), 0.0
    for counts in itertools.product(range(trials + 1), repeat=3):
        measured = sum((count - trials * rate) ** 2 for count in counts) / 3 / variance
        if not found.low <= measured <= found.high:
            outside += math.prod(chance[count] for count in counts)
    assert outside <= 1e-6


@pytest.mark.parametrize(("counts", "trials", "rate"), [(432, 33, 0.148), (33, 432, 0.148), (5000, 200, 0.01)])
def test_the_interval_of_a_variance_is_little_wider_than_chi_square_s(counts: int, trials: int, rate: float) -> None:
    # Squares of numbers that are nearly normal: chi-square, and wider by what the binomial's kurtosis adds.
    found = variance_finding("", counts * trials * rate * (1 - rate), counts=counts, trials=trials, rate=rate)
    kurtosis = (1 - 6 * rate * (1 - rate)) / (trials * rate * (1 - rate))
    low, high = (stats.chi2.ppf(tail, counts) / counts for tail in (2.5e-7, 1 - 2.5e-7))
    spread = math.sqrt(1 + kurtosis / 2)
    assert found.good
    assert 1 - 1.3 * spread * (1 - low) < found.low < low
    assert high < found.high < 1 + 1.3 * spread * (high - 1)


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
        assert table.rows[0][0] == f"UKA-CXR, {arm_name(run.target_epsilon)}, seed 0"
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
