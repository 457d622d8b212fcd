"""A hospital's own list: the study file explains its columns and values.

`[domains.<name>.table]` (TableSettings) says which column holds what and what its cells mean; docs/own-hospital.md has
a worked example. Cells are compared trimmed and without case. Cells that the study file does not explain are errors
that name the row, the cell and the key to add it to, all at once: nothing is guessed.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pandas as pd

from dpdt.base.vocabulary import folded, healthy_label
from dpdt.cohort.hospitals.raw_cohort import (
    FRONTAL,
    FileNames,
    Filter,
    RawCohort,
    Wanted,
    age_from_text,
    mapped,
    to_label,
    with_columns,
)
from dpdt.cohort.hospitals.raw_files import RawFiles
from dpdt.cohort.hospitals.table_dates import age_by_dates
from dpdt.cohort.hospitals.table_labels_from import KEY, join_labels, spelled
from dpdt.cohort.hospitals.table_problems import Problems, column_hint
from dpdt.cohort.hospitals.table_rows import COPIES, combined, one_row_each, without_copies
from dpdt.cohort.lists.rows import LIST_SUFFIXES, WHOLE_ROW, WORKBOOKS, ListFile
from dpdt.errors import CohortError, StudyError
from dpdt.study.domain_settings import DomainSettings, LabelsFrom, TableLabel, TableSettings, grade_of

__all__ = ["FILES", "LISTS", "list_of", "read"]

FILES: Final[FileNames] = {}
"""Nothing is published: the names are in `[domains.<name>.table]`."""

LISTS: Final = ()
IMAGE_KEYS: Final = (
    "image",
    "patient",
    "image_id",
    "study",
    "view",
    "sex",
    "age",
    "birth_date",
    "study_date",
    "split",
)
NO_VIEWS: Final = "every image taken as frontal, lateral ones too: the list has no column of views"
NEEDED: Final = ("image", "patient", "image_id")


def read(root: Path, settings: DomainSettings, wanted: Wanted) -> RawCohort:
    """Read the list.

    Raises:
        StudyError: `files` is given; names belong to the table's own keys.
        CohortError: The file or a column is missing, cells are empty or not explained, or an image has several rows
            and there is no rule for them.
    """
    if settings.files:
        raise StudyError(
            "files: belongs to published layouts. Name the list and the images folder in the table itself."
        )
    RawFiles(root, FILES, settings)
    table = settings.table
    if table is None:
        raise StudyError("table: missing. Describe the list in [domains.<name>.table].")
    source = _list(root, table)
    problems = Problems(source.path)
    rows, copies = _rows(source, table, wanted, problems)
    images = one_row_each(rows, "image_id", table, source)
    counts = {COPIES: copies, "further rows of an image, read by the rule of `rows`": len(rows) - len(images)}
    left = _of_the_view(images, table, settings)
    kept = left.kept
    files, join = {"table": source.path}, table.labels_from
    if join is None:
        labels = _own_labels(rows, kept, table, wanted, problems)
    else:
        files["labels"] = root / join.file
        other = ListFile(files["labels"], join.separator, join.encoding, join.sheet)
        labels, found = _labels_of_second(other, join, images, kept, table, wanted, problems)
        counts |= found
    age, found = _age(kept, table, source.path, problems)
    counts |= found
    paths = (table.images / "x").as_posix().removesuffix("x") + images["image"]
    frame = pd.DataFrame(
        {
            "image_id": kept["image_id"],
            "path": paths[kept.index],
            "patient_id": kept["patient"],
            "study_id": kept["study"].where(kept["study"] != "", kept["image_id"]) if table.study else kept["image_id"],
            "view": kept["view"],
            "sex": _words(kept, table, problems, "sex", table.sexes.model_dump()) if table.sex else "unknown",
            "age_years": age,
            "split": _split(kept, table, problems),
            **labels,
        }
    )
    problems.stop()
    frame = with_columns(frame, kept, source.path, settings, wanted)
    counts |= {f"{label} unknown in every image": len(frame) for label in wanted.labels if frame[label].isna().all()}
    return RawCohort(frame, left.exclusions, files, counts, _rules(table), listed=paths)


def _rows(source: ListFile, table: TableSettings, wanted: Wanted, problems: Problems) -> tuple[pd.DataFrame, int]:
    """The list's rows without exact copies, each with its image and patient; and how many copies there were.

    Raises:
        CohortError: A column is missing, or an image or patient is blank in every row.
    """
    labels = {} if table.labels_from is not None else _label_columns(table)
    columns = {f"column {name}": column for name, column in wanted.columns.items()}
    rows = _cells(source, {**_given(table, IMAGE_KEYS), **columns, **labels}, table)
    for column in NEEDED:
        if column in rows:
            problems.empty(rows[column], getattr(table, column), column)
    if source.kind in WORKBOOKS:
        problems.dates_for_ids(rows["patient"], table.patient)
    if problems.found:  # told with all else that is wrong with the other rows
        rows = rows[(rows[[column for column in NEEDED if column in rows]] != "").all(axis=1)].copy()
        if rows.empty:
            problems.stop()
    rows["image"] += table.suffix
    rows["image_id"] = rows.get("image_id", rows["image"])
    once = without_copies(rows, "image_id", table, source)
    return once, len(rows) - len(once)


def _own_labels(
    rows: pd.DataFrame, kept: pd.DataFrame, table: TableSettings, wanted: Wanted, problems: Problems
) -> "dict[str, pd.Series[int]]":
    """Labels of the kept images by their own rows."""
    alone = not rows["image_id"].duplicated().any()
    own = rows.loc[kept.index] if alone else rows[rows["image_id"].isin(kept["image_id"])]
    labels = _labels(own, "image_id", table, wanted, problems)
    return {label: _of(column, kept["image_id"], kept.index) for label, column in labels.items()}


def _rules(table: TableSettings) -> dict[str, object]:
    """How views and labels were read, for the record."""
    rules: dict[str, object] = {"labels": table.labels.model_dump()}
    if table.view is None:
        rules["views"] = NO_VIEWS
    if table.rows is not None:
        voters = "readers" if table.reader else "rows"
        rules["rows"] = {"majority": f"majority of an image's {voters}"}.get(
            table.rows, f"{table.rows} of an image's {voters}"
        )
    return rules


def _of(column: "pd.Series[int]", keys: "pd.Series[str]", index: "pd.Index[int]") -> "pd.Series[int]":
    """A label by its key, put beside each image."""
    if len(column) == len(keys) and bool((column.index.to_numpy() == keys.to_numpy()).all()):
        return column.set_axis(index)
    return column.reindex(pd.Index(keys)).set_axis(index)


def _given(table: TableSettings, keys: tuple[str, ...]) -> dict[str, str]:
    """Key -> name of its column."""
    return {key: name for key in keys if (name := getattr(table, key)) is not None}


def _label_columns(table: TableSettings) -> dict[str, str]:
    """What labels are read from; a label's own column is `label:<label>`."""
    own = {f"label:{label}": each.column for label, each in table.labels.given.items() if each.column is not None}
    return {**_given(table, ("findings", "reader")), **own}


def _cells(source: ListFile, wanted: Mapping[str, str], table: TableSettings) -> pd.DataFrame:
    """The wanted columns as trimmed text, named by their key."""
    header = source.header(wanted.values())
    for key, name in wanted.items():
        if name not in header:
            raise CohortError(
                f"{source.path}: no column {name!r} ({key.replace(':', ' ')}); found {', '.join(map(repr, header))}. "
                + column_hint(name, header, None if source.kind in WORKBOOKS else source.separator or ",")
            )
    found = source.read(sorted(set(wanted.values())))
    if found.empty:
        raise CohortError(f"{source.path}: a header and no rows. Expected one row per image; export the list again.")
    cells = {key: found[name].str.strip() for key, name in wanted.items()}
    return pd.DataFrame(cells | ({WHOLE_ROW: found[WHOLE_ROW]} if WHOLE_ROW in found else {}))


def list_of(root: Path, table: TableSettings) -> Path:
    """The list's file.

    Raises:
        CohortError: It is not there, or no file; neither may a second list for the labels be missing.
    """
    for file in (table.file, *(() if table.labels_from is None else (table.labels_from.file,))):
        if not (root / file).is_file():
            raise CohortError(_no_list(root / file))
    return root / table.file


def _list(root: Path, table: TableSettings) -> ListFile:
    return ListFile(list_of(root, table), table.separator, table.encoding, table.sheet)


def _labels_of_second(
    other: ListFile,
    join: LabelsFrom,
    images: pd.DataFrame,
    kept: pd.DataFrame,
    table: TableSettings,
    wanted: Wanted,
    problems: Problems,
) -> "tuple[dict[str, pd.Series[int]], dict[str, int]]":
    """Labels of the kept images by a second list, joined as `labels_from` says."""
    here = Problems(other.path)
    rows = _cells(other, {KEY: join.column, **_label_columns(table)}, table)
    here.empty(rows[KEY], join.column, f"labels_from, by {join.by}")
    whole = len(rows)
    rows = without_copies(rows.assign(**{KEY: spelled(rows[KEY], join.by, other.path)}), KEY, table, other)
    one_row_each(rows, KEY, table, other)
    labels = _labels(rows, KEY, table, wanted, here)
    problems.add(*here.found)
    found, counts = join_labels(labels, images, kept, join, other.path, problems.path)
    return found, {f"{COPIES} (of the labels' list)": whole - len(rows), **counts}


def _no_list(path: Path) -> str:
    """What to say about a list that is not there, or is no file."""
    if path.is_dir():
        return f"{path}: a folder. Expected a list; set `file` in the domain's table to its path below `root`."
    lists = [one.name for one in sorted(path.parent.glob("*")) if LIST_SUFFIXES & {*one.suffixes}][:5]
    found = f" Its folder has: {', '.join(lists)}." if lists else ""
    return f"{path}: no such file. Correct `root`, or `file` in the domain's table.{found}"


def _words(
    kept: pd.DataFrame, table: TableSettings, problems: Problems, key: str, meanings: Mapping[str, tuple[str, ...]]
) -> "pd.Series[str]":
    """Cells of a column in the words of dpdt; every cell must be explained."""
    where = f"table.{key}{'e' * (key == 'sex')}s"
    return problems.translated(kept[key], getattr(table, key), meanings, where=where)


def _of_the_view(images: pd.DataFrame, table: TableSettings, settings: DomainSettings) -> Filter:
    """The images that `views` lists, each with its word; the others are excluded, each view with its name.

    Without a view column every image is frontal. A cell is what `views` says, also where it is a word of dpdt itself:
    with `AP = []` the cells `AP` are left out.
    """
    if table.view is None:
        return Filter(images.assign(view=FRONTAL))
    by_cell = {folded(cell): word for word, listed in table.views.model_dump().items() for cell in listed}
    by_cell.setdefault("", "unknown")
    words = {cell: by_cell.get(folded(cell)) for cell in images["view"].unique()}
    found = mapped(images["view"], words)
    rows = Filter(images.assign(view=found.fillna(images["view"]).astype("str")))
    for view in sorted(cell for cell, word in words.items() if word is None):
        rows.drop((images["view"] == view)[rows.kept.index], f"view {view}")
    if settings.unknown_views == "exclude":
        rows.drop(rows.kept["view"] == "unknown", "view unknown")
    return rows


def _split(kept: pd.DataFrame, table: TableSettings, problems: Problems) -> "pd.Series[str]":
    """The hospital's own split, missing where the cell is blank."""
    if table.split is None:
        return pd.Series(None, index=kept.index, dtype="str")
    words = _words(kept, table, problems, "split", {**table.splits.model_dump(), "none": ("",)})
    return words.where(words != "none", None).astype("str")


def _age(
    kept: pd.DataFrame, table: TableSettings, path: Path, problems: Problems
) -> "tuple[pd.Series[float], dict[str, int]]":
    """Age in years, from the age column or from two dates; what cannot be an age is unknown and counted."""
    unknown = pd.Series(float("nan"), index=kept.index)
    try:
        if table.age is not None:
            age = age_from_text(kept["age"], column=f"{path}: column {table.age!r}")
            return age, {"age not understood or impossible, unknown": int((age.isna() & (kept["age"] != "")).sum())}
        return (unknown, {}) if table.birth_date is None else age_by_dates(kept, table, path, problems)
    except CohortError as err:
        problems.add(str(err))
        return unknown, {}


def _labels(
    cells: pd.DataFrame, key: str, table: TableSettings, wanted: Wanted, problems: Problems
) -> "dict[str, pd.Series[int]]":
    """One column a label, or whole names in the findings column; a label that is not described is unknown.

    Returns:
        Label -> its values by `key`, of which several rows are made one as `rows` says.
    """
    labels = {label: pd.Series(pd.NA, index=cells.index, dtype="Int8") for label in wanted.labels}
    if table.reader is not None:
        problems.empty(cells["reader"], table.reader, "reader: whose vote is it?")
    for label, settings in table.labels.given.items():
        if settings.column is not None:
            where = f"positive, negative or unknown of table.labels.{label}, or to table.words"
            meanings = table.words.of(settings)
            own = _graded(cells[f"label:{label}"], settings, meanings["unknown"])
            words = problems.translated(own, settings.column, meanings, where=where)
            labels[label] = words.map({"positive": 1, "negative": 0}).astype("Int8")
    labels |= _found(cells, table, problems.path, healthy_label(wanted.labels))
    return dict(combined(labels, cells[key], table.rows, cells.get("reader")))


def _graded(cells: "pd.Series[str]", settings: TableLabel, unknown: tuple[str, ...]) -> "pd.Series[str]":
    """Where `positive` is a cut of grades, `>= 3`, numbers as that text or as a negative cell; others as they are.

    So are the numbers that stand for no grade, such as a 9 that is listed as unknown.
    """
    if settings.cut is None:
        return cells
    no_grade = {folded(cell) for cell in unknown}
    grades = {cell: grade_of(cell) for cell in cells.unique() if folded(cell) not in no_grade}
    sides = {
        cell: settings.positive[0] if grade >= settings.cut else settings.negative[0]
        for cell, grade in grades.items()
        if grade is not None
    }
    return mapped(cells, {cell: sides.get(cell, cell) for cell in cells.unique()}).astype("str")


def _found(kept: pd.DataFrame, table: TableSettings, path: Path, healthy: str | None) -> "dict[str, pd.Series[int]]":
    """The labels that are named in the findings column."""
    if table.findings is None:
        return {}
    split = {cell: folded(cell).split(table.findings_separator.casefold()) for cell in kept["findings"].unique()}
    names = {cell: frozenset(part.strip() for part in parts) - {""} for cell, parts in split.items()}
    _check_findings(table, path, names)
    empty = mapped(kept["findings"], {cell: not found for cell, found in names.items()}).astype(bool)
    labels = {}
    for label, settings in table.labels.given.items():
        if not settings.findings:
            continue
        wanted = {folded(name) for name in settings.findings}
        cells = {cell: not wanted.isdisjoint(found) for cell, found in names.items()}
        labels[label] = to_label(mapped(kept["findings"], cells).astype(bool))
        if table.no_findings == "unknown":
            labels[label] = labels[label].mask(empty)
    if table.no_findings == "healthy" and healthy is not None:
        labels[healthy] = labels.get(healthy, to_label(empty)).mask(empty, 1)
    return labels


def _check_findings(table: TableSettings, path: Path, names: Mapping[str, frozenset[str]]) -> None:
    """A finding that is in no row is a mistake of the study file: names are compared whole."""
    known = frozenset().union(*names.values())
    for label, settings in table.labels.given.items():
        lost = [name for name in settings.findings if folded(name) not in known]
        if lost:
            seen = ", ".join(sorted(known)[:12])
            raise CohortError(
                f"{path}: column {table.findings!r}: no row has the finding {lost[0]!r} of {label}; found {seen}. "
                f"Names are compared whole, separated by {table.findings_separator!r}."
            )
