"""Which trainings a file of weights comes from: the run that wrote it, the one whose weights that run began with, ….

Weights are recognised by their check sums, so a copy is found wherever it lies, as long as the run that wrote it has
its folder: among the study's runs, or among those beside a run of the chain.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dpdt.base.files import read_json, sha256_once
from dpdt.cohort.data_hashes import DataKey
from dpdt.errors import CohortError
from dpdt.study.paths import RunPaths, StudyPaths

__all__ = ["Ancestor", "Ancestry", "ancestry"]

RANDOM: Final = "random"


@dataclass(frozen=True)
class Ancestor:
    """One training of the chain.

    Attributes:
        paths: Its run.
        config: What it was begun with.
    """

    paths: RunPaths
    config: dict[str, Any]

    @property
    def domain(self) -> str:
        """What it was trained on."""
        return str(self.config.get("domain"))

    def saw(self, hashes: Mapping[str, str]) -> bool:
        """Whether it learned from these very data, whatever their domain is called.

        Args:
            hashes: Plain ones by name: ``split_sha256`` and, where both have the same labels, ``labels_sha256``. All
                must be its own: in two hospitals that number their images from 0 the first may be equal by chance.

        Returns:
            False also where it is not known: configs have hashes under the key of their own study, which may be gone.
        """
        data = self.config.get("data") or {}
        if all(name in data for name in hashes):  # begun before hashes were keyed
            return all(data[name] == plain for name, plain in hashes.items())
        try:
            key = DataKey.read(StudyPaths(self.paths.folder.parent.parent).data_key)
        except (OSError, CohortError):
            return False
        keyed = {name.replace("_sha256", "_hmac"): key.hash(name, plain) for name, plain in hashes.items()}
        return all(data.get(name) == value for name, value in keyed.items())


@dataclass(frozen=True)
class Ancestry:
    """A chain of trainings.

    Attributes:
        runs: The one that wrote the weights, then the one that it began from, and so on.
        from_random: Whether the first of them began with random weights; otherwise nobody knows what was before it.
    """

    runs: tuple[Ancestor, ...]
    from_random: bool

    def as_dict(self) -> dict[str, Any]:
        """For the config."""
        names = ("run_id", "kind", "domain", "target_epsilon")
        return {
            "runs": [{name: run.config.get(name) for name in names} for run in self.runs],
            "from_random": self.from_random,
        }


def ancestry(weights: Path, *, runs: Path, given: Path | None = None) -> Ancestry:
    """Follow weights back; where a run of the chain has gone, by what the one after it recorded of it.

    Args:
        weights: A file; one that lies in a run's `checkpoints/` is that run's.
        runs: The study's runs.
        given: A file of weights that a training of the chain began with, as the study names it.
    """
    found: list[Ancestor] = []
    beside = weights.resolve().parent.parent
    look_in = [runs, *([] if given is None else [given.resolve().parent.parent.parent])]
    sha256: str | None = None
    folder = beside if (beside / "config.json").exists() else None
    if folder is None and weights.exists():
        sha256 = sha256_once(weights)
        folder = _written_by(sha256, look_in)
    while folder is not None and all(folder != run.paths.folder for run in found):
        paths = RunPaths(folder)
        found.append(Ancestor(paths, read_json(paths.config)))
        if folder.parent not in look_in:
            look_in.append(folder.parent)
        initial = found[-1].config.get("initial_weights") or {}
        if initial.get("source") == RANDOM:
            return Ancestry(tuple(found), from_random=True)
        folder = None if initial.get("sha256") is None else _written_by(str(initial["sha256"]), look_in)
    recorded = (found[-1].config.get("ancestry") or {}) if found else {}
    gone = [Ancestor(RunPaths(Path(run["run_id"])), dict(run)) for run in recorded.get("runs", ())]
    return Ancestry((*found, *gone), from_random=bool(recorded.get("from_random", False)))


def _written_by(sha256: str, look_in: list[Path]) -> Path | None:
    """The run whose final weights have this check sum."""
    for runs in look_in:
        for weights in sorted(runs.glob("*/checkpoints/final.pt")):
            folder = weights.parent.parent
            if weights.exists() and (folder / "config.json").exists() and sha256_once(weights) == sha256:
                return folder.resolve()
    return None
