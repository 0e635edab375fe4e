"""Limits of HiSock: clients that do not read, say nothing, or come too often; and what close() does with what waits."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from simplesockets import Ending, SendTimeout
from simplesockets import outbox as outbox_module
from simplesockets.hisock import HiSockClient, HiSockServer
from simplesockets.hisock.server import _Member
from simplesockets.timing import Standstill

from ..support.certificates import client_side, server_side
from ..support.clients import Peer
from ..support.clock import have_connections_use
from ..support.running import is_refused, read_exactly
from ..support.waiting import PATIENCE, wait_until
from .running import Notes, RawClient, framed, server, wait_names

pytestmark = pytest.mark.usefixtures("either_engine")

SHORT = 0.1
"""A timeout that is waited for."""
CONTENT = bytes(range(256)) * (24 * 1024 * 4)
"""More than the system takes for a client that does not read, and less than may wait."""

kinds = pytest.mark.parametrize("kind", ["plain", "tls"])


def side(kind: str) -> dict[str, Any]:
    return {"tls": server_side()} if kind == "tls" else {}


@contextlib.contextmanager
def connected(to: HiSockServer, kind: str, name: str = "Ann") -> Iterator[RawClient]:
    """A client that said hello."""
    with RawClient(to.get_addr(), hello=False) as raw:
        if kind == "tls":
            raw.socket = client_side().wrap_socket(raw.socket, server_hostname="localhost")
        raw.send_reserved(b"$CLTHELLO$", json.dumps({"name": name, "group": None}).encode())
        wait_until(lambda: name in to.get_all_clients("name"), "the client")
        yield raw


def member(of: HiSockServer, name: str = "Ann") -> _Member:
    return of._members.find(name)[0]


@kinds
def test_a_client_that_does_not_read_is_dropped_however_little_waits(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "simplesockets")
    left = Notes()
    with (
        server(send_timeout=5 * SHORT, **side(kind)) as serving,
        connected(serving, kind),
        connected(serving, kind, "Bob") as reader,
    ):
        serving.on("leave")(lambda client: left(client.name))
        mute = member(serving).client
        serving.send_all_clients("big", CONTENT)
        assert reader.read_command("big") == CONTENT
        assert left.wait(1) == ["Ann"]
        assert mute.ending is not None
        assert mute.ending.kind == "send timeout"
        assert isinstance(mute.ending.exception, SendTimeout)
        wait_names(serving, "Bob")
        wait_until(lambda: any("took nothing" in record.getMessage() for record in caplog.records), "the reason")
        serving.send_all_clients("more", b"of it")
        assert reader.read_command("more") == b"of it"
        wait_until(lambda: serving._courier._thread is None, "the courier's end")


class Clock:
    """The time, as a test tells it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@kinds
def test_a_client_that_reads_slowly_is_not_dropped(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, looks = Clock(), Notes()
    monkeypatch.setattr(outbox_module, "time", clock)
    look = Standstill.is_over

    def is_over(standstill: Standstill, place: int, now: float) -> bool:
        over = look(standstill, place, now)
        looks(over)
        return over

    monkeypatch.setattr(Standstill, "is_over", is_over)

    def some_looks() -> None:
        # The courier looks when the time has come, by its clock, too.
        for _ in range(2):
            clock.now += SHORT / 8
            looks.wait(len(looks.all) + 1)

    with server(send_timeout=SHORT, **side(kind)) as serving, connected(serving, kind) as raw:
        slow = member(serving)
        serving.send_client("Ann", "big", CONTENT)
        received = bytearray()
        wanted = framed(raw.command("big", CONTENT))
        some_looks()
        for _ in range(4):
            before = slow.client._connection.stream.on_its_way()

            def is_told(before: int = before) -> bool:
                received.extend(read_exactly(raw.socket, 64 * 1024))
                return slow.client._connection.stream.on_its_way() != before

            wait_until(is_told, "an acknowledgement")
            some_looks()
            clock.now += 0.6 * SHORT
        assert slow.client.ending is None
        notice = framed(b"$CLTCONN$")[16:]
        while not received.endswith(wanted):  # it repeats itself, so a few bytes of the end would not tell
            received.extend(raw.socket.recv(1 << 20))
        assert notice in received
        assert slow.client.ending is None
        assert not any(looks.all)


def test_a_server_that_does_not_read_is_left(peer: Peer) -> None:
    client = HiSockClient(("127.0.0.1", peer.port), "Ann", send_timeout=SHORT)
    with contextlib.closing(client):
        sock = peer.accept()
        with pytest.raises(SendTimeout, match="send_timeout"):
            client.send("big", CONTENT)
        wait_until(lambda: client._tcp.ending, "the end of the connection")
        assert client._tcp.ending is not None
        assert client._tcp.ending.kind == "send timeout"
        sock.close()


# ------------------------------------------------------------------------------------------------ who says nothing


@kinds
def test_silence_before_the_hello_ends_at_the_hello_timeout(kind: str) -> None:
    with server(hello_timeout=SHORT, **side(kind)) as serving, RawClient(serving.get_addr(), hello=False) as raw:
        if kind == "tls":
            raw.socket = client_side().wrap_socket(raw.socket, server_hostname="localhost")
        assert raw.at_end()


@kinds
def test_silence_after_the_hello_ends_at_the_keepalive_timeout(kind: str) -> None:
    with (
        server(keepalive_interval=5 * SHORT, keepalive_timeout=5 * SHORT, **side(kind)) as serving,
        connected(serving, kind) as raw,
    ):
        assert raw.at_end()
        wait_names(serving)


def test_an_idle_client_of_the_first_generation_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    have_connections_use(clock.monotonic, monkeypatch)
    with (
        server(idle_timeout=SHORT, keepalive_interval=SHORT / 4) as serving,
        RawClient(serving.get_addr(), "old", dialect="0.x") as raw,
    ):
        wait_names(serving, "old")
        idle = member(serving, "old").client
        wait_until(lambda: not idle._connection.served_by, "the hello's delivery to end")
        clock.now += 2 * SHORT
        assert raw.at_end()
        raw.socket.close()
        wait_names(serving)
        assert idle.ending == Ending("idle")


def test_keepalives_keep_a_client_that_answers_them() -> None:
    with (
        server(idle_timeout=4.0, keepalive_interval=0.5, keepalive_timeout=1.0) as serving,
        contextlib.closing(HiSockClient(serving.get_addr(), "Ann")),
    ):
        wait_names(serving, "Ann")
        connection = member(serving).client._connection
        heard = connection.read_at
        wait_until(lambda: connection.read_at > heard, "an answer")
        assert connection.ending is None


# ------------------------------------------------------------------------------------------------ who comes too often


@kinds
def test_one_address_has_so_many_clients_and_no_more(kind: str) -> None:
    with server(max_per_address=1, **side(kind)) as serving:
        with connected(serving, kind):
            assert is_refused(serving.get_addr())
            assert serving.refused == 1
            wait_names(serving, "Ann")
        wait_until(lambda: not serving._tcp._connected, "Ann to leave")
        with connected(serving, kind, "Bob"):
            wait_names(serving, "Bob")
        assert serving.refused == 1


# ------------------------------------------------------------------------------------------------------------ close()


@kinds
def test_close_sends_what_waits_to_who_reads_and_cuts_who_does_not(kind: str) -> None:
    with server(**side(kind)) as serving, connected(serving, kind) as mute, connected(serving, kind, "Bob") as reader:
        serving.send_all_clients("big", CONTENT)
        assert member(serving).outbox.pending
        received: list[bytes] = []
        thread = threading.Thread(target=lambda: received.append(reader.read_command("big")))
        thread.start()
        began = time.monotonic()
        serving.close(timeout=2.0)
        assert time.monotonic() - began < PATIENCE
        thread.join(PATIENCE)
        assert received == [CONTENT]
        mute.socket.settimeout(PATIENCE)
        with contextlib.suppress(OSError):
            assert len(read_exactly(mute.socket, len(CONTENT))) < len(CONTENT)
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(serving.addr, PATIENCE)
