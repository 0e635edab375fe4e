"""Deadlines and backoff. Pure: the time comes in as an argument, in seconds of any steadily rising clock."""

from __future__ import annotations


class Deadline:
    """A moment until which something may take; ``timeout=None`` is for ever."""

    __slots__ = ("_at",)

    def __init__(self, timeout: float | None, now: float) -> None:
        self._at = None if timeout is None else now + timeout

    def left(self, now: float) -> float | None:
        """Seconds left, never below 0; None where there is no end."""
        return None if self._at is None else max(0.0, self._at - now)


class Backoff:
    """Longer and longer pauses between tries: ``first`` seconds, then ``factor`` times as long, ``most`` at most."""

    __slots__ = ("_factor", "_first", "_most", "_next")

    def __init__(self, first: float, most: float, factor: float = 2.0) -> None:
        self._first = first
        self._most = most
        self._factor = factor
        self._next = first

    def is_fresh(self) -> bool:
        """Whether there was no pause since the last success."""
        return self._next == self._first

    def pause(self) -> float:
        """How long to wait before the next try."""
        pause = self._next
        self._next = min(self._most, pause * self._factor)
        return pause

    def reset(self) -> None:
        """A try succeeded: begin anew with the first pause."""
        self._next = self._first
