"""Results with differential privacy for the test patients: mechanism, AUC of noisy bins, and what the file holds."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn
from typer.testing import CliRunner

from dpdt.base.parquet import write_stamped
from dpdt.cli import app
from dpdt.errors import BundleError, PrivacyError, StudyError
from dpdt.evaluation.predict import ALONE, in_pieces, scores_alone
from dpdt.privacy import score_histograms
from dpdt.privacy.accounting import epsilon as accounted
from dpdt.privacy.gaussian import gaussian_epsilon, gaussian_mu
from dpdt.privacy.keystream import KeyStream
from dpdt.privacy.score_histograms import EDGES, NUM_BINS, WHOLE, histogram_sensitivity, noisy_histograms, score_counts
from dpdt.report.apart import noisy as noisy_module
from dpdt.report.apart.combine import combine, disagreements
from dpdt.report.apart.noisy import binned_auc
from dpdt.report.apart.results import export_results, left_out
from dpdt.study.settings import ModelSettings
from dpdt.training.networks.build import build_model, scorer_of
from tests.fake_runs import FakeRuns
from tests.test_apart import TWO, as_text, probabilities, read, stubs


def hospital(rng: np.random.Generator, patients: int = 400, labels: int = 3) -> tuple[Any, Any, Any]:
    """Patients of one to six images: number of each image's patient, targets (n, labels) and scores."""
    number = np.repeat(np.arange(patients), rng.integers(1, 7, patients))
    target = rng.choice([0.0, 1.0, np.nan], (len(number), labels), p=[0.6, 0.3, 0.1])
    score = 1 / (1 + np.exp(-(rng.normal(size=target.shape) * 2 + np.nan_to_num(target) * 2)))
    return number, target, score.astype(np.float32)


def vector(number: Any, target: Any, score: Any) -> Any:
    """All histograms of a hospital, in patients, as they are released together."""
    counts = [score_counts(target[:, k], score[:, k], number) for k in range(target.shape[1])]
    return np.stack(counts).astype(object).ravel()


def largest_move(number: Any, target: Any, score: Any) -> float:
    """The most that leaving one patient out moves the counts, in the Euclidean norm, in patients."""
    whole, moves = vector(number, target, score), []
    for patient in np.unique(number):
        rest = number != patient
        off = whole - vector(np.unique(number[rest], return_inverse=True)[1], target[rest], score[rest])
        moves.append(math.sqrt(sum(int(part) ** 2 for part in off)) / WHOLE)
    return max(moves)


def test_no_patient_who_leaves_moves_the_counts_by_more_than_the_sensitivity() -> None:
    # Dwork & Roth 2014, definition 3.8, by leaving each patient out
    number, target, score = hospital(np.random.default_rng(1))
    assert largest_move(number, target, score) <= histogram_sensitivity(3)
    one_bin = np.zeros(5, np.intp), np.ones((5, 3)), np.full((5, 3), 0.5, np.float32)  # the worst patient
    assert largest_move(*one_bin) == pytest.approx(math.sqrt(3), rel=1e-8)


def test_counting_images_in_place_of_patients_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_histograms.np, "bincount", lambda *_, **__: np.ones(10_000, np.int64))
    assert largest_move(*hospital(np.random.default_rng(1))) > histogram_sensitivity(3)


def hostile(features: torch.Tensor) -> nn.Linear:
    """A head that gives images of these features 0 and multiplies what rounding makes of them."""
    rows = torch.cat((features, torch.ones(len(features), 1)), 1).double()
    unseen = torch.linalg.svd(rows, full_matrices=True)[2][-200:]
    directions = torch.randn(5, 200, generator=torch.Generator().manual_seed(1), dtype=torch.float64) @ unseen
    directions *= 3e6 / directions.norm(dim=1, keepdim=True)
    head = nn.Linear(features.shape[1], 5)
    with torch.no_grad():
        head.weight.copy_(directions[:, :-1])
        head.bias.copy_(directions[:, -1])
    return head


@dataclass(frozen=True)
class Images:
    """What `in_pieces` needs of a split."""

    pixels: Any
    size: int = 32

    def __len__(self) -> int:
        return len(self.pixels)

    def images(self, rows: Any, *, out: Any) -> None:
        out[:] = self.pixels[rows]


def test_a_patient_who_leaves_moves_no_other_s_scores_whatever_the_weights() -> None:
    """Pieces of another size are rounded otherwise, and weights can be made that turn this into other bins."""
    torch.manual_seed(0)
    model = build_model(ModelSettings(name="resnet9"), size=32, num_outputs=5).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (50, 32, 32)).astype(np.uint8)
    seen: list[torch.Tensor] = []
    head: Any = model.fc
    handle = head.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    score = scorer_of(model, "cpu")
    score(pixels)
    handle.remove()
    model.fc = hostile(seen[0])

    def filled(kept: Any) -> Any:
        return in_pieces(score, Images(kept), images_at_once=16, advance=lambda _: None)  # type: ignore[arg-type]

    def smaller(kept: Any) -> Any:  # the last piece, as it was
        return np.concatenate([score(kept[first : first + 16]) for first in range(0, len(kept), 16)])

    def move(scores: Callable[[Any], Any]) -> float:
        whole = vector(np.arange(50), np.ones((50, 5)), scores(pixels))
        rest = vector(np.arange(49), np.ones((49, 5)), scores(pixels[1:]))
        return math.sqrt(sum(int(part) ** 2 for part in whole - rest)) / WHOLE

    assert move(filled) <= histogram_sensitivity(5) < move(smaller)


def test_a_network_that_mixes_images_is_noticed_and_its_results_have_no_noise(made: FakeRuns) -> None:
    def mixing(images: Any) -> Any:
        return images.reshape(len(images), -1)[:, :3] / 255 - images.mean() / 255

    assert scores_alone(lambda images: images.reshape(len(images), -1)[:, :3] / 255, images_at_once=5, size=8)
    assert not scores_alone(mixing, images_at_once=5, size=8)
    run = made.study.run_id(made.study.cells()[0])
    path = made.study.paths.run(run).predictions("uka")
    frame = pd.read_parquet(path)
    write_stamped(path, frame, {ALONE: False})
    with pytest.raises(PrivacyError, match="score of an image depends on the images that are tested with it"):
        export_results(made.study, epsilon=2.0, delta=1e-4)
    write_stamped(path, frame, {})
    with pytest.raises(PrivacyError, match=r"of an older dpdt.*Remove .*and run `dpdt evaluate` again"):
        export_results(made.study, epsilon=2.0, delta=1e-4)


def test_the_noise_has_the_stated_deviation_in_every_count() -> None:
    counts = np.full((3, 2, NUM_BINS), 100 * WHOLE, dtype=np.int64)
    stream = KeyStream.from_seed("bins")
    drawn = np.stack([noisy_histograms(counts, deviation=8.0, noise=stream) for _ in range(3000)]) - 100
    assert np.abs(drawn.std(axis=0) / math.sqrt(64 + 1 / 12) - 1).max() < 0.06  # 4.6 errors of 1 / sqrt(2 * 3000)
    assert np.abs(drawn.mean(axis=0)).max() < 8 * 4.6 / math.sqrt(3000)
    flat = drawn.reshape(3000, -1)
    assert np.abs(np.corrcoef(flat.T) - np.eye(flat.shape[1])).max() < 0.1


@pytest.mark.parametrize(("epsilon", "delta"), [(0.1, 1e-6), (1.0, 1e-5), (8.0, 1e-5), (50.0, 1e-3)])
def test_the_noise_is_that_of_the_budget(epsilon: float, delta: float) -> None:
    mu = gaussian_mu(epsilon, delta=delta)
    assert gaussian_epsilon(mu, delta=delta) <= epsilon < gaussian_epsilon(mu * (1 + 1e-6), delta=delta)
    steps = {"noise_multiplier": 1 / mu, "sample_rate": 1.0, "num_steps": 1, "delta": delta}
    assert accounted(**steps, accountant="prv") == pytest.approx(epsilon, rel=0.02)  # an accountant of another library


@pytest.mark.parametrize("bad", [0.0, -1.0, math.inf, math.nan])
def test_a_budget_that_is_none_is_refused(bad: float) -> None:
    with pytest.raises(PrivacyError, match="epsilon: expected a number above 0"):
        gaussian_mu(bad, delta=1e-5)
    with pytest.raises(PrivacyError, match="delta: expected a number between 0 and 1"):
        gaussian_mu(1.0, delta=bad)


def test_the_auc_of_the_bins_is_scikit_learns_with_each_patient_weighing_the_same() -> None:
    number, target, score = hospital(np.random.default_rng(2), patients=3000)
    for k in range(3):
        known = ~np.isnan(target[:, k])
        weight = 1 / np.bincount(number[known])[number[known]]
        expected = roc_auc_score(target[known, k], score[known, k], sample_weight=weight)
        binned = np.searchsorted(EDGES, score[known, k], side="right")
        same_bins = roc_auc_score(target[known, k], binned, sample_weight=weight)
        exact = score_counts(target[:, k], score[:, k], number) / WHOLE
        assert binned_auc(*exact, variance=0.0).auc == pytest.approx(same_bins, abs=1e-7)
        deviation = histogram_sensitivity(3) / gaussian_mu(1000.0, delta=1e-5)
        drawn = noisy_histograms((exact * WHOLE).astype(np.int64)[None], deviation=deviation, noise=KeyStream.fresh())
        assert binned_auc(*drawn[0], variance=deviation**2).auc == pytest.approx(expected, abs=0.003)


def test_ninety_five_of_a_hundred_intervals_have_the_auc_that_made_the_patients() -> None:
    # two normal distributions, one apart: AUC = Phi(1 / sqrt(2)) (Hanley & McNeil, Radiology 143, 1982)
    rng, stream, deviation = np.random.default_rng(3), KeyStream.from_seed("intervals"), 8.0
    inside, noise = [], []
    for _ in range(400):
        target = (rng.random(2000) < 0.3).astype(np.float64)
        score = (1 / (1 + np.exp(-rng.normal(size=2000) - target))).astype(np.float32)
        counts = score_counts(target, score, np.arange(2000))
        found = binned_auc(*noisy_histograms(counts[None], deviation=deviation, noise=stream)[0], variance=64 + 1 / 12)
        error = math.sqrt(found.sampling + found.noise)
        inside.append(abs(found.auc - 0.760250) < 1.96 * error)
        noise.append((found.auc - binned_auc(*(counts / WHOLE), variance=0.0).auc, math.sqrt(found.noise)))
    assert 0.92 <= np.mean(inside) <= 0.98
    off, said = np.array(noise).T
    assert said.mean() / off.std() == pytest.approx(1, abs=0.15)
    assert abs(off.mean()) < 0.004


@pytest.fixture
def made(fake_runs: Callable[..., FakeRuns], monkeypatch: pytest.MonkeyPatch) -> FakeRuns:
    stubs(monkeypatch)
    return fake_runs(TWO, "[8.0, inf]").all(change=probabilities)


def test_a_file_with_noise_holds_what_the_budget_pays_for_and_nothing_else(made: FakeRuns, tmp_path: Path) -> None:
    exact = export_results(made.study)
    made.study.paths.test_releases.unlink()
    found = export_results(made.study, epsilon=200.0, delta=1e-4)
    there = read(tmp_path, found)
    assert there.privacy is not None
    assert (found["bins"], found["pairs"]) == ([], [])
    assert {row["subgroup"] for row in found["auc"]} == {"all"}
    assert there.privacy.histograms == len(exact["models"]) * 5
    expected = math.sqrt(there.privacy.histograms) / gaussian_mu(200.0, delta=1e-4)
    assert there.privacy.deviation == pytest.approx(expected)
    key = ("model", "test_domain", "label", "subgroup")
    close = {tuple(row[k] for k in key): row for row in exact["auc"]}
    assert len(found["auc"]) == len(exact["models"]) * 2 * 6  # five labels and their mean, at two hospitals
    for row in found["auc"]:
        before = close[tuple(row[k] for k in key)]
        assert abs(row["auc"] - before["auc"]) < 4 * row["standard_error"]
        assert row["standard_error"] > 0.5 * before["standard_error"]
    again = export_results(made.study, epsilon=200.0, delta=1e-4)
    assert again["noisy_bins"] != found["noisy_bins"]
    counted = found["noisy_bins"][:NUM_BINS]
    assert counted[0]["sensitivity"] == 1.0
    positives = np.array([b["positives"] for b in counted])
    assert counted[10]["sensitivity"] == pytest.approx(positives[10:].sum() / positives.sum(), abs=1e-4)
    # every number of the exact file that is of patients is in none of the other
    digits = {repr(row["auc"]) for row in exact["auc"]} | {repr(row["standard_error"]) for row in exact["auc"]}
    assert not [text for text in digits if text in as_text(found) and len(text) > 8]
    assert "groups, images, exact bins and AUCs" in left_out(made.study, found)[0]


def test_exports_add_up_and_one_without_noise_ends_the_guarantee(made: FakeRuns) -> None:
    first, second = (export_results(made.study, epsilon=1.0, delta=1e-4) for _ in range(2))
    assert first["privacy"]["epsilon_of_all_exports"] == pytest.approx(1.0, rel=1e-6)
    # two releases of one mu are one of sqrt(2) mu: Dong, Roth & Su 2022 (arXiv 1905.02383), corollary 3.3
    both = gaussian_epsilon(math.sqrt(2) * gaussian_mu(1.0, delta=1e-4), delta=1e-4)
    assert second["privacy"]["epsilon_of_all_exports"] == pytest.approx(both, rel=1e-6)
    assert "Export 2 of this study: epsilon of all together 1.4" in second["noise"]
    export_results(made.study)
    last = export_results(made.study, epsilon=1.0, delta=1e-4)
    assert last["privacy"]["epsilon_of_all_exports"] is None
    assert "Export 4 of this study: one of them had no noise, and no guarantee covers it" in last["noise"]
    assert [one["mu"] is None for one in json.loads(made.study.paths.test_releases.read_text())] == [0, 0, 1, 0]


def test_an_auc_of_little_but_noise_stays_here(made: FakeRuns) -> None:
    found = export_results(made.study, epsilon=0.05, delta=1e-6)
    assert found["auc"] == []
    assert {(b["sensitivity"], b["specificity"]) for b in found["noisy_bins"]} == {(None, None)}
    assert "AUC of model 0 on uka, atelectasis (too few patients for this noise)" in left_out(made.study, found)


def test_the_command_says_what_it_spent_and_refuses_nonsense(
    made: FakeRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def run(*more: str) -> Any:
        return CliRunner().invoke(app, ["results", "export", str(made.study.file), "--output", "out.json", *more])

    done = run("--epsilon", "20", "--delta", "1e-4", "--show")
    assert done.exit_code == 0, done.output
    assert "(epsilon 20, delta 0.0001)-differentially private" in " ".join(done.output.split())
    numbers = re.findall(r"-?\d+\.\d+", (tmp_path / "out.json").read_text())
    assert [number for number in numbers if number not in done.output] == []
    for epsilon in ("0", "-1", "nan"):
        assert isinstance(run("--epsilon", epsilon).exception, PrivacyError)
    assert isinstance(run("--delta", "1e-4").exception, StudyError)
    with pytest.raises(PrivacyError, match=r"delta: 0\.5 is not below 1 / 120 units"):
        export_results(made.study, epsilon=1.0, delta=0.5)
    assert len(json.loads(made.study.paths.test_releases.read_text())) == 1  # what was refused spent nothing


def test_combined_results_say_which_have_noise(made: FakeRuns, tmp_path: Path) -> None:
    whole = {"uka": export_results(made.study), "vindr": export_results(made.study, epsilon=100.0, delta=1e-4)}
    parts = []
    for name, one in whole.items():
        tables = ("auc", "bins", "noisy_bins", "pairs")
        kept = {key: [row for row in one[key] if row["test_domain"] == name] for key in tables if key in one}
        own = {key: {name: one[key][name]} for key in ("policies", "definitions")}
        parts.append(read(tmp_path, {**one, **own, **kept, "site": name}))
    told = [line for line in disagreements(parts) if line.startswith("noise:")]
    assert len(told) == 1
    assert "the numbers of vindr have noise" in told[0]
    assert "Not to be made: groups, comparisons of two models on the same patients" in told[0]
    page = combine(parts, tmp_path / "together").read_text(encoding="utf-8")
    assert "the numbers of vindr have noise" in page
    auc = pd.read_csv(tmp_path / "together" / "auc.csv")
    assert set(auc.loc[auc["test_domain"] == "vindr", "subgroup"]) == {"all"}
    assert len(auc.loc[auc["test_domain"] == "vindr", "auc"].dropna()) == 2 * 2 * 6


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d | {"format": 1},
        lambda d: {key: value for key, value in d.items() if key != "privacy"},
        lambda d: d | {"auc": [{**d["auc"][0], "subgroup": "female"}]},
    ],
)
def test_exact_numbers_do_not_pass_for_noisy_ones(made: FakeRuns, tmp_path: Path, change: Any) -> None:
    found = export_results(made.study, epsilon=100.0, delta=1e-4)
    with pytest.raises(BundleError, match="exact numbers beside a guarantee for test patients, or noise without one"):
        read(tmp_path, change(found))


def test_the_export_is_recorded_before_noise_is_drawn(made: FakeRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(noisy_module, "noisy_histograms", stop)
    with pytest.raises(KeyboardInterrupt):
        export_results(made.study, epsilon=1.0, delta=1e-4)
    assert len(json.loads(made.study.paths.test_releases.read_text())) == 1
