"""Which models stand in a report: their domains and arms, from a study file or from a table of published numbers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from dpdt.study import Study, arm_name

__all__ = ["Grid"]


@dataclass(frozen=True)
class Grid:
    """Train domains × test domains × arms."""

    train_domains: tuple[str, ...]
    test_domains: tuple[str, ...]
    epsilons: tuple[float, ...]  # no DP (inf) first, then falling
    names: Mapping[float, str] = field(default_factory=dict)  # of arms with a band of epsilons

    @classmethod
    def of(cls, study: Study) -> "Grid":
        """A study's."""
        epsilons = tuple(sorted(study.privacy.target_epsilons, reverse=True))
        return cls(study.train_domains, study.test_domains, epsilons)

    @property
    def private(self) -> tuple[float, ...]:
        """The arms with DP."""
        return tuple(epsilon for epsilon in self.epsilons if math.isfinite(epsilon))

    def name(self, epsilon: float) -> str:
        """An arm in words."""
        return self.names.get(epsilon, arm_name(epsilon))
