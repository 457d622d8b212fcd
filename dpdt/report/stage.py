"""The stage `report`: one task."""

from dpdt.privacy.statements import refresh_statements
from dpdt.runs.up_to_date import is_current, stamped
from dpdt.study import Study

__all__ = ["done", "run"]


def done(study: Study, _key: str = "") -> bool:
    """Whether the report was made from the files that are there now."""
    return is_current(study, "report")


def run(study: Study, _key: str = "") -> str:
    """Write the report."""
    from dpdt.report.write import write_report

    refresh_statements(study)  # before their hashes are noted
    with stamped(study, "report"):
        return f"Report: {write_report(study)}"
