"""Images that were rejected are counted wherever images are counted: what is used is what a network saw."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dpdt.base.files import write_json
from dpdt.cohort.summary import count
from dpdt.cohort.table import read_cohort, read_record
from dpdt.jobs.plan.sizes import domain_size
from dpdt.jobs.submit import _tell_rejects
from dpdt.report.provenance import cohort, flows
from dpdt.shards.build import build_shards
from dpdt.shards.dataset import load_split
from dpdt.shards.reader import used_images
from dpdt.study import Study
from tests.small_images import make_study, picture


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Ten images of ten patients, six of train, of which one is cut and one is flat; 3 rows were excluded before."""
    names = [f"{number}.png" for number in range(10)]
    study = make_study(tmp_path, names, max_reject_fraction=0.5)
    for number, name in enumerate(names):
        Image.fromarray(picture(number)).save(tmp_path / "raw" / name)
    (tmp_path / "raw" / "0.png").write_bytes((tmp_path / "raw" / "0.png").read_bytes()[:400])
    Image.fromarray(np.full((20, 20), 7, np.uint8)).save(tmp_path / "raw" / "4.png")
    excluded = pd.DataFrame({"image_id": list("abc"), "view": "", "reason": "lateral view"})
    table = read_cohort(study, "vindr").assign(domain="vindr")
    pd.DataFrame(count(table, excluded, {})).to_csv(study.paths.cohort_summary, index=False)
    return study


def test_before_there_are_shards_the_cohort_is_what_is_known(study: Study) -> None:
    size = domain_size(study, "vindr", {})
    assert size is not None
    assert (size.images, size.train_images, size.source) == (10, 6, "cohort")
    found = cohort(study)
    assert found is not None
    assert found["flow"].rows == [["VinDr-CXR", "13", "3", "–", "10 (10)", "6 (6)", "2 (2)", "2 (2)"]]
    assert used_images(study, "vindr") is None


def test_rejected_images_are_in_the_flow_the_plan_and_at_the_end_of_submit(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    build_shards(study, "vindr")
    write_json(study.paths.cohort_record("vindr"), {**read_record(study, "vindr"), "split_sha256": "0" * 64})
    found = cohort(study)
    assert found is not None
    # Read 13 = excluded 3 + rejected 2 + used 8; the network sees 4 of the 6 images of train.
    assert found["flow"].columns[:5] == ["hospital", "rows read", "excluded", "rejected", "used"]
    assert found["flow"].rows == [["VinDr-CXR", "13", "3", "2", "8 (8)", "4 (4)", "2 (2)", "2 (2)"]]
    assert len(load_split(study, "vindr", "train")) == 4
    reasons = flows(study)["vindr"].query("step in ('excluded', 'rejected')")[["step", "what", "images"]]
    assert reasons.to_numpy().tolist() == [
        ["excluded", "lateral view", 3],
        ["rejected", "constant", 1],
        ["rejected", "truncated", 1],
    ]
    assert found["positives"].rows[0] == ["VinDr-CXR", "training", *["4"] * 5]
    size = domain_size(study, "vindr", {})
    assert size is not None
    assert (size.images, size.patients, size.train_images, size.source) == (8, 8, 4, "shards")
    capsys.readouterr()
    _tell_rejects(study)
    assert "vindr: 2 of 10 images were rejected (constant 1, truncated 1) and used nowhere: " in capsys.readouterr().err
