"""What every message passes, from the selector to who gets it, and back into a socket. The base classes of those that
do the rest:

==========================  ==============================================================
:class:`Stepper`            of connections: a step that reads a message and hands it over
:func:`shortened`           what it is handed to
:class:`Storage`            of mailboxes: stores items, and gives them out
:class:`Attendant`          of parking lots: leads, and steps who was reported
:class:`Sender`             of streams: sends a message; :func:`sending` is for methods that only call that
:class:`Poster`             of outboxes: sends a message that nobody has to wait for
:class:`Gate`               what leader.py's stand-by sleeps on
==========================  ==============================================================

On Linux and CPython all of it is there a second time, compiled (_speedups.c), and that is used if it could be built.
There is no difference but speed: the compiled ones do what nearly all messages need, and call these, as
``…_in_full()``, for the rest. :data:`COMPILED` says which are in use; the environment variable
SIMPLESOCKETS_PURE_PYTHON, set to anything, has these used. (After a change to _speedups.c, ``pip install -e .``
compiles it again.)
"""

from __future__ import annotations

import contextlib
import enum
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from .locking import let_go

if TYPE_CHECKING:
    from abc import abstractmethod

    from .dispatch import Dispatch
    from .errors import ProtocolError
    from .events import ReceivedItem
    from .leader import Parked, Term
    from .mailbox import Bell, EventQueue, Flag, Item, Pausable, ReceivedList, Sleeping
    from .protocol import Protocol
    from .server import Server_Client
    from .transport import Stream


class Step(enum.Enum):
    """What an engine does after a step."""

    MORE = "step again when there is something to read"
    READY = "step: there is something to read"
    NOTHING = "wait until the socket is readable: it is in a mode in which reading does not wait"
    PAUSED = "wait until the mailbox has room"
    STOPPED = "the program turned reading off"
    DONE = "finish"


Method = TypeVar("Method", bound=Callable[..., int])

_MORE, _PAUSED, _DONE = Step.MORE, Step.PAUSED, Step.DONE  # looked up once
_get_ident, _now = threading.get_ident, time.perf_counter
_clear = list.clear  # where a subclass has another one
_READABLE: int = getattr(select, "POLLIN", 1)  # as epoll's


# ------------------------------------------------------------------------------------------------------------ reading


class _Stepping:
    # What the compiled Stepper needs, too.
    if not TYPE_CHECKING:  # it takes them for all there are
        __slots__ = ()
    else:
        _deliver: Callable[[bytes], bool]
        _delivering: bytes | None
        _error: ProtocolError | OSError | None
        _feed: Callable[[bytes], Iterable[bytes]] | None
        _inbox: deque[bytes]
        _read: Callable[[int, int], bytes]
        _read_flags: int
        _read_size: int
        _short: int
        bytes_in: int
        closing: bool
        messages_in: int
        protocol: Protocol
        read_at: float
        reading: bool
        send: Callable[[bytes], None]
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


class Stepper(_Stepping):
    """Reads, and hands over; says nothing about how messages are told apart, or what happens when it goes wrong."""

    __slots__ = (  # every message looks these up
        "_deliver",
        "_delivering",
        "_error",
        "_feed",
        "_inbox",
        "_read",
        "_read_flags",
        "_read_size",
        "_short",
        "bytes_in",
        "closing",
        "messages_in",
        "protocol",
        "read_at",
        "reading",
        "send",
        "served_by",
    )


def shortened(
    deliver: Callable[[bytes], bool],
    dispatch: Dispatch,
    client: Server_Client,
    source: Pausable,
    make: type[ReceivedItem],
) -> Callable[[bytes], bool]:
    """What hands items over, with a short way to ``on_receive`` (if the copies that are kept for polling have reached
    their limit), or to the mailbox.

    Args:
        deliver: hands them over in all cases.
        dispatch: has the callbacks and the mailbox.
        client: whose items these are.
        source: where they come from.
        make: the type of stored items.
    """
    return deliver


# ------------------------------------------------------------------------------------------------------------ storing


class Switch:
    """What a flag is: whether it is up, and how often it rose."""

    __slots__ = ("_rises", "_value")

    _rises: int
    _value: bool


class _Storing:
    # What the compiled Storage needs, too.
    if TYPE_CHECKING:
        new_data: Flag
        events: EventQueue
        bell: Bell
        straight: tuple[int, deque[Any]] | None
        client_mark: int
        total_mark: int
        total: int
        _lock: threading.RLock
        _items: ReceivedList
        _held: dict[Hashable, int]
        _paused: set[Pausable]
        _waiting: set[Sleeping]
        _item_cost: int
        _source_cost: int

        @abstractmethod
        def _resume(self, sources: Collection[Pausable]) -> None: ...

    def put(self, source: Pausable, item: Item, size: int, /) -> bool:
        """Store an item of ``size`` bytes, raise the flag, wake the pollers.

        Returns:
            Whether the source has to pause; :meth:`Pausable.resume` tells it when to go on.
        """
        item.source = source
        straight = self.straight
        if straight is not None and straight[0] == source.served_by and not self._items:
            straight[1].append(item)
            return False
        cost, lock = size + self._item_cost, self._lock
        try:
            lock.acquire()
            self._items.append(item)
            before = self._held.get(source)
            self._held[source] = held = cost if before is None else before + cost
            self.total = total = self.total + (cost + self._source_cost if before is None else cost)
            full = held >= self.client_mark or total >= self.total_mark
            if full:
                self._paused.add(source)
            flag = self.new_data
            if not flag._value:  # as flag.rise(), in one call less
                self.events._data_since = item._stamp
                flag._rises += 1
                flag._value = True
            lock.release()
        except BaseException:
            let_go(lock)
            raise
        if self._waiting:
            self.bell.ring()
        return full

    _put_in_full = put

    def take_present(self) -> list[Item]:
        """Take everything out and lower the flag. Never waits."""
        lock, resumed = self._lock, None
        try:
            lock.acquire()
            items = [*self._items]
            _clear(self._items)
            self._held.clear()
            self.total = 0
            self.new_data._value = False
            events = self.events
            events._data_since = None  # as events.data_gone()
            if events._events:
                events.data_gone()
            if self._paused:
                resumed, self._paused = self._paused, set()
            lock.release()
        except BaseException:
            let_go(lock)
            if resumed:
                self._resume(resumed)
            raise
        if resumed:
            self._resume(resumed)
        return items

    _take_in_full = take_present


class Storage(_Storing):
    """Stores items and gives them out; says nothing about who comes, or goes on, when."""


# ------------------------------------------------------------------------------------------------------------ leading


class Steppable:
    """Who is parked."""

    __slots__ = ("odd", "step")

    odd: bool
    step: Callable[[], Step]


class Leading:
    """A time of leading."""

    __slots__ = ("outsider", "serving", "waits")

    outsider: int
    serving: Parked | None
    waits: bool


class _Attending:
    # What the compiled Attendant needs, too.
    if TYPE_CHECKING:
        _leader: Term | None
        _parked: dict[int, Parked]
        _terms: set[Term]
        _waiting: set[Sleeping]
        _poll: Callable[[float, int], list[tuple[int, int]]]
        _pulse: Pulse
        _longest: float
        _most: int
        _dozing: bool

        @abstractmethod
        def _come_in(self) -> Term | None: ...

        @abstractmethod
        def _come_out(self, term: Term) -> None: ...

        @abstractmethod
        def _give_up(self, term: Term) -> None: ...

        @abstractmethod
        def _not_parked(self, term: Term, fd: int) -> None: ...

        @abstractmethod
        def _serve_odd(self, term: Term, parked: Parked, event: int) -> None: ...

        @abstractmethod
        def _took_long(self, term: Term, parked: Parked, outcome: Step, reading: float, calling: float) -> None: ...

        @abstractmethod
        def _stepped(self, parked: Parked, outcome: Step) -> None: ...

    def lead(self, timeout: float, ready: Callable[[], bool], /) -> bool:
        """Called by a thread that would only wait: read meanwhile, until something came or it is ``ready``.

        Args:
            timeout: seconds, at most; it may take less.
            ready: looked at before waiting.

        Returns:
            False, at once, if it may not lead, because another thread does.
        """
        if timeout > self._longest:
            timeout = self._longest
        term = self._leader
        if term is None or term.outsider != _get_ident() or term in self._terms:
            term = self._come_in()
            if term is None:
                return False
        waiting = self._waiting
        try:
            term.waits = True
            self._terms.add(term)
            if self._leader is term:
                # Whoever changes a flag from now on wakes us; so the flags are looked at after this.
                waiting.add(term)
                events = None if ready() else self._poll(timeout, self._most)
                waiting.discard(term)
                term.waits = False
                if events:
                    self._serve(term, events)
        finally:  # a signal handler may have raised, in this thread of the program's; and may do so again
            try:
                self._come_out(term)
            except BaseException:
                self._give_up(term)
                raise
        return True

    _lead_in_full = lead

    def _serve(self, term: Term, events: list[tuple[int, int]], slow: float = -1.0, /) -> None:
        """Step the connections that a selector reported.

        Args:
            term: of who leads.
            events: pairs of descriptor and event.
            slow: seconds; whoever takes longer for a callback is told of. Below 0 nobody is looked for.
        """
        pulse, parked_at = self._pulse, self._parked
        began = _now()
        for fd, event in events:
            pulse.beats += 1
            try:
                parked = parked_at[fd]
            except KeyError:
                self._not_parked(term, fd)
                continue
            term.serving = parked
            if self._leader is not term:  # it lost the lead; what it leaves is reported to the next
                break
            if event != _READABLE or parked.odd:
                self._serve_odd(term, parked, event)
                began = _now()
                continue
            step = parked.step  # in two steps, here and elsewhere: Python calls what an attribute holds faster then
            outcome = step()
            if slow >= 0:
                called, ended = parked.connection.read_at, _now()
                if called > began and ended - called > slow:
                    self._took_long(term, parked, outcome, called - began, ended - called)
                began = ended
            if outcome is not _MORE:
                self._stepped(parked, outcome)
        term.serving = None


class Attendant(_Attending):
    """Steps who is parked and was reported; says nothing about who may do so."""


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


# ------------------------------------------------------------------------------------------------------------ sending


RLock = threading.RLock
"""What :attr:`Sender.write_lock` is, and the lock of a mailbox."""


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


class Sender(_Sending):
    """Sends whole messages, one at a time; says nothing about what happens when it goes wrong."""


def sending(method: Method) -> Method:
    """A decorator of a method ``send(data, …)`` that, with nothing but bytes given, only hands them to
    ``_connection.send``, and gives their number."""
    return method


class _Posting:
    # What the compiled Poster needs, too.
    if TYPE_CHECKING:
        stream: Stream
        _closed: bool
        _lock: threading.RLock
        _sender: Sender | None
        _sending: bool
        _waiting: deque[bytes | memoryview]

        @abstractmethod
        def _try(self, frame: bytes) -> bytes | memoryview | None: ...

        @abstractmethod
        def _store(self, rest: bytes | memoryview, first: bool) -> bool: ...

        @abstractmethod
        def _stored(self, full: bool, first: bool) -> bool: ...

    def post(self, frame: bytes, /) -> bool:
        """Send a frame, now or as soon as the peer takes it. Never waits.

        Returns:
            Whether it was accepted; not, if the connection is over or too much waits already.
        """
        with self._lock:
            if self._closed:
                return False
            self.stream.messages_out += 1
            # A signal handler may post while its thread is just sending; and others may wait: then this comes after.
            first = not self._waiting and not self._sending
            rest = self._try(frame) if first else frame
            if rest is None:
                return True
            full = self._store(rest, first)
        return self._stored(full, first)

    _post_in_full = post


class Poster(_Posting):
    """Sends whole messages and never waits; says nothing about those that the system does not take at once."""


# --------------------------------------------------------------------------------------------------------- which form

COMPILED = False
"""Whether the compiled ones are in use."""

_REVISION = 2
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
    RLock, Pulse, Gate = _speedups.Lock, _speedups.Pulse, _speedups.Gate
    Steppable, Leading, Switch = _speedups.Steppable, _speedups.Leading, _speedups.Switch
    shortened, sending = _speedups.Delivery, _speedups.SendingMethod

    class Stepper(_speedups.Stepper, _Stepping):
        """Reads, and hands over."""

        __slots__ = ()

    class Sender(_speedups.Sender, _Sending):
        """Sends whole messages, one at a time."""

    class Attendant(_speedups.Attendant, _Attending):
        """Steps who is parked and was reported."""

    class Storage(_speedups.Storage, _Storing):
        """Stores items and gives them out."""

    class Poster(_speedups.Poster, _Posting):
        """Sends whole messages and never waits."""
