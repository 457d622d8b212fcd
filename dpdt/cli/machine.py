"""What this machine and the cluster offer: `doctor`."""

import json
from typing import Annotated

import typer

from dpdt.cli.app import FAILED, app
from dpdt.cli.arguments import AsJson, read_study

__all__ = ["doctor"]


@app.command(epilog="Example: dpdt doctor study.toml --cluster   (dpdt doctor alone: this machine)")
def doctor(
    study: Annotated[str | None, typer.Argument(metavar="[STUDY]", help="With --cluster: the study file.")] = None,
    cluster: Annotated[bool, typer.Option("--cluster", help="Check what the study's Slurm jobs will need.")] = False,
    probe: Annotated[bool, typer.Option("--probe", help="Also ask a node, by a job of one minute at most.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what this machine offers; with --cluster, check the cluster before anything is queued."""
    from dpdt.console import show_table

    if not cluster:
        from dpdt.machine import machine_facts

        facts = machine_facts()
        if as_json:
            print(json.dumps(facts, indent=2))
        else:
            show_table("this machine", ("what", "found"), list(facts.items()))
        return
    if study is None:
        raise typer.BadParameter("--cluster needs the study file: dpdt doctor study.toml --cluster")
    from dpdt.submit import check_cluster

    checks = check_cluster(read_study(study), probe=probe)
    if as_json:
        print(json.dumps([check.as_dict() for check in checks], indent=2))
    else:
        rows = [(check.name, check.state, check.found) for check in checks]
        show_table("cluster", ("what", "state", "found"), rows)
    if any(check.state == "bad" for check in checks):
        raise typer.Exit(FAILED)
