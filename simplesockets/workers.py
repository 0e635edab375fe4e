"""A server in several processes: the supervisor of the workers, and what a worker does on its side.

The interpreter runs Python code of one thread at a time, so one process uses one core. ``setup(workers=N)`` serves with
N processes. The theory:

* *Sockets.* The parent makes all listening sockets, N on each address (SO_REUSEPORT: the system spreads new connections
  over them), gives each worker its own, and keeps them open, too. So a bad address is an error of ``setup()``, port 0
  is the same for all, and who waits to be accepted by a worker that died is accepted by the one that takes its place.
* *Start.* Workers are new interpreters (*spawn*), since a fork would copy threads and locks in whatever state they are.
  They import the program's main module, under another name, to find the callbacks; hence the callbacks have to be
  importable, and what a program *does* has to stand behind ``if __name__ == "__main__":``. The first worker starts
  alone, so that an error in all this is told once.
* *One thread decides.* The supervisor starts, hears, tells, replaces and ends workers. The program's threads write down
  what they want (:class:`Orders`), wake it, and wait until every worker has done that. A worker that was replaced in
  between gets the orders of that moment before it accepts anybody.
* *Nobody blocks on a pipe.* A worker has one order at a time to obey, so the supervisor never waits to send; the
  exceptions that workers report wait in a bounded queue, in the worker, until its main thread has sent them.
* *Ends.* The supervisor asks, then terminates, then kills. A worker whose pipe ends has no parent any more, and ends.
  Ctrl-C reaches all processes of a terminal; workers ignore it, as the parent ends them. Until they can ignore it, it
  is blocked: a signal mask is inherited. A worker that is terminated closes its server first.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, Pipe, wait
from multiprocessing.context import SpawnProcess
from typing import TYPE_CHECKING

from .dispatch import Journal, log
from .engine import is_nested, join
from .errors import LifecycleError, SetupError, WorkerError
from .mailbox import mark_own_thread
from .timing import Backoff, Deadline
from .transport import Waker

if TYPE_CHECKING:
    from socket import socket as Socket

    from .server import TCPServer

START_TIMEOUT = 60.0
"""Seconds that a worker has to begin to serve."""
ORDER_TIMEOUT = 5.0
"""Seconds that ``stop()`` and its like wait for the workers, which obey afterwards all the same."""
LIVED = 10.0
"""Seconds after which a worker's death counts as its first."""
TRIES = 6
"""So many deaths in a row, each sooner than that, and no other worker takes its place."""
FIRST_PAUSE = 0.1
"""Seconds until a dead worker is replaced; twice as many the next time …"""
MOST_PAUSE = 5.0
"""… and so many at most."""
TERMINATED = 0.5
"""Seconds that a worker has to end when it was terminated, before it is killed …"""
KILLED = 2.0
"""… and then until nobody waits for it any more."""
ALONE = 5.0
"""Seconds that a worker has to end in good order if its parent is gone, or if it was terminated."""
REPORTS = 1000
"""How many exceptions wait in a worker to be reported; the oldest go first."""
REPORTED = 10_000
"""Characters of a traceback that are reported."""

ELSEWHERE = (
    "with setup(workers=…) the connections live in the worker processes, and this process sees neither them nor their "
    "data; do it in the callbacks, which get the client, or set the server up without workers"
)
_NAMES = "simplesockets-server-"  # how the names of worker processes begin
_NO_GUARD = 76  # the exit code of a worker that came upon setup(workers=…) while it imported the main file


# ---------------------------------------------------------------------------------------------------- messages


@dataclass(frozen=True)
class Orders:
    """What the workers' servers are to be like; see :meth:`Workers.order`."""

    run: bool
    killed: bool
    limit: int | None


@dataclass(frozen=True)
class Place:
    """Which of how many workers one is; the first is 1."""

    number: int
    count: int

    def share(self, limit: int | None) -> int | None:
        """This worker's part of a limit: no part is more than one larger than another."""
        return None if limit is None else (limit + self.count - self.number) // self.count


@dataclass(frozen=True)
class _Order:
    number: int
    orders: Orders


@dataclass(frozen=True)
class _Close:
    timeout: float | None


@dataclass(frozen=True)
class _Ready:
    pass


@dataclass(frozen=True)
class _Failed:
    text: str


@dataclass(frozen=True)
class _Done:
    number: int


@dataclass(frozen=True)
class _Report:
    doing: str
    failure: str
    trace: str


ToWorker = _Order | _Close
"""What the supervisor says."""
FromWorker = _Ready | _Failed | _Done | _Report
"""What a worker says."""


# ------------------------------------------------------------------------------------------------------ checks


def check_guard() -> None:
    """Called where a program asks for workers: refuse if this process only imports the main file to find something.

    If it is a worker it just ends. The supervisor knows that exit code, and says the rest.

    Raises:
        SetupError: it is another child of the program's.
    """
    process = multiprocessing.current_process()
    if not getattr(process, "_inheriting", False):  # multiprocessing's own test
        return
    if process.name.startswith(_NAMES):
        raise SystemExit(_NO_GUARD)
    raise SetupError(f"a new process came upon setup(workers=…) while it imported the main file; {_guard('process')}")


def _guard(who: str) -> str:
    return (
        f"each {who} imports the program's main file anew, so everything there that is not a definition, above all "
        'the server\'s setup() and start(), has to stand behind\n\n    if __name__ == "__main__":\n\n'
        "and the callbacks in front of that line"
    )


def check_limit(limit: int | None, count: int) -> None:
    """Refuse a limit of which not every worker gets a part.

    Raises:
        ValueError: saying so.
    """
    if limit is not None and limit < count:
        raise ValueError(
            f"max_connections is divided among the workers, so with workers={count} it must be at least {count} (or "
            f"None for no limit), not {limit}"
        )


def packed(arguments: Mapping[str, object]) -> bytes:
    """The arguments of the workers' ``setup()``, for the way to another process.

    Raises:
        SetupError: one cannot go there; it says which, and what to do.
    """
    for name, value in arguments.items():
        try:
            content = pickle.dumps(value)
        except Exception as failure:
            raise SetupError(_advice(name, value)) from failure
        if b"__main__" in content and not _main_is_importable():
            raise SetupError(
                f"{name}={value!r} is defined where worker processes cannot import it: in an interactive session, in "
                "python -c, or in a program that comes through a pipe. Put it into a file and run or import that"
            )
    return pickle.dumps(dict(arguments))


def _advice(name: str, value: object) -> str:
    remedy = (
        "give a function at the top level of a module that makes one, ssl_context=make_context, or use "
        "SecureServer.setup(certfile=…, keyfile=…)"
        if name == "ssl_context"
        else "with workers, callbacks and protocol factories have to be functions (or classes) at the top level of a "
        "module: no lambda, no function inside another, no method of an object that holds a lock or a socket"
    )
    return f"{name}={value!r} cannot be sent to worker processes; {remedy}"


def _main_is_importable() -> bool:
    main = sys.modules["__main__"]
    path = getattr(main, "__file__", None)
    return getattr(main, "__spec__", None) is not None or (path is not None and os.path.isfile(path))


class Elsewhere:
    """Stands where a server with workers has nothing itself: whoever uses it gets the reason."""

    def __getattr__(self, name: str) -> object:
        raise LifecycleError(ELSEWHERE)

    def __setattr__(self, name: str, value: object) -> None:
        raise LifecycleError(ELSEWHERE)


# -------------------------------------------------------------------------------------------------- supervisor

Target = Callable[["Connection[FromWorker, ToWorker]", "list[Socket]", bytes, Place], object]
"""What a worker process runs; it has to be importable, and calls :func:`mind`."""


class _Worker:
    """What the supervisor knows of one worker, and of the processes that were it one after the other."""

    def __init__(self, place: Place, listeners: list[Socket]) -> None:
        self.place = place
        self.listeners = listeners
        self.process: SpawnProcess | None = None
        self.pipe: Connection[ToWorker, FromWorker] | None = None
        self.pid = 0
        self.watch = -1  # a descriptor that becomes readable when the process ends
        self.since = 0.0
        self.ready = False
        self.told = 0  # the number of the last order, …
        self.done = 0  # … and of the last one that was obeyed
        self.reason = ""
        self.due: float | None = None  # when to start the next process; None: not to
        self.deaths = 0
        self.backoff = Backoff(FIRST_PAUSE, MOST_PAUSE)

    def start(self, target: Target, payload: bytes, name: str) -> None:
        """Start a process.

        Raises:
            OSError, and whatever else multiprocessing finds wrong.
        """
        self.due = None
        self.since = time.monotonic()
        self.told = self.done = 0
        self.reason = ""
        ours, theirs = Pipe()
        process = multiprocessing.get_context("spawn").Process(
            target=target, args=(theirs, self.listeners, payload, self.place), name=name
        )
        try:
            resource_tracker.ensure_running()  # else it would be started in between, and unblock what we block
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            process.start()
            self.watch = _watch(process)
        except BaseException:
            ours.close()  # then the process ends, if there is one
            raise
        finally:
            theirs.close()
        self.pid = process.pid or 0
        self.process, self.pipe = process, ours

    def tell(self, message: ToWorker) -> None:
        """Send a message; nothing happens if the worker is gone."""
        with contextlib.suppress(OSError):
            if self.pipe is not None:
                self.pipe.send(message)

    def hear(self) -> list[FromWorker]:
        """The messages that came."""
        messages: list[FromWorker] = []
        try:
            while self.pipe is not None and self.pipe.poll():
                messages.append(self.pipe.recv())
        except (OSError, EOFError):  # it ends, and should do so quickly
            self.hang_up()
        return messages

    def hang_up(self) -> None:
        """Close our end of the pipe."""
        if self.pipe is not None:
            self.pipe.close()
            self.pipe = None

    def has_ended(self) -> bool:
        """Whether there was a process, and it ended."""
        return self.process is not None and bool(wait([self.watch], 0))

    def bury(self) -> str:
        """Free what an ended process left. Returns how it ended."""
        process, self.process = self.process, None
        assert process is not None  # has_ended() was asked
        code = process.exitcode
        with contextlib.suppress(ValueError):  # somebody else, os.wait() say, took its exit code away
            process.close()
        os.close(self.watch)
        self.hang_up()
        self.ready = False
        return _how(code)


def _watch(process: SpawnProcess) -> int:
    # The sentinel is a pipe, which a child of the worker's may hold open after the worker's end.
    try:
        return os.pidfd_open(process.pid or 0)
    except (AttributeError, OSError):  # other systems, and old ones
        return os.dup(process.sentinel)


def _how(code: int | None) -> str:
    if code is None:
        return "ended"
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


class Workers:
    """The worker processes of a server. They start with the first order to accept.

    Args:
        target: what they run.
        shares: the listening sockets of each; closed by :meth:`close`.
        payload: what they get beside; see :func:`packed`.
        journal: where their exceptions and deaths are recorded.
        name: begins the names of processes and threads.
    """

    def __init__(
        self, target: Target, shares: Sequence[list[Socket]], payload: bytes, journal: Journal, name: str
    ) -> None:
        self._target = target
        self._payload = payload
        self._journal = journal
        self._name = name
        self._workers = [
            _Worker(Place(number, len(shares)), listeners) for number, listeners in enumerate(shares, start=1)
        ]
        self._owner = os.getpid()
        self._waker = Waker()
        self._changed = threading.Condition()  # protects what follows; not held while anything waits for a process
        self._orders = Orders(run=False, killed=False, limit=None)
        self._number = 0
        self._launched = False
        self._awaited = False  # whether somebody waits for the start, and gets the error
        self._failure: SetupError | None = None
        self._deadline: Deadline | None = None  # not None: it is being closed
        self._thread: threading.Thread | None = None
        self._asked = False  # whether the end began; …
        self._steps: list[tuple[float, Callable[[], object]]] = []  # … what is to be done then, and when

    @property
    def count(self) -> int:
        """How many there are to be."""
        return len(self._workers)

    def check_limit(self, limit: int | None) -> None:
        """See :func:`check_limit`."""
        check_limit(limit, self.count)

    def elsewhere(self) -> LifecycleError:
        """The error for who asks this process for clients or data."""
        return LifecycleError(ELSEWHERE)

    def order(self, *, run: bool, killed: bool, limit: int | None) -> None:
        """Have all workers be so; waits until they are, for some seconds at most. The first order to run starts them.

        Args:
            run: whether they accept.
            killed: whether their accept threads are ended.
            limit: connections at once, of all workers together; None is without limit.

        Raises:
            SetupError: they are to run, but did not start; the message says why. They are gone then.
            LifecycleError: they are to run, but were ended.
        """
        with self._changed:
            self._orders = Orders(run, killed, limit)
            self._number += 1
            number = self._number
            if self._is_ending():
                if run:
                    raise self._failure or LifecycleError("the workers were ended; close() this server, set it up anew")
                return
            if self._thread is None and run:
                self._start_thread()
            waits = self._thread is not None and not is_nested()
            self._awaited = self._awaited or waits
        self._waker.wake()
        if not waits:
            return
        try:
            self._wait_until_obeyed(number)
        except BaseException:  # Ctrl-C
            if not self._launched:
                self._begin_to_close(Deadline(1.0, time.monotonic()))
            raise

    def _start_thread(self) -> None:
        self._thread = threading.Thread(target=self._supervise, name=f"{self._name}-supervisor", daemon=True)
        self._workers[0].due = 0.0
        self._thread.start()
        atexit.register(self._close_at_exit)  # before multiprocessing waits for them

    def _wait_until_obeyed(self, number: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._launched or self._is_ending())
            obeyed = self._changed.wait_for(lambda: self._is_obeyed(number) or self._is_ending(), ORDER_TIMEOUT)
            if self._failure is not None:
                raise self._failure
        if not obeyed:
            log.warning("the workers are slow to obey: after %g s not all of them have", ORDER_TIMEOUT)

    def _is_ending(self) -> bool:
        return self._failure is not None or self._deadline is not None

    def _is_obeyed(self, number: int) -> bool:
        # A worker that is just being replaced will get the newest orders before it accepts anybody.
        return all(worker.done >= number for worker in self._workers if worker.ready)

    def close(self, deadline: Deadline) -> None:
        """End all workers: ask them, then terminate, then kill them. Returns when they are gone.

        Called from inside (see :func:`~.engine.is_nested`), it leaves the waiting to others.
        """
        if os.getpid() != self._owner:  # a fork of the program, where a lock of another thread is held for ever
            return
        self._begin_to_close(deadline)
        thread = self._thread
        if thread is None:
            self._free()
        elif not is_nested():
            left = deadline.left(time.monotonic())
            if join([thread], Deadline(None if left is None else left + KILLED, time.monotonic())):
                log.warning("close() left worker processes behind that the system does not end")
            atexit.unregister(self._close_at_exit)

    def _close_at_exit(self) -> None:
        self.close(Deadline(5.0, time.monotonic()))

    def _begin_to_close(self, deadline: Deadline) -> None:
        with self._changed:
            if self._deadline is None:
                self._deadline = deadline
        self._waker.wake()

    # ---------------------------------------------------------------------------------------- the thread

    def _supervise(self) -> None:
        mark_own_thread()
        try:
            while not self._is_over():
                wait(self._watched(), self._patience())
                self._waker.clear()
                for worker in self._workers:
                    for message in worker.hear():
                        self._take(worker, message)
                    if worker.has_ended():
                        for message in worker.hear():  # its last words
                            self._take(worker, message)
                        self._lose(worker, worker.bury())
                self._advance(time.monotonic())
                with self._changed:
                    self._changed.notify_all()
        finally:
            self._force("killed", SpawnProcess.kill)  # there is none left, unless this ends by an error of ours
            self._free()
            with self._changed:
                self._deadline = self._deadline or Deadline(0.0, 0.0)
                self._changed.notify_all()

    def _is_over(self) -> bool:
        return self._is_ending() and all(worker.process is None for worker in self._workers)

    def _watched(self) -> list[Connection[ToWorker, FromWorker] | Socket | int]:
        watched: list[Connection[ToWorker, FromWorker] | Socket | int] = [self._waker.reader]
        for worker in self._workers:
            if worker.process is not None:
                watched.append(worker.watch)
                if worker.pipe is not None:
                    watched.append(worker.pipe)
        return watched

    def _patience(self) -> float | None:
        # Seconds until something is due.
        if self._is_ending():
            times = [at for at, _ in self._steps[:1]] if self._asked else [0.0]
        else:
            times = [worker.due for worker in self._workers if worker.due is not None]
            starting = [worker for worker in self._workers if worker.process is not None and not worker.ready]
            times += [worker.since + START_TIMEOUT for worker in starting]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _take(self, worker: _Worker, message: FromWorker) -> None:
        if isinstance(message, _Ready):
            worker.ready = True
        elif isinstance(message, _Done):
            worker.done = message.number
        elif isinstance(message, _Failed):
            worker.reason = message.text
        else:
            failure = WorkerError(f"{message.failure} (in {_named(worker)})", worker.place.number, worker.pid)
            failure.__cause__ = _Trace(message.trace)
            # The worker has logged it already.
            self._journal.record(failure, f"in a worker: {message.doing}", level=logging.DEBUG)

    def _advance(self, now: float) -> None:
        if self._is_ending():
            self._end(now)
            return
        for worker in self._workers:
            if worker.due is not None and worker.due <= now:
                self._start(worker)
            elif worker.process is not None and not worker.ready and now >= worker.since + START_TIMEOUT:
                worker.reason = f"it did not begin to serve within {START_TIMEOUT:g} s"
                worker.process.kill()
            elif worker.ready and worker.done == worker.told < self._number:
                with self._changed:
                    worker.told, orders = self._number, self._orders
                worker.tell(_Order(worker.told, orders))
        if not self._launched:
            self._launch()

    def _launch(self) -> None:
        if self._workers[0].ready:  # it works; so will the others
            for worker in self._workers[1:]:
                if worker.process is None and worker.due is None:
                    self._start(worker)
        self._launched = all(worker.ready and worker.done > 0 for worker in self._workers)

    def _start(self, worker: _Worker) -> None:
        try:
            worker.start(self._target, self._payload, f"{self._name}-worker-{worker.place.number}")
        except Exception as failure:  # no more processes, descriptors, memory
            worker.reason = f"{type(failure).__name__}: {failure}"
            self._lose(worker, "could not be started")

    # ------------------------------------------------------------------------------------------ deaths

    def _lose(self, worker: _Worker, how: str) -> None:
        if self._is_ending():
            return
        if not self._launched:
            self._failure = SetupError(_explain(worker, how))
            if not self._awaited:
                self._journal.record(self._failure, "the workers did not start")
            return
        now = time.monotonic()
        if now - worker.since >= LIVED:
            worker.deaths = 0
            worker.backoff.reset()
        worker.deaths += 1
        if worker.deaths >= TRIES:
            self._give_up(worker, how)
            return
        pause = worker.backoff.pause()
        worker.due = now + pause
        self._record(worker, f"{how}; another takes its place in {pause:.1f} s")

    def _give_up(self, worker: _Worker, how: str) -> None:
        for listener in worker.listeners:  # new connections go to the others
            listener.close()
        rest = sum(other.process is not None or other.due is not None for other in self._workers)
        after = f"{rest} others serve on" if rest else "that was the last one: nobody serves any more"
        self._record(worker, f"{how} soon after its start, {worker.deaths} times in a row, and is given up; {after}")

    def _record(self, worker: _Worker, text: str) -> None:
        reason = f" ({worker.reason})" if worker.reason else ""
        failure = WorkerError(f"{_named(worker)} {text}{reason}", worker.place.number, worker.pid)
        self._journal.record(failure, "a worker died", level=logging.WARNING)

    # --------------------------------------------------------------------------------------------- end

    def _end(self, now: float) -> None:
        if not self._asked:
            self._asked = True
            self._steps = self._plan(now)
        while self._steps and self._steps[0][0] <= now:
            self._steps.pop(0)[1]()

    def _plan(self, now: float) -> list[tuple[float, Callable[[], object]]]:
        left = 1.0 if self._deadline is None else self._deadline.left(now)
        if left is None:
            return [(now, lambda: self._ask(None))]
        polite = left - min(2 * TERMINATED, left / 4)
        return [
            (now, lambda: self._ask(polite - min(TERMINATED, polite / 4))),
            (now + polite, lambda: self._force("terminated", SpawnProcess.terminate)),
            (now + max(left - TERMINATED / 2, polite), lambda: self._force("killed", SpawnProcess.kill)),
        ]

    def _ask(self, timeout: float | None) -> None:
        for worker in self._workers:
            if worker.ready:
                worker.tell(_Close(timeout))
            elif worker.process is not None:  # it serves nobody yet
                worker.process.terminate()

    def _force(self, what: str, act: Callable[[SpawnProcess], None]) -> None:
        for worker in self._workers:
            if worker.process is not None:
                log.warning("close(): %s did not end in time and was %s", _named(worker), what)
                act(worker.process)

    def _free(self) -> None:
        for worker in self._workers:
            for listener in worker.listeners:
                listener.close()
        self._waker.close()


class _Trace(Exception):
    # A traceback of another process, as the cause of an exception in this one.
    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


def _named(worker: _Worker) -> str:
    return f"worker {worker.place.number} (process {worker.pid})"


def _explain(worker: _Worker, how: str) -> str:
    if how == _how(_NO_GUARD):
        return f"the program's main file calls setup(workers=…) whenever it is imported; {_guard('worker')}"
    if worker.reason:
        said = f"It said:\n\n{worker.reason}"
    else:
        said = "What it printed to the standard error output says why."
    mind = f"Mind that {_guard('worker')}"
    return f"the server did not start, because {_named(worker)} {how} before it served. {said}\n\n{mind}"


# ------------------------------------------------------------------------------------------------------ worker


def mind(pipe: Connection[FromWorker, ToWorker], place: Place, make: Callable[[], tuple[TCPServer, Journal]]) -> None:
    """The main thread of a worker process: make the server, obey, report, and end with the parent.

    Args:
        pipe: to the supervisor.
        place: which worker this is.
        make: makes the server, set up but not started, and gives its journal, too.
    """
    terminated = Waker()
    signal.signal(signal.SIGTERM, lambda *_: terminated.wake())
    signal.signal(signal.SIGINT, _ignore)  # no SIG_IGN, which programs that a callback starts would inherit
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    try:
        server, journal = make()
    except BaseException as failure:
        with contextlib.suppress(OSError):
            pipe.send(_Failed("".join(traceback.format_exception(failure))[-REPORTED:]))
        return
    reports = _Reports(journal)
    close = None
    try:
        pipe.send(_Ready())
        close = _obey(server, pipe, place, reports, terminated)
    except (OSError, EOFError):  # the parent is gone
        pass
    finally:
        if close is None:
            _end_in_any_case(2 * ALONE)
    server.close(ALONE if close is None else close.timeout)  # type: ignore[arg-type]  # None is for ever
    with contextlib.suppress(OSError):
        reports.send(pipe)
    reports.close()


def _ignore(*_: object) -> None:
    pass


def _obey(
    server: TCPServer, pipe: Connection[FromWorker, ToWorker], place: Place, reports: _Reports, terminated: Waker
) -> _Close | None:
    # Returns when it is time to close: the supervisor's message, or None if the worker was terminated.
    while True:
        ready = wait([pipe, reports.waker.reader, terminated.reader])
        if terminated.reader in ready:
            return None
        reports.send(pipe)
        if not pipe.poll():
            continue
        message = pipe.recv()
        if isinstance(message, _Close):
            return message
        _apply(server, message.orders, place)
        pipe.send(_Done(message.number))


def _apply(server: TCPServer, orders: Orders, place: Place) -> None:
    server.max_connections = place.share(orders.limit)
    if orders.killed:
        if not server.killed:
            server.exit_accept()
        return
    if server.killed:
        server.restart()
    server.event.accepting_thread.run = orders.run


class _Reports:
    """The exceptions that a worker's journal records, on their way to the parent's."""

    def __init__(self, journal: Journal) -> None:
        self.waker = Waker()
        self._waiting: deque[_Report] = deque(maxlen=REPORTS)
        self._record = journal.record
        journal.record = self._take  # type: ignore[method-assign]

    def _take(self, failure: BaseException, doing: str, *, level: int = logging.ERROR) -> None:
        trace = "".join(traceback.format_exception(failure))[-REPORTED:]
        short = f"{type(failure).__name__}: {failure}"[:REPORTED]
        self._record(failure, doing, level=level)
        self._waiting.append(_Report(doing, short, trace))
        self.waker.wake()

    def send(self, pipe: Connection[FromWorker, ToWorker]) -> None:
        """Send what waits. Called by the main thread alone, which may wait here."""
        self.waker.clear()
        while self._waiting:
            pipe.send(self._waiting.popleft())

    def close(self) -> None:
        """Free the waker."""
        self.waker.close()


def _end_in_any_case(seconds: float) -> None:
    # The program's threads might keep the process alive, and nobody watches how long.
    timer = threading.Timer(seconds, os._exit, (1,))
    timer.daemon = True
    timer.start()
