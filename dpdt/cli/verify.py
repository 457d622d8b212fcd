"""What is on disk against its checksums: `verify`."""

import json

import typer

from dpdt.cli.app import FAILED, app
from dpdt.cli.arguments import AsJson, Domain, StudyFile, known_domains, read_study

__all__ = ["verify"]


@app.command(epilog="Example: dpdt verify study.toml")
def verify(study: StudyFile, domain: Domain = None, as_json: AsJson = False) -> None:
    """Check every byte of the shards against their checksums."""
    from dpdt.shards.verify import verify_shards

    loaded = read_study(study)
    problems = {name: verify_shards(loaded, name) for name in known_domains(loaded.used_domains, domain)}
    if as_json:
        print(json.dumps(problems, indent=2))
    else:
        for name, found in problems.items():
            print(f"{name}: {'good' if not found else ''}")
            for problem in found:
                print(f"  {problem}")
    if any(problems.values()):
        raise typer.Exit(FAILED)
