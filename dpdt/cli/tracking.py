"""MLflow: `sync`, `ui` and `compare`."""

import json
from typing import Annotated

import typer

from dpdt.cli.app import app
from dpdt.cli.arguments import AsJson, StudyFile, read_study

__all__ = ["compare", "sync", "ui"]


@app.command(epilog="Example: dpdt sync study.toml --watch")
def sync(
    study: StudyFile,
    to: Annotated[
        str | None, typer.Option(metavar="URI", help="Feed this MLflow instead of the study's, e.g. a team's server.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Again and again until the study is complete.")] = False,
    every: Annotated[float, typer.Option(help="With --watch: seconds between two syncs.", min=0.1)] = 15.0,
) -> None:
    """Feed MLflow from the run folders; twice is once."""
    if to is None and not watch:
        from dpdt.jobs.stages import run_stage

        run_stage(read_study(study), "track")
        return
    from dpdt.jobs.stages import private_umask
    from dpdt.tracking.store import with_uri
    from dpdt.tracking.sync import sync as sync_study
    from dpdt.tracking.watch import watch as watch_study

    loaded = read_study(study)
    chosen = loaded if to is None else with_uri(loaded, to)
    with private_umask(loaded):
        summary = watch_study(chosen, every_seconds=every) if watch else sync_study(chosen)
    if not watch:
        print(summary)
    if to is not None:
        print('To feed it from now on, put its address into the study file: [tracking] uri = "…".')


@app.command(epilog="Example: dpdt ui study.toml --port 5000")
def ui(
    study: StudyFile,
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)] = 5000,
    host: Annotated[
        str, typer.Option(help="Address to serve on. Any but this machine's own lets others in without a password.")
    ] = "127.0.0.1",
) -> None:
    """Serve MLflow's pages on this machine.

    Prints the address of the page on which the DP and non-DP runs are compared.
    """
    from dpdt.tracking.ui import serve_ui

    serve_ui(read_study(study), port=port, host=host)


@app.command(epilog="Example: dpdt compare study.toml 'padchest · no DP' padchest-patient-eps1")
def compare(
    study: StudyFile,
    run: Annotated[list[str], typer.Argument(metavar="RUN…", help="Parts of runs' names, or run folders.")],
    as_json: AsJson = False,
) -> None:
    """Print runs side by side.

    The parameters that differ, and the metrics: the same as MLflow's compare page.
    """
    from dpdt.tracking.compare import compare_rows, find_compared, show_comparison

    runs = find_compared(run, read_study(study))
    if as_json:
        print(json.dumps({"runs": [one.run_id for one in runs], "rows": compare_rows(runs)}, indent=2, allow_nan=False))
    else:
        show_comparison(runs)
