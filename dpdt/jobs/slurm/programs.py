"""Calling Slurm's programs."""

import subprocess
from typing import Final

__all__ = ["COMMAND_SECONDS", "run_program"]

COMMAND_SECONDS: Final = 60.0


def run_program(*command: str, seconds: float = COMMAND_SECONDS) -> subprocess.CompletedProcess[str]:
    """Run a program; one that is missing or does not answer looks like one that failed."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except (OSError, subprocess.TimeoutExpired) as err:
        return subprocess.CompletedProcess(command, 1, "", str(err))
