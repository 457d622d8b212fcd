"""Radiographs through a bundle to a table of scores: `dpdt apply`. Memory does not grow with the number of files."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dpdt.base.console import Advance, progress
from dpdt.base.private_csv import no_formula, private_csv
from dpdt.bundle.card import NOTICE
from dpdt.bundle.model import Bundle, Score
from dpdt.errors import BundleError
from dpdt.shards.process import ImageOutcome, process_images

__all__ = ["ApplySummary", "apply_bundle", "find_files"]

CHUNK: Final = 64
"""Files that are decoded before the network sees them."""
BATCH: Final = 8
"""Images that the network sees at once."""


@dataclass(frozen=True)
class ApplySummary:
    """What was done; printed as one line."""

    scored: int
    reasons: dict[str, int]
    output: Path
    undecided: tuple[str, ...] = ()
    """Labels without a threshold, so without a decision."""

    def __str__(self) -> str:
        """One line for people."""
        why = ", ".join(f"{reason} {count}" for reason, count in sorted(self.reasons.items()))
        rejected = f", {sum(self.reasons.values())} rejected ({why})" if why else ""
        none = f" No decision (_positive) for {', '.join(self.undecided)}: the bundle has no threshold of it."
        return f"{self.output}: {self.scored} images scored{rejected}.{none if self.undecided else ''} {NOTICE}"


def find_files(named: Iterable[str], *, listed: Path | None = None) -> list[str]:
    """The files to score: those named, all below the folders named (hidden ones aside), and those of a list.

    Args:
        named: Files and folders.
        listed: A text file with one path a line, relative to the working folder.

    Raises:
        BundleError: Nothing is named, what is named is not there, the list cannot be read, or no file of it is there.
    """
    names = list(named)
    if lost := [name for name in names if not os.path.lexists(name)]:
        raise BundleError(f"{lost[0]}: no such file or folder. Nothing was written; correct its name.")
    if listed is not None:
        try:
            text = listed.read_text(encoding="utf-8", errors="surrogateescape")
        except OSError as err:
            raise BundleError(f"{listed}: cannot be read ({err.strerror}). Expected a path a line.") from err
        lines = [line for line in text.splitlines() if line.strip()]
        if lines and not any(map(os.path.lexists, lines)):
            raise BundleError(
                f"{listed}: none of its {len(lines)} paths is there. They are relative to the working folder."
            )
        names += lines
    found = [file for name in names for file in (_below(name) if os.path.isdir(name) else [name])]
    if not found:
        raise BundleError("no file to score. Name files, folders, or a list (--list).")
    return found


def apply_bundle(bundle: Bundle, score: Score, files: Sequence[str], output: Path) -> ApplySummary:
    """Score files and write the table, whole or not at all (0600).

    Args:
        bundle: The model.
        score: Its network, from `checked_scorer`.
        files: Radiographs: DICOM, PNG, JPEG.
        output: A CSV: one row a file, in their order.

    Returns:
        Counts.
    """
    labels, reasons = bundle.manifest.labels, dict[str, int]()
    columns = ["file", "reason", "message"]
    columns += [f"{label}_{what}" for label in labels for what in ("score", "positive")]
    with (
        progress("apply", len(files), unit="images") as advance,
        private_csv(output, [*columns, "notice"]) as write,
    ):
        for file, outcome, scores in _scored(bundle, score, files, advance):
            cells = _cells(bundle, scores) if outcome.ok else [""] * (2 * len(labels))
            if not outcome.ok:
                reasons[outcome.reason] = reasons.get(outcome.reason, 0) + 1
            write([no_formula(file, is_path=True), outcome.reason, outcome.message, *cells, NOTICE])
    undecided = tuple(label for label, threshold in bundle.manifest.thresholds.items() if threshold is None)
    return ApplySummary(len(files) - sum(reasons.values()), reasons, output, undecided)


def _below(folder: str) -> Iterator[str]:
    """Files below a folder, in the order of their names; links to folders are not followed."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(parent, name) for name in sorted(names) if not name.startswith("."))


def _scored(
    bundle: Bundle, score: Score, files: Sequence[str], advance: Advance
) -> Iterator[tuple[str, ImageOutcome, NDArray[np.float32]]]:
    """Each file with its outcome and its scores, chunk by chunk."""
    settings = bundle.manifest.shards
    buffer = np.empty((min(CHUNK, len(files)), settings.size, settings.size), dtype=np.uint8)
    for start in range(0, len(files), CHUNK):
        some = files[start : start + CHUNK]
        out = buffer[: len(some)]
        outcomes = process_images(some, out, settings=settings, advance=advance)
        good = np.flatnonzero([outcome.ok for outcome in outcomes])
        scores = np.full((len(some), len(bundle.manifest.labels)), np.nan, dtype=np.float32)
        for first in range(0, len(good), BATCH):
            rows = good[first : first + BATCH]
            scores[rows] = score(out[rows])
        yield from zip(some, outcomes, scores, strict=True)


def _cells(bundle: Bundle, scores: NDArray[np.float32]) -> list[str]:
    """Score and decision of each label; no decision where the bundle has no threshold."""
    cells = []
    for value, threshold in zip(scores.tolist(), bundle.manifest.thresholds.values(), strict=True):
        cells += [f"{value:.6f}", "" if threshold is None else str(int(value >= threshold))]
    return cells
