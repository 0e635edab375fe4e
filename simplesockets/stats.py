"""What servers and clients count, and the records that tell of it.

The theory. Counting must cost nothing where every message passes. So a connection counts for itself, in plain numbers
that only one thread at a time changes: what comes in belongs to its reader (connection.py), what goes out to who holds
the stream's write lock (transport.py). Nobody adds anything up until somebody asks. Then the :class:`Ledger` adds the
connections that are open to those that ended, which it has as one sum: each leaves when its socket is closed, when
nobody sends or reads any more, and exactly once. So no count is missed, none counts twice, and none ever goes down.

What is counted:

* *Bytes* are the program's, with what its protocol puts around messages (a length, a delimiter). With TLS they are
  counted before they are encrypted. What came after the program had hung up was read by nobody, and is not counted; nor
  is what the program reads from, or writes to, a socket itself.
* *Messages* in are the items that the protocol made: without one, as many as there were reads. Messages out are calls
  that send something, and what the protocol says of its own accord.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from heapq import nlargest
from typing import NamedTuple
from typing import Protocol as Interface

from typing_extensions import Self

WINDOW = 5.0
"""Seconds over which rates are measured, where somebody asks that often."""
SPACING = 0.5
"""Seconds between two counts that are kept for that, at least."""


# ---------------------------------------------------------------------------------------------------- records


class Counts(NamedTuple):
    """What passed over one connection, or several together."""

    bytes_in: int = 0
    bytes_out: int = 0
    messages_in: int = 0
    messages_out: int = 0


@dataclass(frozen=True, slots=True)
class Rates:
    """How much there was per second, measured over the last ``seconds``.

    These are five, where statistics are asked for that often. Else they are those since the time before; the first
    time, all since the beginning.
    """

    seconds: float = 0.0
    connections: float = 0.0
    bytes_in: float = 0.0
    bytes_out: float = 0.0
    messages_in: float = 0.0
    messages_out: float = 0.0


@dataclass(frozen=True, slots=True)
class Stats:
    """What a server or client counted since it was made. The module's text says what counts as what."""

    since: float
    """When it began to count: seconds since 1970."""
    time: float
    """When this was counted."""
    connections: int
    """Connections now."""
    connections_total: int
    """Connections that were made, or accepted."""
    refused: int
    """Connections that were refused, because of ``max_per_address``."""
    bytes_in: int
    """Bytes that were received."""
    bytes_out: int
    """Bytes that the system took to send."""
    messages_in: int
    """Messages that were received; without a protocol, reads."""
    messages_out: int
    """Messages that were sent."""
    errors: int
    """Exceptions that were recorded (``event.exception``), or that handlers and functions raised."""
    queued: int
    """Messages that were received and wait to be fetched. With ``on_receive`` the copies that are kept for polling."""
    queued_bytes: int
    """Bytes of them."""
    pending_out: int
    """Bytes that were given to be sent and have not arrived yet, as far as the system tells."""
    rates: Rates
    """The same per second, lately."""
    commands: Mapping[str, int] = field(default_factory=dict, hash=False)
    """HiSock: messages received, by the handler that they are for; ``"*"`` is all the others. Else empty."""

    def as_dict(self) -> dict[str, object]:
        """The same as a dictionary of numbers and dictionaries, as JSON has them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, given: object) -> Self:
        """The record of which :meth:`as_dict` made this.

        Raises:
            ValueError: it is none; the message names what is missing or wrong.
        """
        known = _required("statistics", given)
        commands = known.get("commands")
        if not isinstance(commands, dict) or not all(_is_number(count) for count in commands.values()):
            raise ValueError(f"these are no statistics: commands is {commands!r}")
        rates = _numbers(Rates, _required("rates", known.get("rates")))
        numbers = _numbers(cls, known, but=("rates", "commands"))
        return cls(**numbers, rates=Rates(**rates), commands=commands)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class ClientStats:
    """What passed over one client's connection so far."""

    client: str
    """Its ``ip:port``."""
    bytes_in: int
    bytes_out: int
    messages_in: int
    messages_out: int
    rate: float = 0.0
    """Bytes per second in both directions, where somebody watches (:class:`Busiest`)."""

    @classmethod
    def from_dict(cls, given: object) -> Self:
        """The record that ``dataclasses.asdict()`` made this of.

        Raises:
            ValueError: it is none.
        """
        known = _required("a client's statistics", given)
        client = known.get("client")
        if not isinstance(client, str):
            raise ValueError(f"these are no statistics of a client: client is {client!r}")
        return cls(client, **_numbers(cls, known, but=("client",)))  # type: ignore[arg-type]


def _required(what: str, given: object) -> dict[str, object]:
    if not isinstance(given, dict):
        raise ValueError(f"{what} should be a dictionary, not {given!r}")
    return given


def _is_number(value: object) -> bool:
    # Nothing has so many of anything; and what is no number at all is not less, either.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e18


def _numbers(
    of: type[Stats | Rates | ClientStats], given: dict[str, object], but: Iterable[str] = ()
) -> dict[str, object]:
    names = [each.name for each in dataclasses.fields(of) if each.name not in but]
    for name in names:
        if not _is_number(given.get(name)):
            raise ValueError(f"these are no statistics: {name} is {given.get(name)!r}")
    return {name: given[name] for name in names}


# ----------------------------------------------------------------------------------------------------- counting


class Counted(Interface):
    """What counts for itself: a connection."""

    def counts(self) -> Counts:
        """What passed so far. Any thread may ask."""


class Tally(NamedTuple):
    """What a ledger adds up to."""

    connections_total: int
    refused: int
    counts: Counts
    rates: Rates


class _Sample(NamedTuple):
    at: float  # of the monotonic clock
    connections: int
    counts: Counts


class Ledger:
    """The connections of one server or client, those that ended as one sum. Any thread may call everything.

    Args:
        clock: gives seconds, steadily rising; for tests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.since = time.time()
        """When it began: seconds since 1970."""
        self._clock = clock
        self._lock = threading.RLock()  # protects what follows; never held across I/O or user code
        self._open: set[Counted] = set()
        self._ended = Counts()
        self._connections = 0
        self._refused = 0
        self._samples = deque([_Sample(clock(), 0, self._ended)])

    @property
    def connections(self) -> int:
        """How many there were so far."""
        return self._connections

    def enter(self, connection: Counted) -> None:
        """It was made, and counts from now on."""
        with self._lock:
            self._open.add(connection)
            self._connections += 1

    def leave(self, connection: Counted) -> None:
        """It is closed, and counts no more than it did. May be repeated."""
        with self._lock:
            if connection in self._open:
                self._open.remove(connection)
                self._ended = _sum((self._ended, connection.counts()))

    def refuse(self) -> None:
        """A connection was refused."""
        with self._lock:
            self._refused += 1

    def add_up(self) -> Tally:
        """All that was counted so far."""
        with self._lock:
            counts = _sum((self._ended, *(connection.counts() for connection in self._open.copy())))
            return Tally(self._connections, self._refused, counts, self._rates(counts))

    def _rates(self, counts: Counts) -> Rates:
        # Under the lock. The oldest sample is as old as the window, or the one before is.
        now = _Sample(self._clock(), self._connections, counts)
        while len(self._samples) > 1 and now.at - self._samples[1].at >= WINDOW:
            self._samples.popleft()
        then = self._samples[0]
        if now.at - self._samples[-1].at >= SPACING:
            self._samples.append(now)
        seconds = now.at - then.at
        if seconds <= 0:
            return Rates()
        passed = ((new - old) / seconds for new, old in zip(counts, then.counts, strict=True))
        return Rates(seconds, (now.connections - then.connections) / seconds, *passed)


def _sum(all_counts: Iterable[Counts]) -> Counts:
    return Counts(*map(sum, zip(*all_counts, strict=True)))


class Busiest:
    """Finds the clients over whose connections most passes. For one watcher; not for several threads at once."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}  # bytes that each client had at the latest look
        self._looked: float | None = None

    def look(self, clients: Iterable[ClientStats], count: int, now: float) -> tuple[ClientStats, ...]:
        """So many clients at most, the busiest since the latest look first; at the first one, since they came.

        Args:
            clients: all of them.
            count: how many to give.
            now: the time, in seconds of any steadily rising clock.
        """
        known = {each.client: each for each in clients}
        moved = {name: each.bytes_in + each.bytes_out for name, each in known.items()}
        # Who has less than before is somebody else, with the same address.
        news = {
            name: total - seen if total >= (seen := self._seen.get(name, 0)) else total for name, total in moved.items()
        }
        seconds = 0.0 if self._looked is None else now - self._looked
        self._seen, self._looked = moved, now
        first = nlargest(count, known, key=lambda name: (news[name], moved[name]))
        return tuple(
            dataclasses.replace(known[name], rate=news[name] / seconds if seconds > 0 else 0.0) for name in first
        )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What there is to see at one moment."""

    title: str
    """What is watched."""
    stats: Stats
    clients: tuple[ClientStats, ...]
    """The busiest ones."""

    def as_dict(self) -> dict[str, object]:
        """The same as a dictionary that JSON can say."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, given: object) -> Self:
        """The snapshot of which :meth:`as_dict` made this.

        Raises:
            ValueError: it is none.
        """
        known = _required("a snapshot", given)
        title, clients = known.get("title"), known.get("clients")
        if not isinstance(title, str) or not isinstance(clients, (list, tuple)):
            raise ValueError("this is no snapshot: title or clients are missing")
        return cls(title, Stats.from_dict(known.get("stats")), tuple(ClientStats.from_dict(each) for each in clients))
