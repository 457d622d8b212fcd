"""The stages of a study, run in this process: `cohort`, `shards`, `pretrain`, `train`, `evaluate`, `report`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from dpdt.cli.app import app
from dpdt.cli.arguments import Domain, StudyFile, read_study

__all__ = ["cohort", "evaluate", "pretrain", "report", "shards", "train"]


TargetEpsilon = Annotated[
    list[str] | None, typer.Option(help="Only this target epsilon (inf: without DP); may be repeated.")
]
Seed = Annotated[list[int] | None, typer.Option(help="Only this seed; may be repeated.")]
Initial = Annotated[list[str] | None, typer.Option(help="Only this start, a name of [initial]; may be repeated.")]
Fraction = Annotated[list[float] | None, typer.Option(help="Only this part of the patients; may be repeated.")]


def _run_stage(study_file: str, stage: str, *, epsilons: Sequence[str] | None = None, **chosen: Any) -> None:
    """Run one stage's tasks in this process, one after another; what is chosen is as for ``run_stage``."""
    from dpdt.jobs.stages import run_stage

    run_stage(read_study(study_file), stage, target_epsilons=[_epsilon(text) for text in epsilons or ()], **chosen)


@app.command(epilog="Example: dpdt cohort study.toml --domain vindr")
def cohort(
    study: StudyFile,
    domain: Domain = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Build anew what shards or runs depend on; the former one is kept.")
    ] = False,
) -> None:
    """Read the raw lists: who is in the study, labels, splits.

    What was built with other settings or from a list that was changed is built anew where nothing depends on it.
    """
    _run_stage(study, "cohort", domains=domain, rebuild=rebuild)


@app.command(epilog="Example: dpdt shards study.toml --domain vindr --task-index 0 --num-tasks 4")
def shards(
    study: StudyFile,
    domain: Domain = None,
    task_index: Annotated[int, typer.Option(help="Which part of the shards to make, from 0.", min=0)] = 0,
    num_tasks: Annotated[int, typer.Option(help="Into how many parts the work is cut.", min=1)] = 1,
) -> None:
    """Resize and normalise the radiographs into memory-mapped shards."""
    if task_index >= num_tasks:
        raise typer.BadParameter(f"expected --task-index below --num-tasks ({num_tasks}), got {task_index}")
    _run_stage(study, "shards", domains=domain, task_index=task_index, num_tasks=num_tasks)


@app.command(epilog="Example: dpdt pretrain study.toml")
def pretrain(study: StudyFile, initial: Initial = None) -> None:
    """Train on the public domain, without DP.

    The weights are what every other training starts from.
    """
    _run_stage(study, "pretrain", initials=initial)


@app.command(epilog="Example: dpdt train study.toml --domain padchest --target-epsilon 1")
def train(
    study: StudyFile,
    domain: Domain = None,
    target_epsilon: TargetEpsilon = None,
    seed: Seed = None,
    initial: Initial = None,
    fraction: Fraction = None,
) -> None:
    """Train the study's models, with and without DP, in turn."""
    _run_stage(
        study, "train", domains=domain, epsilons=target_epsilon, seeds=seed, initials=initial, fractions=fraction
    )


@app.command(epilog="Example: dpdt evaluate study.toml --domain padchest --target-epsilon 1")
def evaluate(
    study: StudyFile,
    domain: Domain = None,
    target_epsilon: TargetEpsilon = None,
    seed: Seed = None,
    initial: Initial = None,
    fraction: Fraction = None,
) -> None:
    """Test every model on every domain.

    Writes predictions, AUC and subgroup metrics. --domain is the train domain, or the name of another hospital's model.
    """
    _run_stage(
        study, "evaluate", domains=domain, epsilons=target_epsilon, seeds=seed, initials=initial, fractions=fraction
    )


@app.command(epilog="Example: dpdt report study.toml   or: dpdt report --from-csv auc.csv --output report")
def report(
    study: Annotated[
        str | None, typer.Argument(metavar="[STUDY]", help="The study file (study.toml), or its folder.")
    ] = None,
    from_csv: Annotated[
        list[Path] | None,
        typer.Option(help="Instead of a study: a table of AUCs such as report/auc.csv; twice for test set sizes too."),
    ] = None,
    output: Annotated[Path, typer.Option(help="With --from-csv: where the report goes.")] = Path("dpdt-report"),
) -> None:
    """Write the report: heat maps, curves and tables.

    As HTML, CSV, LaTeX, PNG, SVG and PDF.
    """
    if (study is None) == (not from_csv):
        raise typer.BadParameter("expected either STUDY or --from-csv FILE")
    if from_csv:
        from dpdt.report.from_csv import write_published

        print(f"Report: {write_published(from_csv, output)}")
    elif study:
        from dpdt.jobs.checks import warn_of_changed_lists

        warn_of_changed_lists(read_study(study))
        _run_stage(study, "report")


def _epsilon(text: str) -> float:
    try:
        return float(text)
    except ValueError as err:
        raise typer.BadParameter(f"--target-epsilon: expected a number or inf, got {text!r}") from err
