"""The sections of a study file and their keys; each key has a default that works."""

import difflib
import math
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, field_validator, model_validator

from dpdt.base.vocabulary import LABELS, check_labels, check_name
from dpdt.study.arms import is_before
from dpdt.study.clipping_engines import CLIPPING_ENGINES, ClippingName
from dpdt.study.networks import NETWORKS
from dpdt.study.section import About, Folder, Integer, Number, NumberOrInfinity, Section, Truth, each_once, only_once

__all__ = [
    "NETWORK_STAGES",
    "AuditSettings",
    "CarriedModelSettings",
    "ClusterSettings",
    "EvaluateSettings",
    "GroupSettings",
    "LabelSettings",
    "ModelSettings",
    "PretrainSettings",
    "PrivacySettings",
    "ReportSettings",
    "ShardSettings",
    "StudySettings",
    "TrackingSettings",
    "TrainSettings",
]

DEFAULT_IMAGES_AT_ONCE: Final = 32
Findings = Annotated[
    tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value), Field(min_length=1)
]
NETWORK_STAGES: Final = r"last ([1-9]\d*) stages?"
PARAMETERS: Final = ("all", "head", "norms+head", "last 2 stages")
# The smallest pictures that the deepest layer sees more than one pixel of.
BF16_MIN_SIZE: Final = 32


class StudySettings(Section):
    """`[study]`: name, where outputs go, seed."""

    name: Annotated[
        str | None, About("Give it a name that people recognise in MLflow and in the report.", example='"lung study"')
    ] = Field(default=None, description="Shown in MLflow and the report; default: the folder's name.")
    folder: Annotated[Folder, About("Keep the results on another disk than the study file.")] = Field(
        default=Path("."), description="Where outputs go, relative to the study file."
    )
    preset: Annotated[
        Literal["paper", "strong"] | None,
        About("Repeat the paper, or get more from the same epsilon; keys in this file still win.", example='"paper"'),
    ] = Field(
        default=None, description="Start from the paper's values, or from the recipe that docs/recipes.md measures."
    )
    seed: Annotated[Integer, About("Draw other splits and another non-DP arm. DP noise never comes from it.")] = Field(
        default=0, ge=0, description="For splits, the public pretraining and the non-DP arm."
    )
    labels: Annotated[
        tuple[str, ...],
        About("Train on other findings; see docs/labels.md.", example='["pneumothorax", "fracture"]'),
    ] = Field(
        default=LABELS,
        min_length=1,
        description="What is trained and tested, the main ones first: an output of the network each.",
    )
    private_files: Annotated[
        Truth, About("false: leave the permissions to your umask, for a folder that a group shares.")
    ] = Field(default=True, description="Create files 0600 and folders 0700.")

    @model_validator(mode="after")
    def _labels_named(self) -> Self:
        try:
            check_labels(self.labels)
        except ValueError as err:
            raise ValueError(f"labels: {err}") from err
        return self


class LabelSettings(Section):
    """`[labels.<name>]`: the findings that make a label, by domain: `chexpert = ["Pleural Effusion"]`."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Findings] = Field(init=False)

    @property
    def given(self) -> dict[str, tuple[str, ...]]:
        """Findings by domain."""
        return dict(self.__pydantic_extra__ or {})


class ShardSettings(Section):
    """`[shards]`: how radiographs become pixels."""

    size: Annotated[
        Integer, About("Smaller is quicker (cost grows with its square); the paper has 512.", unit="pixels")
    ] = Field(default=512, ge=8, le=4096, description="Height and width in pixels.")
    recipe: Annotated[Literal["area", "paper"], About('"paper" repeats the paper\'s resampling to the pixel.')] = Field(
        default="area", description="Resampling, see docs."
    )
    equalise: Annotated[Truth, About("Keep the grey levels as they are.")] = Field(
        default=True, description="Histogram equalisation after min-max."
    )
    aspect: Annotated[
        Literal["stretch", "pad"], About('"pad" keeps hearts from looking wider in portrait pictures.')
    ] = Field(default="stretch", description="pad: keep the picture's shape, centred, with 0 around it.")
    exact_decode: Annotated[
        Truth, About("Bit for bit the same pixels as full decoding, for up to four times the time.")
    ] = Field(
        default=False,
        description="Recipe area: decode JPEG 2000 at full scale even where a smaller one leaves enough.",
    )
    voi_window: Annotated[Truth, About("Your DICOM files name the window that the radiologist saw.")] = Field(
        default=False, description="DICOM: apply the window that the file names, if it does."
    )
    shard_bytes: Annotated[
        Integer, About("Smaller files for more array tasks at once, or for a small disk.", unit="bytes")
    ] = Field(default=1 << 30, ge=1, description="Pixels of one shard file, in bytes, at most.")
    num_threads: Annotated[
        Integer, About("Leave cores to others. Changes no byte.", unit="threads", decides="speed")
    ] = Field(default=0, ge=0, description="0: all cores given to the process.")
    max_reject_fraction: Annotated[
        Number,
        About("A corpus with many damaged files, once you know which.", unit="part of the images", decides="speed"),
    ] = Field(default=0.01, ge=0.0, le=1.0, description="More rejects fail the stage; one never does, but at 0.")

    @property
    def rows_per_shard(self) -> int:
        """Cohort rows that one shard covers (rejected ones included)."""
        return max(1, self.shard_bytes // (self.size * self.size))


class ModelSettings(Section):
    """`[model]`: the network."""

    name: Annotated[str, About("Train another network.")] = Field(
        default="resnet9",
        description=f"`resnet9`, {', '.join(f'`{name}`' for name in NETWORKS)} (of timm: the extra `networks`), or "
        "your own network's function as `package.module:function`.",
    )
    options: Annotated[
        dict[str, Any],
        About("Your function takes more than num_outputs and in_channels.", example="{ depth = 18 }", later=True),
    ] = Field(
        default_factory=dict,
        description="Passed to your own function, by name. A network of timm takes `drop_path_rate`, the share of "
        "images that skip its last block (stochastic depth; the draws are each image's own).",
    )
    width: Annotated[
        Integer, About("Smaller is quicker: time and memory grow about with its square, weights too.", unit="channels")
    ] = Field(
        default=64,
        ge=8,
        multiple_of=8,
        description="Channels of the first stage (paper: 64), or of a ViT's tokens; a "
        "network of timm has its own where nothing is given.",
    )
    in_channels: Annotated[
        Literal[1, 3], About("3: start from weights published for colour images, as the paper does.")
    ] = Field(default=1, description="3: gray repeated, as published weights expect; always so in networks of timm.")
    init_weights: Annotated[
        Folder | None, About("Start from a file instead of pretraining.", example='"weights/resnet9.pt"')
    ] = Field(
        default=None,
        description="State dict to start from instead of pretraining: a file of torch or safetensors, or its folder.",
    )

    @model_validator(mode="before")
    @classmethod
    def _as_published(cls, values: Any) -> Any:
        """What a network of timm has where nothing is given."""
        network = NETWORKS.get(str(values.get("name"))) if isinstance(values, dict) else None
        return values if network is None else {"width": network.width, "in_channels": 3, **values}

    @model_validator(mode="after")
    def _known(self) -> Self:
        own = re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", self.name)
        if self.name not in ("resnet9", *NETWORKS) and not own:
            names = ("resnet9", *NETWORKS)
            close = difflib.get_close_matches(self.name, names, n=1, cutoff=0.85)
            meant = "".join(f"; perhaps {one!r}" for one in close)
            listed = ", ".join(names)
            raise ValueError(f"name: expected one of {listed}, or 'package.module:function', got {self.name!r}{meant}")
        with_depth = self.name in NETWORKS and self.name != "densenet121"
        depth = self.options.get("drop_path_rate", 0.0) if with_depth else None
        if not own and set(self.options) - ({"drop_path_rate"} if with_depth else set()):
            raise ValueError("options: only for your own network, and drop_path_rate for one of timm but densenet121")
        if depth is not None and not (isinstance(depth, int | float) and 0 <= depth < 1):
            raise ValueError(f"options: drop_path_rate: expected a number in [0, 1), got {depth!r}")
        if self.name in NETWORKS and self.in_channels != 3:
            raise ValueError(f"in_channels: {self.name} takes the gray channel three times; leave it out")
        return self


class CarriedModelSettings(Section):
    """`[models.<name>]`: another hospital's model, to be tested on this study's test patients."""

    bundle: Annotated[
        Folder,
        About("Test another hospital's model beside your own.", example='"from-st-mary.dpdt"', decides="other"),
    ] = Field(description="Its model bundle, relative to the study file: what `dpdt export` wrote there.")
    initial: Annotated[
        str | None,
        About("The study has several starts: the model stands beside one of them.", example='"mimic"', decides="other"),
    ] = Field(default=None, description="In a study with `[initial.<name>]`: which start it is compared with.")
    signers: Annotated[
        Folder | None,
        About("Use no bundle that somebody else may have made.", example='"trusted_keys"', decides="other"),
    ] = Field(default=None, description="Trusted keys (ssh-keygen's allowed_signers); one of them must have signed it.")


class PretrainSettings(Section):
    """`[pretrain]`: training on the public domain, without DP."""

    num_epochs: Annotated[Number, About("More for a better start; it costs no privacy, only time.", unit="passes")] = (
        Field(default=20, gt=0, description="Expected passes over the public images.")
    )
    expected_batch_size: Annotated[Integer, About("As for train.", unit="images")] = Field(
        default=128, ge=1, description="Units of a logical step, in expectation."
    )
    learning_rate: Annotated[Number, About("The loss does not fall (smaller), or falls slowly (larger).")] = Field(
        default=2e-4, gt=0, description="Of NAdam."
    )
    weight_decay: Annotated[Number, About("The public data set is small.")] = Field(
        default=0.0, ge=0, description="Of NAdam."
    )

    @property
    def passes(self) -> float:
        """Expected passes over the images."""
        return self.num_epochs

    def batch_of(self, units: int) -> int:
        """Units of a logical step, in expectation."""
        return self.expected_batch_size


class TrainSettings(Section):
    """`[train]`: the trainings, the same for both arms."""

    domains: Annotated[
        tuple[str, ...] | None, About("Train on some hospitals only.", example='["vindr", "padchest"]', decides="other")
    ] = Field(default=None, description="Default: every domain with role study.")
    seeds: Annotated[
        tuple[Integer, ...],
        About("More seeds show how much chance is in the numbers; each repeats all trainings.", decides="other"),
    ] = Field(default=(0,), min_length=1, description="One training a value.")
    fraction: Annotated[
        tuple[Number, ...],
        BeforeValidator(lambda value: (value,) if isinstance(value, int | float) else value),
        About(
            "See what more patients would bring; each value repeats all trainings.",
            unit="part of the train patients",
            decides="other",
        ),
    ] = Field(
        default=(1.0,),
        min_length=1,
        description="One training a value, on that part of each domain's train patients: a smaller part is in a larger "
        "one, and epsilon counts the patients of the part.",
    )
    num_epochs: Annotated[
        Number,
        About("Fewer steps need less noise; more steps learn more. Look for the best with public data.", unit="passes"),
    ] = Field(default=80, gt=0, description="Expected passes over the privacy units.")
    expected_batch_size: Annotated[
        Integer,
        About("Larger batches outweigh the noise better, up to a point; keep it far below the units.", unit="units"),
    ] = Field(default=128, ge=1, description="Units of a logical step, in expectation.")
    sample_rate: Annotated[
        Number | None,
        About("Batches that grow with the hospital: as many steps everywhere.", example="0.1", later=True),
    ] = Field(
        default=None,
        gt=0,
        le=0.5,
        description="Part of the units that a step draws, in expectation; in place of expected_batch_size.",
    )
    physical_batch_size: Annotated[
        Literal["auto"] | Annotated[Integer, Field(ge=1)],
        About("Out of memory: halve it. Changes speed and rounding alone.", unit="images", decides="speed"),
    ] = Field(default=DEFAULT_IMAGES_AT_ONCE, description="Images at once in memory; auto: as many as fit.")
    learning_rate: Annotated[Number, About("The loss does not fall (smaller), or falls slowly (larger).")] = Field(
        default=2e-4, gt=0, description="Of the optimizer, of both arms; of a schedule the largest."
    )
    full_learning_rate_at: Annotated[
        Number | None,
        About("One rate does not fit all epsilons: with more noise smaller steps.", example="300", later=True),
    ] = Field(
        default=None,
        gt=0,
        description="Expected batch over noise multiplier from which a DP training has the whole learning_rate; below "
        "it the rate falls in proportion. Both are public. Without it, and without DP, the rate is whole.",
    )
    weight_decay: Annotated[Number, About("A small hospital without DP; with DP the noise does the same.")] = Field(
        default=0.0, ge=0, description="Of the optimizer, of both arms."
    )
    class_weights: Annotated[
        Literal["none", "public", "private"] | tuple[Number, ...] | dict[str, Number],
        About("Rare labels are never predicted."),
    ] = Field(
        default="none",
        description="Weight of positives in the loss: none, from the public domain, given by label "
        "(`{ pneumonia = 12.0 }`, others 1; of the paper's five labels also five numbers), or private: counted with "
        "noise that privacy.class_weights_share of epsilon pays for. Exact counts of private labels are not offered in "
        "a DP arm: they would be released outside of epsilon.",
    )
    views: Annotated[
        Integer,
        About("A small hospital: more of each image, at the same epsilon, for as many times the work.", later=True),
    ] = Field(
        default=1,
        ge=1,
        description="Random views of each drawn image (turned, shifted, scaled, brighter, noisier, never mirrored); "
        "their mean gradient is clipped once. 1: the image as it is.",
    )
    optimizer: Annotated[
        Literal["nadam", "adamw", "sgd", "adam-corrected", "closed-form"],
        About("With much noise the moments of Adam are those of the noise; adam-corrected takes it out.", later=True),
    ] = Field(
        default="nadam",
        description="What a step does with the released gradient. sgd has momentum 0.9; adam-corrected is Adam whose "
        "second moment is freed from the DP noise (Tang et al. 2023). closed-form, of a head alone: least squares on "
        "noisy moments of the features, one release in place of all steps (docs/recipes.md).",
    )
    schedule: Annotated[
        Literal["constant", "cosine"], About("Let the last steps, and with DP their noise, count less.", later=True)
    ] = Field(default="constant", description="Of the learning rate, after the warm-up; cosine falls to 0.")
    warm_up: Annotated[Number, About("The loss jumps in the first steps.", unit="part of the steps", later=True)] = (
        Field(default=0.0, ge=0, lt=1, description="In which the learning rate rises from 0 in a line.")
    )
    head_first: Annotated[
        Number,
        About("A new head would first spoil the weights that it sits on.", unit="part of the steps", later=True),
    ] = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="In these steps, the first ones, the head alone is trained, then all that `parameters` names. "
        "Epsilon and noise are the same.",
    )
    averaging: Annotated[
        Literal["none", "ema", "tail"],
        About("The last weights have the noise of the last steps; an average has less of it.", later=True),
    ] = Field(
        default="none",
        description="What is kept as the model: the weights after the last step (none), or an average over the steps, "
        "exponential (ema) or of the last quarter (tail). It costs no epsilon.",
    )
    checkpoint_every_steps: Annotated[
        Integer, About("More often where jobs are preempted without notice.", unit="steps", decides="speed")
    ] = Field(default=50, ge=1, description="Logical steps between two checkpoints.")
    precision: Annotated[
        Literal["float32", "bf16"],
        About('"bf16" is quicker where the processor has it; a new run, with more rounding.', later=True),
    ] = Field(
        default="float32",
        description="bf16: autocast of forward and backward passes; norms, sums, weights stay float32.",
    )
    parameters: Annotated[
        str | tuple[str, ...],
        About("A large pretrained network: fewer parameters get less noise and cost less time.", later=True),
    ] = Field(
        default="all",
        description="Which parameters are trained, the others stay as they begin: all, head, norms+head, last N "
        'stages, or patterns of names, `["layer4.*", "fc.*"]`. See docs/models.md.',
    )
    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        About('"cuda" fails at once where there is no GPU, instead of training slowly.', decides="speed"),
    ] = Field(default="auto", description="Where pretrain, train and evaluate compute; auto: a GPU if torch sees one.")
    num_threads: Annotated[Integer, About("Leave cores to others.", unit="threads", decides="speed")] = Field(
        default=0, ge=0, description="CPU threads of a training; 0: all given cores."
    )

    @property
    def closed_form(self) -> bool:
        """Whether all units enter one release."""
        return self.optimizer == "closed-form"

    @property
    def passes(self) -> float:
        """Expected passes over the privacy units."""
        return 1 if self.closed_form else self.num_epochs

    def learning_rate_with(self, *, expected_batch_size: int, noise_multiplier: float) -> float:
        """The learning rate of a DP training: with much noise a part of `learning_rate`, by public numbers alone.

        Over one number of steps, trainings of the same batch over noise multiplier go alike (Sander et al. 2022,
        arXiv 2210.03403). Noise moves the weights by the rate, signal by the rate times that quotient; so the best
        rate is in proportion to it.
        """
        full_at = self.full_learning_rate_at
        part = 1.0 if full_at is None else min(1.0, expected_batch_size / noise_multiplier / full_at)
        return part * self.learning_rate

    def batch_of(self, units: int) -> int:
        """Units of a logical step, in expectation, where the train split has so many."""
        if self.closed_form:
            return units
        return self.expected_batch_size if self.sample_rate is None else max(1, round(self.sample_rate * units))

    @field_validator("physical_batch_size", mode="before")
    @classmethod
    def _number_or_auto(cls, value: object) -> object:
        if value != "auto" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"expected a whole number of at least 1, or 'auto', got {value!r}")
        return value

    @field_validator("parameters", mode="before")
    @classmethod
    def _choice_or_patterns(cls, value: object) -> object:
        if isinstance(value, list | tuple) and value and all(isinstance(pattern, str) for pattern in value):
            return value
        if isinstance(value, str) and (value in PARAMETERS or re.fullmatch(NETWORK_STAGES, value)):
            return value
        choices = ", ".join(map(repr, PARAMETERS))
        raise ValueError(f"expected {choices} (or another number), or a list of patterns of names, got {value!r}")

    @property
    def images_at_once(self) -> int:
        """Where nothing but a default will do for "auto": testing, planning."""
        return DEFAULT_IMAGES_AT_ONCE if self.physical_batch_size == "auto" else self.physical_batch_size

    _each_once = field_validator("domains", "seeds", "fraction")(each_once)

    @field_validator("fraction")
    @classmethod
    def _parts(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 < part <= 1 for part in value):
            raise ValueError(f"expected numbers above 0 and up to 1, got {list(value)}")
        return value

    @model_validator(mode="after")
    def _weights_per_label(self) -> Self:
        if isinstance(self.class_weights, tuple) and len(self.class_weights) != len(LABELS):
            raise ValueError(
                f"class_weights: expected {len(LABELS)} numbers ({', '.join(LABELS)}), got {len(self.class_weights)}"
            )
        if not isinstance(self.class_weights, str):
            given = self.class_weights
            weights = list(given.values()) if isinstance(given, dict) else list(given)
            if not all(math.isfinite(w) and w > 0 for w in weights):
                raise ValueError(f"class_weights: expected positive finite numbers, got {weights}")
        return self


class PrivacySettings(Section):
    """`[privacy]`: what is protected, and how strongly."""

    target_epsilons: Annotated[
        tuple[NumberOrInfinity, ...],
        About("The budgets that you want to compare; smaller protects more.", decides="other"),
    ] = Field(
        default=(1.0, 8.0, math.inf),
        min_length=1,
        description="One training a value; inf is the arm without DP. 0, the model before all trainings, is tested "
        "without being named where there is one: public pretraining, or weights with a head for the labels.",
    )
    unit: Annotated[
        Literal["patient", "image"], About('"image" repeats the paper; it protects a patient with many images less.')
    ] = Field(default="patient", description="What one unit of the guarantee is.")
    images_per_patient: Annotated[
        Integer, About("Patients have many images: less noise in a gradient, more work a step.", unit="images")
    ] = Field(
        default=1, ge=1, description="Images of a drawn patient; their gradients are averaged, then clipped as one."
    )
    delta: Annotated[
        Number, About("A domain has more patients than 1 / delta: dpdt refuses it and says so.", unit="probability")
    ] = Field(
        default=1e-5, gt=0, lt=1, description="Probability that epsilon does not hold; below 1 / units of every domain."
    )
    allow_large_delta: Annotated[Truth, About("Trials on made-up data only.")] = Field(
        default=False, description="Accept delta >= 1 / units, which need not protect anyone; the statement says so."
    )
    max_grad_norm: Annotated[
        Number, About("Smaller means less noise and more clipping; look for the best with public data.")
    ] = Field(default=1.5, gt=0, description="Bound on the norm of one unit's gradient.")
    clip_factor: Annotated[
        Literal["bounded", "automatic", "quantile"],
        About("automatic or quantile: max_grad_norm need not be looked for.", later=True),
    ] = Field(
        default="bounded",
        description="What a gradient is multiplied with: bounded is min(1, max_grad_norm / norm), automatic "
        "max_grad_norm / (norm + 0.01) (Bu et al. 2022). quantile: as bounded, but the norm begins as max_grad_norm "
        "and follows the middle of the gradients' norms, counted with noise (Andrew et al. 2021). Epsilon is the same.",
    )
    clip_scope: Annotated[
        Literal["all", "layers"],
        About("layers: a large network in little more memory than without DP, but other gradients.", later=True),
    ] = Field(
        default="all",
        description="What is clipped: a unit's gradient as a whole, to max_grad_norm, or each layer's part of it, to "
        "max_grad_norm over the root of the number of layers (He et al. 2022). Epsilon is the same.",
    )
    class_weights_share: Annotated[Number, About('Only with class_weights = "private".', unit="part of epsilon")] = (
        Field(
            default=0.05,
            gt=0,
            lt=1,
            description="Part of epsilon that train.class_weights = 'private' counts labels with.",
        )
    )
    accountant: Annotated[Literal["pld", "prv", "rdp"], About("Compare with work that used another one.")] = Field(
        default="pld", description="How epsilon is computed from the ledger; pld is the tightest."
    )
    clipping: Annotated[
        ClippingName,
        About("Compare with Opacus; the result is the same up to rounding, but a new run."),
    ] = Field(default="bookkeeping", description="How per-sample gradients are clipped: dpdt's engine, or Opacus' two.")
    reserve_steps: Annotated[
        Integer,
        About("Fewer lose less budget in a crash; more write to disk less often.", unit="steps", decides="speed"),
    ] = Field(default=10, ge=1, description="Noisy steps that the ledger reserves at once.")

    _each_once = field_validator("target_epsilons")(each_once)

    @model_validator(mode="after")
    def _positive(self) -> Self:
        for value in self.target_epsilons:
            if math.isnan(value) or value < 0:
                raise ValueError(f"target_epsilons: expected positive numbers (inf for no DP), got {value}")
        if not self.trained_epsilons:
            raise ValueError("target_epsilons: expected positive numbers beside 0, which is the model before, got none")
        return self

    @property
    def trained_epsilons(self) -> tuple[float, ...]:
        """The target epsilons that are trained for: all but 0."""
        return tuple(epsilon for epsilon in self.target_epsilons if not is_before(epsilon))

    @model_validator(mode="after")
    def _several_images(self) -> Self:
        if self.images_per_patient > 1 and self.unit != "patient":
            raise ValueError(f"images_per_patient: {self.images_per_patient} needs unit = 'patient'")
        if self.images_per_patient > 1 and not CLIPPING_ENGINES[self.clipping].several_images:
            able = " or ".join(repr(name) for name, engine in CLIPPING_ENGINES.items() if engine.several_images)
            raise ValueError(
                f"images_per_patient: {self.images_per_patient} needs clipping = {able}; {self.clipping} "
                "clipping has no norm of several images' mean gradient"
            )
        return self


def _group(value: Any) -> Any:
    """A column's name, or the groups of a crossing, as the table that it is short for."""
    if isinstance(value, str):
        return {"column": value}
    return {"crossing": value} if isinstance(value, list | tuple) else value


class GroupSettings(Section):
    """`[evaluate.groups] ward = { … }`: a column cut into parts, or a crossing of other groups."""

    column: str | None = Field(default=None, min_length=1, description="Of the cohort.")
    cuts: tuple[Number, ...] = Field(default=(), description="Edges of half-open parts, of a column of numbers.")
    parts: dict[str, tuple[str, ...]] = Field(default_factory=dict, description="Parts by name, with their cells.")
    crossing: tuple[str, ...] = Field(default=(), description="Groups whose parts are crossed.")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.column is None) == (not self.crossing):
            raise ValueError('give a column, "ward", or groups to cross, ["sex", "age"]')
        if bool(self.cuts) + bool(self.parts) + bool(self.crossing) > 1:
            raise ValueError("give cuts, parts, or groups to cross, one of them")
        if self.cuts and (len(self.cuts) < 2 or list(self.cuts) != sorted(set(self.cuts))):
            raise ValueError(
                f"cuts: expected at least two edges that rise, such as [0, 40, 70, 100], got {[*self.cuts]}"
            )
        for name in self.parts:
            check_name(name)
        only_once(self.parts)
        return self


Group = Annotated[GroupSettings, BeforeValidator(_group)]


class EvaluateSettings(Section):
    """`[evaluate]`: which models are tested where, and how surely."""

    domains: Annotated[
        tuple[str, ...] | None, About("Test on some hospitals only.", example='["vindr", "padchest"]', decides="other")
    ] = Field(default=None, description="Test domains; default: the train domains.")
    bootstrap_draws: Annotated[
        Integer, About("0 for a quick look; 10,000 for a last decimal that stays.", unit="draws")
    ] = Field(default=1000, ge=0, description="Bootstrap draws; 0: no intervals.")
    bootstrap_unit: Annotated[
        Literal["patient", "image"], About('"image" repeats the paper; its intervals are too narrow.')
    ] = Field(default="patient", description="What a draw takes; images of one patient are not independent.")
    confidence: Annotated[Number, About("0.99 for a stricter claim.", unit="part of 1")] = Field(
        default=0.95, gt=0, lt=1, description="Of the intervals."
    )
    min_subgroup_size: Annotated[Integer, About("Larger, where small groups could point at people.", unit="images")] = (
        Field(default=10, ge=1, description="Cells with fewer images are left empty.")
    )
    groups: Annotated[
        dict[str, Group],
        About(
            "Compare other groups than by sex and age, or cut ages otherwise.",
            example='{ sex = "sex", age = { column = "age_years", cuts = [0, 18, 65, 100] }, both = ["sex", "age"] }',
            later=True,
        ),
    ] = Field(
        default_factory=dict,
        description="Groups of patients, each a column of the cohort or a crossing; default: sex, and age from 0, 40 "
        "and 70 years. See docs/evaluation.md.",
    )
    representation: Annotated[
        Truth,
        About("See what a training did to the network's representation; tests take three times as long.", later=True),
    ] = Field(
        default=False,
        description="Displacement and effective dimension of the representation, and a linear probe of it on val "
        "patients. See docs/evaluation.md.",
    )
    equivalence_margin: Annotated[Number, About("How much AUC may be lost unnoticed.", unit="AUC", decides="other")] = (
        Field(default=0.01, gt=0, lt=1, description="A difference in AUC within ± this counts as equivalent (TOST).")
    )

    _each_once = field_validator("domains")(each_once)

    @model_validator(mode="after")
    def _groups_named(self) -> Self:
        for name, group in self.groups.items():
            try:
                check_name(name, reserved=("all", "average", "unknown"))
            except ValueError as err:
                raise ValueError(f"groups: {err}") from err
            for other in group.crossing:
                if other not in self.groups or self.groups[other].crossing:
                    known = ", ".join(one for one, settings in self.groups.items() if not settings.crossing) or "none"
                    raise ValueError(f"groups.{name}: {other!r} is no group with a column. Groups with one: {known}")
            if group.crossing and len(set(group.crossing)) < max(2, len(group.crossing)):
                raise ValueError(f"groups.{name}: expected at least two groups, each once, got {list(group.crossing)}")
        return self


class AuditSettings(Section):
    """`[audit]`: attacks on the trainings; in no fingerprint, because audits leave the trainings alone."""

    canaries: Annotated[
        Integer,
        About(
            "Have dpdt audit find a lower bound on epsilon; costs one more training a model.",
            unit="made-up patients",
            example="1000",
        ),
    ] = Field(
        default=0,
        ge=0,
        lt=1 << 20,
        description="Made-up patients of an audit's twin training, each in it by the toss of a coin; 0: no twin.",
    )
    confidence: Annotated[Number, About("0.99 for a stricter claim.", unit="part of 1")] = Field(
        default=0.95, gt=0, lt=1, description="Of the lower bound on epsilon."
    )


class ReportSettings(Section):
    """`[report]`: what is written beside the report."""

    example_images: Annotated[Truth, About("Look at the quality of each hospital's test images.")] = Field(
        default=False, description="Write examples.html: images of a few test patients. It is neither linked nor sent."
    )


class TrackingSettings(Section):
    """`[tracking]`: MLflow."""

    uri: Annotated[str | None, About("A server that your group shares.", example='"http://127.0.0.1:5000"')] = Field(
        default=None, description="Default: SQLite in the study's folder."
    )
    experiment: Annotated[str | None, About("Put several studies together.", example='"lung"')] = Field(
        default=None, description="Default: the study's name."
    )
    system_metrics: Annotated[Truth, About("See in MLflow whether a training waits for its disk or for its GPU.")] = (
        Field(default=False, description="Sample processor, memory and GPUs during trainings.")
    )


class ClusterSettings(Section):
    """`[cluster]`: how tasks are sent."""

    profile: Annotated[
        str | None, About("Your site needs more than these keys; see docs/slurm.md.", example='"generic"')
    ] = Field(default=None, description="A file of slurm/clusters (its stem), or a path to one.")
    partition: Annotated[
        str | None, About("The site has no default partition, or GPUs are in another.", example='"gpu"')
    ] = Field(default=None, description="As for sbatch; default: Slurm's own.")
    account: Annotated[str | None, About("The site bills projects.", example='"radiology"')] = Field(
        default=None, description="As for sbatch; default: Slurm's own."
    )
    qos: Annotated[str | None, About("The site has several.", example='"normal"')] = Field(
        default=None, description="As for sbatch; default: Slurm's own."
    )
    constraint: Annotated[str | None, About("Only some nodes will do.", example='"avx512"')] = Field(
        default=None, description="Feature that nodes must have, as for sbatch."
    )
    gpus_per_task: Annotated[Integer, About("1 for real data; more make one training quicker.", unit="GPUs")] = Field(
        default=0, ge=0, description="For pretrain, train and evaluate."
    )
    nodes_per_task: Annotated[
        Integer, About("One training is too slow even with all GPUs of a node.", unit="nodes")
    ] = Field(default=1, ge=1, description="For pretrain and train: one process a GPU on each.")
    gpu_type: Annotated[str | None, About("The site has several kinds.", example='"a100"')] = Field(
        default=None, description="Slurm's name of the kind of GPU, e.g. `a100`."
    )
    cpus_per_task: Annotated[Integer, About("Shards are slow: they use every core given.", unit="cores")] = Field(
        default=2, ge=1, description="Cores of each task, on each of its nodes."
    )
    mem_gb: Annotated[Number, About("Tasks are killed for memory; `dpdt plan` estimates it.", unit="GB")] = Field(
        default=8.0, gt=0, description="Memory of each task, on each of its nodes."
    )
    timeout_min: Annotated[Integer, About("The site's limit; shorter jobs often start sooner.", unit="minutes")] = (
        Field(default=240, ge=1, description="Time limit; a training goes on in the next attempt.")
    )
    array_parallelism: Annotated[Integer, About("Leave room for others.", unit="tasks")] = Field(
        default=64, ge=1, description="Tasks of one stage that may run at once."
    )
    max_attempts: Annotated[Integer, About("Preemptible nodes take more.", unit="starts")] = Field(
        default=100, ge=1, description="Starts of a job in all; each requeue is one more."
    )
    shard_tasks: Annotated[Integer, About("A large corpus: more nodes make its shards.", unit="tasks")] = Field(
        default=1, ge=1, description="Tasks that share the making of one domain's shards."
    )
    extra: Annotated[
        dict[str, bool | Integer | str],
        About("The site forbids a line, or wants another.", example='{ mem = false, mem-per-cpu = "4G" }'),
    ] = Field(
        default={},
        description='Other lines for sbatch, or none where dpdt has one: `{ mem = false, mem-per-cpu = "4G" }`.',
    )
    scratch: Annotated[
        str | None, About("The shared disk is slow: shards are copied to the node first.", example='"$SLURM_TMPDIR"')
    ] = Field(default=None, description="Folder of the node for shards, e.g. `$SLURM_TMPDIR`.")
    local_parallelism: Annotated[Integer, About("With --cluster local: 1 where memory is short.", unit="tasks")] = (
        Field(default=2, ge=1, description="Tasks at once with --cluster local.")
    )
    setup: Annotated[tuple[str, ...], About("Nodes need modules loaded.")] = Field(
        default=(), description="Shell lines before the task, e.g. `module load …`."
    )
