"""Layouts of published data sets that have no kind of their own: the shipped mappings of examples/lists read them.

Columns are those of the published files; rows are made up, but for RSNA's, which are counted to the row.
"""

import json
import os
import shutil
import zipfile
from pathlib import Path

import pandas as pd
import pytest

import dpdt
from dpdt.cohort.build import build_cohort
from dpdt.cohort.hospitals import read_domain
from dpdt.cohort.lists.from_files import list_files
from dpdt.cohort.table import read_cohort
from dpdt.study import load_study
from dpdt.study.domain_settings import DomainSettings

EXAMPLES = Path(dpdt.__file__).parents[1] / "examples" / "lists"
WHEEL = os.environ.get("DPDT_XRV_WHEEL", "")
FOURTEEN = (
    *("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema"),
    *("Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other"),
    *("Fracture", "Support Devices"),
)
N = 20


def read(name: str, variable: str, root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """The cohort by a shipped mapping, in the order of the images."""
    monkeypatch.setenv(variable, str(root))
    shutil.copy(EXAMPLES / f"{name}.toml", folder / "study.toml")
    study = load_study(folder)
    [domain] = study.domains
    build_cohort(study, domain)
    return read_cohort(study, domain)


def touch(root: Path, names: list[str]) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_rsna_s_boxes_become_one_label_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["patientId,x,y,width,height,Target"]
    for n in range(N):
        boxes = ["264.0,152.0,213.0,379.0,1", "562.0,152.0,256.0,453.0,1"] if n % 4 == 0 else [",,,,0"]
        lines += [f"{n:08x}-aaaa,{box}" for box in boxes]
    root = tmp_path / "rsna"
    touch(root, [f"stage_2_train_images/{n:08x}-aaaa.dcm" for n in range(N)])
    (root / "stage_2_train_labels.csv").write_text("\n".join(lines))
    table = read("rsna-pneumonia", "RSNA", root, tmp_path, monkeypatch)
    assert table["pneumonia"].tolist() == [1, 0, 0, 0] * 5
    assert table["path"][0] == "stage_2_train_images/00000000-aaaa.dcm"


@pytest.mark.skipif(not WHEEL, reason="DPDT_XRV_WHEEL names no wheel of torchxrayvision 1.5.7")
def test_rsna_s_published_table_has_26_684_images_of_which_6_012_are_positive(tmp_path: Path) -> None:
    """Counts of the challenge's stage 2: 30,227 rows."""
    with zipfile.ZipFile(WHEEL) as wheel:
        name = wheel.extract("torchxrayvision/data/kaggle_stage_2_train_labels.csv.zip", tmp_path)
    with zipfile.ZipFile(name) as inner:
        inner.extractall(tmp_path)
    table = {"file": "stage_2_train_labels.csv", "image": "patientId", "patient": "patientId", "rows": "any"}
    labels = {"pneumonia": {"column": "Target"}}
    settings = {"root": tmp_path, "missing_images": "later", "table": {**table, "labels": labels}}
    raw = read_domain("table", tmp_path, DomainSettings.model_validate(settings))
    assert len(raw.frame) == 26_684
    assert int(raw.frame["pneumonia"].sum()) == 6_012
    assert raw.counts["further rows of an image, read by the rule of `rows`"] == 30_227 - 26_684


def test_brax_s_uncertain_and_blank_labels_and_top_coded_ages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [f"Anonymized_PNGs/id_{n // 2}/Study_{n}/Series_1/image-{n:05d}.png" for n in range(N)]
    rows = pd.DataFrame({"DicomPath": "x.dcm", "PngPath": paths, "PatientID": [f"id_{n // 2}" for n in range(N)]})
    rows["PatientSex"], rows["PatientAge"] = ["F", "M", "O", "M"] * 5, ["85 or more", "40", "", "25"] * 5
    rows["AccessionNumber"], rows["StudyDate"] = range(N), "20080101"
    rows["ViewPosition"] = ["PA", "AP", "L", "PA", "RL"] * 4
    for finding in FOURTEEN:
        rows[finding] = [1.0, 0.0, None, -1.0, None] * 4
    root = tmp_path / "brax"
    touch(root, paths)
    rows.to_csv(root / "master_spreadsheet_update.csv")
    table = read("brax", "BRAX", root, tmp_path, monkeypatch)
    assert table["path"].tolist() == [paths[n] for n in range(N) if n % 5 in (0, 1)]  # laterals, and without labels
    assert table["age_years"][0] == 85
    assert table["healthy"].tolist() == [0, 0] * 4  # with findings it becomes 0
    assert table["pneumonia"].tolist() == [1, 0] * 4


def test_vindr_pcxr_has_a_row_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{n:032x}" for n in range(N)]
    rows = pd.DataFrame({"image_id": names, "rad_ID": "R1", "No finding": [1.0, 0.0] * 10, "Bronchitis": 0.0})
    rows["Brocho-pneumonia"], rows["Pneumonia"] = 0.0, [0.0, 1.0] * 10
    root = tmp_path / "pcxr"
    touch(root, [f"train/{name}.dicom" for name in names])
    rows.to_csv(root / "image_labels_train.csv", index=False)
    table = read("vindr-pcxr", "VINDR_PCXR", root, tmp_path, monkeypatch)
    assert table[["pneumonia", "healthy"]].to_numpy().tolist() == [[0, 1], [1, 0]] * 10
    assert table["path"][3] == f"train/{names[3]}.dicom"


def test_chexpert_plus_joins_the_labels_of_its_json_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [f"train/patient{n:05d}/study1/view1_frontal.jpg" for n in range(N)]
    rows = pd.DataFrame({"path_to_image": paths, "path_to_dcm": "x", "frontal_lateral": ["Frontal"] * 19 + ["Lateral"]})
    rows["ap_pa"], rows["deid_patient_id"] = "AP", [f"patient{n:05d}" for n in range(N)]
    rows["report"] = 'two\nlines, "quoted"'
    rows["age"], rows["sex"], rows["split"] = 61.0, ["Female", "Male", "Unknown", "Male"] * 5, "train"
    root = tmp_path / "plus"
    touch(root, [f"PNG/{path.replace('.jpg', '.png')}" for path in paths])
    rows.to_csv(root / "df_chexpert_plus_240401.csv", index=False)
    (root / "chexbert_labels").mkdir()
    found = [
        {"path_to_image": path, **dict.fromkeys(FOURTEEN), "Pneumonia": [1.0, 0.0, -1.0][n % 3], "Edema": 1.0}
        for n, path in enumerate(reversed(paths))
    ]
    lines = "\n".join(map(json.dumps, found))
    (root / "chexbert_labels" / "impression_fixed.json").write_text(lines)
    table = read("chexpert-plus", "CHEXPERT_PLUS", root, tmp_path, monkeypatch).set_index("image_id")
    assert "train/patient00019/study1/view1_frontal.jpg" not in table.index  # lateral
    assert table.loc[paths[18], "pneumonia"] == 0  # the second line of the labels, which are in another order
    assert paths[17] not in table.index  # uncertain, and nothing else is said
    assert table.loc[paths[16], "pneumonia"] == 1
    assert table.loc[paths[16], "path"] == "PNG/train/patient00016/study1/view1_frontal.png"
    assert table.loc[paths[16], "age_years"] == 61


def test_shenzhen_and_montgomery_are_read_by_their_files_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "tb"
    touch(root, [f"CXR_png/CHNCXR_{n:04d}_{n % 2}.png" for n in range(N)] + ["CXR_png/MCUCXR_0001_0.png"])
    touch(root, ["ClinicalReadings/CHNCXR_0001_0.txt", "ReadMe.docx"])
    pattern = next(
        line.split("--pattern '")[1].rstrip("'\n")
        for line in (EXAMPLES / "shenzhen-montgomery.toml").read_text().splitlines()
        if "--pattern" in line
    )
    list_files(root, root / "list.csv", pattern=pattern)
    table = read("shenzhen-montgomery", "TB", root, tmp_path, monkeypatch)
    assert len(table) == N + 1
    assert table.set_index("patient_id").loc[["CHNCXR_0002", "CHNCXR_0003", "MCUCXR_0001"], "healthy"].tolist() == [
        *(1, 0, 1),
    ]


def test_every_shipped_mapping_is_tried_here() -> None:
    source = Path(__file__).read_text()
    assert all(f'"{file.stem}"' in source for file in EXAMPLES.glob("*.toml"))
