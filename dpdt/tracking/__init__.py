"""MLflow as a view of the run folders: fed from them, rebuilt from them at any time. Nothing else imports mlflow."""

from dpdt.tracking.store import tracking_uri
from dpdt.tracking.sync import SyncSummary, sync
from dpdt.tracking.ui import compare_url, serve_ui

__all__ = ["SyncSummary", "compare_url", "serve_ui", "sync", "tracking_uri"]
