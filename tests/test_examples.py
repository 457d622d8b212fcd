"""Examples of images: of test patients alone, in a file that nothing sends, and only where the study says so."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dpdt.base.files import write_json
from dpdt.cohort.table import read_record
from dpdt.report.examples import write_examples
from dpdt.runs.up_to_date import is_current, stamped
from dpdt.shards.build import build_shards
from dpdt.shards.dataset import load_split
from dpdt.study import Study, load_study
from tests.small_images import make_study, picture


@pytest.fixture
def study(tmp_path: Path) -> Study:
    names = [f"{number}.png" for number in range(10)]
    study = make_study(tmp_path, names)
    for number, name in enumerate(names):
        Image.fromarray(picture(number)).save(tmp_path / "raw" / name)
    build_shards(study, "vindr")
    write_json(study.paths.cohort_record("vindr"), {**read_record(study, "vindr"), "split_sha256": "0" * 64})
    return load_study(study.file, overrides=["report.example_images=true"])


def test_the_images_are_those_of_test_patients_alone(study: Study) -> None:
    page = write_examples(study)
    assert page is not None
    assert page.parent == study.folder  # not in report/, which MLflow gets
    text = page.read_text()
    shown = [np.asarray(Image.open(io.BytesIO(base64.b64decode(png)))) for png in re.findall(r"base64,([^\"]+)", text)]
    test = load_split(study, "vindr", "test")
    np.testing.assert_array_equal(np.stack(shown), test.images(np.arange(len(test))))
    assert not any(str(name) in text for name in test.frame["image_id"])


def test_they_are_there_only_where_the_study_says_so(study: Study) -> None:
    plain = load_study(study.file)
    assert not plain.report.example_images
    page = write_examples(study)
    assert page is not None
    (study.paths.report).mkdir()
    (study.paths.report / "index.html").write_text("")
    with stamped(study, "report"):
        pass
    assert is_current(study, "report")
    assert not is_current(plain, "report")  # so that the file goes
    assert write_examples(plain) is None
    assert not page.exists()
