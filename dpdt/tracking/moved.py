"""A study that was moved takes its artifacts along: MLflow's places of them follow.

MLflow writes where its artifacts are as absolute addresses into its database, at each experiment and run. A study's
folder may get another name, be mounted elsewhere, or be made in a container and opened on the host; the artifacts in
it are then where the study is, and not where the database says, which MLflow would create anew.
"""

import contextlib
import sqlite3
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from dpdt.base.console import note
from dpdt.study import Study
from dpdt.tracking.store import database_file, experiment_name, explained, one_writer, tracking_uri

__all__ = ["follow_study", "was_moved"]

# Columns with an artifact's address, and which rows are an experiment's.
OF_RUNS: Final = "run_uuid IN (SELECT run_uuid FROM runs WHERE experiment_id = :experiment)"
PLACES: Final = (
    ("experiments", "artifact_location", "experiment_id = :experiment"),
    ("runs", "artifact_uri", "experiment_id = :experiment"),
    ("logged_models", "artifact_location", "experiment_id = :experiment"),
    ("model_versions", "source", OF_RUNS.replace("run_uuid IN", "run_id IN")),
    ("model_versions", "storage_location", OF_RUNS.replace("run_uuid IN", "run_id IN")),
)


def follow_study(study: Study) -> None:
    """Have a SQLite store name the artifacts' place in the study's folder.

    A server has a place of its own, and so has an experiment that was given one: both stay as they are.

    Raises:
        TrackingError: The database cannot be read or written.
    """
    uri = tracking_uri(study)
    file = database_file(uri)
    if file is None or not was_moved(study):
        return
    with explained(uri), one_writer(uri, study.paths.tracking_lock):
        found = _moved_from(study, file)  # another process may have been quicker
        if found is None:
            return
        experiment, old = found
        new = study.paths.mlflow_artifacts.as_uri()
        with contextlib.closing(sqlite3.connect(file)) as database, database:
            there = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            for table, column, rows in PLACES:
                if table in there:
                    database.execute(
                        f"UPDATE {table} SET {column} = :new || substr({column}, :length + 1) "
                        f"WHERE {rows} AND ({column} = :old OR substr({column}, 1, :length + 1) = :old || '/')",
                        {"new": new, "old": old, "length": len(old), "experiment": experiment},
                    )
    note(f"the study was moved: MLflow's artifacts are now those in {study.paths.mlflow_artifacts}")


def was_moved(study: Study) -> bool:
    """Whether a SQLite store names another place of the study's artifacts than its folder."""
    file = database_file(tracking_uri(study))
    return file is not None and file.exists() and _moved_from(study, file) is not None


def _moved_from(study: Study, file: Path) -> tuple[int, str] | None:
    """The study's experiment and where its artifacts were; None where they are in place, or no study's folder."""
    wanted = study.paths.mlflow_artifacts
    try:
        with contextlib.closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as database:
            row = database.execute(
                "SELECT experiment_id, artifact_location FROM experiments WHERE name = ?", [experiment_name(study)]
            ).fetchone()
    except sqlite3.Error:
        return None  # no database of MLflow's, or a damaged one: whoever opens it says so
    if row is None or urlsplit(row[1] or "").scheme not in ("", "file"):
        return None
    there = Path(unquote(urlsplit(row[1]).path))
    if there.name != wanted.name or there == wanted or (there.exists() and wanted.exists() and there.samefile(wanted)):
        return None
    return int(row[0]), str(row[1])
