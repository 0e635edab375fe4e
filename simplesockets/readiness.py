"""Who says which of many sockets are ready: epoll where the system has it, else poll, which is made to look like it.

What is watched may be changed while a thread waits. An epoll object heeds that by itself; a :class:`PollSet` has to
wake who waits.
"""

from __future__ import annotations

import os
import select
import threading
import time

from .timing import Deadline
from .transport import Waker

HAS_EPOLL = hasattr(select, "epoll") and hasattr(os, "eventfd")
HAS_POLL = hasattr(select, "poll")

READABLE: int = getattr(select, "POLLIN", 1)  # the same numbers as epoll's
WRITABLE: int = getattr(select, "POLLOUT", 4)
GONE: int = getattr(select, "POLLHUP", 16) | getattr(select, "POLLERR", 8)
_CLOSED: int = getattr(select, "POLLNVAL", 32)


class Epoll:
    """The system's own: see :mod:`select`. ``poll`` is its method, since it is called once per message."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self.register, self.modify = self._epoll.register, self._epoll.modify
        self.unregister, self.poll = self._epoll.unregister, self._epoll.poll
        try:
            self.signal = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self._epoll.register(self.signal, READABLE)
        except OSError:
            self._epoll.close()
            raise

    def wake(self) -> None:
        """Have the signal reported, until it is cleared."""
        os.eventfd_write(self.signal, 1)

    def clear(self) -> None:
        """Lower the signal."""
        os.eventfd_read(self.signal)

    def close(self) -> None:
        """Free it. Nobody may be waiting."""
        self._epoll.close()
        os.close(self.signal)


class PollSet:
    """The same, made of ``select.poll``: each wait costs as much as there are sockets."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # protects what follows; not held while anybody waits
        self._events: dict[int, int] = {}  # what is looked for, by descriptor
        self._waiting: set[object] = set()  # threads
        self._stale: set[object] = set()  # those of them that have to begin anew, since something was changed
        self._signal, self._change = Waker(), Waker()
        self.signal = self._signal.reader.fileno()
        self._events[self.signal] = READABLE

    def register(self, fd: int, events: int) -> None:
        """Watch a descriptor, too."""
        with self._lock:
            if fd in self._events:
                raise FileExistsError(fd)
            self._set(fd, events)

    def modify(self, fd: int, events: int) -> None:
        """Look for other events. A hang-up is reported in any case."""
        with self._lock:
            if fd not in self._events:
                raise FileNotFoundError(fd)
            self._set(fd, events)

    def unregister(self, fd: int) -> None:
        """Watch it no more."""
        with self._lock:
            if self._events.pop(fd, None) is None:
                raise FileNotFoundError(fd)
            self._tell()

    def _set(self, fd: int, events: int) -> None:
        self._events[fd] = events
        self._tell()

    def _tell(self) -> None:
        # It stays to be seen until all have seen it.
        if self._waiting:
            self._stale.update(self._waiting)
            self._change.wake()

    def poll(self, timeout: float = -1, most: int = -1) -> list[tuple[int, int]]:
        """What is ready, after so many seconds at most (-1 is for ever). All of it, so that nobody waits for others."""
        until = Deadline(None if timeout < 0 else timeout, time.monotonic())
        while True:
            left = until.left(time.monotonic())
            found = self._look(left)
            if found or left == 0:
                return found

    def _look(self, timeout: float | None) -> list[tuple[int, int]]:
        me, poll = object(), select.poll()
        with self._lock:
            for fd, events in self._events.items():
                poll.register(fd, events)
            self._waiting.add(me)
        poll.register(self._change.reader, READABLE)
        try:
            ready = poll.poll(None if timeout is None else 1000 * timeout)
        finally:
            with self._lock:
                self._waiting.discard(me)
                self._stale.discard(me)
                if not self._stale:
                    self._change.clear()
        closed = {fd for fd, event in ready if event & _CLOSED}
        with self._lock:
            for fd in closed:  # by the program; epoll forgets these by itself
                self._events.pop(fd, None)
            return [(fd, event) for fd, event in ready if fd in self._events]

    def wake(self) -> None:
        """Have the signal reported, until it is cleared."""
        self._signal.wake()

    def clear(self) -> None:
        """Lower the signal."""
        self._signal.clear()

    def close(self) -> None:
        """Free it. Nobody may be waiting."""
        self._signal.close()
        self._change.close()


Readiness = Epoll | PollSet
"""Either."""
