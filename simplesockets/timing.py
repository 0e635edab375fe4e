"""Deadlines, standstills, backoff, and when to connect again. Pure: time and chance come in as arguments, the time in
seconds of any steadily rising clock."""

from __future__ import annotations

from dataclasses import dataclass

HEED = 1.0
"""Seconds that a thread sleeps on a lock in one go; longer waits are several. Python does not notice a signal (Ctrl-C)
that comes in the moment before such a wait begins until the wait is over."""


class Deadline:
    """A moment until which something may take; ``timeout=None`` is for ever."""

    __slots__ = ("_at",)

    def __init__(self, timeout: float | None, now: float) -> None:
        self._at = None if timeout is None else now + timeout

    def left(self, now: float) -> float | None:
        """Seconds left, never below 0; None where there is no end."""
        return None if self._at is None else max(0.0, self._at - now)


class Standstill:
    """Notices that something has stopped.

    Args:
        timeout: seconds without any progress that are too long; None: none are.
        place: how far it is now.
        now: the time.
    """

    __slots__ = ("_place", "_since", "_timeout")

    def __init__(self, timeout: float | None, place: int, now: float) -> None:
        self._timeout = timeout
        self._place = place
        self._since = now

    def is_over(self, place: int, now: float) -> bool:
        """Told how far it is now: whether it has been there for too long."""
        if place != self._place:
            self._place, self._since = place, now
        return self._timeout is not None and now - self._since >= self._timeout


class Backoff:
    """Longer and longer pauses between tries: ``first`` seconds, then ``factor`` times as long, ``most`` at most.

    Args:
        jitter: the part of each pause that is left to chance, from 0 to 1, so that many who were cut off together do
            not come back together.
    """

    __slots__ = ("_factor", "_first", "_jitter", "_most", "_next")

    def __init__(self, first: float, most: float, factor: float = 2.0, jitter: float = 0.0) -> None:
        self._first = first
        self._most = most
        self._factor = factor
        self._jitter = jitter
        self._next = first

    def is_fresh(self) -> bool:
        """Whether there was no pause since the last success."""
        return self._next == self._first

    def pause(self, chance: float = 0.0) -> float:
        """How long to wait before the next try.

        Args:
            chance: a random number, from 0 (the whole pause) to 1.
        """
        pause = self._next
        self._next = min(self._most, pause * self._factor)
        return pause * (1.0 - self._jitter * chance)

    def reset(self) -> None:
        """A try succeeded: begin anew with the first pause."""
        self._next = self._first


@dataclass(frozen=True, kw_only=True)
class Reconnect:
    """How a client comes back after its connection was lost: ``setup(…, reconnect=Reconnect(most=60.0))``.

    The pauses between tries grow, and part of each is left to chance: of many clients that a server lost together, few
    come back at the same moment. A connection that lasted for less than ``most`` seconds changes nothing of that; after
    a longer one the pauses begin anew.

    Args:
        first: seconds before the first try.
        most: seconds between two tries at most.
        factor: how many times longer each pause is than the one before it.
        jitter: the part of each pause that is left to chance: 0 for none, 1 for all of it.
        tries: give up after so many failures in a row; None never does.
        initially: whether a ``connect()`` that fails counts as a loss, too, so that the server may come later than the
            client. If not, only what was connected once is connected again.

    Raises:
        TypeError, ValueError: an argument is of no use; the message says why.
    """

    first: float = 0.5
    most: float = 30.0
    factor: float = 2.0
    jitter: float = 0.5
    tries: int | None = None
    initially: bool = False

    def __post_init__(self) -> None:
        _check_number("first", self.first, 1e-3, _YEAR, "seconds")
        _check_number("most", self.most, self.first, _YEAR, "seconds, and not less than first")
        _check_number("factor", self.factor, 1, 1000, "times")
        _check_number("jitter", self.jitter, 0, 1, "of a pause")
        if self.tries is not None and (not isinstance(self.tries, int) or isinstance(self.tries, bool)):
            raise TypeError(f"tries must be a whole number, or None to go on for ever, not {self.tries!r}")
        if self.tries is not None and self.tries < 1:
            raise ValueError(f"tries must be 1 or more, or None to go on for ever, not {self.tries}")
        if not isinstance(self.initially, bool):
            raise TypeError(f"initially must be True or False, not {self.initially!r}")

    @classmethod
    def of(cls, given: Reconnect | bool | None) -> Reconnect | None:
        """What a ``reconnect=`` argument means: True is all the defaults, None and False are not to reconnect.

        Raises:
            TypeError: it is nothing of that kind.
        """
        if given is None or given is False:
            return None
        if given is True:
            return cls()
        if not isinstance(given, cls):
            raise TypeError(f"reconnect must be True, False or a Reconnect(…), not {given!r}")
        return given

    def backoff(self) -> Backoff:
        """Its pauses."""
        return Backoff(self.first, self.most, self.factor, self.jitter)


_YEAR = 366 * 24 * 3600.0


def check_seconds(name: str, value: object, *, unlimited: bool = True) -> None:
    """Refuse what is no number of seconds above 0, and not None either, which is ``unlimited``.

    Raises:
        TypeError, ValueError: naming the value and what to give instead.
    """
    if value is None and unlimited:
        return
    otherwise = ", or None for no limit" if unlimited else ""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number of seconds{otherwise}, not {value!r}")
    if not value > 0:
        raise ValueError(f"{name} must be more than 0 seconds{otherwise}, not {value!r}")
    if value > _YEAR:
        raise ValueError(f"{name} must be a year at most{otherwise}, not {value!r} seconds")


def _check_number(name: str, value: object, least: float, most: float, what: str) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, not {value!r}")
    if not least <= value <= most:
        raise ValueError(f"{name} must be from {least:g} to {most:g} {what}, not {value!r}")
