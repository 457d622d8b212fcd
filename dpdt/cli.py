"""The command line: `dpdt COMMAND STUDY`. Heavy modules are imported by the command that needs them."""

import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from dpdt.errors import DpdtError, StudyError

__all__ = ["app", "main"]

DONE, FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 130

app = typer.Typer(
    name="dpdt",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Differentially private domain transfer for chest radiographs.\n\n"
    "From raw radiographs to the comparison of DP and non-DP models: cohort, shards, pretrain, train, evaluate, "
    "report, sync. `dpdt submit` sends all of them; every stage skips what is done.",
    epilog="Example: dpdt demo   (six synthetic hospitals, the whole way, on this machine)",
)

StudyFile = Annotated[str, typer.Argument(metavar="STUDY", help="The study file (study.toml), or its folder.")]
Domain = Annotated[list[str] | None, typer.Option("--domain", help="Only this domain; may be repeated.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table for people.")]
Accountant = Annotated[
    Literal["pld", "prv", "rdp"], typer.Option(help="pld is the tightest; prv and rdp are there to compare.")
]
SampleRate = Annotated[float, typer.Option(help="Probability that one privacy unit is in a step's batch, in (0, 1].")]
NumSteps = Annotated[int, typer.Option(help="Logical (noisy) steps.")]
Delta = Annotated[float, typer.Option(help="Probability of failure of the guarantee, below 1 / units.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        from dpdt import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_print_version)
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the traceback of an error.")] = False,
) -> None:
    if verbose:
        os.environ["DPDT_VERBOSE"] = "1"


def _run_stage(study_file: str, stage: str, domains: Sequence[str] | None = None) -> None:
    """Run one stage's tasks in this process, one after another."""
    from dpdt.stages import run_stage
    from dpdt.study import load_study

    run_stage(load_study(study_file), stage, domains=domains)


@app.command(epilog="Example: dpdt cohort study.toml --domain vindr")
def cohort(study: StudyFile, domain: Domain = None) -> None:
    """Read each domain's raw metadata: who is in the study, with which labels and split."""
    _run_stage(study, "cohort", domain)


@app.command(epilog="Example: dpdt shards study.toml --domain vindr --task-index 0 --num-tasks 4")
def shards(
    study: StudyFile,
    domain: Domain = None,
    task_index: Annotated[int, typer.Option(help="Which part of the shards to make, from 0.", min=0)] = 0,
    num_tasks: Annotated[int, typer.Option(help="Into how many parts the work is cut.", min=1)] = 1,
) -> None:
    """Resize and normalise the radiographs into memory-mapped shards."""
    from dpdt.stages import run_stage
    from dpdt.study import load_study

    if task_index >= num_tasks:
        raise typer.BadParameter(f"expected --task-index below --num-tasks ({num_tasks}), got {task_index}")
    run_stage(load_study(study), "shards", domains=domain, task_index=task_index, num_tasks=num_tasks)


@app.command(epilog="Example: dpdt pretrain study.toml")
def pretrain(study: StudyFile) -> None:
    """Train on the public domain, without DP: the weights that every training starts from."""
    _run_stage(study, "pretrain")


@app.command(epilog="Example: dpdt train study.toml --domain padchest --target-epsilon 1")
def train(
    study: StudyFile,
    domain: Domain = None,
    target_epsilon: Annotated[
        list[float] | None, typer.Option(help="Only this target epsilon (inf: without DP); may be repeated.")
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Only this seed; may be repeated.")] = None,
) -> None:
    """Train the study's models, with and without DP, one after another."""
    from dpdt.stages import run_stage
    from dpdt.study import load_study

    run_stage(load_study(study), "train", domains=domain, target_epsilons=target_epsilon, seeds=seed)


@app.command(epilog="Example: dpdt evaluate study.toml --domain padchest")
def evaluate(study: StudyFile, domain: Domain = None) -> None:
    """Test every model on every domain: predictions, AUC and subgroup metrics. --domain is the train domain."""
    _run_stage(study, "evaluate", domain)


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
    """Write the report: heat maps, curves, comparisons and tables as HTML, CSV, LaTeX and figures."""
    if (study is None) == (not from_csv):
        raise typer.BadParameter("expected either STUDY or --from-csv FILE")
    if from_csv:
        from dpdt.report import write_published

        print(f"Report: {write_published(from_csv, output)}")
    elif study:
        _run_stage(study, "report")


@app.command(epilog="Example: dpdt sync study.toml")
def sync(study: StudyFile) -> None:
    """Feed MLflow from the run folders; twice is once."""
    _run_stage(study, "track")


@app.command(epilog="Example: dpdt ui study.toml --port 5000")
def ui(
    study: StudyFile,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 takes a free one.", min=0, max=65535)] = 5000,
) -> None:
    """Start MLflow's pages on 127.0.0.1 and print the address that compares the DP and non-DP runs."""
    from dpdt.study import load_study
    from dpdt.tracking import serve_ui

    serve_ui(load_study(study), port=port)


@app.command(epilog="Example: dpdt submit study.toml --cluster slurm --dry-run")
def submit(
    study: StudyFile,
    cluster: Annotated[
        Literal["slurm", "local", "debug"],
        typer.Option(help="slurm: arrays with dependencies; local: processes here; debug: in this process."),
    ] = "local",
    stages: Annotated[str | None, typer.Option(help="Only these stages, comma-separated; default: all.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be sent, and send nothing.")] = False,
    wait: Annotated[
        bool | None, typer.Option("--wait/--no-wait", help="Wait for the end; the default waits except on slurm.")
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Only what failed or was stopped, and what needed that.")
    ] = False,
) -> None:
    """Send every stage as arrays with their dependencies; what is done is skipped."""
    from dpdt.study import load_study
    from dpdt.submit import submit as submit_study

    names = [name.strip() for name in stages.split(",")] if stages is not None else None
    submit_study(
        load_study(study), cluster=cluster, stages=names, dry_run=dry_run, wait=wait, retry_failed=retry_failed
    )


@app.command(epilog="Example: dpdt status study.toml --watch")
def status(
    study: StudyFile,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", help="Look again until nothing runs or waits.")] = False,
    every: Annotated[float, typer.Option(help="With --watch: seconds between two looks.", min=1.0)] = 15.0,
) -> None:
    """Show the state of every task: done, running, waiting, failed, with node, attempt, steps and epsilon."""
    from dpdt.status import show_status, study_status, watch_status
    from dpdt.study import load_study

    if watch and not as_json:
        watch_status(load_study(study), every_seconds=every)
        return
    rows = study_status(load_study(study))
    if as_json:
        print(json.dumps(rows, indent=2, allow_nan=False))
    else:
        show_status(rows)


@app.command(epilog="Example: dpdt logs study.toml padchest --lines 100")
def logs(
    study: StudyFile,
    task: Annotated[
        list[str] | None, typer.Argument(help="A task, or a part of its name; default: all that failed.")
    ] = None,
    lines: Annotated[int, typer.Option(help="So many lines of each log; 0: all.", min=0)] = 40,
) -> None:
    """Print the end of tasks' logs; a log holds all attempts, each under a header."""
    from dpdt.logs import show_logs
    from dpdt.study import load_study

    show_logs(load_study(study), task or (), lines=lines)


@app.command(epilog="Example: dpdt cancel study.toml train")
def cancel(
    study: StudyFile,
    task: Annotated[
        list[str] | None, typer.Argument(help="A stage, a task, or a part of its name; default: all.")
    ] = None,
) -> None:
    """Take the study's jobs out of Slurm; what they did stays, and `dpdt submit` goes on from there."""
    from dpdt.logs import find_tasks
    from dpdt.study import load_study
    from dpdt.submit import cancel as cancel_tasks

    loaded = load_study(study)
    for cancelled in (found := cancel_tasks(loaded, find_tasks(loaded, task) if task else None)):
        print(f"cancelled: {cancelled.label}")
    print(f"{len(found)} jobs cancelled.")


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
    from dpdt.study import load_study
    from dpdt.submit import check_cluster

    checks = check_cluster(load_study(study), probe=probe)
    if as_json:
        print(json.dumps([check.as_dict() for check in checks], indent=2))
    else:
        rows = [(check.name, check.state, check.found) for check in checks]
        show_table("cluster", ("what", "state", "found"), rows)
    if any(check.state == "bad" for check in checks):
        raise typer.Exit(FAILED)


@app.command(epilog="Example: dpdt verify study.toml")
def verify(study: StudyFile, domain: Domain = None, as_json: AsJson = False) -> None:
    """Check every byte of the shards against their checksums."""
    from dpdt.shards import verify_shards
    from dpdt.study import load_study

    loaded = load_study(study)
    problems = {name: verify_shards(loaded, name) for name in _known(loaded.used_domains, domain)}
    if as_json:
        print(json.dumps(problems, indent=2))
    else:
        for name, found in problems.items():
            print(f"{name}: {'good' if not found else ''}")
            for problem in found:
                print(f"  {problem}")
    if any(problems.values()):
        raise typer.Exit(FAILED)


@app.command(epilog="Example: dpdt epsilon --noise-multiplier 1 --sample-rate 0.01 --num-steps 2000 --delta 1e-5")
def epsilon(
    noise_multiplier: Annotated[float, typer.Option(help="Noise standard deviation divided by max_grad_norm.")],
    sample_rate: SampleRate,
    num_steps: NumSteps,
    delta: Delta,
    accountant: Accountant = "pld",
    as_json: AsJson = False,
) -> None:
    """Print the epsilon that a number of DP-SGD steps with Poisson sampling spends."""
    from dpdt.privacy.accounting import epsilon as compute

    spent = compute(
        noise_multiplier=noise_multiplier,
        sample_rate=sample_rate,
        num_steps=num_steps,
        delta=delta,
        accountant=accountant,
    )
    values = {
        "epsilon": spent if math.isfinite(spent) else None,
        "noise_multiplier": noise_multiplier,
        "sample_rate": sample_rate,
        "num_steps": num_steps,
        "delta": delta,
        "accountant": accountant,
    }
    print(json.dumps(values) if as_json else f"{spent:.4f}")


@app.command(epilog="Example: dpdt calibrate --target-epsilon 1 --sample-rate 0.01 --num-steps 2000 --delta 1e-5")
def calibrate(
    target_epsilon: Annotated[float, typer.Option(help="The epsilon that must not be passed.")],
    sample_rate: SampleRate,
    num_steps: NumSteps,
    delta: Delta,
    accountant: Accountant = "pld",
    as_json: AsJson = False,
) -> None:
    """Print the smallest noise multiplier that keeps a training within a target epsilon."""
    from dpdt.privacy.accounting import calibrate_noise_multiplier
    from dpdt.privacy.accounting import epsilon as compute

    mechanism = {"sample_rate": sample_rate, "num_steps": num_steps, "delta": delta, "accountant": accountant}
    sigma = calibrate_noise_multiplier(target_epsilon=target_epsilon, **mechanism)  # type: ignore[arg-type]
    spent = compute(noise_multiplier=sigma, **mechanism)  # type: ignore[arg-type]
    values = {"noise_multiplier": sigma, "epsilon": spent, "target_epsilon": target_epsilon, **mechanism}
    print(json.dumps(values) if as_json else f"noise multiplier {sigma:.4f} (epsilon {spent:.4f})")


@app.command(epilog="Example: dpdt demo --folder demo")
def demo(
    folder: Annotated[Path, typer.Option(help="Where the demo's data and results go.")] = Path("dpdt-demo"),
    patients: Annotated[
        int | None, typer.Option(help="Patients of each hospital, for a quick look; default: 550 to 1,000.", min=20)
    ] = None,
) -> None:
    """Run the whole way on six small synthetic hospitals: about five minutes on two cores."""
    from dpdt.demo import run_demo

    run_demo(folder, patients=patients)


def _known(domains: Sequence[str], wanted: Sequence[str] | None) -> Sequence[str]:
    """The wanted domains, all if none is named."""
    for name in wanted or ():
        if name not in domains:
            raise StudyError(f"--domain {name}: not in the study. Its domains: {', '.join(domains)}.")
    return wanted or domains


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong use, 130 stopped by Ctrl-C.

    Args:
        argv: Arguments without the program's name; default: those of the process.
    """
    try:
        app(args=None if argv is None else list(argv), prog_name="dpdt")
    except DpdtError as err:
        if os.environ.get("DPDT_VERBOSE"):
            raise
        print(f"error: {err}", file=sys.stderr)
        sys.exit(WRONG_USE if isinstance(err, StudyError) else FAILED)
    except OSError as err:
        if os.environ.get("DPDT_VERBOSE"):
            raise
        print(f"error: {err.filename or 'input/output'}: {err.strerror or err}", file=sys.stderr)
        sys.exit(FAILED)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            print("Stopped. Run the same command again to go on.", file=sys.stderr)
        raise
    sys.exit(DONE)


if __name__ == "__main__":
    main()
