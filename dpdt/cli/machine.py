"""What this machine and the cluster offer: `doctor`."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from dpdt.cli.app import FAILED, app
from dpdt.cli.arguments import AsJson, read_study

__all__ = ["doctor"]


@app.command(epilog="Example: dpdt doctor   (this machine; for a cluster: dpdt doctor study.toml --cluster)")
def doctor(
    study: Annotated[
        str | None, typer.Argument(metavar="[STUDY]", help="A study file: its disk, its MLflow, its cluster.")
    ] = None,
    cluster: Annotated[bool, typer.Option("--cluster", help="Check what the study's Slurm jobs will need.")] = False,
    probe: Annotated[bool, typer.Option("--probe", help="Also ask a node, by a job of one minute at most.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check this machine, or with --cluster the cluster.

    Each finding is good, worth knowing (note) or bad, with what to do.
    """
    from dpdt.base.console import show_checks

    if probe and not cluster:
        raise typer.BadParameter("--probe goes with --cluster: dpdt doctor study.toml --cluster --probe")
    if cluster:
        if study is None:
            raise typer.BadParameter("--cluster needs the study file: dpdt doctor study.toml --cluster")
        from dpdt.jobs.doctor.cluster import check_cluster

        checks = check_cluster(read_study(study), probe=probe)
    else:
        from dpdt.jobs.doctor.machine import check_machine

        checks = check_machine(None if study is None else read_study(study))
    found = [asdict(check) for check in checks]
    if not as_json:
        rows = [(check.name, check.state, check.found) for check in checks]
        show_checks("cluster" if cluster else "this machine", rows)
    elif cluster:
        print(json.dumps(found, indent=2))
    else:
        from dpdt.jobs.doctor.facts import machine_facts

        print(json.dumps({**machine_facts(), "checks": found}, indent=2))
    if any(check.state == "bad" for check in checks):
        raise typer.Exit(FAILED)
