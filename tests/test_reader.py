"""Batches read ahead: the right pictures whatever was announced, no draw for nothing, errors where they belong."""

import threading
import time

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dpdt import _core
from dpdt.training.read_ahead import SLOTS, ReadAhead

PICTURES = np.arange(200 * 16, dtype=np.uint32).astype(np.uint8).reshape(200, 4, 4)
CPU = torch.device("cpu")


def copy(rows: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
    out[:] = PICTURES[rows]


def parts(*sizes: int, seed: int = 0) -> list[NDArray[np.int64]]:
    random = np.random.default_rng(seed)
    return [random.integers(0, len(PICTURES), size) for size in sizes]


def check(reader: ReadAhead, wanted: list[NDArray[np.int64]]) -> None:
    found = list(reader.read(wanted))
    assert len(found) == len(wanted)
    for (rows, inputs), right in zip(found, wanted, strict=True):
        assert np.array_equal(rows, right)
        assert torch.equal(inputs, torch.from_numpy(PICTURES[right]).unsqueeze(1).float() / 255)


def test_batches_are_the_pictures_of_their_rows_announced_or_not() -> None:
    one, two, three, four = parts(3, 5, 1, 2, 2, 2, 2), parts(7), parts(), parts(9, 9, seed=1)
    with ReadAhead(copy, like=np.empty((0, 4, 4), np.uint8), device=CPU) as reader:
        reader.announce(one)
        reader.announce(two)
        check(reader, one)
        reader.announce(three)
        reader.announce(four)
        check(reader, two)
        check(reader, three)
        check(reader, four)
        check(reader, one)  # not announced
        reader.announce(two)
        check(reader, four)  # something else was announced
        check(reader, two)


def test_the_next_batch_is_read_while_this_one_is_at_work() -> None:
    wanted, begun = parts(*[2] * 10), threading.Semaphore(0)

    def slow(rows: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
        copy(rows, out)
        begun.release()

    with ReadAhead(slow, like=np.empty((0, 4, 4), np.uint8), device=CPU) as reader:
        reader.announce(wanted)
        for _ in range(SLOTS):
            assert begun.acquire(timeout=10)
        time.sleep(0.05)
        assert not begun.acquire(blocking=False)  # no more than there are buffers
        check(reader, wanted)


def test_an_error_comes_with_the_batch_that_has_it_and_the_reader_goes_on() -> None:
    def broken(rows: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
        if rows[0] == 13:
            raise OSError("the disk is gone")
        copy(rows, out)

    with ReadAhead(broken, like=np.empty((0, 4, 4), np.uint8), device=CPU) as reader:
        reader.announce([np.array([1]), np.array([13]), np.array([2])])
        batches = reader.read([np.array([1]), np.array([13]), np.array([2])])
        next(batches)
        with pytest.raises(OSError, match="the disk is gone"):
            next(batches)
        check(reader, parts(3, 3))


@pytest.mark.parametrize("side", [4, 300])
def test_the_core_gathers_from_several_files_on_any_number_of_threads(side: int) -> None:
    random = np.random.default_rng(0)
    files = [random.integers(0, 255, (rows, side, side), dtype=np.uint8) for rows in (3, 0, 50)]
    file = random.choice([0, 2], 120)
    row = np.array([random.integers(0, len(files[number])) for number in file])
    for num_threads in (1, 3):
        out = np.zeros((120, side, side), dtype=np.uint8)
        _core.gather(files, file, row, out, num_threads=num_threads)
        assert np.array_equal(out, np.stack([files[f][r] for f, r in zip(file, row, strict=True)]))
    _core.gather(files, file[:0], row[:0], out[:0])


def test_the_core_refuses_pictures_that_are_not_there() -> None:
    files, out = [np.zeros((3, 4, 4), dtype=np.uint8)], np.zeros((1, 4, 4), dtype=np.uint8)
    for file, row in ((0, 3), (1, 0), (0, -1), (-1, 0)):
        with pytest.raises(IndexError, match="no such picture"):
            _core.gather(files, np.array([file]), np.array([row]), out)
    with pytest.raises(ValueError, match="files: expected pictures of the size of out's"):
        _core.gather([np.zeros((3, 4, 5), dtype=np.uint8)], np.array([0]), np.array([0]), out)
    with pytest.raises(ValueError, match="one file, one row and room for one picture"):
        _core.gather(files, np.array([0, 0]), np.array([0, 0]), out)
