"""TCPClient, call by call: what programs of both generations pass, read and get."""

from __future__ import annotations

import array
import contextlib
import logging
import os
import pathlib
import re
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from typing import Any

import pytest

from simplesockets import (
    BusyError,
    ConnectionClosed,
    Event,
    ResolveError,
    SetupError,
    Socket_Response,
    TCPClient,
    connection,
)
from simplesockets.client import CONNECT_TIMEOUT
from simplesockets.connection import Connection
from simplesockets.framing import LengthPrefixFramer
from simplesockets.hotpath import Step
from simplesockets.protocol import FramedProtocol

from .support.clients import Peer, in_thread, next_item
from .support.programs import free_port, has_ipv6
from .support.running import HOST, raw_listener, read_exactly, reset, running_server
from .support.waiting import PATIENCE, Gate, wait_until

NOWHERE = "no-such-host.invalid"
"""A name that never resolves (RFC 6761)."""
MOMENT = 0.1
"""Seconds to watch for something that must not happen."""

needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback address")


@pytest.fixture
def refused(bare: TCPClient) -> TCPClient:
    """A client of a port where nobody listens."""
    bare.setup(HOST, free_port())
    return bare


def only_exception(client: TCPClient) -> BaseException:
    """The one exception that was recorded."""
    assert client.event.exception.occurred
    (record,) = client.return_exceptions()
    return record.exception


def seen_off(sock: socket.socket, end: Callable[[], object]) -> object:
    """Run what ends the client's connection; the peer reads to the end and closes then. Gives the result."""
    ending, results = in_thread(end)
    while sock.recv(65536):
        pass
    sock.close()
    ending.join(PATIENCE)
    return results[0]


def end_of_stream_arrives(client: TCPClient) -> None:
    """Wait until the client's socket has something to read, if only the end of the stream."""
    assert select.select([client.socket], [], [], PATIENCE)[0]


def flags(client: TCPClient) -> dict[str, bool]:
    """All flags that tell of the connection."""
    names = ("connected", "is_connected", "disconnected")
    return {name: getattr(client.event, name) for name in names}


FRESH = {"connected": False, "is_connected": False, "disconnected": False}
CONNECTED = {"connected": True, "is_connected": True, "disconnected": False}
ENDED = {"connected": True, "is_connected": False, "disconnected": True}

# ---------------------------------------------------------------------------------------------------------- setup


def test_setup_takes_what_the_manual_passes(bare: TCPClient, peer: Peer) -> None:
    bare.setup(target_ip=HOST, target_port=peer.port, listen=5, recv_buffer=2048, handle_client=None)
    assert bare.start() is True
    with peer.accept():
        assert bare.connect() is True
        assert peer.nobody_else_came()


def test_setup_takes_a_function_as_handle_client_and_never_calls_it(bare: TCPClient, peer: Peer) -> None:
    calls: list[object] = []
    bare.setup(HOST, peer.port, listen=10, handle_client=lambda *arguments: calls.append(arguments))
    bare.connect()
    bare.autorecv()
    with peer.accept() as sock:
        sock.sendall(b"text")
        assert next_item(bare) == b"text"
    assert calls == []


def test_arguments_by_position_are_in_the_documented_order(bare: TCPClient, peer: Peer) -> None:
    events: list[object] = []
    bare.setup(
        HOST, peer.port, 16, lambda: events.append("connect"), lambda: events.append("disconnect"), events.append
    )
    bare.connect()
    bare.autorecv()
    with peer.accept() as sock:
        sock.sendall(b"x" * 16)
        wait_until(lambda: len(events) == 2)
    wait_until(lambda: len(events) == 3)
    assert events == ["connect", b"x" * 16, "disconnect"]


BAD_ARGUMENTS: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    "target_ip number": ({"target_ip": 5}, TypeError),
    "target_ip None": ({"target_ip": None}, TypeError),
    "target_ip bytes": ({"target_ip": b"127.0.0.1"}, TypeError),
    "port text": ({"target_port": "80"}, TypeError),
    "port True": ({"target_port": True}, TypeError),
    "port None": ({"target_port": None}, TypeError),
    "port zero": ({"target_port": 0}, ValueError),
    "port negative": ({"target_port": -1}, ValueError),
    "port too big": ({"target_port": 65536}, ValueError),
    "recv_buffer text": ({"recv_buffer": "2048"}, TypeError),
    "recv_buffer zero": ({"recv_buffer": 0}, ValueError),
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_setup_refuses(bare: TCPClient, case: str) -> None:
    arguments, kind = BAD_ARGUMENTS[case]
    (value,) = arguments.values()
    with pytest.raises(kind, match=rf"\b{case.split()[0]}\b.*{re.escape(repr(value))}"):
        bare.setup(**{"target_ip": HOST, "target_port": 1, **arguments})
    assert bare.Address == (None, None)


@pytest.mark.parametrize("name", ["connect", "start", "reconnect", "__enter__"])
def test_setup_is_needed_first(bare: TCPClient, name: str) -> None:
    with pytest.raises(SetupError, match=r"setup\(target_ip, target_port\)"):
        getattr(bare, name)()


def test_address_is_what_setup_was_given(bare: TCPClient) -> None:
    seen = [bare.Address]
    bare.setup("localhost")
    seen.append(bare.Address)
    bare.setup(HOST, 9999)
    seen.append(bare.Address)
    assert seen == [(None, None), ("localhost", 25567), (HOST, 9999)]


def test_setup_again_counts_from_the_next_connection_on(client: TCPClient, sock: socket.socket, peer: Peer) -> None:
    with raw_listener() as elsewhere:
        client.setup(HOST, elsewhere.getsockname()[1])
        assert client.send_data(b"text")
        assert read_exactly(sock, 4) == b"text"
        assert seen_off(sock, client.reconnect)
        other, _ = elsewhere.accept()
        with other:
            assert client.send_data(b"text")
            assert read_exactly(other, 4) == b"text"
    assert peer.nobody_else_came()


# --------------------------------------------------------------------------------------------------------- connect


def test_connect_twice_is_true_and_makes_one_connection(client: TCPClient, peer: Peer) -> None:
    calls: list[str] = []
    client.on_connect = lambda: calls.append("connect")
    assert client.connect() is True
    assert client.connect() is True
    assert client.start() is True
    peer.accept()
    assert peer.nobody_else_came()
    assert calls == ["connect"]


def test_localhost_is_connected_to_whatever_it_resolves_to(bare: TCPClient, peer: Peer) -> None:
    bare.setup("localhost", peer.port)
    assert bare.connect()
    peer.accept()


@needs_ipv6
def test_ipv6_is_connected_to(bare: TCPClient) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        bare.setup("::1", listener.getsockname()[1])
        assert bare.connect()
        sock, _ = listener.accept()
        with sock:
            assert bare.send_data("text")
            assert read_exactly(sock, 4) == b"text"


def test_connect_that_is_refused_is_false_recorded_and_logged(
    refused: TCPClient, caplog: pytest.LogCaptureFixture
) -> None:
    assert refused.connect() is False
    assert isinstance(only_exception(refused), ConnectionRefusedError)
    assert flags(refused) == FRESH
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    host, port = refused.Address
    assert f"{host}:{port}" in warning
    assert "is the server running" in warning


def test_connect_to_a_name_that_does_not_resolve_is_false_and_recorded(bare: TCPClient) -> None:
    bare.setup(NOWHERE, 9999)
    assert bare.start() is False
    failure = only_exception(bare)
    assert isinstance(failure, ResolveError)
    assert isinstance(failure, socket.gaierror)
    assert NOWHERE in str(failure)


def test_connect_can_be_tried_until_the_server_is_there(bare: TCPClient) -> None:
    port = free_port()
    bare.setup(HOST, port)
    assert bare.connect() is False
    with socket.create_server((HOST, port)) as listener:
        assert bare.connect() is True
        sock, _ = listener.accept()
        with sock:
            assert bare.send_data(b"text")
            assert read_exactly(sock, 4) == b"text"
    assert flags(bare)["connected"]


@pytest.mark.parametrize("call", [TCPClient.connect, TCPClient.reconnect])
def test_failed_attempt_lowers_connected(
    client: TCPClient, sock: socket.socket, peer: Peer, call: Callable[[TCPClient], bool]
) -> None:
    seen_off(sock, client.disconnect)
    assert flags(client) == ENDED
    peer.listener.close()
    assert call(client) is False
    assert client.event.connected is False
    assert client.event.is_connected is False


def full_listener() -> contextlib.AbstractContextManager[tuple[int, Callable[[], int]]]:
    """A port where connecting hangs, since nobody accepts and the queue is full.

    Gives the port, and a function that counts who is at it.
    """

    @contextlib.contextmanager
    def listener() -> Iterator[tuple[int, Callable[[], int]]]:
        table = pathlib.Path("/proc/net/tcp")
        if not table.exists():
            pytest.skip("only Linux lets connections hang when the queue is full")
        with raw_listener(backlog=0) as listener, contextlib.ExitStack() as fillers:
            port: int = listener.getsockname()[1]

            def hanging() -> int:
                rows = [line.split() for line in table.read_text().splitlines()[1:]]
                return sum(row[3] == "02" and row[2].endswith(f":{port:04X}") for row in rows)

            for _ in range(8):
                filler = fillers.enter_context(socket.socket())
                filler.setblocking(False)
                filler.connect_ex((HOST, port))
            wait_until(hanging, "the queue to be full")
            yield port, hanging

    return listener()


@pytest.mark.parametrize("end", [TCPClient.close, TCPClient.disconnect, TCPClient.shutdown])
def test_connect_that_hangs_is_ended_from_another_thread(bare: TCPClient, end: Callable[[TCPClient], object]) -> None:
    with full_listener() as (port, hanging):
        bare.setup(HOST, port, connect_timeout=None)
        others = hanging()
        connecting, results = in_thread(bare.connect)
        wait_until(lambda: hanging() > others, "the client to be connecting")
        end(bare)
        connecting.join(PATIENCE)
        assert results == [False]
        assert isinstance(only_exception(bare), ConnectionClosed)
        assert flags(bare) == FRESH


def test_connect_that_hangs_times_out(bare: TCPClient) -> None:
    with full_listener() as (port, _):
        bare.setup(HOST, port, connect_timeout=0.1)
        before = time.monotonic()
        assert bare.connect() is False
        assert 0.1 <= time.monotonic() - before < CONNECT_TIMEOUT
        assert isinstance(only_exception(bare), TimeoutError)


def test_two_threads_cannot_connect_at_a_time(bare: TCPClient) -> None:
    with full_listener() as (port, hanging):
        bare.setup(HOST, port, connect_timeout=None)
        others = hanging()
        connecting, results = in_thread(bare.connect)
        wait_until(lambda: hanging() > others, "the client to be connecting")
        with pytest.raises(BusyError):
            bare.connect()
        bare.close()
        connecting.join(PATIENCE)
        assert results == [False]


# ------------------------------------------------------------------------------- reconnect, disconnect, shutdown


def test_reconnect_makes_a_new_connection_and_ends_the_old_one(
    client: TCPClient, sock: socket.socket, peer: Peer
) -> None:
    events: list[str] = []
    client.on_connect = lambda: events.append("connect")
    client.on_disconnect = lambda: events.append("disconnect")
    assert client.send_data(b"last words")
    reconnecting, results = in_thread(client.reconnect)
    assert read_exactly(sock, 100) == b"last words"
    sock.close()
    again = peer.accept()
    reconnecting.join(PATIENCE)
    assert results == [True]
    assert client.send_data(b"text")
    assert read_exactly(again, 4) == b"text"
    assert events == ["disconnect", "connect"]
    assert flags(client) == CONNECTED


def test_reconnect_connects_where_there_was_no_connection(client: TCPClient, peer: Peer) -> None:
    assert client.reconnect() is True
    peer.accept()
    assert flags(client) == CONNECTED


def test_reconnect_opens_a_connection_that_the_server_closed(
    client: TCPClient, sock: socket.socket, peer: Peer
) -> None:
    client.autorecv()
    sock.close()
    wait_until(lambda: client.event.disconnected)
    assert client.reconnect() is True
    peer.accept().sendall(b"text")
    assert next_item(client) == b"text"


def test_reconnect_while_a_callback_runs_makes_a_new_connection(
    client: TCPClient, sock: socket.socket, peer: Peer
) -> None:
    gate = Gate()
    events: list[str] = []
    client.on_receive = gate
    client.on_connect = lambda: events.append("connect")
    client.on_disconnect = lambda: events.append("disconnect")
    client.autorecv()
    sock.sendall(b"text")
    gate.wait_arrived()
    reconnecting, results = in_thread(client.reconnect)
    reconnecting.join(MOMENT)
    gate.open()
    assert sock.recv(1) == b""
    sock.close()
    again = peer.accept()
    reconnecting.join(PATIENCE)
    assert results == [True]
    wait_until(lambda: len(events) == 2)
    assert sorted(events) == ["connect", "disconnect"]
    assert flags(client) == CONNECTED
    assert client.send_data(b"text")
    assert read_exactly(again, 4) == b"text"


def test_reconnect_in_on_receive_makes_a_new_connection(client: TCPClient, sock: socket.socket, peer: Peer) -> None:
    results: list[bool] = []
    events: list[str] = []

    def on_receive(data: bytes) -> None:
        if data == b"reconnect":
            results.append(client.reconnect())
        else:
            events.append(data.decode())

    client.on_receive = on_receive
    client.on_connect = lambda: events.append("connect")
    client.on_disconnect = lambda: events.append("disconnect")
    client.autorecv()
    sock.sendall(b"reconnect")
    assert sock.recv(1) == b""
    sock.close()
    again = peer.accept()
    again.sendall(b"text")
    wait_until(lambda: len(events) == 3 and bool(results))  # the new connection is read before reconnect() returned
    assert results == [True]
    assert sorted(events) == ["connect", "disconnect", "text"]
    assert flags(client) == CONNECTED


@pytest.mark.parametrize("autorecv", [False, True])
@pytest.mark.parametrize("call", [TCPClient.reconnect, TCPClient.connect])
def test_client_can_be_connected_again_in_on_disconnect(
    client: TCPClient, sock: socket.socket, peer: Peer, autorecv: bool, call: Callable[[TCPClient], bool]
) -> None:
    results: list[bool] = []

    def on_disconnect() -> None:
        client.on_disconnect = None
        results.append(call(client))

    client.on_disconnect = on_disconnect
    if autorecv:
        client.autorecv()
    sock.close()
    if not autorecv:
        assert client.recv_data(timeout=PATIENCE) == b""
    again = peer.accept()
    wait_until(lambda: results)
    assert results == [True]
    assert flags(client) == CONNECTED
    again.sendall(b"text")
    assert (next_item(client) if autorecv else client.recv_data(timeout=PATIENCE)) == b"text"


def test_disconnect_ends_the_connection_after_what_was_sent(client: TCPClient, sock: socket.socket) -> None:
    content = os.urandom(100_000)
    assert client.send_data(content)
    ending, results = in_thread(client.disconnect)
    assert read_exactly(sock, len(content) + 1) == content
    sock.close()
    ending.join(PATIENCE)
    assert results == [True]
    assert flags(client) == ENDED
    assert client.disconnect() is False


def test_disconnect_without_a_connection_is_false(client: TCPClient) -> None:
    assert client.disconnect() is False
    assert flags(client) == FRESH
    assert not client.event.exception.occurred


@pytest.mark.parametrize("autorecv", [False, True])
@pytest.mark.parametrize("end", ["disconnect", "shutdown", "close", "peer closes", "peer resets"])
def test_on_disconnect_runs_once_however_it_ends(
    client: TCPClient, sock: socket.socket, autorecv: bool, end: str
) -> None:
    calls: list[bool] = []
    client.on_disconnect = lambda: calls.append(client.event.is_connected)
    if autorecv:
        client.autorecv()
    if end.startswith("peer"):
        (reset if end == "peer resets" else socket.socket.close)(sock)
        if not autorecv:
            client.recv_data(timeout=PATIENCE)
    else:
        seen_off(sock, getattr(client, end))
    wait_until(lambda: calls)
    client.disconnect()
    client.close()
    assert calls == [False]
    assert flags(client) == ENDED


@pytest.mark.parametrize("autorecv", [False, True])
def test_shutdown_ends_connection_and_autorecv(
    client: TCPClient, sock: socket.socket, peer: Peer, autorecv: bool
) -> None:
    if autorecv:
        client.autorecv()
    seen_off(sock, client.shutdown)
    wait_until(lambda: client.event.disconnected)
    assert client.connect()
    peer.accept().sendall(b"text")
    assert client.recv_data(timeout=PATIENCE) == b"text"  # nobody else reads it


def test_connected_again_after_disconnect(client: TCPClient, sock: socket.socket, peer: Peer) -> None:
    seen_off(sock, client.disconnect)
    for _ in range(3):
        assert client.connect()
        with peer.accept() as again:
            again.sendall(b"text")
            assert client.recv_data(timeout=PATIENCE) == b"text"
            again.close()
            client.disconnect()


# ---------------------------------------------------------------------------------------------------------- autorecv


def test_autorecv_collects_what_comes(client: TCPClient, sock: socket.socket) -> None:
    assert client.event.new_data is False
    assert client.return_recved_data() == []
    assert client.autorecv() is True
    sock.sendall(b"text")
    wait_until(lambda: client.new_data_recved)
    assert client.event.new_data is True
    assert client.recved_data == [b"text"]
    assert client.return_recved_data() == [b"text"]
    assert client.event.new_data is False
    assert client.new_data_recved is False
    assert client.recved_data == []


def test_return_recved_data_takes_clear_event_as_in_04(client: TCPClient, sock: socket.socket) -> None:
    client.autorecv()
    for arguments in ((True,), (False,)):
        sock.sendall(b"text")
        wait_until(lambda: client.event.new_data)
        assert client.return_recved_data(*arguments) == [b"text"]
        assert client.event.new_data is False


def test_item_is_bytes_and_a_response(client: TCPClient, sock: socket.socket) -> None:
    client.autorecv()
    sock.sendall(b"text")
    item = next_item(client)
    assert item == b"text"
    assert repr(item) == "b'text'"
    assert item.response == b"text"
    assert item.from_ is None
    assert item.equals(b"text")
    assert isinstance(item.time_, datetime)
    assert isinstance(item, bytes)
    assert isinstance(item, Socket_Response)


def test_autorecv_before_connect_receives_once_connected(client: TCPClient, peer: Peer) -> None:
    client.autorecv()
    assert client.connect()
    peer.accept().sendall(b"text")
    assert next_item(client) == b"text"


def test_autorecv_twice_before_connect_is_off(client: TCPClient, peer: Peer) -> None:
    client.autorecv()
    client.autorecv()
    assert client.connect()
    peer.accept().sendall(b"text")
    assert client.recv_data(timeout=PATIENCE) == b"text"
    assert not client.event.new_data


def test_what_comes_while_autorecv_is_off_stays_for_recv_data(client: TCPClient, sock: socket.socket) -> None:
    client.autorecv()
    sock.sendall(b"first")
    assert next_item(client) == b"first"
    client.autorecv()
    sock.sendall(b"second")
    assert client.recv_data(timeout=PATIENCE) == b"second"
    sock.sendall(b"third")
    assert client.recv_data(timeout=PATIENCE) == b"third"
    assert not client.event.new_data
    assert client.return_recved_data() == []


@pytest.mark.parametrize("reader", ["still there", "gone"])
def test_recv_data_gives_what_autorecv_collected_before_what_came_later(
    client: TCPClient, sock: socket.socket, reader: str
) -> None:
    client.autorecv()
    sock.sendall(b"first")
    wait_until(lambda: client.event.new_data)
    client.autorecv()
    received = [client.recv_data(timeout=5)] if reader == "still there" else []
    sock.sendall(b"second")
    if reader == "gone":
        wait_until(lambda: not receivers(), "the receiving thread to have ended")
        received.append(client.recv_data(timeout=5))
    received.append(client.recv_data(timeout=5))
    assert received == [b"first", b"second"]


def receivers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.endswith("-receiver")]


def test_threads_that_wait_in_recv_data_when_autorecv_is_turned_off_get_what_comes(
    client: TCPClient, sock: socket.socket
) -> None:
    client.autorecv()
    sock.sendall(b"first")
    assert next_item(client) == b"first"
    waiting = [in_thread(partial(client.recv_data, timeout=5)) for _ in range(2)]
    for thread, _ in waiting:
        thread.join(MOMENT)
    client.autorecv()
    sock.sendall(b"second")
    wait_until(lambda: any(results for _, results in waiting))
    sock.sendall(b"third")
    for thread, _ in waiting:
        thread.join(PATIENCE)
    assert {bytes(*results) for _, results in waiting} == {b"second", b"third"}


def test_autorecv_on_again_collects_again(client: TCPClient, sock: socket.socket) -> None:
    for number in range(20):
        client.autorecv()
        sock.sendall(b"on %d" % number)
        assert next_item(client) == b"on %d" % number
        client.autorecv()
        sock.sendall(b"off %d" % number)
        assert client.recv_data(timeout=PATIENCE) == b"off %d" % number


def test_what_came_while_autorecv_was_off_is_collected_when_it_is_on(client: TCPClient, sock: socket.socket) -> None:
    client.autorecv()
    sock.sendall(b"a")
    assert next_item(client) == b"a"
    client.autorecv()
    sock.sendall(b"b")
    client.autorecv()
    sock.sendall(b"c")
    received: list[Any] = []

    def both() -> bool:
        received.extend(client.return_recved_data())
        return len(b"".join(received)) == 2

    wait_until(both)
    assert b"".join(received) == b"bc"


def test_nothing_is_lost_or_reordered_while_autorecv_is_toggled(client: TCPClient, sock: socket.socket) -> None:
    received = bytearray()
    client.on_receive = received.extend
    content = os.urandom(200_000)

    def send() -> None:
        for start in range(0, len(content), 500):
            sock.sendall(content[start : start + 500])

    sender, _ = in_thread(send)
    while sender.is_alive():
        client.autorecv()
        client.autorecv()
    client.autorecv()
    wait_until(lambda: len(received) >= len(content))
    assert received == content


def test_autorecv_turned_off_just_before_kept_data_is_delivered_keeps_it(
    client: TCPClient, sock: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.autorecv()
    client.autorecv()
    sock.sendall(b"kept")
    wait_until(lambda: not receivers(), "the receiving thread to have ended")
    dispatch = Connection._dispatch

    def turned_off_first(connection: Connection, data: bytes | None) -> Step:
        monkeypatch.undo()
        client.autorecv()
        return dispatch(connection, data)

    monkeypatch.setattr(Connection, "_dispatch", turned_off_first)
    client.autorecv()
    wait_until(lambda: not receivers(), "the receiving thread to have ended")
    assert flags(client) == CONNECTED
    assert client.recv_data(timeout=5) == b"kept"
    sock.sendall(b"more")
    assert client.recv_data(timeout=5) == b"more"


def test_end_of_stream_while_autorecv_is_off_shows_at_recv_data(client: TCPClient, sock: socket.socket) -> None:
    client.autorecv()
    sock.sendall(b"first")
    assert next_item(client) == b"first"
    client.autorecv()
    sock.sendall(b"second")
    sock.close()
    assert client.recv_data(timeout=PATIENCE) == b"second"
    assert client.recv_data(timeout=PATIENCE) == b""
    wait_until(lambda: flags(client) == ENDED)


def test_autorecv_stays_on_over_reconnect(client: TCPClient, sock: socket.socket, peer: Peer) -> None:
    client.autorecv()
    assert seen_off(sock, client.reconnect)
    peer.accept().sendall(b"text")
    assert next_item(client) == b"text"


def test_autorecv_in_a_callback_turns_receiving_off(client: TCPClient, sock: socket.socket) -> None:
    got: list[bytes] = []

    def on_receive(data: bytes) -> None:
        client.autorecv()
        got.append(data)

    client.on_receive = on_receive
    client.autorecv()
    sock.sendall(b"first")
    wait_until(lambda: got)
    assert client.return_recved_data() == [b"first"]
    sock.sendall(b"second")
    assert client.recv_data(timeout=PATIENCE) == b"second"
    assert got == [b"first"]


# -------------------------------------------------------------------------------------------------------- recv_data


def test_recv_data_waits_for_data(client: TCPClient, sock: socket.socket) -> None:
    receiver, results = in_thread(client.recv_data)
    receiver.join(MOMENT)
    assert receiver.is_alive()
    sock.sendall(b"text")
    receiver.join(PATIENCE)
    assert results == [b"text"]
    assert isinstance(results[0], Socket_Response)


@pytest.mark.parametrize("autorecv", [False, True])
def test_recv_data_can_time_out(client: TCPClient, sock: socket.socket, autorecv: bool) -> None:
    if autorecv:
        client.autorecv()
    before = time.monotonic()
    with pytest.raises(TimeoutError):
        client.recv_data(timeout=0.05)
    assert 0.05 <= time.monotonic() - before < 5
    sock.sendall(b"text")
    assert client.recv_data(timeout=PATIENCE) == b"text"


def test_recv_data_joins_what_is_there_beyond_the_buffer(bare: TCPClient, peer: Peer) -> None:
    bare.setup(HOST, peer.port, 16)
    bare.connect()
    with peer.accept() as sock:
        sock.sendall(b"x" * 16)
        assert bare.recv_data(timeout=PATIENCE) == b"x" * 16
        sock.sendall(b"y" * 1000)
        assert bare.recv_data(timeout=PATIENCE) == b"y" * 1000


def test_recv_data_beside_autorecv_takes_the_oldest_item(client: TCPClient, sock: socket.socket) -> None:
    client.autorecv()
    sock.sendall(b"first")
    wait_until(lambda: client.event.new_data)
    sock.sendall(b"second")
    wait_until(lambda: len(client.recved_data) == 2)
    assert client.recv_data(timeout=PATIENCE) == b"first"
    assert client.return_recved_data() == [b"second"]


def test_recv_data_beside_autorecv_waits_for_the_next_item(client: TCPClient, sock: socket.socket) -> None:
    client.autorecv()
    receiver, results = in_thread(client.recv_data)
    sock.sendall(b"text")
    receiver.join(PATIENCE)
    assert results == [b"text"]
    assert not client.event.new_data


def test_recv_data_is_empty_at_the_end_of_the_stream(client: TCPClient, sock: socket.socket) -> None:
    sock.sendall(b"text")
    sock.close()
    assert client.recv_data(timeout=PATIENCE) == b"text"
    assert client.recv_data(timeout=PATIENCE) == b""
    assert flags(client) == ENDED
    assert client.recv_data(timeout=PATIENCE) == b""


def test_recv_data_beside_autorecv_is_empty_once_what_was_collected_is_fetched(
    client: TCPClient, sock: socket.socket
) -> None:
    client.autorecv()
    sock.sendall(b"text")
    sock.close()
    wait_until(lambda: client.event.disconnected)
    assert client.recv_data(timeout=PATIENCE) == b"text"
    assert client.recv_data(timeout=PATIENCE) == b""
    assert not client.event.new_data


def test_recv_data_of_a_connection_that_broke_is_empty_and_recorded(client: TCPClient, sock: socket.socket) -> None:
    reset(sock)
    assert client.recv_data(timeout=PATIENCE) == b""
    assert isinstance(only_exception(client), ConnectionError)
    assert flags(client) == ENDED


def test_recv_data_without_a_connection_is_empty_and_recorded(client: TCPClient) -> None:
    assert client.recv_data(timeout=PATIENCE) == b""
    failure = only_exception(client)
    assert isinstance(failure, ConnectionClosed)
    assert "connect()" in str(failure)


@pytest.mark.parametrize("end", [TCPClient.close, TCPClient.disconnect])
@pytest.mark.parametrize("autorecv", [False, True])
def test_recv_data_that_waits_is_ended_from_another_thread(
    client: TCPClient, sock: socket.socket, end: Callable[[TCPClient], object], autorecv: bool
) -> None:
    if autorecv:
        client.autorecv()
    receiver, results = in_thread(client.recv_data)
    receiver.join(MOMENT)
    seen_off(sock, partial(end, client))
    receiver.join(PATIENCE)
    assert results == [b""]


# -------------------------------------------------------------------------------------------------------- send_data

CONTENTS: dict[str, tuple[Any, bytes]] = {
    "bytes": (b"data", b"data"),
    "bytearray": (bytearray(b"data"), b"data"),
    "memoryview": (memoryview(b"data"), b"data"),
    "array": (array.array("B", b"data"), b"data"),
    "text": ("dätä", "dätä".encode()),
    "a response": (Socket_Response(b"data", datetime.now()), b"data"),
    "a response of parts": (Socket_Response((b"da", b"ta"), datetime.now()), b"data"),
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_send_data_sends(client: TCPClient, sock: socket.socket, kind: str) -> None:
    data, content = CONTENTS[kind]
    assert client.send_data(data) is True
    assert read_exactly(sock, len(content)) == content


def test_send_data_sends_everything(client: TCPClient, sock: socket.socket) -> None:
    content = os.urandom(8_000_000)
    sender, results = in_thread(lambda: client.send_data(content))
    assert read_exactly(sock, len(content)) == content
    sender.join(PATIENCE)
    assert results == [True]


def test_send_data_sends_what_was_received(client: TCPClient, sock: socket.socket) -> None:
    client.autorecv()
    sock.sendall(b"text")
    assert client.send_data(next_item(client))
    assert read_exactly(sock, 4) == b"text"


@pytest.mark.parametrize("data", [None, 5, ["list"], {}], ids=lambda data: type(data).__name__)
def test_send_data_of_another_type_says_what_to_do(client: TCPClient, sock: socket.socket, data: Any) -> None:
    with pytest.raises(TypeError, match=f"bytes.*{type(data).__name__}.*convert it"):
        client.send_data(data)
    assert not client.event.exception.occurred


def test_send_data_without_a_connection_is_false_and_recorded(client: TCPClient) -> None:
    assert client.send_data(b"text") is False
    failure = only_exception(client)
    assert isinstance(failure, ConnectionClosed)
    assert "connect()" in str(failure)


def test_send_data_after_disconnect_is_false_and_recorded(client: TCPClient, sock: socket.socket) -> None:
    seen_off(sock, client.disconnect)
    assert client.send_data(b"text") is False
    assert isinstance(only_exception(client), ConnectionError)


def test_send_data_is_false_and_recorded_once_the_client_is_disconnected(
    client: TCPClient, sock: socket.socket
) -> None:
    results: list[tuple[bool, bool]] = []
    client.on_disconnect = lambda: results.append((client.event.is_connected, client.send_data(b"too late")))
    client.autorecv()
    sock.close()
    wait_until(lambda: results)
    assert results == [(False, False)]
    assert isinstance(only_exception(client), ConnectionError)


def test_end_of_stream_without_autorecv_shows_at_send_data(client: TCPClient, sock: socket.socket) -> None:
    calls: list[str] = []
    client.on_disconnect = lambda: calls.append("disconnect")
    sock.close()
    end_of_stream_arrives(client)
    assert flags(client) == CONNECTED  # nothing reads
    assert client.send_data(b"text") is False
    assert isinstance(only_exception(client), ConnectionError)
    assert flags(client) == ENDED
    assert calls == ["disconnect"]


def test_reset_without_autorecv_shows_at_send_data(client: TCPClient, sock: socket.socket) -> None:
    reset(sock)
    end_of_stream_arrives(client)
    assert client.send_data(b"text") is False
    assert isinstance(only_exception(client), ConnectionError)
    assert flags(client) == ENDED


def test_data_that_was_not_read_yet_does_not_hinder_send_data(client: TCPClient, sock: socket.socket) -> None:
    sock.sendall(b"unread")
    sock.shutdown(socket.SHUT_WR)
    end_of_stream_arrives(client)
    assert client.send_data(b"text") is True
    assert read_exactly(sock, 4) == b"text"
    assert client.recv_data(timeout=PATIENCE) == b"unread"
    assert client.recv_data(timeout=PATIENCE) == b""


@pytest.mark.parametrize("words", [b"last words", bytes(20_000)], ids=len)
def test_what_came_before_sending_failed_is_received_all_the_same(
    client: TCPClient, sock: socket.socket, words: bytes
) -> None:
    sock.sendall(words)
    reset(sock)
    end_of_stream_arrives(client)
    assert client.send_data(b"text") is False
    assert flags(client) == ENDED
    received = b""
    while data := client.recv_data(timeout=PATIENCE):
        received += data
    assert received == words
    assert isinstance(only_exception(client), ConnectionError)


def test_a_thread_that_receives_when_sending_fails_is_not_disturbed(client: TCPClient, sock: socket.socket) -> None:
    sock.sendall(b"last words")
    reset(sock)
    end_of_stream_arrives(client)
    held, done = threading.Event(), threading.Event()

    def receive() -> None:
        assert client._connection is not None
        with client._connection._receive_lock:  # as one who is about to read
            held.set()
            assert done.wait(PATIENCE)

    receiving, _ = in_thread(receive)
    assert held.wait(PATIENCE)
    assert client.send_data(b"text") is False
    done.set()
    receiving.join(PATIENCE)
    assert [client.recv_data(timeout=PATIENCE) for _ in range(2)] == [b"last words", b""]
    assert flags(client) == ENDED


def test_who_goes_on_sending_when_our_side_is_over_is_not_listened_to_for_ever(
    client: TCPClient, sock: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "MOST_SAVED", 1000)
    monkeypatch.setattr(connection, "JOIN_LIMIT", connection.BIG_READ)
    size = 4 * connection.BIG_READ
    sending, _ = in_thread(lambda: sock.sendall(bytes(size)))
    sending.join(PATIENCE)
    client.end_sending()
    assert client.send_data(b"text") is False
    received = 0
    while data := client.recv_data(timeout=PATIENCE):
        received += len(data)
    assert 1000 <= received < size


def test_messages_that_came_before_sending_failed_are_received_all_the_same() -> None:
    client = TCPClient()
    with raw_listener() as listener:
        client.setup(*listener.getsockname(), protocol=lambda: FramedProtocol(LengthPrefixFramer()))
        client.connect()
        sock, _ = listener.accept()
        sock.sendall(b"3".ljust(16) + b"one" + b"3".ljust(16) + b"two" + b"5".ljust(16) + b"thre")
        reset(sock)
        end_of_stream_arrives(client)
        assert client.send_data(b"text") is False
        assert [client.recv_data(timeout=PATIENCE) for _ in range(3)] == [b"one", b"two", b""]
        client.close()


# -------------------------------------------------------------------------------------------------------- callbacks


def test_on_connect_runs_in_the_connecting_thread_when_sending_works(client: TCPClient, peer: Peer) -> None:
    calls: list[object] = []

    def on_connect() -> None:
        calls.append(threading.current_thread())
        assert client.send_data(b"hello")

    client.on_connect = on_connect
    assert client.connect()
    assert calls == [threading.current_thread()]
    assert read_exactly(peer.accept(), 5) == b"hello"


def test_on_receive_gets_the_data_and_polling_too(client: TCPClient, sock: socket.socket) -> None:
    got: list[Any] = []
    client.on_receive = got.append
    client.autorecv()
    sock.sendall(b"text")
    wait_until(lambda: got)
    assert got == [b"text"]
    assert isinstance(got[0], Socket_Response)
    assert got[0].from_ is None
    assert next_item(client) == b"text"


def test_callbacks_run_in_order(client: TCPClient, peer: Peer) -> None:
    events: list[object] = []
    client.on_connect = lambda: events.append("connect")
    client.on_receive = events.append
    client.on_disconnect = lambda: events.append("disconnect")
    client.autorecv()
    client.connect()
    with peer.accept() as sock:
        sock.sendall(b"text")
    wait_until(lambda: "disconnect" in events)
    assert events == ["connect", b"text", "disconnect"]


@pytest.mark.parametrize("name", ["on_connect", "on_disconnect", "on_receive"])
def test_exception_in_a_callback_is_recorded_and_the_client_goes_on(client: TCPClient, peer: Peer, name: str) -> None:
    def fail(*_: object) -> None:
        raise LookupError("the program's own")

    setattr(client, name, fail)
    client.autorecv()
    assert client.connect() is True
    sock = peer.accept()
    sock.sendall(b"text")
    assert next_item(client) == b"text"
    seen_off(sock, client.reconnect)
    peer.accept().sendall(b"again")
    assert next_item(client) == b"again"
    wait_until(lambda: client.event.exception.occurred)
    kinds = {type(record.exception) for record in client.return_exceptions()}
    assert kinds == {LookupError}


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("on_connect", lambda data: None),
        ("on_disconnect", lambda data: None),
        ("on_receive", lambda: None),
        ("on_receive", lambda a, b: None),
    ],
)
def test_callback_of_no_accepted_form_is_refused(bare: TCPClient, name: str, function: Any) -> None:
    form = r"on_receive\(data\)" if name == "on_receive" else rf"{name}\(\)"
    with pytest.raises(TypeError, match=form):
        setattr(bare, name, function)
    with pytest.raises(TypeError, match=form):
        bare.setup(HOST, 1, **{name: function})
    assert getattr(bare, name) is None
    assert bare.Address == (None, None)


@pytest.mark.parametrize("name", ["on_connect", "on_disconnect", "on_receive"])
@pytest.mark.parametrize("thing", [5, "print", b"", ()], ids=repr)
def test_callback_that_cannot_be_called_is_refused(bare: TCPClient, name: str, thing: Any) -> None:
    with pytest.raises(TypeError, match=f"{name}.*not callable"):
        setattr(bare, name, thing)
    with pytest.raises(TypeError, match=f"{name}.*not callable"):
        bare.setup(HOST, 1, **{name: thing})


@pytest.mark.parametrize("name", ["on_connect", "on_disconnect", "on_receive"])
def test_callback_can_be_read_replaced_and_removed(bare: TCPClient, name: str) -> None:
    function = [].append if name == "on_receive" else lambda: None
    assert getattr(bare, name) is None
    setattr(bare, name, function)
    assert getattr(bare, name) is function
    setattr(bare, name, None)
    assert getattr(bare, name) is None


def test_subclass_can_define_callbacks_as_methods(peer: Peer) -> None:
    events: list[object] = []

    class Listener(TCPClient):
        def on_connect(self) -> None:
            events.append("connect")

        def on_receive(self, data: bytes) -> None:
            events.append(data)

        def on_disconnect(self) -> None:
            events.append("disconnect")

    client = Listener()
    client.setup(HOST, peer.port)
    with client:
        with peer.accept() as sock:
            sock.sendall(b"text")
        wait_until(lambda: "disconnect" in events)
    assert events == ["connect", b"text", "disconnect"]


# ------------------------------------------------------------------------------------------------ flags and events


def test_flags_follow_the_connection(client: TCPClient, peer: Peer) -> None:
    assert flags(client) == FRESH
    assert client.event.exception.occurred is False
    assert client.connect()
    assert flags(client) == CONNECTED
    client.autorecv()
    peer.accept().close()
    wait_until(lambda: client.event.disconnected)
    assert flags(client) == ENDED
    assert client.reconnect()
    assert flags(client) == CONNECTED
    seen_off(peer.accept(), client.disconnect)
    assert flags(client) == ENDED
    assert client.connect()
    assert flags(client) == CONNECTED
    peer.accept()


@pytest.mark.parametrize("name", ["connected", "is_connected", "disconnected", "new_data"])
def test_flags_can_be_set(bare: TCPClient, name: str) -> None:
    setattr(bare.event, name, True)
    assert getattr(bare.event, name) is True
    setattr(bare.event, name, False)
    assert getattr(bare.event, name) is False


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("EVENT_RECEIVED", "--RECEIVED--"),
        ("EVENT_EXCEPTION", "--EXCEPTION--"),
        ("EVENT_TIMEOUT", "--TIMEOUT--"),
        ("EVENT_CONNECTED", "--CONNECTED--"),
        ("EVENT_DISCONNECT", "--DISCONNECT--"),
    ],
)
def test_event_equals_its_string_and_any_event_of_its_name(name: str, text: str) -> None:
    event = getattr(TCPClient, name)
    assert event == text == event.name
    assert event == Event(text)


def test_await_event_tells_what_happened_in_order(client: TCPClient, sock: socket.socket) -> None:
    assert client.await_event(20_000) == (client.EVENT_CONNECTED, None)
    client.autorecv()
    sock.sendall(b"text")
    assert client.await_event(20_000) == (client.EVENT_RECEIVED, [b"text"])
    sock.close()
    assert client.await_event(20_000) == (client.EVENT_DISCONNECT, None)
    wait_until(lambda: client.socket.fileno() == -1)
    client.send_data(b"too late")
    event, records = client.await_event(20_000)
    assert event == client.EVENT_EXCEPTION
    assert records is not None
    assert len(records) == 1
    assert client.event.exception.occurred is False
    assert client.await_event(1) == (client.EVENT_TIMEOUT, None)


@pytest.mark.parametrize("arguments", [((20_000, True), {}), ((), {"timeout": 20_000, "disable_on_functions": True})])
def test_await_event_can_pass_over_connecting_and_disconnecting(
    client: TCPClient, sock: socket.socket, peer: Peer, arguments: Any
) -> None:
    seen_off(sock, client.reconnect)
    peer.accept().sendall(b"text")
    client.autorecv()
    positional, named = arguments
    assert client.await_event(*positional, **named) == ("--RECEIVED--", [b"text"])


def test_await_event_passes_over_nothing_else(client: TCPClient, sock: socket.socket) -> None:
    client.autorecv()
    sock.sendall(b"text")
    wait_until(lambda: client.event.new_data)
    seen_off(sock, client.disconnect)
    assert client.await_event(20_000, disable_on_functions=True) == ("--RECEIVED--", [b"text"])
    assert client.await_event(1) == ("--TIMEOUT--", None)


def test_await_event_counts_milliseconds(client: TCPClient) -> None:
    before = time.monotonic()
    assert client.await_event(50) == ("--TIMEOUT--", None)
    assert 0.05 <= time.monotonic() - before < 5


def test_await_event_of_zero_waits_until_data_comes(client: TCPClient, sock: socket.socket) -> None:
    client.autorecv()
    assert client.await_event(0)[0] == "--CONNECTED--"
    for arguments in ((), (0,)):
        waiter, results = in_thread(partial(client.await_event, *arguments))
        waiter.join(MOMENT)
        assert waiter.is_alive()
        sock.sendall(b"text")
        waiter.join(PATIENCE)
        assert results == [("--RECEIVED--", [b"text"])]


def test_await_event_refuses_negative_timeouts(client: TCPClient) -> None:
    with pytest.raises(ValueError, match="timeout"):
        client.await_event(-1)


def test_close_ends_await_event(client: TCPClient) -> None:
    waiter, results = in_thread(client.await_event)
    waiter.join(MOMENT)
    client.close()
    waiter.join(PATIENCE)
    assert results == [("--TIMEOUT--", None)]
    assert client.await_event() == ("--TIMEOUT--", None)


# ------------------------------------------------------------------------------------------------------- exceptions


@pytest.mark.parametrize(
    ("arguments", "kept", "still_up"),
    [
        (((), {}), 0, False),
        (((False,), {}), 1, False),
        (((), {"delete": False}), 1, False),
        (((True, False), {}), 0, True),
        (((), {"reset_exceptions": False}), 0, True),
        (((), {"reset_exception": False}), 0, True),
    ],
    ids=str,
)
def test_return_exceptions_takes_both_spellings(client: TCPClient, arguments: Any, kept: int, still_up: bool) -> None:
    assert not client.send_data(b"text")
    positional, named = arguments
    ((text, exception),) = client.return_exceptions(*positional, **named)
    assert isinstance(exception, ConnectionClosed)
    assert isinstance(text, str)
    assert "ConnectionClosed" in text
    assert client.event.exception.occurred is still_up
    assert len(client.event.exception.list) == kept
    assert client.event.exception.exceptions is client.event.exception.list


def test_return_exceptions_answers_like_a_dictionary_by_time(client: TCPClient) -> None:
    client.send_data(b"text")
    records = client.return_exceptions()
    ((key, record),) = records.items()
    assert records.get(key) is record
    assert list(records.keys()) == [key]
    assert list(records.values()) == [record]
    assert isinstance(record.exception, ConnectionClosed)


# ---------------------------------------------------------------------------------------------------------- the end


def test_context_manager_gives_the_client_connected_and_receiving_and_closes_it(client: TCPClient, peer: Peer) -> None:
    with client as entered:
        assert entered is client
        assert flags(client) == CONNECTED
        with peer.accept() as sock:
            sock.sendall(b"text")
            assert next_item(client) == b"text"
    assert flags(client) == ENDED
    assert client.socket.fileno() == -1


def test_context_manager_leaves_autorecv_on_where_it_was_on(client: TCPClient, peer: Peer) -> None:
    client.autorecv()
    with client, peer.accept() as sock:
        sock.sendall(b"text")
        assert next_item(client) == b"text"


def test_context_manager_closes_after_an_exception_and_lets_it_through(client: TCPClient, peer: Peer) -> None:
    def leave() -> None:
        with client:
            peer.accept().close()
            raise LookupError

    with pytest.raises(LookupError):
        leave()
    assert flags(client) == ENDED


def test_close_sends_the_last_words(client: TCPClient, sock: socket.socket) -> None:
    client.autorecv()
    client.send_data(b"last words")
    closer, _ = in_thread(client.close)
    assert read_exactly(sock, 100) == b"last words"
    sock.close()
    closer.join(PATIENCE)
    assert client.socket.fileno() == -1


def test_close_may_be_repeated_and_come_first(bare: TCPClient, peer: Peer) -> None:
    bare.close()
    bare.setup(HOST, peer.port)
    bare.close()
    assert bare.connect()
    peer.accept().close()
    bare.close()
    bare.close()
    assert not bare.event.exception.occurred


@pytest.mark.parametrize("name", ["on_receive", "on_disconnect", "on_connect"])
def test_close_may_come_from_a_callback(client: TCPClient, peer: Peer, name: str) -> None:
    closed = threading.Event()

    def close(*_: object) -> None:
        client.close()
        closed.set()

    setattr(client, name, close)
    client.autorecv()
    client.connect()
    with peer.accept() as sock:
        if name == "on_receive":
            sock.sendall(b"text")
        if name == "on_disconnect":
            sock.close()
        assert closed.wait(PATIENCE)
    wait_until(lambda: flags(client) == ENDED)
    assert not client.event.exception.occurred


def test_close_names_the_thread_that_user_code_keeps_busy(
    client: TCPClient, sock: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()
    client.on_receive = gate
    client.autorecv()
    sock.sendall(b"text")
    gate.wait_arrived()
    try:
        before = time.monotonic()
        client.close(timeout=0.05)
        assert time.monotonic() - before < 5
        busy = [thread.name for thread in threading.enumerate() if thread.name.startswith("simplesockets-")]
        assert any(name in caplog.text for name in busy)
    finally:
        gate.open()


@pytest.mark.parametrize("again", [TCPClient.connect, TCPClient.reconnect, TCPClient.start])
def test_client_can_be_connected_again_after_close(
    client: TCPClient, sock: socket.socket, peer: Peer, again: Callable[[TCPClient], bool]
) -> None:
    client.autorecv()
    sock.close()
    client.close()
    assert again(client) is True
    assert flags(client) == CONNECTED
    sock = peer.accept()
    sock.sendall(b"unread")
    assert client.recv_data(timeout=PATIENCE) == b"unread"  # close() turned autorecv off
    client.autorecv()
    sock.sendall(b"text")
    assert next_item(client) == b"text"


def test_client_can_be_connected_again_after_close_left_a_callback_behind(
    client: TCPClient, sock: socket.socket, peer: Peer
) -> None:
    gate = Gate()
    client.on_receive = gate
    client.autorecv()
    sock.sendall(b"text")
    gate.wait_arrived()
    try:
        client.close(timeout=0.05)
        connecting, results = in_thread(client.connect)
        connecting.join(MOMENT)
    finally:
        gate.open()
    again = peer.accept()
    connecting.join(PATIENCE)
    assert results == [True]
    sock.close()
    wait_until(lambda: not receivers(), "the old callback's thread to have ended")
    assert flags(client) == CONNECTED
    again.sendall(b"again")
    assert client.recv_data(timeout=PATIENCE) == b"again"


def test_unfetched_data_can_be_fetched_after_close(client: TCPClient, sock: socket.socket) -> None:
    client.autorecv()
    sock.sendall(b"text")
    wait_until(lambda: client.event.new_data)
    seen_off(sock, client.close)
    assert client.return_recved_data() == [b"text"]


def test_repr_tells_the_target_and_the_state(client: TCPClient, peer: Peer) -> None:
    assert repr(client) == f"<TCPClient of {HOST}:{peer.port}, not connected>"
    client.connect()
    peer.accept()
    assert repr(client) == f"<TCPClient of {HOST}:{peer.port}, connected>"


# -------------------------------------------------------------------------------------------------------- the socket


def test_socket_is_that_of_the_connection(client: TCPClient, sock: socket.socket) -> None:
    assert client.socket.getsockname() == sock.getpeername()
    assert client.socket.getpeername() == sock.getsockname()
    assert client.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_options_set_on_the_socket_before_connect_hold(client: TCPClient, peer: Peer) -> None:
    before = client.socket
    before.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    before.settimeout(12.5)
    assert client.connect()
    peer.accept()
    assert client.socket is before
    assert before.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert before.gettimeout() == 12.5


def test_timeout_of_the_socket_ends_recv_data(client: TCPClient, peer: Peer) -> None:
    client.socket.settimeout(0.05)
    assert client.connect()
    sock = peer.accept()
    with pytest.raises(TimeoutError):
        client.recv_data()
    sock.sendall(b"text")
    end_of_stream_arrives(client)
    assert client.recv_data(timeout=PATIENCE) == b"text"


def test_timeout_of_the_socket_does_not_end_autorecv(client: TCPClient, peer: Peer) -> None:
    client.socket.settimeout(0.01)
    assert client.connect()
    client.autorecv()
    sock = peer.accept()
    for _ in range(3):
        assert client.await_event(30)[0] in ("--CONNECTED--", "--TIMEOUT--")
        sock.sendall(b"text")
        assert next_item(client) == b"text"
    assert flags(client) == CONNECTED
    assert not client.event.exception.occurred


@pytest.mark.parametrize("timeout", [0.01, 2.0])
def test_timeout_of_the_socket_neither_ends_nor_delays_sending(client: TCPClient, peer: Peer, timeout: float) -> None:
    client.socket.settimeout(timeout)
    assert client.connect()
    sock = peer.accept()
    before = time.monotonic()
    assert client.send_data(b"text") is True
    assert time.monotonic() - before < 1.0
    assert read_exactly(sock, 4) == b"text"
    assert flags(client) == CONNECTED


def test_timeout_of_the_socket_does_not_end_sending_to_who_reads_late(client: TCPClient, peer: Peer) -> None:
    client.socket.settimeout(0.01)
    client.autorecv()
    assert client.connect()
    sock = peer.accept()
    content = os.urandom(40_000_000)
    sender, results = in_thread(lambda: client.send_data(content))
    sender.join(MOMENT)
    assert sender.is_alive()
    assert read_exactly(sock, len(content)) == content
    sender.join(PATIENCE)
    assert results == [True]


@pytest.mark.parametrize("autorecv", [False, True])
def test_timeout_of_the_socket_does_not_delay_a_message_of_the_buffers_size(
    bare: TCPClient, peer: Peer, autorecv: bool
) -> None:
    bare.setup(HOST, peer.port, 16)
    bare.socket.settimeout(2.0)
    if autorecv:
        bare.autorecv()
    assert bare.connect()
    with peer.accept() as sock:
        before = time.monotonic()
        sock.sendall(b"x" * 16)
        assert bare.recv_data(timeout=PATIENCE) == b"x" * 16
        assert time.monotonic() - before < 1.0


def test_socket_set_to_be_non_blocking_works(client: TCPClient, sock: socket.socket) -> None:
    client.socket.setblocking(False)
    client.autorecv()
    sock.sendall(b"text")
    assert next_item(client) == b"text"
    assert client.send_data(b"text")
    assert read_exactly(sock, 4) == b"text"


@pytest.mark.parametrize("end", ["close", "connect elsewhere"])
def test_unused_socket_is_closed(bare: TCPClient, end: str) -> None:
    with bare.socket as unused:
        assert bare.socket is unused
        if end == "connect elsewhere":
            bare.setup(NOWHERE, 1)
            assert not bare.connect()
        bare.close()
        assert unused.fileno() == -1


@needs_ipv6
def test_unused_socket_is_closed_where_the_server_is_of_another_family(bare: TCPClient) -> None:
    with running_server(ip="::1") as server, bare.socket as unused:
        bare.setup("::1", server.address[1])
        assert bare.connect()
        bare.close()
        assert unused.fileno() == -1
