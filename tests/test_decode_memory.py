"""Files as the shards take them in: how much memory one thread needs."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from openjpeg.utils import encode_array
from PIL import Image
from pydicom.uid import JPEG2000Lossless

from tests.small_images import encapsulated, write_dicom
from tests.test_core import RGB, png

SIDE = 3200  # 10.2 megapixels
LIMIT_MIB = 64

MEASURE = """
import sys
import numpy as np
from dpdt.shards.process import process_images
from dpdt.study.settings import ShardSettings

def kib(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))

recipe, small, large = sys.argv[1:]
settings = ShardSettings.model_validate({"recipe": recipe, "num_threads": 1})
out = np.zeros((3, settings.size, settings.size), np.uint8)
[first, *_] = process_images([small] * 3, out, settings=settings, advance=lambda count: None)  # imports
with open("/proc/self/clear_refs", "w") as stream:
    stream.write("5")  # resets the peak
before = kib("VmRSS")
[last, *_] = process_images([large] * 3, out, settings=settings, advance=lambda count: None)
print(first.ok and last.ok, (kib("VmHWM") - before) / 1024)
"""


def radiograph(side: int) -> NDArray[np.uint16]:
    """Large shapes and six bits of noise."""
    y, x = np.mgrid[:side, :side]
    shapes = (np.sin(x / side * 9) + np.cos(y / side * 7) + 2) * 16000
    return shapes.astype(np.uint16) + np.random.default_rng(0).integers(0, 64, (side, side), dtype=np.uint16)


def write_files(folder: Path, side: int) -> list[Path]:
    """The same picture in every kind that takes a way of its own through the core."""
    folder.mkdir()
    wide = radiograph(side)
    gray = (wide >> 8).astype(np.uint8)
    rgb = np.repeat(gray[:, :, None], 3, axis=2)
    Image.fromarray(wide).save(folder / "gray16.png", compress_level=1)
    Image.fromarray(rgb).save(folder / "rgb.png", compress_level=1)
    (folder / "interlaced-rgb16.png").write_bytes(
        png(np.repeat(wide[:, :, None], 3, axis=2), depth=16, kind=RGB, interlaced=True)
    )
    Image.fromarray(gray).save(folder / "baseline.jpg")
    Image.fromarray(rgb).save(folder / "progressive.jpg", progressive=True)
    Image.fromarray(rgb).convert("CMYK").save(folder / "cmyk.jpg")
    write_dicom(folder / "plain.dcm", wide, BitsStored=16)
    stream = encode_array(wide, bits_stored=16, codec_format=0)
    encapsulated(folder / "jpeg2000.dcm", JPEG2000Lossless, stream, wide.shape, BitsStored=16)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, Path]]:
    """A small and a large file of each kind."""
    folder = tmp_path_factory.mktemp("memory")
    return list(zip(write_files(folder / "small", 64), write_files(folder / "large", SIDE), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["area", "paper"])
def test_a_thread_needs_less_than_64_mib_for_ten_megapixels(files: list[tuple[Path, Path]], recipe: str) -> None:
    needed = {}
    for small, large in files:
        command = [sys.executable, "-c", MEASURE, recipe, str(small), str(large)]
        ok, mib = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        assert ok == "True", large
        needed[large.name] = float(mib)
    assert len(needed) == 8
    assert {name: mib for name, mib in needed.items() if mib >= LIMIT_MIB} == {}
