"""DICOM: the right values, whatever the header says, and a reason where there are none."""

import os
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from openjpeg.utils import encode_array
from pydicom.uid import JPEG2000Lossless

from dpdt.errors import DecodeError
from dpdt.shards.build import build_shards
from dpdt.shards.dicom import read_dicom
from dpdt.shards.dicom_frame import CODECS
from dpdt.shards.reader import Shards
from tests.small_images import encapsulated, make_study, picture, write_dicom

REAL_DATA = os.environ.get("DPDT_REAL_DATA")
needs_real_data = pytest.mark.skipif(not REAL_DATA, reason="DPDT_REAL_DATA is not set")


def test_dicom_monochrome1_is_inverted_after_min_max(tmp_path: Path) -> None:
    pixels = picture(1, dtype=np.uint16)
    write_dicom(tmp_path / "two.dcm", pixels)
    write_dicom(tmp_path / "one.dcm", pixels, PhotometricInterpretation="MONOCHROME1")
    write_dicom(tmp_path / "falling.dcm", pixels, RescaleSlope="-2", RescaleIntercept="7")
    study = make_study(tmp_path, ["../two.dcm", "../one.dcm", "../falling.dcm"], equalise=False)
    build_shards(study, "vindr")
    two, one, falling = Shards.open(study.paths.shards("vindr")).images(np.arange(3))
    assert np.array_equal(one, 255 - two)
    assert np.array_equal(falling, one)


@pytest.mark.parametrize("slope", ["1", "2"])
def test_both_photometric_interpretations_of_a_picture_and_window_look_the_same(tmp_path: Path, slope: str) -> None:
    pixels = picture(1, dtype=np.uint16)
    # Order: rescale, window, inversion. The window lies evenly in the range, so it cuts both twins alike.
    centre = float(slope) * 2047.5 - 100
    window = {
        "WindowCenter": f"{centre:g}",
        "WindowWidth": f"{float(slope) * 1000:g}",
        "VOILUTFunction": "LINEAR_EXACT",
    }
    options = {**window, "RescaleSlope": slope, "RescaleIntercept": "-100"}
    write_dicom(tmp_path / "two.dcm", pixels, **options)
    write_dicom(tmp_path / "one.dcm", 4095 - pixels, PhotometricInterpretation="MONOCHROME1", **options)
    study = make_study(tmp_path, ["../two.dcm", "../one.dcm"], equalise=False, voi_window=True)
    build_shards(study, "vindr")
    two, one = Shards.open(study.paths.shards("vindr")).images(np.arange(2)).astype(int)
    assert np.abs(one - two).max() <= 1
    clipped = cv2.resize(pixels.clip(1548, 2548), (16, 16), interpolation=cv2.INTER_AREA)
    expected = cv2.normalize(clipped, None, 0, 255, cv2.NORM_MINMAX, dtype=cv2.CV_8U)
    assert np.abs(two - expected).max() <= 1


def test_signed_dicom_equals_its_shifted_twin(tmp_path: Path) -> None:
    pixels = picture(2, dtype=np.uint16)
    write_dicom(tmp_path / "signed.dcm", pixels.astype(np.int16) - 2000, BitsStored=13)
    write_dicom(tmp_path / "unsigned.dcm", pixels, BitsStored=13)
    study = make_study(tmp_path, ["../signed.dcm", "../unsigned.dcm"])
    build_shards(study, "vindr")
    signed, unsigned = Shards.open(study.paths.shards("vindr")).images(np.arange(2))
    assert np.array_equal(signed, unsigned)
    assert read_dicom(str(tmp_path / "signed.dcm")).bits == 13


def test_dicom_padding_does_not_widen_the_range(tmp_path: Path) -> None:
    pixels = picture(3, dtype=np.int16)
    padded = pixels.copy()
    padded[:4] = -30000
    padded[4:8] = -29000
    write_dicom(tmp_path / "a.dcm", padded, BitsStored=16, PixelPaddingValue=-30000, PixelPaddingRangeLimit=-29000)
    shown = read_dicom(str(tmp_path / "a.dcm")).pixels.astype(int) - 32768
    assert np.array_equal(shown[8:], pixels[8:])
    assert (shown[:8] == pixels[8:].min()).all()


def test_padding_is_found_before_the_modality_table(tmp_path: Path) -> None:
    # PS3.3 C.7.5.1.1.2: the padding value is one of the stored values, before the modality table. Stored 0 is padding
    # and looks brightest in the table; stored 3 becomes a real 0.
    table = pydicom.Dataset()
    table.LUTDescriptor, table.ModalityLUTType, table.LUTData = [4, 0, 16], "US", [500, 100, 200, 0]
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    stored = np.array([[0, 1, 2, 3], [3, 2, 1, 0]], np.uint16)
    write_dicom(tmp_path / "a.dcm", stored, ModalityLUTSequence=pydicom.Sequence([table]), PixelPaddingValue=0)
    assert read_dicom(str(tmp_path / "a.dcm")).pixels.tolist() == [[0, 100, 200, 0], [0, 200, 100, 0]]


def test_bare_dicom_without_preamble_is_read(tmp_path: Path) -> None:
    pixels = picture(4, dtype=np.uint16)
    write_dicom(tmp_path / "a.dcm", pixels)
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    del dataset.file_meta
    dataset.preamble = None
    pydicom.dcmwrite(tmp_path / "bare.dcm", dataset, implicit_vr=True, little_endian=True)
    study = make_study(tmp_path, ["../bare.dcm"])
    assert build_shards(study, "vindr").images == 1
    assert np.array_equal(read_dicom(str(tmp_path / "bare.dcm")).pixels, pixels)


BAD_DICOM: dict[str, tuple[dict[str, object], str]] = {
    "short": ({"PixelData": b"\0" * 100}, "^truncated: 100 bytes of pixels, expected 2400"),
    "huge": ({"Rows": 60000, "Columns": 60000}, "^too_large: the header says 60000x60000 pixels"),
    "frames": ({"NumberOfFrames": 3}, "^unsupported: 3 frames"),
    "palette": ({"PhotometricInterpretation": "PALETTE COLOR"}, "^unsupported: photometric interpretation PALETTE"),
    "no rows": ({"Rows": 0}, "^empty: the header says 30x0 pixels"),
}


@pytest.mark.parametrize("kind", BAD_DICOM)
def test_bad_dicom_is_a_reject_with_its_reason(tmp_path: Path, kind: str) -> None:
    elements, expected = BAD_DICOM[kind]
    write_dicom(tmp_path / "a.dcm", picture(5, dtype=np.uint16), **elements)
    with pytest.raises(DecodeError, match=expected):
        read_dicom(str(tmp_path / "a.dcm"))


@pytest.mark.parametrize(("precision", "stored"), [(12, 16), (14, 16), (11, 12), (16, 14), (8, 16)])
def test_jpeg2000_of_another_precision_than_bits_stored_gives_the_streams_integers(
    tmp_path: Path, precision: int, stored: int
) -> None:
    pixels = np.random.default_rng(precision).integers(0, 1 << precision, (48, 56)).astype(np.uint16)
    stream = encode_array(pixels, bits_stored=precision, codec_format=0)
    encapsulated(tmp_path / "a.dcm", JPEG2000Lossless, stream, pixels.shape, BitsStored=stored)
    frame = read_dicom(str(tmp_path / "a.dcm"))
    assert np.array_equal(frame.pixels, pixels)
    assert frame.warnings == 1
    study = make_study(tmp_path, ["../a.dcm"])
    build_shards(study, "vindr")
    shards = Shards.open(study.paths.shards("vindr"))
    assert (shards.manifest["warnings"], shards.index["warnings"].tolist()) == (1, [1])


def test_unsigned_jpeg2000_of_signed_pixels_does_not_wrap_around(tmp_path: Path) -> None:
    values = np.random.default_rng(1).integers(-2000, 2000, (48, 56)).astype(np.int16)
    stream = encode_array(values.astype(np.uint16) & 0x1FFF, bits_stored=13, codec_format=0)
    encapsulated(tmp_path / "a.dcm", JPEG2000Lossless, stream, values.shape, BitsStored=13, PixelRepresentation=1)
    frame = read_dicom(str(tmp_path / "a.dcm"))
    assert np.array_equal(frame.pixels.astype(int) - 32768, values)
    assert frame.warnings == 1  # the stream says unsigned
    assert np.array_equal(pydicom.dcmread(tmp_path / "a.dcm").pixel_array, values)


def test_high_bit_and_unused_bits(tmp_path: Path) -> None:
    pixels = picture(9, dtype=np.uint16)
    write_dicom(tmp_path / "a.dcm", (pixels << 4) | 0b1001, BitsStored=12)
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    dataset.HighBit = 15
    dataset.save_as(tmp_path / "a.dcm")
    assert np.array_equal(read_dicom(str(tmp_path / "a.dcm")).pixels, pixels)
    write_dicom(tmp_path / "b.dcm", pixels | 0xA000, BitsStored=12)
    assert np.array_equal(read_dicom(str(tmp_path / "b.dcm")).pixels, pixels)


WINDOWS: dict[str, tuple[dict[str, object], tuple[int, int] | None]] = {
    "linear": ({"WindowCenter": "2000.5", "WindowWidth": "1001"}, (1500, 2500)),  # PS3.3 C.11.2.1.2.1
    "exact": ({"WindowCenter": "2000", "WindowWidth": "1000", "VOILUTFunction": "LINEAR_EXACT"}, (1500, 2500)),
    "rescaled": (
        {"WindowCenter": "1000.5", "WindowWidth": "2001", "RescaleSlope": "2", "RescaleIntercept": "-3000"},
        (1500, 2500),
    ),
    "two": ({"WindowCenter": ["2000.5", "10"], "WindowWidth": ["1001", "5"]}, (1500, 2500)),
    "width 0": ({"WindowCenter": "2000", "WindowWidth": "0"}, None),
    "none": ({}, None),
    "sigmoid": ({"WindowCenter": "2000", "WindowWidth": "100", "VOILUTFunction": "SIGMOID"}, None),
}


@pytest.mark.parametrize("kind", WINDOWS)
def test_windows_are_applied_only_if_asked_for_and_there(tmp_path: Path, kind: str) -> None:
    elements, edges = WINDOWS[kind]
    pixels = picture(8, dtype=np.uint16)
    write_dicom(tmp_path / "a.dcm", pixels, **elements)
    assert np.array_equal(read_dicom(str(tmp_path / "a.dcm")).pixels, pixels)
    expected = pixels if edges is None else pixels.clip(*edges)
    assert np.array_equal(read_dicom(str(tmp_path / "a.dcm"), voi_window=True).pixels, expected)


def test_the_index_says_what_each_range_was_cut_to(tmp_path: Path) -> None:
    for kind, (elements, _) in WINDOWS.items():
        write_dicom(tmp_path / f"{kind}.dcm", picture(8, dtype=np.uint16), **elements)
    cv2.imwrite(str(tmp_path / "a.png"), picture(8))
    files = [*(f"../{kind}.dcm" for kind in WINDOWS), "../a.png"]
    for asked, folder in ((True, tmp_path / "asked"), (False, tmp_path / "not")):
        study = make_study(folder, [f"../{file}" for file in files], voi_window=asked)
        build_shards(study, "vindr")
        found = Shards.open(study.paths.shards("vindr")).index["window"].tolist()
        kinds = ["linear", "linear_exact", "linear", "linear", "none", "none", "none"]
        assert found == ([*kinds, "off"] if asked else ["off"] * 8)


def test_padded_aspect_keeps_the_pictures_shape(tmp_path: Path) -> None:
    write_dicom(tmp_path / "a.dcm", picture(7, height=60, width=30, dtype=np.uint16))
    cv2.imwrite(str(tmp_path / "a.png"), picture(7, height=60, width=30, dtype=np.uint16))
    study = make_study(tmp_path, ["../a.dcm", "../a.png"], aspect="pad", equalise=False)
    build_shards(study, "vindr")
    dicom, png = Shards.open(study.paths.shards("vindr")).images(np.arange(2))
    assert np.array_equal(dicom, png)
    assert not dicom[:, :4].any()  # 16 x 8 pixels in the middle
    assert not dicom[:, -4:].any()
    area = cv2.resize(picture(7, height=60, width=30, dtype=np.uint16), (8, 16), interpolation=cv2.INTER_AREA)
    expected = cv2.normalize(area, None, 0, 255, cv2.NORM_MINMAX, dtype=cv2.CV_8U)
    assert np.abs(dicom[:, 4:-4].astype(int) - expected).max() <= 1


def test_colour_dicom_becomes_gray_as_in_opencv(tmp_path: Path) -> None:
    colour = np.random.default_rng(6).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    write_dicom(tmp_path / "a.dcm", colour, PhotometricInterpretation="RGB", PlanarConfiguration=0)
    assert np.array_equal(read_dicom(str(tmp_path / "a.dcm")).pixels, cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY))


def test_native_422_has_two_bytes_a_pixel(tmp_path: Path) -> None:
    """PS3.3 C.7.6.3.1.2: Y1 Y2 Cb Cr. Gray is Y where the colours are 128; pure red is Y 76, Cb 85, Cr 255 (BT.601)."""
    colour = np.zeros((2, 4, 3), dtype=np.uint8)
    write_dicom(tmp_path / "a.dcm", colour, PhotometricInterpretation="YBR_FULL_422", PlanarConfiguration=0)
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    row = bytes([76, 76, 85, 255, 10, 200, 128, 128])
    dataset.PixelData = row + row
    dataset.save_as(tmp_path / "a.dcm")
    assert read_dicom(str(tmp_path / "a.dcm")).pixels.tolist() == [[76, 76, 10, 200]] * 2
    dataset.PixelData = (row + row)[:-2]
    dataset.save_as(tmp_path / "a.dcm")
    with pytest.raises(DecodeError, match=r"truncated: 14 bytes of pixels, expected 16"):
        read_dicom(str(tmp_path / "a.dcm"))


# --- real radiographs


@needs_real_data
def test_frames_of_every_real_dicom_are_those_of_pydicom() -> None:
    files = sorted((Path(str(REAL_DATA)) / "images").glob("dicom*/*.dcm"))
    assert len(files) >= 20
    for file in files:
        dataset = pydicom.dcmread(file)
        expected = dataset.pixel_array.astype(int)
        ours = read_dicom(str(file)).pixels.astype(int)
        lossy_dct = CODECS[dataset.file_meta.TransferSyntaxUID] == "jpeg"  # pydicom's plugin has another inverse DCT
        assert np.abs(ours - expected).max() <= (1 if lossy_dct else 0), file.name
