"""Console output: progress on stderr, summaries and tables on stdout; plain lines where there is no terminal."""

import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

__all__ = [
    "Advance",
    "as_typed",
    "format_duration",
    "note",
    "printable",
    "progress",
    "quiet",
    "say",
    "show_checks",
    "show_table",
    "verbose",
    "warn",
]

LOG_EVERY_SECONDS = 10.0


class Advance(Protocol):
    """Call it with the number of items just done (and, if wanted, a short note such as the current loss)."""

    def __call__(self, count: int = 1, note: str = "") -> None:
        """Move the bar."""


def printable(text: str) -> str:
    """Text without control characters, which a file from elsewhere could speak to a terminal with; line ends stay."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "\ufffd" for letter in text)


def quiet() -> bool:
    """Whether `--quiet` was given: no progress, no summaries."""
    return bool(os.environ.get("DPDT_QUIET"))


def verbose() -> bool:
    """Whether `--verbose` was given: tracebacks of errors, the batch scripts of a dry run."""
    return bool(os.environ.get("DPDT_VERBOSE"))


@contextmanager
def progress(what: str, total: int, *, unit: str = "") -> Iterator[Advance]:
    """A progress bar on a terminal; elsewhere a line at most every ten seconds, so that log files stay readable.

    Args:
        what: What is being done, e.g. ``"shards vindr"``.
        total: Number of items.
        unit: Name of the items, e.g. ``"images"``.

    Yields:
        The function that advances it.
    """
    if quiet():
        yield _nothing
    elif sys.stderr.isatty():
        with _bar(what, total, unit) as advance:
            yield advance
    else:
        yield _lines(what, total, unit)


@contextmanager
def _bar(what: str, total: int, unit: str) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(what, total=total, note="")

        def advance(count: int = 1, note: str = "") -> None:
            bars.update(task, advance=count, note=note)

        yield advance


def _nothing(count: int = 1, note: str = "") -> None:
    """Show no progress."""


def _lines(what: str, total: int, unit: str) -> Advance:
    done = 0
    last = time.monotonic()

    def advance(count: int = 1, note: str = "") -> None:
        nonlocal done, last
        done += count
        now = time.monotonic()
        if now - last >= LOG_EVERY_SECONDS:
            last = now
            print(f"{what}: {done}/{total} {unit} {note}".rstrip(), file=sys.stderr, flush=True)

    return advance


def show_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], *, skip_empty: bool = False
) -> None:
    """Print a table to stdout; numbers are right-aligned. Wide enough for its content where there is no terminal.

    Args:
        title: Above it.
        columns: Their names.
        rows: A cell a column; None is as "".
        skip_empty: Leave out columns in which no row has anything.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if skip_empty:
        used = [number for number in range(len(columns)) if any(row[number] not in (None, "") for row in rows)]
        columns, rows = [columns[number] for number in used], [[row[number] for number in used] for row in rows]
    table = Table(title=title, title_justify="left", title_style="bold")
    for number, name in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[number], int | float) for row in rows)
        table.add_column(name, justify="right" if numeric else "left")
    for row in rows:
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(table)


def show_checks(title: str, rows: Sequence[tuple[str, str, str]]) -> None:
    """Print findings to stdout: name, state (green, yellow or red on a terminal), what was found."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    colours = {"good": "green", "note": "yellow", "bad": "bold red"}
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in ("what", "state", "found"):
        table.add_column(column)
    for name, state, found in rows:
        table.add_row(Text(name), Text(state, style=colours.get(state, "")), Text(found))
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def format_duration(seconds: float | None) -> str:
    """Hours and minutes, or seconds if there are few.

    >>> format_duration(3725), format_duration(59), format_duration(None)
    ('1:02 h', '59 s', '')
    """
    if seconds is None:
        return ""
    if seconds < 100:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(int(seconds // 60), 60)
    return f"{hours}:{minutes:02d} h"


def as_typed(command: str, path: Path) -> str:
    """A command of dpdt as it must be typed in this shell and folder: with its path where PATH does not lead to it."""
    program = Path(sys.executable).parent / "dpdt"
    found = shutil.which("dpdt")
    reached = not program.exists() or (found is not None and Path(found).samefile(program))
    return shlex.join(["dpdt" if reached else str(_from_here(program)), command, str(_from_here(path))])


def _from_here(path: Path) -> Path:
    """The path from the working folder, where it is below that."""
    with suppress(ValueError):
        return path.absolute().relative_to(Path.cwd())
    return path


def say(text: object) -> None:
    """Print a result on stdout; not with `--quiet`."""
    if not quiet():
        print(text, flush=True)


def note(text: str) -> None:
    """Print on stderr what is going on; not with `--quiet`."""
    if not quiet():
        print(text, file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """Print a warning on stderr: something that does not stop the command."""
    print(f"warning: {text}", file=sys.stderr, flush=True)
