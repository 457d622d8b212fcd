"""Metrics, their intervals and tests; what cannot be computed says why. Definitions: docs/evaluation.md.

`draws` resamples patients, `weighted` measures all draws from one sort, `table` has every metric of a model on a
domain, `curves` the single numbers, `delong` and `inference` compare models, `fairness` compares groups.
"""

from dpdt.evaluation.metrics.bootstrap import patient_draws, percentile_interval
from dpdt.evaluation.metrics.curves import (
    auc,
    average_precision,
    brier,
    calibration_curve,
    calibration_error,
    precision_recall_curve,
    roc_curve,
    undefined_reason,
    youden_threshold,
)
from dpdt.evaluation.metrics.delong import auc_covariance, auc_influence, compare_aucs
from dpdt.evaluation.metrics.fairness import SMALL_GROUP
from dpdt.evaluation.metrics.kernel import Ranking, over_blocks, threshold_rates, weighted_auc
from dpdt.evaluation.metrics.names import (
    ALL,
    AT_THRESHOLD,
    ATTRIBUTES,
    AVERAGE,
    COLUMNS,
    CROSSINGS,
    FAIRNESS,
    GROUPS,
    MAIN_RATES,
    METRICS,
    PAPER,
    STRICT,
    THRESHOLD_FREE,
    UNDERDIAGNOSIS,
    Threshold,
)
from dpdt.evaluation.metrics.significance import holm, normal_p, paired_t, permutation_test, tost
from dpdt.evaluation.metrics.table import DRAW_KEYS, DomainMetrics, as_table, domain_metrics, measure_domain

__all__ = [
    "ALL",
    "ATTRIBUTES",
    "AT_THRESHOLD",
    "AVERAGE",
    "COLUMNS",
    "CROSSINGS",
    "DRAW_KEYS",
    "FAIRNESS",
    "GROUPS",
    "MAIN_RATES",
    "METRICS",
    "PAPER",
    "SMALL_GROUP",
    "STRICT",
    "THRESHOLD_FREE",
    "UNDERDIAGNOSIS",
    "DomainMetrics",
    "Ranking",
    "Threshold",
    "as_table",
    "auc",
    "auc_covariance",
    "auc_influence",
    "average_precision",
    "brier",
    "calibration_curve",
    "calibration_error",
    "compare_aucs",
    "domain_metrics",
    "holm",
    "measure_domain",
    "normal_p",
    "over_blocks",
    "paired_t",
    "patient_draws",
    "percentile_interval",
    "permutation_test",
    "precision_recall_curve",
    "roc_curve",
    "threshold_rates",
    "tost",
    "undefined_reason",
    "weighted_auc",
    "youden_threshold",
]
