"""Between a node and its backplane: the outbox, the thread that empties it, and the thread that reads.

Nobody waits for the backplane. What the node has to say waits in the outbox; while the backplane is away, it stays
there, and if it becomes too much, the oldest goes, which is counted. Both threads connect again, after pauses that
grow, for as long as the node lives.

Entries get their numbers when the publishing thread takes them out. If its connection breaks, nobody knows which of
them were appended, so they are appended once more, as they are; readers drop what they get twice. After each connecting
comes the state, which takes the place of all that waits about clients. So the others know what is true now, whatever
was lost.

A node reads its own entries, too, and appends only so many more before it did (``window``): a sender is slowed down to
what its own reading thread manages, and so, about, to what the others' do.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import closing

from ..dispatch import Journal
from ..errors import ProtocolError
from ..locking import is_mine
from ..mailbox import Bell, EventQueue, mark_own_thread
from ..timing import Backoff, Deadline
from .backplane import MESSAGES, Backplane, Entry, Reader, Row, Writer, unpack
from .errors import BackplaneError

log = logging.getLogger("simplesockets.hisock")

BATCH = 256
"""Entries that are appended in one go, at most."""
BATCH_BYTES = 1024 * 1024
"""Bytes of them, unless one alone has more."""
ENTRY_COST = 200
"""Bytes that each entry counts for, beside its content."""
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 5.0
"""Seconds between two tries to connect."""


class _Waiting:
    """An entry that is to be appended."""

    __slots__ = ("body", "details", "kind", "number", "packed")

    def __init__(self, kind: str, details: tuple[object, ...], body: bytes, number: int) -> None:
        self.kind = kind
        self.details = details
        self.body = body
        self.number = number  # of a message
        self.packed = b""

    @property
    def size(self) -> int:
        return len(self.body) + ENTRY_COST


class _Line:
    """One of the two connections: how it fares."""

    def __init__(self, purpose: str, longest_pause: float) -> None:
        self.purpose = purpose
        self.end: Writer | Reader | None = None
        self.backoff = Backoff(min(FIRST_PAUSE, longest_pause), longest_pause, jitter=0.5)
        self.failures = 0


class Exchange:
    """The two threads and the outbox.

    Args:
        backplane: where to.
        node: the name of this node.
        name: begins the threads' names.
        lock: the node's lock over its clients: so nothing comes between a state and the changes that follow it.
        rows: gives all clients of this node, under the lock.
        heard: called for each entry of other nodes, by the reading thread, with the time of the log's clock.
        looked: likewise, after entries were read: the latest of all, as it was at that time; or not, but those up to
            that time of the log's clock.
        resumed: likewise, when the backplane was away until now, or takes nothing.
    """

    def __init__(
        self,
        backplane: Backplane,
        node: str,
        name: str,
        lock: threading.RLock,
        rows: Callable[[], list[Row]],
        heard: Callable[[Entry, float], None],
        looked: Callable[[bool, float], None],
        resumed: Callable[[], None],
    ) -> None:
        self._backplane = backplane
        self._node = node
        self._rows = rows
        self._heard = heard
        self._looked = looked
        self._resumed = resumed
        self._bell = Bell()
        self.journal = Journal(self._bell, EventQueue(self._bell))
        pause = min(LONGEST_PAUSE, backplane.lease / 4)  # so that it is back before it is taken for dead
        self._writing, self._reading = _Line("publish", pause), _Line("read", pause)
        self._lock = lock  # protects what follows; never held across I/O or user code
        self._waiting: deque[_Waiting] = deque()
        self._size = 0
        self._in_flight: list[_Waiting] = []
        self._numbered = self._passed = 0  # messages: given a number, appended
        self._seq = self._echoed = 0  # entries: given a number, read again
        self._state_due = self._asking = True
        self._position: str | None = None
        self._closing = self._over = False
        self._patient_until = 0.0  # how long who closed first lets what waits be published
        self._untold = 0  # messages that were dropped, of which nothing was said yet
        self.published = 0
        self.dropped = 0
        self._threads = [
            threading.Thread(target=target, name=f"{name}-{purpose}", daemon=True)
            for target, purpose in ((self._publish, "publisher"), (self._read, "reader"))
        ]

    def start(self) -> None:
        """Begin, in the background."""
        for thread in self._threads:
            thread.start()

    @property
    def connected(self) -> bool:
        """Whether both connections are there."""
        return self._writing.end is not None and self._reading.end is not None

    @property
    def waiting(self) -> int:
        """Messages that are not published yet."""
        with self._lock:
            return sum(entry.number > 0 for entry in [*self._in_flight, *self._waiting])

    def post(self, kind: str, *details: object, body: bytes = b"") -> None:
        """Have an entry appended. Never waits."""
        with self._lock:
            number = 0
            if kind in MESSAGES:
                self._numbered += 1
                number = self._numbered
            entry = _Waiting(kind, details, body, number)
            if self._over or (self._closing and kind != "bye"):
                self._drop(entry)
                return
            self._waiting.append(entry)
            self._size += entry.size
            while self._size > self._backplane.max_outbox and len(self._waiting) > 1:
                self._drop_oldest()
        self._bell.ring()

    def announce(self) -> None:
        """Have the state appended, before all that waits."""
        with self._lock:
            self._state_due = True
        self._bell.ring()

    def _drop_oldest(self) -> None:
        # Under the lock.
        entry = self._waiting.popleft()
        self._size -= entry.size
        self._drop(entry)

    def _drop(self, entry: _Waiting) -> None:
        # Under the lock.
        if entry.number:
            self.dropped += 1
            self._untold += 1
        else:
            self._state_due = True  # which has it, but for questions: they are asked again

    def close(self, deadline: Deadline) -> list[str]:
        """Append what waits, if that is possible now, and a farewell; end the threads. May be repeated.

        Returns:
            The names of threads that are busy for longer.
        """
        patience = (deadline.left(time.monotonic()) or 0.0) / 2
        with self._lock:
            if not self._closing:
                self._closing = True
                self.post("bye")
        self._bell.ring()
        if is_mine(self._lock):
            return []  # in a signal handler that interrupted whoever has it: the threads do the rest once that goes on
        until = time.monotonic() + patience
        with self._lock:
            self._patient_until = self._patient_until or until
        publisher, _ = self._threads
        self._join(publisher, patience)
        if publisher.is_alive() and until < self._patient_until:
            return []  # somebody else was first to close, has more time (the loop closes, too), and does the rest
        self._over = True
        self._bell.ring()
        for line in (self._writing, self._reading):
            if (end := line.end) is not None:
                end.interrupt()
        for thread in self._threads:
            self._join(thread, deadline.left(time.monotonic()))
        self._tell_dropped()
        return [thread.name for thread in self._threads if thread.is_alive()]

    def _join(self, thread: threading.Thread, seconds: float | None) -> None:
        if thread is not threading.current_thread() and thread.ident is not None:
            thread.join(seconds)

    # ------------------------------------------------------------------------------------------------- publishing

    def _publish(self) -> None:
        mark_own_thread()
        while not self._over:
            try:
                with closing(self._backplane.writer()) as writer:
                    self._came(self._writing, writer)
                    self._write_to(writer)
            except Exception as failure:  # whatever it is: the node has no other thread for this
                self._went(self._writing, failure)
                if self._closing:
                    break
        with self._lock:
            self._over = True
            for entry in [*self._in_flight, *self._waiting]:
                self._drop(entry)
            self._in_flight, self._size = [], 0
            self._waiting.clear()
        self._bell.ring()

    def _write_to(self, writer: Writer) -> None:
        with self._lock:
            self._state_due = True
            self._echoed = self._seq  # it may be that they are lost
        while not self._over:
            batch = self._bell.wait_for(self._next_batch, self._backplane.lease / 4)
            if batch is not None:
                writer.append([entry.packed for entry in batch])
                self._passed_on(batch)
                self._works(self._writing)
                self._tell_dropped()
            elif self._position is not None:
                self._echoed = self._seq  # nothing came back for long: they are lost, or it is we who are slow
                self.post("beat")

    def _next_batch(self) -> list[_Waiting] | None:
        with self._lock:
            if self._position is None and not self._closing:
                return None  # the answers to our state could be missed
            if not self._in_flight:
                if self._state_due:
                    self._put_state()
                self._in_flight = self._take()
            batch = self._in_flight
        for entry in batch:  # not under the lock: this thread alone changes it
            entry.packed = entry.packed or self._pack(entry)
        return batch or None

    def _put_state(self) -> None:
        # Under the lock. It says all that waits about clients, and says it better.
        kept = deque(entry for entry in self._waiting if entry.number or entry.kind in ("ask", "bye"))
        kept.appendleft(_Waiting("state", (self._asking, self._rows()), b"", 0))
        self._waiting, self._size = kept, sum(entry.size for entry in kept)
        self._state_due = self._asking = False

    def _take(self) -> list[_Waiting]:
        # Under the lock.
        taken: list[_Waiting] = []
        size = 0
        room = min(BATCH, self._backplane.window - (self._seq - self._echoed))
        while self._waiting and len(taken) < room and (size < BATCH_BYTES or not taken):
            entry = self._waiting.popleft()
            taken.append(entry)
            size += entry.size
        self._size -= size
        return taken

    def _pack(self, entry: _Waiting) -> bytes:
        self._seq += 1
        self._passed = entry.number or self._passed
        return Entry(self._node, self._seq, self._passed, entry.kind, entry.details, entry.body).packed()

    def _passed_on(self, batch: list[_Waiting]) -> None:
        with self._lock:
            self._in_flight = []
            self.published += sum(entry.number > 0 for entry in batch)
            self._over = self._over or any(entry.kind == "bye" for entry in batch)
        if self._over:
            self._bell.ring()

    # ---------------------------------------------------------------------------------------------------- reading

    def _read(self) -> None:
        mark_own_thread()
        while not self._over:
            try:
                with closing(self._backplane.reader(self._position)) as reader:
                    self._position = reader.position
                    self._came(self._reading, reader)
                    self._resumed()
                    self._bell.ring()
                    self._read_from(reader)
            except Exception as failure:  # whatever it is: the node has no other thread for this
                self._went(self._reading, failure)

    def _read_from(self, reader: Reader) -> None:
        wait = self._backplane.lease / 8
        while not self._over:
            asked = time.monotonic()
            entries, latest, at = reader.read(wait)
            self._position = reader.position
            self._works(self._reading)
            for data in entries:
                self._hear(data, at)
            if self._writing.failures:  # maybe nobody can append now: then who says nothing is not dead
                self._resumed()
            else:
                self._looked(latest, asked if latest else at)

    def _hear(self, data: bytes, at: float) -> None:
        try:
            entry = unpack(data)
            if entry.node != self._node:
                self._heard(entry, at)
            elif entry.seq > self._echoed:
                self._echoed = entry.seq
                self._bell.ring()
        except Exception as failure:  # an entry that is of no use, or a fault here, must not end the service
            level = logging.WARNING if isinstance(failure, ProtocolError) else logging.ERROR
            self.journal.record(failure, "an entry of the backplane was left out", level=level)

    # ------------------------------------------------------------------------------------------ coming and going

    def _came(self, line: _Line, end: Writer | Reader) -> None:
        line.end = end
        if self._over:
            end.interrupt()

    def _works(self, line: _Line) -> None:
        if line.failures:
            log.info("the backplane is back, to %s", line.purpose)
            line.failures = 0
            line.backoff.reset()

    def _went(self, line: _Line, failure: Exception) -> None:
        line.end = None
        if self._over:
            return
        line.failures += 1
        if line.failures & (line.failures - 1) == 0:  # the first, the second, the fourth, the eighth …
            doing = f"the backplane is away, to {line.purpose} (failure {line.failures})"
            self.journal.record(failure, doing, level=logging.WARNING)
        self._tell_dropped()
        self._bell.wait_for(lambda: self._is_given_up(line) or None, line.backoff.pause(random.random()))

    def _is_given_up(self, line: _Line) -> bool:
        return self._over or (self._closing and line is self._writing)

    def _tell_dropped(self) -> None:
        with self._lock:
            untold, self._untold = self._untold, 0
        if untold:
            text = f"{untold} messages for clients of other nodes were dropped, and {self.dropped} so far"
            self.journal.record(BackplaneError(text), "the backplane was away", level=logging.WARNING)
