import gzip
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dpdt.base.vocabulary import LABELS, age_group
from dpdt.cohort.hospitals import read_domain, reader
from dpdt.cohort.hospitals.padchest import parse_labels
from dpdt.cohort.hospitals.raw_cohort import RAW_COLUMNS, RawCohort, Wanted, age_from_text
from dpdt.cohort.lists.rows import ListFile
from dpdt.cohort.synthetic import hospital_pictures, make_hospitals
from dpdt.cohort.synthetic.layouts import LAYOUTS
from dpdt.errors import CohortError, StudyError
from dpdt.study.domain_settings import DomainSettings
from dpdt.study.findings import define

PATIENTS = 24


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_hospitals(tmp_path_factory.mktemp("hospitals"), patients=PATIENTS, image_size=32)


def read(kind: str, root: Path, **settings: object) -> RawCohort:
    """A domain as the cohort stage reads it; images need not be there."""
    return read_domain(kind, root, DomainSettings.model_validate({"root": root, "missing_images": "later", **settings}))


def edit(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    change(pd.read_csv(path, dtype=str, keep_default_na=False)).to_csv(path, index=False)


# ---- every hospital ----


@pytest.mark.parametrize("kind", LAYOUTS)
def test_labels_read_back_are_the_labels_drawn(kind: str, hospitals: dict[str, Path]) -> None:
    raw = read(kind, hospitals[kind])
    layout = LAYOUTS[kind]
    drawn = {layout.image_id(p): p for p in hospital_pictures(kind, seed=0, patients=PATIENTS)}
    frame = raw.frame.set_index("image_id")
    assert set(frame.index) == {name for name, picture in drawn.items() if not picture.quirk}
    assert set(raw.exclusions["image_id"]) == {name for name, picture in drawn.items() if picture.quirk}
    for image_id, row in frame.iterrows():
        picture = drawn[str(image_id)]
        read_labels = row[list(LABELS)].to_dict()
        contradicts = kind == "padchest" and max(read_labels[label] for label in LABELS[:-1])
        assert {**read_labels, **({"healthy": 0} if contradicts else {})} == picture.labels
        assert row["path"] == layout.relative(picture)
        assert row["sex"] in (picture.sex, "unknown")
        top_coded = {"chexpert": min(picture.age, 90), "mimic": min(picture.age + picture.number, 91)}
        assert np.isnan(row["age_years"]) or abs(row["age_years"] - top_coded.get(kind, picture.age)) <= 2
        assert row["view"][:2] == picture.view


@pytest.mark.parametrize("kind", LAYOUTS)
def test_columns_are_the_agreed_ones_and_ids_are_text(kind: str, hospitals: dict[str, Path]) -> None:
    frame = read(kind, hospitals[kind]).frame
    assert tuple(frame.columns) == (*RAW_COLUMNS, *LABELS)
    assert all(frame[label].dtype == "Int8" for label in LABELS)
    assert all(isinstance(value, str) for name in ("image_id", "patient_id", "study_id") for value in frame[name])
    assert all((hospitals[kind] / path).is_file() for path in frame["path"])


@pytest.mark.parametrize("kind", LAYOUTS)
def test_unknown_file_name_is_answered_with_the_valid_ones(kind: str, hospitals: dict[str, Path]) -> None:
    with pytest.raises(StudyError, match=r"files: unknown name 'tabel'. Valid names: \w+"):
        read(kind, hospitals[kind], files={"tabel": "x.csv"})


@pytest.mark.parametrize("kind", LAYOUTS)
def test_missing_folder_and_missing_file_are_named(kind: str, tmp_path: Path) -> None:
    with pytest.raises(CohortError, match=r"no such folder. Set `root`"):
        read(kind, tmp_path / "nowhere")
    (tmp_path / "readme.md").touch()
    with pytest.raises(CohortError, match=r"no .*csv.* found readme.md"):
        read(kind, tmp_path)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_tables_may_be_gzipped_or_not(kind: str, hospitals: dict[str, Path], tmp_path: Path) -> None:
    before = read(kind, hospitals[kind])
    for path in [*hospitals[kind].rglob("*.csv*"), *hospitals[kind].rglob("*list.txt")]:
        target = tmp_path / path.relative_to(hospitals[kind])
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".gz":
            target.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        else:
            Path(f"{target}.gz").write_bytes(gzip.compress(path.read_bytes()))
    after = read(kind, tmp_path)
    pd.testing.assert_frame_equal(after.frame[["image_id", *LABELS]], before.frame[["image_id", *LABELS]])


def test_unknown_kind_is_answered_with_the_valid_ones() -> None:
    with pytest.raises(StudyError, match=r"no reader 'nih'. Valid kinds: vindr, chestxray14"):
        reader("nih")


def test_ages_in_years_months_weeks_and_days() -> None:
    """DICOM PS3.5 6.2: AS is nnnD, nnnW, nnnM or nnnY."""
    ages = age_from_text(pd.Series(["058Y", "006M", "026W", "073D", "0", "100", "101", "-1", "Y", ""]))
    np.testing.assert_allclose(ages, [58, 0.5, 0.498, 0.19986, 0, 100, *[np.nan] * 4], rtol=1e-3)


def test_top_coded_ages_stay_in_the_oldest_group() -> None:
    ages = age_from_text(pd.Series(["90+", ">89", ">= 90", "089Y+", "300+", "+", "<18"]))
    np.testing.assert_equal(ages.to_numpy(), [90, 89, 90, 89, np.nan, np.nan, np.nan])
    assert {age_group(age) for age in ages[:4]} == {"age_70_100"}
    words = ["85 or more", "> 89", "90 and older", "Over 89", "90+ years", "≥ 85", "85 OR ABOVE"]
    np.testing.assert_equal(age_from_text(pd.Series(words)).to_numpy(), [85, 89, 90, 89, 90, 85, 85])


def test_ages_with_a_decimal_comma_or_a_word_for_years() -> None:
    ages = age_from_text(pd.Series(["40,5", "40.5", "58 years", "1 year", "58 yrs", "58 y", "4,0,5", "85 or"]))
    np.testing.assert_equal(ages.to_numpy(), [40.5, 40.5, 58, 1, 58, 58, np.nan, np.nan])


@pytest.mark.parametrize("suffix", ["csv", "csv.gz"])
def test_a_large_table_shows_how_far_it_is(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    @contextmanager
    def progress(what: str, total: int, *, unit: str) -> Iterator[Callable[..., None]]:
        assert (what, unit) == (f"reading list.{suffix}", "MB")
        yield seen.append
        assert sum(seen) == total

    monkeypatch.setattr("dpdt.cohort.lists.rows.progress", progress)
    path = tmp_path / f"list.{suffix}"
    noise = np.random.default_rng(0).integers(0, 2**62, (160_000, 2)).astype(str)
    pd.DataFrame(noise, columns=["a", "b"]).to_csv(path, index=False)
    assert len(ListFile(path).read(["a"])) == 160_000
    assert seen == [1] * len(seen)  # a step a megabyte of the file
    assert len(seen) > 2


@pytest.mark.parametrize("kind", ["vindr", "chestxray14", "uka", "mimic"])
def test_an_official_split_is_passed_over_on_request(kind: str, hospitals: dict[str, Path]) -> None:
    official, by_patient = read(kind, hospitals[kind]).frame, read(kind, hospitals[kind], split="patients").frame
    assert official["split"].notna().all()
    assert by_patient["split"].isna().all()
    more = by_patient.loc[by_patient.index.difference(official.index)]
    assert len(more) == (kind == "chestxray14")  # the row that is in neither list, of which none is read
    pd.testing.assert_frame_equal(by_patient.loc[official.index].drop(columns="split"), official.drop(columns="split"))


# ---- chestxray14 ----


@pytest.fixture
def nih(tmp_path: Path) -> Path:
    return make_hospitals(tmp_path, domains=["chestxray14"], patients=6, image_size=32)["chestxray14"]


def test_chestxray14_missing_column_is_named_with_what_was_found(nih: Path) -> None:
    edit(nih / "Data_Entry_2017_v2020.csv", lambda t: t.drop(columns="Patient Gender"))
    with pytest.raises(CohortError, match=r"v2020.csv: no column 'Patient Gender' or 'Patient Sex'; found Image Index"):
        read("chestxray14", nih)


def test_chestxray14_first_release_with_padded_ids_and_ages_reads_the_same(nih: Path) -> None:
    new = read("chestxray14", nih).frame
    table = pd.read_csv(nih / "Data_Entry_2017_v2020.csv", dtype=str)
    table["Patient Age"] = table["Patient Age"].str.zfill(3) + "Y"
    table["Patient ID"] = table["Patient ID"].str.zfill(5)
    table.rename(columns=str.upper).to_csv(nih / "Data_Entry_2017.csv", index=False)
    (nih / "Data_Entry_2017_v2020.csv").unlink()
    pd.testing.assert_frame_equal(read("chestxray14", nih).frame, new)


@pytest.mark.parametrize("cell", ["", "nan", "1E+05"])
def test_chestxray14_what_is_no_patient_is_not_made_a_number(cell: str, nih: Path) -> None:
    """With eight digits each, `00000000` and `00000nan` would be patients."""
    edit(nih / "Data_Entry_2017_v2020.csv", lambda t: t.assign(**{"Patient ID": [cell, *t["Patient ID"][1:]]}))
    assert cell in set(read("chestxray14", nih, split="patients").frame["patient_id"])


def test_chestxray14_a_blank_cell_says_nothing_and_blanks_around_names_are_none_of_them(nih: Path) -> None:
    cells = ["", "Cardiomegaly | Effusion", "No Finding"]
    edit(nih / "Data_Entry_2017_v2020.csv", lambda t: t.iloc[:3].assign(**{"Finding Labels": cells}))
    raw = read("chestxray14", nih, split="patients")
    assert list(raw.exclusions["reason"]) == ["no labels"]
    assert raw.frame[["cardiomegaly", "pleural_effusion", "healthy"]].to_numpy().tolist() == [[1, 1, 0], [0, 0, 1]]


def test_chestxray14_images_are_found_in_the_twelve_numbered_folders(nih: Path) -> None:
    (nih / "images_001").mkdir()
    (nih / "images").rename(nih / "images_001" / "images")
    raw = read("chestxray14", nih)
    assert all((nih / path).is_file() for path in raw.frame["path"])
    assert "images not found" not in raw.counts


def test_chestxray14_missing_images_are_counted_and_keep_their_expected_path(nih: Path) -> None:
    lost = read("chestxray14", nih).frame.iloc[0]
    (nih / lost["path"]).unlink()
    raw = read("chestxray14", nih)
    assert raw.counts["images not found"] == 1
    assert raw.frame.iloc[0]["path"] == lost["path"]


def test_chestxray14_rows_in_neither_list_are_excluded_with_the_reason(nih: Path) -> None:
    lines = (nih / "train_val_list.txt").read_text().split("\n")
    (nih / "train_val_list.txt").write_text("\n".join(lines[1:]))
    exclusions = read("chestxray14", nih).exclusions
    assert exclusions[["image_id", "reason"]].to_numpy().tolist() == [[lines[0], "in neither official list"]]


def test_chestxray14_image_in_both_lists_is_an_error(nih: Path) -> None:
    with (nih / "test_list.txt").open("a") as stream:
        stream.write("\n" + (nih / "train_val_list.txt").read_text().split("\n")[0])
    with pytest.raises(CohortError, match="1 images are in both the train_val and the test list"):
        read("chestxray14", nih)


def test_chestxray14_listed_image_without_a_row_is_an_error_that_names_it(nih: Path) -> None:
    path = nih / "Data_Entry_2017_v2020.csv"
    name = pd.read_csv(path)["Image Index"][0]
    edit(path, lambda t: t.iloc[1:])
    with pytest.raises(CohortError, match=rf"v2020.csv: 1 of \d+ listed images have no row, first {name}"):
        read("chestxray14", nih)


def test_chestxray14_table_of_a_sample_may_come_with_the_whole_lists(nih: Path) -> None:
    listed = len(read("chestxray14", nih).frame)
    edit(nih / "Data_Entry_2017_v2020.csv", lambda t: t.iloc[:3])
    assert read("chestxray14", nih).counts["listed images that a table of a sample does not have"] == listed - 3


def test_chestxray14_impossible_age_is_unknown(nih: Path) -> None:
    table = nih / "Data_Entry_2017_v2020.csv"
    edit(table, lambda t: t.assign(**{"Patient Age": ["414", *["58"] * (len(t) - 1)]}))
    assert read("chestxray14", nih).frame["age_years"].isna().sum() == 1
    edit(table, lambda t: t.assign(**{"Patient Age": "414"}))
    with pytest.raises(
        CohortError, match=r"v2020.csv: age: none of \d+ cells is understood, the first is '414' .row 2"
    ):
        read("chestxray14", nih)


def test_an_age_of_0_is_a_newborns_or_unknown_by_the_named_policy(nih: Path) -> None:
    table = nih / "Data_Entry_2017_v2020.csv"
    edit(table, lambda t: t.assign(**{"Patient Age": ["0", "006M", *["58"] * (len(t) - 2)]}))
    as_written, unknown = read("chestxray14", nih), read("chestxray14", nih, zero_ages="unknown")
    np.testing.assert_equal(as_written.frame["age_years"].to_numpy()[:3], [0, 0.5, 58])
    np.testing.assert_equal(unknown.frame["age_years"].to_numpy()[:3], [np.nan, 0.5, 58])
    assert (as_written.counts["age 0, newborn"], unknown.counts["age 0, unknown"]) == (1, 1)


def test_sexes_of_which_none_is_understood_are_an_error_and_a_few_are_not(nih: Path) -> None:
    table = nih / "Data_Entry_2017_v2020.csv"
    column = "Patient Gender"
    edit(table, lambda t: t.assign(**{column: ["2", "1", "2", "1", *[""] * (len(t) - 4)]}))
    assert set(read("chestxray14", nih).frame["sex"]) == {"unknown"}
    edit(table, lambda t: t.assign(**{column: "2"}))
    with pytest.raises(
        CohortError, match=r"sex: none of \d+ cells is understood, the first is '2' .row 2.. Expected F, f"
    ):
        read("chestxray14", nih)


def test_chestxray14_sample_with_its_own_table_is_split_by_patient_on_request(nih: Path) -> None:
    """Kaggle's sample: `sample_labels.csv` and `images/`, without the official lists."""
    (nih / "Data_Entry_2017_v2020.csv").rename(nih / "sample_labels.csv")
    lists = [nih / "train_val_list.txt", nih / "test_list.txt"]
    official = read("chestxray14", nih).frame  # beside the lists it has their split
    assert set(official["split"]) == {"train", "test"}
    for path in lists:
        path.unlink()
    with pytest.raises(CohortError, match=r'sample_labels.csv: the table of a sample, without .* split = "patients"'):
        read("chestxray14", nih)
    by_patient = read("chestxray14", nih, split="patients")
    assert by_patient.frame["split"].isna().all()
    pd.testing.assert_frame_equal(by_patient.frame.drop(columns="split"), official.drop(columns="split"))


def test_chestxray14_unknown_views_only_by_option(nih: Path) -> None:
    edit(nih / "Data_Entry_2017_v2020.csv", lambda t: t.assign(**{"View Position": ["", *t["View Position"][1:]]}))
    assert list(read("chestxray14", nih).exclusions["reason"]) == ["view unknown"]
    assert list(read("chestxray14", nih, unknown_views="include").frame["view"][:1]) == ["unknown"]


# ---- the labeller's policies: CheXpert and MIMIC ----

POLICY_ROWS = [  # Cardiomegaly, Pleural Effusion, Edema
    ("1.0", "", ""),
    ("0.0", "-1.0", ""),
    ("-1.0", "1.0", ""),
    ("", "0.0", "-1.0"),
    ("", "", ""),
]


def chexpert_folder(root: Path, rows: list[tuple[str, str, str]] = POLICY_ROWS) -> Path:
    columns = ["No Finding", "Lung Opacity", "Lung Lesion", "Pneumonia", "Atelectasis"]
    table = pd.DataFrame(
        {
            "Path": [
                f"CheXpert-v1.0-small/train/patient{n:05d}/study1/view1_frontal.jpg" for n in range(1, len(rows) + 1)
            ],
            "Sex": "Female",
            "Age": "60",
            "Frontal/Lateral": "Frontal",
            "AP/PA": "AP",
            **dict.fromkeys(columns, ""),
            **{name: [row[n] for row in rows] for n, name in enumerate(("Cardiomegaly", "Pleural Effusion", "Edema"))},
        }
    )
    (root / "CheXpert-v1.0-small" / "train").mkdir(parents=True)
    table.to_csv(root / "CheXpert-v1.0-small" / "train.csv", index=False)
    return root


@pytest.mark.parametrize(
    ("uncertain", "cardiomegaly", "effusion"),
    [
        ("paper", [1, 0, 0], [0, 0, 0]),  # rows 3 and 4 dropped: -1 in Cardiomegaly, in Edema
        ("unknown", [1, 0, None, 0, 0], [0, None, 1, 0, 0]),
        ("positive", [1, 0, 1, 0, 0], [0, 1, 1, 0, 0]),
        ("negative", [1, 0, 0, 0, 0], [0, 0, 1, 0, 0]),
    ],
)
def test_uncertain_and_blank_become_what_the_policy_says(
    uncertain: str, cardiomegaly: list[int | None], effusion: list[int | None], tmp_path: Path
) -> None:
    frame = read("chexpert", chexpert_folder(tmp_path), uncertain=uncertain).frame
    expected = pd.DataFrame({"cardiomegaly": cardiomegaly, "pleural_effusion": effusion}, dtype="Int8")
    pd.testing.assert_frame_equal(frame[["cardiomegaly", "pleural_effusion"]].reset_index(drop=True), expected)


def test_uncertain_labels_and_dropped_rows_are_counted(tmp_path: Path) -> None:
    root = chexpert_folder(tmp_path)
    assert list(read("chexpert", root).exclusions["reason"]) == ["uncertain label (policy paper)"] * 2
    assert read("chexpert", root, uncertain="unknown").counts["uncertain cardiomegaly read as unknown"] == 1


def test_strange_label_value_is_named_with_its_row(tmp_path: Path) -> None:
    root = chexpert_folder(tmp_path, [("1.0", "", ""), ("2", "", "")])
    with pytest.raises(CohortError, match=r"train\.csv: row 3: Cardiomegaly: expected 1, 0, -1 or blank, got '2'"):
        read("chexpert", root)


def test_mimic_strange_label_value_is_named_with_its_row_in_the_labels_own_list(mimic: Path) -> None:
    path = mimic / "mimic-cxr-2.0.0-chexpert.csv.gz"
    edit(path, lambda t: t.assign(Cardiomegaly=[*t["Cardiomegaly"][:-1], "2"]))
    row = len(pd.read_csv(path)) + 1  # the last one, below the header
    with pytest.raises(CohortError, match=rf"chexpert\.csv\.gz: row {row}: Cardiomegaly: expected 1, 0, -1 or blank"):
        read("mimic", mimic)


# ---- chexpert ----


def test_chexpert_root_may_be_the_release_or_the_folder_above(tmp_path: Path) -> None:
    root = chexpert_folder(tmp_path)
    inside = root / "CheXpert-v1.0-small"
    above = read("chexpert", root, uncertain="negative").frame
    below = read("chexpert", inside, uncertain="negative").frame
    assert above["path"].iloc[0] == "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg"
    assert below["path"].iloc[0] == "train/patient00001/study1/view1_frontal.jpg"
    assert list(above["image_id"]) == list(below["image_id"])


def test_chexpert_full_and_small_release_give_the_same_ids(tmp_path: Path) -> None:
    small = read("chexpert", chexpert_folder(tmp_path / "a")).frame
    full_root = chexpert_folder(tmp_path / "b")
    (full_root / "CheXpert-v1.0-small").rename(full_root / "CheXpert-v1.0")
    edit(full_root / "CheXpert-v1.0" / "train.csv", lambda t: t.assign(Path=t["Path"].str.replace("-small", "")))
    full = read("chexpert", full_root).frame
    assert full["path"].iloc[0].startswith("CheXpert-v1.0/train/")
    pd.testing.assert_series_equal(full["image_id"], small["image_id"])


def test_chexpert_path_that_is_none_is_an_error(tmp_path: Path) -> None:
    root = chexpert_folder(tmp_path)
    edit(root / "CheXpert-v1.0-small" / "train.csv", lambda t: t.assign(Path="scan.jpg"))
    with pytest.raises(CohortError, match=r"row 2: Path is not `…/train/patientX/studyY/file.jpg`"):
        read("chexpert", root)


def test_chexpert_in_batches_finds_each_patient_in_its_batch(tmp_path: Path) -> None:
    """The full release as it is downloaded today: tables in batch 1, patients in batches 2 to 4."""
    root = chexpert_folder(tmp_path)
    (root / "CheXpert-v1.0 batch 1 (validate & csv)").mkdir()
    (root / "CheXpert-v1.0-small" / "train.csv").rename(root / "CheXpert-v1.0 batch 1 (validate & csv)" / "train.csv")
    for batch, patient in ((2, 1), (3, 2)):
        study = root / f"CheXpert-v1.0 batch {batch} (train {batch - 1})" / f"patient{patient:05d}" / "study1"
        study.mkdir(parents=True)
        (study / "view1_frontal.jpg").touch()
    paths = read("chexpert", root, uncertain="negative").frame["path"]
    assert paths.iloc[0] == "CheXpert-v1.0 batch 2 (train 1)/patient00001/study1/view1_frontal.jpg"
    assert paths.iloc[1] == "CheXpert-v1.0 batch 3 (train 2)/patient00002/study1/view1_frontal.jpg"


def test_chexpert_age_0_is_a_placeholder_and_unknown_views_need_the_option(tmp_path: Path) -> None:
    root = chexpert_folder(tmp_path)
    change = {
        "Age": ["0", "90", "18", "60", "60"],
        "Frontal/Lateral": ["Frontal"] * 4 + [""],
        "AP/PA": ["AP"] * 4 + [""],
    }
    edit(root / "CheXpert-v1.0-small" / "train.csv", lambda t: t.assign(**change))
    raw = read("chexpert", root, uncertain="negative")
    np.testing.assert_equal(raw.frame["age_years"].to_numpy(), [np.nan, 90, 18, 60])
    assert list(raw.exclusions["reason"]) == ["view unknown"]
    included = read("chexpert", root, uncertain="negative", unknown_views="include")
    assert list(included.frame["view"]) == ["AP"] * 4 + ["unknown"]


def test_blank_labels_are_negative_and_counted(tmp_path: Path) -> None:
    raw = read("chexpert", chexpert_folder(tmp_path), uncertain="unknown")
    assert raw.counts["blank cardiomegaly read as negative"] == 2
    assert raw.policies == {"uncertain": "unknown", "blank": "negative"}


# ---- padchest ----


def test_padchest_labels_are_trimmed_and_compared_whole() -> None:
    """LB-03 of the collected user reports."""
    assert parse_labels("['pneumonia', ' pleural effusion ', '']") == {"pneumonia", "pleural effusion"}


def padchest_folder(root: Path, labels: list[str], **columns: object) -> Path:
    table = pd.DataFrame(
        {
            "ImageID": [f"{n}_x.png" for n in range(len(labels))],
            "ImageDir": "0",
            "StudyDate_DICOM": "20140915",
            "StudyID": [str(10**38 + n) for n in range(len(labels))],
            "PatientID": [str(2**64 + n) for n in range(len(labels))],
            "PatientBirth": "1930.0",
            "PatientSex_DICOM": "F",
            "Projection": "PA",
            "Labels": labels,
        }
    ).assign(**columns)
    table.to_csv(root / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv", index=False)
    return root


@pytest.mark.parametrize(
    ("labels", "positive"),
    [
        ("['laminar atelectasis']", {"atelectasis"}),
        ("[' atelectasis basal', 'unchanged']", {"atelectasis"}),
        ("['atypical pneumonia']", {"pneumonia"}),
        ("['loculated pleural effusion']", {"pleural_effusion"}),
        ("['pericardial effusion']", set()),
        ("['costophrenic angle blunting']", set()),
        ("[' normal']", {"healthy"}),
    ],
)
def test_padchest_sublabels(labels: str, positive: set[str], tmp_path: Path) -> None:
    row = read("padchest", padchest_folder(tmp_path, [labels])).frame.iloc[0]
    assert {label for label in LABELS if row[label] == 1} == positive


def test_padchest_sublabels_are_a_setting(tmp_path: Path) -> None:
    root = padchest_folder(tmp_path, ["['laminar atelectasis']", "['atelectasis']", "['atypical pneumonia']"])
    raw = read("padchest", root, sublabels={"atelectasis": ["atelectasis"]})
    assert list(raw.frame["atelectasis"]) == [0, 1, 0]
    assert list(raw.frame["pneumonia"]) == [0, 0, 1]
    assert raw.policies["sublabels"]["atelectasis"] == ["atelectasis"]
    assert raw.policies["sublabels"]["pneumonia"] == ["atypical pneumonia", "pneumonia"]


def test_padchest_sublabel_that_no_row_has_is_a_mistake(tmp_path: Path) -> None:
    root = padchest_folder(tmp_path, ["['laminar atelectasis']"])
    with pytest.raises(StudyError, match=r"sublabels.atelectasis: 'laminar atelectesis' is .* mean 'laminar atelect"):
        read("padchest", root, sublabels={"atelectasis": ["laminar atelectesis"]})


def test_padchest_exclusions_have_their_reasons(tmp_path: Path) -> None:
    labels = ["['normal', 'exclude']", "['suboptimal study']", "", "nan", "[]", "['']", *["['normal']"] * 3]
    views = ["PA", "PA", "PA", "AP", "PA", "PA", "L", "UNK", "AP_horizontal"]
    raw = read("padchest", padchest_folder(tmp_path, labels, Projection=views))
    reasons = ["label exclude", "label suboptimal study", *["no labels"] * 4, "view L", "view unknown"]
    assert list(raw.exclusions["reason"]) == reasons
    assert list(raw.frame["view"]) == ["AP_horizontal"]


def test_padchest_known_bad_files_are_left_out_if_the_list_is_there(tmp_path: Path) -> None:
    root = padchest_folder(tmp_path, ["['normal']", "['normal']"])
    (root / "bad.txt").write_text("1_x.png\n")
    raw = read("padchest", root, files={"bad_files": "bad.txt"})
    assert list(raw.frame["image_id"]) == ["0_x.png"]
    assert list(raw.exclusions["reason"]) == ["in the list of bad files"]


def test_padchest_ids_beyond_64_bits_stay_exact(tmp_path: Path) -> None:
    frame = read("padchest", padchest_folder(tmp_path, ["['normal']"] * 2)).frame
    assert list(frame["patient_id"]) == ["18446744073709551616", "18446744073709551617"]


def test_padchest_age_is_study_year_minus_birth_year_and_sex_o_is_unknown(tmp_path: Path) -> None:
    root = padchest_folder(
        tmp_path,
        ["['normal']"] * 4,
        PatientBirth=["1930.0", "1900.0", "2015.0", ""],
        PatientSex_DICOM=["M", "O", "", "None"],
    )
    frame = read("padchest", root).frame
    np.testing.assert_equal(frame["age_years"].to_numpy(), [84, np.nan, np.nan, np.nan])
    assert list(frame["sex"]) == ["male", "unknown", "unknown", "unknown"]


def test_padchest_images_may_lie_in_numbered_folders_or_flat(tmp_path: Path) -> None:
    root = padchest_folder(tmp_path, ["['normal']"])
    assert read("padchest", root).frame["path"].iloc[0] == "0/0_x.png"  # as published; it is nowhere yet
    (root / "0_x.png").touch()
    assert read("padchest", root).frame["path"].iloc[0] == "0_x.png"
    (root / "0").mkdir()
    (root / "0" / "0_x.png").touch()
    assert read("padchest", root).frame["path"].iloc[0] == "0/0_x.png"
    (root / "png" / "0").mkdir(parents=True)
    (root / "png" / "0" / "0_x.png").touch()
    assert read("padchest", root, files={"images": "png"}).frame["path"].iloc[0] == "png/0/0_x.png"


def test_padchest_labels_that_are_no_list_are_named_with_their_row(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="row 3: Labels: expected a list of texts, got 'normal'"):
        read("padchest", padchest_folder(tmp_path, ["['normal']", "normal"]))


# ---- vindr ----


@pytest.fixture
def vindr(tmp_path: Path) -> Path:
    return make_hospitals(tmp_path, domains=["vindr"], patients=12, image_size=32)["vindr"]


def test_vindr_takes_the_majority_of_three_readers(vindr: Path) -> None:
    path = vindr / "annotations" / "image_labels_train.csv"
    image = pd.read_csv(path)["image_id"][0]
    edit(
        path,
        lambda t: t.assign(Pneumonia=["1", "0", "1", *["0"] * (len(t) - 3)], Atelectasis=["1", *["0"] * (len(t) - 1)]),
    )
    row = read("vindr", vindr).frame.set_index("image_id").loc[image]
    assert (row["pneumonia"], row["atelectasis"], row["split"]) == (1, 0, "train")


@pytest.mark.parametrize(("rule", "label"), [("majority", [0, 1, 1]), ("any", [1, 1, 1]), ("all", [0, 0, 1])])
def test_vindr_readers_agree_by_the_named_rule(rule: str, label: list[int], vindr: Path, tmp_path: Path) -> None:
    """One, two and three of three readers; the same from boxes."""
    path = vindr / "annotations" / "image_labels_train.csv"
    images = list(dict.fromkeys(pd.read_csv(path)["image_id"]))[:3]
    votes = ["1", "0", "0", "0", "1", "1", "1", "1", "1"]
    edit(path, lambda t: t.assign(Pneumonia=[*votes, *["0"] * (len(t) - 9)]))
    raw = read("vindr", vindr, readers=rule)
    assert list(raw.frame.set_index("image_id").loc[images, "pneumonia"]) == label
    assert raw.policies["readers"] == f"{rule} of the readers in train, consensus in test"
    boxes = tmp_path / "boxes"
    boxes.mkdir()
    rows = [
        ("abc"[n // 3], "Cardiomegaly" if vote == "1" else "No finding", f"R{n % 3}") for n, vote in enumerate(votes)
    ]
    pd.DataFrame(rows, columns=["image_id", "class_name", "rad_id"]).to_csv(boxes / "train.csv", index=False)
    assert list(read("vindr", boxes, readers=rule).frame["cardiomegaly"]) == label


def test_vindr_spells_other_diseases_in_two_ways_and_has_no_reader_in_test(vindr: Path) -> None:
    train = pd.read_csv(vindr / "annotations" / "image_labels_train.csv").columns
    test = pd.read_csv(vindr / "annotations" / "image_labels_test.csv").columns
    assert "Other diseases" in train
    assert "Other disease" in test
    assert "rad_id" not in test
    assert set(read("vindr", vindr).frame["split"]) == {"train", "test"}


def test_vindr_sex_and_age_come_from_the_header_and_impossible_ones_are_unknown(vindr: Path) -> None:
    import pydicom

    frame = read("vindr", vindr).frame
    for age, sex, expected_age, expected_sex in [
        ("052Y", "F", 52.0, "female"),
        ("000Y", "O", np.nan, "unknown"),
        ("52", "m", 52.0, "male"),  # not a valid AS, but readable
        ("238Y", "", np.nan, "unknown"),
    ]:
        path = vindr / frame["path"].iloc[0]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = pydicom.dcmread(path)
            data.PatientAge, data.PatientSex = age, sex
            data.save_as(path)
        row = read("vindr", vindr).frame.iloc[0]
        np.testing.assert_equal(row["age_years"], expected_age)
        assert row["sex"] == expected_sex


def test_vindr_unreadable_or_missing_file_leaves_sex_and_age_unknown(vindr: Path) -> None:
    paths = read("vindr", vindr).frame["path"]
    (vindr / paths.iloc[0]).write_bytes(b"not DICOM")
    (vindr / paths.iloc[1]).unlink()
    raw = read("vindr", vindr)
    assert list(raw.frame["path"]) == list(paths)
    assert list(raw.frame["sex"][:2]) == ["unknown", "unknown"]
    assert raw.counts["images not found"] == 1


def test_vindr_label_other_than_0_and_1_is_named(vindr: Path) -> None:
    edit(vindr / "annotations" / "image_labels_test.csv", lambda t: t.assign(Cardiomegaly="yes"))
    with pytest.raises(CohortError, match=r"image_labels_test.csv: row 2: Cardiomegaly: expected 0 or 1, got 'yes'"):
        read("vindr", vindr)


def test_vindr_kaggle_table_counts_readers_and_has_no_pneumonia(tmp_path: Path) -> None:
    rows = [("a", "Cardiomegaly", r) for r in ("R1", "R1", "R2")] + [("a", "No finding", "R3")]
    rows += [("b", "No finding", r) for r in ("R1", "R2", "R3")] + [("c", "Pleural effusion", "R4")]
    rows += [("c", "No finding", r) for r in ("R1", "R2")]
    pd.DataFrame(rows, columns=["image_id", "class_name", "rad_id"]).to_csv(tmp_path / "train.csv", index=False)
    frame = read("vindr", tmp_path, files={"train_labels": "train.csv"}).frame.set_index("image_id")
    assert frame["cardiomegaly"].to_dict() == {"a": 1, "b": 0, "c": 0}
    assert frame["healthy"].to_dict() == {"a": 0, "b": 1, "c": 1}
    assert frame["pneumonia"].isna().all()
    assert frame["split"].isna().all()


def test_vindr_kaggle_table_is_found_by_its_own_name(tmp_path: Path) -> None:
    rows = [("a", "No finding", reader) for reader in ("R1", "R2", "R3")] + [("b", "Cardiomegaly", "R1")]
    pd.DataFrame(rows, columns=["image_id", "class_name", "rad_id"]).to_csv(tmp_path / "train.csv", index=False)
    raw = read("vindr", tmp_path)
    assert list(raw.frame["healthy"]) == [1, 0]
    assert raw.counts["training images not read by three readers"] == 1
    assert raw.files == {"kaggle_table": tmp_path / "train.csv"}


def test_vindr_reader_counted_twice_is_an_error(vindr: Path) -> None:
    edit(vindr / "annotations" / "image_labels_train.csv", lambda t: pd.concat([t, t.iloc[:1]]))
    with pytest.raises(
        CohortError, match=r"image_labels_train.csv: 1 rows repeat an image and reader, first '[0-9a-f]+'"
    ):
        read("vindr", vindr)


# ---- mimic ----


@pytest.fixture
def mimic(tmp_path: Path) -> Path:
    return make_hospitals(tmp_path, domains=["mimic"], patients=20, image_size=32)["mimic"]


def test_mimic_validate_is_val_and_paths_follow_subject_and_study(mimic: Path) -> None:
    frame = read("mimic", mimic).frame
    assert set(frame["split"]) == {"train", "val", "test"}
    subject, study = frame["patient_id"].iloc[0], frame["study_id"].iloc[0]
    assert frame["path"].iloc[0] == f"files/p{subject[:2]}/p{subject}/s{study}/{frame['image_id'].iloc[0]}.jpg"


def test_mimic_2_1_brings_one_more_table_which_changes_nothing(mimic: Path) -> None:
    """Version 2.1.0 added radiologists' labels of the test set; the other files kept their names."""
    before = read("mimic", mimic).frame
    (mimic / "mimic-cxr-2.1.0-test-set-labeled.csv").write_text("study_id,Atelectasis\n50000001,1.0\n")
    pd.testing.assert_frame_equal(read("mimic", mimic).frame, before)


def test_mimic_unknown_views_only_by_option(mimic: Path) -> None:
    path = mimic / "mimic-cxr-2.0.0-metadata.csv.gz"
    edit(path, lambda t: t.assign(ViewPosition=["", *["PA"] * (len(t) - 1)]))
    without, included = read("mimic", mimic), read("mimic", mimic, unknown_views="include")
    assert (without.exclusions["reason"] == "view unknown").sum() == 1
    assert (included.frame["view"] == "unknown").sum() == 1


def test_mimic_one_study_without_labels_is_excluded_and_nine_are_an_error(mimic: Path) -> None:
    """8 of the 227,835 published studies have no label row."""
    assert (read("mimic", mimic).exclusions["reason"] == "study without labels").sum() == 1
    edit(mimic / "mimic-cxr-2.0.0-chexpert.csv.gz", lambda t: t.iloc[9:])
    with pytest.raises(
        CohortError, match=r"\d+ of \d+ study_ids are not in mimic-cxr-2.0.0-chexpert.csv.gz, first 5\d+"
    ):
        read("mimic", mimic)


def test_mimic_unmatched_keys_are_errors_that_name_the_first(mimic: Path) -> None:
    path = mimic / "mimic-cxr-2.0.0-split.csv.gz"
    first = pd.read_csv(path)["dicom_id"][0]
    edit(path, lambda t: t.iloc[1:])
    with pytest.raises(CohortError, match=f"metadata.csv.gz: 1 of .* dicom_ids are not in {path.name}, first {first}"):
        read("mimic", mimic)


def test_mimic_repeated_key_is_an_error(mimic: Path) -> None:
    edit(mimic / "mimic-cxr-2.0.0-chexpert.csv.gz", lambda t: pd.concat([t, t.iloc[:1]]))
    with pytest.raises(CohortError, match=r"chexpert.csv.gz: 1 rows repeat a study_id"):
        read("mimic", mimic)


def test_mimic_labels_of_another_subject_are_an_error(mimic: Path) -> None:
    edit(mimic / "mimic-cxr-2.0.0-chexpert.csv.gz", lambda t: t.assign(subject_id="1"))
    with pytest.raises(CohortError, match="images have another subject_id"):
        read("mimic", mimic)


def test_mimic_age_moves_on_from_the_anchor_and_top_coded_ages_stay(mimic: Path) -> None:
    edit(mimic / "mimic-cxr-2.0.0-metadata.csv.gz", lambda t: t.assign(StudyDate="21550101"))
    for anchor_age, expected in (("50", 55.0), ("91", 91.0), ("94", 94.0), ("89", 94.0)):
        edit(mimic / "patients.csv.gz", lambda t, age=anchor_age: t.assign(anchor_age=age, anchor_year="2150"))
        assert set(read("mimic", mimic).frame["age_years"]) == {expected}


def test_mimic_age_that_passes_100_by_the_years_is_top_coded_and_not_unknown(mimic: Path) -> None:
    """An anchor age of 88 and 12 years or more: 100 and above has no group."""
    edit(mimic / "patients.csv.gz", lambda t: t.assign(anchor_age="88", anchor_year="2150"))
    for year, age, top_coded in (("2161", 99.0, 0), ("2162", 91.0, 1), ("2170", 91.0, 1)):
        edit(mimic / "mimic-cxr-2.0.0-metadata.csv.gz", lambda t, y=year: t.assign(StudyDate=f"{y}0101"))
        raw = read("mimic", mimic)
        assert set(raw.frame["age_years"]) == {age}
        assert raw.counts["age of 100 or more by the years that passed, top-coded"] == top_coded * len(raw.frame)
        assert age_group(age) == "age_70_100"


def test_mimic_without_patients_table_has_unknown_sex_and_age(mimic: Path) -> None:
    (mimic / "patients.csv.gz").unlink()
    frame = read("mimic", mimic).frame
    assert set(frame["sex"]) == {"unknown"}
    assert frame["age_years"].isna().all()


def test_mimic_age_is_the_anchor_where_no_study_date_is_given(mimic: Path) -> None:
    edit(mimic / "mimic-cxr-2.0.0-metadata.csv.gz", lambda t: t.drop(columns="StudyDate"))
    edit(mimic / "patients.csv.gz", lambda t: t.assign(anchor_age="50"))
    raw = read("mimic", mimic)
    assert set(raw.frame["age_years"]) == {50.0}
    assert raw.counts["age is anchor_age, no year to move it by"] == len(raw.frame)


def test_mimic_subject_that_is_not_in_mimic_iv_has_unknown_sex_and_age_and_is_counted(mimic: Path) -> None:
    """Some MIMIC-CXR subjects were never admitted, so MIMIC-IV does not know them."""
    subject = read("mimic", mimic).frame["patient_id"].iloc[0]
    edit(mimic / "patients.csv.gz", lambda t: t[t["subject_id"] != subject])
    raw = read("mimic", mimic)
    theirs = raw.frame[raw.frame["patient_id"] == subject]
    assert set(theirs["sex"]) == {"unknown"}
    assert theirs["age_years"].isna().all()
    assert raw.counts["subject not in the patients table, sex and age unknown"] == len(theirs)


def test_mimic_join_keeps_every_image_of_a_study(mimic: Path) -> None:
    """LB-07 of the collected user reports: labels by study, joined to images."""
    raw = read("mimic", mimic)
    assert len(raw.frame) + len(raw.exclusions) == len(pd.read_csv(mimic / "mimic-cxr-2.0.0-metadata.csv.gz"))


# ---- uka ----


def uka_folder(root: Path, **columns: object) -> Path:
    grades = [
        f"{name}_{side}"
        for name in ("pleural_effusion", "pneumonic_infiltrates", "atelectasis")
        for side in ("right", "left")
    ]
    row = {
        "image_id": "1",
        "subject_id": "7",
        "patient_sex": "F",
        "age": "70",
        "cardiomegaly": "1",
        **dict.fromkeys(grades, "1"),
    }
    pd.DataFrame([{**row, **columns}]).to_csv(root / "UKA_master_list.csv", index=False)
    return root


@pytest.mark.parametrize(
    ("grades", "labels"),
    [
        ({}, {"healthy": 1}),
        ({"cardiomegaly": 3}, {"cardiomegaly": 1}),
        ({"atelectasis_left": 4}, {"atelectasis": 1}),
        ({"pneumonic_infiltrates_right": 3, "pneumonic_infiltrates_left": 2}, {"pneumonia": 1}),
        ({"pleural_effusion_right": 2, "pleural_effusion_left": 5}, {}),
        ({"congestion": 2}, {}),
        ({"cardiomegaly": ""}, {"cardiomegaly": None, "healthy": None}),
        ({"atelectasis_left": "", "atelectasis_right": 3}, {"atelectasis": 1}),
        ({"atelectasis_left": "", "cardiomegaly": 2}, {"atelectasis": None}),
    ],
)
def test_uka_grade_3_or_4_on_either_side_is_positive(
    grades: dict[str, object], labels: dict[str, int | None], tmp_path: Path
) -> None:
    row = read("uka", uka_folder(tmp_path, **grades)).frame.iloc[0]
    assert {label: None if pd.isna(row[label]) else row[label] for label in LABELS} == {
        **dict.fromkeys(LABELS, 0),
        **labels,
    }


def test_uka_strange_grade_and_strange_split_are_named(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="row 2: cardiomegaly: expected a grade from 0 to 5 or blank, got '7'"):
        read("uka", uka_folder(tmp_path, cardiomegaly=7))
    with pytest.raises(CohortError, match="split: expected train, valid or test, got 'holdout'"):
        read("uka", uka_folder(tmp_path, split="holdout"))


def test_uka_without_split_view_and_study_column_still_reads(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.png").touch()
    row = read("uka", uka_folder(tmp_path)).frame.iloc[0]
    assert (row["path"], row["view"], row["study_id"], row["age_years"]) == ("images/1.png", "frontal", "1", 70)
    assert pd.isna(row["split"])


# ---- labels and columns that a study asks for ----


def wanted(kind: str, *labels: str, columns: dict[str, str] | None = None, **given: list[str]) -> Wanted:
    return Wanted({label: define(label, kind, given=given.get(label, ())) for label in labels}, columns or {})


def read_wanted(kind: str, root: Path, of: Wanted, **settings: object) -> RawCohort:
    chosen = DomainSettings.model_validate({"root": root, "missing_images": "later", **settings})
    return read_domain(kind, root, chosen, of)


@pytest.mark.parametrize(
    ("grades", "cut", "label"),
    [
        ({"pleural_effusion_left": 2}, ">= 2", 1),
        ({"pleural_effusion_left": 2}, ">= 3", 0),
        ({"pleural_effusion_left": 1}, ">= 2", 0),
        ({"pleural_effusion_right": 5}, ">= 2", 0),  # questionable is no grade above the others
        ({"pleural_effusion_right": "", "pleural_effusion_left": 1}, ">= 2", None),
        ({"pleural_effusion_right": "", "pleural_effusion_left": 4}, ">= 2", 1),
        ({"congestion": 2}, "congestion >= 2", 1),
        ({}, "congestion >= 2", None),  # the list has no such column
    ],
)
def test_uka_cuts_of_grades(grades: dict[str, object], cut: str, label: int | None, tmp_path: Path) -> None:
    of = wanted("uka", "pleural_effusion", "cardiomegaly", pleural_effusion=[cut])
    row = read_wanted("uka", uka_folder(tmp_path, **grades), of).frame.iloc[0]
    assert (None if pd.isna(row["pleural_effusion"]) else row["pleural_effusion"]) == label
    assert row["cardiomegaly"] == 0


def test_chexpert_of_several_findings_is_positive_else_uncertain_else_negative(
    hospitals: dict[str, Path], tmp_path: Path
) -> None:
    table = next(hospitals["chexpert"].rglob("train.csv"))
    rows = pd.read_csv(table, dtype=str, keep_default_na=False)
    rows = rows[rows["Frontal/Lateral"] == "Frontal"].iloc[:4]
    rows = rows.assign(Edema=["1", "-1", "0", ""], Consolidation=["-1", "0", "-1", "0"], Pneumonia="")
    rows.to_csv(tmp_path / "train.csv", index=False)
    of = wanted("chexpert", "opacity", "pneumonia", opacity=["Edema", "Consolidation"])
    for policy, labels in (("unknown", [1, None, None, 0]), ("positive", [1, 1, 1, 0]), ("negative", [1, 0, 0, 0])):
        raw = read_wanted("chexpert", tmp_path, of, uncertain=policy)
        found = [None if pd.isna(value) else int(value) for value in raw.frame["opacity"]]
        assert found == labels, policy
        assert raw.counts[f"uncertain opacity read as {policy}"] == 2


def test_vindr_reader_who_saw_one_of_the_findings_saw_the_label(vindr: Path) -> None:
    path = vindr / "annotations" / "image_labels_train.csv"
    image = pd.read_csv(path)["image_id"][0]
    blank = ["0"] * (len(pd.read_csv(path)) - 3)
    edit(path, lambda t: t.assign(**{"Edema": ["1", "0", "0", *blank], "Lung cyst": ["0", "1", "0", *blank]}))
    of = wanted("vindr", "either", "edema", "other_diseases", either=["Edema", "lung_cyst"])
    row = read_wanted("vindr", vindr, of).frame.set_index("image_id").loc[image]
    assert (row["either"], row["edema"]) == (1, 0)  # two of three readers, one of three
    with pytest.raises(StudyError, match=r"columns: VinDr's lists have a row a reader, and no column"):
        read_wanted("vindr", vindr, of, columns={"ward": "x"})


def test_a_label_that_a_list_has_not_is_unknown_and_counted(tmp_path: Path) -> None:
    root = padchest_folder(tmp_path, ["['hiatal hernia']", "['goiter', 'normal']"])
    raw = read_wanted("padchest", root, wanted("padchest", "mediastinal_enlargement", "lung_cyst"))
    assert list(raw.frame["mediastinal_enlargement"]) == [1, 1]  # both are below it in the tree
    assert raw.frame["lung_cyst"].isna().all()
    assert raw.counts["lung_cyst unknown in every image"] == 2


def test_columns_for_groups_are_those_of_the_lists(mimic: Path, tmp_path: Path) -> None:
    of = wanted("padchest", "goiter", columns={"manufacturer": "Manufacturer_DICOM"})
    (tmp_path / "p").mkdir()
    root = padchest_folder(tmp_path / "p", ["['goiter']"] * 2, Manufacturer_DICOM=["Philips", " Imaging Dynamics "])
    assert list(read_wanted("padchest", root, of).frame["manufacturer"]) == ["Philips", "Imaging Dynamics"]
    (tmp_path / "q").mkdir()
    assert set(read_wanted("padchest", padchest_folder(tmp_path / "q", ["['goiter']"]), of).frame["manufacturer"]) == {
        ""
    }
    with pytest.raises(CohortError, match=r"no column 'Manufacturer_DICOM' \(columns\.manufacturer\)"):
        read_wanted("padchest", tmp_path / "q", of, columns={"manufacturer": "Manufacturer_DICOM"})
    of = wanted("mimic", "edema", columns={"race": "race"})
    assert set(read_wanted("mimic", mimic, of).frame["race"]) == {""}  # without MIMIC-IV's admissions
    subjects = sorted(set(pd.read_csv(mimic / "mimic-cxr-2.0.0-metadata.csv.gz", dtype=str)["subject_id"]))
    stays = [(subjects[0], "WHITE"), (subjects[0], "ASIAN"), (subjects[0], "ASIAN"), (subjects[0], ""), ("1", "OTHER")]
    pd.DataFrame(stays, columns=["subject_id", "race"]).to_csv(mimic / "admissions.csv.gz", index=False)
    frame = read_wanted("mimic", mimic, of).frame
    assert set(frame.loc[frame["patient_id"] == subjects[0], "race"]) == {"ASIAN"}
    assert set(frame.loc[frame["patient_id"] != subjects[0], "race"]) == {""}


def test_uka_dates_of_two_zones_are_dates(tmp_path: Path) -> None:
    """25,567 days from 1950-01-01 to 2020-01-01: a database writes one column with its zone and one without."""
    born = "1950-01-01T12:00:00+01:00"
    uka_folder(tmp_path, age=None, birth_date=born, examination_date="2020-01-01T12:00:00")
    table = pd.read_csv(tmp_path / "UKA_master_list.csv", dtype=str).drop(columns="age")
    pd.concat([table, table.assign(image_id="2", birth_date="1950-01-01")]).to_csv(
        tmp_path / "UKA_master_list.csv", index=False
    )
    assert read("uka", tmp_path).frame["age_years"].tolist() == pytest.approx([25_567 / 365.25] * 2)


def test_a_column_that_is_there_in_two_spellings_is_not_chosen_between(tmp_path: Path) -> None:
    uka_folder(tmp_path, view="AP", View="LAT")
    with pytest.raises(CohortError, match=r"UKA_master_list\.csv: 2 columns are named 'view', expected one"):
        read("uka", tmp_path)


def test_vindr_header_of_an_unknown_kind_leaves_sex_and_age_unknown(vindr: Path) -> None:
    """`ZZ` is no value representation of PS3.5 6.2; the shards stage rejects such a file."""
    first = read("vindr", vindr).frame.iloc[0]
    whole = (vindr / first["path"]).read_bytes()
    assert whole.count(b"\2\0\x10\0UI") == 1
    (vindr / first["path"]).write_bytes(whole.replace(b"\2\0\x10\0UI", b"\2\0\x10\0ZZ"))
    again = read("vindr", vindr).frame.iloc[0]
    assert (again["sex"], np.isnan(again["age_years"])) == ("unknown", True)
