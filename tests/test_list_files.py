"""`dpdt list`: a list from DICOM headers, or from the names of files."""

import csv
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from dpdt.cli import main
from dpdt.cohort.lists.from_files import COLUMNS, list_files
from dpdt.errors import CohortError


def dicom(path: Path, **elements: Any) -> None:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, "1.2.840.10008.5.1.4.1.1.1"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    image = Dataset()
    image.file_meta, image.SOPClassUID = meta, meta.MediaStorageSOPClassUID
    image.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    image.Rows = image.Columns = 8
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 8, 8, 7, 0
    image.PixelData = np.zeros(64, dtype=np.uint8).tobytes()
    for name, value in elements.items():
        setattr(image, name, value)
        if value is None:
            delattr(image, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, image, enforce_file_format=True)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_headers_become_rows_and_everything_else_is_counted_or_named(tmp_path: Path) -> None:
    folder = tmp_path / "dicom"
    dicom(
        folder / "a" / "IM0001",
        PatientID="7001",
        StudyInstanceUID="1.2.3",
        AccessionNumber="A1",
        StudyDate="20200131",
        PatientSex="F",
        PatientAge="058Y",
        ViewPosition="PA",
        Modality="DX",
        Manufacturer="Maker & Söhne",
        BurnedInAnnotation="YES",
        PresentationIntentType="FOR PRESENTATION",
        SpecificCharacterSet="ISO_IR 192",
    )
    dicom(folder / "b.dcm", PatientID="7002", StudyDate="20200131", PatientBirthDate="19500131", PatientAge=None)
    dicom(folder / "report.dcm", Rows=None)
    (folder / "notes.txt").write_text("no picture")
    (folder / "c.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "cut.dcm").write_bytes((folder / "b.dcm").read_bytes()[:200])
    (folder / "text.dcm").write_text("not at all")
    (folder / ".hidden").mkdir()
    output = tmp_path / "list.csv"
    counts = list_files(folder, output)
    rows = {row["path"]: row for row in rows_of(output)}
    assert set(rows) == {"a/IM0001", "b.dcm"}
    assert tuple(rows["b.dcm"]) == COLUMNS
    first = rows["a/IM0001"]
    told = {
        name: first[name] for name in ("patient", "study", "accession", "study_date", "sex", "age", "view", "maker")
    }
    assert list(told.values()) == ["7001", "1.2.3", "A1", "2020-01-31", "F", "058Y", "PA", "Maker & Söhne"]
    assert (first["burned_in"], first["presentation"], first["modality"]) == ("YES", "FOR PRESENTATION", "DX")
    assert rows["b.dcm"]["age"] == "70.0"  # 1950-01-31 to 2020-01-31: 25,567 days of 365.25
    assert (counts.listed, counts.no_picture, counts.passed_over) == (2, 1, 2)
    unreadable = rows_of(tmp_path / "list.csv.unreadable.csv")
    assert [row["path"] for row in unreadable] == ["cut.dcm", "text.dcm"]
    for file in (output, tmp_path / "list.csv.unreadable.csv"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert "19500131" not in file.read_text()


def test_no_cell_of_a_header_is_a_formula_to_a_spreadsheet(tmp_path: Path) -> None:
    dicom(tmp_path / "d" / "=1.dcm", PatientID="=cmd|' /C calc'!A0", Manufacturer="@SUM(1)\n\0x", AccessionNumber="+1")
    list_files(tmp_path / "d", tmp_path / "list.csv")
    [row] = rows_of(tmp_path / "list.csv")
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in row.values())
    assert (tmp_path / "d" / row["path"]).is_file()
    assert row["maker"] == "'@SUM(1) x"


def test_several_processes_write_what_one_writes(tmp_path: Path) -> None:
    for number in range(200):
        dicom(tmp_path / "d" / f"{number % 7}" / f"{number}", PatientID=str(number))
    list_files(tmp_path / "d", tmp_path / "one.csv", processes=1)
    list_files(tmp_path / "d", tmp_path / "two.csv", processes=2)
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()


def test_pixels_are_not_read(tmp_path: Path) -> None:
    dicom(tmp_path / "d" / "a.dcm", PatientID="1")
    whole = (tmp_path / "d" / "a.dcm").read_bytes()
    (tmp_path / "d" / "a.dcm").write_bytes(whole[:-60])  # a file whose pixels are cut off
    assert list_files(tmp_path / "d", tmp_path / "list.csv").listed == 1


def test_a_pattern_makes_columns_of_the_images_paths(tmp_path: Path) -> None:
    """The names of the Shenzhen and Montgomery sets: the last digit is 1 for tuberculosis, 0 for a normal chest."""
    for name in ("CHNCXR_0001_0.png", "CHNCXR_0002_1.png", "MCUCXR_0003_1.png", "NLM-ChinaCXRSet-ReadMe.docx"):
        (tmp_path / "d" / "CXR_png").mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / "CXR_png" / name).write_bytes(b"")
    pattern = r"(?P<patient>(?:CHN|MCU)CXR_\d+)_(?P<tuberculosis>[01])\.png$"
    counts = list_files(tmp_path / "d", tmp_path / "list.csv", pattern=pattern)
    assert (counts.listed, counts.passed_over) == (3, 1)
    assert [(row["patient"], row["tuberculosis"]) for row in rows_of(tmp_path / "list.csv")] == [
        ("CHNCXR_0001", "0"),
        ("CHNCXR_0002", "1"),
        ("MCUCXR_0003", "1"),
    ]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("(", "no regular expression"), ("[0-9]+", "expected named groups"), ("(?P<path>x)", "expected named groups")],
)
def test_a_pattern_that_is_none_is_named(pattern: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(CohortError, match=message):
        list_files(tmp_path, tmp_path / "list.csv", pattern=pattern)


def test_a_folder_without_dicom_files_is_an_error_that_counts_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.txt").write_text("x")
    with pytest.raises(CohortError, match=r"no DICOM image in 1 files \(1 are none"):
        list_files(tmp_path / "d", tmp_path / "list.csv")
    assert not (tmp_path / "list.csv").exists()
    with pytest.raises(CohortError, match="no such folder"):
        list_files(tmp_path / "e", tmp_path / "list.csv")


def test_the_command_warns_of_images_without_a_patient(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dicom(tmp_path / "d" / "a.dcm", PatientID="")
    with pytest.raises(SystemExit) as end:
        main(["list", str(tmp_path / "d"), "--output", str(tmp_path / "list.csv")])
    assert end.value.code == 0
    printed = capsys.readouterr()
    assert "1 files have no patient id" in printed.err
    assert f"dpdt init STUDY --list {tmp_path / 'list.csv'}" in printed.out


def test_one_damaged_header_or_name_is_not_the_list(tmp_path: Path) -> None:
    """`ZZ` is no value representation of PS3.5 6.2, and three bytes are no whole number of US."""
    folder = tmp_path / "dicom"
    dicom(folder / "good.dcm", PatientID="1")
    whole = (folder / "good.dcm").read_bytes()
    for name, good, bad in (
        ("kind.dcm", b"LO\x02\x001 ", b"ZZ\x02\x001 "),
        ("length.dcm", b"\x28\0\x10\0US\2\0\x08\0", b"\x28\0\x10\0US\3\0\x08\0\0"),
    ):
        assert whole.count(good) == 1
        (folder / name).write_bytes(whole.replace(good, bad))
    with open(os.fsencode(folder) + b"/M\xfcller.dcm", "wb") as stream:
        stream.write(whole)
    counts = list_files(folder, tmp_path / "list.csv", processes=1)
    assert counts.listed == 2  # the size of the picture is looked for, and not read
    assert [row["path"] for row in rows_of(tmp_path / "list.csv")] == ["good.dcm", "length.dcm"]
    reasons = {row["path"]: row["reason"] for row in rows_of(tmp_path / "list.csv.unreadable.csv")}
    assert reasons["kind.dcm"].startswith("NotImplementedError")
    assert reasons["M\\udcfcller.dcm"].startswith("a name that is not UTF-8")
