"""Numbered messages, and what became of them: lost, repeated, out of order, damaged.

A record says to which *session* (one client's connection) it belongs, its number there, its length, and a checksum
of its text. All of it is ASCII, so that every protocol can carry it. Who receives records keeps a :class:`Trail` for
each session.
"""

from __future__ import annotations

import random
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

HEAD = 32
"""Bytes before a record's text."""
MOST = 64 * 1024
"""Bytes of a record's text at most."""

_TEXT = bytes(random.Random(1).choices(b"abcdefghijklmnopqrstuvwxyz0123456789 .,-", k=2 * MOST))


class Damaged(ValueError):
    """What was received is not what was sent."""


def record(session: int, number: int, size: int) -> bytes:
    """A record with a text of so many bytes."""
    start = (session * 31 + number * 17) % MOST
    text = _TEXT[start : start + size]
    return b"%08x%08x%08x%08x" % (session, number, size, zlib.crc32(text)) + text


def read_record(data: bytes) -> tuple[int, int]:
    """The session and the number of a whole record.

    Raises:
        Damaged: it is none.
    """
    try:
        session, number, size, checksum = (int(data[place : place + 8], 16) for place in range(0, HEAD, 8))
    except ValueError as failure:
        raise Damaged(f"no record begins with {data[:HEAD]!r}") from failure
    if len(data) != HEAD + size or zlib.crc32(data[HEAD:]) != checksum:
        raise Damaged(f"record {number} of session {session} has {len(data) - HEAD} bytes that are not its {size}")
    return session, number


class Records:
    """Reads records from a stream."""

    def __init__(self) -> None:
        self._kept = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, int]]:
        """Take what was received; yield the records that it completes, as :func:`read_record` gives them."""
        self._kept += data
        while len(self._kept) >= HEAD:
            end = HEAD + int(self._kept[16:24], 16)
            if len(self._kept) < end:
                return
            whole, self._kept = self._kept[:end], self._kept[end:]
            yield read_record(whole)


@dataclass
class Trail:
    """The records of one session, as somebody received them. They are numbered from 0."""

    next: int = 0
    received: int = 0
    repeated: int = 0
    late: int = 0
    """Records that came after one with a higher number."""
    damaged: int = 0
    """How often something came that was no record, or that its receiver could not cope with."""
    missing: set[int] = field(default_factory=set)
    """Numbers that are lower than one which came."""

    def note(self, number: int) -> None:
        """A record came."""
        self.received += 1
        if number >= self.next:
            self.missing.update(range(self.next, number))
            self.next = number + 1
        elif number in self.missing:
            self.missing.discard(number)
            self.late += 1
        else:
            self.repeated += 1

    def note_damage(self) -> None:
        """Something came that was none."""
        self.received += 1
        self.damaged += 1

    def faults(self) -> list[str]:
        """What is wrong with it, in words."""
        found = {
            "lost": len(self.missing),
            "repeated": self.repeated,
            "out of order": self.late,
            "damaged": self.damaged,
        }
        return [f"{count} {what}" for what, count in found.items() if count]


class Ledger:
    """The trails of all sessions at a server. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # protects what follows
        self._trails: dict[int, Trail] = {}
        self.damaged: list[str] = []
        """What came and was no record."""

    def note(self, session: int, number: int) -> None:
        """A record came."""
        with self._lock:
            self._trails.setdefault(session, Trail()).note(number)

    def read(self, data: bytes) -> None:
        """A whole record came."""
        try:
            self.note(*read_record(data))
        except Damaged as failure:
            self.damaged.append(str(failure))

    def read_stream(self, records: Records, data: bytes) -> None:
        """A piece of a stream of records came."""
        try:
            for session, number in records.feed(data):
                self.note(session, number)
        except ValueError as failure:
            self.damaged.append(str(failure))

    def take(self, session: int) -> Trail:
        """What came of a session, which is over; it is forgotten here."""
        with self._lock:
            return self._trails.pop(session, None) or Trail()

    def sessions(self) -> list[int]:
        """Those of which something came, and that were not taken."""
        with self._lock:
            return list(self._trails)

    def received(self, session: int) -> int:
        """How many records of a session came so far."""
        with self._lock:
            trail = self._trails.get(session)
        return 0 if trail is None else trail.received
