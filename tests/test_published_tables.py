"""The readers on the institutions' real tables, counted to the row.

ChestX-ray14's table and lists come from $DPDT_REAL_DATA; CheXpert's, PadChest's and VinDr's from the wheel of
torchxrayvision 1.5.7 (`pip download --no-deps torchxrayvision==1.5.7`), whose path is in $DPDT_XRV_WHEEL.
"""

import gzip
import io
import os
import re
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

import dpdt
from dpdt.base.vocabulary import LABELS, as_name
from dpdt.cohort.build import build_cohort
from dpdt.cohort.hospitals import read_domain
from dpdt.cohort.hospitals.raw_cohort import RawCohort, Wanted
from dpdt.cohort.table import read_cohort, read_record
from dpdt.study import load_study
from dpdt.study.domain_settings import DomainSettings
from dpdt.study.findings import define, findings_of

WHEEL = os.environ.get("DPDT_XRV_WHEEL", "")
REAL_DATA = os.environ.get("DPDT_REAL_DATA", "")
needs_wheel = pytest.mark.skipif(not WHEEL, reason="DPDT_XRV_WHEEL names no wheel of torchxrayvision 1.5.7")
needs_data = pytest.mark.skipif(not REAL_DATA, reason="DPDT_REAL_DATA names no folder of real data")

PADCHEST = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz"
Read = Callable[..., RawCohort]


def published(folder: Path, *names: str) -> Path:
    """A folder with tables of the wheel."""
    with zipfile.ZipFile(WHEEL) as wheel:
        for name in names:
            (folder / name).write_bytes(wheel.read(f"torchxrayvision/data/{name}"))
    return folder


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    names = ("chexpert_train.csv.gz", PADCHEST, "vinbigdata-train.csv.gz")
    return published(tmp_path_factory.mktemp("published"), *names)


def read(kind: str, root: Path, **settings: object) -> RawCohort:
    return read_domain(kind, root, DomainSettings.model_validate({"root": root, "missing_images": "later", **settings}))


def positives(frame: pd.DataFrame) -> list[int]:
    return [int((frame[label] == 1).sum()) for label in LABELS]


# ---- chestxray14: Wang et al., CVPR 2017, the official lists ----


@pytest.fixture(scope="module")
def nih() -> pd.DataFrame:
    files = {
        "table": "metadata/Data_Entry_2017_v2020.csv.gz",
        "train_list": "lists/train_val_list.txt.gz",
        "test_list": "lists/test_list.txt.gz",
    }
    return read("chestxray14", Path(REAL_DATA), files=files).frame


@needs_data
def test_chestxray14_rows_patients_and_official_split(nih: pd.DataFrame) -> None:
    assert len(nih) == 112_120
    assert nih["patient_id"].nunique() == 30_805
    assert nih["split"].value_counts().to_dict() == {"train": 86_524, "test": 25_596}
    assert nih.groupby("patient_id")["split"].nunique().max() == 1


@needs_data
def test_chestxray14_sample_finds_each_of_its_78_images() -> None:
    root = Path(REAL_DATA)
    lists = {"train_list": "lists/train_val_list.txt.gz", "test_list": "lists/test_list.txt.gz"}
    raw = read("chestxray14", root, files={"table": "nih_sample.csv", "images": "images/nih", **lists})
    assert len(raw.frame) == 78
    assert "images not found" not in raw.counts
    assert all((root / path).is_file() for path in raw.frame["path"])


@needs_data
def test_chestxray14_positives_in_test_and_train(nih: pd.DataFrame) -> None:
    assert positives(nih[nih["split"] == "test"]) == [1_069, 4_658, 555, 3_279, 9_861]
    assert positives(nih[nih["split"] == "train"]) == [1_707, 8_659, 876, 8_280, 50_500]


@needs_data
def test_chestxray14_ages_are_0_to_95_without_nulls(nih: pd.DataFrame) -> None:
    assert (nih["age_years"].min(), nih["age_years"].max()) == (0, 95)
    assert not nih["age_years"].isna().any()


# ---- chexpert: Irvin et al., AAAI 2019, train.csv ----


@needs_wheel
@pytest.mark.parametrize(("uncertain", "images"), [("paper", 157_676), ("negative", 191_027), ("unknown", 191_027)])
def test_chexpert_frontal_rows_under_each_policy(uncertain: str, images: int, tables: Path) -> None:
    raw = read("chexpert", tables, files={"table": "chexpert_train.csv.gz"}, uncertain=uncertain)
    assert len(raw.frame) == images
    assert len(raw.frame) + len(raw.exclusions) == 223_414
    assert (raw.exclusions["view"] == "lateral").sum() == 223_414 - 191_027
    assert (raw.frame["sex"] == "unknown").sum() == 1
    ids = pd.concat([raw.frame["image_id"], raw.exclusions["image_id"]])
    assert ids.str.split("/").str[0].nunique() == 64_540
    if uncertain != "paper":
        assert positives(raw.frame) == [23_385, 76_899, 4_675, 29_720, 16_974]


@needs_wheel
def test_chexpert_uncertain_labels_are_masked_or_read_and_counted(tables: Path) -> None:
    """-1 in the frontal rows of train.csv, counted with awk: 6,707 cardiomegaly, 29,863 atelectasis."""
    files = {"table": "chexpert_train.csv.gz"}
    masked = read("chexpert", tables, files=files, uncertain="unknown")
    assert masked.counts["uncertain cardiomegaly read as unknown"] == 6_707
    assert masked.frame["atelectasis"].isna().sum() == 29_863
    positive = read("chexpert", tables, files=files, uncertain="positive")
    assert (positive.frame["atelectasis"] == 1).sum() == 29_720 + 29_863


@needs_wheel
def test_chexpert_top_coded_ages_stay_and_placeholders_do_not(tables: Path) -> None:
    ages = read("chexpert", tables, files={"table": "chexpert_train.csv.gz"}, uncertain="negative").frame["age_years"]
    assert (ages.min(), ages.max(), int(ages.isna().sum())) == (18, 90, 3)


# ---- padchest: Bustos et al., Medical Image Analysis 2020 ----


@pytest.fixture(scope="module")
def padchest(tables: Path) -> RawCohort:
    settings: dict[str, object] = {}
    if REAL_DATA:
        settings["files"] = {"bad_files": Path(REAL_DATA).resolve() / "metadata" / "padchest_known_bad_files.txt"}
    return read("padchest", tables, **settings)


@needs_wheel
def test_padchest_frontal_rows_and_what_is_left_out(padchest: RawCohort) -> None:
    reasons = padchest.exclusions["reason"].value_counts()
    assert len(padchest.frame) + len(padchest.exclusions) == 160_861
    by_view = reasons[[reason for reason in reasons.index if reason.startswith("view ")]].sum()
    assert 160_861 - by_view == 110_633
    by_word = reasons["label exclude"] + reasons["label suboptimal study"]
    assert (reasons["label exclude"], reasons["label suboptimal study"]) == (973, 1_484)
    # 79 blank cells and 511 lists of nothing, `['']`, among the frontal rows, counted with pandas
    assert reasons["no labels"] == 79 + 511
    if REAL_DATA:  # has the list of 21 known bad files, 17 of them frontal and labelled; the paper has 110,525
        assert len(padchest.frame) + by_word == 110_026


@needs_wheel
def test_padchest_sexes_and_ids_beyond_64_bits(padchest: RawCohort, tables: Path) -> None:
    sexes = pd.read_csv(tables / PADCHEST, dtype=str, keep_default_na=False, usecols=["PatientSex_DICOM"])
    assert sexes["PatientSex_DICOM"].value_counts().to_dict() == {"M": 80_920, "F": 79_919, "O": 18, "nan": 4}
    assert padchest.counts["patients with two sexes in the table"] == 12
    ids = padchest.frame["patient_id"]
    assert ids.str.len().max() == 39
    assert ids.astype(object).map(int).max() > 2**64


@needs_wheel
def test_padchest_ages_are_years_between_study_and_birth(padchest: RawCohort) -> None:
    ages = padchest.frame["age_years"]
    assert (ages.min(), ages.max()) == (0, 100)


@needs_wheel
def test_padchest_sublabels_of_the_study_file_replace_a_set(padchest: RawCohort, tables: Path) -> None:
    """2,236 of the 110,633 frontal rows have the label `atelectasis` itself, 5,085 `pneumonia`."""
    alone = read("padchest", tables, sublabels={"atelectasis": ["atelectasis"], "pneumonia": ["pneumonia"]})
    assert (alone.frame["pneumonia"] == 1).sum() < (padchest.frame["pneumonia"] == 1).sum()
    assert (alone.frame["atelectasis"] == 1).sum() < 2_236 < (padchest.frame["atelectasis"] == 1).sum()


# ---- vindr: the Kaggle table of Nguyen et al., Scientific Data 2022 ----


@needs_wheel
def test_vindr_kaggle_table_by_the_votes_of_three_readers(tables: Path) -> None:
    raw = read("vindr", tables)
    assert len(raw.frame) == 15_000
    assert raw.counts["training images not read by three readers"] == 0
    cardiomegaly, effusion, _, atelectasis, healthy = positives(raw.frame)
    assert (cardiomegaly, effusion, atelectasis, healthy) == (1_817, 634, 62, 10_606)
    assert raw.frame["pneumonia"].isna().all()


# ---- the whole stage ----


@needs_wheel
def test_the_published_versions_are_known_and_another_one_warns(
    tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """LB-09 of the collected user reports: label files exist in several versions."""
    text = gzip.decompress((tables / "vinbigdata-train.csv.gz").read_bytes())
    (tmp_path / "known").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "known" / "train.csv").write_bytes(text)
    (tmp_path / "other" / "train.csv").write_bytes(text.replace(b",R9,", b",R99,"))
    for name in ("known", "other"):
        file = tmp_path / f"{name}.toml"
        file.write_text(f'[study]\nfolder = "{name}-out"\n[domains.vindr]\nroot = "{name}"\nmissing_images = "later"\n')
        study = load_study(file)
        build_cohort(study, "vindr")
        printed = capsys.readouterr().err
        entry = read_record(study, "vindr")["inputs"][0]
        if name == "known":
            assert entry["version"] == "VinBigData competition, train.csv"
            assert "not a version of this file" not in printed
        else:
            assert entry["version"] is None
            assert "warning: " in printed
            assert "not a version of this file that dpdt knows" in printed


@needs_wheel
def test_padchest_contradictions_are_settled_by_the_named_rule(tables: Path, tmp_path: Path) -> None:
    """50 frontal rows are `normal` and have one of the four findings."""
    wanted = {"finding": 0, "unknown": 0, "exclude": 0, "keep": 50}
    small = tmp_path / "raw"
    small.mkdir()
    table = pd.read_csv(io.BytesIO((tables / PADCHEST).read_bytes()), compression="gzip", dtype=str)
    table[table["Labels"].str.contains("normal", na=False)].to_csv(small / PADCHEST.removesuffix(".gz"), index=False)
    sizes = {}
    for rule, left in wanted.items():
        file = tmp_path / f"{rule}.toml"
        file.write_text(
            f'[study]\nfolder = "{rule}"\n[domains.padchest]\nroot = "raw"\nmissing_images = "later"\n'
            f'contradictions = "{rule}"\n'
        )
        study = load_study(file)
        sizes[rule] = build_cohort(study, "padchest").images
        cohort, record = read_cohort(study, "padchest"), read_record(study, "padchest")
        both = (cohort["healthy"] == 1) & (cohort[list(LABELS[:-1])] == 1).any(axis=1)
        assert int(both.sum()) == left
        notes = {row["value"]: row["images"] for row in record["counts"] if row["what"] == "note"}
        assert notes[next(name for name in notes if name.startswith("healthy with a finding"))] == 50
        assert record["policies"]["contradictions"] == rule
    assert sizes["exclude"] == sizes["keep"] - 50


def test_the_sublabels_in_the_docs_are_the_defaults() -> None:
    page = Path(dpdt.__file__).parents[1] / "docs" / "cohorts.md"
    blocks = re.findall(r"^```toml\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    domains = [tomllib.loads(block)["domains"] for block in blocks]
    documented = next(domain["padchest"]["sublabels"] for domain in domains if "padchest" in domain)
    assert {label: set(names) for label, names in documented.items()} == {
        label: {finding.name for finding in define(label, "padchest")} for label in LABELS
    }


# ---- every finding of each table, as a label of its name; counts from papers, or by other means from the files ----


def every_finding(kind: str, root: Path, **settings: object) -> pd.DataFrame:
    labels = {as_name(finding): define(as_name(finding), kind) for finding in findings_of(kind)}
    chosen = DomainSettings.model_validate({"root": root, "missing_images": "later", **settings})
    return read_domain(kind, root, chosen, Wanted(labels, {})).frame


@needs_data
def test_chestxray14_images_of_each_finding() -> None:
    # of the 112,120 images of the NIH Clinical Center's release, as cited ever since
    wanted = {
        **{"infiltration": 19_894, "effusion": 13_317, "atelectasis": 11_559, "nodule": 6_331, "mass": 5_782},
        **{"pneumothorax": 5_302, "consolidation": 4_667, "pleural_thickening": 3_385, "cardiomegaly": 2_776},
        **{"emphysema": 2_516, "edema": 2_303, "fibrosis": 1_686, "pneumonia": 1_431, "hernia": 227},
        "no_finding": 60_361,
    }
    files = {"table": "metadata/Data_Entry_2017_v2020.csv.gz"}
    frame = every_finding("chestxray14", Path(REAL_DATA), files=files, split="patients")
    assert {label: int((frame[label] == 1).sum()) for label in wanted} == wanted


@needs_wheel
def test_chexpert_studies_of_each_finding_are_those_of_the_papers_table_1(tables: Path) -> None:
    # Irvin et al., AAAI 2019, table 1: positive and uncertain studies of 187,641; 16 of them have no frontal image.
    wanted = {
        "no_finding": (16_627, 0),
        "enlarged_cardiomediastinum": (9_020, 10_148),
        "cardiomegaly": (23_002, 6_597),
        "lung_lesion": (6_856, 1_071),
        "lung_opacity": (92_669, 4_341),
        "edema": (48_905, 11_571),
        "consolidation": (12_730, 23_976),
        "pneumonia": (4_576, 15_658),
        "atelectasis": (29_333, 29_377),
        "pneumothorax": (17_313, 2_663),
        "pleural_effusion": (75_696, 9_419),
        "pleural_other": (2_441, 1_771),
        "fracture": (7_270, 484),
        "support_devices": (105_831, 898),
    }
    frame = every_finding("chexpert", tables, files={"table": "chexpert_train.csv.gz"}, uncertain="unknown")
    for label, of_paper in wanted.items():
        found = [frame["study_id"][mask].nunique() for mask in ((frame[label] == 1).fillna(False), frame[label].isna())]
        for here, there in zip(found, of_paper, strict=True):
            assert 0 <= there - here <= 16, (label, found, of_paper)


@needs_wheel
def test_padchest_images_of_findings_with_those_below_them(tables: Path) -> None:
    below = {  # by hand from Bustos et al. 2020
        "fracture": "fracture|clavicle fracture|humeral fracture|vertebral fracture|rib fracture|callus rib fracture",
        "pneumothorax": "pneumothorax|hydropneumothorax",
        "consolidation": "consolidation|air bronchogram",
        "hilar_enlargement": "hilar enlargement|adenopathy|vascular hilar enlargement|pulmonary artery enlargement",
        "nsg_tube": "NSG tube",
        "kyphosis": "kyphosis",
    }
    frame = every_finding("padchest", tables)
    raw = pd.read_csv(tables / PADCHEST, usecols=["ImageID", "Labels"], dtype=str, na_filter=False)
    raw = raw[raw["ImageID"].isin(frame["image_id"])]
    for label, names in below.items():
        cells = raw["Labels"].str.contains(rf"'\s*(?:{names})\s*'", regex=True)
        assert int((frame[label] == 1).sum()) == int(cells.sum()), label


@needs_wheel
def test_vindr_images_of_each_class_of_the_competition(tables: Path) -> None:
    frame = every_finding("vindr", tables, files={"train_labels": "vinbigdata-train.csv.gz"})
    raw = pd.read_csv(tables / "vinbigdata-train.csv.gz")
    readers = raw.drop_duplicates(["image_id", "rad_id", "class_name"]).groupby(["class_name", "image_id"]).size()
    for name in raw["class_name"].unique():  # three readers an image: two agree
        assert int((frame[as_name(name)] == 1).sum()) == int((readers[name] >= 2).sum()), name
    unknown = {label for label in frame.columns[8:] if frame[label].isna().all()}
    assert unknown == {as_name(name) for name in findings_of("vindr")} - {
        as_name(n) for n in raw["class_name"].unique()
    }
