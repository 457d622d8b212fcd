"""Where MLflow's data are, and the way to it: quiet, without telemetry, and with errors that people understand."""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from dpdt.errors import DpdtError, TrackingError
from dpdt.study import Study

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

__all__ = [
    "database_file",
    "environment",
    "explained",
    "find_experiment",
    "make_experiment",
    "open_client",
    "public_name",
    "tracking_uri",
]

SQLITE: Final = "sqlite:///"
ENVIRONMENT: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # the default waits minutes for a server that is down
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_ENABLE_AI_GATEWAY": "false",
    "MLFLOW_ENABLE_ASSISTANT_SANDBOX": "true",  # no shell on this machine for whoever reaches the port
    "GIT_PYTHON_REFRESH": "quiet",
}
EXPERIMENT_TAGS: Final = {
    "mlflow.experimentKind": "custom_model_development"
}  # pages for trainings, not for chat models


def tracking_uri(study: Study) -> str:
    """The study's tracking URI: `[tracking] uri`, or SQLite in the study's folder (created readable by its owner).

    A relative SQLite path is below the study's folder, wherever the command is run.
    """
    uri = study.tracking.uri or f"{SQLITE}{study.paths.mlflow_database}"
    if uri.startswith(SQLITE):
        return f"{SQLITE}{study.folder / uri.removeprefix(SQLITE)}"
    return uri


def database_file(uri: str) -> Path | None:
    """The file of a SQLite URI; None for a server."""
    return Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None


def public_name(uri: str) -> str:
    """A URI as it may be shown: without user and password."""
    parts = urlsplit(uri)
    if not parts.username and not parts.password:
        return uri
    port = f":{parts.port}" if parts.port else ""
    return parts._replace(netloc=f"{parts.hostname}{port}").geturl()


def environment() -> dict[str, str]:
    """Environment for MLflow's processes: these settings where the user has not set them otherwise."""
    return {**ENVIRONMENT, **os.environ}


@contextlib.contextmanager
def explained(uri: str) -> Iterator[None]:
    """Turn whatever MLflow, SQLAlchemy or the network raises into one line that names the store.

    Raises:
        TrackingError: Something inside failed.
    """
    try:
        yield
    except DpdtError:
        raise
    except Exception as err:
        what = str(err).strip().splitlines()
        message = what[0].replace(uri, public_name(uri)) if what else type(err).__name__
        raise TrackingError(
            f"MLflow at {public_name(uri)}: {message}. Nothing is lost: the run folders have everything. "
            f"Check `[tracking] uri` and that the server runs, then `dpdt sync` again."
        ) from err


def open_client(uri: str) -> "MlflowClient":
    """A client of the store; call it inside `explained`, under the study's tracking lock if it may create the store."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)  # MLflow reads them when it is imported and at each request
    from mlflow import MlflowClient

    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri)


def experiment_name(study: Study) -> str:
    """`[tracking] experiment`, or the study's name."""
    return study.tracking.experiment or study.name


def find_experiment(client: "MlflowClient", study: Study) -> "Experiment | None":
    """The study's experiment; None if there is none."""
    return client.get_experiment_by_name(experiment_name(study))


def make_experiment(client: "MlflowClient", study: Study) -> str:
    """The id of the study's experiment, which is created or restored if need be.

    A SQLite store gets an artifact folder beside it (MLflow's default is the working directory); a server has its own.
    """
    from mlflow.exceptions import MlflowException

    found = find_experiment(client, study)
    if found is None:
        local = database_file(tracking_uri(study)) is not None
        location = study.paths.mlflow_artifacts.as_uri() if local else None
        try:
            name = experiment_name(study)
            return str(client.create_experiment(name, artifact_location=location, tags=EXPERIMENT_TAGS))
        except MlflowException:  # another machine created it at this moment
            found = find_experiment(client, study)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)
