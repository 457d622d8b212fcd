"""What every table of the study file is made of: kinds of values, and what a key says about itself."""

import functools
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast, get_args, get_origin

from pydantic import AllowInfNan, BaseModel, BeforeValidator, ConfigDict
from pydantic.fields import FieldInfo

from dpdt.base.files import fingerprint
from dpdt.base.vocabulary import folded

__all__ = [
    "About",
    "Folder",
    "Integer",
    "Number",
    "NumberOrInfinity",
    "RelativePath",
    "Section",
    "Truth",
    "about",
    "each_once",
    "only_once",
    "remembered",
]


@dataclass(frozen=True)
class About:
    """What a key says about itself besides its description, default and limits: in the annotation of its field.

    Attributes:
        why: Why one would change it.
        unit: Of its value; "" where it has none.
        example: A TOML value to show where the default is "not set".
        decides: ``result``: another value is another result, so it is in fingerprints and run ids. ``speed``: only how
            fast or how often something is done; a run may go on with another value. ``other``: nothing of one result
            alone: which trainings there are, where data lies, what a report says of the results.
        later: The key came when there were trainings already. Its default is left out of fingerprints and run ids, so
            that these keep their names, and a config without the key has the default.
    """

    why: str
    unit: str = ""
    example: str = ""
    decides: Literal["result", "speed", "other"] = "result"
    later: bool = False


def about(field: FieldInfo) -> About | None:
    """What a key says about itself; None where it says nothing: it is a table of keys."""
    return next((item for item in field.metadata if isinstance(item, About)), None)


_Method = TypeVar("_Method", bound=Callable[..., Any])


@dataclass(frozen=True, eq=False)
class _Same:
    """A section by identity: its values are read-only, and some of them have no hash."""

    section: "Section"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.section is self.section

    def __hash__(self) -> int:
        return id(self.section)


def remembered(method: _Method) -> _Method:
    """Keep what a method of a section returns: ten thousand run ids are made of the same few sections."""
    kept = functools.lru_cache(maxsize=1024)(lambda same, *args: method(same.section, *args))
    return cast(_Method, functools.wraps(method)(lambda section, *args: kept(_Same(section), *args)))


class Section(BaseModel):
    """A table of the study file: unknown keys are errors, values are read-only."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    def recorded(self) -> dict[str, Any]:
        """What the config of a run keeps."""
        return self.model_dump(mode="json", exclude=_keys(type(self), "other"))

    def deciding(self) -> dict[str, Any]:
        """What decides the result: for fingerprints and run ids, of which a study may have ten thousand."""
        return dict(self._deciding())

    @remembered
    def _deciding(self) -> dict[str, Any]:
        return self.deciding_of(self.recorded())

    @classmethod
    def deciding_of(cls, recorded: Mapping[str, Any]) -> dict[str, Any]:
        """What decides the result, of values as `recorded` gives them, maybe long ago."""
        speed, defaults, tables = _keys(cls, "speed"), _later_defaults(cls), _tables(cls)
        return {
            key: tables[key].deciding_of(value) if key in tables and isinstance(value, dict) else value
            for key, value in recorded.items()
            if key not in speed and not (key in defaults and fingerprint(value) == defaults[key])
        }


@functools.cache
def _keys(section: type[Section], decides: str) -> set[str]:
    """Keys of a table that say that this is what they decide."""
    items = {key: about(field) for key, field in section.model_fields.items()}
    return {key for key, item in items.items() if item is not None and item.decides == decides}


@functools.cache
def _tables(section: type[Section]) -> dict[str, type[Section]]:
    """Keys that are tables themselves, whose keys may have come later, too."""
    found = {}
    for key, field in section.model_fields.items():
        kinds = (field.annotation, *get_args(field.annotation))
        inner = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)
        if inner is not None and get_origin(field.annotation) is not dict:
            found[key] = inner
    return found


@functools.cache
def _later_defaults(section: type[Section]) -> dict[str, str]:
    """Keys that came later, with the fingerprints of their defaults."""
    later = {key: field for key, field in section.model_fields.items() if (item := about(field)) and item.later}
    defaults = {key: field.get_default(call_default_factory=True, validated_data={}) for key, field in later.items()}
    return {
        key: fingerprint(value.recorded() if isinstance(value, Section) else value) for key, value in defaults.items()
    }


def _not_quoted(value: Any) -> Any:
    """Refuse numbers in quotes: `2e-4` without a dot is a float in TOML, but people quote it out of habit."""
    if not isinstance(value, str):
        return value
    try:
        float(value)
    except ValueError:
        raise ValueError(f"expected a number, got {value!r} (text)") from None
    raise ValueError(f"expected a number, got {value!r} (text). Remove the quotes.")


def _truth(value: Any) -> Any:
    """Refuse "yes" and 1: only TOML's own true and false say what is meant."""
    if isinstance(value, bool):
        return value
    raise ValueError(f"expected true or false, without quotes, got {value!r}")


def _expand(value: Any) -> Any:
    """Expand `~` and `$NAME` in a path; a variable that is not set is an error, not an empty string."""
    if not isinstance(value, str | Path):
        return value
    text = os.path.expandvars(str(_printable(value)))
    if "$" in text:
        raise ValueError(f"the environment variable in {str(value)!r} is not set. Set it, or write the folder itself.")
    try:
        return Path(text).expanduser()
    except RuntimeError as err:
        raise ValueError(f"{str(value)!r}: there is no such user with a home folder. Write the folder itself.") from err


def _printable(value: Any) -> Any:
    """Refuse control characters in a path: TOML reads a backslash and n in double quotes as a line break."""
    found = re.search(r"[\x00-\x1f\x7f]", value) if isinstance(value, str) else None
    if found is None:
        return value
    raise ValueError(
        f"{value!r} has the control character {found[0]!r}, which no path has. In double quotes a backslash begins a "
        "special character: use single quotes, '…', or /."
    )


Number = Annotated[float, BeforeValidator(_not_quoted), AllowInfNan(False)]
NumberOrInfinity = Annotated[float, BeforeValidator(_not_quoted)]
Integer = Annotated[int, BeforeValidator(_not_quoted)]
Truth = Annotated[bool, BeforeValidator(_truth)]
Folder = Annotated[Path, BeforeValidator(_expand)]
RelativePath = Annotated[Path, BeforeValidator(_printable)]


def each_once(values: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
    """A validator: what stands twice in a list of trainings or hospitals would count twice."""
    if values is not None and len(set(values)) < len(values):
        raise ValueError(f"a value occurs twice in {list(values)}; each counts once")
    return values


def only_once(words: dict[str, tuple[str, ...]]) -> None:
    """No value may mean two things; values are compared trimmed and without case."""
    meanings: dict[str, str] = {}
    for word, values in words.items():
        for value in values:
            known = meanings.setdefault(folded(value), word)
            if known != word:
                raise ValueError(f"{value!r} is listed as {known} and as {word}")
