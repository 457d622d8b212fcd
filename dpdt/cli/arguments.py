"""Arguments that several commands share, and how a command gets its study."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpdt.cli.options import overrides
from dpdt.errors import StudyError

if TYPE_CHECKING:
    from dpdt.study import Cell, Study

__all__ = ["AsJson", "Domain", "StudyFile", "known_domains", "read_study", "study_of_run"]

StudyFile = Annotated[str, typer.Argument(metavar="STUDY", help="The study file (study.toml), or its folder.")]
Domain = Annotated[list[str] | None, typer.Option("--domain", help="Only this domain; may be repeated.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table for people.")]


def read_study(study_file: str) -> "Study":
    """The study that a command was given, with what `--set` says."""
    from dpdt.study import load_study

    return load_study(study_file, overrides=overrides())


def known_domains(domains: Sequence[str], wanted: Sequence[str] | None) -> Sequence[str]:
    """The wanted domains, all if none is named."""
    for name in wanted or ():
        if name not in domains:
            raise StudyError(f"--domain {name}: not in the study. Its domains: {', '.join(domains)}.")
    return wanted or domains


def study_of_run(target: Path) -> "tuple[Study, Cell]":
    """The study above a training's run folder, and which of its trainings it is."""
    folder = target.resolve()
    for parent in folder.parents:
        if (parent / "study.toml").exists():
            study = read_study(str(parent))
            if study.paths.runs != folder.parent:
                continue
            cells = [cell for cell in study.cells() if study.run_id(cell) == folder.name]
            if not cells:
                raise StudyError(
                    f"{target}: no training of {study.file} as it is now: its settings changed, or --set gave some of "
                    "them (give them here too), or the run is a pretraining or an audit's twin. Its "
                    f"trainings: {', '.join(map(study.run_id, study.cells()))}."
                )
            return study, cells[0]
    raise StudyError(f"{target}: no study.toml above it has its outputs there. Name the run's folder, runs/RUN.")
