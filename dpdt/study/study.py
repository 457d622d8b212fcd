"""The one configuration: a study file in TOML, read into models that forbid unknown keys.

Every key has a default that works. Keys that only change speed say so (`About.decides`); they are left out of every
fingerprint and can never change epsilon.
"""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from pydantic import Field, PrivateAttr, ValidationError, model_validator

from dpdt.base.files import fingerprint
from dpdt.base.vocabulary import LABELS, healthy_label
from dpdt.errors import StudyError
from dpdt.study.arms import BEFORE, Cell, axes_name, format_epsilon, is_before
from dpdt.study.clipping_engines import CLIPPING_ENGINES
from dpdt.study.domain_kinds import DOMAIN_KINDS
from dpdt.study.domain_settings import DomainSettings
from dpdt.study.explain import did_you_mean, explain
from dpdt.study.findings import Definition, Finding, define, suggestions
from dpdt.study.initial import InitialSettings, check_starts, model_of
from dpdt.study.paths import StudyPaths
from dpdt.study.section import Section, remembered
from dpdt.study.settings import (
    BF16_MIN_SIZE,
    AuditSettings,
    CarriedModelSettings,
    ClusterSettings,
    EvaluateSettings,
    LabelSettings,
    ModelSettings,
    PretrainSettings,
    PrivacySettings,
    ReportSettings,
    ShardSettings,
    StudySettings,
    TrackingSettings,
    TrainSettings,
)
from dpdt.study.source import Source, open_guesses, read_source

__all__ = ["COHORT_COLUMNS", "Study", "check_study", "load_study"]

COHORT_COLUMNS: Final = ("sex", "age_years", "view")
"""Columns that every cohort has and that groups may be made of."""


class Study(Section):
    """A whole study: the study file's sections."""

    study: StudySettings = StudySettings()
    domains: dict[str, DomainSettings] = Field(default_factory=dict)
    labels: dict[str, LabelSettings] = Field(default_factory=dict)
    shards: ShardSettings = ShardSettings()
    model: ModelSettings = ModelSettings()
    initial: dict[str, InitialSettings] = Field(default_factory=dict)
    pretrain: PretrainSettings = PretrainSettings()
    train: TrainSettings = TrainSettings()
    privacy: PrivacySettings = PrivacySettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    audit: AuditSettings = AuditSettings()
    report: ReportSettings = ReportSettings()
    tracking: TrackingSettings = TrackingSettings()
    cluster: ClusterSettings = ClusterSettings()
    models: dict[str, CarriedModelSettings] = Field(default_factory=dict)

    file: Path = Field(exclude=True, description="The study file itself (absolute).")
    _shards_name: str = PrivateAttr(default="shards")
    _whole: "Study | None" = PrivateAttr(default=None)
    _views: "tuple[Study, ...] | None" = PrivateAttr(default=None)
    _run_ids: set[str] | None = PrivateAttr(default=None)

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
            if domain.readers != "majority" and kind != "vindr":
                raise ValueError(f"domains.{name}.readers: only for kind vindr, this domain is of kind {kind!r}")
        for key, names in (("train.domains", self.train.domains), ("evaluate.domains", self.evaluate.domains)):
            for name in names or ():
                if name not in self.domains:
                    known = ", ".join(self.domains) or "none"
                    raise ValueError(f"{key}: the study has no [domains.{name}]; its domains: {known}")
        for name in self.models:
            if not name.replace("_", "").isalnum():
                raise ValueError(f"models.{name}: use letters, digits and _ only, the name becomes a file name")
        clipping = self.privacy.clipping
        if self.train.precision == "bf16" and not CLIPPING_ENGINES[clipping].bfloat16:
            raise ValueError(f"train.precision: bf16 breaks {clipping} clipping's bound; use clipping = 'bookkeeping'")
        if self.train.precision == "bf16" and self.shards.size < BF16_MIN_SIZE:
            raise ValueError(
                f"train.precision: bf16 needs shards.size of at least {BF16_MIN_SIZE}, got {self.shards.size}: on "
                "planes of one pixel torch's bf16 convolutions leave a part of the weight gradient unset"
            )
        if self.train.views > 1 and not CLIPPING_ENGINES[clipping].several_images:
            raise ValueError(
                f"train.views: {self.train.views} needs privacy.clipping = 'bookkeeping'; {clipping} clipping has no "
                "norm of several views' mean gradient"
            )
        train = self.train
        if train.head_first and train.parameters == "head":
            raise ValueError(
                "train.head_first: train.parameters = 'head', also in closed form, trains nothing after the head. "
                "Leave one of them out"
            )
        if train.closed_form:
            need: tuple[tuple[str, object, object], ...] = (
                ("train.parameters", train.parameters, "head"),
                ("train.views", train.views, 1),
                ("train.class_weights", train.class_weights, "none"),
                ("train.averaging", train.averaging, "none"),
                ("train.schedule", train.schedule, "constant"),
                ("train.warm_up", train.warm_up, 0.0),
                ("privacy.clip_factor", self.privacy.clip_factor, "bounded"),
                ("privacy.clip_scope", self.privacy.clip_scope, "all"),
                ("audit.canaries", self.audit.canaries, 0),
            )
            other = [f"{key} = {wanted!r}" for key, found, wanted in need if found != wanted]
            if other:
                raise ValueError(f"train.optimizer: closed-form takes no steps and needs {', '.join(other)}")
        if self.privacy.clip_factor == "quantile" and (train.optimizer == "adam-corrected" or self.audit.canaries):
            raise ValueError(
                "privacy.clip_factor: quantile changes the noise in each step; train.optimizer = 'adam-corrected' and "
                "audit.canaries need noise that stays"
            )
        if self.privacy.clip_scope == "layers" and (
            self.privacy.clip_factor == "quantile" or self.audit.canaries or not CLIPPING_ENGINES[clipping].by_layer
        ):
            raise ValueError(
                "privacy.clip_scope: layers needs privacy.clipping = 'bookkeeping' (or 'hooks'), a norm that stays "
                "(privacy.clip_factor), and audit.canaries = 0, whose gradient is in one layer"
            )
        if len(self.public_domains) > 1:
            raise ValueError(f"domains: only one may have role public, got {', '.join(self.public_domains)}")
        return self

    @model_validator(mode="after")
    def _labels_of_domains(self) -> Self:
        """Every label is somebody's, and every domain has one."""
        for label, settings in self.labels.items():
            self._check_label(f"labels.{label}", label)
            for domain in settings.given:
                if domain not in self.domains:
                    raise ValueError(f"labels.{label}.{domain}: no such domain. Domains: {', '.join(self.domains)}")
                if self.kind(domain) == "table":
                    raise ValueError(
                        f"labels.{label}.{domain}: a list of one's own; describe it in domains.{domain}.table.labels"
                    )
        for domain, of_domain in self.domains.items():
            for label in of_domain.sublabels:
                self._check_label(f"domains.{domain}.sublabels.{label}", label)
            for label in of_domain.table.labels.given if of_domain.table else ():
                self._check_label(f"domains.{domain}.table.labels.{label}", label)
        if isinstance(self.train.class_weights, dict):
            for label in self.train.class_weights:
                self._check_label(f"train.class_weights.{label}", label)
        elif isinstance(self.train.class_weights, tuple) and self.study.labels != LABELS:
            raise ValueError(
                "train.class_weights: numbers in a row belong to the paper's five labels; give them by name, "
                f"{{ {self.study.labels[0]} = 2.0, … }}"
            )
        known = {domain: self.known_labels(domain) for domain in self.domains}
        # A study of the paper's labels may have lists with some of them: the others are unknown everywhere.
        for label in self.study.labels if self.domains and self.study.labels != LABELS else ():
            if not any(label in labels for labels in known.values()):
                hint = suggestions(label, map(self.kind, self.domains))
                raise ValueError(
                    f"study.labels: no domain has {label!r}.{hint} Define it: [labels.{label}] with the findings of a "
                    "domain, or, for a list of your own, in its table.labels. `dpdt domains` lists the findings"
                )
        lost = next((domain for domain in self.used_domains if not known[domain]), None)
        if lost:
            raise ValueError(
                f"domains.{lost}: has none of the study's labels ({', '.join(self.study.labels)}). Define one there, "
                "or leave the domain out"
            )
        return self

    def _check_label(self, key: str, label: str) -> None:
        """Refuse what names no label of the study."""
        labels = self.study.labels
        if label not in labels:
            hint = did_you_mean(label, labels, diagnoses=True)
            raise ValueError(
                f"{key}: unknown key.{hint} Valid keys: {', '.join(labels)}, the study's labels. Others are named in "
                "[study] labels"
            )

    @model_validator(mode="after")
    def _columns_of_groups(self) -> Self:
        """A column that a group asks for is some domain's."""
        for name, group in self.evaluate.groups.items():
            column = group.column
            if column is None or column in COHORT_COLUMNS or not self.domains:
                continue
            known = sorted({one for domain in self.domains for one in self._columns(domain)})
            if column not in known:
                raise ValueError(
                    f"evaluate.groups.{name}: no domain has the column {column!r}. Every cohort has "
                    f"{', '.join(COHORT_COLUMNS)}; these domains have {', '.join(known) or 'no other'}. Name one of a "
                    f'list: [domains.<name>] columns = {{ {column} = "its name there" }}'
                )
        for domain, settings in self.domains.items():
            asked = {**settings.columns, **self.group_columns(domain)}
            twice = next((name for name in asked if name in self.study.labels), None)
            if twice:
                raise ValueError(f"domains.{domain}.columns: {twice!r} is a label. Choose another name")
        return self

    @model_validator(mode="after")
    def _public_is_not_private(self) -> Self:
        """Pretraining has no DP: who is in it has no guarantee in the arms that start from it."""
        public = self.public_domain
        if public is None or all(math.isinf(epsilon) for epsilon in self.privacy.trained_epsilons):
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

    @model_validator(mode="after")
    def _axes(self) -> Self:
        private = any(math.isfinite(epsilon) for epsilon in self.privacy.trained_epsilons)
        own = {*self.train_domains, *self.test_domains} if private else ()
        public = self.public_domains[0] if self.public_domains else None
        check_starts(self.model, self.initial, public=public, private=[(name, self.kind(name)) for name in own])
        if self.train.fraction != (1.0,) and public in self.train_domains:
            raise ValueError(f"train.fraction: {public} is pretrained on, with all its patients. Leave one of them out")
        for name, model in self.models.items():
            if (model.initial is None) == bool(self.initial) or model.initial not in (None, *self.initial):
                expected = f"expected one of the study's starts, {', '.join(self.initial)}"
                expected = expected if self.initial else "the study has no [initial.<name>]. Leave it out"
                got = "none" if model.initial is None else repr(model.initial)
                raise ValueError(f"models.{name}.initial: {expected}; got {got}")
        return self

    @model_validator(mode="after")
    def _before_is_a_model(self) -> Self:
        if self.why_no_before and any(is_before(epsilon) for epsilon in self.privacy.target_epsilons):
            raise ValueError(
                f"privacy.target_epsilons: 0 is the model before all trainings, and there is none: "
                f"{self.why_no_before}. Leave out 0, or add a domain with role = 'public', or model.init_weights"
            )
        return self

    @property
    def views(self) -> "tuple[Self, ...]":
        """This study by start and part of the patients: each view has one network, one start and one amount of data.

        A study without such axes is its own view. Whatever is done for one run, or is a mean over runs, takes a view.
        """
        if self._whole is not None or not (self.initial or self.train.fraction != (1.0,)):
            return (self,)
        if self._views is None:
            parts = [(name, part) for name in self.initial or [""] for part in self.train.fraction]
            self._views = tuple(self._view(name, part) for name, part in parts)
        return self._views  # type: ignore[return-value]

    @property
    def starts(self) -> "dict[str, Self]":
        """One view a start, by its name: that with the largest part of the patients."""
        return {view.start: view for view in sorted(self.views, key=lambda view: view.fraction)}

    @property
    def whole(self) -> "Study":
        """The study that this is a view of; this one itself where it is none."""
        return self if self._whole is None else self._whole

    def one_view(self) -> Self:
        """The only view.

        Raises:
            StudyError: There are several, which nothing may mix.
        """
        if len(self.views) > 1:
            names = "; ".join(axes_name(view.start, view.fraction) or "all patients" for view in self.views)
            raise StudyError(f"{self.file}: has several starts or amounts of data ({names}). Take one of study.views.")
        return self.views[0]

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A study with other values, from which its views and run ids follow."""
        found = super().model_copy(update=update, deep=deep)
        found._views = found._run_ids = None
        return found

    def _view(self, name: str, fraction: float) -> Self:
        largest = fraction == self.fraction  # other hospitals' models stand beside it alone
        models = {key: model for key, model in self.models.items() if largest and model.initial in (None, name)}
        update: dict[str, Any] = {"train": self.train.model_copy(update={"fraction": (fraction,)}), "models": models}
        if name:
            start = self.initial[name]
            update |= {"model": model_of(self.model, start), "initial": {name: start}}
        view = self.model_copy(update=update)
        view._whole = self
        return view

    def at(self, cell: Cell) -> Self:
        """The view that has a model.

        Raises:
            StudyError: The study has no such start, or no such part of the patients.
        """
        for view in self.views:
            if view.start == cell.initial and (view.fraction == cell.fraction or is_before(cell.target_epsilon)):
                return view
        has = "; ".join(axes_name(view.start, view.fraction) or "all patients" for view in self.views)
        raise StudyError(f"{self.file}: has no trainings from {cell.axes or 'all patients'}. It has: {has}.")

    def of_run(self, run_id: str) -> Self:
        """The view that has a run, by its id; the first one where none has, or all have."""
        views = self.views
        for view in views if len(views) > 1 else ():
            if view._run_ids is None:
                view._run_ids = {str(view.pretrain_run_id), *map(view.run_id, view.tested_models()), *view.carried}
            if run_id in view._run_ids:
                return view
        return views[0]

    @property
    def start(self) -> str:
        """The start of a view's trainings; "" in a study without `[initial.<name>]`."""
        return next(iter(self.initial), "")

    @property
    def fraction(self) -> float:
        """Of the train patients, in a view; of a study with several parts the largest."""
        return max(self.train.fraction)

    @property
    def weights_note(self) -> str:
        """What the study file says about a view's given weights."""
        return self.initial[self.start].note if self.initial else ""

    @property
    def slug(self) -> str:
        """What a folder of a view is called; "" of the one view of a study without axes."""
        several = self._whole is not None and not (self.start and self.fraction == 1)
        return "-".join(filter(None, (self.start, f"part{self.fraction:g}" if several else "")))

    def part_of(self, domain: str) -> float:
        """Which part of a domain's train patients is trained on: of public ones all."""
        return 1.0 if self.role(domain) == "public" else self.fraction

    @property
    def folder(self) -> Path:
        """Absolute folder of the study's outputs."""
        return (self.file.parent / self.study.folder).resolve()

    @property
    def paths(self) -> StudyPaths:
        """Names of all files of the study."""
        return StudyPaths(self.folder, self._shards_name)

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

    def raw_paths(self, domain: str) -> tuple[Path, ...]:
        """A domain's root, and every folder and file outside of it that the study file names for it."""
        root, settings = self.root(domain), self.domains[domain]
        named = [*settings.image_folders, *settings.files.values()]
        if settings.table is not None:
            named += [settings.table.file, settings.table.images]
            named += [] if settings.table.labels_from is None else [settings.table.labels_from.file]
        paths = (Path(os.path.normpath(root / path)) for path in named)
        return (root, *dict.fromkeys(path for path in paths if not path.is_relative_to(root)))

    def _raw(self, domain: str) -> tuple[object, ...]:
        """Which data a domain reads, by any name of it."""
        return self.kind(domain), self.root(domain), self.domains[domain].table

    def definitions(self, domain: str) -> dict[str, Definition]:
        """What makes each label in a domain; () where it is unknown there. A list of one's own has its table for that.

        Raises:
            ValueError: The study file names a finding that the layout has not.
        """
        kind, settings = self.kind(domain), self.domains[domain]
        found: dict[str, Definition] = {}
        for label in self.study.labels:
            given = self.labels[label].given.get(domain, ()) if label in self.labels else ()
            try:
                found[label] = define(label, kind, given=given, exact=settings.sublabels.get(label, ()))
            except ValueError as err:
                raise ValueError(f"labels.{label}.{domain}: {err}") from err
        if settings.table is not None:
            found |= {label: (Finding(label),) for label in settings.table.labels.given}
            healthy = healthy_label(self.study.labels)
            if healthy and settings.table.no_findings == "healthy":
                found[healthy] = (Finding(healthy),)
        return found

    def known_labels(self, domain: str) -> tuple[str, ...]:
        """The study's labels that a domain has."""
        return tuple(label for label, definition in self.definitions(domain).items() if definition)

    def _columns(self, domain: str) -> dict[str, str]:
        """Columns besides every cohort's that a domain may have: the name -> that of its list."""
        return {**DOMAIN_KINDS[self.kind(domain)].columns, **self.domains[domain].columns}

    def group_columns(self, domain: str) -> dict[str, str]:
        """Columns that groups ask for and that not every cohort has: the name -> that of the domain's list."""
        asked = {group.column for group in self.evaluate.groups.values()}
        return {name: column for name, column in self._columns(domain).items() if name in asked}

    def role(self, domain: str) -> str:
        """`study` or `public`."""
        settings = self.domains[domain]
        return settings.role or ("public" if DOMAIN_KINDS[self.kind(domain)].public else "study")

    @property
    def public_domains(self) -> tuple[str, ...]:
        """Domains used for pretraining only (none or one)."""
        return tuple(d for d in self.domains if self.role(d) == "public")

    @property
    def public_domain(self) -> str | None:
        """The domain that networks are pretrained on, if there is one and a start wants it, or no weights are given."""
        starts = [start.pretrain for start in self.initial.values()] or [self.model.init_weights is None]
        return self.public_domains[0] if self.public_domains and any(starts) else None

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
        settings = self.domains[domain].deciding()
        own = self.study.labels != LABELS or any(domain in label.given for label in self.labels.values())
        labels = {"labels": list(self.definitions(domain).items())} if own else {}
        return fingerprint({"kind": self.kind(domain), "settings": settings, "seed": self.study.seed, **labels})

    @property
    def _other_labels(self) -> dict[str, Any]:
        """The labels where they are not the paper's five: studies with those keep their runs' names."""
        return {} if self.study.labels == LABELS else {"labels": self.study.labels}

    @remembered
    def shards_fingerprint(self, domain: str) -> str:
        """Hash of everything in the study file that decides the bytes of a domain's shards."""
        return fingerprint({"cohort": self.cohort_fingerprint(domain), "shards": self.shards.deciding()})

    def with_input(self, shards: ShardSettings) -> Self:
        """This study with a carried model's preprocessing: its test images then have shards of their own.

        Args:
            shards: What decides the pixels; how fast, and how large a file is, stays the study's.

        Returns:
            The study itself where its shards will do. All models with the same preprocessing share theirs.
        """
        own = shards.model_copy(
            update={name: getattr(self.shards, name) for name in ("shard_bytes", "num_threads", "max_reject_fraction")}
        )
        if own.deciding() == self.shards.deciding():
            return self
        view = self.model_copy(update={"shards": own})
        view._shards_name = f"shards-{fingerprint(own.deciding())[:8]}"
        return view

    @property
    def test_alone(self) -> bool:
        """Whether its shards are for carried models, which see test patients alone."""
        return self._shards_name != "shards"

    @property
    def carried(self) -> dict[str, str]:
        """Other hospitals' models: the run folder of each, and its name in the study file."""
        return {f"bundle-{name}": name for name in self.models}

    @property
    @remembered
    def pretrain_run_id(self) -> str | None:
        """Run folder of the public pretraining, of a view; None where there is none."""
        if self.public_domain is None:
            return None
        _, precision = self._train_and_precision()
        digest = fingerprint(
            {
                "shards": self.shards_fingerprint(self.public_domain),
                "model": self.model.deciding(),
                "pretrain": self.pretrain.deciding(),
                # of a step's draw; the default is not written, so that trainings from before keep their names
                **({} if self.privacy.unit == "patient" else {"unit": self.privacy.unit}),
                "seed": self.study.seed,
                **precision,
            }
        )
        return f"pretrain-{self.public_domain}-{digest[:8]}"

    @property
    def why_no_before(self) -> str:
        """Why the trainings' initial model cannot be tested, as far as the study file tells; "" where it can be."""
        random = [view.public_domain is None and view.model.init_weights is None for view in self.views]
        return "trainings start from random weights" if all(random) else ""

    @property
    def before_run_id(self) -> str | None:
        """Run folder of the initial model of a view's trainings: the pretraining's, or one of the weights' own."""
        if self.why_no_before:
            return None
        digest = fingerprint(
            {
                "shards": self.shards.deciding(),
                "model": self.model.deciding(),
                "seed": self.study.seed,
                **self._other_labels,
            }
        )
        start = f"{self.start}-" if self.start else ""
        return self.pretrain_run_id or f"{BEFORE}-{start}{digest[:8]}"

    def tested_models(self) -> tuple[Cell, ...]:
        """The study's own models: the trainings, and last those before them, one a start that can be tested."""
        before = [Cell(BEFORE, 0.0, 0, view.start) for view in self.views if not view.why_no_before]
        return (*self.cells(), *dict.fromkeys(before))

    def cells(self) -> tuple[Cell, ...]:
        """Every training of the study: start × fraction × domain × target epsilon × seed."""
        return tuple(
            Cell(domain=domain, target_epsilon=epsilon, seed=seed, initial=view.start, fraction=view.fraction)
            for view in self.views
            for domain in self.train_domains
            for epsilon in self.privacy.trained_epsilons
            for seed in self.train.seeds
        )

    def run_id(self, cell: Cell) -> str:
        """Name of a model's run folder; it changes with every setting that changes the result."""
        if self._whole is None and (view := self.at(cell)) is not self:
            return view.run_id(cell)
        if is_before(cell.target_epsilon):
            return str(self.before_run_id)
        privacy = self.privacy.deciding()
        train, precision = self._train_and_precision()
        digest = fingerprint(
            {
                "shards": self.shards_fingerprint(cell.domain),
                "model": self.model.deciding(),
                "pretrain": self.pretrain_run_id,
                "train": train,
                "privacy": {key: privacy[key] for key in (privacy if cell.private else ("unit", "images_per_patient"))},
                "cell": [cell.domain, format_epsilon(cell.target_epsilon), cell.seed, self.study.seed],
                **precision,
                **({"fraction": cell.fraction} if cell.fraction != 1 else {}),
            }
        )
        axes = (f"{cell.initial}-" if cell.initial else "") + (f"part{cell.fraction:g}-" if cell.fraction != 1 else "")
        epsilon = format_epsilon(cell.target_epsilon)
        return f"{cell.domain}-{axes}{self.privacy.unit}-eps{epsilon}-seed{cell.seed}-{digest[:8]}"

    def _train_and_precision(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What decides a training; precision by itself, since it decides the pretraining as well."""
        train = self.train.deciding()
        return train, {key: train.pop(key) for key in ("precision",) if key in train}

    def audit_run_id(self, cell: Cell) -> str:
        """Run folder of a training's twin with canaries."""
        return f"audit{self.audit.canaries}-{self.run_id(cell)}"


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
    if guesses := open_guesses(source.text):
        listed = "; ".join(f"line {number}: {what}" for number, what in guesses.items())
        raise StudyError(
            f"{source.file}: {len(guesses)} lines of `dpdt init --list` are still to confirm: {listed}. Remove the "
            "first # of each line that is right, and delete each that is wrong."
        )
    try:
        study = Study.model_validate({**source.values, "file": source.file.resolve()})
    except ValidationError as err:
        raise StudyError(explain(err, source, Study, sections)) from err
    if not study.domains:
        raise StudyError(f'{source.file}: the study has no domain. Add one as [domains.<name>] with root = "…".')
    return study
