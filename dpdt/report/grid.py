"""Which models stand in a report: their domains and arms, from a study file or from a table of published numbers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd

from dpdt.base.vocabulary import LABELS, SUBGROUPS
from dpdt.runs.read import read_run
from dpdt.study import BEFORE, Study, arm_name, is_before

__all__ = ["Grid"]


@dataclass(frozen=True)
class Grid:
    """Train domains × test domains × arms."""

    train_domains: tuple[str, ...]
    test_domains: tuple[str, ...]
    epsilons: tuple[float, ...]  # no DP (inf) first, then falling; 0 (before all trainings) where it was tested
    names: Mapping[float, str] = field(default_factory=dict)  # of arms with a band of epsilons
    why_no_before: str = ""  # where the epsilons are without 0
    labels: tuple[str, ...] = field(default=LABELS, compare=False)  # the main ones first
    groups: tuple[str, ...] = field(default=SUBGROUPS, compare=False)  # whose macro AUCs are shown

    @classmethod
    def of(cls, study: Study) -> "Grid":
        """Of a study's view."""
        study = study.one_view()
        why_not, before = study.why_no_before, study.before_run_id
        if before is not None:
            run = read_run(study, before)
            not_yet = "the model before all trainings was not tested yet (dpdt evaluate)"
            tested = run is not None and run.paths.metrics.exists()
            why_not = "" if tested else (run.why_not_tested if run else "") or not_yet
        carried = [run for run in (read_run(study, run_id) for run_id in study.carried) if run is not None]
        trained = {*study.privacy.trained_epsilons, *(run.target_epsilon for run in carried)}
        epsilons = (*sorted(trained, reverse=True), *([] if why_not else [0.0]))
        trainers = tuple(dict.fromkeys([*study.train_domains, *(run.domain for run in carried)]))
        return cls(trainers, study.test_domains, epsilons, why_no_before=why_not, labels=study.study.labels)

    @property
    def private(self) -> tuple[float, ...]:
        """The arms with DP."""
        return tuple(epsilon for epsilon in self.epsilons if 0 < epsilon < math.inf)

    @property
    def before(self) -> bool:
        """Whether the model from before all trainings is among the arms."""
        return any(map(is_before, self.epsilons))

    def spread(self, table: pd.DataFrame) -> pd.DataFrame:
        """A table in which every train domain has the rows of the model before: it is where each of them started.

        Args:
            table: With `target_epsilon` and `train_domain`; at epsilon 0 the latter is `before`.
        """
        start = table["target_epsilon"] == 0
        if not start.any():
            return table
        copies = [table[start].assign(train_domain=domain) for domain in self.train_domains]
        spread: pd.DataFrame = pd.concat([table[~start], *copies], ignore_index=True)
        return spread

    def rows(self, epsilon: float) -> tuple[str, ...]:
        """The models of an arm by what they were trained on: one for all where nothing private was."""
        return (BEFORE,) if is_before(epsilon) else self.train_domains

    def name(self, epsilon: float) -> str:
        """An arm in words."""
        return self.names.get(epsilon, arm_name(epsilon))
