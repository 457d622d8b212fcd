"""From image files to the pixels of a shard: pictures in C++ as a batch, DICOM headers by pydicom, on threads."""

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from dpdt import _core
from dpdt.errors import DecodeError
from dpdt.shards.dicom import DicomPixels, read_dicom
from dpdt.study.settings import ShardSettings

MOST_HALVINGS: Final = 32  # the most that JPEG 2000 has
__all__ = ["ImageOutcome", "num_workers", "process_images"]


@dataclass(frozen=True)
class ImageOutcome:
    """The result for one file.

    Attributes:
        reason: Empty if its pixels were written; otherwise a reason of `_core.ImageResult`.
        message: The reason in words; of a good image, what was read past in its header.
        format: jpeg, png, jpeg2000, tiff, dicom or unknown.
        height: Rows of the file's picture (0 if it was not decoded), and so on.
        width: Columns.
        bits: Bits of a sample as stored.
        warnings: Oddities that do not change pixels.
        window: What the range was cut to: `off` (no window was asked for, or it is no DICOM file), `linear`,
            `linear_exact` (the file's first window), or `none` (one was asked for, but the file has none to use).
    """

    reason: str
    message: str
    format: str
    height: int = 0
    width: int = 0
    bits: int = 0
    warnings: int = 0
    window: str = "off"

    @property
    def ok(self) -> bool:
        """Whether the pixels were written."""
        return self.reason == ""

    @classmethod
    def of(cls, result: _core.ImageResult) -> Self:
        """The same, from what the C++ core says."""
        return cls(
            reason=result.reason,
            message=result.message,
            format=result.format,
            height=result.height,
            width=result.width,
            bits=result.bits,
            warnings=result.warnings,
        )


def num_workers(settings: ShardSettings) -> int:
    """Threads to use."""
    return settings.num_threads or _core.available_threads()


def process_images(
    paths: Sequence[str], out: NDArray[np.uint8], *, settings: ShardSettings, advance: Callable[[int], object]
) -> list[ImageOutcome]:
    """Read and process files.

    Args:
        paths: The files, n of them.
        out: (n, size, size), C order; picture i is written to out[i] if its outcome is ok.
        settings: Recipe and threads.
        advance: Called on this thread with the number of files done since the last call.

    Returns:
        One outcome a path.
    """
    results = _core.process_files(
        paths,
        out,
        recipe=settings.recipe,
        equalise=settings.equalise,
        num_threads=num_workers(settings),
        aspect=settings.aspect,
        progress=advance,
    )
    outcomes = [ImageOutcome.of(result) for result in results]
    dicom = [i for i, outcome in enumerate(outcomes) if outcome.reason == "dicom"]
    if dicom:
        _process_dicom(paths, out, dicom, outcomes, settings=settings, advance=advance)
    return outcomes


def _process_dicom(
    paths: Sequence[str],
    out: NDArray[np.uint8],
    indices: list[int],
    outcomes: list[ImageOutcome],
    *,
    settings: ShardSettings,
    advance: Callable[[int], object],
) -> None:
    """Replace the outcomes of DICOM files by what pydicom makes of them."""

    def process(index: int) -> ImageOutcome:
        return _process_one(paths[index], out[index], settings)

    # pydicom warns about every oddity of a header. The filter is process-wide: set it once, around all threads.
    with warnings.catch_warnings(), ThreadPoolExecutor(num_workers(settings)) as threads:
        warnings.simplefilter("ignore")
        try:
            for index, outcome in zip(indices, threads.map(process, indices), strict=True):
                outcomes[index] = outcome
                advance(1)
        except BaseException:  # Ctrl-C: do not begin with those that still wait
            threads.shutdown(wait=False, cancel_futures=True)
            raise


def _process_one(path: str, out: NDArray[np.uint8], settings: ShardSettings) -> ImageOutcome:
    height = width = bits = 0
    read: DicomPixels | None = None
    try:
        reducible = settings.recipe == "area" and not settings.exact_decode
        min_side, halvings, done = 2 * settings.size if reducible else 0, MOST_HALVINGS, False
        while not done:
            frame = read_dicom(path, min_side=min_side, max_halvings=halvings, voi_window=settings.voi_window)
            read, height, width, bits = frame, frame.height, frame.width, frame.bits
            done = _core.process_array(
                frame.pixels,
                out,
                recipe=settings.recipe,
                equalise=settings.equalise,
                invert=frame.invert,
                aspect=settings.aspect,
                pixel_aspect=frame.pixel_aspect,
                grid=frame.grid,
            )
            halvings = frame.halvings - 1  # too small a scale for this picture: the next larger one
    except DecodeError as err:
        reason, _, message = str(err).partition(": ")
        if reason == "constant" and read is not None:
            message = read.constant_message  # the core names its own values
        return ImageOutcome(reason, message, "dicom", height, width, bits)
    return ImageOutcome("", "; ".join(frame.oddities), "dicom", height, width, bits, frame.warnings, frame.window)
