"""The parent run: the whole study, with its charts, its report and a link to the comparison."""

import itertools
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote
from uuid import NAMESPACE_URL, uuid5

import pandas as pd

from dpdt.base.files import file_state, fingerprint
from dpdt.runs.read import Run, is_synthetic, model_runs
from dpdt.study import Study, arm_name, axes_name, is_before
from dpdt.tracking.client import NAME_TAG, SENT_TAG, log
from dpdt.tracking.payload import FORMAT, RUN_ID_TAG, run_status, started_ms

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

__all__ = [
    "PARENT",
    "RUN_LIST",
    "compare_fragment",
    "compared_runs",
    "create_parent",
    "parent_state",
    "send_parent",
    "share_run_list",
]

RUN_LIST: Final = "dpdt"
"""Shared view (MLflow's `viewStateShareKey`) of a study's runs: by target epsilon, with these columns."""
COLUMNS: Final = ("params.`target_epsilon`", "metrics.`epsilon`", "metrics.`auc`", "metrics.`auc_off_domain`")
PARENT: Final = "study"  # the parent run's dpdt.run_id
MAX_COMPARED: Final = 30  # runs that the compare page shows without a wait
FIGURES: Final = {
    "story": "What DP costs",
    "auc_over_epsilon": "AUC over epsilon",
    "subgroups_on-domain": "AUC of subgroups, on-domain",
    "subgroups_off-domain": "AUC of subgroups, off-domain",
    "auc_over_fraction": "AUC over the amount of data",
    "auc_over_parameters": "AUC over the network's size",
}
SCOPES: Final = ("on-domain", "off-domain")
IMAGES_TAG: Final = "mlflow.loggedImages"  # MLflow shows the artifacts below images/ among the run's charts


def create_parent(client: "MlflowClient", experiment: str, study: Study, runs: Sequence[Run]) -> "MlflowRun":
    """Create the parent run of a study that has begun."""
    tags = {RUN_ID_TAG: PARENT, "dpdt.kind": "study", "mlflow.source.name": "dpdt", "mlflow.source.type": "JOB"}
    started = min(started_ms(run) for run in runs)
    return client.create_run(experiment, start_time=started, tags=tags, run_name=study.name)


def compare_fragment(experiment: str, run_ids: Sequence[str]) -> str:
    """The part of an address, from ``#``, that opens the compare page with runs chosen."""
    runs, experiments = quote(json.dumps(list(run_ids[:MAX_COMPARED]))), quote(json.dumps([experiment]))
    return f"#/compare-runs?runs={runs}&experiments={experiments}&workflowType=machine_learning"


def send_parent(
    client: "MlflowClient", study: Study, parent: "MlflowRun", known: Mapping[str, str], *, everything: str
) -> None:
    """Send the report, its charts and whether the study is done if there is news of them; then the tag `dpdt.sent`.

    Args:
        client: MLflow's client.
        study: The study.
        parent: The parent run.
        known: MLflow's id of each run, by dpdt's.
        everything: Fingerprint of all that MLflow has now, the runs too.
    """
    state = parent_state(study, known)
    if parent.data.tags.get(SENT_TAG, "").split()[:1] != [state]:
        _send_news(client, study, parent, known)
    log(client, parent.info.run_id, tags={SENT_TAG: f"{state} {everything}"})


def share_run_list(client: "MlflowClient", experiment: str) -> None:
    """Keep the shared view RUN_LIST with the experiment."""
    view = {"selectedColumns": COLUMNS, "orderByKey": COLUMNS[0], "orderByAsc": True}
    client.set_experiment_tag(experiment, f"mlflow.sharedViewState.{RUN_LIST}", json.dumps(view))


def _send_news(client: "MlflowClient", study: Study, parent: "MlflowRun", known: Mapping[str, str]) -> None:
    folder = study.paths.report
    files = _report_files(folder)
    cells, compared = _trainings(study), compared_runs(study, known)
    run_id = parent.info.run_id
    if files:
        client.log_artifacts(run_id, str(folder), "report")
    shown = [name for name in FIGURES if (folder / "figures" / f"{name}.png") in files]
    for name in shown:
        _send_figure(client, parent, folder / "figures" / f"{name}.png")
    tags = {
        NAME_TAG: study.name,
        "dpdt.synthetic": str(is_synthetic(study)).lower(),
        "dpdt.runs": str(len(cells)),
        "mlflow.note.content": _description(study, parent, shown, compared),
        **({IMAGES_TAG: "True"} if shown else {}),
    }
    log(client, run_id, tags=tags)
    share_run_list(client, parent.info.experiment_id)
    if _done(cells):
        ended = max(float(run.state.get("updated") or 0) for run in cells.values() if run)
        client.set_terminated(run_id, status="FINISHED", end_time=round(ended * 1000))
    else:
        client.update_run(run_id, status="RUNNING")


def parent_state(study: Study, known: Mapping[str, str]) -> str:
    """Fingerprint of all that the parent run shows, of the report its files' names, sizes and times.

    Args:
        study: The study.
        known: MLflow's id of each run, by dpdt's.
    """
    state = [FORMAT, _done(_trainings(study)), compared_runs(study, known)]
    folder = study.paths.report
    files = [(file.relative_to(folder).as_posix(), *(file_state(file) or ())) for file in _report_files(folder)]
    return fingerprint([state, files])[:16]


def _trainings(study: Study) -> dict[str, Run | None]:
    runs = model_runs(study).items()
    return {run.run_id if run else study.run_id(c): run for c, run in runs if not is_before(c.target_epsilon)}


def compared_runs(study: Study, known: Mapping[str, str]) -> list[str]:
    """MLflow's ids of the study's models, the one before all trainings first: a long list is cut at its end."""
    names = [study.run_id(cell) for cell in sorted(study.tested_models(), key=lambda cell: cell.target_epsilon > 0)]
    names += study.carried
    return [known[name] for name in names if name in known]


def _done(cells: Mapping[str, Run | None]) -> bool:
    return all(run is not None and run_status(run) == "FINISHED" for run in cells.values())


def _report_files(folder: Path) -> list[Path]:
    files = folder.rglob("*")
    return sorted(file for file in files if file.is_file() and not file.name.startswith("."))


def _send_figure(client: "MlflowClient", parent: "MlflowRun", file: Path) -> None:
    """Log a figure as MLflow's `log_image` does, but under a name that is the same each time."""
    from PIL import Image

    key = uuid5(NAMESPACE_URL, file.name)
    name = f"{FIGURES[file.stem].replace(',', '')}+step+0+timestamp+{parent.info.start_time}+{key}"
    with tempfile.TemporaryDirectory() as folder, Image.open(file) as image:
        whole, small = Path(folder) / f"{name}.png", Path(folder) / f"{name}+compressed.webp"
        flat = Image.new("RGB", image.size, "white")
        flat.paste(image, mask=image.getchannel("A") if "A" in image.getbands() else None)
        flat.save(whole)
        flat.save(small)
        for path in (whole, small):
            client.log_artifact(parent.info.run_id, str(path), "images")


def _description(study: Study, parent: "MlflowRun", shown: Sequence[str], compared: Sequence[str]) -> str:
    """The parent's description (Markdown): what privacy cost, and the ways to the charts, report and comparison.

    Its addresses are relative, so they hold whatever name the server is reached by.
    """
    costs = _mean_aucs(study.paths.report)
    sentences = ["**Synthetic data.**"] if is_synthetic(study) else []
    if (answer := study.paths.report / "answer.txt").exists():
        sentences += [answer.read_text(encoding="utf-8").replace("\n", "\n\n")]
    for axes, scope in itertools.product(dict.fromkeys(cost[0] for cost in costs), SCOPES):
        of_scope = {arm_name(cost[2], prefix="ε="): auc for cost, auc in costs.items() if cost[:2] == (axes, scope)}
        found = [f"{auc:.3f} ({arm})" for arm, auc in of_scope.items()]
        name = f"Mean AUC {scope}" + (f", {axes}" if axes else "")
        sentences += [f"{name}: {', '.join(found)}."] if found else []
    ways = [f"[Compare DP and non-DP runs]({compare_fragment(parent.info.experiment_id, compared)})"]
    ways += ["charts: *Model metrics*", "report: *Artifacts*, `report/index.html`"] if shown else []
    images = [f"![{FIGURES[name]}]({_artifact(parent, f'report/figures/{name}.png')})\n" for name in shown]
    return "\n".join([" ".join(sentences), "", " · ".join(ways), "", *images])


def _artifact(parent: "MlflowRun", path: str) -> str:
    """Address of an artifact, relative to MLflow's pages."""
    return f"get-artifact?path={quote(path, safe='')}&run_uuid={parent.info.run_id}"


def _mean_aucs(report: Path) -> dict[tuple[str, str, float], float]:
    """Mean AUC by start and part of the patients, scope and target epsilon, from the report; empty without one."""
    file = report / "epsilon_curve.csv"
    if not file.exists():
        return {}
    curve = pd.read_csv(file, keep_default_na=False, na_values={"auc": ""}, dtype={"initial": str})
    curve = curve if "initial" in curve else curve.assign(initial="", fraction=1.0)
    means = curve[(curve["train_domain"] == "mean") & curve["auc"].notna()]
    return {
        (axes_name(row["initial"], row["fraction"]), row["scope"], float(row["target_epsilon"])): float(row["auc"])
        for row in means.to_dict("records")
    }
