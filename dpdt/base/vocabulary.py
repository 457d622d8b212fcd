"""The words that every table, column, command and page of dpdt uses."""

import decimal
import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Final

__all__ = [
    "AGE_GROUPS",
    "HEALTHY",
    "LABELS",
    "MAIN_LABELS",
    "RESERVED",
    "SEXES",
    "SPLITS",
    "SUBGROUPS",
    "age_group",
    "as_name",
    "check_labels",
    "check_name",
    "folded",
    "format_bound",
    "healthy_label",
]

LABELS: Final = ("cardiomegaly", "pleural_effusion", "pneumonia", "atelectasis", "healthy")
"""The paper's, which a study has unless it names its own (`[study] labels`)."""
MAIN_LABELS: Final = 5
"""So many labels of a study, its first, come first everywhere, with every interval and picture."""
HEALTHY: Final = ("healthy", "no_finding", "normal")
"""Three names of one label: nothing was found. Contradictions and underdiagnosis are about it."""
SEXES: Final = ("female", "male", "unknown")
SPLITS: Final = ("train", "val", "test")
AGE_GROUPS: Final = {"age_0_40": (0.0, 40.0), "age_40_70": (40.0, 70.0), "age_70_100": (70.0, 100.0)}
SUBGROUPS: Final = ("female", "male", *AGE_GROUPS)
NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
RESERVED: Final = (
    *("average", "all", "total", "note", "excluded", "label", "labels", "target", "score"),
    *("image_id", "path", "domain", "patient_id", "patient_key", "study_id"),
    *("view", "sex", "age", "age_years", "age_group", "split"),
    *("nan", "null", "none", "na"),  # which tables read back as nothing
)
"""Columns and words of dpdt's own tables, which no label or column of a study may be called."""


def as_name(text: str) -> str:
    """Text as the name of a label or group, accents left out.

    >>> as_name("Nodule/Mass"), as_name("Pleural Effusion"), as_name("Männliche Brüche")
    ('nodule_mass', 'pleural_effusion', 'mannliche_bruche')
    """
    letters = unicodedata.normalize("NFKD", text.casefold())
    return re.sub(r"[^a-z0-9]+", "_", re.sub(r"[\u0300-\u036f]", "", letters)).strip("_")


def folded(text: str) -> str:
    """Text as cells and words are compared: trimmed, without case, ö as one letter and as o with two dots alike.

    >>> folded(" GRO\u0308SSE") == folded("gr\u00f6\u00dfe")
    True
    """
    text = text.strip().casefold()
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def check_labels(labels: Sequence[str]) -> None:
    """Check the names of a study's labels.

    Raises:
        ValueError: One is no lower-case identifier, is dpdt's own word, occurs twice, or means healthy as another does.
    """
    for label in labels:
        check_name(label)
    twice = next((label for number, label in enumerate(labels) if label in labels[:number]), None)
    if twice:
        raise ValueError(f"{twice!r} occurs twice. Leave one")
    healthy = [label for label in labels if label in HEALTHY]
    if len(healthy) > 1:
        raise ValueError(f"{' and '.join(healthy)} mean the same, that nothing was found. Leave one")


def check_name(name: str, *, reserved: Sequence[str] = RESERVED) -> None:
    """Check the name of a label, group or column.

    Args:
        name: What the study file has.
        reserved: Words of dpdt's own tables.

    Raises:
        ValueError: It is no lower-case identifier, or a word of dpdt's own tables.
    """
    if not NAME.fullmatch(name):
        better = as_name(name)
        hint = f", for example {better!r}" if NAME.fullmatch(better) else ""
        raise ValueError(
            f"{name!r}: expected small letters, digits and _ from a letter on, at most 64{hint}: the name becomes a "
            "column and part of file names"
        )
    if name in reserved:
        raise ValueError(f"{name!r} is a word of dpdt's own tables. Choose another name")


def healthy_label(labels: Iterable[str]) -> str | None:
    """The label that says that nothing was found, by its name; None where a study has none.

    >>> healthy_label(["edema", "no_finding"]), healthy_label(["edema"])
    ('no_finding', None)
    """
    return next((label for label in labels if label in HEALTHY), None)


def age_group(age_years: float | None) -> str:
    """Name of the half-open age group that holds an age.

    Args:
        age_years: Age in years; None or NaN where unknown.

    Returns:
        A key of AGE_GROUPS, or ``"unknown"`` for a missing age or one outside [0, 100).

    >>> age_group(40.0), age_group(39.9), age_group(None)
    ('age_40_70', 'age_0_40', 'unknown')
    """
    if age_years is None:
        return "unknown"
    for name, (low, high) in AGE_GROUPS.items():
        if low <= age_years < high:
            return name
    return "unknown"


def format_bound(value: float, *, digits: int = 3) -> str:
    """An upper bound, such as an epsilon, with so many digits, rounded up: rounded down it would be no bound.

    >>> format_bound(2.3401), format_bound(0.9), format_bound(7.9988, digits=4), format_bound(2921.9)
    ('2.35', '0.9', '7.999', '2,930')
    """
    if not 0 < value < math.inf:
        return f"{value:g}"
    with decimal.localcontext(prec=digits, rounding=decimal.ROUND_CEILING):
        rounded = float(+decimal.Decimal(repr(value)))
    return f"{rounded:,.0f}" if 1000 <= rounded < 1e6 else f"{rounded:.{digits}g}"
