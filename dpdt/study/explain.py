"""What pydantic found wrong in a study file, in words and with the line."""

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final, get_args, get_origin

from pydantic import BaseModel, ValidationError

from dpdt.study.source import Source

__all__ = ["did_you_mean", "explain"]

EXPECTED: Final = {
    "dict_type": "a table",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than": "a number greater than {gt:.15g}",
    "greater_than_equal": "a number greater than or equal to {ge:.15g}",
    "int_from_float": "a whole number",
    "int_parsing_size": "a whole number",
    "int_type": "a whole number",
    "less_than": "a number less than {lt:.15g}",
    "less_than_equal": "a number less than or equal to {le:.15g}",
    "literal_error": "{expected}",
    "model_type": "a table",
    "multiple_of": "a multiple of {multiple_of}",
    "path_type": "text in quotes",
    "string_too_long": "text of length {max_length} or less",
    "string_too_short": "text of length {min_length} or more",
    "string_type": "text in quotes",
    "too_short": "at least one value",
    "tuple_type": "a list",
}
"""What pydantic's kinds of errors say was expected; with `.15g` 1.0 is written 1."""


def did_you_mean(name: str, known: Iterable[str], *, diagnoses: bool) -> str:
    """A question to put behind "unknown"; "" where nothing known is like it.

    Args:
        name: What the user wrote.
        known: What exists.
        diagnoses: Only for another spelling: pneumothorax is not pneumonia, however like it looks.
    """
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.9 if diagnoses else 0.6)
    return f" Did you mean {close[0]!r}?" if close else ""


def explain(error: ValidationError, source: Source, model: type[BaseModel], sections: Sequence[str]) -> str:
    """One line about the first thing that is wrong: where, what was found, what was expected.

    Args:
        error: Of pydantic.
        source: What was checked.
        model: The whole study.
        sections: Names of its tables.
    """
    first = error.errors()[0]
    location = [part for part in first["loc"] if not (isinstance(part, str) and ("[" in part or part == "float"))]
    key = ".".join(str(part) for part in location)
    message = _message(dict(first), key, _valid_keys(location, model, sections))
    named = re.match(r"[\w.]+(?=: )", message)
    where = source.where(named[0] if named else key)
    return f"{where}: {message}{_form(dict(first), key, on_command_line=where == '--set')}"


def _form(first: dict[str, Any], key: str, *, on_command_line: bool) -> str:
    """How a list or a table is written, with the value that was given for one."""
    value = first["input"]
    if first["type"] == "tuple_type" and isinstance(value, str | int | float) and not isinstance(value, bool):
        parts = [part.strip() for part in str(value).strip("[]").split(",")]
        if not all(_is_number(part) for part in parts):
            parts = [json.dumps(part, ensure_ascii=False) for part in (parts if on_command_line else [value])]
        listed = f"[{','.join(parts)}]"
        if not on_command_line:
            return f" Write {key.rpartition('.')[2]} = {listed}."
        return f" Write --set {key}={listed}." if '"' not in listed else f" Write --set '{key}={listed}'."
    if first["type"] in ("dict_type", "model_type") and not on_command_line:
        name = {"DomainSettings": "root", "TableLabel": "column", "CarriedModelSettings": "bundle"}.get(
            first.get("ctx", {}).get("class_name", "")
        )
        inside = f"{name} = {json.dumps(value, ensure_ascii=False)}" if name and isinstance(value, str) else "its keys"
        return f" Write [{key}] and, in the lines below it, {inside}."
    return ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _message(first: dict[str, Any], key: str, valid: Sequence[str]) -> str:
    if first["type"] == "extra_forbidden":
        hint = did_you_mean(key.rsplit(".", 1)[-1], valid, diagnoses=False)
        return f"{key}: unknown key.{hint} Valid keys: {', '.join(valid)}."
    if first["type"] == "missing":
        return f"{key}: missing. Add it to the study file."
    if first["type"] == "value_error":  # one of the settings' own, in words already
        text = str(first["ctx"]["error"]).rstrip(".")
        inner = re.match(r"(\w+)(?:\.\w+)*: ", text)
        joint = "." if inner and inner[1] in valid else ": "
        return f"{key}{joint}{text}." if key else f"{text}."
    expected = EXPECTED.get(first["type"])
    problem = f"expected {expected.format(**first.get('ctx', {}))}" if expected else first["msg"]
    return f"{key}: {problem}, got {first['input']!r}."


def _valid_keys(location: Sequence[int | str], model: type[BaseModel], sections: Sequence[str]) -> list[str]:
    """Keys that exist beside the one at `location`, or, for a table, in it."""
    place: type[BaseModel] | None = model
    names = iter(location)
    inside = model
    for key in names:
        if place is None or key not in place.model_fields:
            break
        inside = place
        annotation = place.model_fields[str(key)].annotation
        if get_origin(annotation) is dict:
            next(names, None)  # a name of the user's own, as in `domains.<name>`
        kinds = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
        place = next((kind for kind in kinds if issubclass(kind, BaseModel)), None)
    where = place or inside
    return list(sections) if where is model else list(where.model_fields)
