"""A hospital's own list: a CSV or Parquet, one row an image; the study file explains its columns and values.

`[domains.<name>.table]` (TableSettings) says which column holds what and what its cells mean; docs/own-hospital.md has
a worked example. Cells are compared trimmed and without case. A cell that the study file does not explain is an error
that names the row, the cell and the key to add it to: nothing is guessed.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pandas as pd

from dpdt.base.vocabulary import healthy_label
from dpdt.cohort.hospitals.raw_cohort import (
    FRONTAL,
    FileNames,
    Filter,
    RawCohort,
    Wanted,
    age_from_text,
    check_understood,
    possible_age,
    to_label,
    with_columns,
)
from dpdt.cohort.hospitals.raw_files import RawFiles, csv_header, read_csv
from dpdt.errors import CohortError, StudyError
from dpdt.study.domain_settings import DomainSettings, TableLabel, TableSettings

__all__ = ["FILES", "LISTS", "list_of", "read"]

FILES: Final[FileNames] = {}
"""Nothing is published: the names are in `[domains.<name>.table]`."""

LISTS: Final = ()
LIST_SUFFIXES: Final = {".csv", ".tsv", ".parquet"}
COLUMN_KEYS: Final = (
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
    "findings",
)
DAYS_PER_YEAR: Final = 365.25
SHOWN_CELLS: Final = 3


def read(root: Path, settings: DomainSettings, wanted: Wanted) -> RawCohort:
    """Read the list.

    Raises:
        StudyError: `files` is given; names belong to the table's own keys.
        CohortError: The file or a column is missing, or a cell is empty or not explained.
    """
    if settings.files:
        raise StudyError(
            "files: belongs to published layouts. Name the list and the images folder in the table itself."
        )
    RawFiles(root, FILES, settings)
    table = settings.table
    if table is None:
        raise StudyError("table: missing. Describe the list in [domains.<name>.table].")
    path = list_of(root, table)
    cells = _cells(path, table, wanted)
    for column in ("image", "patient", "image_id"):
        if column in cells and (cells[column] == "").any():
            row = _row(cells[column] == "")
            raise CohortError(f"{path}: row {row}: column {getattr(table, column)!r} ({column}) is empty.")
    image = cells["image"] + table.suffix
    paths = (table.images / "x").as_posix().removesuffix("x") + image
    cells = cells.assign(image_id=cells.get("image_id", image))
    cells["view"] = _views(cells, table)
    rows = Filter(cells)
    for view in sorted(set(cells["view"]) - {"PA", "AP", FRONTAL, "unknown"}):
        rows.drop(rows.kept["view"] == view, f"view {view}")
    if settings.unknown_views == "exclude":
        rows.drop(rows.kept["view"] == "unknown", "view unknown")
    kept = rows.kept
    age, counts = _age(kept, table, path)
    frame = pd.DataFrame(
        {
            "image_id": kept["image_id"],
            "path": paths[kept.index],
            "patient_id": kept["patient"],
            "study_id": kept["study"].where(kept["study"] != "", kept["image_id"]) if table.study else kept["image_id"],
            "view": kept["view"],
            "sex": _words(kept, table, path, "sex", table.sexes.model_dump()) if table.sex else "unknown",
            "age_years": age,
            "split": _split(kept, table, path),
            **_labels(kept, table, path, wanted),
        }
    )
    frame = with_columns(frame, kept, path, settings, wanted)
    counts |= {f"{label} unknown in every image": len(frame) for label in wanted.labels if frame[label].isna().all()}
    rules = {"labels": table.labels.model_dump()}
    return RawCohort(frame, rows.exclusions, {"table": path}, counts, rules, listed=paths)


def _cells(path: Path, table: TableSettings, also: Wanted) -> pd.DataFrame:
    """The wanted columns as trimmed text: named by their key, labels' own columns as `label:<label>`."""
    wanted = {key: name for key in COLUMN_KEYS if (name := getattr(table, key)) is not None}
    labels = {label: settings.column for label, settings in table.labels.given.items()}
    wanted |= {f"label:{label}": column for label, column in labels.items() if column is not None}
    wanted |= {f"column {name}": column for name, column in also.columns.items()}
    parquet = path.suffix == ".parquet"
    separator = table.separator or ("\t" if ".tsv" in path.suffixes else ",")
    header = _parquet_header(path) if parquet else csv_header(path, separator=separator, encoding=table.encoding)
    for key, name in wanted.items():
        if name not in header:
            raise CohortError(
                f"{path}: no column {name!r} ({key.replace(':', ' ')}); found {', '.join(map(repr, header))}. "
                + _column_hint(name, header, separator)
            )
    columns = sorted(set(wanted.values()))
    if parquet:
        found = _as_text(pd.read_parquet(path, columns=columns))
    else:
        found = read_csv(path, columns=columns, separator=separator, encoding=table.encoding)
    if found.empty:
        raise CohortError(f"{path}: a header and no rows. Expected one row per image; export the list again.")
    return pd.DataFrame({key: found[name].str.strip() for key, name in wanted.items()})


def list_of(root: Path, table: TableSettings) -> Path:
    """The list's file.

    Raises:
        CohortError: It is not there, or no file.
    """
    path = root / table.file
    if not path.is_file():
        raise CohortError(_no_list(path))
    return path


def _no_list(path: Path) -> str:
    """What to say about a list that is not there, or is no file."""
    if path.is_dir():
        return f"{path}: a folder. Expected a list; set `file` in the domain's table to its path below `root`."
    lists = [one.name for one in sorted(path.parent.glob("*")) if LIST_SUFFIXES & {*one.suffixes}][:5]
    found = f" Its folder has: {', '.join(lists)}." if lists else ""
    return f"{path}: no such file. Correct `root`, or `file` in the domain's table.{found}"


def _column_hint(name: str, header: tuple[str, ...], separator: str) -> str:
    """What to do about a column that is not there."""
    if header[0].startswith("sep="):
        return "The list begins with a line `sep=…` that only spreadsheet programs know: remove it."
    if header[0].startswith("ï»¿"):  # the mark at the beginning of UTF-8, read as Latin-1
        return "The list is UTF-8: leave `encoding` out of the domain's table."
    if len(header) == 1:
        other = max(",;\t|", key=header[0].count)
        if other != separator and other in header[0]:
            return f"The separator seems to be {other!r}: set separator = {json.dumps(other)} in the domain's table."
        return "Is `separator` right?"
    same = [column for column in header if _plain(column) == _plain(name)]
    if same:
        return f"Names are compared exactly: write {same[0]!r} in the study file, with its blanks and capitals."
    return "Names are compared exactly; correct the study file."


def _plain(name: str) -> str:
    """A column's name without what is easily overlooked: blanks, capitals, a byte order mark."""
    return "".join(name.replace("\ufeff", "").split()).casefold()


def _parquet_header(path: Path) -> tuple[str, ...]:
    import pyarrow.parquet

    try:
        return tuple(pyarrow.parquet.read_schema(path).names)
    except (OSError, ValueError) as err:  # pyarrow's errors are ValueErrors
        raise CohortError(f"{path}: cannot be read as Parquet ({err}).") from err


def _as_text(frame: pd.DataFrame) -> pd.DataFrame:
    """Parquet's typed columns as a CSV would have them: 1 for 1.0 and True, 2020-01-31 for a date, blank for null."""

    def text(column: "pd.Series[Any]") -> "pd.Series[str]":
        kind = column.dtype
        whole = pd.api.types.is_float_dtype(kind) and bool((column.dropna() % 1 == 0).all())
        if whole or pd.api.types.is_bool_dtype(kind):
            column = column.astype("Int64")
        return column.astype("str").where(column.notna(), "").astype("str")

    return pd.DataFrame({name: text(frame[name]) for name in frame.columns}).reset_index(drop=True)


def _row(mask: "pd.Series[bool]") -> int:
    """Number of the first row (from 1, without the header) in which `mask` is true."""
    return int(mask.index[mask][0]) + 1


def _words(
    kept: pd.DataFrame, table: TableSettings, path: Path, key: str, meanings: Mapping[str, tuple[str, ...]]
) -> "pd.Series[str]":
    """Cells of a column in the words of dpdt; every cell must be explained."""
    name = getattr(table, key)
    return _translate(kept[key], path, name, meanings, where=f"table.{key}{'e' * (key == 'sex')}s")


def _translate(
    cells: "pd.Series[str]", path: Path, column: str, meanings: Mapping[str, tuple[str, ...]], *, where: str
) -> "pd.Series[str]":
    by_cell = {cell.strip().casefold(): word for word, listed in meanings.items() for cell in listed}
    words = {cell: by_cell.get(cell.casefold()) for cell in cells.unique()}
    strange = [cell for cell, word in words.items() if word is None]
    if strange:
        bad = cells.isin(strange)
        shown = ", ".join(repr(cell) for cell in strange[:SHOWN_CELLS]) + (", …" if len(strange) > SHOWN_CELLS else "")
        explained = "; ".join(f"{word} = {json.dumps(listed, ensure_ascii=False)}" for word, listed in meanings.items())
        raise CohortError(
            f"{path}: column {column!r}: {int(bad.sum())} cells are not explained: {shown} (first in row {_row(bad)}). "
            f"Known: {explained}. Add them to {where} of the domain in the study file."
        )
    return cells.map(words).astype("str")


def _views(cells: pd.DataFrame, table: TableSettings) -> "pd.Series[str]":
    """PA, AP, frontal or unknown; other cells as they are. Without a view column every image is frontal."""
    if table.view is None:
        return pd.Series(FRONTAL, index=cells.index, dtype="str")
    by_cell = {cell.strip().casefold(): word for word, listed in table.views.model_dump().items() for cell in listed}
    words = {cell: by_cell.get(cell.casefold(), cell or "unknown") for cell in cells["view"].unique()}
    return cells["view"].map(words).astype("str")


def _split(kept: pd.DataFrame, table: TableSettings, path: Path) -> "pd.Series[str]":
    """The hospital's own split, missing where the cell is blank."""
    if table.split is None:
        return pd.Series(None, index=kept.index, dtype="str")
    words = _words(kept, table, path, "split", {**table.splits.model_dump(), "none": ("",)})
    return words.where(words != "none", None).astype("str")


def _age(kept: pd.DataFrame, table: TableSettings, path: Path) -> "tuple[pd.Series[float], dict[str, int]]":
    """Age in years, from the age column or from two dates; what cannot be an age is unknown and counted."""
    if table.age is not None:
        age = age_from_text(kept["age"], column=f"{path}: column {table.age!r}")
        return age, {"age not understood or impossible, unknown": int((age.isna() & (kept["age"] != "")).sum())}
    if table.birth_date is None:
        return pd.Series(float("nan"), index=kept.index), {}
    birth, examined = (_dates(kept[key], table, path, key) for key in ("birth_date", "study_date"))
    years = (examined - birth).dt.days / DAYS_PER_YEAR
    age = possible_age(years)
    dates = f"{path}: years from {table.birth_date!r} to {table.study_date!r}"
    check_understood(years.map("{:.1f}".format), age.notna(), dates, "an age from 0 to 100")
    return age, {"age by dates impossible, unknown": int((age.isna() & years.notna()).sum())}


def _dates(cells: "pd.Series[str]", table: TableSettings, path: Path, key: str) -> "pd.Series[pd.Timestamp]":
    """Dates; blank is missing, anything else that is no date is an error (the cell itself is not shown)."""
    dates = pd.to_datetime(cells.where(cells != ""), errors="coerce", format=table.date_format or "ISO8601")
    bad = dates.isna() & (cells != "")
    if bad.any():
        expected = repr(table.date_format) if table.date_format else "ISO 8601, e.g. 2020-01-31"
        raise CohortError(
            f"{path}: column {getattr(table, key)!r}: {int(bad.sum())} cells are no date of the form {expected} (first "
            f'in row {_row(bad)}). Set date_format in the study file, e.g. date_format = "%d.%m.%Y".'
        )
    return dates


def _labels(kept: pd.DataFrame, table: TableSettings, path: Path, wanted: Wanted) -> "dict[str, pd.Series[int]]":
    """One column a label, or whole names in the findings column; a label that is not described is unknown."""
    labels = {label: pd.Series(pd.NA, index=kept.index, dtype="Int8") for label in wanted.labels}
    for label, settings in table.labels.given.items():
        if settings.column is not None:
            meanings = {name: getattr(settings, name) for name in ("positive", "negative", "unknown")}
            where = f"positive, negative or unknown of table.labels.{label}"
            cells = _graded(kept[f"label:{label}"], settings)
            words = _translate(cells, path, settings.column, meanings, where=where)
            labels[label] = words.map({"positive": 1, "negative": 0}).astype("Int8")
    return {**labels, **_found(kept, table, path, healthy_label(wanted.labels))}


def _graded(cells: "pd.Series[str]", settings: TableLabel) -> "pd.Series[str]":
    """Where `positive` is a cut of grades, `>= 3`, numbers as that text or as a negative cell; others as they are."""
    if settings.cut is None:
        return cells
    numbers = pd.to_numeric(cells.str.replace(",", "."), errors="coerce")
    high = numbers >= settings.cut
    return cells.mask(numbers.notna() & ~high, settings.negative[0]).mask(high, settings.positive[0])


def _found(kept: pd.DataFrame, table: TableSettings, path: Path, healthy: str | None) -> "dict[str, pd.Series[int]]":
    """The labels that are named in the findings column."""
    if table.findings is None:
        return {}
    split = {cell: cell.casefold().split(table.findings_separator.casefold()) for cell in kept["findings"].unique()}
    names = {cell: frozenset(part.strip() for part in parts) - {""} for cell, parts in split.items()}
    _check_findings(table, path, names)
    empty = kept["findings"].map({cell: not found for cell, found in names.items()}).astype(bool)
    labels = {}
    for label, settings in table.labels.given.items():
        if not settings.findings:
            continue
        wanted = {name.strip().casefold() for name in settings.findings}
        cells = {cell: not wanted.isdisjoint(found) for cell, found in names.items()}
        labels[label] = to_label(kept["findings"].map(cells).astype(bool))
        if table.no_findings == "unknown":
            labels[label] = labels[label].mask(empty)
    if table.no_findings == "healthy" and healthy is not None:
        labels[healthy] = labels.get(healthy, to_label(empty)).mask(empty, 1)
    return labels


def _check_findings(table: TableSettings, path: Path, names: Mapping[str, frozenset[str]]) -> None:
    """A finding that is in no row is a mistake of the study file: names are compared whole."""
    known = frozenset().union(*names.values())
    for label, settings in table.labels.given.items():
        lost = [name for name in settings.findings if name.strip().casefold() not in known]
        if lost:
            seen = ", ".join(sorted(known)[:12])
            raise CohortError(
                f"{path}: column {table.findings!r}: no row has the finding {lost[0]!r} of {label}; found {seen}. "
                f"Names are compared whole, separated by {table.findings_separator!r}."
            )
