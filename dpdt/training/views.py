"""Several views of each drawn image: augmentation multiplicity (Hoffer et al. 2019, arXiv 1901.09335).

The gradients of an image's views are averaged and the mean is clipped once, so that an image moves the sum by at most
max_grad_norm however many views there are (De et al. 2022, arXiv 2204.13650). For that bound nothing of one
image's views may depend on another image: their seeds are made of the run's seed, the step, the image's id and the
view's number. So they are also the same in any order, on any number of threads and processes, and after a resume.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dpdt.base.mixing import mixed, number_of

__all__ = ["Views", "parted"]


class Views:
    """The seeds of all views of a training.

    Args:
        image_ids: Id of each image that has one; those behind them (canaries) are numbered.
        images: How many images there are.
        views: Of each drawn image.
        seed: The run's.
    """

    def __init__(self, image_ids: Sequence[str], *, images: int, views: int, seed: str) -> None:
        names = [*image_ids, *map(str, range(len(image_ids), images))]
        self._images = np.array([number_of(name) for name in names], dtype=np.uint64)
        self._views, self._seed = views, seed

    def of(self, rows: NDArray[np.int64], *, step: int) -> NDArray[np.int64]:
        """Views of some images, those of an image side by side.

        Args:
            rows: Image numbers, shape (n,).
            step: The logical step.

        Returns:
            Image number and seed (its bits as int64) of each view, shape (n * views, 2).
        """
        start = np.uint64(number_of(f"{self._seed}/{step}"))
        numbers = np.arange(self._views, dtype=np.uint64)
        seeds = mixed(mixed(self._images[rows] ^ start)[:, None] + numbers)
        return np.stack((np.repeat(rows, self._views), seeds.view(np.int64).ravel()), axis=1)


def parted(part: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.uint64] | None]:
    """Image numbers of a physical batch, and the seeds of its views: (k, 2) as `Views.of` gives, or (k,) without."""
    if part.ndim == 1:
        return part, None
    return np.ascontiguousarray(part[:, 0]), np.ascontiguousarray(part[:, 1]).view(np.uint64)
