"""A whole study as jobs: `submit`, `status`, `logs`, `cancel`."""

import json
from typing import Annotated

import typer

from dpdt.cli.app import app
from dpdt.cli.arguments import AsJson, StudyFile, read_study
from dpdt.jobs.schedulers import SCHEDULERS, Cluster, queueing

__all__ = ["cancel", "logs", "status", "submit"]


@app.command(epilog="Example: dpdt submit study.toml --cluster slurm --dry-run")
def submit(
    study: StudyFile,
    cluster: Annotated[
        Cluster,
        typer.Option(help=f"{'; '.join(f'{name}: {known.summary}' for name, known in SCHEDULERS.items())}."),
    ] = "local",
    stages: Annotated[str | None, typer.Option(help="Only these stages, comma-separated; default: all.")] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print what would be sent (with -v the batch scripts too), and send nothing."),
    ] = False,
    wait: Annotated[
        bool | None,
        typer.Option(
            "--wait/--no-wait", help=f"Wait for the end; the default waits except on {' or '.join(queueing())}."
        ),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Only what failed or was stopped, and what needed that.")
    ] = False,
) -> None:
    """Send all stages as jobs, to Slurm or on this machine.

    As arrays with their dependencies; what is done is skipped.
    """
    from dpdt.jobs.submit import show_next
    from dpdt.jobs.submit import submit as submit_study

    loaded = read_study(study)
    names = [name.strip() for name in stages.split(",")] if stages is not None else None
    submit_study(loaded, cluster=cluster, stages=names, dry_run=dry_run, wait=wait, retry_failed=retry_failed)
    if not dry_run:
        show_next(loaded)


@app.command(epilog="Example: dpdt status study.toml --watch")
def status(
    study: StudyFile,
    every_task: Annotated[bool, typer.Option("--all", help="The done tasks too.")] = False,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", help="Look again until nothing runs or waits.")] = False,
    every: Annotated[float, typer.Option(help="With --watch: seconds between two looks.", min=1.0)] = 15.0,
) -> None:
    """Show how far the study is.

    Tasks of each stage, and of those that are not done: steps, epsilon, time left, job, node, attempt.
    """
    from dpdt.jobs.checks import warn_of_changed_lists
    from dpdt.jobs.status import show_status, study_status, watch_status

    loaded = read_study(study)
    warn_of_changed_lists(loaded)
    if watch:
        watch_status(loaded, every_seconds=every, as_json=as_json, every_task=every_task)
        return
    rows = study_status(loaded)
    if as_json:
        print(json.dumps(rows, indent=2, allow_nan=False))
    else:
        show_status(rows, every_task=every_task)


@app.command(epilog="Example: dpdt logs study.toml padchest --lines 100")
def logs(
    study: StudyFile,
    task: Annotated[
        list[str] | None, typer.Argument(help="A task, or a part of its name; default: all that failed.")
    ] = None,
    lines: Annotated[int, typer.Option(help="So many lines of each log; 0: all.", min=0)] = 40,
) -> None:
    """Print the end of tasks' logs.

    A log holds all attempts, each under a header.
    """
    from dpdt.jobs.logs import show_logs

    show_logs(read_study(study), task or (), lines=lines)


@app.command(epilog="Example: dpdt cancel study.toml train")
def cancel(
    study: StudyFile,
    task: Annotated[
        list[str] | None, typer.Argument(help="A stage, a task, or a part of its name; default: all.")
    ] = None,
) -> None:
    """Cancel the study's jobs, in Slurm or on this machine.

    What they did stays, and `dpdt submit` goes on from there.
    """
    from dpdt.jobs.logs import find_tasks
    from dpdt.jobs.submit import cancel as cancel_tasks

    loaded = read_study(study)
    for cancelled in (found := cancel_tasks(loaded, find_tasks(loaded, task) if task else None)):
        print(f"cancelled: {cancelled.label}")
    print(f"{len(found)} jobs cancelled.")
