"""Which images a logical step sees: Poisson sampling over privacy units."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from dpdt.errors import PrivacyError
from dpdt.privacy.keystream import KeyStream

__all__ = ["PoissonSampler", "num_steps_for", "sample_rate_for"]

MIN_STEPS: Final = 1


class PoissonSampler:
    """Draws every unit independently with one probability, then `images_per_unit` images of each drawn unit.

    This is the sampling that the accountants assume (Mironov, Talwar & Zhang 2019, arXiv 1908.10530, section 3);
    shuffled or weighted batches are not. A drawn patient adds one image, or several; their gradients are
    averaged before clipping: either way a patient moves one clipped gradient of the sum, and the guarantee is the
    patient's. The images are drawn uniformly and without replacement; a patient who has fewer adds all. Batches vary
    in size and may be empty: an empty one is a step too.

    Args:
        units: Privacy unit of each image, whole numbers, shape (n,).
        sample_rate: Probability q in (0, 1] of each unit.
        stream: Where the random numbers come from; its state is all the state there is.
        images_per_unit: Images of a drawn unit, at most; at least 1.

    Raises:
        PrivacyError: No image, or q outside (0, 1].
    """

    def __init__(
        self, units: NDArray[np.int64], *, sample_rate: float, stream: KeyStream, images_per_unit: int = 1
    ) -> None:
        if units.ndim != 1 or len(units) == 0:
            raise PrivacyError(f"sampling: expected the units of at least one image, got shape {units.shape}.")
        if not 0 < sample_rate <= 1:
            raise PrivacyError(f"sampling: expected a sample_rate in (0, 1], got {sample_rate!r}.")
        if images_per_unit < 1:
            raise PrivacyError(f"sampling: expected at least 1 image of a drawn unit, got {images_per_unit}.")
        self._by_unit = np.argsort(units, kind="stable")
        _, self._first, self._images = np.unique(units[self._by_unit], return_index=True, return_counts=True)
        self.sample_rate = sample_rate
        self.stream = stream
        self.images_per_unit = images_per_unit

    @property
    def num_units(self) -> int:
        """Units that can be drawn."""
        return len(self._first)

    def draw(self) -> NDArray[np.int64]:
        """Image numbers (places in `units`) of one logical batch; those of a unit lie side by side, units ascend."""
        drawn = np.flatnonzero(self.stream.uniform(self.num_units) < self.sample_rate)
        counts = self._images[drawn]
        unit = np.repeat(np.arange(len(drawn)), counts)
        place_in_unit = np.arange(len(unit)) - np.repeat(np.cumsum(counts) - counts, counts)
        # Of every drawn unit the images with the smallest of independent uniform numbers: a random subset.
        shuffled = np.lexsort((self.stream.uniform(len(unit)), unit))
        chosen = shuffled[place_in_unit < self.images_per_unit]
        rows: NDArray[np.int64] = self._by_unit[np.repeat(self._first[drawn], counts)[chosen] + place_in_unit[chosen]]
        return rows


def sample_rate_for(
    *, expected_batch_size: int, num_units: int, section: str = "train", unit: str = "privacy unit"
) -> float:
    """q: the probability that makes the expected batch have the wanted size.

    Args:
        expected_batch_size: Units of a step, in expectation.
        num_units: Units of the train split.
        section: The study file's table that the batch size stands in, for the message.
        unit: What is drawn, for the message: `patient` or `image`.

    Raises:
        PrivacyError: There are fewer units than the expected batch size, or none.
    """
    if num_units < 1 or expected_batch_size > num_units:
        raise PrivacyError(
            f"{section}.expected_batch_size: {expected_batch_size} is more than the {num_units} {unit}s of the train "
            "split. Make it smaller."
        )
    return expected_batch_size / num_units


def num_steps_for(*, num_epochs: float, expected_batch_size: int, num_units: int) -> int:
    """Logical steps in which each unit is drawn `num_epochs` times in expectation, at least one."""
    return max(MIN_STEPS, round(num_epochs * num_units / expected_batch_size))
