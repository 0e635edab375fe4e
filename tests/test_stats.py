"""What is counted: exactly, whoever reads and sends, and without ever going down."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from simplesockets import DelimiterFramer, FramedProtocol, LifecycleError, SetupError, TCPClient, TCPServer, hisock, hpx
from simplesockets.stats import ClientStats, Counts, Stats

from .support.certificates import client_side, server_side
from .support.clients import Peer
from .support.running import HOST, echo_poller, is_refused, raw_client, read_exactly, running_client, running_server
from .support.waiting import Gate, wait_until
from .support.worker_callbacks import obey

pytestmark = pytest.mark.usefixtures("either_engine")

COUNTS = ("connections_total", "refused", "bytes_in", "bytes_out", "messages_in", "messages_out", "errors")


def lines() -> FramedProtocol:
    return FramedProtocol(DelimiterFramer(b"\n", 1000))


def counts(stats: Stats | ClientStats) -> Counts:
    return Counts(stats.bytes_in, stats.bytes_out, stats.messages_in, stats.messages_out)


# ------------------------------------------------------------------------------------------------ exact counts


@pytest.mark.parametrize("polled", [True, False], ids=["polled", "callbacks"])
@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
def test_every_byte_and_message_is_counted_once(polled: bool, encrypted: bool) -> None:
    # With a protocol, so that the number of messages does not depend on how the system cuts the stream.
    setup: dict[str, Any] = {"protocol": lines}
    talking = {**setup, "ssl_context": client_side()} if encrypted else dict(setup)
    if encrypted:
        setup["ssl_context"] = server_side()
    if not polled:
        setup["on_receive"] = lambda client, address, data: client.send(data)
    sizes = [1, 0, 999, 17]
    with running_server(**setup) as server, running_client(server, **talking) as client:
        with echo_poller(server) if polled else contextlib.nullcontext():
            for size in sizes:
                assert client.send_data(b"x" * size)
            wait_until(lambda: client.stats().messages_in == len(sizes))
        total = sum(sizes) + len(sizes)  # with what ends each line
        expected = Counts(total, total, len(sizes), len(sizes))
        assert counts(client.stats()) == expected
        wait_until(lambda: counts(server.stats()) == expected)
        (of_client,) = server.client_stats()
        host, port = client.socket.getsockname()
        assert (of_client.client, counts(of_client)) == (f"{host}:{port}", expected)
    assert counts(server.stats()) == counts(client.stats()) == expected
    assert (server.stats().connections, server.stats().connections_total) == (0, 1)


def test_large_pieces_of_a_stream_are_counted_as_the_bytes_that_they_are() -> None:
    size = 3_000_000
    with running_server(on_receive=lambda client, address, data: client.send(data)) as server:
        with raw_client(server) as sock:
            sender = threading.Thread(target=sock.sendall, args=(b"x" * size,))
            sender.start()
            assert len(read_exactly(sock, size)) == size
            sender.join()
            wait_until(lambda: server.stats().bytes_out == size)
        wait_until(lambda: 0 < server.stats().messages_in == server.stats().messages_out)
        assert server.stats().bytes_in == size


def test_the_short_way_of_a_small_piece_counts_too() -> None:
    with running_server(on_receive=lambda client, address, data: client.send(data + data)) as server:
        with raw_client(server) as sock:
            for number in range(1, 301):
                sock.sendall(b"abc")
                assert len(read_exactly(sock, 6)) == 6
                if number == 300:
                    wait_until(lambda: counts(server.stats()) == Counts(900, 1800, 300, 300))


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
def test_who_reads_for_himself_is_counted(encrypted: bool) -> None:
    ended = threading.Event()

    def handle(client: Any, address: object) -> None:
        assert client.recv(2) == b"ab"
        assert client.recv(100) == b"cd"
        client.sendall(b"four")
        assert client.recv(100) == b""
        ended.set()

    context: dict[str, Any] = {"ssl_context": server_side()} if encrypted else {}
    with running_server(handle_client=handle, **context) as server:
        with running_client(server, autorecv=False, ssl_context=client_side() if encrypted else None) as client:
            client.send_data(b"abcd")
            assert client.recv_data() == b"four"
            assert counts(client.stats()) == Counts(4, 4, 1, 1)
            client.disconnect()
            assert ended.wait(20)
        wait_until(lambda: counts(server.stats()) == Counts(4, 4, 2, 1))


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
def test_a_file_counts_as_its_bytes_and_as_one_message(encrypted: bool, tmp_path: Any) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 300_000)
    gate = Gate()
    context: dict[str, Any] = {"ssl_context": server_side()} if encrypted else {}
    talking: dict[str, Any] = {"ssl_context": client_side()} if encrypted else {}

    def handle(client: Any) -> None:
        client.receive_file(tmp_path / "copy", 300_000)
        gate.arrive()

    with running_server(handle_client=handle, **context) as server, running_client(server, **talking) as client:
        assert client.send_file(path)
        gate.wait_arrived()
        wait_until(lambda: (client.stats().bytes_out, client.stats().messages_out) == (300_000, 1))
        assert server.stats().bytes_in == 300_000
        gate.open()


def test_what_is_answered_after_the_other_end_finished_counts() -> None:
    with running_server() as server:
        with raw_client(server) as sock:
            sock.sendall(b"question")
            sock.shutdown(socket.SHUT_WR)
            wait_until(lambda: server.stats().queued == 1 and server.stats().connections == 0)
            ((client, _, data),) = server.return_recved_data()
            client.send(data)
            assert read_exactly(sock, 8) == b"question"
        wait_until(lambda: counts(server.stats()) == Counts(8, 8, 1, 1))
        client.close()
        assert counts(server.stats()) == Counts(8, 8, 1, 1)
        assert not server._ledger._open


def test_what_the_system_does_not_take_does_not_count() -> None:
    stop = threading.Event()

    def flood(client: Any) -> None:
        client.socket.setblocking(False)  # so that it takes many steps
        client.send(b"x" * 50_000_000)
        stop.set()

    with running_server(handle_client=flood) as server, raw_client(server) as sock:
        wait_until(lambda: server.stats().pending_out > 0)
        before = server.stats()
        assert (before.messages_out, before.messages_in) == (0, 0)
        assert before.bytes_out < 50_000_000
        assert len(read_exactly(sock, 50_000_000)) == 50_000_000
        assert stop.wait(20)
        assert counts(server.stats()) == Counts(0, 50_000_000, 0, 1)


# ---------------------------------------------------------------------------------- connections, errors, queues


def test_connections_refusals_and_errors_are_counted() -> None:
    def fail(data: bytes) -> None:
        raise ValueError("no")

    with running_server(on_receive=fail, max_per_address=1) as server:
        with raw_client(server) as sock:
            wait_until(lambda: server.stats().connections == 1)
            assert is_refused(server.address)
            sock.sendall(b"x")
            wait_until(lambda: server.stats().errors == 1)
            server.return_exceptions()
            assert server.stats().errors == 1
        wait_until(lambda: server.stats().connections == 0)
        stats = server.stats()
        assert (stats.connections_total, stats.refused) == (1, 1)


def test_what_was_not_fetched_is_queued() -> None:
    with running_server(protocol=lines) as server, running_client(server, protocol=lines) as client:
        client.send_data(b"one")
        client.send_data(b"three")
        wait_until(lambda: (server.stats().queued, server.stats().queued_bytes) == (2, 8))
        server.return_recved_data()
        assert (server.stats().queued, server.stats().queued_bytes) == (0, 0)
        client.send_data(b"four")
        wait_until(lambda: server.stats().queued == 1)
        (entry,) = server.clients.values()
        assert entry.recv(1) == b"f"
        assert (server.stats().queued, server.stats().queued_bytes) == (1, 3)


def test_items_that_the_program_put_into_the_list_take_nothing_off_the_queue() -> None:
    with running_server() as server:
        server.recved_data.append(object())  # type: ignore[arg-type]
        assert (server.stats().queued, server.stats().queued_bytes) == (1, 0)


def test_a_client_counts_over_all_its_connections(peer: Peer, client: TCPClient) -> None:
    assert client.stats().connections == 0
    for number in range(1, 4):
        assert client.connect()
        sock = peer.accept()
        assert (client.stats().connections, client.stats().connections_total) == (1, number)
        client.send_data(b"abc")
        assert read_exactly(sock, 3) == b"abc"
        sock.close()
        client.disconnect()
    assert (client.stats().connections, client.stats().bytes_out, client.stats().messages_out) == (0, 9, 3)


def test_a_server_that_is_set_up_again_counts_on() -> None:
    server = TCPServer()
    assert server.stats().connections_total == 0
    for number in (1, 2):
        server.setup(HOST, 0, on_receive=lambda data: None)
        with server, raw_client(server) as sock:
            sock.sendall(b"abc")
            wait_until(lambda number=number: server.stats().bytes_in == 3 * number)  # type: ignore[misc]
    assert (server.stats().connections, server.stats().connections_total) == (0, 2)


@pytest.mark.own_threads  # once is enough
def test_worker_processes_count_for_themselves() -> None:
    server = TCPServer()
    server.setup(HOST, 0, on_receive=obey, workers=1)
    try:
        for ask in (server.stats, server.client_stats, server.monitor, server.serve_stats):
            with pytest.raises(LifecycleError, match="worker processes"):
                ask()
    finally:
        server.close()


def test_watching_needs_a_server_that_runs() -> None:
    for server in (TCPServer(), hpx.Server(port=0)):
        for ask in (server.monitor, server.serve_stats):
            with pytest.raises(SetupError):
                ask()


# ---------------------------------------------------------------------------------------------- at the same time


def test_nothing_goes_backwards_while_clients_come_and_go_by_the_thousand() -> None:
    rounds, crowd = 10, 100
    seen: list[Stats] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            seen.append(server.stats())
            server.client_stats()

    with running_server(on_receive=lambda client, address, data: client.send(data)) as server:
        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            for _ in range(rounds):
                socks = [socket.create_connection(server.address) for _ in range(crowd)]
                for sock in socks:
                    sock.sendall(b"12345")
                for sock in socks:
                    assert read_exactly(sock, 5) == b"12345"
                    sock.close()
        finally:
            stop.set()
            watcher.join()
        wait_until(lambda: not server._ledger._open)
        total = 5 * rounds * crowd
        assert counts(server.stats())[:2] == (total, total)
        assert server.stats().connections_total == rounds * crowd
    for before, after in itertools.pairwise(seen):
        for name in COUNTS:
            assert getattr(before, name) <= getattr(after, name), name


# ---------------------------------------------------------------------------------------------------- the layers


def run_until(server: hisock.HiSockServer, condition: Callable[[], bool]) -> None:
    def is_so() -> bool:
        server.run()
        return condition()

    wait_until(is_so)


def test_hisock_counts_commands_by_their_handler_and_nobody_else_can_add_names() -> None:
    server = hisock.HiSockServer((HOST, 0), blocking=False, keepalive=False)

    @server.on("known")
    def known(client: object) -> None:
        raise ValueError("a handler's")

    with server, hisock.connect(server.get_addr()) as client:
        for command in ("known", "known", "odd", "odder"):
            client.send(command)
        sent = client.stats().messages_out
        wait_until(lambda: server.stats().messages_in == sent)
        assert server.stats().queued >= 4
        run_until(server, lambda: server.stats().commands == {"known": 2, "*": 2})
        run_until(server, lambda: server.stats().errors == 2)
        server.send_all_clients("answer", "x" * 100)
        expected = server.stats()
        wait_until(lambda: client.stats().bytes_in == expected.bytes_out)
        assert client.stats().messages_in == expected.messages_out
        assert client.stats().bytes_out == server.stats().bytes_in
        assert (server.stats().queued, server.stats().queued_bytes) == (0, 0)
        wait_until(lambda: client.stats().queued >= 1)
        assert len(server.client_stats()) == 1


def test_hisock_tells_what_waits_for_who_does_not_read() -> None:
    with hisock.HiSockServer((HOST, 0), blocking=False, keepalive=False) as server:
        with socket.create_connection(server.get_addr()) as sock:
            hello = b'$CLTHELLO${"name": "mute", "group": null}'
            sock.sendall(b"%-16d" % len(hello) + hello)
            run_until(server, lambda: len(server) == 1)
            for _ in range(12):
                server.send_all_clients("much", "x" * 1_000_000)
            stats = server.stats()
            assert stats.pending_out + stats.bytes_out >= 12_000_000
            assert stats.pending_out > 1_000_000
            assert len(read_exactly(sock, 12_000_000)) == 12_000_000
            wait_until(lambda: server.stats().pending_out == 0)
            sock.setblocking(False)
            assert server.stats().bytes_out == 12_000_000 + len(sock.recv(1_000_000))


def test_hpx_counts_over_all_its_starts() -> None:
    server = hpx.Server(port=0)

    @server.function
    def fail() -> None:
        raise ValueError("a function's")

    heard = 0
    for number in (1, 2):
        with server, hpx.Client("test", *server.address) as client:
            client.handshake()
            with pytest.raises(hpx.HPXError):
                client.call("fail")
            stats = server.stats()
            assert (stats.connections, stats.connections_total, stats.errors) == (1, number, number)
            heard += client.stats().bytes_in
            wait_until(lambda heard=heard: server.stats().bytes_out == heard)  # type: ignore[misc]
            assert len(server.client_stats()) == 1
    assert server.stats().bytes_in > 0
    assert server.stats().connections_total == 2
