"""Clients that come back: setup(reconnect=…), what is seen of it, and everything that may come in between."""

from __future__ import annotations

import contextlib
import logging
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from simplesockets import BusyError, ConnectionClosed, Reconnect, ResolveError, SecureClient, TCPClient
from simplesockets.timing import Backoff
from simplesockets.transport import Dial

from .support import certificates
from .support.clients import Peer, in_thread, next_item
from .support.programs import free_port
from .support.running import HOST, raw_listener, reset
from .support.waiting import PATIENCE, Gate, wait_until

QUICK = Reconnect(first=0.001, most=0.002)
"""Pauses that a test does not notice."""
SLOW = Reconnect(first=3600.0, most=3600.0)
"""A pause that no test sees the end of."""

Setup = Callable[..., TCPClient]


@pytest.fixture
def made(peer: Peer) -> Iterator[Setup]:
    """Makes clients of the peer that receive automatically and come back; closed at the end, the peer first."""
    clients: list[TCPClient] = []

    def make(reconnect: Reconnect | bool = QUICK, port: int = peer.port, **setup: Any) -> TCPClient:
        client = TCPClient()
        clients.append(client)
        client.setup(HOST, port, reconnect=reconnect, **setup)
        client.autorecv()
        return client

    yield make
    for sock in peer.accepted:
        sock.close()
    for client in clients:
        client.close()


def joined(peer: Peer, client: TCPClient) -> socket.socket:
    """The peer's socket of a client that connects now."""
    assert client.connect(), client.return_exceptions()
    return peer.accept()


def threads() -> list[threading.Thread]:
    """The threads that reconnect."""
    return [thread for thread in threading.enumerate() if thread.name.endswith("-reconnect")]


def is_pausing(client: TCPClient) -> bool:
    """Whether the client waits for its next try."""
    return bool(client._reconnector._condition._waiters)  # type: ignore[attr-defined]


def wait_pausing(client: TCPClient) -> None:
    wait_until(lambda: client.event.reconnecting and is_pausing(client), "the client to wait for its next try")


class Notes:
    """What the callbacks of a client got, in order."""

    def __init__(self) -> None:
        self.all: list[object] = []
        self.callbacks = {
            "on_connect": lambda: self.all.append("connect"),
            "on_disconnect": lambda: self.all.append("disconnect"),
            "on_receive": lambda data: self.all.append(bytes(data)),
        }

    def wait(self, *expected: object) -> None:
        wait_until(lambda: len(self.all) >= len(expected), f"{expected}; so far: {self.all}")
        assert self.all == [*expected]


class HeldDial:
    """Dialing stops at a gate, in the reconnector's thread."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gate = Gate()
        original = Dial.connect

        def connect(dial: Dial) -> socket.socket:
            if threading.current_thread().name.endswith("-reconnect"):
                self.gate.arrive()
            return original(dial)

        monkeypatch.setattr(Dial, "connect", connect)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[HeldDial]:
    held = HeldDial(monkeypatch)
    yield held
    held.gate.open()


# -------------------------------------------------------------------------------------------------------- the rules


def test_pauses_grow_up_to_a_limit_and_begin_anew() -> None:
    backoff = Reconnect(first=1, most=10, factor=3).backoff()
    assert [backoff.pause() for _ in range(5)] == [1, 3, 9, 10, 10]
    backoff.reset()
    assert backoff.pause() == 1


@pytest.mark.parametrize(("jitter", "least"), [(0.0, 8.0), (0.25, 6.0), (1.0, 0.0)])
def test_chance_shortens_a_pause_by_no_more_than_the_jitter(jitter: float, least: float) -> None:
    pauses = [Backoff(8.0, 8.0, jitter=jitter).pause(chance) for chance in (0.0, 0.5, 1.0)]
    assert pauses == [8.0, (8.0 + least) / 2, least]


def test_many_that_were_lost_together_come_back_one_after_the_other() -> None:
    chance = random.Random(1)
    pauses = [Reconnect(first=10.0).backoff().pause(chance.random()) for _ in range(1000)]
    fullest = max(sum(start <= pause < start + 0.5 for pause in pauses) for start in range(5, 10))
    assert fullest < 200  # of 1000 in half a second; all of them without jitter


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"first": 0}, ValueError, "first must be from 0.001"),
        ({"first": float("nan")}, ValueError, "first must be"),
        ({"most": float("inf")}, ValueError, "most must be"),
        ({"first": 2.0, "most": 1.0}, ValueError, "most must be from 2 .* not less than first, not 1.0"),
        ({"factor": 0.5}, ValueError, "factor must be from 1 "),
        ({"jitter": 1.5}, ValueError, "jitter must be from 0 to 1 of a pause"),
        ({"jitter": True}, TypeError, "jitter must be a number"),
        ({"first": "1"}, TypeError, "first must be a number, not '1'"),
        ({"tries": 0}, ValueError, "tries must be 1 or more, or None"),
        ({"tries": 1.5}, TypeError, "tries must be a whole number, or None"),
        ({"initially": 1}, TypeError, "initially must be True or False"),
    ],
)
def test_rules_of_no_use_are_refused(arguments: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        Reconnect(**arguments)


@pytest.mark.parametrize("given", [1, "yes", {"first": 1}])
def test_setup_refuses_what_is_no_rule(bare: TCPClient, given: Any) -> None:
    with pytest.raises(TypeError, match=r"reconnect must be True, False or a Reconnect"):
        bare.setup(HOST, 1, reconnect=given)


def test_what_the_argument_means() -> None:
    assert Reconnect.of(True) == Reconnect()
    assert Reconnect.of(False) is Reconnect.of(None) is None
    assert Reconnect.of(QUICK) is QUICK


# ------------------------------------------------------------------------------------------------------ coming back


@pytest.mark.parametrize("end", [socket.socket.close, reset], ids=["close", "reset"])
def test_a_lost_connection_is_made_again(made: Setup, peer: Peer, end: Callable[[socket.socket], None]) -> None:
    notes = Notes()
    client = made(**notes.callbacks)
    sock = joined(peer, client)
    for number in range(3):
        sock.sendall(b"%d" % number)
        wait_until(lambda: isinstance(notes.all[-1], bytes))
        end(sock)
        sock = peer.accept()
    notes.wait("connect", b"0", "disconnect", "connect", b"1", "disconnect", "connect", b"2", "disconnect", "connect")
    assert client.send_data(b"still here")
    assert sock.recv(100) == b"still here"
    assert client.event.is_connected
    assert not client.event.reconnecting


def test_without_the_argument_nothing_comes_back(client: TCPClient, peer: Peer) -> None:
    client.autorecv()
    joined(peer, client).close()
    wait_until(lambda: client.event.disconnected)
    assert not client.event.reconnecting
    assert threads() == []
    assert peer.nobody_else_came()


def test_the_thread_is_gone_when_the_client_is_back(made: Setup, peer: Peer) -> None:
    client = made()
    joined(peer, client).close()
    peer.accept()
    wait_until(lambda: client.event.is_connected)
    wait_until(lambda: threads() == [])


def test_flags_and_events_tell_of_it(made: Setup, peer: Peer) -> None:
    seen: list[tuple[bool, bool, bool]] = []

    def look() -> None:
        event = client.event
        seen.append((event.is_connected, event.disconnected, event.reconnecting))

    client = made(on_connect=look, on_disconnect=look)
    joined(peer, client).close()
    peer.accept()
    wait_until(lambda: len(seen) == 3)
    assert seen == [(True, False, False), (False, True, True), (True, False, False)]
    names = [client.await_event(timeout=1000 * PATIENCE)[0] for _ in range(3)]
    assert names == [client.EVENT_CONNECTED, client.EVENT_DISCONNECT, client.EVENT_CONNECTED]


def test_while_it_is_away_flags_stay_and_nothing_can_be_sent(made: Setup, peer: Peer) -> None:
    client = made(SLOW)
    joined(peer, client).close()
    wait_pausing(client)
    assert (client.event.connected, client.event.is_connected, client.event.disconnected) == (True, False, True)
    assert "reconnecting" in repr(client)
    assert client.send_data(b"lost") is False
    (record,) = client.return_exceptions()
    assert isinstance(record.exception, ConnectionClosed)
    assert "not sent, nor will it be later" in str(record.exception)
    assert client.recv_data() == b""


def test_what_was_not_sent_is_not_sent_later(made: Setup, peer: Peer, held: HeldDial) -> None:
    client = made()
    joined(peer, client).close()
    held.gate.wait_arrived()
    assert client.send_data(b"lost") is False
    held.gate.open()
    sock = peer.accept()
    wait_until(lambda: client.event.is_connected)
    assert client.send_data(b"sent")
    client.end_sending()
    assert sock.recv(100) + sock.recv(100) == b"sent"


def test_failures_leave_disconnected_up(made: Setup, peer: Peer) -> None:
    client = made()
    sock = joined(peer, client)
    peer.listener.close()
    sock.close()
    wait_until(lambda: client._reconnector._episode is not None and client._reconnector._episode.failures > 3)
    assert client.event.disconnected
    assert not client.event.connected


@pytest.mark.parametrize("autorecv", [False, True])
def test_automatic_receiving_stays_as_it_was(made: Setup, peer: Peer, autorecv: bool) -> None:
    client = made()
    if not autorecv:
        client.autorecv()
    joined(peer, client).close()
    if not autorecv:
        assert client.recv_data(timeout=PATIENCE) == b""  # nobody else notices the end
    sock = peer.accept()
    wait_until(lambda: client.event.is_connected)
    sock.sendall(b"text")
    if autorecv:
        assert next_item(client) == b"text"
    else:
        assert client.recv_data(timeout=PATIENCE) == b"text"


def test_who_only_sends_notices_it_when_sending(made: Setup, peer: Peer) -> None:
    client = made()
    client.autorecv()  # off
    sock = joined(peer, client)
    sock.close()
    wait_until(lambda: not client.send_data(b"text"))
    sock = peer.accept()
    wait_until(lambda: client.event.is_connected)
    assert client.send_data(b"again")
    assert sock.recv(100) == b"again"


def test_who_waits_in_recv_data_gets_what_came_and_then_the_end(made: Setup, peer: Peer) -> None:
    client = made(SLOW)
    sock = joined(peer, client)
    waiting, got = in_thread(lambda: [client.recv_data(), client.recv_data()])
    sock.sendall(b"last words")
    wait_until(lambda: client._connection is not None and not client._mailbox.contents)
    sock.close()
    waiting.join(PATIENCE)
    assert got == [[b"last words", b""]]


def test_what_came_before_the_loss_can_be_fetched_afterwards(made: Setup, peer: Peer) -> None:
    client = made()
    sock = joined(peer, client)
    sock.sendall(b"before")
    wait_until(lambda: client.event.new_data)
    sock.close()
    peer.accept().sendall(b"after")
    wait_until(lambda: len(client.recved_data) == 2)
    assert client.return_recved_data() == [b"before", b"after"]


def test_an_encrypted_connection_comes_back_encrypted(peer: Peer) -> None:
    context = certificates.server_side()
    client = SecureClient()
    client.setup(HOST, peer.port, cafile=certificates.CA, reconnect=QUICK)
    client.autorecv()

    def accept() -> socket.socket:
        sock = context.wrap_socket(peer.accept(), server_side=True)
        peer.accepted.append(sock)
        return sock

    connecting, results = in_thread(client.connect)
    try:
        first = accept()
        connecting.join(PATIENCE)
        assert results == [True]
        first.close()
        peer.accept().close()  # speaks no TLS: a try that fails
        second = accept()
        second.sendall(b"secret")
        assert next_item(client) == b"secret"
        second.close()
    finally:
        client.disconnect()
        client.close()


# ---------------------------------------------------------------------------------------------------- when it begins


def test_a_connect_that_fails_is_not_repeated(made: Setup) -> None:
    client = made(port=free_port())
    assert client.connect() is False
    assert not client.event.reconnecting
    assert threads() == []


def test_but_it_is_where_the_rule_says_so(made: Setup) -> None:
    port = free_port()
    client = made(Reconnect(first=0.001, most=0.01, initially=True), port)
    assert client.connect() is False
    assert client.event.reconnecting
    client.return_exceptions()
    assert client.send_data(b"early") is False
    assert "nor will it be later" in str(client.return_exceptions()[-1].exception)
    with socket.create_server((HOST, port)) as listener:
        listener.settimeout(PATIENCE)
        listener.accept()[0].close()
    client.close()


def test_not_after_the_program_ended_the_connection(made: Setup, peer: Peer) -> None:
    for end in (TCPClient.disconnect, TCPClient.shutdown, TCPClient.close):
        client = made(on_disconnect=(gone := threading.Event()).set)
        sock = joined(peer, client)
        ending, _ = in_thread(lambda end=end, client=client: end(client))  # type: ignore[misc]
        assert sock.recv(1) == b""
        sock.close()
        ending.join(PATIENCE)
        assert gone.wait(PATIENCE)
        assert not client.event.reconnecting
        assert client.send_data(b"x") is False
        assert "reconnect() opens a new one" in str(client.return_exceptions()[-1].exception)
        client.close()
    assert peer.nobody_else_came()


def test_reconnect_by_hand_replaces_the_connection_once(made: Setup, peer: Peer) -> None:
    client = made()
    sock = joined(peer, client)
    again, results = in_thread(client.reconnect)
    assert sock.recv(1) == b""
    sock.close()
    again.join(PATIENCE)
    assert results == [True]
    peer.accept()
    assert peer.nobody_else_came()
    assert not client.event.reconnecting


# --------------------------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize("tries", [1, 3])
def test_it_gives_up_after_so_many_failures(made: Setup, peer: Peer, tries: int) -> None:
    client = made(Reconnect(first=0.001, most=0.002, tries=tries))
    sock = joined(peer, client)
    peer.listener.close()
    sock.close()
    wait_until(lambda: client.event.disconnected and not client.event.reconnecting)
    wait_until(lambda: threads() == [])
    last = client.return_exceptions()[-1].exception
    assert isinstance(last, ConnectionRefusedError)
    assert client.send_data(b"x") is False
    assert "reconnect() opens a new one" in str(client.return_exceptions()[-1].exception)


def test_success_counts_the_tries_anew(made: Setup, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    client = made(Reconnect(first=0.001, most=0.002, tries=2))
    sock = joined(peer, client)
    original = Dial.connect
    for _ in range(5):
        failures = [OSError("the network is away")]

        def connect(dial: Dial, failures: list[OSError] = failures) -> socket.socket:
            if failures:
                raise failures.pop()
            return original(dial)

        monkeypatch.setattr(Dial, "connect", connect)
        sock.close()
        sock = peer.accept()
        wait_until(lambda: client.event.is_connected)


def test_a_server_that_is_away_for_long_fills_neither_memory_nor_log(
    made: Setup, peer: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    client = made()
    sock = joined(peer, client)
    peer.listener.close()
    with caplog.at_level(logging.WARNING, "simplesockets"):
        sock.close()
        wait_until(lambda: client._reconnector._episode is not None and client._reconnector._episode.failures > 150)
        client.disconnect()
    told = [record.getMessage() for record in caplog.records if "again" in record.getMessage()]
    assert len(told) in (8, 9)  # the tries 1, 2, 4 … 128, 256
    assert "is the server running" in told[0]
    assert len(client.return_exceptions()) == len(told)


def test_a_name_that_does_not_resolve_is_a_failure_like_any_other(made: Setup, peer: Peer) -> None:
    client = made(Reconnect(first=0.001, most=0.002, tries=2))
    sock = joined(peer, client)
    client.setup("no-such-host.invalid", peer.port, reconnect=Reconnect(first=0.001, most=0.002, tries=2))
    sock.close()
    wait_until(lambda: client.event.disconnected and not client.event.reconnecting)
    assert isinstance(client.return_exceptions()[-1].exception, ResolveError)


def test_a_protocol_that_cannot_be_made_is_a_failure_like_any_other(made: Setup, peer: Peer) -> None:
    client = made()
    sock = joined(peer, client)

    def broken() -> Any:
        raise ZeroDivisionError("on purpose")

    client.setup(HOST, peer.port, protocol=broken, reconnect=Reconnect(first=0.001, most=0.002, tries=2))
    sock.close()
    wait_until(lambda: client.event.disconnected and not client.event.reconnecting)
    assert isinstance(client.return_exceptions()[-1].exception, ZeroDivisionError)


def test_no_more_threads_is_giving_up(made: Setup, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    client = made()
    sock = joined(peer, client)
    original = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if thread.name.endswith("-reconnect"):
            raise RuntimeError("can't start new thread")
        original(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    sock.close()
    wait_until(lambda: client.event.exception.occurred)
    assert not client.event.reconnecting
    monkeypatch.undo()
    assert client.connect()


def test_a_server_that_drops_everybody_is_left_alone_more_and_more(
    made: Setup, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "random", lambda: 0.0)
    pauses: list[float] = []
    original = Backoff.pause

    def pause(backoff: Backoff, chance: float = 0.0) -> float:
        pauses.append(original(backoff, chance))
        return 0.0

    monkeypatch.setattr(Backoff, "pause", pause)
    client = made(Reconnect(first=1.0, most=50.0))
    joined(peer, client).close()
    for _ in range(6):
        peer.accept().close()
    sock = peer.accept()
    assert pauses[:7] == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 50.0]

    wait_until(lambda: client.event.is_connected)
    client._connected_at -= 50.0  # it lasted for so long
    sock.close()
    peer.accept()
    assert pauses[7:] == [1.0]


# ---------------------------------------------------------------------------------------------------- interleavings


@pytest.mark.parametrize("end", [TCPClient.close, TCPClient.disconnect, TCPClient.shutdown])
def test_ending_it_while_it_pauses(made: Setup, peer: Peer, end: Callable[[TCPClient], object]) -> None:
    client = made(SLOW)
    joined(peer, client).close()
    wait_pausing(client)
    end(client)
    assert not client.event.reconnecting
    wait_until(lambda: threads() == [])
    assert peer.nobody_else_came()


def test_close_ends_the_thread_before_it_returns(made: Setup, peer: Peer) -> None:
    client = made(SLOW)
    joined(peer, client).close()
    wait_pausing(client)
    client.close()
    assert threads() == []


def test_turning_it_off_ends_it(made: Setup, peer: Peer, held: HeldDial) -> None:
    client = made()
    joined(peer, client).close()
    held.gate.wait_arrived()
    client.setup(HOST, peer.port)
    assert not client.event.reconnecting
    held.gate.open()
    wait_until(lambda: threads() == [])
    assert not client.event.is_connected


@pytest.mark.parametrize("end", [TCPClient.close, TCPClient.disconnect])
def test_ending_it_while_it_dials(made: Setup, peer: Peer, held: HeldDial, end: Callable[[TCPClient], object]) -> None:
    notes = Notes()
    client = made(**notes.callbacks)
    joined(peer, client).close()
    held.gate.wait_arrived()
    ending, _ = in_thread(lambda: end(client))
    wait_until(lambda: not client.event.reconnecting)
    held.gate.open()
    ending.join(PATIENCE)
    wait_until(lambda: threads() == [])
    assert not client.event.is_connected
    notes.wait("connect", "disconnect")


def test_ending_it_while_it_shakes_hands(peer: Peer) -> None:
    context = certificates.server_side()
    client = SecureClient()
    client.setup(HOST, peer.port, cafile=certificates.CA, reconnect=QUICK)
    client.autorecv()
    connecting, _ = in_thread(client.connect)
    first = context.wrap_socket(peer.accept(), server_side=True)
    connecting.join(PATIENCE)
    first.close()
    mute = peer.accept()
    assert mute.recv(1)  # its hello: it waits for an answer now
    client.close()
    assert threads() == []
    assert client.return_exceptions() == []
    assert peer.nobody_else_came()


@pytest.mark.parametrize("callback", ["on_connect", "on_disconnect", "on_receive"])
@pytest.mark.parametrize("end", [TCPClient.close, TCPClient.disconnect])
def test_ending_it_in_a_callback(made: Setup, peer: Peer, callback: str, end: Callable[[TCPClient], object]) -> None:
    calls: list[str] = []

    def call(*_: object) -> None:
        calls.append(callback)
        if callback != "on_connect" or len(calls) == 2:
            end(client)

    client = made(**{callback: call})
    sock = joined(peer, client)
    if callback == "on_receive":
        sock.sendall(b"text")
        assert sock.recv(1) == b""
    sock.close()
    if callback == "on_connect":
        sock = peer.accept()
        assert sock.recv(1) == b""
        sock.close()
    wait_until(lambda: calls and not client.event.is_connected)
    wait_until(lambda: threads() == [])
    assert not client.event.reconnecting
    assert peer.nobody_else_came()


@pytest.mark.parametrize("callback", ["on_connect", "on_disconnect", "on_receive"])
def test_reconnecting_by_hand_in_a_callback(made: Setup, peer: Peer, callback: str) -> None:
    calls: list[bool] = []

    def call(*_: object) -> None:
        calls.append(False)
        if callback != "on_connect" or len(calls) == 2:
            calls[-1] = client.reconnect()

    client = made(**{callback: call})
    sock = joined(peer, client)
    if callback == "on_receive":
        sock.sendall(b"text")
        assert sock.recv(1) == b""
    sock.close()
    if callback == "on_connect":
        sock = peer.accept()  # in whose on_connect it is replaced
        assert sock.recv(1) == b""
        sock.close()
    sock = peer.accept()
    wait_until(lambda: client.event.is_connected and True in calls)
    assert peer.nobody_else_came()
    assert client.send_data(b"text")
    assert sock.recv(10) == b"text"


def test_connecting_by_hand_while_it_pauses(made: Setup, peer: Peer) -> None:
    client = made(SLOW)
    joined(peer, client).close()
    wait_pausing(client)
    assert client.connect() is True
    peer.accept()
    assert not client.event.reconnecting
    wait_until(lambda: threads() == [])
    assert peer.nobody_else_came()


def test_connecting_by_hand_in_vain_lets_the_tries_go_on(made: Setup, peer: Peer) -> None:
    client = made(SLOW)
    sock = joined(peer, client)
    sock.close()
    wait_pausing(client)
    port, before = peer.port, client._reconnector._episode
    client.setup(HOST, free_port(), reconnect=SLOW)
    assert client.connect() is False
    assert client.event.reconnecting
    assert client._reconnector._episode is before
    assert len(threads()) == 1
    client.setup(HOST, port, reconnect=SLOW)
    assert client.connect() is True
    peer.accept()


def test_connecting_by_hand_while_it_dials(made: Setup, peer: Peer, held: HeldDial) -> None:
    notes = Notes()
    client = made(**notes.callbacks)
    joined(peer, client).close()
    held.gate.wait_arrived()
    assert client.connect() is True
    sock = peer.accept()
    held.gate.open()
    wait_until(lambda: threads() == [])
    notes.wait("connect", "disconnect", "connect")
    assert client.send_data(b"text")
    assert sock.recv(10) == b"text"


def test_disconnect_while_connecting_by_hand_ends_the_tries_too(
    made: Setup, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = made(SLOW)
    joined(peer, client).close()
    wait_pausing(client)
    gate, original = Gate(), Dial.connect

    def connect(dial: Dial) -> socket.socket:
        gate.arrive()
        return original(dial)

    monkeypatch.setattr(Dial, "connect", connect)
    connecting, results = in_thread(client.connect)
    gate.wait_arrived()
    client.disconnect()
    gate.open()
    connecting.join(PATIENCE)
    assert results == [False]
    assert not client.event.reconnecting
    wait_until(lambda: threads() == [])


def test_a_connection_that_is_lost_at_once_is_made_again_by_the_same_thread(made: Setup, peer: Peer) -> None:
    gate, calls = Gate(), []

    def on_connect() -> None:
        calls.append(threading.current_thread())
        if len(calls) == 2:
            gate.arrive()

    client = made(on_connect=on_connect)
    joined(peer, client).close()
    second = peer.accept()
    gate.wait_arrived()
    second.close()
    wait_until(lambda: not client.send_data(b"x"))  # who sends notices the loss while on_connect still runs
    assert client.event.reconnecting
    assert peer.nobody_else_came()
    gate.open()
    peer.accept()
    wait_until(lambda: len(calls) == 3)
    assert calls[1] is calls[2]


def test_on_connect_waits_for_on_disconnect(made: Setup, peer: Peer) -> None:
    gate, order = Gate(), []

    def on_disconnect() -> None:
        gate.arrive()
        order.append("disconnect")

    client = made(on_connect=lambda: order.append("connect"), on_disconnect=on_disconnect)
    joined(peer, client).close()
    gate.wait_arrived()
    assert client.event.reconnecting
    assert threads() == []
    gate.open()
    peer.accept()
    wait_until(lambda: len(order) == 3)
    assert order == ["connect", "disconnect", "connect"]


def test_exceptions_in_its_callbacks_end_nothing(made: Setup, peer: Peer) -> None:
    def fail() -> None:
        raise SystemExit("on purpose")

    client = made(on_disconnect=fail)
    sock = joined(peer, client)
    client.on_connect = fail
    for _ in range(2):
        sock.close()
        sock = peer.accept()
    wait_until(lambda: client.event.is_connected)
    assert {type(record.exception) for record in client.return_exceptions()} == {SystemExit}
    client.on_disconnect = None


def test_closing_and_losing_at_the_same_moment(made: Setup, peer: Peer) -> None:
    client = made()
    sock = joined(peer, client)
    both = threading.Barrier(2)

    def lose() -> None:
        both.wait(PATIENCE)
        sock.close()

    losing, _ = in_thread(lose)
    both.wait(PATIENCE)
    client.close()
    losing.join(PATIENCE)
    assert threads() == []
    assert not client.event.reconnecting
    assert not client.event.is_connected


def test_everybody_at_the_same_time(made: Setup, peer: Peer) -> None:
    """A server that drops everybody, and threads that send, connect and disconnect: it ends well."""
    client = made()
    stop = threading.Event()
    listener = peer.listener

    def drop() -> None:
        listener.settimeout(0.05)
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                listener.accept()[0].close()

    def use(what: Callable[[], object]) -> Callable[[], None]:
        def work() -> None:
            while not stop.is_set():
                with contextlib.suppress(BusyError):
                    what()

        return work

    jobs = [drop, use(lambda: client.send_data(b"x")), use(client.connect), use(client.disconnect)]
    running = [in_thread(job)[0] for job in jobs]
    end = time.monotonic() + 0.3
    wait_until(lambda: time.monotonic() > end)
    stop.set()
    for thread in running:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    client.close()
    assert threads() == []
    assert not client.event.reconnecting
    assert not client.event.is_connected


def test_a_storm_of_clients_all_come_back(made: Setup) -> None:
    with raw_listener(backlog=64) as listener:
        everybody = Peer(listener)
        clients = [made(Reconnect(first=0.01, most=0.02), everybody.port) for _ in range(30)]
        for sock in [joined(everybody, client) for client in clients]:
            sock.close()
        again = [everybody.accept() for _ in clients]
        wait_until(lambda: all(client.event.is_connected for client in clients))
        assert everybody.nobody_else_came()
        for sock in again:
            sock.close()
        for client in clients:
            client.disconnect()
        for sock in everybody.accepted:
            sock.close()
