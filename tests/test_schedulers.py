"""A scheduler that dpdt does not have, added as a class and a row: all that is asked of a scheduler works with it."""

from collections.abc import Callable, Collection, Mapping
from typing import get_args

import pytest

from dpdt.errors import StudyError
from dpdt.jobs.job_states import JobStates
from dpdt.jobs.outcomes import Outcomes
from dpdt.jobs.scheduler import Scheduler
from dpdt.jobs.schedulers import SCHEDULERS, Cluster, Registered
from dpdt.jobs.selection import Plan, StagePlan
from dpdt.jobs.status import study_status
from dpdt.jobs.submissions import Job, Jobs, Submission, latest_jobs
from dpdt.jobs.submit import cancel, submit
from dpdt.study import Study
from dpdt.study.tasks import Task

MakeStudy = Callable[..., Study]


class PaperStates(JobStates):
    """Everything waits."""

    def state(self, job: Job) -> tuple[str, str]:
        return "waiting", f"sheet {job.job_id}"

    def node(self, job: Job) -> str:
        return "desk"


class PaperScheduler(Scheduler):
    """Tasks on sheets of paper that nobody reads."""

    def queued(self) -> dict[Task, Job]:
        return {task: job for task, (_, job) in latest_jobs(self.study).items() if job.cluster == "paper"}

    def run(self, plan: Plan, submission: Submission, *, queued: Mapping[Task, Job], wait: bool) -> Outcomes:
        folder = submission.paths.folder
        submission.add(
            [
                Job(task, str(number), folder / f"{number}.log", folder / f"{number}.pkl", "paper")
                for number, task in enumerate(plan.send)
            ]
        )
        return Outcomes()

    def asked(self, stage: StagePlan) -> tuple[object, ...]:
        return "", 1, "one pen", "", "", ""

    def states(self, jobs: Jobs) -> PaperStates:
        return PaperStates(jobs)

    def cancel(self, tasks: Collection[Task] | None = None) -> list[Task]:
        return [task for task in self.queued() if tasks is None or task in tasks]


@pytest.fixture
def paper(monkeypatch: pytest.MonkeyPatch) -> None:
    """The row of the registry."""
    row = Registered(f"{__name__}:PaperScheduler", "on sheets of paper", waits=False)
    monkeypatch.setitem(SCHEDULERS, "paper", row)  # type: ignore[arg-type]


def test_the_words_for_cluster_are_those_of_the_registry() -> None:
    assert get_args(Cluster) == tuple(SCHEDULERS)


def test_a_new_scheduler_is_sent_tasks_once_and_asked_for_their_states(
    make_fake_study: MakeStudy, paper: None, capsys: pytest.CaptureFixture[str]
) -> None:
    study = make_fake_study()
    summary = submit(study, cluster="paper", stages=["cohort", "shards"])  # type: ignore[arg-type]
    assert (summary.sent, summary.finished) == (6, 0)
    assert "6 tasks sent to paper" in capsys.readouterr().out
    rows = {row["name"]: row for row in study_status(study)}
    first = rows["cohort-a"]
    assert (first["state"], first["note"], first["node"], first["job"]) == ("waiting", "sheet 0", "desk", "0")
    assert rows["pretrain-" + study.pretrain_run_id]["state"] == "to do"

    again = submit(study, cluster="paper", stages=["cohort", "shards"])  # type: ignore[arg-type]
    assert (again.sent, again.queued) == (0, 6)


def test_a_dry_run_shows_what_a_new_scheduler_says(
    make_fake_study: MakeStudy, paper: None, capsys: pytest.CaptureFixture[str]
) -> None:
    submit(make_fake_study(), cluster="paper", stages=["cohort"], dry_run=True)  # type: ignore[arg-type]
    shown = capsys.readouterr().out
    assert "would be sent with --cluster paper" in shown
    assert "one pen" in shown


def test_jobs_are_taken_back_from_the_scheduler_that_has_them(make_fake_study: MakeStudy, paper: None) -> None:
    study = make_fake_study()
    submit(study, cluster="paper", stages=["cohort"])  # type: ignore[arg-type]
    wanted = Task("cohort", "b")
    assert cancel(study, [wanted]) == [wanted]  # and nobody asks Slurm, which is not here
    assert len(cancel(study)) == 3


def test_messages_name_a_new_scheduler_too(make_fake_study: MakeStudy, paper: None) -> None:
    with pytest.raises(StudyError, match=r"expected slurm, .* or paper, got 'pbs'"):
        submit(make_fake_study(), cluster="pbs")  # type: ignore[arg-type]
    with pytest.raises(StudyError, match=r"--no-wait goes with --cluster slurm.* or paper only: local runs"):
        submit(make_fake_study(), cluster="local", wait=False)
