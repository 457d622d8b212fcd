"""`dpdt show`: every value that a study has in force, and where it comes from."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from dpdt.study import check_study
from dpdt.study.keys import toml
from dpdt.study.source import read_source

__all__ = ["Effective", "effective"]


@dataclass(frozen=True)
class Effective:
    """One value: its dotted key, itself as TOML ("" where it is not set), and its origin."""

    key: str
    value: str
    origin: str

    def as_dict(self) -> dict[str, str]:
        """For JSON."""
        return asdict(self)


def effective(file: str | Path, *, overrides: Sequence[str] = ()) -> list[Effective]:
    """All values of a study in the order of its sections.

    Args:
        file: The study file or its folder.
        overrides: As after `--set`.

    Raises:
        StudyError: As for `load_study`.
    """
    source = read_source(file, overrides=overrides)
    study = check_study(source)
    return [
        Effective(key, "" if value is None else toml(value), source.origin(key))
        for key, value in _values(study)
        if key != "file"
    ]


def _values(model: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of the settings under dotted names."""
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from _values(value, f"{prefix}{name}.")
        elif name == "domains" and not prefix:
            for domain, settings in value.items():
                yield from _values(settings, f"domains.{domain}.")
        else:
            yield f"{prefix}{name}", value
