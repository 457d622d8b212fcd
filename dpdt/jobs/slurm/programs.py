"""Asking Slurm's programs, for `dpdt doctor --cluster`, and what one of its findings is."""

import subprocess
from typing import Final

__all__ = ["COMMAND_SECONDS", "last_line", "run_program"]

COMMAND_SECONDS: Final = 60.0


def run_program(*command: str, seconds: float = COMMAND_SECONDS) -> subprocess.CompletedProcess[str]:
    """Run a program; one that is missing or does not answer looks like one that failed."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except (OSError, subprocess.TimeoutExpired) as err:
        return subprocess.CompletedProcess(command, 1, "", str(err))


def last_line(text: str) -> str:
    """The last line that is not empty; "" if there is none."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
