"""The study file itself: `init`, `show`, `schema`."""

import json
import shlex
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from dpdt.cli.app import app
from dpdt.cli.arguments import AsJson, StudyFile
from dpdt.cli.options import overrides
from dpdt.errors import StudyError

__all__ = ["init", "list_images", "schema", "show"]


@app.command(
    epilog="Example: dpdt init my-study --list list.csv --images png   or: --root chestxray14=/data/ChestX-ray14"
)
def init(
    folder: Annotated[Path, typer.Argument(help="Where study.toml goes; created.")] = Path("."),
    preset: Annotated[
        str | None,
        typer.Option(help="paper, quick, own-hospital or slurm; default: quick, with --list own-hospital."),
    ] = None,
    root: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FOLDER", help="A domain and its raw data; may be repeated. Default: the preset's."),
    ] = None,
    list_file: Annotated[
        Path | None,
        typer.Option("--list", help="A list of your own (CSV, Excel, Parquet): what is in it is guessed, to confirm."),
    ] = None,
    images: Annotated[Path | None, typer.Option(help="With --list: the folder of its images.")] = None,
) -> None:
    """Write a commented study.toml to begin with.

    It has the keys that people change. With --list it describes your list: each guess is a line to confirm.
    """
    from dpdt.base.console import warn
    from dpdt.base.files import make_folder, write_text
    from dpdt.study.domain_kinds import DOMAIN_KINDS
    from dpdt.study.explain import did_you_mean
    from dpdt.study.source import open_guesses
    from dpdt.study.starter import starter_text

    roots = _roots(root)
    if images is not None and list_file is None:
        raise typer.BadParameter("--images goes with --list: dpdt init my-study --list list.csv --images png")
    own = ""
    if list_file is not None:
        from dpdt.cohort.lists.mapping import mapping_text

        own = mapping_text(list_file, images)
    text = starter_text(preset or ("own-hospital" if own else "quick"), roots, own)
    file = folder / "study.toml"
    if file.exists():
        other = (
            " For a second list copy its [domains.…] from there into this file: docs/own-hospital.md." if own else ""
        )
        raise StudyError(
            f"{file}: exists already, and init overwrites nothing. Name another folder, or remove the file.{other}"
        )
    make_folder(folder)
    write_text(file, text)
    for name in roots.keys() - DOMAIN_KINDS.keys():
        if hint := did_you_mean(name, DOMAIN_KINDS, diagnoses=False):
            warn(f"--root {name}: no published data set has this name, so it is read as a list of your own.{hint}")
    named = shlex.quote(str(file))
    if own:
        guesses = len(open_guesses(text))
        print(f"{file} written, with {guesses} lines to confirm. Next: confirm them, then `dpdt cohort {named}`.")
    else:
        print(f"{file} written. Next: look through it, then `dpdt show {named}` and `dpdt plan {named}`.")


@app.command("list", epilog="Example: dpdt list /data/dicom --output list.csv")
def list_images(
    folder: Annotated[Path, typer.Argument(help="The folder of the images.")],
    output: Annotated[Path, typer.Option(help="The list (CSV), for you alone: it has ids of patients.")],
    pattern: Annotated[
        str | None,
        typer.Option(help="Not from headers but from paths: a regular expression whose named groups are the columns."),
    ] = None,
    processes: Annotated[int | None, typer.Option(help="Default: one a core.", min=1)] = None,
) -> None:
    """Make a list of images from their DICOM headers.

    Patient, study, date, sex, age, view, maker; no pixel is read.
    """
    from dpdt.base.console import show_table, warn
    from dpdt.cohort.lists.from_files import list_files

    counts = list_files(folder, output, pattern=pattern, processes=processes)
    rows: list[tuple[str, str, int]] = [("files listed", "", counts.listed)]
    for name, cells in counts.cells.items():
        if name != "patient" and pattern is None:
            rows += [(name, cell or "not said", images) for cell, images in cells.most_common(6)]
    rows += [("passed over", "no DICOM" if pattern is None else "no image, or another name", counts.passed_over)]
    rows += [("passed over", "no picture", counts.no_picture), ("unreadable", "", len(counts.unreadable))]
    show_table(f"List {output}", ("what", "value", "files"), [row for row in rows if row[2]])
    if counts.unreadable:
        warn(f"{len(counts.unreadable)} files could not be read; {output}.unreadable.csv names them.")
    if nobody := counts.cells.get("patient", Counter())[""]:
        warn(f"{nobody} files have no patient id. Without one an image cannot take part: correct the list.")
    paths = f"--list {shlex.quote(str(output))} --images {shlex.quote(str(folder))}"
    print(f"{output} written. Next: dpdt init STUDY {paths}")


@app.command(epilog="Example: dpdt show study.toml --set train.num_epochs=5")
def show(
    study: StudyFile,
    changed: Annotated[bool, typer.Option("--changed", help="Only what is not the default.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print the values in force, and where each comes from."""
    from dpdt.base.console import show_table
    from dpdt.study.keys import effective

    rows = [row for row in effective(study, overrides=overrides()) if not changed or row.origin != "default"]
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=2, ensure_ascii=False))
    else:
        show_table(f"Study {study}", ("key", "value", "from"), [(row.key, row.value, row.origin) for row in rows])


@app.command(epilog="Example: dpdt schema --output study.schema.json")
def schema(
    output: Annotated[Path | None, typer.Option(help="A file; default: print it.")] = None,
) -> None:
    """Print the JSON schema of the study file.

    It is for editors that complete and check TOML.
    """
    from dpdt.base.files import write_text
    from dpdt.study.keys import json_schema

    text = json.dumps(json_schema(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if output is None:
        print(text, end="")
    else:
        write_text(output, text)
        print(f'{output} written. Editors read it if study.toml begins with the line "#:schema {output}".')


def _roots(given: list[str] | None) -> dict[str, str]:
    """`NAME=FOLDER` each."""
    roots: dict[str, str] = {}
    for text in given or ():
        name, equals, folder = text.partition("=")
        if not equals or not folder or not name.replace("_", "").isalnum():
            raise StudyError(
                f"--root {text}: expected NAME=FOLDER with a name of letters, digits and _, for example "
                "--root chestxray14=/data/ChestX-ray14."
            )
        roots[name] = folder
    return roots
