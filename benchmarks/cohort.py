"""The cohort stage on made-up tables of 592,000 rows: time and memory. `python benchmarks/cohort.py` runs it.

Also a spreadsheet's export of as many rows (cp1252, `;`, decimal commas), a workbook of 50,000, and `dpdt list` on
10,000 small DICOM files.

Each table is read from its lists alone, with its images (empty files) where they should be, and with all of them in
another folder. Prints a table and writes build/bench/cohort.json. Each reading has a process of its own, so that the
peak of memory is its own, too. Nothing here describes a person: ids, labels and ages are drawn.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from dpdt.base.console import show_table
from dpdt.base.vocabulary import as_name
from dpdt.cohort.build import build_cohort
from dpdt.cohort.lists.from_files import list_files
from dpdt.study import load_study
from dpdt.study.findings import CHEXPERT_FINDINGS, findings_of

ROWS: Final = 592_000
PADCHEST_FINDINGS: Final = tuple(
    name for name in findings_of("padchest") if name not in ("exclude", "suboptimal study")
)[:174]
GZIP: Final[dict[str, Any]] = {"method": "gzip", "compresslevel": 1}

OWN: Final = """
[domains.own]
kind = "table"
root = "."
missing_images = "later"
[domains.own.table]
file = "list.csv"
image = "file"
patient = "mrn"
view = "view"
sex = "sex"
birth_date = "born"
study_date = "taken"
findings = "findings"
no_findings = "negative"
[domains.own.table.labels]
cardiomegaly = { findings = ["heart"] }
healthy = { findings = ["normal"] }
"""

SPREADSHEET: Final = """
[domains.{name}]
kind = "table"
root = "."
missing_images = "later"
[domains.{name}.table]
file = "{file}"
{how}
image = "Bild"
patient = "Patient"
sex = "Geschlecht"
age = "Alter"
words = {{ yes = ["ja"], no = ["nein"] }}
[domains.{name}.table.sexes]
female = ["weiblich"]
male = ["männlich"]
[domains.{name}.table.labels]
cardiomegaly = {{ column = "Herzvergrößerung" }}
pleural_effusion = {{ column = "Erguss" }}
"""
BOOK_ROWS: Final = 50_000
FILES: Final = 10_000


def chestxray14(root: Path, random: np.random.Generator) -> None:
    """One CSV and two lists."""
    patients = np.sort(random.integers(0, ROWS // 4, ROWS))
    follow_up = pd.Series(patients).groupby(patients).cumcount()
    names = np.array([f"{p:08d}_{f:03d}.png" for p, f in zip(patients, follow_up, strict=True)])
    findings = ["Cardiomegaly", "Effusion", "No Finding", "Mass|Effusion", "Atelectasis|Cardiomegaly", "Pneumonia"]
    table = {
        "Image Index": names,
        "Finding Labels": random.choice(findings, ROWS),
        "Follow-up #": follow_up,
        "Patient ID": patients,
        "Patient Age": random.integers(0, 96, ROWS),
        "Patient Gender": random.choice(["M", "F"], ROWS),
        "View Position": random.choice(["PA", "AP"], ROWS),
    }
    pd.DataFrame(table).to_csv(root / "Data_Entry_2017_v2020.csv", index=False)
    (root / "test_list.txt").write_text("\n".join(names[patients % 5 == 0]))
    (root / "train_val_list.txt").write_text("\n".join(names[patients % 5 != 0]))


def mimic(root: Path, random: np.random.Generator) -> None:
    """Four gzipped CSVs."""
    count = ROWS * 3 // 5
    studies = np.sort(np.concatenate([np.arange(count), random.integers(0, count, ROWS - count)]))
    subjects = 10_000_000 + studies // 4
    keys = {
        "dicom_id": ["-".join(f"{part:08x}" for part in row) for row in random.integers(0, 2**32, (ROWS, 5))],
        "subject_id": subjects,
        "study_id": 50_000_000 + studies,
    }
    views = random.choice(["PA", "AP", "LATERAL", ""], ROWS, p=[0.3, 0.4, 0.26, 0.04])
    split = np.where(subjects % 50 == 0, "test", np.where(subjects % 50 == 1, "validate", "train"))
    every = np.arange(count)
    labels = {name: random.choice(["1.0", "0.0", "-1.0", ""], count) for name in CHEXPERT_FINDINGS}
    people = np.unique(subjects)
    tables = {
        "mimic-cxr-2.0.0-metadata": {**keys, "ViewPosition": views, "StudyDate": "21500101"},
        "mimic-cxr-2.0.0-split": {**keys, "split": split},
        "mimic-cxr-2.0.0-chexpert": {"subject_id": 10_000_000 + every // 4, "study_id": 50_000_000 + every, **labels},
        "patients": {"subject_id": people, "gender": "F", "anchor_age": people % 73 + 18, "anchor_year": 2148},
    }
    for name, columns in tables.items():
        pd.DataFrame(columns).to_csv(root / f"{name}.csv.gz", index=False, compression=GZIP)


def own(root: Path, random: np.random.Generator) -> None:
    """A hospital's own CSV."""
    table = {
        "file": [f"{row // 10_000}/{row}.png" for row in range(ROWS)],
        "mrn": random.integers(0, ROWS // 4, ROWS),
        "view": random.choice(["PA", "AP", "lateral"], ROWS),
        "sex": random.choice(["F", "M", ""], ROWS),
        "born": "1950-01-31",
        "taken": "2020-02-01",
        "findings": random.choice(["effusion; heart", "normal", "", "plate"], ROWS),
    }
    pd.DataFrame(table).to_csv(root / "list.csv", index=False)


def padchest(root: Path, random: np.random.Generator) -> None:
    """One CSV with every finding of the tree."""
    names = np.array(PADCHEST_FINDINGS)
    chosen = random.integers(0, len(names), (ROWS, 4))
    sizes = random.integers(1, 5, ROWS)
    table = {
        "ImageID": [f"{row}.png" for row in range(ROWS)],
        "ImageDir": np.arange(ROWS) // 10_000,
        "StudyDate_DICOM": "20200131",
        "StudyID": np.arange(ROWS),
        "PatientID": random.integers(0, ROWS // 4, ROWS),
        "PatientBirth": random.integers(1930, 2000, ROWS),
        "PatientSex_DICOM": random.choice(["M", "F"], ROWS),
        "Projection": random.choice(["PA", "AP"], ROWS),
        "Labels": [str(names[row[:size]].tolist()) for row, size in zip(chosen.tolist(), sizes, strict=True)],
    }
    pd.DataFrame(table).to_csv(root / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv", index=False)


def german(random: np.random.Generator, rows: int) -> pd.DataFrame:
    """What a German spreadsheet holds."""
    return pd.DataFrame(
        {
            "Bild": [f"bilder\\{row // 10_000}\\röntgen_{row}.png" for row in range(rows)],
            "Patient": random.integers(0, rows // 4, rows),
            "Geschlecht": random.choice(["weiblich", "männlich"], rows),
            "Alter": random.integers(200, 900, rows) / 10,
            "Herzvergrößerung": random.choice(["ja", "nein", ""], rows),
            "Erguss": random.choice(["ja", "nein"], rows),
        }
    )


def spreadsheet(root: Path, random: np.random.Generator) -> None:
    """A spreadsheet's export."""
    german(random, ROWS).to_csv(root / "liste.csv", index=False, sep=";", decimal=",", encoding="cp1252")


def workbook(root: Path, random: np.random.Generator) -> None:
    """The spreadsheet itself, as far as one is used by hand."""
    german(random, BOOK_ROWS).to_excel(root / "liste.xlsx", index=False)


CASES: Final[dict[str, Callable[[Path, np.random.Generator], None]]] = {
    "chestxray14": chestxray14,
    "mimic": mimic,
    "own": own,
    "padchest": padchest,
    "spreadsheet": spreadsheet,
    "workbook": workbook,
}
STUDIES: Final = {
    "own": OWN,
    "spreadsheet": SPREADSHEET.format(name="spreadsheet", file="liste.csv", how='separator = ";"\nencoding = "cp1252"'),
    "workbook": SPREADSHEET.format(name="workbook", file="liste.xlsx", how=""),
}


def lists_alone(folder: Path, domain: str) -> None:
    """No image is there."""


def images_in_place(folder: Path, domain: str) -> None:
    """Every image of the cohort is where it should be."""
    for path in pd.read_parquet(folder / "cohort" / f"{domain}.parquet")["path"]:
        try:
            os.mknod(folder / path)
        except FileNotFoundError:
            (folder / path).parent.mkdir(parents=True)
            os.mknod(folder / path)


def images_elsewhere(folder: Path, domain: str) -> None:
    """The same, all below another folder."""
    tops = [entry for entry in folder.iterdir() if entry.is_dir() and entry.name != "cohort"]
    (folder / "elsewhere").mkdir()
    for top in tops:
        top.rename(folder / "elsewhere" / top.name)


PLACES: Final = (lists_alone, images_in_place, images_elsewhere)


def measure(folder: Path, domain: str) -> dict[str, Any]:
    """Build one cohort in this process."""
    file = folder / "study.toml"
    labels = {"padchest": f"[study]\nlabels = {json.dumps([as_name(name) for name in PADCHEST_FINDINGS])}\n"}
    text = f'[domains.{domain}]\nroot = "."\nmissing_images = "later"\n'
    file.write_text(STUDIES.get(domain, labels.get(domain, "") + text))
    start = time.perf_counter()
    summary = build_cohort(load_study(file), domain)
    elapsed = 1000 * (time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "case": f"{domain}, {BOOK_ROWS if domain == 'workbook' else ROWS} rows",
        "method": "dpdt cohort",
        "ms": round(elapsed),
        "peak_bytes": peak,
        "images": summary.images,
    }


def headers(folder: Path) -> dict[str, Any]:
    """Read the headers of as many small DICOM files in folders of 100."""
    import pydicom

    image = pydicom.Dataset()
    image.file_meta = pydicom.dataset.FileMetaDataset()
    image.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    image.Rows = image.Columns = 256
    image.PatientID, image.StudyDate, image.PatientSex, image.ViewPosition = "1", "20200131", "F", "PA"
    image.PixelData = bytes(2 * 256 * 256)
    image["PixelData"].VR = "OW"
    for number in range(FILES):
        path = folder / f"{number // 100}" / f"IM{number}"
        path.parent.mkdir(exist_ok=True)
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = f"1.2.3.{number}"
        pydicom.dcmwrite(path, image, enforce_file_format=True)
    start = time.perf_counter()
    counts = list_files(folder, folder / "list.csv")
    elapsed = 1000 * (time.perf_counter() - start)
    case = {"case": f"DICOM headers, {FILES} files", "method": "dpdt list", "ms": round(elapsed)}
    return {**case, "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "images": counts.listed}


def main() -> None:
    """Make the tables, read each in a fresh process, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", nargs=2, metavar=("FOLDER", "DOMAIN"), help="build one cohort, print its figures")
    parser.add_argument("--only", choices=list(CASES), help="this table alone")
    arguments = parser.parse_args()
    chosen = arguments.measure
    if chosen:
        print(json.dumps(measure(Path(chosen[0]), chosen[1])))
        return
    figures = []
    for domain, make in CASES.items():
        if arguments.only not in (None, domain):
            continue
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder), np.random.default_rng(0))
            for place in PLACES if domain not in ("spreadsheet", "workbook") else PLACES[:1]:
                place(Path(folder), domain)
                shutil.rmtree(Path(folder) / "cohort", ignore_errors=True)
                command = [sys.executable, __file__, "--measure", folder, domain]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                figures.append({**json.loads(done.stdout.splitlines()[-1]), "method": place.__name__.replace("_", " ")})
    with tempfile.TemporaryDirectory() as folder:
        figures.append(headers(Path(folder)))
    rows = [[f["case"], f["method"], f["ms"] / 1000, f["peak_bytes"] // 2**20, f["images"]] for f in figures]
    show_table("Cohort stage", ("case", "images", "seconds", "peak MiB", "in the cohort"), rows)
    output = Path("build/bench/cohort.json")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
