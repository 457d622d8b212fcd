"""A clipping norm by a private quantile: its price, what a unit moves, where it goes, and whole trainings."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dpdt.base.files import read_json
from dpdt.errors import StudyError
from dpdt.privacy.accounting import epsilon
from dpdt.privacy.clipping.engines import CLIPPING, ClippedGradientSum
from dpdt.privacy.keystream import KeyStream
from dpdt.privacy.mechanism import Mechanism
from dpdt.study import Cell, Study
from dpdt.training.train import pretrain, train
from tests.small_data import MakeStudy, StopAfter
from tests.test_ranks import run

DP = Cell("uka", 8.0, 0)
QUANTILE = ("delta = 1e-3", 'delta = 1e-3\nclip_factor = "quantile"')
FIXED = Mechanism("patient", 4000, 0.125, 2.0, 1.5, 100, 1e-5, "pld", 8.0)
WIDTH = 20


@pytest.mark.parametrize("allowance", [None, 0.004, 0.3])
@pytest.mark.parametrize("sigma", [0.5, 6.0, 100.0])
def test_sum_and_count_together_cost_what_the_accountant_is_told(sigma: float, allowance: float | None) -> None:
    # Andrew et al. 2021, theorem 1, in general form: one Gaussian of several queries has mu² = sum of (sensitivity /
    # deviation)²; here of the sum, C (1 + s), and of the count, 1/2 + 1.5 s.
    s = allowance or 0.0
    found = dataclasses.replace(FIXED, quantile=True, noise_multiplier=sigma, rounding_allowance=allowance)
    assert found.count_noise is not None
    mu = math.hypot((1 + s) / found.sum_noise_multiplier, (0.5 + 1.5 * s) / found.count_noise)
    assert mu <= 1 / found.accounted_noise_multiplier * (1 + 1e-12)
    assert mu >= 0.97 / found.accounted_noise_multiplier
    assert found.sum_noise_multiplier <= 1.04 * sigma, "the count costs little"
    one = {"sample_rate": 0.125, "num_steps": 100, "delta": 1e-5}
    assert found.epsilon(100) == epsilon(noise_multiplier=found.accounted_noise_multiplier, **one)  # type: ignore[arg-type]


def test_it_is_theorem_1_with_the_papers_count_noise() -> None:
    # z = 2, m = 500, sigma_b = m / 20 = 25: z_sum = (z^-2 - (2 sigma_b)^-2)^(-1/2).
    found = dataclasses.replace(FIXED, quantile=True)
    assert found.count_noise == 25
    assert found.sum_noise_multiplier == pytest.approx((2**-2 - 50**-2) ** -0.5)
    assert FIXED.sum_noise_multiplier == FIXED.noise_multiplier
    assert FIXED.count_noise is None


def loss(outputs: Tensor, _: Tensor) -> Tensor:
    return outputs[:, 0]


def sums(kind: str = "bookkeeping", *, norm: float = 1.0, sigma: float = 0.0, fill_to: int | None = None) -> Any:
    """Of a network whose gradient is the image."""
    torch.manual_seed(0)
    return CLIPPING[kind](
        nn.Linear(WIDTH, 1, bias=False),
        loss,
        max_grad_norm=norm,
        noise_multiplier=sigma,
        noise=KeyStream.from_seed("quantile"),
        fill_to=fill_to,
        count_noise=max(3.0 * sigma, 1e-9),
    )


def images(norms: Tensor) -> Tensor:
    rows = torch.randn(len(norms), WIDTH, generator=torch.Generator().manual_seed(0))
    return rows / rows.norm(dim=1, keepdim=True) * norms[:, None].float()


def movements(kind: str, fill_to: int | None, units: Tensor | None) -> list[float]:
    """What each unit moves of (sum / norm, count), by leaving it out."""
    norms = torch.tensor([0.0, 1e-6, 0.5, 0.9, 1.0, 1.1, 1.5, 3.0, 1e6, math.nan])
    rows = images(norms)

    def of(kept: Tensor) -> Tensor:
        found = sums(kind, fill_to=fill_to)
        found.clear()
        found.add(rows[kept], torch.zeros(int(kept.sum())), units=None if units is None else units[kept])
        return torch.cat([total.double().flatten() for total in (*found.partial_sums(), *found.counts)])

    each = torch.arange(len(rows)) if units is None else units
    whole = of(each >= 0)
    return [float((whole - of(each != unit))[-1].abs()) for unit in each.unique()]


@pytest.mark.parametrize("kind", CLIPPING)
@pytest.mark.parametrize("fill_to", [None, 16])
def test_a_unit_moves_the_count_by_no_more_than_a_half(kind: str, fill_to: int | None) -> None:
    found = movements(kind, fill_to, None)
    assert max(found) == pytest.approx(0.5)
    assert found[0] == found[7] == 0.5  # far below, and above
    assert found[4] < 2e-4  # at the norm; ghost's norms have a margin of 1e-4
    if kind == "bookkeeping":
        of_two = movements(kind, fill_to, torch.arange(10) // 2)
        assert max(of_two) <= 0.5


def test_planted_faults_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = ClippedGradientSum._factors

    def whole(self: ClippedGradientSum, norms: Tensor) -> Tensor:  # h in place of h - 1/2
        self.counts[0] += 0.5 * self._units_added
        return plain(self, norms)

    monkeypatch.setattr(ClippedGradientSum, "_factors", whole)
    assert max(movements("bookkeeping", None, None)) == pytest.approx(1.0)

    def filling_too(self: ClippedGradientSum, norms: Tensor) -> Tensor:  # what fills a batch up is counted
        self._units_added = len(norms)
        return plain(self, norms)

    monkeypatch.setattr(ClippedGradientSum, "_factors", filling_too)
    assert max(movements("bookkeeping", 16, None)) == pytest.approx(1.0)


@pytest.mark.parametrize("first", [0.05, 40.0])
def test_the_norm_goes_where_half_of_the_units_are_below(first: float) -> None:
    """Log-normal norms of median 2; the middle in the sense of h, by bisection in numpy."""
    random = np.random.default_rng(0)
    norms = 2 * np.exp(0.5 * random.normal(size=400))
    low, high = 0.1, 10.0
    for _ in range(60):
        middle = (low + high) / 2
        below = np.clip(1.5 - norms / middle, 0, 1).mean() < 0.5
        low, high = (middle, high) if below else (low, middle)
    found, seen = sums(norm=first, sigma=2.0), []
    rows = images(torch.from_numpy(norms))
    for _ in range(150):
        drawn = torch.from_numpy(random.random(400) < 0.5)
        found.clear()
        found.add(rows[drawn], torch.zeros(int(drawn.sum())))
        found.release(expected_batch_size=200)
        seen.append(found.max_grad_norm)
    assert np.mean(seen[-50:]) == pytest.approx(low, rel=0.05)
    assert np.std(seen[-50:]) < 0.1 * low
    assert abs(math.log(seen[0] / first)) < 0.2  # a step's most, but for noise: 0.2 · 1/2


def test_the_noise_of_a_step_is_that_of_its_norm() -> None:
    model = nn.Linear(400, 100, bias=False)
    found = CLIPPING["bookkeeping"](
        model, loss, max_grad_norm=4.0, noise_multiplier=3.0, noise=KeyStream.from_seed(1), count_noise=1.0
    )
    for _ in range(3):
        norm = found.max_grad_norm
        found.clear()
        found.release(expected_batch_size=8)
        assert model.weight.grad is not None
        assert float(model.weight.grad.std()) == pytest.approx(3.0 * norm / 8, rel=0.02)
        assert found.max_grad_norm != norm


def test_a_count_that_is_all_noise_moves_the_norm_to_its_limit_and_no_further() -> None:
    model = nn.Linear(4, 1)
    found = CLIPPING["bookkeeping"](
        model, loss, max_grad_norm=4.0, noise_multiplier=3.0, noise=KeyStream.from_seed(1), count_noise=1e5
    )
    for _ in range(20):
        found.clear()
        found.release(expected_batch_size=1)
        assert found.max_grad_norm in (pytest.approx(4e-3), pytest.approx(4e3))


@pytest.fixture
def study(make_study: MakeStudy) -> Study:
    study = make_study(QUANTILE)
    pretrain(study)
    return study


@pytest.mark.slow
def test_a_stop_and_a_resume_give_the_same_weights_and_norms_bit_by_bit(study: Study, tmp_path: Path) -> None:
    paths = study.paths.run(study.run_id(DP))
    train(study, DP, seeded_randomness=True)
    undisturbed = paths.folder.rename(tmp_path / "undisturbed")
    for looks in (7, 9):
        assert train(study, DP, stop=StopAfter(looks), seeded_randomness=True).status == "interrupted"
    assert train(study, DP, seeded_randomness=True).step == 20
    weights = [
        torch.load(folder / "checkpoints" / paths.weights.name, weights_only=True)
        for folder in (undisturbed, paths.folder)
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert _norms(undisturbed)[20] == _norms(paths.folder)[20] != 1.5


def _norms(folder: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["max_grad_norm"] for line in lines}


@pytest.mark.slow
def test_the_statement_says_what_the_count_cost_and_the_ledger_holds_it(study: Study) -> None:
    train(study, DP)
    paths = study.paths.run(study.run_id(DP))
    found = read_json(paths.privacy)
    line = next(entry for entry in found["other_releases"] if entry["what"] == "the clipping norm of each step")
    mechanism = Mechanism(**_opened(paths.ledger))
    assert f"{mechanism.sum_noise_multiplier:.6g}" in line["accounted"]
    assert f"noise of {mechanism.count_noise:.6g}" in line["source"]
    assert found["epsilon"] == mechanism.epsilon(20) <= 8
    assert mechanism.quantile


def _opened(path: Path) -> dict[str, Any]:
    first = json.loads(path.read_text().splitlines()[0])
    return {key: value for key, value in first.items() if key not in ("event", "format", "check")}


@pytest.mark.slow
def test_two_ranks_have_one_norm_and_release_the_sums_of_one(make_study: MakeStudy, tmp_path: Path) -> None:
    study = make_study(("target_epsilons = [8.0, inf]", "target_epsilons = [8.0]"), QUANTILE)
    pretrain(study)
    folder = study.paths.run(study.run_id(DP)).folder
    (alone,) = run(study, tmp_path, size=1)
    one = folder.rename(tmp_path / "alone")
    ranks = run(study, tmp_path, size=2)
    for rank in ranks:
        for found, wanted in zip(rank["sums"], alone["sums"], strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    assert _norms(folder)[20] == pytest.approx(_norms(one)[20], rel=1e-5)


def test_what_needs_noise_that_stays_is_refused(make_study: MakeStudy) -> None:
    for change in (
        ("learning_rate = 1e-3", 'learning_rate = 1e-3\noptimizer = "adam-corrected"'),
        ("[privacy]", "[audit]\ncanaries = 4\n[privacy]"),
    ):
        with pytest.raises(StudyError, match="quantile changes the noise in each step"):
            make_study(QUANTILE, change)
