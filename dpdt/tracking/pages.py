"""The application that `dpdt ui` serves: MLflow's own, with a short address for the page that compares the runs.

MLflow finds it by the entry point `dpdt` of the group `mlflow.app`, and asks for `app`. Its server is loaded only then.
"""

import functools
import os
from typing import Any

from dpdt.tracking.ui import COMPARED, SHORT

__all__ = ["app"]

app: Any


@functools.cache
def _application() -> Any:
    from mlflow.server import app as pages
    from mlflow.server.fastapi_app import app as application

    pages.add_url_rule(SHORT, "dpdt-compare", lambda: pages.redirect(os.environ[COMPARED]))
    return application


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _application()
