"""One client's life: stream + protocol + dispatch.

An engine drives a connection by :meth:`Connection.step` ("read what is there, feed, dispatch") until it says DONE,
then :meth:`Connection.finish`. Only one thread at a time does that: the *reader*. What other threads may do is send,
``hang_up`` and ``disconnect``.

How a connection ends, exactly once and in order: its ``opened`` hook, then its items, then ``ended``.

* ``hang_up`` says goodbye to the peer and sets ``closing``. The reader discards what still comes, until the peer
  closes too or the time for that is over, and closes the socket. (Closing at once could destroy what was sent last;
  see transport.py.)
* ``disconnect`` is the same, and the ``ended`` hook does not wait for the reader, which may be asleep in the socket,
  unless the reader is in the middle of a callback: then it runs the hook as soon as the callback returned.
  Who is it? The reader sets ``served_by`` and then looks at ``closing``; ``disconnect`` sets ``closing`` and then
  looks at ``served_by``. So at least one of them sees the other, and ``_unended`` lets only one go first.
"""

from __future__ import annotations

import errno
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from ssl import SSLError
from typing import Protocol as Interface

from .errors import ConnectionClosed, ProtocolError, SendTimeout
from .events import Ending
from .hotpath import Step, Stepper
from .locking import is_mine
from .mailbox import Mailbox, is_own_thread
from .protocol import Protocol, RawProtocol, only_cuts
from .stats import Counts, Ledger
from .timing import Deadline
from .transport import LOOKS, NO_WAIT, Stream

JOIN_LIMIT = 1024 * 1024
"""Bytes: what is there after a full read is joined to it up to this size; that is one item of a raw stream."""
BIG_READ = 120 * 1024
"""Bytes: the read size of a connection from its first full read on. From 128 KiB on C libraries take memory from the
system for each read, and give it back: that takes half as long again as reading 64 KiB."""
MOST_SAVED = 8 * 1024 * 1024
"""Bytes that are saved of what came before sending failed: more than a socket holds."""
LINGER = 2.0
"""Seconds that the other end has to close after we said goodbye."""


_now = time.perf_counter


class Wakeable(Interface):
    """Whatever an engine wants to be woken by."""

    def wake(self) -> None:
        """There is room again, or the connection is closing."""


class ThreadLike(Interface):
    """What an engine may use in place of a thread: what programs ask a client's thread."""

    name: str

    def is_alive(self) -> bool:
        """Whether the client is served."""

    def join(self, timeout: float | None = None) -> None:
        """Wait until it is not any more, ``timeout`` seconds at most."""


class Connection(Stepper):
    """A stream with a protocol, and where its items go.

    Args:
        stream: the connected stream.
        protocol: this connection's protocol.
        mailbox: of its server or client.
        recv_buffer: bytes asked for in one read.
    """

    __slots__ = (  # every message looks some of these up; and it takes half the memory
        "__weakref__",
        "_begun",
        "_busy_at",
        "_ended",
        "_feeding",
        "_goodbye",
        "_leaving",
        "_ledger",
        "_opened",
        "_raw",
        "_reader_lock",
        "_receive_lock",
        "_unended",
        "_waits_here",
        "ending",
        "kept",
        "mailbox",
        "stream",
        "thread",
        "waker",
    )

    def __init__(self, stream: Stream, protocol: Protocol, mailbox: Mailbox, recv_buffer: int) -> None:
        self.stream = stream
        self.mailbox = mailbox
        self.thread: ThreadLike | None = None
        self.reading = True  # turned off by the client's autorecv()
        self.closing = False
        self.bytes_in = 0  # the reader's, as the next one: see stats.py
        self.messages_in = 0
        self.kept = False  # the last hook wanted the stream to stay open for sending; somebody else closes it
        self.ending: Ending | None = None
        self.read_at = _now()  # the time (of perf_counter) between reading and dispatching in the latest step
        self._busy_at = 0.0  # when somebody saw that it could not be idle
        self._begun = False  # the first hook ran
        self._ledger: Ledger | None = None  # where it counts
        self._waits_here = False  # a thread that receives waits for the socket, in a hook perhaps
        self.waker: Wakeable | None = None  # set by an engine: told when there is room again, or closing begins
        self.protocol = protocol
        self._raw = type(protocol) is RawProtocol  # a subclass may have other ideas
        self._read: Callable[[int, int], bytes] = stream.receive_some
        self._read_flags = 0
        self._read_size = recv_buffer
        self._short = recv_buffer if self._raw else 0  # what is shorter than this is an item as it is
        self._feed = only_cuts(protocol)  # then a frame that comes alone, and whole, is an item
        self._inbox: deque[bytes] = deque()  # items that were read but not delivered; they come before all others
        self._error = None  # it comes after them
        self._reader_lock = threading.RLock()  # protects who reads; never held across I/O or user code
        self._receive_lock = threading.RLock()  # one thread at a time reads where there is no reader; held across I/O
        self._delivering = None  # taken out of _inbox, and not delivered for sure
        self._feeding = False  # the protocol is being fed
        self.served_by = 0  # the number of the thread that runs hooks, and stores items; 0 while none does
        self._unended = [True]  # who pops it runs the ended hook
        self._goodbye = Deadline(None, 0.0)
        self.send = stream.send_all if self._raw else self._send_encoded
        """``send(item)``: send an item; waits while the peer does not read. For any thread. Raises OSError if the
        connection broke, or was closed (:class:`~.errors.ConnectionClosed`), ValueError if the protocol cannot carry
        it."""
        stream.gave_up = weakref.WeakMethod(self._gave_up)  # weak, not to keep each other
        self._unbind()

    def bind(
        self,
        opened: Callable[[], object],
        deliver: Callable[[bytes], bool],
        ended: Callable[[], object],
        leaving: Callable[[], object],
    ) -> None:
        """Set the hooks.

        Args:
            opened: run first, in the reader.
            deliver: takes an item; tells whether to pause until the mailbox has room.
            ended: run last, once. If it gives True the stream stays open for sending, until somebody closes it.
            leaving: run as soon as somebody hangs up, under no lock; must be quick.
        """
        self._opened = opened
        self._deliver = deliver
        self._ended = ended
        self._leaving = leaving

    def enter(self, ledger: Ledger) -> None:
        """Count in this ledger, until the socket is closed."""
        self._ledger = ledger
        ledger.enter(self)

    # ------------------------------------------------------------------------------------------- for the engine

    def open(self) -> None:
        """Run the first hook."""
        with self._receive_lock:  # who received while there was no reader gets the item that it waits for
            pass
        self.served_by = threading.get_ident()
        try:
            if not self.closing:
                self._opened()
        finally:
            self._begun = True
            self.served_by = 0

    def finish(self) -> None:
        """The last thing a reader does: run the last hook, see the peer off, close the socket."""
        self.end()
        if self.ending is not None and self.ending.kind == "protocol error":
            self.hang_up("protocol error")
        if self.closing:
            self.stream.drain(self._goodbye)
        if not self.kept:
            self.close()

    def leave(self) -> bool:
        """Asked by a reader after STOPPED: whether to leave the connection, without finishing it."""
        with self._reader_lock:
            if self.reading or self.closing:
                return False  # turned on again in the meantime, or there is something to finish
            self.thread = None
        self.mailbox.bell.ring()  # who waits for what this reader stores can read itself now
        return True

    def is_unread(self) -> bool:
        """Whether there is no reader."""
        with self._reader_lock:
            return self.thread is None

    def serve(self, work: Callable[[], object]) -> None:
        """Run the program's own loop for this client, as one long hook, then hang up."""
        self.served_by = threading.get_ident()
        try:
            if not self.closing:
                work()
        finally:
            self.served_by = 0
        self.hang_up("handler returned")

    def turn(self, reading: bool) -> bool:
        """Turn reading on or off. Returns whether a reader has to be started for that."""
        with self._reader_lock:
            self.reading = reading
            return reading and self.thread is None and not self.over

    def share(self, shared: bool) -> None:
        """From now on other threads than the reader step, which must not wait (or not any more)."""
        self._read_flags = NO_WAIT if shared else 0

    def resume(self) -> None:
        """There is room in the mailbox again, or no need of it any more."""
        waker = self.waker
        if waker is not None:
            waker.wake()

    # ------------------------------------------------------------------------------------------- for any thread

    @property
    def has_more(self) -> bool:
        """Whether there is something to step for of which the socket tells nobody."""
        return self.closing or self.stream.buffered or bool(self._inbox)

    @property
    def over(self) -> bool:
        """Whether the last hook was begun."""
        return not self._unended

    def counts(self) -> Counts:
        """What passed over it so far."""
        stream = self.stream
        return Counts(self.bytes_in, stream.bytes_out, self.messages_in, stream.messages_out)

    def is_served_here(self) -> bool:
        """Whether the calling thread is in one of this connection's hooks."""
        return self.served_by == threading.get_ident()

    def idle_since(self, now: float) -> float:
        """Since when nothing came that could have come: not before the first hook ran, while a callback runs, or while
        the mailbox is full or nobody reads. Somebody has to ask now and then, and gives the time (of perf_counter)."""
        if not self._waits_here and (self.served_by or self._cannot_be_idle()):
            self._busy_at = now
        return max(self.read_at, self._busy_at)

    def _cannot_be_idle(self) -> bool:
        return not self._begun or self.thread is None or self.mailbox.is_paused(self)

    def note_ending(self, kind: str, exception: BaseException | None = None) -> None:
        """Remember why the connection ends. The first reason stays."""
        if self.ending is None:
            self.ending = Ending(kind, exception)

    def hang_up(
        self, kind: str = "closed here", linger: float = LINGER, refuse: Callable[[bytes], None] | None = None
    ) -> None:
        """Say goodbye. The reader does the rest, or :meth:`finish` where there is none.

        Args:
            kind: what :attr:`ending` says.
            linger: seconds that the peer has to close, too.
            refuse: takes the place of ``send``, and raises; not given: it says that the connection was closed here.
        """
        if self.closing:
            return
        self.note_ending(kind)
        self._goodbye = Deadline(linger, time.monotonic())
        self.closing = True
        self.send = refuse or _refuse
        self._leaving()
        self.stream.end_sending()
        self.resume()

    def _gave_up(self, failure: SendTimeout) -> None:
        # The stream could not go on, and was broken off. Where there is no reader, who sent sees to the rest.
        self.note_ending("send timeout", failure)
        self.hang_up(refuse=partial(_refuse_after, failure.seconds))

    def disconnect(self, linger: float = LINGER) -> None:
        """Hang up, and do not let the last hook wait for a reader that sleeps."""
        self.hang_up(linger=linger)
        if not self.served_by:
            self.end()

    def end(self) -> None:
        """Run the last hook, unless somebody did."""
        try:
            self._unended.pop()
        except IndexError:
            return
        self.note_ending("peer closed")
        self.mailbox.forget(self)
        try:
            self.kept = self._ended() is True
        finally:
            self._unbind()  # the hooks hold the program's objects, and those may hold us
            self.mailbox.bell.ring()

    def close(self) -> None:
        """Free the socket. For the reader, or when there is none."""
        try:
            self.stream.close()
        finally:
            if self._ledger is not None:
                self._ledger.leave(self)

    def receive(self, size: int | None = None, timeout: float | None = None) -> bytes:
        """The next item, or, with ``size``, the next bytes of the stream, at most so many. Empty at the end.

        In a callback of this connection, or where there is no reader, this reads the socket. In another thread it
        takes what the reader stored, and waits for more, since two readers would tear the stream apart.

        Raises:
            TimeoutError: nothing came within ``timeout`` seconds.
            OSError: the connection broke.
        """
        until = Deadline(timeout, time.monotonic())
        if self.is_served_here() or self.thread is threading.current_thread():
            return self._read_here(size, timeout, until)
        while True:
            data = self._receive_beside_reader(size, timeout, until)
            if data is None:
                data = self._receive_without_reader(size, timeout, until)
            if data is not None:
                return data

    def save_rest(self) -> bool:
        """Sending failed, and there is no reader: what the other end said before is for :meth:`receive`, all the same.
        Never waits.

        Returns:
            Whether nobody receives at this moment; who does hears of the end, and what came before it.
        """
        lock = self._receive_lock
        if is_mine(lock) or not lock.acquire(blocking=False):  # mine: this is a signal handler
            return False
        try:
            if self._has_reader():
                return False
            most = self.bytes_in + MOST_SAVED  # where only our own side is over, the other end may go on for ever
            while not isinstance(self._error, ProtocolError) and self.bytes_in < most:
                if not (data := self.stream.receive_waiting(BIG_READ)):
                    break
                self._take_in(data)
        except OSError:  # now all was read
            pass
        except Exception as failure:  # a mistake in a protocol
            self.note_ending("failed", failure)
        finally:
            lock.release()
        return True

    def _receive_beside_reader(self, size: int | None, timeout: float | None, until: Deadline) -> bytes | None:
        # None: there is no reader (any more).
        while self._has_reader():
            data = self.mailbox.bell.wait_for(lambda: self._take_stored_or_leave(size), until.left(time.monotonic()))
            if isinstance(data, bytes):
                return data
            if data is None and self.mailbox.bell.closed:
                return b""
            if data is None and until.left(time.monotonic()) == 0:
                raise _too_late(timeout)
        return None

    def _receive_without_reader(self, size: int | None, timeout: float | None, until: Deadline) -> bytes | None:
        # None: now there is one. A reader that begins waits for the lock (see open()).
        left = until.left(time.monotonic())
        if not self._receive_lock.acquire(timeout=-1 if left is None else left):
            raise _too_late(timeout)
        try:
            if self._has_reader():
                return None
            data = self._take_stored(size)
            return self._read_here(size, timeout, until) if data is None else data
        finally:
            self._receive_lock.release()

    def _has_reader(self) -> bool:
        # From attach() on, before the thread runs.
        return self.thread is not None and not self.over

    def _take_stored_or_leave(self, size: int | None) -> bytes | bool | None:
        # The inbox is the reader's as long as there is one: it may be delivering from it at this moment.
        data = self.mailbox.take_first(self, size)
        return data if data is not None or self._has_reader() else False

    # ---------------------------------------------------------------------------------------------------- inside

    def _send_encoded(self, data: bytes) -> None:
        self.stream.send_all(self.protocol.encode(data))

    def _unbind(self) -> None:
        self.bind(_no_hook, _no_delivery, _no_hook, _no_hook)

    def _not_read(self, failure: OSError) -> Step:
        if isinstance(failure, (BlockingIOError, TimeoutError)) and failure.errno != errno.ETIMEDOUT:
            return Step.NOTHING  # of the socket's mode; ETIMEDOUT says that the other end is gone
        self.note_ending("tls" if isinstance(failure, SSLError) else "reset", failure)
        return Step.DONE

    def _went_wrong(self, failure: BaseException, data: bytes | None) -> Step:
        # In a step, after reading. In a thread of the program's that reads for us, a signal handler may have raised
        # anything; where no protocol could have made a mistake, it did.
        delivering = self._raw or self._delivering is not None
        if not isinstance(failure, Exception) or (delivering and not is_own_thread()):
            self._make_up_for(data)
            raise failure
        if isinstance(failure, ProtocolError):
            self.note_ending("protocol error", failure)
        elif isinstance(failure, OSError):  # from sending what the protocol had to say
            self.note_ending("reset", failure)
        else:  # a mistake in a protocol; callbacks' exceptions do not come here
            self.note_ending("failed", failure)
        return Step.DONE

    def _join(self, data: bytes) -> bytes:
        # A full read: more is there, most likely. Big messages follow big messages, so read big from now on.
        self._read_size = max(self._read_size, BIG_READ)
        parts = [data]
        room = JOIN_LIMIT - len(data)
        while room > 0:
            try:
                more = self.stream.receive_waiting(min(room, BIG_READ))
            except OSError as failure:  # what came before it is delivered; the next read shows the end
                self._not_read(failure)
                break
            if not more:
                break
            parts.append(more)
            room -= len(more)
        return b"".join(parts) if len(parts) > 1 else data

    def _dispatch(self, data: bytes | None) -> Step:
        # Whatever is read goes through the inbox, so that a callback that receives gets what comes next.
        if data is not None:
            self._take_in(data)
        if not self.reading:
            return self._keep(data)
        full, inbox = False, self._inbox
        while inbox and not self.closing:
            self._delivering = item = inbox.popleft()
            deliver = self._deliver
            if deliver(item):
                full = True
            self._delivering = None
        if self._error is not None:
            raise self._error
        if data == b"":
            self.note_ending("peer closed")
            return Step.DONE
        return Step.PAUSED if full else Step.MORE

    def _make_up_for(self, data: bytes | None) -> None:
        # What an interrupted step read goes back to the inbox, unless it was stored.
        item, self._delivering = self._delivering, None
        if self._feeding:  # nobody knows how much of the data the protocol took
            self._error = ProtocolError("an exception from a signal handler interrupted the reading of a message")
        elif item is not None:
            if not self.mailbox.ends_with(self, item):
                self._inbox.appendleft(item)
        elif data and self._raw and not self._inbox and not self.mailbox.ends_with(self, data):
            self._inbox.append(data)
        self.mailbox.tell_again()

    def _take_in(self, data: bytes) -> None:
        # An error of the protocol counts after the items before it.
        if len(data) >= self._read_size:
            data = self._join(data)
        self.bytes_in += len(data)
        if self._raw:
            if data:
                self.messages_in += 1
                self._inbox.append(data)
            return
        self._feeding = True
        inbox, protocol = self._inbox, self.protocol
        waiting = len(inbox)
        try:
            inbox.extend(protocol.feed(data) if data else protocol.feed_eof())
            self._feeding = False
        except ProtocolError as failure:
            self._error = failure
            self._feeding = False
        self.messages_in += len(inbox) - waiting
        self._feed = only_cuts(protocol)
        reply = protocol.data_to_send()
        try:
            if reply:
                self.stream.send_all(reply)
        except OSError as failure:
            self._error = self._error or failure

    def _keep(self, data: bytes | None) -> Step:
        # The program turned reading off while the reader was asleep in the socket. What it woke up with is kept for
        # recv_data(), or for when reading is turned on again.
        self.mailbox.bell.ring()
        if self._error is not None:
            raise self._error
        if data != b"":  # None: only what was kept was there to deliver
            return Step.STOPPED
        self.note_ending("peer closed")
        return Step.DONE

    def _take_stored(self, size: int | None) -> bytes | None:
        # In the order of the stream: what the reader stored, what it kept when reading was turned off, the end.
        data = self.mailbox.take_first(self, size)
        if data is None:
            data = self._take_kept(size)
        return b"" if data is None and self.over else data

    def _take_kept(self, size: int | None) -> bytes | None:
        if not self._inbox:
            return None
        data = self._inbox.popleft()
        if size is not None and len(data) > size:
            self._inbox.appendleft(data[size:])
            data = data[:size]
        return data

    def _read_here(self, size: int | None, timeout: float | None, until: Deadline) -> bytes:
        while not self._inbox:
            if self._error is not None:
                raise self._error
            if self._raw and size is not None:
                return self._read_exactly_once(size, timeout, until)
            data = self._read_waiting(self._read_size, timeout, until)
            self._take_in(data)
            if not data and self._error is None:
                self.note_ending("peer closed")
                break
        return self._take_kept(size) or b""

    def _read_waiting(self, size: int, timeout: float | None, until: Deadline) -> bytes:
        self._waits_here = True
        try:
            while True:
                left = until.left(time.monotonic())
                if left is not None and not self.stream.wait_readable(left):
                    raise _too_late(timeout)
                try:
                    data = self.stream.receive_some(size, 0)
                except BlockingIOError:  # the program set the socket to be non-blocking
                    self.stream.wait_readable(left)
                else:
                    self.read_at = _now()
                    return data
        finally:
            self._waits_here = False

    def _read_exactly_once(self, size: int, timeout: float | None, until: Deadline) -> bytes:
        data = self._read_waiting(size, timeout, until)
        if data:
            self.bytes_in += len(data)
            self.messages_in += 1
        elif size:
            self.note_ending("peer closed")
        return data


def end_idle(connections: Iterable[Connection], timeout: float) -> None:
    """Hang up, as idle, on those of the connections that nothing came from for so many seconds.

    To be called :data:`~.transport.LOOKS` times in that time. A callback may have run all the time from one look to the
    next without being seen; so they get that time on top.
    """
    now = _now()
    late = now - timeout - timeout / LOOKS
    for connection in connections:
        # What has come and was not read yet is our delay, not the peer's.
        if not connection.closing and connection.idle_since(now) < late and not connection.stream.has_input():
            connection.hang_up("idle")


def _too_late(timeout: float | None) -> TimeoutError:
    return TimeoutError(f"nothing was received within {timeout} seconds; does the other end run, and send?")


def _refuse(data: bytes) -> None:
    raise ConnectionClosed("this connection was closed here; nothing can be sent any more")


def _refuse_after(seconds: float, data: bytes) -> None:
    raise SendTimeout(seconds)


def _no_hook() -> bool:
    return False


def _no_delivery(item: bytes) -> bool:
    return False
