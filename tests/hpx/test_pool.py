"""HPX on the pool: connections without threads, and nobody notices. (Most of it is tested with both engines.)"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from simplesockets import crew, leader, readiness, transport
from simplesockets.hpx import Context, Server
from simplesockets.hpx import server as server_module

from ..support.waiting import Gate, wait_until
from .support import Peer, frame, peer, running

ADD = {"fname": "add", "a": 1}
SUM = [{"fname": "add", "data": 3}]
SHORT = 0.1
"""A timeout that is waited for."""
MIB = 1024 * 1024

either_engine = pytest.mark.usefixtures("either_engine")


@contextlib.contextmanager
def pool(**options: Any) -> Iterator[Server]:
    with running(engine="pool", **options) as server:
        yield server


@contextlib.contextmanager
def many(server: Server, count: int, user: str | None = "") -> Iterator[list[Peer]]:
    """Connected peers; guests, if not told otherwise."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(peer(server, user)) for _ in range(count)]


def begin(each: Peer, *calls: dict[str, object], **more: object) -> None:
    """Send calls, whose answer comes later."""
    each.send_json({"session": each.session, "name": "peer", "data": list(calls), **more})


def own_threads(server: Server) -> list[str]:
    mine = f"simplesockets-server-{server.address[1]}-"
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(mine)]


class Gates:
    """A function for clients, ``wait(number)``, and a gate for each number; it notes who came in and went out."""

    def __init__(self, server: Server, count: int) -> None:
        self._lock = threading.Lock()  # protects what is noted
        self._gates = [Gate() for _ in range(count)]
        self.inside: set[int] = set()
        server.function("wait")(self._wait)

    def _wait(self, number: int) -> int:
        with self._lock:
            self.inside.add(number)
        self._gates[number].arrive()
        with self._lock:
            self.inside.discard(number)
        return number

    def wait_arrived(self) -> None:
        for gate in self._gates:
            gate.wait_arrived()

    def open(self) -> None:
        for gate in self._gates:
            gate.open()


# ------------------------------------------------------------------------------------------------ the argument


@pytest.mark.parametrize("engine", ["turbo", "", None, 1, b"pool", ["pool"]])
def test_another_engine_is_refused(engine: Any) -> None:
    with pytest.raises(ValueError, match="engine must be 'threads' or 'pool', not "):
        Server(port=0, engine=engine)


@pytest.mark.parametrize("engine", ["threads", "pool"])
def test_the_engine_is_what_was_asked_for_after_a_restart_too(engine: Any) -> None:
    with running(engine=engine) as server:
        for _ in range(2):
            assert server._tcp is not None
            assert type(server._tcp._engine).__name__ == {"threads": "ThreadEngine", "pool": "PoolEngine"}[engine]
            server.close()
            server.start()


# ------------------------------------------------------------------------------------------------------ threads


@pytest.mark.skipif(not readiness.HAS_EPOLL, reason="needs epoll and eventfd")
def test_idle_clients_cost_no_thread_and_all_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "SPARE", 0.01)
    monkeypatch.setattr(leader, "SLOW", 1000.0)  # on a busy machine anybody may seem slow, and have a thread
    with pool() as server, many(server, 300) as clients:
        for _ in range(2):  # one accepts, one leads, one stands by, one is for what is due later
            wait_until(lambda: len(own_threads(server)) <= 10, "threads leaving")
            for each in clients:
                begin(each, {**ADD, "b": 2})
            assert all(each.read()["data"] == SUM for each in clients)
        assert server._tcp is not None
        assert len(server._tcp.clients) == 300


@either_engine
@pytest.mark.parametrize("shared", [False, True], ids=["sessions of their own", "one session"])
def test_ten_blocked_functions_delay_nobody(shared: bool) -> None:
    with running() as server, many(server, 12) as clients:
        if shared:
            for each in clients:
                each.session = clients[0].session
        gates = Gates(server, 10)
        for number, each in enumerate(clients[:10]):
            begin(each, {"fname": "wait", "number": number})
        gates.wait_arrived()
        for _ in range(20):
            for each in clients[10:]:
                assert each.call(ADD) == SUM
        with peer(server, "") as newcomer:
            assert newcomer.call(ADD) == SUM
        assert gates.inside == set(range(10))
        gates.open()
        for number, each in enumerate(clients[:10]):
            assert each.read()["data"] == [{"fname": "wait", "data": number}]
            assert each.call(ADD) == SUM


@either_engine
def test_who_waits_in_a_function_for_another_ones_function_is_no_obstacle_to_it() -> None:
    found = threading.Event()
    with running() as server, many(server, 3) as clients:
        server.function("seek")(lambda: found.wait(10))
        server.function("find")(found.set)
        for each in clients[:2]:
            for _ in range(2):  # the second message is there when the first is dealt with
                begin(each, {"fname": "seek"})
        clients[2].call({"fname": "find"})
        for each in clients[:2]:
            for _ in range(2):
                assert each.read()["data"] == [{"fname": "seek", "data": True}]


@either_engine
def test_calls_of_one_client_stay_in_order_and_never_overlap() -> None:
    inside: list[Context] = []
    overlaps: list[Context] = []
    gates = {(client, number): Gate() for client in range(4) for number in (0, 7, 8, 25)}

    def step(context: Context, client: int, number: int) -> int:
        overlaps.extend(each for each in inside if each is context)
        inside.append(context)
        if (client, number) in gates:  # these are slow, so that threads change before and after
            gates[client, number].arrive()
        context.data.setdefault("numbers", []).append(number)  # type: ignore[attr-defined]
        inside.remove(context)
        return number

    with running() as server, many(server, 4) as clients:
        server.function(step)
        server.function("numbers")(_numbers)
        for client, each in enumerate(clients):
            for number in range(30):
                begin(each, {"fname": "step", "client": client, "number": number})
        for (client, number), gate in sorted(gates.items(), key=lambda each: each[0][1]):
            gate.wait_arrived()
            begin(clients[client], {"fname": "step", "client": client, "number": 30 + number})
            gate.open()
        for each in clients:
            answers = [each.read()["data"][0]["data"] for _ in range(34)]
            assert answers == [*range(30), 30, 37, 38, 55]
            assert each.call({"fname": "numbers"})[0]["data"] == answers
    assert not overlaps


def _numbers(context: Context) -> object:
    return context.data["numbers"]


# ------------------------------------------------------------------------------------------------------ the end


def test_close_waits_for_functions_that_return() -> None:
    with pool() as server, many(server, 5) as clients:
        gates = Gates(server, 5)
        for number, each in enumerate(clients):
            begin(each, {"fname": "wait", "number": number})
            begin(each, {"fname": "wait", "number": number})
        gates.wait_arrived()
        closing = threading.Thread(target=server.close)
        closing.start()
        tcp = server._latest
        wait_until(lambda: all(client.ending for client in tcp.clients.values()) and not server.running)
        gates.open()
        closing.join()
        assert not gates.inside
        assert all(each.is_over() for each in clients)


def test_close_leaves_functions_behind_that_do_not_return(caplog: pytest.LogCaptureFixture) -> None:
    with pool() as server, many(server, 3) as clients:
        gates = Gates(server, 3)
        for number, each in enumerate(clients):
            begin(each, {"fname": "wait", "number": number})
        gates.wait_arrived()
        with caplog.at_level(logging.WARNING):
            server.close(timeout=SHORT)
        assert gates.inside == {0, 1, 2}
        assert "close() left threads behind that are busy" in caplog.text
        assert all(each.is_over() for each in clients)
        gates.open()
        wait_until(lambda: not gates.inside)


@pytest.mark.parametrize("again", [False, True], ids=["close", "close and start"])
def test_close_in_a_function_beside_others(again: bool) -> None:
    closed = threading.Event()

    def stop() -> None:
        server.close()
        if again:
            server.start()
        closed.set()

    with pool() as server, many(server, 4) as clients:
        gates = Gates(server, 3)
        server.function(stop)
        for number, each in enumerate(clients[:3]):
            begin(each, {"fname": "wait", "number": number})
        gates.wait_arrived()
        begin(clients[3], {"fname": "stop"})
        assert closed.wait(10), "close() did not return"
        assert gates.inside == {0, 1, 2}
        assert server.running is again
        if again:
            with peer(server, "") as newcomer:
                assert newcomer.call(ADD) == SUM
        gates.open()
        assert all(each.is_over() for each in clients)


@pytest.mark.parametrize("command", ["serverquit", "serverrestart"])
def test_commands_beside_functions_that_run(command: str) -> None:
    with pool() as server, peer(server, "admin") as admin, many(server, 3) as clients:
        gates = Gates(server, 3)
        for number, each in enumerate(clients):
            begin(each, {"fname": "wait", "number": number})
        gates.wait_arrived()
        first = server._tcp
        begin(admin)
        admin.send_json({"session": admin.session, "name": "", "data": command})
        begin(admin, ADD)  # nobody answers that
        assert admin.read()["data"] == []
        assert [each.read()["data"] for each in (admin, *clients)] == [command] * 4
        assert admin.is_over()
        gates.open()
        wait_until(lambda: server._tcp is not first)
        if command == "serverrestart":
            wait_until(lambda: server.running and server._tcp is not None and server._tcp.addresses)
            with peer(server, "") as newcomer:
                assert newcomer.call(ADD) == SUM


@either_engine
def test_who_gave_a_command_is_not_answered_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    with running() as server, peer(server, "admin") as admin:
        tcp = server._tcp
        assert tcp is not None
        close = tcp.close

        def close_later(timeout: float) -> None:
            gate.arrive()
            close(timeout)

        monkeypatch.setattr(tcp, "close", close_later)
        admin.send_json({"session": admin.session, "name": "", "data": "serverquit"})
        begin(admin, ADD)
        assert admin.read()["data"] == "serverquit"
        gate.wait_arrived()
        assert admin.is_over()
        gate.open()


# ------------------------------------------------------------------------------------------------------- limits


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Who was looked at because of its time for a handshake, again and again."""
    looked: list[Any] = []
    look = Server._end_if_silent

    def noted(self: Server, client: Any) -> None:
        look(self, client)
        looked.append(client)

    monkeypatch.setattr(Server, "_end_if_silent", noted)
    monkeypatch.setattr(server_module, "LATE", 0.01)
    return looked


@either_engine
@pytest.mark.parametrize("accepted", [True, False])
def test_who_is_being_judged_when_the_time_is_over_gets_the_answer(
    accepted: bool, looks: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()

    def judge(user: str, password: str) -> bool:
        gate.arrive()
        return accepted

    passed = [0.0]
    monkeypatch.setattr(server_module, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + passed[0]))
    with running(users=judge, handshake_timeout=600) as server, peer(server) as each:
        each.send_json({"session": "", "name": "", "data": {"user": "admin", "password": "x"}})
        gate.wait_arrived()
        passed[0] = 601
        assert server._tcp is not None
        server._end_late(server._tcp)  # as it will be
        wait_until(lambda: len(looks) >= 3)
        gate.open()
        answer = each.read()
        each.session = answer["session"]
        if accepted:
            assert answer["data"] == "Authenticated"
            assert each.call(ADD) == SUM
        else:
            assert answer["error"]["code"] == 411
            assert each.is_over()


@either_engine
def test_what_came_in_time_and_was_not_read_yet_counts(looks: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    has_input = transport.Stream.has_input
    read = threading.Event()
    monkeypatch.setattr(transport.Stream, "has_input", lambda stream: not read.is_set() or has_input(stream))
    with running(handshake_timeout=SHORT) as server, peer(server) as each:
        wait_until(lambda: len(looks) >= 3)
        assert each.ask("requestauth", session="")["data"]["guest_allowed"] is True
        read.set()
        assert each.shake_hands()["data"] == "Authenticated"


@either_engine
def test_strangers_are_looked_for_again_when_there_are_some_again(looks: list[Any]) -> None:
    with running(handshake_timeout=SHORT) as server:
        for _ in range(2):
            with many(server, 3, user=None) as silent:
                assert all(each.is_over() for each in silent)
            wait_until(lambda: server._timed is None)
            assert not server._strangers


@either_engine
@pytest.mark.parametrize("silent", [b"", b"\x1f\x8b\x08"], ids=["silent", "half a frame"])
def test_at_the_limit_of_connections_those_that_say_nothing_make_room(
    silent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "CROWDED", 0.02)
    with running(max_connections=4) as server, many(server, 2) as friends, many(server, 2, user=None) as strangers:
        gates = Gates(server, 1)
        begin(friends[0], {"fname": "wait", "number": 0})  # who is busy is no stranger
        gates.wait_arrived()
        for each in strangers:
            each.socket.sendall(silent)
        with peer(server, "") as newcomer:
            assert newcomer.call(ADD) == SUM
        gates.open()
        assert friends[0].read()["data"] == [{"fname": "wait", "data": 0}]
        assert [each.call(ADD) for each in friends] == [SUM] * 2
        assert all(each.is_over() for each in strangers)


@either_engine
def test_nothing_is_read_from_whom_a_function_runs_for() -> None:
    with running() as server, peer(server, "") as each, peer(server, "") as other:
        gates = Gates(server, 1)
        begin(each, {"fname": "wait", "number": 0})
        gates.wait_arrived()
        each.socket.settimeout(SHORT)
        with pytest.raises(TimeoutError):
            each.socket.sendall(bytes(64 * MIB))
        assert server.stats().bytes_in < MIB
        assert other.call(ADD) == SUM
        gates.open()


@either_engine
@pytest.mark.parametrize(("where", "more"), [("of a frame", 0), ("of a message", 600_000)])
def test_what_came_before_something_too_large_is_answered_first(where: str, more: int) -> None:
    with running(max_packed=1000, max_unpacked=500_000) as server, peer(server, "") as each, peer(server, "") as other:
        call = frame({"session": each.session, "name": "", "data": [ADD]})
        large = frame({"session": "x" * more}) if more else b"\x1f\x8b" + bytes(2000)
        each.socket.sendall(call * 3 + large + call)
        assert [each.read()["data"] for _ in range(3)] == [SUM] * 3
        assert each.read()["error"]["code"] == 403
        assert each.is_over()
        assert other.call(ADD) == SUM
        assert server.stats().errors == 0  # the peer's mistake is none of ours


@either_engine
def test_who_is_cut_off_in_the_middle_of_a_frame_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), running() as server:
        with peer(server, "") as each:
            each.socket.sendall(frame({"session": each.session, "name": "", "data": [ADD]}) + b"\x1f\x8b")
            each.socket.shutdown(1)
            assert each.read()["data"] == SUM
            assert each.is_over()
        wait_until(lambda: "left: " in caplog.text)
        assert server.stats().errors == 0
        assert "WARNING" not in caplog.text


@either_engine
def test_no_copies_of_messages_are_kept() -> None:
    with running() as server, peer(server, "") as each:
        assert each.call({"fname": "echo", "value": "secret" * 1000})[0]["data"]
        assert server.stats().queued == server.stats().queued_bytes == 0
        assert server._tcp is not None
        assert not server._tcp.recved_data
