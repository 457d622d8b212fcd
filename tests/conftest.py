"""Fixtures that several test modules share, each kind in a separate module."""

import os
import signal

# Workers of pytest-xdist share the cores. If torch takes all of them in each worker, its threads wait for each other in
# busy loops: eight times the processor's time on two busy cores. Said before anything imports torch.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# Here, because its import shuts all log handlers down, and absl's then closes the stderr that absl was imported under,
# which in a test is pytest's.
import submitit  # noqa: F401
from hypothesis import settings

pytest_plugins = [
    "tests.fake_runs",
    "tests.fake_parts_plugin",
    "tests.fake_slurm",
    "tests.mlflow_servers",
    "tests.small_data",
]

# A busy machine is no reason to fail, and CI shall fail twice on the same input.
settings.register_profile("dpdt", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("dpdt")

# A shell that runs the tests in the background has them ignore Ctrl-C, and with them whatever they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_make_parametrize_id(val: object) -> str | None:
    """Bytes stay out of the names of tests: two workers must collect the same, and a file may hold the time."""
    return "bytes" if isinstance(val, bytes) else None
