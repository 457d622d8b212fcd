"""The command line: `dpdt COMMAND STUDY`.

One small module a group of commands, each command a function of its arguments. A module is imported at every start:
it imports heavy things inside its functions, so that `dpdt --help` stays quick. To add a command, decorate a function
with `@app.command(epilog="Example: …")` in the module of its group; a new module is listed below.
"""

# The order of the imports is the order of the commands in `dpdt --help`.
# isort: off
from dpdt.cli.app import app, main
from dpdt.cli import study_file as study_file
from dpdt.cli import domains as domains
from dpdt.cli import plan as plan
from dpdt.cli import stages as stages
from dpdt.cli import jobs as jobs
from dpdt.cli import tracking as tracking
from dpdt.cli import apart as apart
from dpdt.cli import verify as verify
from dpdt.cli import privacy as privacy
from dpdt.cli import audit as audit
from dpdt.cli import machine as machine
from dpdt.cli import demo as demo

# isort: on

__all__ = ["app", "main"]
