"""Whether a SQLite store has everything already, asked without MLflow: loading it takes longer than the answer.

Anything that is not as expected, an unknown layout of the database too, counts as news: then MLflow itself looks.
"""

import contextlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from dpdt.runs.read import Run
from dpdt.study import Study
from dpdt.tracking.client import SENT_TAG
from dpdt.tracking.payload import RUN_ID_TAG, signature
from dpdt.tracking.store import experiment_name
from dpdt.tracking.study_run import PARENT, parent_state

__all__ = ["sqlite_is_current"]

QUERY: Final = """
    SELECT name.value, runs.run_uuid, sent.value
    FROM runs
    JOIN experiments USING (experiment_id)
    JOIN tags AS name ON name.run_uuid = runs.run_uuid AND name.key = ?
    JOIN tags AS sent ON sent.run_uuid = runs.run_uuid AND sent.key = ?
    WHERE experiments.name = ? AND experiments.lifecycle_stage = 'active' AND runs.lifecycle_stage = 'active'
    ORDER BY runs.start_time DESC
"""


def sqlite_is_current(study: Study, file: Path, runs: Sequence[Run]) -> bool:
    """Whether a sync of these runs and of the report would send nothing.

    Args:
        study: The study.
        file: The SQLite file; it need not exist.
        runs: The study's runs.
    """
    if not file.exists():
        return False
    try:
        with contextlib.closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as database:
            rows = database.execute(QUERY, [RUN_ID_TAG, SENT_TAG, experiment_name(study)]).fetchall()
    except sqlite3.Error:
        return False
    sent = {name: state for name, _, state in rows}
    known = {name: run_id for name, run_id, _ in rows}
    if any(sent.get(run.run_id) != signature(run) for run in runs):
        return False
    return bool(sent.get(PARENT, "").split()[:1] == [parent_state(study, known)])
