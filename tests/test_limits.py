"""Limits: who does not read, who says nothing, who comes too often; and what programs may ask for."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from simplesockets import Ending, FramedProtocol, LengthPrefixFramer, SendTimeout, Server_Client, TCPClient, TCPServer
from simplesockets import connection as connection_module
from simplesockets import endpoint as endpoint_module
from simplesockets import transport as transport_module
from simplesockets.connection import Connection, end_idle
from simplesockets.mailbox import Bell, Mailbox
from simplesockets.protocol import RawProtocol
from simplesockets.server import REFUSALS_TOLD, Crowd
from simplesockets.timing import Standstill
from simplesockets.transport import Stream

from .support.certificates import client_side, server_side
from .support.clients import Peer, in_thread
from .support.clock import have_connections_use
from .support.running import HOST, is_refused, raw_client, read_exactly, reset, running_server, sees_reset
from .support.waiting import PATIENCE, Gate, wait_until

pytestmark = pytest.mark.usefixtures("either_engine")

SHORT = 0.1
"""A timeout that is waited for."""
MUCH = 24 * 1024 * 1024
"""More bytes than the system takes for a peer that does not read."""
CONTENT = bytes(range(256)) * (MUCH // 256)


class Clock:
    """The time, as a test tells it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Endings:
    """An ``on_disconnect`` that notes what it sees."""

    def __init__(self) -> None:
        self.seen: list[Ending | None] = []

    def __call__(self, address: Any) -> None:
        self.seen.append(address.client.ending)

    def one(self) -> Ending:
        wait_until(lambda: self.seen, "on_disconnect")
        (ending,) = self.seen
        assert ending is not None
        return ending


@contextlib.contextmanager
def connected(server: TCPServer, kind: str) -> Iterator[socket.socket]:
    """A socket of the standard library's that is connected to the server."""
    with raw_client(server) as sock:
        if kind == "plain":
            yield sock
        else:
            with client_side().wrap_socket(sock, server_hostname="localhost") as encrypted:
                yield encrypted


def only_client(server: TCPServer) -> Server_Client:
    (client,) = wait_until(lambda: list(server.clients.values()), "a client")
    return client


def side(kind: str) -> dict[str, Any]:
    return {"ssl_context": server_side()} if kind == "tls" else {}


kinds = pytest.mark.parametrize("kind", ["plain", "tls"])

# ----------------------------------------------------------------------------------------------- who does not read


def framed() -> FramedProtocol:
    return FramedProtocol(LengthPrefixFramer(limit=2 * MUCH))


@kinds
@pytest.mark.parametrize("way", ["send", "sendall", "messages", "file"])
def test_who_does_not_read_is_cut(kind: str, way: str, tmp_path: Path) -> None:
    ended = Endings()
    setup = side(kind) | ({"protocol": framed} if way == "messages" else {})
    with (
        running_server(on_receive=print, on_disconnect=ended, send_timeout=SHORT, **setup) as server,
        connected(server, kind) as sock,
    ):
        client = only_client(server)
        path = tmp_path / "much"
        path.write_bytes(CONTENT)
        send: Callable[[], object] = {
            "send": lambda: client.send(CONTENT),
            "sendall": lambda: client.sendall(CONTENT),
            "messages": lambda: client.send(CONTENT),
            "file": lambda: client.send_file(path),
        }[way]
        with pytest.raises(SendTimeout, match=f"took nothing for {SHORT} seconds.*send_timeout") as caught:
            send()
        assert isinstance(caught.value, ConnectionError)
        assert caught.value.seconds == SHORT
        ending = ended.one()
        assert ending.kind == "send timeout"
        assert isinstance(ending.exception, SendTimeout)
        assert not server.clients
        with pytest.raises(SendTimeout):
            client.send(b"more")
        if kind == "plain":
            assert sees_reset(sock)


@kinds
def test_send_data_to_who_does_not_read_is_false_and_recorded(kind: str) -> None:
    with running_server(send_timeout=SHORT, **side(kind)) as server, connected(server, kind):
        client = only_client(server)
        assert not server.send_data(CONTENT, client)
        (record,) = server.return_exceptions()
        assert isinstance(record.exception, SendTimeout)
        wait_until(lambda: not server.clients, "the end of the connection")
        assert client.ending is not None
        assert client.ending.kind == "send timeout"


@kinds
def test_callback_that_answers_who_does_not_read_ends_and_so_does_its_client(kind: str) -> None:
    ended = Endings()
    failures = []

    def answer(client: Server_Client, data: bytes) -> None:
        try:
            client.send(CONTENT)
        except OSError as failure:
            failures.append(failure)

    with (
        running_server(on_receive=answer, on_disconnect=ended, send_timeout=SHORT, **side(kind)) as server,
        connected(server, kind) as sock,
    ):
        sock.sendall(b"well?")
        assert ended.one().kind == "send timeout"
        assert [type(failure) for failure in failures] == [SendTimeout]


def test_all_who_wait_to_send_to_who_does_not_read_are_told() -> None:
    with running_server(send_timeout=SHORT) as server, raw_client(server):
        client = only_client(server)

        def send() -> BaseException | None:
            try:
                client.send(CONTENT)
            except OSError as failure:
                return failure
            return None

        threads = [in_thread(send) for _ in range(4)]
        for thread, _ in threads:
            thread.join(PATIENCE)
        assert [type(results[0]) for _, results in threads] == [SendTimeout] * 4


@pytest.mark.parametrize("timeout", [0.0, 0.001, 30.0], ids=["non-blocking", "short timeout", "long timeout"])
def test_mode_that_the_program_gave_the_socket_changes_nothing(timeout: float) -> None:
    with running_server(send_timeout=SHORT) as server, raw_client(server):
        client = only_client(server)
        client.socket.settimeout(timeout)
        with pytest.raises(SendTimeout):
            client.send(CONTENT)
        assert client.ending is not None
        assert client.ending.kind == "send timeout"


def test_client_whose_data_nobody_fetches_is_cut_all_the_same() -> None:
    # Its reader waits for room in the mailbox, and for nothing else.
    with running_server(send_timeout=SHORT) as server, raw_client(server) as sock:
        client = only_client(server)
        server._mailbox.client_mark = 1
        sock.sendall(b"unfetched")
        wait_until(lambda: server._mailbox.is_paused(client._connection), "a pause")
        assert not server.send_data(CONTENT, client)
        wait_until(lambda: not server.clients, "the end of the connection")
        wait_until(lambda: client.socket.fileno() < 0, "its socket's end")
        assert server.return_recved_data()[0].response == b"unfetched"


@pytest.mark.parametrize("receiving", [False, True])
def test_client_of_a_server_that_does_not_read(peer: Peer, receiving: bool) -> None:
    client = TCPClient()
    ended: list[Ending | None] = []
    client.setup(HOST, peer.port, on_disconnect=lambda: ended.append(client.ending), send_timeout=SHORT)
    with contextlib.closing(client):
        assert client.connect()
        if receiving:
            client.autorecv()
        sock = peer.accept()
        assert not client.send_data(CONTENT)
        wait_until(lambda: ended, "on_disconnect")
        assert [ending and ending.kind for ending in ended] == ["send timeout"]
        assert isinstance(client.return_exceptions()[-1].exception, SendTimeout)
        assert not client.event.is_connected
        assert not client.send_data(b"more")
        assert sees_reset(sock)


def take_a_little(sock: socket.socket, client: Server_Client) -> bytes:
    """Read until the client's system tells of it: far too little for the server's to say that there is room."""
    before = client._connection.stream.on_its_way()
    received = []

    def is_told() -> bool:
        received.append(read_exactly(sock, 64 * 1024))
        return client._connection.stream.on_its_way() != before

    wait_until(is_told, "an acknowledgement")
    return b"".join(received)


@kinds
def test_who_reads_slowly_is_not_cut(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(transport_module, "time", clock)
    looks = Looks(monkeypatch)
    with running_server(send_timeout=SHORT, **side(kind)) as server, connected(server, kind) as sock:
        client = only_client(server)
        sender, results = in_thread(lambda: client.send(CONTENT))
        received = b""
        looks.some()  # by then the system takes nothing more
        for _ in range(4):
            received += take_a_little(sock, client)
            looks.some()
            clock.now += 0.9 * SHORT
            looks.some()
        assert sender.is_alive()
        received += read_exactly(sock, len(CONTENT) - len(received))
        sender.join(PATIENCE)
        assert results == [len(CONTENT)]
        assert received == CONTENT
        assert client.ending is None


def test_who_read_slowly_and_then_no_more_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(transport_module, "time", clock)
    looks = Looks(monkeypatch)
    with running_server(send_timeout=SHORT) as server, raw_client(server) as sock:
        client = only_client(server)
        sender, _ = in_thread(lambda: server.send_data(CONTENT, client))
        looks.some()
        take_a_little(sock, client)
        looks.some()
        clock.now += 0.99 * SHORT
        looks.some()
        assert sender.is_alive()
        clock.now += 0.02 * SHORT
        sender.join(PATIENCE)
        assert not sender.is_alive()
        assert client.ending is not None
        assert client.ending.kind == "send timeout"


class Looks:
    """How often somebody looked whether a peer takes anything."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._count = 0
        look = Standstill.is_over

        def is_over(standstill: Standstill, place: int, now: float) -> bool:
            over = look(standstill, place, now)
            self._count += 1
            return over

        monkeypatch.setattr(Standstill, "is_over", is_over)

    def some(self) -> None:
        """Wait for a few more."""
        seen = self._count
        wait_until(lambda: self._count > seen + 2, "a look at what the peer takes")


def test_without_a_send_timeout_sending_waits() -> None:
    with running_server(send_timeout=None) as server, raw_client(server) as sock:
        client = only_client(server)
        assert client.socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO) == 0
        sender, results = in_thread(lambda: client.send(CONTENT))
        assert read_exactly(sock, len(CONTENT)) == CONTENT
        sender.join(PATIENCE)
        assert results == [len(CONTENT)]


def test_standstill_is_one_place_for_so_long() -> None:
    standstill = Standstill(2.0, 0, 10.0)
    assert not standstill.is_over(0, 11.9)
    assert not standstill.is_over(1, 12.5)
    assert not standstill.is_over(1, 14.4)
    assert standstill.is_over(1, 14.5)
    assert not Standstill(None, 0, 0.0).is_over(0, 1e9)


# ------------------------------------------------------------------------------------------------ who says nothing


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """What connections take for the time."""
    clock = Clock()
    have_connections_use(clock.monotonic, monkeypatch)
    return clock


class IdleLooks:
    """How often somebody looked who is idle."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._count = 0
        look = connection_module.end_idle

        def end_idle(connections: Iterable[Connection], timeout: float) -> None:
            look(connections, timeout)
            self._count += 1

        monkeypatch.setattr(endpoint_module, "end_idle", end_idle)

    def some(self) -> None:
        """Wait for a look that begins from now on."""
        seen = self._count
        wait_until(lambda: self._count > seen + 1, "a look at who is idle")


@pytest.fixture
def idle_looks(monkeypatch: pytest.MonkeyPatch) -> IdleLooks:
    return IdleLooks(monkeypatch)


def echo(client: Server_Client, received: bytes) -> None:
    client.send(received)


def settle(client: Server_Client) -> None:
    """Wait until no callback of it runs, nor one is due."""
    connection = client._connection
    wait_until(lambda: connection._begun and not connection.served_by, "the callback's end")


def ask(sock: socket.socket, question: bytes = b"still there?") -> None:
    """Send to a server that echoes, and get it back."""
    sock.sendall(question)
    assert read_exactly(sock, len(question)) == question


@kinds
@pytest.mark.parametrize("messages", [0, 8])
def test_idle_client_is_let_go_in_good_order(kind: str, messages: int, clock: Clock) -> None:
    # After a few messages its thread is asleep, and others read for it.
    ended = Endings()
    with (
        running_server(on_receive=echo, on_disconnect=ended, idle_timeout=SHORT, **side(kind)) as server,
        connected(server, kind) as sock,
    ):
        sock.settimeout(PATIENCE)
        client = only_client(server)
        for _ in range(messages):
            ask(sock)
        client.send(b"the last word")
        settle(client)
        clock.now += 2 * SHORT
        assert read_exactly(sock, 100) == b"the last word"  # and then an orderly end
        sock.close()
        assert ended.one() == Ending("idle")
        assert not server.clients


def test_client_that_says_something_now_and_then_is_not_idle(clock: Clock, idle_looks: IdleLooks) -> None:
    ended = Endings()
    with (
        running_server(on_receive=echo, on_disconnect=ended, idle_timeout=SHORT) as server,
        raw_client(server) as sock,
    ):
        client = only_client(server)
        for _ in range(8):
            ask(sock)
            settle(client)
            clock.now += 0.99 * SHORT
            idle_looks.some()
        assert client.ending is None
        clock.now += 0.2 * SHORT
        assert read_exactly(sock, 1) == b""
        sock.close()
        assert ended.one().kind == "idle"


def test_client_is_not_idle_while_its_callback_runs_nor_soon_after(clock: Clock, idle_looks: IdleLooks) -> None:
    gate = Gate()
    with running_server(on_receive=gate, idle_timeout=SHORT) as server, raw_client(server) as sock:
        client = only_client(server)
        sock.sendall(b"a hard question")
        gate.wait_arrived()
        clock.now += 10 * SHORT
        idle_looks.some()
        gate.open()
        settle(client)
        clock.now += SHORT
        idle_looks.some()
        assert client.ending is None
        clock.now += 0.2 * SHORT
        assert read_exactly(sock, 1) == b""


def test_client_whose_data_nobody_fetches_is_not_idle(clock: Clock, idle_looks: IdleLooks) -> None:
    with running_server(idle_timeout=SHORT) as server, raw_client(server) as sock:
        client = only_client(server)
        server._mailbox.client_mark = 1
        sock.sendall(b"unfetched")
        wait_until(lambda: server._mailbox.is_paused(client._connection), "a pause")
        settle(client)
        for _ in range(3):
            clock.now += 2 * SHORT
            idle_looks.some()
        assert client.ending is None
        server.return_recved_data()
        idle_looks.some()
        clock.now += 1.2 * SHORT
        assert read_exactly(sock, 1) == b""


def test_handler_that_receives_in_vain_is_idle_and_one_that_is_busy_is_not(clock: Clock, idle_looks: IdleLooks) -> None:
    gate, heard = Gate(), []

    def handle(client: Server_Client) -> None:
        heard.append(bytes(client.recv()))
        gate.arrive()
        heard.append(bytes(client.recv()))

    ended = Endings()
    with (
        running_server(handle_client=handle, on_disconnect=ended, idle_timeout=SHORT) as server,
        raw_client(server) as sock,
    ):
        sock.sendall(b"first")
        gate.wait_arrived()
        clock.now += 10 * SHORT
        idle_looks.some()
        assert only_client(server).ending is None
        gate.open()
        wait_until(lambda: only_client(server)._connection._waits_here, "the handler to receive")
        clock.now += SHORT
        idle_looks.some()
        assert only_client(server).ending is None
        clock.now += 0.2 * SHORT
        assert read_exactly(sock, 1) == b""
        sock.close()
        assert ended.one().kind == "idle"
        assert heard == [b"first", b""]


def test_client_whose_first_callback_has_not_begun_is_not_idle(clock: Clock) -> None:
    # Since no thread was free, say. It has been here for no time at all then.
    ours, theirs = socket.socketpair()
    with contextlib.closing(theirs):
        connection = Connection(Stream(ours), RawProtocol(), Mailbox(Bell()), 2048)
        connection.thread = threading.current_thread()
        for _ in range(2):
            clock.now += 2 * SHORT
            end_idle([connection], SHORT)
        assert connection.ending is None
        connection.open()
        clock.now += SHORT
        end_idle([connection], SHORT)
        assert connection.ending is None
        clock.now += 0.2 * SHORT
        end_idle([connection], SHORT)
        assert connection.ending == Ending("idle")
        connection.close()


def test_what_came_and_was_not_read_yet_is_not_idleness(clock: Clock) -> None:
    ours, theirs = socket.socketpair()
    with contextlib.closing(theirs):
        connection = Connection(Stream(ours), RawProtocol(), Mailbox(Bell()), 2048)
        connection.thread = threading.current_thread()
        connection.open()
        theirs.sendall(b"late")
        clock.now += 2 * SHORT
        end_idle([connection], SHORT)
        assert connection.ending is None
        connection.step()
        clock.now += SHORT
        end_idle([connection], SHORT)
        assert connection.ending is None
        clock.now += 0.2 * SHORT
        end_idle([connection], SHORT)
        assert connection.ending == Ending("idle")
        connection.close()


@pytest.mark.parametrize("way", ["autorecv", "recv_data"])
def test_client_of_an_idle_server_comes_away(peer: Peer, way: str) -> None:
    client = TCPClient()
    ended: list[Ending | None] = []
    client.setup(HOST, peer.port, on_disconnect=lambda: ended.append(client.ending), idle_timeout=SHORT)
    with contextlib.closing(client):
        assert client.connect()
        sock = peer.accept()
        thread, results = in_thread(client.recv_data if way == "recv_data" else client.autorecv)
        assert read_exactly(sock, 1) == b""
        sock.close()
        thread.join(PATIENCE)
        assert results == [b"" if way == "recv_data" else True]
        wait_until(lambda: ended, "on_disconnect")
        assert ended == [Ending("idle")]


def test_client_that_does_not_receive_is_not_idle(peer: Peer, clock: Clock, idle_looks: IdleLooks) -> None:
    client = TCPClient()
    client.setup(HOST, peer.port, idle_timeout=SHORT)
    with contextlib.closing(client):
        assert client.connect()
        sock = peer.accept()
        for _ in range(3):
            clock.now += 2 * SHORT
            idle_looks.some()
        assert client.ending is None
        sock.sendall(b"late")
        assert client.recv_data() == b"late"


# --------------------------------------------------------------------------------------------- who comes too often


def test_one_address_has_so_many_connections_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "simplesockets")
    with running_server(on_receive=echo, max_per_address=2) as server, contextlib.ExitStack() as stack:
        first, second = (stack.enter_context(raw_client(server)) for _ in range(2))
        wait_until(lambda: len(server.clients) == 2, "two clients")
        for number in range(5):
            assert is_refused(server.address)
            assert server.refused == number + 1
        elsewhere = stack.enter_context(
            socket.create_connection(server.address, PATIENCE, source_address=("127.0.0.2", 0))
        )
        for sock in (first, second, elsewhere):
            ask(sock)
        first.close()
        wait_until(lambda: len(server.clients) == 2, "one to leave")
        ask(stack.enter_context(raw_client(server)))
        assert server.refused == 5
        wait_until(lambda: caplog.records, "a word in the log")
        (record,) = caplog.records
        assert "127.0.0.1" in record.getMessage()
        assert "max_per_address=2" in record.getMessage()


def test_those_that_shake_hands_count() -> None:
    with running_server(max_per_address=1, ssl_context=server_side()) as server, raw_client(server) as sock:
        wait_until(lambda: server._connected, "a connection")
        assert not server.clients
        assert is_refused(server.address)
        sock.close()
        wait_until(lambda: not server._connected, "its end")
        with connected(server, "tls"):
            only_client(server)


@pytest.mark.parametrize("how", ["they leave", "reset", "disconnect", "idle", "send timeout", "handler"])
def test_however_a_connection_ends_its_place_is_free(how: str) -> None:
    setup: dict[str, Any] = {"idle_timeout": SHORT} if how == "idle" else {}
    if how == "handler":
        setup["handle_client"] = lambda client: client.recv()
    with running_server(max_per_address=1, send_timeout=SHORT, **setup) as server:
        for _ in range(3):
            with raw_client(server) as sock:
                if how == "idle":
                    assert read_exactly(sock, 1) == b""
                    sock.close()
                    wait_until(lambda: not server._connected, "its end")
                    continue
                client = only_client(server)
                if how == "they leave":
                    sock.close()
                elif how == "reset":
                    reset(sock)
                elif how == "disconnect":
                    server.disconnect(client)
                    server.disconnect(client)
                elif how == "send timeout":
                    server.send_data(CONTENT, client)
                elif how == "handler":
                    sock.sendall(b"that will do")
                wait_until(lambda: not server._connected, "its end")
        assert server.refused == 0
        assert not server._crowd._count


def test_the_log_is_told_of_refusals_now_and_then() -> None:
    crowd = Crowd(1)
    assert [crowd.refuse(now) for now in (5.0, 5.1, 6.0, 5.0 + REFUSALS_TOLD - 0.1)] == [1, 0, 0, 0]
    assert crowd.refuse(5.0 + REFUSALS_TOLD) == 4
    assert crowd.refused == 5
