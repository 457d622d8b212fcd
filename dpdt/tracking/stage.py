"""The stage `track`: one task."""

from dpdt.privacy.statements import refresh_statements
from dpdt.runs.up_to_date import is_current, stamped
from dpdt.study import Study

__all__ = ["done", "run"]


def done(study: Study, _key: str = "") -> bool:
    """Whether MLflow was fed from the files that are there now, and finds its artifacts."""
    from dpdt.tracking.moved import was_moved

    return is_current(study, "track") and not was_moved(study)


def run(study: Study, _key: str = "") -> object:
    """Bring MLflow up to date."""
    from dpdt.tracking.sync import sync

    refresh_statements(study)  # before their hashes are noted
    with stamped(study, "track"):
        return sync(study)
