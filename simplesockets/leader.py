"""One thread reads for many clients, as long as that delays nobody.

Each client has a thread. But threads that take turns cost more than what they do: with sixteen busy clients the
interpreter lock is passed on at every system call, and a message that is stored for a poller costs a hop from one
thread to another. So a connection whose items are dealt with quickly is *parked*: its thread sleeps, and one selector
watches the sockets of all that are parked. Whoever holds the *lead* waits for the selector and steps what it reports:

* where the program polls, a thread that found nothing to fetch and would only wait (``Flag.idle``, ``await_event``,
  ``recv()``, all through ``Bell.leader``); so there is no hop at all;
* where it has callbacks, a *worker*.

One of the parked threads is the *stand-by*. It runs no code of the program's, and looks every :data:`AWAY` seconds
whether things go on. If nobody led in that time (a program that polls is busy, or looks once per frame), it leads
itself, until a poller asks for the lead. If the leader has been at the same callback all that time, another worker
gets the lead, and the slow one leaves when it returns. While nothing happens the stand-by sleeps, too: the leader
rouses it.

A connection gets *out*, that is, its own thread goes on with it, when its callback took longer than :data:`SLOW`
twice in short succession (it stays out for a while: see ThreadEngine), when it ended, and when the lot is closed. Once
is no proof: where more threads want to run than there are cores, the system interrupts any of them for milliseconds,
and each client that is out makes that worse for the others. So a client's callbacks run one at a time and in order, in
its own thread if they are slow, in a shared one if not, and slow ones delay others twice, by some milliseconds at most.

What keeps that true: nobody steps a connection without its *claim*, a lock that is only ever tried. The lead is no
lock, since it has to be taken from a thread that is stuck; for an instant two threads may believe that they lead, and
then the claims keep them apart. A leader that finds a connection claimed *mutes* its socket and then tries once more;
who holds the claim lets go of it and then looks whether it was muted; so one of them unmutes it again.
``evict`` goes by the same rule.

Only where the system has epoll and eventfd. Elsewhere nothing is parked.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections.abc import Callable

from .connection import Connection, Step
from .mailbox import LONGEST_WAIT, Bell, is_mine, mark_own_thread

AVAILABLE = hasattr(select, "epoll") and hasattr(os, "eventfd")

AWAY = 0.005
"""Seconds without progress after which the stand-by does something about it."""
SLOW = 0.0005
"""Seconds: a callback that takes longer twice in short succession runs in its client's own thread from then on."""
CONTENTION = 4
"""How many times as long as reading a callback has to take to be slow. Reading does not wait; if it takes long all the
same, other threads keep the interpreter busy, and a callback that sends takes long for the same reason."""
PATIENCE = 8
"""Quick callbacks that make up for a slow one. Any may seem slow once, when the system gave the core to others."""
SPARE = 1.0
"""Seconds that a worker without a lead waits for another one."""

_MORE = Step.MORE  # looked up once
_BATCH = 256  # connections that one look at the selector reports at most

if AVAILABLE:
    _IN, _LOOK = select.EPOLLIN, select.EPOLLIN | select.EPOLLOUT
    _SOMETHING = select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR


class _Parked:
    """A connection whose thread sleeps here. The connection knows it as its ``waker``."""

    __slots__ = ("claim", "connection", "evict", "fd", "gate", "lot", "muted", "outcome", "tried")

    def __init__(self, lot: ParkingLot, connection: Connection) -> None:
        self.lot = lot
        self.connection = connection
        self.fd = connection.stream.socket.fileno()
        self.claim = threading.RLock()  # who steps the connection; only tried, never waited for
        self.muted = False  # the selector does not know its socket while somebody holds the claim for long
        self.evict = False  # let it out as soon as possible
        self.outcome: Step | None = None  # why it is out
        self.tried = 0  # how much of the PATIENCE with it is used up
        self.gate = threading.Lock()  # what its thread sleeps on
        self.gate.acquire()

    def wake(self) -> None:
        """There is room for its data again, or it is closing: have it looked at."""
        self.lot.listen_to(self, _LOOK)

    def is_slow(self, reading: float, calling: float) -> bool:
        """Told how many seconds reading, and the callback, took in each step: whether it has to go on in its own
        thread."""
        if calling > SLOW and calling > CONTENTION * reading:
            self.tried += PATIENCE
            return self.tried > PATIENCE
        if self.tried:
            self.tried -= 1
        return False

    def rouse(self) -> None:
        """Wake its thread."""
        with contextlib.suppress(RuntimeError):  # it was roused already
            self.gate.release()


class _Term:
    """One time of leading. ``outsider``: by a thread of the program's. ``works``: by a worker; nobody else may run
    callbacks."""

    __slots__ = ("outsider", "serving", "works")

    def __init__(self, *, outsider: bool = False, works: bool = False) -> None:
        self.outsider = outsider
        self.works = works
        self.serving: _Parked | None = None  # whom it claims, or just tries to


class ParkingLot:
    """The parked connections of one server or client, and the lead.

    Args:
        name: begins the names of the workers.
        bell: of that server or client.
    """

    def __init__(self, name: str, bell: Bell) -> None:
        self.polled = True
        """Whether items go to the mailbox and nowhere else, so that any thread may lead."""
        self.waiting = False  # the leader waits in the selector, and has to be woken
        self._name = name
        self._bell = bell
        self._lock = threading.RLock()  # protects who is parked, leads, stands by; never held across I/O or user code
        self._open = False
        self._closed = False
        self._parked: dict[int, _Parked] = {}  # by descriptor
        self._pending: list[tuple[int, int]] = []  # reported by the selector, not served yet
        self._leader: _Term | None = None
        self._waiters: set[_Term] = set()  # who is in the selector; for an instant that may be two
        self._asked = False  # a poller wants the lead
        self._progress = 0  # rises with all that a leader does
        self._stand_by: _Parked | None = None
        self._dozing = False  # the stand-by sleeps until it is roused
        self._workers: set[threading.Thread] = set()
        self._vacancies = threading.Condition(self._lock)  # workers without a lead wait here
        self._vacant: _Term | None = None  # a lead that waits for a worker
        self._spare = 0  # how many workers wait

    # -------------------------------------------------------------------------------------------------- parking

    def park(self, connection: Connection) -> Step:
        """Called by a connection's thread: sleep while others read. Returns why the thread has to go on itself: the
        outcome of a step, or MORE to read."""
        parked = _Parked(self, connection)
        with self._lock:
            if not self._enter(parked):
                return Step.MORE
        if connection.closing:
            parked.wake()
        while parked.outcome is None:
            if self._stand_by is parked:
                self._watch(parked)
            else:
                parked.gate.acquire()
        connection.share(False)
        return parked.outcome

    def _enter(self, parked: _Parked) -> bool:
        if not parked.connection.stream.parkable or (not self._open and not self._set_up()):
            return False
        if parked.fd < 0 or parked.fd in self._parked or parked.connection.stream.has_timeout():
            return False  # the program closed the descriptor, this one or another of that number, or set a timeout
        try:
            self._epoll.register(parked.fd, _IN)
        except OSError:  # the system watches no more
            return False
        parked.connection.share(True)
        parked.connection.waker = parked
        self._parked[parked.fd] = parked
        if self._stand_by is None:
            self._stand_by = parked
        return True

    def _set_up(self) -> bool:
        if not AVAILABLE or self._closed:
            return False
        try:
            self._epoll = select.epoll()
            self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        except OSError:  # no descriptors left: it works without
            return False
        self._epoll.register(self._event, _IN)
        self._open = True
        self._bell.leader = self
        return True

    def _let_out(self, parked: _Parked, outcome: Step) -> None:
        # With its claim, which nobody gets any more.
        if parked.outcome is not None:  # in a signal handler, just before
            return
        with self._lock:
            if self._parked.get(parked.fd) is parked:
                del self._parked[parked.fd]
                with contextlib.suppress(OSError, ValueError):  # the program closed the descriptor
                    self._epoll.unregister(parked.fd)
            parked.connection.waker = None
            stood_by = self._stand_by is parked
            if stood_by:
                self._dozing = False
                self._stand_by = next(iter(self._parked.values()), None)
            if self._stand_by is not None:
                self._stand_by.rouse()
        parked.outcome = outcome
        parked.rouse()
        if stood_by:
            self.wake()  # it may be the one that leads

    def evict(self, parked: _Parked) -> None:
        """Let a connection out, at once or as soon as it is not being stepped any more."""
        parked.evict = True
        # Who has the claim already is in the middle of a step, below on this very stack, and sees to it afterwards.
        if not is_mine(parked.claim) and parked.claim.acquire(blocking=False):
            self._let_out(parked, Step.MORE)

    def listen_to(self, parked: _Parked, events: int) -> None:
        """Have the selector report these events of a connection, unless it is muted."""
        with self._lock, contextlib.suppress(OSError, ValueError):
            if self._parked.get(parked.fd) is parked and not parked.muted:
                self._epoll.modify(parked.fd, events)

    def close(self) -> None:
        """Let everybody out, and park nobody any more. Never waits. Any thread, and a signal handler, may call it."""
        with self._lock:
            self._closed = True
            if self._bell.leader is self:  # else the next engine's took its place
                self._bell.leader = None
            parked = list(self._parked.values())
            self._vacancies.notify_all()
        for each in parked:
            self.evict(each)
        self.wake()
        self._tidy()

    def workers(self) -> list[threading.Thread]:
        """The worker threads."""
        with self._lock:
            return list(self._workers)

    def _tidy(self) -> None:
        # The last one out closes the selector; nobody may be waiting in it then.
        with self._lock:
            if self._open and self._closed and not (self._leader or self._parked or self._waiters):
                self._open = False
                self._epoll.close()
                os.close(self._event)

    # -------------------------------------------------------------------------------------------------- leading

    def wake(self) -> None:
        """End the leader's waiting."""
        with self._lock, contextlib.suppress(OSError):
            if self._open:
                os.eventfd_write(self._event, 1)

    def lead(self, timeout: float, ready: Callable[[], bool]) -> bool:
        """Called by a thread that would only wait: read meanwhile, until something came or it is ``ready``.

        Args:
            timeout: seconds, at most; -1 is for ever.
            ready: looked at before waiting.

        Returns:
            False, at once, if it may not lead, because another thread does.
        """
        if not self.polled:
            return False
        if not 0 <= timeout < LONGEST_WAIT:
            timeout = LONGEST_WAIT
        term = _Term(outsider=True)
        with self._lock:
            if self._leader is not None or not self._open or self._closed:
                self._ask()
                return False
            self._leader = term
            self._asked = False
            self._progress += 1
            if not self._pending:  # it begins to wait, see _begin_to_wait()
                self._waiters.add(term)
                self.waiting = True
        try:
            if self._pending or self._wait(term, timeout, ready):
                self._serve(term)
        finally:
            if term.serving is not None:
                self._recover(term.serving)
            self._leave(term)
        return True

    def _recover(self, parked: _Parked) -> None:
        # A signal handler may raise between any two lines of a thread of the program's, Ctrl-C above all. Then the
        # connection that was being served goes on in its own thread.
        if parked.outcome is not None:
            parked.rouse()
        elif is_mine(parked.claim):
            parked.claim.release()
            self.evict(parked)
        elif parked.claim.acquire(blocking=False):
            self._unclaim(parked)  # it may have been muted just before

    def _ask(self) -> None:
        leader = self._leader
        if leader is not None and not leader.outsider:  # who is no poller gives way
            self._asked = True
            self.wake()

    def _leave(self, term: _Term) -> None:
        with self._lock:
            self._waiters.discard(term)
            if self._leader is term:
                self._leader = None
                self.waiting = False
        if self._dozing:
            self._rouse_stand_by()
        if self._closed:
            self._tidy()

    def _turn(self, term: _Term) -> None:
        # For workers and the stand-by: wait as long as nobody asks for the lead, and serve what is reported.
        if self._pending or (self._begin_to_wait(term) and self._wait(term, -1, self._is_asked)):
            self._serve(term)

    def _begin_to_wait(self, term: _Term) -> bool:
        # Whoever changes a flag from now on wakes us; so the flags are looked at after this. Who lost the lead
        # meanwhile must not say that anybody waits.
        with self._lock:
            if self._leader is not term:
                return False
            self._waiters.add(term)
            self.waiting = True
            return True

    def _wait(self, term: _Term, timeout: float, ready: Callable[[], bool]) -> bool:
        # Wait for the selector, once. Gives whether to serve what it reported.
        try:
            if ready() or self._closed:
                return False
            self._pending = self._epoll.poll(timeout, _BATCH)
        finally:
            if self._leader is term:  # nobody takes the lead from who waits, so this needs no lock
                self.waiting = False
            self._waiters.discard(term)
        self._progress += 1
        if self._dozing:
            self._rouse_stand_by()
        return True

    def _serve(self, term: _Term) -> None:
        pending = self._pending
        while pending and self._leader is term and (self.polled or term.works):
            try:
                fd, event = pending.pop()
            except IndexError:  # another thread got the lead, and the last one, in this moment
                return
            self._progress += 1
            parked = self._parked.get(fd)
            if parked is None:
                self._not_parked(fd)
                continue
            term.serving = parked
            if parked.claim.acquire(blocking=False):
                self._step(parked, event)
            else:
                self._mute(parked)
            term.serving = None

    def _not_parked(self, fd: int) -> None:
        with self._lock, contextlib.suppress(OSError, ValueError):
            if fd == self._event:
                if not self._closed:  # else it stays readable, to wake everybody
                    os.eventfd_read(fd)
            elif fd not in self._parked:
                self._epoll.unregister(fd)

    def _mute(self, parked: _Parked) -> None:
        # The selector reports a hang-up whether one wants to hear of it or not, so it has to forget the socket.
        with self._lock, contextlib.suppress(OSError, ValueError):
            if self._parked.get(parked.fd) is parked and not parked.muted:
                parked.muted = True
                self._epoll.unregister(parked.fd)
        if parked.claim.acquire(blocking=False):
            self._unclaim(parked)

    def _unmute(self, parked: _Parked) -> None:
        with self._lock, contextlib.suppress(OSError, ValueError):
            if parked.muted and self._parked.get(parked.fd) is parked:
                parked.muted = False
                self._epoll.register(parked.fd, _LOOK if parked.connection.closing else _IN)

    def _step(self, parked: _Parked, event: int) -> None:
        # With the claim.
        connection = parked.connection
        if not event & _SOMETHING:  # wake() made this one be reported
            self.listen_to(parked, _IN)
            if not connection.closing:
                self._unclaim(parked)
                return
        began = 0.0 if self.polled else time.perf_counter()
        step = connection.step()
        if step is _MORE:
            if began:
                between = connection.read_at
                if parked.is_slow(between - began, time.perf_counter() - between):
                    self._let_out(parked, step)
                    return
        elif step is Step.PAUSED:
            self.listen_to(parked, 0)  # a hang-up is reported all the same
            if connection.closing or not connection.mailbox.is_paused(connection):
                self.listen_to(parked, _LOOK)  # it was woken before it was told to listen to nothing
        elif step is not Step.NOTHING:
            self._let_out(parked, step)
            return
        parked.claim.release()
        if parked.muted or parked.evict:
            self._unclaimed(parked)

    def _unclaim(self, parked: _Parked) -> None:
        parked.claim.release()
        self._unclaimed(parked)

    def _unclaimed(self, parked: _Parked) -> None:
        # Whoever let go of a claim sees to what others left to it.
        if parked.muted:
            self._unmute(parked)
        if parked.evict and parked.claim.acquire(blocking=False):
            self._let_out(parked, Step.MORE)

    # ---------------------------------------------------------------------------------------------- the stand-by

    def _watch(self, parked: _Parked) -> None:
        seen = self._progress if self._leader is None else -1
        while parked.outcome is None and self._stand_by is parked:
            if self._progress != seen:
                seen = self._progress
                parked.gate.acquire(timeout=AWAY)
            elif self.waiting:
                self._doze(parked, seen)
            elif self.polled:
                self._lead_meanwhile(parked)
            else:
                self._employ()

    def _doze(self, parked: _Parked, seen: int) -> None:
        # A leader ends its waiting and then looks at _dozing; so here it is the other way round.
        self._dozing = True
        if self.waiting and self._progress == seen and parked.outcome is None:
            parked.gate.acquire()
        with self._lock:
            if self._stand_by is parked:  # else the next one dozes, perhaps
                self._dozing = False

    def _rouse_stand_by(self) -> None:
        with self._lock:
            self._dozing = False
            if self._stand_by is not None:
                self._stand_by.rouse()

    def _lead_meanwhile(self, parked: _Parked) -> None:
        term = _Term()
        with self._lock:
            if self.waiting:  # it went on in this moment
                return
            self._leader = term  # from whoever had it: nothing went on for a while
            self._asked = False
        try:
            while parked.outcome is None and self.polled and self._may_go_on(term):
                self._turn(term)
        finally:
            self._leave(term)
        self._progress += 1  # look on for a while before leading again
        self._bell.ring()  # whoever asked: now it is free

    def _is_asked(self) -> bool:
        return self._asked

    def _may_go_on(self, term: _Term) -> bool:
        return self._leader is term and bool(self._parked) and not self._closed and not (self._asked and self.polled)

    # --------------------------------------------------------------------------------------------------- workers

    def _employ(self) -> None:
        # The leader is stuck in a callback, or there is none: give the lead to a worker.
        with self._lock:
            if self._closed or self.waiting:
                return
            term = self._leader = self._vacant = _Term(works=True)
            self._asked = False
            self._progress += 1
            if self._spare:
                self._vacancies.notify()
                return
            number = len(self._workers) + 1
            worker = threading.Thread(target=self._work, name=f"{self._name}-worker-{number}", daemon=True)
            self._workers.add(worker)
        try:
            worker.start()
        except RuntimeError:  # no more threads: the next look will tell
            with self._lock:
                self._workers.discard(worker)
                self._leader = self._vacant = None if self._leader is term else self._leader

    def _work(self) -> None:
        mark_own_thread()
        try:
            while (term := self._next_term()) is not None:
                try:
                    while self._may_go_on(term):
                        self._turn(term)
                finally:
                    self._leave(term)
                if self.polled:
                    self._bell.ring()  # whoever asked for the lead: now it is free
        finally:
            with self._lock:
                self._workers.discard(threading.current_thread())

    def _next_term(self) -> _Term | None:
        with self._lock:
            if self._vacant is None and not self._closed:
                self._spare += 1
                self._vacancies.wait(SPARE)
                self._spare -= 1
            term, self._vacant = self._vacant, None
            return term
