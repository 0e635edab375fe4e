"""Half-open connections delay nobody: some here, thousands by ``python -m tests.faults --crowd 2000``."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import Any

import pytest

from simplesockets.hisock import HiSockServer
from simplesockets.hpx import Client, Server
from simplesockets.hpx.exceptions import ServerDisconnectError

from ..hisock.running import RawClient, server, wait_names
from ..support.waiting import PATIENCE, Gate, wait_until
from .crowds import NEWCOMERS, bear


@pytest.mark.parametrize(("name", "tls"), [("framed", False), ("hisock", False), ("hpx", False), ("hisock", True)])
def test_a_crowd_of_half_open_connections_delays_nobody(name: str, tls: bool) -> None:
    account = bear(name, tls, count=200, samples=30)
    assert not account.violations, str(account)
    assert len(account.before) >= 30
    assert len(account.there) >= 30
    assert len(account.new_there) == NEWCOMERS
    if not tls:  # who has not shaken hands is not shown
        assert any(line.startswith("known: ") for line in account.told)


@pytest.mark.parametrize("silent", [b"", b"\x1f\x8b\x08"], ids=["silent", "half a frame"])
def test_at_hpx_limit_of_connections_those_that_say_nothing_make_room(
    silent: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("simplesockets.hpx.server.CROWDED", 0.2)
    with Server(port=0, max_connections=6) as server, contextlib.ExitStack() as stack:
        server.function("one")(lambda: 1)
        clients = [stack.enter_context(Client(f"client {number}", *server.address)) for number in range(3)]
        for client in clients:
            assert client.handshake()
        began = time.monotonic()
        crowd = [stack.enter_context(socket.create_connection(server.address, PATIENCE)) for _ in range(20)]
        for sock in crowd:
            sock.sendall(silent)
        with Client("newcomer", *server.address, timeout=PATIENCE) as newcomer:
            assert newcomer.handshake()
            assert newcomer.call("one") == 1
        assert time.monotonic() - began < PATIENCE / 2
        assert all(client.call("one") == 1 for client in clients), "one of those who have a session had to go"
    assert "make room for others" in caplog.text


def test_at_hpx_limit_of_connections_nobody_has_to_go_who_speaks_or_is_in_nobodys_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked: list[bool] = []
    make_room = Server._make_room

    def looks(self: Server, tcp: Any) -> None:
        make_room(self, tcp)
        looked.append(self._makes_room)

    monkeypatch.setattr(Server, "_make_room", looks)
    monkeypatch.setattr("simplesockets.hpx.server.CROWDED", 0.02)
    with Server(port=0, max_connections=2) as server:
        server.function("one")(lambda: 1)
        with Client("first", *server.address) as first, Client("second", *server.address) as second:
            wait_until(lambda: len(looked) >= 5)  # nobody else comes
            assert first.handshake()
            assert second.handshake()
            with contextlib.closing(Client("third", *server.address, timeout=0.2)) as third:
                with pytest.raises(ServerDisconnectError, match="no answer"):
                    third.connect()
            wait_until(lambda: not looked[-1], "looking to end")
            assert first.call("one") == second.call("one") == 1


@pytest.mark.parametrize("in_time", [True, False])
def test_a_hisock_client_whose_hello_waits_to_be_read_gets_more_time_once(
    in_time: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()
    checks: list[bool] = []
    connected, check = HiSockServer._connected, HiSockServer._check_greeted

    def held(self: HiSockServer, address: Any) -> None:
        connected(self, address)
        gate.arrive()  # the thread that would read the hello

    def checked(self: HiSockServer, reference: Any, patient: bool = True) -> None:
        check(self, reference, patient)
        checks.append(patient)

    monkeypatch.setattr(HiSockServer, "_connected", held)
    monkeypatch.setattr(HiSockServer, "_check_greeted", checked)
    with server(hello_timeout=0.2) as serving, RawClient(serving.get_addr(), "Ann") as raw:
        gate.wait_arrived()
        if in_time:
            wait_until(lambda: checks == [True])
            gate.open()
            wait_names(serving, "Ann")
        else:
            wait_until(lambda: checks == [True, False])
            gate.open()
            assert raw.at_end()
    assert ("did not introduce itself" in caplog.text) == (not in_time)
