"""Who may go on without a new handshake, and who has to wait before the next one. Pure: times and ids come in as
arguments; times are seconds of any steadily rising clock."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import AbstractContextManager, nullcontext
from typing import Generic, Protocol, TypeVar

SESSION_LIFESPAN = 20 * 60.0
"""Default seconds that a session lives without a message."""
MAX_SESSIONS = 10_000
"""Default limit of sessions at a time."""

FREE_FAILURES = 3
"""Failed logins of one address before the next ones are delayed."""
FIRST_DELAY = 0.5
"""Seconds of the first delay; each further failure doubles it …"""
MAX_DELAY = 8.0
"""… up to so many."""
FORGIVEN_AFTER = 15 * 60.0
"""Seconds without a failed login after which an address is as good as new."""
MAX_ADDRESSES = 1024
"""Addresses that are remembered at a time; the one that failed longest ago goes first."""

Context = TypeVar("Context")
_NO_GUARD = nullcontext()


class SessionStore(Protocol[Context]):
    """Where sessions are: what a server's service asks of it, from any number of threads. Each may take its time, and
    may raise an ``HPXError``, which is then the answer to the message at hand."""

    def add(self, session: str, context: Context, now: float) -> None:
        """Begin a session. Where there are too many, that which was idle longest goes."""

    def use(self, session: str, now: float) -> Context | None:
        """The context of a session, which lives on from now; None if it is unknown or has expired."""

    def keep(self, context: Context) -> None:
        """A message was dealt with, and functions may have changed what the context keeps of the session."""

    def clear(self) -> None:
        """The server is being closed: sessions that nobody else knows end."""


def check_limits(lifespan: float, limit: int) -> None:
    """Refuse numbers that are of no use.

    Raises:
        TypeError, ValueError: naming the value and what to give instead.
    """
    if not lifespan >= 0:
        raise ValueError(f"session_lifespan is a number of seconds, or 0 for no end, not {lifespan!r}")
    if not isinstance(limit, int) or isinstance(limit, bool):
        raise TypeError(f"max_sessions must be a whole number of sessions, not {limit!r}")
    if limit < 1:
        raise ValueError(f"max_sessions must be at least 1 session, not {limit}")


class Sessions(Generic[Context]):
    """Contexts by the id of their session, in memory.

    All live equally long, so the one that was idle longest is also the next to expire: they stand in that order.

    Args:
        lifespan: seconds that a session lives without being used; 0 is for ever.
        limit: sessions at a time; for one more, that which was idle longest goes.
        guard: a lock, which may be taken again by who has it, and protects all of it; without it these are for one
            thread at a time.
    """

    def __init__(
        self,
        lifespan: float = SESSION_LIFESPAN,
        limit: int = MAX_SESSIONS,
        guard: AbstractContextManager[object] = _NO_GUARD,
    ) -> None:
        check_limits(lifespan, limit)
        self._guard = guard
        self._lifespan = lifespan
        self._limit = limit
        self._known: OrderedDict[str, tuple[Context, float]] = OrderedDict()  # with the time of their latest use

    def __len__(self) -> int:
        return len(self._known)

    def add(self, session: str, context: Context, now: float) -> None:
        """Begin a session."""
        with self._guard:
            self._expire(now)
            if len(self._known) >= self._limit:
                self._known.popitem(last=False)
            self._known[session] = (context, now)

    def use(self, session: str, now: float) -> Context | None:
        """The context of a session, which lives on from now; None if it is unknown or has expired."""
        with self._guard:
            self._expire(now)
            found = self._known.get(session)
            if found is None:
                return None
            self._known[session] = (found[0], now)
            self._known.move_to_end(session)
            return found[0]

    def keep(self, context: Context) -> None:
        """Nothing has to be done: whoever uses the session gets this very context."""

    def _expire(self, now: float) -> None:
        while self._lifespan and self._known:
            oldest = next(iter(self._known))
            if now - self._known[oldest][1] < self._lifespan:
                return
            del self._known[oldest]

    def clear(self) -> None:
        """End all sessions."""
        with self._guard:
            self._known.clear()


class LoginFailures:
    """How long the next login from an address is delayed, by how many failed there.

    Args:
        limit: addresses that are remembered at a time.
    """

    def __init__(self, limit: int = MAX_ADDRESSES) -> None:
        self._limit = limit
        self._failed: OrderedDict[str, tuple[int, float]] = OrderedDict()  # how often, and when latest

    def __len__(self) -> int:
        return len(self._failed)

    def delay(self, address: str, now: float) -> float:
        """Seconds that a login from there has to wait."""
        times, latest = self._failed.get(address, (0, now))
        if times < FREE_FAILURES or now - latest >= FORGIVEN_AFTER:
            return 0.0
        doublings = min(times - FREE_FAILURES, 30)  # more make no difference
        return min(MAX_DELAY, FIRST_DELAY * 2.0**doublings)

    def failed(self, address: str, now: float) -> None:
        """A login from there failed."""
        times, latest = self._failed.pop(address, (0, now))
        if now - latest >= FORGIVEN_AFTER:
            times = 0
        if len(self._failed) >= self._limit:
            self._failed.popitem(last=False)
        self._failed[address] = (times + 1, now)

    def succeeded(self, address: str) -> None:
        """A login from there succeeded."""
        self._failed.pop(address, None)
