"""What waits to be sent, so that nobody has to wait for a peer that does not read.

A thread that sends through :class:`Outbox` tries the socket directly, and what the system does not take at once waits
in the outbox, up to a limit. The :class:`Courier`, one thread for all outboxes of a server, sends it on when the
socket takes more. So a broadcast reaches everybody who reads, at once, and costs no thread where everybody does. It
also notices who takes nothing at all.

Whole frames go in, and they leave in that order: the stream's write lock protects the queue, and whoever holds it
takes from the front only. Do not mix it with ``Stream.send_all`` on one stream.
"""

from __future__ import annotations

import contextlib
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import islice

from .hotpath import Poster
from .mailbox import mark_own_thread
from .timing import Standstill
from .transport import LOOKS, Stream, Waker

_AT_ONCE = 64
"""Frames that one system call gets at most."""
_LOOK = 0.1
"""Seconds between two looks of a courier that cannot be woken, since the system has no more descriptors to give."""


class Outbox(Poster):
    """The outgoing side of one stream. Any thread may call everything.

    Args:
        stream: where to send.
        courier: who sends on what has to wait.
        limit: bytes that may wait behind the frame that is being sent, which may be of any size.
        overflow: called once, under no lock, when more than that would have to wait; what waits is discarded then.
        stalled: likewise, when the peer took nothing for as long as the courier has patience.
    """

    def __init__(
        self,
        stream: Stream,
        courier: Courier,
        limit: int,
        overflow: Callable[[], object],
        stalled: Callable[[], object] | None = None,
    ) -> None:
        self.stream = stream
        self.limit = limit
        self._courier = courier
        self._overflow = overflow
        self._stalled = stalled
        self._given = 0  # bytes that the system took of what had to wait
        self._standstill: Standstill | None = None  # for the courier alone
        self._lock = stream.write_lock  # protects what follows; held across sending, which does not wait here
        self._sender = stream if type(stream) is Stream else None  # others send in their own ways
        self._waiting = deque()
        self._size = 0
        self._sending = False
        self._closed = False
        self._then: Callable[[], object] | None = None

    @property
    def pending(self) -> int:
        """Bytes that wait."""
        return self._size

    def _store(self, rest: bytes | memoryview, first: bool) -> bool:
        # Under the lock. Gives whether that was too much.
        if first:
            self._waiting.appendleft(rest)
        else:
            self._waiting.append(rest)
        self._size += len(rest)
        full = self._size - len(self._waiting[0]) > self.limit
        if full:
            self._discard()
        return full

    def _stored(self, full: bool, first: bool) -> bool:
        if full:
            self._overflow()
        elif first or self._courier.starved:
            self._courier.watch(self)
        return not full

    def _try(self, frame: bytes) -> bytes | memoryview | None:
        # Under the lock, with nothing waiting. Gives what is left of it.
        stream = self.stream
        self._sending = True
        try:
            sent = stream.send_now((frame,))
        except BlockingIOError:
            return frame
        except (OSError, ValueError):  # it broke, or was closed: its reader will notice
            self._discard()
            return None
        finally:
            self._sending = False
        stream.bytes_out += sent
        if sent == len(frame) and not self._waiting:
            return None
        return memoryview(frame)[sent:]

    def _send(self) -> bool:
        # Under the lock. Gives whether all of it was sent, or will never be.
        waiting = self._waiting
        self._sending = True
        try:
            while waiting:
                sent = self.stream.send_now(list(islice(waiting, _AT_ONCE)))
                self._size -= sent
                self._given += sent
                self.stream.bytes_out += sent
                while waiting and sent >= len(waiting[0]):
                    sent -= len(waiting.popleft())
                if sent:
                    waiting[0] = memoryview(waiting[0])[sent:]
        except BlockingIOError:
            return False
        except (OSError, ValueError):  # as above
            self._discard()
        finally:
            self._sending = False
        return True

    def send_on(self) -> bool:
        """Send what the socket takes. Returns whether nothing waits any more. For the courier."""
        with self._lock:
            if not self._send():
                return False
            then, self._then = self._then, None
        if then is not None:
            then()
        return True

    def begin_to_look(self, patience: float) -> None:
        """From now on the peer has so many seconds to take something. For the courier."""
        self._standstill = Standstill(patience, self._place(), time.monotonic())

    def look(self) -> bool:
        """See whether the peer took anything lately; if not, give up and return True. For the courier."""
        if self._standstill is None or not self._standstill.is_over(self._place(), time.monotonic()):
            return False
        with self._lock:
            self._discard()
        if self._stalled is not None:
            self._stalled()
        return True

    def _place(self) -> int:
        return self._given - self.stream.on_its_way()

    def finish(self, then: Callable[[], object]) -> None:
        """Take nothing more, and call ``then`` when what waits was sent (or never will be): now, if nothing does."""
        with self._lock:
            self._closed = True
            if self._waiting:
                self._then = then
                return
        then()

    def close(self) -> None:
        """Discard what waits; the connection is over."""
        with self._lock:
            self._discard()
            self._then = None

    def _discard(self) -> None:
        self._closed = True
        self._waiting.clear()
        self._size = 0


class Courier:
    """Sends on what waits in outboxes, in a thread that exists only while something does.

    Args:
        name: begins the thread's name.
        patience: seconds for which a peer may take nothing while something waits for it; None: any number.
    """

    def __init__(self, name: str, patience: float | None = None) -> None:
        self._name = name
        self._patience = patience
        self._pause = None if patience is None else patience / LOOKS  # seconds between two looks
        self._look_at = 0.0  # when the next one is due
        self._lock = threading.RLock()  # protects what follows; never held across I/O or user code
        self._new: list[Outbox] = []
        self._waker: Waker | None = None
        self._thread: threading.Thread | None = None
        self.starved = False
        """Whether there is no thread, since the system had none to give."""

    def watch(self, outbox: Outbox) -> None:
        """Send on what waits in this outbox."""
        with self._lock:
            self._new.append(outbox)
            if self._thread is None:
                self._start()
            elif self._waker is not None:
                self._waker.wake()

    def _start(self) -> None:
        waker = None
        with contextlib.suppress(OSError):  # no descriptors left: it works without
            waker = Waker()
        thread = threading.Thread(target=self._run, args=(waker,), name=f"{self._name}-courier", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no more threads: whoever posts next tries again
            self.starved = True
            if waker is not None:
                waker.close()
            return
        self._thread, self._waker, self.starved = thread, waker, False

    def join(self, timeout: float | None) -> None:
        """Wait for the thread, which ends when nothing waits any more."""
        with self._lock:
            thread, waker = self._thread, self._waker
        if thread is not None and thread is not threading.current_thread():
            if waker is not None:
                waker.wake()
            thread.join(timeout)

    def _run(self, waker: Waker | None) -> None:
        mark_own_thread()
        with contextlib.closing(waker) if waker else contextlib.nullcontext(), _selector() as selector:
            if waker is not None:
                selector.register(waker.reader, selectors.EVENT_READ)
            while self._goes_on(selector, 0 if waker is None else 1):
                for key, _ in selector.select(_LOOK if waker is None else self._pause):
                    if key.data is not None:
                        if key.data.send_on():
                            selector.unregister(key.fileobj)
                    elif waker is not None:
                        waker.clear()
                self._drop_closed(selector)
                self._look(selector)

    def _goes_on(self, selector: selectors.BaseSelector, own: int) -> bool:
        # ``own``: how many of the selector's sockets are no outbox's.
        with self._lock:
            new, self._new = self._new, []
            if not new and len(selector.get_map()) == own:
                self._thread = self._waker = None
                return False
        for outbox in new:
            if self._patience is not None:
                outbox.begin_to_look(self._patience)
            self._register(selector, outbox)
        return True

    def _register(self, selector: selectors.BaseSelector, outbox: Outbox) -> None:
        with outbox.stream.write_lock:  # it is not closed meanwhile, so the descriptor is this stream's
            descriptor = outbox.stream.socket.fileno()
            if descriptor < 0:
                return
            if descriptor in selector.get_map():  # of a stream that was closed since, or the same one once more
                selector.unregister(descriptor)
            selector.register(descriptor, selectors.EVENT_WRITE, outbox)

    def _look(self, selector: selectors.BaseSelector) -> None:
        if self._pause is None or time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + self._pause
        for key in list(selector.get_map().values()):
            if key.data is not None and key.data.look():
                selector.unregister(key.fileobj)

    def _drop_closed(self, selector: selectors.BaseSelector) -> None:
        for key in list(selector.get_map().values()):
            if key.data is not None and key.data.stream.closed:
                selector.unregister(key.fileobj)


def _selector() -> selectors.BaseSelector:
    try:
        return selectors.DefaultSelector()
    except OSError:  # no descriptors left; these need none
        return getattr(selectors, "PollSelector", selectors.SelectSelector)()
