"""HiSock over TLS: ``tls=`` in its forms, and that nothing else changes."""

from __future__ import annotations

import contextlib
import queue
import ssl
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from simplesockets import SetupError
from simplesockets.hisock import HiSockClient, HiSockServer, ThreadedHiSockClient, ThreadedHiSockServer

from ..support.certificates import CA, CLIENT, OTHER_CA, SERVER, client_side, server_side
from ..support.running import HOST
from ..support.waiting import PATIENCE, Gate, wait_until
from .running import RawClient

pytestmark = pytest.mark.usefixtures("either_engine")

ANYWHERE = (HOST, 0)

SERVER_FORMS: dict[str, Any] = {
    "context": server_side(),
    "path": SERVER,
    "text": str(SERVER),
    "dict": {"certfile": SERVER, "keyfile": SERVER, "password": None},
}
CLIENT_FORMS: dict[str, Any] = {
    "context": client_side(),
    "path": CA,
    "text": str(CA),
    "dict": {"cafile": CA},
}


@contextlib.contextmanager
def running(tls: Any = SERVER, **options: Any) -> Iterator[ThreadedHiSockServer]:
    """An encrypted server that greets, and whose loop runs."""
    serving = ThreadedHiSockServer(ANYWHERE, tls=tls, **options)

    @serving.on("greet")
    def greet(client: Any, name: str) -> None:
        serving.send_client(client, "greeting", f"Hello {name}")

    serving.start()
    try:
        yield serving
    finally:
        serving.close()


def greeted(client: HiSockClient) -> bool:
    client.send("greet", "world")
    return client.recv("greeting", str, timeout=PATIENCE) == "Hello world"


@pytest.mark.parametrize("form", SERVER_FORMS)
@pytest.mark.parametrize("dialect", ["2.x", "0.x"])
def test_all_forms_of_tls(form: str, dialect: str) -> None:
    with running(SERVER_FORMS[form]) as server:
        tls = CLIENT_FORMS[form]
        with HiSockClient(server.get_addr(), "Ann", "group", tls=tls, dialect=dialect) as client:
            assert greeted(client)
            assert [info.name for info in server.get_all_clients()] == ["Ann"]


def test_clients_with_certificates() -> None:
    tls = {"certfile": SERVER, "cafile": CA}
    with running(tls) as server:
        with HiSockClient(server.get_addr(), tls={"cafile": CA, "certfile": CLIENT}) as client:
            assert greeted(client)
        with pytest.raises((ConnectionError, ssl.SSLError)):  # at the latest when it wants to talk
            greeted(HiSockClient(server.get_addr(), tls=CA))
        wait_until(lambda: len(server) == 0)


def test_who_is_not_trusted_is_not_talked_to() -> None:
    with running() as server:
        with pytest.raises(ssl.SSLCertVerificationError):
            HiSockClient(server.get_addr(), tls=OTHER_CA)
        with pytest.raises(ssl.SSLCertVerificationError):
            HiSockClient(server.get_addr(), tls={})  # whom the system trusts
        assert len(server) == 0


def test_a_plain_client_gets_nowhere_and_disturbs_nobody() -> None:
    with running() as server, RawClient(server.get_addr(), "plain") as plain:
        with HiSockClient(server.get_addr(), tls=CA) as client:
            assert greeted(client)
            assert len(server) == 1
        plain.socket.settimeout(PATIENCE)
        with contextlib.suppress(ConnectionError):
            while data := plain.socket.recv(100):
                assert b"$" not in data


@pytest.mark.parametrize(
    ("tls", "error", "text"),
    [
        ({}, SetupError, "certfile"),
        ({"cafile": CA}, SetupError, "certfile"),
        ({"certfile": "missing.pem"}, SetupError, "missing.pem"),
        ("missing.pem", SetupError, "missing.pem"),
        ("", SetupError, "certificate"),
        ({"certfile": SERVER, "cert": SERVER}, ValueError, "cert"),
        (25567, TypeError, "PEM"),
        (True, TypeError, "PEM"),
        (client_side(), ValueError, "for a client"),
    ],
)
def test_a_server_never_does_without_the_tls_that_was_asked_for(tls: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        HiSockServer(ANYWHERE, tls=tls)


@pytest.mark.parametrize(
    ("tls", "error"),
    [("missing.pem", SetupError), ({"certfile": CA}, SetupError), ({"name": "x"}, ValueError), (3, TypeError)],
)
def test_a_client_never_does_without_the_tls_that_was_asked_for(tls: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        HiSockClient((HOST, 1), tls=tls)


def test_big_messages_to_many_at_once_arrive_whole_and_in_order() -> None:
    contents = [bytes([number]) * (number * 50_000) for number in range(1, 12)]
    with running() as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(HiSockClient(server.get_addr(), f"c{number}", tls=CA)) for number in range(4)]
        wait_until(lambda: len(server) == 4)
        for content in contents:
            server.send_all_clients("big", content)
        for client in clients:
            for content in contents:
                assert client.recv("big", bytes, timeout=PATIENCE) == content


def test_one_that_does_not_read_stalls_nobody_and_gets_it_all_when_it_reads_before_it_is_disconnected() -> None:
    content = b"x" * 1_000_000
    gate = Gate()
    received: queue.Queue[int] = queue.Queue()
    with running(max_pending=64_000_000) as server, contextlib.ExitStack() as stack:
        slow = ThreadedHiSockClient(server.get_addr(), "slow", tls=CA)
        stack.callback(slow.close)

        @slow.on("hold")
        def hold() -> None:
            gate.arrive()

        @slow.on("big")
        def big(message: bytes) -> None:
            received.put(len(message))

        slow.start()
        quick = stack.enter_context(HiSockClient(server.get_addr(), "quick", tls=CA))
        wait_until(lambda: len(server) == 2)
        server.send_client("slow", "hold")
        gate.wait_arrived()
        for _ in range(40):
            server.send_all_clients("big", content)
        for _ in range(40):
            assert len(quick.recv("big", bytes, timeout=PATIENCE)) == len(content)
        threading.Thread(target=gate.open).start()
        assert [received.get(timeout=PATIENCE) for _ in range(40)] == [len(content)] * 40
        server.disconnect_client("slow")
        wait_until(lambda: len(server) == 1)
        assert greeted(quick)


def test_what_was_sent_before_disconnecting_arrives() -> None:
    with running() as server, HiSockClient(server.get_addr(), "Ann", tls=CA) as client:
        wait_until(lambda: len(server) == 1)
        for number in range(20):
            server.send_client("Ann", "part", bytes([number]) * 100_000)
        server.disconnect_client("Ann")
        for number in range(20):
            assert client.recv("part", bytes, timeout=PATIENCE) == bytes([number]) * 100_000


def test_a_client_that_never_reads_is_dropped() -> None:
    gone = threading.Event()
    with running(max_pending=1_000_000) as server:
        with HiSockClient(server.get_addr(), "mute", tls=CA) as client:
            client._tcp._mailbox.client_mark = 1  # reading pauses at once
            server.on("leave")(lambda info: gone.set())
            wait_until(lambda: len(server) == 1)
            for _ in range(100):
                if len(server) == 0:
                    break
                with contextlib.suppress(TypeError):  # it left
                    server.send_client("mute", "big", b"x" * 1_000_000)
            assert gone.wait(PATIENCE)
