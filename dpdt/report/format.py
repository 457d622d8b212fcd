"""Numbers and tables as people read them, in HTML and LaTeX."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dpdt.report.intervals import Interval

__all__ = [
    "Row",
    "Table",
    "decimals",
    "estimate",
    "interval_text",
    "latex",
    "level",
    "listed",
    "p_text",
    "percent",
    "plain",
    "signed",
    "thousands",
]

Row = list[str]
LATEX: dict[str, str] = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "−": "$-$",
    "–": "--",
    "ε": r"$\varepsilon$",
    "δ": r"$\delta$",
    "±": r"$\pm$",
    "<": "$<$",
    ">": "$>$",
    "≥": r"$\geq$",
    "×": r"$\times$",
    "→": r"$\rightarrow$",
    "\N{NON-BREAKING HYPHEN}": "-",
}


@dataclass(frozen=True)
class Table:
    """A table of the page."""

    columns: Row
    rows: list[Row]


def plain(value: float, digits: int = 3, *, sign: bool = False) -> str:
    """A number as every table, sentence and figure has it; `–` where it is undefined.

    Its minus is a real one, halves that decimal fractions cannot hold are rounded away from 0, and what is rounded to 0
    has no sign.

    >>> plain(0.8125), plain(-0.05, 2), plain(-0.0004), plain(0.5, 1, sign=True), plain(float("nan"))
    ('0.813', '−0.05', '0.000', '+0.5', '–')
    """
    if math.isnan(value):
        return "–"
    text = f"{value + math.copysign(1e-9, value):{'+' if sign else ''}z.{digits}f}".replace("-", "−")
    return text if text.strip("+0.") else text.removeprefix("+")


def signed(value: float, digits: int = 3) -> str:
    """A difference."""
    return plain(value, digits, sign=True)


def percent(share: float) -> str:
    """A share in per cent, as whole as its intervals allow.

    >>> percent(0.444), percent(-0.07), percent(-0.001)
    ('44 %', '−7 %', '0 %')
    """
    return f"{plain(100 * share, 0)} %"


def level(confidence: float) -> str:
    """The level of an interval, with all of its digits.

    >>> level(0.95), level(0.57), level(0.999)
    ('95%', '57%', '99.9%')
    """
    return f"{100 * confidence:.10g}%"


def decimals(interval: Interval, *, drawn: bool = True) -> int:
    """How many decimals an interval supports: two where it reaches 0.02 or more to either side, else three.

    A number without one, among others that have theirs (`drawn`), is of few patients and has two.

    >>> decimals(Interval(0.7, 0.8)), decimals(Interval(0.8, 0.82)), decimals(Interval())
    (2, 3, 2)
    >>> decimals(Interval(), drawn=False)
    3
    """
    if math.isnan(interval.low):
        return 2 if drawn else 3
    return 2 if interval.high - interval.low >= 0.04 else 3


def interval_text(interval: Interval, *, sign: bool = False) -> str:
    """An interval in words; empty where there is none.

    >>> interval_text(Interval(-0.01, 0.02), sign=True), interval_text(Interval())
    ('−0.010 to +0.020', '')
    >>> interval_text(Interval(-0.05, -0.0004), sign=True)
    '−0.05 to just below 0'
    """
    if math.isnan(interval.low):
        return ""
    return " to ".join(_bound(bound, decimals(interval), sign=sign) for bound in interval)


def _bound(bound: float, digits: int, *, sign: bool) -> str:
    """A bound; one that would be rounded to 0 keeps its side of it."""
    if not bound or float(f"{bound:.{digits}f}"):
        return plain(bound, digits, sign=sign)
    return f"just {'above' if bound > 0 else 'below'} 0"


def estimate(value: float, interval: Interval, *, sign: bool = False, drawn: bool = True) -> str:
    """A number with its interval in brackets, at the precision that the interval supports (see `decimals`).

    >>> estimate(0.8123, Interval(0.75, 0.87)), estimate(-0.0123, Interval(-0.02, -0.0041), sign=True)
    ('0.81 (0.75 to 0.87)', '−0.012 (−0.020 to −0.004)')
    """
    number, bounds = plain(value, decimals(interval, drawn=drawn), sign=sign), interval_text(interval, sign=sign)
    return f"{number} ({bounds})" if bounds else number


def p_text(p: float) -> str:
    """A P value as journals print it.

    >>> p_text(0.0004), p_text(0.957), p_text(0.0312)
    ('<.001', '.96', '.031')
    """
    if math.isnan(p):
        return "–"
    if p < 0.001:
        return "<.001"
    if p > 0.99:
        return ">.99"
    return f"{p:.2f}"[1:] if p >= 0.1 else f"{p:.3f}"[1:]


def listed(words: Sequence[str]) -> str:
    """Words in a sentence.

    >>> listed(["a", "b", "c"]), listed(["a"]), listed([])
    ('a, b and c', 'a', '')
    """
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def thousands(text: str) -> str:
    """A whole number with separators; `–` for nothing."""
    return f"{int(float(text)):,}" if text else "–"


def latex(table: Table, *, caption: str, label: str) -> str:
    """A table for a paper (packages booktabs and graphicx), as wide as the page at most; the first column left."""
    lines = [r"\begin{table*}", r"\centering", rf"\caption{{{_escape(caption)}}}", rf"\label{{tab:{label}}}"]
    lines += [r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%"]
    lines += [rf"\begin{{tabular}}{{l{'c' * (len(table.columns) - 1)}}}", r"\toprule", _line(table.columns)]
    lines += [r"\midrule", *map(_line, table.rows), r"\bottomrule", r"\end{tabular}}", r"\end{table*}"]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return " & ".join(map(_escape, cells)) + r" \\"


def _escape(text: str) -> str:
    return "".join(LATEX.get(letter, letter) for letter in text)
