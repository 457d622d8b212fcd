"""A Slurm with accounting: what left its memory is still known."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from dpdt.base.files import read_json
from dpdt.jobs.doctor.cluster import check_cluster
from dpdt.jobs.slurm.cancel import cancel
from dpdt.jobs.slurm.queue import read_accounting
from dpdt.jobs.status import study_status
from dpdt.jobs.submit import submit
from dpdt.study import Study
from tests.waiting import wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("accounting_cluster")]

CLUSTER = '[cluster]\npartition = "low"\nmem_gb = 0.5\ntimeout_min = 10\ncpus_per_task = 1\n'


def test_a_cancelled_job_is_known_when_squeue_has_forgotten_it(
    make_fake_study: Callable[..., Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_fake_study(CLUSTER, seconds=60)
    checks = {check.name: check for check in check_cluster(study, probe=True)}
    assert {check.state for check in checks.values()} <= {"good", "note"}, checks
    assert checks["accounting"].state == checks["a node for cohort"].state == "good"
    assert "sees the study and its data, may write, locks hold" in checks["a node for cohort"].found

    submit(study, cluster="slurm", stages=["cohort"])
    wait_until(lambda: {row["state"] for row in study_status(study)[:3]} == {"running"})
    jobs = [row["job"] for row in study_status(study)[:3]]
    assert len(cancel(study)) == 3
    wait_until(lambda: {row.state for row in (read_accounting(jobs) or {}).values()} == {"CANCELLED"})

    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "squeue").write_text("#!/bin/bash\nexit 0\n")
    (tmp_path / "bin" / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}", prepend=":")
    assert subprocess.run(["squeue"], capture_output=True).stdout == b""
    wait_until(lambda: {row["state"] for row in study_status(study)[:3]} == {"stopped"})  # the last process is gone
    rows = study_status(study)[:3]
    assert {row["note"] for row in rows} == {"cancelled by dpdt cancel; sent again, it goes on"}
    (kept,) = study.paths.jobs.glob("2*/ended.json")
    assert set(read_json(kept)) == set(jobs)
