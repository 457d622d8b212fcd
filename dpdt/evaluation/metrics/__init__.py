"""Metrics, their intervals and tests; what cannot be computed says why. Definitions: docs/evaluation.md.

`bootstrap` resamples patients, `kernel` measures all draws from one sort, `table` has every metric of a model on a
domain, `estimate` one number of it; `groups` says who is in which part; `common` says over which labels a mean is;
`delong` and `significance` compare models, `fairness` compares groups.
"""

from dpdt.evaluation.metrics.bootstrap import extreme_interval, patient_draws, percentile_interval
from dpdt.evaluation.metrics.calibration import Recalibration, recalibration
from dpdt.evaluation.metrics.common import common_labels, joined_labels, labels_of, labels_of_averages, macro_aucs
from dpdt.evaluation.metrics.delong import auc_covariance, auc_influence, standard_error
from dpdt.evaluation.metrics.estimate import count_patients, few_reason, undefined_reason, youden_threshold
from dpdt.evaluation.metrics.groups import Groups, own_groups, papers_groups
from dpdt.evaluation.metrics.kernel import Ranking, over_blocks
from dpdt.evaluation.metrics.names import (
    ALL,
    AT_THRESHOLD,
    AVERAGE,
    COLUMNS,
    CROSSINGS,
    FAIRNESS,
    FEWEST_PATIENTS,
    GEOMETRY,
    MAIN_RATES,
    PAPER,
    REPRESENTATION,
    STRICT,
    THRESHOLD_FREE,
    UNDERDIAGNOSIS,
    Threshold,
)
from dpdt.evaluation.metrics.significance import holm, normal_p, permutation_test, tost
from dpdt.evaluation.metrics.table import DomainMetrics, as_table, measure_domain

__all__ = [
    "ALL",
    "AT_THRESHOLD",
    "AVERAGE",
    "COLUMNS",
    "CROSSINGS",
    "FAIRNESS",
    "FEWEST_PATIENTS",
    "GEOMETRY",
    "MAIN_RATES",
    "PAPER",
    "REPRESENTATION",
    "STRICT",
    "THRESHOLD_FREE",
    "UNDERDIAGNOSIS",
    "DomainMetrics",
    "Groups",
    "Ranking",
    "Recalibration",
    "Threshold",
    "as_table",
    "auc_covariance",
    "auc_influence",
    "common_labels",
    "count_patients",
    "extreme_interval",
    "few_reason",
    "holm",
    "joined_labels",
    "labels_of",
    "labels_of_averages",
    "macro_aucs",
    "measure_domain",
    "normal_p",
    "over_blocks",
    "own_groups",
    "papers_groups",
    "patient_draws",
    "percentile_interval",
    "permutation_test",
    "recalibration",
    "standard_error",
    "tost",
    "undefined_reason",
    "youden_threshold",
]
