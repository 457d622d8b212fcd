"""What a stage's tasks ask of the cluster: the study file's `[cluster]` over a cluster profile over the defaults."""

import os
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dpdt.errors import StudyError
from dpdt.study import Study
from dpdt.study.settings import ClusterSettings
from dpdt.study.source import merge, not_text
from dpdt.study.tasks import GPU_STAGES, STAGES, TRAINING_STAGES

__all__ = ["PROFILES", "Profile", "Resources", "StageSettings", "resources"]

# The profiles of the repository: in the checkout, or where an installation puts them.
_PACKAGE: Final = Path(__file__).parents[1]
PROFILES: Final = next(
    (folder for folder in [_PACKAGE.parent / "slurm" / "clusters"] if folder.is_dir()), _PACKAGE / "clusters"
)


# What these stages need at most, whatever the trainings are given; a profile's `[stages.<stage>]` may ask for more.
LIGHT_STAGES: Final = ("cohort", "report", "track")
LIGHT: Final = {"cpus_per_task": 2, "mem_gb": 8.0, "timeout_min": 240}


class StageSettings(BaseModel):
    """`[stages.<stage>]` of a profile: what one stage asks for instead of the general values."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    partition: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gpus_per_task: int | None = Field(default=None, ge=0)
    gpu_type: str | None = None
    cpus_per_task: int | None = Field(default=None, ge=1)
    mem_gb: float | None = Field(default=None, gt=0)
    timeout_min: int | None = Field(default=None, ge=1)
    array_parallelism: int | None = Field(default=None, ge=1)
    extra: dict[str, bool | int | str] = Field(default={})


class Profile(ClusterSettings):
    """A file of slurm/clusters: the keys of `[cluster]`, and what only a site needs."""

    python: str | None = Field(default=None, description="Shell command that starts Python on a node.")
    image: str | None = Field(default=None, description="Apptainer image that has dpdt; python is run in it.")
    binds: tuple[str, ...] = Field(default=(), description="More folders that the image shows than the study's own.")
    signal_delay_s: int = Field(default=90, ge=10, description="Seconds between the warning signal and the time limit.")
    stages: dict[str, StageSettings] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_python(self) -> Self:
        if self.image is not None and self.python is not None:
            raise ValueError("python and image: only one of them may be given; an image starts its own python")
        return self


@dataclass(frozen=True)
class Resources:
    """What each task of one stage asks for on each node.

    gpus is 0 for stages that only use CPUs; ranks are the processes that share gpus, cpus and mem_gb. The names in
    extra are sbatch's, with `-`.
    """

    partition: str | None
    account: str | None
    qos: str | None
    constraint: str | None
    gpus: int
    gpu_type: str | None
    nodes: int
    ranks: int
    cpus: int
    mem_gb: float
    timeout_min: int
    array_parallelism: int
    local_parallelism: int
    setup: tuple[str, ...]
    python: str | None
    image: str | None
    binds: tuple[str, ...]
    signal_delay_s: int
    max_attempts: int
    scratch: str | None
    extra: dict[str, bool | int | str]

    @property
    def kind_of_node(self) -> dict[str, str | int | None]:
        """What decides which nodes will do, by sbatch's and srun's names with `_`; None for Slurm's own choice."""
        return {
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "gpus_per_node": f"{self.gpu_type}:{self.gpus}" if self.gpus and self.gpu_type else self.gpus or None,
        }


def resources(study: Study) -> dict[str, Resources]:
    """Resources of every stage.

    A key that the study file sets wins over the profile's general value; the profile's `[stages.<stage>]` wins over
    both, because it is more specific. Stages that cannot use a GPU never ask for one, and those that read or write
    tables alone ask for little.

    Raises:
        StudyError: The profile is missing, or has a key or value that is not understood.
    """
    given = study.cluster.model_dump(include=study.cluster.model_fields_set - {"profile"})
    profile = _read_profile(study, given)
    if profile.image is not None:
        profile = profile.model_copy(update={"binds": (*profile.binds, *_folders(study))})
    return {stage: _of_stage(profile, stage) for stage in STAGES}


def _folders(study: Study) -> tuple[str, ...]:
    """Folders that the tasks read and write, as far as they are there; none that is below another."""
    wanted = [
        study.file.parent,
        study.folder,
        *(path for domain in study.used_domains for path in study.raw_paths(domain)),
    ]
    there = {folder for path in wanted if (folder := path.parent if path.is_file() else path).is_dir()}
    if study.folder not in there:
        there.update(path for path in study.folder.parents[:1] if path.is_dir())
    return tuple(sorted(str(path) for path in there if there.isdisjoint(path.parents)))


def _of_stage(profile: Profile, stage: str) -> Resources:
    special = profile.stages.get(stage, StageSettings())
    values = profile.model_dump()
    if stage in LIGHT_STAGES:
        values |= {key: min(values[key], most) for key, most in LIGHT.items()}
    values |= special.model_dump(exclude_none=True)
    gpus = values["gpus_per_task"] if stage in GPU_STAGES else 0
    trains = stage in TRAINING_STAGES
    if not trains:
        gpus = min(gpus, 1)
    as_named = {field.name: values[field.name] for field in fields(Resources) if field.name in values}
    changed = {
        "gpus": gpus,
        "ranks": max(1, gpus),
        "nodes": values["nodes_per_task"] if trains else 1,
        "cpus": values["cpus_per_task"],
        "extra": {key.replace("_", "-"): value for one in (profile, special) for key, value in one.extra.items()},
    }
    return Resources(**{**as_named, **changed})


def _read_profile(study: Study, given: dict[str, Any]) -> Profile:
    name = study.cluster.profile
    if name is None:
        return Profile.model_validate(given)
    file = _profile_file(study, name)
    try:
        raw = tomllib.loads(file.read_text(encoding="utf-8-sig"))  # as a study file
    except OSError as err:
        known = ", ".join(sorted(path.stem for path in PROFILES.glob("*.toml"))) or "none"
        raise StudyError(
            f"cluster.profile: {file} cannot be read ({err.strerror}). Expected the path of a TOML file, "
            f"or one of: {known}."
        ) from err
    except UnicodeDecodeError as err:
        raise StudyError(not_text(file, err)) from err
    except tomllib.TOMLDecodeError as err:
        raise StudyError(f"{file}: not valid TOML: {err}.") from err
    stages = raw.get("stages")
    for stage in stages if isinstance(stages, dict) else ():  # what is no table, the model refuses
        if stage not in STAGES:
            raise StudyError(f"{file}: stages.{stage}: unknown stage. Valid stages: {', '.join(STAGES)}.")
    if "shard_tasks" in raw:
        raise StudyError(f"{file}: shard_tasks: belongs in [cluster] of the study file, not in a profile.")
    try:
        return Profile.model_validate(merge(raw, given))
    except ValidationError as err:
        first = err.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if not first["loc"]:
            raise StudyError(f"{file}: {first['msg'].removeprefix('Value error, ')}.") from err
        valid = StageSettings.model_fields if first["loc"][0] == "stages" else Profile.model_fields
        raise StudyError(f"{file}: {where}: {first['msg']}. Valid keys: {', '.join(valid)}.") from err


def _profile_file(study: Study, name: str) -> Path:
    """A path (relative to the study file), or the stem of a file in the repository's slurm/clusters."""
    if "/" in name or name.endswith(".toml"):
        return study.file.parent / os.path.expanduser(name)  # as it is where there is no such user
    return PROFILES / f"{name}.toml"
