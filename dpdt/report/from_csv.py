"""A report from tables of published numbers, without a study: `dpdt report --from-csv FILE`."""

import difflib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import pandas as pd

from dpdt.base.vocabulary import LABELS, SUBGROUPS, check_name
from dpdt.errors import StudyError
from dpdt.evaluation.metrics import ALL, AVERAGE, joined_labels
from dpdt.report import figures, tables
from dpdt.report.canvas import Drawing
from dpdt.report.grid import Grid
from dpdt.report.page import EQUAL, Source, contents_of, render_published
from dpdt.report.publish import latex_tables, publish
from dpdt.study import BEFORE, arm_name

__all__ = ["read_auc_table", "write_auc_report", "write_published"]

CELL: Final = ["label", "subgroup", "train_domain", "test_domain"]
SIZES: Final = ["test_domain", "positive_label", "subgroup", "images"]
SPENT: Final = ["domain", "epsilon", "auc"]
ARMS: Final = ("epsilon_band", "target_epsilon")
MISSPELT: Final = 0.85  # pneumonja and pneumonia are 0.89 alike, pneumothorax and pneumonia 0.67


def write_published(files: Sequence[Path], folder: Path) -> Path:
    """Write a report from published tables.

    Args:
        files: A table of AUCs (columns `epsilon_band` or `target_epsilon`, label, subgroup, train_domain, test_domain,
            auc; such as `report/auc.csv`; rows of epsilon 0 are the model before all
            trainings), and, if wanted, one of test images (test_domain, positive_label, subgroup, images) and one of
            on-domain AUCs over the epsilon that was spent (domain, epsilon, auc).
        folder: Where the report goes.

    Returns:
        The page.

    Raises:
        StudyError: A file is missing or is no such table, none or several of them hold AUCs, or two are of one kind.
    """
    read = {file: _read(file) for file in files}
    sized = _of_kind(read, SIZES, "test images")
    spent = _of_kind(read, SPENT, "AUCs over epsilon")
    named = {file: frame for file, frame in read.items() if frame is not sized and frame is not spent}
    if len(named) != 1:
        raise StudyError(f"--from-csv: expected one table of AUCs, got {len(named)} of {len(read)} files.")
    ((file, frame),) = named.items()
    auc, grid = read_auc_table(frame, str(file))
    more = {}
    if sized is not None:
        more["subgroup_sizes"] = figures.sizes_figure(_checked_sizes(sized))
    if spent is not None:
        more["auc_over_spent_epsilon"] = figures.spent_figure(_checked_spent(spent))
    return write_auc_report(auc, grid, folder, name=f"Published AUCs: {file.name}", source=Source(file.name), more=more)


def write_auc_report(
    auc: pd.DataFrame,
    grid: Grid,
    folder: Path,
    *,
    name: str,
    source: Source,
    more: Mapping[str, Drawing] | None = None,
) -> Path:
    """Write the report of a table of AUCs, without a study.

    Args:
        auc: From `read_auc_table`.
        grid: Likewise.
        folder: Where the report goes.
        name: Its title.
        source: Where the numbers come from, and what else the page says of that.
        more: Figures of other tables.

    Returns:
        The page.
    """
    contents = contents_of(grid, auc, more=more or {})
    page = render_published(contents, name=name, source=source)
    return publish(
        folder,
        page=page,
        answer=contents.answer(EQUAL),
        csv=contents.csv() | dict(source.csv),
        tex=latex_tables(contents),
        drawn=contents.figures,
    )


def _of_kind(read: Mapping[Path, pd.DataFrame], columns: Sequence[str], what: str) -> pd.DataFrame | None:
    """The table with these columns, which no table of AUCs has; None without one."""
    found = [frame for frame in read.values() if set(columns) <= set(frame.columns)]
    if len(found) > 1:
        raise StudyError(f"--from-csv: expected at most one table of {what}, got {len(found)}.")
    return found[0] if found else None


def _checked_sizes(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of images with any label: counts, and of all patients too in each test domain."""
    table = frame[frame["positive_label"] == "any"]
    table = table.assign(images=pd.to_numeric(table["images"], errors="coerce"))
    bad = table["images"].isna() | (table["images"] < 0)
    if bad.any():
        row = frame.loc[bad.index[bad][0]]
        raise StudyError(
            f"--from-csv: test images: expected images from 0, got {row['images']} for {row['test_domain']}, "
            f"{row['subgroup']}."
        )
    without = set(table["test_domain"]) - set(table.loc[table["subgroup"] == ALL, "test_domain"])
    if without or table.empty:
        raise StudyError(
            f"--from-csv: test images: no row of positive_label any, subgroup {ALL} for "
            f"{', '.join(sorted(map(str, without))) or 'any test domain'}. Groups are shown as parts of it: add it."
        )
    return table


def _checked_spent(frame: pd.DataFrame) -> pd.DataFrame:
    """Numbers alone: epsilon above 0, AUC in [0, 1]."""
    table = frame[SPENT].assign(**{name: pd.to_numeric(frame[name], errors="coerce") for name in ("epsilon", "auc")})
    good = (table["epsilon"] > 0) & table["epsilon"].lt(math.inf) & table["auc"].between(0, 1)
    if not good.all():
        row = frame[~good].iloc[0]
        raise StudyError(
            f"--from-csv: AUCs over epsilon: expected epsilon above 0 and auc in [0, 1], got epsilon {row['epsilon']}, "
            f"auc {row['auc']} for {row['domain']}."
        )
    return table


def _read(file: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(file, dtype={"epsilon_band": str})
    except FileNotFoundError as err:
        raise StudyError(f"--from-csv {file}: no such file.") from err
    except (ValueError, UnicodeDecodeError) as err:
        raise StudyError(
            f"--from-csv {file}: not a table in CSV ({err}). Expected text in UTF-8, with commas."
        ) from err


def read_auc_table(frame: pd.DataFrame, name: str, *, typed: bool = True) -> tuple[pd.DataFrame, Grid]:
    """Check a table of AUCs and find its domains and arms.

    Args:
        frame: As read.
        name: For messages.
        typed: Whether people typed it, so that a label that is nearly one of the paper's is a slip.

    Returns:
        The table with `target_epsilon` (of a band its upper end), and its grid: domains in the table's order.

    Raises:
        StudyError: A column or a cell is missing, a label is unknown, an AUC lies outside of [0, 1], or a cell is there
            twice.
    """
    arm = next((column for column in ARMS if column in frame), None)
    missing = [column for column in (*CELL, "auc") if column not in frame]
    missing += [] if arm else [" or ".join(ARMS)]
    if missing or arm is None:
        raise StudyError(
            f"--from-csv {name}: no column {', '.join(missing)}; found {', '.join(map(str, frame.columns))}. Expected "
            f"a table such as report/auc.csv{', separated by commas' if len(frame.columns) == 1 else ''}."
        )
    _check_cells(frame, name, arm, typed=typed)
    units = set(frame["privacy_unit"]) if "privacy_unit" in frame else set()
    if len(units) > 1:
        raise StudyError(f"--from-csv {name}: several privacy units ({', '.join(sorted(units))}); keep one.")
    band = frame[arm].astype(str)
    epsilon = band.map(lambda text: _upper_end(text, name))
    values = pd.to_numeric(frame["auc"], errors="coerce")
    bad = frame["auc"].notna() & (values.isna() | (values < 0) | (values > 1))
    if bad.any():
        raise StudyError(f"--from-csv {name}: auc: expected numbers in [0, 1], got {str(frame['auc'][bad].iloc[0])!r}.")
    kept = [*CELL, *(column for column in ("ci_low", "ci_high", "n", "labels") if column in frame)]
    table = _one_before(frame[kept].assign(target_epsilon=epsilon, auc=values), name)
    twice = table.duplicated(["target_epsilon", *CELL])
    if twice.any():
        row = table[twice].iloc[0]
        raise StudyError(f"--from-csv {name}: the cell {', '.join(str(row[c]) for c in CELL)} is there twice.")
    names = {
        number: f"ε {text.replace('-', '–')}" if _is_band(text) else arm_name(number)
        for number, text in dict(zip(epsilon, band, strict=True)).items()
    }
    grid = Grid(
        tuple(dict.fromkeys(table.loc[table["target_epsilon"] > 0, "train_domain"])),
        tuple(dict.fromkeys(table["test_domain"])),
        tuple(sorted(names, reverse=True)),
        names,
        why_no_before="" if 0 in names else "the table has no rows of epsilon 0, the model before all trainings",
        labels=_in_order(table["label"], LABELS, {AVERAGE}),
        groups=_in_order(table["subgroup"], SUBGROUPS, {ALL}) or SUBGROUPS,
    )
    return _with_averages(table), grid


def _in_order(column: "pd.Series[str]", known: Sequence[str], other: set[str]) -> tuple[str, ...]:
    """The names of a column: those that are known in their order, then the others in the table's."""
    found = [str(name) for name in dict.fromkeys(column) if name not in other]
    return (*(name for name in known if name in found), *(name for name in found if name not in known))


def _one_before(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """The table with one model at epsilon 0, `before`: some give it once, others once a train domain."""
    start = table["target_epsilon"] == 0
    if start.all():
        raise StudyError(f"--from-csv {name}: expected rows of trained models beside those of epsilon 0, got none.")
    rows = table[start].assign(train_domain=BEFORE).drop_duplicates()
    twice = rows.duplicated(CELL)
    if twice.any():
        row = rows[twice].iloc[0]
        raise StudyError(
            f"--from-csv {name}: at epsilon 0, {row['label']}, {row['subgroup']}, {row['test_domain']} has several "
            "AUCs; expected one: the same model, from before all trainings, whatever the train domain."
        )
    whole: pd.DataFrame = pd.concat([table[~start], rows], ignore_index=True)
    return whole


def _check_cells(frame: pd.DataFrame, name: str, arm: str, *, typed: bool) -> None:
    """There are rows, and each says of which cell it is."""
    if frame.empty:
        raise StudyError(f"--from-csv {name}: a header and no rows. Expected one row per AUC, as in report/auc.csv.")
    for column in (arm, *CELL):
        blank = frame[column].isna()
        if blank.any():
            row = int(blank.to_numpy().argmax()) + 1
            raise StudyError(f"--from-csv {name}: row {row}: {column} is empty. Fill it in, or leave the row out.")
    for label in frame["label"].unique():
        try:
            check_name(str(label), reserved=())
        except ValueError as err:
            raise StudyError(f"--from-csv {name}: label: {err}. Correct it, or write {AVERAGE} for a mean.") from err
        meant = difflib.get_close_matches(str(label), (*LABELS, AVERAGE), n=1, cutoff=MISSPELT)
        if typed and meant and label != meant[0]:
            raise StudyError(f"--from-csv {name}: label: {label!r} is nearly {meant[0]!r}. Correct it, or rename it.")


def _is_band(text: str) -> bool:
    """Whether it is a band such as 2-3.5, and no number: neither 1e-05 nor -1."""
    try:
        float(text)
    except ValueError:
        return "-" in text
    return False


def _upper_end(text: str, name: str) -> float:
    """Epsilon, or the upper end of a band."""
    band = _is_band(text)
    try:
        value = float(text.rsplit("-", 1)[-1] if band else text)
    except ValueError as err:
        raise StudyError(f"--from-csv {name}: epsilon: expected a number, a band or inf, got {text!r}.") from err
    if math.isnan(value) or value < 0 or (value == 0 and band):
        raise StudyError(f"--from-csv {name}: epsilon: expected a number from 0, a band or inf, got {text!r}.")
    return value


def _with_averages(table: pd.DataFrame) -> pd.DataFrame:
    """The table with macro AUCs, and over which labels they are; where it has none for all patients, they are means."""
    by = ["target_epsilon", "subgroup", "train_domain", "test_domain"]
    of_labels = table[(table["label"] != AVERAGE) & table["auc"].notna()]
    if not ((table["label"] == AVERAGE) & (table["subgroup"] == ALL)).any():
        means = table[table["subgroup"] == ALL].groupby(by, sort=False, as_index=False)["auc"].mean()
        table = pd.concat([means.assign(label=AVERAGE), table], ignore_index=True)
    if "labels" not in table:
        names = of_labels.groupby(by, sort=False)["label"].agg(joined_labels)
        table = table.join(names.rename("labels"), on=by)
    return tables.with_common(table.assign(labels=table["labels"].where(table["label"] == AVERAGE).fillna("")))
