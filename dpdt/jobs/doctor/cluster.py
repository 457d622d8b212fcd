"""`dpdt doctor --cluster`: whether a site has what the jobs will need, before anything is queued."""

import getpass
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from dpdt.base.files import last_line, nearest_folder
from dpdt.errors import ClusterError
from dpdt.jobs.doctor.finding import Check
from dpdt.jobs.doctor.machine import check_locks
from dpdt.jobs.doctor.probe import probe_nodes
from dpdt.jobs.resources import Resources, resources
from dpdt.jobs.slurm.programs import run_program, slurm_config
from dpdt.jobs.slurm.sbatch import error_lines
from dpdt.jobs.slurm.script import check_python, make_executor
from dpdt.jobs.slurm.send import PROGRAMS, max_array_size, outside_of_any_job
from dpdt.jobs.submissions import Submission
from dpdt.study import Study
from dpdt.study.paths import SubmissionPaths
from dpdt.study.tasks import needs

__all__ = ["Check", "check_cluster"]

# Kinds of file systems that every node of a cluster usually mounts.
SHARED: Final = (
    "nfs",
    "lustre",
    "gpfs",
    "beegfs",
    "ceph",
    "glusterfs",
    "panfs",
    "orangefs",
    "pvfs",
    "wekafs",
    "9p",
    "afs",
)


def check_cluster(study: Study, *, probe: bool = False) -> list[Check]:
    """Look at everything that the study's jobs will need.

    Args:
        study: The study.
        probe: Also run short jobs that check on nodes for what the tasks will need there.

    Raises:
        StudyError: The cluster profile is wrong.
    """
    asked = resources(study)
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        text = f"not found: {', '.join(missing)}. Run this on the host of a login node, not in a container."
        return [Check("programs", "bad", text), _folder(study)]
    ping = run_program("scontrol", "ping")
    if ping.returncode != 0 or "UP" not in ping.stdout:
        text = f"slurmctld does not answer: {last_line(ping.stderr or ping.stdout)}"
        return [Check("programs", "good", ", ".join(PROGRAMS)), Check("slurmctld", "bad", text), _folder(study)]
    checks = [Check("programs", "good", ", ".join(PROGRAMS)), Check("slurmctld", "good", last_line(ping.stdout))]
    checks += _partitions(asked)
    checks += _test_only(study, asked)
    checks += [
        _arrays(study),
        _requeue(),
        _accounting(),
        _folder(study),
        check_locks(nearest_folder(study.folder)),
        *_python(study, asked),
    ]
    if probe:
        checks += probe_nodes(study, asked)
    return checks


def _partitions(asked: dict[str, Resources]) -> Iterator[Check]:
    """Each partition that a stage names, or Slurm's default one."""
    answer = run_program("sinfo", "--noheader", "--format=%R|%a|%l|%c|%m|%G|%D|%f|%P").stdout
    rows = [line.split("|") for line in answer.splitlines() if line.count("|") == 8]
    names = {row[0] for row in rows}
    default = next((row[0] for row in rows if row[8].endswith("*")), None)
    named = {stage: str(one.extra.get("partition", one.partition) or "") for stage, one in asked.items()}
    for partition in sorted(set(named.values())):
        name = partition or default or ""
        several = name.split(",")  # Slurm takes the first of them that is free
        if missing := [one for one in several if one not in names]:
            what = f"no partition {', '.join(missing)}" if partition else "no default partition; name one"
            yield Check("partition", "bad", f"{what}. There are: {', '.join(sorted(names))}.")
            continue
        mine = [row for row in rows if row[0] in several]
        stages = {stage: one for stage, one in asked.items() if named[stage] == partition}
        problems = [text for stage, one in stages.items() for text in _too_much(stage, one, mine)]
        shown = f"{name}: {', '.join(f'{r[6]} nodes of {r[3]} CPUs, {r[4]} MB, {r[5]}, limit {r[2]}' for r in mine)}"
        if any(row[1] != "up" for row in mine):
            problems.append("it is not up")
        yield Check("partition", "bad" if problems else "good", f"{shown}{''.join(f'; {p}' for p in problems)}")


def _too_much(stage: str, one: Resources, rows: list[list[str]]) -> Iterator[str]:
    """What a stage asks for but no node of the partition has; what `extra` asks for in its place sbatch judges."""
    limits, others = [_minutes(row[2]) for row in rows], one.extra
    if "time" not in others and all(limit is not None and limit < one.timeout_min for limit in limits):
        yield f"{stage}: timeout_min = {one.timeout_min} is above the time limit"
    if "cpus-per-task" not in others and all(_leading_number(row[3]) < one.cpus for row in rows):
        yield f"{stage}: no node has cpus_per_task = {one.cpus} CPUs"
    if "mem" not in others and all(_leading_number(row[4]) < one.mem_gb * 1024 for row in rows):
        yield f"{stage}: no node has mem_gb = {one.mem_gb:g}"
    if one.gpus and "gpus-per-node" not in others and all(_gpus(row[5], one.gpu_type) < one.gpus for row in rows):
        kind = f" of gpu_type = {one.gpu_type}" if one.gpu_type else ""
        yield f"{stage}: no node has gpus_per_task = {one.gpus} GPUs{kind}"
    if one.constraint and "constraint" not in others and re.fullmatch(r"[\w.-]+", one.constraint):
        features = sorted({feature for row in rows for feature in row[7].split(",")})
        if one.constraint not in features:
            yield f"{stage}: no node has the feature {one.constraint!r}; there are: {', '.join(features)}"


def _test_only(study: Study, asked: dict[str, Resources]) -> Iterator[Check]:
    """Let Slurm itself judge each stage's script (`sbatch --test-only` queues nothing)."""
    with tempfile.TemporaryDirectory() as folder:
        submission = Submission(SubmissionPaths(Path(folder)), "slurm")
        for stage, one in asked.items():
            executor = make_executor(submission, stage, one)
            script = Path(folder) / f"{stage}.sh"
            script.write_text(executor._make_submission_file_text("true", ""))
            with outside_of_any_job():
                done = run_program("sbatch", "--test-only", str(script))
            state = "bad" if done.returncode != 0 else "good"
            yield Check(f"sbatch {stage}", state, error_lines(done.stderr))


def _arrays(study: Study) -> Check:
    """Whether Slurm takes so many tasks: it refuses a whole array for one too many."""
    number = len(needs(study))
    found = f"{number} tasks, MaxArraySize {max_array_size()}; larger arrays are cut, all parts keep to one throttle"
    limits = {"MaxJobCount": slurm_config().get("MaxJobCount", ""), "MaxSubmitJobs": _max_submit_jobs()}
    low = [f"{name} = {value}" for name, value in limits.items() if value.isdigit() and int(value) < number]
    if low:
        return Check("arrays", "bad", f"{found}; {', '.join(low)} is less: send some stages first (--stages)")
    return Check("arrays", "good", found)


def _max_submit_jobs() -> str:
    """The account's or user's own limit on jobs in the queue, where there is an accounting and a limit."""
    if shutil.which("sacctmgr") is None:
        return ""
    command = ("sacctmgr", "--noheader", "--parsable2", "show", "assoc", f"user={getpass.getuser()}")
    rows = run_program(*command, "format=MaxSubmit").stdout.split()
    return min((row for row in rows if row.isdigit()), key=int, default="")


def _requeue() -> Check:
    """How the site preempts jobs, which decides what warning a training gets."""
    config = slurm_config()
    found = f"JobRequeue {config.get('JobRequeue')}, PreemptMode {config.get('PreemptMode')}"
    if config.get("PreemptMode", "OFF") == "OFF":
        return Check("preemption", "note", f"{found}: jobs are not preempted")
    signal = "preempt_send_user_signal" in config.get("SlurmctldParameters", "")
    kill = config.get("KillWait", "30 sec")
    return Check(
        "preemption",
        "note",
        f"{found}, jobs hear of it by {'SIGUSR2' if signal else 'SIGTERM'}; without a GraceTime in the partition they "
        f"have {kill} to write a checkpoint",
    )


def _accounting() -> Check:
    if shutil.which("sacct") is None or run_program("sacct", "--noheader", "--jobs=1").returncode != 0:
        text = "no sacct here: status is read from squeue and the jobs' own files"
        return Check("accounting", "note", text)
    return Check("accounting", "good", "sacct answers")


def _folder(study: Study) -> Check:
    """Whether nodes will see the study's folder, from the kind of its file system."""
    folder = nearest_folder(study.folder)
    kind = run_program("stat", "--file-system", "--format=%T", str(folder)).stdout.strip()
    free = shutil.disk_usage(folder).free / 1e9
    found = f"{study.folder}: {kind}, {free:.0f} GB free"
    if kind.startswith(SHARED):
        return Check("shared folder", "good", found)
    return Check(
        "shared folder",
        "note",
        f"{found}. That is usually one machine's own disk; `--probe` asks a node whether it sees it",
    )


def _python(study: Study, asked: dict[str, Resources]) -> Iterator[Check]:
    """The image or python that tasks are started with."""
    for image in sorted({one.image for one in asked.values() if one.image}):
        if shutil.which("apptainer") is None:
            yield Check("container", "bad", f"apptainer not found, and the profile names the image {image}")
        elif not Path(image).exists():
            yield Check("container", "bad", f"no image {image}. Build it on a shared folder, or correct the path.")
        else:
            yield Check("container", "good", image)
    with tempfile.TemporaryDirectory() as folder:
        try:
            check_python(Submission(SubmissionPaths(Path(folder)), "slurm"), list(asked.values()))
        except ClusterError as err:
            yield Check("python", "bad", str(err))
        else:
            yield Check("python", "good", "the tasks' python has the versions of this one, where it can be tried here")


def _leading_number(text: str) -> int:
    """`64+` is 64 and more.

    >>> _leading_number("64+")
    64
    """
    found = re.match(r"\d+", text)
    return int(found[0]) if found else 0


def _gpus(gres: str, kind: str | None = None) -> int:
    """GPUs of a node, of one kind or of all.

    >>> _gpus("gpu:a100:4(S:0-1),shard:8"), _gpus("(null)"), _gpus("gpu:2"), _gpus("gpu:a100:4,gpu:t4:1", "t4")
    (4, 0, 2, 1)
    """
    found = re.findall(r"\bgpu(?::([^:,(]+))?:(\d+)", gres)
    return sum(int(count) for name, count in found if kind in (None, name))


def _minutes(limit: str) -> int | None:
    """Slurm's `1-12:00:00` in minutes; None where there is no limit.

    >>> _minutes("1-12:00:00"), _minutes("30:00"), _minutes("infinite")
    (2160, 30, None)
    """
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", limit)
    if found is None:
        return None
    days, hours, minutes, _ = (int(part or 0) for part in found.groups())
    return (24 * days + hours) * 60 + minutes
