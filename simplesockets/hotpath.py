"""What every message passes: a step that reads it and hands it over, and sending one. The base classes of
:class:`~.connection.Connection` and :class:`~.transport.Stream`; and what leader.py's stand-by sleeps on.

On Linux and CPython both are there a second time, compiled (_speedups.c), and that is used if it could be built. There
is no difference but speed: the compiled ones do what nearly all messages need, and call these, as ``…_in_full()``, for
the rest. :data:`COMPILED` says which are in use; the environment variable SIMPLESOCKETS_PURE_PYTHON, set to anything,
has these used. (After a change to _speedups.c, ``pip install -e .`` compiles it again.)
"""

from __future__ import annotations

import contextlib
import enum
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from .locking import let_go

if TYPE_CHECKING:
    from abc import abstractmethod

    from .dispatch import Dispatch
    from .leader import ParkingLot, Term
    from .server import Server_Client


class Step(enum.Enum):
    """What an engine does after a step."""

    MORE = "step again when there is something to read"
    READY = "step: there is something to read"
    NOTHING = "wait until the socket is readable: it is in a mode in which reading does not wait"
    PAUSED = "wait until the mailbox has room"
    STOPPED = "the program turned reading off"
    DONE = "finish"


_MORE, _PAUSED, _DONE = Step.MORE, Step.PAUSED, Step.DONE  # looked up once
_get_ident, _now = threading.get_ident, time.perf_counter


class _Stepping:
    # What the compiled Stepper needs, too.
    if not TYPE_CHECKING:  # it takes them for all there are
        __slots__ = ()
    else:
        _deliver: Callable[[bytes], bool]
        _inbox: deque[bytes]
        _read: Callable[[int, int], bytes]
        _read_flags: int
        _read_size: int
        _short: int
        bytes_in: int
        closing: bool
        messages_in: int
        read_at: float
        reading: bool
        served_by: int

        @abstractmethod
        def _not_read(self, failure: OSError) -> Step: ...

        @abstractmethod
        def _dispatch(self, data: bytes | None) -> Step: ...

        @abstractmethod
        def _went_wrong(self, failure: BaseException, data: bytes | None) -> Step: ...

    def step(self, data: bytes | None = None) -> Step:
        """Read what is there (waiting for it, if the socket is in blocking mode), feed it, dispatch the items.

        Args:
            data: what was read already.
        """
        if self.closing:
            return _DONE
        if data is None and (not self._inbox or not self.reading):
            try:
                read = self._read
                data = read(self._read_size, self._read_flags)
            except OSError as failure:
                return self._not_read(failure)
        try:  # from here on nothing that was read gets lost
            self.read_at = _now()
            self.served_by = _get_ident()
            if self.closing:
                return _DONE
            if data and (size := len(data)) < self._short and self.reading and not self._inbox:
                self.bytes_in += size
                self.messages_in += 1
                deliver = self._deliver
                return _PAUSED if deliver(data) else _MORE  # the short way of nearly all
            return self._dispatch(data)
        except BaseException as failure:
            return self._went_wrong(failure, data)
        finally:
            self.served_by = 0

    _step_in_full = step


class _Sending:
    # What the compiled Sender needs, too.
    if TYPE_CHECKING:
        _send: Callable[..., int]
        write_lock: threading.RLock
        bytes_out: int
        messages_out: int

        @abstractmethod
        def _require_usable(self, failure: OSError) -> None: ...

        @abstractmethod
        def _send_rest(self, view: memoryview, sent: int) -> None: ...

        @abstractmethod
        def _named(self, failure: Exception) -> Exception: ...

    def send_all(self, data: bytes) -> None:
        """Send everything; waits while the other end does not read. Any number of threads: each one's data stays
        together.

        Raises:
            ConnectionClosed: it was closed on this side.
            SendTimeout: the other end took nothing for too long; now, or before.
            OSError: the connection broke.
        """
        lock = self.write_lock
        try:
            lock.acquire()
            send = self._send
            try:
                sent = send(data)
                self.bytes_out += sent
            except (BlockingIOError, TimeoutError) as failure:
                self._require_usable(failure)
                sent = 0
            if sent < len(data):
                self._send_rest(memoryview(data), sent)
            self.messages_out += 1
            lock.release()
        except BaseException as failure:
            let_go(lock)
            if isinstance(failure, OSError):
                raise self._named(failure) from failure
            raise

    _send_in_full = send_all


WriteLock = threading.RLock
"""What :attr:`Sender.write_lock` is."""


class Stepper(_Stepping):
    """Reads, and hands over; says nothing about how messages are told apart, or what happens when it goes wrong."""

    __slots__ = (  # every message looks these up
        "_deliver",
        "_inbox",
        "_read",
        "_read_flags",
        "_read_size",
        "_short",
        "bytes_in",
        "closing",
        "messages_in",
        "read_at",
        "reading",
        "served_by",
    )


class Sender(_Sending):
    """Sends whole messages, one at a time; says nothing about what happens when it goes wrong."""


class Pulse:
    """Rises with all that goes on: ``pulse.beats += 1``, and it need not be exact."""

    __slots__ = ("beats",)

    def __init__(self) -> None:
        self.beats = 0


class Gate:
    """What one thread sleeps on until somebody opens it. Open, it lets through whoever sleeps next, once."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def sleep(self, timeout: float = -1, /) -> bool:
        """Sleep until it is opened, or ``timeout`` seconds are over; below 0: any number. Gives whether it was."""
        return self._lock.acquire(timeout=timeout)

    def watch(self, pulse: Pulse, seconds: float, /) -> int:
        """Sleep until it is opened; after so many seconds one looks up, and may sleep on if the pulse rose.

        Returns:
            The beats when the last of these times began.
        """
        before = pulse.beats
        self._lock.acquire(timeout=seconds)
        return before

    def open(self) -> None:
        """Wake who sleeps."""
        with contextlib.suppress(RuntimeError):  # it is open already
            self._lock.release()


def serve(lot: ParkingLot, term: Term, events: list[tuple[int, int]], usual: int) -> None:
    """Step the connections that a selector reported.

    Args:
        lot: where they are parked.
        term: of who leads.
        events: pairs of descriptor and event.
        usual: the event of those for which there is nothing to do but to step.
    """
    pulse, parked_at = lot._pulse, lot._parked
    for fd, event in events:
        pulse.beats += 1
        try:
            parked = parked_at[fd]
        except KeyError:
            lot._not_parked(term, fd)
            continue
        term.serving = parked
        if lot._leader is not term:  # it lost the lead; what it leaves is reported to the next
            break
        if event != usual or parked.odd:
            lot._serve_odd(term, parked, event, not usual)
            continue
        step = parked.step  # in two steps, here and elsewhere: Python calls what an attribute holds faster then
        if (outcome := step()) is not _MORE:
            lot._stepped(parked, outcome)
    term.serving = None


def shortened(deliver: Callable[[bytes], bool], dispatch: Dispatch, client: Server_Client) -> Callable[[bytes], bool]:
    """What hands items over, with a short way to ``on_receive`` if there is one: for where it has one, and the copies
    that are kept for polling have reached their limit."""
    return deliver


COMPILED = False
"""Whether the compiled ones are in use."""

_REVISION = 1
"""Rises with what the two forms ask of each other: one that was compiled before that is not used."""

if not TYPE_CHECKING and not os.environ.get("SIMPLESOCKETS_PURE_PYTHON"):
    try:
        from . import _speedups
    except ImportError:  # it could not be built, or this is no CPython on Linux
        pass
    else:
        # Where threads are no threads, as with gevent, the locks have to be those that know it.
        COMPILED = _speedups.REVISION == _REVISION and threading.get_ident.__module__ == "_thread"

if not TYPE_CHECKING and COMPILED:
    _speedups.use(Step.MORE, Step.PAUSED, Step.NOTHING, Step.DONE)
    WriteLock, Pulse, Gate = _speedups.Lock, _speedups.Pulse, _speedups.Gate
    serve, shortened = _speedups.serve, _speedups.Delivery

    class Stepper(_speedups.Stepper, _Stepping):
        """Reads, and hands over."""

        __slots__ = ()

    class Sender(_speedups.Sender, _Sending):
        """Sends whole messages, one at a time."""
