"""A site of 2,000 nodes on which everything goes wrong: ten thousand tasks, and random histories of small studies."""

import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from dpdt.errors import ClusterError
from dpdt.jobs.status import study_status
from dpdt.jobs.submissions import latest_jobs
from dpdt.jobs.submit import cancel, submit
from dpdt.study import Study
from dpdt.study.tasks import LAST_STAGES, STAGES, Task
from tests.fake_slurm import FakeSite

MakeStudy = Callable[..., Study]
MakeSite = Callable[..., FakeSite]
ROUNDS = 8  # of sending again, within which a site without faults must finish a study


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpdt.jobs.slurm.sbatch.PAUSE_SECONDS", 0.0)


@pytest.mark.slow
def test_ten_thousand_tasks_are_sent_in_30_seconds_and_looked_at_in_five(
    make_fake_study: MakeStudy, make_site: MakeSite
) -> None:
    seeds = f"[train]\nseeds = {list(range(1200))}\n"
    study = make_fake_study(f"[cluster]\nshard_tasks = 131\narray_parallelism = 1000\n{seeds}")
    site = make_site(study, 0, late_steps=2, delay_s=0.2)
    took: dict[str, float] = {}

    def clocked(name: str, call: Callable[[], Any]) -> Any:
        calls, begun = len(site.calls), time.perf_counter()
        found = call()
        took[name] = time.perf_counter() - begun
        looks = 2 if name == "retry" else 1  # at what failed, and, with the study claimed, at what is in the queue
        assert site.calls[calls:].count("squeue") == looks
        return found

    assert clocked("submit", lambda: submit(study, cluster="slurm")).sent == 10_000
    assert Counter(site.calls)["sbatch"] == 20  # MaxArraySize is 1001
    while not any(task.stage == "evaluate" for task in site.made):
        site.step()
    site.fails = 0.3
    site.step(4)
    rows = clocked("status", lambda: study_status(study))
    states = Counter(row["state"] for row in rows)
    assert states["waiting"] + states["running"] == len(site.active())
    assert min(states["done"], states["running"], states["failed"]) > 100, states
    site.accounting, site.forget_steps = True, 0
    clocked("cancel", lambda: cancel(study))
    assert not site.active()
    states = Counter(row["state"] for row in clocked("status after it", lambda: study_status(study)))
    assert states["waiting"] + states["running"] == 0
    site.step(3)  # the disk has shown everything
    clocked("retry", lambda: submit(study, cluster="slurm", retry_failed=True))
    assert len(site.active()) == sum(task not in site.made for task in site.before)
    print({name: round(seconds, 1) for name, seconds in took.items()}, states)
    # the goal for a status is 3 s: 3.2 to 4.2 s were measured on two busy cores, so here the limit is wider
    limits = {"submit": 30, "status": 5, "cancel": 30, "status after it": 5, "retry": 30}
    assert {name: took[name] for name, limit in limits.items() if took[name] > limit} == {}


class History:
    """What somebody does to a study on a bad site, by a seed; whatever dpdt says is held against what happened."""

    def __init__(self, study: Study, site: FakeSite, seed: int) -> None:
        self.study, self.site, self.rng = study, site, random.Random(seed)
        self.said: list[str] = []

    def run(self) -> None:
        """Some commands at random, then the way to the end."""
        for _ in range(self.rng.randint(3, 10)):
            self.command()
            self.site.step(self.rng.randint(0, 6))
            self.look()
        self.site.fails = self.site.breaks = 0.0
        for _ in range(ROUNDS):
            self.submit()
            self.site.moves = False
            for _ in range(200):
                self.site.step()
                if not self.site.active() and not self.site.hidden:
                    break
            self.look()
            if {row["state"] for row in study_status(self.study)} == {"done"}:
                break
        else:
            pytest.fail(f"tasks lost: {[row for row in study_status(self.study) if row['state'] != 'done']}")

    def command(self) -> None:
        """One command, with its own promise."""
        what = self.rng.choice(["submit", "submit", "stages", "retry", "cancel", "cancel some"])
        if what == "cancel":
            self.cancel(None)
        elif what == "cancel some":
            every = list(self.site.before)
            self.cancel(self.rng.sample(every, self.rng.randint(1, 4)))
        elif what == "stages":
            self.submit(stages=self.rng.sample(STAGES, self.rng.randint(1, 4)))
        else:
            self.submit(retry_failed=what == "retry")

    def submit(self, **options: object) -> None:
        """Send; whatever comes of it, no task is twice in the queue, and what was taken back is not there."""
        before = set(self.site.active())
        self.said.append(f"submit {options}")
        error = ""
        try:
            submit(self.study, cluster="slurm", **options)  # type: ignore[arg-type]
        except ClusterError as err:
            error = str(err)
            self.said.append(error)
        left = set(self.site.active()) - before
        assert "Nothing of this submission is left" not in error or not left, f"{left} left: {error}"
        active = self.queued()
        quiet = not self.site.moves and not options and not error
        lost = [task.label for task in self.site.before if task not in active and not self.is_made(task)]
        assert not (quiet and lost), f"neither done nor sent: {lost}"

    def cancel(self, tasks: list[Task] | None) -> None:
        """Cancel; what was cancelled is not in the queue."""
        self.said.append(f"cancel {tasks and [task.label for task in tasks]}")
        try:
            cancelled = cancel(self.study, tasks)
        except ClusterError as err:
            self.said.append(str(err))
            return
        still = {task for task in self.queued() if tasks is None or task in tasks}
        assert not still, f"{still} in the queue after {cancelled} were cancelled"

    def queued(self) -> set[Task]:
        """Tasks that the site has in its queue, by dpdt's record of ids; each of them once."""
        recorded = {job.job_id: task for task, (_, job) in latest_jobs(self.study).items()}
        active = {job_id: recorded.get(job_id) for job_id in self.site.active()}
        found: Counter[Task] = Counter()
        for array, element in self.site.elements():
            if element.job_id in active:
                task = self.site.task_of(array, element) or active[element.job_id]
                found.update([task] if task else [])
        twice = [task.label for task, number in found.items() if number > 1 and task.stage not in LAST_STAGES]
        assert not twice, f"twice in the queue: {twice}"
        return set(found)

    def is_made(self, task: Task) -> bool:
        """Whether it was really done; the report and MLflow are done anew when there is more to show."""
        return task in self.site.made or task.stage in LAST_STAGES

    def look(self) -> None:
        """The status, from one call of squeue, against what happened."""
        calls = len(self.site.calls)
        moves, self.site.moves = self.site.moves, False
        rows = {(row["name"]): row for row in study_status(self.study)}
        self.site.moves = moves
        asked = Counter(self.site.calls[calls:])
        assert asked["squeue"] == (1 if latest_jobs(self.study) else 0), asked
        assert not self.site.broken, self.site.broken
        unanswered = any("squeue does not answer" in str(row["note"]) for row in rows.values())
        active = self.queued()
        for task in self.site.before:
            state, shown = rows[task.name]["state"], (rows[task.name], self.site.now)
            if task.stage in LAST_STAGES:
                continue
            if state == "done":
                assert task in self.site.made, f"not done: {shown}"
            elif task in self.site.made and not self.site.hidden:
                others = [one for one in self.site.before if (one.stage, one.key) == (task.stage, task.key)]
                assert not self.site.made.keys() >= set(others), f"done: {shown}"
            if state != "done" and not unanswered:
                assert (state in ("waiting", "running")) == (task in active), f"{task in active} {shown}"


@pytest.mark.slow
@pytest.mark.parametrize("first", [0, *(pytest.param(n, marks=pytest.mark.long) for n in range(25, 1000, 75))])
def test_no_task_is_lost_or_done_twice_in_random_histories(
    make_fake_study: MakeStudy, make_site: MakeSite, first: int
) -> None:
    for seed in range(first, first + 75 if first else 25):
        one_history(make_fake_study, make_site, seed)


def one_history(make_fake_study: MakeStudy, make_site: MakeSite, seed: int) -> None:
    """A small study of its own folder."""
    rng = random.Random(seed)
    more = f'[study]\nname = "history-{seed}"\nfolder = "out-{seed}"\n'
    more += f"[cluster]\nmax_attempts = 3\nshard_tasks = {rng.randint(1, 2)}\narray_parallelism = {rng.randint(1, 8)}\n"
    study = make_fake_study(more)
    site = make_site(
        study,
        seed,
        num_nodes=rng.choice([3, 2000]),
        accounting=rng.random() < 0.5,
        moves=rng.random() < 0.5,
        fails=rng.choice([0.0, 0.2, 0.5]),
        breaks=rng.choice([0.0, 0.0, 0.1, 0.3]),
        late_steps=rng.choice([0, 0, 4]),
        forget_steps=rng.choice([1, 3, 20]),
    )
    history = History(study, site, seed)
    try:
        history.run()
    except (AssertionError, pytest.fail.Exception) as err:
        raise AssertionError(f"history of seed {seed}: {err}\n" + "\n".join(history.said)) from err
