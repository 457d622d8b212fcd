"""The study file: its keys and values, where it is explained, the names of a study's files, and its tasks."""

from dpdt.study.arms import BEFORE, Cell, arm_name, axes_name, format_epsilon, is_before
from dpdt.study.study import Study, check_study, load_study

__all__ = [
    "BEFORE",
    "Cell",
    "Study",
    "arm_name",
    "axes_name",
    "check_study",
    "format_epsilon",
    "is_before",
    "load_study",
]
