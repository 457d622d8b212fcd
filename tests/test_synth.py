import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest

from dpdt.base.vocabulary import LABELS
from dpdt.cohort.synthetic import HOSPITALS, Picture, hospital_pictures, make_hospitals
from dpdt.cohort.synthetic.drawing import draw, raw_shape
from dpdt.cohort.synthetic.layouts import LAYOUTS
from dpdt.errors import DpdtError, StudyError
from tests.waiting import wait_until

SMALL = {"patients": 4, "image_size": 64}


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file."""
    files = (file for file in folder.rglob("*") if file.is_file() and file.name != ".synth.lock")
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hospitals")
    make_hospitals(folder, num_processes=1, **SMALL)
    return folder


def test_same_seed_gives_the_same_bytes_and_another_seed_does_not(small: Path, tmp_path: Path) -> None:
    make_hospitals(tmp_path / "again", num_processes=1, **SMALL)
    make_hospitals(tmp_path / "other", seed=1, domains=["vindr"], **SMALL)
    first = digests(small)
    assert digests(tmp_path / "again") == first
    drawn = {name for name in first if name.endswith(".dicom")}
    assert drawn
    assert not drawn & set(digests(tmp_path / "other"))


@pytest.mark.slow
def test_bytes_do_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        make_hospitals(folder, domains=["uka"], patients=160, image_size=40, num_processes=processes)
    assert digests(tmp_path / "1") == digests(tmp_path / "2")


def test_killed_half_way_and_started_again_completes_and_redraws_nothing(small: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    roots = make_hospitals(folder, **SMALL)
    root = roots["padchest"]
    pictures = sorted(root.rglob("*.png"))
    kept, lost = pictures[0], pictures[1:]
    for path in (*lost, *root.glob("*.csv")):
        path.unlink()
    state = json.loads((root / "synthetic.json").read_text())
    (root / "synthetic.json").write_text(json.dumps({**state, "finished": False}))
    before = kept.stat().st_mtime_ns
    make_hospitals(folder, **SMALL)
    assert digests(folder) == digests(small)
    assert kept.stat().st_mtime_ns == before


@pytest.mark.slow
def test_sigkill_leaves_no_process_behind_and_a_second_call_completes(tmp_path: Path) -> None:
    arguments = {"domains": ["chexpert"], "patients": 600, "image_size": 48}
    code = "import sys; from dpdt.cohort.synthetic import make_hospitals; make_hospitals(sys.argv[1], num_processes=2, "
    code += "domains=['chexpert'], patients=600, image_size=48)"
    command = [sys.executable, "-c", code, str(tmp_path / "killed")]
    with subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: any((tmp_path / "killed").rglob("*.jpg")), pause=0.02)
        process.kill()
    wait_until(lambda: not group_lives(process.pid))
    make_hospitals(tmp_path / "killed", **arguments)  # type: ignore[arg-type]
    make_hospitals(tmp_path / "whole", **arguments)  # type: ignore[arg-type]
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")


def group_lives(group: int) -> bool:
    """Whether a process group has a process."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_finished_hospitals_are_left_alone(small: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in small.rglob("*.*") if file.name != ".synth.lock"}
    make_hospitals(small, **SMALL)
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_other_arguments_are_refused_and_nothing_is_overwritten(small: Path) -> None:
    before = digests(small)
    with pytest.raises(DpdtError, match=r"made with other arguments.*Remove the folder"):
        make_hospitals(small, seed=3, **SMALL)
    assert digests(small) == before


def test_folder_with_files_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vindr").mkdir()
    (tmp_path / "vindr" / "real.dicom").touch()
    with pytest.raises(DpdtError, match="nothing says that it is synthetic"):
        make_hospitals(tmp_path, domains=["vindr"], **SMALL)
    assert os.listdir(tmp_path / "vindr") == ["real.dicom"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"domains": ["nih"]}, "no synthetic hospital 'nih'. Valid names: vindr, chestxray14"),
        ({"patients": {"nih": 3}}, "no synthetic hospital 'nih'"),
        ({"patients": 0}, "patients: expected at least 1 for vindr, got 0"),
        ({"image_size": 8}, "image_size: expected at least 32 pixels, got 8"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=message):
        make_hospitals(tmp_path, **arguments)  # type: ignore[arg-type]


def test_every_root_says_that_it_is_synthetic(small: Path) -> None:
    for domain in HOSPITALS:
        assert "No image shows a person" in (small / domain / "SYNTHETIC.txt").read_text()


def test_vindr_is_dicom_of_both_polarities_marked_synthetic(tmp_path: Path) -> None:
    root = make_hospitals(tmp_path, domains=["vindr"], patients=24, image_size=32)["vindr"]
    objects = [pydicom.dcmread(file) for file in root.rglob("*.dicom")]
    assert {o.PhotometricInterpretation for o in objects} == {"MONOCHROME1", "MONOCHROME2"}
    assert {o.BitsStored for o in objects} == {12, 14, 15, 16}
    for o in objects:
        assert str(o.PatientName).startswith("SYNTHETIC^")
        assert o.PatientID.startswith("SYNTHETIC")
        assert "Synthetic" in o.ImageComments
        assert o.pixel_array.max() < 1 << o.BitsStored
        # Left and right of the neck there is air: dark, which MONOCHROME1 writes as a high value.
        corner = o.pixel_array[2, -1] / ((1 << o.BitsStored) - 1)
        assert corner > 0.5 if o.PhotometricInterpretation == "MONOCHROME1" else corner < 0.5


def test_bit_depths_and_shapes_are_each_hospitals_own(small: Path) -> None:
    deep = cv2.imread(str(next((small / "padchest").rglob("*.png"))), cv2.IMREAD_UNCHANGED)
    plain = cv2.imread(str(next((small / "chestxray14").rglob("*.png"))), cv2.IMREAD_UNCHANGED)
    assert (deep.dtype, plain.dtype) == (np.uint16, np.uint8)
    assert 255 < deep.max() < 4096
    shapes = {domain: raw_shape(hospital, 144) for domain, hospital in HOSPITALS.items()}
    assert len(set(shapes.values())) == len(shapes)
    assert shapes["uka"] == (144, 173)
    assert deep.shape == raw_shape(HOSPITALS["padchest"], 64)


def test_a_patient_does_not_depend_on_how_many_there_are() -> None:
    few = list(hospital_pictures("mimic", seed=0, patients=5))
    many = list(hospital_pictures("mimic", seed=0, patients=50))
    assert many[: len(few)] == few


@pytest.mark.parametrize("domain", HOSPITALS)
def test_every_label_is_in_15_to_40_percent_of_a_hospitals_images(domain: str) -> None:
    pictures = list(hospital_pictures(domain, seed=0, patients=HOSPITALS[domain].patients))
    for label in LABELS:
        assert 0.15 <= np.mean([picture.labels[label] for picture in pictures]) <= 0.4, label


def test_patients_have_one_to_four_images_and_vindr_one() -> None:
    for domain in HOSPITALS:
        pictures = list(hospital_pictures(domain, seed=0, patients=200))
        counts = np.bincount([p.patient for p in pictures])
        assert counts.min() == 1
        assert (counts.max() == 1) if domain == "vindr" else (2 <= counts.max() <= 4)


def test_image_names_are_unique() -> None:
    for domain, layout in LAYOUTS.items():
        pictures = list(hospital_pictures(domain, seed=0, patients=HOSPITALS[domain].patients))
        assert len({layout.image_id(p) for p in pictures}) == len(pictures)
        assert len({layout.relative(p) for p in pictures}) == len(pictures)


def healthy_picture() -> Picture:
    return next(p for p in hospital_pictures("mimic", seed=0, patients=50) if p.labels["healthy"] and not p.quirk)


@pytest.mark.parametrize("finding", LABELS[:-1])
def test_a_finding_makes_the_chest_denser_the_clearer_it_is(finding: str) -> None:
    """Cardiomegaly, fluid, clouds and plates all replace lung by something brighter."""
    healthy = healthy_picture()
    plain, faint, clear = (
        float(draw(replace(healthy, findings={finding: s} if s else {}), image_size=96).mean()) for s in (0.0, 0.2, 1.0)
    )
    assert plain < faint < clear


def test_drawing_is_in_range_and_not_flat() -> None:
    for domain, hospital in HOSPITALS.items():
        for picture in hospital_pictures(domain, seed=0, patients=3):
            image = draw(picture, image_size=64)
            assert image.shape == raw_shape(hospital, 64)
            assert image.dtype == np.float32
            assert 0 <= image.min() < 0.2 < 0.8 < image.max() <= 1
