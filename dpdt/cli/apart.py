"""Between hospitals: `export`, `card`, `apply`, `results` and `combine`."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpdt.cli.app import FAILED, app
from dpdt.cli.arguments import StudyFile, read_study, study_of_run

if TYPE_CHECKING:
    from dpdt.bundle.model import Bundle, Score

__all__ = ["apply", "card", "combine", "export", "results"]

BundleFile = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A model bundle: a file of `dpdt export`.")]
Signers = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Keys that you trust (ssh-keygen's allowed_signers); one must have signed it."),
]


@app.command(
    epilog="Example: dpdt export runs/padchest-patient-eps1-seed0-1a2b3c4d --licence MIT --intended-use research"
)
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished training's folder.")],
    licence: Annotated[str, typer.Option(help="What others may do with the model.")],
    intended_use: Annotated[str, typer.Option(help="What it is for, and what not.")],
    output: Annotated[Path | None, typer.Option(help="Default: the run's name, in the working folder.")] = None,
    site: Annotated[str | None, typer.Option(help="Your hospital's name for others; default: the domain's.")] = None,
    thresholds: Annotated[bool, typer.Option(help="Decision thresholds, which come from val patients.")] = True,
    without_privacy: Annotated[
        bool, typer.Option("--without-privacy", help="Export weights without a guarantee: they may reveal patients.")
    ] = False,
    onnx: Annotated[
        bool, typer.Option("--onnx", help="Write the network as NAME.onnx, too: for programs that are not dpdt.")
    ] = False,
    sign: Annotated[Path | None, typer.Option(metavar="KEY", help="SSH key; writes the signature beside it.")] = None,
) -> None:
    """Write a model bundle: one file with a model and its proof.

    Weights, what to do to an image, labels, privacy statement; no patient, no path.
    """
    from dpdt.bundle.container import write_bytes
    from dpdt.bundle.export import export_run
    from dpdt.bundle.model import parse_bundle
    from dpdt.bundle.onnx import onnx_bytes
    from dpdt.bundle.signature import sign as sign_file
    from dpdt.errors import StudyError
    from dpdt.runs.read import read_run

    study, cell = study_of_run(run)
    found = read_run(study, study.run_id(cell))
    if found is None:
        raise StudyError(f"{run}: no training has begun there.")
    data = export_run(
        study,
        found,
        licence=licence,
        intended_use=intended_use,
        site=site,
        without_privacy=without_privacy,
        with_thresholds=thresholds,
    )
    file = output or Path(f"{found.run_id}.dpdt")
    files = {file: data}
    if onnx:
        files[file.with_suffix(".onnx")] = onnx_bytes(parse_bundle(data, str(file)))
    for path, content in files.items():
        write_bytes(path, content)
        about = (
            "without preprocessing: docs/bundle.md" if path != file else f"Read it before it leaves: dpdt card {file}"
        )
        print(f"{path}: {len(content):,} bytes. {about}")
        if sign is not None:
            print(f"Signature: {sign_file(path, sign)}")


@app.command(epilog="Example: dpdt card padchest.dpdt --signers trusted_keys --output card")
def card(
    bundle: BundleFile,
    signers: Signers = None,
    output: Annotated[Path | None, typer.Option(help="Folder for card.md and card.html; default: print it.")] = None,
) -> None:
    """Check a bundle, self-test included, and show its model card."""
    from dpdt.base.files import write_text
    from dpdt.bundle.card import bundle_card, html_card, markdown_card

    found = bundle_card(_open(bundle, signers)[0])
    if output is None:
        print(markdown_card(found), end="")
        return
    for name, text in (("card.md", markdown_card(found)), ("card.html", html_card(found))):
        write_text(output / name, text)
        print(output / name)


@app.command(epilog="Example: dpdt apply padchest.dpdt images/ --output scores.csv")
def apply(
    bundle: BundleFile,
    files: Annotated[list[str] | None, typer.Argument(help="Radiographs or folders: DICOM, PNG, JPEG.")] = None,
    output: Annotated[Path, typer.Option(help="The table, a row a file.")] = Path("scores.csv"),
    listed: Annotated[Path | None, typer.Option("--list", help="A text file with a path a line.")] = None,
    signers: Signers = None,
) -> None:
    """Score radiographs with a bundle's model; no study is needed.

    Not a medical device. Files that cannot be used are rows with a reason.
    """
    from dpdt.bundle.apply import apply_bundle, find_files

    opened, score = _open(bundle, signers)
    summary = apply_bundle(opened, score, find_files(files or (), listed=listed), output)
    print(summary)
    if not summary.scored:
        raise typer.Exit(FAILED)


@app.command(epilog="Example: dpdt results export study.toml --output st-mary.json --show")
def results(
    what: Annotated[str, typer.Argument(metavar="export", help="What to do; export is all there is.")],
    study: StudyFile,
    output: Annotated[Path | None, typer.Option(help="Default: SITE-results.json, in the working folder.")] = None,
    site: Annotated[str | None, typer.Option(help="Your hospital's name for others; default: the domain's.")] = None,
    minimum: Annotated[int, typer.Option(help="Patients of each class that must stand behind a number.")] = 10,
    epsilon: Annotated[
        float | None, typer.Option(help="Noise: the budget of a test patient for all numbers; default: exact numbers.")
    ] = None,
    delta: Annotated[float | None, typer.Option(help="Of that budget; default: the study's.")] = None,
    initial: Annotated[str, typer.Option(help="Of a study with several starts: which one.")] = "",
    fraction: Annotated[float | None, typer.Option(help="Of several parts of the patients; default: all.")] = None,
    show: Annotated[bool, typer.Option("--show", help="Print every number of the file.")] = False,
    sign: Annotated[Path | None, typer.Option(metavar="KEY", help="SSH key; writes the signature beside it.")] = None,
) -> None:
    """Write a hospital's results: aggregates alone.

    For a report of several hospitals. No patient, no image, no path; small cells are left out.
    """
    from dpdt.base.console import warn
    from dpdt.bundle.container import write_bytes
    from dpdt.bundle.signature import sign as sign_file
    from dpdt.report.apart.file import as_bytes
    from dpdt.report.apart.results import export_results, left_out
    from dpdt.study import Cell

    if what != "export":
        raise typer.BadParameter(f"expected export, got {what!r}")
    opened = read_study(study)
    if initial or fraction:
        opened = opened.at(Cell("", math.inf, 0, initial, fraction or opened.fraction))
    found = export_results(opened, site=site, minimum=minimum, epsilon=epsilon, delta=delta)
    file = output or Path(f"{found['site']}-results.json")
    data = as_bytes(found)
    write_bytes(file, data)
    if show:
        _show(found)
    if site is None and len(found["policies"]) > 1:
        warn(f"The file says site {found['site']}, the first of {len(found['policies'])} domains: --site names all.")
    for line in left_out(opened, found):
        print(f"stays here: {line}")
    print(f"{file}: {len(data):,} bytes; {len(found['auc'])} AUCs of {len(found['models'])} models. {found['noise']}")
    if sign is not None:
        print(f"Signature: {sign_file(file, sign)}")


@app.command(epilog="Example: dpdt combine st-mary-results.json charite-results.json --output together")
def combine(
    files: Annotated[list[Path], typer.Argument(metavar="RESULTS…", help="Files of `dpdt results export`.")],
    output: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("dpdt-combined"),
    signers: Signers = None,
    to: Annotated[
        str | None, typer.Option(metavar="URI", help="Feed this MLflow too: a server, or sqlite:///FILE.")
    ] = None,
) -> None:
    """Make one report of several hospitals' results.

    Every model at every hospital. Missing cells and what was not done alike are named.
    """
    from dpdt.report.apart.combine import combine as combine_results
    from dpdt.report.apart.combine import disagreements, models_of
    from dpdt.report.apart.file import read_results

    found = [read_results(file, signers=signers) for file in files]
    print(f"Report: {combine_results(found, output)}")
    if to is not None:
        from dpdt.tracking.combined import send_combined

        models = [(model.model_dump(), [row.model_dump() for row in rows]) for model, rows in models_of(found)]
        told = [", ".join(result.site for result in found), *disagreements(found)]
        synthetic = any(result.synthetic for result in found)
        name = output.resolve().name
        print(send_combined(models, output, to, experiment=name, told=told, synthetic=synthetic))


def _show(found: dict[str, Any]) -> None:
    """Every value of the file, tables as tables."""
    from dpdt.base.console import show_table

    for name, value in found.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            columns = list(value[0])
            show_table(name, columns, [["–" if row[c] is None else repr(row[c]) for c in columns] for row in value])
        else:
            print(f"{name}: {value}")


def _open(file: Path, signers: Path | None) -> "tuple[Bundle, Score]":
    """A bundle whose self-test has passed here, and its network."""
    from dpdt.bundle.model import checked_scorer, open_bundle

    opened = open_bundle(file, signers=signers)
    return opened, checked_scorer(opened, str(file))
