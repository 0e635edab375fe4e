"""Sessions of one server, in its memory: what a server has unless it is told otherwise."""

from __future__ import annotations

import threading
from typing import TypeVar

from .sessions import MAX_SESSIONS, SESSION_LIFESPAN, Sessions

Context = TypeVar("Context")


class LocalSessions(Sessions[Context]):
    """Sessions for any number of threads.

    Args:
        lifespan, limit: see :class:`.sessions.Sessions`.
    """

    def __init__(self, lifespan: float = SESSION_LIFESPAN, limit: int = MAX_SESSIONS) -> None:
        super().__init__(lifespan, limit)
        self._lock = threading.RLock()  # protects all of it; close() in a signal handler may re-enter

    def add(self, session: str, context: Context, now: float) -> None:
        """Begin a session."""
        with self._lock:
            super().add(session, context, now)

    def use(self, session: str, now: float) -> Context | None:
        """The context of a session, which lives on from now; None if it is unknown or has expired."""
        with self._lock:
            return super().use(session, now)

    def clear(self) -> None:
        """End all sessions."""
        with self._lock:
            super().clear()
