"""Views of images: their geometry against scipy's, and what K of them may move in a training."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage, stats

from dpdt import _core
from dpdt.errors import StudyError
from dpdt.privacy.clipping.gradient_sum import ClippedGradientSum, GradientSum
from dpdt.shards.dataset import DomainData, load_split
from dpdt.study import load_study
from dpdt.training.loop import TrainingLoop
from dpdt.training.networks.build import build_model
from dpdt.training.resume import open_ledger
from dpdt.training.stop import StopFlag
from dpdt.training.views import Views, parted
from tests.small_data import MakeStudy
from tests.test_loop import SILENT, OneOf, plan, weights_after

SIZE = 48
NORM = 1e-3


def picture(seed: int = 0) -> NDArray[np.uint8]:
    """Smooth, and lighter on one side, so that a mirrored one is another."""
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(SIZE, SIZE)), 3)
    side = np.linspace(0, 1, SIZE)
    return (90 + 60 * side + 200 * smooth).clip(30, 220).astype(np.uint8)


def views_of(source: NDArray[np.uint8], seeds: list[int], **threads: int) -> NDArray[np.uint8]:
    views = np.repeat(source[None], len(seeds), axis=0)
    _core.make_views(views, np.array(seeds, dtype=np.uint64), **threads)
    return views


@pytest.mark.parametrize("seed", range(12))
def test_a_view_is_scipys_bilinear_picture_with_other_grey_levels_and_noise(seed: int) -> None:
    angle, scale, right, down, contrast, brightness, noise = _core.view_of(seed)
    source, (found,) = picture(), views_of(picture(), [seed])
    # Where a pixel of the view lies in the picture: moved back, turned back (clockwise as rows go down), made smaller.
    rows, columns = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    rows, columns = rows - down * SIZE, columns - right * SIZE
    y = (np.cos(angle) * rows - np.sin(angle) * columns) / scale + (SIZE - 1) / 2
    x = (np.cos(angle) * columns + np.sin(angle) * rows) / scale + (SIZE - 1) / 2
    seen = ndimage.map_coordinates(source.astype(float), [y, x], order=1, mode="nearest")
    expected = (seen - 128) * contrast + 128 + brightness
    left = (found - expected)[(expected > 20) & (expected < 235)]
    # The noise is four bytes: no more than 510 / 147.8 standard deviations; half a level is rounding, and a little
    # the 16 bits that places have after the point.
    assert np.abs(left).max() <= noise * 510 / 147.8 + 0.5 + 0.2
    assert abs(left.mean()) < 4 * math.sqrt(noise**2 + 1) / math.sqrt(left.size)
    assert left.std() == pytest.approx(math.sqrt(noise**2 + 1 / 12), rel=0.1, abs=0.1)


def test_the_ranges_of_views_are_those_that_are_said_and_filled_evenly() -> None:
    found = np.array([_core.view_of(seed) for seed in range(4000)])
    ranges = [(-0.12, 0.12), (0.92, 1.08), (-0.05, 0.05), (-0.05, 0.05), (0.85, 1.15), (-20, 20), (0, 5)]  # csrc/views
    for column, (low, high) in zip(found.T, ranges, strict=True):
        assert stats.kstest(column, "uniform", args=(low, high - low)).pvalue > 1e-4
    correlations = np.corrcoef(found.T) - np.eye(7)
    assert np.abs(correlations).max() < 5 / math.sqrt(4000)


def test_no_view_is_mirrored() -> None:
    source = picture().astype(float)
    for view in views_of(picture(), list(range(50))):
        same, mirrored = (np.corrcoef(view.ravel(), other.ravel())[0, 1] for other in (source, source[:, ::-1]))
        assert same > 0.6 > mirrored


def test_the_bytes_depend_on_picture_and_seed_alone() -> None:
    seeds = list(range(100))
    one, other = views_of(picture(), seeds), views_of(picture(), seeds[::-1], num_threads=4)[::-1]
    assert np.array_equal(one, other)
    assert len({view.tobytes() for view in one}) == len(seeds)
    single = np.full((1, 1, 1), 128, dtype=np.uint8)  # of one pixel, for which every place is its edge
    _core.make_views(single, np.zeros(1, dtype=np.uint64))
    with pytest.raises(ValueError, match="square pictures and one seed for each"):
        _core.make_views(np.zeros((2, 4, 4), dtype=np.uint8), np.zeros(3, dtype=np.uint64))


def test_seeds_are_all_different_and_know_nothing_of_other_images() -> None:
    names = [f"image {number}" for number in range(30)]
    views, rows = Views(names, images=32, views=4, seed="run"), np.arange(32)
    found = [parted(views.of(rows, step=step)) for step in range(5)]
    assert all(images.tolist() == np.repeat(rows, 4).tolist() for images, _ in found)
    seeds = [seed for _, part in found if part is not None for seed in part.tolist()]
    assert len(set(seeds)) == 5 * 32 * 4
    # An image that is not there, one more before it, another order: the seeds of those that stay are what they were.
    fewer = Views(names[1:], images=29, views=4, seed="run").of(np.array([7, 2]), step=3)
    assert np.array_equal(fewer[:, 1], views.of(np.array([8, 3]), step=3)[:, 1])
    assert not set(seeds) & set(parted(Views(names, images=32, views=4, seed="other").of(rows, step=0))[1].tolist())  # type: ignore[union-attr]


def patient_of(data: DomainData, images: int) -> DomainData:
    """The data of one patient with so many images."""
    mine = np.flatnonzero(data.units == np.bincount(data.units).argmax())[:images]
    parts = {"labels": data.labels[mine], "frame": data.frame.iloc[mine], "_positions": data._positions[mine]}
    return dataclasses.replace(data, units=np.zeros(images, np.int64), **parts)


def moved_by_a_patient(make_study: MakeStudy, folder: Path, *, images: int, ranks: int, clipping: str) -> float:
    """How far a patient of so many images, each in four views, moves the sum of a step, in clipping norms."""
    study = make_study()
    patient = patient_of(load_split(study, "uka", "train"), images)
    once = {"num_units": 1, "sample_rate": 1.0, "num_steps": 1}
    mechanism = dataclasses.replace(SILENT, images_per_unit=images, max_grad_norm=NORM, **once)
    sums = []
    for rank in range(ranks):
        settings = plan(
            folder / f"rank-{rank}", mechanism, clipping=clipping, num_steps=1, sample_rate=1.0, views=4,
            expected_batch_size=1, images_per_unit=images,
        )  # fmt: skip
        torch.manual_seed(0)
        group = OneOf(rank, ranks)
        with open_ledger(settings) as ledger:
            loop = TrainingLoop(settings, model=build_model(study.model), data=patient, steps=ledger, ranks=group)
            loop.run(stop=StopFlag())
        sums.append(torch.cat([total.flatten() for total in group.sums]))
    return torch.stack(sums).sum(0).norm().item() / NORM


@pytest.mark.parametrize("clipping", ["bookkeeping", "hooks"])
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("images", [1, 2])
def test_the_views_of_a_patients_images_move_the_sum_by_one_norm(
    make_study: MakeStudy, tmp_path: Path, images: int, ranks: int, clipping: str
) -> None:
    assert 0.99 < moved_by_a_patient(make_study, tmp_path, images=images, ranks=ranks, clipping=clipping) <= 1 + 1e-4


def test_views_that_are_clipped_one_by_one_are_caught(
    make_study: MakeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain: Any = ClippedGradientSum.add
    monkeypatch.setattr(ClippedGradientSum, "add", lambda *args, units=None: plain(*args, units=None))
    assert moved_by_a_patient(make_study, tmp_path, images=1, ranks=1, clipping="bookkeeping") > 2  # 4, if they agree


def test_physical_batches_change_nothing_and_never_part_the_views_of_a_unit(
    make_study: MakeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study()
    data, sizes, add = load_split(study, "uka", "train"), set[int](), ClippedGradientSum.add

    def counted(self: ClippedGradientSum, inputs: Any, targets: Any, *, units: Any = None) -> Any:
        sizes.update(torch.unique(units, return_counts=True)[1].tolist())
        return add(self, inputs, targets, units=units)

    monkeypatch.setattr(ClippedGradientSum, "add", counted)
    mechanism = dataclasses.replace(SILENT, images_per_unit=2, max_grad_norm=1.0)
    found = [
        weights_after(
            plan(tmp_path / str(size), mechanism, images_per_unit=2, physical_batch_size=size, views=3), study, data
        )
        for size in (2, 100)
    ]
    assert sizes == {3, 6}  # patients of one image, and of two
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_without_noise_and_clipping_views_train_both_arms_alike_and_otherwise_than_one_image(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    study = make_study()
    data = load_split(study, "uka", "train")
    without, silent, single = (
        weights_after(plan(tmp_path / name, mechanism, views=views), study, data)
        for name, mechanism, views in (("plain", None, 3), ("silent", SILENT, 3), ("single", None, 1))
    )
    assert max((a - b).abs().max().item() for a, b in zip(without, silent, strict=True)) < 1e-5
    assert max((a - b).abs().max().item() for a, b in zip(without, single, strict=True)) > 1e-4


def test_what_goes_through_the_network_are_the_views_of_the_drawn_images_with_their_labels(
    make_study: MakeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study()
    data = load_split(study, "uka", "train")
    data = dataclasses.replace(data, labels=np.arange(len(data) * 5, dtype=np.float32).reshape(-1, 5) % 2)
    seen: list[tuple[NDArray[np.uint8], NDArray[np.float32]]] = []
    add = GradientSum.add

    def kept(self: GradientSum, inputs: Any, targets: Any, *, units: Any = None) -> Any:
        seen.append(((inputs[:, 0] * 255).round().numpy().astype(np.uint8), targets.numpy().copy()))
        return add(self, inputs, targets, units=units)

    monkeypatch.setattr(GradientSum, "add", kept)
    weights_after(plan(tmp_path / "r", None, views=2, num_steps=1, physical_batch_size=100), study, data)
    (pictures, labels), *_ = seen
    # The drawn images are not known here; but each picture is one image's view of step 0, and has its labels.
    of_all = Views(list(data.image_ids), images=len(data), views=2, seed="test").of(np.arange(len(data)), step=0)
    rows, seeds = parted(of_all)
    expected = data.images(rows)
    _core.make_views(expected, np.asarray(seeds))
    places = {view.tobytes(): row for view, row in zip(expected, rows, strict=True)}
    found = [places[view.tobytes()] for view in pictures]
    assert found[::2] == found[1::2]
    assert np.array_equal(labels, data.labels[found])


def test_ghost_clipping_of_views_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_text('[domains.uka]\nroot = "raw"\n[train]\nviews = 2\n[privacy]\nclipping = "ghost"\n')
    with pytest.raises(StudyError, match=r"train\.views: 2 needs privacy\.clipping = 'bookkeeping'"):
        load_study(file)
