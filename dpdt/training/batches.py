"""What a logical batch is cut into, and what each of its images costs."""

import itertools

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["image_losses", "physical_batches"]


def image_losses(logits: Tensor, labels: Tensor, *, class_weights: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of each image: the mean over the labels, unknown ones adding zero.

    Args:
        logits: Shape (n, labels).
        labels: 1, 0, NaN where unknown; shape (n, labels).
        class_weights: Weight of the positives of each label, shape (labels,).

    Returns:
        Shape (n,).
    """
    known = ~labels.isnan()
    losses = F.binary_cross_entropy_with_logits(logits, labels.nan_to_num(), pos_weight=class_weights, reduction="none")
    return (losses * known).sum(1) / logits.shape[1]


def physical_batches(rows: NDArray[np.int64], units: NDArray[np.int64], *, size: int) -> list[NDArray[np.int64]]:
    """Cut a logical batch into pieces of at most `size` images, but never between two images of a unit.

    Args:
        rows: Images, or their views, along the first axis; those of a unit side by side.
        units: Unit of each of them, shape (n,).
        size: Images at once; a unit that has more is a separate piece.

    >>> [list(part) for part in physical_batches(np.arange(5), np.array([7, 7, 8, 9, 9]), size=3)]
    [[np.int64(0), np.int64(1), np.int64(2)], [np.int64(3), np.int64(4)]]
    """
    ends = np.flatnonzero(np.diff(units, append=-1))  # last image of each unit
    cuts, start = [], 0
    for before, end in itertools.pairwise(ends):
        if end + 1 - start > size:
            start = int(before) + 1
            cuts.append(start)
    return np.split(rows, cuts) if len(rows) else []
