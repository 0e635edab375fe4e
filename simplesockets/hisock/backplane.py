"""What connects the nodes of a service: a log that all of them append to and read. Pure.

A *node* is a HiSockServer with ``backplane=``. Everything that a node has to say to the others, messages for their
clients as well as who joined and left, goes into one log, as entries that every node reads in the same order. So a
backplane needs two things only, :class:`Writer` and :class:`Reader`; redis_backplane.py has those for Redis. Who is
connected where is known from the log, too: each node says so from time to time (``state``, and ``beat`` to show that it
is still there), and one that says nothing for too long is taken for dead (neighbours.py). No table has to be kept
elsewhere, and none can be wrong after an outage.

An entry is a line of JSON, with its content behind that line. It begins with the node's name, the entry's number
(``seq``) and that of the node's latest message (``latest``), each rising by one: so a reader drops what it got twice,
and knows exactly how many messages it missed.

    ==========  =======================================  ==============================================================
    entry       details                                  meaning
    ==========  =======================================  ==============================================================
    ``state``   ``[asks, [row, …]]``                     these are all of my clients; and, maybe: who are yours?
    ``ask``     ``[node]``                               that node should send its state
    ``beat``    ``[]``                                   I am here
    ``bye``     ``[]``                                   I am closed, and my clients are gone
    ``join``    ``[row]``                                a client of mine came
    ``told``    ``[host, port, number, heard]``          my clients heard of it, so yours should
    ``change``  ``[host, port, number, name, group]``    it has another name or group
    ``leave``   ``[host, port, number]``                 it is gone
    ``send``    ``[target, command]`` and the content    for your clients; without a command it is raw content
    ``kick``    ``[target, force, call]``                disconnect them
    ==========  =======================================  ==============================================================

``send`` and ``kick`` are the messages. A row is ``[host, port, number, name, group, modern, heard]``; a target
``["all"]``, ``["group", name]`` or ``["client", node, host, port, number]``. The number is a client's time of
connecting in nanoseconds, which tells it from an earlier one with the same address.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, cast

from ..errors import ProtocolError

LEASE = 15.0
"""Seconds within which the clients of a node that died are gone from all others, by default."""
MAX_OUTBOX = 16 * 1024 * 1024
"""Bytes of entries that may wait for the backplane, by default."""
WINDOW = 1000
"""Entries on their way from a node to itself, by default."""
MESSAGES = ("send", "kick")
"""The entries that are counted as messages."""

Target = tuple[str | int | None, ...]
"""For whom a message is; see above."""
EVERYBODY: Target = ("all",)


class Read(NamedTuple):
    """What a reader found."""

    entries: list[bytes]
    latest: bool
    """Whether these were all that the log had when it was asked."""
    at: float = 0.0
    """When the last of them was appended: seconds of the log's clock. Needed only where there is more."""


class Writer(Protocol):
    """A connection to append by; one thread uses it."""

    def append(self, entries: Sequence[bytes]) -> None:
        """Append these, in this order. Raises an OSError where it cannot be known that all of them were."""

    def interrupt(self) -> None:
        """Have a call that waits in another thread fail at once."""

    def close(self) -> None:
        """End the connection."""


class Reader(Protocol):
    """A connection to read by; one thread uses it."""

    position: str
    """Behind what was read so far, to go on from there with another connection."""

    def read(self, wait: float) -> Read:
        """What comes next, in order; waits for something for so many seconds at most. Raises OSErrors."""

    def interrupt(self) -> None:
        """Have a call that waits in another thread fail at once."""

    def close(self) -> None:
        """End the connection."""


class Backplane(ABC):
    """A log that all nodes share, and how they use it.

    Args:
        lease: seconds within which the clients of a node that died are gone from all others. The same on all nodes.
        max_outbox: bytes of entries that may wait at one node while the backplane is away; beyond that the oldest
            messages are dropped, and counted.
        window: how many entries a node may have appended without having read them itself, so that the log need not
            hold more than all nodes' windows for those who read as fast as it is written.
    """

    def __init__(self, lease: float = LEASE, max_outbox: int = MAX_OUTBOX, window: int = WINDOW) -> None:
        self.lease = lease
        self.max_outbox = max_outbox
        self.window = window

    @abstractmethod
    def writer(self) -> Writer:
        """Connect. Raises an OSError where that fails."""

    @abstractmethod
    def reader(self, position: str | None) -> Reader:
        """Connect, to read from a position on; None is the end of the log as it is now. Raises OSErrors."""


class Row(NamedTuple):
    """A client, as other nodes know it."""

    host: str
    port: int
    number: int
    name: str | None
    group: str | None
    modern: bool
    heard: int


class Entry(NamedTuple):
    """An entry of the log."""

    node: str
    seq: int
    latest: int
    kind: str
    details: Sequence[object]
    body: bytes = b""

    @property
    def is_message(self) -> bool:
        """Whether it is counted as one."""
        return self.kind in MESSAGES

    def packed(self) -> bytes:
        """As it is written."""
        return json.dumps(self[:5], separators=(",", ":")).encode() + b"\n" + self.body


_Forms = tuple[type | tuple[type, ...], ...]
_TEXT = (str, type(None))
_ENTRY: _Forms = (str, int, int, str, list)
_ROW: _Forms = (str, int, int, _TEXT, _TEXT, bool, int)
_FORMS: dict[str, _Forms] = {
    "state": (bool, list),
    "ask": (str,),
    "beat": (),
    "bye": (),
    "join": (list,),
    "told": (str, int, int, int),
    "change": (str, int, int, _TEXT, _TEXT),
    "leave": (str, int, int),
    "send": (list, _TEXT),
    "kick": (list, bool, bool),
}


def unpack(data: bytes) -> Entry:
    """Read an entry.

    Raises:
        ProtocolError: it is none; other programs, or other releases, may use the same log.
    """
    line, _, body = data.partition(b"\n")
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as failure:
        raise ProtocolError(f"this is no entry of a backplane: {data[:100]!r}") from failure
    if not _fits(fields, _ENTRY) or not _fits(fields[4], _FORMS.get(fields[3])):
        raise ProtocolError(f"this is no entry of a backplane: {data[:100]!r}")
    node, seq, latest, kind, details = fields
    return Entry(node, seq, latest, kind, details, body)


def read_row(given: object) -> Row:
    """Read a row.

    Raises:
        ProtocolError: it is none.
    """
    if not _fits(given, _ROW):
        raise ProtocolError(f"this is no client of a node: {given!r:.100}")
    return Row(*cast("list[Any]", given))


def _fits(values: object, forms: _Forms | None) -> bool:
    return (
        forms is not None
        and isinstance(values, list)
        and len(values) == len(forms)
        and all(map(isinstance, values, forms))
    )
