"""What polling reads: flags, the received items that wait to be fetched, the events that wait to be noticed.

The theory. A program of this library spins: ``while True: if server.event.new_data: …``. Left alone that burns a
core, and, worse, holds the interpreter lock while the readers need it. So a flag that reads False may wait:

* Only a thread that *spins* waits: one that read the same flag False :data:`SPIN_READS` times with no more than
  :data:`QUICK` seconds between its reads (of any flag). A frame loop that looks once per frame never gets there.
* A thread that spins and then handles what came spins on. So a pause that is no longer than :data:`BUSY` only costs
  it :data:`BUSY_COST` of its reads; a longer one, all of them.
* A wait that ended by something that came is followed by one read that does not wait: a single look after that was
  handled is no spin.
* It waits for at most :data:`LONGEST_WAIT`, then the read returns False after all: the loop's other work goes on.
* Each server and each client has a :class:`Bell`. Whatever happens there rings it, and every thread that waits for
  that bell wakes. A thread that polls several objects waits for all their bells at once.
* A wake-up cannot be lost: the reader of the flag first hangs itself on the bells and then looks at the flags once
  more; whoever changes a flag first sets it and then looks who hangs on the bell. One of them sees the other.
* Threads of this package never wait there (a callback that reads a flag must not stop its connection), nor does
  anybody once the object is closed.

``await_event`` and ``recv_data`` wait on the same bells, through :meth:`Bell.wait_for`.

Locks: ``Mailbox._lock`` protects the items, their accounts and the queue of events, and is never held across I/O or
user code. Bells and flags have none: their steps are single operations on a set and on an attribute.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Protocol, SupportsIndex, TypeVar

from .events import EXCEPTION, RECEIVED, Event, ReceivedBytes, ReceivedItem
from .hotpath import RLock, Storage, Switch
from .timing import HEED, Deadline

QUICK = 50e-6
"""Seconds: two False reads of a thread this close together are a spin. Shorter than any frame that draws something."""
SPIN_READS = 32
"""So many quick False reads of one flag, and the next waits. Together they take some ten microseconds."""
BUSY = 0.001
"""Seconds in which a thread that spins handles what came. Shorter than the pause of any frame loop."""
BUSY_COST = 4
"""Quick reads that it has to make up for that."""
LONGEST_WAIT = 0.05
"""Seconds that a False read takes at most."""
LOOKS = 8
"""So often a flag that is up keeps a thread from waiting on another one that it polls."""

CLIENT_MARK = 4 * 1024 * 1024
"""Bytes of unfetched items of one client beyond which reading from it pauses."""
TOTAL_MARK = 32 * 1024 * 1024
"""Bytes of unfetched items of all clients of a server beyond which reading pauses."""
ITEM_COST = 320
"""Bytes that an item takes beside its content, so that many small ones count as what they are."""

SOURCE_COST = 8192
"""Bytes that a client takes as long as items of it wait, counted in the total: it may have left long ago."""

EVENTS_KEPT = 1000
"""How many pending events are kept; the oldest connects and disconnects go first."""

Found = TypeVar("Found")

_now = time.perf_counter


# --------------------------------------------------------------------------------------------- bells and flags


class _Poller:
    """What is known of a thread that polls."""

    __slots__ = ("asleep", "gate", "last_read", "ours", "reads", "served", "told")

    def __init__(self) -> None:
        self.asleep = False  # it hangs on some bells
        self.ours = False  # a thread of this package: it never waits in a flag
        self.last_read = 0.0  # time of the latest False read
        self.served: Flag | None = None  # the one whose wait ended by something that came
        self.reads: dict[Flag, int] = {}  # False reads by flag since it began to spin, see pause()
        self.told: dict[Flag, tuple[int, int]] = {}  # which rise of a flag cut its waits short, and how often
        self.gate = threading.Lock()  # what the thread sleeps on; locked all the time but for a wake-up
        self.gate.acquire()

    def pause(self, seconds: float) -> None:
        """It did something else than reading flags for so long."""
        if seconds > BUSY:
            self.reads.clear()
            self.told.clear()
            return
        for flag, count in list(self.reads.items()):
            if count > BUSY_COST:
                self.reads[flag] = count - BUSY_COST
            else:
                self.reads.pop(flag, None)
                self.told.pop(flag, None)

    def has_news(self) -> bool:
        """Whether a flag that it polls is up, so that it must not wait but look at it.

        A flag that it leaves up (since it polls only another one by now) counts for its first :data:`LOOKS` times.
        """
        for flag in list(self.reads):  # a signal handler may read flags, too
            if flag._bell.closed:
                return True
            if flag._value:
                rise, times = self.told.get(flag, (0, 0))
                if rise != flag._rises or times < LOOKS:
                    return True
        return False

    def note_news(self) -> None:
        """It did not wait, or not for long, because of the flags that are up now."""
        for flag in list(self.reads):
            if flag._value:
                rise, times = self.told.get(flag, (0, 0))
                self.told[flag] = (flag._rises, times + 1 if rise == flag._rises else 1)

    def sleep(self, bells: Collection[Bell], timeout: float, ready: Callable[[], bool]) -> None:
        """Sleep until a bell rings, unless it is ``ready`` already, for ``timeout`` seconds at most."""
        interrupted, self.asleep = self.asleep, True
        self.gate.acquire(blocking=False)  # forget a ring that came after the last sleep
        for bell in bells:
            bell.waiting.add(self.gate)
        try:
            for bell in bells:
                if (leader := bell.leader) is not None:
                    leader.step_aside()
            if not ready():
                self.gate.acquire(timeout=timeout)
        finally:
            self.asleep = interrupted
            for bell in bells:
                bell.waiting.discard(self.gate)
            if interrupted:  # this is a signal handler: whom it interrupted has to look, and hang itself up, again
                with contextlib.suppress(RuntimeError):
                    self.gate.release()


_threads = threading.local()


def _this_thread() -> _Poller:
    try:
        poller: _Poller = _threads.poller
    except AttributeError:
        poller = _threads.poller = _Poller()
    return poller


def mark_own_thread() -> None:
    """Called by threads of this package when they begin: flags never make them wait."""
    _this_thread().ours = True


def is_own_thread() -> bool:
    """Whether the calling thread is one of this package."""
    return _this_thread().ours


class Sleeping(Hashable, Protocol):
    """How a thread that hangs on a bell sleeps; a locked ``threading.Lock``, for one."""

    def release(self) -> None:
        """Wake it. RuntimeError: somebody else did."""


class Leader(Protocol):
    """Lets a thread that would only wait read from the connections meanwhile (see leader.py)."""

    def lead(self, timeout: float, ready: Callable[[], bool]) -> bool:
        """Read until something came, for ``timeout`` seconds at most; False, at once, if another thread does."""

    def step_aside(self) -> None:
        """Leave it to others, if the calling thread is the one that leads: it is about to wait elsewhere."""


class Bell:
    """Wakes the threads that wait for something to happen at one server or client."""

    __slots__ = ("closed", "leader", "waiting")

    def __init__(self) -> None:
        self.closed = False
        self.waiting: set[Sleeping] = set()
        self.leader: Leader | None = None

    def ring(self) -> None:
        """Wake everybody who waits. Cheap when nobody does."""
        if self.waiting:
            for gate in self.waiting.copy():  # in one step, whoever comes or goes meanwhile
                try:
                    gate.release()
                except RuntimeError:
                    pass  # somebody else woke it in this moment

    def close(self) -> None:
        """Wake everybody, and never let anybody wait again (until :meth:`open`)."""
        self.closed = True
        self.ring()

    def open(self) -> None:
        """Let threads wait (again)."""
        self.closed = False

    def wait_for(self, attempt: Callable[[], Found | None], timeout: float | None) -> Found | None:
        """Try until ``attempt()`` gives something, at every ring.

        Args:
            attempt: gives what is waited for, or None.
            timeout: seconds; None is for ever.

        Returns:
            What the attempt gave; None when the time is over or the bell was closed.
        """
        found = attempt()
        if found is not None or self.closed or timeout == 0:
            return found
        deadline = None if timeout is None else Deadline(timeout, time.monotonic())
        left: float | None = None

        def ready() -> bool:
            nonlocal found
            found = attempt()
            return found is not None or self.closed

        while True:
            if deadline is not None and (left := deadline.left(time.monotonic())) == 0:
                return found
            self.wait(HEED if left is None else min(left, HEED), ready)
            if found is not None or ready():
                return found

    def wait(self, timeout: float, ready: Callable[[], bool]) -> None:
        """Wait once: until somebody rings, or for ``timeout`` seconds at most; not if it is ``ready``."""
        leader = self.leader  # once: close() takes it away
        if leader is None or not leader.lead(timeout, ready):
            _this_thread().sleep((self,), timeout, ready)


class Flag(Switch):
    """A boolean that many threads poll. Reading it costs nothing while nothing happens."""

    __slots__ = ("_bell", "hint")

    def __init__(self, bell: Bell, value: bool = False) -> None:
        self.hint: Callable[[], None] | None = None  # called by threads that spin: see hints.py
        self._bell = bell
        self._rises = 0  # how often it went up
        self._value = value

    def read(self) -> bool:
        """The value. A thread that spins on False sleeps here, up to 50 ms, until something happens."""
        return self._value or self.idle()

    def set(self) -> None:
        """Make it True and wake who waits."""
        self.rise()
        self._bell.ring()

    def rise(self) -> None:
        """Make it True; the caller rings."""
        if not self._value:
            self._rises += 1
            self._value = True

    def clear(self) -> None:
        """Make it False."""
        self._value = False

    def assign(self, value: object) -> None:
        """Set or clear."""
        if value:
            self.set()
        else:
            self.clear()

    def idle(self) -> bool:
        """Count a read that found nothing; wait if this thread spins. Returns the value then."""
        try:
            thread: _Poller = _threads.poller
        except AttributeError:
            thread = _this_thread()
        if thread.served is self:  # one look more, after what came was handled, is no spin yet
            thread.served = None
            return self._value
        if thread.ours or self._bell.closed:
            return self._value
        now = _now()
        pause = now - thread.last_read
        if pause > QUICK:
            thread.pause(pause)
        reads = thread.reads
        if (count := reads.get(self, 0)) < SPIN_READS + BUSY_COST:
            reads[self] = count + 1
        if count >= SPIN_READS:
            self._wait(thread)
            if self._value:
                thread.served = self
            now = _now()
        thread.last_read = now
        return self._value

    def _is_settled(self) -> bool:
        return self._value or self._bell.closed

    def _wait(self, thread: _Poller) -> None:
        if self.hint is not None:
            self.hint()
        if len(thread.reads) == 1:  # by far the most frequent case, worth its own way
            self._bell.wait(LONGEST_WAIT, self._is_settled)
            return
        for flag in [flag for flag in list(thread.reads) if flag._bell.closed]:
            thread.reads.pop(flag, None)  # nothing comes from there any more
        if not thread.has_news():
            bells = {flag._bell for flag in list(thread.reads)}
            if len(bells) == 1:
                bells.pop().wait(LONGEST_WAIT, thread.has_news)
            else:
                thread.sleep(bells, LONGEST_WAIT, thread.has_news)
        thread.note_news()


# ------------------------------------------------------------------------------------------------------ events


class EventQueue:
    """Events that nobody awaited yet, oldest first.

    Received data and exceptions stand in it at most once each, since who awaits gets all of them together; so
    nothing that matters is lost when the queue is bounded.
    """

    def __init__(self, bell: Bell | None = None, lock: threading.RLock | None = None) -> None:
        self._bell = Bell() if bell is None else bell
        # Protects what follows; never held across I/O or user code. A mailbox and its events have one in common.
        self._lock = RLock() if lock is None else lock
        self._events: list[Event] = []
        self._data_since: float | None = None  # a pending RECEIVED, newest of all; made an Event when one is asked for

    def data_gone(self) -> None:
        """All received data was fetched. The caller holds the lock."""
        self._data_since = None
        if self._events:
            self._events[:] = [event for event in self._events if event != RECEIVED]

    def _settle(self) -> list[Event]:
        since, self._data_since = self._data_since, None
        if since is not None and RECEIVED not in self._events:
            self._events.append(Event(RECEIVED, datetime.fromtimestamp(since)))
        return self._events

    @property
    def events(self) -> list[Event]:
        """The pending events (a copy)."""
        with self._lock:
            return list(self._settle())

    def happened(self, event: Event) -> None:
        """Append an event and wake who awaits one.

        Raises:
            TypeError: it is no :class:`~.events.Event`.
        """
        if not isinstance(event, Event):
            raise TypeError(f"happened() takes an Event, not {type(event).__name__}; make one with Event({event!r})")
        with self._lock:
            self._append(event)
        self._bell.ring()

    def happened_once(self, event: Event) -> None:
        """Append an event, with the time of now, unless one of that name is pending."""
        with self._lock:
            if event not in self._settle():
                self._append(event.copy())
        self._bell.ring()

    def _append(self, event: Event) -> None:
        events = self._settle()
        events.append(event)
        if len(events) > EVENTS_KEPT:
            del events[next((i for i, old in enumerate(events) if old not in (RECEIVED, EXCEPTION)), 0)]

    def first_event(self, pop: bool = True) -> Event | None:
        """The oldest event, taken out of the queue if ``pop``; None if there is none."""
        with self._lock:
            events = self._settle()
            if not events:
                return None
            return events.pop(0) if pop else events[0]

    def clear(self) -> None:
        """Forget all events."""
        with self._lock:
            self._settle().clear()

    def clear_name(self, name: str) -> None:
        """Forget all events of that name."""
        with self._lock:
            events = self._settle()
            events[:] = [event for event in events if event != name]

    def remove(self, event: Event) -> None:
        """Forget the oldest event of that name."""
        with self._lock:
            self._settle().remove(event)

    def pop(self, index: int) -> Event:
        """Take out the event at that place."""
        with self._lock:
            return self._settle().pop(index)

    def await_event(self, timeout: float | None = None) -> bool:
        """Wait until an event is pending. ``timeout`` is in milliseconds; None is for ever."""
        seconds = None if timeout is None else timeout / 1000
        return self._bell.wait_for(lambda: self.first_event(pop=False), seconds) is not None

    def take(self, timeout: float) -> Event | None:
        """Wait for an event and take it out; None when the time is over, or the bell was closed.

        Args:
            timeout: milliseconds; 0 is for ever.

        Raises:
            TypeError, ValueError: it is no such number.
        """
        if not isinstance(timeout, (int, float)):
            raise TypeError(f"the timeout must be a number of milliseconds (0 waits for ever), not {timeout!r}")
        if timeout < 0:
            raise ValueError(f"the timeout must be 0 (wait for ever) or more milliseconds, not {timeout}")
        return self._bell.wait_for(self.first_event, timeout / 1000 or None)

    def __len__(self) -> int:
        return len(self.events)

    def __iter__(self) -> Iterator[Event]:
        return iter(self.events)

    def __contains__(self, event: object) -> bool:
        return event in self.events


# ------------------------------------------------------------------------------------------------------- items

Item = ReceivedItem | ReceivedBytes


class Pausable(Hashable, Protocol):
    """Where items come from: something that stopped reading when the mailbox was full, and can go on."""

    served_by: int
    """The number of the thread that stores them."""

    def resume(self) -> None:
        """There is room again."""


class Mailbox(Storage):
    """The received items that nobody fetched yet, with their flag and their limits.

    Args:
        bell: the owner's bell.
        client_mark: bytes of one source's items that make it pause.
        total_mark: bytes of all items that make every source pause.
    """

    def __init__(self, bell: Bell, client_mark: int = CLIENT_MARK, total_mark: int = TOTAL_MARK) -> None:
        self.bell = bell
        self._waiting = bell.waiting
        self._lock = RLock()  # protects what follows; never held across I/O or user code
        self.new_data = Flag(bell)
        self.events = EventQueue(bell, self._lock)
        self.client_mark = client_mark
        self.total_mark = total_mark
        self._items = ReceivedList(self)
        self._held = {}  # bytes by source
        self.total = 0
        """Bytes that all items take, with what they cost beside their content."""
        self._paused = set()
        self._item_cost, self._source_cost = ITEM_COST, SOURCE_COST
        self.straight = None
        """Set by a thread that waits, and will fetch all there is: its number, and where it puts that. What it reads
        itself meanwhile goes there straight away, unless older items wait here."""

    def tell_again(self) -> None:
        """Make known what waits: an exception of a signal handler may have ended :meth:`put` before it did that."""
        with self._lock:
            if self._items:
                self.events._data_since = self._items[-1]._stamp
                self.new_data.rise()
        self.bell.ring()

    def has_room(self, source: Pausable) -> bool:
        """Whether nothing of the source would have to wait."""
        return self.total < self.total_mark and self._held.get(source, 0) < self.client_mark

    def is_paused(self, source: Pausable) -> bool:
        """Whether the source still has to wait."""
        return source in self._paused

    def ends_with(self, source: Pausable, data: bytes) -> bool:
        """Whether the newest item of the source, if any is there, is this."""
        straight = self.straight
        with self._lock:
            stored = [*(() if straight is None else straight[1]), *self._items]
        newest = next((item for item in reversed(stored) if getattr(item, "source", None) is source), None)
        return newest is not None and newest.response == data

    def resume_all(self) -> None:
        """Let everybody go on, however much is there."""
        with self._lock:
            resumed, self._paused = self._paused, set()
        self._resume(resumed)

    def forget(self, source: Pausable) -> None:
        """The source ended: it will not go on. Its items stay."""
        with self._lock:
            self._paused.discard(source)

    def take_all(self) -> list[Item]:
        """Take everything out and lower the flag; an empty list counts as a False read of the flag."""
        if not self._items:
            self.new_data.idle()
        return self.take_present()

    def depth(self) -> tuple[int, int]:
        """How many items wait, and how many bytes are in them."""
        with self._lock:
            items = len(self._items)
            content = self.total - items * ITEM_COST - len(self._held) * SOURCE_COST
        return items, max(0, content)  # the program may have put items into the list that are on nobody's account

    def take_first(self, source: Pausable, size: int | None = None) -> bytes | None:
        """Take the oldest item of one source, or its first ``size`` bytes; None if there is none."""
        with self._lock:
            place = next((place for place, item in enumerate(self._items) if item.source is source), None)
            if place is None:
                return None
            item = self._items[place]
            if size is not None and len(item.response) > size:
                rest = self._items[place] = item.without(size)
                rest.source = source
                self._release(source, size)
                resumed = self._let_go_on()
            else:
                resumed = self._take_out([place])
        self._resume(resumed)
        return bytes(item.response[:size])

    def take_at(self, index: SupportsIndex) -> Item:
        """Take out the item at this place.

        Raises:
            IndexError: there is none.
        """
        with self._lock:
            place = range(len(self._items))[index]
            item = self._items[place]
            resumed = self._take_out([place])
        self._resume(resumed)
        return item

    def take(self, choose: Callable[[], Iterable[int]]) -> None:
        """Take out the items at the places that ``choose()`` gives; it is called while nothing can change."""
        with self._lock:
            resumed = self._take_out(choose())
        self._resume(resumed)

    def _take_out(self, places: Iterable[int]) -> set[Pausable]:
        # Under the lock. Gives who may go on; they are told when it is released.
        for place in sorted(places, reverse=True):
            item = list.pop(self._items, place)
            self._release(item.source, len(item.response) + ITEM_COST)
        if not self._items:
            self.new_data.clear()
            self.events.data_gone()
        return self._let_go_on()

    def _let_go_on(self) -> set[Pausable]:
        resumed = {source for source in self._paused if self.has_room(source)}
        self._paused -= resumed
        return resumed

    def _resume(self, sources: Collection[Pausable]) -> None:
        try:
            for source in sources:
                source.resume()
        except BaseException:  # a signal handler raised: whom nobody resumes now stays paused for ever
            for source in sources:
                source.resume()
            raise

    def _release(self, source: Hashable, cost: int) -> None:
        held = self._held.get(source, 0)
        cost = min(cost, held)  # the program may have put items into the list that are on nobody's account
        self.total -= cost
        if held > cost:
            self._held[source] = held - cost
        elif held:
            self.total -= SOURCE_COST
            del self._held[source]

    @property
    def contents(self) -> Sequence[Item]:
        """The live list, only to be looked at. Never waits."""
        return self._items

    @property
    def items(self) -> ReceivedList:
        """The live list; reading it empty counts as a False read of the flag."""
        if not self._items:
            self.new_data.idle()
        return self._items

    def replace(self, items: Iterable[Item]) -> None:
        """What an assignment to ``recved_data`` does: keep those of ``items`` that are still here."""
        wanted = {id(item) for item in items}
        self.take(lambda: [place for place, item in enumerate(self._items) if id(item) not in wanted])


class ReceivedList(list[Item]):
    """``recved_data``: the items that wait. Taking one out here keeps the mailbox's accounts right."""

    def __init__(self, mailbox: Mailbox) -> None:
        super().__init__()
        self._mailbox = mailbox

    def pop(self, index: SupportsIndex = -1) -> Item:
        """Take out the item at that place."""
        return self._mailbox.take_at(index)

    def remove(self, item: Item) -> None:
        """Take out the first item that equals this."""
        self._mailbox.take(lambda: [self.index(item)])

    def clear(self) -> None:
        """Take out all items."""
        self._mailbox.take_all()

    def copy(self) -> list[Item]:
        """The items in a plain list."""
        return list(self)

    def __delitem__(self, index: SupportsIndex | slice) -> None:
        def places() -> Iterable[int]:
            chosen = range(len(self))[index]
            return chosen if isinstance(chosen, range) else [chosen]

        self._mailbox.take(places)

    def __reduce__(self) -> tuple[type[list[Item]], tuple[list[Item]]]:
        return list, (list(self),)
