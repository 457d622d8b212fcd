"""How often the interval of the share that DP keeps holds the true share: by simulation, from binormal scores.

The truth is known: scores of positives are shifted by sqrt(2) times the quantile of the AUC (Hanley & McNeil 1982). A
share has an interval only where the gain without DP is not taken for 0, so coverage is of those that have one.
"""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm

from dpdt.evaluation.metrics import Ranking, over_blocks, patient_draws
from dpdt.report.intervals import DrawKey, Draws, Interval
from dpdt.study import BEFORE

STUDIES, IMAGES, DRAWS, DOMAINS = 500, 200, 300, ("a", "b")
EPSILONS = (0.0, 1.0, math.inf)


def key(epsilon: float, domain: str) -> DrawKey:
    return DrawKey(epsilon, domain, domain, "average", "all", "auc")


def interval_of_a_study(rng: np.random.Generator, aucs: tuple[float, float, float]) -> Interval:
    """Two domains, two images a patient, three models whose scores correlate as those of one image do."""
    found: dict[DrawKey, NDArray[np.float64]] = {}
    patients = np.arange(IMAGES) // 2
    for domain in DOMAINS:
        weights = patient_draws(patients, draws=DRAWS, seed=int(rng.integers(1 << 31)), domain=domain)
        target = (rng.random(IMAGES) < 0.3).astype(np.float64)
        of_patient = rng.normal(size=IMAGES)[patients]
        image = math.sqrt(0.2) * of_patient + math.sqrt(0.8) * rng.normal(size=IMAGES)
        scores = [
            math.sqrt(0.6) * image + math.sqrt(0.4) * rng.normal(size=IMAGES) + math.sqrt(2) * norm.ppf(auc) * target
            for auc in aucs
        ]
        drawn = over_blocks([Ranking(target, score) for score in scores], weights)
        for epsilon, of_model in zip(EPSILONS, drawn, strict=True):
            own = key(epsilon, domain)
            found[own._replace(train_domain=BEFORE) if epsilon == 0 else own] = of_model["auc"]
    keys = {epsilon: [key(epsilon, domain) for domain in DOMAINS] for epsilon in EPSILONS}
    return Draws(found, 0.95).share(keys[1.0], start=keys[0.0], whole=keys[math.inf])[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("aucs", "least_defined"),
    [
        ((0.80, 0.82, 0.90), 0.95),  # a fifth of the gain is kept
        ((0.80, 0.88, 0.90), 0.95),  # most of it
        ((0.80, 0.79, 0.87), 0.9),  # less than nothing
        ((0.80, 0.82, 0.84), 0.4),  # a gain that half of all studies take for nothing
    ],
)
def test_93_to_97_percent_of_the_intervals_hold_the_true_share(
    aucs: tuple[float, float, float], least_defined: float
) -> None:
    rng = np.random.default_rng(1)
    intervals = [interval_of_a_study(rng, aucs) for _ in range(STUDIES)]
    defined = [interval for interval in intervals if not math.isnan(interval.low)]
    share = (aucs[1] - aucs[0]) / (aucs[2] - aucs[0])
    covered = np.mean([interval.low <= share <= interval.high for interval in defined])
    print(f"{aucs}: defined in {len(defined)} of {STUDIES}, {covered:.1%} hold {share:.2f}")
    assert len(defined) >= least_defined * STUDIES
    assert 0.93 <= covered <= 0.97
