"""Statements stay true when runs are added: what all DP runs on the same patients cost together is counted again.

Every ledger in the runs' folder counts, whatever study file it was made by, and every DP run that the study file plans:
with its target epsilon, which is the most that it may spend, so a run that is half done counts as a whole one.
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from dpdt.base.files import exclusive_lock, read_json, write_json
from dpdt.cohort.data_hashes import has_plain_hashes
from dpdt.errors import DpdtError
from dpdt.privacy.statement import brought_up_to_date
from dpdt.study import Study
from dpdt.study.paths import RunPaths, StudyPaths

__all__ = ["publish_statement", "refresh_statements"]


# What a statement must have so that its runs can be counted again.
COUNTED_BY: Final = frozenset(("domain", "unit", "target_epsilon", "delta", "other_releases"))


@dataclass(frozen=True)
class Budget:
    """What a DP run may spend, on whom.

    Attributes:
        domain: The domain of the patients; None where a run's config is lost: it counts for all.
        unit: The privacy unit.
        epsilon: Its target.
        delta: Of its guarantee.
    """

    domain: str | None
    unit: str
    epsilon: float
    delta: float


def publish_statement(study: Study, paths: RunPaths, statement: Mapping[str, Any]) -> None:
    """Write a run's statement, and bring those of all other runs up to date with it.

    Args:
        study: The study.
        paths: The run; its config and, with DP, its ledger are there.
        statement: Its statement, except for the other runs.
    """
    with _lock(study.paths):
        budgets = _budgets(study)
        write_json(paths.privacy, _today(dict(statement), study, paths, budgets))
        _refresh(study, budgets)


def refresh_statements(study: Study) -> None:
    """Bring the statement of every run up to date; files in which nothing changes stay as they are."""
    if study.paths.runs.is_dir():
        with _lock(study.paths):
            _refresh(study, _budgets(study))


@contextmanager
def _lock(paths: StudyPaths) -> Iterator[None]:
    """Statements are read, changed and written by one process at a time, or an old one could overwrite a new one."""
    with exclusive_lock(paths.statements_lock):
        yield


def _refresh(study: Study, budgets: Mapping[str, Budget]) -> None:
    for file in sorted(study.paths.runs.glob("*/privacy.json")):
        paths = study.paths.run(file.parent.name)
        statement = _read(file)  # damage is an error where that run is used
        now = _today(statement, study, paths, budgets)
        if now != statement:
            write_json(file, now)


def _today(statement: dict[str, Any], study: Study, paths: RunPaths, budgets: Mapping[str, Budget]) -> dict[str, Any]:
    counted_here = statement.get("selection") and statement.keys() >= COUNTED_BY
    if not counted_here or _read(paths.config).get("kind") == "bundle":  # another hospital's, as it came
        return statement
    own = Budget(statement["domain"], statement["unit"], statement["target_epsilon"], statement["delta"])
    counted = {paths.run_id: own, **budgets}
    same = [b for b in counted.values() if b.domain in (own.domain, None) and b.unit == own.unit]
    return brought_up_to_date(
        statement,
        budgets=sorted((b.epsilon, b.delta) for b in same),
        plain_hashes=has_plain_hashes(_part(_read(paths.config), "data")),
        as_of=datetime.now(UTC).isoformat(timespec="seconds"),
        probed=study.evaluate.representation,
    )


def _budgets(study: Study) -> dict[str, Budget]:
    """Every DP run that the study plans or that has a ledger, by its id, of all its starts and amounts of data."""
    study, privacy = study.whole, study.privacy
    found = {
        study.run_id(cell): Budget(cell.domain, privacy.unit, cell.target_epsilon, privacy.delta)
        for cell in study.cells()
        if cell.private
    }
    for ledger in sorted(study.paths.runs.glob("*/ledger.jsonl")):
        paths = study.paths.run(ledger.parent.name)
        begun = _begun(paths)
        if begun is not None:
            found[paths.run_id] = begun
    return found


def _begun(paths: RunPaths) -> Budget | None:
    """Of a run with a ledger; None if nothing can be spent by it, for neither ledger nor config says how much."""
    config = _read(paths.config)
    try:
        with paths.ledger.open("rb") as stream:
            first = json.loads(stream.readline())
    except (OSError, ValueError):  # a crash in the first line, or damage, which its training reports
        first = None
    as_planned = {**_part(_part(config, "settings"), "privacy"), "target_epsilon": config.get("target_epsilon")}
    domain = config.get("domain")
    for source in (first, as_planned):
        try:
            epsilon, delta, unit = float(source["target_epsilon"]), float(source["delta"]), str(source["unit"])
        except (KeyError, TypeError, ValueError):
            continue
        if 0 < epsilon < math.inf and 0 < delta < 1:
            return Budget(None if domain is None else str(domain), unit, epsilon, delta)
    return None


def _read(file: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none that can be read."""
    try:
        found = read_json(file)
    except (DpdtError, OSError):
        return {}
    return found if isinstance(found, dict) else {}


def _part(values: dict[str, Any], name: str) -> dict[str, Any]:
    """A table in a table; empty where it is missing or something else."""
    found = values.get(name)
    return found if isinstance(found, dict) else {}
