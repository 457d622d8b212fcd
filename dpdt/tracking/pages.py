"""The application that `dpdt ui` serves: MLflow's own, with a short address for the page that compares the runs.

MLflow finds it by the entry point `dpdt` of the group `mlflow.app`.
"""

import os

from flask import Response, redirect
from mlflow.server import app as flask_app
from mlflow.server.fastapi_app import app

from dpdt.tracking.ui import COMPARED, SHORT

__all__ = ["app"]


@flask_app.get(SHORT)  # type: ignore[untyped-decorator]
def compare() -> Response:
    """Lead on to the page of the runs that are compared."""
    return redirect(os.environ[COMPARED])  # type: ignore[return-value]  # werkzeug's, which Flask's is a kind of
