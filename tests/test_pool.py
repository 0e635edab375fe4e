"""The pool: clients without threads, and nobody notices. (Most of what it has to do is tested with both engines.)"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest

from simplesockets import TCPServer, crew, leader, readiness
from simplesockets.engine import FIRST_STEPS
from simplesockets.hisock import HiSockServer
from simplesockets.pool import Member, PoolEngine

from .support.certificates import client_side, server_side
from .support.running import raw_client, read_exactly, running_client, running_server
from .support.waiting import PATIENCE, Gate, wait_until


@pytest.fixture(autouse=True, params=["Epoll", "PollSet"])
def _readiness(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PoolEngine, "READINESS", getattr(readiness, request.param))


def echo(client: Any, address: Any, data: bytes) -> None:
    client.send(data)


@contextlib.contextmanager
def pool(**setup: Any) -> Iterator[TCPServer]:
    with running_server(engine="pool", **setup) as server:
        yield server


@contextlib.contextmanager
def many(server: TCPServer, count: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(raw_client(server)) for _ in range(count)]


def ask(sock: socket.socket, text: bytes = b"ping") -> None:
    sock.sendall(text)
    assert read_exactly(sock, len(text)) == text


def all_parked(server: TCPServer) -> bool:
    assert server._engine is not None
    return len(server._engine._lot._parked) == len(server.clients)


def is_parked(server: TCPServer, sock: socket.socket) -> bool:
    return server.clients[sock.getsockname()]._connection.waker is not None


def is_watched(server: TCPServer, sock: socket.socket) -> bool:
    waker = server.clients[sock.getsockname()]._connection.waker
    return isinstance(waker, leader.Parked) and waker.watched


def make_watched(server: TCPServer, sock: socket.socket, text: bytes = b"ping") -> None:
    """Ask until the callback, which is slow, was found to be."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        ask(sock, text)
        with contextlib.suppress(AssertionError):
            wait_until(lambda: is_watched(server, sock), "it being watched", 0.05)
            return
    raise AssertionError("it is not found to be slow")


def test_a_single_client_has_a_thread_until_others_come() -> None:
    # That sleeps in its socket, which costs less than to be told of it first.
    threads = []

    def receive(client: Any, address: Any, data: bytes) -> None:
        threads.append(threading.current_thread())
        client.send(data)

    with pool(on_receive=receive) as server, raw_client(server) as first:
        for _ in range(3):
            ask(first)
        assert not is_parked(server, first)
        assert len(set(threads)) == 1
        with raw_client(server) as second:
            ask(second)
            ask(first)
            wait_until(lambda: all_parked(server))
            ask(first)
            ask(second)


@pytest.mark.parametrize("engine", ["turbo", "", None, 1, b"pool", ["pool"]])
def test_another_engine_is_refused(engine: Any) -> None:
    server = TCPServer()
    with pytest.raises(ValueError, match="engine must be 'threads' or 'pool', not "):
        server.setup("127.0.0.1", 0, engine=engine)
    assert server.addresses == []


@pytest.mark.skipif(not readiness.HAS_EPOLL, reason="needs epoll and eventfd")
def test_idle_clients_cost_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "SPARE", 0.01)
    with pool(on_receive=echo) as server:
        before = threading.active_count()
        with many(server, 100) as socks:
            wait_until(lambda: len(server.clients) == 100)  # who speaks while it is alone has a thread
            for sock in socks:
                ask(sock)
            wait_until(lambda: all_parked(server))
            wait_until(lambda: threading.active_count() <= before + 2, "threads leaving")  # one leads, one stands by
            for sock in socks:
                ask(sock)


def test_clients_whose_callbacks_are_slow_cost_no_thread_while_they_are_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "SPARE", 0.01)
    inside: dict[object, int] = defaultdict(int)

    def receive(client: Any, address: Any, data: bytes) -> None:
        inside[address] += 1
        assert inside[address] == 1
        time.sleep(1.5 * leader.AWAY)  # who is that slow stays so
        inside[address] -= 1
        client.send(data)

    with pool(on_receive=receive) as server:
        before = threading.active_count()
        with many(server, 10) as socks:
            for sock in socks:
                make_watched(server, sock)
            for turn in range(5):
                for sock in socks:
                    sock.sendall(b"%03d" % turn)
                for sock in socks:
                    assert read_exactly(sock, 3) == b"%03d" % turn
            wait_until(lambda: all(is_watched(server, sock) for sock in socks))
            wait_until(lambda: threading.active_count() <= before + 2, "threads leaving")
        wait_until(lambda: not server.clients)
    assert not server.return_exceptions()


@pytest.mark.skipif(not readiness.HAS_EPOLL, reason="needs epoll and eventfd")
def test_idle_encrypted_clients_cost_no_thread_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "SPARE", 0.01)
    with pool(on_receive=echo, ssl_context=server_side()) as server, contextlib.ExitStack() as stack:
        before = threading.active_count()
        context = client_side()
        socks = []
        for _ in range(20):
            plain = socket.create_connection(server.address, PATIENCE)
            socks.append(stack.enter_context(context.wrap_socket(plain, server_hostname="localhost")))
            ask(socks[-1])
        ask(socks[0])  # it was the only one then, and had a thread
        wait_until(lambda: all_parked(server))
        wait_until(lambda: threading.active_count() <= before + 2, "threads leaving")
        for sock in socks:
            ask(sock, b"x" * 50_000)


def test_an_encrypted_client_that_is_parked_gets_all_that_came_in_one_piece() -> None:
    # More than one read takes, in records that arrive together: the socket does not show what is left.
    got = bytearray()

    def collect(client: Any, address: Any, data: bytes) -> None:
        got.extend(data)

    with pool(on_receive=collect, recv_buffer=10, ssl_context=server_side()) as server, raw_client(server):
        plain = socket.create_connection(server.address, PATIENCE)
        with client_side().wrap_socket(plain, server_hostname="localhost") as sock:
            wait_until(lambda: sock.getsockname() in server.clients and is_parked(server, sock))
            sent = bytes(range(256)) * 20_000
            sock.sendall(sent)
            wait_until(lambda: len(got) == len(sent))
        assert got == sent


def test_what_a_paused_encrypted_client_holds_comes_when_there_is_room() -> None:
    with pool(recv_buffer=10, ssl_context=server_side()) as server:
        server._mailbox.client_mark = 1000
        plain = socket.create_connection(server.address, PATIENCE)
        with client_side().wrap_socket(plain, server_hostname="localhost") as sock:
            sent = b"y" * 3_000_000
            sender = threading.Thread(target=sock.sendall, args=(sent,))
            sender.start()
            got = 0
            deadline = time.monotonic() + 3 * PATIENCE
            while got < len(sent) and time.monotonic() < deadline:
                got += sum(len(data) for _, _, data in server.return_recved_data())
            sender.join(PATIENCE)
            assert got == len(sent)


def test_what_stands_for_a_thread_answers_as_one() -> None:
    with pool(on_receive=echo) as server:
        with raw_client(server) as sock:
            ask(sock)
            entry = server.clients[sock.getsockname()]
            thread = entry[0]
            assert isinstance(thread, Member)
            assert thread is entry.thread
            assert thread.is_alive()
            assert thread.daemon
            assert f"{sock.getsockname()[1]}" in thread.name
            assert "served" in repr(thread)
            thread.join(0.01)
            assert thread.is_alive()
        thread.join(PATIENCE)
        assert not thread.is_alive()
        assert "ended" in repr(thread)
        thread.join()


def test_a_client_whose_callbacks_are_slow_gets_a_thread_for_each_and_shares_one_again_when_they_are_not() -> None:
    threads = defaultdict(list)
    pause = threading.Event()

    def receive(client: Any, address: Any, data: bytes) -> None:
        threads[address].append(threading.current_thread())
        if data == b"slow":
            pause.wait(3 * leader.AWAY)
        client.send(data)

    with pool(on_receive=receive) as server, raw_client(server) as slow, raw_client(server) as other:
        ask(other)
        make_watched(server, slow, b"slow")
        ask(slow, b"slow")
        ask(other)
        assert threads[slow.getsockname()][-1] is not threads[other.getsockname()][-1]
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and (is_watched(server, slow) or not is_parked(server, slow)):
            ask(slow)
        assert is_parked(server, slow)


def test_the_pool_grows_when_all_are_busy_and_shrinks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "SPARE", 0.01)
    gate, arrived = Gate(), threading.Semaphore(0)

    def stick(client: Any, address: Any, data: bytes) -> None:
        if data == b"stick":
            arrived.release()
            gate()
        client.send(data)

    with pool(on_receive=stick) as server, many(server, 31) as socks:
        before = threading.active_count()
        for sock in socks[:30]:
            sock.sendall(b"stick")
        for _ in range(30):
            assert arrived.acquire(timeout=PATIENCE)
        for _ in range(20):
            ask(socks[30])
        gate.open()
        for sock in socks[:30]:
            assert read_exactly(sock, 5) == b"stick"

        def has_shrunk() -> bool:
            for sock in socks:  # who was slow twice on a busy machine has a thread until it was quick for a while
                ask(sock)
            return threading.active_count() <= before + 2

        wait_until(has_shrunk, "threads leaving")


@pytest.mark.parametrize("hook", ["on_connect", "on_disconnect"])
def test_a_hook_that_blocks_holds_up_nobody(hook: str) -> None:
    gate = Gate()
    stuck: list[Any] = []

    def stick(address: Any) -> None:
        if stuck and address == stuck[0]:
            gate()

    setup = {"on_receive": echo, hook: stick}
    with pool(**setup) as server:
        with socket.socket() as first:
            first.bind(("127.0.0.1", 0))
            stuck.append(first.getsockname())
            first.connect(server.address)
            if hook == "on_disconnect":
                first.settimeout(PATIENCE)
                ask(first)
                first.shutdown(socket.SHUT_WR)
            gate.wait_arrived()
            with raw_client(server) as other:
                for _ in range(20):
                    ask(other)
            gate.open()


def test_handle_client_has_a_thread_for_each_client() -> None:
    barrier = threading.Barrier(20)

    def serve(client: Any) -> None:
        barrier.wait(PATIENCE)  # so all of them are here at once
        client.send(client.recv(4))

    with pool(handle_client=serve) as server, many(server, 20) as socks:
        for sock in socks:
            sock.sendall(b"ping")
        for sock in socks:
            assert read_exactly(sock, 4) == b"ping"


def test_clients_with_a_timeout_of_the_programs_get_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def receive(client: Any, address: Any, data: bytes) -> None:
        client.send(data)

    with pool(on_receive=receive, on_connect=lambda address: address.client.socket.settimeout(20)) as server:
        with many(server, 3) as socks:
            for _ in range(FIRST_STEPS):
                for sock in socks:
                    ask(sock)
            assert server._engine is not None
            assert not server._engine._lot._parked


def test_where_nothing_can_watch_them_clients_have_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PoolEngine, "READINESS", None)
    with pool(on_receive=echo) as server, many(server, 20) as socks:
        for _ in range(3):
            for sock in socks:
                ask(sock)


def test_a_client_goes_on_although_the_system_gives_no_thread_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simplesockets.pool.OUT_OF_THREADS", 0.01)
    gone: list[Any] = []
    refused = threading.Event()
    run = crew.Crew.run

    def refuse_once(self: crew.Crew, task: Any, *, at_once: bool = False) -> None:
        if gone_soon and not refused.is_set():
            refused.set()
            raise RuntimeError("can't start new thread")
        run(self, task, at_once=at_once)

    gone_soon: list[bool] = []
    with pool(on_receive=echo, on_disconnect=gone.append) as server:
        with raw_client(server) as other:
            with raw_client(server) as sock:
                ask(other)
                ask(sock)
                wait_until(lambda: is_parked(server, sock))
                monkeypatch.setattr(crew.Crew, "run", refuse_once)
                gone_soon.append(True)
            wait_until(lambda: gone)
    assert refused.is_set()


def test_five_hundred_clients_that_leave_at_once_are_all_seen_off() -> None:
    gone: list[Any] = []
    with pool(on_receive=echo, on_disconnect=gone.append) as server:
        with many(server, 500) as socks:
            addresses = [sock.getsockname() for sock in socks]
            for sock in socks:
                ask(sock)
        wait_until(lambda: len(gone) == 500)
        assert sorted(gone) == sorted(addresses)
        assert not server.clients
        assert crew_size(server) < 50


def crew_size(server: TCPServer) -> int:
    assert server._engine is not None
    return len(server._engine._crew.threads())


def test_close_with_many_idle_clients_is_quick_and_complete() -> None:
    gone: list[Any] = []
    with contextlib.ExitStack() as stack:
        with pool(on_receive=echo, on_disconnect=gone.append) as server:
            socks = stack.enter_context(many(server, 300))
            for sock in socks:
                ask(sock)
            began = time.monotonic()
        assert time.monotonic() - began < 15  # one after the other: minutes
        assert len(gone) == 300
        for sock in socks:
            assert sock.recv(1) == b""


def test_a_polled_pool_is_read_by_who_polls() -> None:
    with pool() as server, many(server, 10) as socks:
        stop = threading.Event()

        def poll() -> None:
            while not stop.is_set():
                if server.event.new_data:
                    for client, _, data in server.return_recved_data():
                        server.send_data(data, client)

        thread = threading.Thread(target=poll)
        thread.start()
        try:
            for _ in range(50):
                for sock in socks:
                    ask(sock)
        finally:
            stop.set()
            thread.join(PATIENCE)


def test_hisock_takes_an_engine_too() -> None:
    with pytest.raises(ValueError, match="engine must be"):
        HiSockServer(("127.0.0.1", 0), engine="none")  # type: ignore[arg-type]
    server = HiSockServer(("127.0.0.1", 0), engine="pool")
    try:
        assert type(server._tcp._engine).__name__ == "PoolEngine"
    finally:
        server.close()


def test_our_client_with_a_pool() -> None:
    with pool(on_receive=echo) as server, running_client(server) as client:
        for number in range(100):
            client.send_data(b"%d" % number)
            while not client.event.new_data:
                pass
            assert client.return_recved_data() == [b"%d" % number]
