"""Run the libFuzzer targets for a while each, and count what they did. `make fuzz` builds them and calls this.

Writes build/fuzz/fuzz.json: a list of {target, executions, seconds, findings}. Ends with 1 if there is a finding, whose
input stays in build/fuzz/findings.
"""

import argparse
import ctypes
import ctypes.util
import io
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from openjpeg.utils import encode_array
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))
import fuzz_shards
from test_frame import lossless_jpeg, rle

CODECS: Final = (
    "png",
    "jpeg",
    "tiff",
    "jpeg2000_file",
    "filters",
    "plain",
    "rle",
    "jpeg_baseline",
    "jpeg_lossless",
    "jpeg_ls",
    "jpeg2000",
)
TARGETS: Final = (*CODECS, "shards")
SIDE: Final = 40


def pillow(pixels: np.ndarray, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def jpeg_ls(pixels: np.ndarray) -> list[bytes]:
    """By the encoder of the library itself."""

    class FrameInfo(ctypes.Structure):
        _fields_ = (
            ("width", ctypes.c_uint32),
            ("height", ctypes.c_uint32),
            ("bits", ctypes.c_int32),
            ("n", ctypes.c_int32),
        )

    charls = ctypes.CDLL(ctypes.util.find_library("charls"))
    charls.charls_jpegls_encoder_create.restype = ctypes.c_void_p
    streams = []
    for near_lossless in (0, 2):
        encoder = ctypes.c_void_p(charls.charls_jpegls_encoder_create())
        buffer = ctypes.create_string_buffer(1 << 16)
        info = FrameInfo(pixels.shape[1], pixels.shape[0], 8 * pixels.itemsize, 1)
        written = ctypes.c_size_t()
        codes = (
            charls.charls_jpegls_encoder_set_frame_info(encoder, ctypes.byref(info)),
            charls.charls_jpegls_encoder_set_near_lossless(encoder, near_lossless),
            charls.charls_jpegls_encoder_set_destination_buffer(encoder, buffer, ctypes.c_size_t(len(buffer))),
            charls.charls_jpegls_encoder_encode_from_buffer(
                encoder, pixels.tobytes(), ctypes.c_size_t(pixels.nbytes), ctypes.c_uint32(0)
            ),
            charls.charls_jpegls_encoder_get_bytes_written(encoder, ctypes.byref(written)),
        )
        charls.charls_jpegls_encoder_destroy(encoder)
        if any(codes):
            raise RuntimeError(f"CharLS: {codes}")
        streams.append(buffer.raw[: written.value])
    return streams


def seeds() -> dict[str, list[bytes]]:
    """A few good inputs for each target."""
    random = np.random.default_rng(0)
    smooth = cv2.resize(random.random((4, 4)), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    gray, wide = (smooth * 255).astype(np.uint8), (smooth * 4095).astype(np.uint16)
    colour = np.stack([gray, gray.T, gray[::-1]], axis=2)
    head = {8: bytes([SIDE, SIDE, 1, 7]), 16: bytes([SIDE, SIDE, 0, 11])}
    with tempfile.TemporaryDirectory() as folder:
        shards = fuzz_shards.Target(Path(folder)).seeds()
    jpegs = [pillow(gray, "JPEG"), pillow(colour, "JPEG", progressive=True), pillow(gray, "JPEG", quality=30)]
    return {
        "png": [pillow(gray, "PNG"), pillow(wide, "PNG"), pillow(colour, "PNG"), pillow(gray > 99, "PNG")],
        "jpeg": jpegs,
        "tiff": [pillow(gray, "TIFF"), pillow(wide, "TIFF", compression="tiff_lzw"), pillow(colour, "TIFF")],
        "jpeg2000_file": [encode_array(wide, bits_stored=12, codec_format=1)],
        "filters": [bytes([78]) + gray.tobytes(), bytes([79]) + wide.tobytes()],
        "plain": [head[8] + gray.tobytes(), head[16] + wide.tobytes()],
        "rle": [head[8] + rle(gray), head[16] + rle(wide)],
        "jpeg_baseline": [head[8] + jpegs[0]],
        "jpeg_lossless": [
            head[16] + lossless_jpeg(wide, precision=12, predictor=p, restart_rows=p) for p in range(1, 8)
        ],
        "jpeg_ls": [head[8] + stream for stream in jpeg_ls(gray)] + [head[16] + stream for stream in jpeg_ls(wide)],
        "jpeg2000": [head[16] + encode_array(wide, bits_stored=12, codec_format=0)],
        "shards": shards,
    }


def run(target: str, *, programs: Path, folder: Path, seconds: int) -> dict[str, object]:
    """One target for so many seconds."""
    corpus, findings = folder / "corpus" / target, folder / "findings"
    for path in (corpus, findings):
        path.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(seeds()[target]):
        (corpus / f"seed-{number}").write_bytes(data)
    program = [sys.executable, fuzz_shards.__file__] if target == "shards" else [programs / f"fuzz_{target}"]
    command = [*program, f"-max_total_time={seconds}", "-max_len=4096", "-len_control=0", "-timeout=20"]
    command += ["-rss_limit_mb=2048", "-print_final_stats=1", f"-artifact_prefix={findings}/{target}-", corpus]
    result = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    found = re.search(r"stat::number_of_executed_units:\s*(\d+)", result.stderr)
    (folder / f"{target}.log").write_text(result.stderr)
    good = result.returncode == 0
    if not good:
        print(result.stderr[-3000:], file=sys.stderr)
    executions = int(found.group(1)) if found else 0
    return {"target": target, "executions": executions, "seconds": seconds, "findings": 0 if good else 1}


def main() -> int:
    """Run them one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=Path, default=Path("build/fuzz/programs"))
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=TARGETS)
    arguments = parser.parse_args()
    folder = arguments.programs.parent
    rows = []
    for target in arguments.targets:
        rows.append(run(target, programs=arguments.programs, folder=folder, seconds=arguments.seconds))
        print(
            "{target:<14} {executions:>9} executions in {seconds} s, {findings} findings".format(**rows[-1]), flush=True
        )
    (folder / "fuzz.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(f"{sum(int(str(row['executions'])) for row in rows)} executions")
    return 1 if any(row["findings"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
