"""Feed MLflow from several hospitals' results: a run a model, with its numbers at all of them. Twice is once."""

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from dpdt.base.files import fingerprint
from dpdt.bundle.card import plain_markdown
from dpdt.evaluation.metrics import STRICT
from dpdt.study import arm_name, format_epsilon
from dpdt.tracking.client import PARENT_TAG, SENT_TAG, find_runs, log
from dpdt.tracking.metrics import MAX_METRIC_KEYS, Point, milliseconds, named_values
from dpdt.tracking.payload import FORMAT, RUN_ID_TAG
from dpdt.tracking.store import database_file, explained, make_experiment, one_writer, open_client, public_name
from dpdt.tracking.study_run import PARENT, compare_fragment, share_run_list

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

__all__ = ["send_combined"]

ARTIFACTS: Final = "mlflow-artifacts"  # beside a SQLite file


def send_combined(
    models: Sequence[tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]],
    report: Path,
    uri: str,
    *,
    experiment: str,
    told: Sequence[str],
    synthetic: bool,
) -> str:
    """Bring MLflow up to date with a combined report.

    Args:
        models: Each model, and its AUCs at all hospitals, as results files have them (docs/apart.md).
        report: The folder of the report.
        uri: A server's, or ``sqlite:///FILE``.
        experiment: Its name.
        told: Sentences for the parent run: which hospitals, and what was not done alike.
        synthetic: Whether there is made-up data in it.

    Returns:
        One line for people.

    Raises:
        TrackingError: MLflow cannot be reached or refuses.
    """
    file = database_file(uri)
    with explained(uri), one_writer(uri):
        client = open_client(uri)
        artifacts = (file.absolute().parent if file else report.absolute()) / ARTIFACTS
        where = make_experiment(client, experiment, artifacts=artifacts, uri=uri)
        known = find_runs(client, where)
        parent = known.get(PARENT) or _create(client, where, PARENT, experiment, kind="study")
        sent = []
        for model, rows in models:
            name = f"{model['train_domain']}-eps{_arm(model)}-seed{model['seed']}-{model['weights_sha256'][:8]}"
            run = known.get(name) or _create(client, where, name, _title(model), kind="combined")
            _send(client, run, model, rows, parent=parent, synthetic=synthetic)
            sent.append(run.info.run_id)
        client.log_artifacts(parent.info.run_id, str(report), "report")
        lines = ["**Synthetic data.**"] if synthetic else []
        lines += [*map(plain_markdown, told), *(report / "answer.txt").read_text(encoding="utf-8").splitlines()]
        lines += [f"[Compare the models]({compare_fragment(where, sent)}) · report: *Artifacts*, `report/index.html`"]
        log(client, parent.info.run_id, tags={"mlflow.note.content": "\n\n".join(lines)})
        client.set_terminated(parent.info.run_id, status="FINISHED")
        share_run_list(client, where)
    return f"MLflow at {public_name(uri)}: {len(sent)} models, experiment {experiment}"


def _create(client: "MlflowClient", experiment: str, name: str, title: str, *, kind: str) -> "MlflowRun":
    tags = {RUN_ID_TAG: name, "dpdt.kind": kind, "mlflow.source.name": "dpdt", "mlflow.source.type": "JOB"}
    return client.create_run(experiment, tags=tags, run_name=title)


def _send(
    client: "MlflowClient",
    run: "MlflowRun",
    model: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    *,
    parent: "MlflowRun",
    synthetic: bool,
) -> None:
    """A model's numbers, unless MLflow has these very ones."""
    state = fingerprint([FORMAT, parent.info.run_id, synthetic, model, rows])[:16]
    if run.data.tags.get(SENT_TAG) == state:
        return
    own = None if model["target_epsilon"] == 0 else model["train_domain"]
    values = named_values(_table(rows), own=own) if rows else ()  # all may be too small to have left
    named = [(key, value) for key, value, _ in values if math.isfinite(value)]
    now = milliseconds(time.time())
    private = model["epsilon"] is not None
    params = {
        "target_epsilon": _arm(model),
        "train_domain": model["train_domain"],
        "training.seed": str(model["seed"]),
        "training.privacy_unit": model["unit"] if private else "none",
    }
    tags = {
        PARENT_TAG: parent.info.run_id,
        "dpdt.arm": "DP" if private else arm_name(model["target_epsilon"]),
        "dpdt.train_domain": model["train_domain"],
        "dpdt.epsilon": f"{model['epsilon']:g}" if model["epsilon"] is not None else "",
        "dpdt.delta": f"{model['delta']:g}" if model["delta"] is not None else "",
        "dpdt.privacy_unit": params["training.privacy_unit"],
        "dpdt.synthetic": str(synthetic).lower(),
        "dpdt.weights_sha256": model["weights_sha256"],
    }
    news = [(key, value) for key, value in named[:MAX_METRIC_KEYS] if run.data.metrics.get(key) != value]
    points = [Point(key, value, now, 0) for key, value in news]
    missing = {key: value for key, value in params.items() if key not in run.data.params}
    log(client, run.info.run_id, points=points, params=missing, tags=tags)
    client.set_terminated(run.info.run_id, status="FINISHED")
    log(client, run.info.run_id, tags={SENT_TAG: state})


def _table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The rows as a table of metrics of an evaluation."""
    fixed = {"split": "test", "metric": "auc", "protocol": STRICT, "reason": ""}
    found: list[dict[str, Any]] = [{**row, "value": row["auc"], **fixed} for row in rows]
    return pd.DataFrame(found)


def _arm(model: Mapping[str, Any]) -> str:
    return format_epsilon(math.inf if model["target_epsilon"] is None else model["target_epsilon"])


def _title(model: Mapping[str, Any]) -> str:
    arm = arm_name(model["target_epsilon"])
    return arm if model["target_epsilon"] == 0 else f"{model['train_domain']} · {arm} · seed {model['seed']}"
