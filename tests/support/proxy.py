"""A proxy that does to connections what networks do to them: on a schedule, and with an account of it.

    with FaultProxy() as proxy:
        route = proxy.route(server.address, lambda number: [Fault(Kind.RESET, UP, at=1000)])
        ...  # connect to route.address

A *route* is a listening socket and where it leads to; each connection through it is a *link*, with two ways: ``UP``
from who connected to the target, ``DOWN`` back. A fault happens on its way exactly when ``at`` bytes, and ``step``
pieces at least, have passed there, not a byte sooner or later. All of it is done by one thread with one selector.

Whatever an end does, the proxy does at the other one: an end of stream is passed on after all the bytes before it, a
reset at once. It holds :data:`CAPACITY` bytes for each way; then who sends has to wait.
"""

from __future__ import annotations

import collections
import contextlib
import enum
import errno
import heapq
import itertools
import random
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

from .running import HOST, reset
from .waiting import PATIENCE

Way = Literal["up", "down"]
UP: Way = "up"
DOWN: Way = "down"

CAPACITY = 64 * 1024
"""Bytes that are held for each way of a link."""
MOST_LINKS = 4096
"""Links at a time; who comes then is reset."""
FAREWELL = 5.0
"""Seconds that the ends of a cut link have to close; then they are reset."""
REMEMBERED = 1000
"""Links that a route remembers, unless told otherwise."""

_REFUSED = "reset since the target refused"


class Kind(str, enum.Enum):
    """What may happen on a way."""

    DELAY = "delay"
    """What comes is held back for ``seconds``."""
    STALL = "stall"
    """Nothing is even read for ``seconds``, so that the sender has to wait."""
    SPLIT = "split"
    """The next ``pieces`` pieces have ``size`` bytes at most, and ``seconds`` between them."""
    CUT = "cut"
    """Both ends see an end of stream. What was not passed on is gone."""
    RESET = "reset"
    """Both ends see a reset. What was not passed on is gone."""
    HALF_CLOSE = "half-close"
    """Who receives on this way sees an end of stream; the other way goes on."""


ENDINGS = (Kind.CUT, Kind.RESET, Kind.HALF_CLOSE)
"""After these a way is of no use any more."""


class Fault(NamedTuple):
    """One thing that happens to a link."""

    kind: Kind
    way: Way
    at: int = 0
    step: int = 0
    seconds: float = 0.0
    size: int = 1
    pieces: int = 1


class Deed(NamedTuple):
    """What was done: a :class:`Kind`, or how a link began or ended, and after how many bytes and pieces of the way."""

    what: str
    way: Way | None
    at: int = 0
    step: int = 0


Plan = Callable[[int], Sequence[Fault]]
"""The faults of the link with that number; the first one of a route has number 0."""


def no_faults(number: int) -> Sequence[Fault]:
    """The plan of a link that nothing happens to."""
    return ()


def random_faults(
    dice: random.Random,
    sizes: tuple[int, int],
    ending: Kind | None = None,
    *,
    troubles: int = 3,
    seconds: float = 0.02,
) -> list[Fault]:
    """Faults at random places, the same ones for dice in the same state.

    Args:
        dice: what decides.
        sizes: bytes that will pass upwards and downwards.
        ending: how the link ends, if by a fault.
        troubles: how many delays, stalls and splits there are at most.
        seconds: that each of them takes at most.
    """
    totals: dict[Way, int] = {UP: sizes[0], DOWN: sizes[1]}
    faults = []
    for _ in range(dice.randint(0, troubles)):
        kind, way = dice.choice([Kind.DELAY, Kind.STALL, Kind.SPLIT]), dice.choice([UP, DOWN])
        pieces = dice.randint(1, 20) if kind is Kind.SPLIT else 1
        pause = dice.uniform(0, seconds) / pieces
        faults.append(Fault(kind, way, dice.randrange(totals[way]), 0, pause, dice.randint(1, 50), pieces))
    if ending is not None:
        way = dice.choice([UP, DOWN])
        faults.append(Fault(ending, way, dice.randrange(totals[way])))
    return faults


class _Pipe:
    """One way of a link."""

    def __init__(self, way: Way, faults: Iterable[Fault]) -> None:
        self.way = way
        self.faults = collections.deque(sorted((each for each in faults if each.way == way), key=lambda each: each.at))
        self.buffer = bytearray()
        self.passed = 0
        self.steps = 0
        self.until = 0.0  # nothing is passed on before
        self.stalled = False  # nothing is read before, either
        self.splitting: Fault | None = None
        self.pieces = 0  # left of it
        self.blocked = False  # the receiving end takes nothing at the moment
        self.ended = False  # the sending end sends no more
        self.shut = False  # the receiving end was told so; whatever comes is dropped

    def wants_to_read(self) -> bool:
        return not self.ended and (self.shut or (not self.stalled and len(self.buffer) < CAPACITY))

    def due(self) -> Fault | None:
        """The fault that happens now."""
        if self.faults and self.passed >= self.faults[0].at and self.steps >= self.faults[0].step:
            return self.faults.popleft()
        return None

    def next_piece(self) -> memoryview:
        """What may be passed on in one go."""
        size = len(self.buffer)
        if self.splitting is not None:
            size = min(size, self.splitting.size)
        if self.faults and self.faults[0].at > self.passed:
            size = min(size, self.faults[0].at - self.passed)
        return memoryview(bytes(self.buffer[:size]))

    def took(self, size: int, now: float) -> None:
        """So many bytes were passed on."""
        del self.buffer[:size]
        self.passed += size
        self.steps += 1
        if self.splitting is not None:
            self.until = now + self.splitting.seconds
            self.pieces -= 1
            if self.pieces <= 0:
                self.splitting = None

    def shut_off(self) -> None:
        """Drop whatever is there, or comes."""
        self.shut = True
        self.buffer.clear()
        self.faults.clear()


class Link:
    """A connection through the proxy. Other threads may look at its attributes.

    Args:
        number: of the link in its route.
        near: the accepted socket.
        far: the socket that is being connected to the target.
        faults: what happens to it.
    """

    def __init__(self, number: int, near: socket.socket, far: socket.socket, faults: Sequence[Fault]) -> None:
        self.number = number
        self.peer: tuple[str, int] = near.getpeername()[:2]
        """The address of who connected."""
        self.local: tuple[str, int] | None = None
        """The address under which the target sees this link; None until it is connected."""
        self.deeds: list[Deed] = []
        """What was done to it, in order."""
        self.over = False
        """Whether both sockets are closed."""
        self._sockets = {UP: near, DOWN: far}  # by the way that begins there
        self._pipes = {way: _Pipe(way, faults) for way in (UP, DOWN)}

    def passed(self, way: Way) -> int:
        """How many bytes were passed on."""
        return self._pipes[way].passed

    def suffered(self, *kinds: Kind) -> bool:
        """Whether one of these was done to it."""
        wanted = {kind.value for kind in kinds}
        return any(deed.what in wanted for deed in list(self.deeds))

    def was_reset(self) -> bool:
        """Whether anybody reset it: the proxy, or one of its ends."""
        return any("reset" in deed.what for deed in list(self.deeds))

    def __repr__(self) -> str:
        return f"<link {self.number} of {self.peer[1]}: {self.passed(UP)} up, {self.passed(DOWN)} down, {self.deeds}>"


class Route:
    """A way through the proxy to one target. Made by :meth:`FaultProxy.route`."""

    def __init__(
        self, proxy: FaultProxy, listener: socket.socket, target: tuple[str, int], plan: Plan, remembered: int
    ) -> None:
        self.address: tuple[str, int] = listener.getsockname()[:2]
        """Where to connect to."""
        self.links: collections.deque[Link] = collections.deque(maxlen=remembered)
        """Its links, the oldest first."""
        self._proxy = proxy
        self._listener = listener
        self._target = target
        self._plan = plan
        self._numbers = itertools.count()

    def close(self) -> None:
        """Take no more connections; those that are there go on."""
        self._proxy._do(lambda: self._proxy._close_route(self))

    def link_of(self, peer: tuple[str, int]) -> Link | None:
        """The latest link of who connected from that address."""
        return next((link for link in reversed(list(self.links)) if link.peer == peer), None)


class FaultProxy:
    """A TCP proxy on loopback, in a thread of its own. A context manager; :meth:`close` resets what is left.

    Args:
        lifetime: seconds after which it closes by itself, whatever becomes of who made it.
    """

    def __init__(self, lifetime: float = 600.0) -> None:
        self.counts: collections.Counter[str] = collections.Counter()
        """How often each thing was done."""
        self._over_at = time.monotonic() + lifetime
        self._selector = selectors.DefaultSelector()
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._selector.register(self._reader, selectors.EVENT_READ)
        self._tasks: collections.deque[Callable[[], None]] = collections.deque()
        self._alarms: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._routes: set[Route] = set()
        self._links: set[Link] = set()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="fault proxy", daemon=True)
        self._thread.start()

    def route(self, target: tuple[str, int], plan: Plan = no_faults, remembered: int = REMEMBERED) -> Route:
        """A new place to connect to, which leads to the target.

        Args:
            target: where the connections go.
            plan: what happens to them.
            remembered: how many of them the route remembers.
        """
        listener = socket.create_server((HOST, 0), backlog=1024)
        listener.setblocking(False)
        route = Route(self, listener, target, plan, remembered)
        self._do(lambda: self._open_route(route))
        return route

    def close(self) -> None:
        """Reset all links, and end the thread. May be repeated."""
        if self._thread.is_alive():
            self._tasks.append(self._stop)
            self._wake()
            self._thread.join(PATIENCE)
        self._writer.close()

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def open_links(self) -> int:
        """How many links there are."""
        return len(self._links)

    @property
    def running(self) -> bool:
        """Whether its thread goes on."""
        return self._thread.is_alive()

    # ------------------------------------------------------------------------------------------------ the thread

    def _do(self, task: Callable[[], None]) -> None:
        # In the thread of the proxy, to which everything belongs; waits for it.
        done = threading.Event()

        def work() -> None:
            try:
                task()
            finally:
                done.set()

        self._tasks.append(work)
        self._wake()
        assert done.wait(PATIENCE), "the proxy does not run any more"

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            self._writer.send(b"\0")

    def _stop(self) -> None:
        self._stopped = True

    def _run(self) -> None:
        try:
            while not self._stopped and (left := self._over_at - time.monotonic()) > 0:
                if self._alarms:
                    left = min(left, self._alarms[0][0] - time.monotonic())
                for key, events in self._selector.select(max(0.0, left)):
                    self._serve(key, events)
                while self._alarms and self._alarms[0][0] <= time.monotonic():
                    heapq.heappop(self._alarms)[2]()
        finally:
            for link in list(self._links):
                self._reset(link, "reset by closing the proxy")
            for route in list(self._routes):
                self._close_route(route)
            self._selector.close()
            self._reader.close()

    def _serve(self, key: selectors.SelectorKey, events: int) -> None:
        if key.fileobj is self._reader:
            with contextlib.suppress(BlockingIOError):
                self._reader.recv(4096)
            while self._tasks:
                self._tasks.popleft()()
        elif isinstance(key.data, Route):
            self._accept(key.data)
        else:
            link, way = key.data
            if link.over:  # it ended in this very round
                return
            if link.local is None:
                self._connected(link)
                return
            if events & selectors.EVENT_READ:
                self._take(link, way)
            if events & selectors.EVENT_WRITE:
                link._pipes[_other(way)].blocked = False
            self._go_on(link)

    def _later(self, at: float, task: Callable[[], None]) -> None:
        heapq.heappush(self._alarms, (at, next(self._numbers), task))

    # ---------------------------------------------------------------------------------------- beginning, ending

    def _open_route(self, route: Route) -> None:
        self._routes.add(route)
        self._selector.register(route._listener, selectors.EVENT_READ, route)

    def _close_route(self, route: Route) -> None:
        if route in self._routes:
            self._routes.discard(route)
            self._selector.unregister(route._listener)
            route._listener.close()

    def _accept(self, route: Route) -> None:
        try:
            near, _ = route._listener.accept()
        except OSError:  # it is gone already
            return
        if len(self._links) >= MOST_LINKS:
            self.counts["too many"] += 1
            reset(near)
            return
        far = socket.socket()
        for sock in (near, far):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        number = next(route._numbers)
        try:
            link = Link(number, near, far, route._plan(number))
        except OSError:  # it is gone already
            near.close()
            far.close()
            return
        route.links.append(link)
        self._links.add(link)
        if far.connect_ex(route._target) in (0, errno.EINPROGRESS):
            self._selector.register(far, selectors.EVENT_WRITE, (link, DOWN))
        else:
            self._reset(link, _REFUSED)

    def _connected(self, link: Link) -> None:
        far = link._sockets[DOWN]
        if far.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._reset(link, _REFUSED)
            return
        link.local = far.getsockname()[:2]
        self._note(link, "connected", None)
        self._go_on(link)

    def _reset(self, link: Link, what: str, way: Way | None = None) -> None:
        self._note(link, what, way)
        self._close(link, reset)

    def _close(self, link: Link, close: Callable[[socket.socket], None]) -> None:
        for sock in link._sockets.values():
            self._watch(sock, 0, None)
            close(sock)
        self._links.discard(link)
        link.over = True

    def _note(self, link: Link, what: str, way: Way | None) -> None:
        pipe = None if way is None else link._pipes[way]
        link.deeds.append(Deed(what, way, pipe.passed, pipe.steps) if pipe else Deed(what, None))
        self.counts[what] += 1

    # ----------------------------------------------------------------------------------------------- in between

    def _take(self, link: Link, way: Way) -> None:
        pipe = link._pipes[way]
        try:
            data = link._sockets[way].recv(CAPACITY - len(pipe.buffer) or 1)
        except BlockingIOError:
            return
        except OSError:
            self._reset(link, "reset by an end", way)
            return
        if not data:
            pipe.ended = True
        elif not pipe.shut:
            pipe.buffer += data

    def _go_on(self, link: Link) -> None:
        # Do what can be done at this moment, and wait for what else has to come.
        now = time.monotonic()
        for pipe in link._pipes.values():
            if not link.over:
                self._pass_on(link, pipe, now)
        if not link.over and all(pipe.ended for pipe in link._pipes.values()) and self._all_shut(link):
            self._note(link, "closed by its ends", None)
            self._close(link, socket.socket.close)
        if not link.over:
            for way, sock in link._sockets.items():
                reading = selectors.EVENT_READ if link._pipes[way].wants_to_read() else 0
                writing = selectors.EVENT_WRITE if link._pipes[_other(way)].blocked else 0
                self._watch(sock, reading | writing, (link, way))

    def _all_shut(self, link: Link) -> bool:
        return all(pipe.shut for pipe in link._pipes.values())

    def _pass_on(self, link: Link, pipe: _Pipe, now: float) -> None:
        while not (link.over or pipe.shut or pipe.blocked):
            if now < pipe.until:
                self._later(pipe.until, lambda: None if link.over else self._go_on(link))
                return
            pipe.stalled = False
            fault = pipe.due()
            if fault is not None:
                self._apply(link, pipe, fault, now)
            elif pipe.buffer:
                self._pass_piece(link, pipe, now)
            else:
                if pipe.ended:
                    self._shut(link, pipe)
                return

    def _pass_piece(self, link: Link, pipe: _Pipe, now: float) -> None:
        try:
            pipe.took(link._sockets[_other(pipe.way)].send(pipe.next_piece()), now)
        except BlockingIOError:
            pipe.blocked = True
        except OSError:
            self._reset(link, "reset by an end", pipe.way)

    def _apply(self, link: Link, pipe: _Pipe, fault: Fault, now: float) -> None:
        if fault.kind is Kind.RESET:
            self._reset(link, fault.kind.value, pipe.way)
            return
        self._note(link, fault.kind.value, pipe.way)
        if fault.kind is Kind.SPLIT:
            pipe.splitting, pipe.pieces = fault, fault.pieces
        elif fault.kind is Kind.HALF_CLOSE:
            self._shut(link, pipe)
        elif fault.kind is Kind.CUT:
            for each in link._pipes.values():
                self._shut(link, each)
            self._later(now + FAREWELL, lambda: None if link.over else self._reset(link, "reset after a cut"))
        else:
            pipe.until = now + fault.seconds
            pipe.stalled = fault.kind is Kind.STALL

    def _shut(self, link: Link, pipe: _Pipe) -> None:
        if not pipe.shut:
            pipe.shut_off()
            with contextlib.suppress(OSError):  # it is gone already, which shows when it is read
                link._sockets[_other(pipe.way)].shutdown(socket.SHUT_WR)

    def _watch(self, sock: socket.socket, events: int, data: object) -> None:
        key = self._selector.get_map().get(sock)
        if key is None:
            if events:
                self._selector.register(sock, events, data)
        elif not events:
            self._selector.unregister(sock)
        elif key.events != events:
            self._selector.modify(sock, events, data)


def _other(way: Way) -> Way:
    return DOWN if way == UP else UP
