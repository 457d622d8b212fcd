"""`[domains.<name>]` of the study file: where an institution's raw data lies, and the policies that read it."""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AllowInfNan, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from dpdt.base.vocabulary import LABELS

__all__ = [
    "DOMAIN_KINDS",
    "DomainSettings",
    "Folder",
    "Integer",
    "Number",
    "NumberOrInfinity",
    "Section",
    "TableLabel",
    "TableLabels",
    "TableSettings",
    "Truth",
]

DOMAIN_KINDS: Final = ("vindr", "chestxray14", "chexpert", "uka", "padchest", "mimic", "table")
"""Whose layout a domain may have; `table` is anybody's own list, described by `[domains.<name>.table]`."""


def _number(value: Any) -> Any:
    """Refuse numbers in quotes: `2e-4` without a dot is a float in TOML, but people quote it out of habit."""
    if not isinstance(value, str):
        return value
    try:
        float(value)
    except ValueError:
        raise ValueError(f"expected a number, got {value!r} (text)") from None
    raise ValueError(f"expected a number, got {value!r} (text). Remove the quotes.")


def _truth(value: Any) -> Any:
    """Refuse "yes" and 1: only TOML's own true and false say what is meant."""
    if isinstance(value, bool):
        return value
    raise ValueError(f"expected true or false, without quotes, got {value!r}")


def _expand(value: Any) -> Any:
    """Expand `~` and `$NAME` in a path; a variable that is not set is an error, not an empty string."""
    if not isinstance(value, str | Path):
        return value
    text = os.path.expandvars(str(_printable(value)))
    if "$" in text:
        raise ValueError(f"the environment variable in {str(value)!r} is not set. Set it, or write the folder itself.")
    try:
        return Path(text).expanduser()
    except RuntimeError as err:
        raise ValueError(f"{str(value)!r}: there is no such user with a home folder. Write the folder itself.") from err


def _printable(value: Any) -> Any:
    """Refuse control characters in a path: TOML reads a backslash and n in double quotes as a line break."""
    found = re.search(r"[\x00-\x1f\x7f]", value) if isinstance(value, str) else None
    if found is None:
        return value
    raise ValueError(
        f"{value!r} has the control character {found[0]!r}, which no path has. In double quotes a backslash begins a "
        "special character: use single quotes, '…', or /."
    )


Number = Annotated[float, BeforeValidator(_number), AllowInfNan(False)]
NumberOrInfinity = Annotated[float, BeforeValidator(_number)]
Integer = Annotated[int, BeforeValidator(_number)]
Truth = Annotated[bool, BeforeValidator(_truth)]
Folder = Annotated[Path, BeforeValidator(_expand)]
RelativePath = Annotated[Path, BeforeValidator(_printable)]
Texts = tuple[str, ...]


class Section(BaseModel):
    """A table of the study file: unknown keys are errors, values are read-only."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def _only_once(words: dict[str, Texts]) -> None:
    """No value may mean two things; values are compared trimmed and without case."""
    meanings: dict[str, str] = {}
    for word, values in words.items():
        for value in values:
            known = meanings.setdefault(value.strip().casefold(), word)
            if known != word:
                raise ValueError(f"{value!r} is listed as {known} and as {word}")


class TableLabel(Section):
    """`[domains.<name>.table.labels] cardiomegaly = { … }`: a column of its own, or words in the findings column."""

    column: str | None = Field(default=None, min_length=1, description="Column that holds this label.")
    positive: Texts = Field(default=("1",), min_length=1, description="Cells of that column that mean 1.")
    negative: Texts = Field(default=("0",), description="Cells that mean 0.")
    unknown: Texts = Field(default=("",), description="Cells that say nothing (masked in loss and metrics).")
    findings: Texts = Field(default=(), description="Names in the findings column that mean 1; compared whole.")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.column is None) == (not self.findings):
            raise ValueError('give either column = "…" or findings = ["…"]')
        cells = ("positive", "negative", "unknown")  # compared with the defaults: a frozen study names every value
        if self.findings and any(getattr(self, name) != type(self).model_fields[name].default for name in cells):
            raise ValueError("positive, negative and unknown belong to column = …, not to findings = […]")
        _only_once({"positive": self.positive, "negative": self.negative, "unknown": self.unknown})
        return self


class TableLabels(Section):
    """`[domains.<name>.table.labels]`: a label that is left out is unknown in every image."""

    cardiomegaly: TableLabel | None = None
    pleural_effusion: TableLabel | None = None
    pneumonia: TableLabel | None = None
    atelectasis: TableLabel | None = None
    healthy: TableLabel | None = None

    @property
    def given(self) -> dict[str, TableLabel]:
        """The labels that the table has."""
        labels = {name: getattr(self, name) for name in LABELS}
        return {name: label for name, label in labels.items() if label is not None}

    @model_validator(mode="after")
    def _any(self) -> Self:
        if not self.given:
            raise ValueError(f"name at least one of {', '.join(LABELS)}")
        return self


class TableViews(Section):
    """`[domains.<name>.table.views]`: what the cells of the view column mean; every other cell is left out."""

    PA: Texts = ("PA",)
    AP: Texts = ("AP",)
    frontal: Texts = ("frontal",)
    unknown: Texts = ("", "unknown")


class TableSexes(Section):
    """`[domains.<name>.table.sexes]`: what the cells of the sex column mean."""

    female: Texts = ("F", "female")
    male: Texts = ("M", "male")
    unknown: Texts = ("", "unknown")


class TableSplits(Section):
    """`[domains.<name>.table.splits]`: what the cells of the split column mean."""

    train: Texts = ("train",)
    val: Texts = ("val", "valid", "validate", "validation")
    test: Texts = ("test",)


class TableSettings(Section):
    """`[domains.<name>.table]`: a CSV or Parquet list of one's own hospital, one row an image."""

    file: RelativePath = Field(description="The list, relative to root: .csv, .csv.gz, .tsv or .parquet.")
    images: RelativePath = Field(default=Path("."), description="Folder of the images, relative to root.")
    suffix: str = Field(default="", description="Appended to the cells of the image column, e.g. `.png`.")
    separator: str | None = Field(default=None, min_length=1, max_length=1, description="Of a CSV; default: a comma.")
    encoding: str = Field(default="utf-8", description="Of a CSV, e.g. `latin-1`.")
    image: str = Field(min_length=1, description="Column: the image's path below the images folder.")
    patient: str = Field(min_length=1, description="Column: the patient. Splits and privacy need it.")
    image_id: str | None = Field(default=None, min_length=1, description="Column: a unique name; default: image.")
    study: str | None = Field(default=None, min_length=1, description="Column: the examination; default: image_id.")
    view: str | None = Field(default=None, min_length=1, description="Column; without it every image is frontal.")
    sex: str | None = Field(default=None, min_length=1, description="Column; without it sex is unknown.")
    age: str | None = Field(default=None, min_length=1, description="Column: years, or DICOM's 058Y; 90+ is 90.")
    birth_date: str | None = Field(default=None, min_length=1, description="Column, instead of age.")
    study_date: str | None = Field(default=None, min_length=1, description="Column, with birth_date.")
    date_format: str | None = Field(default=None, min_length=1, description="E.g. `%d.%m.%Y`; default: ISO 8601.")
    split: str | None = Field(default=None, min_length=1, description="Column; without it patients are split by hash.")
    findings: str | None = Field(default=None, min_length=1, description="Column with separated findings.")
    findings_separator: str = Field(default=";", min_length=1, description="Between the names in that column.")
    no_findings: Literal["unknown", "negative", "healthy"] = Field(
        default="unknown", description="What an empty findings cell means: labels unknown, all 0, or all 0 and healthy."
    )
    views: TableViews = Field(default=TableViews(), description="What the cells of the view column mean.")
    sexes: TableSexes = Field(default=TableSexes(), description="What the cells of the sex column mean.")
    splits: TableSplits = Field(default=TableSplits(), description="What the cells of the split column mean.")
    labels: TableLabels = Field(description="Each label's column with its cells, or its names in the findings column.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for name in ("views", "sexes", "splits"):
            try:
                _only_once(getattr(self, name).model_dump())
            except ValueError as err:
                raise ValueError(f"{name}: {err}") from err
        if self.age is not None and self.birth_date is not None:
            raise ValueError("give age, or birth_date and study_date, not both")
        if self.age is None and (self.birth_date is None) != (self.study_date is None):
            raise ValueError("birth_date and study_date belong together")
        named = [label for label, settings in self.labels.given.items() if settings.findings]
        if named and self.findings is None:
            raise ValueError(f'labels.{named[0]} has findings = […]: add findings = "the column that holds them"')
        if self.findings is not None and not named:
            raise ValueError("no label has findings = […], so the findings column is never read")
        return self


class DomainSettings(Section):
    """`[domains.<name>]`: one institution's raw data."""

    root: Folder = Field(description="Folder of the raw data, as published.")
    kind: Literal["vindr", "chestxray14", "chexpert", "uka", "padchest", "mimic", "table"] | None = Field(
        default=None, description="Which institution's layout, or `table`; default: the domain's own name."
    )
    role: Literal["study", "public"] | None = Field(
        default=None, description="`public` data is used for pretraining only; default: public for kind mimic."
    )
    files: dict[str, RelativePath] = Field(
        default_factory=dict, description="Files or folders with other names than published, relative to root."
    )
    table: TableSettings | None = Field(default=None, description="Columns and values of kind `table`.")
    uncertain: Literal["paper", "unknown", "positive", "negative"] = Field(
        default="paper", description="What an uncertain label (-1 of CheXpert and MIMIC) means."
    )
    contradictions: Literal["finding", "unknown", "exclude", "keep"] = Field(
        default="finding",
        description="Healthy and a finding: the finding wins, healthy is unknown, the image is left out, or as it is.",
    )
    sublabels: dict[str, Texts] = Field(
        default_factory=dict, description="PadChest only: which of its labels make one of ours; see docs/cohorts.md."
    )
    unknown_views: Literal["exclude", "include"] = Field(
        default="exclude", description="Images whose view is not recorded."
    )
    val_fraction: Number = Field(default=0.1, ge=0.0, lt=1.0, description="Part of the training patients for `val`.")
    test_fraction: Number = Field(
        default=0.2, gt=0.0, lt=1.0, description="Part of the patients for `test` where no official split exists."
    )

    @model_validator(mode="after")
    def _labels_exist(self) -> Self:
        for label, names in self.sublabels.items():
            if label not in LABELS:
                raise ValueError(f"sublabels.{label}: no such label. Valid labels: {', '.join(LABELS)}")
            if not names:
                raise ValueError(f"sublabels.{label}: name at least one of PadChest's labels")
        return self
