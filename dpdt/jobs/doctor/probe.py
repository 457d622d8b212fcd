"""`dpdt doctor --cluster --probe`: a short job that checks on a node for what the tasks will need there."""

import json
import secrets
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from dpdt.base.files import exclusive_lock, last_line, nearest_folder
from dpdt.errors import DpdtError
from dpdt.jobs.doctor.finding import Check
from dpdt.jobs.resources import Resources
from dpdt.jobs.slurm.programs import run_program
from dpdt.jobs.slurm.script import python_words
from dpdt.jobs.slurm.send import outside_of_any_job
from dpdt.study import Study

__all__ = ["probe_nodes"]

# A probe that waits in the queue longer than this is given up.
QUEUE_SECONDS: Final = 120
ANSWER_SECONDS: Final = 300.0
# Lines that srun does not know (sbatch(1), srun(1)), that it reads otherwise, or that a probe has no use for.
FOR_SBATCH: Final = (
    "batch", "error", "export-file", "get-user-env", "ignore-pbs", "kill-on-invalid-dep", "mail-type", "mail-user",
    "no-requeue", "output", "requeue", "wait", "wait-all-nodes",
)  # fmt: skip
JOB: Final = Path(__file__).with_name("probe_job.py")
# Printed on the node before the tasks' python is started.
THERE: Final = "dpdt-there"


def probe_nodes(study: Study, asked: dict[str, Resources]) -> Iterator[Check]:
    """One job as the cohort stage asks for it, and one as the trainings do if they ask for GPUs.

    Args:
        study: The study.
        asked: Resources of every stage.
    """
    yield _probe(study, "cohort", asked["cohort"])
    if asked["train"].gpus:
        yield _probe(study, "train", asked["train"])


def _probe(study: Study, stage: str, one: Resources) -> Check:
    name = f"a node for {stage}"
    with outside_of_any_job(), _locked(nearest_folder(study.folder)) as lock:
        done = run_program(*_command(study, one, lock), seconds=ANSWER_SECONDS)
    lines = done.stdout.splitlines()
    answer = next((line for line in lines if line.startswith("dpdt-probe ")), None)
    if answer is not None:
        return _judge(name, study, one, json.loads(answer.partition(" ")[2]))
    if THERE in lines:
        text = f"the tasks' python does not start there: {last_line(done.stderr) or f'exit code {done.returncode}'}"
        return Check(name, "bad", text)
    return Check(name, "note", f"no answer: {last_line(done.stderr) or f'exit code {done.returncode}'}")


@contextmanager
def _locked(folder: Path) -> Iterator[str | None]:
    """A file that this process holds the lock of, so that a node can try it; None where there are no locks here."""
    file = folder / f".dpdt-probe-{secrets.token_hex(4)}.lock"
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive_lock(file, blocking=False))
        except (OSError, DpdtError):  # said by the check of locks here
            yield None
        else:
            yield str(file)
    with suppress(OSError):
        file.unlink(missing_ok=True)


def _command(study: Study, one: Resources, lock: str | None) -> list[str]:
    """The call of srun: a job like the stage's, but small; `extra` stands in place of dpdt's own, as in a script."""
    memory = f"{round(1024 * min(one.mem_gb, 2.0))}M"
    small = {"ntasks": 1, "nodes": 1, "cpus-per-task": 1, "time": 2, "mem": memory, "immediate": QUEUE_SECONDS}
    like_it = {name.replace("_", "-"): value for name, value in one.kind_of_node.items()}
    options = {**like_it, **small, **{name: value for name, value in one.extra.items() if name not in FOR_SBATCH}}
    given = {name: value for name, value in options.items() if value is not None and value is not False}
    words = [f"--{name}" if value is True else f"--{name}={value}" for name, value in given.items()]
    wanted = {
        "paths": [str(study.file), *(str(path) for domain in study.used_domains for path in study.raw_paths(domain))],
        "writable": str(nearest_folder(study.folder)),
        "scratch": one.scratch,
        "gpus": one.gpus,
        "lock": lock,
    }
    python = shlex.join([*python_words(one), "-c", JOB.read_text(encoding="utf-8"), json.dumps(wanted)])
    if one.python is not None:  # a shell command, perhaps of several words
        python = f"{one.python} {python}"
    script = "\n".join([f"echo {THERE}", *one.setup, python])
    return ["srun", *words, "bash", "-c", script]


def _judge(name: str, study: Study, one: Resources, seen: dict[str, Any]) -> Check:
    """What the answer of a node means."""
    bad = [f"{path} is not there, or cannot be read; put it on a shared folder" for path in seen["missing"]]
    if not seen["writable"]:
        bad.append(f"{nearest_folder(study.folder)} cannot be written there")
    lock, elsewhere = seen.get("lock"), seen["node"].partition(".")[0] != socket.gethostname().partition(".")[0]
    if lock == "free":
        bad.append(
            f"a lock that this machine holds in {nearest_folder(study.folder)} is not seen there, so two tasks could "
            "train one run: mount it with locks that hold between nodes (Lustre: -o flock, not -o localflock; NFS: not "
            "-o local_lock), or set study.folder to another place"
        )
    elif lock not in (None, "held") and not seen["missing"]:
        bad.append(f"locks cannot be tried there: {lock}")
    here = (f"{sys.version_info[0]}.{sys.version_info[1]}", version("dpdt"), version("submitit"))
    there = (seen["python"], seen["dpdt"], seen["submitit"])
    if here != there:
        bad.append(f"(Python, dpdt, submitit) are {' '.join(there)} there and {' '.join(here)} here")
    if one.gpus and seen["gpus"] < one.gpus and study.train.device != "cpu":
        bad.append(f"torch sees {seen['gpus']} of {one.gpus} GPUs")
    if bad:
        return Check(name, "bad", f"{seen['node']}: {'; '.join(bad)}")
    gpus = f", {seen['gpus']} GPUs" if one.gpus else ""
    found = f"{seen['node']}: Python {there[0]}, dpdt {there[1]}{gpus}; sees the study and its data, may write"
    if lock == "held":
        found += ", locks hold between it and this machine" if elsewhere else ", locks hold (it is this machine)"
    if not seen["scratch"]:
        return Check(name, "note", f"{found}; no folder {one.scratch}, so shards are read where they are")
    return Check(name, "good", found)
