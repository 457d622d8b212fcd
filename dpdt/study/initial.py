"""The starts of a study's trainings: `[initial.<name>]`, each a network with its weights before the first step."""

from collections.abc import Iterable
from typing import Annotated, Any, Final

from pydantic import Field, ValidationError

from dpdt.study.arms import BEFORE
from dpdt.study.section import About, Folder, Integer, Section, Truth
from dpdt.study.settings import ModelSettings

__all__ = ["InitialSettings", "check_starts", "model_of"]

OF_MODEL: Final = {"network": "name", "width": "width", "in_channels": "in_channels", "options": "options"}
"""Keys of a start, and what they are called in `[model]`."""


class InitialSettings(Section):
    """`[initial.<name>]`: a start of trainings: what it has otherwise than `[model]`, and its weights."""

    network: Annotated[str | None, About("Compare networks.", example='"resnet9"')] = Field(
        default=None,
        description="As `name` of `[model]`, and its default; with another network nothing else of `[model]` is taken.",
    )
    width: Annotated[Integer | None, About("Compare sizes of one network.", unit="channels", example="32")] = Field(
        default=None, ge=8, multiple_of=8, description="As in `[model]`, and its default."
    )
    in_channels: Annotated[int | None, About("Some weights are for colour images.", example="3")] = Field(
        default=None, description="As in `[model]`, and its default."
    )
    options: Annotated[dict[str, Any] | None, About("As in `[model]`.", example="{ depth = 18 }")] = Field(
        default=None, description="As in `[model]`, and its default."
    )
    weights: Annotated[
        Folder | None, About("Start from published weights.", example='"weights/imagenet.safetensors"')
    ] = Field(default=None, description="State dict to start from, relative to the study file; default: random.")
    pretrain: Annotated[Truth, About("Begin with a training on the public domain.")] = Field(
        default=False, description="Whether these weights are trained on the public domain, without DP, before all."
    )
    trained_on: Annotated[
        tuple[str, ...], About("Say it, so that statements do.", example='["imagenet"]', decides="other")
    ] = Field(
        default=(),
        description="Data that the given weights were trained on, as far as you know; a domain of the study among them "
        "is refused in DP arms.",
    )
    licence: Annotated[
        str | None, About("Say it, so that model cards do.", example='"Apache-2.0"', decides="other")
    ] = Field(default=None, min_length=1, max_length=200, description="Of the given weights.")

    @property
    def note(self) -> str:
        """What the study file says about the given weights; "" where it says nothing."""
        said = [f"trained on {', '.join(self.trained_on)}"] if self.trained_on else []
        said += [f"licence {self.licence}"] if self.licence else []
        return f"{'; '.join(said)}, as the study file says" if said else ""


def model_of(model: ModelSettings, initial: InitialSettings) -> ModelSettings:
    """The network of a start, with the file of its weights.

    Raises:
        ValidationError: Its keys and those of `[model]` do not go together.
    """
    given = {of_model: getattr(initial, name) for name, of_model in OF_MODEL.items()}
    inherited = model.model_dump() if initial.network in (None, model.name) else {}  # another network's say nothing
    said = {name: value for name, value in given.items() if value is not None}
    return ModelSettings.model_validate({**inherited, **said, "init_weights": initial.weights})


def check_starts(
    model: ModelSettings, initial: dict[str, InitialSettings], *, public: str | None, private: Iterable[tuple[str, str]]
) -> None:
    """Refuse starts that cannot be, that are the same, or whose weights have seen patients of the study.

    Args:
        model: The study's `[model]`.
        initial: Its starts.
        public: The domain to pretrain on.
        private: Domains and their kinds that no start may have seen: those of a study with DP arms.

    Raises:
        ValueError: One is.
    """
    if initial and model.init_weights is not None:
        raise ValueError("model.init_weights: the study has [initial.<name>]. Write weights = … there")
    same: dict[str, str] = {}
    kinds = {name.casefold(): domain for domain, kind in private for name in (kind, domain)}
    for name, start in initial.items():
        key = f"initial.{name}"
        if not (name.isascii() and name.replace("_", "").isalnum()) or name == BEFORE:
            raise ValueError(
                f"{key}: use plain letters, digits and _ only, and not {BEFORE!r}: the name becomes a file name"
            )
        other = next(one for one in initial if one.casefold() == name.casefold())
        if other != name:
            raise ValueError(
                f"{key}: differs from initial.{other} in case alone, as do their files. Rename one of them"
            )
        try:
            settings = model_of(model, start)
        except ValidationError as err:
            raise ValueError(f"{key}{_words(err)}") from err
        if start.pretrain and public is None:
            raise ValueError(f"{key}.pretrain: no domain has role = 'public'. Add one, or write pretrain = false")
        if (start.trained_on or start.licence) and start.weights is None:
            raise ValueError(f"{key}: trained_on and licence belong to given weights, there are none. Add weights = …")
        seen = next((one for one in start.trained_on if one.casefold() in kinds), None)
        if seen is not None:
            raise ValueError(
                f"{key}.trained_on: {seen!r} is the domain {kinds[seen.casefold()]} of this study, so no epsilon would "
                "hold for its patients, and tests on them would not be of strangers. Leave the domain out of "
                "train.domains and evaluate.domains, take other weights, or train without DP "
                "(privacy.target_epsilons = [inf])"
            )
        twin = same.setdefault(f"{sorted(settings.deciding().items())} {start.pretrain}", name)
        if twin != name:
            raise ValueError(f"{key}: the same start as initial.{twin}. Leave one of them out")


def _words(err: ValidationError) -> str:
    """What is wrong with a start's network, under the start's own key where it is one's fault."""
    first, names = err.errors()[0], {of_model: name for name, of_model in OF_MODEL.items()}
    text = first["msg"].removeprefix("Value error, ")
    at, _, rest = text.partition(": ")
    if first["loc"]:
        return f".{names.get(str(first['loc'][0]), first['loc'][0])}: {text}, got {first['input']!r}"
    return f".{names[at]}: {rest}" if at in names else f": with [model], {text}"
