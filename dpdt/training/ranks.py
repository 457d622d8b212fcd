"""The processes of one training, one a GPU, on one node or several: torch.distributed, started by srun or torchrun.

Rank 0 leads: it alone writes files and has the ledger. All ranks hold the same weights and the same random streams. A
logical batch is drawn by Poisson sampling as usual; each rank takes the drawn units of its part of the data (units
are dealt out by their number), and clips their gradients. The ranks' sums are added up, and the noise enters that one
sum, once, as in Opacus' distributed optimizer. So the mechanism, its sample rate and its epsilon are those of one
process, and a run may be resumed by another number of ranks than it was begun with.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ALONE", "Ranks", "joined"]

# How long a rank waits for one that does not answer.
PATIENCE: Final = timedelta(minutes=30)

Shared = TypeVar("Shared")


@dataclass(frozen=True)
class Ranks:
    """This process among those of its training; every method must be called by all of them, in the same order.

    Attributes:
        rank: Number of this process, from 0.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank == 0

    def part(self, units: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of some units are this rank's, shape as given; each is exactly one rank's."""
        mine: NDArray[np.bool_] = units % self.size == self.rank
        return mine

    def share(self, value: Shared) -> Shared:
        """Rank 0's value, everywhere."""
        if self.size == 1:
            return value
        import torch.distributed as dist

        box: list[Any] = [value if self.leads else None]
        dist.broadcast_object_list(box, src=0)
        shared: Shared = box[0]
        return shared

    def any(self, flag: bool) -> bool:
        """Whether any rank says yes."""
        if self.size == 1:
            return flag
        import torch

        votes = torch.tensor([int(flag)])
        self.add([votes])
        return bool(votes.item())

    def add(self, tensors: "Sequence[Tensor]") -> None:
        """Put the sum over all ranks into each tensor, the same bits everywhere.

        One message, when all is there: a clipped sum is known only after the backward pass, because every image's
        factor depends on the norm of its whole gradient. Each of N ranks sends 2 (N - 1) / N of the tensors' bytes
        (a ring's all-reduce); weights and noise are never sent.
        """
        if self.size == 1:
            return
        import torch
        import torch.distributed as dist

        if len(tensors) == 1 and tensors[0].is_contiguous():
            dist.all_reduce(tensors[0])
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        pieces = flat.split_with_sizes([tensor.numel() for tensor in tensors])
        back = [piece.view_as(tensor) for tensor, piece in zip(tensors, pieces, strict=True)]
        torch._foreach_copy_(list(tensors), back)  # one kernel of a GPU, in place of one a tensor

    @contextlib.contextmanager
    def leader_first(self) -> Iterator[None]:
        """Rank 0 does the block before the others do."""
        if not self.leads:
            self.share(None)
        yield
        if self.leads:
            self.share(None)


ALONE: Final = Ranks()


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """Join the other processes, if `WORLD_SIZE` says that there are some (torchrun's variables)."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    import torch
    import torch.distributed as dist

    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE)
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
