"""A narrow ConvNeXt and a narrow ViT on made-up hospitals, the whole way: with DP, audited, tested, sent to others."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from dpdt.api import Trained
from dpdt.base.files import read_json
from dpdt.bundle.export import export_run
from dpdt.bundle.manifest import Network
from dpdt.bundle.model import checked_scorer, parse_bundle
from dpdt.evaluation.evaluate import evaluate_run
from dpdt.jobs.plan.estimate import look_ahead
from dpdt.runs.read import read_run
from dpdt.shards.dataset import load_split
from dpdt.study import Cell, Study, load_study
from dpdt.study.networks import NETWORKS
from dpdt.training.networks.build import as_input
from dpdt.training.networks.stochastic_depth import DepthDraws, StochasticDepth
from dpdt.training.train import pretrain, train, train_with_canaries
from tests import small_data
from tests.small_data import STUDY, StopAfter, write_domain

DP, PLAIN = Cell("uka", 8.0, 0), Cell("uka", math.inf, 0)


def study_of(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.setattr(small_data, "SIZE", 32)
    model = f'name = "{name}"\nwidth = 16\noptions = {{ drop_path_rate = 0.3 }}'
    folder.mkdir(exist_ok=True)
    text = (
        STUDY.replace("width = 8", model).replace("size = 16", "size = 32").replace("num_epochs = 5", "num_epochs = 2")
    )
    (folder / "study.toml").write_text(text + "[audit]\ncanaries = 4\n")
    study = load_study(folder)
    for domain in study.domains:
        write_domain(study, domain, patients=40)
    return study


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convnext_tiny", "vit_small"])
def test_from_the_pretraining_to_another_hospital(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = study_of(tmp_path, name, monkeypatch)
    pretrain(study)
    for cell in (DP, PLAIN):
        assert train(study, cell).status == "finished"
    assert train_with_canaries(study, DP).status == "finished"
    paths = study.paths.run(study.run_id(DP))
    config = read_json(paths.config)
    assert config["settings"]["model"]["name"] == name
    assert set(config["clipping_ways"].values()) <= {
        "gram",
        "rows",
        "loop",
        "grouped",
        "patches",
        "pointwise",
        "spread",
    }
    assert "timm" in config["versions"]
    assert read_json(paths.privacy)["epsilon"] <= 8.0
    evaluate_run(study, study.run_id(DP))
    run = read_run(study, study.run_id(DP))
    assert run is not None
    bundle = parse_bundle(export_run(study, run, licence="CC BY-NC 4.0", intended_use="tests"), "bundle")
    assert bundle.manifest.network == Network(name=name, width=16, in_channels=3)
    assert look_ahead(study).num_parameters == {"": sum(value.size for value in bundle.weights.values())}
    pixels = load_split(study, "uka", "test").images(np.arange(5))
    with torch.inference_mode():
        at_home = torch.sigmoid(Trained(study, DP, 8.0).model()(as_input(pixels))).numpy()
    np.testing.assert_allclose(checked_scorer(bundle, "bundle", device="cpu")(pixels), at_home, atol=1e-6)


@pytest.mark.slow
def test_a_training_with_stochastic_depth_goes_on_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = []
    for folder, looks in (("once", 10**9), ("stopped", 7)):
        study = study_of(tmp_path / folder, "convnext_tiny", monkeypatch)
        pretrain(study)
        train(study, DP, stop=StopAfter(looks), seeded_randomness=True)
        assert train(study, DP, seeded_randomness=True).status == "finished"
        weights.append(torch.load(study.paths.run(study.run_id(DP)).weights, weights_only=True))
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_draws_of_stochastic_depth_are_an_images_own() -> None:
    model = torch.nn.Sequential(StochasticDepth(0.25), StochasticDepth(0.5)).train()
    ids = [f"image-{number}" for number in range(4000)]
    draws = DepthDraws(model, ids, seed="0/run")
    x, cpu = torch.ones(4000, 2, 3), torch.device("cpu")
    assert torch.equal(model(x), x)  # in no batch of a training
    draws.begin(np.arange(4000), step=3, device=cpu)
    everyone = [model[0](x), model[1](x)]
    for rate, found in zip((0.25, 0.5), everyone, strict=True):
        kept = found[:, 0, 0] > 0
        # a binomial share of 4,000 is off by more than five deviations with probability below 1e-6
        assert abs(float(kept.float().mean()) - (1 - rate)) < 5 * math.sqrt(rate * (1 - rate) / 4000)
        torch.testing.assert_close(found[kept], torch.full_like(found[kept], 1 / (1 - rate)))
    part = np.array([17, 3999, 5])
    draws.begin(part, step=3, device=cpu)
    assert torch.equal(model[0](x[:3]), everyone[0][part])
    assert torch.equal(model[0](x[:5])[3:], x[:2])  # images that fill a batch up
    fewer = DepthDraws(model, ids[10:], seed="0/run")  # ten patients less: the others' draws stay
    fewer.begin(part[:2] - 10, step=3, device=cpu)
    assert torch.equal(model[1](x[:2]), everyone[1][part[:2]])
    draws.begin(np.arange(4000), step=4, device=cpu)
    assert 0.4 < float((model[1](x) == everyone[1]).float().mean()) < 0.6  # another step, other draws
    assert torch.equal(model.eval()(x), x)
    draws.end()
    assert model[0].scales is None


def test_a_bundle_of_a_large_network_must_fit_into_memory() -> None:
    network = Network(name="vit_base", width=768, in_channels=3)
    assert network.activations(518) < 1 << 20
    assert Network(name="resnet9", width=64, in_channels=1).activations(1024) == 1 << 26
    assert set(NETWORKS) < set(Network.model_fields["name"].annotation.__args__)  # type: ignore[union-attr]
