"""Calling Slurm's programs."""

import re
import subprocess
from typing import Final

__all__ = ["run_program", "slurm_config"]

COMMAND_SECONDS: Final = 60.0


def run_program(*command: str, seconds: float = COMMAND_SECONDS) -> subprocess.CompletedProcess[str]:
    """Run a program; one that is missing or does not answer looks like one that failed."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except (OSError, subprocess.TimeoutExpired) as err:
        return subprocess.CompletedProcess(command, 1, "", str(err))


def slurm_config() -> dict[str, str]:
    """Slurm's configuration; empty where scontrol does not answer."""
    shown = run_program("scontrol", "show", "config").stdout
    return dict(re.findall(r"^(\w+)[ \t]*=[ \t]*(.*)$", shown, re.MULTILINE))
