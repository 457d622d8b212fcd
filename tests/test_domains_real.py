"""The published tables, counted to the row.

DPDT_REAL_DATA names a folder with some of them. DPDT_XRV_WHEEL names the wheel of torchxrayvision 1.5.7 (PyPI), which
holds three others. Nothing of either is part of this repository.
"""

import os
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from dpdt.domains import RawCohort, reader
from dpdt.study import DomainSettings
from dpdt.vocabulary import LABELS

REAL_DATA = os.environ.get("DPDT_REAL_DATA")
WHEEL = os.environ.get("DPDT_XRV_WHEEL")
needs_real_data = pytest.mark.skipif(not REAL_DATA, reason="DPDT_REAL_DATA is not set: no real tables here")
needs_wheel = pytest.mark.skipif(
    not WHEEL,
    reason="DPDT_XRV_WHEEL is not set: `pip download --no-deps torchxrayvision==1.5.7` and name the wheel",
)

LISTS = {"train_list": "lists/train_val_list.txt.gz", "test_list": "lists/test_list.txt.gz"}
CHEXPERT = {"table": "chexpert_train.csv.gz"}
VINDR = {"train_labels": "vinbigdata-train.csv.gz"}
PADCHEST = {"table": "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz"}


def read(kind: str, root: Path, **settings: object) -> RawCohort:
    return reader(kind).read(root, DomainSettings.model_validate({"root": root, **settings}))


def positives(frame: pd.DataFrame) -> list[int]:
    return [int((frame[label] == 1).sum()) for label in LABELS]


@needs_real_data
def test_chestxray14_has_the_published_counts() -> None:
    """Images and patients: Wang et al. 2017. Lengths of the official lists. Test positives: the paper's test set."""
    files = {"table": "metadata/Data_Entry_2017_v2020.csv.gz", **LISTS}
    raw = read("chestxray14", Path(str(REAL_DATA)), files=files)
    frame = raw.frame
    assert (len(frame), len(raw.exclusions), frame["patient_id"].nunique()) == (112_120, 0, 30_805)
    train, test = frame[frame["split"] == "train"], frame[frame["split"] == "test"]
    assert (len(train), len(test)) == (86_524, 25_596)
    assert not set(train["patient_id"]) & set(test["patient_id"])
    assert positives(train) == [1_707, 8_659, 876, 8_280, 50_500]
    assert positives(test) == [1_069, 4_658, 555, 3_279, 9_861]
    assert (frame["age_years"].min(), frame["age_years"].max(), frame["age_years"].isna().sum()) == (0, 95, 0)
    assert set(frame["view"]) == {"PA", "AP"}
    assert set(frame["sex"]) == {"female", "male"}


@needs_real_data
def test_chestxray14_sample_finds_each_of_its_78_images() -> None:
    root = Path(str(REAL_DATA))
    raw = read("chestxray14", root, files={"table": "nih_sample.csv", "images": "images/nih", **LISTS})
    assert len(raw.frame) == 78
    assert raw.counts["images not found where expected"] == 0
    assert all((root / path).is_file() for path in raw.frame["path"])


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's tables in a folder of this test run."""
    folder = tmp_path_factory.mktemp("wheel")
    with zipfile.ZipFile(str(WHEEL)) as archive:
        for name in (*CHEXPERT.values(), *VINDR.values(), *PADCHEST.values()):
            (folder / name).write_bytes(archive.read(f"torchxrayvision/data/{name}"))
    return folder


@needs_wheel
def test_chexpert_has_the_published_counts(wheel: Path) -> None:
    """223,414 rows of 64,540 patients (Irvin et al. 2019); 157,676 frontal rows are the paper's cohort."""
    paper = read("chexpert", wheel, files=CHEXPERT)
    assert len(paper.frame) + len(paper.exclusions) == 223_414
    assert len(paper.frame) == 157_676
    every = read("chexpert", wheel, files=CHEXPERT, uncertain="negative")
    assert len(every.frame) == 191_027
    assert positives(every.frame) == [23_385, 76_899, 4_675, 29_720, 16_974]
    assert every.frame["patient_id"][every.frame["sex"] == "unknown"].nunique() == 1
    ids = pd.concat([every.frame["image_id"], every.exclusions["image_id"]])
    assert ids.str.split("/").str[0].nunique() == 64_540


@needs_wheel
def test_padchest_has_the_published_counts(wheel: Path) -> None:
    """160,861 rows, 110,633 of the three frontal projections, 79 of them without labels.

    The paper has 110,525 images: it does not leave out `exclude` and `suboptimal study`.
    """
    raw = read("padchest", wheel, files=PADCHEST)
    reasons = raw.exclusions["reason"].value_counts().to_dict()
    assert len(raw.frame) + len(raw.exclusions) == 160_861
    views = sum(count for reason, count in reasons.items() if reason.startswith("view"))
    assert 160_861 - views == 110_633
    assert {reason: n for reason, n in reasons.items() if not reason.startswith("view")} == {
        "no labels": 79,
        "label exclude": 973,
        "label suboptimal study": 1_484,
    }
    assert (raw.frame["patient_id"].str.len() > 19).any()


@needs_wheel
@needs_real_data
def test_padchest_without_the_known_bad_files_has_110_536_labelled_frontal_rows(wheel: Path) -> None:
    names = (Path(str(REAL_DATA)) / "metadata" / "padchest_known_bad_files.txt").read_text()
    (wheel / "bad.txt").write_text(names)
    reasons = read("padchest", wheel, files={**PADCHEST, "bad_files": "bad.txt"}).exclusions["reason"].value_counts()
    assert 110_633 - reasons["no labels"] - reasons["in the list of bad files"] == 110_536


@needs_wheel
def test_vindr_kaggle_table_has_the_published_counts(wheel: Path) -> None:
    """15,000 images; two votes or more of three."""
    frame = read("vindr", wheel, files=VINDR).frame
    assert len(frame) == 15_000
    cardiomegaly, effusion, _, atelectasis, healthy = positives(frame)
    assert (cardiomegaly, effusion, atelectasis, healthy) == (1_817, 634, 62, 10_606)
