"""The frozen config of a run: written before its first step, compared whenever it goes on."""

import json
import platform
import time
from importlib.metadata import version
from typing import Any, Final

from dpdt.base.files import make_folder, read_json, write_json
from dpdt.base.machine import code_commit, image_digest
from dpdt.errors import DpdtError
from dpdt.study import Study
from dpdt.study.paths import RunPaths

__all__ = [
    "freeze_config",
    "frozen_settings",
]

# Recorded in the config, but a run may be resumed with other values: they cannot change its result or its epsilon.
FREE_KEYS: Final = ("created", "versions", "device", "instruction_set", "physical_batch_size")
SPEED_KEYS: Final = {
    "shards": {"num_threads", "max_reject_fraction"},
    "train": {"physical_batch_size", "checkpoint_every_steps", "device", "num_threads"},
    "privacy": {"reserve_steps"},
}
LIBRARIES: Final = ("dpdt", "torch", "numpy", "opacus", "dp-accounting")


def frozen_settings(study: Study, *, kind: str) -> dict[str, Any]:
    """The study file's sections that decide the result of a run, as the config records them."""
    sections = ("shards", "model", "pretrain") if kind == "pretrain" else ("shards", "model", "train", "privacy")
    other_runs = {"train": {"domains", "seeds"}, "privacy": {"target_epsilons"}}
    settings: dict[str, Any] = {"seed": study.study.seed}
    for name in sections:
        settings[name] = getattr(study, name).model_dump(mode="json", exclude=other_runs.get(name))
    return settings


def freeze_config(paths: RunPaths, config: dict[str, Any]) -> dict[str, Any]:
    """Write a run's config before its first step, or check that it is still the one that was written.

    Returns:
        The config as it stands in the file.

    Raises:
        DpdtError: The run was begun with other settings or other data.
    """
    if not paths.config.exists():
        make_folder(paths.folder)
        full = {**config, "created": time.time(), "versions": _versions()}
        write_json(paths.config, full)
        return full
    frozen: dict[str, Any] = read_json(paths.config)
    was, now = _flat(frozen), _flat(json.loads(json.dumps(config)))
    for key in sorted({*was, *now}):
        if _fixed(key) and was.get(key) != now.get(key):
            began = f"the run was begun with {key} = {was.get(key)!r}, it is {now.get(key)!r} now"
            if key.startswith("data.") and key.endswith("_sha256"):  # plain, of private data: not for a log
                began = f"the run was begun with another {key} than there is now"
            raise DpdtError(
                f"{paths.config}: {began}. "
                f"Put it back, or remove {paths.folder} to train anew (which spends privacy again)."
            )
    return frozen


def _fixed(key: str) -> bool:
    top, *rest = key.split(".")
    if top == "settings" and len(rest) > 1:
        return rest[1] not in SPEED_KEYS.get(rest[0], set())
    return top not in FREE_KEYS


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, under dotted names."""
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{prefix}{key}.") if isinstance(inner, dict) else {f"{prefix}{key}": inner}
    return flat


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}
    further = {"image": image_digest(), "commit": code_commit()}
    return found | {name: value for name, value in further.items() if value}
