"""A head in closed form: sensitivity, solution, one line of the ledger, and whole trainings."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dpdt.training.closed_form
from dpdt.base.files import read_json
from dpdt.errors import StudyError
from dpdt.privacy.gaussian import gaussian_epsilon
from dpdt.privacy.keystream import KeyStream
from dpdt.privacy.rounding import allowance_of
from dpdt.runs.state import run_done
from dpdt.shards.dataset import load_split
from dpdt.study import Cell, Study
from dpdt.training.batches import image_losses
from dpdt.training.closed_form import GRAM, LEAST_PENALTY, SLOPE, MomentSum
from dpdt.training.networks.build import as_input, build_model
from dpdt.training.networks.weights import load_weights
from dpdt.training.train import pretrain, train
from tests.small_data import MakeStudy, StopAfter
from tests.test_ranks import run

DP = Cell("uka", 8.0, 0)
PLAIN = Cell("uka", math.inf, 0)
CLOSED = (
    "learning_rate = 1e-3\nnum_threads",
    'learning_rate = 1e-3\nparameters = "head"\noptimizer = "closed-form"\nnum_threads',
)
WIDTH, OUTPUTS = 6, 5


def moments(*, noise: float = 0.0, scale: float = 2.0, bias: bool = True, seed: object = 0) -> MomentSum:
    torch.manual_seed(0)
    head = nn.Linear(WIDTH, OUTPUTS, bias=bias)
    stream = KeyStream.from_seed(seed)
    return MomentSum(head, image_losses, scale=scale, noise_multiplier=noise, noise=stream)


def hospital(images: int = 60) -> tuple[Tensor, Tensor, Tensor]:
    """Features of very different lengths, labels of which a fifth is unknown, one to three images a patient."""
    random = np.random.default_rng(0)
    rows = random.normal(size=(images, WIDTH)) * 10 ** random.uniform(-3, 3, size=(images, 1))
    labels = random.choice([0.0, 1.0, np.nan], size=(images, OUTPUTS), p=[0.4, 0.4, 0.2])
    labels[0], labels[1] = np.nan, 1.0
    units = np.sort(np.arange(images) % (images // 2))
    return torch.from_numpy(rows).float(), torch.from_numpy(labels).float(), torch.from_numpy(units)


def movements(sums: MomentSum) -> list[float]:
    """How far each unit of the hospital moves both sums together, by leaving it out."""
    rows, labels, units = hospital()
    rows[2], rows[3] = math.nan, math.inf

    def of(kept: Tensor) -> Tensor:
        sums.clear()
        sums.add(rows[kept], labels[kept], units=units[kept])
        return torch.cat([total.flatten() for total in sums.partial_sums()])

    whole = of(units >= 0)
    assert bool(whole.isfinite().all())
    return [float((whole - of(units != unit)).norm()) for unit in units.unique()]


@pytest.mark.parametrize("scale", [1e-4, 2.0, 1e4])
def test_no_unit_moves_the_moments_by_more_than_one(scale: float) -> None:
    found = movements(moments(scale=scale))
    assert max(found) <= 1 + 1e-9
    assert max(found) > 0.3, "the bound is not far from what is there"


def test_the_bound_is_reached() -> None:
    # An image without features and with all labels: z = e_c, |s|² = L, so G + (1 - G) = 1.
    sums = moments()
    sums.add(torch.zeros(1, WIDTH), torch.ones(1, OUTPUTS))
    assert torch.cat([total.flatten() for total in sums.sums]).norm().item() == pytest.approx(1, abs=1e-12)


def test_a_planted_fault_is_caught_by_the_same_movements(monkeypatch: pytest.MonkeyPatch) -> None:
    def each_in_full(inputs: Tensor, _: Tensor | None) -> Tensor:
        return torch.ones(len(inputs), dtype=torch.float64)

    monkeypatch.setattr(dpdt.training.closed_form, "unit_weights", each_in_full)  # a patient counts once an image
    assert max(movements(moments(scale=1e4))) > 1.5


@pytest.mark.parametrize("bias", [True, False])
def test_without_noise_it_is_weighted_ridge_regression(bias: bool) -> None:
    # scikit-learn's Ridge of -1, 0, 1 less what the first head predicts, weighted with 1 / |(x, c)|².
    from sklearn.linear_model import Ridge

    rows, labels, _ = hospital()
    sums, scale = moments(bias=bias), 2.0
    sums.add(rows, labels)
    sums.release(expected_batch_size=60)
    design = np.concatenate((rows.double().numpy(), np.full((60, 1), scale)), axis=1)
    weights = 1 / np.square(design).sum(axis=1)
    targets = (2 * labels.double().numpy() - 1) * scale
    targets[np.isnan(targets)] = 0
    design = design if bias else design[:, :-1]
    head = sums.model
    assert isinstance(head, nn.Linear)
    first = head.weight.detach().double().numpy()
    if bias:
        first = np.concatenate((first, head.bias.detach().double().numpy()[:, None] / scale), axis=1)
    first *= scale / SLOPE
    ridge = Ridge(alpha=LEAST_PENALTY * 60, fit_intercept=False, solver="cholesky")
    expected = first + ridge.fit(design, targets - design @ first.T, sample_weight=weights).coef_
    expected *= SLOPE / scale
    assert head.weight.grad is not None
    np.testing.assert_allclose((head.weight - head.weight.grad).detach(), expected[:, :WIDTH], rtol=1e-4, atol=1e-6)
    if bias:
        assert head.bias.grad is not None
        np.testing.assert_allclose((head.bias - head.bias.grad).detach(), expected[:, -1] * scale, rtol=1e-4, atol=1e-6)


def test_without_images_the_head_stays_and_noise_alone_gives_finite_weights() -> None:
    sums = moments(noise=1e6)
    sums.release(expected_batch_size=1)
    silent = moments()
    silent.release(expected_batch_size=1)
    for parameter in silent.parameters:  # no image: the first head is the solution
        assert parameter.grad is not None
        assert float(parameter.grad.abs().max()) < 1e-6
    assert all(parameter.grad is not None and bool(parameter.grad.isfinite().all()) for parameter in sums.parameters)


def test_the_noise_has_the_promised_deviation_in_every_entry() -> None:
    found = []
    for seed in range(200):
        sums = moments(noise=3.0, seed=seed)
        sums.release(expected_batch_size=1)
        found.append(torch.cat([total.flatten() for total in sums.sums]))
    entries = torch.stack(found)
    assert float(entries.std()) == pytest.approx(3.0, rel=0.02)
    assert float(entries.std(dim=0).min()) > 2.4
    assert float(np.abs(np.corrcoef(entries[:, 0], entries[:, -1])[0, 1])) < 0.25


def test_the_allowance_covers_what_rounding_moves(make_study: MakeStudy) -> None:
    study, random = make_study(CLOSED), torch.Generator().manual_seed(0)
    rows = torch.randn(20_000, WIDTH, generator=random)
    sums, exact = moments(), np.zeros((WIDTH + 1, WIDTH + 1), dtype=np.longdouble)
    sums.add(rows, torch.full((len(rows), OUTPUTS), math.nan))
    design = np.concatenate((rows.double().numpy(), np.full((len(rows), 1), 2.0)), axis=1).astype(np.longdouble)
    design /= np.sqrt(np.square(design).sum(axis=1, keepdims=True))
    exact = math.sqrt(GRAM) * design.T @ design
    assert np.linalg.norm((sums.sums[0].numpy() - exact).astype(float)) < allowance_of(study, num_units=len(rows)) / 2
    assert allowance_of(study, num_units=100_000) < 1e-5


@pytest.fixture
def study(make_study: MakeStudy) -> Study:
    study = make_study(CLOSED)
    pretrain(study)
    return study


def test_a_training_is_one_release_of_the_gaussian_mechanism(study: Study) -> None:
    summary = train(study, DP)
    paths = study.paths.run(study.run_id(DP))
    assert (summary.status, summary.num_steps) == ("finished", 1)
    _, *lines = paths.ledger.read_text().splitlines()
    assert len(lines) == 1
    assert '"reserve", "steps": 1' in lines[0]
    found = read_json(paths.privacy)
    assert found["mechanism"].startswith("Gaussian mechanism, once")
    assert (found["sample_rate"], found["num_steps"], found["max_grad_norm"]) == (1.0, 1, 1.0)
    assert found["accountant"] == "exact"
    # Balle & Wang 2018, theorem 8, of the noise over the sensitivity.
    assert found["epsilon"] == pytest.approx(gaussian_epsilon(1 / found["accounted_noise_multiplier"], delta=1e-3))
    assert 0.99 * 8 < found["epsilon"] <= 8
    # under the head of before, which is known, the mean loss of all units is an exact sum over them
    assert json.loads(paths.metrics_log.read_text())["loss"] is None
    assert not any("training loss" in entry["what"] for entry in found["other_releases"])


def test_the_head_alone_is_new_and_a_finished_training_is_left_alone(study: Study) -> None:
    assert train(study, DP, stop=StopAfter(0)).status == "interrupted"
    assert train(study, DP, seeded_randomness=False).status == "finished"
    before = torch.load(study.paths.run(str(study.pretrain_run_id)).weights, weights_only=True)
    after = torch.load(study.paths.run(study.run_id(DP)).weights, weights_only=True)
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"fc.weight", "fc.bias"}
    train(study, DP)
    again = torch.load(study.paths.run(study.run_id(DP)).weights, weights_only=True)
    assert all(torch.equal(after[name], again[name]) for name in after)


@pytest.mark.slow
def test_two_ranks_find_the_head_of_one(make_study: MakeStudy, tmp_path: Path) -> None:
    study = make_study(CLOSED, ("delta = 1e-3", "delta = 1e-3\nimages_per_patient = 3"), ("[8.0, inf]", "[8.0]"))
    pretrain(study)
    paths, heads = study.paths.run(study.run_id(DP)), []
    for size in (1, 2):
        run(study, tmp_path, size=size)
        heads.append(torch.load(paths.weights, weights_only=True)["fc.weight"])
        paths.folder.rename(tmp_path / f"of {size}")
    torch.testing.assert_close(heads[0], heads[1], rtol=1e-4, atol=1e-5)


def test_without_dp_it_fits_the_patients_better_than_the_model_before(study: Study) -> None:
    from sklearn.metrics import roc_auc_score

    train(study, PLAIN)
    assert run_done(study, study.run_id(PLAIN))
    data = load_split(study, "uka", "train")

    def fitted(run_id: str) -> float:
        model = build_model(study.model)
        load_weights(model, study.paths.run(run_id).weights)
        with torch.no_grad():
            logits = model.eval()(as_input(data.images(np.arange(len(data))))).numpy()
        known = ~np.isnan(data.labels)
        aucs = [roc_auc_score(data.labels[k, n], logits[k, n]) for n, k in enumerate(known.T)]
        return float(np.mean(aucs))

    assert fitted(study.run_id(PLAIN)) > fitted(str(study.pretrain_run_id)) + 0.1


@pytest.mark.parametrize(
    "changes",
    [
        [('parameters = "head"\n', "")],
        [('optimizer = "closed-form"', 'optimizer = "closed-form"\nviews = 2')],
        [('optimizer = "closed-form"', 'optimizer = "closed-form"\nclass_weights = "private"')],
        [("[privacy]", "[audit]\ncanaries = 4\n[privacy]")],
        [("[privacy]", '[privacy]\nclip_factor = "quantile"')],
        [("[privacy]", '[privacy]\nclip_scope = "layers"')],
        [('optimizer = "closed-form"', 'optimizer = "closed-form"\naveraging = "ema"')],
        [('optimizer = "closed-form"', 'optimizer = "closed-form"\nschedule = "cosine"')],
        [('optimizer = "closed-form"', 'optimizer = "closed-form"\nwarm_up = 0.1')],
    ],
)
def test_what_it_cannot_do_is_refused(make_study: MakeStudy, changes: list[tuple[str, str]]) -> None:
    with pytest.raises(StudyError, match=r"closed-form takes no steps and needs (train|privacy|audit)\."):
        make_study(CLOSED, *changes)
