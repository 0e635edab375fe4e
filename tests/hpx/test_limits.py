"""Limits of HPX: connections that do not read, say nothing, or come too often."""

from __future__ import annotations

import pytest

from simplesockets.hpx.server import MAX_CONNECTIONS

from ..support.clock import have_connections_use
from ..support.running import is_refused
from ..support.waiting import Gate, wait_until
from .support import peer, running

pytestmark = pytest.mark.usefixtures("either_engine")

SHORT = 0.1
"""A timeout that is waited for."""
MUCH = 24 * 1024 * 1024
"""More bytes than the system takes for a peer that does not read."""


def test_who_does_not_read_an_answer_is_cut_and_others_are_served() -> None:
    with running(send_timeout=SHORT, level=0) as server, peer(server, "") as mute, peer(server, "") as other:
        tcp = server._tcp
        assert tcp is not None
        client = tcp.clients[mute.socket.getsockname()]
        server.function("much")(lambda: "x" * MUCH)
        mute.send_json({"session": mute.session, "name": "peer", "data": [{"fname": "much"}]})
        wait_until(lambda: client.ending, "the end of the connection")
        assert client.ending is not None
        assert client.ending.kind == "send timeout"
        assert other.call({"fname": "add", "a": 1}) == [{"fname": "add", "data": 3}]
        with peer(server) as back:  # the session lives on
            assert back.ask([], session=mute.session)["data"] == []


def test_an_idle_connection_ends_and_its_session_lives_on(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    have_connections_use(lambda: now, monkeypatch)
    with running(idle_timeout=SHORT) as server:
        with peer(server, "admin") as idle:
            tcp = server._tcp
            assert tcp is not None
            (client,) = tcp.clients.values()
            wait_until(lambda: not client._connection.served_by, "the server to wait for the next message")
            now += 2 * SHORT
            assert idle.is_over()
        with peer(server) as back:
            assert back.ask([{"fname": "who"}], session=idle.session)["data"] == [
                {"fname": "who", "data": ["admin", "peer"]}
            ]


def test_a_connection_is_not_idle_while_a_function_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, time = Gate(), [1000.0]
    have_connections_use(lambda: time[0], monkeypatch)
    with running(idle_timeout=SHORT) as server, peer(server, "") as asking:
        server.function("wait")(lambda: gate.arrive())
        asking.send_json({"session": asking.session, "name": "peer", "data": [{"fname": "wait"}]})
        gate.wait_arrived()
        tcp = server._tcp
        assert tcp is not None
        (client,) = tcp.clients.values()
        for _ in range(3):
            time[0] += 2 * SHORT
            wait_until(lambda: client._connection._busy_at == time[0], "a look")
        assert client.ending is None
        gate.open()
        assert asking.read()["data"] == [{"fname": "wait", "data": None}]


def test_one_address_has_so_many_connections_and_no_more() -> None:
    with running(max_per_address=1) as server:
        assert server.refused == 0
        with peer(server, "") as first:
            assert is_refused(server.address)
            assert server.refused == 1
            assert first.call({"fname": "add", "a": 1}) == [{"fname": "add", "data": 3}]
        tcp = server._tcp
        assert tcp is not None
        wait_until(lambda: not tcp._connected, "it to leave")
        with peer(server, ""):
            assert server.refused == 1


def test_connections_have_a_limit_by_default() -> None:
    with running() as server:
        assert server._tcp is not None
        assert server._tcp.max_connections == MAX_CONNECTIONS
