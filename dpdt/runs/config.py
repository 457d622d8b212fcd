"""The frozen config of a run: written before its first step, compared whenever it goes on."""

import json
import platform
import time
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Final, cast

from dpdt.base.files import make_folder, read_json, write_json
from dpdt.base.machine import code_commit, image_digest
from dpdt.base.vocabulary import LABELS
from dpdt.errors import DpdtError
from dpdt.study import Study
from dpdt.study.networks import NETWORKS
from dpdt.study.paths import RunPaths
from dpdt.study.section import Section
from dpdt.study.source import flat

__all__ = [
    "freeze_config",
    "frozen_settings",
    "labels_of",
    "recorded_labels",
]

# Recorded in the config beside the settings, but a run may be resumed with other values: they change no result.
FREE_KEYS: Final = ("created", "versions", "device", "instruction_set", "physical_batch_size", "ancestry")
LIBRARIES: Final = ("dpdt", "torch", "numpy", "opacus", "dp-accounting")


def frozen_settings(study: Study, *, kind: str) -> dict[str, Any]:
    """The study file's sections that decide the result of a run, as the config records them."""
    sections = ("shards", "model", "pretrain") if kind == "pretrain" else ("shards", "model", "train", "privacy")
    return {"seed": study.study.seed, **{name: getattr(study, name).recorded() for name in sections}}


def recorded_labels(study: Study) -> dict[str, Any]:
    """What a run's config says of its outputs: nothing of the paper's five labels, as ever."""
    return {} if study.study.labels == LABELS else {"labels": list(study.study.labels)}


def labels_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The labels of a run's outputs, in their order, from its config."""
    return tuple(config.get("labels", LABELS))


def freeze_config(paths: RunPaths, config: dict[str, Any]) -> dict[str, Any]:
    """Write a run's config before its first step, or check that it is still the one that was written.

    Returns:
        The config as it stands in the file.

    Raises:
        DpdtError: The run was begun with other settings or other data.
    """
    if not paths.config.exists():
        make_folder(paths.folder)
        full = {**config, "created": time.time(), "versions": _versions(config)}
        write_json(paths.config, full)
        return full
    frozen: dict[str, Any] = read_json(paths.config)
    wanted = json.loads(json.dumps(config))
    was, now = _fixed(frozen), _fixed(wanted)
    for key in sorted({*was, *now}):
        if was.get(key) != now.get(key):
            before, after = (flat(values).get(key) for values in (frozen, wanted))
            began = f"the run was begun with {key} = {before!r}, it is {after!r} now"
            if key.startswith("data.") and key.endswith("_sha256"):  # plain, of private data: not for a log
                began = f"the run was begun with another {key} than there is now"
            raise DpdtError(
                f"{paths.config}: {began}. "
                f"Put it back, or remove {paths.folder} to train from scratch (which spends privacy again)."
            )
    return frozen


def _fixed(config: dict[str, Any]) -> dict[str, Any]:
    """What a run must keep, as one table under dotted names."""
    settings = {
        name: _section(name).deciding_of(value) if isinstance(value, dict) else value
        for name, value in config.get("settings", {}).items()
    }
    return flat({key: value for key, value in {**config, "settings": settings}.items() if key not in FREE_KEYS})


def _section(name: str) -> type[Section]:
    return cast(type[Section], Study.model_fields[name].annotation)


def _versions(config: Mapping[str, Any]) -> dict[str, str]:
    named = config.get("settings", {}).get("model", {}).get("name") in NETWORKS
    libraries = (*LIBRARIES, "timm") if named else LIBRARIES
    found = {"python": platform.python_version(), **{name: version(name) for name in libraries}}
    further = {"image": image_digest(), "commit": code_commit()}
    return found | {name: value for name, value in further.items() if value}
