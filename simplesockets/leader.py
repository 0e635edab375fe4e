"""One thread reads for many clients, as long as that delays nobody.

Threads that take turns cost more than what they do: with sixteen busy clients the interpreter lock is passed on at
every system call, and a message that is stored for a poller costs a hop from one thread to another. So connections
are *parked*: one selector watches the sockets of all that are. Whoever holds the *lead* waits for the selector and
steps what it reports:

* where the program polls, a thread that found nothing to fetch and would only wait (``Flag.idle``, ``await_event``,
  ``recv()``, all through ``Bell.leader``); so there is no hop at all;
* where it has callbacks, a *worker*, one of the crew (crew.py).

A *stand-by*, which runs no code of the program's, looks every :data:`AWAY` seconds whether things go on. If nobody led
in that time (a program that polls looks once per frame), it leads itself, until a poller asks for the lead; a poller
that keeps the lead, and is busy with what came, has :data:`BUSY` seconds. If the leader has been at the same callback
all that time, another worker gets the lead, and the slow one leaves when it returns. While nothing happens the
stand-by sleeps, too: the leader rouses it.

A connection gets *out*, that is, a thread of its own goes on with it, when its callback took longer than :data:`SLOW`
twice in short succession (it stays out for a while: see engine.py), when it ended, and when the lot is closed; and for
each step, if it is parked only to be *watched* (see pool.py). Time is no proof: where more threads want to run than
there are cores, the system interrupts any of them for milliseconds, and each client that is out makes that worse for
the others. So the callback has to have waited for something the second time, or used the processor for
:data:`COMPUTING`. (Systems count their own work as the callback's: to send may take a millisecond where the cores are
someone else's, too.) So a client's callbacks run one at a time and in order, in its own thread if they are slow, in a
shared one if not. Slow ones delay others by milliseconds, two or three times: where that costs too much, callbacks are
timed one by one only after a look at the selector that took long (see _serve_callbacks). Whoever was slow once, or the
lead was lost in its callback, is a *suspect*.

What keeps that true: only who leads steps a connection, and the lead can be taken from a thread that is stuck. Who
leads first says whom it *serves* and then looks whether it still leads. Who takes the lead does so first and then
looks whom the former leader serves: that connection is *held* by the former leader, and left alone, until it leaves.
So at least one of them sees the other. That costs a message no lock.

A poller *keeps* the lead while it handles what came, so that it comes in again without a lock. Anybody may take the
lead then (another poller at once, the stand-by after a while), and the order is the same: who comes in says so first
and then looks whether it still leads; who takes the lead from one who is not inside does so first, then looks whether
that one came in, and gives it back then. A poller that is about to wait elsewhere steps aside: one that polls several
objects by now, and a signal handler that interrupted its own thread while that led.

A leader that finds a connection held *mutes* its socket, since the selector would report it again and again; who held
it unmutes it.

Where the system has neither epoll nor anything that stands for it (see readiness.py), nothing is parked.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

from .connection import Connection
from .crew import Crew, Effort, effort
from .hotpath import COMPILED, Attendant, Gate, Leading, Pulse, Step, Steppable
from .mailbox import LONGEST_WAIT, Bell
from .readiness import GONE, READABLE, WRITABLE, Readiness
from .transport import Stream

AWAY = 0.005
"""Seconds without progress after which the stand-by does something about it."""
BUSY = 0.05
"""The same, where the only poller keeps the lead: it handles what came, and one more thread would slow it down."""
SLOW = 0.0005
"""Seconds: a callback that takes longer twice in short succession runs in its client's own thread from then on."""
COMPUTING = 0.0025
"""Seconds: one that waits for nothing has to use the processor for so long."""
QUICK = 0.00005
"""Seconds that a callback takes at most, on average, so that nobody looks for a slow one among them."""
CONTENTION = 4
"""How many times as long as reading a callback has to take to be slow. Reading does not wait; if it takes long all the
same, other threads keep the interpreter busy, and a callback that sends takes long for the same reason."""
PATIENCE = 8
"""Quick callbacks that make up for a slow one. Any may seem slow once, when the system gave the core to others."""
SEARCH = 64
"""Looks at the selector after which the search for a slow callback ends."""

_MORE = Step.MORE  # looked up once
_BATCH = 256  # what one look at the selector reports at most
_get_ident, _now = threading.get_ident, time.perf_counter

_IN, _LOOK, _SOMETHING = READABLE, READABLE | WRITABLE, READABLE | GONE


class Sleeper:
    """Whoever may be the stand-by."""

    __slots__ = ()

    gate: Gate
    """What it sleeps on."""
    outcome: Step | None
    """Why it has something else to do now."""

    def rouse(self) -> None:
        """Wake it."""
        self.gate.open()


class Watcher(Sleeper):
    """A thread that has nothing else to do."""

    __slots__ = ("gate", "outcome")

    def __init__(self) -> None:
        self.outcome = None
        self.gate = Gate()


class Parked(Steppable, Sleeper):
    """A connection that others read for. The connection knows it as its ``waker``.

    Args:
        lot: where it is parked.
        connection: the connection.
        out: called with the outcome when it is out; by default its thread, which sleeps in :meth:`ParkingLot.park`,
            is roused.
        watched: whether it is only watched: to be let out, READY, when there is something to read.
    """

    __slots__ = (
        "_out",
        "connection",
        "evict",
        "fd",
        "gate",
        "held",
        "lot",
        "muted",
        "outcome",
        "sleeps",
        "tried",
        "watched",
    )

    def __init__(
        self,
        lot: ParkingLot,
        connection: Connection,
        out: Callable[[Step], object] | None = None,
        *,
        watched: bool = False,
    ) -> None:
        self.outcome = None
        self.gate = Gate()
        self.lot = lot
        self.connection = connection
        self.step = connection.step if type(connection.stream) is Stream else self._step_all
        self.fd = connection.stream.socket.fileno()
        self.held: tuple[Term, ...] = ()  # of those who lost the lead: one in the middle of its step, others about to
        self.muted = False  # the selector does not know its socket
        self.evict = False  # let it out when it is not held any more
        self.tried = 0  # how much of the PATIENCE with it is used up; if any is, it is a suspect
        self.watched = watched
        self.odd = watched  # any of these
        self.sleeps = out is None  # its thread does; it may be the stand-by
        self._out = out

    def wake(self) -> None:
        """There is room for its data again, or it is closing: have it looked at."""
        if not self.lot.listen_to(self, _LOOK):
            self.lot.send_out(self)

    def settle(self) -> None:
        """Note whether it is odd. Under the lot's lock."""
        self.odd = bool(self.held or self.evict or self.tried or self.watched)

    def _step_all(self) -> Step:
        # For a stream that may hold more than its socket shows.
        while (step := self.connection.step()) is _MORE and self.connection.stream.buffered:
            pass
        return step

    def leave(self) -> None:
        """It is out. Whom a signal handler interrupts here does it again."""
        out = self._out
        if out is None:
            self.rouse()
        else:
            out(self.outcome or Step.MORE)
            self._out = None

    def is_slow(self, reading: float, calling: float, before: Effort | None) -> bool:
        """Told how many seconds reading, and the callback, took in each step, and, of a suspect, what its thread had
        done until then: whether it has to go on in its own thread."""
        if calling > SLOW and calling > CONTENTION * reading and (not self.tried or took_it(before)):
            self.tried += PATIENCE
            return self.tried > PATIENCE
        if self.tried:
            self.tried -= 1
        return False


def took_it(before: Effort | None) -> bool:
    """Whether the calling thread waited for something since then, or computed for long, and was not only kept from
    running."""
    now = effort()
    return before is None or now is None or now.waits > before.waits or now.seconds - before.seconds > COMPUTING


class Term(Leading):
    """One time of leading.

    Args:
        works: by a worker; nobody else may run callbacks.
        outsider: the number of the thread, if it is one of the program's. It keeps the lead while it handles what came,
            so that to come in again costs no lock; but anybody may take the lead then.
        release: ends its waiting (so it can hang on a bell).
    """

    __slots__ = ("holds", "release", "works")

    def __init__(self, *, works: bool = False, outsider: int = 0, release: Callable[[], None] = lambda: None) -> None:
        self.outsider = outsider
        self.works = works
        self.release = release
        self.waits = False  # in the selector
        self.serving = None  # whom it steps, or is about to
        self.holds: Parked | None = None  # whom it stepped when it lost the lead


class ParkingLot(Attendant):
    """The parked connections of one server or client, and the lead.

    Args:
        bell: of that server or client.
        crew: gives workers.
        readiness: makes what watches their sockets; without it, nothing is parked.
    """

    def __init__(self, bell: Bell, crew: Crew, readiness: Callable[[], Readiness] | None) -> None:
        self.polled = True
        """Whether items go to the mailbox and nowhere else, so that any thread may lead."""
        self._bell = bell
        self._crew = crew
        self._make_readiness = readiness
        self._lock = threading.RLock()  # protects who is parked, leads, stands by; never held across I/O or user code
        self._open = False
        self._closed = False
        self._parked = {}  # by descriptor
        self._most = 1  # that one look at the selector reports; Python makes room for so many, each time
        self._longest = LONGEST_WAIT
        self._leader = None
        self._waiting = bell.waiting
        self._terms = set()  # of those inside: of the leader, but while it handles what came, and of those
        # that lost the lead and have not left
        self._asked = False  # a poller wants the lead
        self._pulse = Pulse()  # rises with all that a leader does
        self._stand_by: Sleeper | None = None
        self._watcher = Watcher()  # the stand-by who is not parked, if there is one
        self._dozing = False  # the stand-by sleeps until it is roused
        self._search = 0  # how many looks at the selector the callbacks are still timed for, one by one

    # -------------------------------------------------------------------------------------------------- parking

    def park(self, connection: Connection) -> Step:
        """Called by a connection's thread: sleep while others read. Returns why the thread has to go on itself: the
        outcome of a step, or MORE to read."""
        parked = Parked(self, connection)
        if not self.admit(parked):
            return Step.MORE
        while parked.outcome is None:
            if self._stand_by is parked:
                self._watch(parked)
            else:
                parked.gate.sleep()
        connection.share(False)
        return parked.outcome

    def admit(self, parked: Parked) -> bool:
        """Park a connection, and return whether it is; its thread must not read it any more."""
        with self._lock:
            if not self._enter(parked):
                return False
        if parked.connection.has_more:
            parked.wake()
        return True

    def _enter(self, parked: Parked) -> bool:
        if not self._open and not self._set_up():
            return False
        if self._stand_by is None and not parked.sleeps:
            return False
        if self._closed or parked.fd < 0 or parked.fd in self._parked or parked.connection.stream.has_timeout():
            return False  # the program closed the descriptor, this one or another of that number, or set a timeout
        parked.connection.share(True)
        parked.connection.waker = parked
        self._parked[parked.fd] = parked
        try:
            self._readiness.register(parked.fd, _IN)
        except OSError:  # the system watches no more
            del self._parked[parked.fd]
            parked.connection.waker = None
            parked.connection.share(False)
            return False
        self._most = min(len(self._parked) + 1, _BATCH)
        if self._stand_by is None:
            self._stand_by = parked
        return True

    def _set_up(self) -> bool:
        if self._make_readiness is None or self._closed:
            return False
        try:
            self._readiness = self._make_readiness()
        except OSError:  # no descriptors left: it works without
            return False
        self._poll = self._readiness.poll
        self._open = True
        self._bell.leader = self
        return True

    def _let_out(self, parked: Parked, outcome: Step) -> None:
        # By who serves or holds it, or where nobody does.
        if parked.outcome is None:  # else in a signal handler, just before
            with self._lock:
                if self._parked.get(parked.fd) is parked:
                    del self._parked[parked.fd]
                    with contextlib.suppress(OSError, ValueError):  # the program closed the descriptor
                        self._readiness.unregister(parked.fd)
                parked.connection.waker = None
                stood_by = self._stand_by is parked
                if stood_by:
                    self._stand_by = next(iter(self._parked.values()), None)
                    self._rouse_stand_by()
            parked.outcome = outcome
            if stood_by:
                self.wake()  # it may be the one that leads
        parked.leave()

    def listen_to(self, parked: Parked, events: int) -> bool:
        """Have the selector report these events of a connection, unless it is muted. Gives False if it cannot, ever:
        the program closed the descriptor."""
        with self._lock:
            if self._parked.get(parked.fd) is parked and not parked.muted:
                try:
                    self._readiness.modify(parked.fd, events)
                except (OSError, ValueError):
                    return False
        return True

    def send_out(self, parked: Parked) -> None:
        """Let a connection out that nobody would step any more; as soon as the leader is done with it, if it steps
        that one."""
        with self._lock:
            parked.evict = parked.odd = True
            if self._leader is not None and self._leader.serving is parked:
                self._take_lead(None)
                self._rouse_stand_by()
        if not parked.held:  # else who holds it sees to it
            self._let_out(parked, Step.MORE)

    def close(self) -> None:
        """Let everybody out, and park nobody any more. Never waits. Any thread, and a signal handler, may call it."""
        with self._lock:
            self._closed = True
            if self._bell.leader is self:  # else the next engine's took its place
                self._bell.leader = None
            self._take_lead(None)
            everybody = list(self._parked.values())
            for each in everybody:
                each.evict = each.odd = True
        for each in everybody:
            if not each.held:  # else who holds it sees to it
                self._let_out(each, Step.MORE)
        self._watcher.outcome = Step.DONE
        self._watcher.rouse()
        self.wake()
        self._tidy()

    def _tidy(self) -> None:
        # The last one out closes the selector; nobody may be waiting in it then.
        with self._lock:
            if self._open and self._closed and not (self._terms or self._parked):
                self._open = False
                self._readiness.close()

    # -------------------------------------------------------------------------------------------------- the lead

    def wake(self) -> None:
        """End the leader's waiting; it will be no waiting if it has not begun yet."""
        with self._lock, contextlib.suppress(OSError):
            if self._open:
                self._readiness.wake()

    def set_polled(self, polled: bool) -> None:
        """Whether items go to the mailbox and nowhere else from now on."""
        with self._lock:
            self.polled = polled
            if not polled and self._leader is not None and not self._leader.works:
                self._take_lead(None)  # who may not run callbacks
                self._rouse_stand_by()
        self.wake()

    def _take_lead(self, term: Term | None) -> None:
        # Under the lock. From whoever has it; what that one is in the middle of stays its own until it leaves.
        former, self._leader = self._leader, term
        self._asked = False
        if term is not None:
            self._terms.add(term)
        if former is not None and (busy := former.serving) is not None:
            former.holds = busy
            busy.held = (*busy.held, former)
            busy.odd = True

    def _leave(self, term: Term) -> None:
        # Whom a signal handler interrupts here does it again, from the beginning.
        with self._lock:
            if self._leader is term:
                self._take_lead(None)  # it holds nobody then, but where a signal handler raised
            self._terms.discard(term)
            if (held := term.holds) is not None and term.serving is held:
                held.evict = True  # … and nobody knows where
            goes_out = held is not None and self._let_go(held, term)
        if held is not None and goes_out:
            self._let_out(held, Step.MORE)
        if self._dozing:
            self._rouse_stand_by()
        if self._closed:
            self._tidy()

    def _let_go(self, held: Parked, term: Term) -> bool:
        # Under the lock, by who held it. Gives whether it goes out.
        if term not in held.held:
            return False  # that was done
        others = tuple(each for each in held.held if each is not term)
        if others:
            held.held = others  # the last of them sees to it
            return False
        if held.evict or held.outcome is not None:
            return True  # it stays held, so that nobody else lets it out
        if held.muted and self._parked.get(held.fd) is held:
            with contextlib.suppress(OSError, ValueError):
                self._readiness.register(held.fd, _LOOK)  # it may have been woken meanwhile
            held.muted = False
        held.held = ()
        held.settle()
        return False

    def _come_out(self, term: Term) -> None:
        # After lead(). A signal handler may raise in here, too; then it gives up.
        if term.waits:
            self._waiting.discard(term)
            term.waits = False
        if term.serving is None:  # else nobody may take its place before it is known what it holds
            self._terms.discard(term)
        if self._dozing:
            self._rouse_stand_by()
        if self._leader is not term or term.serving is not None:
            self._leave(term)

    def _give_up(self, term: Term) -> None:
        self._waiting.discard(term)
        term.waits = False
        self._leave(term)

    def _come_in(self) -> Term | None:
        # The lead for the calling thread of the program's, unless another thread has it.
        with self._lock:
            former = self._leader
            if not self.polled or not self._open or self._closed:
                return None
            if former is not None and (not former.outsider or former.waits or former in self._terms):
                self._ask(former)
                return None
            term = Term(outsider=_get_ident(), release=self.wake)
            return term if self._displace(former, term) else None

    def _displace(self, former: Term | None, term: Term) -> bool:
        # Under the lock. Whom nobody asks may come in at any moment: it says so first, and then looks whether it still
        # leads; here it is the other way round. And a signal handler may have closed this since the caller looked.
        if self._leader is not former:
            return False
        try:
            self._leader = term
            ended = self._closed or not (self.polled or term.works)
            came_in = former is not None and (former.waits or former in self._terms)
        except BaseException:  # a signal handler raised: that one may be inside, and believe that it leads
            self._leader = former
            raise
        if ended or came_in:
            self._leader = None if ended else former
            return False
        self._asked = False
        self._pulse.beats += 1
        return True

    def step_aside(self) -> None:
        """Called by a thread that is about to wait elsewhere: if it leads, it will not be back soon. (A signal
        handler may have interrupted its waiting.)"""
        term = self._leader
        if term is not None and term.outsider == _get_ident():
            with self._lock:
                if self._leader is term:
                    self._take_lead(None)
                    self._rouse_stand_by()

    def _ask(self, leader: Term) -> None:
        self._asked = True
        if not leader.outsider:  # who is no poller gives way
            self.wake()

    def _go_on(self, term: Term, while_: Callable[[], bool]) -> None:
        # For workers and the stand-by: lead as long as nobody asks for it.
        try:
            while self._may_go_on(term) and while_():
                term.waits = True
                events = self._poll(-1, self._most)
                term.waits = False
                self._pulse.beats += 1  # before the stand-by looks
                if self._dozing:
                    self._rouse_stand_by()
                if term.works:
                    self._serve_callbacks(term, events)
                else:
                    self._serve(term, events)
        finally:
            self._leave(term)

    def _may_go_on(self, term: Term) -> bool:
        # Whoever changes any of this wakes the selector, and it stays awake until somebody waited in it.
        attended = self._stand_by is not None
        return self._leader is term and attended and not self._closed and not (self._asked and self.polled)

    # -------------------------------------------------------------------------------------------------- serving

    def _serve_callbacks(self, term: Term, events: list[tuple[int, int]]) -> None:
        # In Python, to time each callback costs too much. There, if all together took long there may be a slow one
        # among them, and the next ones are timed.
        if COMPILED or self._search:
            self._search = max(0, self._search - 1)
            self._serve(term, events, SLOW)
        else:
            began = _now()
            self._serve(term, events)
            if _now() - began > SLOW + QUICK * len(events):
                self._search = SEARCH
        held = term.holds
        if held is not None and not held.tried:
            held.tried = PATIENCE

    def _step_suspect(self, term: Term, parked: Parked) -> Step:
        before, began = effort(), _now()
        outcome = parked.step()
        called = parked.connection.read_at
        if called > began:
            self._took_long(term, parked, outcome, called - began, _now() - called, before)
        return outcome

    def _took_long(
        self,
        term: Term,
        parked: Parked,
        outcome: Step,
        reading: float,
        calling: float,
        before: Effort | None = None,
    ) -> None:
        # Or did not, if it is a suspect.
        slow = parked.is_slow(reading, calling, before)
        if slow or parked.odd is not bool(parked.tried):
            with self._lock:
                if slow and parked.held:  # then who holds it lets it out
                    parked.evict = True
                parked.settle()
        if slow and outcome is _MORE and self._leader is term and not parked.evict:
            self._let_out(parked, _MORE)

    def _not_parked(self, term: Term, fd: int) -> None:
        with self._lock, contextlib.suppress(OSError, ValueError):
            if fd == self._readiness.signal:
                # It stays readable for who leads now, and to wake everybody.
                if self._leader is term and not self._closed:
                    self._readiness.clear()
            elif fd not in self._parked:
                self._readiness.unregister(fd)

    def _serve_odd(self, term: Term, parked: Parked, event: int) -> None:
        if parked.held or parked.evict:
            self._mute(parked)
            return
        connection = parked.connection
        if not event & _SOMETHING:  # wake() made this one be reported
            self.listen_to(parked, _IN)
            if not connection.has_more:
                return
        if parked.watched and not self.polled:
            step = Step.READY
        elif parked.tried and term.works:
            step = self._step_suspect(term, parked)
        else:
            step = parked.step()
        if step is not _MORE:
            self._stepped(parked, step)

    def _mute(self, parked: Parked) -> None:
        # The selector reports a hang-up whether one wants to hear of it or not, so it has to forget the socket.
        with self._lock, contextlib.suppress(OSError, ValueError):
            if parked.held and not parked.muted and self._parked.get(parked.fd) is parked:
                parked.muted = True
                self._readiness.unregister(parked.fd)

    def _stepped(self, parked: Parked, step: Step) -> None:
        if step is Step.PAUSED:
            self.listen_to(parked, 0)  # a hang-up is reported all the same
            if parked.connection.closing or not parked.connection.mailbox.is_paused(parked.connection):
                self.listen_to(parked, _LOOK)  # it was woken before it was told to listen to nothing
        elif step is not Step.NOTHING:
            self._let_out(parked, step)

    # ---------------------------------------------------------------------------------------------- the stand-by

    def open(self) -> None:
        """Have a stand-by who is not parked, before anybody is. Where that is not possible, nobody can be parked whose
        thread does not sleep.

        Raises:
            RuntimeError: the system gives no thread.
        """
        with self._lock:
            if self._stand_by is not None or self._closed or not (self._open or self._set_up()):
                return
            self._stand_by = self._watcher
        try:
            self._crew.run(lambda: self._watch(self._watcher), at_once=True)
        except RuntimeError:
            self._stand_by = None
            raise

    def _watch(self, sleeper: Sleeper) -> None:
        seen = self._pulse.beats if self._leader is None else None
        while sleeper.outcome is None and self._stand_by is sleeper:
            leader = self._leader
            if (now := self._pulse.beats) == seen:
                self._intervene(sleeper, leader)
            elif leader is not None and leader.outsider and not self._asked:
                seen = now
                sleeper.gate.sleep(BUSY)
            else:
                seen = sleeper.gate.watch(self._pulse, AWAY)
                if self._leader is not leader:  # by now
                    seen = None

    def _intervene(self, sleeper: Sleeper, leader: Term | None) -> None:
        # Nothing went on for a while.
        if leader is not None and leader.waits:
            self._doze(sleeper, leader)
        elif self.polled:
            self._lead_meanwhile(sleeper)
        else:
            self._employ()

    def _doze(self, sleeper: Sleeper, leader: Term) -> None:
        # A leader ends its waiting and then looks at _dozing; so here it is the other way round.
        self._dozing = True
        if leader.waits and self._leader is leader and sleeper.outcome is None:
            sleeper.gate.sleep()
        with self._lock:
            if self._stand_by is sleeper:  # else the next one dozes, perhaps
                self._dozing = False

    def _rouse_stand_by(self) -> None:
        with self._lock:
            self._dozing = False
            if (stand_by := self._stand_by) is not None:  # once: a signal handler may close this
                stand_by.rouse()

    def _appoint(self, *, works: bool) -> Term | None:
        # A new leader, unless things go on.
        with self._lock:
            former = self._leader
            if self._closed or (former is not None and former.waits):
                return None
            term = Term(works=works)
            if former is None or former in self._terms:
                self._take_lead(term)
                self._pulse.beats += 1
            elif self._displace(former, term):
                self._terms.add(term)
            else:
                return None
            return term

    def _lead_meanwhile(self, sleeper: Sleeper) -> None:
        term = self._appoint(works=False)
        if term is None:
            return
        self._go_on(term, lambda: sleeper.outcome is None and self.polled)
        self._pulse.beats += 1  # look on for a while before leading again
        self._bell.ring()  # whoever asked: now it is free

    def _employ(self) -> None:
        # The leader is stuck in a callback, or there is none: give the lead to a worker.
        term = self._appoint(works=True)
        if term is None:
            return
        try:
            self._crew.run(lambda: self._work(term), at_once=True)
        except RuntimeError:  # no more threads: the next look will tell
            self._leave(term)

    def _work(self, term: Term) -> None:
        self._go_on(term, lambda: True)
        if self.polled:
            self._bell.ring()  # whoever asked for the lead: now it is free
