"""Many clients of all kinds, for a long time, on a bad network; and the account of it.

All kinds of servers run here, and for each of them its share of the clients. A client connects through the fault
proxy, exchanges bursts of records for a while, and goes, or is cut off; then it comes back. Some connections are not
disturbed at all, so that there is something to compare with. When one is over, and its server has let go of it, its
records are accounted for: see tests/faults/records.py for what a trail tells.

What was *sent* and did not come back before the end is *unacknowledged*, and nothing can be said about it, but that it
came once at most, and in order. Everything else has to be there: it is *lost* if the server got a later record of the
same connection, or sent it back, without it; and in a connection that nobody cut, whatever is missing is.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import gc
import itertools
import os
import pathlib
import random
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from simplesockets.hpx import HPXError

from ..faults.cuts import LONGEST, our_threads, record_of
from ..faults.layers import LAYERS, HPXFlow, Service
from ..faults.records import Trail
from ..support.proxy import ENDINGS, Fault, FaultProxy, Link, random_faults
from ..support.running import open_descriptors
from ..support.waiting import wait_until

KINDS = ("polled", "raw", "framed", "hisock", "hpx")
"""The layers; the clients are shared out evenly."""
CUT_SHARE = 0.7
"""How many of the connections are cut."""
BURST = 8
"""Records that are sent before they are waited for, at most."""
BURSTS = 20
"""Bursts of a connection, at most."""
RATE = 200.0
"""Records that all clients together send in a second, about."""
REACH = (100, 20_000, 200_000)
"""Bytes after which a cut comes, at most; one of these."""
ON_ITS_WAY = 5.0
"""Seconds after the end of a connection in which the server may still be busy with what came before."""
STUCK = 120.0
"""Seconds: what takes longer than that goes on for ever. (More clients than the machine can serve all wait.)"""
MOST_TOLD = 50
"""Lines about violations that are kept."""
STAGES = ("after a fifth", "after two fifths", "after three fifths", "after four fifths", "at the end")
"""When it is looked at what the process holds."""
GROWTH = 16 * 1024 * 1024
"""Bytes of memory that the second half may add."""


@dataclass
class Figures:
    """What became of the records of a kind of clients."""

    connections: int = 0
    cut: int = 0
    refused: int = 0
    sent: int = 0
    received: int = 0
    returned: int = 0
    unacknowledged: int = 0
    lost: int = 0
    repeated: int = 0
    reordered: int = 0
    damaged: int = 0

    def add(self, other: Figures) -> None:
        """Sum up."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    @property
    def violated(self) -> int:
        """How many records something is wrong with."""
        return self.lost + self.repeated + self.reordered + self.damaged


@dataclass
class Resources:
    """What a process holds."""

    threads: int
    ours: int
    descriptors: int
    blocks: int  # of memory that Python objects take
    memory: int  # bytes, with what the C library keeps in reserve between them

    @classmethod
    def now(cls) -> Resources:
        """At this moment."""
        for _ in range(3):  # what has a finalizer goes in a later pass
            gc.collect()
        with contextlib.suppress(AttributeError):  # other C libraries have no such thing
            ctypes.CDLL(None).malloc_trim(0)
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
        return cls(
            threading.active_count(),
            len(our_threads()),
            open_descriptors(),
            sys.getallocatedblocks(),
            pages * os.sysconf("SC_PAGESIZE"),
        )

    def __str__(self) -> str:
        return (
            f"{self.threads} threads, {self.ours} of them of the package; {self.descriptors} descriptors; "
            f"{self.blocks:,} blocks; {self.memory / 2**20:.1f} MiB"
        )


@dataclass
class Account:
    """How it went."""

    clients: int
    seed: int
    seconds: float = 0.0
    by_kind: dict[str, Figures] = field(default_factory=lambda: {kind: Figures() for kind in KINDS})
    faults: collections.Counter[str] = field(default_factory=collections.Counter)
    stages: dict[str, Resources] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)

    @property
    def total(self) -> Figures:
        """Of all kinds."""
        total = Figures()
        for figures in self.by_kind.values():
            total.add(figures)
        return total

    def __str__(self) -> str:
        columns = list(vars(Figures()))
        rows = [("", *columns)]
        rows += [
            (kind, *(str(value) for value in vars(figures).values()))
            for kind, figures in [*self.by_kind.items(), ("all", self.total)]
        ]
        widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
        lines = [f"{self.clients} clients for {self.seconds:.0f} s, seed {self.seed}"]
        lines += ["  " + "  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in rows]
        lines.append("  faults: " + ", ".join(f"{count} {what}" for what, count in self.faults.most_common()))
        lines += [f"  {stage}: {resources}" for stage, resources in self.stages.items()]
        lines += [f"  VIOLATION: {each}" for each in self.violations] or ["  no violation"]
        return "\n".join(lines)


@dataclass
class Visit:
    """One connection of a client, which is over."""

    kind: str
    session: int
    """Of its records."""
    echoes: Trail
    sent: int
    opened: bool
    """Whether the client could be used."""
    complete: bool
    """Whether everything came back, and the client went by itself."""
    link: Link | None
    """What the proxy did to it; None if the client did not even get there."""
    ended: float


class Client:
    """One that comes again and again, in a thread of its own.

    Args:
        number: of the client.
        kind: its layer.
        soak: what it belongs to.
    """

    def __init__(self, number: int, kind: str, soak: Soak) -> None:
        self.visits: collections.deque[Visit] = collections.deque()
        """Those that are not accounted for yet."""
        self._number = number
        self._kind = kind
        self._soak = soak
        self._dice = random.Random(f"{soak.account.seed}/{number}")
        self._plan: list[Fault] = []
        self._route = soak.proxy.route(soak.services[kind].address, lambda _: self._plan, remembered=1)
        self._flow = LAYERS[kind].flow(self._route.address, False, patience=STUCK)
        self._turns = itertools.count(1)
        self.thread = threading.Thread(target=self._run, name=f"client {number}")

    def _run(self) -> None:
        soak = self._soak
        try:
            while not soak.over.wait(self._dice.uniform(0, soak.pause)):
                self.visits.append(self._visit(next(self._turns)))
                while self.visits[0].ended + ON_ITS_WAY < time.monotonic():
                    soak.settle(self.visits.popleft())
        except BaseException as failure:
            soak.complain(f"client {self._number} ({self._kind}) gave up: {failure!r}")
        finally:
            self._flow.close()
            if isinstance(self._flow, HPXFlow):
                self._flow.quit()

    def _visit(self, turn: int) -> Visit:
        session = self._number * 100_000 + turn
        cut, reach = self._dice.random() < CUT_SHARE, self._dice.choice(REACH)
        self._plan = random_faults(self._dice, (reach, reach), self._dice.choice(ENDINGS), seconds=0.1) if cut else []
        before = self._latest_link()
        opened, sent, complete = False, 0, False
        try:
            self._flow.open()
            opened = True
            sent, complete = self._exchange(session)
        except (OSError, HPXError):  # it was cut that early
            pass
        finally:
            self._flow.close()
        link = self._latest_link()
        if link is before:
            link = None
        return Visit(self._kind, session, self._flow.echoes, sent, opened, complete, link, time.monotonic())

    def _exchange(self, session: int) -> tuple[int, bool]:
        # How many records were sent, and whether nothing broke.
        flow, dice, sent = self._flow, self._dice, 0
        for _ in range(dice.randint(1, BURSTS)):
            for _ in range(dice.randint(1, BURST)):
                sent += 1
                try:
                    flow.send(record_of(session, sent - 1))
                except (OSError, HPXError):
                    return sent, False
            if not flow.wait(sent, STUCK):
                self._soak.complain(f"session {session} ({self._kind}): {flow.echoes.received} of {sent} came back")
                return sent, False
            if flow.echoes.received < sent or flow.over:
                return sent, False
            if self._soak.over.wait(dice.uniform(0, self._soak.pause)):
                break
        return sent, True

    def _latest_link(self) -> Link | None:
        return next(iter(reversed(self._route.links)), None)


class Soak:
    """Servers, a proxy, clients. :meth:`run` does it all, once.

    Args:
        clients: how many.
        seconds: for how long they come.
        seed: of what happens.
        rate: how many records a second they send together, about.
    """

    def __init__(self, clients: int, seconds: float, seed: int = 1, rate: float = RATE) -> None:
        self.account = Account(clients, seed)
        self.pause = (1 + BURST) * clients / rate
        """Seconds between bursts, at most."""
        self.over = threading.Event()
        """Whether the clients are to go."""
        self._seconds = seconds
        self._lock = threading.Lock()  # protects the account

    def run(self) -> Account:
        """Everything; takes some seconds longer than was asked for."""
        account = self.account
        account.stages["before"] = Resources.now()
        self.services: dict[str, Service] = {kind: LAYERS[kind].serve(False) for kind in KINDS}
        self.proxy = FaultProxy(lifetime=self._seconds + 600)
        try:
            clients = self._let_clients_come()
            self._check("links that do not end", lambda: self.proxy.open_links == 0)
            account.faults = self.proxy.counts
            for kind, service in self.services.items():
                self._check(f"{kind} keeps {service.present()} clients", lambda: service.present() == 0)  # noqa: B023
                self._check(f"hooks of {kind}", lambda: service.came == service.left)  # noqa: B023
        finally:
            self.proxy.close()
            for service in self.services.values():
                service.close()
        for client in clients:
            while client.visits:
                self.settle(client.visits.popleft())
        before = account.stages["before"]
        self._check("threads left behind", lambda: not our_threads() and threading.active_count() <= before.threads)
        self._check("descriptors left open", lambda: open_descriptors() <= before.descriptors)
        account.stages["after"] = Resources.now()
        self._judge()
        return account

    def _let_clients_come(self) -> list[Client]:
        clients = [Client(number, KINDS[number % len(KINDS)], self) for number in range(1, self.account.clients + 1)]
        began = time.monotonic()
        for client in clients:
            client.thread.start()
        try:
            for stage in STAGES:
                self.over.wait(self._seconds / len(STAGES))
                for service in self.services.values():
                    service.forget_kept()  # else it grows until the limits of that, which takes longer
                self.account.stages[stage] = Resources.now()
        finally:
            self.over.set()
            for client in clients:
                client.thread.join(2 * STUCK)
        self.account.seconds = time.monotonic() - began
        late = [client.thread.name for client in clients if client.thread.is_alive()]
        if late:
            self.complain(f"clients that do not end: {late}")
        return clients

    def complain(self, what: str) -> None:
        """Note a violation."""
        with self._lock:
            if len(self.account.violations) < MOST_TOLD:
                self.account.violations.append(what)

    def settle(self, visit: Visit) -> None:
        """A connection is over: account for it."""
        trail, echoes, link = self.services[visit.kind].ledger.take(visit.session), visit.echoes, visit.link
        cut = link is not None and link.suffered(*ENDINGS)
        missing = visit.sent - trail.next if visit.complete else max(0, echoes.next - trail.next)
        figures = Figures(
            connections=1,
            cut=int(cut),
            refused=int(not visit.opened),
            sent=visit.sent,
            received=trail.received,
            returned=echoes.received,
            unacknowledged=visit.sent - echoes.next,
            lost=missing + len(trail.missing) + len(echoes.missing),
            repeated=trail.repeated + echoes.repeated,
            reordered=trail.late + echoes.late,
            damaged=trail.damaged + echoes.damaged,
        )
        with self._lock:
            self.account.by_kind[visit.kind].add(figures)
        if figures.violated or trail.next > visit.sent:
            self.complain(f"{visit}: the server got {trail}")
        elif not visit.complete and not (cut or link is None or link.was_reset()):
            self.complain(f"{visit} broke off, though nobody cut it")
        elif link is not None and not link.over:
            self.complain(f"{visit}: its link goes on")

    def _check(self, what: str, holds: Callable[[], bool]) -> None:
        try:
            wait_until(holds, what, LONGEST)
        except AssertionError:
            self.complain(what)

    def _judge(self) -> None:
        total, stages = self.account.total, self.account.stages
        for kind, service in self.services.items():
            for damage in service.ledger.damaged:
                self.complain(f"{kind}: {damage}")
            if late := service.ledger.sessions():
                self.complain(f"{kind}: records of {late} came long after their connection had ended")
        if not total.returned:
            self.complain("nothing was exchanged at all")
        grown = stages[STAGES[-1]].memory - stages[STAGES[2]].memory
        if grown > GROWTH:
            self.complain(f"{grown / 2**20:.1f} MiB more memory than {STAGES[2]}")
