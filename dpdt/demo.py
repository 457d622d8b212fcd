"""The demo: all stages on six small synthetic hospitals."""

from pathlib import Path

from dpdt.base.console import show_table
from dpdt.cohort.synthetic.demo_study import make_demo_study
from dpdt.study import Study, arm_name

__all__ = ["run_demo"]


def run_demo(folder: Path, *, patients: int | None = None) -> None:
    """Make the synthetic hospitals, run every stage on this machine, and print the comparison.

    Whatever is done already is kept; run it again after an interruption and it goes on.

    Args:
        folder: Where data and results go; created.
        patients: Of each hospital; default: 550 to 1,000. With few, the numbers mean nothing, but all stages run.

    Raises:
        DpdtError: A stage failed; the message names the task and its log file.
    """
    study = make_demo_study(folder, patients=patients)
    from dpdt.jobs.submit import show_next, submit

    submit(study, cluster="local")
    show_comparison(study)
    show_next(study)


def show_comparison(study: Study) -> None:
    """Print train × test domain tables of the macro AUC, one for each epsilon."""
    from dpdt.report.grid import Grid
    from dpdt.report.write import auc_table

    for target_epsilon in Grid.of(study).epsilons:
        arm = arm_name(target_epsilon, prefix="DP, epsilon ")
        columns, rows = auc_table(study, target_epsilon)
        show_table(f"Macro AUC by test domain, {arm}", columns, rows)
    print("All images are synthetic: these numbers say nothing about real radiographs.")
