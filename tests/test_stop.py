"""Stopping in good order: signals set a flag, and reach the handler of before when the work is saved."""

import os
import signal
import threading

import pytest

from dpdt.training.stop import STOP_SIGNALS, StopFlag, stop_on_signals


def test_ctrl_c_is_kept_until_the_end_and_then_delivered() -> None:
    saved: list[bool] = []

    def work() -> None:
        with stop_on_signals() as flag:
            os.kill(os.getpid(), signal.SIGINT)
            saved.append(flag.requested)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert saved == [True]


def test_handlers_of_before_come_back() -> None:
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    with stop_on_signals() as flag:
        assert not flag.requested
        assert [signal.getsignal(number) for number in STOP_SIGNALS] != before
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


def test_an_error_is_not_hidden_by_a_signal() -> None:
    def work() -> None:
        with stop_on_signals():
            os.kill(os.getpid(), signal.SIGINT)
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        work()


def test_outside_of_the_main_thread_no_handler_is_set() -> None:
    flags: list[StopFlag] = []

    def work() -> None:
        with stop_on_signals() as flag:
            flags.append(flag)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert [flag.requested for flag in flags] == [False]


def test_anybody_can_ask() -> None:
    flag = StopFlag()
    flag.request()
    assert flag.requested
    assert flag.signal is None
