"""The sections of a study file and their keys; each key has a default that works."""

import math
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from dpdt.base.vocabulary import LABELS
from dpdt.study.domain_settings import (
    Folder,
    Integer,
    Number,
    NumberOrInfinity,
    Section,
    Truth,
)

__all__ = [
    "AuditSettings",
    "ClusterSettings",
    "EvaluateSettings",
    "ModelSettings",
    "PretrainSettings",
    "PrivacySettings",
    "ShardSettings",
    "StudySettings",
    "TrackingSettings",
    "TrainSettings",
]

DEFAULT_IMAGES_AT_ONCE: Final = 32
# The smallest pictures that the deepest layer sees more than one pixel of.
BF16_MIN_SIZE: Final = 32


class StudySettings(Section):
    """`[study]`: name, where outputs go, seed."""

    name: str | None = Field(default=None, description="Shown in MLflow and the report; default: the folder's name.")
    folder: Folder = Field(default=Path("."), description="Where outputs go, relative to the study file.")
    preset: Literal["paper"] | None = Field(default=None, description="Start from the paper's values.")
    seed: Integer = Field(default=0, ge=0, description="For splits, the public pretraining and the non-DP arm.")
    private_files: Truth = Field(default=True, description="Create files 0600 and folders 0700.")


class ShardSettings(Section):
    """`[shards]`: how radiographs become pixels."""

    size: Integer = Field(default=512, ge=8, le=4096, description="Height and width in pixels.")
    recipe: Literal["area", "paper"] = Field(default="area", description="Resampling, see docs.")
    equalise: Truth = Field(default=True, description="Histogram equalisation after min-max.")
    aspect: Literal["stretch", "pad"] = Field(
        default="stretch", description="pad: keep the picture's shape, centred, with 0 around it."
    )
    exact_decode: Truth = Field(
        default=False,
        description="Recipe area: decode JPEG and JPEG 2000 at full scale even where half of it leaves enough.",
    )
    voi_window: Truth = Field(default=False, description="DICOM: apply the window that the file names, if it does.")
    shard_bytes: Integer = Field(default=1 << 30, ge=1, description="Pixels of one shard file, in bytes, at most.")
    num_threads: Integer = Field(default=0, ge=0, description="0: all cores given to the process.")
    max_reject_fraction: Number = Field(default=0.01, ge=0.0, le=1.0, description="More rejects fail the stage.")

    @property
    def rows_per_shard(self) -> int:
        """Cohort rows that one shard covers (rejected ones included)."""
        return max(1, self.shard_bytes // (self.size * self.size))


class ModelSettings(Section):
    """`[model]`: the network."""

    name: str = Field(
        default="resnet9", description="`resnet9`, or your own network's function as `package.module:function`."
    )
    options: dict[str, Any] = Field(default_factory=dict, description="Passed to your own function, by name.")
    width: Integer = Field(default=64, ge=8, multiple_of=8, description="Channels of the first stage (paper: 64).")
    in_channels: Literal[1, 3] = Field(default=1, description="3: gray repeated, as published weights expect.")
    init_weights: Folder | None = Field(default=None, description="State dict to start from instead of pretraining.")

    @model_validator(mode="after")
    def _known(self) -> Self:
        own = re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", self.name)
        if self.name != "resnet9" and not own:
            raise ValueError(f"name: expected 'resnet9' or 'package.module:function', got {self.name!r}")
        if self.options and not own:
            raise ValueError("options: only for your own network, name = 'package.module:function'")
        return self

    def fingerprinted(self) -> dict[str, Any]:
        """What decides a result."""
        return self.model_dump(mode="json", exclude=set() if self.options else {"options"})


class PretrainSettings(Section):
    """`[pretrain]`: training on the public domain, without DP."""

    num_epochs: Number = Field(default=20, gt=0, description="Expected passes over the public images.")
    expected_batch_size: Integer = Field(default=128, ge=1, description="Units of a logical step, in expectation.")
    learning_rate: Number = Field(default=2e-4, gt=0, description="Of NAdam.")
    weight_decay: Number = Field(default=0.0, ge=0, description="Of NAdam.")


class TrainSettings(Section):
    """`[train]`: the trainings, the same for both arms."""

    domains: tuple[str, ...] | None = Field(default=None, description="Default: every domain with role study.")
    seeds: tuple[Integer, ...] = Field(default=(0,), min_length=1, description="One training a value.")
    num_epochs: Number = Field(default=80, gt=0, description="Expected passes over the privacy units.")
    expected_batch_size: Integer = Field(default=128, ge=1, description="Units of a logical step, in expectation.")
    physical_batch_size: Literal["auto"] | Annotated[Integer, Field(ge=1)] = Field(
        default=DEFAULT_IMAGES_AT_ONCE, description="Images at once in memory; auto: as many as fit."
    )
    learning_rate: Number = Field(default=2e-4, gt=0, description="Of NAdam, of both arms.")
    weight_decay: Number = Field(default=0.0, ge=0, description="Of NAdam, of both arms.")
    class_weights: Literal["none", "public", "private"] | tuple[Number, ...] = Field(
        default="none",
        description="Weight of positives in the loss: none, from the public domain, five given numbers, or private: "
        "counted with noise that privacy.class_weights_share of epsilon pays for. Exact counts of private labels are "
        "not offered in a DP arm: they would be released outside of epsilon.",
    )
    checkpoint_every_steps: Integer = Field(default=50, ge=1, description="Logical steps between two checkpoints.")
    precision: Literal["float32", "bf16"] = Field(
        default="float32",
        description="bf16: autocast of forward and backward passes; norms, sums, weights stay float32.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="Where pretrain, train and evaluate compute; auto: a GPU if torch sees one."
    )
    num_threads: Integer = Field(default=0, ge=0, description="CPU threads of a training; 0: all given cores.")

    @field_validator("physical_batch_size", mode="before")
    @classmethod
    def _number_or_auto(cls, value: object) -> object:
        if value != "auto" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"expected a whole number of at least 1, or 'auto', got {value!r}")
        return value

    @property
    def images_at_once(self) -> int:
        """Where nothing but a default will do for "auto": testing, planning."""
        return DEFAULT_IMAGES_AT_ONCE if self.physical_batch_size == "auto" else self.physical_batch_size

    @model_validator(mode="after")
    def _weights_per_label(self) -> Self:
        if isinstance(self.class_weights, tuple):
            if len(self.class_weights) != len(LABELS):
                raise ValueError(
                    f"class_weights: expected {len(LABELS)} numbers ({', '.join(LABELS)}), "
                    f"got {len(self.class_weights)}"
                )
            if not all(math.isfinite(w) and w > 0 for w in self.class_weights):
                raise ValueError(f"class_weights: expected positive finite numbers, got {list(self.class_weights)}")
        return self


class PrivacySettings(Section):
    """`[privacy]`: what is protected, and how strongly."""

    target_epsilons: tuple[NumberOrInfinity, ...] = Field(
        default=(1.0, 8.0, math.inf), min_length=1, description="One training a value; inf is the arm without DP."
    )
    unit: Literal["patient", "image"] = Field(default="patient", description="What one unit of the guarantee is.")
    images_per_patient: Integer = Field(
        default=1, ge=1, description="Images of a drawn patient; their gradients are averaged, then clipped as one."
    )
    delta: Number = Field(
        default=1e-5, gt=0, lt=1, description="Probability that epsilon does not hold; below 1 / units of every domain."
    )
    allow_large_delta: Truth = Field(
        default=False, description="Accept delta >= 1 / units, which protects nobody for sure; the statement says so."
    )
    max_grad_norm: Number = Field(default=1.5, gt=0, description="Bound on the norm of one unit's gradient.")
    class_weights_share: Number = Field(
        default=0.05, gt=0, lt=1, description="Part of epsilon that train.class_weights = 'private' counts labels with."
    )
    accountant: Literal["pld", "prv", "rdp"] = Field(
        default="pld", description="How epsilon is computed from the ledger; pld is the tightest."
    )
    clipping: Literal["bookkeeping", "hooks", "ghost"] = Field(
        default="bookkeeping", description="How per-sample gradients are clipped: dpdt's engine, or Opacus' two."
    )
    reserve_steps: Integer = Field(default=10, ge=1, description="Noisy steps that the ledger reserves at once.")

    @model_validator(mode="after")
    def _positive(self) -> Self:
        for value in self.target_epsilons:
            if math.isnan(value) or value <= 0:
                raise ValueError(f"target_epsilons: expected positive numbers (inf for no DP), got {value}")
        if len(set(self.target_epsilons)) != len(self.target_epsilons):
            raise ValueError(
                f"target_epsilons: a value occurs twice in {list(self.target_epsilons)}; each is one training"
            )
        return self

    @model_validator(mode="after")
    def _several_images(self) -> Self:
        if self.images_per_patient > 1 and self.unit != "patient":
            raise ValueError(f"images_per_patient: {self.images_per_patient} needs unit = 'patient'")
        if self.images_per_patient > 1 and self.clipping == "ghost":
            raise ValueError(
                f"images_per_patient: {self.images_per_patient} needs clipping = 'bookkeeping' or 'hooks'; ghost "
                "clipping has no norm of several images' mean gradient"
            )
        return self


class EvaluateSettings(Section):
    """`[evaluate]`: which models are tested where, and how surely."""

    domains: tuple[str, ...] | None = Field(default=None, description="Test domains; default: the train domains.")
    bootstrap_draws: Integer = Field(default=1000, ge=0, description="Bootstrap draws; 0: no intervals.")
    bootstrap_unit: Literal["patient", "image"] = Field(
        default="patient", description="What a draw takes; images of one patient are not independent."
    )
    confidence: Number = Field(default=0.95, gt=0, lt=1, description="Of the intervals.")
    min_subgroup_size: Integer = Field(default=10, ge=1, description="Cells with fewer images are left empty.")
    equivalence_margin: Number = Field(
        default=0.01, gt=0, lt=1, description="A difference in AUC within ± this counts as equivalent (TOST)."
    )


class AuditSettings(Section):
    """`[audit]`: attacks on the trainings; in no fingerprint, because audits leave the trainings alone."""

    canaries: Integer = Field(
        default=0,
        ge=0,
        lt=1 << 20,
        description="Made-up patients of an audit's twin training, each in it by the toss of a coin; 0: no twin.",
    )
    confidence: Number = Field(default=0.95, gt=0, lt=1, description="Of the lower bound on epsilon.")


class TrackingSettings(Section):
    """`[tracking]`: MLflow."""

    uri: str | None = Field(default=None, description="Default: SQLite in the study's folder.")
    experiment: str | None = Field(default=None, description="Default: the study's name.")
    system_metrics: Truth = Field(default=False, description="Sample processor, memory and GPUs during trainings.")


class ClusterSettings(Section):
    """`[cluster]`: how tasks are sent."""

    profile: str | None = Field(default=None, description="A file of slurm/clusters (its stem), or a path to one.")
    partition: str | None = Field(default=None, description="As for sbatch; default: Slurm's own.")
    account: str | None = Field(default=None, description="As for sbatch; default: Slurm's own.")
    qos: str | None = Field(default=None, description="As for sbatch; default: Slurm's own.")
    constraint: str | None = Field(default=None, description="Feature that nodes must have, as for sbatch.")
    gpus_per_task: Integer = Field(default=0, ge=0, description="For pretrain, train and evaluate.")
    nodes_per_task: Integer = Field(default=1, ge=1, description="For pretrain and train: one process a GPU on each.")
    gpu_type: str | None = Field(default=None, description="Slurm's name of the kind of GPU, e.g. `a100`.")
    cpus_per_task: Integer = Field(default=2, ge=1, description="Cores of each task, on each of its nodes.")
    mem_gb: Number = Field(default=8.0, gt=0, description="Memory of each task, on each of its nodes.")
    timeout_min: Integer = Field(default=240, ge=1, description="Time limit; a training goes on in the next attempt.")
    array_parallelism: Integer = Field(default=64, ge=1, description="Tasks of one stage that may run at once.")
    max_attempts: Integer = Field(default=100, ge=1, description="Starts of a job in all; each requeue is one more.")
    shard_tasks: Integer = Field(default=1, ge=1, description="Tasks that share the making of one domain's shards.")
    scratch: str | None = Field(default=None, description="Folder of the node for shards, e.g. `$SLURM_TMPDIR`.")
    local_parallelism: Integer = Field(default=2, ge=1, description="Tasks at once with --cluster local.")
    setup: tuple[str, ...] = Field(default=(), description="Shell lines before the task, e.g. `module load …`.")
