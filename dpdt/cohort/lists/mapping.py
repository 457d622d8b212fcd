"""`dpdt init --list`: the tables of a study file for a list, of which each guess is a line that a person confirms.

A guess is commented out and ends with `#?` and what speaks for it. Commands refuse a study with such lines, all of them
in one message, so none is ever taken for a decision. Example cells are shown of columns of few words alone: a study
file is copied into mails and repositories, so it has no cell of a patient, a date or an image's name, only their form.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pandas as pd

from dpdt.base.vocabulary import LABELS
from dpdt.cohort.lists.cells import shape_of
from dpdt.cohort.lists.guess import (
    FEW_WORDS,
    Column,
    date_formats,
    find_columns,
    findings_of,
    image_base,
    is_graded,
    label_columns,
    no_dates,
    other_labels,
)
from dpdt.cohort.lists.open_file import guess_encoding, guess_header, guess_separator, guess_sheet
from dpdt.cohort.lists.rows import ListFile
from dpdt.cohort.lists.words import known_words
from dpdt.errors import CohortError
from dpdt.study.domain_settings import TableSexes, TableSplits, TableViews, grade_of

__all__ = ["mapping_text"]

HEAD: Final = """\
# Guesses from {file}: {rows} rows, {columns} columns.
# Remove the first # of each line that is right; correct it, or delete it, where it is wrong. `dpdt cohort` names the
# lines that are still to confirm. Cells of patients, dates and images are not shown, because study files get copied."""
SHOWN_CELLS: Final = 8
TABLES: Final = {"view": ("views", TableViews), "sex": ("sexes", TableSexes), "split": ("splits", TableSplits)}


def mapping_text(file: Path, images: Path | None, *, domain: str = "own") -> str:
    """The tables of a domain with a list of its own.

    Args:
        file: The list.
        images: Folder of the images, where it is known.
        domain: Its name.

    Raises:
        CohortError: The list or the folder is not there, or cannot be read.
    """
    for path, there in ((file, file.is_file()), *(((images, images.is_dir()),) if images else ())):
        if not there:
            raise CohortError(f"{path}: no such {'file' if path == file else 'folder'}. Correct --list or --images.")
    opened = {name: guesses for name, guesses in _opened(file).items() if guesses}
    source = ListFile(file, **{name: guesses[0][0] for name, guesses in opened.items()})
    header = guess_header(source)
    once = [name for name in header if name.strip() and header.count(name) == 1]
    found = source.read(once)
    frame = pd.DataFrame({name: found[name].str.strip() for name in once})
    root = Path(os.path.commonpath([file.resolve().parent, *([images.resolve()] if images else [])]))
    lines = [
        f"[domains.{domain}]",
        'kind = "table"',
        f"root = {_toml(root)}",
        "",
        HEAD.format(file=_toml(file.name), rows=len(frame), columns=len(header)),
        f"[domains.{domain}.table]",
        f"file = {_toml(file.resolve().relative_to(root))}",
        *(_open(name, value, why) for name, guesses in opened.items() for value, why in guesses),
        *_columns(frame, images.resolve() if images else None, root, f"domains.{domain}.table"),
    ]
    twice = sorted({name for name in header if name.strip() and header.count(name) > 1})
    if twice:
        lines.append(f"# These names are of several columns, so nothing is read from them: {_listed(twice)}.")
    return "\n".join(lines)


def _opened(file: Path) -> dict[str, list[tuple[str, str]]]:
    """Encoding, separator and sheet, each with what speaks for it."""
    encodings = guess_encoding(file)
    source = ListFile(file, encoding=encodings[0][0]) if encodings else ListFile(file)
    return {"encoding": encodings, "separator": guess_separator(source), "sheet": guess_sheet(source)}


def _open(key: str, value: Any, why: str, *, plain: bool = False) -> str:
    """A line to confirm; `plain`: the value is TOML already."""
    return f"#{key} = {value if plain else _toml(value)}  #? {why}"


def _toml(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    text = str(value)
    return json.dumps(text, ensure_ascii=not text.isprintable()).replace("\x7f", r"\u007f").replace("#?", r"#\u003f")


def _listed(cells: Iterable[str]) -> str:
    return ", ".join(map(_toml, cells))


def _columns(frame: pd.DataFrame, images: Path | None, root: Path, table: str) -> Iterator[str]:
    """The lines of all columns and of what their cells mean."""
    found = find_columns(frame, images)
    for key, other in (("birth_date", "study_date"), ("study_date", "birth_date")):
        if key in found and ("age" in found or other not in found):
            del found[key]
    labels = label_columns(frame, (column.name for key, column in found.items() if key != "findings"))
    findings = findings_of(frame[found["findings"].name]) if "findings" in found else (";", {})
    if not findings[1] or found["findings"].name in {column.name for column in labels.values()}:
        found.pop("findings", None)
        findings = (";", {})
    others = {} if labels or findings[1] else other_labels(frame, (column.name for column in found.values()))
    if images and "image" in found:
        yield f"images = {_toml(image_base(frame[found['image'].name], images, root).relative_to(root))}"
    for key in ("image", "patient", "view"):
        if key not in found:
            effect = "; without it every image counts as frontal" * (key == "view")
            yield _open(key, "…", f"not found{effect}; the list has: {_listed(map(str, frame))}")
    if "patient" in found and "image" in found and found["patient"].name == found["image"].name:
        same = "perhaps: its name, but it is the image's column: is every image another patient's?"
        found["patient"] = Column(found["patient"].name, same)
    for key, column in found.items():
        yield _open(key, column.name, f"{column.why}{_cells(key, frame[column.name])}")
    yield from _dates(frame, found)
    yield from _several_rows(frame, found)
    if "findings" in found:
        yield from _findings(frame[found["findings"].name], findings[0])
    for key, (name, section) in TABLES.items():
        if key in found:
            yield from _words(frame[found[key].name], f"{table}.{name}", section().model_dump())
    used = {column.name for column in (*found.values(), *labels.values(), *others.values())}
    yield from _labels(frame, labels or others, findings[1], table)
    rest = [name for name in map(str, frame) if name not in used]
    if rest:
        yield f"# Not used: {_listed(rest)}. [study] labels names labels of your own; columns, what groups ask for."


def _cells(key: str, cells: "pd.Series[str]") -> str:
    """What a column's cells look like: words with their counts, or the commonest form."""
    if key in TABLES:
        return _counts(cells)
    if key in ("age", "birth_date", "study_date", "image"):
        return f"; most cells are of the form {_toml(cells.iloc[:1000].map(shape_of).mode().iloc[0])}"
    return ""


def _counts(cells: "pd.Series[str]") -> str:
    counts = cells.value_counts()
    if len(counts) > FEW_WORDS:
        return f"; {len(counts)} different cells"
    shown = [f"{_toml(cell)} {rows}" for cell, rows in counts.iloc[:SHOWN_CELLS].items()]
    return f"; cells: {', '.join(shown)}{', …' if len(counts) > SHOWN_CELLS else ''}"


def _dates(frame: pd.DataFrame, found: Mapping[str, Column]) -> Iterator[str]:
    """How dates are written: one line where it is certain, a line each where only a person can know."""
    columns = [frame[found[key].name] for key in ("birth_date", "study_date") if key in found]
    if not columns:
        return
    cells = pd.concat(columns)
    formats = date_formats(cells)
    if not formats:
        forms = _listed(cells.map(shape_of).value_counts().index[:4])
        yield _open("date_format", "…", f"no known form fits every date; cells are of the forms {forms}")
    elif len(formats) > 1:
        for form in formats:
            yield _open("date_format", form, "every date fits this and another one: keep the line that is right")
    elif formats[0]:
        yield _open("date_format", formats[0], "likely: no other form fits every date")
    if words := no_dates(cells):
        yield _open("no_date", words, "cells without a date")


def _several_rows(frame: pd.DataFrame, found: Mapping[str, Column]) -> Iterator[str]:
    if "image" in found:
        again = int(frame.drop_duplicates()[found["image"].name].duplicated().sum())
        if again:
            for rule in ("any", "majority", "all"):
                yield _open("rows", rule, f"{again} rows are of an image that has one already: keep one line")


def _findings(cells: "pd.Series[str]", separator: str) -> Iterator[str]:
    yield _open("findings_separator", separator, "likely: between the names in a cell")
    if empty := int((cells == "").sum()):
        for rule in ("unknown", "negative", "healthy"):
            yield _open("no_findings", rule, f"what the {empty} empty cells mean: keep one line")


def _words(cells: "pd.Series[str]", table: str, defaults: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    """What a column's cells mean, where the defaults do not say it."""
    distinct = list(cells.unique())
    known = {cell.casefold(): word for word, listed in defaults.items() for cell in listed}
    words, strange = known_words(table.rpartition(".")[2], [cell for cell in distinct if cell])
    if all(known.get(cell.casefold()) == word for word, listed in words.items() for cell in listed) and not strange:
        return
    yield f"\n[{table}]"
    if "" in distinct and "unknown" in defaults:
        words = {**words, "unknown": ["", *words.get("unknown", [])]}
    for word in defaults:
        if word in words:
            yield _open(word, words[word], "cells that seem to mean it")
    if len(strange) > FEW_WORDS:
        yield f"# {len(strange)} other cells. Is this the right column?  #?"
    elif strange and table.endswith("views"):
        all_gone = "" if words else ". That is every image: write the frontal ones here, or delete `view`.  #?"
        yield f"# In none of these, so left out: {_listed(strange)}{all_gone}"
    elif strange:
        yield f"# Not understood, write each into one of {', '.join(defaults)}: {_listed(strange)}  #?"


def _labels(
    frame: pd.DataFrame, columns: Mapping[str, Column], findings: Mapping[str, list[str]], table: str
) -> Iterator[str]:
    """The labels: a column each, or names in the findings column, and what the columns' cells mean."""
    graded = {column.name for column in columns.values() if is_graded(set(frame[column.name]))}
    cells = {
        cell: None
        for column in columns.values()
        for cell in frame[column.name].unique()
        if cell and not (column.name in graded and grade_of(cell) is not None)
    }
    words, strange = known_words("words", cells)
    default = {"yes": "1", "no": "0"}
    more = {word: [cell for cell in listed if cell != default.get(word)] for word, listed in words.items()}
    if any(more.values()) or strange:
        yield f"\n[{table}.words]"
        for word, listed in more.items():
            if listed:
                yield _open(word, listed, "in the columns of labels; cells that seem to mean it")
        if strange:
            yield f"# Not understood, write each into yes, no or unknown: {_listed(strange)}  #?"
    yield f"\n[{table}.labels]"
    own = [label for label in columns if label not in LABELS]
    if own:
        yield f"# None of the paper's five. Labels of your own are named in [study], too: labels = [{_listed(own)}]"
    for label in (*LABELS, *own):
        if label in columns:
            column = columns[label]
            cut = ', positive = [">= …"]' if column.name in graded else ""
            value = f"{{ column = {_toml(column.name)}{cut} }}"
            yield _open(label, value, f"{column.why}{_counts(frame[column.name])}", plain=True)
        elif label in findings:
            value = f"{{ findings = {_toml(findings[label])} }}"
            yield _open(label, value, "likely: names in the findings column", plain=True)
    if not columns and not findings:
        hint = (
            f"none found: name at least one of {', '.join(LABELS)}, or of your own in [study] labels, or the list that "
            'has them: labels_from. Several names in one column: findings = "…", and here { findings = ["…"] }'
        )
        yield _open(LABELS[0], '{ column = "…" }', hint, plain=True)
