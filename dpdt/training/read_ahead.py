"""Batches read ahead of the step: from the memory-mapped shards into a ring of buffers, by one thread of this process.

The copying is the core's and needs no Python, so the thread runs beside the step that computes. With a GPU the buffers
are pinned: a batch goes to the device as bytes, while the device computes, and becomes numbers there.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpdt.training.networks.build import as_input

__all__ = ["ReadAhead"]

# One buffer that the device reads, one that waits for it, and two that are being filled.
SLOTS: Final = 4

# Copies the pictures of some rows (or views of them) to their place in a buffer, (k, size, size).
Copy = Callable[[NDArray[np.int64], NDArray[Any]], object]


@dataclass
class _Slot:
    """A buffer, and when the device has read it."""

    pixels: Tensor
    read: torch.cuda.Event | None = None


class ReadAhead:
    """Physical batches in the order that they are announced in.

    Args:
        copy: Where the pixels come from; called from another thread.
        like: No images, of the shape and type that they have: `DomainData.no_images`.
        device: Where the batches shall be.
    """

    def __init__(self, copy: Copy, *, like: NDArray[Any], device: torch.device) -> None:
        self._copy = copy
        self._device = device
        self._free = [_Slot(torch.from_numpy(like)) for _ in range(SLOTS)]
        self._announced: deque[NDArray[np.int64]] = deque()
        self._pending: deque[tuple[NDArray[np.int64], _Slot, Future[None]]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="dpdt-read-ahead")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Forget what was announced; end the thread."""
        self.forget()
        self._thread.shutdown()

    def announce(self, parts: Iterable[NDArray[np.int64]]) -> None:
        """Say which physical batches come next, after those announced before: image numbers of each."""
        self._announced.extend(parts)
        self._fill()

    def forget(self) -> None:
        """Drop everything that was announced: it will not be asked for."""
        self._announced.clear()
        while self._pending:
            _, slot, future = self._pending.popleft()
            future.exception()  # waits; a batch that is not wanted may fail
            self._free.append(slot)

    def read(self, parts: Sequence[NDArray[np.int64]]) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        """Physical batches with their pictures; what was announced is there already, or on its way.

        Args:
            parts: Image numbers of each. If they are not what was announced next, all that was is forgotten.

        Yields:
            The image numbers, and float32 in 0..1 on the device, shape (k, 1, size, size); or features, (k, width).
        """
        if not self._are_next(parts):
            self.forget()
            self.announce(parts)
        for part in parts:
            _, slot, future = self._pending.popleft()
            try:
                future.result()
                inputs = as_input(slot.pixels[: len(part)].numpy(), self._device)
                if self._device.type == "cuda":
                    slot.read = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
                    slot.read.record()
            finally:
                self._free.append(slot)
            self._fill()
            yield part, inputs

    def _are_next(self, parts: Sequence[NDArray[np.int64]]) -> bool:
        coming = [*(part for part, _, _ in self._pending), *self._announced][: len(parts)]
        return len(coming) == len(parts) and all(map(np.array_equal, coming, parts))

    def _fill(self) -> None:
        """Let the thread work on as many batches as there are buffers."""
        while self._announced and self._free:
            part, slot = self._announced.popleft(), self._free.pop(0)
            self._pending.append((part, slot, self._thread.submit(self._load, slot, part)))

    def _load(self, slot: _Slot, part: NDArray[np.int64]) -> None:
        if slot.read is not None:
            slot.read.synchronize()
        if len(slot.pixels) < len(part):
            shape, dtype = (len(part), *slot.pixels.shape[1:]), slot.pixels.dtype
            slot.pixels = torch.empty(shape, dtype=dtype, pin_memory=self._device.type == "cuda")
        self._copy(part, slot.pixels[: len(part)].numpy())
