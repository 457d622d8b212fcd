"""Which parameters are trained: choices, stages, what is refused; the others stay as they are and cost nothing."""

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dpdt.base.files import read_json
from dpdt.errors import PrivacyError, StudyError
from dpdt.privacy.clipping.engines import CLIPPING
from dpdt.privacy.clipping.model_requirements import unfit_parts
from dpdt.privacy.keystream import KeyStream
from dpdt.study import Cell, load_study
from dpdt.training.networks.check import check_model
from dpdt.training.networks.resnet9 import ResNet9
from dpdt.training.networks.trained import choose_trained, stages_of
from dpdt.training.train import pretrain, train
from tests.single_images import clipped_sum, flat, gradients
from tests.small_data import MakeStudy, StopAfter, statement

DP = Cell("uka", 8.0, 0)
PLAIN = Cell("uka", math.inf, 0)
STAGE = ("learning_rate = 1e-3\nnum_threads", 'learning_rate = 1e-3\nparameters = "last 1 stage"\nnum_threads')


def children(**modules: nn.Module) -> nn.Module:
    """A network of these children; nobody calls it."""
    found = nn.Module()
    for name, module in modules.items():
        found.add_module(name, module)
    return found


def linear(numbers: int = 4) -> nn.Linear:
    return nn.Linear(numbers, numbers)


def convnext() -> nn.Module:
    """timm's names: a stem with its norm, four stages in one child, a head of a norm and a layer."""
    stem = nn.Sequential(nn.Conv2d(3, 4, 4), nn.LayerNorm(4))
    stages = nn.Sequential(*(nn.Sequential(linear(), nn.LayerNorm(4)) for _ in range(4)))
    return children(stem=stem, stages=stages, norm_pre=nn.Identity(), head=children(norm=nn.LayerNorm(4), fc=linear()))


def vit() -> nn.Module:
    """timm's names: tokens and positions of its own, a patch embedding, blocks, a norm, the head."""
    patches = children(proj=nn.Conv2d(3, 4, 4))
    model = children(patch_embed=patches, blocks=nn.Sequential(linear(), linear()), norm=nn.LayerNorm(4), head=linear())
    model.cls_token = nn.Parameter(torch.zeros(1, 1, 4))
    model.pos_embed = nn.Parameter(torch.zeros(1, 5, 4))
    return model


def densenet() -> nn.Module:
    """Everything but the classifier is in one child."""
    features = children(
        conv0=nn.Conv2d(1, 4, 3),
        norm0=nn.GroupNorm(1, 4),
        denseblock1=nn.Sequential(nn.Conv2d(4, 4, 3)),
        transition1=nn.Sequential(nn.GroupNorm(1, 4), nn.Conv2d(4, 4, 1)),
        norm5=nn.GroupNorm(1, 4),
    )
    return children(features=features, classifier=linear())


# By hand from the rule: the first names of each stage's parameters' modules.
STAGES = [
    (ResNet9(width=8), [["conv1", "bn1"], ["layer1"], ["layer2"], ["layer3"], ["layer4"]]),
    (convnext(), [["stem"], ["stages.0"], ["stages.1"], ["stages.2"], ["stages.3", "head.norm"]]),
    (vit(), [["cls_token", "pos_embed", "patch_embed"], ["blocks.0"], ["blocks.1", "norm"]]),
    (children(network=vit()), [["network.cls_token", "network.pos_embed", "network.patch_embed"], ["network.blocks.0"],
                               ["network.blocks.1", "network.norm"]]),
    (densenet(), [["features.conv0", "features.norm0"], ["features.denseblock1"],
                  ["features.transition1", "features.norm5"]]),
    (nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(1, 4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), linear()),
     [["0", "1"], ["3"]]),
]  # fmt: skip


@pytest.mark.parametrize(("model", "stages"), STAGES, ids=["resnet9", "convnext", "vit", "wrapped", "densenet", "own"])
def test_stages_are_what_the_rule_says(model: nn.Module, stages: list[list[str]]) -> None:
    found = stages_of(model)
    assert len(found) == len(stages)
    for names, prefixes in zip(found, stages, strict=True):
        assert all(any(name == p or name.startswith(f"{p}.") for p in prefixes) for name in names)
        assert all(any(name == p or name.startswith(f"{p}.") for name in names) for p in prefixes)


def trained(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


HEAD = {"fc.weight", "fc.bias"}


@pytest.mark.parametrize(
    ("choice", "modules"),
    [
        ("head", ["fc"]),
        ("norms+head", ["bn", "downsample.1", "fc"]),
        ("last 1 stage", ["layer4", "fc"]),
        ("last 2 stages", ["layer3", "layer4", "fc"]),
        (["fc.*", "layer1.0.conv2.weight"], ["layer1.0.conv2", "fc"]),
        ("all", [""]),
    ],
)
def test_a_choice_trains_these_modules_parameters(choice: str | list[str], modules: list[str]) -> None:
    model = ResNet9(width=8)
    choose_trained(model, choice)
    assert trained(model) == {name for name, _ in model.named_parameters() if any(part in name for part in modules)}


def test_a_parameter_that_the_network_froze_stays_frozen_and_one_of_two_names_is_trained_by_either() -> None:
    model = nn.Sequential(linear(), linear(), linear())
    model[1].weight = model[0].weight
    model[2].bias.requires_grad_(False)
    choose_trained(model, ["1.weight", "2.*"])
    assert trained(model) == {"0.weight", "2.weight"}


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (["fc.*", "layer9.*"], r"'layer9\.\*' matches no parameter of the network\. Expected .* such as layer\d"),
        ("last 6 stages", r"the network has 5 stages \(1: conv1\.weight …; 2: layer1.*5: layer4"),
    ],
)
def test_what_is_not_there_is_refused(choice: str | list[str], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        choose_trained(ResNet9(width=8), choice)


def test_nothing_to_train_and_no_head_are_refused() -> None:
    frozen = nn.Sequential(linear(), linear())
    frozen[1].requires_grad_(False)
    with pytest.raises(StudyError, match=r"'head' leaves nothing to train: the network froze these"):
        choose_trained(frozen, "head")
    with pytest.raises(StudyError, match=r"'head' needs a head, and the network has no linear layer.*: 0\.weight"):
        choose_trained(nn.Sequential(nn.Conv2d(1, 1, 1)), "head")


@pytest.mark.parametrize("value", ['"heads"', '"last stage"', '"last 0 stages"', "[]", "3"])
def test_another_value_is_refused_with_the_choices(tmp_path: Path, value: str) -> None:
    (tmp_path / "study.toml").write_text(f'[domains.uka]\nroot = "."\n[train]\nparameters = {value}\n')
    with pytest.raises(StudyError, match=r"toml:4: train\.parameters: expected 'all', 'head', 'norms\+head', 'last 2"):
        load_study(tmp_path)


def test_all_enters_no_name_of_a_run_and_another_choice_does(make_study: MakeStudy) -> None:
    names = {make_study(("[privacy]", f"{line}[privacy]")).run_id(DP) for line in ("", 'parameters = "all"\n')}
    assert len(names) == 1
    study = make_study(STAGE)
    assert study.run_id(DP) not in names
    assert study.pretrain_run_id == make_study().pretrain_run_id  # it trains all


def with_batch_norms() -> nn.Sequential:
    norms = [nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False)]
    return nn.Sequential(nn.Conv2d(1, 4, 3), *norms, nn.Dropout(0.5), nn.Flatten(), nn.Linear(4 * 36, 3))


def test_frozen_parts_are_in_evaluation_mode_and_their_batch_norms_learn_nothing() -> None:
    model = with_batch_norms()
    choose_trained(model, "head")
    before = {name: value.clone() for name, value in model.named_buffers()}
    images = torch.rand(5, 1, 8, 8)
    assert torch.equal(model(images), model(images))
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
    assert not unfit_parts(model, size=8)  # an image's output is its own, so it may be trained with DP
    model = with_batch_norms()
    choose_trained(model, ["1.*", "5.*"])
    assert any("mixes the images" in line for line in unfit_parts(model, size=8))
    with pytest.raises(PrivacyError, match=r"BatchNorm2d, which mixes the images"):
        sums(model, "bookkeeping")


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs * targets).sum(1).square()


def sums(model: nn.Module, clipping: str, norm: float = 0.7, noise: float = 0.0) -> object:
    key = KeyStream.from_seed("trained")
    return CLIPPING[clipping](model, loss, max_grad_norm=norm, noise_multiplier=noise, noise=key)


@pytest.mark.parametrize("choice", ["head", "norms+head", "last 2 stages", ["layer1.0.bn1.bias", "layer3.0.conv1.*"]])
@pytest.mark.parametrize("clipping", sorted(CLIPPING))
def test_the_bound_is_over_the_trained_parameters_alone(clipping: str, choice: str | list[str]) -> None:
    torch.manual_seed(3)
    model = ResNet9(width=8)
    choose_trained(model, choice)
    images, targets = torch.rand(6, 1, 32, 32), torch.randn(6, 5)
    rows = gradients(model, images, targets, loss=loss)  # torch's own, of one image after the other
    norm = float(rows.norm(dim=1).median())
    engine = sums(copy.deepcopy(model), clipping, norm)
    engine.add(images, targets)  # type: ignore[attr-defined]
    expected = clipped_sum(rows, norm=norm)
    # Opacus' ghost norms have a margin of 1e-4
    torch.testing.assert_close(flat(engine.partial_sums()), expected, rtol=3e-4, atol=3e-5 * norm)  # type: ignore[attr-defined]


def test_no_noise_is_drawn_for_frozen_parameters() -> None:
    model = ResNet9(width=8)
    choose_trained(model, "head")
    engine = sums(model, "bookkeeping", noise=1.0)
    engine.release(expected_batch_size=1)  # type: ignore[attr-defined]
    assert {name for name, p in model.named_parameters() if p.grad is not None} == HEAD
    numbers = sum(p.numel() for name, p in model.named_parameters() if name in HEAD)
    alone, other = torch.zeros(numbers), KeyStream.from_seed("trained")  # a number a trained parameter, in order
    weight, bias = alone[:-5].view(5, -1), alone[-5:]
    other.noise(weight, scale=0.7, divisor=1)
    other.noise(bias, scale=0.7, divisor=1)
    assert torch.equal(model.fc.weight.grad, weight)  # type: ignore[arg-type]
    assert torch.equal(model.fc.bias.grad, bias)  # type: ignore[arg-type]


def test_random_weights_are_not_frozen(make_study: MakeStudy) -> None:
    study = make_study(STAGE, ('[domains.mimic]\nroot = "raw/mimic"\n', ""))
    with pytest.raises(StudyError, match=r"train\.parameters = 'last 1 stage' keeps the others.*random weights"):
        check_model(study)
    with pytest.raises(StudyError, match=r"Set model\.init_weights, or add a domain with role = 'public'"):
        train(study, DP)


def test_a_new_last_layer_is_not_frozen(make_study: MakeStudy) -> None:
    given = ("width = 8", 'width = 8\ninit_weights = "given.pt"')
    study = make_study(given, (STAGE[0], STAGE[1].replace('"last 1 stage"', '["layer4.*"]')))
    state = ResNet9(width=8, num_outputs=2).state_dict()
    torch.save(state, study.file.parent / "given.pt")
    with pytest.raises(StudyError, match=r"\('layer4\.\*',\) leaves out the last layer, and file given\.pt has none"):
        train(study, DP)


@pytest.mark.slow
@pytest.mark.parametrize("cell", [DP, PLAIN], ids=["dp", "plain"])
def test_a_training_leaves_frozen_weights_to_the_bit_and_goes_on_where_it_stopped(
    make_study: MakeStudy, cell: Cell
) -> None:
    study = make_study(STAGE)
    pretrain(study)
    train(study, cell, seeded_randomness=True)
    paths = study.paths.run(study.run_id(cell))
    before = torch.load(study.paths.run(str(study.pretrain_run_id)).weights, weights_only=True)
    after = torch.load(paths.weights, weights_only=True)
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == {name for name in after if name.startswith(("layer4", "fc"))}
    shapes = {name: value.numel() for name, value in after.items()}
    count = {"parameters": sum(shapes[name] for name in changed), "of": sum(shapes.values())}
    assert read_json(paths.config)["trained"] == count
    if cell.private:
        told = statement(paths)
        assert told["trained"] == count
        assert f"{count['parameters']:,} of the network's {count['of']:,} parameters were trained" in told["paragraph"]
    paths.folder.rename(paths.folder.with_name("undisturbed"))
    summary = train(study, cell, seeded_randomness=True, stop=StopAfter(9))
    assert summary.status == "interrupted"
    train(study, cell, seeded_randomness=True)
    again = torch.load(paths.weights, weights_only=True)
    assert all(torch.equal(again[name], after[name]) for name in after)
