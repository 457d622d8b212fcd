"""The whole way on synthetic hospitals: `demo`."""

from pathlib import Path
from typing import Annotated

import typer

from dpdt.cli.app import app

__all__ = ["demo"]


@app.command(epilog="Example: dpdt demo --folder demo")
def demo(
    folder: Annotated[Path, typer.Option(help="Where the demo's data and results go.")] = Path("dpdt-demo"),
    patients: Annotated[
        int | None, typer.Option(help="Patients of each hospital, for a quick look; default: 550 to 1,000.", min=20)
    ] = None,
) -> None:
    """Run the whole way on six synthetic hospitals: five minutes."""
    from dpdt.demo import run_demo

    run_demo(folder, patients=patients)
