"""Programs that stand for Slurm's: they keep what they are given, and answer what a test wants."""

import os
import pickle
import random
import re
import socketserver
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from submitit.core.utils import DelayedSubmission

from dpdt.jobs.attempts import Attempt, attempts_file, begin_attempt, end_attempt, stop_attempt
from dpdt.jobs.stages import run_task
from dpdt.study import Study
from dpdt.study.tasks import LAST_STAGES, Task, needs


@dataclass
class FakeSlurm:
    """Programs that stand for Slurm's: sbatch keeps each script and its environment."""

    folder: Path

    def program(self, name: str, text: str) -> None:
        """Let a program do something else."""
        (self.folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (self.folder / name).chmod(0o755)

    def script(self, job_id: int) -> str:
        """What was given to sbatch."""
        return (self.folder / f"{job_id}.sh").read_text()

    def options(self, job_id: int) -> dict[str, str]:
        """Its #SBATCH lines."""
        return dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", self.script(job_id), re.MULTILINE))

    def queue(self, *rows: str) -> None:
        """What squeue answers: `12_3|RUNNING|None|node1`."""
        (self.folder / "queue").write_text("".join(f"{row}\n" for row in rows))

    @property
    def num_looks(self) -> int:
        """How often squeue was called."""
        file = self.folder / "squeue.calls"
        return len(file.read_text().splitlines()) if file.exists() else 0

    @property
    def count(self) -> int:
        """Number of arrays and jobs."""
        return len(list(self.folder.glob("*.sh")))

    @property
    def cancelled(self) -> str:
        """Job ids given to scancel."""
        file = self.folder / "cancelled"
        return file.read_text() if file.exists() else ""


@pytest.fixture
def fake_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """A Slurm that takes everything (up to job `FAKE_SLURM_REFUSE`) and runs nothing; MaxArraySize is 3."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    programs = {
        "sbatch": f"""
            n=$(ls {folder}/*.sh 2> /dev/null | wc -l); n=$((n + 1))
            [ "$n" = "$FAKE_SLURM_REFUSE" ] && {{ echo 'sbatch: error: invalid partition' >&2; exit 1; }}
            cp "${{@: -1}}" {folder}/$n.sh; env > {folder}/$n.env; echo "Submitted batch job $n" """,
        "srun": "exit 0",
        "squeue": f"""
            echo "$*" >> {folder}/squeue.calls
            case "$*" in *%k*) cat {folder}/comments;; *) cat {folder}/queue;; esac 2> /dev/null; exit 0""",
        "scontrol": 'echo "MaxArraySize            = ${FAKE_SLURM_MAX_ARRAY:-3}"',
        "scancel": f'echo "$*" > {folder}/cancelled',
        "sacct": "echo 'accounting storage is disabled' >&2; exit 1",
    }
    fake = FakeSlurm(folder)
    for name, text in programs.items():
        fake.program(name, text)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return fake


ACTIVE = ("PENDING", "RUNNING")
TIMED_OUT = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
FINISHED = b'{"status": "finished", "step": 3, "num_steps": 3, "epsilon": null, "target_epsilon": null}'
# Asks the site, which answers with the code of the end on a line, and what to print.
ASK = """exec 3<> /dev/tcp/127.0.0.1/{port}
printf '%s\\n' {name} "$@" '' >&3
read -r code <&3
[ "$code" = 0 ] && cat <&3 || cat <&3 >&2
exit "$code\""""


@dataclass
class Element:
    """A job of the site: one element of an array."""

    job_id: str
    state: str = "PENDING"
    node: str = ""
    attempt: int = 1
    ended: int = 0  # the step at which it ended
    task: Task | None = None  # once it has run


@dataclass
class Array:
    """What one call of sbatch queued."""

    array_id: str
    tag: str
    script: str
    elements: list[Element]
    at_once: int
    needs: list[tuple[str, str]]  # a word of Slurm's, and the id of an array or element

    @property
    def folder(self) -> Path:
        """Where submitit keeps its calls and results."""
        found = re.search(r"^#SBATCH --output=(.*)$", self.script, re.MULTILINE)
        assert found is not None
        return Path(found[1].strip("'\"")).parent


@dataclass
class FakeSite(FakeSlurm):
    """A cluster that moves when it is told to, or a bit at each call of its programs, by a random generator.

    What its jobs leave is what a finished task leaves; nothing is computed. Dependencies, arrays, throttles, requeues
    and states are those of Slurm's manual pages, written without a look at dpdt. `made` is what really happened.
    """

    study: Study
    before: dict[Task, tuple[Task, ...]]  # what each task needs
    rng: random.Random
    num_nodes: int = 2000
    forget_steps: int = 3  # after so many, squeue knows an ended job no more
    accounting: bool = False
    moves: bool = False  # whether jobs go on while dpdt asks
    fails: float = 0.0  # how often a job fails, its node fails, or it is preempted
    breaks: float = 0.0  # how often a program fails or times out
    delay_s: float = 0.0  # of each answer
    late_steps: int = 0  # a shared disk shows files so many steps late
    arrays: dict[str, Array] = field(default_factory=dict)
    made: dict[Task, int] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)  # what may never happen
    calls: list[str] = field(default_factory=list)
    hidden: list[tuple[int, Callable[[], object]]] = field(default_factory=list)
    now: int = 0

    def elements(self) -> Iterator[tuple[Array, Element]]:
        """All jobs."""
        return ((array, element) for array in self.arrays.values() for element in array.elements)

    def active(self) -> dict[str, Element]:
        """Jobs that wait or run, by id."""
        return {element.job_id: element for _, element in self.elements() if element.state in ACTIVE}

    def task_of(self, array: Array, element: Element) -> Task | None:
        """What a job does; None where it lost its call."""
        file = array.folder / f"{element.job_id}_submitted.pkl"
        if element.task is None and file.exists():
            element.task = DelayedSubmission.load(file).function.task
        return element.task

    def answer(self, name: str, words: list[str]) -> tuple[int, str]:
        """What a program of Slurm says: the code of its end and its words."""
        self.calls.append(name)
        time.sleep(self.delay_s)
        if self.moves:
            self.step()
        breaks = self.rng.random() < self.breaks
        if name == "scontrol":
            return 0, "MaxArraySize            = 1001\n"
        if name == "sbatch":
            lost = breaks and self.rng.random() < 0.5  # the answer, but not the job
            job_id = "" if breaks and not lost else self._queue(words)
            return (1, TIMED_OUT) if breaks else (0, f"{job_id}\n")
        if breaks or (name == "sacct" and not self.accounting):
            return 1, f"{name}: error: Unable to contact slurm controller"
        if name == "scancel":
            for array, element in self.elements():
                if element.state in ACTIVE and not {element.job_id, array.array_id}.isdisjoint(words):
                    self._end(element, "CANCELLED")
            return 0, ""
        if name == "sacct":
            wanted = next(word for word in words if word.startswith("--jobs=")).removeprefix("--jobs=").split(",")
            rows = [(e.job_id, e.state, e.node) for a, e in self.elements() if a.array_id in wanted]
            return 0, "".join(f"{'|'.join(row)}\n" for row in rows)
        known = [(a, e) for a, e in self.elements() if e.state in ACTIVE or self.now - e.ended < self.forget_steps]
        if any("%k" in word for word in words):
            return 0, "".join(f"{a.array_id}|{e.state}|{a.tag}\n" for a, e in known if e.state in ACTIVE)
        return 0, "".join(f"{e.job_id}|{e.state}|None|{e.node}\n" for _, e in known)

    def _queue(self, words: list[str]) -> str:
        """What sbatch does."""
        script = Path(words[-1]).read_text()
        options = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", script, re.MULTILINE))
        array_id = str(len(self.arrays) + 1)
        last, _, at_once = options.get("array", "").removeprefix("0-").partition("%")
        ids = [f"{array_id}_{number}" for number in range(int(last) + 1)] if last else [array_id]
        needs = [
            (word, one)
            for condition in filter(None, options.get("dependency", "").split(","))
            for word, *others in [condition.split(":")]
            for one in others
        ]
        tag = next(word for word in words if word.startswith("--comment=")).removeprefix("--comment=")
        elements = [Element(one) for one in ids]
        self.arrays[array_id] = Array(array_id, tag, script, elements, int(at_once or 1), needs)
        return array_id

    def step(self, number: int = 1) -> None:
        """Let jobs end, wait on, be lost or begin."""
        for _ in range(number):
            self.now += 1
            due = [show for when, show in self.hidden if when <= self.now]
            self.hidden = [(when, show) for when, show in self.hidden if when > self.now]
            for show in due:
                show()
            running = [(array, element) for array, element in self.elements() if element.state == "RUNNING"]
            for array, element in running:
                if self.rng.random() < 0.5:
                    self._run(array, element)
            free = self.num_nodes - len([1 for _, element in running if element.state == "RUNNING"])
            for array in self.arrays.values():
                waiting = [element for element in array.elements if element.state == "PENDING"]
                room = min(free, array.at_once - sum(element.state == "RUNNING" for element in array.elements))
                ready = self._ready(array) if waiting else {}
                for element in waiting:
                    holds = ready[element.job_id] if len(ready) > 1 else next(iter(ready.values()))
                    if holds is False:  # --kill-on-invalid-dep
                        self._end(element, "CANCELLED")
                    elif holds and room > 0:
                        element.state, element.node = "RUNNING", f"node{self.rng.randrange(self.num_nodes)}"
                        room, free = room - 1, free - 1

    def _ready(self, array: Array) -> dict[str, bool | None]:
        """Whether what an array's elements wait for has happened (None: not yet, False: never will)."""
        whole: list[bool | None] = []
        each: dict[str, list[bool | None]] = {element.job_id: [] for element in array.elements}
        for word, one in array.needs:
            before = self.arrays[one.split("_")[0]].elements
            if word == "aftercorr":
                of = {element.job_id.partition("_")[2]: element for element in before}
                for job_id, found in each.items():
                    found.append(_held("afterok", [of[job_id.partition("_")[2]]]))
            else:
                whole.append(_held(word, [e for e in before if one in (e.job_id, e.job_id.split("_")[0])]))
        return {job_id: _all([*whole, *found]) for job_id, found in each.items()}

    def _run(self, array: Array, element: Element) -> None:
        """End an attempt of a job, well or not."""
        call_file = array.folder / f"{element.job_id}_submitted.pkl"
        if not call_file.exists():  # taken back, or not yet in place
            if not array.folder.exists():
                self._end(element, "FAILED")
            return
        call = DelayedSubmission.load(call_file).function
        task, attempt = call.task, Attempt(element.attempt, element.node, float(self.now), None)
        element.task = task
        attempts, result = attempts_file(array.folder, element.job_id), array.folder / f"{element.job_id}_0_result.pkl"
        result.unlink(missing_ok=True)
        (array.folder / f"{element.job_id}_0_log.out").write_text(f"== {task.label}\n")
        begin_attempt(attempts, attempt)
        if element.attempt > call.limits.max_attempts:
            stop_attempt(attempts, attempt, "too many attempts")
            result.write_bytes(pickle.dumps(("error", "dpdt.errors.ClusterError: too many attempts")))
            return self._end(element, "FAILED")
        luck = self.rng.random() / self.fails if self.fails else 9.0
        if luck < 0.5:  # preempted, or its node failed: Slurm queues it again
            if luck < 0.3:
                stop_attempt(attempts, attempt, "preempted")
                end_attempt(attempts, attempt, "stopped", None)
            element.state, element.attempt = "PENDING", element.attempt + 1
        elif luck < 0.6:
            self._end(element, "NODE_FAIL")
        elif luck < 1.0:
            self._write(result, pickle.dumps(("error", "Traceback\nValueError: bad luck")))
            self._end(element, "FAILED")
        elif missing := [one for one in self.before[task] if one not in self.made and task.stage not in LAST_STAGES]:
            early = [a for a, e in self.elements() if self.task_of(a, e) in missing and e.state in ACTIVE]
            if any(int(other.array_id) < int(array.array_id) for other in early):
                self.broken.append(f"{task.label} did not wait for {missing[0].label}")
            self._write(result, pickle.dumps(("error", "Traceback\nShardError: nothing there")))
            self._end(element, "FAILED")
        else:
            self._work(call.study_file, task)
            self._write(result, pickle.dumps(("success", None)))
            end_attempt(attempts, attempt, "done", None)
            self._end(element, "COMPLETED")

    def _work(self, study_file: str, task: Task) -> None:
        """What the task does: nothing if it is done, which its own node sees at once."""
        if task.stage in LAST_STAGES:
            run_task(study_file, task)
        elif task not in self.made:
            self.made[task] = self.now
            if all(replace(task, part=part) in self.made for part in range(task.num_parts)):
                self._write(result_file(self.study, task), FINISHED)

    def _write(self, file: Path, data: bytes) -> None:
        """Write a file so that it is seen now, or some steps later."""

        def show() -> None:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)

        steps = self.rng.randint(0, self.late_steps)
        if steps:
            self.hidden.append((self.now + steps, show))
        else:
            show()

    def _end(self, element: Element, state: str) -> None:
        element.state, element.ended = state, self.now


def result_file(study: Study, task: Task) -> Path:
    """By which a stand-in for a stage knows that a task is done (fake_parts)."""
    paths = study.paths
    if task.stage == "cohort":
        return paths.cohort_record(task.key)
    if task.stage == "shards":
        return paths.shards(task.key).manifest
    return paths.run(task.key).metrics if task.stage == "evaluate" else paths.run(task.key).state


def _held(word: str, before: Sequence[Element]) -> bool | None:
    """Whether a condition on jobs holds: not yet (None), or never any more (False)."""
    if word == "afterok" and any(element.state not in (*ACTIVE, "COMPLETED") for element in before):
        return False
    return None if any(element.state in ACTIVE for element in before) else True


def _all(found: Sequence[bool | None]) -> bool | None:
    """All of several conditions."""
    return False if False in found else None if None in found else True


@pytest.fixture
def make_site(fake_slurm: FakeSlurm) -> Iterator[Callable[..., FakeSite]]:
    """Make a site for a study; its programs are on the path."""
    sites: list[FakeSite] = []

    class Answer(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            name, *words = iter(lambda: self.rfile.readline().decode().removesuffix("\n"), "")
            code, text = sites[-1].answer(name, words)
            self.wfile.write(f"{code}\n{text}".encode())

    def make(study: Study, seed: int, **options: Any) -> FakeSite:
        sites.append(FakeSite(fake_slurm.folder, study, needs(study), random.Random(seed), **options))
        return sites[-1]

    with socketserver.TCPServer(("127.0.0.1", 0), Answer) as server:
        for name in ("sbatch", "squeue", "sacct", "scancel", "scontrol"):
            fake_slurm.program(name, ASK.format(port=server.server_address[1], name=name))
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield make
        server.shutdown()
        thread.join()
