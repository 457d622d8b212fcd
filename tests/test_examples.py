"""Examples of images: of test patients alone, in a file that nothing sends, and only where the study says so.

Their occlusion maps show where the score of a network depends on the image: networks made by hand, of a known square.
"""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from dpdt.base.files import write_json
from dpdt.cohort.table import read_record
from dpdt.report.examples import write_examples
from dpdt.report.occlusion import occlusion, shown_model
from dpdt.runs.up_to_date import is_current, stamped
from dpdt.shards.build import build_shards
from dpdt.shards.dataset import load_split
from dpdt.study import Cell, Study, load_study
from dpdt.training.networks.build import build_model, scorer_of
from tests.fake_runs import FakeRuns
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


class OneSquare(nn.Module):
    """The third label's score rises with the mean of rows 40 to 55, columns 8 to 23; the others' are constant."""

    def forward(self, images: Tensor) -> Tensor:
        scores = torch.zeros(len(images), 5)
        scores[:, 2] = 1 + images[:, 0, 40:56, 8:24].mean(dim=(1, 2))
        return scores


def test_the_map_is_highest_where_alone_the_score_depends_on_the_image() -> None:
    pixels = np.full((64, 64), 40, dtype=np.uint8)
    pixels[40:56, 8:24] = 200  # brighter than the mean, so that the score falls where it is painted over
    one = occlusion(scorer_of(OneSquare(), "cpu"), pixels)
    assert one.label == 2
    assert one.score == pytest.approx(1 / (1 + np.exp(-(1 + 200 / 255))), abs=1e-6)
    inside = np.zeros((64, 64), dtype=bool)
    inside[40:56, 8:24] = True
    top, left = np.unravel_index(one.fall.argmax(), one.fall.shape)
    assert inside[top, left]
    assert (one.fall[~inside] == 0).all()  # whose bounds are those of the 8 × 8 squares, of 8 pixels each
    painted = one.painted(pixels)
    assert (painted[~inside] == pixels[~inside][:, None]).all()  # grey as it was
    assert painted[top, left, 0] > painted[top, left, 2]  # orange


def test_a_score_that_rises_or_stays_paints_nothing() -> None:
    pixels = np.full((64, 64), 200, dtype=np.uint8)
    pixels[40:56, 8:24] = 40
    score = scorer_of(OneSquare(), "cpu")
    risen = occlusion(score, pixels)
    assert risen.fall.min() < 0
    for one in (risen, occlusion(score, np.full((64, 64), 7, dtype=np.uint8))):
        assert one.fall.max() <= 0
        np.testing.assert_array_equal(one.painted(pixels), np.repeat(pixels[..., None], 3, axis=2))


def trained(study: Study, cell: Cell) -> None:
    runs = FakeRuns(study)
    paths = runs.train(cell)
    torch.manual_seed(0)
    (paths.folder / "checkpoints").mkdir(exist_ok=True)
    torch.save(build_model(study.model).state_dict(), paths.weights)
    runs.evaluate(cell)


def test_maps_are_of_the_model_with_the_lowest_epsilon_that_was_tested_and_the_page_names_it(study: Study) -> None:
    def page() -> str:
        return (write_examples(study) or Path()).read_text()

    assert "No maps: no model of the study is tested yet." in page()
    cells = [cell for cell in study.cells() if cell.seed == 0]
    lowest = min(cells, key=lambda cell: cell.target_epsilon)
    without = max(cells, key=lambda cell: cell.target_epsilon)
    assert not without.private
    trained(study, without)
    assert "occlusion maps of VinDr-CXR, no DP, seed 0<" in page()
    trained(study, lowest)
    text = page()
    assert f"occlusion maps of VinDr-CXR, ε = {lowest.target_epsilon:g}, seed 0<" in text
    assert "The maps in orange explain nothing reliably" in text
    count = min(len(load_split(study, "vindr", "test")), 4)
    maps = re.findall(r"<figure>.*?base64,([^\"]+)\".*?</figure>", text, re.DOTALL)
    assert len(maps) == count
    found = shown_model(study, "vindr")
    assert found is not None
    pixels: NDArray[np.uint8] = load_split(study, "vindr", "test").images(np.arange(count))
    for png, image in zip(maps, pixels, strict=True):
        drawn, own = np.asarray(Image.open(io.BytesIO(base64.b64decode(png)))), occlusion(found[1], image)
        np.testing.assert_array_equal(drawn, own.painted(image))
        assert f"score {own.score:.2f}" in text


def test_weights_that_cannot_be_read_are_named_in_place_of_maps(study: Study) -> None:
    cell = study.cells()[0]
    trained(study, cell)
    study.paths.run(study.run_id(cell)).weights.write_bytes(b"no weights")
    page = write_examples(study)
    assert page is not None
    assert "cannot be read as a state dict" in page.read_text()
