"""Elements of a DICOM header that are not as the standard has them: read past, or read as they are meant."""

from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataelem import DataElement

from dpdt.errors import DecodeError
from dpdt.shards.build import build_shards
from dpdt.shards.dicom import read_dicom
from dpdt.shards.process import process_images
from dpdt.shards.reader import Shards
from dpdt.study.settings import ShardSettings
from tests.small_images import make_study, picture, write_dicom
from tests.test_core import GRAY, chunk, png

# --- pixel padding


def padded(signed: bool, *, stored: int = 16, value: int = -2000) -> NDArray[np.integer]:
    """Anatomy of 100 … 1000 around padding at the border."""
    pixels = np.random.default_rng(3).integers(100, 1000, (24, 20))
    pixels[:5] = pixels[:, :3] = value if signed else value % (1 << stored)
    return pixels.astype(np.int16 if signed else np.uint16)


def write_padding(path: Path, pixels: NDArray[np.integer], stored: int = 16, /, **elements: tuple[str, bytes]) -> None:
    write_dicom(path, pixels, BitsStored=stored)
    dataset = pydicom.dcmread(path)
    for keyword, (vr, value) in elements.items():
        dataset[keyword] = DataElement(keyword, vr, int.from_bytes(value, "little", signed=vr == "SS"))
    dataset.save_as(path)


def word(value: int) -> bytes:
    return (value % 65536).to_bytes(2, "little")


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("with_limit", [True, False])
@pytest.mark.parametrize("vr", ["US", "SS"])
def test_padding_has_the_sign_of_the_pixels_whatever_its_vr(
    tmp_path: Path, vr: str, with_limit: bool, signed: bool
) -> None:
    elements = {"PixelPaddingValue": (vr, word(-2000))}
    if with_limit:
        elements = {"PixelPaddingValue": (vr, word(-2010)), "PixelPaddingRangeLimit": (vr, word(-1990))}
    pixels = padded(signed)
    write_padding(tmp_path / "a.dcm", pixels, 16, **elements)
    frame = read_dicom(str(tmp_path / "a.dcm"))
    shown = frame.pixels.astype(int) - (32768 if signed else 0)
    assert np.array_equal(shown[5:, 3:], pixels[5:, 3:])
    assert (shown[:5] == pixels[5:, 3:].min()).all()
    assert frame.warnings == (0 if (vr == "SS") == signed else len(elements))


@pytest.mark.parametrize("stored", [12, 16])
def test_padding_of_fewer_bits_stored_is_read_as_the_pixels_are(tmp_path: Path, stored: int) -> None:
    pixels = padded(signed=True)
    for written in (-2000, -2000 % (1 << stored)):  # with its sign in all 16 bits, or in the stored ones alone
        write_padding(tmp_path / "a.dcm", pixels, stored, PixelPaddingValue=("US", word(written)))
        shown = read_dicom(str(tmp_path / "a.dcm")).pixels.astype(int) - 32768
        assert shown.min() == pixels[5:, 3:].min()


def test_padding_of_eight_signed_bits(tmp_path: Path) -> None:
    pixels = np.random.default_rng(3).integers(0, 100, (24, 20)).astype(np.int8)
    pixels[:5] = -128
    write_padding(tmp_path / "a.dcm", pixels, 8, PixelPaddingValue=("US", word(128)))
    assert read_dicom(str(tmp_path / "a.dcm")).pixels.min() == 128 + int(pixels[5:].min())


def test_padding_of_implicit_vr_has_the_sign_of_the_pixels(tmp_path: Path) -> None:
    pixels = padded(signed=True)
    write_padding(tmp_path / "a.dcm", pixels, PixelPaddingValue=("SS", word(-2000)))
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    pydicom.dcmwrite(tmp_path / "b.dcm", dataset, implicit_vr=True, little_endian=True)
    frame = read_dicom(str(tmp_path / "b.dcm"))
    assert frame.pixels.min() == 32768 + int(pixels[5:, 3:].min())
    assert frame.warnings == 0


def test_two_padding_values_are_none(tmp_path: Path) -> None:
    pixels = picture(1, dtype=np.uint16)
    write_dicom(tmp_path / "a.dcm", pixels, PixelPaddingValue=[4095, 4095])
    frame = read_dicom(str(tmp_path / "a.dcm"))
    assert np.array_equal(frame.pixels, pixels)
    assert frame.oddities == ("PixelPaddingValue is not one number",)


@pytest.mark.parametrize("signed", [True, False])
def test_a_picture_that_is_all_padding_is_none(tmp_path: Path, signed: bool) -> None:
    pixels = np.random.default_rng(3).integers(-30, -20, (24, 20)).astype(np.int16)
    pixels = pixels if signed else pixels.view(np.uint16)
    vr = "SS" if signed else "US"
    limits = {"PixelPaddingValue": (vr, word(-30)), "PixelPaddingRangeLimit": (vr, word(-20))}
    write_padding(tmp_path / "a.dcm", pixels, 16, **limits)
    low, high = (-30, -20) if signed else (65506, 65516)
    with pytest.raises(DecodeError, match=rf"^constant: all pixels are padding \(stored values {low} to {high}\)$"):
        read_dicom(str(tmp_path / "a.dcm"))
    pixels[0, 0] = 100  # a single pixel of anatomy is a picture again
    write_padding(tmp_path / "a.dcm", pixels, 16, **limits)
    assert read_dicom(str(tmp_path / "a.dcm")).pixels.min() == (100 + 32768 if signed else 100)


@pytest.mark.parametrize(
    ("kind", "pixels", "message"),
    [
        ("signed", np.full((9, 9), -1000, np.int16), "all pixels have the stored value -1000"),
        ("eight signed bits", np.full((9, 9), -3, np.int8), "all pixels have the stored value -3"),
        ("unsigned", np.full((9, 9), 7, np.uint16), "all pixels have the stored value 7"),
        (
            "nearly",
            np.r_[np.full(9999, -5), -4].reshape(100, 100).astype(np.int16),
            "the stored values -5 to -4 become",
        ),
    ],
)
def test_a_constant_picture_names_its_stored_value(
    tmp_path: Path, kind: str, pixels: NDArray[np.integer], message: str
) -> None:
    write_dicom(tmp_path / "a.dcm", pixels, BitsStored=8 * pixels.dtype.itemsize)
    out = np.empty((1, 8, 8), np.uint8)
    settings = ShardSettings(size=8)
    (found,) = process_images([str(tmp_path / "a.dcm")], out, settings=settings, advance=lambda _: None)
    assert found.reason == "constant"
    assert found.message.startswith(message), kind


@pytest.mark.parametrize(("centre", "width"), [("9000", "100"), ("-9000", "100"), ("500.2", "0.2")])
def test_a_window_that_leaves_one_value_is_not_used(tmp_path: Path, centre: str, width: str) -> None:
    """Another picture's, beside all values of this one: the whole range is what there is to show."""
    pixels = picture(1, dtype=np.uint16)
    window = {"WindowCenter": centre, "WindowWidth": width, "VOILUTFunction": "LINEAR_EXACT"}
    write_dicom(tmp_path / "a.dcm", pixels, **window)
    frame = read_dicom(str(tmp_path / "a.dcm"), voi_window=True)
    assert np.array_equal(frame.pixels, pixels)
    assert (frame.window, frame.oddities) == ("none", ("the window leaves no contrast",))


# --- numbers in text


def write_texts(path: Path, pixels: NDArray[np.integer], **texts: str) -> None:
    """Decimal strings as they are, which pydicom would not write."""
    write_dicom(path, pixels)
    dataset = pydicom.dcmread(path)
    for keyword in texts:
        setattr(dataset, keyword, "1")
        dataset[keyword].VR = "LO"
        dataset[keyword].value = texts[keyword].split("\\")
    dataset.save_as(path)
    data = path.read_bytes()
    for keyword in texts:
        tag = pydicom.datadict.tag_for_keyword(keyword)
        assert tag is not None
        place = data.index(tag.to_bytes(4, "big")[1::-1] + tag.to_bytes(4, "big")[:1:-1] + b"LO")
        data = data[: place + 4] + b"DS" + data[place + 6 :]
    path.write_bytes(data)


TEXTS: dict[str, tuple[dict[str, str], bool, int]] = {
    "comma": ({"RescaleSlope": "1,000001"}, False, 1),
    "falling, with a comma": ({"RescaleSlope": "-1,5"}, True, 1),
    "text": ({"RescaleSlope": "UNKNOWN", "RescaleIntercept": "none"}, False, 2),
    "several": ({"RescaleSlope": "1\\1", "RescaleIntercept": "0\\0"}, False, 2),
    "several, falling": ({"RescaleSlope": "-2\\-2"}, True, 1),
    "not finite": ({"RescaleSlope": "inf", "RescaleIntercept": "nan"}, False, 2),
    "empty": ({"RescaleSlope": "", "RescaleIntercept": ""}, False, 0),
    "frames": ({"NumberOfFrames": "one"}, False, 1),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_what_min_max_takes_back_does_not_cost_an_image(tmp_path: Path, kind: str) -> None:
    texts, invert, count = TEXTS[kind]
    pixels = picture(1, dtype=np.uint16)
    write_texts(tmp_path / "a.dcm", pixels, **texts)
    frame = read_dicom(str(tmp_path / "a.dcm"))
    assert np.array_equal(frame.pixels, pixels)
    assert (frame.invert, frame.warnings) == (invert, count)


@pytest.mark.parametrize(
    "texts",
    [
        {"WindowCenter": "2047,501", "WindowWidth": "1000"},
        {"WindowCenter": "UNKNOWN", "WindowWidth": "1000"},
        {"WindowCenter": "2000", "WindowWidth": "1000", "RescaleSlope": "1,5"},
        {"WindowCenter": "2000", "WindowWidth": "1000", "RescaleIntercept": "1\\1"},
    ],
)
def test_a_window_of_which_something_is_not_a_number_is_not_used(tmp_path: Path, texts: dict[str, str]) -> None:
    pixels = picture(1, dtype=np.uint16)
    write_texts(tmp_path / "a.dcm", pixels, **texts)
    frame = read_dicom(str(tmp_path / "a.dcm"), voi_window=True)
    assert np.array_equal(frame.pixels, pixels)
    assert (frame.window, frame.warnings) == ("none", 1)


def test_what_was_read_past_is_told_and_in_the_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_texts(tmp_path / "a.dcm", picture(1, dtype=np.uint16), RescaleSlope="1,5", RescaleIntercept="1\\2")
    write_texts(tmp_path / "b.dcm", picture(2, dtype=np.uint16), RescaleSlope="X")
    study = make_study(tmp_path, ["../a.dcm", "../b.dcm"])
    build_shards(study, "vindr")
    expected = {"RescaleIntercept has several values": 1, "RescaleSlope is not a number": 2}
    manifest = Shards.open(study.paths.shards("vindr")).manifest
    assert (manifest["oddities"], manifest["warnings"]) == (expected, 3)
    assert "RescaleSlope is not a number (2)" in capsys.readouterr().err


# --- modality tables


@pytest.mark.parametrize("vr", ["US", "OW"])
@pytest.mark.parametrize("bits", [8, 9, 10, 12, 15, 16])
def test_modality_tables_of_every_number_of_bits(tmp_path: Path, bits: int, vr: str) -> None:
    entries = np.random.default_rng(bits).integers(0, 1 << bits, 200).astype(np.uint16)
    stored = np.random.default_rng(1).integers(0, 300, (20, 24)).astype(np.uint16)
    table = pydicom.Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [200, 50, bits], "US"
    table["LUTDescriptor"].VR = "US"
    table.add_new("LUTData", vr, entries.tolist() if vr == "US" else entries.tobytes())
    write_dicom(tmp_path / "a.dcm", stored, ModalityLUTSequence=pydicom.Sequence([table]))
    expected = entries[np.clip(stored.astype(int) - 50, 0, 199)]  # PS3.3 C.11.1.1.1
    assert np.array_equal(read_dicom(str(tmp_path / "a.dcm")).pixels, expected)


def test_modality_tables_of_bytes_and_of_signed_values(tmp_path: Path) -> None:
    entries = np.random.default_rng(0).integers(0, 256, 201).astype(np.uint8)
    stored = np.random.default_rng(1).integers(-150, 150, (20, 24)).astype(np.int16)
    table = pydicom.Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [201, 65536 - 100, 8], "US"
    table["LUTDescriptor"].VR = "US"  # the first value, -100, with the sign that is not its own
    table.add_new("LUTData", "OW", entries.tobytes() + b"\0")
    write_dicom(tmp_path / "a.dcm", stored, BitsStored=16, ModalityLUTSequence=pydicom.Sequence([table]))
    expected = entries[np.clip(stored.astype(int) + 100, 0, 200)]
    assert np.array_equal(read_dicom(str(tmp_path / "a.dcm")).pixels, expected)
    table.LUTData = entries[:100].tobytes()
    write_dicom(tmp_path / "b.dcm", stored, BitsStored=16, ModalityLUTSequence=pydicom.Sequence([table]))
    with pytest.raises(DecodeError, match=r"^unreadable: a modality table of 100 entries, its descriptor says 201"):
        read_dicom(str(tmp_path / "b.dcm"))


# --- shapes of pixels


def shown_size(file: Path, **options: object) -> tuple[int, int]:
    """Rows and columns that are not empty."""
    settings = ShardSettings.model_validate({"size": 64, "aspect": "pad", "equalise": False, **options})
    out = np.zeros((1, 64, 64), np.uint8)
    [outcome] = process_images([str(file)], out, settings=settings, advance=lambda count: None)
    assert outcome.ok, outcome.message
    return int(out[0].any(axis=1).sum()), int(out[0].any(axis=0).sum())


SHAPES: dict[str, tuple[dict[str, object], tuple[int, int]]] = {
    "square": ({}, (43, 64)),
    "ratio": ({"PixelAspectRatio": [2, 1]}, (64, 48)),  # vertical to horizontal: PS3.3 C.7.6.3.1.7
    "wide": ({"PixelAspectRatio": [1, 2]}, (21, 64)),
    "spacing": ({"PixelSpacing": [0.4, 0.2]}, (64, 48)),  # rows, then columns: PS3.3 10.7.1.3
    "of the imager": ({"ImagerPixelSpacing": [0.4, 0.2]}, (64, 48)),
    "the ratio first": ({"PixelAspectRatio": [2, 1], "PixelSpacing": [0.2, 0.2]}, (64, 48)),
    "then the patient's": ({"PixelSpacing": [0.4, 0.2], "ImagerPixelSpacing": [0.2, 0.2]}, (64, 48)),
    "nonsense, then the next": ({"PixelAspectRatio": [0, 1], "PixelSpacing": [0.4, 0.2]}, (64, 48)),
    "absurd": ({"PixelSpacing": [4000, 0.2]}, (43, 64)),
    "one number": ({"PixelSpacing": 0.4}, (43, 64)),
}


@pytest.mark.parametrize("recipe", ["area", "paper"])
@pytest.mark.parametrize("kind", SHAPES)
def test_padded_pictures_of_pixels_that_are_not_square_keep_their_shape(tmp_path: Path, kind: str, recipe: str) -> None:
    elements, size = SHAPES[kind]
    pixels = picture(1, height=128, width=192, dtype=np.uint16)
    write_dicom(tmp_path / "a.dcm", pixels, **elements)
    assert shown_size(tmp_path / "a.dcm", recipe=recipe) == size
    assert read_dicom(str(tmp_path / "a.dcm")).warnings == int(
        kind in ("nonsense, then the next", "absurd", "one number")
    )


def test_stretched_pictures_do_not_heed_the_shape_of_pixels(tmp_path: Path) -> None:
    pixels = picture(1, dtype=np.uint16)
    write_dicom(tmp_path / "a.dcm", pixels)
    write_dicom(tmp_path / "b.dcm", pixels, PixelAspectRatio=[2, 1])
    study = make_study(tmp_path, ["../a.dcm", "../b.dcm"])
    build_shards(study, "vindr")
    first, second = Shards.open(study.paths.shards("vindr")).images(np.arange(2))
    assert np.array_equal(first, second)


@pytest.mark.parametrize("interlaced", [False, True])  # two ways through the core
@pytest.mark.parametrize(
    ("across", "down", "size"),
    [(2000, 1000, (64, 48)), (1000, 2000, (21, 64)), (0, 1000, (43, 64)), (1, 2**31 - 1, (43, 64))],
)
def test_pngs_tell_the_shape_of_pixels_by_phys(
    tmp_path: Path, across: int, down: int, size: tuple[int, int], interlaced: bool
) -> None:
    # Pixels of a unit, across, then down (PNG specification, 11.3.5.3): more of them across are narrower.
    physical = chunk(b"pHYs", across.to_bytes(4, "big") + down.to_bytes(4, "big") + b"\0")
    samples = picture(1, height=128, width=192)[:, :, None].astype(np.uint16)
    (tmp_path / "a.png").write_bytes(png(samples, depth=8, kind=GRAY, extra=physical, interlaced=interlaced))
    assert shown_size(tmp_path / "a.png") == size


def test_jpegs_tell_the_shape_of_pixels_by_their_densities(tmp_path: Path) -> None:
    pixels = cv2.GaussianBlur(picture(1, height=128, width=192), (0, 0), 3)
    for dpi, size in (((200, 100), (64, 48)), ((100, 100), (43, 64))):  # JFIF 1.02: dots an inch, across, then down
        Image.fromarray(pixels).save(tmp_path / "a.jpg", dpi=dpi, quality=95)
        assert shown_size(tmp_path / "a.jpg") == size
