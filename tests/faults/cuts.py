"""Connections that are cut in the middle of transfers, again and again, and an account of what became of the records.

Some *lanes* work side by side, each with a client and a route of the fault proxy; in each round every lane connects,
sends records, and gets them back, until its connection is cut at a random place, perhaps after delays, stalls and
splits. Then, for each of them:

* what the server got is the beginning of what was sent, once and in order, and so is what came back;
* whatever came back the server has;
* where no reset was involved, and nothing is encrypted, the server got *all* records that the proxy passed on to it;
* the server forgot the client, ``on_connect`` and ``on_disconnect`` ran equally often, and no socket, and no thread of
  that connection, is left.

Meanwhile a bystander who is connected directly goes on exchanging records, and notes how long each takes.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import random
import statistics
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from simplesockets.hpx import HPXError

from ..support.proxy import ENDINGS, UP, Fault, FaultProxy, Kind, Link, random_faults
from ..support.running import open_descriptors
from ..support.waiting import PATIENCE, wait_until
from .layers import Flow, HPXFlow, Layer, Service
from .records import Trail, record

LANES = 5
SIZES = (0, 50, 1000, 20_000)
"""Bytes of the records' texts."""
REACH = ((30, 30), (3000, 3000), (30_000, 30_000), (200_000, 200_000))
"""Up to which byte, upwards and downwards, a cut may come."""
UNDISTURBED = 30
"""Records of a connection that is not cut."""
ENOUGH = 10
"""Violations after which a run is given up."""
LONGEST = 10.0
"""Seconds: nothing takes that long for a bystander, nor for a connection to end."""


@dataclass
class Account:
    """What happened in a run."""

    title: str
    kinds: collections.Counter[str] = field(default_factory=collections.Counter)
    connections: int = 0
    refused: int = 0
    """Connections that were cut before the client could use them."""
    sent: int = 0
    received: int = 0
    returned: int = 0
    quiet: list[float] = field(default_factory=list)
    """Seconds that the bystander's records took while nothing else happened, …"""
    loaded: list[float] = field(default_factory=list)
    """… while the others sent, and nothing was cut, …"""
    cutting: list[float] = field(default_factory=list)
    """… and while they were cut."""
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)

    @property
    def cuts(self) -> int:
        """How many connections were cut."""
        return sum(self.kinds.values())

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.kinds.items()))
        lines = [
            f"{self.title}: {self.cuts} connections cut ({kinds}) in {self.seconds:.1f} s",
            f"  records: {self.sent} sent, {self.received} received, {self.returned} acknowledged, "
            f"{self.sent - self.returned} unacknowledged; {self.refused} connections never came about",
            f"  the bystander's round trips: {describe(self.quiet)} alone, {describe(self.loaded)} beside others, "
            f"{describe(self.cutting)} beside others that are cut",
        ]
        verdict = [f"  VIOLATION: {each}" for each in self.violations] or ["  nothing lost, repeated, reordered, left"]
        return "\n".join([*lines, *verdict])


def describe(times: Sequence[float]) -> str:
    """Median, 99th percentile and maximum of seconds, in milliseconds."""
    if len(times) < 2:
        return "none"
    milliseconds = [1000 * each for each in times]
    p99 = statistics.quantiles(milliseconds, n=100, method="inclusive")[98]
    return f"median {statistics.median(milliseconds):.2f}, p99 {p99:.2f}, max {max(milliseconds):.2f} ms"


def our_threads() -> list[str]:
    """The names of the package's threads."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("simplesockets-")]


class Bystander:
    """A client that nothing happens to: exchanges records until :meth:`stop`.

    Args:
        flow: an open one.
        session: of its records.
        pause: seconds between them.
    """

    def __init__(self, flow: Flow, session: int, pause: float = 0.002) -> None:
        self.violations: list[str] = []
        self._flow = flow
        self._session = session
        self._pause = pause
        self._times: list[float] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bystander")
        self._thread.start()

    def _run(self) -> None:
        for number in itertools.count():
            if self._stopped.wait(self._pause):
                return
            began = time.perf_counter()
            try:
                self._flow.send(record(self._session, number, 50))
            except (OSError, HPXError) as failure:
                self.violations.append(f"the bystander could not send: {failure}")
                return
            if not self._flow.wait(number + 1, LONGEST) or self._flow.over:
                self.violations.append(f"the bystander's record {number} did not come back")
                return
            self._times.append(time.perf_counter() - began)

    def times(self, least: int = 0) -> list[float]:
        """How long the records took since this was called last; waits for so many of them."""
        wait_until(lambda: len(self._times) >= least or self.violations, "the bystander's records")
        taken, self._times = self._times, []
        return taken

    def stop(self) -> None:
        """End it, and look whether everything came once and in order."""
        self._stopped.set()
        self._thread.join(PATIENCE)
        self.violations += [f"the bystander: {fault}" for fault in self._flow.echoes.faults()]


@dataclass
class Attempt:
    """One connection of a lane, which is over."""

    session: int
    kind: Kind | None
    """How it was to end; None: in good order."""
    sent: int
    opened: bool
    """Whether the client could be used."""
    echoes: Trail
    link: Link | None
    """What the proxy did to it; None if the client did not even get there."""
    seconds: float


class Lane:
    """A client, again and again, through a route of its own.

    Args:
        number: of the lane.
        seed: of what happens to it.
        proxy: what makes it happen.
        service: where the route leads to.
        layer, tls: of the service.
    """

    def __init__(self, number: int, seed: int, proxy: FaultProxy, service: Service, layer: Layer, tls: bool) -> None:
        self._number = number
        self._seed = seed
        self._plan: Sequence[Fault] = ()
        self._route = proxy.route(service.address, lambda _: self._plan)
        self._flow = layer.flow(self._route.address, tls)

    def attempt(self, turn: int, disturbed: bool) -> Attempt:
        """One connection: until it is cut, or undisturbed."""
        session = turn * 100 + self._number
        dice = random.Random(f"{self._seed}/{session}")
        kind = dice.choice(ENDINGS) if disturbed else None
        self._plan = random_faults(dice, dice.choice(REACH), kind) if disturbed else ()
        before = next(iter(reversed(self._route.links)), None)
        began = time.monotonic()
        sent, opened = 0, False
        try:
            self._flow.open()
            opened = True
            sent = send_records(self._flow, session, dice, None if disturbed else UNDISTURBED)
        except (OSError, HPXError):  # it was cut that early
            pass
        finally:
            self._flow.close()
        seconds = time.monotonic() - began
        link = next(iter(reversed(self._route.links)), None)
        return Attempt(session, kind, sent, opened, self._flow.echoes, None if link is before else link, seconds)

    def close(self) -> None:
        """End the client for good."""
        if isinstance(self._flow, HPXFlow):
            self._flow.quit()


def record_of(session: int, number: int) -> bytes:
    """That record; its size looks random, but is always the same."""
    return record(session, number, SIZES[zlib.crc32(b"%d/%d" % (session, number)) % len(SIZES)])


def send_records(flow: Flow, session: int, dice: random.Random, most: int | None) -> int:
    """Send records in bursts, each after the one before came back, until the connection ends, or until so many came
    back. Returns how many were sent."""
    pauses = dice.choice([0.02, 0.1, 0.5])
    for sent in itertools.count(1):
        try:
            flow.send(record_of(session, sent - 1))
        except (OSError, HPXError):
            break
        if (sent == most or dice.random() < pauses) and (not flow.wait(sent) or flow.over or sent == most):
            break
    return sent


class Run:
    """A server, a bystander, lanes through a proxy, and the account of it. A context manager.

    Args:
        layer: which protocol.
        tls: whether it is encrypted.
        seed: for the same faults again.
    """

    def __init__(self, layer: Layer, tls: bool, seed: int) -> None:
        self.account = Account(f"{layer.name}{' over TLS' if tls else ''}, seed {seed}")
        self._layer = layer
        self._tls = tls
        self._descriptors = open_descriptors()
        self._service = layer.serve(tls)
        self._proxy = FaultProxy(lifetime=3600)
        self._lanes = [Lane(number, seed, self._proxy, self._service, layer, tls) for number in range(1, LANES + 1)]
        self._beside = layer.flow(self._service.address, tls)
        self._beside.open()
        self._bystander = Bystander(self._beside, session=0)
        self._pool = ThreadPoolExecutor(LANES, "lane")
        self._turns = itertools.count(1)
        self._level = 0  # descriptors that are open between two rounds

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
        self._bystander.stop()
        self.account.cutting += self._bystander.times()
        self._beside.close()
        if isinstance(self._beside, HPXFlow):
            self._beside.quit()
        for lane in self._lanes:
            lane.close()
        self._service.close()
        self._proxy.close()
        self._check("threads left behind", lambda: not our_threads(), our_threads)
        self._check("descriptors left open", lambda: open_descriptors() <= self._descriptors, open_descriptors)
        self.account.violations += [*self._bystander.violations, *self._service.ledger.damaged]

    def cut(self, cuts: int, samples: int = 200) -> None:
        """Go on until so many connections were cut, or something is wrong.

        Args:
            cuts: how many.
            samples: of the bystander's times that are to be compared with.
        """
        account = self.account
        account.quiet += self._bystander.times(least=samples)
        while len(account.loaded) < samples and not account.violations:
            self._round(disturbed=False)
            account.loaded += self._bystander.times()
        self._level = open_descriptors()  # everything is there now that stays
        began = time.monotonic()
        while account.cuts < cuts and len(account.violations) < ENOUGH:
            self._round()
            account.cutting += self._bystander.times()
        account.seconds += time.monotonic() - began

    def _round(self, disturbed: bool = True) -> None:
        turn = next(self._turns)
        attempts = list(self._pool.map(lambda lane: lane.attempt(turn, disturbed), self._lanes))
        self._check("links that do not end", lambda: self._proxy.open_links == 0, lambda: attempts)
        self._check("clients that the server keeps", lambda: self._service.present() == 1, self._service.present)
        self._check("hooks that ran too often, or not", self._hooks_agree, self._hooks)
        self._check("threads that go on", lambda: not self._threads_of(attempts), our_threads)
        if self._level:
            self._check("sockets left open", lambda: open_descriptors() <= self._level, open_descriptors)
        for attempt in attempts:
            self._judge(attempt)

    def _hooks_agree(self) -> bool:
        return self._service.came - self._service.left == (1 if self._service.came else 0)

    def _threads_of(self, attempts: Sequence[Attempt]) -> list[str]:
        # As the server sees them.
        ports = {attempt.link.local[1] for attempt in attempts if attempt.link and attempt.link.local}
        return [name for name in our_threads() if name.rpartition(":")[2] in map(str, ports)]

    def _hooks(self) -> str:
        return f"{self._service.came} came, {self._service.left} left"

    def _check(self, what: str, holds: Callable[[], bool], found: Callable[[], object]) -> None:
        try:
            wait_until(holds, what, LONGEST)
        except AssertionError:
            self.account.violations.append(f"{what}: {found()}")

    def _judge(self, attempt: Attempt) -> None:
        link, account = attempt.link, self.account
        wanted = self._least_received(attempt)
        with contextlib.suppress(AssertionError):  # what is missing shows below
            wait_until(lambda: self._service.ledger.received(attempt.session) >= wanted, "the records", LONGEST)
        trail, echoes = self._service.ledger.take(attempt.session), attempt.echoes
        account.connections += 1
        account.refused += not attempt.opened
        account.sent += attempt.sent
        account.received += trail.received
        account.returned += echoes.received
        wrong = [f"the server got {fault}" for fault in trail.faults()]
        wrong += [f"the client got {fault}" for fault in echoes.faults()]
        if not (echoes.next if attempt.kind else attempt.sent) <= trail.next <= attempt.sent:
            wrong.append(f"{attempt.sent} sent, {trail.next} received, {echoes.next} acknowledged")
        if trail.received < wanted:
            wrong.append(f"only {trail.received} of {wanted} records were received that reached the server")
        if attempt.seconds > LONGEST:
            wrong.append(f"it took {attempt.seconds:.1f} s")
        if attempt.kind is not None:
            account.kinds[attempt.kind.value] += 1
            if link is None or not link.suffered(attempt.kind):
                wrong.append("it ended before it was cut")
        account.violations += [f"session {attempt.session}: {fault} ({link})" for fault in wrong]

    def _least_received(self, attempt: Attempt) -> int:
        # How many whole records the proxy passed on; where that can be said.
        link = attempt.link
        if link is None or link.was_reset() or self._tls or self._layer.wire_size is None:
            return 0
        left = link.passed(UP) - self._layer.preface
        for number in range(attempt.sent):
            left -= self._layer.wire_size(record_of(attempt.session, number))
            if left < 0:
                return number
        return attempt.sent
