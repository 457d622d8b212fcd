"""MLflow: `sync` and `ui`."""

from typing import Annotated

import typer

from dpdt.cli.app import app
from dpdt.cli.arguments import StudyFile, read_study

__all__ = ["sync", "ui"]


@app.command(epilog="Example: dpdt sync study.toml")
def sync(study: StudyFile) -> None:
    """Feed MLflow from the run folders; twice is once."""
    from dpdt.stages import run_stage

    run_stage(read_study(study), "track")


@app.command(epilog="Example: dpdt ui study.toml --port 5000")
def ui(
    study: StudyFile,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 takes a free one.", min=0, max=65535)] = 5000,
) -> None:
    """Start MLflow's pages on 127.0.0.1 and print the address that compares the DP and non-DP runs."""
    from dpdt.tracking import serve_ui

    serve_ui(read_study(study), port=port)
