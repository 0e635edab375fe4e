"""Quit and restart that reach every server with the same sessions: each once, whoever was asked, whatever is lost."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from simplesockets.hpx import Client, Server, redis_commands
from simplesockets.hpx import server as server_module
from simplesockets.hpx.redis_node import RedisNode
from simplesockets.redis_url import RedisPlace

from ..support.programs import Program, running_program
from ..support.redis import RedisServer
from ..support.waiting import PATIENCE, Gate, wait_until
from .redis_nodes import AWAY, UNKNOWN, error_of, looking_at, nodes, on_each, wait_found
from .support import Peer, peer

CALL = [{"fname": "add", "a": 1}]


def node_of(server: Server) -> RedisNode:
    assert server._shared is not None
    return server._shared


@contextlib.contextmanager
def peers_of(servers: list[Server]) -> Iterator[list[Peer]]:
    """A guest of each server's."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(peer(server, "")) for server in servers]


def commands_in(redis_server: RedisServer) -> list[Any]:
    """What was announced."""
    with looking_at(redis_server) as client:
        found: Any = client.xrange("hpx:commands")
        return [fields[b"command"].decode() for _, fields in found]


def wait_listening(server: Server) -> None:
    wait_until(lambda: server._tcp is not None and server._tcp.addresses and server._tcp._listeners)


@pytest.mark.parametrize("data", ["serverquit", "ServerQuit", 1])
def test_quit_reaches_every_server_and_every_connection_once(redis_server: RedisServer, data: object) -> None:
    with nodes(3, redis_server.url) as servers, peers_of(servers) as peers, peer(servers[1], "admin") as admin:
        answer = admin.ask(data, __id__=7)
        assert answer == {"session": admin.session, "name": "server", "data": "serverquit", "__id__": 7}
        for each in peers:
            assert each.read() == {"session": "", "name": "server", "data": "serverquit"}
        assert all(each.is_over() for each in (admin, *peers))
        wait_until(lambda: not any(server.running for server in servers))
        assert commands_in(redis_server) == ["serverquit"]
        with looking_at(redis_server) as client:
            assert client.keys("*") == [b"hpx:commands"]
            assert client.ttl("hpx:commands") > 3000


def test_restart_reaches_every_server_once_and_ends_all_sessions(redis_server: RedisServer) -> None:
    with nodes(3, redis_server.url) as servers:
        for turn in (1, 2):
            before = [(server._tcp, server.address) for server in servers]
            with peers_of(servers) as peers, peer(servers[turn], "admin") as admin:
                assert admin.ask("serverrestart")["data"] == "serverrestart"
                assert [each.read()["data"] for each in peers] == ["serverrestart"] * 3
                assert all(each.is_over() for each in (admin, *peers))
            for server, (tcp, address) in zip(servers, before, strict=True):
                wait_until(lambda server=server, tcp=tcp: server._tcp not in (None, tcp))  # type: ignore[misc]
                wait_listening(server)
                assert server.address == address
            with on_each(servers) as again:
                assert [each.ask(CALL, session=admin.session)["error"]["code"] for each in again] == [UNKNOWN] * 3
                assert [each.call(*CALL)[0]["data"] for each in again] == [3] * 3
            assert commands_in(redis_server) == ["serverrestart"] * turn


def test_guests_cannot_end_anything(redis_server: RedisServer) -> None:
    with nodes(2, redis_server.url) as servers, on_each(servers) as peers:
        assert [error_of(each.ask("serverquit")) for each in peers] == [407] * 2
        assert commands_in(redis_server) == []


def test_a_command_that_is_given_before_another_was_heard_is_that_one(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, told = Gate(), Server._told

    def slow(server: Server, *arguments: Any) -> object:
        if server.name == "slow":
            gate.arrive()
        return told(server, *arguments)

    monkeypatch.setattr(Server, "_told", slow)
    with nodes(1, redis_server.url) as (quick,), nodes(1, redis_server.url, name="slow") as (late,):
        with peer(late, "admin") as other, peer(quick, "admin") as admin:
            tcp, before = late._tcp, quick._tcp
            admin.ask("serverrestart")
            gate.wait_arrived()
            wait_until(lambda: quick._tcp not in (None, before))
            with looking_at(redis_server) as client:  # as if it were a session that nobody ended
                assert client.keys("hpx:session:*") == []
            wait_listening(quick)
            with peer(quick, "admin") as again:
                other.session = again.session
            assert other.ask("serverquit")["data"] == "serverquit"
            gate.open()
            assert other.read()["data"] == "serverrestart"
            wait_until(lambda: late._tcp not in (None, tcp))
            wait_listening(late)
        assert commands_in(redis_server) == ["serverrestart"]
        assert quick.running


def test_two_users_of_a_server_at_once_are_both_answered(redis_server: RedisServer) -> None:
    with nodes(2, redis_server.url) as servers, peer(servers[0], "admin") as one, peer(servers[0], "admin") as other:
        for each in (one, other):
            each.send_json({"session": each.session, "name": "", "data": "serverquit"})
        answers = [one.read(), other.read()]
        # the later one may find that its session has ended with the first command
        assert "serverquit" in [each["data"] for each in answers]
        assert {error_of(each) for each in answers} <= {0, UNKNOWN}
        wait_until(lambda: not any(server.running for server in servers))
        assert commands_in(redis_server) == ["serverquit"]


@contextlib.contextmanager
def cut_off(server: Server, redis_server: RedisServer) -> Iterator[None]:
    """Redis cannot be reached by one of the servers, whose connections are called ``cut``."""
    link = node_of(server)._link
    place, elsewhere = link.place, RedisPlace.parse("", "unix:///nowhere/socket", "hpx:")
    link.place = dataclasses.replace(elsewhere, shown="cut off")
    with looking_at(redis_server) as client:
        for each in client.client_list():
            if each["name"] == "cut":
                client.client_kill_filter(_id=each["id"])
        wait_until(lambda: link.away)
        try:
            yield
        finally:
            link.place = place
    wait_found(server)


def test_who_could_not_reach_redis_hears_what_was_missed_in_order(redis_server: RedisServer) -> None:
    url = redis_server.url
    with nodes(1, url) as (server,), nodes(1, f"{url}?client_name=cut") as (lonely,):
        tcp = lonely._tcp
        with peer(lonely, "") as each:
            with cut_off(lonely, redis_server):
                with peer(server, "admin") as admin:
                    before = server._tcp
                    admin.ask("serverrestart")
                wait_until(lambda: server._tcp not in (None, before))
                wait_listening(server)
                with peer(server, "admin") as admin:
                    admin.ask("serverquit")
                assert error_of(each.ask(CALL)) == AWAY
                assert lonely._tcp is tcp
            assert each.read()["data"] == "serverrestart"
        wait_until(lambda: lonely._over.is_set())
    assert commands_in(redis_server) == ["serverrestart", "serverquit"]


def test_a_server_is_not_told_what_was_said_before_it_started(redis_server: RedisServer) -> None:
    with nodes(1, redis_server.url) as (server,), peer(server, "admin") as admin:
        admin.ask("serverquit")
        wait_until(lambda: not server.running)
        with nodes(1, redis_server.url) as (later,), peer(later, "admin") as each:
            assert each.call(*CALL)[0]["data"] == 3
            server.start()
            each.ask("serverrestart")
            assert each.is_over()
            wait_listening(later)
            wait_listening(server)


HOSTILE = {
    "no command": {"a": "b"},
    "requestauth": {"command": "requestauth", "token": "x"},
    "a number": {"command": "1"},
    "bytes": {b"command": b"\xff\xfe", b"token": b"\xff"},
    "large": {"command": "x" * 100_000},
}


@pytest.mark.parametrize("fields", HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_command_is_passed_over(
    redis_server: RedisServer, fields: dict[Any, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with nodes(1, redis_server.url) as (server,), peer(server, "admin") as admin, looking_at(redis_server) as client:
        place = client.xadd("hpx:commands", fields)
        wait_until(lambda: node_of(server).seen == place)
        assert admin.call(*CALL)[0]["data"] == 3
        assert "passed over" in caplog.text
        assert len(caplog.text) < 10_000
        assert admin.ask("serverquit")["data"] == "serverquit"
        wait_until(lambda: not server.running)


def test_a_stream_of_another_kind_keeps_no_session_from_working(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_commands, "LONGEST_PAUSE", 0.2)
    with looking_at(redis_server) as client:
        client.set("hpx:commands", "boo")
        with nodes(1, redis_server.url) as (server,), peer(server, "admin") as admin:
            assert error_of(admin.ask("serverquit")) == AWAY
            assert admin.call(*CALL)[0]["data"] == 3
            client.delete("hpx:commands")
            wait_until(lambda: node_of(server).seen)
            assert admin.ask("serverquit")["data"] == "serverquit"


def test_a_command_that_cannot_be_announced_is_refused_and_nothing_happens(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with nodes(2, redis_server.url) as servers, peer(servers[0], "admin") as admin:
        announce = RedisNode.announce

        def cut(node: RedisNode, *arguments: Any) -> bool:
            redis_server.stop()
            return announce(node, *arguments)

        monkeypatch.setattr(RedisNode, "announce", cut)
        answer = admin.ask("serverquit", __id__="x")
        assert error_of(answer) == AWAY
        assert (answer["__id__"], answer["session"]) == ("x", admin.session)
        assert all(server.running for server in servers)
        assert not servers[0]._asking


def test_a_command_that_its_own_server_does_not_hear_is_answered(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "HEARD_WITHIN", 0.1)
    gate, told = Gate(), Server._told

    def slow(server: Server, *arguments: Any) -> object:
        gate.arrive()
        return told(server, *arguments)

    monkeypatch.setattr(Server, "_told", slow)
    with nodes(1, redis_server.url) as (server,), peer(server, "admin") as admin:
        answer = admin.ask("serverquit")
        assert error_of(answer) == AWAY
        assert "not heard" in answer["error"]["msg"]
        gate.open()
        assert admin.read()["data"] == "serverquit"
        wait_until(lambda: not server.running)


def test_serve_forever_ends_where_another_server_was_told_to_quit(redis_server: RedisServer) -> None:
    with nodes(1, redis_server.url) as (server,):
        other = Server(port=0, sessions=redis_server.url)
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        try:
            wait_until(lambda: other._tcp)
            wait_listening(other)
            with peer(server, "admin") as admin:
                admin.ask("serverquit")
            thread.join(PATIENCE)
            assert not thread.is_alive()
        finally:
            other.close()


def test_close_while_a_command_of_another_servers_is_carried_out(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    with nodes(2, redis_server.url) as (server, other), peer(server, "admin") as admin:
        tcp = other._tcp
        assert tcp is not None
        monkeypatch.setattr(tcp, "stop", gate.arrive)
        admin.ask("serverquit")
        gate.wait_arrived()
        closing = threading.Thread(target=other.close)
        closing.start()
        wait_until(lambda: not other.running)
        gate.open()
        closing.join(PATIENCE)
        assert not closing.is_alive()
        other.start()
        with peer(other, "") as each:
            assert each.call(*CALL)[0]["data"] == 3


def test_start_in_the_middle_of_a_quit_is_not_undone_by_it(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, close = Gate(), RedisNode.close

    def slow(node: RedisNode, *arguments: Any) -> None:
        if threading.current_thread().name.endswith("serverquit"):
            gate.arrive()
        close(node, *arguments)

    monkeypatch.setattr(RedisNode, "close", slow)
    with nodes(1, redis_server.url) as (server,):
        with peer(server, "admin") as admin:
            admin.ask("serverquit")
        gate.wait_arrived()
        starting = threading.Thread(target=server.start)
        starting.start()
        gate.open()
        starting.join(PATIENCE)
        with peer(server, "admin") as admin:
            assert admin.ask("serverquit")["data"] == "serverquit"


def test_the_heartbeat_notices_a_redis_that_hangs(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_commands, "HEARTBEAT", 0.1)
    monkeypatch.setattr(redis_commands, "TIMEOUT", 0.2)
    with nodes(1, f"{redis_server.url}?socket_timeout=0.2") as (server,):
        seen = node_of(server).seen
        began = time.monotonic()
        wait_until(lambda: time.monotonic() - began > 0.5)  # several heartbeats
        assert not node_of(server)._link.away
        with redis_server.frozen():
            wait_until(lambda: node_of(server)._link.away)
        wait_found(server)
        assert node_of(server).seen == seen


# --------------------------------------------------------------------------------------------- separate processes

PROGRAM = """
from simplesockets import hpx

server = hpx.Server(port=0, users={"admin": "secret"}, sessions=%r)


@server.function
def visits(context: hpx.Context):
    context.data["visits"] = context.data.get("visits", 0) + 1
    return context.data["visits"]


server.start()
print("listens on", server.address[1])
server.serve_forever()
print("ended")
"""


def _port(program: Program) -> int:
    return int(program.wait_for_line("listens on").split()[-1])


def test_three_processes_share_sessions_and_quit_together(redis_server: RedisServer) -> None:
    with contextlib.ExitStack() as stack:
        text = PROGRAM % redis_server.url
        programs = [stack.enter_context(running_program(text)) for _ in range(3)]
        ports = [_port(program) for program in programs]
        first = stack.enter_context(Client("tester", "127.0.0.1", ports[0]))
        first.handshake("admin", "secret")
        clients = [first] + [
            stack.enter_context(Client("tester", "127.0.0.1", port, session_id=first.session)) for port in ports[1:]
        ]
        assert [client.call("visits") for client in clients * 2] == [1, 2, 3, 4, 5, 6]
        assert clients[1].send("serverquit")["data"] == "serverquit"
        assert [program.wait_end() for program in programs] == [0, 0, 0]
        assert all("ended\n" in program.lines for program in programs)
