"""Attacks on trained models: `audit`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpdt.cli.app import FAILED, app
from dpdt.cli.arguments import AsJson, read_study, study_of_run
from dpdt.errors import DpdtError

if TYPE_CHECKING:
    from dpdt.study import Cell, Study

__all__ = ["audit"]


@app.command(epilog="Example: dpdt audit runs/padchest-patient-eps1-seed0-1a2b3c4d   or: dpdt audit study.toml")
def audit(
    target: Annotated[
        str,
        typer.Argument(metavar="RUN", help="A finished run's folder; or a study, for all of its finished runs."),
    ],
    as_json: AsJson = False,
) -> None:
    """Attack trained models to see what they reveal about patients.

    Membership inference, and with audit.canaries a lower bound on epsilon.
    """
    from dpdt.evaluation.audit.run_audit import audit_run, summary_text
    from dpdt.jobs.stages import private_umask
    from dpdt.runs.read import read_run

    study, cells = _find(Path(target))
    found = []
    with private_umask(study):
        for cell in cells:
            found.append(audit_run(study, cell))
            run = read_run(study, study.run_id(cell))
            if run and not as_json:
                print(summary_text(run, found[-1]))
    if as_json:
        print(json.dumps(found, indent=2))
    if any(one["refuted"] for one in found):
        raise typer.Exit(FAILED)


def _find(target: Path) -> "tuple[Study, list[Cell]]":
    """The study, and which of its runs are meant."""
    from dpdt.runs.state import run_done

    if not (target / "config.json").exists():
        study = read_study(str(target))
        cells = [cell for cell in study.cells() if run_done(study, study.run_id(cell))]
        if not cells:
            raise DpdtError(f"{target}: no run is finished yet. Run `dpdt train {target}` first.")
        return study, cells
    study, cell = study_of_run(target)
    return study, [cell]
