"""Joining shards and cohort: which images, which labels, which units."""

import hashlib

import numpy as np
import pandas as pd
import pytest

from dpdt.base.files import read_json, sha256_file, write_json
from dpdt.base.vocabulary import LABELS
from dpdt.cohort.table import read_cohort
from dpdt.errors import ShardError
from dpdt.shards.dataset import load_split
from dpdt.shards.reader import Shards
from tests.small_data import SIZE, MakeStudy


def test_images_labels_and_rows_belong_together(make_study: MakeStudy) -> None:
    study = make_study()
    data = load_split(study, "uka", "train")
    cohort = read_cohort(study, "uka").set_index("image_id")
    shards = Shards.open(study.paths.shards("uka"))
    rows = np.array([0, len(data) - 1, 3])
    images = data.images(rows)
    assert images.shape == (3, SIZE, SIZE)
    assert images.dtype == np.uint8
    for place, row in enumerate(rows):
        image_id = data.image_ids[row]
        position = int(np.flatnonzero(shards.index["image_id"] == image_id)[0])
        assert np.array_equal(images[place], shards.images(np.array([position]))[0])
        expected = cohort.loc[image_id, list(LABELS)].astype("Float32").to_numpy(dtype=np.float32, na_value=np.nan)
        np.testing.assert_array_equal(data.labels[row], expected)
        assert data.frame["patient_id"][row] == cohort.loc[image_id, "patient_id"]


def test_splits_share_no_patient_and_leave_out_rejected_images(make_study: MakeStudy) -> None:
    study = make_study()
    train, test = load_split(study, "uka", "train"), load_split(study, "uka", "test")
    assert not set(train.frame["patient_id"]) & set(test.frame["patient_id"])
    assert len(train) + len(test) == len(Shards.open(study.paths.shards("uka")).index) < len(read_cohort(study, "uka"))
    assert set(train.frame["split"]) == {"train"}


def test_an_unknown_label_is_nan(make_study: MakeStudy) -> None:
    data = load_split(make_study(), "uka", "train")
    assert data.labels.dtype == np.float32
    assert np.isnan(data.labels[0, LABELS.index("pneumonia")])
    assert np.isnan(data.labels).sum() == 1


def test_units_are_patients_numbered_without_gaps(make_study: MakeStudy) -> None:
    data = load_split(make_study(), "uka", "train")
    assert data.units.dtype == np.int64
    assert sorted(set(data.units)) == list(range(data.num_units))
    assert data.num_units == 32
    assert len(data.frame.groupby([data.units, data.frame["patient_id"]])) == 32


def test_units_are_images_if_the_study_says_so(make_study: MakeStudy) -> None:
    data = load_split(make_study(("delta = 1e-3", 'delta = 1e-3\nunit = "image"')), "uka", "train")
    assert list(data.units) == list(range(len(data)))


def test_what_the_config_records_is_known(make_study: MakeStudy) -> None:
    study = make_study()
    data = load_split(study, "uka", "train")
    assert data.synthetic
    assert data.split_sha256 == hashlib.sha256(b"uka").hexdigest()
    assert data.manifest_sha256 == sha256_file(study.paths.shards("uka").manifest)
    assert data.size == SIZE


def test_shards_that_are_not_there_are_an_error(make_study: MakeStudy) -> None:
    study = make_study()
    study.paths.shards("uka").manifest.unlink()
    with pytest.raises(ShardError, match=r"no shards of uka yet\. Run `dpdt shards .*` first"):
        load_split(study, "uka", "train")


def test_shards_of_other_settings_are_an_error(make_study: MakeStudy) -> None:
    study = make_study()
    manifest = study.paths.shards("uka").manifest
    write_json(manifest, {**read_json(manifest), "fingerprint": "0"})
    with pytest.raises(ShardError, match="made with other settings than the study file has now"):
        load_split(study, "uka", "train")


def test_shards_of_another_cohort_are_an_error(make_study: MakeStudy) -> None:
    study = make_study()
    paths = study.paths.shards("uka")
    frame = pd.read_parquet(paths.index)
    frame.loc[2, "image_id"] = "somebody-else"
    frame.to_parquet(paths.index, index=False)
    index = {"file": paths.index.name, "sha256": sha256_file(paths.index)}
    write_json(paths.manifest, {**read_json(paths.manifest), "index": index})
    with pytest.raises(ShardError, match=r"1 of .* images are not in the cohort table"):
        load_split(study, "uka", "train")


def test_a_split_without_images_is_an_error(make_study: MakeStudy) -> None:
    with pytest.raises(ShardError, match="no image of uka is in split 'val'"):
        load_split(make_study(), "uka", "val")
