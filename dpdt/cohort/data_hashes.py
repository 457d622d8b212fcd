"""What a run records about the private data that it was made from: hashes under a key that stays beside that data.

A plain hash of all labels reveals one patient's to an attacker who knows all the others: few combinations need be tried
until it fits. So run folders, MLflow and the report get HMAC-SHA256 (RFC 2104) of the plain hashes, under a random key
in the study's `cohort/` folder, where the labels themselves are. Runs that were begun before keep their plain hashes
and are compared by them; their privacy statement says so.
"""

import hmac
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

from dpdt.base.files import atomic_path, exclusive_lock, read_json
from dpdt.errors import CohortError, DpdtError
from dpdt.study import Study
from dpdt.study.paths import StudyPaths

__all__ = ["DataKey", "data_key", "has_plain_hashes", "recorded_hashes"]

PLAIN: Final = "_sha256"
KEYED: Final = "_hmac"
KEY_BYTES: Final = 32


class DataKey:
    """A study's key.

    Attributes:
        key_id: Tells keys apart and says nothing about them.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key
        self.key_id = self.hash("key_id", "")[:16]

    @classmethod
    def read(cls, path: Path) -> Self:
        """The key in a file.

        Raises:
            OSError: There is none.
            CohortError: The file is damaged.
        """
        try:
            key = bytes.fromhex(path.read_text(encoding="ascii"))
        except ValueError as err:
            raise CohortError(
                f"{path}: no key (expected {2 * KEY_BYTES} hexadecimal digits). {_way_out(path.parent.parent)}"
            ) from err
        if len(key) != KEY_BYTES:
            raise CohortError(
                f"{path}: no key ({len(key)} bytes, expected {KEY_BYTES}). {_way_out(path.parent.parent)}"
            )
        return cls(key)

    def hash(self, name: str, plain: str) -> str:
        """Keyed hash of a plain one, in hexadecimal.

        Args:
            name: Of what: equal values of two kinds have different hashes.
            plain: Its plain hash.
        """
        return hmac.new(self._key, f"{name}:{plain}".encode(), "sha256").hexdigest()


def data_key(study: Study) -> DataKey:
    """The study's key; made (0600) where there is none, by one process of any number.

    Raises:
        CohortError: The key's file is damaged, or it is gone and runs were hashed with it.
    """
    path = study.paths.data_key
    if not path.exists():
        with exclusive_lock(path.with_name(f".{path.name}.lock")):
            if not path.exists():
                _refuse_if_lost(study)
                with atomic_path(path) as temporary:
                    temporary.chmod(0o600)
                    temporary.write_text(secrets.token_hex(KEY_BYTES) + "\n", encoding="ascii")
    return DataKey.read(path)


def recorded_hashes(study: Study, plain: Mapping[str, str], *, frozen: Mapping[str, Any] | None) -> dict[str, str]:
    """Today's hashes as a run's config records them.

    Args:
        study: The study.
        plain: Plain hashes by name, e.g. ``split_sha256``.
        frozen: The config's `data`; None for a new run.

    Returns:
        For a new run keyed hashes (``split_hmac`` …) and ``key_id``. For an older one those that its config has, in
        its way: keyed, plain, or, where ``key_id`` was removed by hand because the key is lost, unchecked.

    Raises:
        CohortError: The run was hashed with another key than the study has now.
    """
    keyed = {name: name.removesuffix(PLAIN) + KEYED for name in plain}
    if frozen is not None and not any(name in frozen for name in keyed.values()):
        return {name: value for name, value in plain.items() if name in frozen or name != f"labels{PLAIN}"}
    if frozen is not None and "key_id" not in frozen:
        return {name: str(frozen[name]) for name in keyed.values() if name in frozen}
    key = data_key(study)
    if frozen is not None and frozen["key_id"] != key.key_id:
        raise CohortError(
            f"{study.paths.data_key}: not the key that this run's data was hashed with, so it is not known whether "
            f"that data is still the same. {_way_out(study.folder)}"
        )
    return {"key_id": key.key_id, **{keyed[name]: key.hash(name, value) for name, value in plain.items()}}


def has_plain_hashes(data: Mapping[str, Any]) -> bool:
    """Whether a config's `data` is of a run that was begun before hashes were keyed."""
    return any(name.endswith(PLAIN) for name in data)


def _refuse_if_lost(study: Study) -> None:
    """A new key beside runs of the old one would make two kinds of runs, of which one is always refused."""
    for config in sorted(study.paths.runs.glob("*/config.json")):
        try:
            lost = "key_id" in read_json(config)["data"]
        except (DpdtError, OSError, KeyError, TypeError):
            continue  # an error where that run is used; no config of dpdt's
        if lost:
            raise CohortError(
                f"{study.paths.data_key}: missing, but {config.parent.name} was hashed with it, so it is not known "
                f"whether its data is still the same. {_way_out(study.folder)}"
            )


def _way_out(folder: Path) -> str:
    return (
        "Restore it from a backup. If there is none, and you know that cohort, labels and shards are unchanged since, "
        f'remove this file, and the line "key_id" from config.json of each folder in {StudyPaths(folder).runs}: those '
        "runs are then not checked."
    )
