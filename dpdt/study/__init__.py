"""The study file: its keys and values, where it is explained, the names of a study's files, and its tasks."""

from dpdt.study.study import Cell, Study, check_study, format_epsilon, load_study

__all__ = ["Cell", "Study", "check_study", "format_epsilon", "load_study"]
