"""Who waits for readiness: here, a thread per client, an accept thread, and a thread for what is due later.

A connection asks nothing of its engine but to be stepped and finished (connection.py), so another engine, which
steps whatever a selector reports, can take this one's place.
"""

from __future__ import annotations

import abc
import contextlib
import errno
import heapq
import itertools
import logging
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

from .connection import Connection, ThreadLike
from .crew import Crew
from .dispatch import Journal, log
from .hotpath import Step
from .leader import AWAY, ParkingLot
from .mailbox import Bell, mark_own_thread
from .readiness import HAS_EPOLL, Epoll, Readiness
from .timing import Backoff, Deadline
from .transport import Waker

LINGER_AT_CLOSE = 0.5
"""Seconds of a ``close()`` that the other ends have to close too, before they are cut."""
FIRST_STEPS = 4
"""Steps of a connection before it is parked (see leader.py): one that comes and goes is not worth it. And so many are
none that took longer than AWAY: one whose callbacks block would only hold up the others until that was noticed."""
CROWD = 200
"""Clients that are there at a time beyond which a new one is parked at once, where the program polls: no callback can
block then, and thousands of threads that begin to take turns keep everybody waiting for seconds."""
SLOW_STEPS = 64
"""Steps that one whose callback was slow stays out for; twice as many the next time …"""
MOST_STEPS = 4096
"""… and so many at most, …"""
FORGIVEN = 1.0
"""… unless it was quick for so many seconds in between."""

_MORE = Step.MORE  # looked up once


class Timers:
    """Runs tasks later, in one thread that exists only while something is due."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._condition = threading.Condition()  # protects what follows; not held while a task runs
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()  # tasks of the same time stay in order
        self._longest: float | None = None  # seconds that anything may still wait, since closing began
        self._thread: threading.Thread | None = None

    def later(self, seconds: float, task: Callable[[], object]) -> None:
        """Run a task after so many seconds, or at :meth:`close`."""
        with self._condition:
            if self._longest is not None:
                seconds = min(seconds, self._longest)
            heapq.heappush(self._due, (time.monotonic() + seconds, next(self._numbers), task))
            if self._thread is None:
                thread = threading.Thread(target=self._run, name=f"{self._name}-timers", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # no more threads: the next task tries again, and close() runs what is left
                    return
                self._thread = thread
            self._condition.notify()

    def _run(self) -> None:
        mark_own_thread()
        while True:
            with self._condition:
                if not self._due:
                    self._thread = None
                    return
                wait = self._due[0][0] - time.monotonic()
                if wait > 0:
                    self._condition.wait(wait)
                    continue
                task = heapq.heappop(self._due)[2]
            self._do(task)

    def _do(self, task: Callable[[], object]) -> None:
        try:
            task()
        except Exception:  # the program closed a descriptor of ours, perhaps; the others are done all the same
            log.exception("what was due failed")

    def wind_up(self, seconds: float) -> None:
        """Let nothing wait for longer than so many seconds from now on, so that the thread ends then."""
        with self._condition:
            self._longest = seconds
            latest = time.monotonic() + seconds
            self._due = [(min(at, latest), number, task) for at, number, task in self._due]
            heapq.heapify(self._due)
            self._condition.notify()

    def close(self, timeout: float | None) -> None:
        """Run all tasks now and end the thread."""
        with self._condition:
            self._longest = 0.0
            tasks, self._due = self._due, []
            thread = self._thread
            self._condition.notify()
        for _, _, task in sorted(tasks, key=lambda due: due[:2]):
            self._do(task)
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)


class Life:
    """What an engine notes of a connection that it serves."""

    __slots__ = ("alone", "begun", "connection", "penalty", "since", "step", "work")

    def __init__(self, connection: Connection, work: Callable[[], object] | None, alone: int) -> None:
        self.connection = connection
        self.work = work  # the program's own loop, in place of reading and dispatching
        self.begun = False
        self.step = Step.MORE  # the outcome of the latest one
        self.alone = alone  # how many steps are made for it alone before it shares a thread
        self.penalty = SLOW_STEPS // 2
        self.since = 0.0  # when it was parked

    def step_alone(self) -> Step:
        """Make one of the steps that it is alone for."""
        step = self.connection.step()
        took = time.perf_counter() - self.connection.read_at
        self.alone = max(self.alone - 1, FIRST_STEPS if took > AWAY else 0)  # who is slow stays out
        return step

    def is_out(self, step: Step) -> None:
        """It is not parked any more, because of that outcome of a step."""
        self.step = step
        if step is Step.MORE:  # it was too slow for company
            went_well = time.monotonic() - self.since > FORGIVEN
            self.penalty = SLOW_STEPS if went_well else min(2 * self.penalty, MOST_STEPS)
            self.alone = self.penalty


class Engine(abc.ABC):
    """What drives the connections of one server or client: an own thread for each, or one for many (see leader.py).

    Args:
        name: begins the names of the threads.
        bell: of that server or client.
        shares: whether connections with callbacks are parked, as those that are polled are. (Where there is a single
            one, a thread that sleeps in its socket serves it best.)
    """

    READINESS: ClassVar[type[Readiness] | None] = Epoll if HAS_EPOLL else None
    """What watches the sockets that have no thread for themselves; None: all have one."""
    STAYS_OUT: ClassVar = True
    """Whether a thread waits in the socket of a connection whose callbacks are slow."""

    def __init__(self, name: str, bell: Bell, *, shares: bool = True) -> None:
        self._name = name
        self._shares = shares
        self._timers = Timers(name)
        self._crew = Crew(name, self._timers.later)
        self._lot = ParkingLot(bell, self._crew, self.READINESS)
        self._lock = threading.RLock()  # protects what follows; never held across I/O or user code
        self._live: set[Life] = set()
        self._parks = True

    @abc.abstractmethod
    def attach(self, connection: Connection, label: str, work: Callable[[], object] | None = None) -> Life:
        """Prepare to serve a connection: it has a thread from now on, or what stands for one.

        Args:
            connection: the connection.
            label: ends the name of its thread.
            work: the program's own loop, in place of reading and dispatching.

        Returns:
            What :meth:`start` takes.
        """

    @abc.abstractmethod
    def _begin(self, life: Life) -> None:
        """Have some thread serve it. RuntimeError if the system gives no more threads."""

    @abc.abstractmethod
    def _rest(self, life: Life) -> bool:
        """Park it. Returns True if another thread will go on with it; False if this one has to."""

    def start(self, life: Life) -> None:
        """Serve an attached connection from now on.

        Raises:
            RuntimeError: the system gives no more threads.
        """
        with self._lock:
            self._live.add(life)
            self._decide()
        try:
            self._begin(life)
        except BaseException:
            self._forget(life)
            life.connection.thread = None
            raise

    def later(self, seconds: float, task: Callable[[], object]) -> None:
        """Run a task after so many seconds, or when the engine is closed."""
        self._timers.later(seconds, task)

    def set_polled(self, polled: bool) -> None:
        """Whether items go to the mailbox and nowhere else from now on."""
        self._lot.set_polled(polled)
        with self._lock:
            self._decide()

    def _forget(self, life: Life) -> None:
        with self._lock:
            self._live.discard(life)
            self._decide()

    def _decide(self) -> None:
        # Under the lock, whenever any of this changed: it is looked at once per message.
        self._parks = self._lot.polled or (self._shares and len(self._live) > 1)

    def _serve(self, life: Life) -> None:
        # In a thread, until another one goes on, or the connection is not to be served any more.
        connection, last = life.connection, Step.DONE
        try:
            if not life.begun:
                life.begun = True
                connection.open()
                if life.work is not None:
                    connection.serve(life.work)
                    life.step = Step.DONE
            last = self._read(life)
        finally:
            if last is not Step.MORE:
                try:
                    if last is Step.DONE:
                        connection.finish()
                except OSError as failure:
                    log.warning("a connection's descriptor was closed by somebody else: %s", failure)
                finally:
                    self._forget(life)

    def _read(self, life: Life) -> Step:
        # Gives DONE when the connection ended, STOPPED when the program turned reading off, MORE when another thread
        # goes on.
        connection = life.connection
        while True:
            if life.step is _MORE:
                if life.alone > 0 and (self.STAYS_OUT or not self._parks):
                    life.step = life.step_alone()
                elif not self._parks:
                    life.step = connection.step()
                elif self._rest(life):
                    return _MORE
                continue
            if life.step is Step.DONE:
                return Step.DONE
            if life.step is Step.READY:
                step = life.step_alone()
                life.step = _MORE if step is Step.NOTHING else step
                connection.share(False)
                continue
            if life.step is Step.PAUSED:
                self._wait_for_room(connection)
            elif life.step is Step.NOTHING:
                connection.stream.wait_readable(None)
            elif connection.leave():
                return Step.STOPPED
            else:
                life.alone = FIRST_STEPS  # what was kept has to be delivered, of which the selector would not know
            life.step = Step.MORE

    def _wait_for_room(self, connection: Connection) -> None:
        waker = None
        with contextlib.suppress(OSError):  # no descriptors left: look every second instead
            waker = Waker()
        connection.waker = waker
        try:
            while connection.mailbox.is_paused(connection) and not connection.closing:
                if connection.stream.wait_hang_up(waker, None if waker else 1.0):
                    break  # read what the system still holds of it, so that nothing is lost
                if waker:
                    waker.clear()
        finally:
            connection.waker = None
            if waker:
                waker.close()

    def close(self, deadline: Deadline) -> list[str]:
        """End all connections, first in good order, then by force, and wait for their threads.

        Called from inside (see :func:`is_nested`), it leaves the waiting, and the force, to others.

        Returns:
            The names of the threads that were still busy in the program's code when the time was over.
        """
        with self._lock:
            live = list(self._live)
        for life in live:
            life.connection.hang_up()
        self._lot.close()
        self._crew.close()

        def cut() -> None:
            for life in live:
                life.connection.stream.cut()

        if is_nested():
            self._timers.later(LINGER_AT_CLOSE, cut)
            self._timers.wind_up(LINGER_AT_CLOSE)
            return []
        left = deadline.left(time.monotonic())
        grace = LINGER_AT_CLOSE if left is None else min(LINGER_AT_CLOSE, left / 2)
        threads = [thread for life in live if (thread := life.connection.thread) is not None]
        if join(threads, Deadline(grace, time.monotonic())):
            cut()
        busy = join(threads, deadline)
        busy += [name for name in join(self._crew.threads(), deadline) if name not in busy]
        self._timers.close(deadline.left(time.monotonic()))
        return busy


class ThreadEngine(Engine):
    """A thread for each connection, which sleeps while others read for it."""

    def attach(self, connection: Connection, label: str, work: Callable[[], object] | None = None) -> Life:
        """See :meth:`Engine.attach`."""
        life = Life(connection, work, 0 if self._lot.polled and len(self._live) >= CROWD else FIRST_STEPS)
        name = f"{self._name}-{label}"
        connection.thread = threading.Thread(target=self._run, args=(life,), name=name, daemon=True)
        return life

    def _begin(self, life: Life) -> None:
        thread = life.connection.thread
        assert isinstance(thread, threading.Thread)  # attach() made it
        thread.start()

    def _run(self, life: Life) -> None:
        mark_own_thread()
        self._serve(life)

    def _rest(self, life: Life) -> bool:
        life.since = time.monotonic()
        life.is_out(self._lot.park(life.connection))
        return False


def is_nested() -> bool:
    """Whether this package's code waits below on the calling thread's stack, for the program's code to return.

    So it is in a callback, and in a signal handler that interrupted one of our functions. Who waits for a thread then
    may wait for ever: for its own one, for one that waits likewise, or for one that needs a lock held below.
    """
    inside = True  # at first, those that lead to the public call
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        ours = frame.f_globals.get("__name__", "").startswith("simplesockets.")
        if ours and not inside:
            return True
        inside = inside and ours
    return False


def join(threads: Iterable[ThreadLike], deadline: Deadline) -> list[str]:
    """Wait for threads, other than the calling one, until the deadline. Returns the names of those that go on."""
    others = [thread for thread in threads if thread is not threading.current_thread()]
    for thread in others:
        thread.join(deadline.left(time.monotonic()))
    return [thread.name for thread in others if thread.is_alive()]


# ---------------------------------------------------------------------------------------------------- accepting

_OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_ACCEPTS_AT_ONCE = 64  # then look again whether accepting is still wanted


class Acceptor:
    """The accept thread of a server: waits for all its listening sockets, and for a word that something changed.

    Args:
        listeners: listening, non-blocking sockets; they stay the caller's.
        may_accept: asked before each accept.
        admit: takes an accepted socket and its peer's address.
        journal: where failures are recorded.
        name: of the thread.
    """

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        may_accept: Callable[[], bool],
        admit: Callable[[socket.socket, tuple[str, int]], None],
        journal: Journal,
        name: str,
    ) -> None:
        self._listeners = listeners
        self._may_accept = may_accept
        self._admit = admit
        self._journal = journal
        self._backoff = Backoff(first=0.05, most=1.0)
        self._waker = Waker()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._waker.reader, selectors.EVENT_READ)
        self._stopped = False
        self._accepting = threading.RLock()  # held while one connection is accepted, which does not wait
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.thread.start()

    def wake(self) -> None:
        """Look again whether to accept."""
        self._waker.wake()

    def settle(self) -> None:
        """Return when nobody is being accepted who should not be any more."""
        with self._accepting:
            pass

    def stop(self) -> None:
        """End the thread; the listening sockets stay open."""
        self._stopped = True
        self._waker.wake()

    def _run(self) -> None:
        mark_own_thread()
        listening = False
        pause: float | None = None
        try:
            while not self._stopped:
                wanted = self._may_accept() and pause is None
                if wanted != listening:
                    self._listen(wanted)
                    listening = wanted
                ready = self._selector.select(pause)
                pause = None
                for key, _ in ready:
                    if key.fileobj is self._waker.reader:
                        self._waker.clear()
                    else:
                        pause = self._accept_from(key.fileobj) or pause  # type: ignore[arg-type]
        except (OSError, ValueError):
            if not self._stopped:  # else the listeners were closed meanwhile
                raise
        finally:
            self._selector.close()
            self._waker.close()

    def _listen(self, wanted: bool) -> None:
        for listener in self._listeners:
            if wanted:
                self._selector.register(listener, selectors.EVENT_READ)
            else:
                self._selector.unregister(listener)

    def _accept_from(self, listener: socket.socket) -> float | None:
        # Returns how long to pause, in seconds, when the system has no descriptor or memory to give; else None.
        for _ in range(_ACCEPTS_AT_ONCE):
            try:
                if not self._accept_one(listener):
                    break
            except OSError as failure:
                if failure.errno in _OUT_OF_RESOURCES:
                    return self._pause(failure)
                log.info("a connection was gone before it was accepted: %s", failure)
        return None

    def _accept_one(self, listener: socket.socket) -> bool:
        with self._accepting:
            if self._stopped or not self._may_accept():
                return False
            try:
                sock, address = listener.accept()
            except BlockingIOError:
                return False
            sock.setblocking(True)
            self._admit(sock, address)
        self._backoff.reset()
        return True

    def _pause(self, failure: OSError) -> float:
        if self._backoff.is_fresh():  # once, until accepting succeeds again
            what = "accepting pauses, since the system has no more sockets to give; close some, or raise ulimit -n"
            self._journal.record(failure, what, level=logging.WARNING)
        return self._backoff.pause()
