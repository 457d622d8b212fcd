"""Large studies: slices of shards, arrays that Slurm would refuse, one throttle, and how long it takes."""

import re
import time
from collections.abc import Callable

import pytest

from dpdt.jobs.stages import run_stage
from dpdt.jobs.status import study_status
from dpdt.jobs.submit import submit
from dpdt.study import Study
from dpdt.study.tasks import tasks
from tests.fake_slurm import FakeSlurm

MakeStudy = Callable[..., Study]


def seeds(number: int) -> str:
    """A section with so many seeds: four cells each."""
    return f"[train]\nseeds = {list(range(number))}\n"


def test_a_domains_shards_are_made_by_several_tasks_and_all_of_them_are_waited_for(
    make_fake_study: MakeStudy, fake_slurm: FakeSlurm
) -> None:
    submit(make_fake_study("[cluster]\nshard_tasks = 2\n"), cluster="slurm", stages=["cohort", "shards", "train"])
    found = [fake_slurm.options(n) for n in range(1, fake_slurm.count + 1)]
    sent = [(o["job-name"].removeprefix("dpdt-"), o.get("array"), o.get("dependency")) for o in found]
    assert sent == [
        ("cohort", "0-2%3", None),
        ("shards", "0-1%2", "afterok:1_0"),
        ("shards", "0-1%2", "afterok:1_1"),
        ("shards", "0-1%2", "afterok:1_2"),
        ("train", "0-1%2", "afterok:2"),
        ("train", "0-1%2", "afterok:3"),
    ]


def test_several_arrays_of_a_stage_keep_to_one_throttle(make_fake_study: MakeStudy, fake_slurm: FakeSlurm) -> None:
    study = make_fake_study("[cluster]\nshard_tasks = 4\narray_parallelism = 2\n")
    submit(study, cluster="slurm", stages=["cohort", "shards"])
    found = [fake_slurm.options(n) for n in range(2, fake_slurm.count + 1)]  # an array takes three tasks at most here
    assert [(o.get("array"), o["dependency"]) for o in found] == [
        ("0-2%1", "afterok:1_0"),
        (None, "afterok:1_0"),
        ("0-2%1", "afterany:2,afterok:1_1"),  # two lanes, one task at a time in each
        (None, "afterany:3,afterok:1_1"),
        ("0-2%1", "afterany:4,afterok:1_2"),
        (None, "afterany:5,afterok:1_2"),
    ]


def test_slices_run_here_too_and_a_stage_by_hand_makes_whole_domains(make_fake_study: MakeStudy) -> None:
    study = make_fake_study("[cluster]\nshard_tasks = 2\n")
    names = [task.name for task in tasks(study, "shards")]
    assert names[:2] == ["shards-a-1of2", "shards-a-2of2"]
    summary = submit(study, cluster="debug", stages=["cohort", "shards"])
    assert (summary.sent, summary.finished) == (9, 9)
    run_stage(study, "shards", domains=["a"])


@pytest.mark.slow
def test_2500_tasks_are_sent_as_three_arrays_below_one_throttle(
    make_fake_study: MakeStudy, fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    # SL-07
    monkeypatch.setenv("FAKE_SLURM_MAX_ARRAY", "1001")
    study = make_fake_study("[cluster]\narray_parallelism = 64\n" + seeds(625))
    summary = submit(study, cluster="slurm", stages=["train"])
    found = [re.fullmatch(r"0-(\d+)%(\d+)", fake_slurm.options(n)["array"]) for n in (1, 2, 3)]
    last, at_once = zip(*((int(m[1]), int(m[2])) for m in found if m), strict=True)
    assert (summary.sent, fake_slurm.count) == (2500, 3)
    assert max(last) <= 1000  # MaxArraySize is the largest index plus one
    assert sum(last) + 3 == 2500
    assert sum(at_once) == 64


@pytest.mark.slow
def test_200_cells_and_600_slices_are_sent_in_ten_seconds_and_looked_at_in_two(
    make_fake_study: MakeStudy, fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_SLURM_MAX_ARRAY", "1001")
    study = make_fake_study("[cluster]\nshard_tasks = 200\n" + seeds(50))
    begun = time.perf_counter()
    summary = submit(study, cluster="slurm")
    sending = time.perf_counter() - begun
    assert summary.sent == 3 + 600 + 1 + 200 + 201 + 2
    looks = fake_slurm.num_looks
    fake_slurm.queue(*(f"{n}_{k}|PENDING|Dependency|" for n in range(1, 20) for k in range(200)))
    begun = time.perf_counter()
    rows = study_status(study)
    looking = time.perf_counter() - begun
    assert len(rows) == summary.sent
    assert fake_slurm.num_looks == looks + 1  # one call of squeue
    assert (sending < 10.0, looking < 2.0) == (True, True), f"{sending:.1f} s, {looking:.1f} s"
    print(f"sent in {sending:.2f} s, looked at in {looking:.2f} s")
