"""The report's first answer: what DP costs, what private training brought, and what DP keeps of it.

A difference is `lower` or `higher` where its interval holds no 0, `the same` where its interval lies within the margin
of equivalence, and otherwise not known. Where there are no intervals (a published table), it is what the numbers say;
where this one alone has none (too few patients), that is said too.
"""

import math
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from dpdt.report.format import decimals, interval_text, listed, percent, plain, signed
from dpdt.report.gain import Gain
from dpdt.report.grid import Grid
from dpdt.report.intervals import UNKNOWN, Interval
from dpdt.report.tables import SCOPES, Arm
from dpdt.study import is_before

__all__ = ["answer"]

WHERE: Final = {"on-domain": "at the models' own hospital", "off-domain": "at the other hospitals"}
NOTHING: Final = "No model has been evaluated yet."


def answer(arms: Sequence[Arm], gains: Sequence[Gain], grid: Grid, margin: float, *, drawn: bool = False) -> list[str]:
    """The study's answer in three sentences, or in fewer where there is nothing to say.

    Args:
        arms: Mean AUC of each arm.
        gains: Over the model before.
        grid: For the arms' names.
        margin: Within ± this an AUC counts as the same.
        drawn: Whether there are intervals but where patients are too few.
    """
    judge = _Judge(margin, drawn)
    known = [arm for arm in arms if not math.isnan(arm.auc)]
    if all(is_before(arm.target_epsilon) for arm in known):
        return [NOTHING]
    if not gains:
        why = f": {grid.why_no_before}" if grid.why_no_before else ""
        return [
            _cost(known, grid, judge),
            f"What private training brought, and what DP keeps of it, is not known{why}.",
        ]
    found = [_cost(known, grid, judge), _brought(gains, grid, judge)]
    return [*found, _kept(gains, grid, judge)] if any(gain.target_epsilon in grid.private for gain in gains) else found


def _cost(arms: Sequence[Arm], grid: Grid, judge: "_Judge") -> str:
    """The first sentence."""
    without = {arm.scope: arm for arm in arms if math.isinf(arm.target_epsilon)}
    private = [arm for arm in arms if arm.target_epsilon in grid.private]
    if not private or not without:
        missing = "without" if private else "with"
        values = _by_scope(private or list(without.values()), lambda arm: f"{judge.auc(arm)} {_with(arm, grid)}")
        return f"What DP costs is not known: no model {missing} DP was tested; macro AUC is {values}."

    def clause(scope: str) -> str:
        of_scope = [arm for arm in private if arm.scope == scope]
        words = [
            f"{judge.change(arm.difference, arm.difference_interval)} {_with(arm, grid)}"
            if not math.isnan(arm.difference)
            else f"{judge.auc(arm)} {_with(arm, grid)}, with nothing to compare it to"
            for arm in of_scope
        ]
        start = f", where macro AUC is {judge.auc(without[scope])} without DP, it" if scope in without else " macro AUC"
        return f"{WHERE[scope]}{start} is {listed(words)}"

    scopes = [scope for scope in SCOPES if any(arm.scope == scope for arm in private)]
    sentence = f"What DP costs on average: {'; '.join(map(clause, scopes))}."
    ranges = [
        found for scope in scopes if (found := _pairs([arm for arm in private if arm.scope == scope], grid, judge))
    ]
    return f"{sentence} Single pairs of a model and a hospital: {'; '.join(ranges)}." if ranges else sentence


def _pairs(arms: Sequence[Arm], grid: Grid, judge: "_Judge") -> str:
    """How far single pairs of one scope are from their mean; empty where there is but one."""

    def words(arm: Arm) -> str:
        low, high = (signed(bound, decimals(UNKNOWN, drawn=judge.drawn)) for bound in arm.extremes)
        return f"from {low} to {high} {_with(arm, grid)}"

    several = [arm for arm in arms if arm.shared_pairs > 1 and not math.isnan(arm.extremes.low)]
    counts = " or ".join(map(str, sorted({arm.shared_pairs for arm in several})))
    return f"{WHERE[several[0].scope]}, of {counts}, {listed([*map(words, several)])}" if several else ""


def _brought(gains: Sequence[Gain], grid: Grid, judge: "_Judge") -> str:
    """The second sentence."""

    def clause(scope: str) -> str:
        of_scope = [gain for gain in gains if gain.scope == scope]
        words = [f"{judge.change(gain.gain, gain.interval)} {_with(gain, grid)}" for gain in of_scope]
        return f"{WHERE[scope]}, where macro AUC is {plain(of_scope[0].before)} before it, it is {listed(words)}"

    scopes = [scope for scope in SCOPES if any(gain.scope == scope for gain in gains)]
    return f"What private training brought on average: {'; '.join(map(clause, scopes))}."


def _kept(gains: Sequence[Gain], grid: Grid, judge: "_Judge") -> str:
    """The third sentence."""

    def clause(scope: str) -> str:
        private = [gain for gain in gains if gain.scope == scope and gain.target_epsilon in grid.private]
        whole = next((gain for gain in gains if gain.scope == scope and math.isinf(gain.target_epsilon)), None)
        words = [f"{_share(gain)} {_with(gain, grid)}" for gain in private if not gain.why_no_share]
        if words:
            return f"{WHERE[scope]} {listed(words)}"
        if whole is None or any(gain.why_no_share == "no model without DP" for gain in private):
            return f"{WHERE[scope]} it is not known, for no model without DP was tested on the same pairs"
        found = f"{signed(whole.gain, decimals(whole.interval, drawn=judge.drawn))}{_of(whole.interval)}"
        if any(gain.why_no_share == "worse" for gain in private):
            return f"{WHERE[scope]} there is nothing to keep: without DP it made the models worse ({found})"
        drawn = judge.drawn or not math.isnan(whole.interval.low)
        nothing = "may be nothing" if drawn else "is too little for a share of rounded numbers"
        return f"{WHERE[scope]} there is no share to give: what it brought without DP {nothing} ({found})"

    scopes = [scope for scope in SCOPES if any(g.scope == scope and g.target_epsilon in grid.private for g in gains)]
    return f"What DP keeps of it: {'; '.join(map(clause, scopes))}."


def _of(interval: Interval) -> str:
    text = interval_text(interval, sign=True)
    return f"; {text}" if text else ""


class _Judge(NamedTuple):
    """What a difference is called."""

    margin: float
    drawn: bool

    def auc(self, arm: Arm) -> str:
        return plain(arm.auc, decimals(arm.interval, drawn=self.drawn))

    def change(self, difference: float, interval: Interval) -> str:
        """A difference in words: lower, higher, the same, or not known."""
        digits = decimals(interval, drawn=self.drawn)
        words = f"{plain(abs(difference), digits)} {'higher' if difference > 0 else 'lower'}"
        if math.isnan(interval.low):
            if self.drawn:
                return f"not known to differ ({signed(difference, digits)}; too few patients for an interval)"
            return words if abs(difference) >= 0.0005 else "the same"
        if interval.within(self.margin):
            return f"the same within ±{self.margin:g} ({signed(difference, digits)}{_of(interval)})"
        if not interval.excludes_0:
            return f"not known to differ ({signed(difference, digits)}{_of(interval)})"
        low, high = sorted(map(abs, interval))
        return f"{words} ({interval_text(Interval(low, high))})"


def _share(gain: Gain) -> str:
    """A share in per cent; one below 0 in words, too."""
    low, high = gain.share_interval
    bounds = "" if math.isnan(low) else f"{percent(low)} to {percent(high)}"
    if gain.share < 0:
        return f"none of it ({'; '.join(filter(None, [percent(gain.share), bounds]))})"
    return percent(gain.share) + (f" ({bounds})" if bounds else "")


def _with(arm: Arm | Gain, grid: Grid) -> str:
    return f"with {grid.name(arm.target_epsilon)}" if arm.target_epsilon in grid.private else "without DP"


def _by_scope(arms: Sequence[Arm], words: Callable[[Arm], str]) -> str:
    """Each scope's arms, e.g. `0.8 with ε = 1 and 0.9 with ε = 8 at the other hospitals`."""
    of_scope = {scope: [words(arm) for arm in arms if arm.scope == scope] for scope in SCOPES}
    return "; ".join(f"{listed(found)} {WHERE[scope]}" for scope, found in of_scope.items() if found)
