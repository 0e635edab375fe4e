"""Stand-ins for :class:`simplesockets.transport.Stream`: one plays a script and has no socket at all, the other wraps
a real stream and makes it fail."""

from __future__ import annotations

import enum
import errno
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from simplesockets.errors import ConnectionClosed
from simplesockets.timing import Deadline
from simplesockets.transport import Stream, Waker, wait_ready

from .waiting import PATIENCE


class Mark(enum.Enum):
    """What a script says beside bytes and exceptions."""

    LATER = "what follows has not arrived yet; a read that waits gets it, one that does not wait gets nothing"
    END = "the other end closed its stream, for good"


LATER = Mark.LATER
END = Mark.END

Part = bytes | BaseException | Mark | Callable[[], object]
"""A part of a script: bytes to receive, an exception to raise, a mark, or something to call when a read gets there
(in the thread that reads)."""


class ScriptedStream(Stream):
    """A stream that plays a script. Reads take its parts one at a time, never joining two.

    Args:
        script: the parts.
        blocking: whether a read with no part left waits until :meth:`play` adds one or the stream is cut. If not, it
            raises ``BlockingIOError``, as a socket in non-blocking mode does.

    ``calls`` has the names of the methods that were called, in order; ``sent`` what was sent, call by call;
    ``waits`` the timeouts of ``wait_readable``, ``drained`` what came too late, and ``lingers`` the seconds that
    draining could have taken. A ``send_failure`` is raised by each send; ``room`` is how many bytes ``send_now`` takes
    from now on (None: all).
    """

    def __init__(self, *script: Part, blocking: bool = False) -> None:
        self.socket = cast(socket.socket, _NoSocket(self))
        self.bytes_out = self.messages_out = 0
        self.calls: list[str] = []
        self.sent: list[bytes] = []
        self.drained: list[bytes] = []
        self.send_failure: OSError | None = None
        self.write_lock = threading.RLock()
        self.room: int | None = None
        self.waits: list[float | None] = []
        self.lingers: float | None = None
        self._blocking = blocking
        self._changed = threading.Condition()  # protects what follows; not held while a part of the script is called
        self._script: deque[Part] = deque(script)
        self._sending_ended = False
        self._cut = False
        self._closed = False

    def play(self, *parts: Part) -> None:
        """Add parts to the end of the script."""
        with self._changed:
            self._script.extend(parts)
            self._changed.notify_all()

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed

    @property
    def unread(self) -> list[Part]:
        """What is left of the script."""
        with self._changed:
            return list(self._script)

    # ---------------------------------------------------------------------------------------------------- reading

    def receive_some(self, size: int, flags: int = 0, /) -> bytes:
        """The next part, at most ``size`` bytes of it, if it has arrived; waits for it unless flags say otherwise."""
        self.calls.append("receive_some")
        if flags:
            while callable(self._head()):
                self._take()
            if self._head() in (None, LATER):
                raise BlockingIOError(errno.EAGAIN, "nothing has arrived")
        return self._receive(size)

    @property
    def buffered(self) -> bool:
        """Never: what arrived is there to see."""
        return False

    def receive_waiting(self, size: int) -> bytes:
        """The next part if it is bytes, at most ``size`` of them."""
        self.calls.append("receive_waiting")
        while callable(self._head()):
            self._take()
        if not isinstance(self._head(), bytes):
            return b""
        return self._cut_to(size, cast(bytes, self._take()))

    def has_timeout(self) -> bool:
        """Whether a read with no part left does not wait."""
        self.calls.append("has_timeout")
        return not self._blocking

    def at_end(self) -> bool:
        """Whether the next part is an end or an exception."""
        self.calls.append("at_end")
        head = self._head()
        return self._cut or head is END or isinstance(head, BaseException)

    def has_input(self) -> bool:
        """Whether there is a next part that has arrived."""
        self.calls.append("has_input")
        return self._head() not in (None, LATER)

    def wait_readable(self, timeout: float | None) -> bool:
        """Whether there is a next part. With a timeout, ``LATER`` lets the time pass at once."""
        self.calls.append("wait_readable")
        self.waits.append(timeout)
        while True:
            head = self._head()
            if head is None:
                return self._wait_for_part(timeout)
            if head is not LATER and not callable(head):
                return True
            self._take()
            if head is LATER and timeout is not None:
                return False

    def wait_hang_up(self, waker: Waker | None, timeout: float | None) -> bool:
        """Wait until the stream is cut, the next part is an exception, or the waker woke this thread."""
        self.calls.append("wait_hang_up")
        if waker is not None:
            wait_ready(waker.reader, PATIENCE if timeout is None else timeout)
        else:
            with self._changed:
                self._changed.wait_for(self._is_gone, PATIENCE if timeout is None else timeout)
        return self._is_gone()

    def drain(self, deadline: Deadline) -> None:
        """Take all that is left of the script, without waiting."""
        self.calls.append("drain")
        self.lingers = deadline.left(time.monotonic())
        while (head := self._head()) is not None and head is not END:
            part = self._take()
            if isinstance(part, bytes):
                self.drained.append(part)

    # ---------------------------------------------------------------------------------------------------- sending

    def send_all(self, data: bytes) -> None:
        """Note what is sent."""
        self.calls.append("send_all")
        if self._closed:
            raise ConnectionClosed("this connection was closed")
        if self.send_failure is not None:
            raise self.send_failure
        if self._sending_ended or self._cut:
            raise BrokenPipeError(errno.EPIPE, "nothing can be sent any more")
        self.sent.append(bytes(data))

    def send_now(self, parts: Sequence[bytes | memoryview]) -> int:
        """Take what there is room for."""
        data = b"".join(parts)[: self.room]
        self.send_all(data)
        if not data:
            raise BlockingIOError(errno.EAGAIN, "no room")
        if self.room is not None:
            self.room -= len(data)
        return len(data)

    def end_sending(self) -> None:
        """Further sends fail."""
        self.calls.append("end_sending")
        self._sending_ended = True

    # ------------------------------------------------------------------------------------------------------ ending

    def cut(self) -> None:
        """Wake who reads; what has arrived can still be read, then comes the end."""
        self.calls.append("cut")
        with self._changed:
            if not self._cut:
                self._cut = True
                arrived = list(self._script)
                del arrived[arrived.index(LATER) if LATER in arrived else len(arrived) :]
                self._script = deque([*arrived, END])
            self._changed.notify_all()

    def close(self) -> None:
        """Cut, and from now on be closed."""
        self.cut()
        self.calls.append("close")
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    # ------------------------------------------------------------------------------------------------------ inside

    def _head(self) -> Part | None:
        with self._changed:
            return self._script[0] if self._script else None

    def _take(self) -> Part:
        with self._changed:
            if self._closed:
                raise OSError(errno.EBADF, "the stream is closed")
            if not self._script and not self._wait_for_part(None):
                raise BlockingIOError(errno.EAGAIN, "the script is over")
            part = self._script[0] if self._script[0] is END else self._script.popleft()
        if callable(part):
            part()
        return part

    def _receive(self, size: int) -> bytes:
        while True:
            part = self._take()
            if isinstance(part, bytes):
                return self._cut_to(size, part)
            if part is END:
                return b""
            if isinstance(part, BaseException):
                raise part

    def _cut_to(self, size: int, part: bytes) -> bytes:
        if len(part) > size:
            with self._changed:
                self._script.appendleft(part[size:])
        return part[:size]

    def _wait_for_part(self, timeout: float | None) -> bool:
        with self._changed:
            if not self._blocking:
                return False
            came = self._changed.wait_for(lambda: self._script, PATIENCE if timeout is None else timeout)
            assert came or timeout is not None, "the script is over, and nobody added to it"
            return bool(came)

    def _is_gone(self) -> bool:
        return self._cut or isinstance(self._head(), BaseException)


class _NoSocket:
    """What a scripted stream shows as its socket."""

    def __init__(self, stream: ScriptedStream) -> None:
        self._stream = stream

    def fileno(self) -> int:
        return -1 if self._stream.closed else 1_000_000


class FaultyStream(Stream):
    """A real stream that fails on demand.

    Args:
        stream: the real one.
        at_most: bytes that one read gives at most; None is without limit.
        faults: what a call raises in place of being made: by method and number of the call, from 1 on, such as
            ``{("receive_some", 3): ConnectionResetError()}``.
    """

    def __init__(
        self, stream: Stream, *, at_most: int | None = None, faults: Mapping[tuple[str, int], Exception] | None = None
    ) -> None:
        self.socket = stream.socket
        self.bytes_out = self.messages_out = 0
        self.write_lock = stream.write_lock
        self._stream = stream
        self._at_most = at_most
        self._faults = dict(faults or {})
        self._lock = threading.Lock()  # protects the count
        self._count: Counter[str] = Counter()

    def _called(self, method: str) -> None:
        with self._lock:
            self._count[method] += 1
            fault = self._faults.get((method, self._count[method]))
        if fault is not None:
            raise fault

    def _short(self, size: int) -> int:
        return size if self._at_most is None else min(size, self._at_most)

    @property
    def closed(self) -> bool:
        """As the real one."""
        return self._stream.closed

    def receive_some(self, size: int, flags: int = 0, /) -> bytes:
        """As the real one, but short."""
        self._called("receive_some")
        return self._stream.receive_some(self._short(size), flags)

    @property
    def buffered(self) -> bool:
        """As the real one."""
        return self._stream.buffered

    def receive_waiting(self, size: int) -> bytes:
        """As the real one, but short."""
        self._called("receive_waiting")
        return self._stream.receive_waiting(self._short(size))

    def has_timeout(self) -> bool:
        """As the real one."""
        self._called("has_timeout")
        return self._stream.has_timeout()

    def at_end(self) -> bool:
        """As the real one."""
        self._called("at_end")
        return self._stream.at_end()

    def has_input(self) -> bool:
        """As the real one."""
        self._called("has_input")
        return self._stream.has_input()

    def wait_readable(self, timeout: float | None) -> bool:
        """As the real one."""
        self._called("wait_readable")
        return self._stream.wait_readable(timeout)

    def wait_hang_up(self, waker: Waker | None, timeout: float | None) -> bool:
        """As the real one."""
        self._called("wait_hang_up")
        return self._stream.wait_hang_up(waker, timeout)

    def send_all(self, data: bytes) -> None:
        """As the real one."""
        self._called("send_all")
        self._stream.send_all(data)

    def send_now(self, parts: Sequence[bytes | memoryview]) -> int:
        """As the real one."""
        self._called("send_now")
        return self._stream.send_now(parts)

    def end_sending(self) -> None:
        """As the real one."""
        self._called("end_sending")
        self._stream.end_sending()

    def cut(self) -> None:
        """As the real one."""
        self._called("cut")
        self._stream.cut()

    def drain(self, deadline: Deadline) -> None:
        """As the real one."""
        self._called("drain")
        self._stream.drain(deadline)

    def close(self) -> None:
        """As the real one."""
        self._called("close")
        self._stream.close()
