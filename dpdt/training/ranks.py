"""The processes of one training, one a GPU, on one node or several: torch.distributed, started by srun or torchrun.

Rank 0 leads: it alone writes files and has the ledger. All ranks hold the same weights and the same random streams. A
logical batch is drawn by Poisson sampling as usual; each rank takes the drawn units of its part of the data (units
are dealt out by their number), and clips their gradients. The ranks' sums are added up, and the noise enters that one
sum, once, as in Opacus' distributed optimizer. So the mechanism, its sample rate and its epsilon are those of one
process, and a run may be resumed by another number of ranks than it was begun with.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from dpdt.base.files import write_text
from dpdt.errors import LostProcessError
from dpdt.training.stop import StopFlag

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed.distributed_c10d import Store

__all__ = ["ALONE", "PORT_FILE", "Ranks", "joined"]

# How long a rank waits for one that does not answer, or has not arrived.
PATIENCE: Final = timedelta(minutes=30)
# The variable that names the file in which rank 0 says its port. Without it MASTER_PORT holds, as torchrun sets it.
PORT_FILE: Final = "DPDT_PORT_FILE"
LOOK_SECONDS: Final = 0.05
# How long a rank that shall stop goes on to wait for the others, which stop too but later.
STOP_SECONDS: Final = 10.0

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
        with _together():
            dist.broadcast_object_list(box, src=0)
        shared: Shared = box[0]
        return shared

    def any(self, flag: bool) -> bool:
        """Whether any rank says yes."""
        return bool(self.largest(int(flag)))

    def largest(self, number: int) -> int:
        """The largest of the numbers that the ranks bring."""
        if self.size == 1:
            return number
        import torch
        import torch.distributed as dist

        found = torch.tensor([number])
        with _together():
            dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found.item())

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

        in_place = len(tensors) == 1 and tensors[0].is_contiguous()
        flat = tensors[0] if in_place else torch.cat([tensor.reshape(-1) for tensor in tensors])
        with _together():
            dist.all_reduce(flat)
        if in_place:
            return
        pieces = flat.split_with_sizes([tensor.numel() for tensor in tensors])
        back = [piece.view_as(tensor) for tensor, piece in zip(tensors, pieces, strict=True)]
        torch._foreach_copy_(list(tensors), back)  # one kernel of a GPU, in place of one a tensor

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """Rank 0 does the block before the others do."""
        if not self.leads:
            self.share(None)
        yield
        if self.leads:
            self.share(None)


ALONE: Final = Ranks()


@contextmanager
def joined(stop: StopFlag) -> Iterator[Ranks]:
    """Join the other processes, if `WORLD_SIZE` says that there are some (torchrun's variables, or PORT_FILE).

    Args:
        stop: Whether this process shall stop: then it waits no longer for one that is not there.

    Raises:
        LostProcessError: Another of the processes ended alone, or did not arrive in time; also in the methods of Ranks.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    import torch
    import torch.distributed as dist

    # Its functions have the group of the moment as a default. The first optimizer step imports it, and would so keep
    # the group's threads running until the interpreter ends: then they abort it.
    import torch.distributed.nn

    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    meeting: dict[str, Any] = {}
    if PORT_FILE in os.environ:
        rank = int(os.environ["RANK"])
        meeting = {"store": _meet(Path(os.environ[PORT_FILE]), rank, size, stop), "rank": rank, "world_size": size}
    with _together():
        dist.init_process_group(backend, timeout=PATIENCE, **meeting)
    meeting.clear()
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def _meet(file: Path, rank: int, size: int, stop: StopFlag) -> "Store":
    """The store of rank 0, when all ranks have found it.

    Its port is one that was free, and is told in a file that each attempt has for itself. With a port that is agreed
    upon before, an attempt could find it taken, or meet the store of the attempt before. No rank waits inside of
    torch, where no signal is heard, before all are there.
    """
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    wait = _Wait(stop)
    if rank == 0:
        store = TCPStore(os.environ["MASTER_ADDR"], 0, is_master=True, wait_for_workers=False, timeout=PATIENCE)
        write_text(file, str(store.port))
    else:
        wait.until(file.exists)
        with _together():
            store = TCPStore(os.environ["MASTER_ADDR"], int(file.read_text()), is_master=False, timeout=PATIENCE)
    with _together():
        store.add("arrived", 1)
        wait.until(lambda: store.add("arrived", 0) == size)
    found: Store = store
    return found


class _Wait:
    """Waiting for the others to arrive, for PATIENCE, or for a moment from when this process is asked to stop."""

    def __init__(self, stop: StopFlag) -> None:
        self._stop = stop
        self._last = time.monotonic() + PATIENCE.total_seconds()

    def until(self, condition: Callable[[], bool]) -> None:
        """Look again and again.

        Raises:
            LostProcessError: They did not arrive.
        """
        while not condition():
            now = time.monotonic()
            if self._stop.requested:
                self._last = min(self._last, now + STOP_SECONDS)
            if now > self._last:
                raise LostProcessError("the processes of this training did not all arrive in time")
            time.sleep(LOOK_SECONDS)


@contextmanager
def _together() -> Iterator[None]:
    """What all ranks do at once fails where one of them is gone."""
    try:
        yield
    except RuntimeError as err:
        text = str(err).partition("\n")[0]
        raise LostProcessError(f"another process of this training has ended, or does not answer: {text}") from err
