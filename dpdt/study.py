"""The one configuration: a study file in TOML, read into models that forbid unknown keys.

Every key has a default that works. Keys that only change speed live in `[shards] num_threads`, `[train]
physical_batch_size`, `device`, `num_threads` and `[cluster]`; they are left out of every fingerprint and can never
change epsilon.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from dpdt.domain_settings import DOMAIN_KINDS, DomainSettings, Folder, Integer, Number, NumberOrInfinity, Section, Truth
from dpdt.errors import StudyError
from dpdt.files import fingerprint
from dpdt.paths import StudyPaths
from dpdt.study_source import Source, explain, read_source
from dpdt.vocabulary import LABELS

__all__ = [
    "DOMAIN_KINDS",
    "AuditSettings",
    "Cell",
    "ClusterSettings",
    "DomainSettings",
    "EvaluateSettings",
    "ModelSettings",
    "PretrainSettings",
    "PrivacySettings",
    "ShardSettings",
    "Study",
    "StudySettings",
    "TrackingSettings",
    "TrainSettings",
    "check_study",
    "format_epsilon",
    "load_study",
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


class Study(Section):
    """A whole study: the study file's sections."""

    study: StudySettings = StudySettings()
    domains: dict[str, DomainSettings] = Field(default_factory=dict)
    shards: ShardSettings = ShardSettings()
    model: ModelSettings = ModelSettings()
    pretrain: PretrainSettings = PretrainSettings()
    train: TrainSettings = TrainSettings()
    privacy: PrivacySettings = PrivacySettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    audit: AuditSettings = AuditSettings()
    tracking: TrackingSettings = TrackingSettings()
    cluster: ClusterSettings = ClusterSettings()

    file: Path = Field(exclude=True, description="The study file itself (absolute).")

    @model_validator(mode="after")
    def _names(self) -> Self:
        for name, domain in self.domains.items():
            if not name.replace("_", "").isalnum():
                raise ValueError(f"domains.{name}: use letters, digits and _ only, the name becomes a file name")
            if domain.kind is None and name not in DOMAIN_KINDS:
                raise ValueError(f"domains.{name}: add kind = one of {', '.join(DOMAIN_KINDS)}")
            kind = domain.kind or name
            if (kind == "table") != (domain.table is not None):
                missing = f'kind = "table" needs [domains.{name}.table], see docs/own-hospital.md'
                given = f'[domains.{name}.table] belongs to kind = "table", this domain is of kind {kind!r}'
                raise ValueError(f"domains.{name}: {missing if domain.table is None else given}")
            if domain.sublabels and kind != "padchest":
                raise ValueError(f"domains.{name}.sublabels: only for kind padchest, this domain is of kind {kind!r}")
        for key, names in (("train.domains", self.train.domains), ("evaluate.domains", self.evaluate.domains)):
            for name in names or ():
                if name not in self.domains:
                    raise ValueError(f"{key}: no [domains.{name}]; known: {', '.join(self.domains) or 'none'}")
        if self.train.precision == "bf16" and self.privacy.clipping == "ghost":
            raise ValueError("train.precision: bf16 breaks ghost clipping's bound; use clipping = 'bookkeeping'")
        if self.train.precision == "bf16" and self.shards.size < BF16_MIN_SIZE:
            raise ValueError(
                f"train.precision: bf16 needs shards.size of at least {BF16_MIN_SIZE}, got {self.shards.size}: on "
                "planes of one pixel torch's bf16 convolutions leave a part of the weight gradient unset"
            )
        if len(self.public_domains) > 1:
            raise ValueError(f"domains: only one may have role public, got {', '.join(self.public_domains)}")
        return self

    @model_validator(mode="after")
    def _public_is_not_private(self) -> Self:
        """Pretraining has no DP: who is in it has no guarantee in the arms that start from it."""
        public = self.public_domain
        if public is None or all(math.isinf(epsilon) for epsilon in self.privacy.target_epsilons):
            return self
        for name in self.train_domains:
            if name == public or self._raw(name) == self._raw(public):
                same = "" if name == public else f", which has the same data as {public}"
                raise ValueError(
                    f"train.domains: {name}{same}, is pretrained on without DP (role public), so no epsilon would hold "
                    f"for its patients. Leave it out of train.domains, set domains.{public}.role = 'study', or train "
                    "it without DP (privacy.target_epsilons = [inf])"
                )
        return self

    @property
    def folder(self) -> Path:
        """Absolute folder of the study's outputs."""
        return (self.file.parent / self.study.folder).resolve()

    @property
    def paths(self) -> StudyPaths:
        """Names of all files of the study."""
        return StudyPaths(self.folder)

    @property
    def _precision(self) -> dict[str, str]:
        """For the names of runs."""
        return {} if self.train.precision == "float32" else {"precision": self.train.precision}

    @property
    def name(self) -> str:
        """Name shown to people."""
        return self.study.name or self.folder.name

    def kind(self, domain: str) -> str:
        """Which institution's layout a domain has."""
        return self.domains[domain].kind or domain

    def root(self, domain: str) -> Path:
        """Absolute folder of a domain's raw data."""
        return (self.file.parent / self.domains[domain].root).resolve()

    def _raw(self, domain: str) -> tuple[object, ...]:
        """Which data a domain reads, by any name of it."""
        return self.kind(domain), self.root(domain), self.domains[domain].table

    def role(self, domain: str) -> str:
        """`study` or `public`."""
        settings = self.domains[domain]
        return settings.role or ("public" if self.kind(domain) == "mimic" else "study")

    @property
    def public_domains(self) -> tuple[str, ...]:
        """Domains used for pretraining only (none or one)."""
        return tuple(d for d in self.domains if self.role(d) == "public")

    @property
    def public_domain(self) -> str | None:
        """The domain that the network is pretrained on, if there is one and no weights are given."""
        if self.model.init_weights is not None or not self.public_domains:
            return None
        return self.public_domains[0]

    @property
    def train_domains(self) -> tuple[str, ...]:
        """Domains that models are trained on."""
        return self.train.domains or tuple(d for d in self.domains if self.role(d) == "study")

    @property
    def test_domains(self) -> tuple[str, ...]:
        """Domains that every model is tested on."""
        return self.evaluate.domains or self.train_domains

    @property
    def used_domains(self) -> tuple[str, ...]:
        """Every domain that needs a cohort and shards, in the study file's order."""
        used = {*self.train_domains, *self.test_domains}
        if self.public_domain:
            used.add(self.public_domain)
        return tuple(d for d in self.domains if d in used)

    def cohort_fingerprint(self, domain: str) -> str:
        """Hash of everything in the study file that decides who is in a domain's cohort."""
        settings = self.domains[domain].model_dump(mode="json", exclude={"root", "role"})
        return fingerprint({"kind": self.kind(domain), "settings": settings, "seed": self.study.seed})

    def shards_fingerprint(self, domain: str) -> str:
        """Hash of everything in the study file that decides the bytes of a domain's shards."""
        settings = self.shards.model_dump(mode="json", exclude={"num_threads", "max_reject_fraction"})
        return fingerprint({"cohort": self.cohort_fingerprint(domain), "shards": settings})

    @property
    def pretrain_run_id(self) -> str | None:
        """Run folder of the public pretraining; None where there is none."""
        if self.public_domain is None:
            return None
        digest = fingerprint(
            {
                "shards": self.shards_fingerprint(self.public_domain),
                "model": self.model.fingerprinted(),
                "pretrain": self.pretrain.model_dump(mode="json"),
                # of a step's draw; the default is not written, so that trainings from before keep their names
                **({} if self.privacy.unit == "patient" else {"unit": self.privacy.unit}),
                "seed": self.study.seed,
                **self._precision,
            }
        )
        return f"pretrain-{self.public_domain}-{digest[:8]}"

    def cells(self) -> tuple["Cell", ...]:
        """Every training of the study: domain × target epsilon × seed."""
        return tuple(
            Cell(domain=domain, target_epsilon=epsilon, seed=seed)
            for domain in self.train_domains
            for epsilon in self.privacy.target_epsilons
            for seed in self.train.seeds
        )

    def run_id(self, cell: "Cell") -> str:
        """Name of a training's run folder; it changes with every setting that changes the result."""
        privacy = self.privacy.model_dump(mode="json", exclude={"target_epsilons", "reserve_steps"})
        speed = {"domains", "seeds", "physical_batch_size", "checkpoint_every_steps", "device", "num_threads"}
        speed.add("precision")  # below, so that float32 is what it was before there was a choice
        digest = fingerprint(
            {
                "shards": self.shards_fingerprint(cell.domain),
                "model": self.model.fingerprinted(),
                "pretrain": self.pretrain_run_id,
                "train": self.train.model_dump(mode="json", exclude=speed),
                "privacy": {key: privacy[key] for key in (privacy if cell.private else ("unit", "images_per_patient"))},
                "cell": [cell.domain, format_epsilon(cell.target_epsilon), cell.seed, self.study.seed],
                **self._precision,
            }
        )
        epsilon = format_epsilon(cell.target_epsilon)
        return f"{cell.domain}-{self.privacy.unit}-eps{epsilon}-seed{cell.seed}-{digest[:8]}"

    def audit_run_id(self, cell: "Cell") -> str:
        """Run folder of a training's twin with canaries."""
        return f"audit{self.audit.canaries}-{self.run_id(cell)}"


class Cell(NamedTuple):
    """One training of the study."""

    domain: str
    target_epsilon: float
    seed: int

    @property
    def private(self) -> bool:
        """Whether this training has DP."""
        return math.isfinite(self.target_epsilon)


def format_epsilon(epsilon: float) -> str:
    """Epsilon as it is written in file names and tables.

    >>> format_epsilon(8.0), format_epsilon(0.5), format_epsilon(float("inf"))
    ('8', '0.5', 'inf')
    """
    return "inf" if math.isinf(epsilon) else f"{epsilon:g}"


def load_study(file: str | Path, *, overrides: Sequence[str] = ()) -> Study:
    """Read and check a study file.

    Args:
        file: A TOML file, or a folder with a `study.toml`.
        overrides: `section.key=value` each, as after `--set` on the command line; they win over the file.

    Returns:
        The study, with the preset's values and defaults filled in.

    Raises:
        StudyError: The file is missing, not TOML, or has a key or value that is not understood.
    """
    return check_study(read_source(file, overrides=overrides))


def check_study(source: Source) -> Study:
    """Check the values of a study file.

    Raises:
        StudyError: A key or value is not understood; the message names the line.
    """
    sections = [name for name in Study.model_fields if name != "file"]
    if "file" in source.values:
        raise StudyError(f"{source.where('file')}: file: unknown key. Valid keys: {', '.join(sections)}.")
    try:
        study = Study.model_validate({**source.values, "file": source.file.resolve()})
    except ValidationError as err:
        raise StudyError(explain(err, source, Study, sections)) from err
    if not study.domains:
        raise StudyError(f'{source.file}: the study has no domain. Add one as [domains.<name>] with root = "…".')
    return study
