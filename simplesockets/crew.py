"""Threads on demand: whatever has to run without delaying anybody gets one, and they are used again."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from .mailbox import mark_own_thread

try:
    from resource import RUSAGE_THREAD, getrusage
except ImportError:  # few systems count for each thread
    _COUNTS = False
else:
    _COUNTS = True

AT_ONCE = 8
"""As many threads are started the moment a task needs one. Beyond, short tasks (thousands of clients that connect at
once) are better done by those that are there, so one more is started only …"""
HURRY = 0.005
"""… for a task that waited for so many seconds."""
SPARE = 1.0
"""Seconds that a thread without a task waits for another one."""

Task = Callable[[], object]


class Effort(NamedTuple):
    """What a thread did so far."""

    seconds: float
    """For how long it used a processor."""
    waits: int
    """How often it let go of the processor by itself: to sleep, for a lock, for something to come."""


def effort() -> Effort | None:
    """What the calling thread did so far; None where the system does not tell."""
    if not _COUNTS:
        return None
    # getrusage() has the seconds, too, but as they were some milliseconds ago.
    return Effort(time.thread_time(), getrusage(RUSAGE_THREAD).ru_nvcsw)


class Crew:
    """The threads of one engine that are not bound to a client.

    Args:
        name: begins the names of the threads.
        later: runs a task after so many seconds.
    """

    def __init__(self, name: str, later: Callable[[float, Task], object]) -> None:
        self._name = name
        self._later = later
        self._lock = threading.RLock()  # protects what follows; not held while a task runs
        self._ready = threading.Condition(self._lock)
        self._tasks: deque[Task] = deque()
        self._threads: set[threading.Thread] = set()
        self._idle = 0
        self._number = 0  # of the latest thread
        self._looking = False  # it is due to look whether a task waits
        self._closed = False

    def run(self, task: Task, *, at_once: bool = False) -> None:
        """Run a task in a thread of the crew.

        Args:
            task: what to run.
            at_once: whether it gets a thread however many there are; it is one that takes long.

        Raises:
            RuntimeError: no thread is there, and the system gives none. The task will not run then.
        """
        with self._lock:
            if at_once:
                self._tasks.appendleft(task)  # the new thread is not for one of those that can wait
            else:
                self._tasks.append(task)
            if self._idle >= len(self._tasks):
                self._ready.notify()
            elif at_once or len(self._threads) < AT_ONCE:
                try:
                    self._grow()
                except RuntimeError:
                    if not self._threads:
                        self._tasks.remove(task)
                        raise
                    self._look_later()  # those that are there may stay where they are for ever
            else:
                self._look_later()

    def _look_later(self) -> None:
        if not self._looking:
            self._looking = True
            self._later(HURRY, self._look)

    def _look(self) -> None:
        with self._lock:
            self._looking = False
            if self._tasks:
                with contextlib.suppress(RuntimeError):
                    self._grow()
                self._look_later()

    def _grow(self) -> None:
        self._number += 1
        thread = threading.Thread(target=self._work, name=f"{self._name}-worker-{self._number}", daemon=True)
        thread.start()  # with the lock; the new thread asks for it when it runs
        self._threads.add(thread)

    def _work(self) -> None:
        mark_own_thread()
        try:
            while (task := self._next()) is not None:
                task()
                del task  # it may hold the last reference to a client
        finally:
            with self._lock:
                self._threads.discard(threading.current_thread())

    def _next(self) -> Task | None:
        with self._lock:
            if not self._tasks and not self._closed:
                self._idle += 1
                self._ready.wait_for(lambda: self._tasks or self._closed, SPARE)
                self._idle -= 1
            if self._tasks:
                return self._tasks.popleft()
            self._threads.discard(threading.current_thread())  # from now on nobody counts on it
            return None

    def threads(self) -> list[threading.Thread]:
        """Those that there are now."""
        with self._lock:
            return list(self._threads)

    def close(self) -> None:
        """From now on threads end when there is no task for them. Never waits."""
        with self._lock:
            self._closed = True
            self._ready.notify_all()
