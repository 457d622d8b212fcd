"""The words that every table, column, command and page of dpdt uses."""

import decimal
import math
from typing import Final

__all__ = [
    "AGE_GROUPS",
    "LABELS",
    "SEXES",
    "SPLITS",
    "SUBGROUPS",
    "age_group",
    "format_bound",
]

LABELS: Final = ("cardiomegaly", "pleural_effusion", "pneumonia", "atelectasis", "healthy")
SEXES: Final = ("female", "male", "unknown")
SPLITS: Final = ("train", "val", "test")
AGE_GROUPS: Final = {"age_0_40": (0.0, 40.0), "age_40_70": (40.0, 70.0), "age_70_100": (70.0, 100.0)}
SUBGROUPS: Final = ("female", "male", *AGE_GROUPS)


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

    >>> format_bound(2.3401), format_bound(0.9), format_bound(7.9988, digits=4), format_bound(math.inf)
    ('2.35', '0.9', '7.999', 'inf')
    """
    if not 0 < value < math.inf:
        return f"{value:g}"
    with decimal.localcontext(prec=digits, rounding=decimal.ROUND_CEILING):
        return f"{float(+decimal.Decimal(repr(value))):.{digits}g}"
