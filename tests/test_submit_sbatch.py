"""What sbatch answers, and what it does not: programs that stand for it, banners, wrappers and time-outs."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from dpdt.errors import ClusterError
from dpdt.jobs.status import study_status
from dpdt.jobs.submit import submit
from dpdt.study import Study
from tests.fake_slurm import FakeSlurm

MakeStudy = Callable[..., Study]
TIMED_OUT = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpdt.jobs.slurm.sbatch.PAUSE_SECONDS", 0.0)


def sbatch(fake: FakeSlurm, *lines: str) -> None:
    """An sbatch that counts its calls, notes the tag, and does what the lines say; $n is the number of the call."""
    tell = f"n=$(($(cat {fake.folder}/calls 2> /dev/null || echo 0) + 1)); echo $n > {fake.folder}/calls"
    tag = "for word; do case $word in --comment=*) tag=${word#--comment=};; esac; done"
    fake.program(
        "sbatch",
        "\n".join([tell, tag, f'queue() {{ echo "$1|${{2-PENDING}}|$tag" >> {fake.folder}/comments; }}', *lines]),
    )


def job_ids(study: Study) -> set[str]:
    """Ids of the jobs that dpdt believes to have sent."""
    return {str(row["job"]) for row in study_status(study) if row["job"]}


@pytest.mark.parametrize(
    ("answer", "job"),
    [
        ("echo 17", "17"),
        ("echo '17;alpha'", "17"),
        ("echo 'Welcome! You are job 3 of 50 today.'; echo 17", "17"),
        ("echo '17'; echo 'Thank you. See job 3'", "17"),
        ("echo 'Submitted batch job 17'", "17"),
        ("echo 'Submitted batch job 17 on cluster alpha'", "17"),
    ],
)
def test_the_id_is_a_line_of_its_own_and_no_other_number(
    make_fake_study: MakeStudy, fake_slurm: FakeSlurm, answer: str, job: str
) -> None:
    sbatch(fake_slurm, answer)
    study = make_fake_study()
    submit(study, cluster="slurm", stages=["cohort"])
    assert job_ids(study) == {f"{job}_0", f"{job}_1", f"{job}_2"}


def test_an_answer_that_is_no_id_is_asked_for_by_the_tag(make_fake_study: MakeStudy, fake_slurm: FakeSlurm) -> None:
    sbatch(fake_slurm, "queue 23; echo 'Your job has been accepted, number 99.'")
    study = make_fake_study()
    submit(study, cluster="slurm", stages=["cohort"])
    assert job_ids(study) == {"23_0", "23_1", "23_2"}
    sbatch(fake_slurm, "echo 'Your job has been accepted, number 99.'")
    (fake_slurm.folder / "comments").unlink()
    with pytest.raises(
        ClusterError, match=r"sbatch said 'Your job has been accepted, number 99\.', which is no job id"
    ):
        submit(study, cluster="slurm", stages=["cohort"])


def test_a_job_that_is_queued_though_sbatch_timed_out_is_not_sent_twice(
    make_fake_study: MakeStudy, fake_slurm: FakeSlurm
) -> None:
    sbatch(fake_slurm, f"queue 31; echo '{TIMED_OUT}' >&2; exit 1")
    study = make_fake_study()
    submit(study, cluster="slurm", stages=["cohort"])
    assert job_ids(study) == {"31_0", "31_1", "31_2"}
    assert (fake_slurm.folder / "calls").read_text() == "1\n"


def test_a_job_that_slurm_shows_though_it_refused_it_is_not_taken_for_a_sent_one(
    make_fake_study: MakeStudy, fake_slurm: FakeSlurm
) -> None:
    sbatch(
        fake_slurm, "queue 35 FAILED; echo 'sbatch: error: Requested node configuration is not available' >&2; exit 1"
    )
    with pytest.raises(ClusterError, match=r"^Slurm refused a job: Requested node configuration is not available\."):
        submit(make_fake_study(), cluster="slurm", stages=["cohort"])


def test_a_time_out_that_queued_nothing_is_tried_again(make_fake_study: MakeStudy, fake_slurm: FakeSlurm) -> None:
    sbatch(fake_slurm, f"[ $n -ge 3 ] || {{ echo '{TIMED_OUT}' >&2; exit 1; }}", "echo 40")
    study = make_fake_study()
    submit(study, cluster="slurm", stages=["cohort"])
    assert job_ids(study) == {"40_0", "40_1", "40_2"}
    sbatch(fake_slurm, f"echo '{TIMED_OUT}' >&2; exit 1")
    with pytest.raises(
        ClusterError, match=r"Socket timed out on send/recv operation\. Nothing of this submission is left"
    ):
        submit(study, cluster="slurm", stages=["shards"])


def test_what_is_not_known_is_not_called_nothing(make_fake_study: MakeStudy, fake_slurm: FakeSlurm) -> None:
    sbatch(fake_slurm, f"rm {fake_slurm.folder}/squeue; echo '{TIMED_OUT}' >&2; exit 1")
    with pytest.raises(
        ClusterError, match=r"did not say whether the job is queued \(Batch .*squeue does not answer\. Look"
    ):
        submit(make_fake_study(), cluster="slurm", stages=["cohort"])


def test_all_that_sbatch_complains_about_is_told_and_what_cannot_be_cancelled_too(
    make_fake_study: MakeStudy, fake_slurm: FakeSlurm
) -> None:
    reason = (
        "sbatch: error: Please name a project with --account\nsbatch: error: Batch job submission failed: Unspecified"
    )
    sbatch(fake_slurm, f"[ $n = 1 ] && echo 50 || {{ printf '{reason}' >&2; exit 1; }}")
    fake_slurm.program("scancel", "echo 'scancel: error: Kill job error on job id 50: Timed out' >&2; exit 1")
    study = make_fake_study()
    with pytest.raises(
        ClusterError,
        match=r"^Slurm refused a job: Please name a project with --account; Batch job submission failed: Unspecified\. "
        r"Jobs 50 could not be cancelled \(Kill job error on job id 50: Timed out\); `dpdt cancel` tries again\.",
    ):
        submit(study, cluster="slurm")
    assert job_ids(study) == {"50_0", "50_1", "50_2"}  # `dpdt cancel` knows them


def test_a_site_has_its_own_lines(make_fake_study: MakeStudy, fake_slurm: FakeSlurm) -> None:
    (profile := make_fake_study().file.parent / "site.toml").write_text(
        "gpus_per_task = 2\n[extra]\nmem = false\nmem_per_cpu = '2G'\nnice = 5\n"
        "[stages.train.extra]\ngpus-per-node = false\ngres = 'gpu:a100:2'\nexclusive = true\n"
    )
    study = make_fake_study(f"[cluster]\nprofile = '{profile}'\nextra = {{ nice = 9, mem-per-cpu = '4G' }}\n")
    submit(study, cluster="slurm", stages=["train", "cohort"])  # `_` or `-`: one name
    cohort, train = (
        next(options for n in range(1, fake_slurm.count + 1) if (options := fake_slurm.options(n))["job-name"] == name)
        for name in ("dpdt-cohort", "dpdt-train")
    )
    assert (cohort["mem-per-cpu"], cohort["nice"], train["gres"], train["exclusive"]) == ("4G", "9", "gpu:a100:2", "")
    assert {"mem", "gres"}.isdisjoint(cohort)
    assert {"mem", "gpus-per-node"}.isdisjoint(train)


def test_the_example_of_a_reservation_and_mail_in_the_docs_reaches_sbatch(
    make_fake_study: MakeStudy, fake_slurm: FakeSlurm
) -> None:
    docs = (Path(__file__).parents[1] / "docs" / "slurm.md").read_text()
    (example,) = re.findall(r"```toml\n(\[cluster\]\nextra = .*\n)```", docs)
    submit(make_fake_study(example), cluster="slurm", stages=["cohort"])
    wanted = {"reservation": "lung", "mail-type": "END,FAIL", "mail-user": "me@example.org"}  # names of sbatch(1)
    assert wanted.items() <= fake_slurm.options(1).items()
