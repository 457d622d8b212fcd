"""The features of a frozen network: what its head is given for each image of a split, computed once and kept on disk.

Where nothing but the head is trained, the network before it gives the same numbers for an image in every step. They are
a file beside the shards, which all trainings that begin with these weights share, and the training goes on on them.

A file is an .npy array, float32, (images, width), with the SHA-256 of its numbers behind it. Its name has a hash of all
that decides them: weights and code of the network before the head, pixels, which images, precision. Features tell about
patients what images do: the file is as private as the shards. It may be removed at any time, and is then made again.
A pass that is told to stop keeps what it has in a file of the same form, and the next one goes on behind it.
"""

import contextlib
import hashlib
import io
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray
from torch import Tensor, nn

from dpdt.base.console import note, progress, warn
from dpdt.base.files import atomic_path, exclusive_lock, fingerprint, remove_leftovers
from dpdt.base.machine import code_version
from dpdt.errors import PrivacyError, StudyError
from dpdt.privacy.clipping.gradient_sum import full
from dpdt.privacy.clipping.model_guard import Guard
from dpdt.shards.dataset import DomainData
from dpdt.study import Study
from dpdt.training.networks.build import as_input
from dpdt.training.networks.custom import model_code
from dpdt.training.networks.weights import head_of
from dpdt.training.stop import StopFlag

__all__ = ["FeatureData", "Features", "split_features", "with_features"]

DIGEST_BYTES: Final = 32
EVEN: Final = 32
"""Images: matrix products of so many rows, and multiples of it, gave every row the same bits wherever it stood."""
WAIT_SECONDS: Final = 0.5
TOLERANCE: Final = 1e-2
"""Of features made elsewhere, relative to the largest: other processors round otherwise, other code does more."""
STALE: Final = "made by other code than the network has now; it is made again"
DAMAGED: Final = "damaged (its numbers do not match its checksum); it is made again"


@dataclass(frozen=True)
class FeatureData(DomainData):
    """A split whose images are features, as the head takes them.

    Attributes:
        features: float32, (images, width), memory-mapped.
        scale: Length of a row, roughly (`Features.scale`).
    """

    features: NDArray[np.float32]
    scale: float

    @property
    def no_images(self) -> NDArray[Any]:
        """No features."""
        return np.empty((0, self.features.shape[1]), dtype=np.float32)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(width,)."""
        return self.features.shape[1:]

    def images(
        self,
        rows: NDArray[np.int64],
        *,
        views: NDArray[np.uint64] | None = None,
        out: NDArray[Any] | None = None,
        num_threads: int = 1,
    ) -> NDArray[Any]:
        """Features of some images, (k, width); arguments as for ``DomainData.images``. A view has no features."""
        if views is not None:
            raise StudyError("train.views: features are of images as they are.")
        found: NDArray[Any] = np.take(self.features, rows, axis=0, out=out, mode="clip")
        return found


class Features:
    """A network up to its head.

    Args:
        model: Frozen and in evaluation mode but for its head; on the device where it shall compute.
        autocast: Whether it computes in bfloat16.
        images_at_once: Of every batch, filled up to a multiple of EVEN, so that no image's features depend on how many
            there are, nor on its place among them (`keep_places`).
    """

    def __init__(self, model: nn.Module, *, autocast: bool, images_at_once: int) -> None:
        name, head = head_of(model)
        if head is None:
            raise StudyError("model.name: the network has no linear layer, whose input its features would be.")
        self.model, self.head = model, head
        self.autocast, self.images_at_once = autocast, -(-images_at_once // EVEN) * EVEN
        self.device = head.weight.device
        self._frozen = {key: v for key, v in model.state_dict().items() if key.rpartition(".")[0] != name}

    def width(self, size: int) -> int | None:
        """Features of an image; None where the head does not take one row an image and give the network's outputs."""
        inputs, outputs = self._pass(self._made_up(size))
        given = inputs[0] if len(inputs) == 1 else None
        if given is None or given.ndim != 2 or len(given) != len(outputs) or outputs.ndim != 2:
            return None
        same = torch.equal(full(outputs), full(self._head(given)))
        return given.shape[1] if same else None

    def keep_places(self, size: int) -> None:
        """Take images one by one where the network's features depend on an image's place in its batch.

        Where a patient leaves, all later images take other places. Rounding that follows them moves the sum of all
        units, which the allowance for rounding has no part for (`dpdt.privacy.rounding`). Threaded matrix products of
        few or odd numbers of rows do this.
        """
        inputs, _ = self._pass(self._made_up(size)[:1].expand(self.images_at_once, -1, -1, -1).contiguous())
        if not torch.equal(inputs[0], inputs[0][:1].expand_as(inputs[0])):
            note("the network rounds an image's features by its place in a batch; they are computed one by one")
            self.images_at_once = 1

    def scale(self, size: int) -> float:
        """Root mean square of the lengths of made-up images' features: a public number of the size of the others'."""
        features = full(self._pass(self._made_up(size))[0][0]).double()
        return max(float(features.square().sum(1).mean().sqrt()), 1e-6)

    def _made_up(self, size: int) -> Tensor:
        return torch.linspace(0, 1, 2 * size * size, device=self.device).view(2, 1, size, size)

    def digest(self) -> str:
        """Hash of the weights before the head."""
        found = hashlib.sha256()
        for name, value in sorted(self._frozen.items()):
            found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            found.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        return found.hexdigest()

    def compute(self, data: DomainData, *, begin: int = 0) -> Iterator[NDArray[np.float32]]:
        """Features of the images from `begin` on, in order, (k, width) at a time."""
        with progress(f"features of {data.domain}, {data.split}", len(data), unit="images") as advance:
            advance(begin)
            for first in range(begin, len(data), self.images_at_once):
                rows = np.arange(first, min(first + self.images_at_once, len(data)))
                yield self._of(data, rows)
                advance(len(rows))

    def first(self, data: DomainData) -> NDArray[np.float32]:
        """Features of the first batch."""
        return self._of(data, np.arange(min(self.images_at_once, len(data))))

    def _of(self, data: DomainData, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        pixels = np.zeros((self.images_at_once, data.size, data.size), dtype=np.uint8)
        data.images(rows, out=pixels[: len(rows)], num_threads=torch.get_num_threads())
        inputs, _ = self._pass(as_input(pixels, self.device))
        found: NDArray[np.float32] = full(inputs[0])[: len(rows)].cpu().contiguous().numpy()
        return found

    @torch.no_grad()
    def _pass(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """What the head was given, at each call, and what the network gave."""
        given: list[Tensor] = []
        hook = self.head.register_forward_pre_hook(lambda _module, inputs: given.append(inputs[0]))
        try:
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.autocast):
                outputs: Tensor = self.model(images)
        finally:
            hook.remove()
        return given, outputs

    @torch.no_grad()
    def _head(self, given: Tensor) -> Tensor:
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.autocast):
            outputs: Tensor = self.head(given)
        return outputs


def split_features(
    study: Study, features: Features, data: DomainData, *, stop: StopFlag | None = None
) -> NDArray[np.float32] | None:
    """The features of a split: from its file, or computed now into one.

    The network is watched as in a DP training: what it wrote of the images, or drew, would be in weights or features.

    Args:
        study: The study.
        features: The network.
        data: The split.
        stop: Looked at between two batches.

    Returns:
        float32, (images, width), memory-mapped, in the split's order; None where the network's head does not take one
        row of features an image, or where it was asked to stop before all were computed: then there is no file.

    Raises:
        PrivacyError: The network changed, or drew random numbers, while the images went through it.
    """
    width = features.width(data.size)
    if width is None:
        return None
    key = fingerprint(
        {
            "weights": features.digest(),
            "model": study.model.deciding(),
            "code": [code_version(), torch.__version__, model_code(study.model, study.file.parent)],
            "autocast": features.autocast,
            "pixels": data.manifest_sha256,
            "images": [*map(str, data.image_ids)],
        }
    )
    path, shape = study.paths.shards(data.domain).features(data.split, key[:16]), (len(data), width)
    found = _opened(path, shape, features, data)
    with contextlib.ExitStack() as stack:
        while found is None:
            try:  # two tasks that want the same do not both compute it
                stack.enter_context(exclusive_lock(path.parent / ".lock", blocking=False))
            except BlockingIOError:
                if stop is not None and stop.requested:
                    return None
                time.sleep(WAIT_SECONDS)
                continue
            found = _opened(path, shape, features, data)
            if found is None:
                remove_leftovers(path.parent)
                if not _write(path, shape, features, data, stop):
                    return None
                found = _mapped(path, shape)
    return found


def with_features(data: DomainData, features: NDArray[np.float32], *, scale: float) -> FeatureData:
    """A split with features in place of its images."""
    return FeatureData(**vars(data), features=features, scale=scale)


def _header(shape: tuple[int, int]) -> bytes:
    stream = io.BytesIO()
    npy.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return stream.getvalue()


def _mapped(path: Path, shape: tuple[int, int]) -> NDArray[np.float32]:
    return np.memmap(path, dtype="<f4", mode="r", offset=len(_header(shape)), shape=shape)


def _write(path: Path, shape: tuple[int, int], features: Features, data: DomainData, stop: StopFlag | None) -> bool:
    """Write the file; False if asked to stop before its end: what is there is then a file for the next pass."""
    begun, (images, width) = path.with_suffix(".begun"), shape
    whole_rows = ((begun.stat().st_size if begun.exists() else 0) - len(_header(shape)) - DIGEST_BYTES) // (4 * width)
    blocks = [] if (before := _opened(begun, (whole_rows, width), features, data)) is None else [before]
    digest, rows, guard = hashlib.sha256(), 0, Guard(features.model, shape=(1, data.size, data.size))
    guard.begin()
    features.keep_places(data.size)
    with atomic_path(begun) as temporary, temporary.open("wb") as stream:
        stream.write(_header(shape))
        for block in itertools.chain(blocks, features.compute(data, begin=sum(map(len, blocks)))):
            stream.write(block.data)
            digest.update(block.data)
            rows += len(block)
            if stop is not None and stop.requested:
                break
        stream.write(digest.digest())
        stream.seek(0)
        stream.write(_header((rows, width)))  # as long as that of all images
        if problem := guard.step_problem() or guard.problem():
            raise PrivacyError(f"model.name: {problem}")
    if rows < images:
        return False
    begun.replace(path)
    return True


def _opened(path: Path, shape: tuple[int, int], features: Features, data: DomainData) -> NDArray[np.float32] | None:
    """The array of a file; None where there is no file, a damaged one, or one that this network would not make."""
    if not path.exists():
        return None
    header, end = _header(shape), 4 * shape[0] * shape[1]
    content = np.memmap(path, dtype=np.uint8, mode="r")
    numbers = content[len(header) : len(header) + end]
    whole = len(content) == len(header) + end + DIGEST_BYTES and content[: len(header)].tobytes() == header
    if not whole or hashlib.sha256(numbers.data).digest() != content[-DIGEST_BYTES:].tobytes():
        warn(f"{path}: {DAMAGED}.")
        path.unlink(missing_ok=True)
        return None
    found = _mapped(path, shape)
    now = features.first(data)[: len(found)]
    if not np.allclose(
        found[: len(now)], now[: len(found)], rtol=0, atol=TOLERANCE * max(float(np.abs(now).max()), 1e-6)
    ):
        warn(f"{path}: {STALE}.")
        path.unlink(missing_ok=True)
        return None
    return found
