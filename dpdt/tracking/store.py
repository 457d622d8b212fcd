"""MLflow's store and access to it: quiet, without telemetry, and with errors in one clear line."""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from dpdt.base.files import atomic_path, exclusive_lock
from dpdt.errors import DpdtError, TrackingError
from dpdt.study import Study

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

__all__ = [
    "database_file",
    "environment",
    "experiment_name",
    "explained",
    "find_experiment",
    "is_server",
    "make_experiment",
    "one_writer",
    "open_client",
    "public_name",
    "tracking_uri",
    "with_uri",
]

SQLITE: Final = "sqlite:///"
ENVIRONMENT: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # the default waits minutes for a server that is down
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # two lines for each run
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_ENABLE_AI_GATEWAY": "false",
    "MLFLOW_ENABLE_ASSISTANT_SANDBOX": "true",  # no shell on this machine for whoever reaches the port
    "GIT_PYTHON_REFRESH": "quiet",
}
MIGRATION_LOCK: Final = 7_374_656  # any number, the same in all processes
EXPERIMENT_TAGS: Final = {
    "mlflow.experimentKind": "custom_model_development",  # pages for trainings, not for chat models
}


def tracking_uri(study: Study) -> str:
    """The study's tracking URI: `[tracking] uri`, or SQLite in the study's folder (created readable by its owner).

    A relative SQLite path is below the study's folder, wherever the command is run.
    """
    uri = study.tracking.uri or f"{SQLITE}{study.paths.mlflow_database}"
    if uri.startswith(SQLITE):
        return f"{SQLITE}{study.folder / uri.removeprefix(SQLITE)}"
    return uri


def with_uri(study: Study, uri: str) -> Study:
    """The same study with another tracking URI."""
    return study.model_copy(update={"tracking": study.tracking.model_copy(update={"uri": uri})})


def is_server(uri: str) -> bool:
    """Whether a URI is that of an MLflow server."""
    return uri.startswith(("http://", "https://"))


def database_file(uri: str) -> Path | None:
    """The file of a SQLite URI; None for a server."""
    return Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None


def public_name(uri: str) -> str:
    """A URI as it may be shown: without user and password."""
    parts = urlsplit(uri)
    user, _, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=host).geturl() if user else uri


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


@contextlib.contextmanager
def one_writer(uri: str, *locks: Path) -> Iterator[None]:
    """Be the only process that holds these locks (a study's), and the only one of all that writes to a SQLite file.

    Studies may share a SQLite file. Its tables must be made by one process, and its lock of one writer would otherwise
    be found by timeouts.
    """
    file = database_file(uri)
    with contextlib.ExitStack() as stack:
        for lock in locks:
            stack.enter_context(exclusive_lock(lock))
        if file is not None:
            stack.enter_context(exclusive_lock(file.with_name(f"{file.name}.lock")))
        yield


@contextlib.contextmanager
def _one_migration(uri: str) -> Iterator[None]:
    """With PostgreSQL: be the only process that makes or migrates MLflow's tables; two at once fail.

    With SQLite `one_writer` sees to that, but MLflow's steps to a new file's tables are not one transaction: killed
    between them, it could never be opened again. So they are made under another name.
    """
    from mlflow import MlflowClient

    file = database_file(uri)
    if file is not None and not file.exists():
        with atomic_path(file) as new:
            MlflowClient(tracking_uri=f"{SQLITE}{new}")
    if not uri.startswith("postgresql"):
        yield
        return
    from sqlalchemy import create_engine, text
    from sqlalchemy.pool import NullPool

    engine = create_engine(uri, poolclass=NullPool)
    with engine.connect() as connection:  # the lock ends with the connection
        connection.execute(text(f"SELECT pg_advisory_lock({MIGRATION_LOCK})"))
        yield


def open_client(uri: str) -> "MlflowClient":
    """A client of the store; call it inside `explained`, and inside `one_writer` if it may create the store."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)  # MLflow reads them when it is imported and at each request
    from mlflow import MlflowClient

    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with _one_migration(uri):
        return MlflowClient(tracking_uri=uri)


def experiment_name(study: Study) -> str:
    """`[tracking] experiment`, or the study's name."""
    return study.tracking.experiment or study.name


def find_experiment(client: "MlflowClient", study: Study) -> "Experiment | None":
    """The study's experiment; None if there is none."""
    return client.get_experiment_by_name(experiment_name(study))


def make_experiment(client: "MlflowClient", name: str, *, artifacts: Path, uri: str) -> str:
    """The id of an experiment, which is created or restored if need be.

    Args:
        client: MLflow's client.
        name: The experiment's.
        artifacts: Where its artifacts go (MLflow's default: the working directory); a server has a store of its own.
        uri: Of the client.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        location = None if is_server(uri) else artifacts.as_uri()
        try:
            return str(client.create_experiment(name, artifact_location=location, tags=EXPERIMENT_TAGS))
        except MlflowException:  # another machine created it at this moment
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)
