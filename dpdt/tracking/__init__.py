"""MLflow as a view of the run folders: fed from them, rebuilt from them at any time. Nothing else imports mlflow."""

from dpdt.tracking.compare import compare_rows, find_compared, show_comparison
from dpdt.tracking.live import live_sync
from dpdt.tracking.store import tracking_uri, with_uri
from dpdt.tracking.sync import SyncSummary, sync
from dpdt.tracking.system import system_samples
from dpdt.tracking.ui import compare_url, serve_ui
from dpdt.tracking.watch import watch

__all__ = [
    "SyncSummary",
    "compare_rows",
    "compare_url",
    "find_compared",
    "live_sync",
    "serve_ui",
    "show_comparison",
    "sync",
    "system_samples",
    "tracking_uri",
    "watch",
    "with_uri",
]
