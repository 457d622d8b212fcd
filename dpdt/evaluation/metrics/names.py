"""The words of the tables of metrics."""

from typing import Final, NamedTuple

from dpdt.base.vocabulary import AGE_GROUPS

__all__ = [
    "ALL",
    "ATTRIBUTES",
    "AT_THRESHOLD",
    "AVERAGE",
    "COLUMNS",
    "CROSSINGS",
    "FAIRNESS",
    "FEWEST_PATIENTS",
    "GEOMETRY",
    "MAIN_RATES",
    "METRICS",
    "PAPER",
    "REPRESENTATION",
    "STRICT",
    "THRESHOLD_FREE",
    "UNDERDIAGNOSIS",
    "Threshold",
]

AVERAGE: Final = "average"
ALL: Final = "all"
STRICT: Final = "strict"  # thresholds from the train domain's val
PAPER: Final = "paper"  # thresholds from the test images themselves: optimistic

THRESHOLD_FREE: Final = ("auc", "average_precision", "brier", "calibration_error")
MAIN_RATES: Final = ("accuracy", "sensitivity", "specificity")  # MLflow shows these too
AT_THRESHOLD: Final = (*MAIN_RATES, "f1", "positive_rate")
METRICS: Final = (*THRESHOLD_FREE, *AT_THRESHOLD)
UNDERDIAGNOSIS: Final = "underdiagnosis_rate"  # of the label that says that nothing was found
GEOMETRY: Final = ("displacement", "effective_dimension")
REPRESENTATION: Final = (*GEOMETRY, "probe_auc", "utilisation_gap")
FAIRNESS: Final = ("auc_gap", "worst_auc", "parity_difference", "opportunity_difference", "underdiagnosis_gap")

# Patients of each class that an interval or a test rests on. With 5, a 95 % interval of an AUC holds the true one 73 to
# 87 times in 100, with 1 not 20 times (docs/evaluation.md).
FEWEST_PATIENTS: Final = 10
POSITIVES, NEGATIVES, BOTH, EITHER = "positives", "negatives", "both", "either"
RESTS_ON: Final = {  # which class's patients a metric is a mean over
    "auc": BOTH,
    "average_precision": BOTH,
    "sensitivity": POSITIVES,
    "f1": POSITIVES,
    "specificity": NEGATIVES,
    UNDERDIAGNOSIS: NEGATIVES,
}  # the others: EITHER, all patients together

ATTRIBUTES: Final = {"sex": ("female", "male"), "age_group": tuple(AGE_GROUPS)}
CROSSINGS: Final = {f"{sex}_{age}": (sex, age) for sex in ATTRIBUTES["sex"] for age in AGE_GROUPS}

COLUMNS: Final = (
    "test_domain",
    "split",
    "label",
    "subgroup",
    "metric",
    "protocol",
    "value",
    "ci_low",
    "ci_high",
    "n",
    "n_positive",
    "reason",
    "undefined_draws",
    "labels",  # of an average: over which labels, separated by commas
)


class Threshold(NamedTuple):
    """A decision threshold of one label: positive is a score at or above it."""

    value: float
    source: str  # e.g. "val of padchest", or why there is none (value is then NaN)
    n: int
    n_positive: int
