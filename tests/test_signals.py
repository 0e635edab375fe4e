"""Signal handlers that raise, or call us, at bad moments."""

from __future__ import annotations

import signal
import socket
import threading
from typing import Any

import pytest

from simplesockets import FramedProtocol, LengthPrefixFramer
from simplesockets.connection import Connection
from simplesockets.events import RECEIVED, ReceivedBytes
from simplesockets.hotpath import Step
from simplesockets.mailbox import Bell, Mailbox
from simplesockets.protocol import RawProtocol
from simplesockets.transport import Stream

from .support.running import running_server
from .support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("either_engine")


def frames(*items: bytes) -> bytes:
    framer = LengthPrefixFramer(4)
    return b"".join(framer.encode(item) for item in items)


class Interrupted(BaseException):
    """What a signal handler raises."""


class Failed(Exception):
    """What another one raises."""


def interrupted_life(
    protocol: Any, content: bytes, before: bool, failure: type[BaseException] = Interrupted
) -> tuple[Connection, Mailbox]:
    """A connection whose first delivery is interrupted, just before the item is stored or just after."""
    ours, theirs = socket.socketpair()
    box = Mailbox(Bell())
    connection = Connection(Stream(ours), protocol, box, 2048)
    left = [True]

    def deliver(data: bytes) -> bool:
        interrupt = bool(left) and left.pop()
        if interrupt and before:
            raise failure
        full = box.put(connection, ReceivedBytes(data, 0.0), len(data))
        if interrupt:
            raise failure
        return full

    connection.bind(lambda: None, deliver, lambda: None, lambda: None)
    theirs.sendall(content)
    theirs.close()
    return connection, box


def run_through(connection: Connection, box: Mailbox) -> bytes:
    with pytest.raises((Interrupted, Failed)):
        connection.step()
    while connection.step() is not Step.DONE:
        pass
    connection.finish()
    return b"".join(box.take_all())  # type: ignore[arg-type]


@pytest.mark.parametrize("failure", [Interrupted, Failed])
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("kind", ["short", "long", "framed"])
def test_what_a_raising_signal_handler_interrupted_is_stored_once(
    kind: str, before: bool, failure: type[BaseException]
) -> None:
    content = b"".join(b"%07d " % number for number in range(10 if kind == "short" else 1000))
    if kind == "framed":
        protocol: Any = FramedProtocol(LengthPrefixFramer(4))
        connection, box = interrupted_life(protocol, frames(content[:4000], content[4000:]), before, failure)
    else:
        connection, box = interrupted_life(RawProtocol(), content, before, failure)
    assert run_through(connection, box) == content


def test_what_was_stored_when_a_signal_handler_raised_is_made_known() -> None:
    class Interrupting(dict[Any, int]):
        def get(self, *_: Any) -> Any:
            box._held = {}
            raise Interrupted

    ours, theirs = socket.socketpair()
    box = Mailbox(Bell())
    with theirs, ours:
        connection = Connection(Stream(ours), RawProtocol(), box, 2048)
        connection._deliver = lambda data: box.put(connection, ReceivedBytes(data, 0.0), len(data))
        sleeper = threading.Lock()
        sleeper.acquire()
        box.bell.waiting.add(sleeper)
        box._held = Interrupting()
        theirs.sendall(b"ping")
        with pytest.raises(Interrupted):
            connection.step()
    assert box.new_data.read()
    assert box.events.first_event() == RECEIVED
    assert sleeper.acquire(blocking=False), "nobody woke it"
    assert box.take_all() == [b"ping"]


def test_a_message_whose_reading_was_interrupted_ends_the_connection_instead_of_being_lost() -> None:
    class Interruptible(FramedProtocol):
        def __init__(self) -> None:
            super().__init__(LengthPrefixFramer(4))
            feed, left = self.feed, [True]

            def interrupted_feed(data: bytes) -> Any:
                for item in feed(data):
                    yield item
                    if left:
                        left.pop()
                        raise Interrupted

            self.feed = interrupted_feed

    connection, box = interrupted_life(Interruptible(), frames(b"one", b"two", b"three"), False)
    connection._deliver = lambda data: box.put(connection, ReceivedBytes(data, 0.0), len(data))
    assert run_through(connection, box) == b"one"
    assert connection.ending is not None
    assert connection.ending.kind == "protocol error"


def test_stop_in_a_signal_handler_does_not_wait_for_who_waits_for_the_interrupted_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with running_server() as server:
        acceptor = server._acceptor
        assert acceptor is not None

        def is_admitting() -> bool:
            got = acceptor._accepting.acquire(blocking=False)
            if got:
                acceptor._accepting.release()
            return not got

        waited: list[bool] = []

        def bounded(self: Any) -> None:  # it would wait for ever
            waited.append(not self._accepting.acquire(timeout=0.5))
            if not waited[-1]:
                self._accepting.release()

        monkeypatch.setattr(type(acceptor), "settle", bounded)
        before = signal.signal(signal.SIGUSR1, lambda *_: server.stop())
        try:
            with server._lock:  # as in many calls of the program's
                sock = socket.create_connection(server.address)
                wait_until(is_admitting)
                signal.raise_signal(signal.SIGUSR1)
        finally:
            signal.signal(signal.SIGUSR1, before)
        sock.close()
        assert True not in waited
