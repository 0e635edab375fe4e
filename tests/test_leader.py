"""Parked connections and the lead: many clients share a reader, and nobody notices."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest

from simplesockets import TCPServer, crew, engine, leader, readiness
from simplesockets.crew import effort
from simplesockets.engine import FIRST_STEPS
from simplesockets.hotpath import Step
from simplesockets.mailbox import Bell

from .support.running import raw_client, read_exactly, reset, running_client, running_server
from .support.waiting import PATIENCE, Gate, wait_until

pytestmark = [
    pytest.mark.skipif(not readiness.HAS_EPOLL, reason="nothing is parked without epoll and eventfd"),
    pytest.mark.usefixtures("either_engine"),
]


def lot_of(server: TCPServer) -> leader.ParkingLot:
    assert server._engine is not None
    return server._engine._lot


def crew_of(server: TCPServer) -> crew.Crew:
    assert server._engine is not None
    return server._engine._crew


def is_parked(server: TCPServer, sock: socket.socket) -> bool:
    thread = server.clients[sock.getsockname()].thread
    parked = list(lot_of(server)._parked.values())
    return any(each.connection.thread is thread for each in parked)


def talk(sock: socket.socket, times: int = FIRST_STEPS + 1) -> None:
    for _ in range(times):
        sock.sendall(b"ping")
        assert read_exactly(sock, 4) == b"ping"


def park(server: TCPServer, *socks: socket.socket) -> None:
    """Talk until they are parked. With callbacks, that takes two clients."""
    for sock in socks:
        talk(sock, 1)
    for sock in socks:
        deadline = time.monotonic() + PATIENCE
        while not is_parked(server, sock):
            assert time.monotonic() < deadline
            talk(sock, 1)


def poll_in_background(server: TCPServer) -> threading.Thread:
    def poll() -> None:
        while not server.killed:
            if server.event.new_data:
                for client, _, data in server.return_recved_data():
                    server.send_data(data, client)

    thread = threading.Thread(target=poll)
    thread.start()
    return thread


def echo(client: Any, address: Any, data: bytes) -> None:
    client.send(data)


def test_a_client_that_talks_is_parked_and_served_on() -> None:
    with running_server(on_receive=echo) as server, raw_client(server) as one, raw_client(server) as other:
        talk(one)
        park(server, one)
        talk(other)
        park(server, other)
        talk(one, 100)
        talk(other, 100)


def test_in_a_crowd_a_polled_client_is_parked_before_it_says_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "CROWD", 1)
    with running_server() as server, raw_client(server) as one:
        wait_until(lambda: len(server.clients) == 1)
        with raw_client(server) as other:
            wait_until(lambda: len(server.clients) == 2)
            wait_until(lambda: is_parked(server, other))
            one.sendall(b"one")
            other.sendall(b"other")
            wait_until(lambda: len(server.recved_data) == 2)
            assert {data for _, _, data in server.return_recved_data()} == {b"one", b"other"}


@pytest.mark.own_threads
def test_in_a_crowd_a_client_with_callbacks_has_its_own_thread_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "CROWD", 0)
    names: list[str] = []

    def note(client: Any, address: Any, data: bytes) -> None:
        names.append(threading.current_thread().name)
        client.send(data)

    with running_server(on_receive=note) as server, raw_client(server) as one, raw_client(server) as other:
        talk(one, 1)
        talk(other, 1)
        assert names == [server.clients[sock.getsockname()].thread.name for sock in (one, other)]  # type: ignore[union-attr]


@pytest.mark.own_threads
def test_a_single_client_with_callbacks_keeps_its_own_thread() -> None:
    threads = []

    def record(client: Any, address: Any, data: bytes) -> None:
        threads.append(threading.current_thread())
        client.send(data)

    with running_server(on_receive=record) as server, raw_client(server) as sock:
        talk(sock, 50)
        assert set(threads) == {server.clients[sock.getsockname()].thread}


@pytest.mark.own_threads
def test_a_slow_callback_runs_in_its_clients_own_thread_from_then_on() -> None:
    threads = defaultdict(list)
    pause = threading.Event()

    def slow(client: Any, address: Any, data: bytes) -> None:
        threads[client.address].append(threading.current_thread())
        if data == b"slow":
            pause.wait(10 * leader.SLOW)
        client.send(data)

    with running_server(on_receive=slow) as server, raw_client(server) as sock, raw_client(server) as other:
        talk(sock)
        talk(other)
        park(server, sock, other)
        for _ in range(5):
            sock.sendall(b"slow")
            assert read_exactly(sock, 4) == b"slow"
        own = server.clients[sock.getsockname()].thread
        used = threads[sock.getsockname()]
        assert used[-2:] == [own] * 2  # the first was noticed, and the next two timed, in company
        assert not is_parked(server, sock)


@pytest.mark.own_threads
def test_a_client_whose_callbacks_block_from_the_beginning_holds_up_nobody() -> None:
    threads = []
    pause = threading.Event()

    def block(client: Any, address: Any, data: bytes) -> None:
        if data == b"slow":
            threads.append(threading.current_thread())
            pause.wait(3 * leader.AWAY)
        client.send(data)

    with running_server(on_receive=block) as server, raw_client(server) as sock, raw_client(server) as other:
        talk(other)
        for _ in range(3 * FIRST_STEPS):
            sock.sendall(b"slow")
            assert read_exactly(sock, 4) == b"slow"
        assert set(threads) == {server.clients[sock.getsockname()].thread}
        park(server, other, sock)  # it is quick from now on


def test_one_slow_callback_is_forgiven_and_two_in_short_succession_are_not() -> None:
    # Any callback takes long when the system gives the core to others in the middle of it.
    parked = some_parked()
    slow, quick = 2 * leader.SLOW, leader.SLOW / 2
    for _ in range(3):
        assert not any(parked.is_slow(0.0, seconds, None) for seconds in [slow, *[quick] * leader.PATIENCE])
    assert [parked.is_slow(0.0, seconds, None) for seconds in (slow, quick, slow)] == [False, False, True]


def test_a_callback_that_takes_no_longer_than_reading_is_not_slow() -> None:
    # Other threads keep the interpreter busy then. Clients that went to their own threads would make that worse.
    parked = some_parked()
    slow = 2 * leader.SLOW
    assert not any(parked.is_slow(slow / leader.CONTENTION, slow, None) for _ in range(10))
    assert [parked.is_slow(slow / 100, slow, None) for _ in range(2)] == [False, True]


@pytest.mark.skipif(effort() is None, reason="this system does not count for each thread")
def test_a_callback_is_slow_if_its_thread_worked_or_waited_and_not_if_it_was_only_kept_from_running(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = effort()
    time.sleep(0.001)
    assert leader.took_it(before)
    before = effort()
    compute(2 * leader.COMPUTING)
    assert leader.took_it(before)
    parked, standing = some_parked(), effort()
    monkeypatch.setattr(leader, "effort", lambda: standing)
    assert not any(parked.is_slow(0.0, 1.0, standing) for _ in range(10))


@pytest.mark.skipif(effort() is None, reason="this system does not count for each thread")
def test_what_a_thread_did_before_a_quick_callback_is_not_the_callbacks() -> None:
    took = 0
    for _ in range(50):
        compute(2 * leader.COMPUTING)
        took += leader.took_it(effort())
    assert took < 10


def compute(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def test_a_client_whose_thread_is_kept_from_running_stays_parked(monkeypatch: pytest.MonkeyPatch) -> None:
    # As on a machine with more to do than it can: what is not ours to mend only gets worse with more threads.
    monkeypatch.setattr(leader, "took_it", lambda before: False)
    pauses = iter([2 * leader.AWAY, 2 * leader.SLOW] * 10)

    def receive(client: Any, address: object, data: bytes) -> None:
        time.sleep(next(pauses, 0.0) if data == b"slow" else 0.0)
        client.send(data)

    with running_server(on_receive=receive) as server, raw_client(server) as sock, raw_client(server) as other:
        park(server, sock, other)
        parked: Any = server.clients[sock.getsockname()]._connection.waker
        for _ in range(20):
            sock.sendall(b"slow")
            assert read_exactly(sock, 4) == b"slow"
        assert parked.outcome is None
        while parked.tried or parked.odd:  # quick ones make up for it
            talk(sock, 1)


def test_a_poller_that_is_busy_with_what_came_is_not_disturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leader, "BUSY", 10 * PATIENCE)
    with running_server() as server, raw_client(server) as sock:
        lot = lot_of(server)

        def poll() -> list[bytes]:
            while not server.event.new_data:
                pass
            return [data for _, _, data in server.return_recved_data()]

        def leads() -> bool:
            sock.sendall(b"first")
            assert poll() == [b"first"]
            return lot._leader is not None and lot._leader.outsider == threading.get_ident()

        wait_until(leads)
        sock.sendall(b"second")
        time.sleep(10 * leader.AWAY)
        assert not server._mailbox.contents
        assert poll() == [b"second"]


def test_what_an_interrupted_step_left_in_the_inbox_is_delivered_though_nothing_more_comes() -> None:
    got: list[bytes] = []

    def receive(client: Any, address: object, data: bytes) -> None:
        got.append(data)
        client.send(data)

    with running_server(on_receive=receive) as server, raw_client(server) as sock, raw_client(server) as other:
        park(server, sock, other)
        connection = server.clients[sock.getsockname()]._connection
        parked: Any = connection.waker
        connection._inbox.append(b"left")
        lot_of(server)._let_out(parked, Step.MORE)
        wait_until(lambda: got[-1] == b"left")
        talk(other, 1)


def some_parked() -> leader.Parked:
    connection: Any = SimpleNamespace(stream=SimpleNamespace(socket=SimpleNamespace(fileno=lambda: -1)), step=None)
    return leader.Parked(some_lot(), connection)


def some_lot() -> leader.ParkingLot:
    return leader.ParkingLot(Bell(), crew.Crew("unused", lambda seconds, task: None), readiness.Epoll)


def test_a_stuck_callback_delays_nobody_else() -> None:
    gate = Gate()

    def stick(client: Any, address: Any, data: bytes) -> None:
        if data == b"stick":
            gate()
        client.send(data)

    with running_server(on_receive=stick) as server, raw_client(server) as stuck, raw_client(server) as other:
        talk(stuck)
        talk(other)
        park(server, stuck, other)
        stuck.sendall(b"stick")
        gate.wait_arrived()
        talk(other, 100)
        with raw_client(server) as newcomer:
            talk(newcomer, 20)
        stuck.sendall(b"after")
        gate.open()
        assert read_exactly(stuck, 10) == b"stickafter"


def test_many_stuck_callbacks_at_once_delay_nobody_else() -> None:
    gate = Gate()
    arrived = threading.Semaphore(0)

    def stick(client: Any, address: Any, data: bytes) -> None:
        if data == b"stick":
            arrived.release()
            gate()
        client.send(data)

    with running_server(on_receive=stick) as server:
        socks = [socket.create_connection(server.address, PATIENCE) for _ in range(11)]
        try:
            for sock in socks:
                talk(sock)
            for sock in socks[:10]:
                sock.sendall(b"stick")
            for _ in range(10):
                assert arrived.acquire(timeout=PATIENCE)
            talk(socks[10], 100)
            gate.open()
            for sock in socks[:10]:
                assert read_exactly(sock, 5) == b"stick"
        finally:
            for sock in socks:
                sock.close()


def test_the_end_of_another_client_is_noticed_while_a_callback_is_stuck() -> None:
    gate = Gate()
    gone = threading.Event()

    def stick(client: Any, address: Any, data: bytes) -> None:
        if data == b"stick":
            gate()
        client.send(data)

    with running_server(on_receive=stick, on_disconnect=lambda address: gone.set()) as server:
        with raw_client(server) as stuck:
            with raw_client(server) as other:
                talk(stuck)
                talk(other)
                park(server, stuck, other)
                stuck.sendall(b"stick")
                gate.wait_arrived()
            assert gone.wait(PATIENCE)
            gate.open()


def test_callbacks_of_one_client_never_overlap_and_stay_in_order() -> None:
    running: dict[Any, int] = defaultdict(int)
    overlaps = []
    got: dict[Any, bytearray] = defaultdict(bytearray)
    pause = threading.Event()

    def record(client: Any, address: Any, data: bytes) -> None:
        running[address] += 1
        if running[address] != 1:
            overlaps.append(address)
        if data.endswith(b"7"):
            pause.wait(0.003)  # slow now and then: the connection goes in and out of the lot
        got[address] += data
        running[address] -= 1
        client.send(b".")

    text = b"".join(b"%d " % number for number in range(400))

    def send(sock: socket.socket) -> None:
        for number in range(400):
            sock.sendall(b"%d " % number)
            if number % 10 == 7:
                sock.sendall(b"")
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(4096):
            pass

    with running_server(on_receive=record) as server:
        socks = [socket.create_connection(server.address, PATIENCE) for _ in range(8)]
        addresses = [sock.getsockname() for sock in socks]
        senders = [threading.Thread(target=send, args=(sock,)) for sock in socks]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join(PATIENCE)
        for sock in socks:
            sock.close()
        wait_until(lambda: not server.clients, "everybody leaving")
    assert not overlaps
    assert [bytes(got[address]) for address in addresses] == [text] * 8


def test_a_callback_may_receive_from_its_own_client_when_parked() -> None:
    def ask(client: Any, address: Any, data: bytes) -> None:
        if data == b"ask!":
            client.send(b"what")
            client.send(client.recv(4))
        else:
            client.send(data)

    with running_server(on_receive=ask) as server, raw_client(server) as sock, raw_client(server) as other:
        talk(other)
        talk(sock)
        park(server, sock)
        sock.sendall(b"ask!")
        assert read_exactly(sock, 4) == b"what"
        sock.sendall(b"this")
        assert read_exactly(sock, 4) == b"this"


def test_a_poller_that_goes_away_does_not_stop_the_reading() -> None:
    with running_server() as server, raw_client(server) as sock:
        stop = threading.Event()

        def poll() -> None:
            while not stop.is_set():
                if server.event.new_data:
                    for client, _, data in server.return_recved_data():
                        server.send_data(data, client)

        thread = threading.Thread(target=poll)
        thread.start()
        talk(sock, 50)
        park(server, sock)
        stop.set()
        thread.join(PATIENCE)
        sock.sendall(b"nobody polls")
        stored = server._mailbox._items
        wait_until(lambda: b"".join(item.response for item in list(stored)) == b"nobody polls", "reading")


def test_an_end_of_stream_is_noticed_when_nobody_polls_any_more() -> None:
    gone = threading.Event()
    with running_server(on_disconnect=lambda address: gone.set()) as server:
        with raw_client(server) as sock:
            for _ in range(FIRST_STEPS + 2):
                sock.sendall(b"ping")
                wait_until(lambda: server.return_recved_data(), "data")
            wait_until(lambda: is_parked(server, sock), "parking")
        assert gone.wait(PATIENCE)


def test_on_receive_assigned_while_a_poller_leads_runs_in_no_thread_of_the_program() -> None:
    threads = set()
    with running_server() as server, raw_client(server) as sock:

        def poll() -> None:
            while not server.killed:
                if server.event.new_data:
                    for client, _, data in server.return_recved_data():
                        if server.on_receive is None:
                            server.send_data(data, client)

        def receive(client: Any, address: Any, data: bytes) -> None:
            threads.add(threading.current_thread())
            client.send(data)

        poller = threading.Thread(target=poll)
        poller.start()
        talk(sock, 50)
        server.on_receive = receive
        talk(sock, 50)
        server.on_receive = None
        talk(sock, 50)
        server.exit_accept()
        poller.join(PATIENCE)
        assert threads
        assert poller not in threads


def test_disconnecting_a_parked_client_ends_it_at_once() -> None:
    gone: list[Any] = []
    with running_server(on_receive=echo, on_disconnect=gone.append) as server:
        with raw_client(server) as sock, raw_client(server) as other:
            talk(sock)
            talk(other)
            park(server, sock)
            address = sock.getsockname()
            thread = server.clients[address].thread
            assert server.disconnect(address)
            wait_until(lambda: gone == [address])  # at once, or after the callback that runs
            assert sock.recv(1) == b""
            sock.close()
            assert thread is not None
            thread.join(PATIENCE)
            assert not thread.is_alive()
            talk(other)


def test_disconnecting_a_parked_client_that_does_not_close_ends_its_thread() -> None:
    with running_server(on_receive=echo) as server, raw_client(server) as sock, raw_client(server) as other:
        talk(sock)
        talk(other)
        park(server, sock)
        thread = server.clients[sock.getsockname()].thread
        server.disconnect(sock.getsockname())
        assert thread is not None
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_close_from_a_callback_of_a_parked_client_returns_at_once() -> None:
    took: list[float] = []

    def close(client: Any, address: Any, data: bytes) -> None:
        if data == b"stop":
            began = time.monotonic()
            server.close()
            took.append(time.monotonic() - began)
        else:
            client.send(data)

    with running_server(on_receive=close) as server, raw_client(server) as sock, raw_client(server) as other:
        talk(sock)
        talk(other)
        park(server, sock, other)
        other.close()
        sock.sendall(b"stop")
        assert read_exactly(sock, 1) == b""
        sock.close()
        wait_until(lambda: took, "close() to return")
        assert took[0] < 4


def test_close_in_a_signal_handler_of_the_thread_that_leads() -> None:
    with running_server() as server, raw_client(server) as sock:
        answered = threading.Event()

        def converse() -> None:
            talk(sock, 50)
            answered.set()
            wait_until(lambda: server._mailbox.bell.waiting, "a leader")
            signal.pthread_kill(main, signal.SIGUSR1)

        main = threading.get_ident()
        before = signal.signal(signal.SIGUSR1, lambda *_: server.close())
        try:
            thread = threading.Thread(target=converse)
            thread.start()
            while not server.killed:
                if server.event.new_data:
                    for client, _, data in server.return_recved_data():
                        server.send_data(data, client)
        finally:
            thread.join(PATIENCE)
            signal.signal(signal.SIGUSR1, before)
        assert answered.is_set()


def test_a_client_object_that_is_polled_reads_in_the_polling_thread() -> None:
    with running_server(on_receive=echo) as server, running_client(server) as client:
        for number in range(200):
            client.send_data(b"%d" % number)
            while not client.event.new_data:
                pass
            assert client.return_recved_data() == [b"%d" % number]


@pytest.mark.own_threads
def test_workers_leave_when_nobody_is_parked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "SPARE", 0.01)
    with running_server(on_receive=echo) as server:
        with raw_client(server) as sock, raw_client(server) as other:
            talk(sock)
            talk(other)
            wait_until(lambda: crew_of(server).threads(), "a worker")
        wait_until(lambda: not crew_of(server).threads(), "the worker leaving")
        with raw_client(server) as sock, raw_client(server) as other:
            talk(sock, 50)
            talk(other, 50)


def test_paused_clients_that_are_parked_resume_and_lose_nothing() -> None:
    with running_server() as server, raw_client(server) as sock:
        server._mailbox.client_mark = 20_000
        for _ in range(FIRST_STEPS + 2):
            sock.sendall(b"x")
            wait_until(lambda: server.return_recved_data(), "data")
        wait_until(lambda: is_parked(server, sock), "parking")
        sent = bytes(range(256)) * 40_000
        sender = threading.Thread(target=sock.sendall, args=(sent,))
        sender.start()
        got = bytearray()
        wait_until(lambda: server._mailbox._paused, "back-pressure")
        while len(got) < len(sent):
            for _, _, data in server.return_recved_data():
                got += data
        sender.join(PATIENCE)
        assert got == sent


def test_a_reset_during_a_stuck_callback_costs_no_cpu() -> None:
    gate = Gate()

    def stick(client: Any, address: Any, data: bytes) -> None:
        if data == b"stick":
            gate()
        else:
            client.send(data)

    with running_server(on_receive=stick) as server, raw_client(server) as sock, raw_client(server) as other:
        park(server, sock, other)
        sock.sendall(b"stick")
        gate.wait_arrived()
        talk(other, 20)
        reset(sock)
        busy = time.process_time()
        threading.Event().wait(0.5)
        assert time.process_time() - busy < 0.1
        talk(other, 20)
        gate.open()


class Interrupt(Exception):
    """Raised by a signal handler."""


def test_a_signal_handler_that_raises_in_the_polling_thread_ends_no_connection() -> None:
    armed = threading.Event()  # set only where the exception is caught

    def interrupt(*_: Any) -> None:
        if armed.is_set():
            armed.clear()
            raise Interrupt

    with running_server() as server, raw_client(server) as sock:
        main, stop = threading.get_ident(), threading.Event()

        def converse() -> None:
            pause = threading.Event()
            try:
                for _ in range(100):
                    sock.sendall(b"x")
                    pause.wait(0.001)
                    signal.pthread_kill(main, signal.SIGUSR1)
            finally:  # also if the connection ended
                stop.set()

        before = signal.signal(signal.SIGUSR1, interrupt)
        thread = threading.Thread(target=converse)
        try:
            thread.start()
            while not stop.is_set():
                with contextlib.suppress(Interrupt):
                    armed.set()
                    while not stop.is_set():
                        if server.event.new_data:
                            server.return_recved_data()
                    armed.clear()
        finally:
            armed.clear()
            thread.join(PATIENCE)
            signal.signal(signal.SIGUSR1, before)
        sock.sendall(b"last")
        wait_until(lambda: b"".join(item.response for item in server.return_recved_data()).endswith(b"last"))


def test_close_in_a_signal_handler_returns_at_once_whatever_it_interrupts() -> None:
    for _ in range(20):
        took: list[float] = []
        with running_server() as server, raw_client(server) as sock:

            def close(*_: Any, server: TCPServer = server, took: list[float] = took) -> None:
                began = time.monotonic()
                server.close()
                took.append(time.monotonic() - began)

            main = threading.get_ident()

            def babble(sock: socket.socket = sock, main: int = main) -> None:
                for _ in range(200):
                    sock.sendall(b"x" * 100)
                signal.pthread_kill(main, signal.SIGUSR1)

            before = signal.signal(signal.SIGUSR1, close)
            try:
                thread = threading.Thread(target=babble)
                thread.start()
                while not server.killed:
                    if server.event.new_data:
                        server.return_recved_data()
                wait_until(lambda took=took: took)  # type: ignore[misc]
            finally:
                thread.join(PATIENCE)
                signal.signal(signal.SIGUSR1, before)
        assert took[0] < 1.5
