"""The report's first screen: a verdict in words by stated rules, and what epsilon means to somebody who took part."""

import math
from collections.abc import Iterable, Sequence
from typing import Final

from dpdt.base.vocabulary import format_bound
from dpdt.report.answer import WHERE
from dpdt.report.format import Table
from dpdt.report.gain import Gain
from dpdt.report.grid import Grid
from dpdt.report.intervals import Interval
from dpdt.report.tables import Arm
from dpdt.runs.read import Run

__all__ = ["RULES", "chance_of_guessing", "guesses", "judged", "verdict"]

RULES: Final = (
    (
        "worth it",
        "better than before (gain above the margin, its interval above 0); no DP is the same (within the margin)",
    ),
    ("worth it, at a price", "better than before, and worse than without DP (interval below 0)"),
    ("worth it, price open", "better than before; the difference to no DP is not known"),
    ("in vain", "the same as before (interval within the margin)"),
    ("harmful", "worse than before (interval below 0)"),
    ("open", "these test patients do not decide it, also where a gain is above 0 and may be smaller than the margin"),
)
"""Verdicts on training with DP, the first that holds. Without a model before: `the same as without DP`, `worse …`."""


def chance_of_guessing(epsilon: float, delta: float) -> float:
    """How often somebody is right, at most, who guesses whether one person took part, knowing everything else.

    Before there was a model, taking part and not are equally likely, so that 0.5 is a blind guess. An
    (epsilon, delta)-DP result allows no test with errors α and β below α + e^epsilon · β ≥ 1 − delta and its mirror, so
    α + β ≥ 2 (1 − delta) / (1 + e^epsilon), and who guesses is right in at most
    1 − (α + β) / 2 = (e^epsilon + delta) / (1 + e^epsilon) of the cases.

    Source: Kairouz, Oh & Viswanath, The composition theorem for differential privacy (ICML 2015, arXiv 1311.0776).

    >>> round(chance_of_guessing(math.log(3), 0), 9), chance_of_guessing(0, 0), chance_of_guessing(1000, 1e-5)
    (0.75, 0.5, 1.0)
    """
    inverse = math.exp(-epsilon)
    return (1 + delta * inverse) / (1 + inverse)


def guesses(runs: Iterable[Run], grid: Grid) -> list[str]:
    """What each arm's epsilon means, from the statements of its runs: the weakest of them counts."""
    found = []
    of_arms: dict[float, list[Run]] = {}
    for run in runs:
        if run.private:
            of_arms.setdefault(run.target_epsilon, []).append(run)
    for epsilon in sorted(of_arms, reverse=True):
        stated = [run.privacy() or {} for run in of_arms[epsilon]]
        bounds = [  # of a training that has not ended, what it may spend
            (s["epsilon"] if s.get("complete", True) else max(s["epsilon"], epsilon), s["delta"])
            for s in stated
            if s.get("epsilon") is not None
        ]
        if not bounds:
            continue
        chance = max(chance_of_guessing(float(e), float(d)) for e, d in bounds)
        found.append(f"{grid.name(epsilon)}: from 50 % to at most {_percent(chance)}")
    return found


def _percent(chance: float) -> str:
    """A bound in per cent, rounded up: four digits where three would say 100.

    >>> _percent(0.73106), _percent(0.99966465), _percent(1.0)
    ('73.2 %', '99.97 %', '100 %')
    """
    return f"{format_bound(100 * chance, digits=4 if chance > 0.99 else 3)} %"


def verdict(cost: Interval, gain: tuple[float, Interval] | None, margin: float) -> str:
    """A verdict by RULES.

    Args:
        cost: Interval of the difference to no DP.
        gain: Over the model before, with its interval; None where there is no such model.
        margin: Within ± this an AUC is the same.
    """
    same, worse = cost.within(margin), cost.high < 0
    if gain is None:
        return "the same as without DP" if same else "worse than without DP" if worse else "open"
    value, interval = gain
    if interval.low > 0 and value > margin:
        return "worth it" if same else "worth it, at a price" if worse else "worth it, price open"
    if interval.within(margin):
        return "in vain"
    return "harmful" if interval.high < 0 else "open"


def judged(arms: Sequence[Arm], gains: Sequence[Gain], grid: Grid, margin: float) -> Table:
    """The verdict on each arm with DP, on- and off-domain; none without intervals."""
    of_gains = {(gain.target_epsilon, gain.scope): (gain.gain, gain.interval) for gain in gains}
    rows = []
    for arm in arms:
        gain = of_gains.get((arm.target_epsilon, arm.scope))
        if arm.target_epsilon in grid.private and any(
            not math.isnan(one.low) for one in (arm.difference_interval, *(gain or ())[1:])
        ):
            words = verdict(arm.difference_interval, gain, margin)
            rows.append([grid.name(arm.target_epsilon), WHERE[arm.scope], words])
    return Table(["trained with", "tested", "verdict"], rows)
