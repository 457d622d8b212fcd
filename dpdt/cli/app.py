"""What all commands have in common: the application, exit codes, and how an error becomes one line."""

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Final, NoReturn

import typer

from dpdt.base.console import printable
from dpdt.base.console import verbose as is_verbose
from dpdt.cli.options import App, Grouped, Quiet, Verbose, restored_output, set_output
from dpdt.errors import DpdtError, StudyError

__all__ = ["DONE", "FAILED", "INTERRUPTED", "WRONG_USE", "app", "main"]

DONE, FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 130
_ELSEWHERE = " Correct its permissions; for results, study.folder may name another folder."
HINTS: Final = {
    errno.ENOSPC: " Make room, or set study.folder to another disk; what is done is kept.",
    errno.EDQUOT: " Make room, or set study.folder to another disk; what is done is kept.",
    errno.EROFS: _ELSEWHERE,
    errno.EACCES: _ELSEWHERE,
    errno.ENOTDIR: " Expected a folder, found a file: remove or rename the file.",
    errno.EISDIR: " Expected a file, found a folder: name another file, or rename the folder.",
    errno.EEXIST: " Expected a folder, found a file: remove or rename the file.",
    errno.ENAMETOOLONG: " Names may have 255 bytes, paths 4096.",
}
"""What to do about an error of the operating system that no stage has a better answer to."""

app = App(
    name="dpdt",
    cls=Grouped,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Differentially private domain transfer for radiographs.\n\n"
    "From raw radiographs to the comparison of DP and non-DP models: cohort, shards, pretrain, train, evaluate, "
    "report, sync. `dpdt submit` sends all of them; every stage skips what is done.",
    epilog="Example: dpdt demo   (six synthetic hospitals, the whole way, on this machine)",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from dpdt.base.machine import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_print_version)
    ] = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    set_output(verbose=verbose, quiet=quiet)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong use, 130 stopped by Ctrl-C.

    Args:
        argv: Arguments without the program's name; default: those of the process.
    """
    if sys.stdout is None:  # closed by the caller (`>&-`)
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process runs
    with restored_output():
        try:
            app(args=None if argv is None else list(argv), prog_name="dpdt")
        except DpdtError as err:
            _say(str(err))
            sys.exit(WRONG_USE if isinstance(err, StudyError) else FAILED)
        except OSError as err:
            _say(f"{err.filename or 'input/output'}: {err.strerror or err}.{HINTS.get(err.errno or 0, '')}")
            sys.exit(FAILED)
        except SystemExit as stop:
            if stop.code == INTERRUPTED:
                print("Stopped. Run the same command again to go on.", file=sys.stderr)
            raise
    sys.exit(DONE)


def _say(error: str) -> None:
    """Print the error being handled as one line; with `--verbose`, its traceback before that."""
    if is_verbose():
        traceback.print_exc()
    print(f"error: {printable(error)}", file=sys.stderr)
