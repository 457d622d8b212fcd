"""Ports for the servers that tests start."""

import random
import socket
from contextlib import ExitStack

_CHANCE = random.SystemRandom()  # hypothesis seeds the usual one, in both of pytest's workers alike


def free_port(number: int = 1) -> int:
    """The first of some ports that nobody listens on.

    Below those that the kernel gives to outgoing connections (from 32768 on Linux): among them, a client of a server
    that is down may be given the server's port, and the server cannot start again.
    """
    for _ in range(100):
        first = _CHANCE.randrange(10_000, 32_000)
        try:
            with ExitStack() as stack:
                for port in range(first, first + number):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise AssertionError("no free port in a hundred places")
