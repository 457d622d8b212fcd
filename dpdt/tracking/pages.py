"""The application that `dpdt ui` serves: MLflow's own, with short addresses for its pages of a study.

They lead on to MLflow's long ones, and first tell the browser what one would else click away there: the welcome of the
pages for chat models, the assistant and the notice on usage data, none of which is sent.

MLflow finds it by the entry point `dpdt` of the group `mlflow.app`, and asks for `app`. Its server is loaded only then.
"""

import functools
import html
import json
import os
from typing import Any, Final

from dpdt.tracking.ui import PAGES

__all__ = ["app"]

QUIET: Final = {
    "mlflow.workflowType_v1": '"machine_learning"',
    "mlflow.assistant.panelOpen_v1": "false",
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
    "mlflow.settings.telemetry.enabled_v1": "false",
    "mlflow.telemetry.info.alert.dismissed_v1": "true",
}
"""What MLflow's pages keep in the browser: pages for trainings, the assistant shut, no usage data."""

app: Any


@functools.cache
def _application() -> Any:
    from mlflow.server import app as pages
    from mlflow.server.fastapi_app import app as application

    for short, variable in PAGES.items():
        pages.add_url_rule(short, f"dpdt-{short}", functools.partial(_page, os.environ[variable]))
    return application


def _page(address: str) -> str:
    """A page that leads on to an address of MLflow's pages."""
    settings = "".join(f"localStorage.setItem({json.dumps(key)}, {json.dumps(value)});" for key, value in QUIET.items())
    go = f"{settings}location.replace({json.dumps(address)});"
    link = f'<a href="{html.escape(address)}">On to MLflow</a>'
    return f"<!doctype html><title>dpdt</title><script>try {{{go}}} catch (error) {{}}</script>{link}"


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _application()
