"""What a study will do and cost: `plan`."""

import json
from typing import Annotated

import typer

from dpdt.cli.app import app
from dpdt.cli.arguments import AsJson, StudyFile, read_study

__all__ = ["plan"]


@app.command(epilog="Example: dpdt plan study.toml --measure   (without cohorts: --size chexpert=224316/65240)")
def plan(
    study: StudyFile,
    measure: Annotated[
        bool, typer.Option("--measure", help="Try the network on this machine for a minute: hours and memory.")
    ] = False,
    size: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=IMAGES/PATIENTS", help="Size of a domain without a cohort yet; repeatable."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a study will do and cost; nothing is queued.

    Steps, noise, disk, hours where a speed is known, and warnings.
    """
    from dpdt.jobs.checks import warn_of_changed_lists
    from dpdt.jobs.plan import as_json as to_json
    from dpdt.jobs.plan import look_ahead, parse_sizes, show_outlook
    from dpdt.jobs.plan.measure import known_speeds
    from dpdt.jobs.plan.measure import measure as measure_speeds
    from dpdt.training.networks.check import check_class_weights, check_model

    loaded = read_study(study)
    warn_of_changed_lists(loaded)
    sizes = parse_sizes(size or (), loaded)
    check_class_weights(loaded)
    check_model(loaded)
    outlook = look_ahead(loaded, sizes=sizes, speeds=measure_speeds(loaded) if measure else known_speeds(loaded))
    if as_json:
        print(json.dumps(to_json(outlook), indent=2, allow_nan=False))
    else:
        show_outlook(loaded, outlook)
