"""A study as it was when its tasks were sent."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dpdt.base.files import read_json, write_text
from dpdt.errors import StudyError
from dpdt.study import Study, load_study

__all__ = ["as_frozen", "freeze_study", "from_frozen", "thaw_study"]


def freeze_study(study: Study, file: Path) -> None:
    """Write a study with all its values, so that its tasks do not see later edits of the study file.

    Relative folders stay relative to the original file, so that every fingerprint and run id stays as it is.
    """
    write_text(file, json.dumps(as_frozen(study), indent=2) + "\n")


def as_frozen(study: Study) -> dict[str, Any]:
    """A study with all its values, as JSON has them."""
    return {"file": str(study.file), "settings": study.model_dump(mode="json")}


def from_frozen(frozen: Mapping[str, Any]) -> Study:
    """The study that `as_frozen` froze.

    Raises:
        ValidationError: A value is not understood.
    """
    return Study.model_validate({**frozen["settings"], "file": frozen["file"]})


def thaw_study(file: str | Path) -> Study:
    """Read a study file, or a study that `freeze_study` wrote (a .json file).

    Raises:
        DpdtError: The file is missing or damaged.
    """
    path = Path(file)
    if path.suffix != ".json":
        return load_study(path)
    frozen = read_json(path)
    try:
        return from_frozen(frozen)
    except ValidationError as err:
        first = err.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise StudyError(
            f"{path}: {where}: {first['msg']}. It was frozen by another version of dpdt; send the study again."
        ) from err
