"""Asking Slurm's programs, for `dpdt doctor --cluster`, and what one of its findings is."""

import subprocess
from dataclasses import asdict, dataclass
from typing import Final

__all__ = ["COMMAND_SECONDS", "Check", "last_line", "run_program"]

COMMAND_SECONDS: Final = 60.0


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        name: What was looked at.
        state: `good`, `bad`, or `note`: worth knowing.
        found: What is there, and for `bad` what to do.
    """

    name: str
    state: str
    found: str

    def as_dict(self) -> dict[str, str]:
        """For JSON."""
        return asdict(self)


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
