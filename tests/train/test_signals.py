"""Ctrl-C while something is written: it waits once, not twice."""

import os
import signal
import threading

import pytest

from fp4jax.train.signals import undivided


def interrupt(times: int, done: list[str]) -> None:
    with undivided(), undivided():
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGINT)
        done.append("written")


def test_the_block_ends_first():
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        interrupt(1, done)
    assert done == ["written"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_second_one_does_not_wait():
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        interrupt(2, done)
    assert not done
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_handlers_and_threads_are_left_alone():
    noted, handlers = [], []

    def look():
        with undivided():
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert handlers == [signal.default_int_handler]
    before = signal.signal(signal.SIGINT, lambda *args: noted.append("own"))
    try:
        with undivided():
            os.kill(os.getpid(), signal.SIGINT)
        assert noted == ["own"]
    finally:
        signal.signal(signal.SIGINT, before)
