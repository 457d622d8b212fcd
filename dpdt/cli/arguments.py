"""Arguments that several commands share, and how a command gets its study."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from dpdt.cli.options import overrides
from dpdt.errors import StudyError

if TYPE_CHECKING:
    from dpdt.study import Study

__all__ = ["AsJson", "Domain", "StudyFile", "known_domains", "read_study"]

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
