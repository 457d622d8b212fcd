"""Fixtures that several test modules share, each kind in a module of its own."""

pytest_plugins = ["tests.fake_runs", "tests.fake_parts_plugin", "tests.fake_slurm", "tests.small_data"]
