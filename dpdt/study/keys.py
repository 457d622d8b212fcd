"""Every key of the study file, read off the settings themselves: for `dpdt init` and `show`, reference and schema."""

import json
import re
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from dpdt.study import Study, check_study
from dpdt.study.section import About, about
from dpdt.study.source import read_source

__all__ = ["REQUIRED", "Effective", "Key", "all_keys", "effective", "json_schema", "section_docs", "toml", "toml_key"]

REQUIRED: Final = object()
"""Default of a key that must be given."""


@dataclass(frozen=True)
class Key:
    """One key of the study file.

    Attributes:
        name: Dotted; `*` stands for a domain's own name.
        default: Of the code; None: not set; REQUIRED: must be given.
        kind: What values it takes, for people.
        description: What it is.
        help: Its unit, and why one would change it.
    """

    name: str
    default: Any
    kind: str
    description: str
    help: About

    @property
    def section(self) -> str:
        """The table that it is in, e.g. `domains.*.table`."""
        return self.name.rpartition(".")[0]

    @property
    def short(self) -> str:
        """Its name in that table."""
        return self.name.rpartition(".")[2]


def all_keys() -> list[Key]:
    """Every key, in the order of the settings."""
    return [_key(name, field) for name, field, table in _fields(Study) if table is None and name != "file"]


def section_docs() -> dict[str, str]:
    """What each table is about, from the settings' docstrings; `*` stands for a domain's own name."""
    tables = {name: table for name, _, table in _fields(Study) if table is not None}
    return {name: (table.__doc__ or "").partition(": ")[2].strip() for name, table in tables.items()}


def toml(value: Any) -> str:
    """A value as TOML.

    >>> toml(2e-4), toml(True), toml((1.0, float("inf"))), toml("a"), toml(Path("."))
    ('0.0002', 'true', '[1.0, inf]', '"a"', '"."')
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, tuple | list):
        return f"[{', '.join(toml(item) for item in value)}]"
    if isinstance(value, BaseModel):
        return toml(value.model_dump(exclude_none=True))
    if isinstance(value, dict):
        inside = ", ".join(f"{toml_key(name)} = {toml(item)}" for name, item in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    return json.dumps(str(value), ensure_ascii=False)


def toml_key(name: str) -> str:
    """A name as a key of TOML: without quotes those of plain letters, digits, _ and - alone.

    >>> toml_key("st_mary"), toml_key("süd")
    ('st_mary', '"süd"')
    """
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)


@dataclass(frozen=True)
class Effective:
    """One value: its dotted key, itself as TOML ("" where it is not set), and its origin."""

    key: str
    value: str
    origin: str


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


def json_schema() -> dict[str, Any]:
    """The JSON schema of the study file, for editors that complete and check TOML."""
    schema = Study.model_json_schema(mode="validation", schema_generator=_schema_generator())
    del schema["properties"]["file"]
    schema["required"] = [name for name in schema.get("required", ()) if name != "file"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "study.toml of dpdt"}


def _values(model: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of the settings under dotted names."""
    for name in (*type(model).model_fields, *(model.model_extra or {})):
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from _values(value, f"{prefix}{name}.")
        elif name in ("domains", "initial", "models") and not prefix:
            for own, settings in value.items():
                if not settings.model_fields_set:
                    yield f"{name}.{own}", {}  # that it is there is all that it says
                yield from _values(settings, f"{name}.{own}.")
        else:
            yield f"{prefix}{name}", value


def _schema_generator() -> Any:
    """Pydantic's, without defaults that JSON cannot say (inf)."""
    from pydantic.json_schema import GenerateJsonSchema

    class Generator(GenerateJsonSchema):
        def default_schema(self, schema: Any) -> Any:
            found = super().default_schema(schema)
            try:
                json.dumps(found.get("default"), allow_nan=False)
            except ValueError:
                del found["default"]
            return found

    return Generator


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo, type[BaseModel] | None]]:
    """Every key and table below a table, with what a table has in it; `.*` ends the name of a table of tables."""
    for name, field in model.model_fields.items():
        kinds = (field.annotation, *get_args(field.annotation))
        inner = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        if inner is None or about(field) is not None:
            yield f"{prefix}{name}", field, None
        else:
            table = f"{prefix}{name}{'.*' if get_origin(field.annotation) is dict else ''}"
            yield table, field, inner
            yield from _fields(inner, f"{table}.")


def _key(name: str, field: FieldInfo) -> Key:
    default = REQUIRED if field.is_required() else field.get_default(call_default_factory=True, validated_data={})
    limits = [_limit(item) for item in field.metadata]
    kind = ", ".join(text for text in (_kind(field.annotation), *limits) if text)
    help_ = about(field) or About("")
    if default in ({}, ()) and help_.example:
        default = None
    return Key(name, default, kind, field.description or "", help_)


def _limit(constraint: Any) -> str:
    """`Ge(ge=0)` as people write it."""
    signs = {"gt": "> ", "ge": "≥ ", "lt": "< ", "le": "≤ ", "multiple_of": "a multiple of "}
    return next((f"{sign}{getattr(constraint, key)}" for key, sign in signs.items() if hasattr(constraint, key)), "")


def _kind(annotation: Any) -> str:
    """The type of a key for people.

    >>> _kind(Literal["area", "paper"]), _kind(float | None), _kind(tuple[str, ...])
    ('"area" or "paper"', 'number', 'list of text')
    """
    origin, inside = get_origin(annotation), get_args(annotation)
    if hasattr(annotation, "__metadata__"):  # Annotated
        return _kind(inside[0])
    if origin is Literal:
        return " or ".join(toml(value) for value in inside)
    if origin in (Union, types.UnionType):
        return " or ".join(_kind(kind) for kind in inside if kind is not type(None))
    if origin is tuple:
        return f"list of {_kind(inside[0])}"
    if origin is dict or (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return "table"
    names = {float: "number", int: "whole number", str: "text", bool: "true or false", Path: "path"}
    return names.get(annotation, str(annotation))
