"""Clients without threads: whoever is idle costs none, and those that talk share one, as long as that delays nobody.

All connections are parked (leader.py) from the beginning. A thread of the crew (crew.py) goes on with a connection
that is not like the others: while it is opened, and when it ended; for each step while its callbacks are slow, between
which it is parked only to be watched; and while it is the only one and has callbacks, until it speaks after others did.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

from .connection import Connection
from .engine import Engine, Life
from .hotpath import Step
from .leader import Parked
from .readiness import HAS_EPOLL, HAS_POLL, Epoll, PollSet

OUT_OF_THREADS = 1.0
"""Seconds after which to try again where the system gives no thread."""


class Member:
    """Stands for the thread that a client does not have: answers what programs ask a thread."""

    __slots__ = ("_over", "name")

    daemon = True
    ident = native_id = None

    def __init__(self, name: str) -> None:
        self.name = name
        self._over: threading.Event | bool = False  # the event, while somebody waits for it

    def is_alive(self) -> bool:
        """Whether the client is served."""
        return self._over is not True

    def join(self, timeout: float | None = None) -> None:
        """Wait until the client is not served any more, ``timeout`` seconds at most."""
        with _joining:
            over = self._over
            if over is False:
                over = self._over = threading.Event()
        if over is not True:
            over.wait(timeout)

    def end(self) -> None:
        """The client is not served any more."""
        with _joining:
            over, self._over = self._over, True
        if isinstance(over, threading.Event):
            over.set()

    def __repr__(self) -> str:
        return f"<no thread of its own: {self.name}, {'served' if self.is_alive() else 'ended'}>"


_joining = threading.RLock()  # protects whether somebody waits for a member; never held for long


class PoolEngine(Engine):
    """Few threads for all connections. Where the system has nothing to park them with, they get threads, after all."""

    READINESS = Epoll if HAS_EPOLL else PollSet if HAS_POLL else None
    STAYS_OUT = False

    def attach(self, connection: Connection, label: str, work: Callable[[], object] | None = None) -> Life:
        """See :meth:`Engine.attach`."""
        connection.thread = Member(f"{self._name}-{label}")
        return Life(connection, work, alone=0)

    def _begin(self, life: Life) -> None:
        self._lot.open()
        self._crew.run(partial(self._serve, life), at_once=life.work is not None)

    def _forget(self, life: Life) -> None:
        super()._forget(life)
        member = life.connection.thread
        if isinstance(member, Member):
            member.end()

    def _rest(self, life: Life) -> bool:
        life.since = time.monotonic()
        out = partial(self._is_out, life, [True])
        if self._lot.admit(Parked(self._lot, life.connection, out, watched=life.alone > 0)):
            return True
        life.connection.share(False)
        life.step = life.connection.step()  # it cannot be parked; ask again then
        return False

    def _is_out(self, life: Life, once: list[bool], step: Step) -> None:
        # May be called again by whom a signal handler interrupts in here.
        try:
            self._crew.run(partial(self._go_on, life, once, step), at_once=step in (Step.MORE, Step.READY))
        except RuntimeError:  # no thread at all, and the system gives none
            self.later(OUT_OF_THREADS, partial(self._is_out, life, once, step))

    def _go_on(self, life: Life, once: list[bool], step: Step) -> None:
        try:
            once.pop()
        except IndexError:
            return
        life.connection.share(step is Step.READY)  # then reading must not wait, should there be nothing after all
        life.is_out(step)
        self._serve(life)
