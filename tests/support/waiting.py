"""Waiting in tests: for a condition, never for a guess of a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE = 20.0
"""Seconds after which a test that waits fails. Nothing waits that long when it works."""

Value = TypeVar("Value")


def wait_until(condition: Callable[[], Value], what: str = "", patience: float = PATIENCE) -> Value:
    """Wait until the condition gives something true, and return that; fail when it does not."""
    deadline = time.monotonic() + patience
    pause = threading.Event()
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {patience} s in vain for {what or condition}"
        pause.wait(0.002)
    return value


class Gate:
    """Holds a thread at a place of the test's choice, to force an interleaving.

    The thread calls :meth:`arrive` (or the gate itself, as a callback); the test waits for it with
    :meth:`wait_arrived` and lets it go with :meth:`open`.
    """

    def __init__(self) -> None:
        self._arrived = threading.Event()
        self._opened = threading.Event()

    def arrive(self, *_: object) -> None:
        """Announce this thread and wait for :meth:`open`."""
        self._arrived.set()
        assert self._opened.wait(PATIENCE), "the gate was never opened"

    __call__ = arrive

    def wait_arrived(self) -> None:
        """Wait until a thread stands at the gate."""
        assert self._arrived.wait(PATIENCE), "nobody arrived at the gate"

    def open(self) -> None:
        """Let it go, and whoever comes later."""
        self._opened.set()


def is_held(lock: threading.RLock) -> bool:  # a function, before Python 3.13
    """Whether another thread holds the lock."""
    free = lock.acquire(blocking=False)
    if free:
        lock.release()
    return not free
