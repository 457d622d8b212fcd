"""What a bundle says about its model: everything in it is checked before anything is done with it."""

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dpdt.base.vocabulary import RESERVED
from dpdt.errors import BundleError, StudyError
from dpdt.study import BEFORE
from dpdt.study.networks import NETWORKS
from dpdt.study.settings import ModelSettings, ShardSettings

__all__ = [
    "Count",
    "Manifest",
    "Name",
    "Network",
    "NotNegative",
    "Part",
    "Probability",
    "SelfTest",
    "Short",
    "check_site",
    "key_of",
    "recorded_input",
    "validated",
]

MOST_WIDTH: Final = 1024
MOST_DEPTH: Final = 20
MOST_ACTIVATIONS: Final = 1 << 26
"""Numbers in the first layer's output of one image: width 64 on 1,024 pixels. More could fill a machine's memory."""
NOT_DECIDING_INPUT: Final = "shard_bytes"  # of a hospital's disk: it changes no pixel

NAME: Final = r"^[A-Za-z][A-Za-z0-9_]{0,63}$"
Name = Annotated[str, Field(pattern=NAME)]
Short = Annotated[str, Field(max_length=200)]
Text = Annotated[str, Field(max_length=20_000)]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.+-]{1,64}$")]
Count = Annotated[int, Field(ge=0, le=2**53)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Part(BaseModel):
    """Values are taken as they are, unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Network(Part):
    """One of dpdt's own networks: a bundle has no code, so there are no others."""

    name: Literal[("resnet9", *NETWORKS)]  # type: ignore[valid-type]
    width: Annotated[int, Field(ge=8, le=MOST_WIDTH, multiple_of=8)]
    in_channels: Literal[1, 3]

    def activations(self, size: int) -> int:
        """Numbers in the first layer's output of one image of size x size pixels, at most."""
        cell = NETWORKS[self.name].cell if self.name in NETWORKS else 1
        return self.width * (size // cell + 1 if cell > 1 else size) ** 2

    @property
    def settings(self) -> ModelSettings:
        """The same as a study file has it."""
        return ModelSettings(**self.model_dump())


class SelfTest(Part):
    """A made-up image file, and what the model gives for it: two tensors `test.<n>.file` and `test.<n>.pixels`."""

    what: Short
    scores: dict[Name, Probability]


class Provenance(Part):
    """Where the model comes from. Hashes are those under the hospital's own key: others could be guessed."""

    run_id: Short
    versions: dict[Word, Short]
    codecs: dict[Word, Short]
    hashes: dict[Word, Annotated[str, Field(pattern="^[0-9a-f]{16,64}$")]]


class _Statement(BaseModel):
    """What pages and tables take from a statement; there is more in it."""

    model_config = ConfigDict(extra="allow", strict=True)

    mechanism: Text
    unit: Literal["patient", "image"]
    paragraph: Text
    epsilon: NotNegative | None
    delta: Probability | None
    neighbouring_relation: Text | None = None
    num_units: Count | None = None
    num_steps: Count | None = None
    sample_rate: Probability | None = None
    noise_multiplier: NotNegative | None = None
    accounted_noise_multiplier: NotNegative | None = None
    max_grad_norm: NotNegative | None = None
    accountant: Text | None = None
    randomness: Text | None = None
    complete: Literal[True] = True
    selection: dict[str, Any] | None = None
    other_releases: list[dict[Short, Text]] = []


class Manifest(Part):
    """All of a bundle but its tensors."""

    site: Name
    labels: Annotated[list[Name], Field(min_length=1, max_length=200)]
    network: Network
    input: dict[Short, Any]
    thresholds: dict[Name, Probability | None]
    target_epsilon: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None
    seed: Count
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
        _check_tree(self.statement)
        said, private = _Statement.model_validate(self.statement), self.target_epsilon is not None
        if (
            (said.mechanism != "none") != private
            or (said.epsilon is None) == private
            or (said.delta is None) == private
        ):
            raise ValueError("statement: it is not that of the target epsilon")
        if self.network.activations(self.shards.size) > MOST_ACTIVATIONS:
            raise ValueError(
                f"network.width x input.size^2: more than {MOST_ACTIVATIONS:,}, which would fill the memory"
            )
        if self.site in (*RESERVED, BEFORE):
            raise ValueError(f"site: {self.site} is a word of dpdt's own tables")
        return self


def _check_tree(value: Any, depth: int = 0) -> None:
    """What is written down as it came has no infinity, which JSON has not, and no depth that stops who walks it."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("statement: a number is not finite")
    if depth > MOST_DEPTH:
        raise ValueError(f"statement: more than {MOST_DEPTH} lists and tables in each other")
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_tree(one, depth + 1)


def key_of(error: Mapping[str, Any]) -> str:
    """Where in a file an error of pydantic's is, as it may be shown: the keys are another house's."""
    return ascii(".".join(map(str, error["loc"])))[1:-1][:80]


def check_site(site: str | None) -> None:
    """Check the name that a hospital gives itself for others: tables and files have it.

    Raises:
        StudyError: It is no such name.
    """
    if site is not None and (not re.fullmatch(NAME, site) or site in (*RESERVED, BEFORE)):
        raise StudyError(
            f"--site: expected a letter, then letters (a to z), digits and _, and no word of dpdt's own tables; got "
            f"{site!r}. Write, for example, st_mary."
        )


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
        where = key_of(first)
        found = repr(first["input"])[:60] if first["type"] != "missing" else "nothing"
        raise BundleError(
            f"{name}: {where or 'bundle'}: {first['msg']}, found {found}. This dpdt cannot use it: ask for it again, "
            "or for its version of dpdt."
        ) from err
