"""`[domains.<name>]` of the study file: where an institution's raw data lies, and the policies that read it."""

import re
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from dpdt.base.vocabulary import LABELS, check_name, healthy_label
from dpdt.study.domain_kinds import DomainKind
from dpdt.study.section import About, Folder, Number, RelativePath, Section, only_once

__all__ = [
    "DomainSettings",
    "LabelsFrom",
    "TableLabel",
    "TableLabels",
    "TableSettings",
    "TableSexes",
    "TableSplits",
    "TableViews",
    "grade_of",
]

Texts = tuple[str, ...]
GRADE: Final = re.compile(r"[+-]?\d+(?:[.,]\d+)?")


def _beside_the_cut(cut: float | None, words: dict[str, Texts]) -> None:
    """A number may not mean yes or no where the cut of the grades says otherwise."""
    if cut is None:
        return
    for word in ("positive", "negative"):
        for cell in words[word]:
            grade = grade_of(cell)
            if grade is not None and (grade >= cut) != (word == "positive"):
                raise ValueError(
                    f"{cell!r} is listed as {word}, and the cut of the grades, >= {cut:g}, says otherwise. "
                    "A number that is no grade belongs to unknown"
                )


def grade_of(cell: str) -> float | None:
    """The number in a cell, with a point or a comma; None where it is no plain number.

    >>> grade_of("3"), grade_of("2,5"), grade_of("n.b."), grade_of("inf")
    (3.0, 2.5, None, None)
    """
    return float(cell.strip().replace(",", ".")) if GRADE.fullmatch(cell.strip()) else None


class TableLabel(Section):
    """`[domains.<name>.table.labels] cardiomegaly = { … }`: a separate column, or words in the findings column."""

    column: str | None = Field(default=None, min_length=1, description="Column that holds this label.")
    positive: Texts = Field(
        default=("1",), min_length=1, description='Cells of that column that mean 1; `[">= 3"]` cuts grades.'
    )
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
        only_once({"positive": self.positive, "negative": self.negative, "unknown": self.unknown})
        if any(cell.lstrip().startswith(">=") for cell in self.positive) and (self.cut is None or not self.negative):
            raise ValueError(f'a cut of grades is positive = [">= 3"] alone, got {list(self.positive)}')
        return self

    @property
    def cut(self) -> float | None:
        """Of the grades in the column: what is at or above it is positive, other numbers are negative.

        Numbers that are listed as unknown are no grades.
        """
        found = re.fullmatch(r"\s*>=\s*(\d+(?:\.\d+)?)\s*", self.positive[0]) if len(self.positive) == 1 else None
        return None if found is None else float(found[1])


class TableLabels(Section):
    """`[domains.<name>.table.labels]`: a label that is left out is unknown in every image."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, TableLabel] = Field(init=False)

    # The paper's five have a place each, so that a study with them keeps its fingerprints.
    cardiomegaly: TableLabel | None = None
    pleural_effusion: TableLabel | None = None
    pneumonia: TableLabel | None = None
    atelectasis: TableLabel | None = None
    healthy: TableLabel | None = None

    @property
    def given(self) -> dict[str, TableLabel]:
        """The labels that the table has."""
        labels = {**{name: getattr(self, name) for name in LABELS}, **(self.__pydantic_extra__ or {})}
        return {name: label for name, label in labels.items() if label is not None}


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


class TableWords(Section):
    """`[domains.<name>.table.words]`: cells that mean the same in the columns of all labels."""

    yes: Texts = Field(default=(), description="Cells that mean 1, besides each label's `positive`.")
    no: Texts = Field(default=(), description="Cells that mean 0, besides `negative`.")
    unknown: Texts = Field(default=(), description="Cells that say nothing, besides `unknown`.")

    def of(self, label: TableLabel) -> dict[str, Texts]:
        """What the cells of a label's column mean."""
        return {
            "positive": (*label.positive, *self.yes),
            "negative": (*label.negative, *self.no),
            "unknown": (*label.unknown, *self.unknown),
        }


class LabelsFrom(Section):
    """`[domains.<name>.table] labels_from = { … }`: a second list, which has the labels."""

    file: RelativePath = Field(description="The list, relative to root.")
    by: Literal["image", "image_id", "study", "patient"] = Field(description="Which key of this table joins the two.")
    column: str = Field(min_length=1, description="The column of the second list with that key's cells.")
    separator: str | None = Field(default=None, min_length=1, max_length=1, description="Of a CSV.")
    encoding: str = Field(default="utf-8", description="Of a CSV.")
    sheet: str | None = Field(default=None, min_length=1, description="Of a workbook.")


class TableSettings(Section):
    """`[domains.<name>.table]`: a hospital's own list, described by its columns and their words."""

    file: Annotated[RelativePath, About("Name your list.", example='"list.csv"')] = Field(
        description="The list, relative to root: .csv, .csv.gz, .tsv, .xlsx, .parquet or .json (one object a line)."
    )
    sheet: Annotated[str | None, About("The workbook has several sheets.", example='"Sheet1"', later=True)] = Field(
        default=None, min_length=1, description="Of a workbook; default: the only visible one."
    )
    images: Annotated[RelativePath, About("The images lie in a folder below root.")] = Field(
        default=Path("."), description="Folder of the images, relative to root."
    )
    suffix: Annotated[str, About("The image column has names without an ending.")] = Field(
        default="", description="Appended to the cells of the image column, e.g. `.png`."
    )
    separator: Annotated[str | None, About("The list is separated by something else.", example='";"')] = Field(
        default=None,
        min_length=1,
        max_length=1,
        description="Of a CSV; default: its line `sep=`, else a comma.",
    )
    encoding: Annotated[str, About("Umlauts come out wrong, as from an old spreadsheet.")] = Field(
        default="utf-8", description="Of a CSV, e.g. `cp1252`; a byte order mark wins over it."
    )
    rows: Annotated[
        Literal["any", "majority", "all"] | None,
        About("An image has several rows: boxes, readers, findings.", example='"any"', later=True),
    ] = Field(
        default=None,
        description="Which of an image's rows must say yes for a label: one, more than half of those that say "
        "something, or all; without it several rows an image are an error.",
    )
    reader: Annotated[str | None, About("A reader has several rows for one image.", example='"rad_id"', later=True)] = (
        Field(
            default=None,
            min_length=1,
            description="Column, with rows: who read it. A reader has one vote: yes if any of its rows says so.",
        )
    )
    image: Annotated[str, About("Name the column.", example='"Filename"')] = Field(
        min_length=1, description="Column: the image's path below the images folder."
    )
    patient: Annotated[str, About("Name the column.", example='"MRN"')] = Field(
        min_length=1, description="Column: the patient. Splits and privacy need it."
    )
    image_id: Annotated[
        str | None, About("The images' names are not unique, or you have better ones.", example='"SOP"')
    ] = Field(default=None, min_length=1, description="Column: a unique name; default: image.")
    study: Annotated[
        str | None, About("Name the column, so that results can be traced to examinations.", example='"Accession"')
    ] = Field(default=None, min_length=1, description="Column: the examination; default: image_id.")
    view: Annotated[str | None, About("The list has lateral images, which must be left out.", example='"View"')] = (
        Field(default=None, min_length=1, description="Column; without it every image is frontal.")
    )
    sex: Annotated[str | None, About("Report subgroups by sex.", example='"Sex"')] = Field(
        default=None, min_length=1, description="Column; without it sex is unknown."
    )
    age: Annotated[str | None, About("Report subgroups by age.", unit="years", example='"Age"')] = Field(
        default=None, min_length=1, description="Column: years, or DICOM's 058Y; 90+ is 90."
    )
    birth_date: Annotated[str | None, About("Ages are not in the list, but dates are.", example='"Born"')] = Field(
        default=None, min_length=1, description="Column, instead of age."
    )
    study_date: Annotated[str | None, About("Belongs to birth_date.", example='"Taken"')] = Field(
        default=None, min_length=1, description="Column, with birth_date."
    )
    date_format: Annotated[
        str | None, About("Dates are written in another way, as for Python's strptime.", example='"%d.%m.%Y"')
    ] = Field(
        default=None,
        min_length=1,
        description="E.g. `%d.%m.%Y`, or `excel` for a spreadsheet's number of days; default: ISO 8601.",
    )
    no_date: Annotated[
        Texts, About("A word stands where there is no date.", example='["unknown", "00.00.0000"]', later=True)
    ] = Field(default=(), description="Cells of the date columns that are no date, besides blank ones.")
    split: Annotated[str | None, About("The hospital has its own split.", example='"Set"')] = Field(
        default=None, min_length=1, description="Column; without it patients are split by hash."
    )
    findings: Annotated[str | None, About("One column holds several findings.", example='"Findings"')] = Field(
        default=None, min_length=1, description="Column with separated findings."
    )
    findings_separator: Annotated[str, About("They are separated by something else.")] = Field(
        default=";", min_length=1, description="Between the names in that column."
    )
    no_findings: Annotated[
        Literal["unknown", "negative", "healthy"], About("An empty cell means that a reader saw nothing.")
    ] = Field(
        default="unknown", description="What an empty findings cell means: labels unknown, all 0, or all 0 and healthy."
    )
    views: Annotated[
        TableViews, About("Say what your view cells mean.", example='{ PA = ["p.a."], AP = ["a.p."] }')
    ] = Field(default=TableViews(), description="What the cells of the view column mean.")
    sexes: Annotated[TableSexes, About("Say what your sex cells mean.", example='{ female = ["w"], male = ["m"] }')] = (
        Field(default=TableSexes(), description="What the cells of the sex column mean.")
    )
    splits: Annotated[
        TableSplits, About("Say what your split cells mean.", example='{ train = ["training"], test = ["holdout"] }')
    ] = Field(default=TableSplits(), description="What the cells of the split column mean.")
    words: Annotated[
        TableWords, About("The labels' cells are words.", example='{ yes = ["ja"], no = ["nein"] }', later=True)
    ] = Field(default=TableWords(), description="What the cells mean in the columns of all labels.")
    labels_from: Annotated[
        LabelsFrom | None,
        About(
            "The labels are in a list of their own.",
            example='{ file = "labels.csv", by = "study", column = "Accession" }',
            later=True,
        ),
    ] = Field(default=None, description="A second list, which has the labels.")
    labels: Annotated[
        TableLabels, About("Name the labels that you have.", example='{ cardiomegaly = { column = "Heart" } }')
    ] = Field(description="Each label's column with its cells, or its names in the findings column.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for name in ("views", "sexes", "splits"):
            try:
                only_once(getattr(self, name).model_dump())
            except ValueError as err:
                raise ValueError(f"{name}: {err}") from err
        for label, settings in self.labels.given.items():
            if settings.column is not None:
                try:
                    only_once(self.words.of(settings))
                    _beside_the_cut(settings.cut, self.words.of(settings))
                except ValueError as err:
                    raise ValueError(f"labels.{label}, with words: {err}") from err
        healthy = healthy_label(self.labels.given)
        if self.no_findings == "healthy" and healthy and self.labels.given[healthy].column is not None:
            raise ValueError(
                f'no_findings = "healthy" says which images are {healthy}, and so does the column of labels.{healthy}: '
                'leave one of them, or write no_findings = "negative"'
            )
        if self.reader is not None and self.rows is None:
            raise ValueError('reader belongs to rows: add rows = "majority", "any" or "all"')
        if self.labels_from is not None and self.labels_from.by == "study" and self.study is None:
            raise ValueError('labels_from: by = "study" needs study = "the column of the examination"')
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

    root: Annotated[
        Folder,
        About(
            "Say where the institution's files are; `~` and `$NAME` are expanded.",
            example='"/data/own"',
            decides="other",
        ),
    ] = Field(description="Folder of the raw data, as published.")
    kind: Annotated[
        DomainKind | None,
        About("Give a domain a name of your own, or use your own list.", example='"table"'),
    ] = Field(default=None, description="Which institution's layout, or `table`; default: the domain's own name.")
    role: Annotated[
        Literal["study", "public"] | None,
        About("Pretrain on another public data set than MIMIC.", example='"public"', decides="other"),
    ] = Field(default=None, description="`public` data is used for pretraining only; default: public for kind mimic.")
    files: Annotated[
        dict[str, RelativePath],
        About("Your copy has other file names than the publisher's.", example='{ table = "labels.csv" }'),
    ] = Field(default_factory=dict, description="Files or folders with other names than published, relative to root.")
    table: TableSettings | None = Field(default=None, description="Columns and values of kind `table`.")
    uncertain: Annotated[
        Literal["paper", "unknown", "positive", "negative"],
        About("Compare policies for uncertain labels; it changes the labels."),
    ] = Field(default="paper", description="What an uncertain label (-1 of CheXpert and MIMIC) means.")
    contradictions: Annotated[
        Literal["finding", "unknown", "exclude", "keep"],
        About("Be stricter, or keep the published labels as they are."),
    ] = Field(
        default="finding",
        description="Healthy and a finding: the finding wins, healthy is unknown, the image is left out, or as it is.",
    )
    sublabels: Annotated[
        dict[str, Texts],
        About("Count other findings of PadChest as one of your labels.", example='{ pneumonia = ["pneumonia"] }'),
    ] = Field(
        default_factory=dict,
        description="PadChest only: which of its labels make one of the study's, each named; see docs/labels.md.",
    )
    unknown_views: Annotated[Literal["exclude", "include"], About("Keep images without a recorded view.")] = Field(
        default="exclude", description="Images without a recorded view."
    )
    image_folders: Annotated[
        tuple[Folder, ...],
        About("Use a resized copy, or images in several places.", example='["images-512"]', later=True),
    ] = Field(
        default=(),
        description="Folders to look for the images in, relative to root or absolute; default: where they are "
        "published, then by name anywhere below root.",
    )
    missing_images: Annotated[
        Literal["reject", "exclude", "later"],
        About("You have a part of the images, or none yet.", example='"exclude"', later=True),
    ] = Field(
        default="reject",
        description="Listed images that are not there: rejected by the shards stage, left out of the cohort, or none "
        "need be there yet.",
    )
    zero_ages: Annotated[
        Literal["newborn", "unknown"],
        About("The list has age 0 where it is not known.", example='"unknown"', later=True),
    ] = Field(default="newborn", description="What an age of 0 means.")
    split: Annotated[
        Literal["official", "patients"],
        About("You have no official lists, or only a part of the images.", example='"patients"', later=True),
    ] = Field(default="official", description="The published split, where there is one, or patients by hash.")
    readers: Annotated[
        Literal["majority", "any", "all"], About("Be more sensitive, or stricter.", example='"any"', later=True)
    ] = Field(
        default="majority",
        description="VinDr only: which of a training image's readers must see a finding: more than half, any, or all.",
    )
    columns: Annotated[
        dict[str, str],
        About("Compare groups by something else that the list has.", example='{ ward = "Station" }', decides="other"),
    ] = Field(
        default_factory=dict,
        description="Other columns of the list, by the name that a group of `[evaluate.groups]` asks for them.",
    )
    val_fraction: Annotated[
        Number, About("0: train on every patient that is not tested.", unit="part of the train patients")
    ] = Field(default=0.1, ge=0.0, lt=1.0, description="Part of the training patients for `val`.")
    test_fraction: Annotated[
        Number, About("More for narrower intervals, less for more training.", unit="part of all patients")
    ] = Field(
        default=0.2, gt=0.0, lt=1.0, description="Part of the patients for `test` where no official split exists."
    )

    @model_validator(mode="after")
    def _named(self) -> Self:
        for label, names in self.sublabels.items():
            if not names:
                raise ValueError(f"sublabels.{label}: name at least one of PadChest's labels")
        for name in self.columns:
            try:
                check_name(name)
            except ValueError as err:
                raise ValueError(f"columns: {err}") from err
        return self
