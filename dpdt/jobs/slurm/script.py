"""What a job's batch script asks for and starts: submitit's script with dpdt's set-up, python and requeue."""

import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Final

from dpdt.base.files import last_line, write_text
from dpdt.errors import ClusterError
from dpdt.jobs.resources import Resources
from dpdt.jobs.slurm.requeue import SETUP, teardown
from dpdt.jobs.slurm.sbatch import Executor
from dpdt.jobs.submissions import Submission

__all__ = ["check_python", "cpus_per_rank", "make_executor", "python_words"]

PYTHON_SECONDS: Final = 300.0
# Prints what must be the same where a task is pickled and where it is run.
ASK_VERSIONS: Final = (
    "import sys; from importlib.metadata import version; "
    "print('dpdt-python', '%d.%d' % sys.version_info[:2], version('dpdt'), version('submitit'))"
)
# --cleanenv keeps the host's variables out of the image; these are what a task must know.
CONTAINER: Final = """\
#!/bin/sh
# Starts python in the image {image}.
for name in $(env | grep -oE '^(SLURM|SUBMITIT|CUDA|NVIDIA|DPDT|MLFLOW|OMP)_[A-Za-z0-9_]*'); do
    value=$(printenv "$name")
    export "APPTAINERENV_$name=$value"
done
scratch="{scratch}"
[ -d "$scratch" ] || scratch=
exec apptainer exec {options} ${{scratch:+--bind "$scratch"}} {image} python "$@"
"""


def make_executor(submission: Submission, stage: str, asked: Resources, left_out: Sequence[str] = ()) -> Executor:
    """A submitit executor with a stage's resources; an array's dependency and tasks at once are its own.

    Args:
        submission: Where scripts, pickles, logs and results go.
        stage: One of STAGES.
        asked: What each task asks for.
        left_out: Nodes that tasks shall not run on.
    """
    executor = Executor(folder=submission.paths.jobs(stage), python=_python_command(submission, asked))
    cpus = cpus_per_rank(asked)
    together = ["--kill-on-bad-exit=1"] if asked.nodes * asked.ranks > 1 else []
    parameters: dict[str, Any] = {
        "job_name": f"dpdt-{stage}",
        **asked.kind_of_node,
        "nodes": asked.nodes,
        "cpus_per_task": cpus,
        "ntasks_per_node": asked.ranks,
        "mem": f"{max(1, round(asked.mem_gb * 1024))}M",
        "time": asked.timeout_min,
        "exclude": ",".join(left_out) or None,
        "wckey": None,
        "signal_delay_s": asked.signal_delay_s,
        "setup": [f"export OMP_NUM_THREADS={cpus}", *asked.setup, *SETUP],
        "teardown": teardown(submission.paths.jobs(stage)),
        "srun_args": [f"--cpus-per-task={cpus}", *together],  # since Slurm 22.05 srun does not take it from sbatch
        "stderr_to_stdout": True,
    }
    others: dict[str, Any] = {"kill-on-invalid-dep": "yes", "requeue": True}
    for name, value in asked.extra.items():  # the site's word, in place of ours
        parameters.pop(name.replace("-", "_"), None)
        others[name] = value
    others = {name: value for name, value in others.items() if value is not False}
    executor.update_parameters(**parameters, additional_parameters=others)
    return executor


def cpus_per_rank(asked: Resources) -> int:
    """Cores of each of the processes that share a task's."""
    return max(1, asked.cpus // asked.ranks)


def _python_command(submission: Submission, asked: Resources) -> str | None:
    """How python is started on a node: in the image if there is one; None for the python of this process."""
    return asked.python if asked.image is None else f"sh {shlex.quote(str(submission.paths.container))}"


def python_words(asked: Resources) -> list[str]:
    """The words that start python on a node, without a file that the node would have to see; none for `python`."""
    if asked.image is not None:
        return ["sh", "-c", _container_script(asked, asked.image), "sh"]
    return [] if asked.python is not None else [sys.executable]


def _container_script(asked: Resources, image: str) -> str:
    return CONTAINER.format(image=shlex.quote(image), options=_container_options(asked), scratch=asked.scratch or "")


def _container_options(asked: Resources) -> str:
    binds = [f"--bind {shlex.quote(bind)}" for bind in asked.binds]
    return " ".join(["--nv", "--cleanenv", *binds])  # before the image, or apptainer takes them for the program's


def check_python(submission: Submission, asked: Sequence[Resources]) -> None:
    """Check that the tasks' python is like this one, before any of them waits for a GPU in the queue.

    Where it is in an image, the script that starts it is written first.

    A python that cannot be started here (a module that only nodes have) is a warning.

    Raises:
        ClusterError: It has another version of Python, dpdt or submitit.
    """
    wanted = f"{sys.version_info[0]}.{sys.version_info[1]} {version('dpdt')} {version('submitit')}"
    for one in asked:
        if one.image is not None:
            write_text(submission.paths.container, _container_script(one, one.image))
    for setup, command in {(one.setup, _python_command(submission, one)) for one in asked}:
        if command is None:
            continue
        lines = [*setup, f'{command} -c "{ASK_VERSIONS}"']
        try:
            done = subprocess.run(
                ["bash", "-c", "\n".join(lines)], capture_output=True, text=True, timeout=PYTHON_SECONDS
            )
        except subprocess.TimeoutExpired:
            print(f"warning: `{command}` did not answer; it may be too slow here", file=sys.stderr)
            continue
        found = [line.split(" ", 1)[1] for line in done.stdout.splitlines() if line.startswith("dpdt-python ")]
        if not found:
            last = last_line(done.stderr) or f"exit code {done.returncode}"
            print(f"warning: the tasks' python cannot be tried here ({command}: {last})", file=sys.stderr)
        elif found[0] != wanted:
            raise ClusterError(
                f"the tasks' python has (Python, dpdt, submitit) = {found[0]}, this one {wanted}: `{command}`. "
                "Install the same version in both places."
            )
