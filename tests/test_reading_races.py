"""Who reads, who receives, who connects and who closes, at the same time."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
import tracemalloc
from functools import partial
from typing import Any

import pytest

from simplesockets import FramedProtocol, LengthPrefixFramer, ProtocolError, TCPClient, engine, mailbox
from simplesockets.connection import Connection
from simplesockets.transport import Dial

from .support.clients import in_thread, next_item
from .support.running import HOST, raw_client, running_server
from .support.waiting import PATIENCE, Gate, wait_until

pytestmark = pytest.mark.usefixtures("either_engine")


def framed() -> FramedProtocol:
    return FramedProtocol(LengthPrefixFramer(4))


def frames(*items: bytes) -> bytes:
    return b"".join(framed().encode(item) for item in items)


# ------------------------------------------------------------------------------------------- who takes what is kept


def test_recv_of_a_client_does_not_overtake_the_item_that_is_being_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    put = mailbox.Mailbox.put

    def late_put(self: Any, source: Any, item: Any, size: int) -> bool:
        if item.response == b"two":
            gate()
        return put(self, source, item, size)

    monkeypatch.setattr(mailbox.Mailbox, "put", late_put)
    with running_server(protocol=framed) as server, raw_client(server) as sock:
        sock.sendall(frames(b"one", b"two", b"three"))
        gate.wait_arrived()
        (client,) = server.clients.values()
        assert client.recv(timeout=5) == b"one"
        thread, results = in_thread(partial(client.recv, timeout=5))
        thread.join(0.2)
        gate.open()
        thread.join(PATIENCE)
        assert results == [b"two"]
        assert client.recv(timeout=5) == b"three"


def test_recv_elsewhere_takes_nothing_that_a_callback_has_to_get() -> None:
    gate = Gate()
    got: list[bytes] = []

    def receive(client: Any, address: Any, data: bytes) -> None:
        got.append(data)
        if data == b"one":
            gate()

    with running_server(protocol=framed, on_receive=receive) as server, raw_client(server) as sock:
        sock.sendall(frames(b"one", b"two", b"three"))
        gate.wait_arrived()
        (client,) = server.clients.values()
        assert client.recv(timeout=5) == b"one"
        thread, _ = in_thread(partial(client.recv, timeout=5))
        thread.join(0.2)
        gate.open()
        thread.join(PATIENCE)
        wait_until(lambda: len(got) >= 3, f"all three: {got}", 3)
        assert got == [b"one", b"two", b"three"]


# ------------------------------------------------------------------------------------------- two readers


def test_autorecv_turned_on_while_recv_data_waits_leaves_the_stream_whole(
    bare: TCPClient,
    peer: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """recv_data() got half a frame, and is interrupted before it feeds it."""
    gate = Gate()
    feeds: list[bytes] = []

    class Slow(FramedProtocol):
        def __init__(self) -> None:
            super().__init__(LengthPrefixFramer(4))
            feed = self.feed

            def slow_feed(data: bytes) -> Any:
                if data == b"6   abc":
                    gate()
                feeds.append(data)
                return feed(data)

            self.feed = slow_feed

    bare.setup(HOST, peer.port, protocol=Slow)
    assert bare.connect()
    sock = peer.accept()
    thread, results = in_thread(partial(bare.recv_data, timeout=5))
    sock.sendall(b"6   abc")
    gate.wait_arrived()
    bare.autorecv()
    sock.sendall(b"def" + frames(b"next"))
    threading.Event().wait(0.2)  # nobody else may read meanwhile
    gate.open()
    thread.join(PATIENCE)
    assert results == [b"abcdef"]
    assert next_item(bare) == b"next"
    assert not bare.event.exception.occurred
    sock.close()


def test_recv_data_does_not_read_beside_a_reader_that_is_about_to_begin(
    bare: TCPClient,
    peer: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = Gate()
    start = engine.ThreadEngine.start

    def late_start(self: Any, connection: Any) -> None:
        gate()
        start(self, connection)

    bare.setup(HOST, peer.port, protocol=framed)
    assert bare.connect()
    sock = peer.accept()
    monkeypatch.setattr(engine.ThreadEngine, "start", late_start)
    on, _ = in_thread(bare.autorecv)
    gate.wait_arrived()
    reads: list[str] = []
    receive_some = Connection._read_here

    def note(self: Any, *args: Any) -> bytes:
        reads.append(threading.current_thread().name)
        return receive_some(self, *args)

    monkeypatch.setattr(Connection, "_read_here", note)
    thread, results = in_thread(partial(bare.recv_data, timeout=5))
    thread.join(0.2)
    gate.open()
    on.join(PATIENCE)
    sock.sendall(frames(b"one"))
    thread.join(PATIENCE)
    assert results == [b"one"]
    assert not reads
    sock.close()


def test_autorecv_toggled_by_two_threads_ends_as_the_last_one_said(
    client: TCPClient,
    sock: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client.autorecv()
    gate = Gate()
    turn = Connection.turn

    def late_turn(self: Any, reading: bool) -> bool:
        if not reading and threading.current_thread() is off:
            threading.Event().wait(0.2) if not gate._opened.is_set() else None
        return turn(self, reading)

    monkeypatch.setattr(Connection, "turn", late_turn)
    off = threading.Thread(target=client.autorecv)
    off.start()
    wait_until(lambda: not client._autorecv or not off.is_alive())
    client.autorecv()  # on again
    off.join(PATIENCE)
    sock.sendall(b"text")
    assert next_item(client) == b"text"


# ------------------------------------------------------------------------------------------- sockets' modes


def test_recv_data_of_a_socket_set_to_be_non_blocking_waits(client: TCPClient, sock: socket.socket) -> None:
    client.socket.setblocking(False)
    thread, results = in_thread(partial(client.recv_data, timeout=None))
    thread.join(0.1)
    sock.sendall(b"text")
    thread.join(PATIENCE)
    assert results == [b"text"]
    assert client.event.is_connected


def test_recv_data_of_a_peer_that_breaks_the_protocol_is_empty_and_recorded(bare: TCPClient, peer: Any) -> None:
    bare.setup(HOST, peer.port, protocol=framed)
    assert bare.connect()
    sock = peer.accept()
    sock.sendall(frames(b"one") + b"nonsense")
    assert bare.recv_data(timeout=5) == b"one"
    sock.close()
    assert bare.recv_data(timeout=5) == b""
    (record,) = bare.return_exceptions()
    assert isinstance(record.exception, ProtocolError)
    assert bare.ending is not None
    assert bare.ending.kind == "protocol error"
    assert not bare.event.is_connected


# ------------------------------------------------------------------------------------------- connect and close


def test_connecting_that_close_overtook_at_the_last_moment_is_ended(
    bare: TCPClient,
    peer: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = Gate()
    connect = Dial.connect

    def late(self: Dial) -> socket.socket:
        sock = connect(self)
        gate()
        return sock

    monkeypatch.setattr(Dial, "connect", late)
    bare.setup(HOST, peer.port)
    thread, results = in_thread(bare.connect)
    gate.wait_arrived()
    bare.close()
    gate.open()
    thread.join(PATIENCE)
    # Closed, or connected and working: nothing in between.
    if results == [True]:
        bare.autorecv()
        peer.accept().sendall(b"text")
        assert next_item(bare) == b"text"
    else:
        assert not bare.event.is_connected
        assert peer.accept().recv(1) == b""


def test_close_is_not_undone_by_an_on_disconnect_that_reconnects(bare: TCPClient, peer: Any) -> None:
    bare.setup(HOST, peer.port, on_disconnect=lambda: bare.reconnect())
    assert bare.connect()
    bare.autorecv()
    sock = peer.accept()
    closing, _ = in_thread(bare.close)
    assert sock.recv(1) == b""
    sock.close()
    closing.join(PATIENCE)
    assert not bare.event.is_connected
    assert bare.connect()  # afterwards it can be connected again


@pytest.mark.parametrize("again", ["connect", "reconnect"])
def test_close_is_not_undone_by_a_callback_that_runs(bare: TCPClient, peer: Any, again: str) -> None:
    gate, results = Gate(), list[bool]()

    def connect_again(_: bytes) -> None:
        gate.arrive()
        results.append(getattr(bare, again)())

    bare.setup(HOST, peer.port, on_receive=connect_again)
    assert bare.connect()
    bare.autorecv()
    sock = peer.accept()
    sock.sendall(b"text")
    gate.wait_arrived()
    closing, _ = in_thread(bare.close)
    assert sock.recv(1) == b""  # so close() has said goodbye
    sock.close()
    gate.open()
    closing.join(PATIENCE)
    wait_until(lambda: results == [False])
    assert not bare.event.is_connected
    (record,) = bare.return_exceptions()
    assert "being closed" in str(record[1])
    assert bare.connect()  # afterwards it can be connected again


def test_a_callback_may_close_and_connect_again(bare: TCPClient, peer: Any) -> None:
    results = list[bool]()

    def close_and_connect(_: bytes) -> None:
        bare.close()
        results.append(bare.connect())

    bare.setup(HOST, peer.port, on_receive=close_and_connect)
    assert bare.connect()
    bare.autorecv()
    peer.accept().sendall(b"text")
    wait_until(lambda: results == [True])
    assert bare.event.is_connected


def test_a_callback_that_close_left_behind_may_reconnect_who_is_open_again(bare: TCPClient, peer: Any) -> None:
    gate, results = Gate(), list[bool]()

    def reconnect(_: bytes) -> None:
        gate.arrive()
        results.append(bare.reconnect())

    bare.setup(HOST, peer.port, on_receive=reconnect)
    assert bare.connect()
    bare.autorecv()
    peer.accept().sendall(b"text")
    gate.wait_arrived()
    bare.close(timeout=0.05)
    assert bare.connect()
    gate.open()
    wait_until(lambda: results == [True])
    assert bare.event.is_connected


# ------------------------------------------------------------------------------------------- threads run out


def test_a_thread_that_the_system_refuses_for_timers_hinders_no_disconnect(monkeypatch: pytest.MonkeyPatch) -> None:
    came, gone = threading.Event(), threading.Event()
    running = running_server(on_connect=lambda address: came.set(), on_disconnect=lambda address: gone.set())
    with running as server, raw_client(server) as sock:
        assert came.wait(PATIENCE)  # who is disconnected before that has not come, and does not go
        start = threading.Thread.start

        def refuse(self: threading.Thread) -> None:
            if self.name.endswith("-timers"):
                raise RuntimeError("can't start new thread")
            start(self)

        monkeypatch.setattr(threading.Thread, "start", refuse)
        assert server.disconnect(sock.getsockname())
        assert gone.wait(PATIENCE)
        assert sock.recv(1) == b""
        monkeypatch.undo()
        done = threading.Event()
        assert server._engine is not None
        server._engine.later(0.01, done.set)
        assert done.wait(PATIENCE)  # the next one runs again


def test_autorecv_can_be_turned_on_after_the_system_refused_a_thread(
    client: TCPClient,
    sock: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            client.autorecv()
    client.autorecv()
    if not client._autorecv:
        client.autorecv()
    sock.sendall(b"text")
    wait_until(lambda: client.event.new_data, "data", 3)


# ------------------------------------------------------------------------------------------- signals


def test_a_wait_in_a_signal_handler_leaves_the_interrupted_one_awake(client: TCPClient, sock: socket.socket) -> None:
    other = TCPClient()
    main = threading.get_ident()
    handled = threading.Event()

    def handler(*_: object) -> None:
        client.await_event(1)
        handled.set()

    client.return_exceptions()
    client._mailbox.events.clear()

    def act() -> None:
        wait_until(lambda: client._bell.waiting)
        signal.pthread_kill(main, signal.SIGUSR1)
        handled.wait(PATIENCE)
        client._mailbox.events.happened(client.EVENT_CONNECTED.copy())

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        thread = threading.Thread(target=act)
        thread.start()
        began = time.monotonic()
        event, _ = client.await_event(4000)
        took = time.monotonic() - began
        thread.join(PATIENCE)
    finally:
        signal.signal(signal.SIGUSR1, before)
        other.close()
    assert event == client.EVENT_CONNECTED
    assert took < 2


def test_a_flag_first_read_in_a_signal_handler_does_not_upset_the_interrupted_read() -> None:
    rung: list[bool] = []

    class Bell(mailbox.Bell):
        @property
        def closed(self) -> bool:
            if armed and not rung:
                rung.append(True)
                signal.raise_signal(signal.SIGUSR1)
            return False

        @closed.setter
        def closed(self, value: bool) -> None:
            pass

    armed: list[bool] = []
    one, two, third = (mailbox.Flag(Bell()) for _ in range(3))
    poller = mailbox._this_thread()
    poller.reads.clear()
    poller.reads.update({one: 1, two: 1})

    before = signal.signal(signal.SIGUSR1, lambda *_: poller.reads.__setitem__(third, 1))
    armed.append(True)
    try:
        poller.has_news()
    finally:
        armed.clear()
        poller.reads.clear()
        signal.signal(signal.SIGUSR1, before)
    assert rung


# ------------------------------------------------------------------------------------------- memory


def test_records_of_failed_sends_do_not_keep_what_was_not_sent() -> None:
    with running_server() as server, raw_client(server):
        tracemalloc.start()
        try:
            for _ in range(50):
                assert not server.send_data(os.urandom(1 << 20), ("127.0.0.1", 1))
            used, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert len(server.event.exception.list) == 50
        assert used < 20 << 20
