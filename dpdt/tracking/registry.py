"""The model registry: one registered model for each train domain, one version for each finished training.

A version's description is the model card with the privacy statement. The weights are not uploaded: those of a model
without DP may give away the images that it was trained on.
"""

import re
from typing import TYPE_CHECKING, Final

from dpdt.runs.read import Run
from dpdt.study import Study, format_epsilon
from dpdt.tracking.payload import RUN_ID_TAG, Payload
from dpdt.tracking.store import experiment_name

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["model_name", "register_model"]

MAX_DESCRIPTION: Final = 5000  # of MLflow
VERSION_TAGS: Final = (
    RUN_ID_TAG,
    "dpdt.arm",
    "dpdt.epsilon",
    "dpdt.auc",
    "dpdt.delta",
    "dpdt.privacy_unit",
    "dpdt.synthetic",
)


def model_name(study: Study, run: Run) -> str:
    """Name in the registry, which all experiments share, e.g. ``my study.padchest``."""
    return re.sub(r"[/:'%]", " ", f"{experiment_name(study)}.{run.domain}")


def register_model(client: "MlflowClient", study: Study, run: Run, run_id: str, news: Payload) -> str:
    """Register a finished run's model, or bring its card up to date.

    Args:
        client: MLflow's client.
        study: The study.
        run: The finished run.
        run_id: MLflow's id of it.
        news: What MLflow gets about the run.

    Returns:
        Name and version, e.g. ``my study.padchest v3``.
    """
    name = model_name(study, run)
    card = news.texts.get("model/README.md", "")
    if len(card) > MAX_DESCRIPTION:
        ending = "\n\n… The whole card is the run's artifact `model/README.md`."
        card = card[: MAX_DESCRIPTION - len(ending)] + ending
    tags = {key: news.tags[key] for key in VERSION_TAGS if key in news.tags}
    known = client.search_model_versions(f"run_id = '{run_id}'")
    if known:
        version, *twice = sorted(known, key=lambda one: int(one.version))
        for one in twice:  # a server died after creating it, before it answered, and got the call again
            client.delete_model_version(one.name, one.version)
        if version.description != card:
            client.update_model_version(version.name, version.version, description=card)
        for key in [key for key, value in tags.items() if version.tags.get(key) != value]:  # it was evaluated since
            client.set_model_version_tag(version.name, version.version, key, tags[key])
        if _alias(run) not in client.get_registered_model(version.name).aliases:  # a kill came between the two
            client.set_registered_model_alias(version.name, _alias(run), version.version)
        return f"{version.name} v{version.version}"
    if not client.search_registered_models(f"name = '{name}'", max_results=1):
        _make_model(client, name, run)
    source = f"runs:/{run_id}/model"
    version = client.create_model_version(name, source, run_id, tags=tags, description=card, await_creation_for=0)
    client.set_registered_model_alias(name, _alias(run), version.version)
    return f"{name} v{version.version}"


def _make_model(client: "MlflowClient", name: str, run: Run) -> None:
    """Create the registered model; another process may do so at the same moment."""
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode

    words = (
        f"Networks trained on {run.domain}, with and without differential privacy: one version a training. "
        f"A version's description is its model card and says what its training guarantees."
    )
    try:
        client.create_registered_model(name, tags={"dpdt.train_domain": run.domain}, description=words)
    except MlflowException as err:
        if err.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise


def _alias(run: Run) -> str:
    """What to call the version by, e.g. ``patient-eps1-seed0`` or ``no-dp-seed0``."""
    axes = [run.initial] if run.initial else []
    axes += [f"part{run.fraction:g}"] if run.fraction != 1 else []
    if run.kind == "pretrain":
        return "-".join(["pretraining", *axes])
    arm = f"{run.unit}-eps{format_epsilon(run.target_epsilon)}" if run.private else "no-dp"
    return "-".join([*axes, arm, f"seed{run.seed}"]).replace(".", "_")
