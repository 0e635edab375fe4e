"""HPX clients that come back: with their session where the server knows it, and no call is made twice."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from simplesockets import Reconnect, hpx
from simplesockets.hpx import Client, Server, exceptions

from ..support.programs import free_port
from ..support.running import HOST, raw_listener
from ..support.waiting import PATIENCE, Gate, wait_until
from .support import GREETING, USERS, frame, offer_functions, read_frame, running

QUICK = Reconnect(first=0.001, most=0.002)
"""Pauses that a test does not notice."""
SLOW = Reconnect(first=3600.0, most=3600.0)
"""A pause that no test sees the end of."""


@contextlib.contextmanager
def connected(address: tuple[str, int], reconnect: Reconnect | None = QUICK, **options: Any) -> Iterator[Client]:
    client = Client("tester", *address, reconnect=reconnect, **options)
    try:
        client.connect()
        yield client
    finally:
        client.close()


def drop(server: Server, client: Client) -> None:
    """End the connection without a word, as a network does that breaks; the client's system has noticed it then."""
    assert server._tcp is not None
    for entry in list(server._tcp.clients.values()):
        entry._connection.stream.cut()
    connection = client._tcp._connection
    assert connection is not None
    wait_until(connection.stream.at_end)


def threads() -> list[threading.Thread]:
    """The threads that reconnect."""
    return [thread for thread in threading.enumerate() if thread.name.endswith("-reconnect")]


class Scripted:
    """A server that only listens, so that the test says when it answers what."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.address: tuple[str, int] = listener.getsockname()
        self.accepted: list[socket.socket] = []
        self.asked: list[object] = []

    def accept(self) -> socket.socket:
        """The next connection, greeted."""
        sock, _ = self.listener.accept()
        sock.settimeout(PATIENCE)
        self.accepted.append(sock)
        sock.sendall(frame(GREETING))
        return sock

    def answer(self, sock: socket.socket, data: object, **more: object) -> dict[str, Any]:
        """Answer the next message; gives it."""
        message = read_frame(sock)
        sock.sendall(frame({"session": "s", "name": "scripted", "data": data, **more}))
        return message


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    with raw_listener() as listener:
        made = Scripted(listener)
        yield made
        for sock in made.accepted:
            sock.close()


def in_thread(function: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """Run it in a thread; gives that and the list for what it returns or raises."""
    got: list[object] = []

    def run() -> None:
        try:
            got.append(function())
        except exceptions.HPXError as failure:
            got.append(failure)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, got


def start(scripted: Scripted, **options: Any) -> tuple[Client, socket.socket]:
    """A client with a session, and its connection's other end."""
    client = Client("tester", *scripted.address, **options)
    thread, _ = in_thread(lambda: client.connect() and client.handshake())
    sock = scripted.accept()
    scripted.answer(sock, "Authenticated")
    thread.join(PATIENCE)
    assert client.accepted
    return client, sock


# ------------------------------------------------------------------------------------------------------ coming back


def test_a_call_in_flight_fails_and_is_not_made_again(scripted: Scripted) -> None:
    client, first = start(scripted, reconnect=QUICK)
    with client:
        thread, got = in_thread(lambda: client.call("pay", amount=5))
        assert read_frame(first)["data"] == [{"fname": "pay", "amount": 5}]
        first.close()
        thread.join(PATIENCE)
        assert isinstance(got[0], exceptions.ConnectionError)
        second = scripted.accept()
        probe = scripted.answer(second, [])
        assert (probe["session"], probe["data"]) == ("s", [])  # the session goes on, and nothing is called
        wait_until(client.alive)
        thread, got = in_thread(lambda: client.call("balance"))
        message = scripted.answer(second, [{"fname": "balance", "data": -5}])
        assert message["data"] == [{"fname": "balance"}]
        thread.join(PATIENCE)
        assert got == [-5]
        assert not client.reconnecting


def test_the_session_goes_on_where_the_server_knows_it() -> None:
    with running() as server, connected(server.address) as client:
        client.handshake("admin", "secret")
        session = client.session
        assert client.call("count") == 1
        drop(server, client)
        assert client.call("count") == 2
        assert client.session == session


@pytest.mark.parametrize("user", ["admin", None])
def test_where_it_does_not_the_client_shakes_hands_again_as_before(user: str | None) -> None:
    with running() as server, connected(server.address) as client:
        client.handshake(user, USERS.get(user or ""))
        session = client.session
        server._service._sessions.clear()
        drop(server, client)
        answer = client.send([{"fname": "who"}])
        assert answer["data"] == [{"fname": "who", "data": [user, "tester"]}]
        assert client.session not in ("", session)


def test_a_server_that_is_started_again_gets_its_clients_back() -> None:
    with running() as first:
        address = first.address
        client = Client("tester", *address, reconnect=QUICK)
        client.connect()
        client.handshake("admin", "secret")
    with client:
        with pytest.raises(exceptions.HPXError):
            client.call("who")
        wait_until(lambda: client.reconnecting)
        assert "reconnecting" in repr(client)
        second = Server(port=address[1], users=USERS)
        offer_functions(second)
        with second:
            wait_until(client.alive)
            assert client.send([{"fname": "who"}])["data"] == [{"fname": "who", "data": ["admin", "tester"]}]
            wait_until(lambda: not client.reconnecting)


def test_a_connection_that_ended_before_is_made_anew_for_a_message() -> None:
    with running() as server, connected(server.address, SLOW) as client:
        client.handshake()
        for number in range(1, 4):
            drop(server, client)
            assert client.call("count") == number
        drop(server, client)
        message = {"session": client.session, "name": "tester", "data": [{"fname": "count"}]}
        assert json.loads(client.send_bytes(json.dumps(message).encode()))["data"] == [{"fname": "count", "data": 4}]


def test_without_the_argument_the_message_fails_as_before() -> None:
    with running() as server, connected(server.address, None) as client:
        client.handshake()
        drop(server, client)
        with pytest.raises(exceptions.ConnectionError):
            client.call("count")
        assert threads() == []


def test_credentials_that_are_refused_now_leave_a_connection_without_session() -> None:
    with running() as server, connected(server.address) as client:
        client.handshake("admin", "secret")
        server._service._sessions.clear()
        server._service.users = {}
        drop(server, client)
        with pytest.raises(exceptions.AuthRequiredError):
            client.send([])
        assert client.alive()
        assert not client.accepted
        assert client.handshake()


# ----------------------------------------------------------------------------------------------- while it is away


def test_while_it_is_away_messages_fail_at_once_and_call_tries_at_once(scripted: Scripted) -> None:
    client, first = start(scripted, reconnect=SLOW)
    with client:
        first.close()
        scripted.listener.close()
        for _ in range(2):
            with pytest.raises(exceptions.ServerDisconnectError):
                client.call("name")
            assert client.reconnecting
            with pytest.raises(exceptions.ClientError, match="connects again; nothing was sent"):
                client.send([])
        assert len(threads()) == 1
    assert threads() == []


@pytest.mark.parametrize("stage", ["greeting", "session"])
def test_a_server_that_goes_away_again_is_one_failure_more(scripted: Scripted, stage: str) -> None:
    client, first = start(scripted, reconnect=Reconnect(first=0.001, most=0.002, tries=100))
    with client:
        thread, _ = in_thread(lambda: client.call("name"))
        read_frame(first)
        first.close()
        thread.join(PATIENCE)
        for _ in range(3):
            sock = scripted.listener.accept()[0] if stage == "greeting" else scripted.accept()
            if stage == "session":
                read_frame(sock)
            sock.close()
        episode = client._reconnector._episode
        assert episode is not None
        assert episode.failures >= 2
        scripted.answer(scripted.accept(), [])
        wait_until(lambda: client.alive() and not client.reconnecting)
        assert client.session == "s"


def test_who_greets_with_nonsense_is_left(scripted: Scripted) -> None:
    client, first = start(scripted, reconnect=QUICK)
    with client:
        thread, _ = in_thread(lambda: client.call("name"))
        read_frame(first)
        first.close()
        thread.join(PATIENCE)
        strange = scripted.listener.accept()[0]
        scripted.accepted.append(strange)
        strange.sendall(frame([]))
        scripted.answer(scripted.accept(), [])
        wait_until(client.alive)


def test_it_gives_up_after_so_many_failures(scripted: Scripted, caplog: pytest.LogCaptureFixture) -> None:
    client, first = start(scripted, reconnect=Reconnect(first=0.001, most=0.002, tries=3))
    with client:
        with caplog.at_level(logging.WARNING, "simplesockets.hpx"):
            first.close()
            scripted.listener.close()
            with pytest.raises(exceptions.ServerDisconnectError):
                client.call("name")
            wait_until(lambda: not client.reconnecting)
            wait_until(lambda: threads() == [])
        assert any("giving up" in record.getMessage() for record in caplog.records)
        with pytest.raises(exceptions.ClientError, match="not connected"):
            client.send([])


# ------------------------------------------------------------------------------------------------------------- ends


def test_close_while_it_pauses(scripted: Scripted) -> None:
    client, first = start(scripted, reconnect=SLOW)
    thread, _ = in_thread(lambda: client.call("name"))
    read_frame(first)
    first.close()
    thread.join(PATIENCE)
    assert client.reconnecting
    client.close()
    assert not client.reconnecting
    assert threads() == []
    with pytest.raises(exceptions.ClientError):
        client.connect()


@pytest.mark.parametrize("stage", ["greeting", "session"])
def test_close_while_it_comes_back(scripted: Scripted, stage: str) -> None:
    client, first = start(scripted, reconnect=QUICK)
    thread, _ = in_thread(lambda: client.call("name"))
    read_frame(first)
    first.close()
    thread.join(PATIENCE)
    if stage == "greeting":
        scripted.accepted.append(scripted.listener.accept()[0])
    else:
        read_frame(scripted.accept())
    client.close()
    assert threads() == []
    assert not client.alive()
    assert client.session == ""


def test_close_and_a_loss_at_the_same_moment(scripted: Scripted) -> None:
    client, first = start(scripted, reconnect=QUICK)
    thread, got = in_thread(lambda: client.call("name"))
    read_frame(first)
    both = threading.Barrier(2)

    def lose() -> None:
        both.wait(PATIENCE)
        first.close()

    losing, _ = in_thread(lose)
    both.wait(PATIENCE)
    client.close()
    for each in (losing, thread):
        each.join(PATIENCE)
    assert isinstance(got[0], exceptions.HPXError)
    assert threads() == []
    assert not client.reconnecting


def test_connecting_by_hand_while_it_dials(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, original = Gate(), Client._connect_again

    def held(client: Client, *arguments: Any) -> None:
        gate.arrive()
        original(client, *arguments)

    monkeypatch.setattr(Client, "_connect_again", held)
    client, first = start(scripted, reconnect=QUICK)
    with client:
        thread, _ = in_thread(lambda: client.call("name"))
        read_frame(first)
        first.close()
        thread.join(PATIENCE)
        gate.wait_arrived()
        thread, got = in_thread(client.connect)
        scripted.answer(scripted.accept(), [])
        thread.join(PATIENCE)
        gate.open()
        wait_until(lambda: threads() == [])
        assert got == [True]
        assert client.alive()
        assert not client.reconnecting


# -------------------------------------------------------------------------------------------------------- beginning


def test_the_first_connection_has_to_succeed() -> None:
    client = Client("tester", HOST, free_port(), reconnect=QUICK)
    with pytest.raises(exceptions.ServerDisconnectError):
        client.connect()
    assert not client.reconnecting
    assert threads() == []
    client.close()


@pytest.mark.parametrize("greets", [False, True])
def test_unless_the_rule_says_otherwise(scripted: Scripted, greets: bool) -> None:
    rule = Reconnect(first=0.001, most=0.01, initially=True)
    client = Client("tester", *scripted.address, reconnect=rule)
    thread, got = in_thread(client.connect)
    scripted.listener.accept()[0].close()
    thread.join(PATIENCE)
    assert isinstance(got[0], exceptions.ServerDisconnectError)
    scripted.accept()
    wait_until(client.ready)
    client.close()


def test_what_is_no_rule_is_refused() -> None:
    with pytest.raises(TypeError, match="reconnect must be"):
        hpx.Client("tester", reconnect=5)  # type: ignore[arg-type]
