"""Networks by import path: built, judged for DP before anything is queued, trained, and their code remembered."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dpdt.errors import StudyError
from dpdt.jobs.submit import submit
from dpdt.privacy.clipping.model_requirements import unfit_parts
from dpdt.study import load_study
from dpdt.study.settings import ModelSettings
from dpdt.training.networks.build import build_model
from dpdt.training.networks.check import check_model
from dpdt.training.networks.resnet9 import ResNet9
from dpdt.training.networks.weights import load_weights

CODE = """\
from torch import nn

def small(*, num_outputs, in_channels, depth=1):
    layers = [nn.Conv2d(in_channels, 8, 3, stride=2), nn.GroupNorm(4, 8), nn.ReLU()]
    layers += [nn.Conv2d(8, 8, 3), nn.ReLU()] * (depth - 1)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_outputs))

def batch_norm(*, num_outputs, in_channels):
    return nn.Sequential(
        nn.Conv2d(in_channels, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(8, num_outputs)
    )

def text(*, num_outputs, in_channels):
    return "resnet"

def circular(*, num_outputs, in_channels):
    return nn.Sequential(
        nn.Conv2d(in_channels, 4, 3, stride=4, padding=1, padding_mode="circular"), nn.ReLU(), nn.Flatten(),
        nn.Linear(4 * 64, num_outputs),
    )

def dropout(*, num_outputs, in_channels):
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(1024, num_outputs))
"""


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A study file's folder with a module of its own name (Python keeps imported modules by name)."""
    name = f"net_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(CODE)
    (tmp_path / "study.toml").write_text(
        f'[model]\nname = "{name}:small"\n[shards]\nsize = 32\n[domains.vindr]\nroot = "."\n'
    )
    return tmp_path


def settings(folder: Path, function: str, **values: object) -> ModelSettings:
    module = next(folder.glob("net_*.py")).stem
    return ModelSettings.model_validate({"name": f"{module}:{function}", **values})


def test_the_function_beside_the_study_file_is_called_with_options(folder: Path) -> None:
    model = build_model(settings(folder, "small", options={"depth": 3}), folder=folder)
    assert len(model) == 10  # type: ignore[arg-type]  # 3 + 2 · 2 + pooling, flatten, linear
    assert model(torch.rand(2, 1, 32, 32)).shape == (2, 5)


def test_gray_is_repeated_for_a_network_of_colour_images(folder: Path) -> None:
    model = build_model(settings(folder, "small", in_channels=3), folder=folder)
    assert model[0].weight.shape[1] == 3  # type: ignore[index,union-attr]
    assert model(torch.rand(2, 1, 32, 32)).shape == (2, 5)
    assert next(iter(model.state_dict())) == "0.weight"


@pytest.mark.parametrize(
    ("function", "values", "message"),
    [
        ("nothing", {}, r"has no function 'nothing'\. It has: small, batch_norm, text"),
        ("text", {}, r"gave str, expected a torch\.nn\.Module"),
        ("small", {"options": {"deep": 2}}, r"small\(num_outputs=5, in_channels=1, deep=2\) failed: TypeError"),
    ],
)
def test_what_cannot_be_built_is_said(folder: Path, function: str, values: dict[str, object], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        build_model(settings(folder, function, **values), folder=folder)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import no_such_library", r"odd_\w+ fails at import: No module named 'no_such_library'\. Install what it"),
        ("raise SystemExit(3)", r"odd_\w+ fails at import: SystemExit: 3"),
        ("def make(:", r"odd_\w+ fails at import: SyntaxError"),
    ],
)
def test_a_module_that_is_there_and_fails_is_not_called_missing(tmp_path: Path, code: str, message: str) -> None:
    name = f"odd_{abs(hash(code))}"
    (tmp_path / f"{name}.py").write_text(code)
    with pytest.raises(StudyError, match=message):
        build_model(ModelSettings(name=f"{name}:make"), folder=tmp_path)


def test_a_missing_module_and_a_wrong_name_are_said(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"cannot import 'no_such_net'.*Expected a module beside the study file"):
        build_model(ModelSettings(name="no_such_net:make"), folder=tmp_path)
    (tmp_path / "study.toml").write_text('[model]\nname = "resnet18"')
    with pytest.raises(StudyError, match=r"toml:2: model\.name: expected one of resnet9, .*, or 'package\."):
        load_study(tmp_path)


def test_offending_layers_are_named_before_a_job_is_queued(folder: Path) -> None:
    study = load_study(folder)
    check_model(study)
    file = folder / "study.toml"
    file.write_text(file.read_text().replace(":small", ":batch_norm"))
    with pytest.raises(
        StudyError, match=r"is not fit for DP:\n  1 \(BatchNorm2d\) mixes.*GroupNorm.*\n  2 \(ReLU\)"
    ) as e:
        submit(load_study(folder), cluster="debug")
    assert "set inplace=False" in str(e.value)
    assert not (folder / "jobs").exists()
    file.write_text(file.read_text() + "[privacy]\ntarget_epsilons = [inf]\n")
    check_model(load_study(folder))  # without a DP arm a batch norm is nobody's harm


def test_a_study_is_judged_by_the_engine_that_it_names(folder: Path) -> None:
    file = folder / "study.toml"
    file.write_text(file.read_text().replace(":small", ":circular"))
    check_model(load_study(folder))
    with pytest.raises(StudyError, match=r"0\.weight.*by privacy\.clipping = 'hooks' is not that of the image alone"):
        check_model(load_study(folder, overrides=["privacy.clipping=hooks"]))


def test_images_too_small_for_the_network_are_said(folder: Path) -> None:
    # A kernel of 40 pixels needs 40; 64 is the next size that is tried.
    (folder / "large_kernel.py").write_text(
        "from torch import nn\n"
        "def make(*, num_outputs, in_channels):\n"
        "    layers = nn.Conv2d(in_channels, 4, 40), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_outputs)\n"
        "    return nn.Sequential(*layers)\n"
    )
    for arms in ("[1.0, inf]", "[inf]"):
        given = ["model.name=large_kernel:make", f"privacy.target_epsilons={arms}"]
        with pytest.raises(
            StudyError, match=r"shards\.size: images of 32 × 32 .* too small for .*takes 64 × 64\. Make"
        ):
            check_model(load_study(folder, overrides=given))
        check_model(load_study(folder, overrides=[*given, "shards.size=40"]))


def test_dropout_is_for_studies_without_a_dp_arm(folder: Path) -> None:
    file = folder / "study.toml"
    file.write_text(file.read_text().replace(":small", ":dropout"))
    with pytest.raises(StudyError, match=r"not fit for DP:\n  forward draws random numbers in 1 \(Dropout\): torch:"):
        check_model(load_study(folder))
    check_model(load_study(folder, overrides=["privacy.target_epsilons=[inf]"]))


class _Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer((x - x.mean()).flatten(1))  # type: ignore[no-any-return]


class _Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(5))
        self.layer = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1)) * self.scale  # type: ignore[no-any-return]


class _Keeps(nn.Module):
    """Remembers the first image it saw: a part without parameters, so no rule for layers looks at its buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("memory", torch.zeros(1, 4, 4))
        self.layer = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        self.memory = x[0].detach().clone()
        return self.layer(x.flatten(1))  # type: ignore[no-any-return]


class _Before(nn.Module):
    """An image's output depends on the one before it in the batch: the first image's depends on none."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.cumsum(0).flatten(1))  # type: ignore[no-any-return]


def _running() -> nn.Module:
    return nn.Sequential(nn.InstanceNorm2d(1, track_running_stats=True), nn.Flatten(), nn.Linear(16, 5))


def _unused() -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 5))
    model.register_parameter("spare", nn.Parameter(torch.ones(1)))
    return model


class _Pair(nn.Module):
    """Gives its features too, as segmentation networks of torchvision give a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer(x.flatten(1)), x


class _Ends(nn.Module):
    """A linear layer, and what a function makes of its logits."""

    def __init__(self, last: Callable[[Tensor], Tensor], *, outputs: int = 5) -> None:
        super().__init__()
        self.layer, self.last = nn.Linear(16, outputs), last

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layer(x.flatten(1)))


def _not_set() -> nn.Module:
    layer = nn.Linear(16, 5)
    nn.init.constant_(layer.weight, torch.nan)
    return nn.Sequential(nn.Flatten(), layer)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (_Mixed, "depends on the other images"),
        (_Before, "depends on the other images"),
        (_Keeps, "forward changes memory"),
        (_running, "forward changes 0.running_mean, 0.running_var"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(9, 5)), "forward fails on float32 (9, 1, 4, 4)"),
        (lambda: nn.Flatten(0), "forward gives shape (144,) for 9 images"),
        (_unused, "get no gradient: spare"),
        (_Pair, "forward gives tuple; expected one tensor"),
        (_not_set, "not finite"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.Sigmoid()), "2 (Sigmoid) gives the outputs"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.Softmax(1)), "2 (Softmax) gives the outputs"),
        (lambda: _Ends(torch.sigmoid), "forward gives no number below 0, whatever its parameters are; expected logits"),
        (lambda: _Ends(lambda x: x.softmax(1)), "forward gives no number below 0"),
        (lambda: _Ends(nn.functional.logsigmoid, outputs=1), "forward gives no number above 0"),
        (lambda: nn.Sequential(nn.InstanceNorm2d(1, affine=True, track_running_stats=True)), "InstanceNorm2d"),
    ],
)
def test_what_no_list_of_layers_shows_is_found_by_trying(make: Callable[[], nn.Module], problem: str) -> None:
    assert problem in " ".join(unfit_parts(make(), size=4))


def test_a_sigmoid_inside_of_a_network_is_no_harm() -> None:
    assert unfit_parts(nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Sigmoid(), nn.Linear(8, 5)), size=4) == []


@pytest.mark.parametrize("outputs", [1, 5])
@pytest.mark.parametrize("bias", [0.0, -9.0])
def test_logits_that_begin_on_one_side_of_0_are_logits(bias: float, outputs: int) -> None:
    model = _Ends(lambda x: x, outputs=outputs)
    nn.init.zeros_(model.layer.weight)
    nn.init.constant_(model.layer.bias, bias)
    assert unfit_parts(model, size=4) == []


def test_gradients_that_are_not_an_images_own_are_found_or_right() -> None:
    # The parameter lies on the module itself; if Opacus handles that, its gradient must be the image's own.
    assert all("scale" in line or "Opacus" in line for line in unfit_parts(_Twice(), size=4))


def test_an_attribute_that_a_network_calls_inplace_says_nothing() -> None:
    model = _Ends(lambda x: x)
    model.inplace = True  # type: ignore[assignment]
    assert unfit_parts(model, size=4) == []


def test_the_papers_network_is_fit() -> None:
    assert unfit_parts(ResNet9(width=8), size=32) == []


def test_weights_of_a_file_fit_another_network_but_for_its_last_layer(folder: Path) -> None:
    published = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.GroupNorm(4, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 1000),
    )  # fmt: skip
    torch.save(published.state_dict(), folder / "w.pt")
    model = build_model(settings(folder, "small"), folder=folder)
    assert not load_weights(model, folder / "w.pt", new_head=True)
    wanted = published.state_dict()["0.weight"].sum(1, keepdim=True)  # gray instead of three equal channels
    assert torch.equal(model.state_dict()["0.weight"], wanted)
    with pytest.raises(StudyError, match=r"5\.weight has shape \(1000, 8\), the model's is \(5, 8\); its labels"):
        load_weights(model, folder / "w.pt")
