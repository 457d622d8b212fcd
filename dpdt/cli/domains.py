"""What the data sets have to be trained on: `domains`."""

import json
from typing import Annotated

import typer

from dpdt.cli.app import app
from dpdt.cli.arguments import AsJson, Domain, known_domains, read_study

__all__ = ["domains"]


@app.command(epilog="Example: dpdt domains study.toml --domain padchest")
def domains(
    study: Annotated[
        str | None, typer.Argument(metavar="[STUDY]", help="A study file: counts of its domains' lists.")
    ] = None,
    domain: Domain = None,
    as_json: AsJson = False,
) -> None:
    """List the findings of each published data set.

    With a study: those of its domains, counted in the lists at hand.
    """
    from dpdt.base.console import show_table
    from dpdt.cohort.finding_counts import count_findings, published_findings

    if study is None:
        published = published_findings()
        chosen = known_domains(tuple(dict.fromkeys(one.domain for one in published)), domain)
        found = [one for one in published if one.domain in chosen]
    else:
        loaded = read_study(study)
        chosen = known_domains(tuple(loaded.domains), domain)
        found = [one for name in chosen for one in count_findings(loaded, name)]
    if as_json:
        print(json.dumps([one.as_dict() for one in found], indent=2, ensure_ascii=False))
        return
    for name in chosen:
        rows = [[one.finding, one.label, ", ".join(one.makes)] for one in found if one.domain == name]
        columns = ["finding", "label of that name", "makes also" if study is None else "makes the label"]
        if study is not None:
            counts = [(one.images, one.patients) for one in found if one.domain == name]
            rows = [[*row, *map(_thousands, of)] for row, of in zip(rows, counts, strict=True)]
            columns += ["images", "patients"]
        show_table(f"Findings of {name}", columns, rows)


def _thousands(count: int | None) -> str:
    """A count for people; `–` where nothing was counted."""
    return "–" if count is None else f"{count:,}"
