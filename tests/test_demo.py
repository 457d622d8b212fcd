"""The demo's study, also with few patients. The whole demo is run by `make demo` and, small, by `make image-test`."""

from pathlib import Path

import pytest

from dpdt.cohort.build import build_cohort
from dpdt.cohort.synthetic.demo_study import DEMO_STUDY, make_demo_study
from dpdt.cohort.table import read_cohort


@pytest.mark.parametrize("patients", [12, 40])
def test_batches_of_a_demo_with_few_patients_fit_into_its_train_split(tmp_path: Path, patients: int) -> None:
    study = make_demo_study(tmp_path, patients=patients)
    build_cohort(study, "mimic")
    cohort = read_cohort(study, "mimic")
    in_train = cohort.loc[cohort["split"] == "train", "patient_id"].nunique()
    assert 1 <= study.pretrain.expected_batch_size <= in_train
    assert study.train.expected_batch_size == study.pretrain.expected_batch_size


@pytest.mark.slow
def test_the_demo_that_is_shown_has_its_own_batch_size(tmp_path: Path) -> None:
    study = make_demo_study(tmp_path, patients=256)
    assert study.file.read_text() == DEMO_STUDY
    assert study.train.expected_batch_size == 64
