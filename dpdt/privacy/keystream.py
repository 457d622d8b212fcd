"""Random numbers for sampling and noise from a cryptographic generator, with a state that can be saved.

A `KeyStream` is ChaCha20 (RFC 8439) under a secret 256-bit key. Every draw has a nonce of its own, the number of the
draw, so no two draws of a key share a byte, across resumes too. In a DP arm the key comes from the operating system and
exists only in the run's checkpoints, which are removed when the run ends: who knows it can subtract the noise.
"""

import hashlib
import secrets
from typing import Any, Final, Self

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray

from dpdt.errors import PrivacyError

__all__ = ["KeyStream"]

KEY_BYTES: Final = 32
# Normal numbers of one draw: keeps temporary arrays in the cache.
CHUNK: Final = 1 << 17
# Gaussians averaged into one, see `normal`.
GAUSSIANS_PER_NORMAL: Final = 4


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

    @classmethod
    def fresh(cls) -> Self:
        """A stream that nobody can predict: its key comes from the operating system."""
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
        """`count` standard normal numbers, float64, shape (count,), on the CPU.

        Each is the sum of four independent ones, halved, so that the gaps of a single float Gaussian's range cannot
        be used to recognise what was noised (Holohan & Braghin 2021, arXiv 2107.10138; Opacus' secure mode does
        the same with n = 2).
        """
        out = torch.empty(count, dtype=torch.float64)
        for start in range(0, count, CHUNK):
            chunk = out[start : start + CHUNK]
            total = self._gaussian(chunk.numel())
            for _ in range(GAUSSIANS_PER_NORMAL - 1):
                total += self._gaussian(chunk.numel())
            torch.div(total, GAUSSIANS_PER_NORMAL**0.5, out=chunk)
        return out

    def _gaussian(self, count: int) -> torch.Tensor:
        """Box and Muller's transform of uniform numbers with 53 bits: reaches 8.5 standard deviations."""
        pairs = (count + 1) // 2
        bits = (torch.from_numpy(self._words(2 * pairs)) >> 11).bitwise_and_((1 << 53) - 1).double()
        radius = bits[:pairs].add_(1).mul_(2.0**-53).log_().mul_(-2).sqrt_()  # of numbers in (0, 1]
        angle = bits[pairs:].mul_(2.0**-53 * 2 * torch.pi)
        return torch.cat((radius * angle.cos(), radius * angle.sin()))[:count]

    def _words(self, count: int) -> NDArray[np.int64]:
        """64-bit words of keystream; uses up one draw."""
        nonce = bytes(4) + self._draws.to_bytes(12, "little")  # a 32-bit block counter from 0, then the nonce
        self._draws += 1
        words = np.zeros(count, dtype=np.int64)
        encryptor = Cipher(ChaCha20(self._key, nonce), mode=None).encryptor()
        encryptor.update_into(bytes(words.nbytes), words.data.cast("B"))
        return words
