"""HPX over TLS: nothing changes but that it is encrypted."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import ssl
import threading
from typing import Any

import pytest

from simplesockets.hpx import Client, Server, exceptions

from ..support.certificates import CLIENT, OTHER_CA, client_side, server_side
from ..support.waiting import PATIENCE
from .support import running


@pytest.mark.usefixtures("either_engine")
def test_calls_batches_and_big_answers_over_tls() -> None:
    with running(ssl_context=server_side()) as server:
        with Client("tester", *server.address, ssl_context=client_side()) as client:
            assert client.handshake("admin", "secret")
            calls = [{"fname": "add", "a": number} for number in range(50)]
            answer: Any = client.send(calls)
            assert [each["data"] for each in answer["data"]] == list(range(2, 52))
            answer = client.send([{"fname": "long", "size": 3_000_000}])
            assert len(answer["data"][0]["data"]) == 3_000_000


def test_the_standard_librarys_client_is_greeted() -> None:
    with (
        running(ssl_context=server_side()) as server,
        socket.create_connection(server.address, timeout=PATIENCE) as sock,
        client_side().wrap_socket(sock, server_hostname=server.address[0]) as secured,
    ):
        received = b""
        while not received.endswith(b"<EOF>"):
            received += secured.recv(4096)
        assert "version" in json.loads(gzip.decompress(received[: -len(b"<EOF>")]))["data"]


@pytest.mark.usefixtures("either_engine")
def test_several_threads_share_a_client() -> None:
    wrong: list[object] = []
    with (
        running(ssl_context=server_side()) as server,
        Client("tester", *server.address, ssl_context=client_side()) as client,
    ):
        client.handshake()

        def call(number: int) -> None:
            for turn in range(30):
                answer: Any = client.send([{"fname": "echo", "value": [number, turn]}])
                if answer["data"][0]["data"] != [number, turn]:
                    wrong.append(answer)

        threads = [threading.Thread(target=call, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
    assert not wrong


@pytest.mark.parametrize("context", [client_side(OTHER_CA), None], ids=["not trusted", "plain"])
def test_no_connection_is_an_error(context: ssl.SSLContext | None) -> None:
    with running(ssl_context=server_side()) as server:
        client = Client("tester", *server.address, ssl_context=context, timeout=0.5)
        with contextlib.closing(client), pytest.raises(exceptions.ConnectionError):
            client.connect()


def test_tls_to_a_plain_server_is_an_error() -> None:
    with running() as server:
        client = Client("tester", *server.address, ssl_context=client_side())
        with contextlib.closing(client), pytest.raises(exceptions.ServerDisconnectError, match="SSL"):
            client.connect()


def test_clients_with_certificates() -> None:
    with running(ssl_context=server_side(mutual=True)) as server:
        with Client("tester", *server.address, ssl_context=client_side(certificate=CLIENT)) as client:
            assert client.handshake()


@pytest.mark.usefixtures("either_engine")
def test_quit_reaches_everybody_over_tls() -> None:
    with running(ssl_context=server_side()) as server:
        with (
            Client("user", *server.address, ssl_context=client_side()) as client,
            Client("other", *server.address, ssl_context=client_side()) as other,
        ):
            client.handshake("admin", "secret")
            other.handshake()
            answer: Any = client.send("serverquit")
            assert answer["data"] == "serverquit"
            with contextlib.suppress(exceptions.ConnectionError):
                while True:
                    other.send([{"fname": "add", "a": 1}])
            assert list(other.notices) == ["serverquit"]


@pytest.mark.parametrize(
    ("make", "context", "error"),
    [
        (Server, "server.pem", TypeError),
        (Server, client_side(), ValueError),
        (lambda **given: Client("tester", **given), "ca.pem", TypeError),
        (lambda **given: Client("tester", **given), server_side(), ValueError),
    ],
)
def test_what_is_no_context_for_this_side_is_refused(make: Any, context: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="create_default_context"):
        make(ssl_context=context)
