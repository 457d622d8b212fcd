"""The age of a patient by two dates of a list."""

import re
from pathlib import Path
from typing import Final

import pandas as pd

from dpdt.base.vocabulary import folded
from dpdt.cohort.hospitals.raw_cohort import DAYS_PER_YEAR, check_understood, mapped, possible_age
from dpdt.cohort.hospitals.table_problems import Problems
from dpdt.cohort.lists.cells import shape_of
from dpdt.study.domain_settings import TableSettings

__all__ = ["age_by_dates", "dates_of"]

EXCEL: Final = "excel"
FIRST_DAY: Final = pd.Timestamp("1899-12-30")
"""Day 0 of the spreadsheets' count, which has a 29 February 1900 that never was; right from 1 March 1900 on."""
ISO_DAY: Final = r"^(\d{4}-\d{2}-\d{2}|\d{8})(?:[T ].*)?$"
"""A day, maybe with a time of it: the day where it was, whatever its zone."""
SERIAL: Final = re.compile(r"\d{5}(\.\d+)?")


def age_by_dates(
    kept: pd.DataFrame, table: TableSettings, path: Path, problems: Problems
) -> "tuple[pd.Series[float], dict[str, int]]":
    """Years between two columns of dates; what cannot be an age is unknown and counted.

    Args:
        kept: Has `birth_date` and `study_date`.
        table: Says how they are written.
        path: The list.
        problems: Gets what is no date.
    """
    birth, examined = (dates_of(kept[key], table, key, problems) for key in ("birth_date", "study_date"))
    if "%y" in (table.date_format or ""):  # a year of two digits is the last one before the examination
        birth = birth.mask(birth > examined, birth - pd.DateOffset(years=100))
    years = (examined - birth).dt.days / DAYS_PER_YEAR
    age = possible_age(years)
    dates = f"{path}: years from {table.birth_date!r} to {table.study_date!r}"
    check_understood(years.map("{:.1f}".format), age.notna(), dates, "an age from 0 to 100")
    return age, {"age by dates impossible, unknown": int((age.isna() & years.notna()).sum())}


def dates_of(cells: "pd.Series[str]", table: TableSettings, key: str, problems: Problems) -> "pd.Series[pd.Timestamp]":
    """Dates; blank, or a word of `no_date`, is missing, anything else that is no date is a problem.

    A day as ISO 8601 writes it is understood besides `date_format`: so a workbook's cells come that are dates.
    """
    none = {folded(word) for word in table.no_date} | {""}
    distinct = pd.Series(cells.unique(), dtype="str")
    written = ~distinct.map(folded).isin(none)
    days = pd.to_datetime(distinct.str.extract(ISO_DAY)[0].where(written), errors="coerce", format="ISO8601")
    if table.date_format == EXCEL:
        count = pd.to_numeric(distinct.where(written & distinct.str.fullmatch(SERIAL)), errors="coerce")
        days = days.fillna(FIRST_DAY + pd.to_timedelta(count // 1, unit="D"))
    elif table.date_format is not None:
        days = _by_format(distinct.where(written), table.date_format).fillna(days)
    found = mapped(cells, dict(zip(distinct, days, strict=True)))
    bad = found.isna() & cells.isin(distinct[written & days.isna()])
    if bad.any():
        _tell(cells[bad], table, key, problems)
    return pd.to_datetime(found)


def _by_format(cells: "pd.Series[str]", form: str) -> "pd.Series[pd.Timestamp]":
    """Dates of a form, each at the time where it was: pandas takes no two zones, as summer and winter have, at once."""
    if "%z" not in form.lower():
        return pd.to_datetime(cells, errors="coerce", format=form)
    each = [pd.to_datetime(cell, errors="coerce", format=form).replace(tzinfo=None) for cell in cells]
    return pd.to_datetime(pd.Series(each, index=cells.index))


def _tell(bad: "pd.Series[str]", table: TableSettings, key: str, problems: Problems) -> None:
    """What is no date; a date of birth is shown by its form alone, because a message is copied into mails."""
    cell = bad.iloc[0]
    shown = repr(cell) if key != "birth_date" else f"of the form {shape_of(cell)!r}"
    expected = repr(table.date_format) if table.date_format else "ISO 8601, e.g. 2020-01-31"
    hint = 'Set date_format in the study file, e.g. date_format = "%d.%m.%Y"; words for no date: no_date = ["…"].'
    if SERIAL.fullmatch(cell) and table.date_format != EXCEL:
        hint = 'A spreadsheet counts days so: set date_format = "excel".'
    problems.add(
        f"{problems.path}: column {getattr(table, key)!r}: {len(bad)} cells are no date of the form {expected}, the "
        f"first is {shown} (row {int(bad.index[0]) + 1}). {hint}"
    )
