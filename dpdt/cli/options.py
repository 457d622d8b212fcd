"""Options that many commands have: `--set` for every command that reads a study, `--verbose` and `--quiet` for all."""

import functools
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

__all__ = ["App", "Grouped", "Quiet", "Verbose", "overrides", "restored_output", "set_output"]

Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key, e.g. train.num_epochs=5; may be repeated."),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show the traceback of an error.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress and no summaries; results and errors stay.")]

SECTIONS: Final = {
    "study_file": "The study",
    "domains": "The study",
    "plan": "The study",
    "stages": "Its stages, one by one",
    "jobs": "All stages as jobs",
    "tracking": "Results",
    "verify": "Checks",
    "privacy": "Privacy",
    "audit": "Privacy",
    "machine": "Checks",
    "apart": "Between hospitals",
    "demo": "To begin with",
}
"""Modules of this package, and the heading of their commands in `dpdt --help`."""
OUTPUT: Final = ("DPDT_VERBOSE", "DPDT_QUIET")
READ_A_STUDY: Final = {"study", "run", "target"}
"""Arguments from which a command gets its study: the study, or a run's folder."""
_overrides: list[str] = []


def overrides() -> tuple[str, ...]:
    """The `--set` overrides of the command that is running."""
    return tuple(_overrides)


def set_output(*, verbose: bool, quiet: bool) -> None:
    """Remember the two flags in the environment, so that tasks in other processes have them too."""
    for name, wanted in zip(OUTPUT, (verbose, quiet), strict=True):
        if wanted:
            os.environ[name] = "1"


@contextmanager
def restored_output() -> Iterator[None]:
    """Forget at the end what `set_output` remembered: one process may run several commands."""
    before = {name: os.environ.get(name) for name in OUTPUT}
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


class Grouped(TyperGroup):
    """`--help` lists the commands by what they are for: the modules of this package, in order."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """A section a group."""
        sections: dict[str, list[tuple[str, str]]] = {}
        names = self.list_commands(ctx)
        width = max(len(name) for name in names)
        limit = formatter.width - 6 - width
        for name in names:
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                module = str(command.callback.__module__).rpartition(".")[2]
                row = name.ljust(width), command.get_short_help_str(limit)
                sections.setdefault(SECTIONS[module], []).append(row)
        for title, rows in sections.items():
            with formatter.section(title):
                formatter.write_dl(rows)


class App(typer.Typer):
    """A Typer application that adds the common options to every command."""

    def command(self, name: str | None = None, **options: Any) -> Callable[[Any], Any]:
        """As `Typer.command`; the function itself stays as it is."""
        register = super().command(name, **options)

        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            register(_with_common(function))
            return function

        return decorate


def _with_common(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, and before it what the common options ask for."""
    signature = inspect.signature(function)
    common: dict[str, tuple[Any, Any]] = {"set_values": (Set, None)} if READ_A_STUDY & {*signature.parameters} else {}
    common |= {"verbose": (Verbose, False), "quiet": (Quiet, False)}

    @functools.wraps(function)
    def command(**arguments: Any) -> Any:
        _overrides[:] = arguments.pop("set_values", None) or []
        set_output(verbose=arguments.pop("verbose"), quiet=arguments.pop("quiet"))
        return function(**arguments)

    keyword = inspect.Parameter.KEYWORD_ONLY
    more = [inspect.Parameter(name, keyword, default=d, annotation=kind) for name, (kind, d) in common.items()]
    command.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *more])  # type: ignore[attr-defined]
    command.__annotations__ = {**function.__annotations__, **{name: kind for name, (kind, _) in common.items()}}
    return command
