"""Random numbers for sampling and noise from a cryptographic generator, with a state that can be saved.

A `KeyStream` is ChaCha20 (RFC 8439) under a secret 256-bit key. Every draw has its own nonce, the number of the
draw, so no two draws of a key share a byte, across resumes too. In a DP arm the key comes from the operating system and
exists only in the run's checkpoints, which are removed when the run ends: with the key, the noise can be subtracted.
"""

import hashlib
import secrets
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, Self

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray

from dpdt import _core
from dpdt.errors import PrivacyError

__all__ = ["KeyStream"]

KEY_BYTES: Final = 32


class KeyStream:
    """Uniform and normal numbers from ChaCha20.

    Args:
        key: 32 secret bytes.
        draws: Number of draws taken before; the next one has this number as its nonce.
        seeded: Whether the key came from a seed: reproducible, therefore no secret.
    """

    def __init__(self, key: bytes, *, draws: int = 0, seeded: bool = False) -> None:
        if len(key) != KEY_BYTES or draws < 0:
            raise PrivacyError(f"keystream: expected {KEY_BYTES} key bytes and draws >= 0, got {len(key)}, {draws}.")
        self._key = key
        self._draws = draws
        self.seeded = seeded
        self._ahead: dict[int, Future[torch.Tensor]] = {}  # numbers of draws that were not taken yet
        self._thread: ThreadPoolExecutor | None = None
        self._copies: Any = None  # the GPU's queue of their copies

    @classmethod
    def fresh(cls) -> Self:
        """An unpredictable stream: its key comes from the operating system."""
        return cls(secrets.token_bytes(KEY_BYTES))

    @classmethod
    def from_seed(cls, *parts: object) -> Self:
        """A reproducible stream, for the arm without DP and for tests; the same parts give the same numbers."""
        return cls(hashlib.sha256("\x1f".join(map(str, ("dpdt", *parts))).encode()).digest(), seeded=True)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on at this place; as secret as the noise itself."""
        return {"key": self._key.hex(), "draws": self._draws, "seeded": self.seeded}

    @classmethod
    def from_state(cls, state: Any) -> Self:
        """The stream that `state_dict` described.

        Raises:
            PrivacyError: The state is not complete; going on with another stream could repeat or skip noise.
        """
        try:
            return cls(bytes.fromhex(state["key"]), draws=int(state["draws"]), seeded=bool(state["seeded"]))
        except (KeyError, TypeError, ValueError) as err:
            raise PrivacyError(
                f"checkpoint: the state of the random numbers cannot be read ({err!r}). "
                "Remove this checkpoint; the training goes on from the one before."
            ) from err

    def uniform(self, count: int) -> NDArray[np.float64]:
        """`count` numbers in [0, 1), multiples of 2^-53, shape (count,)."""
        bits = self._words(count).view(np.uint64) >> np.uint64(11)
        return bits.astype(np.float64) * 2.0**-53

    def normal(self, count: int) -> torch.Tensor:
        """`count` standard normal numbers, float64, shape (count,), on the CPU; uses up one draw.

        Each is the sum of four independent ones, halved, so that the gaps of a single float Gaussian's range cannot
        be used to recognise what was noised (Holohan & Braghin 2021, arXiv 2107.10138; Opacus' secure mode does
        the same with n = 2). These are Box and Muller's transforms of uniform numbers with 52 bits, which reach 8.5
        standard deviations.
        """
        out = torch.empty(count, dtype=torch.float64)
        _core.fill_normal(self._key, self._next_nonce(), out.numpy(), num_threads=torch.get_num_threads())
        return out

    def noise(self, values: torch.Tensor, *, scale: float, divisor: float) -> None:
        """Make values (values + scale · normal) / divisor in place, in float64 and rounded once; uses up one draw.

        The result is the same on every device, bit for bit, and whether the numbers were made ahead or not.

        Args:
            values: Contiguous; on the CPU in float32 without a copy, on any device and in any precision with one.
            scale: Standard deviation of the noise.
            divisor: Not 0.
        """
        made = self._ahead.pop(self._draws, None)
        if made is None and values.device.type == "cpu" and values.dtype == torch.float32:
            _core.add_normal(
                self._key,
                self._next_nonce(),
                values.detach().view(-1).numpy(),
                scale=scale,
                divisor=divisor,
                num_threads=torch.get_num_threads(),
            )
            return
        if made is None:
            numbers = self.normal(values.numel()).to(values.device)
        else:
            numbers = made.result()
            self._draws += 1
            if numbers.device.type == "cuda":  # its memory belongs to the queue of copies
                numbers.record_stream(torch.cuda.current_stream(values.device))
        numbers.mul_(scale).add_(values.view(-1))
        # on the values' device: CUDA would multiply with the reciprocal of a number of the CPU, which rounds otherwise
        numbers.div_(numbers.new_full((), divisor))
        values.copy_(numbers.view_as(values))

    def make_ahead(self, counts: Sequence[int], *, device: torch.device, num_threads: int) -> None:
        """Let a thread make the numbers of the next draws while others work; `noise` takes them when it comes to them.

        No draw is used up: the state is what it was, and numbers that were made and not taken are made again after a
        resume. Where they are there already, nothing is done.

        Args:
            counts: Numbers of each of the next draws.
            device: Where they shall be: 8 bytes each, until they are taken.
            num_threads: Of the processor, at most so many.
        """
        wanted = range(self._draws, self._draws + len(counts))
        self._ahead = {draw: made for draw, made in self._ahead.items() if draw in wanted}
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="dpdt-noise")
            self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        for draw, count in zip(wanted, counts, strict=True):
            if draw not in self._ahead:
                self._ahead[draw] = self._thread.submit(self._make, draw, count, device, num_threads)

    def close(self) -> None:
        """Forget what was made ahead; end the thread. The stream can still be drawn from."""
        self._ahead = {}
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
            self._thread = None

    def _make(self, draw: int, count: int, device: torch.device, num_threads: int) -> torch.Tensor:
        """Numbers of one draw on the device; in another thread, whose current device and threads are its own."""
        out = torch.empty(count, dtype=torch.float64, pin_memory=device.type == "cuda")
        _core.fill_normal(self._key, _nonce(draw), out.numpy(), num_threads=num_threads)
        if self._copies is None:
            return out
        with torch.cuda.stream(self._copies):
            sent = out.to(device, non_blocking=True)
        self._copies.synchronize()  # whoever gets it need not wait for it
        return sent

    def _next_nonce(self) -> bytes:
        """Of the next draw, which it uses up."""
        self._draws += 1
        return _nonce(self._draws - 1)

    def _words(self, count: int) -> NDArray[np.int64]:
        """64-bit words of keystream; uses up one draw."""
        words = np.zeros(count, dtype=np.int64)
        encryptor = Cipher(ChaCha20(self._key, bytes(4) + self._next_nonce()), mode=None).encryptor()
        encryptor.update_into(bytes(words.nbytes), words.data.cast("B"))
        return words


def _nonce(draw: int) -> bytes:
    """No two draws have the same."""
    return draw.to_bytes(12, "little")
