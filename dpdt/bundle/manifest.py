"""What a bundle says about its model: everything in it is checked before anything is done with it."""

import math
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dpdt.errors import BundleError
from dpdt.study.settings import ModelSettings, ShardSettings

__all__ = ["Manifest", "Network", "SelfTest", "recorded_input", "validated"]

MOST_WIDTH: Final = 1024
NOT_DECIDING_INPUT: Final = "shard_bytes"  # of a hospital's disk: it changes no pixel

Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}$")]
Short = Annotated[str, Field(max_length=200)]
Text = Annotated[str, Field(max_length=20_000)]
Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class _Part(BaseModel):
    """Values are taken as they are, unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Network(_Part):
    """One of dpdt's own networks: a bundle has no code, so there are no others."""

    name: Literal["resnet9"]
    width: Annotated[int, Field(ge=8, le=MOST_WIDTH, multiple_of=8)]
    in_channels: Literal[1, 3]

    @property
    def settings(self) -> ModelSettings:
        """The same as a study file has it."""
        return ModelSettings(**self.model_dump())


class SelfTest(_Part):
    """A made-up image file, and what the model gives for it: two tensors `test.<n>.file` and `test.<n>.pixels`."""

    what: Short
    scores: dict[Name, Probability]


class Provenance(_Part):
    """Where the model comes from. Hashes are those under the hospital's own key: others could be guessed."""

    run_id: Short
    versions: dict[Short, Short]
    codecs: dict[Short, Short]
    hashes: dict[Short, Annotated[str, Field(pattern="^[0-9a-f]{16,64}$")]]


class _Statement(BaseModel):
    """What pages and tables take from a statement; there is more in it."""

    model_config = ConfigDict(extra="allow", strict=True)

    mechanism: Text
    unit: Literal["patient", "image"]
    paragraph: Text
    epsilon: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None
    delta: Probability | None
    selection: dict[str, Any] | None = None
    other_releases: list[dict[Short, Text]] = []


class Manifest(_Part):
    """All of a bundle but its tensors."""

    site: Name
    labels: Annotated[list[Name], Field(min_length=1, max_length=200)]
    network: Network
    input: dict[Short, Any]
    thresholds: dict[Name, Probability | None]
    target_epsilon: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None
    seed: Annotated[int, Field(ge=0)]
    synthetic: bool
    statement: dict[Short, Any]
    licence: Text
    intended_use: Text
    provenance: Provenance
    self_test: Annotated[list[SelfTest], Field(min_length=1, max_length=8)]

    @property
    def shards(self) -> ShardSettings:
        """What to do to a file, as a study file has it."""
        return ShardSettings.model_validate(self.input)

    @property
    def epsilon_name(self) -> float:
        """The target epsilon; infinity without DP."""
        return math.inf if self.target_epsilon is None else self.target_epsilon

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("a label is there twice")
        if list(self.thresholds) != self.labels or any(list(test.scores) != self.labels for test in self.self_test):
            raise ValueError("thresholds and scores are not those of the labels")
        if recorded_input(self.shards) != self.input:
            raise ValueError("input: not every setting that decides pixels is there")
        if (_Statement.model_validate(self.statement).mechanism == "none") != (self.target_epsilon is None):
            raise ValueError("statement: it is not that of the target epsilon")
        return self


def recorded_input(shards: ShardSettings) -> dict[str, Any]:
    """All that decides the pixels of an image."""
    return {key: value for key, value in shards.deciding().items() if key != NOT_DECIDING_INPUT}


def validated(manifest: dict[str, Any], name: str) -> Manifest:
    """Check what a bundle says.

    Args:
        manifest: From `unpack`.
        name: For messages.

    Raises:
        BundleError: A value is missing, unknown or out of its range.
    """
    try:
        return Manifest.model_validate(manifest)
    except ValidationError as err:
        first = err.errors()[0]
        where = ".".join(map(str, first["loc"]))
        found = repr(first["input"])[:60] if first["type"] != "missing" else "nothing"
        raise BundleError(
            f"{name}: {where or 'bundle'}: {first['msg']}, found {found}. This dpdt cannot use it: ask for it again, "
            "or for its version of dpdt."
        ) from err
