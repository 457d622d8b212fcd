"""One line of `dpdt doctor`."""

from dataclasses import dataclass

__all__ = [
    "Check",
]


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
