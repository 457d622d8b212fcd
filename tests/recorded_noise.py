"""Record the noise of trainings: what each noisy step adds, recorded before it is used."""

import hashlib
from collections.abc import Callable
from typing import Any

from dpdt.privacy.clipping.engines import ClippedGradientSum
from dpdt.privacy.keystream import KeyStream


def recording(record: Callable[[str], object]) -> Callable[..., None]:
    """A `ClippedGradientSum.release` that first records the SHA-256 of all noise that it adds."""
    plain: Any = ClippedGradientSum.release

    def release(self: ClippedGradientSum, *, expected_batch_size: int) -> None:
        twin = KeyStream.from_state(self.noise.state_dict())
        digest = hashlib.sha256()
        for total in self.sums:
            digest.update(twin.normal(total.numel()).numpy().tobytes())
        record(digest.hexdigest())
        plain(self, expected_batch_size=expected_batch_size)
        if twin.state_dict() != self.noise.state_dict():
            raise RuntimeError("more or less noise was drawn than was recorded")

    return release
